//! Between our types and the messages of a remote enclave. Both sides check what they are given.

use zeroize::Zeroizing;

use crate::envelope::{ENVELOPE_BYTES_MAX, PARTIES_MAX};
use crate::{
    Context, Envelope, GroupId, Health, HybridKey, KeyAnnouncement, NodeKey, Opened, Opening,
    PayloadHash, PrivacyFlag, PublicKey, RecogniseRequest, Recognised, Refusal, SENDERS_MAX,
    SealRequest, Suite, TAG_BYTES, TagRequest,
};

/// Generated from `proto/quorate/enclave/v1/enclave.proto`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated"
)]
pub(crate) mod proto {
    tonic::include_proto!("quorate.enclave.v1");
}

/// Largest message in bytes: the largest envelope, and the X-Wing keys of all parties.
pub(crate) const MESSAGE_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + (1 << 20);

/// A value that cannot be what its field is for. Named, and otherwise silent: it may hold a payload.
pub(crate) fn malformed(field: &str) -> Refusal {
    Refusal::Malformed {
        field: field.to_owned(),
    }
}

pub(crate) fn key(bytes: &[u8], field: &str) -> Result<PublicKey, Refusal> {
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| malformed(field))?;
    Ok(PublicKey::from_bytes(bytes))
}

pub(crate) fn keys(list: &[impl AsRef<[u8]>], field: &str) -> Result<Vec<PublicKey>, Refusal> {
    check_count(list.len())?;
    list.iter()
        .map(|bytes| key(bytes.as_ref(), field))
        .collect()
}

pub(crate) fn from_announcements(
    list: &[proto::KeyAnnouncement],
) -> Result<Vec<KeyAnnouncement>, Refusal> {
    check_count(list.len())?;
    let each = list.iter().map(|message| {
        let hybrid = if message.hybrid.is_empty() {
            None
        } else {
            let key = HybridKey::from_bytes(&message.hybrid);
            Some(key.ok_or_else(|| malformed("X-Wing key"))?)
        };
        Ok(KeyAnnouncement {
            key: key(&message.key, "key")?,
            hybrid,
        })
    });
    each.collect()
}

pub(crate) fn to_announcements(list: &[KeyAnnouncement]) -> Vec<proto::KeyAnnouncement> {
    let each = list.iter().map(|announcement| proto::KeyAnnouncement {
        key: announcement.key.as_bytes().to_vec().into(),
        hybrid: announcement
            .hybrid
            .as_ref()
            .map_or_else(bytes::Bytes::new, |key| key.as_bytes().to_vec().into()),
    });
    each.collect()
}

pub(crate) fn from_context(message: Option<proto::Context>) -> Result<Context, Refusal> {
    let message = message.ok_or_else(|| malformed("context"))?;
    let node: [u8; 33] = message
        .sender_node
        .as_ref()
        .try_into()
        .map_err(|_| malformed("sender node"))?;
    let privacy_group = if message.privacy_group.is_empty() {
        None
    } else {
        let id: [u8; 32] = message
            .privacy_group
            .as_ref()
            .try_into()
            .map_err(|_| malformed("privacy group"))?;
        Some(GroupId::from_bytes(id))
    };
    let flag = u8::try_from(message.flag).ok();
    Ok(Context {
        chain_id: message.chain_id,
        sender_node: NodeKey::from(node),
        privacy_group,
        flag: flag
            .and_then(PrivacyFlag::from_number)
            .ok_or_else(|| malformed("privacy flag"))?,
    })
}

pub(crate) fn to_context(context: &Context) -> proto::Context {
    proto::Context {
        chain_id: context.chain_id,
        sender_node: context.sender_node.to_vec().into(),
        privacy_group: context
            .privacy_group
            .map_or_else(bytes::Bytes::new, |id| id.as_bytes().to_vec().into()),
        flag: u32::from(context.flag.number()),
    }
}

pub(crate) fn from_seal_request(message: proto::SealRequest) -> Result<SealRequest, Refusal> {
    // The message's own buffer is wiped as well, if nobody else looks at it.
    let payload = owned_and_wiped(message.payload);
    let sender = if message.sender.is_empty() {
        None
    } else {
        Some(key(&message.sender, "sender")?)
    };
    let number = message.suite;
    let suite = u16::try_from(number).ok().and_then(Suite::from_number);
    Ok(SealRequest {
        payload,
        sender,
        recipients: from_announcements(&message.recipients)?,
        mandatory: keys(&message.mandatory, "mandatory")?,
        context: from_context(message.context)?,
        suite: suite.ok_or(Refusal::UnknownSuite {
            got: u64::from(number),
        })?,
    })
}

