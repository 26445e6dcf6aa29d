//! Refusals about private transactions: their codes, and what programs read from them.

use serde_json::{Value, json};
use tonic::Code;

use super::{
    INTERNAL, INVALID_PARAMS, LIMIT, NOT_FOUND, Outward, PRUNED, REFUSED, REVERTED, UNAVAILABLE,
};
use crate::PrivacyError;

/// Private state of that block is not there yet, or private execution has halted.
const PRIVATE_STATE_BEHIND: i32 = -32014;
/// A concurrent transaction under private state validation: send it again.
const PRIVATE_CONFLICT: i32 = -32015;
/// Acknowledgements are missing, or a recipient refused.
const NOT_DELIVERED: i32 = -32016;

pub(super) fn outward(error: &PrivacyError) -> Outward {
    let (json, grpc) = match error {
        PrivacyError::Off => (REFUSED, Code::FailedPrecondition),
        PrivacyError::Argument { .. } => (INVALID_PARAMS, Code::InvalidArgument),
        PrivacyError::UnknownKey { .. }
        | PrivacyError::NotOurKey { .. }
        | PrivacyError::Refused { .. } => (REFUSED, Code::FailedPrecondition),
        PrivacyError::UnknownGroup { .. } | PrivacyError::UnknownPayload { .. } => {
            (NOT_FOUND, Code::NotFound)
        }
        PrivacyError::AmbiguousGroup { .. } => (INVALID_PARAMS, Code::InvalidArgument),
        PrivacyError::Reverted { data } => {
            return Outward {
                data: Some(data.to_string().into()),
                ..Outward::new(REVERTED, Code::Aborted)
            };
        }
        PrivacyError::NotAcknowledged { .. } => (NOT_DELIVERED, Code::Unavailable),
        PrivacyError::RefusedByRecipient { .. } => (NOT_DELIVERED, Code::FailedPrecondition),
        PrivacyError::Conflict { .. } => (PRIVATE_CONFLICT, Code::Aborted),
        PrivacyError::Behind { .. } | PrivacyError::PayloadMissing { .. } => {
            (PRIVATE_STATE_BEHIND, Code::Unavailable)
        }
        PrivacyError::Halted { .. } => (PRIVATE_STATE_BEHIND, Code::FailedPrecondition),
        PrivacyError::BeforeStart { .. } => (PRUNED, Code::OutOfRange),
        PrivacyError::Enclave { .. } | PrivacyError::Stopping => (UNAVAILABLE, Code::Unavailable),
        PrivacyError::Busy { .. } => (LIMIT, Code::ResourceExhausted),
        PrivacyError::Internal { .. } => (INTERNAL, Code::Internal),
    };
    Outward {
        data: data(error),
        ..Outward::new(json, grpc)
    }
}

/// `data` of the JSON-RPC error: a `reason` to match on, whether it may be repeated, and the values in the text.
fn data(error: &PrivacyError) -> Option<Value> {
    let (reason, mut data) = match error {
        PrivacyError::NotAcknowledged { nodes, waited_ms } => (
            "notAcknowledged",
            json!({ "nodes": nodes, "waitedMs": waited_ms }),
        ),
        PrivacyError::RefusedByRecipient { node, .. } => {
            ("refusedByRecipient", json!({ "node": node }))
        }
        PrivacyError::Conflict { contract } => ("conflict", json!({ "contract": contract })),
        PrivacyError::Behind {
            wanted,
            cursor,
            payload,
            ..
        } => (
            "behind",
            json!({
                "block": wanted,
                "cursor": cursor,
                "payload": payload.as_ref().map(ToString::to_string),
            }),
        ),
        PrivacyError::PayloadMissing { hash } => {
            ("payloadMissing", json!({ "payload": hash.to_string() }))
        }
        PrivacyError::BeforeStart { wanted, starts_at } => (
            "beforeStart",
            json!({ "block": wanted, "startsAt": starts_at }),
        ),
        PrivacyError::UnknownKey { key } => ("unknownKey", json!({ "key": key })),
        PrivacyError::Halted { .. } => ("halted", json!({})),
        PrivacyError::Enclave { .. } => ("enclave", json!({})),
        PrivacyError::Busy { .. } => ("busy", json!({})),
        PrivacyError::Stopping => ("stopping", json!({})),
        PrivacyError::Off => ("off", json!({})),
        PrivacyError::Argument { .. }
        | PrivacyError::NotOurKey { .. }
        | PrivacyError::UnknownGroup { .. }
        | PrivacyError::AmbiguousGroup { .. }
        | PrivacyError::UnknownPayload { .. }
        | PrivacyError::Refused { .. }
        | PrivacyError::Reverted { .. }
        | PrivacyError::Internal { .. } => return None,
    };
    if let Some(fields) = data.as_object_mut() {
        fields.insert("reason".into(), reason.into());
        fields.insert("retryable".into(), error.is_retryable().into());
    }
    Some(data)
}
