//! What the minter has executed already, so that the importer of the same node need not do it again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use parking_lot::Mutex;
use quorate_chain::TransactionReceipt;
use quorate_state::Snapshot;

/// A block's execution, with the state after it.
#[derive(Debug, Clone)]
pub(crate) struct Executed {
    pub(crate) senders: Vec<Address>,
    pub(crate) receipts: Vec<TransactionReceipt>,
    pub(crate) after: Snapshot,
}

/// Executions of this node's own blocks by hash, from sealing to import. Shared by minter and importer.
#[derive(Debug, Clone, Default)]
pub struct ExecutedBlocks {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    by_hash: HashMap<B256, Executed>,
    heights: BTreeMap<u64, Vec<B256>>,
}

impl ExecutedBlocks {
    pub(crate) fn insert(&self, height: u64, hash: B256, executed: Executed) {
        let mut inner = self.inner.lock();
        inner.by_hash.insert(hash, executed);
        inner.heights.entry(height).or_default().push(hash);
    }

    pub(crate) fn take(&self, hash: &B256) -> Option<Executed> {
        self.inner.lock().by_hash.remove(hash)
    }

    /// Forgets everything at or below `height`: it has been imported or never will be.
    pub(crate) fn forget_through(&self, height: u64) {
        let mut inner = self.inner.lock();
        let keep = inner.heights.split_off(&(height + 1));
        let gone = std::mem::replace(&mut inner.heights, keep);
        for hash in gone.into_values().flatten() {
            inner.by_hash.remove(&hash);
        }
    }

    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.by_hash.clear();
        inner.heights.clear();
    }
}
