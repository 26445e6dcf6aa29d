//! Changing many keys at once.
//!
//! Changes are sorted by key and handed down: a branch splits them by the next nibble, so a node is visited once however
//! many changes lie below it. At the root, large sets are worked on in parallel, each nibble on its own.

use alloy_trie::Nibbles;
use rayon::prelude::*;

use super::Trie;
use super::codec::BRANCH_SIZE_TYPICAL;
use super::node::{Body, Children, Link};
use super::reader::{NodeReader, TrieError};

/// From this many changes on, the children of the root are updated and hashed in parallel.
const PARALLEL_CHANGES_MIN: usize = 128;

/// A new value for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The whole key, at most 64 nibbles.
    pub(crate) key: Nibbles,
    /// The value; `None` removes the key. Empty values do not exist in a trie and count as `None`.
    pub(crate) value: Option<Vec<u8>>,
}

impl Trie {
    /// The trie after these changes. Of several changes to one key the last one counts.
    pub(crate) fn update(
        &self,
        mut changes: Vec<Change>,
        reader: &NodeReader<'_>,
    ) -> Result<Self, TrieError> {
        for change in &mut changes {
            if change.value.as_ref().is_some_and(Vec::is_empty) {
                change.value = None;
            }
        }
        // Reversed before the stable sort, so that of equal keys the last one comes first and is the one that is kept.
        changes.reverse();
        changes.sort_by_key(|change| change.key);
        changes.dedup_by_key(|change| change.key);
        let root = update(self.root.clone(), &Nibbles::new(), &mut changes, reader)?;
        Ok(Self { root })
    }
}

/// Applies changes, sorted and without repetition, to the node at `path`. All their keys begin with `path`.
fn update(
    mut link: Option<Link>,
    path: &Nibbles,
    mut rest: &mut [Change],
    reader: &NodeReader<'_>,
) -> Result<Option<Link>, TrieError> {
    let depth = path.len();
    while let Some(first) = rest.first() {
        let key = first.key.slice(depth..);
        let Some(current) = link else {
            link = rest[0]
                .value
                .take()
                .map(|value| Link::new(Body::Leaf { key, value }));
            rest = &mut rest[1..];
            continue;
        };
        match current.into_body(path, reader)? {
            Body::Branch { children, value } => {
                return update_branch(children, value, path, rest, reader);
            }
            Body::Extension { key: part, child } => {
                let below = rest
                    .iter()
                    .take_while(|change| change.key.slice(depth..).starts_with(&part))
                    .count();
                if below > 0 {
                    let (below, after) = rest.split_at_mut(below);
                    let child_path = path.join(&part);
                    let child = update(Some(child), &child_path, below, reader)?;
                    link = extend(part, child, &child_path, reader)?;
                    rest = after;
                } else {
                    let value = rest[0].value.take();
                    link = Some(insert_beside_extension(part, child, key, value));
                    rest = &mut rest[1..];
                }
            }
            Body::Leaf {
                key: leaf_key,
                value: leaf_value,
            } => {
                let value = rest[0].value.take();
                link = change_leaf(leaf_key, leaf_value, key, value);
                rest = &mut rest[1..];
            }
        }
    }
    Ok(link)
}

fn update_branch(
    mut children: Children,
    mut value: Option<Vec<u8>>,
    path: &Nibbles,
    changes: &mut [Change],
    reader: &NodeReader<'_>,
) -> Result<Option<Link>, TrieError> {
    let depth = path.len();
    let parallel = depth == 0 && changes.len() >= PARALLEL_CHANGES_MIN;
    // A key that ends here sorts before all that go on.
    let ends_here = changes.partition_point(|change| change.key.len() == depth);
    let (here, mut rest) = changes.split_at_mut(ends_here);
    if let Some(change) = here.first_mut() {
        value = change.value.take();
    }

    let mut groups: Vec<(u8, &mut Option<Link>, &mut [Change])> = Vec::new();
    for (nibble, child) in (0u8..).zip(children.iter_mut()) {
        let size = rest.partition_point(|change| change.key.get(depth) == Some(nibble));
        let (group, after) = rest.split_at_mut(size);
        rest = after;
        if !group.is_empty() {
            groups.push((nibble, child, group));
        }
    }
    let update_child = |(nibble, child, group): (u8, &mut Option<Link>, &mut [Change])| {
        *child = update(child.take(), &with_nibble(path, nibble), group, reader)?;
        Ok::<(), TrieError>(())
    };
    if parallel {
        groups
            .into_par_iter()
            .try_for_each(|(nibble, child, group)| {
                update_child((nibble, &mut *child, group))?;
                if let Some(child) = child {
                    child.make_reference(&mut Vec::with_capacity(BRANCH_SIZE_TYPICAL));
                }
                Ok::<(), TrieError>(())
            })?;
    } else {
        groups.into_iter().try_for_each(update_child)?;
    }
    settle_branch(children, value, path, reader)
}

