//! The interface that other rooms hold.

use std::fmt::Debug;

use crate::{Batch, Direction, KeyRange, KvError};

/// Largest value in bytes. sled moves large pages into separate files that it never syncs; with at most 16 entries
/// in one of its pages, values of this size stay in the main file, which [`Kv::barrier`] does sync.
pub const VALUE_SIZE_MAX: usize = 4096;

/// Largest key in bytes. Keys share a page with values, so they count towards the same trap.
pub const KEY_SIZE_MAX: usize = 512;

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Entries in key order. Each step may fail; after a failure the iteration is over.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<Entry, KvError>> + Send + 'a>;

/// Ordered key-value storage with atomic batches. Object-safe: hold it as `Arc<dyn Kv>`.
pub trait Kv: Send + Sync + Debug {
    /// The value under `key`, as of the last completed [`write`](Kv::write).
    ///
    /// # Errors
    /// [`KvError::Failed`] or [`KvError::Damaged`] if the storage below failed, [`KvError::Poisoned`] after a failed write.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Entries in `range`, in key order, fetched as the iterator is driven.
    ///
    /// It is not a point-in-time view: writes that complete while it runs may or may not be seen; a single batch
    /// may be seen in part by entries fetched before and after it.
    fn scan(&self, range: KeyRange, direction: Direction) -> Scan<'_>;

    /// Applies a batch atomically. Later writes to one key inside the batch win. It is visible when this returns,
    /// and durable after the next [`barrier`](Kv::barrier).
    ///
    /// # Errors
    /// [`KvError::KeyTooLarge`] and [`KvError::ValueTooLarge`] refuse the batch and change nothing. Any other error poisons
    /// this instance.
    fn write(&self, batch: Batch) -> Result<(), KvError>;

    /// Applies batches of any size in order, all of them or none as far as a crash is concerned, and durably: it ends with a
    /// [`barrier`](Kv::barrier).
    ///
    /// Unlike [`write`](Kv::write) it does not hold readers up, so they may see a part of it while it runs: the batches
    /// appear one after the other, each of them piece by piece. Inside one batch no key may occur twice.
    ///
    /// # Errors
    /// As [`write`](Kv::write) and [`barrier`](Kv::barrier).
    fn write_staged(&self, stages: Vec<Batch>) -> Result<(), KvError>;

    /// Returns when everything written before it would survive power loss.
    ///
    /// # Errors
    /// Any error poisons this instance: after a failed sync nobody knows what reached the disk.
    fn barrier(&self) -> Result<(), KvError>;

    /// Space taken, in bytes; an estimate.
    ///
    /// # Errors
    /// [`KvError::Failed`] if the storage below cannot say.
    fn size_bytes(&self) -> Result<u64, KvError>;
}
