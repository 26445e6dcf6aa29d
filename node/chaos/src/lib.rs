//! # What it is
//! Faults on real processes: consortia of `quorate` nodes under client load, with everything done to them that a seed says, and a
//! judge of what clients and members saw.
//!
//! # Flow
//! ```text
//! seed ─► plan ─► nemesis ─► processes, files, wires, fail points
//!                              ▲      │
//!             clients, observer, subscribers ─► history ─┐
//!                    members' chains after peace ────────┴─► check ─► violations
//! ```
//!
//! # You must
//! 1. Give it a binary; with the feature `fail-points` if fail points are to be armed.
//! 2. Keep the folder of a run that failed: it is the evidence. The same seed makes the same plan again.
//!
//! # It promises
//! - A run holds only if, after everything was healed, all members agree block by block, every acknowledged transaction is in
//!   the chain exactly once where it was said to be, nonces and real-time order are kept, balances are what the blocks make of
//!   genesis, no block that anybody was ever shown is missing, subscribers were told of every block in order, heads and
//!   commit indexes never went back while a process ran, no process ended without a fault as its cause, and every
//!   transaction that was sent got its answer.
//!
//! # It does not
//! Replay a run exactly: processes have their own timing. For that there is the simulator of `raft-adapter`.
//!
//! # Read next
//! `run.rs`, `plan.rs`, `history.rs`.

mod accounts;
mod campaign;
mod clients;
mod commands;
mod compose;
mod consortium;
mod containers;
mod crowd;
mod damage;
mod endpoints;
mod history;
mod links;
mod nemesis;
mod observers;
mod plan;
mod run;
mod small_disk;
mod sockets;

pub use crate::campaign::{Totals, campaign, container_campaign};
pub use crate::containers::{ContainerOptions, run_containers};
pub use crate::history::{
    Acknowledgement, Block, History, Holdings, LogSeen, LogStory, Report, Seen, Submission,
    Violation, check,
};
pub use crate::plan::Plan;
pub use crate::run::{Options, Outcome, run};
