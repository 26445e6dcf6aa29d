//! The targets, one file per subject, and the rooms that they are in.

mod chain;
mod core;
mod enclave;
mod engine;
mod genesis;
mod node;
mod p2p;
mod payloads;
mod privacy;
mod private_node;
mod raft;
mod raft_log;
mod rpc;
mod segments;
mod served;
mod state;

use crate::{Room, target::Target};

const fn room(name: &'static str, targets: &'static [Target]) -> Room {
    Room { name, targets }
}

/// The members' network.
pub const P2P: Room = room("p2p", p2p::TARGETS);
/// Ordering.
pub const RAFT: Room = room("raft", raft::TARGETS);
/// A core that runs.
pub const CORE: Room = room("core", core::TARGETS);
/// The log on the disk.
pub const RAFT_LOG: Room = room("raft-log", raft_log::TARGETS);
/// Transactions and blocks.
pub const CHAIN: Room = room("chain", chain::TARGETS);
/// Genesis files.
pub const GENESIS: Room = room("genesis", genesis::TARGETS);
/// The files of a block store.
pub const SEGMENTS: Room = room("segments", segments::TARGETS);
/// Pieces of a state.
pub const STATE: Room = room("state", state::TARGETS);
/// Snapshots and members' entries.
pub const ENGINE: Room = room("engine", engine::TARGETS);
/// Envelopes, keys, and what a remote enclave is asked.
pub const ENCLAVE: Room = room("enclave", enclave::TARGETS);
/// The files of a payload store.
pub const PAYLOADS: Room = room("payloads", payloads::TARGETS);
/// What is inside payloads and beside them.
pub const PRIVACY: Room = room("privacy", privacy::TARGETS);
/// What clients say, by itself.
pub const RPC: Room = room("rpc", rpc::TARGETS);
/// What clients say to servers.
pub const SERVED: Room = room("served", served::TARGETS);
/// What the node itself reads.
pub const NODE: Room = room("node", node::TARGETS);

/// All of them.
pub const ALL: &[&Room] = &[
    &P2P, &RAFT, &CORE, &RAFT_LOG, &CHAIN, &GENESIS, &SEGMENTS, &STATE, &ENGINE, &ENCLAVE,
    &PAYLOADS, &PRIVACY, &RPC, &SERVED, &NODE,
];
