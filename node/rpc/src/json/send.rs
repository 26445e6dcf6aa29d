//! Accounts of this node: `eth_sendTransaction` and signing.

use std::sync::Arc;

use alloy_consensus::{SignableTransaction as _, Transaction as _, TypedTransaction};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, Bytes, U128, eip191_hash_message};
use alloy_rpc_types_eth::{TransactionInput, TransactionRequest};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{Fork, Transaction};
use quorate_evm::CallSettings;
use serde::Serialize;

use super::args::Args;
use super::call::Execution;
use super::methods::{Module, method};
use super::state::pending_nonce;
use super::view::{Json, json};
use crate::node::Node;
use crate::{RpcError, SignError};

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_accounts", accounts)?;
    method(module, "eth_sendTransaction", send)?;
    method(module, "eth_signTransaction", sign_transaction)?;
    method(module, "eth_sign", sign)
}

async fn accounts(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&node.ctx.signer.accounts())
}

/// EIP-191 version 0x45 over the message.
async fn sign(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let account: Address = args.required("address")?;
    let message: Bytes = args.required("message")?;
    args.end()?;
    let signature = node
        .ctx
        .signer
        .sign_hash(account, eip191_hash_message(&message))?;
    json(&Bytes::copy_from_slice(&signature.as_bytes()))
}

#[derive(Serialize)]
struct SignedView<'a> {
    raw: Bytes,
    tx: SignedTransactionView<'a>,
}

/// The specification wants a gas price for types with a fee cap too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedTransactionView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    gas_price: Option<U128>,
    #[serde(flatten)]
    transaction: &'a Transaction,
}

async fn sign_transaction(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let request: TransactionRequest = args.required("transaction")?;
    args.end()?;
    let from = sender(&node, &request)?;
    let _turn = turn(&node, from).await;
    let tx = signed(&node, from, request).await?;
    let gas_price = tx
        .is_dynamic_fee()
        .then(|| U128::from(tx.max_fee_per_gas()));
    json(&SignedView {
        raw: tx.encoded_2718().into(),
        tx: SignedTransactionView {
            gas_price,
            transaction: &tx,
        },
    })
}

async fn send(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let request: TransactionRequest = args.required("transaction")?;
    args.end()?;
    let from = sender(&node, &request)?;
    // Held until the pool has the transaction: the next send then counts it.
    let _turn = turn(&node, from).await;
    let tx = signed(&node, from, request).await?;
    json(&node.submit(tx.encoded_2718().into()).await?)
}

fn sender(node: &Node, request: &TransactionRequest) -> Result<Address, RpcError> {
    let from = request
        .from
        .ok_or_else(|| RpcError::argument("transaction", "from is missing"))?;
    if !node.ctx.signer.accounts().contains(&from) {
        return Err(SignError::UnknownAccount { account: from }.into());
    }
    Ok(from)
}

async fn turn(node: &Node, account: Address) -> tokio::sync::OwnedMutexGuard<()> {
    let lock = Arc::clone(node.senders.lock().entry(account).or_default());
    lock.lock_owned().await
}

