//! Ordering of opaque payloads: what the majority of members wrote to disk, in one order, the same on every member.
//!
//! # What it is
//! raft-rs driven safely: a synchronous, deterministic [`Core`] around it, our own write-ahead log, and two threads that
//! bring clock, disk and network to them ([`open`], [`RaftRunner`]). It keeps the [`MemberTable`] and changes it while
//! everything runs, through joint consensus. It knows bytes, members, files and ticks; not blocks.
//!
//! # Flow
//! ```text
//! propose ─► inbox ─► core ─► Persist ─► raft-log thread: write, one sync for all that is queued
//!   messages ──►        │                    │ Persisted; votes and acknowledgements leave only now
//!                       ├─► Send ─► Transport│
//!                       │◄───────────────────┘
//!                       └─► Deliver: entries in log order ─► application ─► applied, compact
//!
//! change ─► core: judge, give ids, propose ─► committed: table in force on everyone (Deliver: Members)
//!              └─ joint? hand over if the leader loses its vote ─► leave ─► Done
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
//! 8. Never start a member under its id again after its log was lost, or after a new beginning without it.
//! 9. Give the same genesis (`voters`, `learners`, `details`) to every member, also to those that are added later.
//! 10. Stop sending for a member that was removed ([`Status::removed`]), and cut it off as a peer.
//!
//! # It promises
//! - Every member delivers the same payloads at the same indexes; an index is delivered once per run, without gaps.
//! - Nothing is delivered before it is on this member's disk, and nothing is acknowledged to others before it is there.
//! - A member killed at any point comes back with everything it acknowledged, or refuses to start and says why.
//! - The member table is the same on every member at the same index; an id is given once; a change, by its
//!   [`ChangeId`], takes effect once or never, whoever leads meanwhile.
//! - A joint configuration is left by whoever leads. A leader that loses its vote hands over first.
//! - A member with an older disk than its word does not vote until it caught up ([`Status::behind_own_promises`]).
//! - Nothing here waits for the application, for the network or for a caller; every queue has a limit.
//!
//! # It does not
//! - look into payloads, deduplicate them, or forward proposals to the leader;
//! - move bulk data: a manifest is small, and fetching what it stands for is the application's work;
//! - detect a lost or older disk before a leader that remembers speaks up or the application knows of more
//!   ([`Fatal::LogLost`], [`OpenError::LogBehindApplication`]);
//! - read a member's details, or tell a removed member that did not hear it;
//! - authenticate members: the transport does.
//!
//! # Read next
//! `io.rs` (all that goes in and out), `core.rs` with `core/membership.rs`, `member_table.rs`, `log.rs` with `log/record.rs`
//! (the format), `driver.rs` (the threads). `tests/scenarios` tells what happens to whom in a change.

/// True while the mistake is planted; nothing but `false` in any other build.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "planted-bugs")]
        {
            $crate::planted::is_active($crate::planted::PlantedBug::$bug)
        }
        #[cfg(not(feature = "planted-bugs"))]
        {
            false
        }
    }};
}

/// A named place where tests of whole processes can make this room wait, panic or fail; see `quorate-fail-points`. Nothing is
/// left of it without the feature `fail-points`.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "fail-points")]
        quorate_fail_points::pass($name);
    };
    ($name:literal, $failed:expr) => {
        #[cfg(feature = "fail-points")]
        if let Some(error) = quorate_fail_points::error($name) {
            return Err(($failed)(error));
        }
    };
}

mod config;
mod core;
mod driver;
mod encoding;
mod error;
mod force;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod ids;
mod inbox;
mod inspect;
mod io;
mod log;
mod member_change;
mod member_table;
mod metrics;
#[cfg(feature = "planted-bugs")]
mod planted;
mod random;
mod status;
mod watermarks;

#[cfg(feature = "planted-bugs")]
pub use crate::planted::{PlantedBug, plant};
pub use crate::{
    config::{Config, ConfigError, ConfigFault},
    core::{Core, receive::DropReason},
    driver::{Opened, RaftRunner, Transport, open, open_on},
    error::{ChangeError, Damage, Fatal, OpenError, ProposeError, TransferError},
    force::{force_new_cluster, force_new_cluster_on},
    handle::RaftHandle,
    ids::{LogIndex, RaftId, Term, Ticket, WriteNumber},
    inspect::{LogEnd, inspect},
    io::{
        Answer, CommittedEntry, Delivery, Envelope, Input, InstalledSnapshot, MembersChanged,
        Output, Persist, Proposal, ProposeOutcome,
    },
    log::{
        LogBatch,
        disk::{Disk, SegmentNumber},
        fake_disk::FakeDisk,
        writer::LogWriter,
    },
    member_change::{ChangeDone, MemberChange, MemberStep},
    member_table::{
        AppliedChange, Break, ChangeId, DETAILS_BYTES_MAX, MEMBERS_MAX, MemberRole, MemberTable,
        RECENT_CHANGES, TableError, TableMember,
    },
    status::{PeerProgress, PeerState, Role, Status},
    watermarks::{OutOfOrder, Watermarks},
};
