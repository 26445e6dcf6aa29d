//! A consortium of one in this process, and what its clients sign.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEip2930, TxEip7702, TxLegacy};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_eips::eip7702::Authorization;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address};
use bytes::Bytes as RawBytes;
use parking_lot::Mutex;
use quorate_chain::{
    BlockStore, Genesis, SealedBlock, Sealer, StoreConfig, Transaction, address_of,
    quorum_private_hash, quorum_private_transaction,
};
use quorate_engine::{
    BlockSource, EngineConfig, ExecutedBlocks, Flusher, Importer, Ledger, Minter, MinterConfig,
    Target,
};
use quorate_kv::MemoryKv;
use quorate_pool::{PoolConfig, PoolHandle};
use quorate_rpc::{
    AccountSigner, LocalInfo, NetworkInfo, NodeIdentity, PeerInfo, PrivacyApi, RpcConfig,
    RpcContext, ServeError, SignError, serve_grpc, serve_json_rpc,
};
use quorate_state::{StateRead, StateStore, genesis_state_root};
use raft_adapter::{LogIndex, RaftHandle, RaftId, Role, Transport};
use secp256k1::{Message, SECP256K1, SecretKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::members::FakeMembership;

pub const CHAIN_ID: u64 = 1_337;

/// Logs `LOG2(topic 0xaa…, caller)` with the first word of its input.
pub const LOGGER: Address = address!("0x00000000000000000000000000000000000000a1");
/// With input: stores its first word in slot 0. Without: returns slot 0.
pub const STORER: Address = address!("0x00000000000000000000000000000000000000a2");
/// Reverts with `Error("no")`.
pub const REVERTER: Address = address!("0x00000000000000000000000000000000000000a3");
/// Never ends.
pub const SPINNER: Address = address!("0x00000000000000000000000000000000000000a4");

const STORER_CODE: &str = "0x36600f5760005460005260206000f35b60003560005500";
const REVERTER_CODE: &str =
    "0x6308c379a060e01b60005260206004526002602452616e6f60f01b60445260646000fd";
const SPINNER_CODE: &str = "0x5b600056";

fn logger_code() -> String {
    format!("0x600035600052337f{}60206000a200", "aa".repeat(32))
}

pub fn topic() -> B256 {
    B256::repeat_byte(0xaa)
}

/// A key and what it signs.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    key: SecretKey,
    pub address: Address,
}

impl Account {
    pub fn number(n: u8) -> Self {
        let key = SecretKey::from_byte_array([n; 32]).unwrap();
        Self {
            key,
            address: address_of(&key.public_key(SECP256K1)),
        }
    }

    /// The same key as a node's.
    pub fn node_id(&self) -> quorate_chain::NodeId {
        quorate_chain::NodeId::of(&self.key.public_key(SECP256K1))
    }

