//! # What it is
//! The transactions that could be minted: admission, order per sender, fairness between senders, replacement,
//! limits, and the memory of what became of those that left.
//!
//! # Flow
//! ```text
//! bytes ─► decode ─► recover sender (parallel) ─► rules of the chain ─► [`Pool::admit`] ─► queue of its sender
//!                                                                                       │ take_best (leader's minter)
//!                                        on_block: leave ◄── committed ◄── in flight ◄──┘
//!                                        lost leader: offered again ◄─────────┘
//! ```
//!
//! # You must
//! 1. Call [`PoolHandle::on_block`] for every imported block, after the state has advanced.
//! 2. Call [`PoolHandle::offer_again`] when blocks that this node minted will not commit.
//! 3. Call [`PoolHandle::expire`] from time to time.
//!
//! # It promises
//! - Every refusal and every departure has a typed reason; the newest departures are remembered.
//! - Transactions of one sender are offered in nonce order without gaps; senders take turns.
//! - What leaves the pool for a block is signed for this chain, or is a private transaction in Quorum's form, which has no chain id.
//! - Counts and bytes stay within the limits of [`PoolConfig`].
//!
//! # It does not
//! Gossip, persist, execute, or decide what a block may contain.
//!
//! # Read next
//! `pool.rs`, `admission.rs`, `handle.rs`.

mod admission;
mod config;
mod error;
mod fate;
mod handle;
mod pool;
mod recent;
mod sender;

pub use config::PoolConfig;
pub use error::AdmitError;
pub use fate::{DropReason, Fate};
pub use handle::{PoolEvent, PoolHandle, StateSource};
pub use pool::{Pool, PoolCounts, PooledTransaction};
