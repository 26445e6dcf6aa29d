//! The envelope: an encrypted payload as it is stored and as it travels. Format 1, all numbers big-endian:
//!
//! ```text
//! magic "QENV" (4) | version 1 (1) | suite (2) | parts present (1): 1 group, 2 list of parties, 4 signature
//! chain id (8) | sender node (33) | privacy flag (1) | [privacy group (32)]
//! commitment to the parties (32) | sender key (32) | count (2) and mandatory keys (32 each, rising)
//! content nonce (24) | [box nonce (24), suite 1 only]
//! length (4) and ciphertext
//! count (2) and boxes, by rising recipient:
//!     recipient (32) | 0, or 1 and wrapper key (32) and nonce (24) | wrapped content key (48 or 1168, by suite)
//! [salt (32) | count (2) and the keys of all parties (32 each, rising)]
//! [signature: r (32) | s (32) | recovery id (1)]
//! ```
//! Exactly one byte string encodes an envelope: whatever could be written in two ways is refused in one of them.
//!
//! The list of parties is committed to as `SHA3-256("quorate/enclave/parties/1" | salt | count, u16 | keys)`. The salt goes
//! only where the list goes, so that the commitment tells others nothing, and the sender can prove later whom it
//! addressed.

mod ciphertext;
mod codec;
mod signature;

use alloy_primitives::B256;
use sha3::{Digest as _, Sha3_256};

pub(crate) use ciphertext::Ciphertext;
pub use codec::DecodeError;
pub use signature::{NodeSignature, SignatureError};

use crate::{Context, PayloadHash, PrivacyFlag, PublicKey, Suite};

/// Largest plaintext in bytes. A contract's whole state travels in one payload when a party joins it.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Largest ciphertext in bytes: a payload with key commitment and authentication tag.
pub const CIPHERTEXT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 48;

/// Most parties of one payload, the sender among them.
pub const PARTIES_MAX: usize = 256;

/// Largest encoded envelope in bytes: the ciphertext, and the boxes and lists of [`PARTIES_MAX`] parties.
pub const ENVELOPE_BYTES_MAX: usize = CIPHERTEXT_BYTES_MAX + PARTIES_MAX * (1168 + 57 + 96) + 1024;

/// What all copies of an envelope share, and what suite 2 authenticates with content and boxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) suite: Suite,
    pub(crate) context: Context,
    pub(crate) commitment: B256,
    pub(crate) sender: PublicKey,
    /// Rising.
    pub(crate) mandatory: Vec<PublicKey>,
}

impl Header {
    /// The header as associated data: unambiguous, since every part has a fixed length or is counted.
    pub(crate) fn associated_data(&self) -> Vec<u8> {
        let mut out = b"quorate/enclave/header/1".to_vec();
        codec::put_header(&mut out, self);
        out
    }
}

/// The content key, encrypted for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrappedKey {
    pub(crate) recipient: PublicKey,
    /// Suite 1: who made this box and its nonce, if it was not the sender with the shared nonce. None in suite 2.
    pub(crate) wrapper: Option<Wrapper>,
    pub(crate) bytes: Vec<u8>,
}

/// Another party that resealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrapper {
    pub(crate) key: PublicKey,
    pub(crate) nonce: [u8; 24],
}

/// All parties, and the salt that opens the commitment to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parties {
    pub(crate) salt: [u8; 32],
    /// Rising.
    pub(crate) keys: Vec<PublicKey>,
}

impl Parties {
    pub(crate) fn commitment(&self) -> B256 {
        let mut hash = Sha3_256::new();
        hash.update(b"quorate/enclave/parties/1");
        hash.update(self.salt);
        // PARTIES_MAX fits, and an impossible list commits to nothing else.
        hash.update(
            u16::try_from(self.keys.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        for key in &self.keys {
            hash.update(key.as_bytes());
        }
        B256::from(<[u8; 32]>::from(hash.finalize()))
    }
}

/// An encrypted payload with what its readers need. See the module for the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub(crate) header: Header,
    pub(crate) content_nonce: [u8; 24],
    /// Suite 1 only: the nonce that all boxes of the sender share.
    pub(crate) box_nonce: Option<[u8; 24]>,
    pub(crate) ciphertext: Ciphertext,
    /// By rising recipient.
    pub(crate) boxes: Vec<WrappedKey>,
    pub(crate) parties: Option<Parties>,
    pub(crate) signature: Option<NodeSignature>,
}

impl Envelope {
    /// How it is encrypted.
    pub fn suite(&self) -> Suite {
        self.header.suite
    }

