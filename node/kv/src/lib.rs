//! Ordered key-value storage.
//!
//! # What it is
//! One small interface, [`Kv`]: `get`, ordered `scan`, atomic `write`, `barrier`. [`SledKv`] keeps it on disk and is
//! the only code that names sled; [`MemoryKv`] keeps it in memory and can lose unsynced writes on demand, as a
//! machine that loses power does.
//!
//! # Flow
//! ```text
//! caller ── Batch ──► write   visible at once, all or nothing
//!                       │
//!                    barrier  sled's flush, then fdatasync of sled's file: now it survives power loss
//!                       │
//! caller ◄── get / scan ┘     scan is ordered, and not a point-in-time view
//! ```
//!
//! `write_staged` is for batches too large to hold readers up for: atomic for crashes, not for readers.
//!
//! # You must
//! 1. Keep keys at or under [`KEY_SIZE_MAX`] bytes and values at or under [`VALUE_SIZE_MAX`] bytes; cut larger ones up.
//! 2. Treat a failed [`Kv::write`] or [`Kv::barrier`] as the end of this instance: it refuses everything after that.
//! 3. On [`OpenError::Damaged`], move the folder away with [`quarantine`] and rebuild its contents from their source.
//! 4. Give each store a folder of its own.
//!
//! # It promises
//! - A batch becomes visible, and survives a crash, as a whole or not at all.
//! - If a batch survives a crash, so does every batch written before it.
//! - After `barrier` returns, everything written before it survives power loss.
//!
//! # It does not
//! - know what keys mean, compress, or offer snapshots: readers model history in their keys;
//! - repair a damaged store.
//!
//! # Read next
//! `kv.rs` (the interface), `disk.rs` (sled and its traps), `journal.rs` (large writes), `memory.rs` (crash semantics).

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

mod batch;
mod disk;
mod error;
mod journal;
mod kv;
mod memory;
mod quarantine;
mod range;

pub use batch::{Batch, Write};
pub use disk::{SledConfig, SledKv};
pub use error::{KvError, OpenError, QuarantineError};
pub use kv::{Entry, KEY_SIZE_MAX, Kv, Scan, VALUE_SIZE_MAX};
pub use memory::MemoryKv;
pub use quarantine::quarantine;
pub use range::{Direction, KeyRange};
