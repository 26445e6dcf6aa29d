//! # What it is
//! The outside world's way in: the gRPC services `quorate.v1.Ledger` and `quorate.v1.Membership`, and Ethereum JSON-RPC over
//! HTTP and WebSocket on one port. It translates requests into questions to the other rooms and their answers back.
//!
//! # Flow
//! ```text
//! HTTP, WebSocket ─► json ─┐                ┌─► PoolHandle      submit, nonces, fates
//!                          ├─► Node (limits)┼─► Ledger          blocks, receipts, state, news
//! gRPC ────────────► grpc ─┘                ├─► quorate-evm     call, estimate: bounded, on threads of their own
//!                                           └─► RaftHandle      role, leader, watermarks
//! head of the chain ─► BlockFeed ─► subscriptions, block streams, Waiters (hash ─► who waits for it)
//! ```
//!
//! # You must
//! 1. Bind the listeners and run [`serve_json_rpc`] and [`serve_grpc`] as supervised tasks inside a Tokio runtime.
//! 2. Cancel the token to stop: open requests get [`RpcConfig::shutdown_grace`] to finish.
//! 3. Set [`RpcConfig::gas_price`] to the lowest price that the pool accepts.
//! 4. Implement [`MembershipApi`] so that the same change id is never applied twice: clients repeat undecided changes. Check a
//!    request against the leader's table with [`ChangeRequest::check_against`]; the servers can only check their own view.
//!
//! # It promises
//! - What one answer has shown, later answers show too: nothing is served from a block before the state of that block is
//!   in force.
//! - Subscriptions and block streams have no holes and keep the order of the chain, however slow the reader is; one that
//!   does not read at all is cut off.
//! - Everything that a client can make grow has a limit in [`RpcConfig`], and a typed refusal beyond it.
//! - Codes and texts of errors come from `error.rs` and `error/` alone.
//! - A membership change is answered when it is in force; else the answer says whether it may still come to be, and under
//!   which id to ask again.
//!
//! # It does not
//! Authenticate or encrypt (put a proxy in front), decide anything about consensus or members, or keep state across restarts.
//!
//! # Read next
//! `context.rs`, `node.rs`, `json.rs`.

mod config;
mod context;
mod error;
mod feed;
mod grpc;
mod json;
mod member_url;
mod membership;
mod node;
mod waiters;

pub use config::{ConfigError, Namespace, RpcConfig};
pub use context::{
    AccountSigner, LocalInfo, NetworkInfo, NodeIdentity, PeerInfo, RpcContext, SignError,
};
pub use error::{RpcError, ServeError, membership_fault};
pub use grpc::serve_grpc;
pub use json::serve_json_rpc;
pub use member_url::{MemberUrlError, parse_member_url};
pub use membership::{
    ADDRESS_BYTES_MAX, Applicant, BreakRecord, CHANGE_STEPS_MAX, ChangeReport, ChangeRequest,
    ChangeStep, MemberState, MembershipApi, MembershipError, MembershipView,
    ORGANISATION_BYTES_MAX, RemovedMember,
};
