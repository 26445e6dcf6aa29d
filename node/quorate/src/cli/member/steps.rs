//! What operators write, as steps of a change, and what members answer, as a view.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use quorate_chain::{Member, MemberRole, NodeId};
use quorate_engine::EnclaveKey;
use quorate_proto::v1;
use quorate_proto::v1::change_step::Step;
use quorate_rpc::{
    Applicant, BreakRecord, ChangeRequest, ChangeStep, MemberState, MembershipView, RemovedMember,
    parse_member_url,
};

/// A change id: 32 hexadecimal digits, with or without 0x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeId(pub [u8; 16]);

impl FromStr for ChangeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut id)
            .map_err(|_| "a change id has 32 hexadecimal digits".to_owned())?;
        Ok(Self(id))
    }
}

impl std::fmt::Display for ChangeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

/// A key alone, or together with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberName {
    /// A node id.
    Key(NodeId),
    /// An enode, `<node id>@<address>` or a multiaddress with a peer id.
    Url(NewMember),
}

impl FromStr for MemberName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(['@', '/']) {
            text.parse().map(Self::Url)
        } else {
            text.parse()
                .map(Self::Key)
                .map_err(|e: quorate_chain::NodeIdError| e.to_string())
        }
    }
}

/// Key and address of a new member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Its key.
    pub node_id: NodeId,
    /// Where it is reached.
    pub address: String,
}

impl FromStr for NewMember {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (node_id, address) = parse_member_url(text).map_err(|e| e.to_string())?;
        Ok(Self { node_id, address })
    }
}

/// `N=ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAddress {
    /// The member.
    pub raft_id: u64,
    /// Where it is reached now.
    pub address: String,
}

impl FromStr for NewAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (raft_id, address) = text
            .split_once('=')
            .ok_or("must be <raft id>=<address>, as 3=node3.example:30303")?;
        Ok(Self {
            raft_id: parse_raft_id(raft_id)?,
            address: address.to_owned(),
        })
    }
}

/// A raft id: at least 1.
///
/// # Errors
/// With what is allowed.
pub fn parse_raft_id(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!(
            "{text:?} is no raft id: they are numbers from 1 (see: quorate member list)"
        )),
        Ok(id) => Ok(id),
    }
}

fn wire_role(role: MemberRole) -> i32 {
    match role {
        MemberRole::Voter => v1::MemberRole::Voter.into(),
        MemberRole::Learner => v1::MemberRole::Learner.into(),
    }
}

fn wire_key(key: &EnclaveKey) -> v1::EnclaveKey {
    let digest = key.hybrid_digest.map(|digest| digest.to_vec());
    v1::EnclaveKey {
        key: key.key.to_vec().into(),
        hybrid_digest: digest.unwrap_or_default().into(),
    }
}

/// A change as it goes over the wire.
pub fn to_wire(request: &ChangeRequest) -> v1::ChangeMembersRequest {
    let step = |step: &ChangeStep| {
        let step = match step.clone() {
            ChangeStep::Add {
                node_id,
                address,
                organisation,
                role,
            } => Step::Add(v1::AddMember {
                node_id: node_id.as_bytes().to_vec().into(),
                address,
                organisation,
                role: wire_role(role),
            }),
            ChangeStep::SetRole { raft_id, role } => Step::SetRole(v1::SetMemberRole {
                raft_id,
                role: wire_role(role),
            }),
            ChangeStep::SetAddress { raft_id, address } => {
                Step::SetAddress(v1::SetMemberAddress { raft_id, address })
            }
            ChangeStep::SetKeys {
                raft_id,
                keys,
                sequence,
                signature,
            } => Step::SetKeys(v1::SetMemberKeys {
                raft_id,
                keys: keys.iter().map(wire_key).collect(),
                sequence,
                signature: signature.to_vec().into(),
            }),
            ChangeStep::Remove { raft_id } => Step::Remove(raft_id),
        };
        v1::ChangeStep { step: Some(step) }
    };
    v1::ChangeMembersRequest {
        change_id: request
            .change_id
            .map(|id| id.to_vec().into())
            .unwrap_or_default(),
        steps: request.steps.iter().map(step).collect(),
        force: request.force,
        if_table_index: request.if_table_index,
    }
}

fn node_id(bytes: &[u8]) -> anyhow::Result<NodeId> {
    let bytes = bytes
        .try_into()
        .context("a node id in the answer does not have 33 bytes")?;
    NodeId::from_bytes(bytes).context("a node id in the answer")
}

fn enclave_key(key: &v1::EnclaveKey) -> anyhow::Result<EnclaveKey> {
    let sized = |bytes: &[u8]| -> anyhow::Result<[u8; 32]> {
        bytes
            .try_into()
            .context("an enclave key in the answer, or its digest, does not have 32 bytes")
    };
    Ok(EnclaveKey {
        key: sized(&key.key)?,
        hybrid_digest: match key.hybrid_digest.is_empty() {
            true => None,
            false => Some(sized(&key.hybrid_digest)?),
        },
    })
}

