//! The chain as everyone may read it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Address, B256};
use parking_lot::RwLock;
use quorate_chain::{
    BlockLimits, BlockStore, ChainSpec, Genesis, PruneReport, SharedBlock, StoreError,
    TransactionLocation,
};
use quorate_evm::{BlockContext, BlockHashes};
use quorate_state::{HistoryError, Snapshot, StateStore};
use raft_adapter::MemberTable;
use tokio::sync::{broadcast, watch};

use crate::Fatal;
use crate::membership::{DetailsError, sealers_of};

/// Events kept for a slow subscriber. One that lags further is told so by its receiver and reads what it
/// missed from the store by height.
const EVENTS: usize = 1_024;

/// Something that happened to the chain.
#[derive(Debug, Clone)]
pub enum ChainEvent {
    /// A block became part of the chain. It is in the store, and the state has advanced.
    Imported(SharedBlock),
}

/// Read access to blocks and state, and the news about them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    spec: ChainSpec,
    limits: BlockLimits,
    gas_limit: u64,
    /// Nodes whose seals are accepted: everyone who is or was a member.
    sealers: RwLock<Arc<BTreeSet<Address>>>,
    blocks: Arc<BlockStore>,
    state: Arc<StateStore>,
    head: watch::Sender<u64>,
    /// Last Raft index that the importer has dealt with.
    applied: watch::Sender<u64>,
    events: broadcast::Sender<ChainEvent>,
    state_durable: AtomicU64,
}

impl Ledger {
    /// Joins the stores of one node. Both must be at the same height; see [`crate::catch_up_state`].
    pub fn new(genesis: &Genesis, blocks: Arc<BlockStore>, state: Arc<StateStore>) -> Self {
        let head = blocks.head();
        Self {
            shared: Arc::new(Shared {
                spec: genesis.spec().clone(),
                limits: genesis.block_limits(),
                gas_limit: genesis.gas_limit(),
                sealers: RwLock::new(Arc::new(
                    genesis
                        .members()
                        .iter()
                        .map(|m| m.node_id.address())
                        .collect(),
                )),
                head: watch::Sender::new(head.height()),
                applied: watch::Sender::new(head.raft_index),
                events: broadcast::Sender::new(EVENTS),
                state_durable: AtomicU64::new(state.durable_height()),
                blocks,
                state,
            }),
        }
    }

    /// Chain id and forks.
    pub fn spec(&self) -> &ChainSpec {
        &self.shared.spec
    }

    /// Gas limit of every block.
    pub fn gas_limit(&self) -> u64 {
        self.shared.gas_limit
    }

    /// Limits on one block.
    pub fn block_limits(&self) -> BlockLimits {
        self.shared.limits
    }

    /// Takes over who is, and who ever was, a member.
    ///
    /// # Errors
    /// [`DetailsError`]: the table is not one of this chain; then nothing changes.
    pub fn adopt_members(&self, table: &MemberTable) -> Result<(), DetailsError> {
        let sealers = sealers_of(table)?;
        *self.shared.sealers.write() = Arc::new(sealers);
        Ok(())
    }

    /// True if this node is, or ever was, a member: others' blocks are not accepted.
    pub fn is_sealer(&self, node: &Address) -> bool {
        self.shared.sealers.read().contains(node)
    }

    pub(crate) fn sealers(&self) -> Arc<BTreeSet<Address>> {
        Arc::clone(&self.shared.sealers.read())
    }

    /// Block 0.
    pub fn genesis(&self) -> SharedBlock {
        self.shared.blocks.genesis()
    }

    /// The last imported block.
    pub fn head(&self) -> SharedBlock {
        self.shared.blocks.head()
    }

    /// Height of the head, and its changes.
    pub fn watch_head(&self) -> watch::Receiver<u64> {
        self.shared.head.subscribe()
    }

