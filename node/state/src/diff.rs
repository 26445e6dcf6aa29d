//! What a block changes.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256};

use crate::Account;

/// The exact effect of one block (or of any step) on the state: new values only.
///
/// Ordered maps, so that two members that executed the same block walk it in the same order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateDiff {
    /// Accounts that were created, changed or removed, and their storage.
    pub accounts: BTreeMap<Address, AccountChange>,
    /// Code that was deployed, by keccak256 of the code.
    pub codes: BTreeMap<B256, Bytes>,
}

/// What happened to one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// The account afterwards; `None` if it no longer exists (self-destruct, or empty under EIP-161).
    pub account: Option<Account>,
    /// True if all storage from before is gone (the account was destroyed, perhaps created again);
    /// `storage` then holds everything that exists afterwards.
    pub storage_wiped: bool,
    /// New slot values; zero means that the slot is cleared.
    pub storage: BTreeMap<U256, U256>,
}

impl StateDiff {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.codes.is_empty()
    }
}
