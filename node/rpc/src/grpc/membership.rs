//! `quorate.v1.Membership` over one node.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt as _;
use quorate_chain::{MemberRole, NodeId};
use quorate_engine::{ENCLAVE_KEYS_MAX, EnclaveKey};
use quorate_proto::v1;
use quorate_proto::v1::change_step::Step;
use quorate_proto::v1::membership_server::Membership;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::service::{Answer, Answers, answer, deadline};
use crate::membership::WAIT_MAX;
use crate::node::Node;
use crate::{
    CHANGE_STEPS_MAX, ChangeReport, ChangeRequest, ChangeStep, MemberState, MembershipView,
    RpcError,
};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct MembershipService {
    node: Arc<Node>,
}

impl MembershipService {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn change<T>(
        &self,
        method: &'static str,
        request: Request<T>,
        read: impl FnOnce(T) -> Result<ChangeRequest, RpcError>,
    ) -> Answer<v1::ChangeMembersResponse> {
        let wait = wait_of(request.metadata());
        answer(method, async {
            let change = read(request.into_inner())?;
            Ok(response(self.node.change_members(change, wait).await?))
        })
        .await
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn list(&self, _: Request<v1::ListMembersRequest>) -> Answer<v1::MembershipView> {
        answer("ListMembers", async {
            Ok(shown(&self.node.ctx.membership.view()))
        })
        .await
    }

    async fn change(
        &self,
        request: Request<v1::ChangeMembersRequest>,
    ) -> Answer<v1::ChangeMembersResponse> {
        self.change("ChangeMembers", request, |request| {
            check_count("steps", request.steps.len())?;
            Ok(ChangeRequest {
                change_id: change_id(&request.change_id)?,
                steps: request
                    .steps
                    .into_iter()
                    .map(parse_step)
                    .collect::<Result<_, _>>()?,
                force: request.force,
                if_table_index: request.if_table_index,
            })
        })
        .await
    }

    async fn add_learner(
        &self,
        request: Request<v1::AddLearnerRequest>,
    ) -> Answer<v1::ChangeMembersResponse> {
        self.change("AddLearner", request, |request| {
            Ok(ChangeRequest {
                change_id: change_id(&request.change_id)?,
                steps: vec![ChangeStep::Add {
                    node_id: node_id(&request.node_id)?,
                    address: request.address,
                    organisation: request.organisation,
                    role: MemberRole::Learner,
                }],
                ..ChangeRequest::default()
            })
        })
        .await
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteMembersRequest>,
    ) -> Answer<v1::ChangeMembersResponse> {
        self.change("PromoteMembers", request, |request| {
            check_count("raft_ids", request.raft_ids.len())?;
            let promote = |raft_id| ChangeStep::SetRole {
                raft_id,
                role: MemberRole::Voter,
            };
            Ok(ChangeRequest {
                change_id: change_id(&request.change_id)?,
                steps: request.raft_ids.into_iter().map(promote).collect(),
                force: request.force,
                ..ChangeRequest::default()
            })
        })
        .await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveMembersRequest>,
    ) -> Answer<v1::ChangeMembersResponse> {
        self.change("RemoveMembers", request, |request| {
            check_count("raft_ids", request.raft_ids.len())?;
            let remove = |raft_id| ChangeStep::Remove { raft_id };
            Ok(ChangeRequest {
                change_id: change_id(&request.change_id)?,
                steps: request.raft_ids.into_iter().map(remove).collect(),
                force: request.force,
                ..ChangeRequest::default()
            })
        })
        .await
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        let wait = wait_of(request.metadata());
        answer("TransferLeadership", async {
            let to = Some(request.into_inner().raft_id).filter(|id| *id != 0);
            let leader = self.node.transfer_leadership(to, wait).await?;
            Ok(v1::TransferLeadershipResponse { leader })
        })
        .await
    }

    type WatchChangesStream = Answers<v1::MembershipView>;

    async fn watch_changes(
        &self,
        _: Request<v1::WatchMembershipRequest>,
    ) -> Answer<Self::WatchChangesStream> {
        let first = (self.node.ctx.membership.watch(), None::<MembershipView>);
        let views = futures::stream::unfold(first, |(mut watched, mut told)| async move {
            loop {
                let view = Arc::clone(&watched.borrow_and_update());
                let news = view.news();
                if told.as_ref() != Some(&news) {
                    told = Some(news);
                    return Some((Ok(shown(&view)), (watched, told)));
                }
                // Ends when nobody will ever change it again: the node is stopping.
                watched.changed().await.ok()?;
            }
        });
        // A stream would keep the server from stopping.
        let stop = self.node.stop.clone().cancelled_owned();
        answer("WatchMembership", async {
            Ok(views.take_until(stop).boxed())
        })
        .await
    }
}

/// How long to wait for the outcome. An answer that says under which id to ask again is worth more than the last moment of
/// the client's time, and it has to travel: it leaves when a tenth of the time is left.
fn wait_of(metadata: &MetadataMap) -> Duration {
    deadline(metadata).map_or(WAIT_MAX, |left| left.saturating_sub(left / 10))
}

/// Refused before memory is taken for what it names.
fn check_count(name: &'static str, count: usize) -> Result<(), RpcError> {
    if count > CHANGE_STEPS_MAX {
        let reason = format!("{count} given, at most {CHANGE_STEPS_MAX} are allowed");
        return Err(RpcError::argument(name, reason));
    }
    Ok(())
}

fn change_id(bytes: &[u8]) -> Result<Option<[u8; 16]>, RpcError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| {
        let reason = format!("must have 16 bytes, or none; got {}", bytes.len());
        RpcError::argument("change_id", reason)
    })
}

