//! A private side without other members: payloads, records and private state as a test puts them there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bloom, Bytes, Log, U256, logs_bloom};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_chain::{PRIVACY_PRECOMPILE, PublicForm};
use quorate_enclave::{
    Delivery, DeliveryState, Erasure, ErasureReason, GroupError, GroupId, NewGroup, NodeKey,
    PayloadHash, PrivacyFlag, PrivacyGroup, PrivacyGroups, PublicKey,
};
use quorate_evm::RootedState;
use quorate_kv::MemoryKv;
use quorate_privacy::{
    ContractMetadata, Extension, PrivateRecord, PrivateStatus, RecordOutcome, Waiting,
};
use quorate_rpc::{
    Distributed, DivergenceAlarm, ExtensionSend, GiveUp, MemberKeys, MemberResyncView, PayloadView,
    PrivacyApi, PrivacyError, PrivacySettings, PrivacyStatusView, PrivateArguments, PrivateSend,
    ReceivedPayload, ResyncView, StoredSend,
};
use quorate_state::{GenesisAccount, Snapshot, StateStore};
use tokio::sync::{Notify, watch};

use crate::chain::CHAIN_ID;

/// A private contract that stores and returns a word, as the public `STORER`; slot 0 holds 7.
pub const PRIVATE_STORER: Address = Address::repeat_byte(0xb1);
/// A private contract that reverts with `Error("no")`.
pub const PRIVATE_REVERTER: Address = Address::repeat_byte(0xb2);

const STORER_CODE: &str = "36600f5760005460005260206000f35b60003560005500";
const REVERTER_CODE: &str =
    "6308c379a060e01b60005260206004526002602452616e6f60f01b60445260646000fd";

/// Keys of this node and of another.
pub fn our_key() -> PublicKey {
    PublicKey::from_bytes([0x11; 32])
}

pub fn their_key() -> PublicKey {
    PublicKey::from_bytes([0x22; 32])
}

pub fn their_node() -> NodeKey {
    NodeKey::repeat_byte(0x02)
}

/// What happens to the next payload that is to be distributed.
pub enum Plan {
    Fail(PrivacyError),
    /// It is acknowledged when it is told so.
    Hold(Arc<Notify>),
}

/// Everything that was asked of the private side.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Distribute(PrivateSend),
    Stored(StoredSend),
    Signed(Bytes, PrivateArguments),
    StoreRaw(Bytes, Option<PublicKey>),
    Extension(ExtensionSend),
}

#[derive(Default)]
struct Inner {
    asked: Vec<Asked>,
    plans: VecDeque<Plan>,
    payloads: BTreeMap<PayloadHash, PayloadView>,
    records: Vec<PrivateRecord>,
    contracts: BTreeMap<Address, ContractMetadata>,
    extensions: BTreeMap<Address, Extension>,
    erasures: Vec<Erasure>,
    alarms: Vec<DivergenceAlarm>,
    stalled: Option<Waiting>,
}

pub struct FakePrivacy {
    form: PublicForm,
    inner: Mutex<Inner>,
    status: watch::Sender<PrivateStatus>,
    groups: PrivacyGroups,
    state: Snapshot,
}

impl std::fmt::Debug for FakePrivacy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakePrivacy").finish_non_exhaustive()
    }
}

fn contract(code: &str, storage: Option<(B256, B256)>) -> GenesisAccount {
    GenesisAccount {
        nonce: Some(1),
        code: Some(code.parse().unwrap()),
        storage: storage.map(|slot| BTreeMap::from([slot])),
        ..GenesisAccount::default()
    }
}

impl FakePrivacy {
    /// A party of two private contracts.
    pub fn party(form: PublicForm) -> Arc<Self> {
        let seven = (B256::ZERO, B256::from(U256::from(7)));
        Self::with_state(
            form,
            &[
                (PRIVATE_STORER, contract(STORER_CODE, Some(seven))),
                (PRIVATE_REVERTER, contract(REVERTER_CODE, None)),
            ],
        )
    }

