//! What each request does.

use std::collections::BTreeSet;

use alloy_primitives::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use quorate_enclave::{PayloadHash, PublicKey};
use serde::Serialize;

use super::answer::{Answer, Refusal, hash_text};
use super::fields;
use super::media::{self, Content};
use super::route::{Found, Route};
use crate::privacy::{
    Distributed, PayloadView, PrivacyApi, PrivateArguments, ReceivedPayload, StoredSend,
};

/// What the record of an erasure says about who asked for it.
const ERASURE_NOTE: &str = "asked for over the third-party surface";

/// A request that was read.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) found: Found,
    pub(super) headers: HeaderMap,
    pub(super) body: bytes::Bytes,
}

/// Answers that need neither the body nor the enclave.
pub(super) fn answer_at_once(route: Route) -> Option<Answer> {
    match route {
        Route::Upcheck => Some(Answer::text("I'm up!")),
        Route::Version => Some(Answer::text(env!("CARGO_PKG_VERSION"))),
        _ => None,
    }
}

/// Carries a request out.
pub(super) async fn answer(api: &dyn PrivacyApi, ask: &Ask) -> Result<Answer, Refusal> {
    match ask.found.route {
        Route::Upcheck | Route::Version => {
            answer_at_once(ask.found.route).ok_or_else(Refusal::internal)
        }
        Route::VersionApi => ask.json(&media::API_VERSIONS),
        Route::Keys => {
            let keys = api.own_keys().await?;
            ask.json(&KeyList::of(keys.into_iter()))
        }
        Route::PartyKeys => {
            let members = api.member_keys();
            let keys = members.into_iter().flat_map(|member| member.keys);
            ask.json(&KeyList::of(keys))
        }
        Route::Send => {
            let send: fields::Send = ask.json_body()?;
            let arguments = send.parties.arguments()?;
            let sent = api.distribute_data(send.data()?, arguments).await?;
            ask.distributed(&sent)
        }
        Route::SendRaw => {
            ask.expect(Content::Octets)?;
            let arguments = fields::arguments_of(&ask.headers)?;
            let data = fields::checked(Bytes::from(ask.body.clone()))?;
            let sent = api.distribute_data(data, arguments).await?;
            Ok(Answer::text(hash_text(&sent.hash)))
        }
        Route::StoreRaw => {
            let send: fields::Send = ask.json_body()?;
            let sender = send.parties.sender()?;
            let hash = api.store_raw(send.data()?, sender).await?;
            ask.json(&Stored {
                key: hash_text(&hash),
            })
        }
        Route::SendSigned => ask.send_signed(api).await,
        Route::Receive => {
            let wanted: fields::Receive = ask.json_body()?;
            let payload = received(api, wanted.hash()?, wanted.recipient()?).await?;
            ask.json(&Received::of(&payload))
        }
        Route::ReceiveRaw => {
            let (hash, recipient) = fields::wanted_of(&ask.headers)?;
            let payload = received(api, hash, recipient).await?;
            Ok(Answer::octets(payload.data.0))
        }
        Route::Transaction => {
            let payload = received(api, ask.hash()?, ask.found.recipient).await?;
            ask.json(&Received::of(&payload))
        }
        Route::IsSender => {
            let payload = received(api, ask.hash()?, None).await?;
            Ok(Answer::text(payload.we_sent.to_string()))
        }
        Route::Participants => {
            let payload = received(api, ask.hash()?, None).await?;
            Ok(Answer::text(joined(&payload.parties)))
        }
        Route::Mandatory => {
            let payload = received(api, ask.hash()?, None).await?;
            Ok(Answer::text(joined(&payload.mandatory)))
        }
        Route::Delete => {
            let delete: fields::Delete = ask.json_body()?;
            api.erase(delete.hash()?, ERASURE_NOTE.to_owned()).await?;
            Ok(Answer::text("Delete successful"))
        }
        Route::DeleteTransaction => {
            api.erase(ask.hash()?, ERASURE_NOTE.to_owned()).await?;
            Ok(Answer::no_content())
        }
    }
}

impl Ask {
    fn hash(&self) -> Result<PayloadHash, Refusal> {
        self.found.hash.ok_or_else(Refusal::internal)
    }

    fn expect(&self, content: Content) -> Result<(), Refusal> {
        if media::content(&self.headers)? == content {
            return Ok(());
        }
        Err(Refusal::new(
            http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            match content {
                Content::Json => "the body must be JSON",
                Content::Octets => "the body must be of type application/octet-stream",
            },
        ))
    }

