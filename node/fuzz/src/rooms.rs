//! The targets, one file per room.

mod chain;
mod enclave;
mod engine;
mod node;
mod p2p;
mod privacy;
mod raft;
mod raft_log;
mod rpc;
mod state;

use crate::Target;

/// The targets of all rooms.
pub(crate) const ALL: &[&[Target]] = &[
    p2p::TARGETS,
    raft::TARGETS,
    raft_log::TARGETS,
    chain::TARGETS,
    state::TARGETS,
    engine::TARGETS,
    enclave::TARGETS,
    privacy::TARGETS,
    rpc::TARGETS,
    node::TARGETS,
];
