//! What can go wrong, and what the caller has to do about it.

use alloy_primitives::{Address, B256};

use crate::ReadError;

/// A store that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The storage below failed, or the state in it is damaged. Damage is repaired by moving the storage away and executing
    /// the blocks again.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state belongs to another chain.
    #[error("state belongs to genesis {found}, this node is configured for {expected}")]
    OtherGenesis {
        /// What the caller asked for.
        expected: B256,
        /// What the storage says.
        found: B256,
    },
    /// The storage holds something that is not our state.
    #[error("storage is not empty and holds no state of ours")]
    NotOurs,
    /// The state was written in another layout.
    #[error("state has format {found}, this version reads {supported}")]
    Format {
        /// What the storage says.
        found: u8,
        /// What this version reads.
        supported: u8,
    },
    /// Restoring a state from chunks was interrupted. Remove the storage and restore again.
    #[error("restoring the state at height {height} was interrupted")]
    Unfinished {
        /// Height of the state that was to be restored.
        height: u64,
    },
    /// A setting is out of its range.
    #[error("{field} is out of range, allowed is {allowed}")]
    Config {
        /// Which setting.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
}

/// A height at which state cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Old values that far back are not kept.
    #[error("state at height {requested} is not kept, the first height is {first}")]
    Pruned {
        /// The height that was asked for.
        requested: u64,
        /// The first height at which reads are possible.
        first: u64,
    },
    /// The chain has not got there yet.
    #[error("state at height {requested} does not exist yet, the head is {head}")]
    Future {
        /// The height that was asked for.
        requested: u64,
        /// Height of the head.
        head: u64,
    },
    /// The storage below failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A change that could not be applied to a snapshot, or a proof that it cannot give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The storage below failed, or holds bytes that cannot be what was written. The node must stop.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The change contradicts itself. Whoever computed it has a fault.
    #[error("change of account {address}: {reason}")]
    InvalidDiff {
        /// Which account; the zero address for a code.
        address: Address,
        /// What is wrong.
        reason: &'static str,
    },
    /// The trie exists for the head and what is built on it. This state is an earlier one, or was built on a block that did
    /// not become the head.
    #[error("state at height {height} has no trie any more, the head moved on without it")]
    Superseded {
        /// Height of the snapshot.
        height: u64,
    },
}

/// A snapshot that cannot become the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("state at height {height} was not built on the head at {head_height}")]
pub struct NotAChild {
    /// Height of the snapshot.
    pub height: u64,
    /// Height of the head.
    pub head_height: u64,
}

/// A flush that failed. The storage refuses everything from here on and the node must stop; after a restart the state is
/// that of the last completed flush.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("flush of state up to height {height} failed: {source}")]
pub struct FlushError {
    /// The height that was to become durable.
    pub height: u64,
    /// What failed.
    pub source: ReadError,
}
