//! Ends of the engine.

use alloy_primitives::B256;
use quorate_chain::StoreError;
use quorate_state::ReadError;

/// Where and how this member's result differs from the consortium's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "block {height} ({hash}) diverges: {what} is {ours} here, {theirs} in the block; evidence: {evidence}"
)]
pub struct Divergence {
    /// Height of the block.
    pub height: u64,
    /// Hash of the block.
    pub hash: B256,
    /// Which value differs.
    pub what: &'static str,
    /// What this member computed.
    pub ours: String,
    /// What the block says.
    pub theirs: String,
    /// File with the block and our results.
    pub evidence: String,
}

/// A broken promise: the node must stop. There is no way to turn this into a refusal.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum Fatal {
    /// This member's execution of a committed block gave another result than the block says.
    #[error(transparent)]
    Diverged(Box<Divergence>),
    /// The block store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] ReadError),
    /// The state could not be moved forward or made durable.
    #[error("state: {reason}")]
    StateWrite {
        /// What failed.
        reason: String,
    },
    /// Stored blocks do not execute to what they say: the stores of this member contradict each other.
    #[error("re-execution of stored block {height}: {reason}")]
    Recovery {
        /// Height of the block.
        height: u64,
        /// What does not fit.
        reason: String,
    },
    /// The stores are to be exchanged, which only happens while nobody uses them: the node must close and open again.
    #[error("stores are to be opened again: {0}")]
    Reopen(String),
    /// Two parts of the node disagree about where they are.
    #[error("impossible: {0}")]
    Impossible(String),
}
