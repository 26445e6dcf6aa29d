//! The Merkle Patricia trie (Ethereum yellow paper, appendix D), as an immutable value with shared structure.
//!
//! A clone is one pointer. An update copies the nodes on the way to what changed and shares the rest with the version it
//! came from. Nodes that are only on disk are known by hash and are fetched when an update or a read needs them; the
//! fetched node is kept for everybody who shares it. Disk holds one version only, by path, see [`persist`].

mod codec;
mod node;
mod persist;
mod proof;
mod reader;
mod resident;
#[cfg(test)]
mod tests;
mod update;

use alloy_primitives::B256;
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};

pub(crate) use persist::NodeWrite;
pub(crate) use reader::{NodeReader, Space, TrieError};
pub(crate) use resident::{Pruning, keep_levels};
pub(crate) use update::Change;

use node::{Body, Link};

/// One version of one trie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trie {
    root: Option<Link>,
}

impl Trie {
    /// A trie whose root node is on disk; nothing is fetched yet.
    pub(crate) fn stored(root: B256) -> Self {
        Self {
            root: (root != EMPTY_ROOT_HASH).then(|| Link::stored(root)),
        }
    }

    /// Root hash. Computes and remembers the hash of every node that has none yet.
    pub(crate) fn root_hash(&self) -> B256 {
        match &self.root {
            Some(link) => link.hash_as_root(),
            None => EMPTY_ROOT_HASH,
        }
    }

    /// The value under `key`.
    pub(crate) fn get(
        &self,
        key: &Nibbles,
        reader: &NodeReader<'_>,
    ) -> Result<Option<Vec<u8>>, TrieError> {
        let Some(mut link) = self.root.as_ref() else {
            return Ok(None);
        };
        let mut depth = 0;
        loop {
            let node = link.resolve(&key.slice(..depth), reader)?;
            match &node.body {
                Body::Leaf { key: rest, value } => {
                    return Ok((key.slice(depth..) == *rest).then(|| value.clone()));
                }
                Body::Extension { key: part, child } => {
                    if !key.slice(depth..).starts_with(part) {
                        return Ok(None);
                    }
                    depth += part.len();
                    link = child;
                }
                Body::Branch { children, value } => {
                    let Some(nibble) = key.get(depth) else {
                        return Ok(value.clone());
                    };
                    match &children[usize::from(nibble)] {
                        Some(child) => link = child,
                        None => return Ok(None),
                    }
                    depth += 1;
                }
            }
        }
    }
}
