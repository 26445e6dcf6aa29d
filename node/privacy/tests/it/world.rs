//! A small real chain, parties with ledgers on storages that can crash, and payloads that arrive when a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use quorate_chain::{
    BlockTemplate, ChainSpec, DraftBlock, ExecutedRoots, Fork, ImportedBlock, PRIVACY_PRECOMPILE,
    PrivateReference, RecoveredTransaction, SealedBlock, Sealer, SharedBlock, StoreError,
    Transaction, address_of, marker_data, quorum_private_hash, quorum_private_transaction,
};
use quorate_enclave::{NodeKey, PayloadHash, PrivacyFlag, PublicKey};
use quorate_evm::{BlockContext, BlockHashes, PrivateCall, execute_block};
use quorate_kv::MemoryKv;
use quorate_privacy::{
    Acknowledgements, Content, ContractState, Executed, ExecutorConfig, HandoverAnswer,
    HandoverOutcome, HandoverWanted, Lookup, Payloads, PrivateExecutor, PrivateFatal,
    PrivateLedger, PrivatePayload, PrivateRecord, PublicChain, Simulation, SimulationRefusal,
    Terms, simulate,
};
use quorate_state::{
    FlushPolicy, GenesisAccount, HistoryError, Snapshot, StateConfig, StateRead as _, StateStore,
};
use secp256k1::{Message, SECP256K1, SecretKey};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const CHAIN_ID: u64 = 10;
pub const GAS: u64 = 1_000_000;
const BLOCK_GAS: u64 = 1_000_000_000;
/// Long enough for the slowest machine; nothing is asserted about it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn user_key(number: u8) -> SecretKey {
    SecretKey::from_byte_array([number; 32]).unwrap()
}

pub fn user(number: u8) -> Address {
    address_of(&user_key(number).public_key(SECP256K1))
}

pub const ALICE: u8 = 1;
pub const BOB: u8 = 2;

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

/// What one party's enclave and payload store know.
#[derive(Debug, Default)]
pub struct FakePayloads {
    known: Mutex<BTreeMap<PayloadHash, Lookup>>,
    pub nudged: Mutex<BTreeSet<PayloadHash>>,
    pub reports: Mutex<Vec<Executed>>,
    /// Whose word counts when a contract is handed over.
    pub vouching: Mutex<Vec<(PublicKey, PrivateLedger)>>,
    /// What is answered in place of what they say.
    pub told: Mutex<Option<HandoverAnswer>>,
}

impl FakePayloads {
    pub fn set(&self, hash: PayloadHash, lookup: Lookup) {
        self.known.lock().insert(hash, lookup);
    }
    pub fn get(&self, hash: &PayloadHash) -> Option<Lookup> {
        self.known.lock().get(hash).cloned()
    }
}

impl Payloads for FakePayloads {
    fn lookup(&self, references: Vec<PrivateReference>) -> BoxFuture<'_, Vec<Lookup>> {
        Box::pin(async move {
            // As a real one, it does not answer at once.
            tokio::task::yield_now().await;
            let answer = |reference: &PrivateReference| {
                let hash = PayloadHash::from_bytes(reference.hash);
                self.get(&hash).unwrap_or(Lookup::NotAParty)
            };
            references.iter().map(answer).collect()
        })
    }
    fn executed(&self, report: Executed) {
        self.reports.lock().push(report);
    }
    fn waiting(&self, hash: &PayloadHash) {
        self.nudged.lock().insert(*hash);
    }
    fn handover(&self, wanted: HandoverWanted) -> BoxFuture<'_, HandoverAnswer> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if let Some(told) = self.told.lock().clone() {
                return told;
            }
            self.gathered(&wanted)
        })
    }
}