    /// A party of nothing.
    pub fn stranger() -> Arc<Self> {
        Self::with_state(PublicForm::Marker, &[])
    }

    fn with_state(form: PublicForm, accounts: &[(Address, GenesisAccount)]) -> Arc<Self> {
        let store = StateStore::open(Arc::new(MemoryKv::new()), accounts, B256::ZERO).unwrap();
        let state = store.latest();
        Arc::new(Self {
            form,
            inner: Mutex::default(),
            status: watch::Sender::new(PrivateStatus {
                cursor: 0,
                state_root: state.state_root(),
                private_height: 0,
                starts_at: 1,
                waiting: None,
                halted: None,
                records: 0,
                erased: 0,
            }),
            groups: PrivacyGroups::open(Arc::new(MemoryKv::new()), CHAIN_ID).unwrap(),
            state,
        })
    }

    pub fn state_root(&self) -> B256 {
        self.state.state_root()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.inner.lock().asked.clone()
    }

    /// The private transactions that were to be distributed.
    pub fn sends(&self) -> Vec<PrivateSend> {
        let sends = self.asked().into_iter().filter_map(|asked| match asked {
            Asked::Distribute(send) => Some(send),
            Asked::Stored(_) | Asked::Signed(..) | Asked::StoreRaw(..) | Asked::Extension(_) => {
                None
            }
        });
        sends.collect()
    }

    pub fn plan(&self, plan: Plan) {
        self.inner.lock().plans.push_back(plan);
    }

    pub fn put(&self, hash: PayloadHash, view: PayloadView) {
        self.inner.lock().payloads.insert(hash, view);
    }

    pub fn put_contract(&self, contract: ContractMetadata) {
        let mut inner = self.inner.lock();
        inner.contracts.insert(contract.address, contract);
    }

    pub fn put_extension(&self, extension: Extension) {
        let mut inner = self.inner.lock();
        inner.extensions.insert(extension.id, extension);
    }

    pub fn put_alarm(&self, alarm: DivergenceAlarm) {
        self.inner.lock().alarms.push(alarm);
    }

    /// Private execution has dealt with everything up to `cursor`, and that is what came of it.
    pub fn execute(&self, cursor: u64, records: Vec<PrivateRecord>) {
        let mut inner = self.inner.lock();
        inner.records.extend(records);
        inner.stalled = None;
        drop(inner);
        self.status.send_modify(|status| {
            status.cursor = cursor;
            status.waiting = None;
        });
    }

    /// Private execution stands still behind `cursor`.
    pub fn stall(&self, cursor: u64) -> PayloadHash {
        let waiting = Waiting {
            height: cursor + 1,
            transaction: B256::repeat_byte(9),
            hash: PayloadHash::from_bytes([9; 64]),
            state_of: None,
            since_ms: 5,
            reason: "no member has it".into(),
        };
        let hash = waiting.hash;
        self.inner.lock().stalled = Some(waiting.clone());
        self.status.send_modify(|status| {
            status.cursor = cursor;
            status.waiting = Some(waiting);
        });
        hash
    }

