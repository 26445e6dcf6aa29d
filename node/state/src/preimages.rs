//! What flushes overwrite while a state is being exported.
//!
//! An export walks the flat values in key order while flushes go on. Before a flush writes, it leaves here the values as of
//! the exported height of every key that the walk has not passed. The walk reads a stretch of keys first and asks here
//! afterwards: whatever new value it may have read, the old one is here by then.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::change::BlockChange;
use crate::layout;

/// Old values by key; `None`: there was nothing.
pub(crate) type OldEntries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Of one export.
#[derive(Debug)]
pub(crate) struct Preimages {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    old: OldEntries,
    /// Keys and values of `old` together.
    bytes: usize,
    /// The walk will not come back to this key or one before it.
    passed: Vec<u8>,
    /// Too much piled up; nothing is kept any more.
    overtaken: bool,
}

impl Preimages {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            inner: Mutex::default(),
        }
    }

    /// Called by a flush before it writes, with everything that it is about to write over.
    pub(crate) fn record<'a>(&self, changes: impl Iterator<Item = &'a Arc<BlockChange>>) {
        let mut inner = self.inner.lock();
        for old in changes.flat_map(|change| &change.accounts) {
            if inner.overtaken {
                return;
            }
            if old.account_changed {
                let value = old.account.as_ref().map(layout::encode_account);
                inner.keep(layout::account_key(&old.address), value);
            }
            for (slot, value) in &old.storage {
                let value = (!value.is_zero()).then(|| layout::encode_value(value));
                inner.keep(layout::storage_key(&old.address, slot), value);
            }
            if inner.bytes > self.bytes_max {
                *inner = Inner {
                    overtaken: true,
                    ..Inner::default()
                };
            }
        }
    }

    /// Called by the walk after it read all keys up to and including `end`: the old values among them. `None` if too much
    /// piled up: the export has failed.
    pub(crate) fn take_through(&self, end: &[u8]) -> Option<OldEntries> {
        let mut inner = self.inner.lock();
        if inner.overtaken {
            return None;
        }
        let mut after = end.to_vec();
        after.push(0);
        let later = inner.old.split_off(&after);
        let taken = std::mem::replace(&mut inner.old, later);
        let bytes: usize = taken.iter().map(entry_bytes).sum();
        inner.bytes -= bytes;
        inner.passed = end.to_vec();
        Some(taken)
    }
}

impl Inner {
    /// The first flush that changes a key knows what was there at the exported height.
    fn keep(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        if key <= self.passed || self.old.contains_key(&key) {
            return;
        }
        self.bytes += entry_bytes((&key, &value));
        self.old.insert(key, value);
    }
}

fn entry_bytes((key, value): (&Vec<u8>, &Option<Vec<u8>>)) -> usize {
    // With what the map and two allocations cost.
    key.len() + value.as_ref().map_or(0, Vec::len) + 100
}
