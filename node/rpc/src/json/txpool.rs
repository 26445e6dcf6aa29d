//! What waits in the pool: `txpool_*`.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U64};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::Transaction;
use quorate_pool::PooledTransaction;
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, TransactionView, json, size};
use crate::RpcError;
use crate::node::Node;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "txpool_status", status)?;
    method(module, "txpool_content", content)?;
    method(module, "txpool_contentFrom", content_from)?;
    method(module, "txpool_inspect", inspect)
}

/// What could be minted now, and what waits for a lower nonce.
#[derive(Serialize)]
struct Split<T> {
    pending: T,
    queued: T,
}

/// By sender (with checksum, as in geth), then by nonce in decimal. Numbers order the nonces, not their text.
type BySender<T> = BTreeMap<String, BTreeMap<u64, T>>;

async fn status(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let counts = node.ctx.pool.counts();
    json::<Split<U64>>(&Split {
        pending: size(counts.ready),
        queued: size(counts.waiting),
    })
}

async fn content(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    listed(&node, |pooled| {
        json(&TransactionView::pending(&pooled.transaction))
    })
    .await
}

async fn inspect(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    listed(&node, |pooled| {
        json(&summary(pooled.transaction.transaction()))
    })
    .await
}

async fn content_from(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    args.end()?;
    let (pool, max) = (node.ctx.pool.clone(), node.ctx.config.pool_content_max);
    node.call(move || {
        let mut split = Split {
            pending: BTreeMap::new(),
            queued: BTreeMap::new(),
        };
        // All of the pool: the one sender may stand anywhere in it. What is listed is bounded.
        let content = pool.content(usize::MAX).into_iter();
        for (pooled, ready) in content
            .filter(|(pooled, _)| pooled.transaction.sender() == address)
            .take(max)
        {
            let side = if ready {
                &mut split.pending
            } else {
                &mut split.queued
            };
            side.insert(
                pooled.transaction.nonce(),
                json(&TransactionView::pending(&pooled.transaction))?,
            );
        }
        json(&split)
    })
    .await
}

async fn listed(
    node: &Node,
    view: fn(&PooledTransaction) -> Result<Json, RpcError>,
) -> Result<Json, RpcError> {
    let (pool, max) = (node.ctx.pool.clone(), node.ctx.config.pool_content_max);
    node.call(move || {
        let mut split: Split<BySender<Json>> = Split {
            pending: BTreeMap::new(),
            queued: BTreeMap::new(),
        };
        for (pooled, ready) in pool.content(max) {
            let side = if ready {
                &mut split.pending
            } else {
                &mut split.queued
            };
            let sender = pooled.transaction.sender().to_checksum(None);
            side.entry(sender)
                .or_default()
                .insert(pooled.transaction.nonce(), view(&pooled)?);
        }
        json(&split)
    })
    .await
}

/// geth's one line per transaction.
fn summary(transaction: &Transaction) -> String {
    let to = transaction
        .to()
        .map_or("contract creation".into(), |to| to.to_checksum(None));
    let (value, gas, price) = (
        transaction.value(),
        transaction.gas_limit(),
        transaction.max_fee_per_gas(),
    );
    format!("{to}: {value} wei + {gas} gas \u{d7} {price} wei")
}