    fn reached(&self, height: u64) -> Result<(), PrivacyError> {
        let inner = self.inner.lock();
        match &inner.stalled {
            Some(waiting) if height >= waiting.height => Err(PrivacyError::Behind {
                wanted: height,
                cursor: waiting.height - 1,
                payload: Some(waiting.hash),
                reason: waiting.reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn distributed(&self, data: &Bytes, tags: bool) -> Distributed {
        let mut inner = self.inner.lock();
        let mut bytes = data.to_vec();
        bytes.extend_from_slice(&inner.asked.len().to_be_bytes());
        let hash = PayloadHash::of(&bytes);
        inner
            .payloads
            .insert(hash, PayloadView::Party(Box::new(received(data.clone()))));
        Distributed {
            hash,
            tags: if tags { vec![[7; 8]; 4] } else { Vec::new() },
            sender: our_key(),
            managed_parties: vec![our_key()],
            pending: vec![their_node()],
        }
    }

    async fn follow_plan(&self) -> Result<(), PrivacyError> {
        let plan = self.inner.lock().plans.pop_front();
        match plan {
            Some(Plan::Fail(error)) => Err(error),
            Some(Plan::Hold(told)) => {
                told.notified().await;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// A payload that this node sent.
pub fn received(data: Bytes) -> ReceivedPayload {
    ReceivedPayload {
        data,
        sender: our_key(),
        as_recipient: our_key(),
        we_sent: true,
        parties: vec![our_key(), their_key()],
        managed_parties: vec![our_key()],
        flag: PrivacyFlag::Standard,
        mandatory: Vec::new(),
        group: None,
        affected: vec![(PRIVATE_STORER, PayloadHash::from_bytes([3; 64]))],
        exec_root: None,
        sender_node: NodeKey::repeat_byte(0x03),
    }
}

/// A successful record of a transaction, to be changed by the test.
pub fn record(transaction: B256, height: u64, position: u32, form: PublicForm) -> PrivateRecord {
    PrivateRecord {
        transaction,
        height,
        position,
        form,
        hash: PayloadHash::from_bytes([4; 64]),
        inner_hash: None,
        inner_transaction: None,
        sender: Address::repeat_byte(0x55),
        nonce: 3,
        to: Some(PRIVATE_STORER),
        data: Bytes::from_static(b"clear"),
        gas_limit: 90_000,
        gas_price: 0,
        outcome: RecordOutcome::Success,
        gas_used: 43_210,
        logs: Vec::new(),
        bloom: Bloom::ZERO,
        contract_address: None,
        flag: PrivacyFlag::Standard,
        group: None,
        as_recipient: Some(our_key()),
        sender_key: Some(our_key()),
        sender_node: Some(their_node()),
        we_sent: true,
        affected: vec![PRIVATE_STORER],
        digest: B256::repeat_byte(0xd1),
    }
}

/// Gives a record logs of a private contract.
pub fn with_logs(mut record: PrivateRecord, words: &[u8]) -> PrivateRecord {
    let log = |word: &u8| {
        let data = Bytes::copy_from_slice(&[*word]);
        Log::new_unchecked(PRIVATE_STORER, vec![B256::repeat_byte(*word)], data)
    };
    record.logs = words.iter().map(log).collect();
    record.bloom = logs_bloom(&record.logs);
    record
}

fn group_error(error: GroupError) -> PrivacyError {
    match error {
        GroupError::Unknown { name } => PrivacyError::UnknownGroup { name },
        GroupError::Ambiguous { name, count } => PrivacyError::AmbiguousGroup { name, count },
        GroupError::Malformed { field, allowed } => PrivacyError::argument(field, allowed),
        other => PrivacyError::internal(other),
    }
}

impl PrivacyApi for FakePrivacy {
    fn settings(&self) -> PrivacySettings {
        PrivacySettings {
            form: self.form,
            precompile: PRIVACY_PRECOMPILE,
        }
    }

    fn distribute(&self, send: PrivateSend) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move {
            self.inner
                .lock()
                .asked
                .push(Asked::Distribute(send.clone()));
            self.follow_plan().await?;
            Ok(self.distributed(&send.data, send.form == PublicForm::Marker))
        }
        .boxed()
    }

    fn distribute_data(
        &self,
        data: Bytes,
        _: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move { Ok(self.distributed(&data, false)) }.boxed()
    }

    fn store_raw(
        &self,
        data: Bytes,
        private_from: Option<PublicKey>,
    ) -> BoxFuture<'_, Result<PayloadHash, PrivacyError>> {
        async move {
            let asked = Asked::StoreRaw(data.clone(), private_from);
            self.inner.lock().asked.push(asked);
            Ok(self.distributed(&data, false).hash)
        }
        .boxed()
    }

    fn distribute_stored(
        &self,
        send: StoredSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move {
            let hash = send.hash;
            self.inner.lock().asked.push(Asked::Stored(send));
            self.follow_plan().await?;
            if !self.inner.lock().payloads.contains_key(&hash) {
                return Err(PrivacyError::UnknownPayload { hash });
            }
            Ok(Distributed {
                hash,
                tags: Vec::new(),
                sender: our_key(),
                managed_parties: vec![our_key()],
                pending: Vec::new(),
            })
        }
        .boxed()
    }

    fn distribute_signed(
        &self,
        raw: Bytes,
        arguments: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move {
            let asked = Asked::Signed(raw.clone(), arguments);
            self.inner.lock().asked.push(asked);
            self.follow_plan().await?;
            Ok(self.distributed(&raw, false))
        }
        .boxed()
    }

    fn payload(&self, hash: PayloadHash) -> BoxFuture<'_, Result<PayloadView, PrivacyError>> {
        async move {
            let found = self.inner.lock().payloads.get(&hash).cloned();
            Ok(found.unwrap_or(PayloadView::NotAParty))
        }
        .boxed()
    }

    fn erase(
        &self,
        hash: PayloadHash,
        note: String,
    ) -> BoxFuture<'_, Result<Erasure, PrivacyError>> {
        async move {
            let mut inner = self.inner.lock();
            if !inner.payloads.contains_key(&hash) {
                return Err(PrivacyError::UnknownPayload { hash });
            }
            let erasure = Erasure {
                hash,
                sequence: inner.erasures.len() as u64 + 1,
                erased_at_ms: 77,
                reason: ErasureReason::Requested,
                note,
            };
            inner.erasures.push(erasure.clone());
            inner
                .payloads
                .insert(hash, PayloadView::Erased(erasure.clone()));
            Ok(erasure)
        }
        .boxed()
    }

    fn give_up(&self, what: GiveUp, note: String) -> BoxFuture<'_, Result<u64, PrivacyError>> {
        async move {
            let GiveUp::Waiting(hash) = what else {
                return Ok(3);
            };
            let mut inner = self.inner.lock();
            if inner.payloads.contains_key(&hash) {
                let reason = "private execution does not wait for a payload".to_owned();
                return Err(PrivacyError::Refused { reason });
            }
            let erasure = Erasure {
                hash,
                sequence: inner.erasures.len() as u64 + 1,
                erased_at_ms: 78,
                reason: ErasureReason::GivenUp,
                note,
            };
            inner.erasures.push(erasure);
            Ok(1)
        }
        .boxed()
    }

    fn erasures(&self, after: Option<u64>, limit: usize) -> Result<Vec<Erasure>, PrivacyError> {
        let inner = self.inner.lock();
        let behind = |erasure: &&Erasure| after.is_none_or(|after| erasure.sequence > after);
        Ok(inner
            .erasures
            .iter()
            .filter(behind)
            .take(limit)
            .cloned()
            .collect())
    }

    fn deliveries(&self, hash: &PayloadHash) -> Result<Vec<Delivery>, PrivacyError> {
        Ok(vec![Delivery {
            hash: *hash,
            node: their_node(),
            state: DeliveryState::Refused,
            named: true,
            attempts: 3,
            next_at_ms: 0,
            changed_at_ms: 12,
            reason: "not for us".into(),
        }])
    }

    fn own_keys(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, PrivacyError>> {
        async { Ok(vec![our_key()]) }.boxed()
    }

    fn member_keys(&self) -> Vec<MemberKeys> {
        vec![MemberKeys {
            raft_id: 2,
            node: their_node(),
            organisation: "Other".into(),
            this: false,
            keys: vec![their_key()],
        }]
    }

    fn create_group(&self, group: NewGroup) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>> {
        async move { self.groups.create(group, 1).map_err(group_error) }.boxed()
    }

    fn groups(
        &self,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        self.groups.list(after, limit).map_err(group_error)
    }

    fn find_groups(
        &self,
        members: &[PublicKey],
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        let members = members.iter().copied().collect();
        self.groups.find(&members, limit).map_err(group_error)
    }

    fn group(&self, name_or_id: &str) -> Result<PrivacyGroup, PrivacyError> {
        self.groups.resolve(name_or_id).map_err(group_error)
    }

    fn delete_group(&self, id: GroupId) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>> {
        async move {
            let deleted = self.groups.delete(&id).map_err(group_error)?;
            deleted.ok_or(PrivacyError::UnknownGroup {
                name: id.to_string(),
            })
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<PrivacyStatusView, PrivacyError>> {
        async {
            Ok(PrivacyStatusView {
                execution: self.status.borrow().clone(),
                complete: true,
                payloads: 2,
                erased: 1,
                deliveries_pending: 4,
                alarms: 5,
                resyncing: false,
                enclave: Err("no answer".into()),
            })
        }
        .boxed()
    }

    fn watch_status(&self) -> watch::Receiver<PrivateStatus> {
        self.status.subscribe()
    }

    fn alarms(&self, after: u64, limit: usize) -> Result<Vec<DivergenceAlarm>, PrivacyError> {
        let inner = self.inner.lock();
        let behind = inner.alarms.iter().filter(|alarm| alarm.number > after);
        Ok(behind.take(limit).cloned().collect())
    }

    fn resync(&self) -> BoxFuture<'_, Result<ResyncView, PrivacyError>> {
        async {
            Ok(ResyncView {
                members: vec![MemberResyncView {
                    raft_id: 2,
                    node: their_node(),
                    fetched: 3,
                    known: 4,
                    failed: 1,
                    erased: 2,
                    error: Some("gone".into()),
                }],
                complete: false,
            })
        }
        .boxed()
    }

    fn executed(&self, height: u64) -> BoxFuture<'_, Result<(), PrivacyError>> {
        async move { self.reached(height) }.boxed()
    }

    fn private_state(
        &self,
        height: u64,
    ) -> BoxFuture<'_, Result<Arc<dyn RootedState>, PrivacyError>> {
        async move {
            self.reached(height)?;
            Ok(Arc::new(self.state.clone()) as Arc<dyn RootedState>)
        }
        .boxed()
    }

    fn private_root(&self, height: u64) -> Result<B256, PrivacyError> {
        self.reached(height)?;
        Ok(self.state.state_root())
    }

    fn records(
        &self,
        first: u64,
        last: u64,
        limit: usize,
    ) -> Result<Vec<PrivateRecord>, PrivacyError> {
        let inner = self.inner.lock();
        let mut found: Vec<PrivateRecord> = Vec::new();
        let within = inner
            .records
            .iter()
            .filter(|r| (first..=last).contains(&r.height));
        for record in within {
            let block_ended = found.last().is_none_or(|last| last.height != record.height);
            if block_ended && found.len() >= limit {
                break;
            }
            found.push(record.clone());
        }
        Ok(found)
    }

    fn contract(&self, address: &Address) -> Result<Option<ContractMetadata>, PrivacyError> {
        Ok(self.inner.lock().contracts.get(address).cloned())
    }

    fn distribute_extension(
        &self,
        send: ExtensionSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move {
            self.inner.lock().asked.push(Asked::Extension(send));
            self.follow_plan().await?;
            Ok(self.distributed(&Bytes::from_static(b"a step"), true))
        }
        .boxed()
    }

    fn extension(&self, offer: &Address) -> Result<Option<Extension>, PrivacyError> {
        Ok(self.inner.lock().extensions.get(offer).cloned())
    }

    fn extensions(
        &self,
        after: Option<Address>,
        limit: usize,
    ) -> Result<Vec<Extension>, PrivacyError> {
        let inner = self.inner.lock();
        let behind = inner
            .extensions
            .values()
            .filter(|extension| after.is_none_or(|after| extension.id > after));
        Ok(behind.take(limit).cloned().collect())
    }
}
