//! Extending a private contract to a new party.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use alloy_rpc_types_eth::TransactionRequest;
use bytes::Bytes;
use quorate_privacy::{Extension, ExtensionState};
use quorate_proto::v1;

use super::super::private_submission::{arguments, gas_price, receipt};
use super::{convert, key, keys, page, parse_key, payload};
use crate::RpcError;
use crate::json::private::send::{distribute_extension, send_extension};
use crate::node::Node;
use crate::privacy::{ExtensionAction, PrivateArguments};

pub(super) async fn offer(
    node: &Arc<Node>,
    request: v1::OfferExtensionRequest,
    wait: Duration,
) -> Result<v1::ExtensionStepResponse, RpcError> {
    let action = ExtensionAction::Offer {
        contract: convert::parse_address("contract", &request.contract)?,
        newcomer: parse_key("newcomer", &request.newcomer)?,
        newcomer_account: convert::parse_address("newcomer_account", &request.newcomer_account)?,
    };
    step(node, action, request.transaction, wait).await
}

pub(super) async fn vote(
    node: &Arc<Node>,
    request: v1::VoteOnExtensionRequest,
    wait: Duration,
) -> Result<v1::ExtensionStepResponse, RpcError> {
    let action = ExtensionAction::Vote {
        offer: convert::parse_address("extension", &request.extension)?,
        accept: request.accept,
    };
    step(node, action, request.transaction, wait).await
}

pub(super) async fn cancel(
    node: &Arc<Node>,
    request: v1::CancelExtensionRequest,
    wait: Duration,
) -> Result<v1::ExtensionStepResponse, RpcError> {
    let action = ExtensionAction::Cancel {
        offer: convert::parse_address("extension", &request.extension)?,
    };
    step(node, action, request.transaction, wait).await
}

async fn step(
    node: &Arc<Node>,
    action: ExtensionAction,
    transaction: Option<v1::ExtensionTransaction>,
    wait: Duration,
) -> Result<v1::ExtensionStepResponse, RpcError> {
    let transaction = transaction.ok_or_else(|| RpcError::argument("transaction", "missing"))?;
    let from = convert::parse_address("from", &transaction.from)?;
    let arguments = parties(transaction.arguments)?;
    let known = match action {
        ExtensionAction::Offer { .. } => None,
        ExtensionAction::Vote { offer, .. } | ExtensionAction::Cancel { offer } => Some(offer),
    };
    if transaction.signed_elsewhere {
        let unused =
            transaction.wait || transaction.nonce.is_some() || !transaction.gas_price.is_empty();
        if unused {
            let reason = "excludes wait, nonce and gas_price: the client makes the transaction";
            return Err(RpcError::argument("signed_elsewhere", reason));
        }
        let (distributed, data) = distribute_extension(node, from, action, arguments).await?;
        return Ok(v1::ExtensionStepResponse {
            payload_hash: payload(&distributed.hash),
            pending: distributed.pending.iter().map(convert::node_key).collect(),
            extension: known.map(convert::address).unwrap_or_default(),
            marker_data: data.0,
            ..v1::ExtensionStepResponse::default()
        });
    }
    let request = TransactionRequest {
        from: Some(from),
        nonce: transaction.nonce,
        gas_price: gas_price(&transaction.gas_price)?,
        ..TransactionRequest::default()
    };
    let wait = transaction.wait.then_some(wait);
    let (sent, created) = send_extension(node, request, action, arguments, wait).await?;
    Ok(v1::ExtensionStepResponse {
        transaction_hash: convert::hash(sent.transaction),
        payload_hash: payload(&sent.payload),
        pending: sent.pending.iter().map(convert::node_key).collect(),
        extension: convert::address(known.unwrap_or(created)),
        receipt: receipt(node, &sent).await?,
        marker_data: Bytes::new(),
    })
}

/// The rules are those of the contract: nobody is to think that others can be chosen.
fn parties(given: Option<v1::PrivateArguments>) -> Result<PrivateArguments, RpcError> {
    let given = given.unwrap_or_default();
    if given.privacy_flag != 0 || !given.mandatory_for.is_empty() {
        let reason = "privacy_flag and mandatory_for are those of the contract and cannot be set";
        return Err(RpcError::argument("arguments", reason));
    }
    arguments(given)
}

pub(super) async fn list(
    node: &Arc<Node>,
    request: v1::ListExtensionsRequest,
) -> Result<v1::ListExtensionsResponse, RpcError> {
    let v1::ListExtensionsRequest { after, limit } = request;
    let after = match after.is_empty() {
        true => None,
        false => Some(convert::parse_address("after", &after)?),
    };
    let api = Arc::clone(node.privacy()?);
    let found = node
        .read(move |_| Ok(api.extensions(after, page(limit))?))
        .await?;
    Ok(v1::ListExtensionsResponse {
        extensions: found.into_iter().map(shown).collect(),
    })
}

pub(super) async fn get(
    node: &Arc<Node>,
    request: v1::GetExtensionRequest,
) -> Result<v1::ContractExtension, RpcError> {
    let address: Address = convert::parse_address("extension", &request.extension)?;
    let api = Arc::clone(node.privacy()?);
    api.executed(node.head()).await?;
    let found = node.read(move |_| Ok(api.extension(&address)?)).await?;
    found
        .map(shown)
        .ok_or(RpcError::UnknownExtension { address })
}

fn shown(extension: Extension) -> v1::ContractExtension {
    use v1::contract_extension::State;
    let state = match extension.state {
        ExtensionState::Active => State::Active,
        ExtensionState::Done => State::Done,
        ExtensionState::Declined => State::Declined,
        ExtensionState::Cancelled => State::Cancelled,
        ExtensionState::Refused => State::Refused,
    };
    v1::ContractExtension {
        extension: convert::address(extension.id),
        contract: convert::address(extension.contract),
        newcomer: key(&extension.newcomer),
        newcomer_account: convert::address(extension.newcomer_account),
        initiator: key(&extension.initiator_key),
        initiator_account: convert::address(extension.initiator),
        parties: keys(extension.parties),
        transaction_hash: convert::hash(extension.transaction),
        payload_hash: payload(&extension.payload),
        offered_at: extension.offered_at,
        state: state.into(),
        ended_at: extension.ended_at.unwrap_or_default(),
    }
}
