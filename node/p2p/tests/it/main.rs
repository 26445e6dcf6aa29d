//! The network over real sockets on the loopback address. One file per subject; the harness is `consortium.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are outside test functions, where clippy does not see that they are tests"
)]

mod admission;
mod applicants;
mod consortium;
mod direct;
mod discovery;
mod gossip;
mod hostile;
mod latency;
mod membership;
mod privacy;
mod queries;
mod raft;
mod reconnect;
