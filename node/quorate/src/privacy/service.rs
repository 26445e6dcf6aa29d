//! What clients ask of private transactions, answered by the exchange of payloads and the private ledger.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorate_chain::{PRIVACY_PRECOMPILE, PublicForm};
use quorate_enclave::{
    Cursor, Delivery, Enclave, Erasure, ErasureReason, GroupId, NewGroup, PayloadHash,
    PrivacyGroup, PublicKey,
};
use quorate_engine::Ledger;
use quorate_evm::{RootedState, contract_digest};
use quorate_exchange::{Exchange, ExecutedDigest, Reception, StateView};
use quorate_privacy::{
    ContractMetadata, Extension, HandoverHead, PrivateLedger, PrivateRecord, PrivateStatus,
    PublicChain,
};
use quorate_rpc::{
    Distributed, DivergenceAlarm, EXECUTION_WAIT_MS, ExtensionSend, GiveUp, MemberKeys,
    MemberResyncView, PayloadView, PrivacyApi, PrivacyError, PrivacySettings, PrivacyStatusView,
    PrivateArguments, PrivateSend, ReceivedPayload, ResyncView, StoredSend,
};
use quorate_state::StateRead as _;
use raft_adapter::RaftHandle;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::errors::{of_exchange, of_read, of_read_at};

/// Records of erasures that are read at once.
const ERASURES_PAGE: usize = 1_000;

/// Everything that private transactions need, behind the interface of the servers.
pub struct PrivacyService {
    pub(super) exchange: Exchange,
    pub(super) ledger: PrivateLedger,
    pub(super) chain: Arc<dyn PublicChain>,
    pub(super) enclave: Arc<dyn Enclave>,
    pub(super) raft: RaftHandle,
    /// The Raft index that the importer has dealt with.
    pub(super) applied: watch::Receiver<u64>,
    pub(super) form: PublicForm,
    pub(super) resyncing: AtomicBool,
    /// For those questions that the servers ask on threads that may wait.
    pub(super) runtime: Handle,
}

