//! Private state in front of public state.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, U256};
use quorate_state::{Account, ReadError, StateRead};

/// What a private contract, and a party that asks for it, sees: an account that exists in private state hides the public account
/// at its address, with balance, nonce, code and storage. Everything else is public.
#[derive(Clone, Copy)]
pub struct DualState<'a> {
    public: &'a dyn StateRead,
    private: &'a dyn StateRead,
}

impl fmt::Debug for DualState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DualState").finish_non_exhaustive()
    }
}

impl<'a> DualState<'a> {
    /// The two states must belong to the same point of the chain.
    pub fn new(public: &'a dyn StateRead, private: &'a dyn StateRead) -> Self {
        Self { public, private }
    }

    /// True if the account exists in private state.
    ///
    /// # Errors
    /// [`ReadError`] if private state could not be read.
    pub fn is_private(&self, address: &Address) -> Result<bool, ReadError> {
        Ok(self.private.account(address)?.is_some())
    }

    /// The code of an account; empty if it has none or does not exist.
    ///
    /// # Errors
    /// [`ReadError`] if one of the states could not be read.
    pub fn code_of(&self, address: &Address) -> Result<Bytes, ReadError> {
        let (side, account) = match self.private.account(address)? {
            Some(account) => (self.private, Some(account)),
            None => (self.public, self.public.account(address)?),
        };
        match account {
            Some(account) if account.has_code() => side.code(&account.code_hash),
            Some(_) | None => Ok(Bytes::new()),
        }
    }
}

impl StateRead for DualState<'_> {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        match self.private.account(address)? {
            Some(account) => Ok(Some(account)),
            None => self.public.account(address),
        }
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        if self.is_private(address)? {
            self.private.storage(address, slot)
        } else {
            self.public.storage(address, slot)
        }
    }

    /// Code is named by its hash and not by its account: either state may have it, and whoever has it has the same.
    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        match self.private.code(code_hash) {
            // A state says this of code that it does not have.
            Err(ReadError::Damaged { .. }) => self.public.code(code_hash),
            found => found,
        }
    }
}
