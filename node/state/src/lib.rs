//! Accounts and storage as of the head, the trie that proves them, and old values for history.
//!
//! # What it is
//! The state of a chain behind immutable snapshots. New blocks live in memory until a flush writes many of them to disk at
//! once; after a crash the few that were not written are executed again. It knows keys and values, not opcodes.
//!
//! # Flow
//! ```text
//! latest() ──► Snapshot ── apply(diff) ──► Snapshot (height + 1, state root known)
//!    ▲                                          │
//!    └───────────────── advance ◄───────────────┘        speculative ones are dropped instead
//!                          │
//!                      flush_job() ── run ──► one atomic write: old values, flat values, trie nodes; durable
//!                                                 │
//! at(height) ◄── overlay, or flat value corrected by old values ◄── durable height
//!
//! export_chunks ──► sorted chunks of the flat state at the durable height ──► restore (another node, an empty storage)
//! ```
//!
//! # You must
//! 1. Give the store a key-value storage of its own.
//! 2. Compare [`Snapshot::state_root`] with the block's header before [`StateStore::advance`].
//! 3. Call [`StateStore::needs_flush`] after each `advance`, run [`StateStore::flush_job`] on another thread, and stop applying
//!    while [`StateStore::flush_overdue`] says so. Flush once more before a clean stop.
//! 4. Keep all blocks above [`StateStore::durable_height`], and execute them again after a start.
//! 5. Stop the node on [`ReadError`] and [`FlushError`]; on damage, move the storage away and execute all blocks again.
//!
//! # It promises
//! - A snapshot never changes, whatever is flushed or advanced meanwhile, and says the same on every member.
//! - Disk is always at one height as a whole; `durable_height` never runs ahead of it.
//! - Applying costs what changed, not what exists; only a self-destruct that ends a storage costs that storage.
//! - Memory is bounded by the settings plus what is not flushed yet.
//! - One state gives the same chunks on every member; a state restored from them has the root that was announced, or is
//!   refused. A half-restored one does not open.
//!
//! # It does not
//! - execute, know blocks, or verify roots;
//! - keep tries of past heights: those can be read, not proved;
//! - decide which old values may go: [`StateStore::prune_history`] forgets what it is told to.
//!
//! # Read next
//! `snapshot.rs` (what readers hold), `apply.rs` (from one state to the next), `layout.rs` (what lies on disk).

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

mod absent;
mod account;
mod apply;
mod change;
mod chunk;
mod config;
mod diff;
mod disk;
mod error;
mod export;
mod flush;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod genesis;
mod layout;
mod metrics;
mod overlay;
mod preimages;
mod prune;
mod read;
mod restore;
mod snapshot;
mod store;
mod trie;
mod writer;

pub use account::Account;
pub use alloy_genesis::GenesisAccount;
pub use chunk::{CHUNK_BYTES_MAX, ChunkInfo, ExportedState, check_chunk};
pub use config::{FlushPolicy, StateConfig};
pub use diff::{AccountChange, StateDiff};
pub use error::{ApplyError, FlushError, HistoryError, NotAChild, OpenError};
pub use export::{ExportError, chunk_file_name, export_chunks};
pub use flush::{FlushJob, FlushedTo};
pub use genesis::genesis_state_root;
pub use prune::HistoryPruned;
pub use read::{ReadError, StateRead};
pub use restore::{RestoreError, restore};
pub use snapshot::{AccountProof, Snapshot, StorageProof};
pub use store::StateStore;
