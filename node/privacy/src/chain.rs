//! The public chain as private execution reads it.

use std::fmt::Debug;
use std::sync::Arc;

use alloy_consensus::Header;
use quorate_chain::{ChainSpec, SharedBlock, StoreError};
use quorate_evm::{BlockContext, BlockHashes};
use quorate_state::{HistoryError, Snapshot};
use tokio::sync::watch;

/// Blocks and public states of this node. Reads may block on the disk.
pub trait PublicChain: Send + Sync + Debug {
    /// Chain id and forks.
    fn spec(&self) -> &ChainSpec;

    /// Height of the last imported block.
    fn head(&self) -> u64;

    /// Height of the last imported block, and its changes.
    fn watch_head(&self) -> watch::Receiver<u64>;

    /// The block at `height`, or `None` above the head.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] below [`base`](Self::base); else the store failed.
    fn block(&self, height: u64) -> Result<Option<SharedBlock>, StoreError>;

    /// The public state after the block at `height`.
    ///
    /// # Errors
    /// [`HistoryError`] if that height is not there yet or not there any more.
    fn state_at(&self, height: u64) -> Result<Snapshot, HistoryError>;

    /// Hashes of the chain's blocks, for the EVM.
    fn hashes(&self) -> Arc<dyn BlockHashes>;

    /// Lowest height above 0 whose block is held.
    fn base(&self) -> u64;
}

/// The environment of the block with this header.
pub(crate) fn context_of(header: &Header) -> BlockContext {
    BlockContext {
        height: header.number,
        timestamp: header.timestamp,
        coinbase: header.beneficiary,
        gas_limit: header.gas_limit,
        prevrandao: header.mix_hash,
        base_fee: header.base_fee_per_gas.unwrap_or_default(),
        excess_blob_gas: header.excess_blob_gas.unwrap_or_default(),
        parent_hash: header.parent_hash,
        parent_beacon_root: header.parent_beacon_block_root.unwrap_or_default(),
    }
}
