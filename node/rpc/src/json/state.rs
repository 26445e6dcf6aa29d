//! Accounts, storage, code and proofs.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use jsonrpsee::server::RegisterMethodError;
use quorate_state::StateRead as _;
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json, quantity};
use crate::RpcError;
use crate::node::Node;

/// Slots in one proof request.
const PROOF_SLOTS_MAX: usize = 1_024;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_getBalance", balance)?;
    method(module, "eth_getTransactionCount", transaction_count)?;
    method(module, "eth_getCode", code)?;
    method(module, "eth_getStorageAt", storage_at)?;
    method(module, "eth_getProof", proof)
}

/// The block parameter; without one it is the head.
pub(crate) fn block_argument(args: &mut Args) -> Result<BlockId, RpcError> {
    Ok(args
        .optional("block")?
        .unwrap_or(BlockId::Number(BlockNumberOrTag::Latest)))
}

async fn balance(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    let id = block_argument(&mut args)?;
    args.end()?;
    let account = node
        .read_state(id, move |state| Ok(state.account(&address)?))
        .await?;
    json(&account.unwrap_or_default().balance)
}

async fn transaction_count(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    let id = block_argument(&mut args)?;
    args.end()?;
    if id == BlockId::Number(BlockNumberOrTag::Pending) {
        return json(&quantity(pending_nonce(&node, &address)?));
    }
    let account = node
        .read_state(id, move |state| Ok(state.account(&address)?))
        .await?;
    json(&quantity(account.unwrap_or_default().nonce))
}

/// The nonce that the account should use next: after what is in blocks and, without a gap, in the pool.
pub(crate) fn pending_nonce(node: &Node, address: &Address) -> Result<u64, RpcError> {
    // The pool first: it may forget a transaction only after the state has it.
    let pooled = node.ctx.pool.pending_nonce(address).unwrap_or_default();
    let account = node.ledger().latest_state().account(address)?;
    Ok(pooled.max(account.unwrap_or_default().nonce))
}

async fn code(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    let id = block_argument(&mut args)?;
    args.end()?;
    let code = node.read_account(id, address, move |state| match state.account(&address)? {
        Some(account) if account.has_code() => Ok(state.code(&account.code_hash)?),
        _ => Ok(Bytes::new()),
    });
    json(&code.await?)
}

async fn storage_at(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    let slot: U256 = args.required("slot")?;
    let id = block_argument(&mut args)?;
    args.end()?;
    let value = node
        .read_account(
            id,
            address,
            move |state| Ok(state.storage(&address, &slot)?),
        )
        .await?;
    json(&B256::from(value))
}

/// EIP-1186.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProofView {
    address: Address,
    account_proof: Vec<Bytes>,
    balance: U256,
    code_hash: B256,
    nonce: U64,
    storage_hash: B256,
    storage_proof: Vec<StorageProofView>,
}

#[derive(Serialize)]
struct StorageProofView {
    key: String,
    value: U256,
    proof: Vec<Bytes>,
}

/// For the head only: tries of older blocks are not kept.
async fn proof(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    let keys: Vec<String> = args.optional("slots")?.unwrap_or_default();
    let id = block_argument(&mut args)?;
    args.end()?;
    if keys.len() > PROOF_SLOTS_MAX {
        return Err(RpcError::Limit {
            what: "proof",
            max: PROOF_SLOTS_MAX as u64,
            unit: "slots",
        });
    }
    let slots: Vec<U256> = keys
        .iter()
        .map(|key| {
            key.parse()
                .map_err(|e| RpcError::argument("slots", format!("{key:?}: {e}")))
        })
        .collect::<Result<_, _>>()?;
    let state = node.state_of(id).await?;
    node.call(move || {
        let proof = state.prove(&address, &slots)?;
        let account = proof.account.unwrap_or_default();
        let storage = keys.into_iter().zip(proof.storage);
        json(&ProofView {
            address,
            account_proof: proof.proof,
            balance: account.balance,
            code_hash: account.code_hash,
            nonce: quantity(account.nonce),
            storage_hash: proof.storage_root,
            storage_proof: storage
                .map(|(key, slot)| StorageProofView {
                    key: key.to_lowercase(),
                    value: slot.value,
                    proof: slot.proof,
                })
                .collect(),
        })
    })
    .await
}
