//! Four members with enclaves of their own, and a network between them that does as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_chain::{PrivateReference, PublicForm};
use quorate_enclave::{
    Context, Enclave, EnclaveError, Envelope, Health, KeyAnnouncement, KeyRing, LocalEnclave,
    NodeKey, Opening, PayloadHash, PublicKey, RecogniseRequest, Recognised, SealRequest, Sealed,
    Suite, TagRequest,
};
use quorate_exchange::{
    Distributed, Exchange, ExchangeConfig, ExchangeError, ExchangeIdentity, ExecutedDigest,
    MemberKeys, PeerError, Peers, StateView,
};
use quorate_kv::{Batch, Direction, KeyRange, Kv, KvError, MemoryKv, Scan};
use quorate_privacy::{
    Content, Executed, HANDOVER_PAGE_BYTES, HandoverHead, Lookup, Payloads as _, Terms,
};
use secp256k1::{Message, SECP256K1, SecretKey};
use sha3::{Digest as _, Sha3_256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const CHAIN_ID: u64 = 10;

/// How long to wait for what should come, however slow the disk is just now.
pub const PATIENT: Duration = Duration::from_secs(60);

/// An enclave that can be switched off.
#[derive(Debug)]
pub struct SwitchEnclave {
    pub inner: LocalEnclave,
    pub down: AtomicBool,
}

impl SwitchEnclave {
    fn check(&self) -> Result<(), EnclaveError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(EnclaveError::Unreachable {
                endpoint: "test".to_owned(),
                reason: "switched off".to_owned(),
            });
        }
        Ok(())
    }
}

impl Enclave for SwitchEnclave {
    fn public_keys(&self) -> BoxFuture<'_, Result<Vec<KeyAnnouncement>, EnclaveError>> {
        Box::pin(async {
            self.check()?;
            self.inner.public_keys().await
        })
    }
    fn seal(&self, request: SealRequest) -> BoxFuture<'_, Result<Sealed, EnclaveError>> {
        Box::pin(async {
            self.check()?;
            self.inner.seal(request).await
        })
    }
    fn open(
        &self,
        envelope: Envelope,
        context: Context,
    ) -> BoxFuture<'_, Result<Opening, EnclaveError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.open(envelope, context).await
        })
    }
    fn reseal(
        &self,
        envelope: Envelope,
        context: Context,
        recipients: Vec<KeyAnnouncement>,
    ) -> BoxFuture<'_, Result<Envelope, EnclaveError>> {
        Box::pin(async move {
            self.check()?;
            self.inner.reseal(envelope, context, recipients).await
        })
    }
    fn tags(&self, request: TagRequest) -> BoxFuture<'_, Result<Vec<[u8; 8]>, EnclaveError>> {
        Box::pin(async {
            self.check()?;
            self.inner.tags(request).await
        })
    }
    fn recognise(
        &self,
        request: RecogniseRequest,
    ) -> BoxFuture<'_, Result<Option<Recognised>, EnclaveError>> {
        Box::pin(async {
            self.check()?;
            self.inner.recognise(request).await
        })
    }
    fn health(&self) -> BoxFuture<'_, Result<Health, EnclaveError>> {
        Box::pin(async {
            self.check()?;
            self.inner.health().await
        })
    }
}

/// A key-value store that breaks for good at a given write or barrier.
#[derive(Debug, Default)]
pub struct BreakingKv {
    pub inner: MemoryKv,
    /// Writes and barriers that still succeed.
    left: AtomicUsize,
    armed: AtomicBool,
}

impl BreakingKv {
    pub fn break_after(&self, steps: usize) {
        self.left.store(steps, Ordering::SeqCst);
        self.armed.store(true, Ordering::SeqCst);
    }

    pub fn repair(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    fn step(&self) -> Result<(), KvError> {
        if !self.armed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let taken = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(KvError::Failed {
                operation: "write",
                reason: "broken by the test".to_owned(),
            }),
        }
    }
}

impl Kv for BreakingKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.inner.get(key)
    }
    fn scan(&self, range: KeyRange, direction: Direction) -> Scan<'_> {
        self.inner.scan(range, direction)
    }
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.step()?;
        self.inner.write(batch)
    }
    fn write_staged(&self, batches: Vec<Batch>) -> Result<(), KvError> {
        self.step()?;
        self.inner.write_staged(batches)
    }
    fn barrier(&self) -> Result<(), KvError> {
        self.step()?;
        self.inner.barrier()
    }
    fn size_bytes(&self) -> Result<u64, KvError> {
        self.inner.size_bytes()
    }
}

/// What the network does with a request.
pub enum Fate {
    Pass,
    /// It never arrives.
    Lose,
    /// It arrives, and the answer is lost.
    LoseAnswer,
    /// Another one arrives.
    Exchange(Bytes),
}

