//! The queue of one sender.

use std::collections::BTreeMap;

use crate::pool::PooledTransaction;

/// A sender's transactions by nonce. The first `in_flight` nonces from `next` on are in blocks that are not
/// committed yet; the run without gaps after them can be offered.
#[derive(Debug, Default)]
pub(crate) struct SenderQueue {
    /// The account's next nonce, as of the newest state that the pool has seen.
    pub(crate) next: u64,
    /// First nonce that has not been handed to the minter.
    pub(crate) offer_from: u64,
    pub(crate) by_nonce: BTreeMap<u64, PooledTransaction>,
    /// Its place in the line of senders, while it stands there.
    pub(crate) ticket: Option<i64>,
}

impl SenderQueue {
    /// Raises the account's next nonce and returns what is below it.
    pub(crate) fn advance(&mut self, next: u64) -> Vec<PooledTransaction> {
        if next <= self.next {
            return Vec::new();
        }
        self.next = next;
        self.offer_from = self.offer_from.max(next);
        let keep = self.by_nonce.split_off(&next);
        std::mem::replace(&mut self.by_nonce, keep)
            .into_values()
            .collect()
    }

    /// The transaction that the minter may have next.
    pub(crate) fn offerable(&self) -> Option<&PooledTransaction> {
        self.by_nonce.get(&self.offer_from)
    }

    /// True if this nonce was handed to the minter and is not committed yet.
    pub(crate) fn is_in_flight(&self, nonce: u64) -> bool {
        (self.next..self.offer_from).contains(&nonce)
    }

    /// True if something here waits for a lower nonce.
    pub(crate) fn has_waiting(&self) -> bool {
        let Some((first, last)) = self
            .by_nonce
            .keys()
            .next()
            .zip(self.by_nonce.keys().next_back())
        else {
            return false;
        };
        *first != self.next || last - first + 1 != self.by_nonce.len() as u64
    }

    /// First nonce without a transaction: what the sender should use next.
    pub(crate) fn first_gap(&self) -> u64 {
        let mut nonce = self.next;
        for present in self.by_nonce.range(self.next..).map(|(n, _)| *n) {
            if present != nonce {
                break;
            }
            nonce += 1;
        }
        nonce
    }

    /// How many could be minted now, without gaps.
    pub(crate) fn ready(&self) -> usize {
        usize::try_from(self.first_gap() - self.next).unwrap_or(usize::MAX)
    }
}
