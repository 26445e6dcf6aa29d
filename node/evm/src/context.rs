//! What a block tells its transactions about itself.

use std::sync::Arc;

use alloy_primitives::{Address, B256};

/// The environment of one block. Every value comes from the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockContext {
    /// Height of the block.
    pub height: u64,
    /// Seconds.
    pub timestamp: u64,
    /// Who receives the tips.
    pub coinbase: Address,
    /// Gas limit of the block.
    pub gas_limit: u64,
    /// What PREVRANDAO answers (EIP-4399). Before Paris: what DIFFICULTY answers, as a number.
    pub prevrandao: B256,
    /// Base fee per gas in wei (EIP-1559); 0 by default on this chain, and 0 before London.
    pub base_fee: u64,
    /// Excess blob gas (EIP-4844); 0 on this chain.
    pub excess_blob_gas: u64,
    /// Hash of the parent block: what BLOCKHASH answers for `height - 1`, and what EIP-2935 stores.
    pub parent_hash: B256,
    /// Root of the parent beacon block (EIP-4788); zero on this chain.
    pub parent_beacon_root: B256,
}

/// Hashes of ancestors, for BLOCKHASH.
pub trait BlockHashes: Send + Sync {
    /// The hash of the ancestor at `height`. Only the 256 heights before the block are asked for, and the parent is not, because
    /// [`BlockContext::parent_hash`] is known. `None` ends the execution with an error: a guess would be a fork.
    fn block_hash(&self, height: u64) -> Option<B256>;
}

impl<T: BlockHashes + ?Sized> BlockHashes for &T {
    fn block_hash(&self, height: u64) -> Option<B256> {
        (**self).block_hash(height)
    }
}

impl<T: BlockHashes + ?Sized> BlockHashes for Arc<T> {
    fn block_hash(&self, height: u64) -> Option<B256> {
        (**self).block_hash(height)
    }
}
