//! `quorate.v1.Privacy` over one node.

mod extension;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use quorate_enclave::{
    DeliveryState, Erasure, ErasureReason, GroupId, NOTE_BYTES_MAX, NewGroup, PayloadHash,
    PrivacyGroup, PublicKey,
};
use quorate_proto::v1;
use quorate_proto::v1::privacy_server::Privacy;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::convert;
use super::service::{Answer, Answers, answer, deadline};
use crate::json::private::PARTIES_MAX;
use crate::json::private::receipts::PrivateInclusion;
use crate::node::Node;
use crate::privacy::{
    DivergenceAlarm, GiveUp, MemberKeys, MemberResyncView, PRIVACY_PAGE_MAX, PayloadView,
    PrivacyApi, PrivacyStatusView, ReceivedPayload, ResyncView,
};
use crate::{PrivacyError, RpcError};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct PrivacyService {
    node: Arc<Node>,
}

impl PrivacyService {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn api(&self) -> Result<Arc<dyn PrivacyApi>, RpcError> {
        self.node.privacy().cloned()
    }
}

#[tonic::async_trait]
impl Privacy for PrivacyService {
    async fn status(&self, _: Request<v1::PrivacyStatusRequest>) -> Answer<v1::PrivacyStatus> {
        answer("PrivacyStatus", async {
            status(&self.node, &*self.api()?).await
        })
        .await
    }

    type WatchStatusStream = Answers<v1::PrivacyStatus>;

    async fn watch_status(
        &self,
        _: Request<v1::WatchPrivacyStatusRequest>,
    ) -> Answer<Self::WatchStatusStream> {
        answer("WatchPrivacyStatus", async {
            let api = self.api()?;
            let first = (Arc::clone(&self.node), api.watch_status(), true);
            let statuses = futures::stream::unfold(Some(first), |watched| async move {
                let (node, mut watched, first) = watched?;
                // Ends when private execution has: the node is stopping.
                if !first {
                    watched.changed().await.ok()?;
                }
                drop(watched.borrow_and_update());
                let told = match node.privacy() {
                    Ok(api) => status(&node, &**api).await,
                    Err(error) => Err(error),
                };
                match told {
                    Ok(status) => Some((Ok(status), Some((node, watched, false)))),
                    Err(error) => Some((Err(error.into_status()), None)),
                }
            });
            // A stream would keep the server from stopping.
            let stop: CancellationToken = self.node.stop.clone();
            Ok(statuses.take_until(stop.cancelled_owned()).boxed())
        })
        .await
    }

    async fn payload(&self, request: Request<v1::PayloadRequest>) -> Answer<v1::PayloadResponse> {
        answer("Payload", async {
            let hash = payload_hash("hash", &request.into_inner().hash)?;
            match self.api()?.payload(hash).await? {
                PayloadView::Party(payload) => Ok(received(*payload)),
                PayloadView::NotAParty | PayloadView::Erased(_) => {
                    Err(PrivacyError::UnknownPayload { hash }.into())
                }
                PayloadView::Missing => Err(PrivacyError::PayloadMissing { hash }.into()),
            }
        })
        .await
    }

    async fn erase(&self, request: Request<v1::EraseRequest>) -> Answer<v1::ErasureRecord> {
        answer("Erase", async {
            let v1::EraseRequest { hash, note } = request.into_inner();
            let hash = payload_hash("hash", &hash)?;
            check_note(&note)?;
            Ok(erasure(self.api()?.erase(hash, note).await?))
        })
        .await
    }

    async fn give_up(&self, request: Request<v1::GiveUpRequest>) -> Answer<v1::GiveUpResponse> {
        use v1::give_up_request::What;
        answer("GiveUp", async {
            let v1::GiveUpRequest { what, note } = request.into_inner();
            let what = match what {
                Some(What::Hash(hash)) => GiveUp::Waiting(payload_hash("hash", &hash)?),
                Some(What::Erased(true)) => GiveUp::Erased,
                Some(What::Erased(false)) | None => {
                    let reason = "must be the hash of a payload, or erased: true";
                    return Err(RpcError::argument("what", reason));
                }
            };
            check_note(&note)?;
            let given_up = self.api()?.give_up(what, note).await?;
            Ok(v1::GiveUpResponse { given_up })
        })
        .await
    }

    async fn erasures(
        &self,
        request: Request<v1::ErasuresRequest>,
    ) -> Answer<v1::ErasuresResponse> {
        answer("Erasures", async {
            let v1::ErasuresRequest { after, limit } = request.into_inner();
            let api = self.api()?;
            let read = move |_: &_| Ok(api.erasures(after, page(limit))?);
            let erasures = self.node.read(read).await?;
            Ok(v1::ErasuresResponse {
                erasures: erasures.into_iter().map(erasure).collect(),
            })
        })
        .await
    }