impl FakePayloads {
    /// As the exchange does it, without signatures.
    fn gathered(&self, wanted: &HandoverWanted) -> HandoverAnswer {
        let vouching = self.vouching.lock();
        let missing = |reason: &str| HandoverAnswer::Missing {
            reason: reason.to_owned(),
        };
        let mut agreed = None;
        for (key, ledger) in vouching
            .iter()
            .filter(|(key, _)| wanted.parties.contains(key))
        {
            let Some(head) = ledger.handover(&wanted.transaction).unwrap() else {
                return missing(&format!("{key} has not executed it"));
            };
            assert_eq!((head.offer, head.newcomer), (wanted.offer, wanted.newcomer));
            match head.outcome {
                HandoverOutcome::Refused { reason } => return HandoverAnswer::Refused { reason },
                HandoverOutcome::State { digest, .. } => {
                    assert!(agreed.is_none_or(|(other, _)| other == digest));
                    agreed = Some((digest, ledger));
                }
            }
        }
        let Some((digest, ledger)) = agreed else {
            return missing("nobody vouches");
        };
        let page = ledger.handover_page(&wanted.transaction, 0).unwrap();
        HandoverAnswer::Proved {
            state: Box::new(ContractState::decode(&page).unwrap()),
            digest,
        }
    }
}

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
        self.ledger.record(&transaction).unwrap().unwrap()
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

pub fn signed(who: u8, hash: B256) -> Signature {
    let message = Message::from_digest(hash.0);
    let signature = SECP256K1.sign_ecdsa_recoverable(message, &user_key(who));
    let (id, bytes) = signature.serialize_compact();
    Signature::from_bytes_and_parity(&bytes, i32::from(id) == 1)
}

pub fn public(who: u8, nonce: u64, to: TxKind, input: &[u8]) -> RecoveredTransaction {
    let tx = TxLegacy {
        chain_id: Some(CHAIN_ID),
        nonce,
        gas_limit: GAS,
        to,
        input: Bytes::copy_from_slice(input),
        ..TxLegacy::default()
    };
    let signature = signed(who, tx.signature_hash());
    RecoveredTransaction::recover(tx.into_signed(signature).into()).unwrap()
}

pub fn marker(who: u8, nonce: u64, hash: PayloadHash) -> RecoveredTransaction {
    let data = marker_data(hash.as_bytes(), &[]).unwrap();
    public(who, nonce, TxKind::Call(PRIVACY_PRECOMPILE), &data)
}

pub fn quorum_form(who: u8, nonce: u64, to: Option<Address>, hash: PayloadHash) -> Transaction {
    let tx = TxLegacy {
        nonce,
        gas_limit: GAS,
        to: to.map_or(TxKind::Create, TxKind::Call),
        input: Bytes::copy_from_slice(hash.as_bytes()),
        ..TxLegacy::default()
    };
    let signature = signed(who, quorum_private_hash(&tx));
    quorum_private_transaction(tx, signature).unwrap()
}

pub fn quorum(who: u8, nonce: u64, to: Option<Address>, hash: PayloadHash) -> RecoveredTransaction {
    RecoveredTransaction::recover(quorum_form(who, nonce, to, hash)).unwrap()
}

/// A chain and four nodes.
pub struct Net {
    pub chain: Arc<Chain>,
    pub parties: Vec<Party>,
    /// Next nonce by user.
    nonces: BTreeMap<u8, u64>,
    payloads: u64,
}

/// What to send: who signs, whose key sends, to whom, with what flag.
#[derive(Debug, Clone)]
pub struct Send<'a> {
    pub user: u8,
    pub from: usize,
    pub to: &'a [usize],
    pub flag: PrivacyFlag,
    pub mandatory: &'a [usize],
}

/// By Alice from node 0.
pub fn by_alice(flag: PrivacyFlag, to: &[usize]) -> Send<'_> {
    Send {
        user: ALICE,
        from: 0,
        to,
        flag,
        mandatory: &[],
    }
}

pub fn standard(to: &[usize]) -> Send<'_> {
    by_alice(PrivacyFlag::Standard, to)
}