    /// What it is bound to.
    pub fn context(&self) -> &Context {
        &self.header.context
    }

    /// The sender's key.
    pub fn sender(&self) -> PublicKey {
        self.header.sender
    }

    /// SHA3-512 of the ciphertext.
    pub fn payload_hash(&self) -> PayloadHash {
        self.ciphertext.hash()
    }

    /// The ciphertext. In suite 1 byte for byte what Tessera would store.
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// Whose boxes it holds, rising. Not necessarily all parties.
    pub fn recipients(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.boxes.iter().map(|wrapped| wrapped.recipient)
    }

    /// All parties, if this copy names them: the sender's own does, and every copy under
    /// [`PrivacyFlag::StateValidation`].
    pub fn parties(&self) -> Option<&[PublicKey]> {
        self.parties.as_ref().map(|parties| parties.keys.as_slice())
    }

    /// Who must take part in every transaction of the contract.
    pub fn mandatory(&self) -> &[PublicKey] {
        &self.header.mandatory
    }

    /// The sending node's signature.
    pub fn signature(&self) -> Option<&NodeSignature> {
        self.signature.as_ref()
    }

    /// The envelope as this recipient gets it: its own box, and all parties only if the flag demands it. `None` if there is no box
    /// for it.
    pub fn copy_for(&self, recipient: PublicKey) -> Option<Self> {
        let wrapped = self.box_of(&recipient)?.clone();
        let named = self.header.context.flag == PrivacyFlag::StateValidation;
        Some(Self {
            header: self.header.clone(),
            content_nonce: self.content_nonce,
            box_nonce: self.box_nonce,
            ciphertext: self.ciphertext.clone(),
            boxes: vec![wrapped],
            parties: self.parties.clone().filter(|_| named),
            signature: self.signature,
        })
    }

    /// True if both are copies of one sealed payload: they differ in boxes, list and presence of the signature at most.
    pub fn is_same_payload(&self, other: &Self) -> bool {
        self.header == other.header
            && self.content_nonce == other.content_nonce
            && self.box_nonce == other.box_nonce
            && self.ciphertext == other.ciphertext
    }

    /// Adds the boxes, the list and the signature that the other copy has and this one lacks. Returns whether there were
    /// any. `None` if the other is no copy of the same payload, or more than [`PARTIES_MAX`] boxes would come of it.
    pub fn merge(&mut self, other: &Self) -> Option<bool> {
        if !self.is_same_payload(other) {
            return None;
        }
        let mut boxes = self.boxes.clone();
        for wrapped in &other.boxes {
            if let Err(at) = boxes.binary_search_by_key(&wrapped.recipient, |b| b.recipient) {
                boxes.insert(at, wrapped.clone());
            }
        }
        if boxes.len() > PARTIES_MAX {
            return None;
        }
        let mut changed = boxes.len() > self.boxes.len();
        self.boxes = boxes;
        if self.parties.is_none() && other.parties.is_some() {
            self.parties = other.parties.clone();
            changed = true;
        }
        if self.signature.is_none() && other.signature.is_some() {
            self.signature = other.signature;
            changed = true;
        }
        Some(changed)
    }

    /// The bytes that stand for it.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// [`DecodeError`] names the first part that is not as the format says.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    pub(crate) fn box_of(&self, recipient: &PublicKey) -> Option<&WrappedKey> {
        let at = self
            .boxes
            .binary_search_by_key(recipient, |wrapped| wrapped.recipient)
            .ok()?;
        self.boxes.get(at)
    }
}

#[cfg(test)]
mod tests;
