//! A party: its ledger on storages that can crash, and its executor.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use quorate_enclave::{NodeKey, PublicKey};
use quorate_kv::MemoryKv;
use quorate_privacy::{
    ExecutorConfig, Payloads, PrivateExecutor, PrivateFatal, PrivateLedger, PrivateRecord,
    PublicChain,
};
use quorate_state::{FlushPolicy, StateConfig, StateRead as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

/// Flushes often, so that crashes find all kinds of disks.
pub fn small_flushes() -> StateConfig {
    StateConfig {
        flush: FlushPolicy {
            blocks: 3,
            ..FlushPolicy::default()
        },
        ..StateConfig::default()
    }
}

/// A node that may be a party.
#[derive(Debug, Clone)]
pub struct Party {
    pub number: u8,
    pub state_kv: Arc<MemoryKv>,
    pub index_kv: Arc<MemoryKv>,
    pub ledger: PrivateLedger,
    pub payloads: Arc<FakePayloads>,
}

/// A party's executor at work.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), PrivateFatal>>,
}

impl Party {
    pub fn new(number: u8) -> Self {
        let (state_kv, index_kv) = (Arc::new(MemoryKv::new()), Arc::new(MemoryKv::new()));
        Self {
            number,
            ledger: open(&state_kv, &index_kv),
            state_kv,
            index_kv,
            payloads: Arc::default(),
        }
    }

    /// The same payloads, nothing executed.
    pub fn afresh(&self) -> Self {
        Self {
            payloads: Arc::clone(&self.payloads),
            ..Self::new(self.number)
        }
    }

    pub fn key(&self) -> PublicKey {
        party_key(self.number)
    }

    pub fn node(&self) -> NodeKey {
        NodeKey::repeat_byte(self.number)
    }

    pub fn reopen(&mut self) {
        self.ledger = open(&self.state_kv, &self.index_kv);
    }

    pub fn start(&self, chain: &Arc<Chain>) -> Running {
        let config = ExecutorConfig {
            scan_blocks: 4,
            lookups: 3,
            retry_min: Duration::from_millis(5),
            retry_max: Duration::from_millis(50),
            ..ExecutorConfig::default()
        };
        let executor = PrivateExecutor::new(
            self.ledger.clone(),
            Arc::clone(chain) as Arc<dyn PublicChain>,
            Arc::clone(&self.payloads) as Arc<dyn Payloads>,
            config,
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(executor.run(stop.clone()));
        Running { stop, task }
    }

    /// Executes up to the head and stops.
    pub async fn catch_up(&self, chain: &Arc<Chain>) {
        let running = self.start(chain);
        running.ended_or_stopped(self, chain.head()).await.unwrap();
        assert_eq!(self.ledger.cursor(), chain.head());
    }

    pub async fn arrive(&self, height: u64) {
        self.ledger.reached(height, PATIENCE).await.unwrap();
    }

    /// Until execution says what the closure wants.
    pub async fn until(&self, wanted: impl FnMut(&quorate_privacy::PrivateStatus) -> bool) {
        let mut status = self.ledger.watch();
        let arrived = status.wait_for(wanted);
        tokio::time::timeout(PATIENCE, arrived)
            .await
            .unwrap()
            .unwrap();
    }

    pub fn slot(&self, contract: Address) -> U256 {
        let height = self.ledger.cursor();
        self.slot_at(contract, height)
    }

    pub fn slot_at(&self, contract: Address, height: u64) -> U256 {
        let state = self.ledger.state_at(height).unwrap();
        state.storage(&contract, &U256::ZERO).unwrap()
    }

    pub fn record(&self, transaction: B256) -> PrivateRecord {
        self.recorded(transaction).unwrap()
    }

    /// `None` if this node is no party of it, or has not got there yet.
    pub fn recorded(&self, transaction: B256) -> Option<PrivateRecord> {
        let all = self.ledger.records(0, u64::MAX, usize::MAX).unwrap();
        let found = all.into_iter().find(|r| r.transaction == transaction)?;
        let alone = self.ledger.record(found.height, found.position).unwrap();
        assert_eq!(alone.as_ref(), Some(&found));
        alone
    }

    pub fn root(&self) -> B256 {
        self.ledger.status().state_root
    }

    /// Everything that two runs must agree on.
    pub fn trace(&self) -> Vec<(B256, Vec<PrivateRecord>)> {
        (0..=self.ledger.cursor())
            .map(|height| {
                let records = self.ledger.records(height, height, usize::MAX).unwrap();
                (self.ledger.root_at(height).unwrap(), records)
            })
            .collect()
    }
}

impl Running {
    /// A clean stop.
    pub async fn stop(self) -> Result<(), PrivateFatal> {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    /// Ends without making anything durable. What a thread was about to write is written still, as before a loss of power.
    pub async fn kill(self, party: &mut Party) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        party.ledger = Party::new(party.number).ledger;
        while Arc::strong_count(&party.index_kv) > 1 || Arc::strong_count(&party.state_kv) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub fn open(state: &Arc<MemoryKv>, index: &Arc<MemoryKv>) -> PrivateLedger {
    let (state, index) = (Arc::clone(state), Arc::clone(index));
    PrivateLedger::open_on(state, index, CHAIN_ID, B256::ZERO, small_flushes()).unwrap()
}

pub fn party_key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

impl Running {
    /// How it ended by itself, or, if it got through, at the flush of a clean stop.
    pub async fn ended_or_stopped(
        mut self,
        party: &Party,
        height: u64,
    ) -> Result<(), PrivateFatal> {
        tokio::select! {
            ended = &mut self.task => return ended.unwrap(),
            () = party.arrive(height) => {}
        }
        self.stop().await
    }
}
