//! The store: which snapshot is the head, and how far disk has come.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256};
use alloy_trie::Nibbles;
use parking_lot::RwLock;
use quorate_kv::{Direction, KeyRange, Kv};

use crate::disk::{Disk, Mark, Tries, damaged, storage_failed};
use crate::overlay::Overlay;
use crate::snapshot::{Live, Snapshot, View};
use crate::{
    FlushJob, HistoryError, NotAChild, OpenError, ReadError, StateConfig, genesis, layout, metrics,
};

/// The state of a chain: the head, every height before it, and what is on disk.
pub struct StateStore {
    disk: Arc<Disk>,
    head: RwLock<Arc<Live>>,
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateStore")
            .field("head", &self.head.read().mark)
            .field("durable", &self.disk.marks.read().durable)
            .finish_non_exhaustive()
    }
}

impl StateStore {
    /// Opens the state with default settings; see [`open_with`](Self::open_with).
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(
        kv: Arc<dyn Kv>,
        genesis: &[(Address, GenesisAccount)],
        genesis_hash: B256,
    ) -> Result<Self, OpenError> {
        Self::open_with(StateConfig::default(), kv, genesis, genesis_hash)
    }

    /// Opens the state in `kv`. An empty storage gets the genesis state, durably; otherwise the head is what the last
    /// completed flush wrote, and the caller executes the blocks after [`durable_height`](Self::durable_height) again.
    ///
    /// # Errors
    /// [`OpenError::OtherGenesis`], [`OpenError::NotOurs`] or [`OpenError::Format`] if the storage holds something else,
    /// [`OpenError::Read`] if it failed or is damaged, [`OpenError::Config`] for a setting out of its range.
    pub fn open_with(
        config: StateConfig,
        kv: Arc<dyn Kv>,
        genesis: &[(Address, GenesisAccount)],
        genesis_hash: B256,
    ) -> Result<Self, OpenError> {
        config
            .check()
            .map_err(|(field, allowed)| OpenError::Config { field, allowed })?;
        fail_point!("state.open");
        let durable = match find_state(kv.as_ref(), genesis_hash)? {
            Some(durable) => durable,
            None => genesis::write(kv.as_ref(), genesis, genesis_hash)?,
        };
        let history_start = read(kv.as_ref(), layout::KEY_HISTORY)?
            .and_then(|bytes| layout::decode_height(&bytes))
            .ok_or_else(|| damaged(layout::KEY_HISTORY, "is missing or not a height"))?;
        let disk = Arc::new(Disk::new(kv, config, history_start, durable));
        let tries = Tries::clone(&disk.persisted.lock().tries);
        // Fetches the root node and compares its hash with the durable root.
        tries
            .accounts
            .get(&Nibbles::new(), &disk.account_reader())
            .map_err(ReadError::from)?;
        let head = Live {
            id: disk.new_id(),
            parent_id: None,
            mark: durable,
            base: durable.height,
            tries,
            overlay: Overlay::default(),
            recent: imbl::Vector::new(),
            recent_entries: 0,
            changed_bytes: 0,
            grafted_at: durable.height,
            disk: Arc::clone(&disk),
        };
        metrics::durable_height(durable.height);
        metrics::head(&head);
        tracing::info!(height = durable.height, root = %durable.root, "state opened");
        Ok(Self {
            disk,
            head: RwLock::new(Arc::new(head)),
        })
    }

    /// The state at the head.
    pub fn latest(&self) -> Snapshot {
        Snapshot {
            view: View::Live(Arc::clone(&self.head.read())),
        }
    }

