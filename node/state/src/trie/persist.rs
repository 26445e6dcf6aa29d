//! What to write so that disk goes from one version of a trie to another.
//!
//! Nodes lie under their path, one version each. Two versions are walked in lock-step from the root; where they have the
//! same reference they are the same all the way down and the walk turns back. Only the root and nodes that their parent
//! names by hash have an entry; shorter ones lie inside their parent.

use alloy_trie::Nibbles;

use super::Trie;
use super::codec;
use super::node::{Body, Link};
use super::reader::{NodeReader, TrieError};

/// One entry to change: `None` removes the node at this path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeWrite {
    /// Where the node lies.
    pub(crate) path: Nibbles,
    /// Its RLP.
    pub(crate) node: Option<Vec<u8>>,
}

/// What one version has at a path.
#[derive(Clone, Copy)]
enum Side<'a> {
    /// Nothing at or below.
    Nothing,
    /// A node.
    At(&'a Link),
    /// The middle of an extension: nothing here, a node further down.
    Inside { rest: Nibbles, child: &'a Link },
}

impl Trie {
    /// Hands to `sink` every entry that differs between `old`, which is on disk, and this version.
    pub(crate) fn writes_since<E: From<TrieError>>(
        &self,
        old: &Trie,
        reader: &NodeReader<'_>,
        sink: &mut dyn FnMut(NodeWrite) -> Result<(), E>,
    ) -> Result<(), E> {
        let old = old.root.as_ref().map_or(Side::Nothing, Side::At);
        let new = self.root.as_ref().map_or(Side::Nothing, Side::At);
        walk(old, new, &Nibbles::new(), reader, sink)
    }
}

fn walk<E: From<TrieError>>(
    old: Side<'_>,
    new: Side<'_>,
    path: &Nibbles,
    reader: &NodeReader<'_>,
    sink: &mut dyn FnMut(NodeWrite) -> Result<(), E>,
) -> Result<(), E> {
    if let (Side::At(old), Side::At(new)) = (old, new)
        && old.reference() == new.reference()
    {
        return Ok(());
    }
    let old_body = old.body(path, reader)?;
    let new_body = new.body(path, reader)?;
    if new.has_entry(path) {
        if let Some(body) = new_body {
            let mut rlp = Vec::with_capacity(128);
            codec::encode(body, &mut rlp);
            sink(NodeWrite {
                path: *path,
                node: Some(rlp),
            })?;
        }
    } else if old.has_entry(path) {
        sink(NodeWrite {
            path: *path,
            node: None,
        })?;
    }
    for nibble in 0..16 {
        let (old, new) = (old.step(old_body, nibble), new.step(new_body, nibble));
        if !matches!((old, new), (Side::Nothing, Side::Nothing)) {
            let mut below = *path;
            below.push_unchecked(nibble);
            walk(old, new, &below, reader, sink)?;
        }
    }
    Ok(())
}

impl<'a> Side<'a> {
    fn body(self, path: &Nibbles, reader: &NodeReader<'_>) -> Result<Option<&'a Body>, TrieError> {
        match self {
            Self::At(link) => Ok(Some(&link.resolve(path, reader)?.body)),
            Self::Nothing | Self::Inside { .. } => Ok(None),
        }
    }

    fn has_entry(self, path: &Nibbles) -> bool {
        match self {
            Self::At(link) => path.is_empty() || link.reference().is_hash(),
            Self::Nothing | Self::Inside { .. } => false,
        }
    }

    fn step(self, body: Option<&'a Body>, nibble: u8) -> Self {
        let (rest, child) = match (self, body) {
            (Self::Inside { rest, child }, _) => (rest, child),
            (Self::At(_), Some(Body::Extension { key, child })) => (*key, child),
            (Self::At(_), Some(Body::Branch { children, .. })) => {
                return match &children[usize::from(nibble)] {
                    Some(child) => Self::At(child),
                    None => Self::Nothing,
                };
            }
            (Self::At(_), Some(Body::Leaf { .. }) | None) | (Self::Nothing, _) => {
                return Self::Nothing;
            }
        };
        if rest.first() != Some(nibble) {
            Self::Nothing
        } else if rest.len() == 1 {
            Self::At(child)
        } else {
            Self::Inside {
                rest: rest.slice(1..),
                child,
            }
        }
    }
}
