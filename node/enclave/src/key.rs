//! Public keys of parties.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use alloy_primitives::{B256, hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha3::{Digest as _, Sha3_256};

use crate::NodeKey;

/// Size of an X-Wing public key: 1184 bytes of ML-KEM-768 and 32 of X25519.
pub const HYBRID_KEY_BYTES: usize = 1216;

/// The points of small order on Curve25519 and its twist, with the unused top bit clear. A secret shared with one of
/// them is zero, whoever shares it.
const SMALL_ORDER: [[u8; 32]; 7] = [
    hex!("0000000000000000000000000000000000000000000000000000000000000000"),
    hex!("0100000000000000000000000000000000000000000000000000000000000000"),
    hex!("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    hex!("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    hex!("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    hex!("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    hex!("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
];

/// Names a party: its X25519 public key, whatever suite is in use. As text: 44 characters of base64, as in Tessera.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the 32 bytes of a key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// True if a secret shared with this key would be known to everyone: such a key belongs to nobody.
    pub fn is_weak(&self) -> bool {
        let mut point = self.0;
        if let Some(last) = point.last_mut() {
            *last &= 0x7f;
        }
        SMALL_ORDER.contains(&point)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is not {bytes} bytes in standard base64")]
pub struct KeyTextError {
    /// What was to be read.
    pub field: &'static str,
    /// How many bytes it must have.
    pub bytes: usize,
}

impl FromStr for PublicKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let refused = KeyTextError {
            field: "public key",
            bytes: 32,
        };
        // Base64 of 32 bytes has 44 characters: nothing longer is decoded.
        if text.len() != 44 {
            return Err(refused);
        }
        let bytes = STANDARD.decode(text).ok();
        bytes
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or(refused)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An X-Wing public key (ML-KEM-768 with X25519) of a party, for suite 2.
#[derive(Clone, PartialEq, Eq)]
pub struct HybridKey(Arc<[u8; HYBRID_KEY_BYTES]>);

impl HybridKey {
    /// Takes the bytes of a key; `None` if their number is not [`HYBRID_KEY_BYTES`] or no X-Wing key encodes to them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; HYBRID_KEY_BYTES] = bytes.try_into().ok()?;
        crate::suite::hybrid::is_key(&bytes).then(|| Self(Arc::new(bytes)))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; HYBRID_KEY_BYTES] {
        &self.0
    }

    /// SHA3-256 of the bytes: what stands for the key where it has no room.
    pub fn digest(&self) -> B256 {
        B256::from_slice(&Sha3_256::digest(self.0.as_slice()))
    }
}

impl fmt::Debug for HybridKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = Sha3_256::digest(self.0.as_slice());
        let short: String = id.iter().take(8).map(|b| format!("{b:02x}")).collect();
        write!(f, "HybridKey({short}…)")
    }
}

/// A party's keys as it makes them known: the name, and what suite 2 needs to encrypt to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnnouncement {
    /// Names the party.
    pub key: PublicKey,
    /// Its X-Wing key. Keys in Tessera's files have none.
    pub hybrid: Option<HybridKey>,
}

impl KeyAnnouncement {
    /// What the node that runs the enclave signs, so that others know where payloads for this key go and that nobody
    /// exchanged the X-Wing key beside it:
    ///
    /// ```text
    /// SHA3-256( "quorate/enclave/announcement/1" | chain id, u64 BE | node key (33) | key (32) | 0, or 1 | X-Wing key )
    /// ```
    pub fn digest(&self, chain_id: u64, node: &NodeKey) -> B256 {
        let mut hash = Sha3_256::new();
        hash.update(b"quorate/enclave/announcement/1");
        hash.update(chain_id.to_be_bytes());
        hash.update(node.as_slice());
        hash.update(self.key.as_bytes());
        match &self.hybrid {
            None => hash.update([0]),
            Some(hybrid) => {
                hash.update([1]);
                hash.update(hybrid.as_bytes());
            }
        }
        B256::from(<[u8; 32]>::from(hash.finalize()))
    }
}

impl From<PublicKey> for KeyAnnouncement {
    fn from(key: PublicKey) -> Self {
        Self { key, hybrid: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_text_and_nothing_else_is_a_key() {
        let key = PublicKey::from_bytes([7; 32]);
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(
            serde_json::from_str::<PublicKey>(&serde_json::to_string(&key).unwrap()).unwrap(),
            key
        );
        for text in [
            "",
            "AAAA",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw==",
            "_wcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn points_of_small_order_are_weak_with_either_top_bit() {
        let mut one = [0u8; 32];
        one[0] = 1;
        assert!(PublicKey::from_bytes(one).is_weak());
        one[31] |= 0x80;
        assert!(PublicKey::from_bytes(one).is_weak());
        assert!(!PublicKey::from_bytes([9; 32]).is_weak());
    }

    #[test]
    fn an_announcement_digest_depends_on_every_part() {
        let node = NodeKey::from([2; 33]);
        let plain = KeyAnnouncement::from(PublicKey::from_bytes([1; 32]));
        let digest = plain.digest(10, &node);
        assert_ne!(digest, plain.digest(11, &node));
        assert_ne!(digest, plain.digest(10, &NodeKey::from([3; 33])));
        let other = KeyAnnouncement::from(PublicKey::from_bytes([2; 32]));
        assert_ne!(digest, other.digest(10, &node));
    }
}
