//! Changing the membership: Quorum's methods with Quorum's meaning, and our own for what Quorum cannot do. All of them
//! answer when the change is in force.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use alloy_primitives::B256;
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{MemberRole, NodeId};
use quorate_enclave::PublicKey;
use quorate_engine::EnclaveKey;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json};
use crate::member_url::parse_member_url;
use crate::membership::{WAIT_MAX, id_text};
use crate::node::Node;
use crate::{
    Applicant, BreakRecord, ChangeRequest, ChangeStep, MemberState, MembershipError,
    MembershipView, RpcError,
};

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "raft_addPeer", add_peer)?;
    method(module, "raft_addLearner", add_learner)?;
    method(module, "raft_promoteToPeer", promote)?;
    method(module, "raft_removePeer", remove)?;
    method(module, "raft_changeMembership", change)?;
    method(module, "raft_transferLeadership", transfer)?;
    method(module, "raft_membership", membership)
}

/// A raft id: a number, or the same as text in decimal or with 0x.
#[derive(Debug, Clone, Copy)]
struct RaftIdArg(u64);

impl<'de> Deserialize<'de> for RaftIdArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a raft id must be a number, at least 1")]
        enum Form {
            Number(u64),
            Text(String),
        }
        let id = match Form::deserialize(deserializer)? {
            Form::Number(id) => Some(id),
            Form::Text(text) => match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            },
        };
        match id {
            Some(0) | None => Err(D::Error::custom("a raft id must be a number, at least 1")),
            Some(id) => Ok(Self(id)),
        }
    }
}

/// 16 bytes in hexadecimal, with or without 0x.
#[derive(Debug, Clone, Copy)]
struct ChangeIdArg([u8; 16]);

impl<'de> Deserialize<'de> for ChangeIdArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut id = [0; 16];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(&text), &mut id)
            .map_err(|_| D::Error::custom("a change id must be 16 bytes in hexadecimal"))?;
        Ok(Self(id))
    }
}

/// What an address alone does not say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewMemberOptions {
    node_id: Option<NodeId>,
    #[serde(default)]
    organisation: String,
}

