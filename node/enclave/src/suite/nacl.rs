//! Suite 1: NaCl's secretbox for content, NaCl's box for the content key, as Tessera makes them.
//!
//! A box is a secretbox under HSalsa20(X25519(ours, theirs)): anyone who holds either private key opens it, so a recipient
//! knows that the sender, or it itself, made it. Nothing but key and nonce goes into either: there is no associated data.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use crypto_box::SalsaBox;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};
use parking_lot::Mutex;
use zeroize::{Zeroize as _, Zeroizing};

use super::ContentKey;
use crate::PublicKey;
use crate::identity::Identity;

/// A Poly1305 tag.
pub(crate) const CONTENT_OVERHEAD_BYTES: usize = 16;
/// A key and a Poly1305 tag.
pub(crate) const WRAPPED_KEY_BYTES: usize = 48;

/// Boxes that are kept.
const BOXES_MAX: usize = 16_384;

/// `None` only for more than the cipher takes, which is far above our limit.
pub(crate) fn seal_content(key: &ContentKey, nonce: &[u8; 24], payload: &[u8]) -> Option<Vec<u8>> {
    let cipher = XSalsa20Poly1305::new(key.as_slice().into());
    cipher.encrypt(nonce.into(), payload).ok()
}

pub(crate) fn open_content(
    key: &ContentKey,
    nonce: &[u8; 24],
    ciphertext: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = XSalsa20Poly1305::new(key.as_slice().into());
    let payload = cipher.decrypt(nonce.into(), ciphertext).ok()?;
    Some(Zeroizing::new(payload))
}

pub(crate) fn wrap(key: &ContentKey, nonce: &[u8; 24], shared: &SalsaBox) -> Option<Vec<u8>> {
    shared.encrypt(nonce.into(), key.as_slice()).ok()
}

pub(crate) fn unwrap(wrapped: &[u8], nonce: &[u8; 24], shared: &SalsaBox) -> Option<ContentKey> {
    let mut bytes = shared.decrypt(nonce.into(), wrapped).ok()?;
    let mut key: ContentKey = Box::new(Zeroizing::new([0; 32]));
    let whole = bytes.len() == key.len();
    if whole {
        key.copy_from_slice(&bytes);
    }
    bytes.zeroize();
    whole.then_some(key)
}

/// Boxes between keys of one ring and others. It is the same one for every payload between two keys, so that the scalar
/// multiplication happens once. When [`BOXES_MAX`] are there, further ones are computed anew each time. Wiped when dropped.
#[derive(Default)]
pub(crate) struct SharedBoxes {
    known: Mutex<BTreeMap<(PublicKey, PublicKey), Arc<SalsaBox>>>,
}

impl std::fmt::Debug for SharedBoxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedBoxes").finish_non_exhaustive()
    }
}

impl SharedBoxes {
    /// The box of these two. `None` if the other is no key at all.
    pub(crate) fn between(&self, ours: &Identity, theirs: &PublicKey) -> Option<Arc<SalsaBox>> {
        if theirs.is_weak() {
            return None;
        }
        let names = (ours.public(), *theirs);
        if let Some(known) = self.known.lock().get(&names) {
            return Some(Arc::clone(known));
        }
        // Outside the lock: others are not held up by the multiplication.
        let shared = Arc::new(shared_box(ours, theirs));
        let mut known = self.known.lock();
        if known.len() < BOXES_MAX {
            known.insert(names, Arc::clone(&shared));
        }
        Some(shared)
    }
}

fn shared_box(ours: &Identity, theirs: &PublicKey) -> SalsaBox {
    let theirs = crypto_box::PublicKey::from(*theirs.as_bytes());
    let mut key = crypto_box::SecretKey::from_bytes(*ours.secret());
    let shared = SalsaBox::new(&theirs, &key);
    // That type wipes only the half of itself that it computes with when dropped: overwrite the other half, and make the
    // compiler believe that someone looks at it.
    key = crypto_box::SecretKey::from_bytes([0; 32]);
    black_box(&key);
    shared
}

#[cfg(test)]
mod tests;
