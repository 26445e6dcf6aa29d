//! The engine on real ordering, real stores and a real pool, with one member and no network.

mod bench_node;
mod import;
mod mint;
