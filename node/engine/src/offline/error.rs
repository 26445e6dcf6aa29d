//! What offline tools find, and what stops them.

use alloy_primitives::B256;
use quorate_chain::StoreError;
use quorate_state::{ApplyError, FlushError, ReadError};

use crate::snapshots::FileError;

/// Which promise a block breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The record does not match its checksum, does not decode, or is missing.
    Record,
    /// It is not the child of the block before it.
    Parent,
    /// The seal is not the coinbase's, or not a member's.
    Seal,
    /// A header value breaks a rule that needs no execution.
    Header,
    /// The transactions are not those that the header commits to, or a stored sender is not their signer.
    Transactions,
    /// The receipts are not those that the header commits to.
    Receipts,
    /// Executing it gives something else than the header says.
    Execution,
    /// The node's own state is not what the header at its height says.
    State,
}

impl FaultKind {
    /// One word, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Parent => "parent",
            Self::Seal => "seal",
            Self::Header => "header",
            Self::Transactions => "transactions",
            Self::Receipts => "receipts",
            Self::Execution => "execution",
            Self::State => "state",
        }
    }
}

/// A block that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block {height}: {}: {reason}", kind.name())]
pub struct Fault {
    /// Height of the block.
    pub height: u64,
    /// Which promise it breaks.
    pub kind: FaultKind,
    /// What was found, and what was expected.
    pub reason: String,
}

/// Why an offline task stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OfflineError {
    /// The block store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state failed.
    #[error(transparent)]
    State(#[from] ReadError),
    /// A block could not be applied to the state.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The state could not be made durable.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A range of heights makes no sense here.
    #[error("blocks {from} to {to} were asked for, there are {first} to {last}")]
    Range {
        /// First height that was asked for.
        from: u64,
        /// Last height that was asked for.
        to: u64,
        /// First height that there is.
        first: u64,
        /// Last height that there is.
        last: u64,
    },
    /// The folder holds an export already.
    #[error("{folder} holds an export already")]
    NotEmpty {
        /// The folder.
        folder: String,
    },
    /// The files belong to another chain.
    #[error("the files belong to the chain with genesis {found}, this node to {expected}")]
    OtherGenesis {
        /// Of the files.
        found: B256,
        /// Of this node.
        expected: B256,
    },
    /// This node has another block at a height.
    #[error("block {height} is {own} here and {found} in the files")]
    OtherChain {
        /// Height of both.
        height: u64,
        /// Hash here.
        own: B256,
        /// Hash in the files.
        found: B256,
    },
    /// An exported file is damaged or was changed.
    #[error("{file}: {reason}")]
    Damaged {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A block in the files breaks a rule; nothing from it on was imported.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// Blocks are missing between this node's head and the first block in the files.
    #[error("this node ends at block {head}, the files begin at {first}")]
    Gap {
        /// Height of the head.
        head: u64,
        /// First height in the files.
        first: u64,
    },
    /// State and blocks of this node are at different heights: start it once, or rebuild its state.
    #[error("the state is at height {state}, the block store at {blocks}")]
    NotLevel {
        /// Height of the state.
        state: u64,
        /// Height of the block store.
        blocks: u64,
    },
}