type Fault = Box<dyn Fn(u64, u64, &Bytes) -> Fate + Send + Sync>;

/// What all members share.
#[derive(Default)]
pub struct Shared {
    exchanges: Mutex<BTreeMap<u64, Exchange>>,
    tables: Mutex<BTreeMap<u64, Arc<Vec<MemberKeys>>>>,
    pub offline: Mutex<BTreeSet<u64>>,
    fault: Mutex<Option<Fault>>,
    /// Every request that was made: from, to, body.
    pub requests: Mutex<Vec<(u64, u64, Bytes)>>,
    /// Signatures that were made.
    pub signatures: AtomicUsize,
}

#[derive(Clone)]
struct FakePeers {
    own: u64,
    secret: SecretKey,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakePeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakePeers({})", self.own)
    }
}

impl Peers for FakePeers {
    fn members(&self) -> Arc<Vec<MemberKeys>> {
        Arc::clone(&self.shared.tables.lock().unwrap()[&self.own])
    }

    fn ask(
        &self,
        raft_id: u64,
        body: Bytes,
        _: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let gone = || PeerError::Unreachable {
                reason: "offline".to_owned(),
            };
            let shared = &self.shared;
            shared
                .requests
                .lock()
                .unwrap()
                .push((self.own, raft_id, body.clone()));
            {
                let offline = shared.offline.lock().unwrap();
                if offline.contains(&raft_id) || offline.contains(&self.own) {
                    return Err(gone());
                }
            }
            let fate = match &*shared.fault.lock().unwrap() {
                Some(fault) => fault(self.own, raft_id, &body),
                None => Fate::Pass,
            };
            let (body, lose) = match fate {
                Fate::Pass => (body, false),
                Fate::Lose => return Err(gone()),
                Fate::LoseAnswer => (body, true),
                Fate::Exchange(other) => (other, false),
            };
            let exchange = shared.exchanges.lock().unwrap().get(&raft_id).cloned();
            let exchange = exchange.ok_or_else(gone)?;
            let answer = exchange.answer(self.own, body).await;
            if lose { Err(gone()) } else { Ok(answer) }
        })
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], String> {
        self.shared.signatures.fetch_add(1, Ordering::Relaxed);
        Ok(sign(&self.secret, digest))
    }
}

pub fn sign(secret: &SecretKey, digest: B256) -> [u8; 65] {
    let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), secret);
    let (id, compact) = signature.serialize_compact();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&compact);
    bytes[64] = u8::try_from(i32::from(id)).unwrap();
    bytes
}

/// Private state as the tests say it is.
#[derive(Debug, Default)]
pub struct FakeState {
    pub digests: Mutex<BTreeMap<Address, B256>>,
    pub executed: Mutex<BTreeMap<B256, ExecutedDigest>>,
    /// Payloads that were executed.
    pub payloads: Mutex<BTreeSet<PayloadHash>>,
    /// Payloads that were let go of, each time anew.
    pub let_go: Mutex<Vec<PayloadHash>>,
    /// True: it does not let go.
    pub holds_on: AtomicBool,
    /// Time of the last block, if everything was executed.
    pub executed_until_ms: Mutex<Option<u64>>,
    /// What is to be handed over, by the vote's transaction.
    pub handovers: Mutex<BTreeMap<B256, (HandoverHead, Vec<u8>)>>,
}

impl StateView for FakeState {
    fn contract_digest(&self, address: Address) -> Option<B256> {
        self.digests.lock().unwrap().get(&address).copied()
    }
    fn executed(&self, transaction: &B256) -> Option<ExecutedDigest> {
        self.executed.lock().unwrap().get(transaction).copied()
    }
    fn was_executed(&self, payload: &PayloadHash) -> Result<bool, String> {
        Ok(self.payloads.lock().unwrap().contains(payload))
    }
    fn let_go(&self, payloads: &[PayloadHash]) -> Result<(), String> {
        if self.holds_on.load(Ordering::SeqCst) {
            return Err("its disk is full".to_owned());
        }
        self.let_go.lock().unwrap().extend(payloads);
        Ok(())
    }
    fn executed_until_ms(&self) -> Option<u64> {
        *self.executed_until_ms.lock().unwrap()
    }
    fn handover(&self, transaction: &B256) -> Result<Option<HandoverHead>, String> {
        let handovers = self.handovers.lock().unwrap();
        Ok(handovers.get(transaction).map(|(head, _)| head.clone()))
    }
    fn handover_page(&self, transaction: &B256, page: u32) -> Result<Vec<u8>, String> {
        let handovers = self.handovers.lock().unwrap();
        let state = &handovers.get(transaction).unwrap().1;
        let page = state
            .chunks(HANDOVER_PAGE_BYTES)
            .nth(page.try_into().unwrap());
        Ok(page.unwrap_or_default().to_vec())
    }
}

