//! One member, assembled for tests.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Address, Signature, TxKind, U256};
use bytes::Bytes;
use quorate_chain::{
    BlockStore, Genesis, NodeId, RecoveredTransaction, SealedBlock, Sealer, address_of,
};
use quorate_engine::{
    BlockSource, EngineConfig, ExecutedBlocks, Fatal, Flusher, Importer, Ledger, Minter,
    MinterConfig, Target, catch_up_state,
};
use quorate_kv::{Kv, MemoryKv};
use quorate_pool::{PoolConfig, PoolHandle};
use quorate_state::{StateRead, StateStore};
use raft_adapter::{LogIndex, RaftHandle, RaftId, Transport};
use secp256k1::{Message, SECP256K1, SecretKey};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub fn node_key() -> SecretKey {
    SecretKey::from_byte_array([7; 32]).unwrap()
}

pub fn user_key(n: u8) -> SecretKey {
    SecretKey::from_byte_array([n + 100; 32]).unwrap()
}

pub fn user(n: u8) -> Address {
    address_of(&user_key(n).public_key(SECP256K1))
}

pub fn genesis() -> Genesis {
    let node_id = NodeId::of(&node_key().public_key(SECP256K1));
    let alloc: Vec<String> = (0..4)
        .map(|n| format!(r#""{}": {{"balance": "0xffffffffffffffff"}}"#, user(n)))
        .collect();
    Genesis::parse(&format!(
        r#"{{"config": {{"chainId": 7}}, "gasLimit": "0x1c9c380", "alloc": {{{}}},
          "quorate": {{"members": [{{"raftId": 1, "nodeId": "{node_id}", "address": "127.0.0.1:1"}}],
          "blockLimits": {{"maxTransactions": 50}}}}}}"#,
        alloc.join(",")
    ))
    .unwrap()
}

pub fn transfer(from: u8, nonce: u64, value: u64) -> RecoveredTransaction {
    let tx = TxLegacy {
        chain_id: Some(7),
        nonce,
        gas_limit: 21_000,
        to: TxKind::Call(Address::repeat_byte(0xee)),
        value: U256::from(value),
        ..TxLegacy::default()
    };
    let signed = SECP256K1
        .sign_ecdsa_recoverable(Message::from_digest(tx.signature_hash().0), &user_key(from));
    let (id, compact) = signed.serialize_compact();
    let signature = Signature::from_bytes_and_parity(&compact, i32::from(id) == 1);
    RecoveredTransaction::recover(tx.into_signed(signature).into()).unwrap()
}

struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, _: RaftId, _: Bytes) -> bool {
        false
    }
}

impl BlockSource for NoPeers {
    fn fetch(&mut self, _: u64, _: u32, _: u32) -> Vec<Bytes> {
        Vec::new()
    }

    fn snapshot(&mut self, _: u64, _: &Target<'_>) -> Option<u64> {
        None
    }

    fn confirm_snapshot(&mut self, _: u64) {}

    fn reject_snapshot(&mut self) -> bool {
        false
    }

    fn unproved_at(&mut self, _: u64) -> bool {
        false
    }
}

/// What outlives a node: its folder and its key-value stores.
pub struct Disk {
    pub dir: TempDir,
    pub state: Arc<MemoryKv>,
    pub index: Arc<MemoryKv>,
}

impl Disk {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            state: Arc::new(MemoryKv::new()),
            index: Arc::new(MemoryKv::new()),
        }
    }
}

pub struct Node {
    pub ledger: Ledger,
    pub pool: PoolHandle,
    pub raft: RaftHandle,
    stop: CancellationToken,
    raft_thread: JoinHandle<Result<(), raft_adapter::Fatal>>,
    importer: JoinHandle<Result<(), Fatal>>,
    flusher: JoinHandle<Result<(), Fatal>>,
    minter: JoinHandle<Result<(), Fatal>>,
}

impl Node {
    pub fn start(disk: &Disk) -> Self {
        Self::start_with(disk, MinterConfig::default(), true)
    }

    /// `mints`: false leaves proposing to the test.
    pub fn start_with(disk: &Disk, config: MinterConfig, mints: bool) -> Self {
        let genesis = genesis();
        let alloc: Vec<_> = genesis.alloc().map(|(a, g)| (*a, g.clone())).collect();
        let block = SealedBlock::genesis(
            genesis.header(quorate_state::genesis_state_root(genesis.alloc())),
        );
        let index = Arc::clone(&disk.index) as Arc<dyn Kv>;
        let blocks = Arc::new(
            BlockStore::open(&disk.dir.path().join("blocks"), index, block.clone()).unwrap(),
        );
        let kv = Arc::clone(&disk.state) as Arc<dyn Kv>;
        let state = Arc::new(StateStore::open(kv, &alloc, block.hash()).unwrap());
        catch_up_state(&genesis, &blocks, &state).unwrap();
        let ledger = Ledger::new(&genesis, blocks, state);
        let head = ledger.head();
        let source = ledger.clone();
        let pool = PoolHandle::new(
            PoolConfig::default(),
            genesis.spec().clone(),
            genesis.block_limits(),
            genesis.gas_limit(),
            (head.height(), head.block.header().timestamp),
            Arc::new(move || Arc::new(source.latest_state()) as Arc<dyn StateRead>),
        );
        let mut raft_config = raft_adapter::Config::new(RaftId(1), vec![RaftId(1)]);
        raft_config.tick = Duration::from_millis(5);
        let opened = raft_adapter::open(
            raft_config,
            &disk.dir.path().join("raft"),
            LogIndex(head.raft_index),
            Box::new(NoPeers),
        )
        .unwrap();
        let raft = opened.handle;
        let stop = CancellationToken::new();
        let executed = ExecutedBlocks::default();
        let (flusher_handle, flusher) = Flusher::new(ledger.clone(), raft.clone());
        let importer = Importer::new(
            EngineConfig {
                evidence_dir: disk.dir.path().join("evidence"),
            },
            ledger.clone(),
            pool.clone(),
            raft.clone(),
            executed.clone(),
            flusher_handle,
            Box::new(NoPeers),
            stop.clone(),
        );
        let minter = Minter::new(
            config,
            ledger.clone(),
            pool.clone(),
            raft.clone(),
            executed,
            Sealer::new(node_key()),
            Box::new(|| 1_000),
        );
        let (deliveries, runner) = (opened.deliveries, opened.runner);
        let minter_stop = stop.clone();
        Self {
            raft_thread: std::thread::spawn(move || runner.run()),
            importer: std::thread::spawn(move || importer.run(&deliveries)),
            flusher: std::thread::spawn(move || flusher.run()),
            minter: std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                match mints {
                    true => runtime.block_on(minter.run(minter_stop)),
                    false => Ok(()),
                }
            }),
            ledger,
            pool,
            raft,
            stop,
        }
    }

    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "waited in vain until {what}: {:?}",
                self.raft.status()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn wait_height(&self, height: u64) {
        self.wait(&format!("block {height}"), |n| {
            (n.ledger.head().height() >= height).then_some(())
        });
    }

    /// Stops in order; gives back how the importer ended.
    pub fn stop(self) -> Result<(), Fatal> {
        self.stop.cancel();
        self.raft.shutdown();
        self.minter.join().unwrap().unwrap();
        self.raft_thread.join().unwrap().unwrap();
        let imported = self.importer.join().unwrap();
        self.flusher.join().unwrap().unwrap();
        imported
    }
}