    /// The block at `height`, or `None` above the head.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn block(&self, height: u64) -> Result<Option<SharedBlock>, StoreError> {
        self.shared.blocks.block(height)
    }

    /// The block with this hash.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn block_by_hash(&self, hash: &B256) -> Result<Option<SharedBlock>, StoreError> {
        match self.shared.blocks.height_of(hash)? {
            Some(height) => self.shared.blocks.block(height),
            None => Ok(None),
        }
    }

    /// Where a transaction stands.
    ///
    /// # Errors
    /// [`StoreError`] if the index cannot be read.
    pub fn locate(&self, transaction: &B256) -> Result<Option<TransactionLocation>, StoreError> {
        self.shared.blocks.locate(transaction)
    }

    /// The state after the block at `height`.
    ///
    /// # Errors
    /// [`HistoryError`] if that height is not there yet or not there any more.
    pub fn state_at(&self, height: u64) -> Result<Snapshot, HistoryError> {
        self.shared.state.at(height)
    }

    /// The state as of the head.
    pub fn latest_state(&self) -> Snapshot {
        self.shared.state.latest()
    }

    /// Height up to which the state survives a power loss without re-execution.
    pub fn state_durable_height(&self) -> u64 {
        self.shared.state_durable.load(Ordering::Relaxed)
    }

    /// News from now on. A receiver that lagged must read the missing heights with [`Self::block`].
    pub fn subscribe(&self) -> broadcast::Receiver<ChainEvent> {
        self.shared.events.subscribe()
    }

    /// Last Raft index that the importer has dealt with. For a single look, rather than [`Self::watch_applied`]: whoever looks
    /// twice in one expression through that holds the first look's lock at the second, and if the importer is waiting for it
    /// in between, neither ever goes on.
    pub fn applied(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Last Raft index that the importer has dealt with, and its changes.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// The EVM environment of the block at `height` with this header's values.
    pub fn context_of(header: &alloy_consensus::Header) -> BlockContext {
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

    /// The hashes of the chain's blocks, for the EVM.
    pub fn hashes(&self) -> ChainHashes {
        ChainHashes {
            blocks: Arc::clone(&self.shared.blocks),
            pending: Vec::new(),
        }
    }

    /// Lowest height above 0 whose block is held.
    pub fn base(&self) -> u64 {
        self.shared.blocks.base()
    }

    /// Drops blocks, receipts and old state below `below`, but never what is needed to open again. While the node runs.
    ///
    /// # Errors
    /// [`Fatal`]: a store failed.
    pub fn prune(&self, below: u64) -> Result<PruneReport, Fatal> {
        let below = below.min(self.shared.state.durable_height());
        let report = self.shared.blocks.prune(below)?;
        self.shared.state.prune_history(report.base)?;
        Ok(report)
    }

    pub(crate) fn blocks(&self) -> &Arc<BlockStore> {
        &self.shared.blocks
    }

    pub(crate) fn state(&self) -> &Arc<StateStore> {
        &self.shared.state
    }

    pub(crate) fn announce(&self, block: SharedBlock) {
        self.shared.head.send_replace(block.height());
        // Nobody listening is a normal state.
        drop(self.shared.events.send(ChainEvent::Imported(block)));
    }

    pub(crate) fn set_applied(&self, index: u64) {
        self.shared.applied.send_replace(index);
    }

    pub(crate) fn set_state_durable(&self, height: u64) {
        self.shared.state_durable.store(height, Ordering::Relaxed);
    }
}

/// Hashes of blocks by height: those of the chain, and those that the minter has sealed on top of it.
#[derive(Debug, Clone)]
pub struct ChainHashes {
    blocks: Arc<BlockStore>,
    pending: Vec<(u64, B256)>,
}

impl ChainHashes {
    pub(crate) fn with_pending(mut self, pending: Vec<(u64, B256)>) -> Self {
        self.pending = pending;
        self
    }
}

impl BlockHashes for ChainHashes {
    fn block_hash(&self, height: u64) -> Option<B256> {
        if let Some((_, hash)) = self.pending.iter().find(|(h, _)| *h == height) {
            return Some(*hash);
        }
        self.blocks.hash_at(height).ok().flatten()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use crate::test_chain::Stores;

    #[test]
    fn looking_twice_at_what_is_applied_never_holds_up_the_importer() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Stores::open(folder.path()).ledger();
        let (done, ended) = mpsc::sync_channel(1);
        for looks in [false, true] {
            let (ledger, done) = (ledger.clone(), done.clone());
            std::thread::spawn(move || {
                for index in 0..300_000 {
                    if looks {
                        assert!([ledger.applied(), ledger.applied()].is_sorted());
                    } else {
                        ledger.set_applied(index);
                    }
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..2 {
            // Far more than it takes: it only ends a test that would hang.
            ended.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }
}