impl fmt::Debug for PrivacyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivacyService")
            .field("ledger", &self.ledger)
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl PrivacyService {
    pub(super) fn find_group(&self, name_or_id: &str) -> Result<PrivacyGroup, PrivacyError> {
        self.exchange.resolve_group(name_or_id).map_err(of_exchange)
    }

    async fn received(&self, hash: PayloadHash) -> Result<PayloadView, PrivacyError> {
        let received = match self.exchange.receive(hash).await.map_err(of_exchange)? {
            Reception::NotAParty => return Ok(PayloadView::NotAParty),
            Reception::Erased(erasure) => return Ok(PayloadView::Erased(erasure)),
            Reception::Missing => return Ok(PayloadView::Missing),
            Reception::Received(received) => *received,
        };
        let data = received.content.into_input();
        let members = self.exchange.member_keys();
        let ours = |key: &PublicKey| {
            *key == received.as_recipient || members.iter().any(|m| m.this && m.has(key))
        };
        let managed = received.parties.iter().copied().filter(ours).collect();
        Ok(PayloadView::Party(Box::new(ReceivedPayload {
            data,
            sender: received.sender,
            as_recipient: received.as_recipient,
            we_sent: received.we_sent,
            managed_parties: managed,
            parties: received.parties.into_iter().collect(),
            flag: received.flag,
            mandatory: received.mandatory.into_iter().collect(),
            group: received.group,
            affected: received.affected.into_iter().collect(),
            exec_root: received.exec_root,
            sender_node: received.sender_node,
        })))
    }

    async fn erase_here(&self, hash: PayloadHash, note: String) -> Result<Erasure, PrivacyError> {
        let erased = self.exchange.erase(hash, ErasureReason::Requested, note);
        erased.await.map_err(of_exchange)
    }

    async fn give_up_here(&self, what: GiveUp, note: String) -> Result<u64, PrivacyError> {
        let given_up = match what {
            GiveUp::Waiting(hash) => {
                let waiting = self.ledger.status().waiting.map(|waiting| waiting.hash);
                if waiting != Some(hash) {
                    let reason = match waiting {
                        Some(other) => format!("private execution waits for payload {other}"),
                        None => "private execution does not wait for a payload".to_owned(),
                    };
                    return Err(PrivacyError::Refused { reason });
                }
                if self.ledger.give_up_state(&hash, &note).await {
                    return Ok(1);
                }
                let given_up = self.exchange.give_up(hash, note).await;
                given_up.map(|_| 1)
            }
            GiveUp::Erased => self.exchange.give_up_erased(note).await,
        };
        self.ledger.retry_now();
        given_up.map_err(of_exchange)
    }

    async fn erasures_after(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Erasure>, PrivacyError> {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.exchange.erasures(cursor, ERASURES_PAGE).await;
            let page = page.map_err(of_exchange)?;
            let Some(last) = page.last() else { break };
            cursor = Some(Cursor {
                time_ms: last.erased_at_ms,
                sequence: last.sequence,
            });
            found.extend(
                page.into_iter()
                    .filter(|e| after.is_none_or(|after| e.sequence > after)),
            );
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn status_now(&self) -> Result<PrivacyStatusView, PrivacyError> {
        let outbox = self.exchange.outbox_status().map_err(of_exchange)?;
        let counts = self.exchange.payload_counts().await;
        let (payloads, erased) = counts.map_err(of_exchange)?;
        let enclave = match self.enclave.health().await {
            Ok(health) => Ok(health.version),
            Err(error) => Err(error.to_string()),
        };
        Ok(PrivacyStatusView {
            execution: self.ledger.status(),
            complete: self.exchange.is_complete(),
            payloads,
            erased,
            deliveries_pending: outbox.pending,
            alarms: self.exchange.alarm_count(),
            resyncing: self.resyncing.load(Ordering::Acquire),
            enclave,
        })
    }

    pub(super) async fn resync_now(&self) -> Result<ResyncView, PrivacyError> {
        if self.resyncing.swap(true, Ordering::AcqRel) {
            return Err(PrivacyError::Busy {
                what: "a resync is under way".into(),
            });
        }
        let report = self.exchange.resync().await;
        self.resyncing.store(false, Ordering::Release);
        let report = report.map_err(of_exchange)?;
        self.ledger.retry_now();
        let members = report.members.into_iter().map(|member| MemberResyncView {
            raft_id: member.raft_id,
            node: member.node,
            fetched: member.fetched,
            known: member.held,
            failed: member.failed,
            erased: member.erased,
            error: member.error,
        });
        Ok(ResyncView {
            members: members.collect(),
            complete: report.complete,
        })
    }

    async fn reached(&self, height: u64) -> Result<(), PrivacyError> {
        if self.ledger.cursor() >= height {
            return Ok(());
        }
        let status = self.ledger.status();
        // Waiting does not help where it waits for others already.
        let limit = match status.halted.is_some() || status.waiting.is_some() {
            true => Duration::ZERO,
            false => Duration::from_millis(EXECUTION_WAIT_MS),
        };
        let reached = self.ledger.reached(height, limit).await;
        reached.map_err(|error| of_read_at(error, &self.ledger.status()))
    }
}

impl PrivacyApi for PrivacyService {
    fn settings(&self) -> PrivacySettings {
        PrivacySettings {
            form: self.form,
            precompile: PRIVACY_PRECOMPILE,
        }
    }

    fn distribute(&self, send: PrivateSend) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        self.send(send).boxed()
    }

    fn distribute_data(
        &self,
        data: Bytes,
        arguments: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move { self.send_data(data, &arguments).await }.boxed()
    }

    fn store_raw(
        &self,
        data: Bytes,
        private_from: Option<PublicKey>,
    ) -> BoxFuture<'_, Result<PayloadHash, PrivacyError>> {
        async move {
            let arguments = PrivateArguments {
                private_from,
                ..PrivateArguments::default()
            };
            self.resolve(&arguments).await?;
            let stored = self.exchange.store_raw(data, private_from).await;
            stored.map_err(of_exchange)
        }
        .boxed()
    }

    fn distribute_stored(
        &self,
        send: StoredSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        self.send_stored(send).boxed()
    }

    fn distribute_signed(
        &self,
        raw: Bytes,
        arguments: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        async move { self.send_signed(raw, &arguments).await }.boxed()
    }

    fn payload(&self, hash: PayloadHash) -> BoxFuture<'_, Result<PayloadView, PrivacyError>> {
        self.received(hash).boxed()
    }

    fn erase(
        &self,
        hash: PayloadHash,
        note: String,
    ) -> BoxFuture<'_, Result<Erasure, PrivacyError>> {
        self.erase_here(hash, note).boxed()
    }

    fn give_up(&self, what: GiveUp, note: String) -> BoxFuture<'_, Result<u64, PrivacyError>> {
        self.give_up_here(what, note).boxed()
    }

    fn erasures(&self, after: Option<u64>, limit: usize) -> Result<Vec<Erasure>, PrivacyError> {
        self.runtime.block_on(self.erasures_after(after, limit))
    }

    fn deliveries(&self, hash: &PayloadHash) -> Result<Vec<Delivery>, PrivacyError> {
        let deliveries = self.runtime.block_on(self.exchange.deliveries(*hash));
        deliveries.map_err(of_exchange)
    }

    fn own_keys(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, PrivacyError>> {
        async move {
            let keys = self.exchange.keys().await.map_err(of_exchange)?;
            Ok(keys
                .into_iter()
                .map(|announcement| announcement.key)
                .collect())
        }
        .boxed()
    }

    fn member_keys(&self) -> Vec<MemberKeys> {
        let members = self.exchange.member_keys();
        let view = |member: &quorate_exchange::MemberKeys| MemberKeys {
            raft_id: member.raft_id,
            node: member.node,
            organisation: member.organisation.clone(),
            this: member.this,
            keys: member
                .keys
                .iter()
                .map(|announcement| announcement.key)
                .collect(),
        };
        members.iter().map(view).collect()
    }

    fn create_group(&self, group: NewGroup) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>> {
        async move {
            let created = self.exchange.create_group(group).await;
            created.map(|created| created.group).map_err(of_exchange)
        }
        .boxed()
    }

    fn groups(
        &self,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        self.exchange.groups(after, limit).map_err(of_exchange)
    }

    fn find_groups(
        &self,
        members: &[PublicKey],
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        let members = members.iter().copied().collect();
        self.exchange
            .find_groups(&members, limit)
            .map_err(of_exchange)
    }

    fn group(&self, name_or_id: &str) -> Result<PrivacyGroup, PrivacyError> {
        self.find_group(name_or_id)
    }

    fn delete_group(&self, id: GroupId) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>> {
        async move {
            let deleted = self.exchange.delete_group(id).await.map_err(of_exchange)?;
            deleted.ok_or_else(|| PrivacyError::UnknownGroup {
                name: id.to_string(),
            })
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<PrivacyStatusView, PrivacyError>> {
        self.status_now().boxed()
    }

    fn watch_status(&self) -> watch::Receiver<PrivateStatus> {
        self.ledger.watch()
    }

    fn alarms(&self, after: u64, limit: usize) -> Result<Vec<DivergenceAlarm>, PrivacyError> {
        let alarms = self.exchange.alarms(after, limit);
        let alarms = alarms.map_err(PrivacyError::internal)?;
        let view = |alarm: quorate_exchange::Alarm| DivergenceAlarm {
            number: alarm.number,
            raised_at_ms: alarm.at_ms,
            transaction: alarm.transaction,
            block: alarm.height,
            hash: alarm.payload,
            other: alarm.node,
            our_digest: alarm.ours,
            their_digest: alarm.theirs,
        };
        Ok(alarms.into_iter().map(view).collect())
    }

    fn resync(&self) -> BoxFuture<'_, Result<ResyncView, PrivacyError>> {
        self.resync_now().boxed()
    }

    fn executed(&self, height: u64) -> BoxFuture<'_, Result<(), PrivacyError>> {
        async move {
            match self.reached(height).await {
                // There was nothing to execute for this node then.
                Err(PrivacyError::BeforeStart { .. }) => Ok(()),
                reached => reached,
            }
        }
        .boxed()
    }

    fn private_state(
        &self,
        height: u64,
    ) -> BoxFuture<'_, Result<Arc<dyn RootedState>, PrivacyError>> {
        async move {
            self.reached(height).await?;
            let state = self.ledger.state_at(height).map_err(of_read)?;
            Ok(Arc::new(state) as Arc<dyn RootedState>)
        }
        .boxed()
    }

    fn private_root(&self, height: u64) -> Result<B256, PrivacyError> {
        self.ledger.root_at(height).map_err(of_read)
    }

    fn records(
        &self,
        first: u64,
        last: u64,
        limit: usize,
    ) -> Result<Vec<PrivateRecord>, PrivacyError> {
        self.ledger.records(first, last, limit).map_err(of_read)
    }

    fn contract(&self, address: &Address) -> Result<Option<ContractMetadata>, PrivacyError> {
        self.ledger.contract(address).map_err(of_read)
    }

    fn distribute_extension(
        &self,
        send: ExtensionSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        self.send_extension(send).boxed()
    }

    fn extension(&self, offer: &Address) -> Result<Option<Extension>, PrivacyError> {
        self.ledger.extension(offer).map_err(of_read)
    }

    fn extensions(
        &self,
        after: Option<Address>,
        limit: usize,
    ) -> Result<Vec<Extension>, PrivacyError> {
        self.ledger.extensions(after, limit).map_err(of_read)
    }
}

