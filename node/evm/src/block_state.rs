//! The state while a block is being executed: the parent's state, and what the block's transactions changed so far.

use alloy_primitives::map::{AddressMap, B256Map, HashMap};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use quorate_state::{Account, AccountChange, ReadError, StateDiff, StateRead};
use revm::Database;
use revm::database_interface::DBErrorMarker;
use revm::state::{AccountInfo, Bytecode, EvmState};

use crate::code_cache;
use crate::{BlockContext, BlockHashes};

/// A read that failed, in the form that revm hands through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub(crate) struct ReadFailed(#[from] pub(crate) ReadError);

impl DBErrorMarker for ReadFailed {}

/// Reads from the parent once and keeps what it read; takes in the changes of each transaction that stays.
pub(crate) struct BlockState<'a, S: ?Sized> {
    parent: &'a S,
    hashes: &'a dyn BlockHashes,
    height: u64,
    parent_hash: B256,
    accounts: AddressMap<Entry>,
    /// Code that this block has run or made, by hash.
    codes: B256Map<Bytecode>,
}

#[derive(Debug)]
struct Entry {
    /// Before the block.
    parent: Option<Account>,
    current: Option<Account>,
    /// True if all storage from before is gone: slots that are not listed are zero.
    wiped: bool,
    storage: HashMap<U256, Slot>,
}

impl Entry {
    /// True if slots that are not listed here are what they were in the parent's state. What did not exist has no storage, and
    /// what was wiped has only what is listed.
    fn has_unlisted_storage(&self) -> bool {
        !self.wiped && self.parent.is_some()
    }

    /// Becomes what a transaction left of the account.
    fn take_in(&mut self, changed: revm::state::Account) {
        let destroyed =
            changed.is_selfdestructed() || (changed.is_empty() && !changed.is_created());
        // Created anew where something was: none of the old storage is visible in it.
        let replaced = changed.is_created() && (self.parent.is_some() || self.wiped);
        if destroyed || replaced {
            self.wiped = true;
            self.storage.clear();
        }
        if destroyed {
            self.current = None;
            return;
        }
        self.current = Some(Account {
            nonce: changed.info.nonce,
            balance: changed.info.balance,
            code_hash: if changed.info.is_empty_code_hash() {
                KECCAK256_EMPTY
            } else {
                changed.info.code_hash
            },
        });
        let slots = changed
            .storage
            .into_iter()
            .filter(|(_, slot)| slot.is_changed());
        slots.for_each(|(key, slot)| {
            // A changed slot was read before, except in an account that had none.
            let unread = Slot {
                parent: U256::ZERO,
                current: U256::ZERO,
            };
            self.storage.entry(key).or_insert(unread).current = slot.present_value;
        });
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Before the block; zero if the storage was wiped in between.
    parent: U256,
    current: U256,
}

impl<'a, S: StateRead + ?Sized> BlockState<'a, S> {
    pub(crate) fn new(context: &BlockContext, parent: &'a S, hashes: &'a dyn BlockHashes) -> Self {
        Self {
            parent,
            hashes,
            height: context.height,
            parent_hash: context.parent_hash,
            accounts: AddressMap::default(),
            codes: B256Map::default(),
        }
    }

    /// The account as it is now.
    pub(crate) fn account(&mut self, address: &Address) -> Result<Option<Account>, ReadError> {
        if let Some(entry) = self.accounts.get(address) {
            return Ok(entry.current);
        }
        let account = self.parent.account(address)?;
        let entry = Entry {
            parent: account,
            current: account,
            wiped: false,
            storage: HashMap::default(),
        };
        self.accounts.insert(*address, entry);
        Ok(account)
    }

    /// Takes in what a transaction did. revm has brought empty accounts into the form of EIP-161 for every fork: one that is
    /// touched, empty and not created goes.
    pub(crate) fn commit(&mut self, changes: EvmState) -> Result<(), ReadError> {
        // Accounts do not depend on each other: the order of the map does not matter.
        changes
            .into_iter()
            .filter(|(_, changed)| changed.is_touched())
            .try_for_each(|(address, changed)| {
                // It was read before it was changed; should that ever not be so, it is read now.
                self.account(&address)?;
                if let Some(code) = changed.info.code.as_ref().filter(|code| !code.is_empty()) {
                    self.codes
                        .entry(changed.info.code_hash)
                        .or_insert_with(|| code.clone());
                }
                if let Some(entry) = self.accounts.get_mut(&address) {
                    entry.take_in(changed);
                }
                Ok(())
            })
    }

