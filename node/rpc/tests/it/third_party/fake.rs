//! A node's privacy in memory: payloads of one node with one key, and one other member with another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_chain::{PRIVACY_PRECOMPILE, PublicForm};
use quorate_enclave::{
    Delivery, Erasure, ErasureReason, GroupId, NewGroup, NodeKey, PayloadHash, PrivacyGroup,
    PublicKey,
};
use quorate_evm::RootedState;
use quorate_privacy::{ContractMetadata, PrivateRecord, PrivateStatus};
use quorate_rpc::{
    Distributed, DivergenceAlarm, GiveUp, MemberKeys, PayloadView, PrivacyApi, PrivacyError,
    PrivacySettings, PrivacyStatusView, PrivateArguments, PrivateSend, ReceivedPayload, ResyncView,
    StoredSend,
};
use tokio::sync::watch;

/// The key of the fake node, in base64.
pub const OUR_KEY: &str = "BULeR8JyUWhiuuCMU/HLA0Q5pzkYT+cHII3ZKBey3Bo=";
/// The key of another member.
pub const THEIR_KEY: &str = "QfeDAys9MPDs2XHExtc84jKGHxZg/aj52DTh0vtA3Xc=";
/// Bytes of a hash of which it is not known whether this node is a party.
pub const MISSING: [u8; 64] = [0xee; 64];

/// What is kept.
#[derive(Debug, Default)]
struct Kept {
    payloads: BTreeMap<PayloadHash, (Bytes, PrivateArguments)>,
    erased: Vec<Erasure>,
}

/// The fake.
#[derive(Debug)]
pub struct FakePrivacy {
    kept: Mutex<Kept>,
    /// True while sending has to wait.
    closed: watch::Sender<bool>,
    /// How many wait.
    waiting: watch::Sender<usize>,
    stored: watch::Sender<usize>,
}

impl Default for FakePrivacy {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            closed: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            stored: watch::Sender::new(0),
        }
    }
}

/// Keeps senders waiting until it is opened.
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn open(self) {
        self.0.send_replace(false);
    }
}

async fn until(counter: &watch::Sender<usize>, least: usize) {
    let mut receiver = counter.subscribe();
    let reached = receiver.wait_for(|count| *count >= least);
    tokio::time::timeout(Duration::from_secs(30), reached)
        .await
        .unwrap()
        .unwrap();
}

impl FakePrivacy {
    pub fn close_gate(&self) -> Gate {
        self.closed.send_replace(true);
        Gate(self.closed.clone())
    }

    pub async fn wait_for_waiting(&self) {
        until(&self.waiting, 1).await;
    }

    pub async fn wait_for_stored(&self, count: usize) {
        until(&self.stored, count).await;
    }

    pub fn stored(&self) -> usize {
        *self.stored.borrow()
    }

    pub fn erasure_notes(&self) -> Vec<String> {
        let kept = self.kept.lock();
        kept.erased.iter().map(|e| e.note.clone()).collect()
    }

    fn check(arguments: &PrivateArguments) -> Result<(), PrivacyError> {
        let known = [OUR_KEY, THEIR_KEY];
        let from = arguments.private_from.map(|key| key.to_string());
        if let Some(key) = from.filter(|key| key != OUR_KEY) {
            return Err(PrivacyError::NotOurKey { key });
        }
        let mut named = arguments.private_for.iter();
        match named.find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(PrivacyError::UnknownKey { key: key.clone() }),
            None => Ok(()),
        }
    }

    async fn keep(
        &self,
        data: Bytes,
        arguments: PrivateArguments,
    ) -> Result<Distributed, PrivacyError> {
        Self::check(&arguments)?;
        self.waiting.send_modify(|count| *count += 1);
        let mut closed = self.closed.subscribe();
        closed
            .wait_for(|closed| !closed)
            .await
            .map_err(PrivacyError::internal)?;
        let hash = PayloadHash::of(&data);
        self.kept.lock().payloads.insert(hash, (data, arguments));
        self.stored.send_modify(|count| *count += 1);
        Ok(distributed(hash))
    }
}

fn ours() -> PublicKey {
    OUR_KEY.parse().unwrap()
}

fn distributed(hash: PayloadHash) -> Distributed {
    Distributed {
        hash,
        tags: Vec::new(),
        sender: ours(),
        managed_parties: vec![ours()],
        pending: Vec::new(),
    }
}

fn off<T>() -> Result<T, PrivacyError> {
    Err(PrivacyError::Off)
}

fn off_later<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, PrivacyError>> {
    async { off() }.boxed()
}

impl PrivacyApi for FakePrivacy {
    fn settings(&self) -> PrivacySettings {
        PrivacySettings {
            form: PublicForm::Quorum,
            precompile: PRIVACY_PRECOMPILE,
        }
    }

