//! A chain in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Address, B256, U256};
use parking_lot::RwLock;
use quorate_chain::{
    BlockTemplate, ChainSpec, DraftBlock, ExecutedRoots, Fork, ImportedBlock, RecoveredTransaction,
    SealedBlock, Sealer, SharedBlock, StoreError,
};
use quorate_evm::{BlockContext, BlockHashes, execute_block};
use quorate_kv::MemoryKv;
use quorate_privacy::PublicChain;
use quorate_state::{GenesisAccount, HistoryError, Snapshot, StateRead as _, StateStore};
use tokio::sync::watch;

use super::*;

/// A chain in memory.
#[derive(Debug)]
pub struct Chain {
    spec: ChainSpec,
    state: StateStore,
    blocks: RwLock<Vec<SharedBlock>>,
    base: AtomicU64,
    history: AtomicU64,
    head: watch::Sender<u64>,
    sealer: Sealer,
}

struct Hashes(Vec<B256>);

impl BlockHashes for Hashes {
    fn block_hash(&self, height: u64) -> Option<B256> {
        self.0.get(usize::try_from(height).ok()?).copied()
    }
}

impl Chain {
    pub fn new() -> Arc<Self> {
        let rich = GenesisAccount {
            balance: U256::from(u128::MAX),
            ..GenesisAccount::default()
        };
        let alloc = [ALICE, BOB, 3].map(|number| (user(number), rich.clone()));
        let state = StateStore::open(Arc::new(MemoryKv::new()), &alloc, B256::ZERO).unwrap();
        let header = alloy_consensus::Header {
            state_root: state.latest().state_root(),
            gas_limit: BLOCK_GAS,
            ..alloy_consensus::Header::default()
        };
        let genesis = ImportedBlock {
            block: SealedBlock::genesis(header),
            senders: Vec::new(),
            receipts: Vec::new(),
            raft_index: 0,
        };
        Arc::new(Self {
            spec: ChainSpec::with_fork(CHAIN_ID, Fork::Prague),
            state,
            blocks: RwLock::new(vec![Arc::new(genesis)]),
            base: AtomicU64::new(1),
            history: AtomicU64::new(0),
            head: watch::Sender::new(0),
            sealer: Sealer::new(user_key(99)),
        })
    }

    /// Imports a block with these transactions.
    pub fn mine(&self, transactions: Vec<RecoveredTransaction>) -> u64 {
        let parent = Arc::clone(self.blocks.read().last().unwrap());
        let template = BlockTemplate {
            parent_hash: parent.hash(),
            height: parent.height() + 1,
            timestamp: 1_000 + parent.height(),
            coinbase: self.sealer.node_id().address(),
            gas_limit: BLOCK_GAS,
        };
        let context = BlockContext {
            height: template.height,
            timestamp: template.timestamp,
            coinbase: template.coinbase,
            gas_limit: template.gas_limit,
            parent_hash: template.parent_hash,
            ..BlockContext::default()
        };
        let before = self.state.latest();
        let hashes = self.hashes();
        let outcome = execute_block(&self.spec, context, &before, &hashes, &transactions).unwrap();
        let after = before.apply(&outcome.diff).unwrap();
        let roots = ExecutedRoots {
            state_root: after.state_root(),
            gas_used: outcome.gas_used,
        };
        let senders = transactions
            .iter()
            .map(RecoveredTransaction::sender)
            .collect();
        let draft = DraftBlock::new(
            &template,
            &self.spec,
            transactions,
            &outcome.receipts,
            roots,
        );
        let block = ImportedBlock {
            block: draft.seal(&self.sealer, 1),
            senders,
            receipts: outcome.receipts,
            raft_index: template.height,
        };
        self.state.advance(after).unwrap();
        self.blocks.write().push(Arc::new(block));
        self.head.send_replace(template.height);
        template.height
    }

    /// Keeps no block below `base` and no state below `history`.
    pub fn prune(&self, base: u64, history: u64) {
        self.base.store(base, Ordering::SeqCst);
        self.history.store(history, Ordering::SeqCst);
    }

    pub fn public_slot(&self, contract: Address) -> U256 {
        self.state.latest().storage(&contract, &U256::ZERO).unwrap()
    }

    pub fn nonce(&self, who: u8) -> u64 {
        let account = self.state.latest().account(&user(who)).unwrap();
        account.unwrap_or_default().nonce
    }
}

impl PublicChain for Chain {
    fn spec(&self) -> &ChainSpec {
        &self.spec
    }
    fn head(&self) -> u64 {
        *self.head.borrow()
    }
    fn watch_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
    fn block(&self, height: u64) -> Result<Option<SharedBlock>, StoreError> {
        let below = self.base();
        if height > 0 && height < below {
            return Err(StoreError::Pruned { below });
        }
        let position = usize::try_from(height).unwrap();
        Ok(self.blocks.read().get(position).cloned())
    }
    fn state_at(&self, height: u64) -> Result<Snapshot, HistoryError> {
        let first = self.history.load(Ordering::SeqCst);
        if height < first {
            let requested = height;
            return Err(HistoryError::Pruned { requested, first });
        }
        self.state.at(height)
    }
    fn hashes(&self) -> Arc<dyn BlockHashes> {
        let blocks = self.blocks.read();
        Arc::new(Hashes(blocks.iter().map(|block| block.hash()).collect()))
    }
    fn base(&self) -> u64 {
        self.base.load(Ordering::SeqCst)
    }
}
