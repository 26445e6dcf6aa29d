//! Messages under way, and who hears whom.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::random::Random;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Of the sender's log; a connection is refused if it is not the one that is known.
    pub(crate) identity: u64,
    /// Connections made before this were closed.
    pub(crate) connection: u64,
    pub(crate) message: Bytes,
}

/// Messages under way at most. As with a real transport, what is too much is dropped.
const UNDER_WAY_MAX: u64 = 600;

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) random: Random,
    cuts: BTreeSet<(u64, u64)>,
    pub(crate) under_way: u64,
    /// Per thousand messages.
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) reordering: u64,
    /// Longest usual delay.
    pub(crate) delay: u64,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 2);
        Self {
            loss: random.between(1, 60),
            duplication: random.between(1, 60),
            reordering: random.between(1, 100),
            delay: random.between(1, 12),
            cuts: BTreeSet::new(),
            under_way: 0,
            random,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.under_way >= UNDER_WAY_MAX
    }

    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Someone cannot hear `id`.
    pub(crate) fn has_cuts_from(&self, id: u64) -> bool {
        self.cuts.iter().any(|(from, _)| *from == id)
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Closes one gap.
    pub(crate) fn heal_one(&mut self) {
        let at = self.random.below(self.cuts.len() as u64) as usize;
        if let Some(cut) = self.cuts.iter().nth(at).copied() {
            self.cuts.remove(&cut);
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// From here on messages arrive, in order and in time.
    pub(crate) fn calm(&mut self) {
        self.loss = 0;
        self.duplication = 0;
        self.reordering = 0;
    }
}
