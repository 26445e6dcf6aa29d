//! Why an enclave did not do what it was asked, in two kinds that a caller must not confuse: it said no, or it could not be
//! asked.

use crate::{PublicKey, RandomFailed};

/// A failed call of an [`Enclave`](crate::Enclave).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnclaveError {
    /// The enclave answered and refused: asking again changes nothing.
    #[error("the enclave refused: {0}")]
    Refused(#[from] Refusal),
    /// There is no connection to the enclave. Nothing is known about the payload.
    #[error("the enclave at {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        endpoint: String,
        /// What the connection said.
        reason: String,
    },
    /// The enclave did not answer in time. It may still have done what it was asked.
    #[error("the enclave at {endpoint} did not answer within {after_ms} ms")]
    TimedOut {
        /// Where it is.
        endpoint: String,
        /// The limit in milliseconds.
        after_ms: u64,
    },
    /// Too many calls are under way.
    #[error("the enclave has {in_flight_max} calls under way, which is the limit")]
    Busy {
        /// The limit.
        in_flight_max: usize,
    },
    /// The enclave turned this node away: its certificate or the rights of the socket.
    #[error("the enclave at {endpoint} does not admit this node: {reason}")]
    NotAdmitted {
        /// Where it is.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// The answer makes no sense: another program, or another version.
    #[error("the enclave at {endpoint} answers what it should not: {reason}")]
    Protocol {
        /// Where it is.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// The enclave itself failed.
    #[error("the enclave failed: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
}

impl EnclaveError {
    /// True if the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Busy { .. } => true,
            Self::Failed { .. } => true,
            Self::Refused(_) | Self::NotAdmitted { .. } | Self::Protocol { .. } => false,
        }
    }

    /// True if the enclave did not answer at all, so that its opinion is unknown.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::NotAdmitted { .. }
            | Self::Protocol { .. }
            | Self::Failed { .. } => true,
            Self::Refused(_) => false,
        }
    }
}

impl From<RandomFailed> for EnclaveError {
    fn from(e: RandomFailed) -> Self {
        Self::Failed {
            reason: e.to_string(),
        }
    }
}

/// The enclave's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It holds no key to send with.
    #[error("it holds no key to send with")]
    NoKeys,
    /// The named sender is not among the keys that it sends with.
    #[error("sender {key} is not a key that it sends with")]
    UnknownSender {
        /// The named key.
        key: PublicKey,
    },
    /// A reseal names nobody.
    #[error("recipients is empty, at least one is needed")]
    NoRecipients,
    /// Too many parties.
    #[error("recipients has {got} keys, allowed are at most {max}")]
    TooManyRecipients {
        /// How many.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// The payload is too long.
    #[error("payload has {got} bytes, allowed are at most {max}")]
    PayloadTooLarge {
        /// Its size in bytes.
        got: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Suite 2 needs an X-Wing key of every party, the sender among them.
    #[error("party {key} has no X-Wing key, which suite 2 needs")]
    NoHybridKey {
        /// Whose key is missing.
        key: PublicKey,
    },
    /// Encrypting to this key would encrypt to everyone.
    #[error("party {key} is a point of small order, not a key")]
    WeakKey {
        /// The key.
        key: PublicKey,
    },
    /// The suite number is not known.
    #[error("suite {got} is not known, allowed are 1 and 2")]
    UnknownSuite {
        /// The number.
        got: u64,
    },
    /// The envelope is bound to something else than the caller expects.
    #[error("{field} of the envelope is not what the caller expects")]
    ContextMismatch {
        /// Which part of the context.
        field: String,
    },
    /// The envelope is for a key held here and was not made as it says. This is never "not for us".
    #[error("the envelope is for {key}, but its {field} is forged or damaged")]
    Forged {
        /// The key.
        key: PublicKey,
        /// Which part.
        field: String,
    },
    /// No key held here opens the envelope that is to be resealed.
    #[error("no key held here opens the envelope")]
    NotAParty,
    /// A value is out of its range.
    #[error("{field} is malformed")]
    Malformed {
        /// Which value.
        field: String,
    },
}
