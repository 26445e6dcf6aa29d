//! Reading the state as of one height.

use alloy_primitives::{Address, B256, Bytes, U256};

use crate::Account;

/// Trouble below a read. All but [`ReadError::Pruned`]: the storage failed or holds bytes that cannot be what was written,
/// and the node must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The key-value store failed.
    #[error("state storage failed: {reason}")]
    Storage {
        /// What the store said.
        reason: String,
    },
    /// A stored value does not decode.
    #[error("state is damaged at {key}: {reason}")]
    Damaged {
        /// Which entry.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The reader held a state of the past for so long that its old values were pruned meanwhile. The head is never
    /// affected.
    #[error("state at height {height} was pruned while it was read, the first height is {first}")]
    Pruned {
        /// Height of the state.
        height: u64,
        /// First height at which reads are possible.
        first: u64,
    },
}

/// Accounts, storage and code as of one height.
pub trait StateRead: Send + Sync {
    /// The account, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`ReadError`] if the storage below failed.
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError>;

    /// The value of a storage slot; zero if it was never written.
    ///
    /// # Errors
    /// [`ReadError`] if the storage below failed.
    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError>;

    /// Code by its keccak256 hash; empty for the hash of no code. A missing code is [`ReadError::Damaged`].
    ///
    /// # Errors
    /// [`ReadError`] if the storage below failed or the code is missing.
    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError>;
}

impl<T: StateRead + ?Sized> StateRead for &T {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        (**self).account(address)
    }
    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        (**self).storage(address, slot)
    }
    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        (**self).code(code_hash)
    }
}

impl<T: StateRead + ?Sized> StateRead for std::sync::Arc<T> {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        (**self).account(address)
    }
    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        (**self).storage(address, slot)
    }
    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        (**self).code(code_hash)
    }
}
