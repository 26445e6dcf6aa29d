//! The leader's signature over a block.

use alloy_primitives::{Address, B256};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, SECP256K1, SecretKey};

use crate::NodeId;
use crate::transaction::address_of;

/// A recoverable secp256k1 signature over a header hash: r (32 bytes), s (32), recovery id (1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal([u8; 65]);

impl Seal {
    /// Takes 65 bytes as they stand in a block's record.
    pub fn from_bytes(bytes: [u8; 65]) -> Self {
        Self(bytes)
    }

    /// The 65 bytes.
    pub fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// The address whose key made this seal over `header_hash`, or `None` if it is no signature at all.
    pub fn signer(&self, header_hash: B256) -> Option<Address> {
        let (signature, id) = self.0.split_at(64);
        let id = RecoveryId::try_from(i32::from(*id.first()?)).ok()?;
        let signature = RecoverableSignature::from_compact(signature, id).ok()?;
        let key = SECP256K1
            .recover_ecdsa(Message::from_digest(header_hash.0), &signature)
            .ok()?;
        Some(address_of(&key))
    }
}

/// Holds the member's key and makes seals with it.
#[derive(Clone)]
pub struct Sealer {
    key: SecretKey,
    node_id: NodeId,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

impl Sealer {
    /// A sealer with this member's secret key.
    pub fn new(key: SecretKey) -> Self {
        Self {
            node_id: NodeId::of(&key.public_key(SECP256K1)),
            key,
        }
    }

    /// Whose seals these are.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Signs a header hash.
    pub(crate) fn seal(&self, header_hash: B256) -> Seal {
        let signature =
            SECP256K1.sign_ecdsa_recoverable(Message::from_digest(header_hash.0), &self.key);
        let (id, compact) = signature.serialize_compact();
        let mut bytes = [0u8; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = i32::from(id) as u8;
        Seal(bytes)
    }
}
