//! Opening, and what a crash left behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use alloy_primitives::B256;
use parking_lot::{Mutex, RwLock};
use quorate_kv::{Kv, SledConfig, SledKv};
use quorate_state::{StateConfig, StateStore};
use tokio::sync::{Notify, watch};

use super::{PrivateLedger, Shared};
use crate::index::{Chain, Found, Index, Position};
use crate::{LedgerConfig, LedgerOpenError, PrivateStatus};

/// Folder of private state.
pub(super) const STATE_DIR: &str = "state";
/// Folder of the index.
pub(super) const INDEX_DIR: &str = "index";

impl PrivateLedger {
    /// Opens the ledger in `dir`; an empty folder gets an empty one. Execution goes on where what is on disk ends.
    ///
    /// # Errors
    /// [`LedgerOpenError`]. After one that says that something is damaged or torn, [`reset`](Self::reset) and open again.
    pub fn open(
        dir: &Path,
        chain_id: u64,
        genesis_hash: B256,
        config: &LedgerConfig,
    ) -> Result<Self, LedgerOpenError> {
        let kv = |part: &'static str, config: &SledConfig| {
            let opened = SledKv::open(&dir.join(part), config);
            opened.map_err(|source| LedgerOpenError::Storage { part, source })
        };
        let state = Arc::new(kv(STATE_DIR, &config.state_kv)?);
        let index = Arc::new(kv(INDEX_DIR, &config.index_kv)?);
        Self::open_on(state, index, chain_id, genesis_hash, config.state)
    }

    /// Opens the ledger on two storages, of private state and of the index.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        state: Arc<dyn Kv>,
        index: Arc<dyn Kv>,
        chain_id: u64,
        genesis_hash: B256,
        config: StateConfig,
    ) -> Result<Self, LedgerOpenError> {
        let chain = Chain {
            chain_id,
            genesis_hash,
        };
        let index = Index::new(index);
        let found = index.find(&chain)?;
        match found {
            Found::Empty | Found::Ours | Found::Earlier => {}
            Found::Other(found) => {
                return Err(LedgerOpenError::OtherChain {
                    expected: genesis_hash,
                    found,
                });
            }
            Found::Format(found) => {
                return Err(LedgerOpenError::Format {
                    found,
                    supported: crate::index::FORMAT,
                });
            }
        }
        let state = StateStore::open_with(config, state, &[], genesis_hash)?;
        let private_height = state.durable_height();
        let torn = LedgerOpenError::Torn {
            state: private_height,
        };
        if found == Found::Empty {
            // Only an index that was lost is empty beside a state that is not.
            if private_height > 0 {
                return Err(torn);
            }
            let position = Position {
                cursor: 0,
                starts_at: 1,
                records: 0,
                erased: 0,
            };
            index.begin(&chain, position)?;
        }
        let last_change = match private_height {
            0 => (0, 0),
            _ => (index.block_of(private_height)?.ok_or(torn)?, private_height),
        };
        let mut position = index.position()?;
        // The first block whose change is not in the durable state, and so everything from it on, is executed again.
        if let Some(lost) = index.block_of(private_height.saturating_add(1))? {
            let cursor = lost.saturating_sub(1).min(position.cursor);
            tracing::info!(
                from = position.cursor,
                to = cursor,
                "private execution resumes"
            );
            position = index.rewind(cursor, private_height)?;
        }
        if found == Found::Earlier {
            index.upgrade(&chain, position.cursor)?;
        }
        index.load()?;
        let status = PrivateStatus {
            cursor: position.cursor,
            state_root: state.durable_root(),
            private_height,
            starts_at: position.starts_at,
            waiting: None,
            halted: None,
            records: position.records,
            erased: position.erased,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                state,
                index,
                chain_id,
                durable: AtomicU64::new(status.cursor),
                status: watch::Sender::new(status),
                last_change: RwLock::new(last_change),
                writing: Mutex::new(()),
                flushing: Mutex::new(()),
                retry: Notify::new(),
                let_go: Mutex::default(),
                given_up: Mutex::new(None),
            }),
        })
    }
}
