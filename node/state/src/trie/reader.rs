//! Fetching nodes from disk.

use alloy_primitives::{B256, hex, keccak256};
use alloy_trie::Nibbles;
use quorate_kv::{Kv, KvError};

use super::codec;
use super::node::Node;
use crate::layout;

/// Which trie a node belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// The one trie of accounts.
    Accounts,
    /// The storage trie of the account with this hashed address.
    Storage(B256),
}

/// A node that could not be fetched, or a key that no trie of ours takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrieError {
    /// The storage failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The node is not there, or another version of it is.
    #[error("trie node {}: {found}", hex::encode_prefixed(key))]
    OtherVersion {
        /// Where it should lie in the storage.
        key: Vec<u8>,
        /// What is there, and what was expected.
        found: String,
    },
    /// The bytes have the right hash and are no node. Only a fault of ours can write them.
    #[error("trie node {}: {reason}", hex::encode_prefixed(key))]
    Malformed {
        /// Where it lies in the storage.
        key: Vec<u8>,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Reads the nodes of one trie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeReader<'a> {
    kv: &'a dyn Kv,
    space: Space,
}

impl<'a> NodeReader<'a> {
    pub(crate) fn new(kv: &'a dyn Kv, space: Space) -> Self {
        Self { kv, space }
    }

    pub(crate) fn space(&self) -> Space {
        self.space
    }

    /// The node at `path`, if it is the one with this hash. Hashing it again costs less than reading it, and it is what
    /// tells a snapshot that outlived its nodes from damage.
    pub(super) fn fetch(&self, path: &Nibbles, expected: &B256) -> Result<Node, TrieError> {
        let key = layout::trie_node_key(self.space, path);
        let Some(bytes) = self.kv.get(&key)? else {
            return Err(TrieError::OtherVersion {
                key,
                found: format!("nothing, not {expected}"),
            });
        };
        let found = keccak256(&bytes);
        if found != *expected {
            return Err(TrieError::OtherVersion {
                key,
                found: format!("{found}, not {expected}"),
            });
        }
        codec::decode(&bytes).map_err(|reason| TrieError::Malformed { key, reason })
    }
}
