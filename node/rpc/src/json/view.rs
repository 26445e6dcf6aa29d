//! Blocks, transactions, receipts and logs as Ethereum's JSON-RPC shows them (execution-apis schemas).

use std::collections::BTreeMap;

use alloy_consensus::{Header, Transaction as _, Typed2718 as _};
use alloy_primitives::{Address, B256, Bloom, Bytes, U64, U128, U256};
use alloy_rlp::Encodable as _;
use quorate_chain::{ImportedBlock, RecoveredTransaction, Transaction};
use quorate_privacy::PrivateRecord;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::RpcError;

/// A finished result.
pub(crate) type Json = Box<RawValue>;

pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<Json, RpcError> {
    serde_json::value::to_raw_value(value).map_err(RpcError::internal)
}

/// A count or height: hexadecimal without leading zeros.
pub(crate) fn quantity(value: u64) -> U64 {
    U64::from(value)
}

/// A position or size in memory.
pub(crate) fn size(value: usize) -> U64 {
    U64::from(value as u64)
}

/// Header fields beside the block's other values.
#[derive(Debug, Serialize)]
pub(crate) struct HeaderView<'a> {
    hash: B256,
    #[serde(flatten)]
    header: &'a Header,
}

impl<'a> HeaderView<'a> {
    pub(crate) fn of(block: &'a ImportedBlock) -> Self {
        Self {
            hash: block.hash(),
            header: block.block.header(),
        }
    }
}

/// A block with its transactions or their hashes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockView<'a> {
    #[serde(flatten)]
    header: HeaderView<'a>,
    size: U64,
    /// Older tools insist on it.
    total_difficulty: U256,
    transactions: TransactionsView<'a>,
    uncles: [B256; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawals: Option<[B256; 0]>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum TransactionsView<'a> {
    Hashes(Vec<&'a B256>),
    Full(Vec<TransactionView<'a>>),
}

impl<'a> BlockView<'a> {
    pub(crate) fn of(block: &'a ImportedBlock, full: bool) -> Self {
        let transactions = block.block.transactions();
        let transactions = if full {
            TransactionsView::Full(
                (0..transactions.len())
                    .filter_map(|i| TransactionView::included(block, i))
                    .collect(),
            )
        } else {
            TransactionsView::Hashes(transactions.iter().map(Transaction::hash).collect())
        };
        Self {
            header: HeaderView::of(block),
            size: size(rlp_size(block)),
            total_difficulty: U256::ZERO,
            transactions,
            uncles: [],
            withdrawals: block.block.header().withdrawals_root.map(|_| []),
        }
    }
}

/// Bytes of the block in Ethereum's own encoding: `[header, transactions, ommers, withdrawals?]`.
fn rlp_size(block: &ImportedBlock) -> usize {
    let list = |payload_length: usize| payload_length + alloy_rlp::length_of_length(payload_length);
    let header = block.block.header();
    let transactions: usize = block
        .block
        .transactions()
        .iter()
        .map(|tx| tx.length())
        .sum();
    let empty_lists = 1 + usize::from(header.withdrawals_root.is_some());
    list(header.length() + list(transactions) + empty_lists)
}

/// A transaction and where it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionView<'a> {
    block_hash: Option<B256>,
    block_number: Option<U64>,
    block_timestamp: Option<U64>,
    transaction_index: Option<U64>,
    from: Address,
    /// Types with a fee cap have no gas price of their own: what was paid, or the cap while pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    gas_price: Option<U128>,
    #[serde(flatten)]
    transaction: &'a Transaction,
}

impl<'a> TransactionView<'a> {
    pub(crate) fn included(block: &'a ImportedBlock, position: usize) -> Option<Self> {
        let transaction = block.block.transactions().get(position)?;
        let header = block.block.header();
        let paid = transaction.effective_gas_price(header.base_fee_per_gas);
        Some(Self {
            block_hash: Some(block.hash()),
            block_number: Some(quantity(header.number)),
            block_timestamp: Some(quantity(header.timestamp)),
            transaction_index: Some(size(position)),
            from: *block.senders.get(position)?,
            gas_price: transaction.is_dynamic_fee().then(|| U128::from(paid)),
            transaction,
        })
    }

    pub(crate) fn pending(pooled: &'a RecoveredTransaction) -> Self {
        let transaction = pooled.transaction();
        Self {
            block_hash: None,
            block_number: None,
            block_timestamp: None,
            transaction_index: None,
            from: pooled.sender(),
            gas_price: transaction
                .is_dynamic_fee()
                .then(|| U128::from(transaction.max_fee_per_gas())),
            transaction,
        }
    }
}

/// A log and where it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogView<'a> {
    address: Address,
    topics: &'a [B256],
    data: &'a Bytes,
    block_hash: B256,
    block_number: U64,
    block_timestamp: U64,
    transaction_hash: B256,
    transaction_index: U64,
    log_index: U64,
    removed: bool,
}

/// All logs of a block, with their numbers in it.
pub(crate) fn block_logs(block: &ImportedBlock) -> impl Iterator<Item = (usize, LogView<'_>)> {
    let header = block.block.header();
    let block_hash = block.hash();
    let pairs = block
        .block
        .transactions()
        .iter()
        .zip(&block.receipts)
        .enumerate();
    pairs
        .flat_map(|(position, (tx, receipt))| {
            receipt
                .logs
                .iter()
                .map(move |log| (position, *tx.hash(), log))
        })
        .enumerate()
        .map(move |(number, (position, transaction_hash, log))| {
            let view = LogView {
                address: log.address,
                topics: log.topics(),
                data: &log.data.data,
                block_hash,
                block_number: quantity(header.number),
                block_timestamp: quantity(header.timestamp),
                transaction_hash,
                transaction_index: size(position),
                log_index: size(number),
                removed: false,
            };
            (position, view)
        })
}

