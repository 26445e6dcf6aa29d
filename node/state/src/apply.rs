//! From one state to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};
use rayon::prelude::*;

use crate::change::{BlockChange, OldAccount};
use crate::disk::Mark;
use crate::snapshot::{Live, account_of, decode_slot, slot_key};
use crate::trie::{Change, Trie};
use crate::{AccountChange, ApplyError, StateDiff};

/// From this many accounts on, they are prepared in parallel.
const PARALLEL_ACCOUNTS_MIN: usize = 64;

/// What a flush writes for an account or a slot, about: flat value, old value, and its share of trie nodes.
const ENTRY_BYTES_TYPICAL: u64 = 600;

/// One account of a change, worked out as far as it can be without the others.
struct Prepared {
    old: OldAccount,
    /// Its new leaf; `None` if it does not change, `Some(None)` if the account goes away.
    leaf: Option<Option<Vec<u8>>>,
    /// Its new storage trie, if that changes.
    trie: Option<Trie>,
}

struct PreparedStorage {
    trie: Trie,
    root: B256,
    /// Values before, by slot.
    old: Vec<(U256, U256)>,
    wiped: bool,
}

impl Live {
    /// The state after one more block.
    pub(crate) fn apply(&self, diff: &StateDiff) -> Result<Live, ApplyError> {
        fail_point!("state.apply");
        let accounts: Vec<(&Address, &AccountChange)> = diff.accounts.iter().collect();
        let prepare = |(address, change): (&Address, &AccountChange)| self.prepare(address, change);
        let prepared: Vec<Option<Prepared>> = if accounts.len() >= PARALLEL_ACCOUNTS_MIN {
            accounts
                .into_par_iter()
                .map(prepare)
                .collect::<Result<_, _>>()?
        } else {
            accounts
                .into_iter()
                .map(prepare)
                .collect::<Result<_, _>>()?
        };

        let height = self.mark.height + 1;
        let mut tries = self.tries.clone();
        let mut overlay = self.overlay.clone();
        let mut leaves = Vec::with_capacity(prepared.len());
        let mut olds = Vec::with_capacity(prepared.len());
        let mut entries = diff.codes.len();
        for Prepared { old, leaf, trie } in prepared.into_iter().flatten() {
            let change = diff.accounts.get(&old.address);
            let account = old
                .account_changed
                .then(|| change.and_then(|change| change.account));
            let new_value = |slot: &U256| {
                change
                    .and_then(|change| change.storage.get(slot).copied())
                    .unwrap_or_default()
            };
            let values = old.storage.iter().map(|(slot, _)| (*slot, new_value(slot)));
            overlay.set(old.address, height, account, old.wiped, values);
            if let Some(leaf) = leaf {
                leaves.push(Change {
                    key: Nibbles::unpack(old.hashed),
                    value: leaf,
                });
            }
            if let Some(trie) = trie {
                tries.storage.insert(old.hashed, trie);
            }
            entries += 1 + old.storage.len();
            olds.push(old);
        }
        let mut code_bytes = 0;
        for (hash, code) in &diff.codes {
            if keccak256(code) != *hash {
                let reason = "code has another hash than its key says";
                return Err(ApplyError::InvalidDiff {
                    address: Address::ZERO,
                    reason,
                });
            }
            overlay.set_code(*hash, code.clone(), height);
            code_bytes += code.len() as u64;
        }
        tries.accounts = tries
            .accounts
            .update(leaves, &self.disk.account_reader())
            .map_err(|error| self.trie_error(error))?;
        let root = tries.accounts.root_hash();

        let size_bytes = entries as u64 * ENTRY_BYTES_TYPICAL + code_bytes;
        let change = BlockChange {
            height,
            parent_root: self.mark.root,
            root,
            accounts: olds,
            codes: diff.codes.keys().copied().collect(),
            entries,
        };
        let mut child = Live {
            disk: Arc::clone(&self.disk),
            id: self.disk.new_id(),
            parent_id: Some(self.id),
            mark: Mark { height, root },
            base: self.base,
            tries,
            overlay,
            recent: self.recent.clone(),
            recent_entries: self.recent_entries + entries,
            changed_bytes: self.changed_bytes + size_bytes,
            grafted_at: self.grafted_at,
        };
        child.recent.push_back(Arc::new(change));
        child.forget_oldest();
        Ok(child)
    }

