//! A small real chain, parties with ledgers on storages that can crash, and payloads that arrive when a test wants.

mod chain;
mod code;
mod net;
mod party;
mod payloads;
mod transactions;

use std::time::Duration;

pub use chain::*;
pub use code::*;
pub use net::*;
pub use party::*;
pub use payloads::*;
pub use transactions::*;

pub const CHAIN_ID: u64 = 10;
pub const GAS: u64 = 1_000_000;
const BLOCK_GAS: u64 = 1_000_000_000;
/// Long enough for the slowest machine; nothing is asserted about it.
const PATIENCE: Duration = Duration::from_secs(60);