fn node_id(bytes: &[u8]) -> Result<NodeId, RpcError> {
    let bytes: [u8; 33] = bytes.try_into().map_err(|_| {
        RpcError::argument(
            "node_id",
            format!("must have 33 bytes, not {}", bytes.len()),
        )
    })?;
    NodeId::from_bytes(bytes).map_err(|e| RpcError::argument("node_id", e))
}

fn role(role: i32) -> Result<MemberRole, RpcError> {
    match v1::MemberRole::try_from(role) {
        Ok(v1::MemberRole::Voter) => Ok(MemberRole::Voter),
        Ok(v1::MemberRole::Learner) => Ok(MemberRole::Learner),
        Ok(v1::MemberRole::Unspecified) | Err(_) => {
            Err(RpcError::argument("role", "must be voter or learner"))
        }
    }
}

fn parse_step(step: v1::ChangeStep) -> Result<ChangeStep, RpcError> {
    Ok(match step.step {
        Some(Step::Add(add)) => ChangeStep::Add {
            node_id: node_id(&add.node_id)?,
            address: add.address,
            organisation: add.organisation,
            role: role(add.role)?,
        },
        Some(Step::SetRole(set)) => ChangeStep::SetRole {
            raft_id: set.raft_id,
            role: role(set.role)?,
        },
        Some(Step::SetAddress(set)) => ChangeStep::SetAddress {
            raft_id: set.raft_id,
            address: set.address,
        },
        Some(Step::Remove(raft_id)) => ChangeStep::Remove { raft_id },
        Some(Step::SetKeys(set)) => ChangeStep::SetKeys {
            raft_id: set.raft_id,
            keys: enclave_keys(set.keys)?,
            sequence: set.sequence,
            signature: sized("signature", &set.signature)?,
        },
        None => return Err(RpcError::argument("steps", "a step says nothing to do")),
    })
}

fn sized<const N: usize>(name: &'static str, bytes: &[u8]) -> Result<[u8; N], RpcError> {
    bytes.try_into().map_err(|_| {
        let reason = format!("must have {N} bytes, not {}", bytes.len());
        RpcError::argument(name, reason)
    })
}

fn enclave_keys(keys: Vec<v1::EnclaveKey>) -> Result<Vec<EnclaveKey>, RpcError> {
    if keys.len() > ENCLAVE_KEYS_MAX {
        let reason = format!(
            "{} given, at most {ENCLAVE_KEYS_MAX} are allowed",
            keys.len()
        );
        return Err(RpcError::argument("keys", reason));
    }
    let key = |key: v1::EnclaveKey| {
        Ok(EnclaveKey {
            key: sized("key", &key.key)?,
            hybrid_digest: match key.hybrid_digest.is_empty() {
                true => None,
                false => Some(sized("hybrid_digest", &key.hybrid_digest)?),
            },
        })
    };
    keys.into_iter().map(key).collect()
}

fn response(report: ChangeReport) -> v1::ChangeMembersResponse {
    v1::ChangeMembersResponse {
        change_id: Bytes::copy_from_slice(&report.change_id),
        table_index: report.table_index,
        added: report.added,
        joint: report.joint,
    }
}

fn key(node_id: &NodeId) -> Bytes {
    Bytes::copy_from_slice(node_id.as_bytes())
}

fn member(state: &MemberState) -> v1::MemberState {
    let role = match state.member.role {
        MemberRole::Voter => v1::MemberRole::Voter,
        MemberRole::Learner => v1::MemberRole::Learner,
    };
    v1::MemberState {
        raft_id: state.member.raft_id,
        node_id: key(&state.member.node_id),
        address: state.member.address.clone(),
        organisation: state.member.organisation.clone(),
        role: role.into(),
        leaving: state.leaving,
        outgoing_voter: state.outgoing_voter,
        connected: state.connected,
        lag: state.lag,
        enclave_keys: state
            .enclave_keys
            .iter()
            .map(|key| v1::EnclaveKey {
                key: Bytes::copy_from_slice(&key.key),
                hybrid_digest: key
                    .hybrid_digest
                    .map(|digest| Bytes::copy_from_slice(&digest))
                    .unwrap_or_default(),
            })
            .collect(),
        keys_sequence: state.keys_sequence,
    }
}

fn shown(view: &MembershipView) -> v1::MembershipView {
    v1::MembershipView {
        table_index: view.table_index,
        joint: view.joint,
        term: view.term,
        leader: view.leader.unwrap_or(0),
        next_raft_id: view.next_raft_id,
        this_raft_id: view.this.unwrap_or(0),
        members: view.members.iter().map(member).collect(),
        removed: view
            .removed
            .iter()
            .map(|removed| v1::RemovedMember {
                raft_id: removed.raft_id,
                node_id: key(&removed.node_id),
                organisation: removed.organisation.clone(),
            })
            .collect(),
        breaks: view
            .breaks
            .iter()
            .map(|record| v1::BreakRecord {
                raft_index: record.raft_index,
                term: record.term,
                survivor: record.survivor,
                lost: record.lost.clone(),
                note: record.note.clone(),
            })
            .collect(),
        applicants: view
            .applicants
            .iter()
            .map(|applicant| v1::Applicant {
                node_id: key(&applicant.node_id),
                addresses: applicant.addresses.clone(),
                last_seen: applicant
                    .last_seen
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
            })
            .collect(),
    }
}
