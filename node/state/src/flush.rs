//! Writing behind: one atomic write that takes disk from one height to a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};
use quorate_kv::Batch;

#[cfg(feature = "fail-points")]
use crate::disk::pretended;
use crate::disk::{Disk, Mark, Persisted, Tries, damaged, storage_failed, trie_failed};
use crate::snapshot::{Live, decode_leaf};
use crate::trie::{NodeReader, NodeWrite, Pruning, Trie, keep_levels};
use crate::{FlushError, ReadError, layout, metrics};

/// A flush that is ready to run, on any thread. While it exists no other is given out; dropping it undone changes nothing.
pub struct FlushJob {
    target: Arc<Live>,
    from: Arc<Persisted>,
}

/// Old values of one key by the height that changed them, rising.
type OldValues = Vec<(u64, Vec<u8>)>;

/// What a flush achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushedTo {
    /// The durable height from now on.
    pub height: u64,
    /// State root at that height.
    pub state_root: B256,
    /// Entries that were written or removed.
    pub writes: usize,
    /// Keys and values that were written, in bytes.
    pub bytes: usize,
}

impl fmt::Debug for FlushJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushJob")
            .field("from", &self.from.mark.height)
            .field("to", &self.target.mark.height)
            .finish()
    }
}

impl FlushJob {
    /// The job from what is on disk to `target`; `None` if there is nothing to do or another job exists.
    pub(crate) fn new(target: Arc<Live>) -> Option<Self> {
        let disk = Arc::clone(&target.disk);
        if disk.flush_running.swap(true, Ordering::AcqRel) {
            return None;
        }
        // From here on the job's drop gives the flag back.
        let from = Arc::clone(&disk.persisted.lock());
        let job = Self { target, from };
        (job.target.mark.height > job.from.mark.height).then_some(job)
    }

    /// Height that becomes durable.
    pub fn height(&self) -> u64 {
        self.target.mark.height
    }

    /// Writes everything and waits until it survives power loss.
    ///
    /// # Errors
    /// [`FlushError`]: the node must stop.
    pub fn run(self) -> Result<FlushedTo, FlushError> {
        let height = self.target.mark.height;
        self.run_inner()
            .map_err(|source| FlushError { height, source })
    }

    fn run_inner(&self) -> Result<FlushedTo, ReadError> {
        let started = Instant::now();
        let (disk, target) = (&self.target.disk, &self.target);
        let Mark { height, root } = target.mark;
        fail_point!("state.flush.build");
        let mut done = Batch::new();
        done.put(layout::KEY_DURABLE, layout::encode_durable(height, &root));
        // The order matters to those who read meanwhile. Old values come first: whoever meets a flat value that is too new
        // finds the old one. Nobody needs a trie node that changes: only states that this flush leaves behind have it.
        let history = self.history();
        fail_point!("state.flush.history");
        let stages = vec![history, self.flat()?, self.tries()?, done];
        let writes = stages.iter().map(Batch::len).sum();
        let bytes = stages.iter().map(Batch::size_bytes).sum();

        // Before writing: an export under way needs what is about to be written over.
        let export = disk.export.lock().clone();
        if let Some(preimages) = export {
            preimages.record(target.changes_after(self.from.mark.height));
        }
        // Before writing: a reader that finds the old mark after reading a flat value knows that the value is an old one.
        disk.marks.write().flushing = target.mark;
        fail_point!("state.flush.write", pretended);
        let written = disk.kv.write_staged(stages).map_err(storage_failed);
        disk.absent.written();
        written?;
        fail_point!("state.flush.written");
        // Only now that it is durable: the durable height lets the log be cut.
        disk.marks.write().durable = target.mark;
        disk.durable_bytes
            .store(target.changed_bytes, Ordering::Release);

        fail_point!("state.flush.done");
        let (tries, resident) = self.pruned_tries(disk);
        *disk.persisted.lock() = Arc::new(Persisted {
            mark: target.mark,
            tries,
        });
        let seconds = started.elapsed().as_secs_f64();
        metrics::durable_height(height);
        metrics::flushed(seconds, writes, bytes);
        metrics::resident_trie_nodes(resident);
        tracing::debug!(height, writes, bytes, seconds, resident, "state flushed");
        Ok(FlushedTo {
            height,
            state_root: root,
            writes,
            bytes,
        })
    }

