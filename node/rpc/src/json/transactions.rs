//! Transactions and receipts, and the way in for signed transactions.

use std::sync::Arc;
use std::time::Duration;

use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{B256, Bytes, U64};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::SharedBlock;

use super::args::Args;
use super::methods::{Module, method};
use super::private::receipts;
use super::private::send::check_sent;
use super::view::{Json, TransactionView, json};
use crate::RpcError;
use crate::node::Node;
use crate::private_form::{is_private, refuse_private};

/// How long `eth_sendRawTransactionSync` waits if the caller does not say.
const SYNC_WAIT: Duration = Duration::from_secs(20);

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_getTransactionByHash", by_hash)?;
    method(
        module,
        "eth_getTransactionByBlockHashAndIndex",
        by_block_hash,
    )?;
    method(
        module,
        "eth_getTransactionByBlockNumberAndIndex",
        by_block_number,
    )?;
    method(module, "eth_getRawTransactionByHash", raw_by_hash)?;
    method(module, "eth_getTransactionReceipt", receipt)?;
    method(module, "eth_sendRawTransaction", send_raw)?;
    method(module, "eth_sendRawTransactionSync", send_raw_sync)
}

async fn by_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash: B256 = args.required("hash")?;
    args.end()?;
    // The pool first: a transaction that leaves it for a block between the two looks is found in the second.
    let pooled = node.ctx.pool.get(&hash);
    if let Some(found) = node.included(&hash).await? {
        return json(&TransactionView::included(&found.block, found.position));
    }
    json(
        &pooled
            .as_ref()
            .map(|pooled| TransactionView::pending(&pooled.transaction)),
    )
}

async fn raw_by_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    use alloy_eips::eip2718::Encodable2718 as _;

    let hash: B256 = args.required("hash")?;
    args.end()?;
    let pooled = node.ctx.pool.get(&hash);
    let raw: Option<Bytes> = match node.included(&hash).await? {
        Some(found) => found
            .block
            .block
            .transactions()
            .get(found.position)
            .map(|transaction| transaction.encoded_2718().into()),
        None => pooled.map(|pooled| pooled.transaction.encoded()),
    };
    json(&raw.unwrap_or_default())
}

fn at(block: Option<SharedBlock>, index: U64) -> Result<Json, RpcError> {
    let position = usize::try_from(index.to::<u64>()).unwrap_or(usize::MAX);
    json(
        &block
            .as_ref()
            .and_then(|block| TransactionView::included(block, position)),
    )
}

async fn by_block_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash: B256 = args.required("hash")?;
    let index = args.required("index")?;
    args.end()?;
    at(node.block_by_hash(hash).await?, index)
}

async fn by_block_number(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let number: BlockNumberOrTag = args.required("block")?;
    let index = args.required("index")?;
    args.end()?;
    at(node.block_of(number.into()).await?, index)
}

async fn receipt(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash: B256 = args.required("hash")?;
    args.end()?;
    match node.included(&hash).await? {
        Some(found) => receipts::shown(&node, &found).await,
        None => json(&()),
    }
}

async fn send_raw(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let raw: Bytes = args.required("transaction")?;
    args.end()?;
    if is_private(&raw) {
        check_sent(&node, &raw).await?;
    }
    json(&node.submit(raw).await?)
}

/// EIP-7966: answers with the receipt. The optional second parameter is the longest wait in milliseconds.
async fn send_raw_sync(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let raw: Bytes = args.required("transaction")?;
    let wait: Option<U64> = args.optional("timeout")?;
    args.end()?;
    refuse_private(&raw)?;
    let wait = wait.map_or(SYNC_WAIT, |ms| Duration::from_millis(ms.to()));
    let found = node.submit_and_wait(raw, wait).await?;
    receipts::shown(&node, &found).await
}
