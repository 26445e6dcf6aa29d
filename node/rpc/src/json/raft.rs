//! Roles and members with Quorum's names and shapes, so that existing scripts go on working. Changes are in
//! `membership.rs`.

use std::sync::Arc;

use jsonrpsee::server::RegisterMethodError;
use quorate_chain::MemberRole;
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json};
use crate::member_url::{host_and_port, parse_member_key, public_key_hex};
use crate::node::Node;
use crate::{MemberState, RpcError};

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "raft_role", role)?;
    method(module, "raft_leader", leader)?;
    method(module, "raft_cluster", members)?;
    method(module, "raft_getRaftId", raft_id)
}

/// A member's part as Quorum calls it; "" while there is no leader.
fn role_of(state: &MemberState, leader: Option<u64>) -> &'static str {
    match (leader, state.member.role) {
        (None, _) => "",
        (Some(leader), _) if leader == state.member.raft_id => "minter",
        (Some(_), MemberRole::Voter) => "verifier",
        (Some(_), MemberRole::Learner) => "learner",
    }
}

/// "minter", "verifier" or "learner"; "" while there is no leader, and on a node that is no member (any more).
async fn role(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let view = node.ctx.membership.view();
    json(view.own().map_or("", |own| role_of(own, view.leader)))
}

/// The leader's public key: 128 hexadecimal digits, as in its enode.
async fn leader(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let view = node.membership_as_member()?;
    let leader = view.leader.and_then(|leader| view.member(leader));
    let leader = leader.ok_or(RpcError::NoLeader)?;
    json(&public_key_hex(&leader.member.node_id))
}

/// The raft id of the member with this key: an enode, or any form that `raft_addPeer` takes.
async fn raft_id(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let text: String = args.required("enodeId")?;
    args.end()?;
    let view = node.membership_as_member()?;
    let key = parse_member_key(&text).map_err(|e| RpcError::argument("enodeId", e))?;
    let known = view
        .members
        .iter()
        .find(|state| state.member.node_id == key)
        .ok_or(RpcError::UnknownNode { node: text })?;
    json(&known.member.raft_id)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberView<'a> {
    raft_id: u64,
    node_id: String,
    p2p_port: u16,
    /// The members' network carries both.
    raft_port: u16,
    hostname: String,
    role: &'static str,
    node_active: bool,
    /// Our own form of the key, as in genesis and configuration.
    public_key: String,
    organisation: &'a str,
    leaving: bool,
    lag: Option<u64>,
}

/// All members; none on a node that is no member (any more).
async fn members(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let view = node.ctx.membership.view();
    let shown = |state| member_view(state, view.leader);
    let members = match view.this {
        Some(_) => view.members.iter().map(shown).collect(),
        None => Vec::new(),
    };
    json(&members)
}

fn member_view(state: &MemberState, leader: Option<u64>) -> MemberView<'_> {
    let member = &state.member;
    let (hostname, port) = host_and_port(&member.address);
    MemberView {
        raft_id: member.raft_id,
        node_id: public_key_hex(&member.node_id),
        p2p_port: port,
        raft_port: port,
        hostname,
        role: role_of(state, leader),
        node_active: state.connected,
        public_key: member.node_id.to_string(),
        organisation: &member.organisation,
        leaving: state.leaving,
        lag: state.lag,
    }
}
