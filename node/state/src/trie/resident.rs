//! Which nodes stay in memory.
//!
//! After a version went to disk, its nodes can be forgotten and fetched again. The upper levels are worth keeping: every
//! update passes them. Below, what the last writes touched is worth more than what they did not.

use std::sync::Arc;

use alloy_trie::Nibbles;

use super::Trie;
use super::node::{Body, Link, Node};

/// What may be forgotten below the levels that are always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pruning {
    /// What did not change since the previous version on disk.
    Untouched,
    /// Everything.
    All,
}

/// Number of levels, counted from the root, whose full sixteen-way tree takes at most half of a node budget.
pub(crate) fn keep_levels(nodes_max: usize) -> usize {
    let (mut levels, mut level_size, mut total) = (0, 1usize, 0usize);
    while total + level_size <= nodes_max / 2 && levels < 64 {
        total += level_size;
        level_size = level_size.saturating_mul(16);
        levels += 1;
    }
    levels
}

impl Trie {
    /// Number of nodes in memory.
    pub(crate) fn resident_nodes(&self) -> usize {
        self.root.as_ref().map_or(0, count)
    }

    /// This version, which is on disk as a whole, with nodes at `levels` and below forgotten.
    pub(crate) fn pruned(&self, previous: &Trie, levels: usize, what: Pruning) -> Self {
        let root = self.root.as_ref().map(|link| {
            prune(link, previous.root.as_ref(), 0, levels, what).unwrap_or_else(|| link.clone())
        });
        Self { root }
    }

    /// This version with every part that equals `clean` replaced by it, so that what `clean` forgot is forgotten here too.
    pub(crate) fn grafted(&self, clean: &Trie) -> Self {
        match (&self.root, &clean.root) {
            (Some(own), Some(clean)) => Self {
                root: Some(graft(own, clean).unwrap_or_else(|| own.clone())),
            },
            _ => self.clone(),
        }
    }
}

fn count(link: &Link) -> usize {
    let Some(node) = link.resident() else {
        return 0;
    };
    1 + match &node.body {
        Body::Leaf { .. } => 0,
        Body::Extension { child, .. } => count(child),
        Body::Branch { children, .. } => children.iter().flatten().map(count).sum(),
    }
}

/// `None` if nothing changes.
fn prune(
    link: &Link,
    previous: Option<&Link>,
    depth: usize,
    levels: usize,
    what: Pruning,
) -> Option<Link> {
    let node = link.resident()?;
    let reference = link.reference();
    if depth >= levels
        && let Some(hash) = reference.as_hash()
    {
        let untouched = previous.is_some_and(|previous| previous.reference() == reference);
        if untouched || what == Pruning::All {
            return Some(Link::stored(hash));
        }
    }
    let previous = previous.and_then(Link::resident).map(|node| &node.body);
    let body = map_children(&node.body, |step, child| {
        prune(
            child,
            same_step(previous, step),
            depth + step.len(),
            levels,
            what,
        )
    })?;
    Some(Link::Node(Arc::new(Node::with_reference(body, reference))))
}

/// `None` if nothing changes.
fn graft(own: &Link, clean: &Link) -> Option<Link> {
    let reference = own.reference();
    if reference == clean.reference() {
        return Some(clean.clone());
    }
    let (node, clean) = (own.resident()?, clean.resident()?);
    let body = map_children(&node.body, |step, child| {
        graft(child, same_step(Some(&clean.body), step)?)
    })?;
    Some(Link::Node(Arc::new(Node::with_reference(body, reference))))
}

/// How a parent reaches a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nibble(usize),
    Key(Nibbles),
}

impl Step {
    fn len(self) -> usize {
        match self {
            Self::Nibble(_) => 1,
            Self::Key(key) => key.len(),
        }
    }
}

/// The child that another node has at the same step, if it has the same shape.
fn same_step(body: Option<&Body>, step: Step) -> Option<&Link> {
    match (body?, step) {
        (Body::Branch { children, .. }, Step::Nibble(nibble)) => children.get(nibble)?.as_ref(),
        (Body::Extension { key, child }, Step::Key(other)) => (*key == other).then_some(child),
        _ => None,
    }
}

/// The body with some children replaced; `None` if `replace` replaced none.
fn map_children(body: &Body, replace: impl Fn(Step, &Link) -> Option<Link>) -> Option<Body> {
    match body {
        Body::Leaf { .. } => None,
        Body::Extension { key, child } => {
            let child = replace(Step::Key(*key), child)?;
            Some(Body::Extension { key: *key, child })
        }
        Body::Branch { children, value } => {
            let replaced: [Option<Link>; 16] = std::array::from_fn(|nibble| {
                replace(Step::Nibble(nibble), children[nibble].as_ref()?)
            });
            if replaced.iter().all(Option::is_none) {
                return None;
            }
            let mut children = children.clone();
            for (child, replaced) in children.iter_mut().zip(replaced) {
                if replaced.is_some() {
                    *child = replaced;
                }
            }
            Some(Body::Branch {
                children,
                value: value.clone(),
            })
        }
    }
}