impl Net {
    pub fn new() -> Self {
        Self {
            chain: Chain::new(),
            parties: (1..=4).map(Party::new).collect(),
            nonces: BTreeMap::new(),
            payloads: 0,
        }
    }

    pub fn nonce(&mut self, user: u8) -> u64 {
        let next = self.nonces.entry(user).or_insert(0);
        *next += 1;
        *next - 1
    }

    pub fn peek_nonce(&self, user: u8) -> u64 {
        self.nonces.get(&user).copied().unwrap_or(0)
    }

    fn fresh_hash(&mut self, content: &Content) -> PayloadHash {
        self.payloads += 1;
        let mut sealed = content.encode();
        sealed.extend(self.payloads.to_be_bytes());
        PayloadHash::of(&sealed)
    }

    fn keys(&self, nodes: &[usize]) -> BTreeSet<PublicKey> {
        nodes.iter().map(|node| self.parties[*node].key()).collect()
    }

    pub fn simulate(
        &self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> Result<Simulation, SimulationRefusal> {
        let call = PrivateCall {
            sender: user(send.user),
            nonce: self.peek_nonce(send.user),
            to,
            data: Bytes::copy_from_slice(data),
            gas_limit: GAS,
            ..PrivateCall::default()
        };
        let parties = self.parties_of(send);
        let mandatory = self.keys(send.mandatory);
        let ledger = &self.parties[send.from].ledger;
        simulate(
            self.chain.as_ref(),
            ledger,
            &call,
            send.flag,
            &parties,
            &mandatory,
        )
    }

    fn parties_of(&self, send: &Send<'_>) -> BTreeSet<PublicKey> {
        let mut parties = self.keys(send.to);
        parties.insert(self.parties[send.from].key());
        parties
    }

    /// Terms as an honest node makes them.
    pub fn terms(&self, send: &Send<'_>, simulation: Simulation) -> Terms {
        let validated = send.flag == PrivacyFlag::StateValidation;
        Terms {
            hash: PayloadHash::from_bytes([0; 64]),
            flag: send.flag,
            group: None,
            sender: self.parties[send.from].key(),
            from: Some(user(send.user)),
            parties: if validated {
                self.parties_of(send)
            } else {
                BTreeSet::new()
            },
            mandatory: simulation.mandatory,
            affected: simulation.affected,
            exec_root: simulation.exec_root,
            base: simulation.base,
            sender_node: self.parties[send.from].node(),
            acknowledgements: Acknowledgements::All,
        }
    }

    /// Gives a payload to its parties.
    pub fn distribute(&mut self, send: &Send<'_>, content: Content, terms: Terms) -> PayloadHash {
        let hash = self.fresh_hash(&content);
        terms.check().unwrap();
        let terms = Terms { hash, ..terms };
        let mut nodes: BTreeSet<usize> = send.to.iter().copied().collect();
        nodes.insert(send.from);
        for node in nodes {
            let party = &self.parties[node];
            let payload = PrivatePayload {
                content: content.clone(),
                terms: terms.clone(),
                as_recipient: party.key(),
                sender: terms.sender,
                we_sent: node == send.from,
            };
            party.payloads.set(hash, Lookup::Party(Box::new(payload)));
        }
        hash
    }

    /// A marker for a call as an honest node sends it, not yet in a block.
    pub fn try_send(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> Result<RecoveredTransaction, SimulationRefusal> {
        let simulation = self.simulate(send, to, data)?;
        let terms = self.terms(send, simulation);
        Ok(self.send_with(send, to, data, terms))
    }

    pub fn send(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> RecoveredTransaction {
        self.try_send(send, to, data).unwrap()
    }

    pub fn send_with(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
        terms: Terms,
    ) -> RecoveredTransaction {
        let content = Content::Call {
            to,
            data: Bytes::copy_from_slice(data),
            gas_limit: GAS,
        };
        let hash = self.distribute(send, content, terms);
        marker(send.user, self.nonce(send.user), hash)
    }

    /// A block, executed by everyone.
    pub async fn mine(&mut self, transactions: Vec<RecoveredTransaction>) -> u64 {
        let height = self.chain.mine(transactions);
        for party in &self.parties {
            party.catch_up(&self.chain).await;
        }
        height
    }

    /// One private transaction in a block of its own, executed by everyone.
    pub async fn run(&mut self, send: &Send<'_>, to: Option<Address>, data: &[u8]) -> B256 {
        let transaction = self.send(send, to, data);
        let hash = transaction.hash();
        self.mine(vec![transaction]).await;
        hash
    }

    pub async fn deploy(&mut self, send: &Send<'_>, runtime: &[u8]) -> Address {
        let hash = self.run(send, None, &deploying(runtime)).await;
        let record = self.parties[send.from].record(hash);
        assert!(record.is_success(), "{:?}", record.outcome);
        record.contract_address.unwrap()
    }
}

/// Init code that deploys `runtime`.
pub fn deploying(runtime: &[u8]) -> Vec<u8> {
    let length = u8::try_from(runtime.len()).unwrap();
    // CODECOPY(0, 11, length); RETURN(0, length)
    let mut code = vec![
        0x60, length, 0x60, 11, 0x5f, 0x39, 0x60, length, 0x5f, 0xf3, 0x00,
    ];
    code.extend_from_slice(runtime);
    code
}

/// Without input: returns slot 0. With input: stores its first word in slot 0 and logs it under the topic 0xaa.
pub const STORE: &[u8] = &[
    0x36, 0x60, 0x0c, 0x57, // if CALLDATASIZE, go to 0x0c
    0x5f, 0x54, 0x5f, 0x52, // MSTORE(0, SLOAD(0))
    0x60, 0x20, 0x5f, 0xf3, // RETURN(0, 32)
    0x5b, 0x5f, 0x35, // v = CALLDATALOAD(0)
    0x80, 0x5f, 0x55, // SSTORE(0, v)
    0x5f, 0x52, // MSTORE(0, v)
    0x60, 0xaa, 0x60, 0x20, 0x5f, 0xa1, // LOG1(0, 32, 0xaa)
    0x00,
];

/// Adds its first word to slot 0.
pub const ADDER: &[u8] = &[0x5f, 0x35, 0x5f, 0x54, 0x01, 0x5f, 0x55, 0x00];

/// REVERT with the word 0xbb.
pub const REVERTING: &[u8] = &[0x60, 0xbb, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xfd];

/// Asks `target`, without input, and keeps the word that it answers in slot 0.
pub fn copier(target: Address) -> Vec<u8> {
    let mut code = vec![0x60, 0x20, 0x5f, 0x5f, 0x5f, 0x73];
    code.extend(target);
    // STATICCALL; SSTORE(0, MLOAD(0))
    code.extend([0x5a, 0xfa, 0x50, 0x5f, 0x51, 0x5f, 0x55, 0x00]);
    code
}

/// Keeps the first word of its input in slot 0, and hands its input to `target`; reverts if that fails.
pub fn forwarder(target: Address) -> Vec<u8> {
    let mut code = vec![
        0x5f, 0x35, 0x5f, 0x55, // SSTORE(0, CALLDATALOAD(0))
        0x36, 0x5f, 0x5f, 0x37, // CALLDATACOPY(0, 0, CALLDATASIZE)
        0x5f, 0x5f, 0x36, 0x5f, 0x5f, 0x73,
    ];
    code.extend(target);
    // CALL; if it failed, REVERT(0, 0)
    let end = u8::try_from(code.len() + 9).unwrap();
    code.extend([0x5a, 0xf1, 0x60, end, 0x57, 0x5f, 0x5f, 0xfd]);
    code.extend([0x00, 0x5b, 0x00]);
    code
}

pub fn word(value: u64) -> Vec<u8> {
    U256::from(value).to_be_bytes::<32>().to_vec()
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