pub(crate) fn to_seal_request(request: &SealRequest) -> proto::SealRequest {
    proto::SealRequest {
        payload: request.payload.to_vec().into(),
        sender: request
            .sender
            .map_or_else(bytes::Bytes::new, |key| key.as_bytes().to_vec().into()),
        recipients: to_announcements(&request.recipients),
        mandatory: request
            .mandatory
            .iter()
            .map(|key| key.as_bytes().to_vec().into())
            .collect(),
        context: Some(to_context(&request.context)),
        suite: u32::from(request.suite.number()),
    }
}

pub(crate) fn from_envelope(bytes: &[u8]) -> Result<Envelope, Refusal> {
    Envelope::decode(bytes).map_err(|e| malformed(&e.to_string()))
}

pub(crate) fn to_opening(opening: Opening) -> proto::open_response::Outcome {
    match opening {
        Opening::NotForUs => proto::open_response::Outcome::NotForUs(proto::NotForUs {}),
        Opening::Opened(opened) => proto::open_response::Outcome::Opened(proto::Opened {
            payload: opened.payload.to_vec().into(),
            as_recipient: opened.as_recipient.as_bytes().to_vec().into(),
            sender: opened.sender.as_bytes().to_vec().into(),
        }),
    }
}

pub(crate) fn from_opened(message: proto::Opened) -> Result<Opened, Refusal> {
    Ok(Opened {
        payload: owned_and_wiped(message.payload),
        as_recipient: key(&message.as_recipient, "as_recipient")?,
        sender: key(&message.sender, "sender")?,
    })
}

pub(crate) fn to_tag_request(request: &TagRequest) -> proto::TagsRequest {
    let parties = request.parties.iter();
    proto::TagsRequest {
        payload_hash: request.hash.as_bytes().to_vec().into(),
        sender: request.sender.as_bytes().to_vec().into(),
        parties: parties.map(|key| key.as_bytes().to_vec().into()).collect(),
    }
}

pub(crate) fn from_tag_request(message: &proto::TagsRequest) -> Result<TagRequest, Refusal> {
    Ok(TagRequest {
        hash: payload_hash(&message.payload_hash)?,
        sender: key(&message.sender, "sender")?,
        parties: keys(&message.parties, "parties")?,
    })
}

pub(crate) fn to_recognise_request(request: &RecogniseRequest) -> proto::RecogniseRequest {
    let senders: Vec<[u8; 32]> = request.senders.iter().map(|key| *key.as_bytes()).collect();
    proto::RecogniseRequest {
        payload_hash: request.hash.as_bytes().to_vec().into(),
        senders: senders.concat().into(),
        tags: request.tags.concat().into(),
    }
}

pub(crate) fn from_recognise_request(
    message: &proto::RecogniseRequest,
) -> Result<RecogniseRequest, Refusal> {
    let (senders, rest) = message.senders.as_chunks::<32>();
    if !rest.is_empty() || senders.len() > SENDERS_MAX {
        return Err(malformed("senders"));
    }
    let (tags, rest) = message.tags.as_chunks::<TAG_BYTES>();
    if !rest.is_empty() || tags.len() > PARTIES_MAX {
        return Err(malformed("tags"));
    }
    Ok(RecogniseRequest {
        hash: payload_hash(&message.payload_hash)?,
        senders: senders.iter().copied().map(PublicKey::from_bytes).collect(),
        tags: tags.to_vec(),
    })
}

pub(crate) fn from_recognised(message: &proto::Recognised) -> Result<Recognised, Refusal> {
    Ok(Recognised {
        party: key(&message.party, "party")?,
        sender: key(&message.sender, "sender")?,
    })
}

fn payload_hash(bytes: &[u8]) -> Result<PayloadHash, Refusal> {
    let bytes: [u8; 64] = bytes.try_into().map_err(|_| malformed("payload hash"))?;
    Ok(PayloadHash::from_bytes(bytes))
}

pub(crate) fn to_health(health: Health) -> proto::HealthResponse {
    proto::HealthResponse {
        version: health.version,
        keys: health.keys,
        suites: health
            .suites
            .into_iter()
            .map(|suite| u32::from(suite.number()))
            .collect(),
    }
}

/// Suites that this side does not know are left out: the other may be newer.
pub(crate) fn from_health(message: proto::HealthResponse) -> Health {
    let known = |number: &u32| u16::try_from(*number).ok().and_then(Suite::from_number);
    Health {
        version: message.version.chars().take(64).collect(),
        keys: message.keys,
        suites: message.suites.iter().take(64).filter_map(known).collect(),
    }
}

