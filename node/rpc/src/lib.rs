//! # What it is
//! The outside world's way in: the gRPC services `quorate.v1.Ledger`, `quorate.v1.Membership` and `quorate.v1.Privacy`, and Ethereum
//! JSON-RPC with Quorum's private transactions over HTTP and WebSocket on one port. It translates requests into questions to the
//! other rooms and their answers back.
//!
//! # Flow
//! ```text
//! HTTP, WebSocket ─► json ─┐                ┌─► PoolHandle      submit, nonces, fates
//!                          ├─► Node (limits)┼─► Ledger          blocks, receipts, state, news
//! gRPC ────────────► grpc ─┘                ├─► quorate-evm     call, estimate: bounded, on threads of their own
//!                                           ├─► RaftHandle      role, leader, watermarks
//!                                           └─► PrivacyApi      payloads, private state, parties
//! head of the chain ───────► BlockFeed ──► subscriptions, block streams, Waiters (hash ─► who waits for it)
//! private execution's cursor ─► PrivateFeed ─► private logs of subscriptions
//! ```
//!
//! # You must
//! 1. Bind the listeners and run [`serve_json_rpc`] and [`serve_grpc`] as supervised tasks inside a Tokio runtime.
//! 2. Cancel the token to stop: open requests get [`RpcConfig::shutdown_grace`] to finish.
//! 3. Set [`RpcConfig::gas_price`] to the lowest price that the pool accepts.
//! 4. Implement [`MembershipApi`] so that the same change id is never applied twice: clients repeat undecided changes. Check a
//!    request against the leader's table with [`ChangeRequest::check_against`]; the servers can only check their own view.
//! 5. Implement [`PrivacyApi`] so that an error of a `distribute` means that nothing will be executed for that payload unless a
//!    transaction names it, and that [`PayloadView::NotAParty`] is never the answer to silence.
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
//! - With privacy switched off, and on a node that is no party, every answer is as if there were no private transactions. Nothing
//!   that a client marked as private is sent publicly.
//! - What concerns public contracts never waits for private execution.
//!
//! # It does not
//! Authenticate or encrypt (put a proxy in front), decide anything about consensus or members, or keep state across restarts.
//!
//! # Read next
//! `context.rs`, `node.rs`, `json.rs`; for private transactions `privacy.rs`, `json/private/send.rs`, `dual.rs`.

mod config;
mod context;
mod dual;
mod error;
mod feed;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod json;
mod member_url;
mod membership;
mod node;
mod privacy;
mod private_feed;
mod private_form;
pub mod third_party;
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
pub use privacy::{
    Acknowledgements, Distributed, DivergenceAlarm, EXECUTION_WAIT_MS, ExtensionAction,
    ExtensionSend, GiveUp, MemberKeys, MemberResyncView, PRIVACY_PAGE_MAX, PayloadView, PrivacyApi,
    PrivacyError, PrivacySettings, PrivacyStatusView, PrivateArguments, PrivateSend,
    ReceivedPayload, ResyncView, StoredSend, Tag, TransactionParts,
};
