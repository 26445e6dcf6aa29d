//! What became of a transaction.

use alloy_consensus::{
    Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom, TxReceipt as _, TxType,
};
use alloy_primitives::{Address, B256, Bloom, Bytes, Log};
use alloy_rlp::{RlpDecodable, RlpEncodable};

/// The outcome of one transaction in a block: Ethereum's receipt, and beside it what clients ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionReceipt {
    /// EIP-2718 type of the transaction.
    pub tx_type: TxType,
    /// False if execution reverted or halted; gas was used and the nonce moved all the same.
    pub success: bool,
    /// Gas used by this transaction.
    pub gas_used: u64,
    /// Gas used in the block up to and including this transaction.
    pub cumulative_gas_used: u64,
    /// What contracts logged; empty if not successful.
    pub logs: Vec<Log>,
    /// The contract that a creating transaction made, if it succeeded.
    pub contract_address: Option<Address>,
    /// What a reverted execution returned (the first bytes of it); not part of the receipts root.
    pub revert_data: Bytes,
}

impl TransactionReceipt {
    /// Ethereum's receipt with its bloom: what the receipts root commits to.
    pub fn envelope(&self) -> ReceiptEnvelope {
        let receipt = Receipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.clone(),
        };
        let bloom = receipt.bloom();
        ReceiptEnvelope::from_typed(self.tx_type, ReceiptWithBloom::new(receipt, bloom))
    }

    /// The bloom filter over this receipt's logs.
    pub fn bloom(&self) -> Bloom {
        alloy_primitives::logs_bloom(&self.logs)
    }
}

/// Root of the receipts trie of a block, and the bloom filter over all its logs.
pub fn receipts_root_and_bloom(receipts: &[TransactionReceipt]) -> (B256, Bloom) {
    let envelopes: Vec<ReceiptEnvelope> =
        receipts.iter().map(TransactionReceipt::envelope).collect();
    let mut bloom = Bloom::ZERO;
    for envelope in &envelopes {
        bloom.accrue_bloom(envelope.logs_bloom());
    }
    (
        alloy_consensus::proofs::calculate_receipt_root(&envelopes),
        bloom,
    )
}

/// The stored form (RLP list); format 1.
#[derive(Debug, RlpEncodable, RlpDecodable)]
pub(crate) struct StoredReceipt {
    tx_type: u8,
    success: bool,
    gas_used: u64,
    cumulative_gas_used: u64,
    logs: Vec<Log>,
    contract_address: Bytes,
    revert_data: Bytes,
}

impl From<&TransactionReceipt> for StoredReceipt {
    fn from(receipt: &TransactionReceipt) -> Self {
        Self {
            tx_type: receipt.tx_type.into(),
            success: receipt.success,
            gas_used: receipt.gas_used,
            cumulative_gas_used: receipt.cumulative_gas_used,
            logs: receipt.logs.clone(),
            contract_address: receipt
                .contract_address
                .map(|a| Bytes::copy_from_slice(a.as_slice()))
                .unwrap_or_default(),
            revert_data: receipt.revert_data.clone(),
        }
    }
}

impl TryFrom<StoredReceipt> for TransactionReceipt {
    type Error = alloy_rlp::Error;

    fn try_from(stored: StoredReceipt) -> Result<Self, Self::Error> {
        let contract_address = match stored.contract_address.len() {
            0 => None,
            20 => Some(Address::from_slice(&stored.contract_address)),
            _ => return Err(alloy_rlp::Error::UnexpectedLength),
        };
        Ok(Self {
            tx_type: TxType::try_from(stored.tx_type)
                .map_err(|_| alloy_rlp::Error::Custom("unknown transaction type"))?,
            success: stored.success,
            gas_used: stored.gas_used,
            cumulative_gas_used: stored.cumulative_gas_used,
            logs: stored.logs,
            contract_address,
            revert_data: stored.revert_data,
        })
    }
}
