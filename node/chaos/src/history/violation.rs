//! What can be wrong.

use std::fmt;

use alloy_primitives::{Address, B256};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Nobody has the chain from its first block on: it cannot be judged.
    NoWholeChain,
    /// A member's blocks do not follow each other.
    Broken {
        /// The member.
        slot: usize,
        /// The block that does not follow.
        height: u64,
    },
    /// Two members do not have the same block, or not the same state after it.
    Fork {
        /// The height.
        height: u64,
        /// Whom the others are compared with.
        slot: usize,
        /// Who differs.
        other: usize,
    },
    /// Members end at different heights.
    Length {
        /// A member.
        slot: usize,
        /// Its height.
        height: u64,
        /// The height of the first.
        expected: u64,
    },
    /// An acknowledged transaction is in no block.
    Lost(B256),
    /// A transaction is in more than one place.
    Twice(B256),
    /// A transaction was acknowledged in a block that it is not in.
    Elsewhere(B256),
    /// A block has a transaction that nobody sent.
    Unknown(B256),
    /// A transaction was sent again and again after everything was healed, and never acknowledged.
    Unanswered(B256),
    /// An account's transactions are not in the order of their nonces, or one is missing.
    NonceOrder {
        /// The account.
        account: Address,
        /// The nonce that stands where another should.
        nonce: u64,
    },
    /// A transaction stands before one that was acknowledged before it was sent.
    RealTime {
        /// Sent later.
        later: B256,
    },
    /// A balance or nonce is not what the blocks make of the genesis.
    Balance {
        /// The member.
        slot: usize,
        /// The account.
        account: Address,
    },
    /// Balances do not add up to what there was at the beginning.
    Sum {
        /// The member.
        slot: usize,
    },
    /// A member showed a block that is not in the chain.
    Phantom {
        /// Who saw it.
        by: String,
        /// Its height.
        height: u64,
    },
    /// A member's head or commit index went back while its process ran.
    WentBack {
        /// The member.
        slot: usize,
        /// What went back.
        what: &'static str,
        /// From.
        from: u64,
        /// To.
        to: u64,
    },
    /// A subscriber was not told of a block, or not in order.
    Gap {
        /// Which subscriber.
        subscriber: usize,
        /// The height that was due.
        due: u64,
        /// The one that came; `None`: none came.
        came: Option<u64>,
    },
    /// A subscriber was told of another log than the next one, of too few or of too many.
    LogGap {
        /// Which subscriber to logs.
        subscriber: usize,
        /// Transaction of the log that was due; `None`: there is no further one.
        due: Option<B256>,
        /// Transaction of the one that came; `None`: none came.
        came: Option<B256>,
    },
    /// Something that was known to be wrong when it happened.
    Complaint(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWholeChain => f.write_str("no member has the whole chain"),
            Self::Broken { slot, height } => {
                write!(
                    f,
                    "node {slot}: block {height} does not follow the one before"
                )
            }
            Self::Fork {
                height,
                slot,
                other,
            } => {
                write!(f, "block {height} differs between nodes {slot} and {other}")
            }
            Self::Length {
                slot,
                height,
                expected,
            } => {
                write!(f, "node {slot} ends at block {height}, not at {expected}")
            }
            Self::Lost(hash) => write!(f, "{hash} was acknowledged and is in no block"),
            Self::Twice(hash) => write!(f, "{hash} is in two places"),
            Self::Elsewhere(hash) => write!(f, "{hash} is not in the block it was acknowledged in"),
            Self::Unknown(hash) => write!(f, "{hash} is in a block and nobody sent it"),
            Self::Unanswered(hash) => {
                write!(f, "{hash} was never acknowledged, although all is healed")
            }
            Self::NonceOrder { account, nonce } => {
                write!(f, "nonce {nonce} of {account} is out of order")
            }
            Self::RealTime { later } => {
                write!(
                    f,
                    "{later} stands before a transaction that was acknowledged before it was sent"
                )
            }
            Self::Balance { slot, account } => {
                write!(
                    f,
                    "node {slot}: balance or nonce of {account} is not what the blocks say"
                )
            }
            Self::Sum { slot } => {
                write!(f, "node {slot}: balances do not add up to those of genesis")
            }
            Self::Phantom { by, height } => {
                write!(f, "{by} saw a block {height} that is not in the chain")
            }
            Self::WentBack {
                slot,
                what,
                from,
                to,
            } => {
                write!(f, "node {slot}: {what} went back from {from} to {to}")
            }
            Self::Gap {
                subscriber,
                due,
                came,
            } => match came {
                Some(came) => write!(
                    f,
                    "subscriber {subscriber} was told of block {came} when {due} was due"
                ),
                None => write!(f, "subscriber {subscriber} was not told of block {due}"),
            },
            Self::LogGap {
                subscriber,
                due,
                came,
            } => {
                let of = |log: &Option<B256>| log.map_or("none".to_owned(), |tx| tx.to_string());
                write!(
                    f,
                    "subscriber {subscriber} to logs was told of {} when {} was due",
                    of(came),
                    of(due)
                )
            }
            Self::Complaint(text) => f.write_str(text),
        }
    }
}