    pub fn sign(&self, hash: B256) -> Signature {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), &self.key);
        let (id, compact) = signature.serialize_compact();
        Signature::from_bytes_and_parity(&compact, i32::from(id) == 1)
    }

    /// An EIP-1559 transaction that pays nothing for gas.
    pub fn call(&self, nonce: u64, to: Address, value: u64, input: &[u8]) -> Transaction {
        self.call_paying(nonce, to, value, input, 0)
    }

    pub fn call_paying(
        &self,
        nonce: u64,
        to: Address,
        value: u64,
        input: &[u8],
        price: u128,
    ) -> Transaction {
        let tx = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 200_000,
            max_fee_per_gas: price,
            max_priority_fee_per_gas: price,
            to: TxKind::Call(to),
            value: U256::from(value),
            input: Bytes::copy_from_slice(input),
            ..TxEip1559::default()
        };
        let signature = self.sign(tx.signature_hash());
        tx.into_signed(signature).into()
    }

    pub fn transfer(&self, nonce: u64, to: Address, value: u64) -> Transaction {
        self.call(nonce, to, value, &[])
    }

    pub fn legacy(&self, nonce: u64, to: TxKind, input: &[u8]) -> Transaction {
        let tx = TxLegacy {
            chain_id: Some(CHAIN_ID),
            nonce,
            gas_limit: 200_000,
            to,
            input: Bytes::copy_from_slice(input),
            ..TxLegacy::default()
        };
        let signature = self.sign(tx.signature_hash());
        tx.into_signed(signature).into()
    }

    /// A private transaction in Quorum's form.
    pub fn quorum_private(&self, nonce: u64, to: TxKind, hash: &[u8]) -> Transaction {
        let tx = TxLegacy {
            nonce,
            gas_limit: 200_000,
            to,
            input: Bytes::copy_from_slice(hash),
            ..TxLegacy::default()
        };
        let signature = self.sign(quorum_private_hash(&tx));
        quorum_private_transaction(tx, signature).unwrap()
    }

    pub fn with_access_list(&self, nonce: u64, to: Address) -> Transaction {
        let access_list =
            alloy_eips::eip2930::AccessList(vec![alloy_eips::eip2930::AccessListItem {
                address: STORER,
                storage_keys: vec![B256::ZERO],
            }]);
        let tx = TxEip2930 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 200_000,
            to: TxKind::Call(to),
            access_list,
            ..TxEip2930::default()
        };
        let signature = self.sign(tx.signature_hash());
        tx.into_signed(signature).into()
    }

    /// Sets the code of `authority` by EIP-7702.
    pub fn delegating(
        &self,
        nonce: u64,
        authority: &Account,
        authority_nonce: u64,
        to: Address,
    ) -> Transaction {
        let authorization = Authorization {
            chain_id: U256::from(CHAIN_ID),
            address: to,
            nonce: authority_nonce,
        };
        let signed = authority.sign(authorization.signature_hash());
        let tx = TxEip7702 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 300_000,
            to: self.address,
            authorization_list: vec![authorization.into_signed(signed)],
            ..TxEip7702::default()
        };
        let signature = self.sign(tx.signature_hash());
        tx.into_signed(signature).into()
    }
}

pub fn raw(tx: &Transaction) -> Bytes {
    tx.encoded_2718().into()
}

struct FakeSigner(Vec<Account>);

impl AccountSigner for FakeSigner {
    fn accounts(&self) -> Vec<Address> {
        self.0.iter().map(|account| account.address).collect()
    }

    fn sign_hash(&self, account: Address, hash: B256) -> Result<Signature, SignError> {
        let found = self.0.iter().find(|known| known.address == account);
        Ok(found
            .ok_or(SignError::UnknownAccount { account })?
            .sign(hash))
    }
}

struct FakeNetwork {
    added: Mutex<Vec<String>>,
}

impl NetworkInfo for FakeNetwork {
    fn peers(&self) -> Vec<PeerInfo> {
        let peer = |raft_id: u64, connected: bool| PeerInfo {
            raft_id,
            node_id: quorate_chain::NodeId::of(
                &Account::number(100 + raft_id as u8)
                    .key
                    .public_key(SECP256K1),
            )
            .to_string(),
            peer_id: format!("peer{raft_id}"),
            address: "/ip4/10.0.0.2/tcp/30303".into(),
            connected,
            inbound: false,
            round_trip: Some(Duration::from_micros(1_500)),
            agent: "Quorate/test".into(),
        };
        vec![peer(2, true), peer(3, false)]
    }

    fn local(&self) -> LocalInfo {
        LocalInfo {
            peer_id: "peer1".into(),
            listen_addresses: vec!["/ip4/127.0.0.1/tcp/30303".into()],
        }
    }

    fn add_peer(&self, url: &str) -> Result<(), String> {
        if !url.starts_with("enode://") {
            return Err("it must begin with enode://".into());
        }
        self.added.lock().push(url.to_owned());
        Ok(())
    }
}

