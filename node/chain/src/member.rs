//! Who belongs to the consortium.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use crate::transaction::address_of;

/// A member's public identity: a compressed secp256k1 key (33 bytes). Its libp2p peer id, its node
/// address and its block seals all come from this one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 33]);

/// Why text or bytes are no node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// Not 33 bytes in hexadecimal.
    #[error(
        "node id must be 33 bytes in hexadecimal (66 digits, 0x allowed), got {length} characters"
    )]
    Length {
        /// Characters given.
        length: usize,
    },
    /// 33 bytes that are no point of the curve.
    #[error("node id is not a compressed secp256k1 public key")]
    NotAKey,
}

impl NodeId {
    /// Takes the 33 bytes of a compressed key.
    ///
    /// # Errors
    /// [`NodeIdError::NotAKey`] if they are no point of the curve.
    pub fn from_bytes(bytes: [u8; 33]) -> Result<Self, NodeIdError> {
        secp256k1::PublicKey::from_slice(&bytes).map_err(|_| NodeIdError::NotAKey)?;
        Ok(Self(bytes))
    }

    /// The id of a public key.
    pub fn of(key: &secp256k1::PublicKey) -> Self {
        Self(key.serialize())
    }

    /// The 33 bytes.
    pub fn as_bytes(&self) -> &[u8; 33] {
        &self.0
    }

    /// The node's Ethereum address: `coinbase` of the blocks that it mints.
    pub fn address(&self) -> Address {
        match secp256k1::PublicKey::from_slice(&self.0) {
            Ok(key) => address_of(&key),
            // The constructors checked the point.
            Err(_) => Address::ZERO,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = [0u8; 33];
        hex::decode_to_slice(digits, &mut bytes)
            .map_err(|_| NodeIdError::Length { length: text.len() })?;
        Self::from_bytes(bytes)
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a member counts for majorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Votes and counts for the majority.
    #[default]
    Voter,
    /// Receives and verifies everything, does not vote.
    Learner,
}

/// One seat of the consortium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// Raft id: never zero, never used twice in the life of a consortium.
    pub raft_id: u64,
    /// The member's key.
    pub node_id: NodeId,
    /// Where its p2p port is reached: `host:port` or a multiaddress.
    pub address: String,
    /// The organisation that runs it.
    #[serde(default)]
    pub organisation: String,
    /// Voter or learner.
    #[serde(default)]
    pub role: MemberRole,
}
