//! The servers over a real chain of one member: real ordering, minter, importer, pool, state and block store; only the
//! network is a fake. Clients speak HTTP, WebSocket and gRPC over loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod chain;
mod client;
mod extensions;
mod grpc;
mod json_rpc;
mod limits;
mod logs;
mod members;
mod membership;
mod parties;
mod privacy_grpc;
mod private_reads;
mod private_sends;
mod pruned;
mod schemas;
mod shutdown;
mod subscriptions;
mod third_party;
