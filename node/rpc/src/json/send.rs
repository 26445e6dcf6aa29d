//! Accounts of this node: `eth_sendTransaction` and signing. What is private goes on to `private/send.rs`.

use std::sync::Arc;

use alloy_consensus::{SignableTransaction as _, Transaction as _, TxLegacy, TypedTransaction};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, Bytes, Signature, U128, U256, eip191_hash_message};
use alloy_rlp::Encodable;
use alloy_rpc_types_eth::{TransactionInput, TransactionRequest};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{Fork, Transaction};
use quorate_evm::CallSettings;
use serde::Serialize;
use serde_json::value::RawValue;

use super::args::{Args, parse};
use super::call::Execution;
use super::methods::{Module, method};
use super::private::PrivateFields;
use super::private::send as private_send;
use super::state::pending_nonce;
use super::view::{Json, json};
use crate::node::Node;
use crate::{RpcError, SignError};

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_accounts", accounts)?;
    method(module, "eth_sendTransaction", send)?;
    method(module, "eth_signTransaction", sign_transaction)?;
    method(module, "eth_fillTransaction", fill_transaction)?;
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
    let (request, private) = private_or_public(&mut args)?;
    args.end()?;
    let from = sender(&node, &request)?;
    let _turn = turn(&node, from).await;
    let tx = match private.arguments()? {
        Some(arguments) => private_send::signed(&node, request, arguments).await?,
        None => {
            let typed = filled(&node, from, request).await?;
            sign_typed(&node, from, typed)?
        }
    };
    signed_view(&tx)
}

fn signed_view(tx: &Transaction) -> Result<Json, RpcError> {
    json(&SignedView {
        raw: tx.encoded_2718().into(),
        tx: SignedTransactionView {
            gas_price: tx
                .is_dynamic_fee()
                .then(|| U128::from(tx.max_fee_per_gas())),
            transaction: tx,
        },
    })
}

/// A transaction with everything but a signature, whose place holds zeros. A private one comes with its payload stored, to be
/// signed by the client and sent with `eth_sendRawPrivateTransaction`.
async fn fill_transaction(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let (request, private) = private_or_public(&mut args)?;
    args.end()?;
    let from = from(&request)?;
    let typed = match private.arguments()? {
        Some(arguments) => private_send::filled(&node, request, arguments)
            .await?
            .into(),
        None => filled(&node, from, request).await?,
    };
    let legacy = match &typed {
        TypedTransaction::Legacy(tx) => Some(unsigned_legacy(tx)),
        TypedTransaction::Eip2930(_)
        | TypedTransaction::Eip1559(_)
        | TypedTransaction::Eip4844(_)
        | TypedTransaction::Eip7702(_) => None,
    };
    let nothing = Signature::new(U256::ZERO, U256::ZERO, false);
    let tx = with_signature(typed, nothing)?;
    let Some(raw) = legacy else {
        return signed_view(&tx);
    };
    // As geth shows it: the `v` of a legacy transaction would say that it is signed.
    let mut shown = serde_json::to_value(&tx).map_err(RpcError::internal)?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("v".into(), "0x0".into());
    }
    json(&serde_json::json!({ "raw": raw, "tx": shown }))
}

/// RLP of a legacy transaction with zeros in place of its signature.
fn unsigned_legacy(tx: &TxLegacy) -> Bytes {
    let fields: [&dyn Encodable; 9] = [
        &tx.nonce,
        &tx.gas_price,
        &tx.gas_limit,
        &tx.to,
        &tx.value,
        &tx.input,
        &0u8,
        &0u8,
        &0u8,
    ];
    let mut raw = Vec::new();
    alloy_rlp::encode_list::<_, dyn Encodable>(&fields, &mut raw);
    raw.into()
}

async fn send(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let (request, private) = private_or_public(&mut args)?;
    args.end()?;
    if let Some(arguments) = private.arguments()? {
        let form = private.form()?;
        let sent = private_send::send(&node, request, arguments, form, None).await?;
        return json(&sent.transaction);
    }
    let from = sender(&node, &request)?;
    // Held until the pool has the transaction: the next send then counts it.
    let _turn = turn(&node, from).await;
    let typed = filled(&node, from, request).await?;
    let tx = sign_typed(&node, from, typed)?;
    json(&node.submit(tx.encoded_2718().into()).await?)
}

