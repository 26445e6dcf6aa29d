//! Refusals of membership changes: their codes, and what programs read from them.

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::v1;
use quorate_proto::v1::membership_fault::Reason;
use quorate_proto::{AnyMessage, MEMBERSHIP_FAULT_TYPE, RichStatus};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{INTERNAL, INVALID_PARAMS, NOT_FOUND, Outward, REFUSED, UNAVAILABLE};
use crate::MembershipError;
use crate::membership::id_text;

/// What a client gets to read. The reason of a fault of ours is for the log.
pub(super) fn text(error: &MembershipError) -> String {
    match error {
        MembershipError::Failed { .. } => "internal error".into(),
        other => other.to_string(),
    }
}

pub(super) fn outward(error: &MembershipError) -> Outward {
    let (json, grpc) = match error {
        MembershipError::NoLeader
        | MembershipError::Pending { .. }
        | MembershipError::NotApplied { .. } => (UNAVAILABLE, Code::Unavailable),
        MembershipError::Undecided { .. } => (UNAVAILABLE, Code::DeadlineExceeded),
        MembershipError::QuorumAtRisk { .. }
        | MembershipError::NotAMember
        | MembershipError::LearnerNotAllowed => (REFUSED, Code::FailedPrecondition),
        MembershipError::TableMoved { .. } => (REFUSED, Code::Aborted),
        MembershipError::Invalid { .. } => (INVALID_PARAMS, Code::InvalidArgument),
        MembershipError::UnknownMember { .. } => (NOT_FOUND, Code::NotFound),
        MembershipError::Failed { .. } => (INTERNAL, Code::Internal),
    };
    Outward {
        data: Some(data(error)),
        ..Outward::new(json, grpc)
    }
}

/// `data` of the JSON-RPC error.
fn data(error: &MembershipError) -> Value {
    let (reason, more) = match error {
        MembershipError::NoLeader => ("noLeader", json!({})),
        MembershipError::Pending { change_id } => (
            "pending",
            change_id.as_ref().map_or_else(
                || json!({}),
                |change_id| json!({ "changeId": id_text(change_id) }),
            ),
        ),
        MembershipError::QuorumAtRisk {
            needed,
            reachable,
            unreachable,
        } => (
            "quorumAtRisk",
            json!({ "needed": needed, "reachable": reachable, "unreachable": unreachable }),
        ),
        MembershipError::Invalid { field, .. } => ("invalid", json!({ "field": field })),
        MembershipError::UnknownMember { raft_id } => {
            ("unknownMember", json!({ "raftId": raft_id }))
        }
        MembershipError::TableMoved { expected, actual } => (
            "tableMoved",
            json!({ "expected": expected, "actual": actual }),
        ),
        MembershipError::NotApplied { .. } => ("notApplied", json!({})),
        MembershipError::Undecided { change_id } => {
            ("undecided", json!({ "changeId": id_text(change_id) }))
        }
        MembershipError::NotAMember => ("notAMember", json!({})),
        MembershipError::LearnerNotAllowed => ("learnerNotAllowed", json!({})),
        MembershipError::Failed { .. } => ("failed", json!({})),
    };
    let mut data = more;
    if let Some(fields) = data.as_object_mut() {
        fields.insert("reason".into(), reason.into());
        fields.insert("retryable".into(), error.is_retryable().into());
    }
    data
}

fn fault(error: &MembershipError) -> v1::MembershipFault {
    let id = |change_id: &[u8; 16]| Bytes::copy_from_slice(change_id);
    let fault = |reason: Reason| v1::MembershipFault {
        reason: reason.into(),
        retryable: error.is_retryable(),
        ..v1::MembershipFault::default()
    };
    match error {
        MembershipError::NoLeader => fault(Reason::NoLeader),
        MembershipError::Pending { change_id } => v1::MembershipFault {
            change_id: change_id.as_ref().map(id).unwrap_or_default(),
            ..fault(Reason::Pending)
        },
        MembershipError::QuorumAtRisk {
            needed,
            reachable,
            unreachable,
        } => v1::MembershipFault {
            needed: *needed,
            reachable: *reachable,
            unreachable: unreachable.clone(),
            ..fault(Reason::QuorumAtRisk)
        },
        MembershipError::Invalid { field, .. } => v1::MembershipFault {
            field: field.clone(),
            ..fault(Reason::Invalid)
        },
        MembershipError::UnknownMember { raft_id } => v1::MembershipFault {
            raft_id: *raft_id,
            ..fault(Reason::UnknownMember)
        },
        MembershipError::TableMoved { expected, actual } => v1::MembershipFault {
            expected_table_index: *expected,
            actual_table_index: *actual,
            ..fault(Reason::TableMoved)
        },
        MembershipError::NotApplied { .. } => fault(Reason::NotApplied),
        MembershipError::Undecided { change_id } => v1::MembershipFault {
            change_id: id(change_id),
            ..fault(Reason::Undecided)
        },
        MembershipError::NotAMember => fault(Reason::NotAMember),
        MembershipError::LearnerNotAllowed => fault(Reason::LearnerNotAllowed),
        MembershipError::Failed { .. } => fault(Reason::Failed),
    }
}

/// A gRPC status that carries the fault for programs.
pub(super) fn status(code: Code, text: String, error: &MembershipError) -> Status {
    let detail = AnyMessage {
        type_url: MEMBERSHIP_FAULT_TYPE.into(),
        value: fault(error).encode_to_vec().into(),
    };
    let rich = RichStatus {
        code: code as i32,
        message: text.clone(),
        details: vec![detail],
    };
    Status::with_details(code, text, rich.encode_to_vec().into())
}

/// The fault that a refused call of `quorate.v1.Membership` carries; `None` if the status is about something else.
pub fn membership_fault(status: &Status) -> Option<v1::MembershipFault> {
    let rich = RichStatus::decode(status.details()).ok()?;
    let detail = rich
        .details
        .into_iter()
        .find(|detail| detail.type_url == MEMBERSHIP_FAULT_TYPE)?;
    v1::MembershipFault::decode(detail.value).ok()
}
