//! Whole-node tests: real processes, real sockets, the binary as it ships.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may fail loudly"
)]

mod acceptance;
mod architecture;
mod bad_input;
mod chain;
mod chaos;
mod cli;
mod clients;
mod consortium;
mod containers;
mod dashboards;
mod enclave;
mod hostile;
mod ledger;
mod load;
mod membership;
mod outside;
mod privacy;
mod recovery;
