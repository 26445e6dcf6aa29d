//! The store as its callers see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

mod crash;
mod export;
mod flushing;
mod genesis;
mod history;
mod model;
mod prune;
mod snapshots;
