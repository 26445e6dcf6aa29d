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
//!
//! # It does not
//! - execute, know blocks, or verify roots;
//! - keep tries of past heights: those can be read, not proved;
//! - remove old values: every height from the genesis stays readable.
//!
//! # Read next
//! `snapshot.rs` (what readers hold), `apply.rs` (from one state to the next), `layout.rs` (what lies on disk).

mod account;
mod apply;
mod change;
mod config;
mod diff;
mod disk;
mod error;
mod flush;
mod genesis;
mod layout;
mod metrics;
mod overlay;
mod read;
mod snapshot;
mod store;
mod trie;

pub use account::Account;
pub use alloy_genesis::GenesisAccount;
pub use config::{FlushPolicy, StateConfig};
pub use diff::{AccountChange, StateDiff};
pub use error::{ApplyError, FlushError, HistoryError, NotAChild, OpenError};
pub use flush::{FlushJob, FlushedTo};
pub use genesis::genesis_state_root;
pub use read::{ReadError, StateRead};
pub use snapshot::{AccountProof, Snapshot, StorageProof};
pub use store::StateStore;