/// A new member: one text with key and address, or their parts.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a new member must be a URL or an object with nodeId and address"
)]
enum NewMember {
    Url(String),
    Parts(NewMemberParts),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewMemberParts {
    node_id: NodeId,
    address: String,
    #[serde(default)]
    organisation: String,
    /// Nobody can have heard of it: it learns first unless the caller insists.
    #[serde(default = "learner")]
    role: MemberRole,
}

fn learner() -> MemberRole {
    MemberRole::Learner
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewAddress {
    raft_id: RaftIdArg,
    address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ChangeArgs {
    add: Vec<NewMember>,
    remove: Vec<RaftIdArg>,
    promote: Vec<RaftIdArg>,
    demote: Vec<RaftIdArg>,
    set_address: Vec<NewAddress>,
    force: bool,
    change_id: Option<ChangeIdArg>,
    if_table_index: Option<u64>,
}

impl ChangeArgs {
    fn request(self) -> Result<ChangeRequest, RpcError> {
        let mut steps = Vec::new();
        for new in self.add {
            steps.push(match new {
                NewMember::Url(url) => {
                    let (node_id, address) =
                        parse_member_url(&url).map_err(|e| RpcError::argument("add", e))?;
                    ChangeStep::Add {
                        node_id,
                        address,
                        organisation: String::new(),
                        role: MemberRole::Learner,
                    }
                }
                NewMember::Parts(parts) => ChangeStep::Add {
                    node_id: parts.node_id,
                    address: parts.address,
                    organisation: parts.organisation,
                    role: parts.role,
                },
            });
        }
        let set_role = |role| {
            move |id: RaftIdArg| ChangeStep::SetRole {
                raft_id: id.0,
                role,
            }
        };
        steps.extend(self.promote.into_iter().map(set_role(MemberRole::Voter)));
        steps.extend(self.demote.into_iter().map(set_role(MemberRole::Learner)));
        steps.extend(
            self.set_address
                .into_iter()
                .map(|new| ChangeStep::SetAddress {
                    raft_id: new.raft_id.0,
                    address: new.address,
                }),
        );
        steps.extend(
            self.remove
                .into_iter()
                .map(|id| ChangeStep::Remove { raft_id: id.0 }),
        );
        Ok(ChangeRequest {
            change_id: self.change_id.map(|id| id.0),
            steps,
            force: self.force,
            if_table_index: self.if_table_index,
        })
    }
}

/// In Quorum a learner may change nothing but its own being there.
fn check_quorums_rule(view: &MembershipView, removes: Option<u64>) -> Result<(), MembershipError> {
    let learns = view
        .own()
        .is_some_and(|own| own.member.role == MemberRole::Learner);
    if learns && (removes.is_none() || removes != view.this) {
        return Err(MembershipError::LearnerNotAllowed);
    }
    Ok(())
}

async fn one_step(node: &Node, step: ChangeStep) -> Result<crate::ChangeReport, RpcError> {
    let request = ChangeRequest {
        steps: vec![step],
        ..ChangeRequest::default()
    };
    node.change_members(request, WAIT_MAX).await
}

async fn add(node: &Node, mut args: Args, role: MemberRole) -> Result<Json, RpcError> {
    let url: String = args.required("url")?;
    let options: NewMemberOptions = args.optional("options")?.unwrap_or_default();
    args.end()?;
    check_quorums_rule(node.membership_as_member()?.as_ref(), None)?;
    let (node_id, address) = match options.node_id {
        // The text is the address alone.
        Some(node_id) if !url.contains('@') && !url.contains("/p2p/") => (node_id, url),
        given => {
            let (node_id, address) =
                parse_member_url(&url).map_err(|e| RpcError::argument("url", e))?;
            if given.is_some_and(|given| given != node_id) {
                return Err(RpcError::argument(
                    "nodeId",
                    "is another than that of the URL",
                ));
            }
            (node_id, address)
        }
    };
    let step = ChangeStep::Add {
        node_id,
        address,
        organisation: options.organisation,
        role,
    };
    let report = one_step(node, step).await?;
    let raft_id = report
        .added
        .first()
        .ok_or_else(|| RpcError::internal("a member was added without a raft id"))?;
    json(raft_id)
}

/// Adds a voter: `url`, then optionally `{nodeId, organisation}`. Answers with its raft id.
async fn add_peer(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    add(&node, args, MemberRole::Voter)
        .await
        .map_err(|error| match error {
            RpcError::Membership(error @ MembershipError::QuorumAtRisk { .. }) => {
                RpcError::NewVoter(error)
            }
            error => error,
        })
}

/// Adds a learner: as `raft_addPeer`.
async fn add_learner(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    add(&node, args, MemberRole::Learner).await
}

/// Makes a learner a voter: its raft id. Answers with true.
async fn promote(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let RaftIdArg(raft_id) = args.required("raftId")?;
    args.end()?;
    let view = node.membership_as_member()?;
    check_quorums_rule(&view, None)?;
    // One that is not in this node's table may have been added a moment ago: the leader knows.
    if view
        .member(raft_id)
        .is_some_and(|state| state.member.role != MemberRole::Learner)
    {
        return Err(RpcError::NotALearner { raft_id });
    }
    let step = ChangeStep::SetRole {
        raft_id,
        role: MemberRole::Voter,
    };
    match one_step(&node, step).await {
        Ok(_) => json(&true),
        Err(RpcError::Membership(MembershipError::UnknownMember { raft_id })) => {
            Err(RpcError::NotALearner { raft_id })
        }
        Err(error) => Err(error),
    }
}

/// Removes a member for ever: its raft id. Answers with null.
async fn remove(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let RaftIdArg(raft_id) = args.required("raftId")?;
    args.end()?;
    check_quorums_rule(node.membership_as_member()?.as_ref(), Some(raft_id))?;
    one_step(&node, ChangeStep::Remove { raft_id }).await?;
    json(&())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportView {
    change_id: String,
    table_index: u64,
    added: Vec<u64>,
    joint: bool,
}

/// Any set of changes at once.
async fn change(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let change: ChangeArgs = args.required("change")?;
    args.end()?;
    let report = node.change_members(change.request()?, WAIT_MAX).await?;
    json(&ReportView {
        change_id: id_text(&report.change_id),
        table_index: report.table_index,
        added: report.added,
        joint: report.joint,
    })
}

/// Hands leadership to a voter, or to whoever is furthest along. Answers with the raft id of the new leader.
async fn transfer(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let to: Option<RaftIdArg> = args.optional("raftId")?;
    args.end()?;
    json(
        &node
            .transfer_leadership(to.map(|to| to.0), WAIT_MAX)
            .await?,
    )
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeView<'a> {
    table_index: u64,
    joint: bool,
    term: u64,
    leader: Option<u64>,
    next_raft_id: u64,
    raft_id: Option<u64>,
    members: Vec<MemberStateView<'a>>,
    removed: Vec<RemovedView<'a>>,
    breaks: Vec<BreakView<'a>>,
    applicants: Vec<ApplicantView<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberStateView<'a> {
    raft_id: u64,
    node_id: NodeId,
    address: &'a str,
    organisation: &'a str,
    role: MemberRole,
    leaving: bool,
    outgoing_voter: bool,
    connected: bool,
    lag: Option<u64>,
    enclave_keys: Vec<EnclaveKeyView>,
    keys_sequence: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnclaveKeyView {
    key: PublicKey,
    hybrid_digest: Option<B256>,
}

impl From<&EnclaveKey> for EnclaveKeyView {
    fn from(key: &EnclaveKey) -> Self {
        Self {
            key: PublicKey::from_bytes(key.key),
            hybrid_digest: key.hybrid_digest.map(B256::from),
        }
    }
}

impl<'a> From<&'a MemberState> for MemberStateView<'a> {
    fn from(state: &'a MemberState) -> Self {
        Self {
            raft_id: state.member.raft_id,
            node_id: state.member.node_id,
            address: &state.member.address,
            organisation: &state.member.organisation,
            role: state.member.role,
            leaving: state.leaving,
            outgoing_voter: state.outgoing_voter,
            connected: state.connected,
            lag: state.lag,
            enclave_keys: state.enclave_keys.iter().map(Into::into).collect(),
            keys_sequence: state.keys_sequence,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RemovedView<'a> {
    raft_id: u64,
    node_id: NodeId,
    organisation: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BreakView<'a> {
    raft_index: u64,
    term: u64,
    survivor: u64,
    lost: &'a [u64],
    note: &'a str,
}

impl<'a> From<&'a BreakRecord> for BreakView<'a> {
    fn from(record: &'a BreakRecord) -> Self {
        Self {
            raft_index: record.raft_index,
            term: record.term,
            survivor: record.survivor,
            lost: &record.lost,
            note: &record.note,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApplicantView<'a> {
    node_id: NodeId,
    addresses: &'a [String],
    /// Seconds since 1970.
    last_seen: u64,
}

impl<'a> From<&'a Applicant> for ApplicantView<'a> {
    fn from(applicant: &'a Applicant) -> Self {
        Self {
            node_id: applicant.node_id,
            addresses: &applicant.addresses,
            last_seen: applicant
                .last_seen
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }
}

/// Everything about the membership that this node knows, also when it is no member any more.
async fn membership(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let view = node.ctx.membership.view();
    json(&WholeView {
        table_index: view.table_index,
        joint: view.joint,
        term: view.term,
        leader: view.leader,
        next_raft_id: view.next_raft_id,
        raft_id: view.this,
        members: view.members.iter().map(Into::into).collect(),
        removed: view
            .removed
            .iter()
            .map(|removed| RemovedView {
                raft_id: removed.raft_id,
                node_id: removed.node_id,
                organisation: &removed.organisation,
            })
            .collect(),
        breaks: view.breaks.iter().map(Into::into).collect(),
        applicants: view.applicants.iter().map(Into::into).collect(),
    })
}