pub(crate) fn to_refusal(refusal: Refusal) -> proto::Refusal {
    use proto::RefusalCode as Code;
    let code = |code: Code| proto::Refusal {
        code: code.into(),
        ..proto::Refusal::default()
    };
    let with_key = |c: Code, key: PublicKey| proto::Refusal {
        key: key.as_bytes().to_vec().into(),
        ..code(c)
    };
    match refusal {
        Refusal::NoKeys => code(Code::NoKeys),
        Refusal::UnknownSender { key } => with_key(Code::UnknownSender, key),
        Refusal::NoRecipients => code(Code::NoRecipients),
        Refusal::TooManyRecipients { got, max } => proto::Refusal {
            got,
            max,
            ..code(Code::TooManyRecipients)
        },
        Refusal::PayloadTooLarge { got, max } => proto::Refusal {
            got,
            max,
            ..code(Code::PayloadTooLarge)
        },
        Refusal::NoHybridKey { key } => with_key(Code::NoHybridKey, key),
        Refusal::WeakKey { key } => with_key(Code::WeakKey, key),
        Refusal::UnknownSuite { got } => proto::Refusal {
            got,
            ..code(Code::UnknownSuite)
        },
        Refusal::ContextMismatch { field } => proto::Refusal {
            field,
            ..code(Code::ContextMismatch)
        },
        Refusal::Forged { key, field } => proto::Refusal {
            field,
            ..with_key(Code::Forged, key)
        },
        Refusal::NotAParty => code(Code::NotAParty),
        Refusal::Malformed { field } => proto::Refusal {
            field,
            ..code(Code::Malformed)
        },
    }
}

/// The error names a code that this side does not know.
pub(crate) fn from_refusal(message: proto::Refusal) -> Result<Refusal, i32> {
    use proto::RefusalCode as Code;
    let number = message.code;
    let named = || key(&message.key, "key").map_err(|_| number);
    let field = message.field.chars().take(256).collect();
    let (got, max) = (message.got, message.max);
    Ok(match message.code() {
        Code::Unspecified => return Err(number),
        Code::NoKeys => Refusal::NoKeys,
        Code::UnknownSender => Refusal::UnknownSender { key: named()? },
        Code::NoRecipients => Refusal::NoRecipients,
        Code::TooManyRecipients => Refusal::TooManyRecipients { got, max },
        Code::PayloadTooLarge => Refusal::PayloadTooLarge { got, max },
        Code::NoHybridKey => Refusal::NoHybridKey { key: named()? },
        Code::WeakKey => Refusal::WeakKey { key: named()? },
        Code::UnknownSuite => Refusal::UnknownSuite { got },
        Code::ContextMismatch => Refusal::ContextMismatch { field },
        Code::Forged => Refusal::Forged {
            key: named()?,
            field,
        },
        Code::NotAParty => Refusal::NotAParty,
        Code::Malformed => Refusal::Malformed { field },
    })
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count > 4 * PARTIES_MAX {
        return Err(Refusal::TooManyRecipients {
            got: count as u64,
            max: PARTIES_MAX as u64,
        });
    }
    Ok(())
}

fn owned_and_wiped(bytes: bytes::Bytes) -> Zeroizing<Vec<u8>> {
    match bytes.try_into_mut() {
        Ok(mut own) => {
            let copy = Zeroizing::new(own.to_vec());
            zeroize::Zeroize::zeroize(own.as_mut());
            copy
        }
        Err(shared) => Zeroizing::new(shared.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_crosses_the_wire_unchanged() {
        let key = PublicKey::from_bytes([5; 32]);
        let field = || "privacy flag".to_owned();
        let all = [
            Refusal::NoKeys,
            Refusal::UnknownSender { key },
            Refusal::NoRecipients,
            Refusal::TooManyRecipients { got: 9, max: 8 },
            Refusal::PayloadTooLarge { got: 7, max: 6 },
            Refusal::NoHybridKey { key },
            Refusal::WeakKey { key },
            Refusal::UnknownSuite { got: 3 },
            Refusal::ContextMismatch { field: field() },
            Refusal::Forged {
                key,
                field: field(),
            },
            Refusal::NotAParty,
            Refusal::Malformed { field: field() },
        ];
        for refusal in all {
            assert_eq!(from_refusal(to_refusal(refusal.clone())), Ok(refusal));
        }
        assert_eq!(from_refusal(proto::Refusal::default()), Err(0));
        let newer = proto::Refusal {
            code: 99,
            ..proto::Refusal::default()
        };
        assert!(from_refusal(newer).is_err());
    }

    #[test]
    fn a_context_crosses_the_wire_unchanged_and_bad_ones_are_refused() {
        let context = Context {
            chain_id: 10,
            sender_node: NodeKey::from([2; 33]),
            privacy_group: Some(GroupId::from_bytes([4; 32])),
            flag: PrivacyFlag::StateValidation,
        };
        let message = to_context(&context);
        assert_eq!(from_context(Some(message.clone())), Ok(context));
        let breaks: [fn(&mut proto::Context); 3] = [
            |m| m.flag = 4,
            |m| m.sender_node = vec![2; 32].into(),
            |m| m.privacy_group = vec![2; 31].into(),
        ];
        for change in breaks {
            let mut message = message.clone();
            change(&mut message);
            assert!(from_context(Some(message)).is_err());
        }
        assert!(from_context(None).is_err());
    }
}
