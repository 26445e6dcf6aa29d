//! The private side of a node, in memory: a few payloads and groups, one key, and no contracts.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, Bytes};
use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use parking_lot::Mutex;
use quorate_chain::{PRIVACY_PRECOMPILE, PublicForm};
use quorate_enclave::{
    Delivery, Erasure, ErasureReason, GroupId, NewGroup, NodeKey, PayloadHash, PrivacyGroup,
    PrivacyGroups, PublicKey,
};
use quorate_evm::RootedState;
use quorate_kv::MemoryKv;
use quorate_privacy::{ContractMetadata, PrivateRecord, PrivateStatus};
use quorate_rpc::{
    Distributed, DivergenceAlarm, GiveUp, MemberKeys, PayloadView, PrivacyApi, PrivacyError,
    PrivacySettings, PrivacyStatusView, PrivateArguments, PrivateSend, ReceivedPayload, ResyncView,
    StoredSend,
};
use tokio::sync::watch;

use crate::figures;

/// Payloads beyond these are refused.
const PAYLOADS_MAX: usize = 64;

/// What is under a hash.
#[derive(Debug, Clone)]
enum Kept {
    Payload(Bytes, Vec<PublicKey>),
    Erased(Erasure),
}

/// It.
#[derive(Debug)]
pub(super) struct PrivateNode {
    kept: Mutex<BTreeMap<PayloadHash, Kept>>,
    groups: PrivacyGroups,
    status: watch::Sender<PrivateStatus>,
}

/// The key of this node.
pub(super) fn own_key() -> PublicKey {
    PublicKey::from_bytes([3; 32])
}

/// The key of the other member.
pub(super) fn other_key() -> PublicKey {
    PublicKey::from_bytes([4; 32])
}

type Later<'a, T> = BoxFuture<'a, Result<T, PrivacyError>>;

fn later<'a, T: Send + 'a>(result: Result<T, PrivacyError>) -> Later<'a, T> {
    ready(result).boxed()
}

impl PrivateNode {
    /// One with a payload of eight bytes and a group of both keys. `None` if the groups cannot be kept.
    pub(super) fn begin() -> Option<Self> {
        let groups = PrivacyGroups::open(Arc::new(MemoryKv::new()), figures::CHAIN_ID).ok()?;
        let node = Self {
            kept: Mutex::default(),
            groups,
            status: watch::Sender::new(PrivateStatus {
                cursor: 0,
                state_root: B256::ZERO,
                private_height: 0,
                starts_at: 1,
                waiting: None,
                halted: None,
                records: 0,
                erased: 0,
            }),
        };
        let trade = NewGroup {
            name: "trade".into(),
            description: String::new(),
            members: [own_key(), other_key()].into(),
            payloads_live_ms: None,
        };
        node.groups.create(trade, 1).ok()?;
        node.keep(Self::payload(), &PrivateArguments::default())
            .ok()?;
        Some(node)
    }

    /// What is there from the beginning.
    pub(super) fn payload() -> Bytes {
        Bytes::from_static(b"payload!")
    }

    fn parties(&self, arguments: &PrivateArguments) -> Result<Vec<PublicKey>, PrivacyError> {
        if let Some(key) = arguments.private_from.filter(|key| *key != own_key()) {
            return Err(PrivacyError::NotOurKey {
                key: key.to_string(),
            });
        }
        let mut parties = vec![own_key()];
        for named in &arguments.private_for {
            match named.parse::<PublicKey>() {
                Ok(key) if key == other_key() || key == own_key() => parties.push(key),
                _ => parties.extend(self.group(named)?.members),
            }
        }
        Ok(parties)
    }

    fn keep(&self, data: Bytes, arguments: &PrivateArguments) -> Result<Distributed, PrivacyError> {
        let parties = self.parties(arguments)?;
        let hash = PayloadHash::of(&data);
        let mut kept = self.kept.lock();
        // What was erased stays erased; beyond the limit the payload is acknowledged and forgotten.
        if kept.len() < PAYLOADS_MAX {
            kept.entry(hash).or_insert(Kept::Payload(data, parties));
        }
        Ok(Distributed {
            hash,
            tags: Vec::new(),
            sender: own_key(),
            managed_parties: vec![own_key()],
            pending: Vec::new(),
        })
    }
}

impl PrivacyApi for PrivateNode {
    fn settings(&self) -> PrivacySettings {
        PrivacySettings {
            form: PublicForm::Marker,
            precompile: PRIVACY_PRECOMPILE,
        }
    }

