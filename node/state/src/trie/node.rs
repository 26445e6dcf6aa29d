//! Nodes and the links between them.

use std::sync::{Arc, OnceLock};

use alloy_primitives::{B256, keccak256};
use alloy_trie::Nibbles;
use alloy_trie::nodes::RlpNode;

use super::codec;
use super::reader::{NodeReader, TrieError};

/// The sixteen children of a branch.
pub(super) type Children = Box<[Option<Link>; 16]>;

/// How a parent holds a child.
#[derive(Debug, Clone)]
pub(super) enum Link {
    /// In memory.
    Node(Arc<Node>),
    /// On disk, under the path at which this link sits.
    Stored(Arc<Stored>),
}

/// A node on disk, and the copy in memory once somebody needed it.
#[derive(Debug)]
pub(super) struct Stored {
    hash: B256,
    node: OnceLock<Arc<Node>>,
}

/// A node in memory, with its reference once somebody computed it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    /// What a parent embeds: the node's RLP if that is shorter than 32 bytes, else its hash.
    reference: OnceLock<RlpNode>,
}

/// What a node says. Keys are relative to the node's path.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// The end of a key, with its value.
    Leaf { key: Nibbles, value: Vec<u8> },
    /// A part that all keys below share; never empty, and the child is always a branch.
    Extension { key: Nibbles, child: Link },
    /// One child per next nibble, and the value of the key that ends here. At least two of these exist.
    Branch {
        children: Children,
        value: Option<Vec<u8>>,
    },
}

impl Node {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            reference: OnceLock::new(),
        }
    }

    /// A node whose reference is already known.
    pub(super) fn with_reference(body: Body, reference: RlpNode) -> Self {
        let cell = OnceLock::new();
        cell.get_or_init(|| reference);
        Self {
            body,
            reference: cell,
        }
    }

    fn reference(&self, scratch: &mut Vec<u8>) -> &RlpNode {
        self.reference.get_or_init(|| {
            match &self.body {
                Body::Leaf { .. } => {}
                Body::Extension { child, .. } => child.make_reference(scratch),
                Body::Branch { children, .. } => {
                    for child in children.iter().flatten() {
                        child.make_reference(scratch);
                    }
                }
            }
            scratch.clear();
            codec::encode(&self.body, scratch);
            RlpNode::from_rlp(scratch)
        })
    }
}

impl Link {
    pub(super) fn new(body: Body) -> Self {
        Self::Node(Arc::new(Node::new(body)))
    }

    pub(super) fn stored(hash: B256) -> Self {
        Self::Stored(Arc::new(Stored {
            hash,
            node: OnceLock::new(),
        }))
    }

    /// What a parent embeds for this child.
    pub(super) fn reference(&self) -> RlpNode {
        match self {
            Self::Node(node) => match node.reference.get() {
                Some(reference) => reference.clone(),
                None => node
                    .reference(&mut Vec::with_capacity(codec::BRANCH_SIZE_TYPICAL))
                    .clone(),
            },
            Self::Stored(stored) => RlpNode::word_rlp(&stored.hash),
        }
    }

    /// Computes the reference if it is not known yet.
    pub(super) fn make_reference(&self, scratch: &mut Vec<u8>) {
        if let Self::Node(node) = self {
            node.reference(scratch);
        }
    }

    /// The hash of this node as a root: a root is hashed even if it is shorter than a hash.
    pub(super) fn hash_as_root(&self) -> B256 {
        let reference = self.reference();
        reference
            .as_hash()
            .unwrap_or_else(|| keccak256(reference.as_slice()))
    }

    /// The node in memory, if it is there.
    pub(super) fn resident(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Node(node) => Some(node),
            Self::Stored(stored) => stored.node.get(),
        }
    }

    /// The node, fetched from disk if it is not in memory. `path` is where this link sits.
    pub(super) fn resolve(
        &self,
        path: &Nibbles,
        reader: &NodeReader<'_>,
    ) -> Result<&Arc<Node>, TrieError> {
        match self {
            Self::Node(node) => Ok(node),
            Self::Stored(stored) => match stored.node.get() {
                Some(node) => Ok(node),
                None => {
                    let node = Arc::new(reader.fetch(path, &stored.hash)?);
                    Ok(stored.node.get_or_init(|| node))
                }
            },
        }
    }

    /// The body for changing it: moved out if nobody else holds the node, else copied (children stay shared).
    pub(super) fn into_body(
        self,
        path: &Nibbles,
        reader: &NodeReader<'_>,
    ) -> Result<Body, TrieError> {
        match self {
            Self::Node(node) => Ok(match Arc::try_unwrap(node) {
                Ok(node) => node.body,
                Err(shared) => shared.body.clone(),
            }),
            Self::Stored(_) => Ok(self.resolve(path, reader)?.body.clone()),
        }
    }
}
