//! Private execution on a small real chain.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod crashes;
mod execution;
mod extension;
mod flags;
mod forms;
mod history;
mod orders;
mod script;
mod waiting;
mod world;
