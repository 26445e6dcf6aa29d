//! Clients that wait for a transaction to be in a block.

use std::collections::HashMap;
use std::sync::Arc;

use alloy_primitives::B256;
use parking_lot::Mutex;
use quorate_chain::SharedBlock;
use tokio::sync::oneshot;

use crate::RpcError;
use crate::feed::{BlockFeed, FeedError};

/// Where a transaction was found.
#[derive(Debug, Clone)]
pub(crate) struct Included {
    pub(crate) block: SharedBlock,
    pub(crate) position: usize,
}

/// Who waits for which transaction. One task tells all of them, so that a block costs one walk over its transactions
/// however many clients wait.
#[derive(Debug, Clone)]
pub(crate) struct Waiters {
    shared: Arc<Mutex<Shared>>,
    max: usize,
}

#[derive(Debug, Default)]
struct Shared {
    by_hash: HashMap<B256, Vec<Entry>>,
    count: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    sender: oneshot::Sender<Included>,
}

/// A place in the queue. Dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Waiter {
    shared: Arc<Mutex<Shared>>,
    hash: B256,
    id: u64,
    receiver: oneshot::Receiver<Included>,
}

impl Waiters {
    /// For at most `max` clients; more are refused.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            shared: Arc::default(),
            max,
        }
    }

    /// Begins to wait. Call this before the transaction is submitted: its block may come at once.
    ///
    /// # Errors
    /// [`RpcError::Busy`] if too many wait.
    pub(crate) fn register(&self, hash: B256) -> Result<Waiter, RpcError> {
        let mut shared = self.shared.lock();
        if shared.count >= self.max {
            metrics::counter!("quorate_rpc_refused_total", "limit" => "waiters_max").increment(1);
            return Err(RpcError::Busy {
                what: "too many clients wait for transactions",
            });
        }
        let (sender, receiver) = oneshot::channel();
        let id = shared.next_id;
        shared.next_id = id.wrapping_add(1);
        shared.count += 1;
        shared
            .by_hash
            .entry(hash)
            .or_default()
            .push(Entry { id, sender });
        Ok(Waiter {
            shared: Arc::clone(&self.shared),
            hash,
            id,
            receiver,
        })
    }

    /// Tells whoever waits for a transaction of this block.
    pub(crate) fn announce(&self, block: &SharedBlock) {
        let mut shared = self.shared.lock();
        if shared.by_hash.is_empty() {
            return;
        }
        for (position, transaction) in block.block.transactions().iter().enumerate() {
            let Some(entries) = shared.by_hash.remove(transaction.hash()) else {
                continue;
            };
            shared.count -= entries.len();
            for entry in entries {
                // A client that has given up is a normal state.
                drop(entry.sender.send(Included {
                    block: Arc::clone(block),
                    position,
                }));
            }
        }
    }

    /// Follows the chain until it ends.
    ///
    /// # Errors
    /// [`FeedError`] if the chain cannot be read any more.
    pub(crate) async fn run(&self, mut feed: BlockFeed) -> Result<(), FeedError> {
        loop {
            match feed.next().await {
                Ok(block) => self.announce(&block),
                Err(FeedError::Ended) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.shared.lock().count
    }
}

impl Waiter {
    /// The block, as soon as it is imported; `None` if nobody follows the chain any more. May be called again after it was
    /// dropped while waiting.
    pub(crate) async fn included(&mut self) -> Option<Included> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        let Some(entries) = shared.by_hash.get_mut(&self.hash) else {
            return;
        };
        let before = entries.len();
        entries.retain(|entry| entry.id != self.id);
        let gone = before - entries.len();
        if entries.is_empty() {
            shared.by_hash.remove(&self.hash);
        }
        shared.count -= gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_that_gives_up_frees_its_place() {
        let waiters = Waiters::new(2);
        let hash = B256::repeat_byte(1);
        let first = waiters.register(hash).unwrap();
        let second = waiters.register(hash).unwrap();
        assert!(matches!(
            waiters.register(B256::ZERO),
            Err(RpcError::Busy { .. })
        ));
        drop(first);
        assert_eq!(waiters.count(), 1);
        drop(second);
        assert_eq!(waiters.count(), 0);
        assert!(waiters.shared.lock().by_hash.is_empty());
    }
}
