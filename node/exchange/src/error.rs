//! What can go wrong between members, sorted by what the caller can do about it.

use std::fmt;
use std::path::PathBuf;

use alloy_primitives::Address;
use quorate_enclave::{
    EnclaveError, GroupError, NodeKey, OutboxError, PayloadHash, PublicKey, StoreError,
};
use quorate_kv::{KvError, OpenError};
use quorate_privacy::TermsError;

/// Why an exchange could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeOpenError {
    /// A setting is out of its range.
    #[error("{field} of the exchange must be {allowed}")]
    Config {
        /// Which.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The folder cannot be made.
    #[error("cannot create {}: {reason}", dir.display())]
    Folder {
        /// Which.
        dir: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The key-value store cannot be opened.
    #[error(transparent)]
    Index(#[from] OpenError),
    /// What lies in the folder belongs to another network.
    #[error("the folder belongs to another network: its {field} differs")]
    OtherNetwork {
        /// What differs.
        field: &'static str,
    },
    /// The records of the exchange cannot be read or written.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The payload store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The outbox cannot be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The privacy groups cannot be opened.
    #[error(transparent)]
    Groups(#[from] GroupError),
}

/// What is wrong with the exchange's own records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// An entry cannot be read.
    #[error("the records of the exchange are damaged: {entry}")]
    Damaged {
        /// Which kind.
        entry: &'static str,
    },
    /// A value is larger than its entry may be.
    #[error("{entry} has {bytes} bytes, allowed are at most {max}")]
    TooLarge {
        /// Which kind.
        entry: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The key-value store failed.
    #[error("records of the exchange: {0}")]
    Kv(#[from] KvError),
}

/// A member that did not acknowledge a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Its raft id.
    pub raft_id: u64,
    /// Its node.
    pub node: NodeKey,
    /// Whose seat it is.
    pub organisation: String,
    /// What its answer, or its silence, was.
    pub reason: String,
}

impl fmt::Display for Unacknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.organisation.is_empty() {
            "?"
        } else {
            &self.organisation
        };
        write!(f, "member {} ({name}): {}", self.raft_id, self.reason)
    }
}

/// Names members one after the other, for messages.
struct Listed<'a>(&'a [Unacknowledged]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.0.iter().enumerate() {
            write!(f, "{}{node}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Why a payload was not distributed, or something else was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// A key is announced by no member.
    #[error("no member has announced the key {key}")]
    UnknownRecipient {
        /// The key.
        key: PublicKey,
    },
    /// A value of the request cannot be used.
    #[error("{field} must be {allowed}")]
    Malformed {
        /// Which.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The X-Wing key of a recipient, which the network's suite needs, could not be fetched from its member.
    #[error("the X-Wing key of {key} could not be fetched: {reason}")]
    NoHybridKey {
        /// Whose.
        key: PublicKey,
        /// Why.
        reason: String,
    },
    /// Members did not acknowledge the payload in time. Nothing was submitted; trying again is safe.
    #[error("not acknowledged within {after_ms} ms by {}", Listed(.nodes))]
    NotAcknowledged {
        /// Who.
        nodes: Vec<Unacknowledged>,
        /// The limit in milliseconds.
        after_ms: u64,
    },
    /// Members refused the payload. Trying the same again changes nothing.
    #[error("refused by {}", Listed(.nodes))]
    Refused {
        /// Who, and why.
        nodes: Vec<Unacknowledged>,
    },
    /// Another transaction on a contract with flag 3 is under way, or was executed since this one was simulated.
    #[error("another transaction on the private contract {contract} comes first; simulate again")]
    Conflict {
        /// The contract.
        contract: Address,
        /// True if a new simulation may succeed.
        retryable: bool,
    },
    /// Too much is being distributed already.
    #[error("{max} payloads are being distributed, which is the limit")]
    Busy {
        /// The limit.
        max: usize,
    },
    /// There is no such payload here.
    #[error("payload {hash} is not here")]
    Missing {
        /// The payload.
        hash: PayloadHash,
    },
    /// The payload was erased.
    #[error("payload {hash} was erased")]
    Erased {
        /// The payload.
        hash: PayloadHash,
    },
    /// The payload is here, so that there is nothing to give up. It can be erased.
    #[error("payload {hash} is here: erase it, or leave it")]
    Here {
        /// The payload.
        hash: PayloadHash,
    },
    /// Other members may still have what is missing here.
    #[error("not every other member has given all that it has for this node: resync first")]
    Incomplete,
    /// The payload is here and none of our keys opens it: the key that it was for is gone from the enclave.
    #[error("payload {hash} is here, and the enclave holds no key for it")]
    NoKey {
        /// The payload.
        hash: PayloadHash,
    },
    /// The stored payload is not ours to distribute.
    #[error("payload {hash} was not sealed by this node")]
    NotOurs {
        /// The payload.
        hash: PayloadHash,
    },
    /// The payload was executed already, and its terms can no longer be exchanged.
    #[error("payload {hash} was executed already, with other terms")]
    AlreadyExecuted {
        /// The payload.
        hash: PayloadHash,
    },
    /// Flag, parties, mandatory parties, contracts and roots do not go together.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The enclave refused or could not be asked.
    #[error(transparent)]
    Enclave(#[from] EnclaveError),
    /// The node's key did not sign.
    #[error("the node's key did not sign: {reason}")]
    Signature {
        /// What its keeper said.
        reason: String,
    },
    /// A privacy group could not be made or found.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The payload store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The outbox failed, or is full.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The records failed.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Private state could not be asked, or not be made durable.
    #[error("private state: {reason}")]
    PrivateState {
        /// What its storage said.
        reason: String,
    },
    /// The node is stopping.
    #[error("the exchange is stopping")]
    Stopping,
}

impl ExchangeError {
    /// True if the same call, or for a conflict one with a new simulation, may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotAcknowledged { .. } | Self::NoHybridKey { .. } | Self::Busy { .. } => true,
            Self::Conflict { retryable, .. } => *retryable,
            Self::Enclave(e) => e.is_retryable(),
            Self::Outbox(OutboxError::Full { .. }) => true,
            Self::Stopping => true,
            Self::UnknownRecipient { .. }
            | Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::Missing { .. }
            | Self::Erased { .. }
            | Self::Here { .. }
            | Self::Incomplete
            | Self::PrivateState { .. }
            | Self::NoKey { .. }
            | Self::NotOurs { .. }
            | Self::Signature { .. }
            | Self::AlreadyExecuted { .. }
            | Self::Terms(_)
            | Self::Group(_)
            | Self::Store(_)
            | Self::Outbox(_)
            | Self::Records(_) => false,
        }
    }
}
