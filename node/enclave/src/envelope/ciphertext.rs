//! The encrypted payload.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::PayloadHash;

/// A ciphertext. The copies of an envelope share it, and its hash, which is worked out once: whoever sends, receives, checks or
/// stores a payload asks for it.
#[derive(Debug, Clone)]
pub(crate) struct Ciphertext {
    bytes: Bytes,
    hash: Arc<OnceLock<PayloadHash>>,
}

impl Ciphertext {
    pub(crate) fn hash(&self) -> PayloadHash {
        *self.hash.get_or_init(|| PayloadHash::of(&self.bytes))
    }
}

impl Deref for Ciphertext {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Ciphertext {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Ciphertext {}

impl From<Vec<u8>> for Ciphertext {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: bytes.into(),
            hash: Arc::default(),
        }
    }
}