    fn distribute(&self, send: PrivateSend) -> Later<'_, Distributed> {
        let data = Bytes::from(format!("{send:?}").into_bytes());
        later(self.keep(data, &PrivateArguments::default()))
    }

    fn distribute_data(&self, data: Bytes, arguments: PrivateArguments) -> Later<'_, Distributed> {
        later(self.keep(data, &arguments))
    }

    fn store_raw(&self, data: Bytes, from: Option<PublicKey>) -> Later<'_, PayloadHash> {
        let arguments = PrivateArguments {
            private_from: from,
            ..PrivateArguments::default()
        };
        later(self.keep(data, &arguments).map(|kept| kept.hash))
    }

    fn distribute_stored(&self, send: StoredSend) -> Later<'_, Distributed> {
        let hash = send.hash;
        let held = self.kept.lock().get(&hash).cloned();
        later(match held {
            Some(Kept::Payload(data, _)) => self.keep(data, &send.arguments),
            Some(Kept::Erased(_)) | None => Err(PrivacyError::UnknownPayload { hash }),
        })
    }

    fn distribute_signed(&self, raw: Bytes, arguments: PrivateArguments) -> Later<'_, Distributed> {
        later(self.keep(raw, &arguments))
    }

    fn payload(&self, hash: PayloadHash) -> Later<'_, PayloadView> {
        later(Ok(match self.kept.lock().get(&hash).cloned() {
            None => PayloadView::NotAParty,
            Some(Kept::Erased(erasure)) => PayloadView::Erased(erasure),
            Some(Kept::Payload(data, parties)) => PayloadView::Party(Box::new(ReceivedPayload {
                data,
                sender: own_key(),
                as_recipient: own_key(),
                we_sent: true,
                parties,
                managed_parties: vec![own_key()],
                flag: quorate_enclave::PrivacyFlag::Standard,
                mandatory: Vec::new(),
                group: None,
                affected: Vec::new(),
                exec_root: None,
                sender_node: NodeKey::from([2; 33]),
            })),
        }))
    }

    fn erase(&self, hash: PayloadHash, note: String) -> Later<'_, Erasure> {
        let mut kept = self.kept.lock();
        let Some(held) = kept.get_mut(&hash) else {
            return later(Err(PrivacyError::UnknownPayload { hash }));
        };
        let erasure = Erasure {
            hash,
            sequence: 1,
            erased_at_ms: 1,
            reason: ErasureReason::Requested,
            note,
        };
        *held = Kept::Erased(erasure.clone());
        later(Ok(erasure))
    }

    fn give_up(&self, _: GiveUp, _: String) -> Later<'_, u64> {
        later(Ok(0))
    }

    fn erasures(&self, _: Option<u64>, limit: usize) -> Result<Vec<Erasure>, PrivacyError> {
        let kept = self.kept.lock();
        let erased = kept.values().filter_map(|kept| match kept {
            Kept::Erased(erasure) => Some(erasure.clone()),
            Kept::Payload(..) => None,
        });
        Ok(erased.take(limit).collect())
    }

    fn deliveries(&self, _: &PayloadHash) -> Result<Vec<Delivery>, PrivacyError> {
        Ok(Vec::new())
    }

    fn own_keys(&self) -> Later<'_, Vec<PublicKey>> {
        later(Ok(vec![own_key()]))
    }

    fn member_keys(&self) -> Vec<MemberKeys> {
        let member = |raft_id: u64, key| MemberKeys {
            raft_id,
            node: NodeKey::from([2; 33]),
            organisation: "Test".into(),
            this: raft_id == 1,
            keys: vec![key],
        };
        vec![member(1, own_key()), member(2, other_key())]
    }

    fn create_group(&self, group: NewGroup) -> Later<'_, PrivacyGroup> {
        let refused = |error: quorate_enclave::GroupError| PrivacyError::Refused {
            reason: error.to_string(),
        };
        later(self.groups.create(group, 1).map_err(refused))
    }

    fn groups(
        &self,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        let listed = self.groups.list(after, limit);
        listed.map_err(PrivacyError::internal)
    }

    fn find_groups(
        &self,
        members: &[PublicKey],
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError> {
        let members: std::collections::BTreeSet<PublicKey> = members.iter().copied().collect();
        let mut found = self.groups(None, limit)?;
        found.retain(|group| group.members == members);
        Ok(found)
    }

    fn group(&self, name: &str) -> Result<PrivacyGroup, PrivacyError> {
        let mut found = self.groups(None, PAYLOADS_MAX)?.into_iter();
        found
            .find(|group| group.name == name || group.id.to_string() == name)
            .ok_or_else(|| PrivacyError::UnknownGroup { name: name.into() })
    }

    fn delete_group(&self, id: GroupId) -> Later<'_, PrivacyGroup> {
        let found = self.group(&id.to_string());
        later(found.and_then(|group| {
            self.groups.delete(&id).map_err(PrivacyError::internal)?;
            Ok(group)
        }))
    }

    fn status(&self) -> Later<'_, PrivacyStatusView> {
        later(Ok(PrivacyStatusView {
            execution: self.status.borrow().clone(),
            complete: true,
            payloads: 1,
            erased: 0,
            deliveries_pending: 0,
            alarms: 0,
            resyncing: false,
            enclave: Ok("fuzz".into()),
        }))
    }

    fn watch_status(&self) -> watch::Receiver<PrivateStatus> {
        self.status.subscribe()
    }

    fn alarms(&self, _: u64, _: usize) -> Result<Vec<DivergenceAlarm>, PrivacyError> {
        Ok(Vec::new())
    }

    fn resync(&self) -> Later<'_, ResyncView> {
        later(Ok(ResyncView::default()))
    }

    fn executed(&self, _: u64) -> Later<'_, ()> {
        later(Ok(()))
    }

    fn private_state(&self, _: u64) -> Later<'_, Arc<dyn RootedState>> {
        later(Err(PrivacyError::Off))
    }

    fn private_root(&self, _: u64) -> Result<B256, PrivacyError> {
        Ok(B256::ZERO)
    }

    fn records(&self, _: u64, _: u64, _: usize) -> Result<Vec<PrivateRecord>, PrivacyError> {
        Ok(Vec::new())
    }

    fn contract(&self, _: &Address) -> Result<Option<ContractMetadata>, PrivacyError> {
        Ok(None)
    }
}