    fn json_body<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Refusal> {
        self.expect(Content::Json)?;
        fields::json(&self.body)
    }

    fn json(&self, value: &impl Serialize) -> Result<Answer, Refusal> {
        Answer::json(media::json_for(&self.headers), value)
    }

    fn distributed(&self, sent: &Distributed) -> Result<Answer, Refusal> {
        let answer = self.json(&Sent {
            key: hash_text(&sent.hash),
            managed_parties: texts(&sent.managed_parties),
            sender_key: sent.sender.to_string(),
        })?;
        Ok(answer.created(&sent.hash))
    }

    /// As JSON, or with the 64 bytes of the hash as the body and the recipients in a header.
    async fn send_signed(&self, api: &dyn PrivacyApi) -> Result<Answer, Refusal> {
        let of = |hash, arguments: PrivateArguments| StoredSend {
            hash,
            transaction: None,
            arguments,
        };
        match media::content(&self.headers)? {
            Content::Json => {
                let signed: fields::SendSigned = fields::json(&self.body)?;
                let send = of(signed.hash()?, signed.parties.arguments()?);
                self.distributed(&api.distribute_stored(send).await?)
            }
            Content::Octets => {
                let hash: [u8; 64] = self.body.as_ref().try_into().map_err(|_| {
                    Refusal::bad_request("the body must be the 64 bytes of a payload hash")
                })?;
                let arguments = fields::arguments_of(&self.headers)?;
                let send = of(PayloadHash::from_bytes(hash), arguments);
                let sent = api.distribute_stored(send).await?;
                Ok(Answer::text(hash_text(&sent.hash)))
            }
        }
    }
}

/// The payload, if this node is a party and, where a recipient is named, that one is ours and among the parties.
async fn received(
    api: &dyn PrivacyApi,
    hash: PayloadHash,
    recipient: Option<PublicKey>,
) -> Result<ReceivedPayload, Refusal> {
    match api.payload(hash).await? {
        PayloadView::Party(payload) => {
            let matches = recipient.is_none_or(|key| {
                key == payload.as_recipient || payload.managed_parties.contains(&key)
            });
            matches
                .then_some(*payload)
                .ok_or_else(|| Refusal::not_found(&hash))
        }
        PayloadView::NotAParty | PayloadView::Erased(_) => Err(Refusal::not_found(&hash)),
        // Tessera's clients take 404 for "not a party" and go on without the payload: they must not here.
        PayloadView::Missing => Err(Refusal::new(
            http::StatusCode::SERVICE_UNAVAILABLE,
            "the payload is not here, and it is not known yet whether it should be; try again later",
        )),
    }
}

fn texts(keys: &[PublicKey]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn joined(keys: &[PublicKey]) -> String {
    texts(keys).join(",")
}

/// Answer of `/keys` and `/partyinfo/keys`.
#[derive(Serialize)]
struct KeyList {
    keys: Vec<NamedKey>,
}

#[derive(Serialize)]
struct NamedKey {
    key: String,
}

impl KeyList {
    /// Each once, in the order in which they come.
    fn of(keys: impl Iterator<Item = PublicKey>) -> Self {
        let mut seen = BTreeSet::new();
        let keys = keys.filter(|key| seen.insert(*key)).map(|key| NamedKey {
            key: key.to_string(),
        });
        Self {
            keys: keys.collect(),
        }
    }
}

/// Answer of `/storeraw`.
#[derive(Serialize)]
struct Stored {
    key: String,
}

/// Answer of `/send` and `/sendsignedtx`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    key: String,
    managed_parties: Vec<String>,
    sender_key: String,
}

/// Answer of `/receive` and `/transaction/{hash}`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    payload: String,
    privacy_flag: u8,
    affected_contract_transactions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec_hash: Option<String>,
    managed_parties: Vec<String>,
    sender_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy_group_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mandatory_recipients: Vec<String>,
}

impl Received {
    fn of(payload: &ReceivedPayload) -> Self {
        let affected = payload.affected.iter().map(|(_, hash)| hash_text(hash));
        Self {
            payload: STANDARD.encode(&payload.data),
            privacy_flag: payload.flag.number(),
            affected_contract_transactions: affected.collect(),
            exec_hash: payload.exec_root.map(|root| STANDARD.encode(root)),
            managed_parties: texts(&payload.managed_parties),
            sender_key: payload.sender.to_string(),
            privacy_group_id: payload.group.map(|group| group.to_string()),
            mandatory_recipients: texts(&payload.mandatory),
        }
    }
}
