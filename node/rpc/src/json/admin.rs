//! This node and its peers, for operators: `admin_*` in geth's shapes.

use std::sync::Arc;

use alloy_primitives::{B256, U256, keccak256};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::NodeId;
use serde::Serialize;
use serde_json::json as object;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json};
use crate::member_url::{enode, host_and_port, public_key_hex};
use crate::node::Node;
use crate::{PeerInfo, RpcError};

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "admin_nodeInfo", node_info)?;
    method(module, "admin_peers", peers)?;
    method(module, "admin_addPeer", add_peer)
}

/// geth's id of a node: keccak256 of its 64 key bytes.
fn id_of(node_id: &NodeId) -> String {
    keccak256(hex::decode(public_key_hex(node_id)).unwrap_or_default())
        .to_string()
        .trim_start_matches("0x")
        .to_owned()
}

#[derive(Serialize)]
struct EthProtocol {
    network: u64,
    difficulty: U256,
    genesis: B256,
    head: B256,
}

async fn node_info(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let local = node.ctx.network.local();
    let id = node.ctx.node.node_id;
    let listen = local.listen_addresses.first().cloned().unwrap_or_default();
    let view = node.ctx.membership.view();
    // What the others know this node by says more than a listen address, which may be 0.0.0.0.
    let address = view
        .own()
        .map_or(listen.as_str(), |own| own.member.address.as_str());
    let (ip, port) = host_and_port(address);
    let head = node
        .block(node.head())
        .await?
        .ok_or(RpcError::UnknownBlock)?;
    json(&object!({
        "id": id_of(&id),
        "name": node.ctx.client_version,
        "enode": enode(&id, address),
        "enr": "",
        "ip": ip,
        "ports": { "discovery": 0, "listener": port },
        "listenAddr": listen,
        "peerId": local.peer_id,
        "nodeId": id,
        "raftId": view.this.unwrap_or(node.ctx.node.raft_id),
        "protocols": {
            "eth": EthProtocol {
                network: node.ledger().spec().chain_id(),
                difficulty: U256::ZERO,
                genesis: node.ledger().genesis().hash(),
                head: head.hash(),
            },
        },
    }))
}

async fn peers(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let local = node
        .ctx
        .network
        .local()
        .listen_addresses
        .first()
        .cloned()
        .unwrap_or_default();
    let connected = node
        .ctx
        .network
        .peers()
        .into_iter()
        .filter(|peer| peer.connected);
    json(
        &connected
            .map(|peer| peer_view(&peer, &local))
            .collect::<Vec<_>>(),
    )
}

fn peer_view(peer: &PeerInfo, local: &str) -> serde_json::Value {
    let node_id: Option<NodeId> = peer.node_id.parse().ok();
    object!({
        "enode": node_id.map(|id| enode(&id, &peer.address)).unwrap_or_default(),
        "id": node_id.map(|id| id_of(&id)).unwrap_or_default(),
        "name": peer.agent,
        "caps": [],
        "network": {
            "localAddress": local,
            "remoteAddress": peer.address,
            "inbound": peer.inbound,
            "trusted": true,
            "static": true,
        },
        "protocols": {},
        "peerId": peer.peer_id,
        "nodeId": peer.node_id,
        "raftId": peer.raft_id,
        "roundTripMicros": peer.round_trip.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
    })
}

async fn add_peer(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let url: String = args.required("url")?;
    args.end()?;
    node.ctx
        .network
        .add_peer(&url)
        .map_err(|reason| RpcError::Peer { reason })?;
    json(&true)
}
