//! `net_*` and `web3_*`.

use std::sync::Arc;

use alloy_primitives::{Bytes, keccak256};
use jsonrpsee::server::RegisterMethodError;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, json, size};
use crate::RpcError;
use crate::node::Node;

pub(crate) fn register_net(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "net_version", version)?;
    method(module, "net_listening", listening)?;
    method(module, "net_peerCount", peer_count)
}

pub(crate) fn register_web3(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "web3_clientVersion", client_version)?;
    method(module, "web3_sha3", sha3)
}

async fn version(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&node.ledger().spec().chain_id().to_string())
}

async fn listening(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&!node.ctx.network.local().listen_addresses.is_empty())
}

async fn peer_count(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&size(
        node.ctx
            .network
            .peers()
            .iter()
            .filter(|peer| peer.connected)
            .count(),
    ))
}

async fn client_version(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&node.ctx.client_version)
}

async fn sha3(_: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let data: Bytes = args.required("data")?;
    args.end()?;
    json(&keccak256(&data))
}
