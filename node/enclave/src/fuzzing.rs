//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.
//!
//! Each function answers whether the bytes were taken, and panics if a promise of the decoder is broken. Each has a
//! companion that makes bytes to begin with.

use std::fmt::Debug;

use prost::Message;

pub use crate::store::fuzzing::{record, record_seeds};
use crate::{
    Context, GroupId, Health, HybridKey, KeyAnnouncement, NodeKey, Opened, PayloadHash,
    PrivacyFlag, PublicKey, RecogniseRequest, Refusal, SealRequest, Suite, TAG_BYTES, TagRequest,
    wire::{self, proto},
};

/// What a node and its enclave say to each other; the first byte chooses which message of which side.
#[must_use]
pub fn remote(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    match kind % 10 {
        0 => same(body, |message| {
            Some(wire::to_seal_request(
                &wire::from_seal_request(message).ok()?,
            ))
        }),
        1 => same(body, |message: proto::OpenRequest| {
            opened_of(&message.envelope, message.context)
                .map(|(envelope, context)| proto::OpenRequest { envelope, context })
        }),
        2 => same(body, |message: proto::ResealRequest| {
            let recipients = wire::from_announcements(&message.recipients).ok()?;
            let (envelope, context) = opened_of(&message.envelope, message.context)?;
            Some(proto::ResealRequest {
                envelope,
                context,
                recipients: wire::to_announcements(&recipients),
            })
        }),
        3 => same(body, |message| {
            Some(wire::to_tag_request(
                &wire::from_tag_request(&message).ok()?,
            ))
        }),
        4 => same(body, |message| {
            let request = wire::from_recognise_request(&message).ok()?;
            Some(wire::to_recognise_request(&request))
        }),
        5 => same(body, |message: proto::PublicKeysResponse| {
            let keys = wire::from_announcements(&message.keys).ok()?;
            Some(proto::PublicKeysResponse {
                keys: wire::to_announcements(&keys),
            })
        }),
        6 => same(body, |message: proto::OpenResponse| {
            use proto::open_response::Outcome;
            let outcome = match message.outcome? {
                Outcome::Opened(opened) => {
                    wire::to_opening(crate::Opening::Opened(wire::from_opened(opened).ok()?))
                }
                Outcome::NotForUs(nothing) => Outcome::NotForUs(nothing),
                Outcome::Refusal(refusal) => {
                    Outcome::Refusal(wire::to_refusal(wire::from_refusal(refusal).ok()?))
                }
            };
            Some(proto::OpenResponse {
                outcome: Some(outcome),
            })
        }),
        7 => same(body, |message: proto::Recognised| {
            let found = wire::from_recognised(&message).ok()?;
            Some(proto::Recognised {
                party: found.party.as_bytes().to_vec().into(),
                sender: found.sender.as_bytes().to_vec().into(),
            })
        }),
        8 => same(body, |message| {
            Some(wire::to_health(wire::from_health(message)))
        }),
        _ => same(body, |message| {
            Some(wire::to_refusal(wire::from_refusal(message).ok()?))
        }),
    }
}

fn opened_of(
    envelope: &[u8],
    context: Option<proto::Context>,
) -> Option<(bytes::Bytes, Option<proto::Context>)> {
    let envelope = wire::from_envelope(envelope).ok()?;
    let context = wire::from_context(context).ok()?;
    Some((envelope.encode().into(), Some(wire::to_context(&context))))
}

/// Reads a message, lets `pass` make ours of it and the same kind of message again: what comes of that passes unchanged.
fn same<M>(body: &[u8], pass: impl Fn(M) -> Option<M>) -> bool
where
    M: Message + Default + PartialEq + Clone + Debug,
{
    let Some(passed) = M::decode(body).ok().and_then(&pass) else {
        return false;
    };
    let bytes = passed.encode_to_vec();
    let again = M::decode(bytes.as_slice()).ok().and_then(&pass);
    assert_eq!(again, Some(passed), "a message does not read back");
    true
}

/// One message of each kind; envelopes are the caller's.
#[must_use]
pub fn remote_seeds(envelope: &[u8]) -> Vec<Vec<u8>> {
    let key = |n| PublicKey::from_bytes([n; 32]);
    let context = Context {
        chain_id: 10,
        sender_node: NodeKey::from([2; 33]),
        privacy_group: Some(GroupId::from_bytes([4; 32])),
        flag: PrivacyFlag::MandatoryParties,
    };
    let announced = |hybrid| KeyAnnouncement {
        key: key(1),
        hybrid,
    };
    let hybrid = HybridKey::from_bytes(&[6; crate::HYBRID_KEY_BYTES]);
    let keys = [announced(None), announced(hybrid)];
    let seal = SealRequest {
        payload: b"payload".to_vec().into(),
        sender: Some(key(2)),
        recipients: keys.first().cloned().into_iter().collect(),
        mandatory: vec![key(1)],
        context,
        suite: Suite::Nacl,
    };
    let hash = PayloadHash::from_bytes([7; 64]);
    let tags = TagRequest {
        hash,
        sender: key(2),
        parties: vec![key(1)],
    };
    let recognise = RecogniseRequest {
        hash,
        senders: vec![key(2)],
        tags: vec![[8; TAG_BYTES]],
    };
    let opened = Opened {
        payload: b"payload".to_vec().into(),
        as_recipient: key(1),
        sender: key(2),
    };
    let health = Health {
        version: "1".into(),
        keys: 1,
        suites: vec![Suite::Nacl],
    };
    let forged = Refusal::Forged {
        key: key(1),
        field: "box".into(),
    };
    let announcements = wire::to_announcements(&keys);
    let context = Some(wire::to_context(&context));
    let envelope = bytes::Bytes::copy_from_slice(envelope);
    [
        wire::to_seal_request(&seal).encode_to_vec(),
        proto::OpenRequest {
            envelope: envelope.clone(),
            context: context.clone(),
        }
        .encode_to_vec(),
        proto::ResealRequest {
            envelope,
            recipients: wire::to_announcements(keys.get(..1).unwrap_or_default()),
            context,
        }
        .encode_to_vec(),
        wire::to_tag_request(&tags).encode_to_vec(),
        wire::to_recognise_request(&recognise).encode_to_vec(),
        proto::PublicKeysResponse {
            keys: announcements,
        }
        .encode_to_vec(),
        proto::OpenResponse {
            outcome: Some(wire::to_opening(crate::Opening::Opened(opened))),
        }
        .encode_to_vec(),
        proto::Recognised {
            party: vec![1; 32].into(),
            sender: vec![2; 32].into(),
        }
        .encode_to_vec(),
        wire::to_health(health).encode_to_vec(),
        wire::to_refusal(forged).encode_to_vec(),
    ]
    .iter()
    .zip(0..)
    .map(|(message, kind)| [&[kind], message.as_slice()].concat())
    .collect()
}
