//! Ordering of opaque payloads: what the majority of members wrote to disk, in one order, the same on every member.
//!
//! # What it is
//! raft-rs driven safely: a synchronous, deterministic [`Core`] around it, our own write-ahead log, and two threads that
//! bring clock, disk and network to them ([`open`], [`RaftRunner`]). It knows bytes, members, files and ticks; not blocks.
//!
//! # Flow
//! ```text
//! propose ─► inbox ─► core ─► Persist ─► raft-log thread: write, one sync for all that is queued
//!   messages ──►        │                    │ Persisted; votes and acknowledgements leave only now
//!                       ├─► Send ─► Transport│
//!                       │◄───────────────────┘
//!                       └─► Deliver: entries in log order ─► application ─► applied, compact
//! ```
//!
//! # You must
//! 1. Run [`RaftRunner::run`] on a thread of its own and end the process if it fails: half a node is worse than none.
//! 2. Give [`open`] the last index whose effect you hold, and skip nothing: deliveries go on right behind it.
//! 3. Report every delivery with [`RaftHandle::applied`], soon, empty payloads and manifests included.
//! 4. On [`Delivery::Snapshot`], fetch what the manifest describes from another member, then report its index.
//! 5. Call [`RaftHandle::compact`] only for what you hold durably; it is what you will never see again.
//! 6. Mint only when [`Status::term_start`] is applied, and propose with the term you minted for.
//! 7. Pass each message to [`RaftHandle::receive`] with the member whose authenticated connection it came over.
//! 8. Never start a member under its id again after its log was lost, and never give an id to another member.
//!
//! # It promises
//! - Every member delivers the same payloads at the same indexes; an index is delivered once per run, without gaps.
//! - Nothing is delivered before it is on this member's disk, and nothing is acknowledged to others before it is there.
//! - A member killed at any point comes back with everything it acknowledged, or refuses to start and says why.
//! - Nothing here waits for the application, for the network or for a caller; every queue has a limit.
//!
//! # It does not
//! - look into payloads, deduplicate them, or forward proposals to the leader;
//! - move bulk data: a manifest is small, and fetching what it stands for is the application's work;
//! - detect a lost disk before a leader that remembers speaks up or the application knows of more ([`Fatal::LogLost`],
//!   [`OpenError::LogBehindApplication`]);
//! - authenticate members: the transport does.
//!
//! # Read next
//! `io.rs` (all that goes in and out), `core.rs`, `log.rs` with `log/record.rs` (the format), `driver.rs` (the threads).

mod config;
mod core;
mod driver;
mod error;
mod handle;
mod ids;
mod inbox;
mod io;
mod log;
mod metrics;
mod random;
mod status;
mod watermarks;

pub use crate::{
    config::{Config, ConfigError, ConfigFault},
    core::{
        Core,
        membership::{MemberChange, MemberRole},
        receive::DropReason,
    },
    driver::{Opened, RaftRunner, Transport, open, open_on},
    error::{Damage, Fatal, OpenError, ProposeError, TransferError},
    handle::RaftHandle,
    ids::{LogIndex, RaftId, Term, Ticket, WriteNumber},
    io::{
        Answer, CommittedEntry, Delivery, Envelope, Input, InstalledSnapshot, Output, Persist,
        Proposal, ProposeOutcome,
    },
    log::{
        LogBatch,
        disk::{Disk, SegmentNumber},
        fake_disk::FakeDisk,
        writer::LogWriter,
    },
    status::{PeerProgress, PeerState, Role, Status},
    watermarks::{OutOfOrder, Watermarks},
};
