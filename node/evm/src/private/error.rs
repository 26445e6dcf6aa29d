//! Why a private transaction, call or estimate has no outcome.

use alloy_primitives::{Address, Bytes, U256};
use quorate_state::ReadError;

use crate::{CallError, InvalidTransaction};

/// Why a private transaction or call was not executed. One that reverts or halts was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateRefusal {
    /// Private accounts hold no value, and private execution must not change public balances.
    #[error("value {got} in a private transaction, only 0 is allowed")]
    ValueTransfer {
        /// Value in wei.
        got: U256,
    },
    /// An authorization (EIP-7702) would change a public account.
    #[error("{got} authorizations in a private call, none is allowed")]
    Authorizations {
        /// How many.
        got: usize,
    },
    /// As a transaction it could not begin.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// An account of a call is overridden both in whole and in part.
    #[error("override of {address}: state and stateDiff exclude each other")]
    OverrideConflict {
        /// The account.
        address: Address,
    },
    /// A state could not be read.
    #[error(transparent)]
    State(#[from] ReadError),
    /// The EVM contradicts itself.
    #[error("EVM failed: {reason}")]
    Internal {
        /// What it said.
        reason: String,
    },
}

impl PrivateRefusal {
    /// True if the transaction is at fault: every party with these states refuses it, and trying again is of no use. False if this
    /// node could not find out: it must stop here, and must not go on as if the transaction did nothing.
    pub fn is_final(&self) -> bool {
        match self {
            Self::ValueTransfer { .. }
            | Self::Authorizations { .. }
            | Self::Invalid(_)
            | Self::OverrideConflict { .. } => true,
            Self::State(_) | Self::Internal { .. } => false,
        }
    }
}

impl From<CallError> for PrivateRefusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Invalid(invalid) => Self::Invalid(invalid),
            CallError::OverrideConflict { address } => Self::OverrideConflict { address },
            CallError::State(error) => Self::State(error),
            CallError::Internal { reason } => Self::Internal { reason },
        }
    }
}

/// Why there is no gas limit with which a private transaction would succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrivateEstimateError {
    /// It reverts, however much gas it has.
    #[error("execution reverted")]
    Reverted {
        /// What it returned.
        data: Bytes,
    },
    /// It halts, for another reason than lack of gas.
    #[error("execution halted: {reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// It needs more than block, fork or cap allow.
    #[error("gas required exceeds allowance ({allowance})")]
    AboveAllowance {
        /// Most gas that it may have.
        allowance: u64,
    },
    /// It cannot be executed at all.
    #[error(transparent)]
    Refused(#[from] PrivateRefusal),
}
