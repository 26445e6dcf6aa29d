//! New values that are not on disk yet, and some that are: the part of a snapshot that is in memory.
//!
//! Maps are persistent: a child shares everything with its parent but what its block changed. Every entry carries the height
//! of its last change. An entry may leave once a flush has written a height at or above that.

use std::sync::Arc;

use alloy_primitives::map::DefaultHashBuilder;
use alloy_primitives::{Address, B256, Bytes, U256};
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;

use crate::Account;
use crate::change::BlockChange;

type Map<K, V> = GenericHashMap<K, V, DefaultHashBuilder, DefaultSharedPtr>;

/// Current values by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    accounts: Map<Address, Arc<Entry>>,
    codes: Map<B256, (Bytes, u64)>,
}

/// What is known of one account.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// The account (`None`: does not exist) and the height that set it.
    account: Option<(Option<Account>, u64)>,
    storage: Option<StorageEntry>,
}

#[derive(Debug, Clone, Default)]
struct StorageEntry {
    /// If set: at this height all storage went away, and slots that are not listed are zero, whatever disk says.
    wiped_at: Option<u64>,
    /// Values and the heights that set them.
    slots: Map<U256, (U256, u64)>,
}

impl Overlay {
    /// The account; `None` if only disk knows.
    pub(crate) fn account(&self, address: &Address) -> Option<Option<Account>> {
        self.accounts
            .get(address)?
            .account
            .map(|(account, _)| account)
    }

    /// The value of a slot; `None` if only disk knows.
    pub(crate) fn storage(&self, address: &Address, slot: &U256) -> Option<U256> {
        let storage = self.accounts.get(address)?.storage.as_ref()?;
        match storage.slots.get(slot) {
            Some((value, _)) => Some(*value),
            None => storage.wiped_at.map(|_| U256::ZERO),
        }
    }

    /// The code; `None` if only disk knows.
    pub(crate) fn code(&self, hash: &B256) -> Option<&Bytes> {
        self.codes.get(hash).map(|(code, _)| code)
    }

    /// Slots of an account that have an entry, in order.
    pub(crate) fn slots(&self, address: &Address) -> Vec<U256> {
        let storage = self
            .accounts
            .get(address)
            .and_then(|entry| entry.storage.as_ref());
        let Some(storage) = storage else {
            return Vec::new();
        };
        let mut slots: Vec<U256> = storage.slots.iter().map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        slots
    }

    /// Sets one account as of `height`. `account` is `None` if it did not change; `wiped` takes away all storage before
    /// `storage` is set.
    pub(crate) fn set(
        &mut self,
        address: Address,
        height: u64,
        account: Option<Option<Account>>,
        wiped: bool,
        storage: impl Iterator<Item = (U256, U256)>,
    ) {
        let mut entry = match self.accounts.get(&address) {
            Some(entry) => Entry::clone(entry),
            None => Entry::default(),
        };
        if let Some(account) = account {
            entry.account = Some((account, height));
        }
        if wiped {
            entry.storage = Some(StorageEntry {
                wiped_at: Some(height),
                slots: Map::default(),
            });
        }
        let mut storage = storage.peekable();
        if storage.peek().is_some() {
            let slots = &mut entry.storage.get_or_insert_default().slots;
            for (slot, value) in storage {
                slots.insert(slot, (value, height));
            }
        }
        self.accounts.insert(address, Arc::new(entry));
    }

    pub(crate) fn set_code(&mut self, hash: B256, code: Bytes, height: u64) {
        self.codes.insert(hash, (code, height));
    }

    /// Forgets what this block set last. The block must be on disk.
    pub(crate) fn forget(&mut self, change: &BlockChange) {
        for old in &change.accounts {
            let Some(entry) = self.accounts.get(&old.address) else {
                continue;
            };
            let mut entry = Entry::clone(entry);
            if entry
                .account
                .is_some_and(|(_, height)| height <= change.height)
            {
                entry.account = None;
            }
            if let Some(storage) = &mut entry.storage {
                for (slot, _) in &old.storage {
                    if storage
                        .slots
                        .get(slot)
                        .is_some_and(|(_, height)| *height <= change.height)
                    {
                        storage.slots.remove(slot);
                    }
                }
                if storage
                    .wiped_at
                    .is_some_and(|height| height <= change.height)
                {
                    storage.wiped_at = None;
                }
                if storage.wiped_at.is_none() && storage.slots.is_empty() {
                    entry.storage = None;
                }
            }
            if entry.account.is_none() && entry.storage.is_none() {
                self.accounts.remove(&old.address);
            } else {
                self.accounts.insert(old.address, Arc::new(entry));
            }
        }
        for hash in &change.codes {
            if self
                .codes
                .get(hash)
                .is_some_and(|(_, height)| *height <= change.height)
            {
                self.codes.remove(hash);
            }
        }
    }
}