    /// The state at any height from the first one kept to the head.
    ///
    /// # Errors
    /// [`HistoryError::Future`] above the head, [`HistoryError::Pruned`] below the first height that is kept,
    /// [`HistoryError::Read`] if the storage failed.
    pub fn at(&self, height: u64) -> Result<Snapshot, HistoryError> {
        let head = Arc::clone(&self.head.read());
        if height > head.mark.height {
            return Err(HistoryError::Future {
                requested: height,
                head: head.mark.height,
            });
        }
        let first = self.history_start();
        if height < first {
            return Err(HistoryError::Pruned {
                requested: height,
                first,
            });
        }
        if height == head.mark.height {
            return Ok(Snapshot {
                view: View::Live(head),
            });
        }
        if height > self.durable_height() {
            // What is above the durable height is in memory, all of it.
            let child = head.changes_after(height).next();
            if let Some(child) = child.filter(|child| child.height == height + 1) {
                let mark = Mark {
                    height,
                    root: child.parent_root,
                };
                return Ok(Snapshot {
                    view: View::Recent { base: head, mark },
                });
            }
        }
        let key = layout::root_key(height);
        let root = read(self.disk.kv.as_ref(), &key)?;
        let first = self.history_start();
        if height < first {
            // It was pruned since we looked.
            return Err(HistoryError::Pruned {
                requested: height,
                first,
            });
        }
        let root = root
            .and_then(|bytes| B256::try_from(bytes.as_slice()).ok())
            .ok_or_else(|| damaged(&key, "state root is missing or not 32 bytes"))?;
        let disk = Arc::clone(&self.disk);
        Ok(Snapshot {
            view: View::Past {
                disk,
                mark: Mark { height, root },
            },
        })
    }

    /// Makes a state that was built on the head, with one [`apply`](Snapshot::apply), the new head.
    ///
    /// # Errors
    /// [`NotAChild`] if it was built on something else; nothing changes.
    pub fn advance(&self, child: Snapshot) -> Result<(), NotAChild> {
        let mut head = self.head.write();
        let refused = NotAChild {
            height: child.height(),
            head_height: head.mark.height,
        };
        let View::Live(child) = child.view else {
            return Err(refused);
        };
        if child.parent_id != Some(head.id) || !Arc::ptr_eq(&child.disk, &self.disk) {
            return Err(refused);
        }
        let child = self.graft(child);
        metrics::head(&child);
        *head = child;
        Ok(())
    }

    /// Height of the last state that survives power loss. Blocks after it must be kept for execution at the next start.
    pub fn durable_height(&self) -> u64 {
        self.disk.marks.read().durable.height
    }

    /// State root at [`durable_height`](Self::durable_height).
    pub fn durable_root(&self) -> B256 {
        self.disk.marks.read().durable.root
    }

    /// True if the flush policy asks for a flush and none is running.
    pub fn needs_flush(&self) -> bool {
        !self.disk.flush_running.load(Ordering::Acquire) && self.pending_exceeds(1)
    }

    /// True if so much is pending that the importer must wait for the running flush before it applies more.
    pub fn flush_overdue(&self) -> bool {
        self.pending_exceeds(self.disk.config.flush.overdue_factor)
    }

