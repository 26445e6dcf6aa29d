//! The engine on real ordering, real stores and a real pool, with one member and no network.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod bench_node;
mod import;
mod mint;
