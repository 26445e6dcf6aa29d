//! How far private execution is, and what a read of private state may answer.

use alloy_primitives::{Address, B256};
use quorate_enclave::PayloadHash;
use quorate_state::ReadError;

/// How far private execution is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateStatus {
    /// Height of the last block whose private transactions have been executed.
    pub cursor: u64,
    /// Root of private state.
    pub state_root: B256,
    /// Number of blocks that changed private state.
    pub private_height: u64,
    /// First block whose private transactions are executed here: 1, unless public history began later when this node began.
    pub starts_at: u64,
    /// The payload that execution waits for.
    pub waiting: Option<Waiting>,
    /// Why execution does not go on, if it does not.
    pub halted: Option<String>,
    /// Private transactions that this node has records of.
    pub records: u64,
    /// Those among them whose payload was erased.
    pub erased: u64,
}

/// A payload that this node is a party of, or may be, and does not have; or one by which a contract was extended to this node whose
/// state is not here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Height of the block.
    pub height: u64,
    /// The public transaction.
    pub transaction: B256,
    /// The payload.
    pub hash: PayloadHash,
    /// The contract whose state is waited for. The payload is here then.
    pub state_of: Option<Address>,
    /// Since when, in milliseconds of Unix time.
    pub since_ms: u64,
    /// Why there is no answer, for people.
    pub reason: String,
}

/// Private state that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateReadError {
    /// Private execution has not got there yet.
    #[error("{}", behind(*wanted, *cursor, waiting.as_deref()))]
    Behind {
        /// Height that was asked for.
        wanted: u64,
        /// Height that private execution has reached.
        cursor: u64,
        /// What it waits for.
        waiting: Option<Box<Waiting>>,
    },
    /// Private execution began after that block.
    #[error("private state at block {wanted} is not kept, it begins at block {starts_at}")]
    BeforeStart {
        /// Height that was asked for.
        wanted: u64,
        /// First block whose private transactions were executed.
        starts_at: u64,
    },
    /// The storage failed or is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn behind(wanted: u64, cursor: u64, waiting: Option<&Waiting>) -> String {
    match waiting {
        Some(waiting) => format!(
            "private state at block {}, waiting for payload {}",
            waiting.height, waiting.hash
        ),
        None => format!("private state at block {cursor}, block {wanted} is not executed yet"),
    }
}
