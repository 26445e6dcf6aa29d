//! Exchanges in one process, over a network that loses and alters what it is told to.

#![allow(
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not reach their shared functions"
)]

mod behaviour;
mod crashes;
mod erasing;
mod extension;
mod hostile;
mod network;
mod recovery;
mod results;
mod sequence;
