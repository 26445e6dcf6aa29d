//! How envelopes are encrypted. A network chooses one suite; every envelope says which.

pub(crate) mod hybrid;
pub(crate) mod nacl;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use nacl::SharedBoxes;
use zeroize::Zeroizing;

use crate::envelope::{Header, PARTIES_MAX, PAYLOAD_BYTES_MAX, Parties, WrappedKey, Wrapper};
use crate::identity::Identity;
use crate::random::{random, random_secret};
use crate::{
    EnclaveError, Envelope, KeyAnnouncement, PrivacyFlag, PublicKey, Refusal, SealRequest,
};

/// The key that a payload is encrypted under, made for it alone.
pub(crate) type ContentKey = Box<Zeroizing<[u8; 32]>>;

/// An encryption suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// 1: NaCl, as in Tessera. XSalsa20-Poly1305 for content, an X25519 box for every recipient.
    Nacl,
    /// 2: XChaCha20-Poly1305 for content, its key wrapped by HPKE (RFC 9180, base mode) with X-Wing, HKDF-SHA256 and
    /// ChaCha20-Poly1305. Holds against quantum computers as long as ML-KEM-768 does, and otherwise as long as X25519 does.
    Hybrid,
}

impl Suite {
    /// Every suite, by number.
    pub const ALL: [Self; 2] = [Self::Nacl, Self::Hybrid];

    /// The suite with this number, if there is one.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Nacl),
            2 => Some(Self::Hybrid),
            _ => None,
        }
    }

    /// Its number in envelopes and in genesis.
    pub const fn number(self) -> u16 {
        match self {
            Self::Nacl => 1,
            Self::Hybrid => 2,
        }
    }

    /// Size of a wrapped content key in bytes.
    pub(crate) const fn wrapped_key_bytes(self) -> usize {
        match self {
            Self::Nacl => nacl::WRAPPED_KEY_BYTES,
            Self::Hybrid => hybrid::WRAPPED_KEY_BYTES,
        }
    }

    /// How much longer than its payload a ciphertext is, in bytes.
    pub(crate) const fn content_overhead_bytes(self) -> usize {
        match self {
            Self::Nacl => nacl::CONTENT_OVERHEAD_BYTES,
            Self::Hybrid => hybrid::CONTENT_OVERHEAD_BYTES,
        }
    }
}

/// Encrypts a payload from `sender` to itself and the recipients.
pub(crate) fn seal(
    request: &SealRequest,
    sender: &Identity,
    shared: &SharedBoxes,
) -> Result<Envelope, EnclaveError> {
    if request.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::PayloadTooLarge {
            got: request.payload.len() as u64,
            max: PAYLOAD_BYTES_MAX as u64,
        }
        .into());
    }
    let parties = parties_of(&request.recipients, sender)?;
    let mandatory = mandatory_of(request, &parties)?;
    let list = Parties {
        salt: random()?,
        keys: parties.keys().copied().collect(),
    };
    let header = Header {
        suite: request.suite,
        context: request.context,
        commitment: list.commitment(),
        sender: sender.public(),
        mandatory,
    };
    let content_key: ContentKey = random_secret()?;
    let content_nonce = random()?;
    let (box_nonce, ciphertext, boxes) = match request.suite {
        Suite::Nacl => {
            let ciphertext = nacl::seal_content(&content_key, &content_nonce, &request.payload)
                .ok_or_else(cipher_failed)?;
            let nonce = random()?;
            let boxes: Result<_, EnclaveError> = parties
                .keys()
                .map(|key| nacl_box(&content_key, (sender, shared), key, &nonce, None))
                .collect();
            (Some(nonce), ciphertext, boxes?)
        }
        Suite::Hybrid => {
            let aad = header.associated_data();
            let ciphertext =
                hybrid::seal_content(&content_key, &content_nonce, &request.payload, &aad)
                    .ok_or_else(cipher_failed)?;
            let bound = hybrid::BoxContext::new(&header, &ciphertext);
            let boxes: Result<_, EnclaveError> = parties
                .values()
                .map(|party| hybrid_box(&content_key, party, &bound))
                .collect();
            (None, ciphertext, boxes?)
        }
    };
    Ok(Envelope {
        header,
        content_nonce,
        box_nonce,
        ciphertext: ciphertext.into(),
        boxes,
        parties: Some(list),
        signature: None,
    })
}

/// Takes the content key out of this identity's own box.
pub(crate) fn unwrap(
    envelope: &Envelope,
    identity: &Identity,
    shared: &SharedBoxes,
    wrapped: &WrappedKey,
) -> Result<ContentKey, Refusal> {
    let key = match (envelope.header.suite, &envelope.box_nonce) {
        (Suite::Nacl, Some(nonce)) => {
            let (from, nonce) = match &wrapped.wrapper {
                Some(wrapper) => (&wrapper.key, &wrapper.nonce),
                None => (&envelope.header.sender, nonce),
            };
            let shared = shared.between(identity, from);
            shared.and_then(|shared| nacl::unwrap(&wrapped.bytes, nonce, &shared))
        }
        (Suite::Hybrid, None) => {
            let bound = hybrid::BoxContext::new(&envelope.header, &envelope.ciphertext);
            hybrid::unwrap(&wrapped.bytes, identity, &bound)?
        }
        (Suite::Nacl, None) | (Suite::Hybrid, Some(_)) => None,
    };
    key.ok_or_else(|| forged(identity, "box"))
}

