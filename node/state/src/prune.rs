//! Forgetting old values.

use std::sync::atomic::Ordering;

use quorate_kv::{Batch, Direction, KeyRange, Kv};

use crate::disk::storage_failed;
use crate::{ReadError, StateStore, layout};

/// Entries that are looked at before those found are removed: sled holds readers up while it applies a batch.
const STRETCH: usize = 1_024;

/// What a prune of history achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPruned {
    /// First height at which the state can be read from now on.
    pub first: u64,
    /// Entries that were removed.
    pub entries: u64,
}

impl StateStore {
    /// First height at which the state can be read.
    pub fn history_start(&self) -> u64 {
        self.disk().history_start.load(Ordering::Acquire)
    }

    /// Forgets what only reads below height `below` need; the durable height always stays readable. It may run while others
    /// read, import and flush. Stopped at any point, what is left over does no harm, and the next call removes it.
    ///
    /// # Errors
    /// [`ReadError`] if the storage failed.
    pub fn prune_history(&self, below: u64) -> Result<HistoryPruned, ReadError> {
        let disk = self.disk();
        let kv = disk.kv.as_ref();
        let first = below.min(self.durable_height()).max(self.history_start());
        let mut mark = Batch::new();
        mark.put(layout::KEY_HISTORY, first.to_be_bytes());
        kv.write(mark).map_err(storage_failed)?;
        kv.barrier().map_err(storage_failed)?;
        // Before anything goes: a reader that looks at this after reading knows whether what it read was whole.
        disk.history_start.fetch_max(first, Ordering::AcqRel);
        fail_point!("state.prune", crate::disk::pretended);
        let mut entries = 0;
        for kind in [b'a', b's'] {
            // An entry holds changes up to the height that its key ends with. A read at a height needs those above it.
            entries += remove(kv, kind, |key| {
                key.last_chunk::<8>()
                    .is_some_and(|last| u64::from_be_bytes(*last) <= first)
            })?;
        }
        entries += remove(kv, b'R', |key| {
            key.last_chunk::<8>()
                .is_some_and(|height| u64::from_be_bytes(*height) < first)
        })?;
        kv.barrier().map_err(storage_failed)?;
        tracing::info!(first, entries, "pruned old state values");
        Ok(HistoryPruned { first, entries })
    }
}

fn remove(kv: &dyn Kv, kind: u8, is_old: impl Fn(&[u8]) -> bool) -> Result<u64, ReadError> {
    let mut removed = 0;
    let mut cursor = vec![kind];
    loop {
        let mut batch = Batch::new();
        let mut seen = 0;
        let range = KeyRange::prefix_from(&[kind], std::mem::take(&mut cursor));
        for entry in kv.scan(range, Direction::Ascending).take(STRETCH) {
            let (key, _) = entry.map_err(storage_failed)?;
            seen += 1;
            if seen == STRETCH {
                cursor = [&key[..], &[0]].concat();
            }
            if is_old(&key) {
                batch.delete(key);
                removed += 1;
            }
        }
        if !batch.is_empty() {
            kv.write(batch).map_err(storage_failed)?;
        }
        if seen < STRETCH {
            return Ok(removed);
        }
    }
}