    async fn deliveries(
        &self,
        request: Request<v1::DeliveriesRequest>,
    ) -> Answer<v1::DeliveriesResponse> {
        answer("Deliveries", async {
            let hash = payload_hash("hash", &request.into_inner().hash)?;
            let api = self.api()?;
            let found = self.node.read(move |_| Ok(api.deliveries(&hash)?)).await?;
            Ok(v1::DeliveriesResponse {
                deliveries: found.into_iter().map(delivery).collect(),
            })
        })
        .await
    }

    async fn keys(&self, _: Request<v1::PrivacyKeysRequest>) -> Answer<v1::PrivacyKeysResponse> {
        answer("Keys", async {
            let api = self.api()?;
            Ok(v1::PrivacyKeysResponse {
                own: keys(api.own_keys().await?),
                members: api.member_keys().into_iter().map(member_keys).collect(),
            })
        })
        .await
    }

    async fn create_group(
        &self,
        request: Request<v1::CreateGroupRequest>,
    ) -> Answer<v1::PrivacyGroup> {
        answer("CreateGroup", async {
            let v1::CreateGroupRequest {
                name,
                description,
                members,
                payloads_live_ms,
            } = request.into_inner();
            let api = self.api()?;
            let created = api.create_group(NewGroup {
                name,
                description,
                members: parse_keys("members", &members)?.into_iter().collect(),
                payloads_live_ms: Some(payloads_live_ms).filter(|ms| *ms > 0),
            });
            Ok(group(created.await?))
        })
        .await
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Answer<v1::PrivacyGroups> {
        answer("ListGroups", async {
            let v1::ListGroupsRequest { after, limit } = request.into_inner();
            let after = match after.is_empty() {
                true => None,
                false => Some(group_id("after", &after)?),
            };
            let api = self.api()?;
            let read = move |_: &_| Ok(api.groups(after.as_ref(), page(limit))?);
            Ok(groups(self.node.read(read).await?))
        })
        .await
    }

    async fn find_groups(
        &self,
        request: Request<v1::FindGroupsRequest>,
    ) -> Answer<v1::PrivacyGroups> {
        answer("FindGroups", async {
            let v1::FindGroupsRequest { members, name } = request.into_inner();
            let api = self.api()?;
            let found = match (members.is_empty(), name.is_empty()) {
                (false, true) => {
                    let members = parse_keys("members", &members)?;
                    let read = move |_: &_| Ok(api.find_groups(&members, PRIVACY_PAGE_MAX)?);
                    self.node.read(read).await?
                }
                (true, false) => {
                    let read = move |_: &_| match api.group(&name) {
                        Ok(group) => Ok(vec![group]),
                        Err(PrivacyError::UnknownGroup { .. }) => Ok(Vec::new()),
                        Err(error) => Err(error.into()),
                    };
                    self.node.read(read).await?
                }
                _ => {
                    return Err(RpcError::argument(
                        "members",
                        "give either members or a name",
                    ));
                }
            };
            Ok(groups(found))
        })
        .await
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Answer<v1::PrivacyGroup> {
        answer("DeleteGroup", async {
            let id = group_id("id", &request.into_inner().id)?;
            Ok(group(self.api()?.delete_group(id).await?))
        })
        .await
    }

    async fn alarms(&self, request: Request<v1::AlarmsRequest>) -> Answer<v1::AlarmsResponse> {
        answer("Alarms", async {
            let v1::AlarmsRequest { after, limit } = request.into_inner();
            let api = self.api()?;
            let read = move |_: &_| Ok(api.alarms(after, page(limit))?);
            Ok(v1::AlarmsResponse {
                alarms: self.node.read(read).await?.into_iter().map(alarm).collect(),
            })
        })
        .await
    }

    async fn resync(&self, _: Request<v1::ResyncRequest>) -> Answer<v1::ResyncResponse> {
        answer("Resync", async {
            let ResyncView { members, complete } = self.api()?.resync().await?;
            Ok(v1::ResyncResponse {
                members: members.into_iter().map(member_resync).collect(),
                complete,
            })
        })
        .await
    }

    async fn private_receipt(
        &self,
        request: Request<v1::PrivateReceiptRequest>,
    ) -> Answer<v1::PrivateReceiptResponse> {
        answer("PrivateReceipt", async {
            let hash = convert::parse_hash("hash", &request.into_inner().hash)?;
            let found = PrivateInclusion::of(&self.node, &hash).await?;
            found
                .as_ref()
                .and_then(convert::private_receipt)
                .ok_or(RpcError::UnknownTransaction { hash })
        })
        .await
    }

    async fn contract_metadata(
        &self,
        request: Request<v1::ContractMetadataRequest>,
    ) -> Answer<v1::PrivateContractMetadata> {
        answer("ContractMetadata", async {
            let address = convert::parse_address("address", &request.into_inner().address)?;
            let api = self.api()?;
            api.executed(self.node.head()).await?;
            let found = self.node.read(move |_| Ok(api.contract(&address)?)).await?;
            let contract = found.ok_or(RpcError::UnknownContract { address })?;
            Ok(v1::PrivateContractMetadata {
                address: convert::address(contract.address),
                creation_transaction: convert::hash(contract.creation_transaction),
                creation_payload: payload(&contract.creation_hash),
                privacy_flag: contract.flag.number().into(),
                parties: keys(contract.parties.into_iter().flatten()),
                mandatory: keys(contract.mandatory),
                creator: key(&contract.creator),
                created_at: contract.created_at,
            })
        })
        .await
    }

    async fn offer_extension(
        &self,
        request: Request<v1::OfferExtensionRequest>,
    ) -> Answer<v1::ExtensionStepResponse> {
        let wait = deadline(request.metadata()).unwrap_or(Duration::MAX);
        let work = extension::offer(&self.node, request.into_inner(), wait);
        answer("OfferExtension", work).await
    }

    async fn vote_on_extension(
        &self,
        request: Request<v1::VoteOnExtensionRequest>,
    ) -> Answer<v1::ExtensionStepResponse> {
        let wait = deadline(request.metadata()).unwrap_or(Duration::MAX);
        let work = extension::vote(&self.node, request.into_inner(), wait);
        answer("VoteOnExtension", work).await
    }

    async fn cancel_extension(
        &self,
        request: Request<v1::CancelExtensionRequest>,
    ) -> Answer<v1::ExtensionStepResponse> {
        let wait = deadline(request.metadata()).unwrap_or(Duration::MAX);
        let work = extension::cancel(&self.node, request.into_inner(), wait);
        answer("CancelExtension", work).await
    }

    async fn list_extensions(
        &self,
        request: Request<v1::ListExtensionsRequest>,
    ) -> Answer<v1::ListExtensionsResponse> {
        let work = extension::list(&self.node, request.into_inner());
        answer("ListExtensions", work).await
    }

    async fn get_extension(
        &self,
        request: Request<v1::GetExtensionRequest>,
    ) -> Answer<v1::ContractExtension> {
        let work = extension::get(&self.node, request.into_inner());
        answer("GetExtension", work).await
    }
}

async fn status(node: &Node, api: &dyn PrivacyApi) -> Result<v1::PrivacyStatus, RpcError> {
    let PrivacyStatusView {
        execution,
        complete,
        payloads,
        erased,
        deliveries_pending,
        alarms,
        resyncing,
        enclave,
    } = api.status().await?;
    let waiting = execution.waiting.map(|waiting| v1::WaitingForPayload {
        block_height: waiting.height,
        transaction_hash: convert::hash(waiting.transaction),
        payload_hash: payload(&waiting.hash),
        since_ms: waiting.since_ms,
        reason: waiting.reason,
    });
    let (enclave_version, enclave_error) = match enclave {
        Ok(version) => (version, String::new()),
        Err(reason) => (String::new(), reason),
    };
    Ok(v1::PrivacyStatus {
        cursor: execution.cursor,
        head_height: node.head(),
        private_state_root: convert::hash(execution.state_root),
        private_height: execution.private_height,
        starts_at: execution.starts_at,
        waiting,
        halted: execution.halted.unwrap_or_default(),
        records: execution.records,
        records_erased: execution.erased,
        complete,
        payloads,
        payloads_erased: erased,
        deliveries_pending,
        alarms,
        resyncing,
        enclave_version,
        enclave_error,
    })
}

/// 0 means as many as are allowed.
fn page(limit: u32) -> usize {
    match usize::try_from(limit).unwrap_or(usize::MAX) {
        0 => PRIVACY_PAGE_MAX,
        limit => limit.min(PRIVACY_PAGE_MAX),
    }
}

fn check_note(note: &str) -> Result<(), RpcError> {
    if note.len() > NOTE_BYTES_MAX {
        let reason = format!(
            "has {} bytes, at most {NOTE_BYTES_MAX} are allowed",
            note.len()
        );
        return Err(RpcError::argument("note", reason));
    }
    Ok(())
}

fn payload_hash(field: &'static str, bytes: &[u8]) -> Result<PayloadHash, RpcError> {
    let hash = bytes.try_into().map_err(|_| {
        RpcError::argument(field, format!("must have 64 bytes, not {}", bytes.len()))
    })?;
    Ok(PayloadHash::from_bytes(hash))
}

fn group_id(field: &'static str, bytes: &[u8]) -> Result<GroupId, RpcError> {
    Ok(GroupId::from_bytes(convert::parse_hash(field, bytes)?.0))
}

pub(super) fn parse_key(field: &'static str, bytes: &[u8]) -> Result<PublicKey, RpcError> {
    Ok(PublicKey::from_bytes(convert::parse_hash(field, bytes)?.0))
}

/// Refused before memory is taken for them.
pub(super) fn parse_keys(field: &'static str, given: &[Bytes]) -> Result<Vec<PublicKey>, RpcError> {
    if given.len() > PARTIES_MAX {
        let reason = format!("{} given, at most {PARTIES_MAX} are allowed", given.len());
        return Err(RpcError::argument(field, reason));
    }
    given.iter().map(|bytes| parse_key(field, bytes)).collect()
}

fn key(key: &PublicKey) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn keys(keys: impl IntoIterator<Item = PublicKey>) -> Vec<Bytes> {
    keys.into_iter().map(|k| key(&k)).collect()
}

pub(super) fn payload(hash: &PayloadHash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

fn received(found: ReceivedPayload) -> v1::PayloadResponse {
    let affected = found.affected.iter();
    v1::PayloadResponse {
        sender: key(&found.sender),
        as_recipient: key(&found.as_recipient),
        we_sent: found.we_sent,
        parties: keys(found.parties),
        privacy_flag: found.flag.number().into(),
        mandatory: keys(found.mandatory),
        group_id: found
            .group
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .unwrap_or_default(),
        sender_node: convert::node_key(&found.sender_node),
        affected: affected
            .map(|(address, creation)| v1::AffectedContract {
                address: convert::address(*address),
                creation_payload: payload(creation),
            })
            .collect(),
        exec_root: found.exec_root.map(convert::hash).unwrap_or_default(),
        data: found.data.0,
    }
}

fn erasure(erasure: Erasure) -> v1::ErasureRecord {
    use v1::erasure_record::Reason;
    let reason = match erasure.reason {
        ErasureReason::Requested => Reason::Requested,
        ErasureReason::Expired => Reason::Expired,
        ErasureReason::GroupDeleted => Reason::GroupDeleted,
        ErasureReason::GivenUp => Reason::GivenUp,
    };
    v1::ErasureRecord {
        hash: payload(&erasure.hash),
        sequence: erasure.sequence,
        erased_at_ms: erasure.erased_at_ms,
        reason: reason.into(),
        note: erasure.note,
    }
}

fn delivery(delivery: quorate_enclave::Delivery) -> v1::PayloadDelivery {
    use v1::payload_delivery::State;
    let state = match delivery.state {
        DeliveryState::Pending => State::Pending,
        DeliveryState::Acknowledged => State::Acknowledged,
        DeliveryState::Refused => State::Refused,
    };
    v1::PayloadDelivery {
        node_id: convert::node_key(&delivery.node),
        state: state.into(),
        named: delivery.named,
        attempts: delivery.attempts,
        changed_at_ms: delivery.changed_at_ms,
        next_at_ms: delivery.next_at_ms,
        reason: delivery.reason,
    }
}

fn member_keys(member: MemberKeys) -> v1::MemberKeys {
    v1::MemberKeys {
        raft_id: member.raft_id,
        node_id: convert::node_key(&member.node),
        organisation: member.organisation,
        this_node: member.this,
        keys: keys(member.keys),
    }
}

fn group(group: PrivacyGroup) -> v1::PrivacyGroup {
    v1::PrivacyGroup {
        id: Bytes::copy_from_slice(group.id.as_bytes()),
        name: group.name,
        description: group.description,
        members: keys(group.members),
        created_at_ms: group.created_at_ms,
        payloads_live_ms: group.payloads_live_ms.unwrap_or_default(),
    }
}

fn groups(found: Vec<PrivacyGroup>) -> v1::PrivacyGroups {
    v1::PrivacyGroups {
        groups: found.into_iter().map(group).collect(),
    }
}

fn alarm(alarm: DivergenceAlarm) -> v1::DivergenceAlarm {
    v1::DivergenceAlarm {
        number: alarm.number,
        raised_at_ms: alarm.raised_at_ms,
        transaction_hash: convert::hash(alarm.transaction),
        block_height: alarm.block,
        payload_hash: payload(&alarm.hash),
        node_id: convert::node_key(&alarm.other),
        our_digest: convert::hash(alarm.our_digest),
        their_digest: convert::hash(alarm.their_digest),
    }
}

fn member_resync(member: MemberResyncView) -> v1::MemberResync {
    v1::MemberResync {
        raft_id: member.raft_id,
        node_id: convert::node_key(&member.node),
        fetched: member.fetched,
        known: member.known,
        failed: member.failed,
        erased: member.erased,
        error: member.error.unwrap_or_default(),
    }
}
