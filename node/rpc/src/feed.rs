//! The chain as a stream: every block from a height on, in order, without gaps.

use quorate_chain::{SharedBlock, StoreError};
use quorate_engine::Ledger;
use tokio::sync::watch;

/// So many of the newest blocks are in the store's memory; older ones mean a look at the disk. Below what the store keeps,
/// so that the chain may move on between this question and the read.
const RECENT_BLOCKS: u64 = 200;

/// Why there will be no next block.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The chain has ended: the node is stopping.
    #[error("the chain has ended")]
    Ended,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store lacks a block below its head.
    #[error("block {height} is missing in the block store")]
    Missing {
        /// Its height.
        height: u64,
    },
}

/// Reads by height, woken by the head: a slow reader lags, but misses nothing and holds nothing in memory.
#[derive(Debug)]
pub(crate) struct BlockFeed {
    ledger: Ledger,
    head: watch::Receiver<u64>,
    next: u64,
}

impl BlockFeed {
    /// A feed whose first block is the one at `from`.
    pub(crate) fn from(ledger: &Ledger, from: u64) -> Self {
        Self {
            ledger: ledger.clone(),
            head: ledger.watch_head(),
            next: from,
        }
    }

    /// A feed of the blocks that are still to come.
    pub(crate) fn from_now(ledger: &Ledger) -> Self {
        let head = ledger.watch_head();
        let next = *head.borrow() + 1;
        Self {
            ledger: ledger.clone(),
            head,
            next,
        }
    }

    /// Height of the next block.
    pub(crate) fn next_height(&self) -> u64 {
        self.next
    }

    /// The next block, as soon as there is one. May be dropped while it waits without losing a block.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(crate) async fn next(&mut self) -> Result<SharedBlock, FeedError> {
        let head = loop {
            let head = *self.head.borrow_and_update();
            if head >= self.next {
                break head;
            }
            if self.head.changed().await.is_err() {
                return Err(FeedError::Ended);
            }
        };
        let height = self.next;
        let block = if is_recent(height, head) {
            self.ledger.block(height)?
        } else {
            let ledger = self.ledger.clone();
            match tokio::task::spawn_blocking(move || ledger.block(height)).await {
                Ok(block) => block?,
                // The runtime is going down.
                Err(_) => return Err(FeedError::Ended),
            }
        };
        let block = block.ok_or(FeedError::Missing { height })?;
        self.next += 1;
        Ok(block)
    }
}

/// True if the block at `height` can be read without the disk.
pub(crate) fn is_recent(height: u64, head: u64) -> bool {
    head.saturating_sub(height) < RECENT_BLOCKS
}
