//! The exchange itself: what its parts share, and what is read from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_enclave::{
    Enclave, KeyAnnouncement, NodeKey, Outbox, PayloadHash, PayloadStore, PrivacyGroups, PublicKey,
};
use quorate_kv::{Kv, SledConfig, SledKv};
use quorate_privacy::SignedTerms;
use tokio::sync::{Notify, Semaphore};

use crate::acknowledged::Acknowledged;
use crate::cache::OpenedCache;
use crate::courier::Couriers;
use crate::digests::Digests;
use crate::keeper::Keeper;
use crate::records::Records;
use crate::reservations::Reservations;
use crate::signing::{Signers, Signing};
use crate::wanted::Wanted;
use crate::wire::{Answer, Request};
use crate::{
    ExchangeConfig, ExchangeError, ExchangeIdentity, ExchangeOpenError, MemberKeys, PeerError,
    Peers, RecordError, StateView, metrics,
};

/// sled's page cache for the exchange's index, in bytes.
const INDEX_CACHE_BYTES: u64 = 64 << 20;

/// Called with the hash of a payload that was stored.
pub type OnStored = Arc<dyn Fn(&PayloadHash) + Send + Sync>;

/// Moves private payloads between this node and the other members. Cheap to clone. See the crate's page.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Whom it works with.
    pub(crate) enclave: Arc<dyn Enclave>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) state_view: RwLock<Option<Arc<dyn StateView>>>,
    pub(crate) on_stored: RwLock<Option<OnStored>>,
    // Settings.
    pub(crate) config: ExchangeConfig,
    pub(crate) identity: ExchangeIdentity,
    // What survives a restart.
    pub(crate) store: PayloadStore,
    pub(crate) outbox: Outbox,
    pub(crate) groups: PrivacyGroups,
    pub(crate) records: Records,
    // What does not.
    pub(crate) cache: OpenedCache,
    pub(crate) reservations: Reservations,
    pub(crate) wanted: Wanted,
    pub(crate) digests: Digests,
    pub(crate) couriers: Couriers,
    pub(crate) keeper: Keeper,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) signing: Signing,
    pub(crate) signers: Signers,
    /// The member table as it was when its keys were last remembered.
    members_seen: Mutex<Option<Arc<Vec<MemberKeys>>>>,
    /// Keys of our enclave as it last told them.
    pub(crate) own_keys: RwLock<Arc<Vec<KeyAnnouncement>>>,
    /// X-Wing keys that were fetched from their members.
    pub(crate) hybrid_keys: Mutex<BTreeMap<PublicKey, KeyAnnouncement>>,
    pub(crate) answering: Semaphore,
    pub(crate) distributing: Semaphore,
    /// The outbox has something to do before its time.
    pub(crate) outbox_wake: Notify,
    /// The store may be completed before its time.
    pub(crate) completion_wake: Notify,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("identity", &self.identity)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// Opens the exchange that lies in `dir`, or makes a new one there. `chain_is_empty` says whether there is no block but
    /// genesis: if blocks came before the payload store, it cannot know what it lacks, and is not complete.
    ///
    /// # Errors
    /// [`ExchangeOpenError`].
    pub fn open(
        dir: &Path,
        config: ExchangeConfig,
        enclave: Arc<dyn Enclave>,
        peers: Arc<dyn Peers>,
        identity: ExchangeIdentity,
        chain_is_empty: bool,
    ) -> Result<Self, ExchangeOpenError> {
        std::fs::create_dir_all(dir).map_err(|e| ExchangeOpenError::Folder {
            dir: dir.to_owned(),
            reason: e.to_string(),
        })?;
        let sled = SledConfig {
            cache_capacity_bytes: INDEX_CACHE_BYTES,
            ..SledConfig::default()
        };
        let kv: Arc<dyn Kv> = Arc::new(SledKv::open(&dir.join("index"), &sled)?);
        let payloads = dir.join("payloads");
        Self::open_with(
            kv,
            &payloads,
            config,
            enclave,
            peers,
            identity,
            chain_is_empty,
        )
    }

    /// As [`open`](Self::open), with the index in any key-value store, and the folder of the payloads themselves.
    ///
    /// # Errors
    /// [`ExchangeOpenError`].
    pub fn open_with(
        kv: Arc<dyn Kv>,
        payloads: &Path,
        config: ExchangeConfig,
        enclave: Arc<dyn Enclave>,
        peers: Arc<dyn Peers>,
        identity: ExchangeIdentity,
        chain_is_empty: bool,
    ) -> Result<Self, ExchangeOpenError> {
        if let Some((field, allowed)) = config.fault() {
            return Err(ExchangeOpenError::Config { field, allowed });
        }
        let records = Records::open(Arc::clone(&kv), &identity, chain_is_empty)?;
        let store = PayloadStore::open(payloads, Arc::clone(&kv), &config.store)?;
        for damaged in store.damaged_at_open() {
            // A payload of ours may be lost: as long as nobody looked, absence proves nothing.
            tracing::error!(file = %damaged.file.display(), offset = damaged.offset, reason = damaged.reason, "a stored payload is damaged; the store counts as incomplete");
            records.set_incomplete()?;
        }
        metrics::complete(records.is_complete());
        let inner = Inner {
            outbox: Outbox::open(Arc::clone(&kv), config.outbox.clone())?,
            groups: PrivacyGroups::open(kv, identity.chain_id)?,
            cache: OpenedCache::new(config.cache_bytes_max),
            reservations: Reservations::new(config.reservation),
            wanted: Wanted::default(),
            digests: Digests::default(),
            couriers: Couriers::default(),
            keeper: Keeper::default(),
            acknowledged: Acknowledged::default(),
            signing: Signing::default(),
            signers: Signers::default(),
            answering: Semaphore::new(config.answers_max),
            distributing: Semaphore::new(config.distributions_max),
            enclave,
            peers,
            state_view: RwLock::new(None),
            on_stored: RwLock::new(None),
            config,
            identity,
            store,
            records,
            members_seen: Mutex::new(None),
            own_keys: RwLock::default(),
            hybrid_keys: Mutex::default(),
            outbox_wake: Notify::new(),
            completion_wake: Notify::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Names the private state that base digests and results are compared with. Until then nothing is compared.
    pub fn set_state_view(&self, view: Arc<dyn StateView>) {
        *self.inner.state_view.write() = Some(view);
    }

    /// Names what is called, on any thread, after a payload was stored: what waits for it may go on. It must not block.
    pub fn set_on_stored(&self, call: OnStored) {
        *self.inner.on_stored.write() = Some(call);
    }

    /// True if a payload that is not here is not for us: everything that ever was is here.
    pub fn is_complete(&self) -> bool {
        self.inner.records.is_complete()
    }

    /// Says that the store may lack payloads, durably, until a [`resync`](Self::resync) found them. For a node whose disk turns out
    /// to be older than its word.
    ///
    /// # Errors
    /// [`ExchangeError::Records`].
    pub async fn mark_incomplete(&self) -> Result<(), ExchangeError> {
        self.blocking(|inner| Ok(inner.records.set_incomplete()?))
            .await?;
        metrics::complete(false);
        self.inner.completion_wake.notify_one();
        Ok(())
    }

    /// Keys that others may send to, as the enclave says now, the default sender first.
    ///
    /// # Errors
    /// [`ExchangeError::Enclave`].
    pub async fn keys(&self) -> Result<Vec<KeyAnnouncement>, ExchangeError> {
        let keys = self.inner.enclave.public_keys().await?;
        *self.inner.own_keys.write() = Arc::new(keys.clone());
        let node = self.inner.identity.node;
        let named = keys.iter().map(|k| (k.key, node));
        self.inner.records.remember_keys(named, true)?;
        Ok(keys)
    }

    /// The members and their keys, as the replicated table has them now.
    pub fn member_keys(&self) -> Arc<Vec<MemberKeys>> {
        self.members()
    }

    /// The members. Keys that were not seen before are remembered, so that what they sent is recognised after they are replaced.
    pub(crate) fn members(&self) -> Arc<Vec<MemberKeys>> {
        let members = self.inner.peers.members();
        let mut seen = self.inner.members_seen.lock();
        let known = |old: &Arc<Vec<MemberKeys>>| Arc::ptr_eq(old, &members) || **old == *members;
        if !seen.as_ref().is_some_and(known) {
            let each = members
                .iter()
                .flat_map(|member| member.keys.iter().map(|k| (k.key, member.node)));
            match self.inner.records.remember_keys(each, true) {
                Ok(_) => *seen = Some(Arc::clone(&members)),
                // They are in the table still, and are looked at again next time.
                Err(e) => tracing::error!(error = %e, "the members' keys were not remembered"),
            }
        }
        members
    }

    /// The member whose key this is, by the table.
    pub(crate) fn owner<'a>(members: &'a [MemberKeys], key: &PublicKey) -> Option<&'a MemberKeys> {
        members.iter().find(|member| member.has(key))
    }

    /// True if the key is this member's: by the table, or by what the table said before if nobody has it now.
    pub(crate) fn belongs(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        key: &PublicKey,
    ) -> bool {
        match Self::owner(members, key) {
            Some(owner) => owner.raft_id == member.raft_id,
            None => {
                let history = self.inner.records.history();
                history
                    .get(key)
                    .is_some_and(|known| known.seen && known.node == member.node)
            }
        }
    }

    /// The node that a key belongs to, by the table, or by what the table said before if nobody has it now.
    pub(crate) fn node_of_key(&self, key: &PublicKey) -> Option<NodeKey> {
        let members = self.members();
        if let Some(owner) = Self::owner(&members, key) {
            return Some(owner.node);
        }
        let history = self.inner.records.history();
        history.get(key).map(|known| known.node)
    }

    /// True if the key is held by our enclave, as far as was heard.
    pub(crate) fn is_own(&self, members: &[MemberKeys], key: &PublicKey) -> bool {
        members.iter().any(|m| m.this && m.has(key))
            || self.inner.own_keys.read().iter().any(|k| k.key == *key)
    }

    /// Keys that are or were ours, for what others may hold for us.
    pub(crate) async fn every_own_key(&self) -> Result<BTreeSet<PublicKey>, ExchangeError> {
        let mut keys: BTreeSet<_> = self.keys().await?.into_iter().map(|k| k.key).collect();
        let members = self.members();
        for member in members.iter().filter(|m| m.this) {
            keys.extend(member.keys.iter().map(|k| k.key));
        }
        let history = self.inner.records.history();
        let ours = history
            .iter()
            .filter(|(_, known)| known.node == self.inner.identity.node);
        keys.extend(ours.map(|(key, _)| *key));
        Ok(keys)
    }

    /// Asks a member and reads its answer.
    pub(crate) async fn ask(
        &self,
        raft_id: u64,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Answer, PeerError> {
        metrics::sent(request.len());
        let body = self.inner.peers.ask(raft_id, request, timeout).await?;
        metrics::received(body.len());
        // An answer that makes no sense comes from another version: it may be exchanged.
        Answer::decode(&body).map_err(|e| {
            tracing::warn!(raft_id, error = %e, "a member answers what it should not");
            PeerError::Unsupported
        })
    }

    pub(crate) async fn ask_for(
        &self,
        raft_id: u64,
        request: &Request,
    ) -> Result<Answer, PeerError> {
        self.ask(raft_id, request.encode(), self.inner.config.ask_timeout)
            .await
    }

    /// Runs a call that waits for the disk on a thread that may.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner) -> Result<T, ExchangeError> + Send + 'static,
    ) -> Result<T, ExchangeError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || call(&inner)).await;
        // It fails only if the runtime is shutting down, or the call panicked, which it does not by itself.
        done.unwrap_or(Err(ExchangeError::Stopping))
    }

    pub(crate) fn announce_stored(&self, hash: &PayloadHash) {
        let call = self.inner.on_stored.read().clone();
        if let Some(call) = call {
            call(hash);
        }
    }

    pub(crate) fn state_view(&self) -> Option<Arc<dyn StateView>> {
        self.inner.state_view()
    }

    pub(crate) fn node(&self) -> NodeKey {
        self.inner.identity.node
    }
}

impl Inner {
    pub(crate) fn state_view(&self) -> Option<Arc<dyn StateView>> {
        self.state_view.read().clone()
    }

    /// True if a transaction with this payload was executed here.
    pub(crate) fn was_executed(&self, hash: &PayloadHash) -> bool {
        let Some(view) = self.state_view() else {
            return false;
        };
        view.was_executed(hash).unwrap_or_else(|reason| {
            // The careful answer: what was executed is not changed.
            tracing::error!(payload = %hash, reason, "private state does not say whether a payload was executed");
            true
        })
    }

    /// The signed terms of a payload, from what lies beside it, or from where earlier versions kept them.
    pub(crate) fn terms(
        &self,
        hash: &PayloadHash,
        beside: Option<&Bytes>,
    ) -> Result<Option<SignedTerms>, ExchangeError> {
        let Some(beside) = beside else {
            return Ok(self.records.terms(hash)?);
        };
        let damaged = RecordError::Damaged { entry: "terms" };
        Ok(Some(SignedTerms::decode(beside).map_err(|_| damaged)?))
    }
}
