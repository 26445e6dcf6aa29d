//! Tags: by these a party recognises a public transaction that is for it, without holding the payload.
//!
//! ```text
//! tag = first 8 bytes of SHA3-256( "quorate/enclave/tag/1" | X25519(sender, party) (32) | sender key (32) | party key (32)
//!                                  | payload hash (64) )
//! ```
//! Only the holders of the two private keys can compute the secret in front, and a sponge with a secret in front is a
//! pseudorandom function: to everyone else a tag is 8 random bytes, also to those who know all keys, all other tags and the hash.
//! The secret is static, so that a party needs nothing of the payload.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use sha3::{Digest as _, Sha3_256};
use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

use crate::envelope::PARTIES_MAX;
use crate::identity::Identity;
use crate::{KeyRing, PayloadHash, PublicKey, Refusal};

/// Length of a tag in bytes.
pub const TAG_BYTES: usize = 8;

/// Most keys that one call of [`Enclave::recognise`](crate::Enclave::recognise) tries as senders.
pub const SENDERS_MAX: usize = 4096;

/// Secrets that are kept, so that the scalar multiplication happens once for two keys and not for every transaction. When that
/// many are there, further ones are computed anew each time.
const SECRETS_MAX: usize = 16_384;

/// For which parties of which payload tags are to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRequest {
    /// The payload.
    pub hash: PayloadHash,
    /// Its sender, one of the enclave's keys.
    pub sender: PublicKey,
    /// Its parties, at most [`PARTIES_MAX`]. The sender has a tag if it is named here.
    pub parties: Vec<PublicKey>,
}

/// Whether one of these tags is for a key of the enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecogniseRequest {
    /// The payload that the tags stand beside.
    pub hash: PayloadHash,
    /// Keys that may have sent it, at most [`SENDERS_MAX`]. One that is left out is not recognised.
    pub senders: Vec<PublicKey>,
    /// The tags, at most [`PARTIES_MAX`].
    pub tags: Vec<[u8; TAG_BYTES]>,
}

/// A tag that was for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// Our key that it is for.
    pub party: PublicKey,
    /// The key that made it.
    pub sender: PublicKey,
}

/// A key of ours, and another.
type Pair = (PublicKey, PublicKey);

/// Secrets that keys of one ring share with others. Wiped when dropped.
#[derive(Default)]
pub(crate) struct SharedSecrets {
    known: Mutex<BTreeMap<Pair, Zeroizing<[u8; 32]>>>,
}

impl std::fmt::Debug for SharedSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedSecrets").finish_non_exhaustive()
    }
}

impl SharedSecrets {
    /// The digest of a tag, started with the secret of these two. `None` if the other is no key at all.
    fn start(&self, ours: &Identity, theirs: &PublicKey) -> Option<Sha3_256> {
        if theirs.is_weak() {
            return None;
        }
        let mut hash = Sha3_256::new();
        hash.update(b"quorate/enclave/tag/1");
        let names = (ours.public(), *theirs);
        if let Some(secret) = self.known.lock().get(&names) {
            hash.update(secret.as_slice());
            return Some(hash);
        }
        // Outside the lock: others are not held up by the multiplication.
        let secret = StaticSecret::from(*ours.secret());
        let shared = secret.diffie_hellman(&Point::from(*theirs.as_bytes()));
        hash.update(shared.as_bytes());
        let mut known = self.known.lock();
        if known.len() < SECRETS_MAX {
            known.insert(names, Zeroizing::new(shared.to_bytes()));
        }
        Some(hash)
    }
}

/// One tag for every party, in the order of the request.
pub(crate) fn tags(
    ring: &KeyRing,
    secrets: &SharedSecrets,
    request: &TagRequest,
) -> Result<Vec<[u8; TAG_BYTES]>, Refusal> {
    check_count("parties", request.parties.len(), PARTIES_MAX)?;
    // Retired keys as well: what they sealed may be sent on.
    let mut every = ring.every();
    let sender = every.find(|identity| identity.public() == request.sender);
    let sender = sender.ok_or(Refusal::UnknownSender {
        key: request.sender,
    })?;
    let each = request.parties.iter().map(|party| {
        let started = secrets.start(sender, party);
        let started = started.ok_or(Refusal::WeakKey { key: *party })?;
        Ok(finish(started, &request.sender, party, &request.hash))
    });
    each.collect()
}

/// The first of our keys, active ones first, that one of the tags is for.
pub(crate) fn recognise(
    ring: &KeyRing,
    secrets: &SharedSecrets,
    request: &RecogniseRequest,
) -> Result<Option<Recognised>, Refusal> {
    check_count("senders", request.senders.len(), SENDERS_MAX)?;
    check_count("tags", request.tags.len(), PARTIES_MAX)?;
    if request.tags.is_empty() {
        return Ok(None);
    }
    for identity in ring.every() {
        let party = identity.public();
        for sender in &request.senders {
            // What is no key has sent nothing.
            let Some(started) = secrets.start(identity, sender) else {
                continue;
            };
            let tag = finish(started, sender, &party, &request.hash);
            if request.tags.contains(&tag) {
                return Ok(Some(Recognised {
                    party,
                    sender: *sender,
                }));
            }
        }
    }
    Ok(None)
}

fn finish(
    mut started: Sha3_256,
    sender: &PublicKey,
    party: &PublicKey,
    hash: &PayloadHash,
) -> [u8; TAG_BYTES] {
    started.update(sender.as_bytes());
    started.update(party.as_bytes());
    started.update(hash.as_bytes());
    let digest: [u8; 32] = started.finalize().into();
    let mut tag = [0; TAG_BYTES];
    for (to, from) in tag.iter_mut().zip(digest) {
        *to = from;
    }
    tag
}

fn check_count(field: &str, got: usize, max: usize) -> Result<(), Refusal> {
    if got > max {
        return Err(Refusal::Malformed {
            field: format!("{field} ({got}, allowed are at most {max})"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
