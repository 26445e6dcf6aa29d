//! Writing a state of any size in batches of bounded size, for stores that nobody reads yet.

use quorate_kv::{Batch, Kv};

use crate::ReadError;
use crate::disk::storage_failed;
use crate::layout;
use crate::trie::{NodeReader, NodeWrite, Space, Trie};

/// Bytes per batch.
const BATCH_BYTES: usize = 1024 * 1024;

/// Collects writes and hands them on when there are enough.
pub(crate) struct Writer<'a> {
    kv: &'a dyn Kv,
    batch: Batch,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(kv: &'a dyn Kv) -> Self {
        Self {
            kv,
            batch: Batch::new(),
        }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), ReadError> {
        self.batch.put(key, value);
        self.write_if_full()
    }

    pub(crate) fn append(&mut self, batch: Batch) -> Result<(), ReadError> {
        self.batch.append(batch);
        self.write_if_full()
    }

    fn write_if_full(&mut self) -> Result<(), ReadError> {
        if self.batch.size_bytes() >= BATCH_BYTES {
            self.write()
        } else {
            Ok(())
        }
    }

    /// Hands on what is left.
    pub(crate) fn write(&mut self) -> Result<(), ReadError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.kv
            .write(std::mem::take(&mut self.batch))
            .map_err(storage_failed)
    }

    /// What differs between two versions of a trie, of which `old` is on disk.
    pub(crate) fn put_trie(
        &mut self,
        new: &Trie,
        old: &Trie,
        space: Space,
    ) -> Result<(), ReadError> {
        let reader = NodeReader::new(self.kv, space);
        new.writes_since(old, &reader, &mut |NodeWrite { path, node }| {
            let key = layout::trie_node_key(space, &path);
            match node {
                Some(node) => self.batch.put(key, node),
                None => self.batch.delete(key),
            }
            self.write_if_full()
        })
    }
}
