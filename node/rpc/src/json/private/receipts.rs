//! Receipts and transactions as a party sees them.
//!
//! A transaction in Quorum's form has one receipt: a party is shown its private one in place of the public one. A privacy marker
//! has two: `eth_getTransactionReceipt` answers with the public one and says that there is another, which
//! `eth_getPrivateTransactionReceipt` gives to parties.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{ImportedBlock, PublicForm, is_quorum_private, private_reference};
use quorate_privacy::PrivateRecord;
use serde::Serialize;

use super::super::args::Args;
use super::super::methods::{Module, method};
use super::super::view::{Json, ReceiptView, json, quantity, size};
use crate::RpcError;
use crate::node::Node;
use crate::waiters::Included;

pub(super) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_getPrivateTransactionByHash", by_hash)?;
    method(module, "eth_getPrivateTransactionReceipt", receipt)
}

/// The receipt of a transaction as `eth_getTransactionReceipt` shows it.
pub(crate) async fn shown(node: &Node, found: &Included) -> Result<Json, RpcError> {
    let Included { block, position } = found;
    let transaction = block.block.transactions().get(*position);
    let records = if transaction.is_some_and(is_quorum_private) {
        node.private_records(block).await?
    } else {
        Vec::new()
    };
    let receipt = ReceiptView::of(block, *position);
    json(&receipt.map(|receipt| seen(node, receipt, block, &records, *position)))
}

/// The receipts of a whole block, likewise.
pub(crate) fn all(
    node: &Node,
    block: &ImportedBlock,
    records: &[PrivateRecord],
) -> Result<Json, RpcError> {
    let receipts = ReceiptView::all(block).into_iter().enumerate();
    let views: Vec<_> = receipts
        .map(|(position, receipt)| seen(node, receipt, block, records, position))
        .collect();
    json(&views)
}

/// A receipt with what this node knows beyond the public one.
fn seen<'a>(
    node: &Node,
    receipt: ReceiptView<'a>,
    block: &'a ImportedBlock,
    records: &'a [PrivateRecord],
    position: usize,
) -> ReceiptView<'a> {
    if node.ctx.privacy.is_none() {
        return receipt;
    }
    let transaction = block.block.transactions().get(position);
    match transaction
        .and_then(private_reference)
        .map(|reference| reference.form)
    {
        None => receipt,
        Some(PublicForm::Marker) => receipt.marker(),
        Some(PublicForm::Quorum) => match record_at(records, position) {
            Some(record) => receipt.private(block, records, record, 0),
            None => receipt,
        },
    }
}

fn record_at(records: &[PrivateRecord], position: usize) -> Option<&PrivateRecord> {
    records
        .iter()
        .find(|record| usize::try_from(record.position) == Ok(position))
}

/// A private transaction in a block, on a node that is a party.
pub(crate) struct PrivateInclusion {
    pub(crate) found: Included,
    /// All that this node has of the block.
    records: Vec<PrivateRecord>,
}

impl PrivateInclusion {
    /// `None` if there is no such transaction in a block, it is a public one, or this node is no party. Waits for private
    /// execution of its block.
    pub(crate) async fn of(node: &Node, hash: &B256) -> Result<Option<Self>, RpcError> {
        node.privacy()?;
        let Some(found) = node.included(hash).await? else {
            return Ok(None);
        };
        let transaction = found.block.block.transactions().get(found.position);
        if transaction.and_then(private_reference).is_none() {
            return Ok(None);
        }
        let records = node.private_records(&found.block).await?;
        let is_party = record_at(&records, found.position).is_some();
        Ok(is_party.then_some(Self { found, records }))
    }

    pub(crate) fn record(&self) -> Option<&PrivateRecord> {
        record_at(&self.records, self.found.position)
    }

    /// Number of its first log in the block: behind the public ones and those of private transactions before it.
    pub(crate) fn first_log_number(&self) -> usize {
        let public = self
            .found
            .block
            .receipts
            .iter()
            .map(|receipt| receipt.logs.len());
        let before = self
            .records
            .iter()
            .take_while(|record| usize::try_from(record.position) != Ok(self.found.position))
            .map(|record| record.logs.len());
        public.chain(before).sum()
    }

    fn receipt(&self) -> Option<ReceiptView<'_>> {
        let Included { block, position } = &self.found;
        let record = self.record()?;
        let receipt = ReceiptView::of(block, *position)?;
        Some(receipt.private(block, &self.records, record, record.gas_used))
    }

    fn transaction(&self) -> Option<PrivateTransactionView<'_>> {
        let block = &self.found.block;
        let record = self.record()?;
        let header = block.block.header();
        let payload = record.inner_hash.as_ref().unwrap_or(&record.hash);
        Some(PrivateTransactionView {
            block_hash: block.hash(),
            block_number: quantity(header.number),
            transaction_index: size(self.found.position),
            hash: record.inner_transaction.unwrap_or(record.transaction),
            tx_type: quantity(0),
            from: record.sender,
            to: record.to,
            nonce: quantity(record.nonce),
            gas: quantity(record.gas_limit),
            gas_price: U128::from(record.gas_price),
            value: U256::ZERO,
            input: Bytes::copy_from_slice(payload.as_bytes()),
            v: quantity(37),
            payload: &record.data,
            privacy_flag: record.flag.number(),
        })
    }
}

/// The private transaction within a public one, shaped as one in Quorum's form: its input is the payload's hash. The fields behind
/// `v` are ours.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PrivateTransactionView<'a> {
    block_hash: B256,
    block_number: U64,
    transaction_index: U64,
    hash: B256,
    #[serde(rename = "type")]
    tx_type: U64,
    from: Address,
    to: Option<Address>,
    nonce: U64,
    gas: U64,
    gas_price: U128,
    value: U256,
    input: Bytes,
    v: U64,
    /// In the clear.
    payload: &'a Bytes,
    privacy_flag: u8,
}

async fn by_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash: B256 = args.required("hash")?;
    args.end()?;
    let found = PrivateInclusion::of(&node, &hash).await?;
    json(&found.as_ref().and_then(PrivateInclusion::transaction))
}

async fn receipt(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash: B256 = args.required("hash")?;
    args.end()?;
    let found = PrivateInclusion::of(&node, &hash).await?;
    json(&found.as_ref().and_then(PrivateInclusion::receipt))
}
