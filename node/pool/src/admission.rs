//! The checks that need no other transaction: from bytes to a transaction that this chain allows.

use alloy_consensus::Transaction as _;
use quorate_chain::{BlockLimits, ChainSpec, RecoveredTransaction, Transaction, decode_transaction};

use crate::{AdmitError, PoolConfig};

/// The rules of the consortium as far as a transaction alone is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) spec: ChainSpec,
    pub(crate) limits: BlockLimits,
    pub(crate) gas_limit: u64,
}

impl Rules {
    /// Decodes the network form after a look at its length.
    pub(crate) fn decode(&self, raw: &[u8]) -> Result<Transaction, AdmitError> {
        let max = usize::try_from(self.limits.max_transaction_bytes).unwrap_or(usize::MAX);
        if raw.len() > max {
            return Err(AdmitError::TooLarge { got: raw.len(), max });
        }
        Ok(decode_transaction(raw)?)
    }

    /// Everything cheap first, then the signature (about 40 microseconds).
    pub(crate) fn check(
        &self,
        transaction: Transaction,
        config: &PoolConfig,
        height: u64,
        timestamp: u64,
    ) -> Result<RecoveredTransaction, AdmitError> {
        let expected = self.spec.chain_id();
        // A transaction without chain id (before EIP-155) could be replayed from any other chain.
        if transaction.chain_id() != Some(expected) {
            return Err(AdmitError::WrongChainId { got: transaction.chain_id(), expected });
        }
        if transaction.gas_limit() > self.gas_limit {
            return Err(AdmitError::GasLimitTooHigh { got: transaction.gas_limit(), max: self.gas_limit });
        }
        let price = transaction.max_fee_per_gas();
        if price < config.min_gas_price {
            return Err(AdmitError::GasPriceTooLow { got: price, min: config.min_gas_price });
        }
        let fork = self.spec.fork_at(height, timestamp);
        quorate_evm::validate_static(fork, &transaction).map_err(AdmitError::Rules)?;
        Ok(RecoveredTransaction::recover(transaction)?)
    }
}