/// The logs of a block's private transactions, as far as this node is a party: `records` are all that it has of the block, in
/// order. They are numbered behind the public logs of the block, so that no two logs have one number; others see no gap, and
/// parties of different transactions may number a log differently.
pub(crate) fn private_logs<'a>(
    block: &'a ImportedBlock,
    records: &'a [PrivateRecord],
) -> impl Iterator<Item = LogView<'a>> {
    let header = block.block.header();
    let block_hash = block.hash();
    let public: usize = block
        .receipts
        .iter()
        .map(|receipt| receipt.logs.len())
        .sum();
    let logs = records
        .iter()
        .flat_map(|record| record.logs.iter().map(move |log| (record, log)));
    logs.enumerate()
        .map(move |(number, (record, log))| LogView {
            address: log.address,
            topics: log.topics(),
            data: &log.data.data,
            block_hash,
            block_number: quantity(header.number),
            block_timestamp: quantity(header.timestamp),
            transaction_hash: record.transaction,
            transaction_index: U64::from(record.position),
            log_index: size(public + number),
            removed: false,
        })
}

impl LogView<'_> {
    pub(crate) fn transaction_hash(&self) -> B256 {
        self.transaction_hash
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    pub(crate) fn topics(&self) -> &[B256] {
        self.topics
    }
}

/// A receipt and where it stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReceiptView<'a> {
    #[serde(rename = "type")]
    tx_type: U64,
    transaction_hash: B256,
    transaction_index: U64,
    block_hash: B256,
    block_number: U64,
    from: Address,
    to: Option<Address>,
    cumulative_gas_used: U64,
    gas_used: U64,
    effective_gas_price: U128,
    contract_address: Option<Address>,
    logs: Vec<LogView<'a>>,
    logs_bloom: Bloom,
    status: U64,
    /// Quorum's fields from here on; they are there where they mean something.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_privacy_marker_transaction: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revert_reason: Option<Bytes>,
    /// Ours: why the private side failed, if it did not revert by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<&'a str>,
}

impl<'a> ReceiptView<'a> {
    pub(crate) fn of(block: &'a ImportedBlock, position: usize) -> Option<Self> {
        let logs = block_logs(block)
            .filter(|(at, _)| *at == position)
            .map(|(_, log)| log)
            .collect();
        Self::with_logs(block, position, logs)
    }

    /// The receipts of a whole block.
    pub(crate) fn all(block: &'a ImportedBlock) -> Vec<Self> {
        let mut logs: BTreeMap<usize, Vec<LogView<'a>>> = BTreeMap::new();
        for (position, log) in block_logs(block) {
            logs.entry(position).or_default().push(log);
        }
        (0..block.receipts.len())
            .filter_map(|position| {
                Self::with_logs(block, position, logs.remove(&position).unwrap_or_default())
            })
            .collect()
    }

    fn with_logs(
        block: &'a ImportedBlock,
        position: usize,
        logs: Vec<LogView<'a>>,
    ) -> Option<Self> {
        let transaction = block.block.transactions().get(position)?;
        let receipt = block.receipts.get(position)?;
        let header = block.block.header();
        Some(Self {
            tx_type: U64::from(transaction.ty()),
            transaction_hash: *transaction.hash(),
            transaction_index: size(position),
            block_hash: block.hash(),
            block_number: quantity(header.number),
            from: *block.senders.get(position)?,
            to: transaction.to(),
            cumulative_gas_used: quantity(receipt.cumulative_gas_used),
            gas_used: quantity(receipt.gas_used),
            effective_gas_price: U128::from(
                transaction.effective_gas_price(header.base_fee_per_gas),
            ),
            contract_address: receipt.contract_address,
            logs,
            logs_bloom: receipt.bloom(),
            status: quantity(u64::from(receipt.success)),
            is_privacy_marker_transaction: None,
            revert_reason: None,
            failure_reason: None,
        })
    }

    /// Says that the transaction is a privacy marker.
    pub(crate) fn marker(self) -> Self {
        Self {
            is_privacy_marker_transaction: Some(true),
            ..self
        }
    }

    /// What a party is told in place of the public outcome. The gas is that of the private execution, which nobody pays; Quorum
    /// says 0 where there is one receipt for both sides.
    pub(crate) fn private(
        self,
        block: &'a ImportedBlock,
        records: &'a [PrivateRecord],
        record: &'a PrivateRecord,
        gas_used: u64,
    ) -> Self {
        let revert_reason = Some(record.revert_data()).filter(|data| !data.is_empty());
        Self {
            to: record.to,
            gas_used: quantity(gas_used),
            contract_address: record.contract_address,
            logs: private_logs(block, records)
                .filter(|log| log.transaction_hash() == record.transaction)
                .collect(),
            logs_bloom: record.bloom,
            status: quantity(u64::from(record.is_success())),
            is_privacy_marker_transaction: None,
            revert_reason,
            failure_reason: record.reason(),
            ..self
        }
    }
}
