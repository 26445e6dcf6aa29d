//! The public chain, as private execution reads it.

use std::sync::Arc;

use quorate_chain::{ChainSpec, SharedBlock, StoreError};
use quorate_engine::Ledger;
use quorate_evm::BlockHashes;
use quorate_privacy::PublicChain;
use quorate_state::{HistoryError, Snapshot};
use tokio::sync::watch;

/// The ledger of this node.
#[derive(Debug)]
pub struct PublicView(pub Ledger);

impl PublicChain for PublicView {
    fn spec(&self) -> &ChainSpec {
        self.0.spec()
    }

    fn head(&self) -> u64 {
        *self.0.watch_head().borrow()
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        self.0.watch_head()
    }

    fn block(&self, height: u64) -> Result<Option<SharedBlock>, StoreError> {
        self.0.block(height)
    }

    fn state_at(&self, height: u64) -> Result<Snapshot, HistoryError> {
        self.0.state_at(height)
    }

    fn hashes(&self) -> Arc<dyn BlockHashes> {
        Arc::new(self.0.hashes())
    }

    fn base(&self) -> u64 {
        self.0.base()
    }
}
