//! Why the pool did not take a transaction.

use alloy_primitives::{B256, U256};
use quorate_chain::TransactionError;
use quorate_evm::InvalidTransaction;
use quorate_state::ReadError;

/// Why the pool did not take a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// Not a signed transaction of a known type.
    #[error(transparent)]
    NotATransaction(#[from] TransactionError),
    /// Larger than the consortium allows.
    #[error("transaction has {got} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes of the network form.
        got: usize,
        /// Limit from genesis.
        max: usize,
    },
    /// Signed for another chain, or for any chain.
    #[error("transaction is signed for chain id {}, this chain is {expected}", got.map_or("(none)".into(), |id| id.to_string()))]
    WrongChainId {
        /// Chain id in the transaction, if any.
        got: Option<u64>,
        /// Chain id of this network.
        expected: u64,
    },
    /// Refused by the rules of the fork that is in force.
    #[error(transparent)]
    Rules(InvalidTransaction),
    /// It could never fit into a block.
    #[error("gas limit {got} exceeds the block gas limit {max}")]
    GasLimitTooHigh {
        /// Gas limit of the transaction.
        got: u64,
        /// Gas limit of a block.
        max: u64,
    },
    /// It offers less than this node accepts.
    #[error("gas price {got} is below this node's minimum {min}")]
    GasPriceTooLow {
        /// Price offered, in wei.
        got: u128,
        /// Lowest price accepted, in wei.
        min: u128,
    },
    /// It is in the pool already.
    #[error("already known: {hash}")]
    Known {
        /// Its hash.
        hash: B256,
    },
    /// The nonce has been used.
    #[error("nonce too low: next nonce {next}, tx nonce {got}")]
    NonceTooLow {
        /// Nonce of the transaction.
        got: u64,
        /// Next nonce of the account.
        next: u64,
    },
    /// The nonce lies further ahead than this node keeps.
    #[error("nonce too high: tx nonce {got}, at most {max} is accepted now")]
    NonceTooHigh {
        /// Nonce of the transaction.
        got: u64,
        /// Highest nonce accepted now.
        max: u64,
    },
    /// The account cannot pay value and gas.
    #[error("insufficient funds for gas * price + value: balance {balance}, tx cost {cost}")]
    InsufficientFunds {
        /// Balance of the sender in wei.
        balance: U256,
        /// Most that the transaction can cost, in wei.
        cost: U256,
    },
    /// Another transaction has this nonce and the new one does not pay enough more.
    #[error(
        "replacement transaction underpriced: fee cap and tip must rise by {percent}% over those of {existing}"
    )]
    Underpriced {
        /// Transaction in the pool.
        existing: B256,
        /// Required rise.
        percent: u32,
    },
    /// Another transaction with this nonce is on its way into a block.
    #[error("nonce {nonce} is already being committed by {existing}")]
    InFlight {
        /// The nonce.
        nonce: u64,
        /// Transaction that is being committed.
        existing: B256,
    },
    /// The sender's share of the pool is used up.
    #[error("sender has {count} transactions in the pool, at most {max} are kept")]
    SenderFull {
        /// Transactions of this sender.
        count: usize,
        /// Limit per sender.
        max: usize,
    },
    /// The pool is full.
    #[error(
        "pool is full: {transactions} of {transactions_max} transactions, {bytes} of {bytes_max} bytes"
    )]
    PoolFull {
        /// Transactions in the pool.
        transactions: usize,
        /// Limit.
        transactions_max: usize,
        /// Bytes in the pool.
        bytes: usize,
        /// Limit.
        bytes_max: usize,
    },
    /// The state could not be read. Not the sender's doing.
    #[error(transparent)]
    State(#[from] ReadError),
}

impl AdmitError {
    /// True if an honest member could not have sent this.
    pub fn blames_peer(&self) -> bool {
        match self {
            Self::NotATransaction(_)
            | Self::TooLarge { .. }
            | Self::WrongChainId { .. }
            | Self::Rules(_)
            | Self::GasLimitTooHigh { .. } => true,
            // The peer may have other limits, or may be some blocks ahead of us or behind.
            Self::GasPriceTooLow { .. }
            | Self::Known { .. }
            | Self::NonceTooLow { .. }
            | Self::NonceTooHigh { .. }
            | Self::InsufficientFunds { .. }
            | Self::Underpriced { .. }
            | Self::InFlight { .. }
            | Self::SenderFull { .. }
            | Self::PoolFull { .. }
            | Self::State(_) => false,
        }
    }

    /// Label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotATransaction(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::WrongChainId { .. } => "chain_id",
            Self::Rules(_) => "rules",
            Self::GasLimitTooHigh { .. } => "gas_limit",
            Self::GasPriceTooLow { .. } => "gas_price",
            Self::Known { .. } => "known",
            Self::NonceTooLow { .. } => "nonce_low",
            Self::NonceTooHigh { .. } => "nonce_high",
            Self::InsufficientFunds { .. } => "funds",
            Self::Underpriced { .. } => "underpriced",
            Self::InFlight { .. } => "in_flight",
            Self::SenderFull { .. } => "sender_full",
            Self::PoolFull { .. } => "pool_full",
            Self::State(_) => "state",
        }
    }
}
