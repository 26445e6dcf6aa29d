//! Chain id, heights and blocks.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{B256, U64};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{SharedBlock, is_quorum_private};
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::private;
use super::view::{BlockView, Json, json, quantity, size};
use crate::RpcError;
use crate::node::Node;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_chainId", chain_id)?;
    method(module, "eth_blockNumber", block_number)?;
    method(module, "eth_syncing", syncing)?;
    method(module, "eth_coinbase", coinbase)?;
    method(module, "eth_getBlockByNumber", by_number)?;
    method(module, "eth_getBlockByHash", by_hash)?;
    method(module, "eth_getBlockReceipts", receipts)?;
    method(
        module,
        "eth_getBlockTransactionCountByNumber",
        transaction_count_by_number,
    )?;
    method(
        module,
        "eth_getBlockTransactionCountByHash",
        transaction_count_by_hash,
    )?;
    method(
        module,
        "eth_getUncleCountByBlockNumber",
        uncle_count_by_number,
    )?;
    method(module, "eth_getUncleCountByBlockHash", uncle_count_by_hash)?;
    method(module, "eth_getUncleByBlockNumberAndIndex", uncle_by_number)?;
    method(module, "eth_getUncleByBlockHashAndIndex", uncle_by_hash)
}

async fn chain_id(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&quantity(node.ledger().spec().chain_id()))
}

async fn block_number(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&quantity(node.head()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Syncing {
    starting_block: U64,
    current_block: U64,
    highest_block: U64,
}

/// `false`, or how far behind this node is: also while no leader is known, because then nobody can tell.
async fn syncing(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let sync = node.sync(&node.ctx.raft.status());
    if sync.synced {
        return json(&false);
    }
    let current = node.head();
    json(&Syncing {
        starting_block: quantity(node.started_at),
        current_block: quantity(current),
        // Each entry holds at most one block.
        highest_block: quantity(current.saturating_add(sync.lag)),
    })
}

/// What this node puts into the blocks that it mints.
async fn coinbase(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&node.ctx.node.node_id.address())
}

async fn at_number(node: &Node, number: BlockNumberOrTag) -> Result<Option<SharedBlock>, RpcError> {
    node.block_of(BlockId::Number(number)).await
}

async fn by_number(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let number: BlockNumberOrTag = args.required("block")?;
    let full: bool = args.optional("full")?.unwrap_or_default();
    args.end()?;
    shown(&node, at_number(&node, number).await?, full).await
}

async fn by_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash: B256 = args.required("hash")?;
    let full: bool = args.optional("full")?.unwrap_or_default();
    args.end()?;
    shown(&node, node.block_by_hash(hash).await?, full).await
}

/// From so many transactions on, writing a block out in full takes milliseconds.
const LARGE_BLOCK: usize = 500;

async fn shown(node: &Node, block: Option<SharedBlock>, full: bool) -> Result<Json, RpcError> {
    let Some(block) = block else { return json(&()) };
    if full && block.receipts.len() >= LARGE_BLOCK {
        return node.call(move || json(&BlockView::of(&block, true))).await;
    }
    json(&BlockView::of(&block, full))
}

async fn receipts(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let id: BlockId = args.required("block")?;
    args.end()?;
    let Some(block) = node.block_of(id).await? else {
        return json(&());
    };
    let private =
        node.ctx.privacy.is_some() && block.block.transactions().iter().any(is_quorum_private);
    let records = if private {
        node.private_records(&block).await?
    } else {
        Vec::new()
    };
    if block.receipts.len() >= LARGE_BLOCK {
        let shared = Arc::clone(&node);
        return node
            .call(move || private::receipts::all(&shared, &block, &records))
            .await;
    }
    private::receipts::all(&node, &block, &records)
}

fn transaction_count(block: Option<SharedBlock>) -> Result<Json, RpcError> {
    json(&block.map(|block| size(block.block.transactions().len())))
}

async fn transaction_count_by_number(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let number = args.required("block")?;
    args.end()?;
    transaction_count(at_number(&node, number).await?)
}

async fn transaction_count_by_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash = args.required("hash")?;
    args.end()?;
    transaction_count(node.block_by_hash(hash).await?)
}

/// Blocks never compete, so there are no uncles: none of a block that exists, null for one that does not.
fn uncle_count(block: Option<SharedBlock>) -> Result<Json, RpcError> {
    json(&block.map(|_| quantity(0)))
}

async fn uncle_count_by_number(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let number = args.required("block")?;
    args.end()?;
    uncle_count(at_number(&node, number).await?)
}

async fn uncle_count_by_hash(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash = args.required("hash")?;
    args.end()?;
    uncle_count(node.block_by_hash(hash).await?)
}

async fn uncle_by_number(_: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let _: BlockNumberOrTag = args.required("block")?;
    let _: U64 = args.required("index")?;
    args.end()?;
    json(&())
}

async fn uncle_by_hash(_: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let _: B256 = args.required("hash")?;
    let _: U64 = args.required("index")?;
    args.end()?;
    json(&())
}
