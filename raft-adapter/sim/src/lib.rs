//! Deterministic simulation of ordering: whole consortia in one thread, by seed, with everything that can go wrong.
//!
//! # What it is
//! Real cores, the real write-ahead log and the real membership code of `raft-adapter`, on simulated disks, clocks and
//! networks, under clients and operators. A seed decides all of it; equal seeds give equal runs, to the byte. After every
//! step, rules that must always hold are checked by code that shares nothing with what it checks.
//!
//! # Flow
//! ```text
//! seed ─► profile: members, kinds of trouble ─► events by time ─► core / log / application of one member
//!                                                   ▲                    │ outputs: messages, writes, deliveries, answers
//!                                                   └────────────────────┤
//!                                                                        └─► checks ─► violation? shrink, print one line
//! then: heal all, or a quorum with the rest frozen in its broken state ─► it must go on
//! ```
//!
//! # You must
//! 1. Repeat a failure with the printed line: `sim --seed N [--steps …] [--members …] [--without …]`; `--trace` tells all.
//! 2. Turn a found seed into a named test of `raft-adapter` before mending what it shows.
//! 3. Look at the counts: a kind of trouble or a rare situation that never came up was not searched.
//!
//! # It promises
//! - The same options give the same history, on every machine.
//! - Disks lose only what was not synced, unless the kind of trouble says otherwise; a disk goes back in time only where
//!   `raft-adapter` promises to notice, that is, if a leader that remembers is the first to speak to its member.
//! - At the end a majority of whole disks is left in every membership that may be in force, or the run says that none is.
//!
//! # It does not
//! - simulate the threads of `driver.rs`, the real file system or the real network;
//! - forge messages: peers are authenticated, and bad bytes are for the tests of `raft-adapter` and for fuzzing;
//! - begin a consortium anew by force: that breaks, by intent, what is checked here.
//!
//! # Read next
//! `faults.rs` (what happens), `checks.rs` (what must hold), `simulation.rs` (the loop), `ending.rs` (liveness).

mod campaign;
mod checks;
mod disk;
mod ending;
mod event;
mod faults;
mod history;
mod lifecycle;
mod member;
mod message;
mod network;
mod observation;
mod operators;
mod options;
mod profile;
mod random;
mod run;
mod shrink;
mod simulation;
mod trouble;
mod work;

pub use crate::{
    campaign::{Campaign, Failure, Report},
    checks::Violation,
    faults::{Counters, Fault, Situation},
    options::{LineError, Options},
    profile::LATER,
    run::{Outcome, run},
    shrink::shrink,
};