/// A member.
pub struct Node {
    pub raft_id: u64,
    pub secret: SecretKey,
    pub enclave: Arc<SwitchEnclave>,
    pub kv: Arc<BreakingKv>,
    pub state: Arc<FakeState>,
    folder: TempDir,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Node {
    pub fn key(&self) -> PublicKey {
        self.enclave.inner.public_keys_now()[0].key
    }

    pub fn node(&self) -> NodeKey {
        NodeKey::from(self.secret.public_key(SECP256K1).serialize())
    }

    fn payloads(&self) -> PathBuf {
        self.folder.path().join("payloads")
    }
}

/// The members, numbered from 1.
pub struct Network {
    pub nodes: Vec<Node>,
    pub shared: Arc<Shared>,
    pub suite: Suite,
    pub config: ExchangeConfig,
}

impl Network {
    pub fn of_four() -> Self {
        Self::with_suite(Suite::Nacl)
    }

    pub fn with_suite(suite: Suite) -> Self {
        let nodes = (1..=4u8).map(|n| Node {
            raft_id: n.into(),
            secret: SecretKey::from_byte_array([n; 32]).unwrap(),
            enclave: Arc::new(SwitchEnclave {
                inner: LocalEnclave::new(KeyRing::generate(2).unwrap()),
                down: AtomicBool::new(false),
            }),
            kv: Arc::default(),
            state: Arc::default(),
            folder: TempDir::new().unwrap(),
            running: None,
        });
        let network = Self {
            nodes: nodes.collect(),
            shared: Arc::default(),
            suite,
            config: ExchangeConfig {
                acknowledge_timeout: Duration::from_secs(4),
                digest_interval: Duration::from_millis(20),
                resync_by_itself: false,
                outbox: quorate_enclave::OutboxConfig {
                    retry_first_ms: 20,
                    retry_max_ms: 100,
                    ..Default::default()
                },
                ..ExchangeConfig::default()
            },
        };
        network.announce();
        for n in 1..=4 {
            network.open(n, true);
        }
        network
    }

    pub fn node(&self, n: u64) -> &Node {
        &self.nodes[usize::try_from(n).unwrap() - 1]
    }

    pub fn key(&self, n: u64) -> PublicKey {
        self.node(n).key()
    }

    pub fn at(&self, n: u64) -> Exchange {
        self.shared.exchanges.lock().unwrap()[&n].clone()
    }

    /// Puts the table as the enclaves have their keys now. As in the real one, X-Wing keys are only committed to.
    pub fn announce(&self) {
        let mut tables = self.shared.tables.lock().unwrap();
        for own in 1..=4 {
            let members = self.nodes.iter().map(|node| {
                let keys = node.enclave.inner.public_keys_now();
                let commit = |k: &KeyAnnouncement| {
                    let hybrid = k.hybrid.as_ref()?;
                    let digest: [u8; 32] = Sha3_256::digest(hybrid.as_bytes()).into();
                    Some((k.key, B256::from(digest)))
                };
                MemberKeys {
                    raft_id: node.raft_id,
                    node: node.node(),
                    hybrid_commitments: keys.iter().filter_map(commit).collect(),
                    keys: keys.into_iter().map(|k| k.key.into()).collect(),
                    organisation: format!("org {}", node.raft_id),
                    this: node.raft_id == own,
                }
            });
            tables.insert(own, Arc::new(members.collect()));
        }
    }

    /// Changes a table as one member sees it.
    pub fn change_table(&self, own: u64, change: impl FnOnce(&mut Vec<MemberKeys>)) {
        let mut tables = self.shared.tables.lock().unwrap();
        let mut table = (*tables[&own]).clone();
        change(&mut table);
        tables.insert(own, Arc::new(table));
    }

    pub fn identity(&self, n: u64) -> ExchangeIdentity {
        ExchangeIdentity {
            chain_id: CHAIN_ID,
            genesis_hash: B256::repeat_byte(9),
            node: self.node(n).node(),
            suite: self.suite,
        }
    }

    /// Opens a member's exchange, for the first time or again.
    pub fn open(&self, n: u64, chain_is_empty: bool) {
        let node = self.node(n);
        let peers = FakePeers {
            own: n,
            secret: node.secret,
            shared: Arc::clone(&self.shared),
        };
        let exchange = Exchange::open_with(
            Arc::clone(&node.kv) as Arc<dyn Kv>,
            &node.payloads(),
            self.config.clone(),
            Arc::clone(&node.enclave) as Arc<dyn Enclave>,
            Arc::new(peers),
            self.identity(n),
            chain_is_empty,
        )
        .unwrap();
        exchange.set_state_view(Arc::clone(&node.state) as Arc<dyn StateView>);
        self.shared.exchanges.lock().unwrap().insert(n, exchange);
    }

