//! Why a question about private transactions has no answer.

use alloy_primitives::Address;
use quorate_enclave::PayloadHash;

/// Why a private transaction was not sent, or a private read has no answer. Codes are in the crate's `error/`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivacyError {
    /// This node takes no part in private transactions.
    #[error("private transactions are switched off on this node")]
    Off,
    /// A parameter is malformed or out of range.
    #[error("invalid argument {field}: {reason}")]
    Argument {
        /// Which.
        field: String,
        /// What is allowed.
        reason: String,
    },
    /// No member has announced this key.
    #[error("recipient not found for key: {key}")]
    UnknownKey {
        /// The key in base64.
        key: String,
    },
    /// The enclave does not hold the key that is to send.
    #[error("privateFrom {key} is not a key of this node")]
    NotOurKey {
        /// The key in base64.
        key: String,
    },
    /// There is no such group.
    #[error("there is no privacy group {name:?}")]
    UnknownGroup {
        /// Its name or id.
        name: String,
    },
    /// Several groups have this name: use the id.
    #[error("{count} privacy groups are named {name:?}; name one by its id")]
    AmbiguousGroup {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// This node holds no such payload.
    #[error("there is no payload {hash} on this node")]
    UnknownPayload {
        /// The hash.
        hash: PayloadHash,
    },
    /// A payload is not here, and this node may be a party of it: it lost its disk, and has not asked every other member yet, or they
    /// erased it.
    #[error(
        "payload {hash} is not here, and this node may be a party of it: not all members have told it yet what they have, or they erased it"
    )]
    PayloadMissing {
        /// The hash.
        hash: PayloadHash,
    },
    /// The transaction cannot be sent as it is: privacy flags, parties, value, or what simulating it showed.
    #[error("{reason}")]
    Refused {
        /// Why, with Quorum's words where clients know them.
        reason: String,
    },
    /// Simulating it for the parties ended in a revert.
    #[error("private transaction would revert")]
    Reverted {
        /// What it returned.
        data: alloy_primitives::Bytes,
    },
    /// Not every acknowledgement that was asked for came in time. Nothing is on the chain; it may be sent again.
    #[error("payload was not acknowledged within {waited_ms} ms by {}", .nodes.join(", "))]
    NotAcknowledged {
        /// The nodes that did not answer: organisation and node id.
        nodes: Vec<String>,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// A recipient's node refuses the payload. Nothing is on the chain.
    #[error("payload was refused by {node}: {reason}")]
    RefusedByRecipient {
        /// Which node.
        node: String,
        /// What it said.
        reason: String,
    },
    /// Another transaction under private state validation changes the same contract now. Nothing is on the chain: send it again.
    #[error(
        "contract {contract} is being changed by another transaction under private state validation; send it again"
    )]
    Conflict {
        /// The contract.
        contract: Address,
    },
    /// Private execution has not reached the block.
    #[error("private state at block {cursor}, {}", behind_text(*.wanted, .payload.as_ref(), .reason))]
    Behind {
        /// The block that was asked for.
        wanted: u64,
        /// The block that it has reached.
        cursor: u64,
        /// The payload that it waits for, if it does.
        payload: Option<PayloadHash>,
        /// Why it waits; empty if it is only on its way.
        reason: String,
    },
    /// Private state begins later on this node.
    #[error("private state of block {wanted} is not on this node: it begins at block {starts_at}")]
    BeforeStart {
        /// The block that was asked for.
        wanted: u64,
        /// The first block that there is.
        starts_at: u64,
    },
    /// Private execution has stopped for good until an operator acts.
    #[error("private execution has halted: {reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// The enclave could not be asked. Nothing is known about the payload.
    #[error("enclave: {reason}")]
    Enclave {
        /// What it or its connection said.
        reason: String,
    },
    /// Too much to do at the moment.
    #[error("node is busy: {what}; try again later")]
    Busy {
        /// What there is too much of.
        what: String,
    },
    /// The node is shutting down.
    #[error("node is shutting down")]
    Stopping,
    /// Our own fault or that of our disk. The text is for the log; clients get none of it.
    #[error("internal error")]
    Internal {
        /// What happened.
        reason: String,
    },
}

impl PrivacyError {
    /// A parameter that cannot be.
    pub fn argument(field: impl Into<String>, reason: impl ToString) -> Self {
        Self::Argument {
            field: field.into(),
            reason: reason.to_string(),
        }
    }

    /// A fault of ours.
    pub fn internal(reason: impl ToString) -> Self {
        Self::Internal {
            reason: reason.to_string(),
        }
    }

    /// True if the same request can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotAcknowledged { .. }
            | Self::Conflict { .. }
            | Self::Behind { .. }
            | Self::PayloadMissing { .. }
            | Self::Enclave { .. }
            | Self::Busy { .. }
            | Self::Stopping => true,
            Self::Off
            | Self::Argument { .. }
            | Self::UnknownKey { .. }
            | Self::NotOurKey { .. }
            | Self::UnknownGroup { .. }
            | Self::AmbiguousGroup { .. }
            | Self::UnknownPayload { .. }
            | Self::Refused { .. }
            | Self::Reverted { .. }
            | Self::RefusedByRecipient { .. }
            | Self::BeforeStart { .. }
            | Self::Halted { .. }
            | Self::Internal { .. } => false,
        }
    }
}

fn behind_text(wanted: u64, payload: Option<&PayloadHash>, reason: &str) -> String {
    match payload {
        Some(hash) if reason.is_empty() => format!("waiting for payload {hash}"),
        Some(hash) => format!("waiting for payload {hash}: {reason}"),
        None if reason.is_empty() => format!("block {wanted} is not executed yet"),
        None => format!("block {wanted} is not executed yet: {reason}"),
    }
}
