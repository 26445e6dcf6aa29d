//! What members say to each other about membership: small JSON texts on a stream of their own.

use std::collections::BTreeMap;

use quorate_chain::{MemberRole, NodeId};
use quorate_engine::EnclaveKey;
use quorate_rpc::{ChangeReport, ChangeRequest, ChangeStep, MembershipError};
use raft_adapter::ChangeError;
use serde::{Deserialize, Serialize};

/// To the leader.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    Change(Change),
    Transfer { to: Option<u64> },
    Lags,
}

/// From the leader, or whoever was taken for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    Changed(Report),
    Leads(u64),
    Lags(BTreeMap<u64, u64>),
    Refused(Refusal),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    change_id: String,
    steps: Vec<Step>,
    force: bool,
    if_table_index: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Step {
    Add {
        node_id: NodeId,
        address: String,
        organisation: String,
        role: MemberRole,
    },
    SetRole {
        raft_id: u64,
        role: MemberRole,
    },
    SetAddress {
        raft_id: u64,
        address: String,
    },
    SetKeys {
        raft_id: u64,
        keys: Vec<Key>,
        sequence: u64,
        /// Hexadecimal, as all bytes here.
        signature: String,
    },
    Remove {
        raft_id: u64,
    },
}

/// An enclave key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    key: String,
    hybrid_digest: Option<String>,
}

impl From<&EnclaveKey> for Key {
    fn from(key: &EnclaveKey) -> Self {
        Self {
            key: hex::encode(key.key),
            hybrid_digest: key.hybrid_digest.map(hex::encode),
        }
    }
}

impl TryFrom<Key> for EnclaveKey {
    type Error = String;

    fn try_from(key: Key) -> Result<Self, String> {
        let digest = key.hybrid_digest.as_deref();
        Ok(Self {
            key: bytes_of("an enclave key", &key.key)?,
            hybrid_digest: digest
                .map(|text| bytes_of("the digest of an enclave key", text))
                .transpose()?,
        })
    }
}

fn bytes_of<const N: usize>(what: &str, text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| format!("{what} has {} hexadecimal digits", N * 2))?;
    Ok(bytes)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    change_id: String,
    table_index: u64,
    added: Vec<u64>,
    joint: bool,
}