    /// Old values by key, and the state root of every block.
    fn history(&self) -> Batch {
        let mut batch = Batch::new();
        let mut accounts: BTreeMap<Address, OldValues> = BTreeMap::new();
        let mut slots: BTreeMap<(Address, U256), OldValues> = BTreeMap::new();
        for change in self.target.changes_after(self.from.mark.height) {
            let height = change.height;
            batch.put(layout::root_key(height), change.root.to_vec());
            for old in &change.accounts {
                if old.account_changed {
                    let value = layout::encode_old_account(old.account.as_ref());
                    accounts
                        .entry(old.address)
                        .or_default()
                        .push((height, value));
                }
                for (slot, value) in &old.storage {
                    let values = slots.entry((old.address, *slot)).or_default();
                    values.push((height, layout::encode_value(value)));
                }
            }
        }
        for (address, values) in &accounts {
            for (last, entry) in layout::encode_old_values(values) {
                batch.put(layout::account_history_key(address, last), entry);
            }
        }
        for ((address, slot), values) in &slots {
            for (last, entry) in layout::encode_old_values(values) {
                batch.put(layout::storage_history_key(address, slot, last), entry);
            }
        }
        batch
    }

    /// Values at the target height of everything that changed on the way.
    fn flat(&self) -> Result<Batch, ReadError> {
        let mut batch = Batch::new();
        let mut accounts: BTreeSet<Address> = BTreeSet::new();
        let mut slots: BTreeSet<(Address, U256)> = BTreeSet::new();
        let mut codes: BTreeSet<B256> = BTreeSet::new();
        for change in self.target.changes_after(self.from.mark.height) {
            for old in &change.accounts {
                if old.account_changed {
                    accounts.insert(old.address);
                }
                slots.extend(old.storage.iter().map(|(slot, _)| (old.address, *slot)));
            }
            codes.extend(&change.codes);
        }
        let overlay = &self.target.overlay;
        for address in &accounts {
            let key = layout::account_key(address);
            match overlay
                .account(address)
                .ok_or_else(|| not_in_overlay(&key))?
            {
                Some(account) => batch.put(key, layout::encode_account(&account)),
                None => batch.delete(key),
            }
        }
        for (address, slot) in &slots {
            let key = layout::storage_key(address, slot);
            let value = overlay
                .storage(address, slot)
                .ok_or_else(|| not_in_overlay(&key))?;
            if value.is_zero() {
                batch.delete(key);
            } else {
                batch.put(key, layout::encode_value(&value));
            }
        }
        for hash in &codes {
            let code = overlay
                .code(hash)
                .ok_or_else(|| not_in_overlay(&layout::code_prefix(hash)))?;
            put_code(&mut batch, hash, code)?;
        }
        Ok(batch)
    }

    /// Trie nodes that differ.
    fn tries(&self) -> Result<Batch, ReadError> {
        let mut batch = Batch::new();
        let (disk, old, new) = (&self.target.disk, &self.from.tries, &self.target.tries);
        let reader = disk.account_reader();
        put_trie(&mut batch, &new.accounts, &old.accounts, &reader)?;
        for hashed in self.changed_storage() {
            let reader = disk.storage_reader(hashed);
            let old = storage_trie(disk, old, &hashed)?;
            let new = storage_trie(disk, new, &hashed)?;
            put_trie(&mut batch, &new, &old, &reader)?;
        }
        Ok(batch)
    }

