//! What one block changed, by its old values: the source of history and the list of what a flush has to write.

use alloy_primitives::{Address, B256, U256};

use crate::Account;

/// Old values of everything one block changed.
#[derive(Debug)]
pub(crate) struct BlockChange {
    pub(crate) height: u64,
    /// State root before the block.
    pub(crate) parent_root: B256,
    /// State root after the block.
    pub(crate) root: B256,
    /// By address.
    pub(crate) accounts: Vec<OldAccount>,
    /// Hashes of code that the block brought.
    pub(crate) codes: Vec<B256>,
    /// Accounts, slots and codes.
    pub(crate) entries: usize,
}

/// One account before the block.
#[derive(Debug)]
pub(crate) struct OldAccount {
    pub(crate) address: Address,
    pub(crate) hashed: B256,
    /// `None` if it did not exist.
    pub(crate) account: Option<Account>,
    /// True if the account itself changed, and not only its storage.
    pub(crate) account_changed: bool,
    /// True if the storage trie changed.
    pub(crate) storage_changed: bool,
    /// True if all storage from before went away; `storage` then lists every slot that had a value.
    pub(crate) wiped: bool,
    /// Values before the block, by slot.
    pub(crate) storage: Vec<(U256, U256)>,
}

impl BlockChange {
    /// The account before this block, if the block touched it.
    pub(crate) fn old_account(&self, address: &Address) -> Option<Option<Account>> {
        let old = self.find(address)?;
        Some(old.account)
    }

    /// The storage value before this block, if the block touched it.
    pub(crate) fn old_value(&self, address: &Address, slot: &U256) -> Option<U256> {
        let storage = &self.find(address)?.storage;
        let found = storage.binary_search_by_key(slot, |(slot, _)| *slot).ok()?;
        storage.get(found).map(|(_, value)| *value)
    }

    fn find(&self, address: &Address) -> Option<&OldAccount> {
        let found = self
            .accounts
            .binary_search_by_key(address, |old| old.address)
            .ok()?;
        self.accounts.get(found)
    }
}