    /// The flush from what is on disk to the head; `None` if there is nothing to write or another one is not done. Run it on a
    /// thread of its own: importing goes on meanwhile.
    pub fn flush_job(&self) -> Option<FlushJob> {
        FlushJob::new(Arc::clone(&self.head.read()))
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    fn pending_exceeds(&self, factor: u64) -> bool {
        let head = self.head.read();
        let policy = &self.disk.config.flush;
        let blocks = head.mark.height.saturating_sub(self.durable_height());
        let durable_bytes = self.disk.durable_bytes.load(Ordering::Acquire);
        let bytes = head.changed_bytes.saturating_sub(durable_bytes);
        blocks >= policy.blocks.saturating_mul(factor)
            || bytes >= policy.bytes.saturating_mul(factor)
    }

    /// Replaces the parts of a new head's tries that are on disk by those that the last flush kept, so that what the flush
    /// forgot is forgotten here too.
    fn graft(&self, child: Arc<Live>) -> Arc<Live> {
        let clean = Arc::clone(&self.disk.persisted.lock());
        if child.grafted_at >= clean.mark.height {
            return child;
        }
        let mut storage = clean.tries.storage.clone();
        for change in child.changes_after(clean.mark.height) {
            for old in change.accounts.iter().filter(|old| old.storage_changed) {
                if let Some(trie) = child.tries.storage.get(&old.hashed) {
                    let trie = match clean.tries.storage.get(&old.hashed) {
                        Some(clean) => trie.grafted(clean),
                        None => trie.clone(),
                    };
                    storage.insert(old.hashed, trie);
                }
            }
        }
        let accounts = child.tries.accounts.grafted(&clean.tries.accounts);
        let mut grafted = child.copy();
        grafted.tries = Tries { accounts, storage };
        grafted.grafted_at = clean.mark.height;
        Arc::new(grafted)
    }
}

impl Live {
    /// The same state once more: same id, so that what was built on one counts as built on the other.
    fn copy(&self) -> Self {
        Self {
            disk: Arc::clone(&self.disk),
            id: self.id,
            parent_id: self.parent_id,
            mark: self.mark,
            base: self.base,
            tries: self.tries.clone(),
            overlay: self.overlay.clone(),
            recent: self.recent.clone(),
            recent_entries: self.recent_entries,
            changed_bytes: self.changed_bytes,
            grafted_at: self.grafted_at,
        }
    }
}

/// The durable state in `kv`; `None` if the genesis state has yet to be written.
fn find_state(kv: &dyn Kv, genesis_hash: B256) -> Result<Option<Mark>, OpenError> {
    let Some(genesis) = read(kv, layout::KEY_GENESIS)? else {
        return match kv.scan(KeyRange::all(), Direction::Ascending).next() {
            None => Ok(None),
            Some(Ok(_)) => Err(OpenError::NotOurs),
            Some(Err(error)) => Err(storage_failed(error).into()),
        };
    };
    let format = read(kv, layout::KEY_FORMAT)?.and_then(|bytes| bytes.first().copied());
    let format = format.ok_or_else(|| damaged(layout::KEY_FORMAT, "is missing or empty"))?;
    if format != layout::FORMAT {
        return Err(OpenError::Format {
            found: format,
            supported: layout::FORMAT,
        });
    }
    let found = B256::try_from(genesis.as_slice())
        .map_err(|_| damaged(layout::KEY_GENESIS, "is not 32 bytes"))?;
    if found != genesis_hash {
        return Err(OpenError::OtherGenesis {
            expected: genesis_hash,
            found,
        });
    }
    if let Some(height) = read(kv, layout::KEY_RESTORE)? {
        return Err(OpenError::Unfinished {
            height: layout::decode_height(&height).unwrap_or_default(),
        });
    }
    let Some(durable) = read(kv, layout::KEY_DURABLE)? else {
        tracing::warn!("writing the genesis state was interrupted, it starts again");
        genesis::clear_unfinished(kv)?;
        return Ok(None);
    };
    let (height, root) = layout::decode_durable(&durable)
        .ok_or_else(|| damaged(layout::KEY_DURABLE, "is not a height and a root"))?;
    Ok(Some(Mark { height, root }))
}

fn read(kv: &dyn Kv, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    kv.get(key).map_err(storage_failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use alloy_primitives::{U256, keccak256};
    use quorate_kv::MemoryKv;

    use super::*;
    use crate::{Account, AccountChange, StateDiff};

    fn block(seed: u64, accounts: u64) -> StateDiff {
        let mut diff = StateDiff::default();
        for n in 0..accounts {
            let address =
                Address::from_slice(&keccak256((seed * accounts + n).to_be_bytes())[12..]);
            let account = Account {
                nonce: seed,
                ..Account::default()
            };
            let storage = [(U256::from(n), U256::from(seed + 1))].into();
            let change = AccountChange {
                account: Some(account),
                storage_wiped: false,
                storage,
            };
            diff.accounts.insert(address, change);
        }
        diff
    }

    fn resident(live: &Live) -> usize {
        let storage = live.tries.storage.values();
        live.tries.accounts.resident_nodes()
            + storage.map(|trie| 1 + trie.resident_nodes()).sum::<usize>()
    }

    #[test]
    fn the_head_keeps_no_more_in_memory_than_the_limits_and_what_is_not_flushed() {
        let config = StateConfig {
            resident_nodes_max: 200,
            recent_entries_max: 100,
            ..StateConfig::default()
        };
        let store =
            StateStore::open_with(config, Arc::new(MemoryKv::new()), &[], B256::ZERO).unwrap();
        for round in 0..30 {
            for part in 0..3 {
                let child = store.latest().apply(&block(round * 3 + part, 20)).unwrap();
                store.advance(child).unwrap();
            }
            store.flush_job().unwrap().run().unwrap();
            let child = store.latest().apply(&StateDiff::default()).unwrap();
            store.advance(child).unwrap();
            let head = Arc::clone(&store.head.read());
            assert!(
                resident(&head) <= 200,
                "{} nodes in round {round}",
                resident(&head)
            );
            assert!(
                head.recent_entries <= 100,
                "{} entries",
                head.recent_entries
            );
        }
    }
}