    /// Opens a member's exchange again, in order.
    pub async fn restart(&mut self, n: u64) {
        self.stop(n).await;
        self.shared.exchanges.lock().unwrap().remove(&n);
        self.open(n, false);
    }

    /// The machine loses power and starts again.
    pub async fn crash(&mut self, n: u64) {
        self.stop(n).await;
        self.shared.exchanges.lock().unwrap().remove(&n);
        let node = self.node(n);
        node.kv.repair();
        node.kv.inner.crash();
        self.open(n, false);
    }

    /// The disk is replaced; key files are not on it.
    pub async fn lose_disk(&mut self, n: u64) {
        self.stop(n).await;
        self.shared.exchanges.lock().unwrap().remove(&n);
        let node = &mut self.nodes[usize::try_from(n).unwrap() - 1];
        node.kv = Arc::default();
        node.folder = TempDir::new().unwrap();
        self.open(n, false);
    }

    /// Has a member do what goes on by itself.
    pub fn run(&mut self, n: u64) {
        let exchange = self.at(n);
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move {
            // A broken disk ends it with an error, which is what the test then looks at in other ways.
            if let Err(e) = exchange.run(token).await {
                assert!(!matches!(e, ExchangeError::Stopping), "member {n}: {e}");
            }
        });
        self.nodes[usize::try_from(n).unwrap() - 1].running = Some((stop, task));
    }

    pub async fn stop(&mut self, n: u64) {
        let node = &mut self.nodes[usize::try_from(n).unwrap() - 1];
        if let Some((stop, task)) = node.running.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    pub fn set_offline(&self, n: u64, offline: bool) {
        let mut set = self.shared.offline.lock().unwrap();
        if offline {
            set.insert(n);
        } else {
            set.remove(&n);
        }
    }

    pub fn set_fault(&self, fault: impl Fn(u64, u64, &Bytes) -> Fate + Send + Sync + 'static) {
        *self.shared.fault.lock().unwrap() = Some(Box::new(fault));
    }

    pub fn clear_fault(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    /// What a member's executor is told about a payload.
    pub async fn lookup(&self, n: u64, reference: &PrivateReference) -> Lookup {
        let mut found = self.at(n).lookup(vec![reference.clone()]).await;
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    /// Requests of a kind from one member to another, in their order.
    pub fn requests(&self, from: u64, to: u64, kind: u8) -> Vec<Bytes> {
        let requests = self.shared.requests.lock().unwrap();
        let found = requests
            .iter()
            .filter(|(f, t, body)| (*f, *t) == (from, to) && body.get(1) == Some(&kind));
        found.map(|(_, _, body)| body.clone()).collect()
    }

    /// The last request of a kind from one member to another.
    pub fn last_request(&self, from: u64, to: u64, kind: u8) -> Bytes {
        self.requests(from, to, kind).pop().unwrap()
    }
}

/// The public side of what was distributed.
pub fn reference(distributed: &Distributed) -> PrivateReference {
    PrivateReference {
        form: if distributed.tags.is_empty() {
            PublicForm::Quorum
        } else {
            PublicForm::Marker
        },
        hash: *distributed.hash.as_bytes(),
        tags: distributed.tags.clone(),
    }
}

pub fn content(text: &str) -> Content {
    Content::Call {
        to: Some(Address::repeat_byte(3)),
        data: text.as_bytes().to_vec().into(),
        gas_limit: 100_000,
    }
}

pub fn executed(terms: &Terms, transaction: B256, digest: B256, we_sent: bool) -> Executed {
    Executed {
        transaction,
        height: 7,
        position: 0,
        hash: terms.hash,
        sender_node: terms.sender_node,
        sender: terms.sender,
        as_recipient: terms.sender,
        we_sent,
        success: true,
        affected: terms.affected.keys().copied().collect(),
        digest,
    }
}

/// The payload of a lookup, or a panic that says what it was instead.
pub fn party(lookup: Lookup) -> quorate_privacy::PrivatePayload {
    match lookup {
        Lookup::Party(payload) => *payload,
        other => panic!("not a party: {other:?}"),
    }
}

pub fn is_unknown(lookup: &Lookup) -> bool {
    matches!(lookup, Lookup::Unknown { .. })
}

/// Waits until something holds; panics with its name if it never does.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to this: {what}");
}

pub fn unknown_hash() -> PayloadHash {
    PayloadHash::from_bytes([0xee; 64])
}