/// Fills what the client left out (nonce, gas, chain id, fees) and signs.
async fn signed(
    node: &Node,
    from: Address,
    mut request: TransactionRequest,
) -> Result<Transaction, RpcError> {
    let refuse = |reason: String| RpcError::argument("transaction", reason);
    let head = node.head();
    let header_time = node
        .block(head)
        .await?
        .ok_or(RpcError::UnknownBlock)?
        .block
        .header()
        .timestamp;
    let spec = node.ledger().spec();
    let fork = spec.fork_at(head + 1, header_time);
    let input = request
        .input
        .try_into_unique_input()
        .map_err(|e| refuse(e.to_string()))?;
    request.input = TransactionInput::new(input.clone().unwrap_or_default());
    if request.to.is_none() {
        if input.is_none_or(|input| input.is_empty()) {
            return Err(refuse("contract creation without any data provided".into()));
        }
        request.to = Some(alloy_primitives::TxKind::Create);
    }
    if request.nonce.is_none() {
        request.nonce = Some(pending_nonce(node, &from)?);
    }
    fill_fees(&mut request, fork, node.ctx.config.gas_price);
    if request.gas.is_none() {
        let settings = CallSettings::capped(node.ctx.config.call_gas_max);
        let latest = BlockId::Number(BlockNumberOrTag::Latest);
        let execution = Execution::at(node, latest, request.clone(), settings).await?;
        request.gas = Some(node.call(move || execution.estimate()).await?);
    }
    let chain_id = request.chain_id.get_or_insert(spec.chain_id());
    if *chain_id != spec.chain_id() {
        return Err(refuse(format!(
            "chainId {chain_id} is not this chain's {}",
            spec.chain_id()
        )));
    }
    let typed = request
        .build_typed_tx()
        .map_err(|_| refuse("its fields do not make up one type of transaction".into()))?;
    sign_typed(node, from, typed)
}

/// Types with a fee cap from London on, unless the client asks for a gas price.
fn fill_fees(request: &mut TransactionRequest, fork: Fork, gas_price: u128) {
    let wants_price =
        request.gas_price.is_some() || matches!(request.transaction_type, Some(0 | 1));
    if fork < Fork::London || wants_price {
        request.gas_price.get_or_insert(gas_price);
        return;
    }
    let tip = *request
        .max_priority_fee_per_gas
        .get_or_insert(gas_price.min(request.max_fee_per_gas.unwrap_or(gas_price)));
    request.max_fee_per_gas.get_or_insert(tip.max(gas_price));
}

fn sign_typed(
    node: &Node,
    from: Address,
    typed: TypedTransaction,
) -> Result<Transaction, RpcError> {
    let signer = &node.ctx.signer;
    Ok(match typed {
        TypedTransaction::Legacy(tx) => {
            let signature = signer.sign_hash(from, tx.signature_hash())?;
            tx.into_signed(signature).into()
        }
        TypedTransaction::Eip2930(tx) => {
            let signature = signer.sign_hash(from, tx.signature_hash())?;
            tx.into_signed(signature).into()
        }
        TypedTransaction::Eip1559(tx) => {
            let signature = signer.sign_hash(from, tx.signature_hash())?;
            tx.into_signed(signature).into()
        }
        TypedTransaction::Eip7702(tx) => {
            let signature = signer.sign_hash(from, tx.signature_hash())?;
            tx.into_signed(signature).into()
        }
        TypedTransaction::Eip4844(_) => {
            return Err(quorate_evm::InvalidTransaction::BlobsRefused.into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(
        request: TransactionRequest,
        fork: Fork,
    ) -> (Option<u128>, Option<u128>, Option<u128>) {
        let mut request = request;
        fill_fees(&mut request, fork, 7);
        (
            request.gas_price,
            request.max_fee_per_gas,
            request.max_priority_fee_per_gas,
        )
    }

    #[test]
    fn fees_are_filled_as_the_fork_and_the_client_want_them() {
        let empty = TransactionRequest::default;
        assert_eq!(filled(empty(), Fork::Berlin), (Some(7), None, None));
        assert_eq!(filled(empty(), Fork::London), (None, Some(7), Some(7)));
        assert_eq!(
            filled(empty().gas_price(3), Fork::Prague),
            (Some(3), None, None)
        );
        assert_eq!(
            filled(empty().transaction_type(1), Fork::Prague),
            (Some(7), None, None)
        );
        assert_eq!(
            filled(empty().max_fee_per_gas(5), Fork::Prague),
            (None, Some(5), Some(5))
        );
        assert_eq!(
            filled(empty().max_priority_fee_per_gas(9), Fork::Prague),
            (None, Some(9), Some(9))
        );
    }
}
