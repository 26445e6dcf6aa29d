//! Suite 2: XChaCha20-Poly1305 for content; the content key by HPKE (RFC 9180, base mode) for every recipient, with the KEM
//! X-Wing (0x647a), HKDF-SHA256 (0x0001) and ChaCha20-Poly1305 (0x0003).
//!
//! ```text
//! ciphertext   SHA3-256("quorate/enclave/key/2" | content nonce | content key) (32) | XChaCha20-Poly1305 with the header as AAD
//! box          encapsulated key (1120) | ChaCha20-Poly1305 of the content key (48)
//! info of HPKE "quorate/enclave/box/2"
//! AAD of a box header as associated data | payload hash (64) | recipient's key (32)
//! ```
//! Poly1305 alone does not commit to a key: one ciphertext can be made that decrypts under two keys to two payloads. The
//! commitment at its head stops this, and lies under the payload hash, so that all recipients see the same one.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use sha3::{Digest as _, Sha3_256};
use zeroize::{Zeroize as _, Zeroizing};

use super::ContentKey;
use crate::envelope::Header;
use crate::identity::Identity;
use crate::{HybridKey, PayloadHash, PublicKey, Refusal};

const COMMITMENT_BYTES: usize = 32;
const ENCAPSULATED_KEY_BYTES: usize = 1120;
const INFO: &[u8] = b"quorate/enclave/box/2";

/// Key commitment and a Poly1305 tag.
pub(crate) const CONTENT_OVERHEAD_BYTES: usize = COMMITMENT_BYTES + 16;
/// Encapsulated key, key and a Poly1305 tag.
pub(crate) const WRAPPED_KEY_BYTES: usize = ENCAPSULATED_KEY_BYTES + 48;

type PrivateKey = <XWing as Kem>::PrivateKey;
type EncapsulatedKey = <XWing as Kem>::EncappedKey;

/// What every box of one envelope is bound to.
pub(crate) struct BoxContext(Vec<u8>);

impl BoxContext {
    pub(crate) fn new(header: &Header, ciphertext: &[u8]) -> Self {
        let mut bound = header.associated_data();
        bound.extend_from_slice(PayloadHash::of(ciphertext).as_bytes());
        Self(bound)
    }

    fn for_recipient(&self, recipient: &PublicKey) -> Vec<u8> {
        let mut bound = self.0.clone();
        bound.extend_from_slice(recipient.as_bytes());
        bound
    }
}

/// True if these bytes are an X-Wing public key.
pub(crate) fn is_key(bytes: &[u8]) -> bool {
    <XWing as Kem>::PublicKey::from_bytes(bytes).is_ok()
}

/// The public key of a 32-byte X-Wing private key.
pub(crate) fn public_key(secret: &[u8; 32]) -> Option<HybridKey> {
    let secret = PrivateKey::from_bytes(secret).ok()?;
    HybridKey::from_bytes(&XWing::sk_to_pk(&secret).to_bytes())
}

/// `None` only for more than the cipher takes, which is far above our limit.
pub(crate) fn seal_content(
    key: &ContentKey,
    nonce: &[u8; 24],
    payload: &[u8],
    aad: &[u8],
) -> Option<Vec<u8>> {
    let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?;
    let payload = Payload { msg: payload, aad };
    let sealed = cipher.encrypt(&XNonce::from(*nonce), payload).ok()?;
    let mut out = Vec::with_capacity(COMMITMENT_BYTES + sealed.len());
    out.extend_from_slice(&commitment(key, nonce));
    out.extend_from_slice(&sealed);
    Some(out)
}

pub(crate) fn open_content(
    key: &ContentKey,
    nonce: &[u8; 24],
    ciphertext: &[u8],
    aad: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (committed, sealed) = ciphertext.split_first_chunk::<COMMITMENT_BYTES>()?;
    // Not secret: it stands in the ciphertext for all to see.
    if *committed != commitment(key, nonce) {
        return None;
    }
    let cipher = XChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?;
    let payload = Payload { msg: sealed, aad };
    let opened = cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
    Some(Zeroizing::new(opened))
}

/// `None` if the recipient's key is of no use.
pub(crate) fn wrap(
    key: &ContentKey,
    recipient: &PublicKey,
    hybrid: &HybridKey,
    bound: &BoxContext,
) -> Option<Vec<u8>> {
    let public = <XWing as Kem>::PublicKey::from_bytes(hybrid.as_bytes()).ok()?;
    let (encapsulated, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeS::Base,
        &public,
        INFO,
        key.as_slice(),
        &bound.for_recipient(recipient),
    )
    .ok()?;
    let mut out = Vec::with_capacity(WRAPPED_KEY_BYTES);
    out.extend_from_slice(&encapsulated.to_bytes());
    out.extend_from_slice(&sealed);
    Some(out)
}

/// `Ok(None)`: the box is not what it should be.
pub(crate) fn unwrap(
    wrapped: &[u8],
    identity: &Identity,
    bound: &BoxContext,
) -> Result<Option<ContentKey>, Refusal> {
    let missing = Refusal::NoHybridKey {
        key: identity.public(),
    };
    let secret = identity.hybrid_secret().ok_or(missing)?;
    Ok(unwrap_with(wrapped, secret, &identity.public(), bound))
}

fn unwrap_with(
    wrapped: &[u8],
    secret: &[u8; 32],
    recipient: &PublicKey,
    bound: &BoxContext,
) -> Option<ContentKey> {
    let (encapsulated, sealed) = wrapped.split_at_checked(ENCAPSULATED_KEY_BYTES)?;
    let encapsulated = EncapsulatedKey::from_bytes(encapsulated).ok()?;
    let secret = PrivateKey::from_bytes(secret).ok()?;
    let mut opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        INFO,
        sealed,
        &bound.for_recipient(recipient),
    )
    .ok()?;
    let mut key: ContentKey = Box::new(Zeroizing::new([0; 32]));
    let whole = opened.len() == key.len();
    if whole {
        key.copy_from_slice(&opened);
    }
    opened.zeroize();
    whole.then_some(key)
}

fn commitment(key: &ContentKey, nonce: &[u8; 24]) -> [u8; COMMITMENT_BYTES] {
    let mut hash = Sha3_256::new();
    hash.update(b"quorate/enclave/key/2");
    hash.update(nonce);
    hash.update(key.as_slice());
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