/// A view as a member sent it.
///
/// # Errors
/// If it cannot be one.
pub fn from_wire(view: v1::MembershipView) -> anyhow::Result<MembershipView> {
    let some = |id: u64| (id != 0).then_some(id);
    let member = |state: v1::MemberState| {
        Ok(MemberState {
            member: Member {
                raft_id: state.raft_id,
                node_id: node_id(&state.node_id)?,
                role: match state.role() {
                    v1::MemberRole::Voter => MemberRole::Voter,
                    v1::MemberRole::Learner => MemberRole::Learner,
                    v1::MemberRole::Unspecified => bail!(
                        "raft id {} has a role in the answer that this program does not know",
                        state.raft_id
                    ),
                },
                address: state.address,
                organisation: state.organisation,
            },
            leaving: state.leaving,
            outgoing_voter: state.outgoing_voter,
            connected: state.connected,
            lag: state.lag,
            enclave_keys: state
                .enclave_keys
                .iter()
                .map(enclave_key)
                .collect::<anyhow::Result<_>>()?,
            keys_sequence: state.keys_sequence,
        })
    };
    let removed = |removed: v1::RemovedMember| {
        Ok(RemovedMember {
            raft_id: removed.raft_id,
            node_id: node_id(&removed.node_id)?,
            organisation: removed.organisation,
        })
    };
    let applicant = |applicant: v1::Applicant| {
        Ok(Applicant {
            node_id: node_id(&applicant.node_id)?,
            addresses: applicant.addresses,
            last_seen: UNIX_EPOCH
                .checked_add(Duration::from_secs(applicant.last_seen))
                .unwrap_or(UNIX_EPOCH),
        })
    };
    Ok(MembershipView {
        table_index: view.table_index,
        joint: view.joint,
        term: view.term,
        leader: some(view.leader),
        next_raft_id: view.next_raft_id,
        this: some(view.this_raft_id),
        members: view
            .members
            .into_iter()
            .map(member)
            .collect::<anyhow::Result<_>>()?,
        removed: view
            .removed
            .into_iter()
            .map(removed)
            .collect::<anyhow::Result<_>>()?,
        breaks: view
            .breaks
            .into_iter()
            .map(|record| BreakRecord {
                raft_index: record.raft_index,
                term: record.term,
                survivor: record.survivor,
                lost: record.lost,
                note: record.note,
            })
            .collect(),
        applicants: view
            .applicants
            .into_iter()
            .map(applicant)
            .collect::<anyhow::Result<_>>()?,
    })
}

/// What the members would be after a change, for a dry run. Nobody is asked: whether the new voters would be reachable, the
/// leader decides.
///
/// # Errors
/// If a step names a member that there is not, or changes nothing.
pub fn plan(request: &ChangeRequest, view: &MembershipView) -> anyhow::Result<Plan> {
    request.check()?;
    request.check_against(view)?;
    let mut after = view.clone();
    let voters = |view: &MembershipView| -> Vec<u64> {
        view.members
            .iter()
            .filter(|state| state.member.role == MemberRole::Voter)
            .map(|state| state.member.raft_id)
            .collect()
    };
    let before = voters(view);
    for step in &request.steps {
        let at = |after: &MembershipView, raft_id: u64| {
            after
                .members
                .iter()
                .position(|state| state.member.raft_id == raft_id)
                .with_context(|| {
                    format!("no member has raft id {raft_id} (see: quorate member list)")
                })
        };
        match step {
            ChangeStep::Add {
                node_id,
                address,
                organisation,
                role,
            } => {
                after.members.push(MemberState {
                    member: Member {
                        raft_id: after.next_raft_id,
                        node_id: *node_id,
                        address: address.clone(),
                        organisation: organisation.clone(),
                        role: *role,
                    },
                    leaving: false,
                    outgoing_voter: false,
                    connected: false,
                    lag: None,
                    enclave_keys: Vec::new(),
                    keys_sequence: 0,
                });
                after.next_raft_id = after.next_raft_id.saturating_add(1);
            }
            ChangeStep::SetRole { raft_id, role } => {
                let at = at(&after, *raft_id)?;
                if let Some(state) = after.members.get_mut(at) {
                    state.member.role = *role;
                }
            }
            ChangeStep::SetAddress { raft_id, address } => {
                let at = at(&after, *raft_id)?;
                if let Some(state) = after.members.get_mut(at) {
                    state.member.address.clone_from(address);
                }
            }
            ChangeStep::SetKeys {
                raft_id,
                keys,
                sequence,
                signature: _,
            } => {
                let at = at(&after, *raft_id)?;
                if let Some(state) = after.members.get_mut(at) {
                    state.enclave_keys.clone_from(keys);
                    state.keys_sequence = *sequence;
                }
            }
            ChangeStep::Remove { raft_id } => {
                let at = at(&after, *raft_id)?;
                after.members.remove(at);
            }
        }
    }
    let remaining = voters(&after);
    if remaining.is_empty() {
        bail!("no voter would be left");
    }
    let changed = before.iter().filter(|id| !remaining.contains(id)).count()
        + remaining.iter().filter(|id| !before.contains(id)).count();
    let leader_goes = view
        .leader
        .is_some_and(|leader| !remaining.contains(&leader));
    // Same rule as ordering has: one voter at a time needs no joint configuration, unless that one leads.
    let joint = changed > 1 || leader_goes;
    let connected = after
        .members
        .iter()
        .filter(|state| state.member.role == MemberRole::Voter && state.connected)
        .count();
    Ok(Plan {
        needed: remaining.len() / 2 + 1,
        voters: remaining.len(),
        connected,
        joint,
        after,
    })
}

/// The outcome of [`plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The members then. New ones have the raft ids that they would get if nobody else adds one before.
    pub after: MembershipView,
    /// How many of them vote.
    pub voters: usize,
    /// Majority of those.
    pub needed: usize,
    /// How many of those the member that was asked is connected to now; new ones are not.
    pub connected: usize,
    /// True if it would go through a joint configuration.
    pub joint: bool,
}