/// The transaction object of a request, and what makes it private.
pub(super) fn private_or_public(
    args: &mut Args,
) -> Result<(TransactionRequest, PrivateFields), RpcError> {
    const NAME: &str = "transaction";
    let raw: Box<RawValue> = args.required(NAME)?;
    Ok((parse(NAME, &raw)?, PrivateFields::read(NAME, &raw)?))
}

fn from(request: &TransactionRequest) -> Result<Address, RpcError> {
    request
        .from
        .ok_or_else(|| RpcError::argument("transaction", "from is missing"))
}

/// Who sends, if this node signs for it.
pub(crate) fn sender(node: &Node, request: &TransactionRequest) -> Result<Address, RpcError> {
    let from = from(request)?;
    if !node.ctx.signer.accounts().contains(&from) {
        return Err(SignError::UnknownAccount { account: from }.into());
    }
    Ok(from)
}

/// Only one of those who hold it for an account chooses a nonce.
pub(crate) async fn turn(node: &Node, account: Address) -> tokio::sync::OwnedMutexGuard<()> {
    let lock = Arc::clone(node.senders.lock().entry(account).or_default());
    lock.lock_owned().await
}

/// The rules of the next block, as far as one can know before it is there.
pub(crate) async fn next_fork(node: &Node) -> Result<Fork, RpcError> {
    let head = node.head();
    let block = node.block(head).await?.ok_or(RpcError::UnknownBlock)?;
    let time = block.block.header().timestamp;
    Ok(node.ledger().spec().fork_at(head + 1, time))
}

/// Fills what the client left out: nonce, gas, chain id, fees.
pub(crate) async fn filled(
    node: &Node,
    from: Address,
    mut request: TransactionRequest,
) -> Result<TypedTransaction, RpcError> {
    let refuse = |reason: String| RpcError::argument("transaction", reason);
    let spec = node.ledger().spec();
    let fork = next_fork(node).await?;
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
    request
        .build_typed_tx()
        .map_err(|_| refuse("its fields do not make up one type of transaction".into()))
}

/// Types with a fee cap from London on, unless the client asks for a gas price.
pub(crate) fn fill_fees(request: &mut TransactionRequest, fork: Fork, gas_price: u128) {
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

pub(crate) fn sign_typed(
    node: &Node,
    from: Address,
    typed: TypedTransaction,
) -> Result<Transaction, RpcError> {
    let hash = match &typed {
        TypedTransaction::Legacy(tx) => tx.signature_hash(),
        TypedTransaction::Eip2930(tx) => tx.signature_hash(),
        TypedTransaction::Eip1559(tx) => tx.signature_hash(),
        TypedTransaction::Eip7702(tx) => tx.signature_hash(),
        TypedTransaction::Eip4844(_) => {
            return Err(quorate_evm::InvalidTransaction::BlobsRefused.into());
        }
    };
    with_signature(typed, node.ctx.signer.sign_hash(from, hash)?)
}

fn with_signature(typed: TypedTransaction, signature: Signature) -> Result<Transaction, RpcError> {
    Ok(match typed {
        TypedTransaction::Legacy(tx) => tx.into_signed(signature).into(),
        TypedTransaction::Eip2930(tx) => tx.into_signed(signature).into(),
        TypedTransaction::Eip1559(tx) => tx.into_signed(signature).into(),
        TypedTransaction::Eip7702(tx) => tx.into_signed(signature).into(),
        TypedTransaction::Eip4844(_) => {
            return Err(quorate_evm::InvalidTransaction::BlobsRefused.into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fees(request: TransactionRequest, fork: Fork) -> (Option<u128>, Option<u128>, Option<u128>) {
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
        assert_eq!(fees(empty(), Fork::Berlin), (Some(7), None, None));
        assert_eq!(fees(empty(), Fork::London), (None, Some(7), Some(7)));
        assert_eq!(
            fees(empty().gas_price(3), Fork::Prague),
            (Some(3), None, None)
        );
        assert_eq!(
            fees(empty().transaction_type(1), Fork::Prague),
            (Some(7), None, None)
        );
        assert_eq!(
            fees(empty().max_fee_per_gas(5), Fork::Prague),
            (None, Some(5), Some(5))
        );
        assert_eq!(
            fees(empty().max_priority_fee_per_gas(9), Fork::Prague),
            (None, Some(9), Some(9))
        );
    }
}
