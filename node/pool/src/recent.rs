//! Who signed the transactions of the last blocks. Gossip is often behind the blocks: what comes after its block need not have its
//! signature checked again to be refused for its nonce.

use std::collections::{HashMap, VecDeque};

use alloy_primitives::{Address, B256};

/// Transactions that are remembered: gossip that is further behind is rare.
const REMEMBERED: usize = 16_384;

/// Senders by hash of their transactions, oldest forgotten first.
#[derive(Debug, Default)]
pub(crate) struct RecentSenders {
    known: HashMap<B256, Address>,
    order: VecDeque<B256>,
}

impl RecentSenders {
    pub(crate) fn record(&mut self, transactions: impl Iterator<Item = (B256, Address)>) {
        for (hash, sender) in transactions {
            if self.known.insert(hash, sender).is_none() {
                self.order.push_back(hash);
            }
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    pub(crate) fn of(&self, hash: &B256) -> Option<Address> {
        self.known.get(hash).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> B256 {
        B256::left_padding_from(&n.to_be_bytes())
    }

    #[test]
    fn the_newest_are_remembered() {
        let mut recent = RecentSenders::default();
        let sender = Address::repeat_byte(1);
        recent.record((0..REMEMBERED).map(|n| (hash(n), sender)));
        // Seen before: it takes no place of another.
        recent.record([(hash(1), sender)].into_iter());
        assert_eq!(recent.of(&hash(0)), Some(sender));
        recent.record([(hash(REMEMBERED), Address::ZERO)].into_iter());
        assert_eq!(recent.of(&hash(0)), None);
        assert_eq!(recent.of(&hash(1)), Some(sender));
        assert_eq!(recent.of(&hash(REMEMBERED)), Some(Address::ZERO));
        assert_eq!(recent.known.len(), REMEMBERED);
    }
}
