//! Fees. The base fee is zero and gas is free unless this node's operator asks for more.

use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{U64, U128};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{ImportedBlock, StoreError};
use quorate_engine::Ledger;
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json, quantity};
use crate::RpcError;
use crate::node::Node;

/// Blocks in one fee history, as in geth.
const HISTORY_BLOCKS_MAX: u64 = 1_024;
/// Percentiles in one fee history, as in geth.
const PERCENTILES_MAX: usize = 100;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_gasPrice", gas_price)?;
    method(module, "eth_maxPriorityFeePerGas", gas_price)?;
    method(module, "eth_baseFee", base_fee)?;
    method(module, "eth_blobBaseFee", blob_base_fee)?;
    method(module, "eth_feeHistory", history)
}

async fn gas_price(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&U128::from(node.ctx.config.gas_price))
}

async fn base_fee(_: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&quantity(0))
}

/// There are no blobs; the protocol's lowest price is 1 wei (EIP-4844).
async fn blob_base_fee(_: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&quantity(1))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryView {
    oldest_block: U64,
    /// One more than there are blocks: the last is that of the next block.
    base_fee_per_gas: Vec<U64>,
    gas_used_ratio: Vec<f64>,
    base_fee_per_blob_gas: Vec<U64>,
    blob_gas_used_ratio: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<Vec<Vec<U128>>>,
}

async fn history(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let count: U64 = args.required("blockCount")?;
    let newest: BlockNumberOrTag = args.required("newestBlock")?;
    let percentiles: Option<Vec<f64>> = args.optional("rewardPercentiles")?;
    args.end()?;
    check_percentiles(percentiles.as_deref().unwrap_or_default())?;
    let newest = node.height_of(newest).ok_or(RpcError::UnknownBlock)?;
    let count = count.to::<u64>().min(HISTORY_BLOCKS_MAX).min(newest + 1);
    let oldest = newest + 1 - count;
    let ledger = node.ledger().clone();
    node.call(move || {
        let oldest = first_kept(&ledger, oldest, newest)?;
        let mut view = HistoryView {
            oldest_block: quantity(oldest),
            base_fee_per_gas: Vec::new(),
            gas_used_ratio: Vec::new(),
            base_fee_per_blob_gas: Vec::new(),
            blob_gas_used_ratio: Vec::new(),
            reward: percentiles
                .as_ref()
                .filter(|p| !p.is_empty())
                .map(|_| Vec::new()),
        };
        for height in oldest..=newest {
            let block = ledger.block(height)?.ok_or(RpcError::UnknownBlock)?;
            let header = block.block.header();
            view.base_fee_per_gas
                .push(quantity(header.base_fee_per_gas.unwrap_or_default()));
            view.gas_used_ratio
                .push(header.gas_used as f64 / header.gas_limit.max(1) as f64);
            view.base_fee_per_blob_gas.push(quantity(1));
            view.blob_gas_used_ratio.push(0.0);
            if let (Some(rewards), Some(percentiles)) = (&mut view.reward, &percentiles) {
                rewards.push(block_rewards(&block, percentiles));
            }
        }
        view.base_fee_per_gas.push(quantity(0));
        view.base_fee_per_blob_gas.push(quantity(1));
        json(&view)
    })
    .await
}

/// Where the range begins on this node: less than was asked for where blocks were pruned, as the specification allows.
fn first_kept(ledger: &Ledger, oldest: u64, newest: u64) -> Result<u64, RpcError> {
    // Genesis is always there, and says nothing about what follows it.
    let first = oldest.max(1);
    if first > newest {
        return Ok(oldest);
    }
    match ledger.block(first) {
        Err(StoreError::Pruned { below }) if below <= newest => Ok(below),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(oldest),
    }
}

fn check_percentiles(percentiles: &[f64]) -> Result<(), RpcError> {
    if percentiles.len() > PERCENTILES_MAX {
        return Err(RpcError::Limit {
            what: "fee history",
            max: PERCENTILES_MAX as u64,
            unit: "percentiles",
        });
    }
    let in_range = percentiles.iter().all(|p| (0.0..=100.0).contains(p));
    let rising = percentiles
        .iter()
        .zip(percentiles.iter().skip(1))
        .all(|(a, b)| a <= b);
    if in_range && rising {
        Ok(())
    } else {
        Err(RpcError::argument(
            "rewardPercentiles",
            "must lie between 0 and 100 and not fall",
        ))
    }
}

/// Tips per gas at the given percentiles of the gas used, transactions in the order of their tips.
fn block_rewards(block: &ImportedBlock, percentiles: &[f64]) -> Vec<U128> {
    let header = block.block.header();
    let base_fee = header.base_fee_per_gas.unwrap_or_default();
    let pairs = block.block.transactions().iter().zip(&block.receipts);
    let mut tips: Vec<(u128, u64)> = pairs
        .map(|(tx, receipt)| {
            (
                tx.effective_tip_per_gas(base_fee).unwrap_or_default(),
                receipt.gas_used,
            )
        })
        .collect();
    tips.sort_unstable();
    let mut rest = tips.iter();
    let mut current = rest.next().copied().unwrap_or_default();
    let mut sum = current.1;
    let mut rewards = Vec::with_capacity(percentiles.len());
    for percentile in percentiles {
        let threshold = (header.gas_used as f64 * percentile / 100.0) as u64;
        while sum < threshold
            && let Some(next) = rest.next()
        {
            current = *next;
            sum += current.1;
        }
        rewards.push(U128::from(current.0));
    }
    rewards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_must_rise_within_a_hundred() {
        assert!(check_percentiles(&[]).is_ok());
        assert!(check_percentiles(&[0.0, 50.0, 50.0, 100.0]).is_ok());
        assert!(check_percentiles(&[50.0, 49.0]).is_err());
        assert!(check_percentiles(&[100.1]).is_err());
        assert!(check_percentiles(&[f64::NAN]).is_err());
        assert!(check_percentiles(&[1.0; 101]).is_err());
    }
}
