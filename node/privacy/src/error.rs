//! What ends private execution, or keeps it from beginning.

use std::path::PathBuf;

use alloy_primitives::B256;
use quorate_chain::StoreError;
use quorate_evm::ExecuteError;
use quorate_kv::KvError;
use quorate_state::{ApplyError, FlushError, NotAChild, ReadError};

/// A private ledger that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerOpenError {
    /// One of its two storages does not open. A damaged one is made anew by [`reset`](crate::PrivateLedger::reset) and execution
    /// from the first block.
    #[error("private {part}: {source}")]
    Storage {
        /// `state` or `index`.
        part: &'static str,
        /// Why.
        source: quorate_kv::OpenError,
    },
    /// Private state does not open.
    #[error("private state: {0}")]
    State(#[from] quorate_state::OpenError),
    /// The index belongs to another chain.
    #[error("the private index is of chain {found}, this is {expected}")]
    OtherChain {
        /// Genesis hash of this chain.
        expected: B256,
        /// Genesis hash that was found.
        found: B256,
    },
    /// The index was written by another version.
    #[error("the private index has format {found}, this program reads {supported}")]
    Format {
        /// What was found.
        found: u8,
        /// What is supported.
        supported: u8,
    },
    /// State and index do not belong together: one of them was restored or lost. Start over with
    /// [`reset`](crate::PrivateLedger::reset).
    #[error("private state is at its height {state}, of which the index knows nothing")]
    Torn {
        /// Height of private state.
        state: u64,
    },
    /// The index failed or is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A folder that could not be emptied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot remove {}: {reason}", dir.display())]
pub struct ResetError {
    /// The folder.
    pub dir: PathBuf,
    /// What the operating system said.
    pub reason: String,
}

/// The index of private execution failed, or holds bytes that it did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The storage failed.
    #[error("private index: {0}")]
    Storage(#[from] KvError),
    /// An entry does not decode.
    #[error("private index is damaged at {key}: {reason}")]
    Damaged {
        /// Which entry.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<IndexError> for ReadError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Storage(error) => Self::Storage {
                reason: error.to_string(),
            },
            IndexError::Damaged { key, reason } => Self::Damaged { key, reason },
        }
    }
}

/// Private execution cannot go on and must not: the node stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateFatal {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Private state could not be read or changed.
    #[error("private state: {0}")]
    State(#[from] ApplyError),
    /// Public or private state could not be read.
    #[error("state: {0}")]
    Read(#[from] ReadError),
    /// Private state could not be written.
    #[error("private state: {0}")]
    Flush(#[from] FlushError),
    /// A block could not be read.
    #[error("block {height}: {reason}")]
    Block {
        /// Its height.
        height: u64,
        /// Why.
        reason: String,
    },
    /// The public side of a block, executed again, is not what it was.
    #[error("block {height} executes differently than when it was imported: {reason}")]
    PublicDiffers {
        /// Its height.
        height: u64,
        /// What differs.
        reason: String,
    },
    /// The EVM failed without a verdict.
    #[error("private execution of {transaction}: {reason}")]
    Execution {
        /// The public transaction.
        transaction: B256,
        /// Why.
        reason: String,
    },
    /// Something that cannot be.
    #[error("{0}; this is a fault of the node")]
    Impossible(String),
}

impl From<NotAChild> for PrivateFatal {
    fn from(error: NotAChild) -> Self {
        Self::Impossible(error.to_string())
    }
}

impl PrivateFatal {
    pub(crate) fn block(height: u64, error: &StoreError) -> Self {
        Self::Block {
            height,
            reason: error.to_string(),
        }
    }

    pub(crate) fn public(height: u64, error: ExecuteError) -> Self {
        match error {
            ExecuteError::State(error) => Self::Read(error),
            other => Self::PublicDiffers {
                height,
                reason: other.to_string(),
            },
        }
    }
}
