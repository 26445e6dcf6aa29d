//! One party's private keys. Nothing outside this crate sees this type.

use std::fmt;

use zeroize::Zeroizing;

use crate::random::random_secret;
use crate::{HybridKey, KeyAnnouncement, PublicKey, RandomFailed, suite};

/// Bytes that are wiped when dropped, on the heap so that moving them leaves no copies behind.
pub(crate) type Secret = Box<Zeroizing<[u8; 32]>>;

/// A party that we are.
pub(crate) struct Identity {
    public: PublicKey,
    /// X25519.
    secret: Secret,
    hybrid: Option<Hybrid>,
}

/// The X-Wing key beside it. Made independently: if it were derived from the X25519 key, whoever computes that one from its
/// public key with a quantum computer would have both.
struct Hybrid {
    public: HybridKey,
    secret: Secret,
}

impl Identity {
    pub(crate) fn generate() -> Result<Self, RandomFailed> {
        let hybrid = random_secret()?;
        Ok(Self::from_secrets(random_secret()?, Some(hybrid)))
    }

    /// A Tessera key gains an X-Wing key of its own when it is imported.
    pub(crate) fn with_new_hybrid(self) -> Result<Self, RandomFailed> {
        Ok(Self::from_secrets(self.secret, Some(random_secret()?)))
    }

    pub(crate) fn from_secrets(secret: Secret, hybrid: Option<Secret>) -> Self {
        let mut key = crypto_box::SecretKey::from_bytes(**secret);
        let public = PublicKey::from_bytes(*key.public_key().as_bytes());
        // As in the NaCl suite: wipe what that type leaves.
        key = crypto_box::SecretKey::from_bytes([0; 32]);
        std::hint::black_box(&key);
        let hybrid = hybrid.and_then(|secret| {
            let public = suite::hybrid::public_key(&secret)?;
            Some(Hybrid { public, secret })
        });
        Self {
            public,
            secret,
            hybrid,
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn announcement(&self) -> KeyAnnouncement {
        KeyAnnouncement {
            key: self.public,
            hybrid: self.hybrid.as_ref().map(|hybrid| hybrid.public.clone()),
        }
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    pub(crate) fn hybrid_secret(&self) -> Option<&[u8; 32]> {
        self.hybrid.as_ref().map(|hybrid| &**hybrid.secret)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public)
            .field("hybrid", &self.hybrid.as_ref().map(|h| &h.public))
            .finish_non_exhaustive()
    }
}