    /// Takes the oldest changes out of the overlay while there are more than the limit and disk has them.
    fn forget_oldest(&mut self) {
        let durable = self.disk.marks.read().durable;
        if !self.descends_from(durable) {
            // Built on a block that did not become the head: disk says nothing about this line.
            return;
        }
        self.base = self.base.max(durable.height);
        while self.recent_entries > self.disk.config.recent_entries_max
            && self
                .recent
                .front()
                .is_some_and(|change| change.height <= durable.height)
            && let Some(change) = self.recent.pop_front()
        {
            self.overlay.forget(&change);
            self.recent_entries -= change.entries;
        }
    }

    /// `None` if nothing about the account changes.
    fn prepare(
        &self,
        address: &Address,
        change: &AccountChange,
    ) -> Result<Option<Prepared>, ApplyError> {
        let hashed = keccak256(address);
        let old_leaf = self.leaf(&hashed)?;
        if change.account.is_none() && change.storage.values().any(|value| !value.is_zero()) {
            let reason = "the account is gone and has storage";
            return Err(ApplyError::InvalidDiff {
                address: *address,
                reason,
            });
        }
        let old_root = old_leaf
            .as_ref()
            .map_or(EMPTY_ROOT_HASH, |leaf| leaf.storage_root);
        let storage = self.prepare_storage(address, &hashed, old_root, change)?;
        let storage_root = storage.as_ref().map_or(old_root, |storage| storage.root);
        let new_leaf = change.account.map(|account| TrieAccount {
            nonce: account.nonce,
            balance: account.balance,
            storage_root,
            code_hash: account.code_hash,
        });
        if new_leaf == old_leaf && storage.is_none() {
            return Ok(None);
        }
        let leaf = (new_leaf != old_leaf).then(|| new_leaf.map(alloy_rlp::encode));
        let account = old_leaf.as_ref().map(account_of);
        let mut old = OldAccount {
            address: *address,
            hashed,
            account,
            account_changed: account != change.account,
            storage_changed: false,
            wiped: false,
            storage: Vec::new(),
        };
        let trie = storage.map(|storage| {
            old.storage_changed = true;
            old.wiped = storage.wiped;
            old.storage = storage.old;
            storage.trie
        });
        Ok(Some(Prepared { old, leaf, trie }))
    }

    /// `None` if the storage does not change.
    fn prepare_storage(
        &self,
        address: &Address,
        hashed: &B256,
        old_root: B256,
        change: &AccountChange,
    ) -> Result<Option<PreparedStorage>, ApplyError> {
        let wiped =
            (change.storage_wiped || change.account.is_none()) && old_root != EMPTY_ROOT_HASH;
        if change.storage.is_empty() && !wiped {
            return Ok(None);
        }
        let reader = self.disk.storage_reader(*hashed);
        let (before, mut old) = if wiped {
            (Trie::default(), self.all_values(address)?)
        } else {
            (self.storage_trie(hashed, old_root), BTreeMap::new())
        };
        let mut changes = Vec::with_capacity(change.storage.len());
        for (slot, value) in &change.storage {
            let key = slot_key(slot);
            if wiped {
                old.entry(*slot).or_insert(U256::ZERO);
            } else {
                let leaf = before
                    .get(&key, &reader)
                    .map_err(|error| self.trie_error(error))?;
                let before = decode_slot(hashed, leaf.as_deref())?;
                if before == *value {
                    continue;
                }
                old.insert(*slot, before);
            }
            let value = (!value.is_zero()).then(|| alloy_rlp::encode(value));
            changes.push(Change { key, value });
        }
        if old.is_empty() {
            return Ok(None);
        }
        let trie = before
            .update(changes, &reader)
            .map_err(|error| self.trie_error(error))?;
        let root = trie.root_hash();
        Ok(Some(PreparedStorage {
            trie,
            root,
            old: old.into_iter().collect(),
            wiped,
        }))
    }

    /// Every slot of an account that has a value, with it. Costs a read per slot.
    pub(crate) fn all_values(&self, address: &Address) -> Result<BTreeMap<U256, U256>, ApplyError> {
        let mut values = BTreeMap::new();
        let slots = self
            .disk
            .slots(address)?
            .into_iter()
            .chain(self.overlay.slots(address));
        for slot in slots {
            let value = self.storage(address, &slot)?;
            if !value.is_zero() {
                values.insert(slot, value);
            }
        }
        if !self.is_ahead_of_disk() {
            // A flush of another line may have removed slots before they were listed.
            return Err(ApplyError::Superseded {
                height: self.mark.height,
            });
        }
        Ok(values)
    }
}
