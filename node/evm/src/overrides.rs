//! State and block environment as a client wants them to be for one call.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use quorate_state::{Account, ReadError, StateRead};

use crate::{BlockContext, CallError};

/// Accounts to change before a call.
pub type StateOverrides = BTreeMap<Address, AccountOverride>;

/// What to change in one account. What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountOverride {
    /// Balance in wei.
    pub balance: Option<U256>,
    /// Next nonce.
    pub nonce: Option<u64>,
    /// Code; empty bytes remove it.
    pub code: Option<Bytes>,
    /// All storage: slots that are not listed are zero.
    pub state: Option<BTreeMap<U256, U256>>,
    /// Some slots: the others stay.
    pub state_diff: Option<BTreeMap<U256, U256>>,
}

/// Values of the block environment to replace. What is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockOverrides {
    /// Height.
    pub height: Option<u64>,
    /// Seconds.
    pub timestamp: Option<u64>,
    /// Coinbase.
    pub coinbase: Option<Address>,
    /// Gas limit of the block.
    pub gas_limit: Option<u64>,
    /// PREVRANDAO.
    pub prevrandao: Option<B256>,
    /// Base fee in wei.
    pub base_fee: Option<u64>,
}

impl BlockOverrides {
    /// The context with these values.
    pub(crate) fn apply(&self, context: &BlockContext) -> BlockContext {
        BlockContext {
            height: self.height.unwrap_or(context.height),
            timestamp: self.timestamp.unwrap_or(context.timestamp),
            coinbase: self.coinbase.unwrap_or(context.coinbase),
            gas_limit: self.gas_limit.unwrap_or(context.gas_limit),
            prevrandao: self.prevrandao.unwrap_or(context.prevrandao),
            base_fee: self.base_fee.unwrap_or(context.base_fee),
            ..*context
        }
    }
}

/// A state with overrides in front of it.
pub(crate) struct OverriddenState<'a, S: ?Sized> {
    state: &'a S,
    accounts: &'a StateOverrides,
    codes: BTreeMap<B256, Bytes>,
    hashes: BTreeMap<Address, B256>,
}

impl<'a, S: StateRead + ?Sized> OverriddenState<'a, S> {
    pub(crate) fn new(state: &'a S, accounts: &'a StateOverrides) -> Result<Self, CallError> {
        let mut codes = BTreeMap::new();
        let mut hashes = BTreeMap::new();
        for (address, account) in accounts {
            if account.state.is_some() && account.state_diff.is_some() {
                return Err(CallError::OverrideConflict { address: *address });
            }
            if let Some(code) = &account.code {
                let hash = if code.is_empty() {
                    KECCAK256_EMPTY
                } else {
                    keccak256(code)
                };
                codes.insert(hash, code.clone());
                hashes.insert(*address, hash);
            }
        }
        Ok(Self {
            state,
            accounts,
            codes,
            hashes,
        })
    }
}

impl<S: StateRead + ?Sized> StateRead for OverriddenState<'_, S> {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        let account = self.state.account(address)?;
        let Some(wanted) = self.accounts.get(address) else {
            return Ok(account);
        };
        let mut account = account.unwrap_or_default();
        account.balance = wanted.balance.unwrap_or(account.balance);
        account.nonce = wanted.nonce.unwrap_or(account.nonce);
        account.code_hash = self
            .hashes
            .get(address)
            .copied()
            .unwrap_or(account.code_hash);
        Ok(Some(account))
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        if let Some(wanted) = self.accounts.get(address) {
            if let Some(all) = &wanted.state {
                return Ok(all.get(slot).copied().unwrap_or_default());
            }
            if let Some(value) = wanted.state_diff.as_ref().and_then(|some| some.get(slot)) {
                return Ok(*value);
            }
        }
        self.state.storage(address, slot)
    }

    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        match self.codes.get(code_hash) {
            Some(code) => Ok(code.clone()),
            None => self.state.code(code_hash),
        }
    }
}
