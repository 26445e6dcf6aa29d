//! A node behind its two servers: a chain with nothing but its genesis, a pool, ordering that stands still, and a private side in
//! memory. Requests reach the servers as they do behind the connection.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy_primitives::{Address, B256, Signature};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use quorate_chain::{BlockStore, SealedBlock, address_of};
use quorate_engine::Ledger;
use quorate_kv::MemoryKv;
use quorate_pool::{PoolConfig, PoolHandle};
use quorate_rpc::{
    AccountSigner, ChangeReport, ChangeRequest, LocalInfo, MembershipApi, MembershipError,
    MembershipView, NetworkInfo, NodeIdentity, PeerInfo, RpcConfig, RpcContext, SignError,
    fuzzing::Doors,
};
use quorate_state::{StateRead, StateStore, genesis_state_root};
use raft_adapter::{LogIndex, RaftHandle, RaftId, Transport};
use secp256k1::SECP256K1;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::watch};
use tonic::Status;

use super::super::private_node::PrivateNode;
use crate::figures;

/// The servers. Lives as long as the process.
pub(super) struct Served {
    runtime: Runtime,
    doors: Doors,
    _keep: (Mutex<raft_adapter::Opened>, TempDir),
}

impl Served {
    /// Starts it at the first call. `None` if it does not start.
    pub(super) fn get() -> Option<&'static Self> {
        static SERVED: OnceLock<Option<Served>> = OnceLock::new();
        SERVED.get_or_init(Self::start).as_ref()
    }

    fn start() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .build()
            .ok()?;
        let dir = tempfile::tempdir().ok()?;
        let opened = raft_adapter::open(
            raft_adapter::Config::new(RaftId(1), vec![RaftId(1)]),
            &dir.path().join("raft"),
            LogIndex(0),
            Box::new(Nowhere),
        )
        .ok()?;
        let context = context(&dir, opened.handle.clone())?;
        let doors = {
            let _inside = runtime.enter();
            Doors::open(context).ok()?
        };
        Some(Self {
            runtime,
            doors,
            _keep: (Mutex::new(opened), dir),
        })
    }

    /// HTTP status and body of the answer of the JSON-RPC server.
    pub(super) fn post(&self, body: &[u8]) -> Option<(u16, Bytes)> {
        let asked = (self.doors.json)(Bytes::copy_from_slice(body));
        self.runtime.block_on(asked)
    }

    /// Sends a message to a method; `None` if the server does not answer.
    pub(super) fn grpc(&self, method: &'static str, message: &[u8]) -> Option<Result<(), Status>> {
        let asked = (self.doors.grpc)((method, Bytes::copy_from_slice(message)));
        self.runtime.block_on(asked)
    }
}

fn context(dir: &TempDir, raft: RaftHandle) -> Option<RpcContext> {
    let genesis = figures::genesis()?;
    let alloc: Vec<_> = genesis
        .alloc()
        .map(|(a, account)| (*a, account.clone()))
        .collect();
    let block = SealedBlock::genesis(genesis.header(genesis_state_root(genesis.alloc())));
    let state = StateStore::open(Arc::new(MemoryKv::new()), &alloc, block.hash()).ok()?;
    let folder = dir.path().join("blocks");
    let blocks = BlockStore::open(&folder, Arc::new(MemoryKv::new()), block).ok()?;
    let ledger = Ledger::new(&genesis, Arc::new(blocks), Arc::new(state));
    let source = ledger.clone();
    let pool = PoolHandle::new(
        PoolConfig::default(),
        genesis.spec().clone(),
        genesis.block_limits(),
        genesis.gas_limit(),
        (0, ledger.head().block.header().timestamp),
        Arc::new(move || Arc::new(source.latest_state()) as Arc<dyn StateRead>),
    );
    let config = RpcConfig {
        // One input must not take long.
        call_gas_max: 500_000,
        submit_wait_max: Duration::from_millis(1),
        log_time_max: Duration::from_millis(100),
        ..RpcConfig::default()
    };
    Some(RpcContext {
        ledger,
        pool,
        raft,
        membership: Arc::new(Settled::default()),
        network: Arc::new(Nobody),
        signer: Arc::new(Known),
        privacy: Some(Arc::new(PrivateNode::begin()?)),
        client_version: "Quorate/fuzz".into(),
        node: NodeIdentity {
            node_id: figures::sealer().node_id(),
            raft_id: 1,
        },
        config,
    })
}

struct Nowhere;

impl Transport for Nowhere {
    fn send(&mut self, _: RaftId, _: Bytes) -> bool {
        false
    }
}

/// A membership that nobody changes: there is no leader.
struct Settled {
    view: watch::Sender<Arc<MembershipView>>,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            view: watch::Sender::new(Arc::default()),
        }
    }
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settled")
    }
}

impl MembershipApi for Settled {
    fn view(&self) -> Arc<MembershipView> {
        Arc::clone(&self.view.borrow())
    }

    fn watch(&self) -> watch::Receiver<Arc<MembershipView>> {
        self.view.subscribe()
    }

    fn change(
        &self,
        _: ChangeRequest,
    ) -> BoxFuture<'static, Result<ChangeReport, MembershipError>> {
        futures::future::ready(Err(MembershipError::NoLeader)).boxed()
    }

    fn transfer(&self, _: Option<u64>) -> BoxFuture<'static, Result<u64, MembershipError>> {
        futures::future::ready(Err(MembershipError::NoLeader)).boxed()
    }
}

/// A node alone.
struct Nobody;

impl NetworkInfo for Nobody {
    fn peers(&self) -> Vec<PeerInfo> {
        Vec::new()
    }

    fn local(&self) -> LocalInfo {
        LocalInfo {
            peer_id: "peer1".into(),
            listen_addresses: vec!["/ip4/127.0.0.1/tcp/30303".into()],
        }
    }

    fn add_peer(&self, _: &str) -> Result<(), String> {
        Err("nobody is looked for".into())
    }
}

/// The node signs for the first rich account.
struct Known;

impl Known {
    fn address() -> Address {
        address_of(&figures::key(1).public_key(SECP256K1))
    }
}

impl AccountSigner for Known {
    fn accounts(&self) -> Vec<Address> {
        vec![Self::address()]
    }

    fn sign_hash(&self, account: Address, hash: B256) -> Result<Signature, SignError> {
        if account == Self::address() {
            Ok(figures::sign(&figures::key(1), hash))
        } else {
            Err(SignError::UnknownAccount { account })
        }
    }
}