struct Nowhere;

impl Transport for Nowhere {
    fn send(&mut self, _: RaftId, _: RawBytes) -> bool {
        false
    }
}

impl BlockSource for Nowhere {
    fn fetch(&mut self, _: u64, _: u32, _: u32) -> Vec<RawBytes> {
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

/// A running node with both servers.
pub struct TestNode {
    pub rpc: SocketAddr,
    pub grpc: SocketAddr,
    pub ledger: Ledger,
    pub blocks: Arc<BlockStore>,
    pub pool: PoolHandle,
    pub raft: RaftHandle,
    pub membership: Arc<FakeMembership>,
    pub stop: CancellationToken,
    pub serving: Vec<tokio::task::JoinHandle<Result<(), ServeError>>>,
    threads: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

fn genesis() -> Genesis {
    let rich = (1..=9).map(|n| {
        format!(
            "\"{}\": {{\"balance\": \"0xde0b6b3a7640000\"}}",
            Account::number(n).address
        )
    });
    let contracts = [
        (LOGGER, logger_code()),
        (STORER, STORER_CODE.to_owned()),
        (REVERTER, REVERTER_CODE.to_owned()),
        (SPINNER, SPINNER_CODE.to_owned()),
    ]
    .map(|(address, code)| {
        format!("\"{address}\": {{\"balance\": \"0x0\", \"code\": \"{code}\"}}")
    });
    let alloc: Vec<String> = rich.chain(contracts).collect();
    let node_id = Sealer::new(node_key()).node_id();
    Genesis::parse(&format!(
        r#"{{"config": {{"chainId": {CHAIN_ID}}}, "gasLimit": "0x3b9aca00", "timestamp": "0x1", "alloc": {{{}}},
          "quorate": {{"members": [{{"raftId": 1, "nodeId": "{node_id}", "address": "node1:30303", "organisation": "Test"}}]}}}}"#,
        alloc.join(",")
    ))
    .unwrap()
}

fn node_key() -> SecretKey {
    Account::number(101).key
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut RpcConfig)) -> Self {
        Self::start_as(None, adjust).await
    }

    /// One that takes part in private transactions.
    pub async fn start_private(privacy: Arc<dyn PrivacyApi>) -> Self {
        Self::start_as(Some(privacy), |_| {}).await
    }

    pub async fn start_as(
        privacy: Option<Arc<dyn PrivacyApi>>,
        adjust: impl FnOnce(&mut RpcConfig),
    ) -> Self {
        let node = Self::open(vec![RaftId(1)], privacy, adjust).await;
        let raft = node.raft.clone();
        wait_until("the only member leads", || {
            raft.status().role == Role::Leader
        })
        .await;
        node
    }

    /// The other voter never answers: there is no leader.
    pub async fn start_without_a_majority() -> Self {
        Self::open(vec![RaftId(1), RaftId(2)], None, |_| {}).await
    }

    async fn open(
        voters: Vec<RaftId>,
        privacy: Option<Arc<dyn PrivacyApi>>,
        adjust: impl FnOnce(&mut RpcConfig),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let genesis = genesis();
        let alloc: Vec<_> = genesis
            .alloc()
            .map(|(address, account)| (*address, account.clone()))
            .collect();
        let block = SealedBlock::genesis(genesis.header(genesis_state_root(genesis.alloc())));
        let state =
            Arc::new(StateStore::open(Arc::new(MemoryKv::new()), &alloc, block.hash()).unwrap());
        // Small segments, so that a short chain can be pruned.
        let store = StoreConfig {
            segment_bytes: 16 << 10,
        };
        let folder = dir.path().join("blocks");
        let blocks = BlockStore::open_with(store, &folder, Arc::new(MemoryKv::new()), block);
        let blocks = Arc::new(blocks.unwrap());
        let ledger = Ledger::new(&genesis, blocks.clone(), state);
        let source = ledger.clone();
        let pool = PoolHandle::new(
            PoolConfig::default(),
            genesis.spec().clone(),
            genesis.block_limits(),
            genesis.gas_limit(),
            (0, ledger.head().block.header().timestamp),
            Arc::new(move || Arc::new(source.latest_state()) as Arc<dyn StateRead>),
        );
        let mut raft_config = raft_adapter::Config::new(RaftId(1), voters);
        raft_config.tick = Duration::from_millis(10);
        let opened = raft_adapter::open(
            raft_config,
            &dir.path().join("raft"),
            LogIndex(0),
            Box::new(Nowhere),
        )
        .unwrap();
        let raft = opened.handle.clone();
        let stop = CancellationToken::new();
        let mut threads = Vec::new();
        let runner = opened.runner;
        threads.push(std::thread::spawn(move || runner.run().unwrap()));
        let executed = ExecutedBlocks::default();
        let (flusher_handle, flusher) = Flusher::new(ledger.clone(), raft.clone());
        let importer = Importer::new(
            EngineConfig {
                evidence_dir: dir.path().join("evidence"),
            },
            ledger.clone(),
            pool.clone(),
            raft.clone(),
            executed.clone(),
            flusher_handle,
            Box::new(Nowhere),
            stop.clone(),
        );
        let deliveries = opened.deliveries;
        threads.push(std::thread::spawn(move || {
            importer.run(&deliveries).unwrap()
        }));
        threads.push(std::thread::spawn(move || flusher.run().unwrap()));
        let minter = Minter::new(
            MinterConfig::default(),
            ledger.clone(),
            pool.clone(),
            raft.clone(),
            executed,
            Sealer::new(node_key()),
            Box::new(|| 1_700_000_000),
        );
        let minter_stop = stop.clone();
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(minter.run(minter_stop)).unwrap();
        }));

        let mut config = RpcConfig::default();
        adjust(&mut config);
        let membership = FakeMembership::new(genesis.members().to_vec(), raft.clone());
        let context = RpcContext {
            ledger: ledger.clone(),
            pool: pool.clone(),
            raft: raft.clone(),
            membership: membership.clone(),
            network: Arc::new(FakeNetwork {
                added: Mutex::default(),
            }),
            signer: Arc::new(FakeSigner(vec![Account::number(1), Account::number(2)])),
            privacy,
            client_version: "Quorate/test".into(),
            node: NodeIdentity {
                node_id: Sealer::new(node_key()).node_id(),
                raft_id: 1,
            },
            config,
        };
        let json = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (rpc_address, grpc_address) = (json.local_addr().unwrap(), grpc.local_addr().unwrap());
        let serving = vec![
            tokio::spawn(serve_json_rpc(context.clone(), json, stop.clone())),
            tokio::spawn(serve_grpc(context, grpc, stop.clone())),
        ];
        Self {
            rpc: rpc_address,
            grpc: grpc_address,
            ledger,
            blocks,
            pool,
            raft,
            membership,
            stop,
            serving,
            threads,
            _dir: dir,
        }
    }

    /// Submits and waits until each is in a block.
    pub async fn commit(&self, transactions: &[Transaction]) {
        for tx in transactions {
            self.pool.submit(&raw(tx)).unwrap();
        }
        for tx in transactions {
            self.committed(*tx.hash()).await;
        }
    }

    /// Waits until the transaction is in an announced block; returns its height.
    pub async fn committed(&self, hash: B256) -> u64 {
        let head = self.ledger.watch_head();
        let located = || {
            self.ledger
                .locate(&hash)
                .unwrap()
                .filter(|at| at.height <= *head.borrow())
        };
        wait_until("the transaction is committed", || located().is_some()).await;
        located().unwrap().height
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop.cancel();
        self.raft.shutdown();
        for thread in self.threads.drain(..) {
            // A failure has been printed by the thread.
            drop(thread.join());
        }
    }
}

pub async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "waited too long until {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
