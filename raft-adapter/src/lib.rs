//! # What it is
//! Takes opaque payloads and gives them back in one agreed, durable order: raft-rs driven safely, with a write-ahead log
//! of our own. It knows bytes, members, files and ticks; not blocks, not the EVM, not the network's library.
//!
//! # Flow
//! ```text
//! propose, receive, tick ─► Core ─ ready ─► Log: write, one fsync for all ─► send answers ─► committed entries ─► Delivery
//! ```
//!
//! # You must
//! 1. Run [`RaftRunner::run`] on a thread of its own and end the process when it returns a [`Fatal`].
//! 2. Take deliveries in order and report each with [`RaftHandle::applied`]; after a restart give [`open`] the last index
//!    whose effect you still have.
//! 3. Tell [`RaftHandle::receive`] who sent a message as the connection knows it, not as the message says.
//! 4. Call [`RaftHandle::compact`] when everything up to an index is on your own disk.
//!
//! # It promises
//! - A vote, an acknowledgement or a commit leaves only after the fsync of what it promises.
//! - All members are delivered the same entries in the same order.
//! - A damaged log is refused; only a torn tail, which nobody was told of, is cut.
//!
//! # It does not
//! Change members yet, move application state between members, or retry proposals.
//!
//! # Read next
//! `core.rs`, `log.rs`, `driver.rs`.

mod config;
mod core;
mod disk;
mod driver;
mod error;
mod handle;
mod ids;
mod log;
mod status;

pub use config::Config;
pub use disk::{Disk, RealDisk};
pub use driver::{Opened, RaftRunner, Transport, open};
pub use error::{Fatal, OpenError, ProposeError, ProposeOutcome, ProposeRefusal, TransferError};
pub use handle::RaftHandle;
pub use ids::{LogIndex, RaftId, Term};
pub use status::{CommittedEntry, Delivery, InstalledSnapshot, PeerProgress, Role, Status};
