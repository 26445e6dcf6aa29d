//! The sending node's signature over what all copies of an envelope share.
//!
//! ```text
//! digest = SHA3-256( "quorate/enclave/envelope/1" | header as associated data | payload hash (64)
//!                    | content nonce (24) | 0, or 1 and box nonce (24) )
//! ```
//! It covers the ciphertext, the sender, the commitment to all parties and the context, and no boxes: so it is made once, every
//! copy carries it, and it still holds when a party passes the payload on. A box defends itself, since it decrypts or does not.

use alloy_primitives::B256;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, SECP256K1};
use sha3::{Digest as _, Sha3_256};

use super::Envelope;
use crate::NodeKey;

/// A recoverable secp256k1 signature: r (32 bytes), s (32, in the lower half), recovery id (1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSignature([u8; 65]);

impl NodeSignature {
    /// Takes 65 bytes as they stand in an envelope.
    pub const fn from_bytes(bytes: [u8; 65]) -> Self {
        Self(bytes)
    }

    /// The 65 bytes.
    pub const fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// Whose signature over `digest` this is; `None` if it is no signature, or one with the other of two possible s.
    fn signer(&self, digest: B256) -> Option<NodeKey> {
        let ([id], compact) = self.0.split_last_chunk::<1>().map(|(c, id)| (*id, c))?;
        let id = RecoveryId::try_from(i32::from(id)).ok()?;
        let signature = RecoverableSignature::from_compact(compact, id).ok()?;
        let standard = signature.to_standard();
        let mut normal = standard;
        normal.normalize_s();
        if normal != standard {
            return None;
        }
        let key = SECP256K1
            .recover_ecdsa(Message::from_digest(digest.0), &signature)
            .ok()?;
        Some(NodeKey::from(key.serialize()))
    }
}

/// A signature that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("the envelope is not signed")]
    Missing,
    /// It is none over anything.
    #[error("the envelope's signature is malformed")]
    Malformed,
    /// Someone else signed it, or it was changed.
    #[error("the envelope names {expected} as its sending node, but {found} signed it")]
    OtherSigner {
        /// The node that the envelope names.
        expected: NodeKey,
        /// The key that fits the signature.
        found: NodeKey,
    },
}

impl Envelope {
    /// What the sending node signs.
    pub fn signing_digest(&self) -> B256 {
        let mut hash = Sha3_256::new();
        hash.update(b"quorate/enclave/envelope/1");
        hash.update(self.header.associated_data());
        hash.update(self.payload_hash().as_bytes());
        hash.update(self.content_nonce);
        match &self.box_nonce {
            None => hash.update([0]),
            Some(nonce) => {
                hash.update([1]);
                hash.update(nonce);
            }
        }
        B256::from(<[u8; 32]>::from(hash.finalize()))
    }

    /// Puts the signature into its place: `sign` gets the digest and returns r, s and recovery id.
    ///
    /// # Errors
    /// What `sign` returned; the envelope is as before then.
    pub fn sign<E>(&mut self, sign: impl FnOnce(B256) -> Result<[u8; 65], E>) -> Result<(), E> {
        self.signature = Some(NodeSignature::from_bytes(sign(self.signing_digest())?));
        Ok(())
    }

    /// True if there is a signature; it may still be wrong.
    pub const fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Checks that the node which the envelope names as its sender signed it.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify_signature(&self) -> Result<(), SignatureError> {
        let signature = self.signature.as_ref().ok_or(SignatureError::Missing)?;
        let found = signature
            .signer(self.signing_digest())
            .ok_or(SignatureError::Malformed)?;
        let expected = self.header.context.sender_node;
        if found != expected {
            return Err(SignatureError::OtherSigner { expected, found });
        }
        Ok(())
    }
}
