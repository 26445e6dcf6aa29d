//! Behaviour of block execution and of calls, on states in memory, and a portion of Ethereum's public vectors.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail loudly")]

mod blocks;
mod calls;
mod contracts;
mod private;
mod quorum;
mod rules;
mod vectors;
mod world;

#[path = "../../examples/state-vectors/runner/mod.rs"]
mod runner;