/// Decrypts the content.
pub(crate) fn open_content(
    envelope: &Envelope,
    key: &ContentKey,
    identity: &Identity,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let nonce = &envelope.content_nonce;
    let payload = match envelope.header.suite {
        Suite::Nacl => nacl::open_content(key, nonce, &envelope.ciphertext),
        Suite::Hybrid => {
            let aad = envelope.header.associated_data();
            hybrid::open_content(key, nonce, &envelope.ciphertext, &aad)
        }
    };
    payload.ok_or_else(|| forged(identity, "ciphertext"))
}

/// Adds boxes for further recipients, made by `identity`, which holds the content key.
pub(crate) fn reseal(
    envelope: &mut Envelope,
    key: &ContentKey,
    (identity, shared): (&Identity, &SharedBoxes),
    recipients: &[KeyAnnouncement],
) -> Result<(), EnclaveError> {
    let bound = hybrid::BoxContext::new(&envelope.header, &envelope.ciphertext);
    for recipient in recipients {
        let Err(at) = envelope
            .boxes
            .binary_search_by_key(&recipient.key, |wrapped| wrapped.recipient)
        else {
            continue;
        };
        if envelope.boxes.len() >= PARTIES_MAX {
            return Err(too_many(envelope.boxes.len() + 1).into());
        }
        check_key(&recipient.key)?;
        let wrapped = match (envelope.header.suite, envelope.box_nonce) {
            // The sender's further boxes are as its first ones; another party's have a nonce of their own, since two parties
            // that reseal to one recipient must not depend on each other.
            (Suite::Nacl, Some(nonce)) if identity.public() == envelope.header.sender => {
                nacl_box(key, (identity, shared), &recipient.key, &nonce, None)?
            }
            (Suite::Nacl, _) => {
                let wrapper = Wrapper {
                    key: identity.public(),
                    nonce: random()?,
                };
                let from = (identity, shared);
                nacl_box(key, from, &recipient.key, &wrapper.nonce, Some(wrapper))?
            }
            (Suite::Hybrid, _) => hybrid_box(key, recipient, &bound)?,
        };
        envelope.boxes.insert(at, wrapped);
    }
    Ok(())
}

fn nacl_box(
    key: &ContentKey,
    (from, shared): (&Identity, &SharedBoxes),
    to: &PublicKey,
    nonce: &[u8; 24],
    wrapper: Option<Wrapper>,
) -> Result<WrappedKey, EnclaveError> {
    let shared = shared.between(from, to);
    let shared = shared.ok_or(Refusal::WeakKey { key: *to })?;
    Ok(WrappedKey {
        recipient: *to,
        wrapper,
        bytes: nacl::wrap(key, nonce, &shared).ok_or_else(cipher_failed)?,
    })
}

fn hybrid_box(
    key: &ContentKey,
    party: &KeyAnnouncement,
    bound: &hybrid::BoxContext,
) -> Result<WrappedKey, EnclaveError> {
    let missing = Refusal::NoHybridKey { key: party.key };
    let hybrid_key = party.hybrid.as_ref().ok_or(missing)?;
    let weak = Refusal::WeakKey { key: party.key };
    Ok(WrappedKey {
        recipient: party.key,
        wrapper: None,
        bytes: hybrid::wrap(key, &party.key, hybrid_key, bound).ok_or(weak)?,
    })
}

/// The recipients and the sender, each once, in order.
fn parties_of(
    recipients: &[KeyAnnouncement],
    sender: &Identity,
) -> Result<BTreeMap<PublicKey, KeyAnnouncement>, Refusal> {
    // Counted before anything is copied; a list of repetitions is refused with the others.
    if recipients.len() > 4 * PARTIES_MAX {
        return Err(too_many(recipients.len()));
    }
    let mut parties = BTreeMap::new();
    for recipient in recipients {
        check_key(&recipient.key)?;
        parties.insert(recipient.key, recipient.clone());
    }
    // Last, so that nobody else says what our own X-Wing key is.
    parties.insert(sender.public(), sender.announcement());
    if parties.len() > PARTIES_MAX {
        return Err(too_many(parties.len()));
    }
    Ok(parties)
}

fn mandatory_of(
    request: &SealRequest,
    parties: &BTreeMap<PublicKey, KeyAnnouncement>,
) -> Result<Vec<PublicKey>, Refusal> {
    let malformed = |field: &str| Refusal::Malformed {
        field: field.to_owned(),
    };
    if request.mandatory.len() > 4 * PARTIES_MAX {
        return Err(too_many(request.mandatory.len()));
    }
    let mandatory: BTreeSet<PublicKey> = request.mandatory.iter().copied().collect();
    if mandatory.is_empty() == (request.context.flag == PrivacyFlag::MandatoryParties) {
        return Err(malformed("mandatory (goes with flag 2, always and only)"));
    }
    if !mandatory.iter().all(|key| parties.contains_key(key)) {
        return Err(malformed("mandatory (every key must be a party)"));
    }
    Ok(mandatory.into_iter().collect())
}

fn check_key(key: &PublicKey) -> Result<(), Refusal> {
    if key.is_weak() {
        return Err(Refusal::WeakKey { key: *key });
    }
    Ok(())
}

fn too_many(got: usize) -> Refusal {
    Refusal::TooManyRecipients {
        got: got as u64,
        max: PARTIES_MAX as u64,
    }
}

fn cipher_failed() -> EnclaveError {
    EnclaveError::Failed {
        reason: "the cipher refused a payload of a size that it should take".to_owned(),
    }
}

fn forged(identity: &Identity, field: &str) -> Refusal {
    Refusal::Forged {
        key: identity.public(),
        field: field.to_owned(),
    }
}
