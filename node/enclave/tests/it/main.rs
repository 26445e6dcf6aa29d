//! The enclave as its users see it: what both implementations answer, and what the remote one answers when it is not there.

#![allow(
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach their shared functions"
)]

mod behaviour;
mod binary;
mod on_disk;
mod parties;
mod remote;