/// Why the leader did not do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Refusal {
    NotLeader,
    /// It may or may not come to be.
    Undecided,
    Pending {
        change_id: Option<String>,
    },
    QuorumAtRisk {
        needed: u64,
        reachable: u64,
        unreachable: Vec<u64>,
    },
    Invalid {
        field: String,
        reason: String,
    },
    UnknownMember {
        raft_id: u64,
    },
    TableMoved {
        expected: u64,
        actual: u64,
    },
    /// Surely not made.
    NotApplied {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

fn id_text(id: &[u8; 16]) -> String {
    hex::encode(id)
}

fn id_of(text: &str) -> Result<[u8; 16], String> {
    bytes_of("a change id", text)
}

impl From<&ChangeRequest> for Change {
    fn from(request: &ChangeRequest) -> Self {
        Self {
            change_id: id_text(&request.change_id.unwrap_or_default()),
            steps: request.steps.iter().map(Step::from).collect(),
            force: request.force,
            if_table_index: request.if_table_index,
        }
    }
}

impl TryFrom<Change> for ChangeRequest {
    type Error = String;

    fn try_from(change: Change) -> Result<Self, String> {
        Ok(Self {
            change_id: Some(id_of(&change.change_id)?),
            steps: change
                .steps
                .into_iter()
                .map(ChangeStep::try_from)
                .collect::<Result<_, _>>()?,
            force: change.force,
            if_table_index: change.if_table_index,
        })
    }
}

impl From<&ChangeStep> for Step {
    fn from(step: &ChangeStep) -> Self {
        match step.clone() {
            ChangeStep::Add {
                node_id,
                address,
                organisation,
                role,
            } => Self::Add {
                node_id,
                address,
                organisation,
                role,
            },
            ChangeStep::SetRole { raft_id, role } => Self::SetRole { raft_id, role },
            ChangeStep::SetAddress { raft_id, address } => Self::SetAddress { raft_id, address },
            ChangeStep::SetKeys {
                raft_id,
                keys,
                sequence,
                signature,
            } => Self::SetKeys {
                raft_id,
                keys: keys.iter().map(Into::into).collect(),
                sequence,
                signature: hex::encode(signature),
            },
            ChangeStep::Remove { raft_id } => Self::Remove { raft_id },
        }
    }
}

impl TryFrom<Step> for ChangeStep {
    type Error = String;

    fn try_from(step: Step) -> Result<Self, String> {
        Ok(match step {
            Step::Add {
                node_id,
                address,
                organisation,
                role,
            } => Self::Add {
                node_id,
                address,
                organisation,
                role,
            },
            Step::SetRole { raft_id, role } => Self::SetRole { raft_id, role },
            Step::SetAddress { raft_id, address } => Self::SetAddress { raft_id, address },
            Step::SetKeys {
                raft_id,
                keys,
                sequence,
                signature,
            } => Self::SetKeys {
                raft_id,
                keys: keys
                    .into_iter()
                    .map(EnclaveKey::try_from)
                    .collect::<Result<_, _>>()?,
                sequence,
                signature: bytes_of("a signature", &signature)?,
            },
            Step::Remove { raft_id } => Self::Remove { raft_id },
        })
    }
}

impl TryFrom<Report> for ChangeReport {
    type Error = String;

    fn try_from(report: Report) -> Result<Self, String> {
        Ok(Self {
            change_id: id_of(&report.change_id)?,
            table_index: report.table_index,
            added: report.added,
            joint: report.joint,
        })
    }
}

impl From<Result<ChangeReport, Refusal>> for Answer {
    fn from(outcome: Result<ChangeReport, Refusal>) -> Self {
        match outcome {
            Ok(report) => Self::Changed(Report {
                change_id: id_text(&report.change_id),
                table_index: report.table_index,
                added: report.added,
                joint: report.joint,
            }),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<Result<u64, Refusal>> for Answer {
    fn from(outcome: Result<u64, Refusal>) -> Self {
        match outcome {
            Ok(raft_id) => Self::Leads(raft_id),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<Refusal> for MembershipError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotLeader => Self::NoLeader,
            Refusal::Undecided => Self::Failed {
                reason: "the leader did not decide in time".into(),
            },
            Refusal::Pending { change_id } => Self::Pending {
                change_id: change_id.and_then(|text| id_of(&text).ok()),
            },
            Refusal::QuorumAtRisk {
                needed,
                reachable,
                unreachable,
            } => Self::QuorumAtRisk {
                needed,
                reachable,
                unreachable,
            },
            Refusal::Invalid { field, reason } => Self::Invalid { field, reason },
            Refusal::UnknownMember { raft_id } => Self::UnknownMember { raft_id },
            Refusal::TableMoved { expected, actual } => Self::TableMoved { expected, actual },
            Refusal::NotApplied { reason } => Self::NotApplied { reason },
            Refusal::Failed { reason } => Self::Failed { reason },
        }
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let invalid = |field: &str, reason: String| Self::Invalid {
            field: field.into(),
            reason,
        };
        match error {
            ChangeError::NotLeader { .. } | ChangeError::OtherTerm { .. } => Self::NotLeader,
            ChangeError::Pending { id } => Self::Pending {
                change_id: id.map(|id| id_text(&id.0)),
            },
            ChangeError::TableMoved { expected, actual } => Self::TableMoved {
                expected: expected.0,
                actual: actual.0,
            },
            ChangeError::UnknownMember { id } | ChangeError::AlreadyRemoved { id } => {
                Self::UnknownMember { raft_id: id.0 }
            }
            ChangeError::QuorumAtRisk {
                needed,
                reachable,
                unreachable,
            } => Self::QuorumAtRisk {
                needed: needed as u64,
                reachable: reachable as u64,
                unreachable: unreachable.iter().map(|id| id.0).collect(),
            },
            // Busy may be said of one that is under way.
            ChangeError::LeadershipLost | ChangeError::Stopped | ChangeError::Busy => {
                Self::Undecided
            }
            refused => invalid("steps", refused.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_arrives_at_the_leader_as_it_was_asked_for() {
        let key = secp256k1::SecretKey::from_byte_array([5; 32]).unwrap();
        let request = ChangeRequest {
            change_id: Some([9; 16]),
            steps: vec![
                ChangeStep::Add {
                    node_id: NodeId::of(&key.public_key(secp256k1::SECP256K1)),
                    address: "host:1".into(),
                    organisation: "O".into(),
                    role: MemberRole::Learner,
                },
                ChangeStep::SetRole {
                    raft_id: 2,
                    role: MemberRole::Voter,
                },
                ChangeStep::SetAddress {
                    raft_id: 3,
                    address: "/ip4/10.0.0.1/tcp/2".into(),
                },
                ChangeStep::SetKeys {
                    raft_id: 5,
                    keys: vec![
                        EnclaveKey {
                            key: [1; 32],
                            hybrid_digest: None,
                        },
                        EnclaveKey {
                            key: [2; 32],
                            hybrid_digest: Some([3; 32]),
                        },
                    ],
                    sequence: 6,
                    signature: [7; 65],
                },
                ChangeStep::Remove { raft_id: 4 },
            ],
            force: true,
            if_table_index: Some(77),
        };
        let text = serde_json::to_string(&Question::Change((&request).into())).unwrap();
        let Question::Change(change) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        assert_eq!(ChangeRequest::try_from(change).unwrap(), request);
        let cut = text.replace(&"07".repeat(65), &"07".repeat(64));
        let Question::Change(change) = serde_json::from_str(&cut).unwrap() else {
            panic!("{cut}");
        };
        assert_eq!(
            ChangeRequest::try_from(change),
            Err("a signature has 130 hexadecimal digits".into())
        );
    }
}