/// A branch needs two things to tell apart; with fewer it becomes the node that is left.
fn settle_branch(
    mut children: Children,
    value: Option<Vec<u8>>,
    path: &Nibbles,
    reader: &NodeReader<'_>,
) -> Result<Option<Link>, TrieError> {
    let mut occupied = (0u8..)
        .zip(children.iter_mut())
        .filter(|(_, child)| child.is_some());
    let (first, second) = (occupied.next(), occupied.next());
    match (first, second, value) {
        (None, _, None) => Ok(None),
        (None, _, Some(value)) => Ok(Some(Link::new(Body::Leaf {
            key: Nibbles::new(),
            value,
        }))),
        (Some((nibble, child)), None, None) => {
            let child = child.take();
            let part = with_nibble(&Nibbles::new(), nibble);
            extend(part, child, &path.join(&part), reader)
        }
        (Some(_), _, value) => Ok(Some(Link::new(Body::Branch { children, value }))),
    }
}

/// Puts `part` in front of a node: leaves and extensions take it into their own key, a branch gets an extension.
fn extend(
    part: Nibbles,
    child: Option<Link>,
    child_path: &Nibbles,
    reader: &NodeReader<'_>,
) -> Result<Option<Link>, TrieError> {
    let Some(child) = child else { return Ok(None) };
    let merged = match &child.resolve(child_path, reader)?.body {
        Body::Leaf { key, value } => Body::Leaf {
            key: part.join(key),
            value: value.clone(),
        },
        Body::Extension { key, child } => Body::Extension {
            key: part.join(key),
            child: child.clone(),
        },
        Body::Branch { .. } => Body::Extension { key: part, child },
    };
    Ok(Some(Link::new(merged)))
}

/// What a leaf becomes when `key` changes to `value`.
fn change_leaf(
    leaf_key: Nibbles,
    leaf_value: Vec<u8>,
    key: Nibbles,
    value: Option<Vec<u8>>,
) -> Option<Link> {
    let same = leaf_key == key;
    match value {
        Some(value) if same => Some(Link::new(Body::Leaf { key, value })),
        None if same => None,
        None => Some(Link::new(Body::Leaf {
            key: leaf_key,
            value: leaf_value,
        })),
        Some(value) => {
            let shared = leaf_key.common_prefix_length(&key);
            let mut fork = Fork::new();
            fork.add(leaf_key.slice(shared..), leaf_value);
            fork.add(key.slice(shared..), value);
            Some(fork.into_link(key.slice(..shared)))
        }
    }
}

/// What an extension becomes when a key that leaves it half-way changes.
fn insert_beside_extension(
    part: Nibbles,
    child: Link,
    key: Nibbles,
    value: Option<Vec<u8>>,
) -> Link {
    let Some(value) = value else {
        return Link::new(Body::Extension { key: part, child });
    };
    let shared = part.common_prefix_length(&key);
    let mut fork = Fork::new();
    // `key` does not begin with `part`, so at least one nibble of `part` is left.
    if let Some(nibble) = part.get(shared) {
        let left = part.slice(shared + 1..);
        fork.children[usize::from(nibble)] = Some(if left.is_empty() {
            child
        } else {
            Link::new(Body::Extension { key: left, child })
        });
    }
    fork.add(key.slice(shared..), value);
    fork.into_link(key.slice(..shared))
}

/// A branch under construction.
struct Fork {
    children: Children,
    value: Option<Vec<u8>>,
}

impl Fork {
    fn new() -> Self {
        Self {
            children: Box::new(std::array::from_fn(|_| None)),
            value: None,
        }
    }

    fn add(&mut self, key: Nibbles, value: Vec<u8>) {
        match key.first() {
            Some(nibble) => {
                let leaf = Body::Leaf {
                    key: key.slice(1..),
                    value,
                };
                self.children[usize::from(nibble)] = Some(Link::new(leaf));
            }
            None => self.value = Some(value),
        }
    }

    fn into_link(self, shared: Nibbles) -> Link {
        let branch = Link::new(Body::Branch {
            children: self.children,
            value: self.value,
        });
        if shared.is_empty() {
            branch
        } else {
            Link::new(Body::Extension {
                key: shared,
                child: branch,
            })
        }
    }
}

fn with_nibble(path: &Nibbles, nibble: u8) -> Nibbles {
    let mut path = *path;
    path.push_unchecked(nibble);
    path
}
