//! Roles and members with Quorum's names and shapes, so that existing scripts go on working.

use std::sync::Arc;

use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{Member, MemberRole};
use raft_adapter::Role;
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json};
use crate::RpcError;
use crate::json::enode::{host_and_port, public_key_hex};
use crate::node::Node;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "raft_role", role)?;
    method(module, "raft_leader", leader)?;
    method(module, "raft_cluster", members)
}

/// "minter", "verifier" or "learner"; "" while there is no leader.
async fn role(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let status = node.ctx.raft.status();
    json(match (status.leader, status.role) {
        (None, _) => "",
        (Some(_), Role::Leader) => "minter",
        (Some(_), Role::Learner) => "learner",
        (Some(_), Role::Follower | Role::Candidate) => "verifier",
    })
}

/// The leader's public key: 128 hexadecimal digits, as in its enode.
async fn leader(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let leader = node.ctx.raft.status().leader.ok_or(RpcError::NoLeader)?;
    let members = node.ledger().members();
    let member = members
        .iter()
        .find(|member| member.raft_id == leader.0)
        .ok_or(RpcError::NoLeader)?;
    json(&public_key_hex(&member.node_id))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberView {
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
    organisation: String,
}

async fn members(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let leader = node.ctx.raft.status().leader;
    let connected: Vec<u64> = node
        .ctx
        .network
        .peers()
        .into_iter()
        .filter(|peer| peer.connected)
        .map(|peer| peer.raft_id)
        .collect();
    let view = |member: &Member| {
        let (hostname, port) = host_and_port(&member.address);
        MemberView {
            raft_id: member.raft_id,
            node_id: public_key_hex(&member.node_id),
            p2p_port: port,
            raft_port: port,
            hostname,
            role: match (leader, member.role) {
                (None, _) => "",
                (Some(leader), _) if leader.0 == member.raft_id => "minter",
                (Some(_), MemberRole::Voter) => "verifier",
                (Some(_), MemberRole::Learner) => "learner",
            },
            node_active: member.raft_id == node.ctx.node.raft_id
                || connected.contains(&member.raft_id),
            public_key: member.node_id.to_string(),
            organisation: member.organisation.clone(),
        }
    };
    json(&node.ledger().members().iter().map(view).collect::<Vec<_>>())
}