/// Private state as the exchange compares it.
#[derive(Debug)]
pub struct PrivateView {
    /// The private one.
    pub private: PrivateLedger,
    /// The public one, which knows where transactions are.
    pub public: Ledger,
}

impl StateView for PrivateView {
    fn contract_digest(&self, address: Address) -> Option<B256> {
        let state = self.private.state_at(self.private.cursor()).ok()?;
        state.account(&address).ok().flatten()?;
        contract_digest(&state, &address).ok()
    }

    fn executed(&self, transaction: &B256) -> Option<ExecutedDigest> {
        let at = self.public.locate(transaction).ok().flatten()?;
        let record = self.private.record(at.height, at.position);
        let record = record.ok().flatten()?;
        Some(ExecutedDigest {
            height: record.height,
            digest: record.digest,
        })
    }

    fn was_executed(&self, payload: &PayloadHash) -> Result<bool, String> {
        self.private
            .was_executed(payload)
            .map_err(|e| e.to_string())
    }

    fn let_go(&self, payloads: &[PayloadHash]) -> Result<(), String> {
        let let_go = self.private.let_go(payloads);
        let_go.map(drop).map_err(|e| e.to_string())
    }

    fn executed_until_ms(&self) -> Option<u64> {
        let status = self.private.status();
        let head = self.public.head();
        let current = status.waiting.is_none() && status.halted.is_none();
        let current = current && status.cursor == head.height();
        current.then(|| head.block.header().timestamp.saturating_mul(1_000))
    }

    fn handover(&self, transaction: &B256) -> Result<Option<HandoverHead>, String> {
        self.private
            .handover(transaction)
            .map_err(|e| e.to_string())
    }

    fn handover_page(&self, transaction: &B256, page: u32) -> Result<Vec<u8>, String> {
        self.private
            .handover_page(transaction, page)
            .map_err(|e| e.to_string())
    }
}
