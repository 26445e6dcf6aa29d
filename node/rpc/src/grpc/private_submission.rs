//! `SubmitPrivateTransaction`.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Bytes, TxKind};
use alloy_rpc_types_eth::{TransactionInput, TransactionRequest};
use quorate_chain::PublicForm;
use quorate_enclave::PrivacyFlag;
use quorate_proto::v1;
use quorate_proto::v1::acknowledgement_policy::Policy;
use quorate_proto::v1::submit_private_transaction_request::Transaction;

use super::convert;
use super::privacy::{parse_key, parse_keys, payload};
use crate::json::private::receipts::PrivateInclusion;
use crate::json::private::send::{Sent, send, send_signed};
use crate::json::private::{check_acknowledgements, check_flag, check_parties};
use crate::node::Node;
use crate::privacy::{Acknowledgements, PrivateArguments};
use crate::{PrivacyError, RpcError};

/// Sends it and, if the client waits, answers with both sides of its outcome. `wait` is the longest time for that.
pub(super) async fn submit(
    node: &Arc<Node>,
    request: v1::SubmitPrivateTransactionRequest,
    wait: Duration,
) -> Result<v1::SubmitPrivateTransactionResponse, RpcError> {
    let arguments = arguments(request.arguments.unwrap_or_default())?;
    let wait = request.wait.then_some(wait);
    let sent = match request.transaction {
        Some(Transaction::Call(call)) => {
            let form = form(call.form)?;
            send(node, transaction(call)?, arguments, form, wait).await?
        }
        Some(Transaction::Raw(raw)) => send_signed(node, raw.into(), arguments, wait).await?,
        None => return Err(RpcError::argument("transaction", "missing")),
    };
    answer(node, &sent).await
}

async fn answer(
    node: &Node,
    sent: &Sent,
) -> Result<v1::SubmitPrivateTransactionResponse, RpcError> {
    Ok(v1::SubmitPrivateTransactionResponse {
        hash: convert::hash(sent.transaction),
        payload_hash: payload(&sent.payload),
        pending: sent.pending.iter().map(convert::node_key).collect(),
        commitment: sent.included.as_ref().and_then(convert::commitment),
        receipt: receipt(node, sent).await?,
    })
}

/// What came of it here, where that was waited for and private execution has reached its block.
pub(super) async fn receipt(
    node: &Node,
    sent: &Sent,
) -> Result<Option<v1::PrivateReceiptResponse>, RpcError> {
    if sent.included.is_none() {
        return Ok(None);
    }
    match PrivateInclusion::of(node, &sent.transaction).await {
        Ok(found) => Ok(found.as_ref().and_then(convert::private_receipt)),
        // The transaction is in a block all the same; the client can ask again.
        Err(RpcError::Privacy(PrivacyError::Behind { .. } | PrivacyError::Halted { .. })) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn transaction(call: v1::PrivateCall) -> Result<TransactionRequest, RpcError> {
    let to = match call.to.is_empty() {
        true => None,
        false => Some(TxKind::Call(convert::parse_address("to", &call.to)?)),
    };
    let gas_price = gas_price(&call.gas_price)?;
    Ok(TransactionRequest {
        from: Some(convert::parse_address("from", &call.from)?),
        to,
        nonce: call.nonce,
        gas: call.gas_limit,
        gas_price,
        input: TransactionInput::new(Bytes::from(call.data)),
        ..TransactionRequest::default()
    })
}

/// Wei, big-endian; `None` if it was left out.
pub(super) fn gas_price(bytes: &[u8]) -> Result<Option<u128>, RpcError> {
    match bytes.len() {
        0 => Ok(None),
        1..=16 => {
            Ok(Some(bytes.iter().fold(0, |price: u128, byte| {
                price << 8 | u128::from(*byte)
            })))
        }
        length => {
            let reason = format!("has {length} bytes, at most 16 are allowed");
            Err(RpcError::argument("gas_price", reason))
        }
    }
}

fn form(form: i32) -> Result<Option<PublicForm>, RpcError> {
    match v1::PublicForm::try_from(form) {
        Ok(v1::PublicForm::Unspecified) => Ok(None),
        Ok(v1::PublicForm::Marker) => Ok(Some(PublicForm::Marker)),
        Ok(v1::PublicForm::Quorum) => Ok(Some(PublicForm::Quorum)),
        Err(_) => Err(RpcError::argument(
            "form",
            "must be marker or quorum, or not set",
        )),
    }
}

pub(super) fn arguments(given: v1::PrivateArguments) -> Result<PrivateArguments, RpcError> {
    let flag = u8::try_from(given.privacy_flag).ok();
    let flag = flag
        .and_then(PrivacyFlag::from_number)
        .ok_or_else(|| RpcError::argument("privacy_flag", "invalid privacyFlag: 0, 1, 2 or 3"))?;
    check_parties("private_for", &given.private_for)?;
    let mandatory_for = parse_keys("mandatory_for", &given.mandatory_for)?;
    check_flag(flag, mandatory_for.is_empty())?;
    let arguments = PrivateArguments {
        private_from: match given.private_from.is_empty() {
            true => None,
            false => Some(parse_key("private_from", &given.private_from)?),
        },
        private_for: given.private_for,
        privacy_flag: flag,
        mandatory_for,
        acknowledgements: acknowledgements(given.acknowledgements)?,
    };
    check_acknowledgements(&arguments)?;
    Ok(arguments)
}

fn acknowledgements(
    given: Option<v1::AcknowledgementPolicy>,
) -> Result<Acknowledgements, RpcError> {
    match given.and_then(|given| given.policy) {
        None | Some(Policy::All(true)) => Ok(Acknowledgements::All),
        Some(Policy::Mandatory(true)) => Ok(Acknowledgements::Mandatory),
        Some(Policy::AtLeast(count)) => {
            let count = u16::try_from(count).map_err(|_| {
                RpcError::argument("acknowledgements", "at_least must fit into 16 bits")
            })?;
            Ok(Acknowledgements::AtLeast(count))
        }
        Some(Policy::Named(named)) => Ok(Acknowledgements::Named(parse_keys(
            "acknowledgements",
            &named.keys,
        )?)),
        Some(Policy::All(false) | Policy::Mandatory(false)) => Err(RpcError::argument(
            "acknowledgements",
            "a policy that is chosen must be true",
        )),
    }
}
