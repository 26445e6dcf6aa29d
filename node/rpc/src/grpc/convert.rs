//! Our types as the messages of `quorate.v1`.

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Log};
use bytes::Bytes;
use quorate_chain::{ImportedBlock, PublicForm, Transaction};
use quorate_enclave::NodeKey;
use quorate_pool::{AdmitError, Fate};
use quorate_proto::v1;

use crate::RpcError;
use crate::error::fate_text;
use crate::json::private::receipts::PrivateInclusion;
use crate::waiters::Included;

pub(super) fn hash(hash: B256) -> Bytes {
    Bytes::copy_from_slice(hash.as_slice())
}

pub(super) fn address(address: Address) -> Bytes {
    Bytes::copy_from_slice(address.as_slice())
}

pub(super) fn node_key(key: &NodeKey) -> Bytes {
    Bytes::copy_from_slice(key.as_slice())
}

/// 20 bytes, or a refusal that names the field.
pub(super) fn parse_address(field: &'static str, bytes: &[u8]) -> Result<Address, RpcError> {
    Address::try_from(bytes)
        .map_err(|_| RpcError::argument(field, format!("must have 20 bytes, not {}", bytes.len())))
}

/// 32 bytes, or a refusal that names the field.
pub(super) fn parse_hash(field: &'static str, bytes: &[u8]) -> Result<B256, RpcError> {
    B256::try_from(bytes)
        .map_err(|_| RpcError::argument(field, format!("must have 32 bytes, not {}", bytes.len())))
}

fn position(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn raw(transaction: &Transaction) -> Bytes {
    transaction.encoded_2718().into()
}

/// `None` if the block does not have that many transactions.
pub(super) fn commitment(included: &Included) -> Option<v1::Commitment> {
    let receipt = included.block.receipts.get(included.position)?;
    Some(v1::Commitment {
        block_height: included.block.height(),
        block_hash: hash(included.block.hash()),
        position: position(included.position),
        success: receipt.success,
        gas_used: receipt.gas_used,
        revert_data: receipt.revert_data.0.clone(),
    })
}

pub(super) fn transaction(included: &Included) -> Option<v1::Transaction> {
    let tx = included.block.block.transactions().get(included.position)?;
    Some(v1::Transaction {
        hash: hash(*tx.hash()),
        raw: raw(tx),
        from: address(*included.block.senders.get(included.position)?),
        block_height: Some(included.block.height()),
        block_hash: hash(included.block.hash()),
        position: position(included.position),
    })
}

pub(super) fn pending(pooled: &quorate_pool::PooledTransaction) -> v1::Transaction {
    v1::Transaction {
        hash: hash(pooled.transaction.hash()),
        raw: pooled.transaction.encoded().0,
        from: address(pooled.transaction.sender()),
        block_height: None,
        block_hash: Bytes::new(),
        position: 0,
    }
}

fn shown_log(log: &Log, number: usize) -> v1::Log {
    v1::Log {
        address: address(log.address),
        topics: log.topics().iter().map(|topic| hash(*topic)).collect(),
        data: log.data.data.0.clone(),
        index: position(number),
    }
}

/// The private side of a transaction; `None` if this node has none.
pub(super) fn private_receipt(found: &PrivateInclusion) -> Option<v1::PrivateReceiptResponse> {
    let record = found.record()?;
    let block = &found.found.block;
    let logs = record.logs.iter().zip(found.first_log_number()..);
    Some(v1::PrivateReceiptResponse {
        transaction_hash: hash(record.transaction),
        block_height: block.height(),
        block_hash: hash(block.hash()),
        position: record.position,
        success: record.is_success(),
        gas_used: record.gas_used,
        logs: logs.map(|(log, number)| shown_log(log, number)).collect(),
        contract_address: record.contract_address.map(address).unwrap_or_default(),
        revert_data: record.revert_data().0,
        reason: record.reason().unwrap_or_default().to_owned(),
        from: address(record.sender),
        to: record.to.map(address).unwrap_or_default(),
        payload_hash: Bytes::copy_from_slice(record.hash.as_bytes()),
        privacy_flag: record.flag.number().into(),
        marker: record.form == PublicForm::Marker,
        input: record.data.0.clone(),
        we_sent: record.we_sent,
        digest: hash(record.digest),
        affected: record.affected.iter().copied().map(address).collect(),
    })
}

pub(super) fn receipt(included: &Included) -> Option<v1::Receipt> {
    let Included {
        block,
        position: at,
    } = included;
    let tx = block.block.transactions().get(*at)?;
    let receipt = block.receipts.get(*at)?;
    let logs_before: usize = block
        .receipts
        .iter()
        .take(*at)
        .map(|receipt| receipt.logs.len())
        .sum();
    let logs = receipt.logs.iter().zip(logs_before..);
    Some(v1::Receipt {
        transaction_hash: hash(*tx.hash()),
        block_height: block.height(),
        block_hash: hash(block.hash()),
        position: position(*at),
        success: receipt.success,
        gas_used: receipt.gas_used,
        cumulative_gas_used: receipt.cumulative_gas_used,
        logs: logs.map(|(log, number)| shown_log(log, number)).collect(),
        contract_address: receipt.contract_address.map(address).unwrap_or_default(),
        revert_data: receipt.revert_data.0.clone(),
        from: address(*block.senders.get(*at)?),
        to: tx.to().map(address).unwrap_or_default(),
        r#type: u32::from(tx.ty()),
    })
}

pub(super) fn block(block: &ImportedBlock, hashes_only: bool) -> v1::Block {
    let sealed = &block.block;
    let header = sealed.header();
    let transactions = sealed.transactions();
    v1::Block {
        height: sealed.height(),
        hash: hash(sealed.hash()),
        parent_hash: hash(header.parent_hash),
        timestamp: header.timestamp,
        state_root: hash(header.state_root),
        transactions_root: hash(header.transactions_root),
        receipts_root: hash(header.receipts_root),
        gas_used: header.gas_used,
        gas_limit: header.gas_limit,
        coinbase: address(header.beneficiary),
        header: alloy_rlp::encode(header).into(),
        seal: Bytes::copy_from_slice(sealed.seal().as_bytes()),
        term: sealed.term(),
        transaction_hashes: transactions.iter().map(|tx| hash(*tx.hash())).collect(),
        transactions: if hashes_only {
            Vec::new()
        } else {
            transactions.iter().map(raw).collect()
        },
    }
}

/// A transaction that left the pool without a block.
pub(super) fn departed(fate: &Fate) -> v1::TransactionStatus {
    let (state, replaced_by) = match fate {
        Fate::Replaced { by } => (v1::transaction_status::State::Replaced, hash(*by)),
        Fate::Expired => (v1::transaction_status::State::Expired, Bytes::new()),
        Fate::Dropped(_) => (v1::transaction_status::State::Dropped, Bytes::new()),
    };
    v1::TransactionStatus {
        state: state.into(),
        reason: fate_text(fate),
        commitment: None,
        replaced_by,
    }
}

/// A refusal within a stream, with the code that a single submission would have had.
pub(super) fn refusal(error: RpcError) -> v1::Refusal {
    let status = error.into_status();
    v1::Refusal {
        code: i32::from(status.code()).unsigned_abs(),
        reason: status.message().to_owned(),
    }
}

/// True if the pool could make out a transaction, so that its hash means something.
pub(super) fn is_transaction(error: &AdmitError) -> bool {
    !matches!(
        error,
        AdmitError::NotATransaction(_) | AdmitError::TooLarge { .. }
    )
}
