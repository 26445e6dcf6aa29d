//! What became of transactions that left the pool.

use std::collections::{HashMap, VecDeque};

use alloy_primitives::B256;

/// Why the pool gave a transaction up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropReason {
    /// The minter could not execute it; the text names the rule.
    NotExecutable(String),
    /// The pool was full, and it waited for a lower nonce while another transaction could be minted.
    MadeRoom,
    /// Its nonce was used by another transaction in a block.
    NonceUsed {
        /// Height of that block.
        height: u64,
    },
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotExecutable(reason) => write!(f, "cannot be executed: {reason}"),
            Self::MadeRoom => {
                write!(
                    f,
                    "the pool was full and it waited for a lower nonce; send it again later"
                )
            }
            Self::NonceUsed { height } => {
                write!(
                    f,
                    "its nonce was used by another transaction in block {height}"
                )
            }
        }
    }
}

/// How a transaction left the pool without being committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A transaction of the same sender and nonce took its place.
    Replaced {
        /// The one that replaced it.
        by: B256,
    },
    /// It waited too long.
    Expired,
    /// It was given up.
    Dropped(DropReason),
}

/// The newest fates, oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    max: usize,
    known: HashMap<B256, Fate>,
    order: VecDeque<B256>,
}

impl Fates {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    pub(crate) fn record(&mut self, hash: B256, fate: Fate) {
        if self.known.insert(hash, fate).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > self.max {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// A transaction that comes back has no fate any more.
    pub(crate) fn forget(&mut self, hash: &B256) {
        if self.known.remove(hash).is_some() {
            self.order.retain(|h| h != hash);
        }
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<&Fate> {
        self.known.get(hash)
    }
}