    /// Everything that differs from the parent.
    pub(crate) fn into_diff(self) -> StateDiff {
        let mut diff = StateDiff::default();
        let codes = &self.codes;
        self.accounts.into_iter().for_each(|(address, entry)| {
            let old_code = entry
                .parent
                .map_or(KECCAK256_EMPTY, |account| account.code_hash);
            let wiped = entry.wiped && entry.parent.is_some();
            let storage: std::collections::BTreeMap<U256, U256> = entry
                .storage
                .into_iter()
                .filter(|(_, slot)| {
                    if wiped {
                        !slot.current.is_zero()
                    } else {
                        slot.current != slot.parent
                    }
                })
                .map(|(key, slot)| (key, slot.current))
                .collect();
            if entry.current == entry.parent && storage.is_empty() && !wiped {
                return;
            }
            if let Some(account) = &entry.current
                && account.has_code()
                && account.code_hash != old_code
                && let Some(code) = codes.get(&account.code_hash)
            {
                diff.codes.insert(account.code_hash, code.original_bytes());
            }
            diff.accounts.insert(
                address,
                AccountChange {
                    account: entry.current,
                    storage_wiped: wiped,
                    storage,
                },
            );
        });
        diff
    }
}

/// What the block's transactions so far have made of the parent's state, to be read beside the EVM. Unlike the EVM's reads these keep
/// nothing: an account or a slot that the block has not read is read from the parent each time.
pub(crate) struct View<'v, 'a, S: ?Sized>(pub(crate) &'v BlockState<'a, S>);

impl<S: StateRead + ?Sized> StateRead for View<'_, '_, S> {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        match self.0.accounts.get(address) {
            Some(entry) => Ok(entry.current),
            None => self.0.parent.account(address),
        }
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        let Some(entry) = self.0.accounts.get(address) else {
            return self.0.parent.storage(address, slot);
        };
        match entry.storage.get(slot) {
            Some(slot) => Ok(slot.current),
            None if entry.has_unlisted_storage() => self.0.parent.storage(address, slot),
            None => Ok(U256::ZERO),
        }
    }

    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        match self.0.codes.get(code_hash) {
            Some(code) => Ok(code.original_bytes()),
            None => self.0.parent.code(code_hash),
        }
    }
}

impl<S: StateRead + ?Sized> Database for BlockState<'_, S> {
    type Error = ReadFailed;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, ReadFailed> {
        Ok(self.account(&address)?.map(|account| {
            // Code of contracts is left out here: it is fetched when it runs.
            let code = if account.has_code() {
                self.codes.get(&account.code_hash).cloned()
            } else {
                Some(Bytecode::default())
            };
            AccountInfo {
                balance: account.balance,
                nonce: account.nonce,
                code_hash: account.code_hash,
                account_id: None,
                code,
            }
        }))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, ReadFailed> {
        if code_hash == KECCAK256_EMPTY || code_hash.is_zero() {
            return Ok(Bytecode::default());
        }
        if let Some(code) = self.codes.get(&code_hash) {
            return Ok(code.clone());
        }
        let code = code_cache::analysed(code_hash, || self.parent.code(&code_hash))?;
        self.codes.insert(code_hash, code.clone());
        Ok(code)
    }

    fn storage(&mut self, address: Address, index: U256) -> Result<U256, ReadFailed> {
        self.account(&address)?;
        let Some(entry) = self.accounts.get_mut(&address) else {
            return Ok(U256::ZERO);
        };
        if let Some(slot) = entry.storage.get(&index) {
            return Ok(slot.current);
        }
        let value = if entry.has_unlisted_storage() {
            self.parent.storage(&address, &index)?
        } else {
            U256::ZERO
        };
        entry.storage.insert(
            index,
            Slot {
                parent: value,
                current: value,
            },
        );
        Ok(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, ReadFailed> {
        if number.checked_add(1) == Some(self.height) {
            return Ok(self.parent_hash);
        }
        self.hashes.block_hash(number).ok_or_else(|| {
            ReadFailed(ReadError::Damaged {
                key: format!("hash of block {number}"),
                reason: format!("unknown, and block {} asks for it", self.height),
            })
        })
    }
}