    /// Hashed addresses of accounts whose storage changed on the way.
    fn changed_storage(&self) -> BTreeSet<B256> {
        self.target
            .changes_after(self.from.mark.height)
            .flat_map(|change| &change.accounts)
            .filter(|old| old.storage_changed)
            .map(|old| old.hashed)
            .collect()
    }

    /// The tries at the target with no more nodes in memory than the limit allows, as far as that can be, and their number.
    fn pruned_tries(&self, disk: &Disk) -> (Tries, usize) {
        let nodes_max = disk.config.resident_nodes_max;
        let tries = &self.target.tries;
        let resident = resident_nodes(tries);
        if resident <= nodes_max {
            return (tries.clone(), resident);
        }
        let touched = self.changed_storage();
        let mut pruned = self.prune(tries, &touched, nodes_max, Pruning::Untouched);
        let mut resident = resident_nodes(&pruned);
        if resident > nodes_max {
            pruned = self.prune(&pruned, &touched, nodes_max, Pruning::All);
            resident = resident_nodes(&pruned);
        }
        (pruned, resident)
    }

    fn prune(
        &self,
        tries: &Tries,
        touched: &BTreeSet<B256>,
        nodes_max: usize,
        what: Pruning,
    ) -> Tries {
        let previous = &self.from.tries;
        let accounts = tries
            .accounts
            .pruned(&previous.accounts, keep_levels(nodes_max), what);
        let mut storage = imbl::OrdMap::new();
        if what == Pruning::Untouched {
            let never = Trie::default();
            for hashed in touched {
                if let Some(trie) = tries.storage.get(hashed) {
                    let previous = previous.storage.get(hashed).unwrap_or(&never);
                    storage.insert(*hashed, trie.pruned(previous, 0, what));
                }
            }
        }
        Tries { accounts, storage }
    }
}

impl Drop for FlushJob {
    fn drop(&mut self) {
        self.target
            .disk
            .flush_running
            .store(false, Ordering::Release);
    }
}

fn resident_nodes(tries: &Tries) -> usize {
    // An entry costs memory even if no node of it is there.
    let storage: usize = tries
        .storage
        .values()
        .map(|trie| 1 + trie.resident_nodes())
        .sum();
    tries.accounts.resident_nodes() + storage
}

/// A storage trie of a state that is on disk or about to be.
fn storage_trie(disk: &Disk, tries: &Tries, hashed: &B256) -> Result<Trie, ReadError> {
    if let Some(trie) = tries.storage.get(hashed) {
        return Ok(trie.clone());
    }
    let key = Nibbles::unpack(hashed);
    let leaf = tries
        .accounts
        .get(&key, &disk.account_reader())
        .map_err(trie_failed)?;
    let root = match leaf {
        Some(leaf) => decode_leaf(hashed, &leaf)?.storage_root,
        None => EMPTY_ROOT_HASH,
    };
    Ok(Trie::stored(root))
}

fn put_trie(
    batch: &mut Batch,
    new: &Trie,
    old: &Trie,
    reader: &NodeReader<'_>,
) -> Result<(), ReadError> {
    let space = reader.space();
    new.writes_since(old, reader, &mut |NodeWrite { path, node }| {
        let key = layout::trie_node_key(space, &path);
        match node {
            Some(node) => batch.put(key, node),
            None => batch.delete(key),
        }
        Ok(())
    })
}

/// Cuts a code into parts that the storage takes.
pub(crate) fn put_code(batch: &mut Batch, hash: &B256, code: &Bytes) -> Result<(), ReadError> {
    for (part, bytes) in code.chunks(layout::CODE_PART_SIZE).enumerate() {
        let part = u16::try_from(part).map_err(|_| {
            damaged(
                &layout::code_prefix(hash),
                "code is over 256 MiB, no transaction can carry it",
            )
        })?;
        batch.put(layout::code_key(hash, part), bytes);
    }
    Ok(())
}

fn not_in_overlay(key: &[u8]) -> ReadError {
    damaged(
        key,
        "changed since the last flush and is not in memory; this is a fault of the node",
    )
}
