//! # What it is
//! Moves the chain forward. The *minter* (leader only) builds blocks and proposes them; the *importer* (everyone)
//! takes what ordering committed, verifies, executes, stores and announces it.
//!
//! # Flow
//! ```text
//! pool ─► Minter ─ propose ─► raft-adapter ─ committed entries ─► Importer ─► BlockStore, StateStore ─► ChainEvent
//!            ▲                                                        │
//!            └───────────── applied index, head ◄────────────────────┘        Flusher: durable state behind the head
//!
//! snapshots: state for members that join, made, fetched, installed        offline: verify, export, import, prune
//! ```
//!
//! # You must
//! 1. Run [`Importer::run`], [`Flusher::run`] and [`Minter::run`] on threads of their own, and end the process when
//!    one of them returns a [`Fatal`].
//! 2. Give the importer every delivery of ordering, in order, once.
//! 3. Close the node and open it again on [`Fatal::Reopen`]: stores are exchanged while nobody uses them (`snapshots.rs`).
//!
//! # It promises
//! - Every member makes the same decision about every committed entry: import or skip, never "maybe".
//! - A block is announced only after it is in the block store and the state has advanced.
//! - A member whose result differs from the block's stops with [`Fatal::Diverged`] and keeps the evidence.
//!
//! # It does not
//! Know the network, the wire formats of clients, or how ordering works.
//!
//! # Read next
//! `importer.rs`, `verify.rs`, `minter.rs`, `snapshots.rs`.

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
mod error;
mod executed;
mod flusher;
mod importer;
mod ledger;
mod membership;
mod mend;
mod minter;
pub mod offline;
pub mod snapshots;
mod start;
#[cfg(test)]
mod test_chain;
mod verify;

pub use config::{EngineConfig, MinterConfig};
pub use error::{Divergence, Fatal};
pub use executed::ExecutedBlocks;
pub use flusher::{Flusher, FlusherHandle};
pub use importer::{BlockSource, Importer, SnapshotManifest, Target};
pub use ledger::{ChainEvent, ChainHashes, Ledger};
pub use membership::{
    DetailsError, ENCLAVE_KEYS_MAX, EnclaveKey, KeysError, MemberDetails, details_of, members_of,
    removed_of,
};
pub use mend::MendError;
pub use minter::Minter;
pub use start::catch_up_state;
pub use verify::SkipReason;