    fn distribute(&self, _: PrivateSend) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        off_later()
    }

    fn distribute_data(
        &self,
        data: Bytes,
        arguments: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        self.keep(data, arguments).boxed()
    }

    fn store_raw(
        &self,
        data: Bytes,
        private_from: Option<PublicKey>,
    ) -> BoxFuture<'_, Result<PayloadHash, PrivacyError>> {
        let arguments = PrivateArguments {
            private_from,
            ..PrivateArguments::default()
        };
        async move { Ok(self.keep(data, arguments).await?.hash) }.boxed()
    }

    fn distribute_stored(
        &self,
        send: StoredSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move {
            let hash = send.hash;
            let held = self.kept.lock().payloads.get(&hash).cloned();
            let (data, _) = held.ok_or(PrivacyError::UnknownPayload { hash })?;
            self.keep(data, send.arguments).await
        }
        .boxed()
    }

    fn distribute_signed(
        &self,
        _: Bytes,
        _: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        off_later()
    }

    fn payload(&self, hash: PayloadHash) -> BoxFuture<'_, Result<PayloadView, PrivacyError>> {
        async move {
            if hash.as_bytes() == &MISSING {
                return Ok(PayloadView::Missing);
            }
            let kept = self.kept.lock();
            if let Some(erasure) = kept.erased.iter().find(|e| e.hash == hash) {
                return Ok(PayloadView::Erased(erasure.clone()));
            }
            let Some((data, arguments)) = kept.payloads.get(&hash) else {
                return Ok(PayloadView::NotAParty);
            };
            let others = arguments.private_for.iter().map(|key| key.parse().unwrap());
            Ok(PayloadView::Party(Box::new(ReceivedPayload {
                data: data.clone(),
                sender: ours(),
                as_recipient: ours(),
                we_sent: true,
                parties: std::iter::once(ours()).chain(others).collect(),
                managed_parties: vec![ours()],
                flag: arguments.privacy_flag,
                mandatory: arguments.mandatory_for.clone(),
                group: None,
                affected: Vec::new(),
                exec_root: None,
                sender_node: NodeKey::from([2; 33]),
            })))
        }
        .boxed()
    }

    fn erase(
        &self,
        hash: PayloadHash,
        note: String,
    ) -> BoxFuture<'_, Result<Erasure, PrivacyError>> {
        async move {
            let mut kept = self.kept.lock();
            let held = kept.payloads.remove(&hash);
            held.ok_or(PrivacyError::UnknownPayload { hash })?;
            let erasure = Erasure {
                hash,
                sequence: 1,
                erased_at_ms: 1,
                reason: ErasureReason::Requested,
                note,
            };
            kept.erased.push(erasure.clone());
            Ok(erasure)
        }
        .boxed()
    }

    fn give_up(&self, _: GiveUp, _: String) -> BoxFuture<'_, Result<u64, PrivacyError>> {
        off_later()
    }

    fn erasures(&self, _: Option<u64>, _: usize) -> Result<Vec<Erasure>, PrivacyError> {
        off()
    }

    fn deliveries(&self, _: &PayloadHash) -> Result<Vec<Delivery>, PrivacyError> {
        off()
    }

    fn own_keys(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, PrivacyError>> {
        async { Ok(vec![ours()]) }.boxed()
    }

    fn member_keys(&self) -> Vec<MemberKeys> {
        let member = |raft_id: u64, keys: Vec<PublicKey>| MemberKeys {
            raft_id,
            node: NodeKey::from([2; 33]),
            organisation: format!("Org {raft_id}"),
            this: raft_id == 1,
            keys,
        };
        let theirs: PublicKey = THEIR_KEY.parse().unwrap();
        vec![
            member(1, vec![ours()]),
            member(2, vec![theirs, ours()]),
            member(3, Vec::new()),
        ]
    }

    fn create_group(&self, _: NewGroup) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>> {
        off_later()
    }

    fn groups(&self, _: Option<&GroupId>, _: usize) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        off()
    }

    fn find_groups(&self, _: &[PublicKey], _: usize) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        off()
    }

    fn group(&self, _: &str) -> Result<PrivacyGroup, PrivacyError> {
        off()
    }

    fn delete_group(&self, _: GroupId) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>> {
        off_later()
    }

    fn status(&self) -> BoxFuture<'_, Result<PrivacyStatusView, PrivacyError>> {
        off_later()
    }

    fn watch_status(&self) -> watch::Receiver<PrivateStatus> {
        let status = PrivateStatus {
            cursor: 0,
            state_root: B256::ZERO,
            private_height: 0,
            starts_at: 1,
            waiting: None,
            halted: None,
            records: 0,
            erased: 0,
        };
        watch::Sender::new(status).subscribe()
    }

    fn alarms(&self, _: u64, _: usize) -> Result<Vec<DivergenceAlarm>, PrivacyError> {
        off()
    }

    fn resync(&self) -> BoxFuture<'_, Result<ResyncView, PrivacyError>> {
        off_later()
    }

    fn executed(&self, _: u64) -> BoxFuture<'_, Result<(), PrivacyError>> {
        off_later()
    }

    fn private_state(&self, _: u64) -> BoxFuture<'_, Result<Arc<dyn RootedState>, PrivacyError>> {
        off_later()
    }

    fn private_root(&self, _: u64) -> Result<B256, PrivacyError> {
        off()
    }

    fn records(&self, _: u64, _: u64, _: usize) -> Result<Vec<PrivateRecord>, PrivacyError> {
        off()
    }

    fn contract(&self, _: &Address) -> Result<Option<ContractMetadata>, PrivacyError> {
        off()
    }
}
