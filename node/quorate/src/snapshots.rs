//! State snapshots on their way: made for others, served, fetched from others, and put in place when the node opens.

mod questions;
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_chain::{Anchor, BlockStore, Genesis};
use quorate_engine::snapshots::{
    Download, Expectation, FreshStores, InstallError, Installed, Recovered, SnapshotError,
    SnapshotShelf, confirm_install, install, recover_install, revert_install,
};
use quorate_engine::{Fatal, Ledger};
use quorate_kv::{Kv, SledConfig, SledKv};
use quorate_p2p::NetworkHandle;
use quorate_state::ExportedState;
use raft_adapter::RaftHandle;
use tokio_util::sync::CancellationToken;

use self::questions::{Description, Question};
use crate::config::NodeConfig;
use crate::exit::Exit;
use crate::network::PeerBlocks;
use crate::stores::genesis_block;
use crate::tasks::Tasks;

pub use self::source::SnapshotSource;

/// Pause between two looks at whether a snapshot is due or old blocks may go.
const PACE: Duration = Duration::from_secs(1);
/// Blocks that are always kept, whatever the configuration says.
const RETAINED_MIN: u64 = 256;

/// What was learnt about others' snapshots. Survives a reopening of the node, not the process.
#[derive(Debug, Clone, Default)]
pub struct SnapshotMemory(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// A download is complete, to be installed at the next opening. The log index that the manifest stood for which
    /// ordering had delivered.
    ready: Option<u64>,
    /// The installed snapshot did not lead to the consortium's chain: to be reverted at the next opening.
    revert: bool,
    /// Installed, and not proved right yet.
    pending: Option<Installed>,
    /// Snapshots that are not to be taken again.
    rejected: BTreeSet<B256>,
    /// Members that gave something no honest one gives.
    blamed: BTreeSet<u64>,
}

impl SnapshotMemory {
    /// Brings the stores of a closed node into order: finishes what was interrupted, exchanges them if a download is ready.
    ///
    /// # Errors
    /// If files or stores cannot be worked with.
    pub fn settle(&self, config: &NodeConfig, genesis: &Genesis) -> anyhow::Result<()> {
        let data_dir = &config.node.data_dir;
        let mut memory = self.0.lock();
        memory.pending = match recover_install(data_dir)? {
            Recovered::Pending(installed) => Some(installed),
            Recovered::Nothing | Recovered::Reverted(_) => None,
        };
        if std::mem::take(&mut memory.revert) && memory.pending.take().is_some() {
            revert_install(data_dir)?;
        }
        if let Some(index) = memory.ready.take() {
            let expected = Expectation {
                chain_id: genesis.spec().chain_id(),
                genesis_hash: genesis_block(genesis).hash(),
                highest: u64::MAX,
            };
            let download = Download::resume(data_dir, &expected)?;
            let mut download = download.context("the snapshot that was fetched is gone")?;
            let complete = download.finish()?;
            let stores = SledStores {
                config,
                genesis,
                // Whatever the snapshot claims: ordering begins with that manifest again, which is how the snapshot is proved.
                raft_index_max: index.saturating_sub(1),
            };
            memory.pending = Some(install(data_dir, &complete, &stores)?);
            download.discard()?;
        }
        Ok(())
    }
}

/// Makes the stores that a snapshot is installed into.
struct SledStores<'a> {
    config: &'a NodeConfig,
    genesis: &'a Genesis,
    raft_index_max: u64,
}

impl SledStores<'_> {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Kv>, InstallError> {
        let settings = SledConfig {
            cache_capacity_bytes: self.config.state.cache_bytes,
            ..SledConfig::default()
        };
        let opened = SledKv::open(dir, &settings).map_err(|e| InstallError::Open {
            folder: dir.display().to_string(),
            reason: e.to_string(),
        })?;
        Ok(Arc::new(opened))
    }
}

impl FreshStores for SledStores<'_> {
    fn restore_state(
        &self,
        dir: &Path,
        chunks: &mut dyn Iterator<Item = Result<Vec<u8>, String>>,
        exported: &ExportedState,
        genesis_hash: B256,
    ) -> Result<(), InstallError> {
        Ok(quorate_state::restore(
            self.open(dir)?,
            chunks,
            exported,
            genesis_hash,
        )?)
    }

    fn begin_blocks(
        &self,
        blocks: &Path,
        index: &Path,
        mut anchor: Anchor,
    ) -> Result<(), InstallError> {
        anchor.block.raft_index = anchor.block.raft_index.min(self.raft_index_max);
        let index = self.open(index)?;
        drop(BlockStore::open_from_anchor(
            blocks,
            index,
            genesis_block(self.genesis),
            anchor,
        )?);
        Ok(())
    }
}

/// The snapshots of one running node.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    distance: u64,
    every: u64,
    retain: u64,
    shelf: SnapshotShelf,
    ledger: Ledger,
    raft: RaftHandle,
    network: NetworkHandle,
    memory: SnapshotMemory,
    /// Somebody needs a newer snapshot.
    demanded: AtomicBool,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots")
            .field("shelf", &self.shared.shelf)
            .finish_non_exhaustive()
    }
}

/// Answers members that fetch a snapshot. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SnapshotServer(Snapshots);

impl Snapshots {
    /// Opens what was made earlier.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn new(
        config: &NodeConfig,
        ledger: &Ledger,
        raft: &RaftHandle,
        network: &NetworkHandle,
        memory: &SnapshotMemory,
    ) -> anyhow::Result<Self> {
        let data_dir = &config.node.data_dir;
        Ok(Self {
            shared: Arc::new(Shared {
                data_dir: data_dir.clone(),
                distance: config.sync.snapshot_distance,
                every: config.sync.snapshot_every,
                retain: config.sync.retain_blocks,
                shelf: SnapshotShelf::open(data_dir)?,
                ledger: ledger.clone(),
                raft: raft.clone(),
                network: network.clone(),
                memory: memory.clone(),
                demanded: AtomicBool::new(false),
            }),
        })
    }

    /// The answering side.
    pub fn server(&self) -> SnapshotServer {
        SnapshotServer(self.clone())
    }

    /// The asking side, for the importer. To be called inside the runtime.
    pub fn source(&self, stop: &CancellationToken) -> SnapshotSource {
        let runtime = tokio::runtime::Handle::current();
        SnapshotSource::new(
            Arc::clone(&self.shared),
            PeerBlocks {
                network: self.shared.network.clone(),
                runtime,
            },
            stop.clone(),
        )
    }

    /// Starts the task that makes snapshots when they are due and drops what is too old.
    pub fn start(&self, tasks: &Tasks, stop: &CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let (tasks_too, stop) = (tasks.clone(), stop.clone());
        tasks.worker("snapshots", async move {
            while stop
                .run_until_cancelled(tokio::time::sleep(PACE))
                .await
                .is_some()
            {
                let shared = Arc::clone(&shared);
                let upkeep = tokio::task::spawn_blocking(move || shared.upkeep()).await;
                if let Ok(Err(reason)) = upkeep {
                    tasks_too.fail("snapshots", Exit::Storage, reason.to_string());
                    return;
                }
            }
        });
    }
}

impl Shared {
    fn is_due(&self) -> bool {
        let newest = self.shelf.newest().map_or(0, |d| d.height);
        let durable = self.ledger.state_durable_height();
        let periodic = self.every > 0 && durable.saturating_sub(newest) >= self.every;
        (periodic || self.demanded.load(Ordering::Acquire)) && durable > newest
    }

    /// An error ends the node.
    fn upkeep(&self) -> anyhow::Result<()> {
        if self.is_due() {
            let table = self.raft.status().table;
            match self.shelf.make(&self.ledger, table.encode().into()) {
                Ok(_) => self.demanded.store(false, Ordering::Release),
                Err(e @ SnapshotError::Contradiction { .. }) => return Err(e.into()),
                // Asked for again: whoever waits for it asks again.
                Err(e) => tracing::warn!(error = %e, "no snapshot was made"),
            }
        }
        if self.retain > 0 {
            let keep = self.retain.max(RETAINED_MIN);
            let below = self.ledger.head().height().saturating_sub(keep);
            // In portions: each one drops whole files.
            if below
                >= self
                    .ledger
                    .base()
                    .saturating_add(keep / 8)
                    .saturating_add(1)
            {
                match self.ledger.prune(below) {
                    Ok(report) => tracing::info!(?report, "old blocks dropped"),
                    Err(e @ (Fatal::Store(_) | Fatal::State(_))) => {
                        return Err(anyhow!("pruning: {e}"));
                    }
                    Err(e) => tracing::warn!(error = %e, "old blocks were not dropped"),
                }
            }
        }
        Ok(())
    }

    /// The block at `height` is the consortium's: an installed snapshot that lies no higher is right, and the stores from
    /// before it are not needed any more.
    fn confirm(&self, height: u64) {
        let mut memory = self.memory.0.lock();
        if memory
            .pending
            .is_none_or(|installed| installed.height > height)
        {
            return;
        }
        memory.pending = None;
        drop(memory);
        match confirm_install(&self.data_dir) {
            Ok(()) => tracing::info!("the installed state snapshot has proved right"),
            // They are removed at the next start.
            Err(e) => {
                tracing::warn!(error = %e, "the stores from before the snapshot could not be removed")
            }
        }
    }

    /// True if the stores from before the installed snapshot come back when the node opens again.
    fn reject(&self) -> bool {
        let mut memory = self.memory.0.lock();
        let Some(installed) = memory.pending else {
            return false;
        };
        tracing::error!(height = installed.height, id = %installed.snapshot, "the installed state snapshot is not of this chain");
        memory.rejected.insert(installed.snapshot);
        memory.revert = true;
        true
    }

    fn describe(&self, above: u64) -> Description {
        let newest = self.shelf.newest().filter(|d| d.height > above);
        // The blocks that follow it must still be there.
        match newest.filter(|d| d.height.saturating_add(1) >= self.ledger.base()) {
            Some(description) => Description::Here(description.encoded().into()),
            None if self.ledger.state_durable_height() > above => {
                self.demanded.store(true, Ordering::Release);
                Description::Coming
            }
            None => Description::None,
        }
    }
}

impl SnapshotServer {
    /// The answer to a member's question. `None`: there is none.
    pub fn answer(&self, body: &[u8]) -> Option<Bytes> {
        let shared = &self.0.shared;
        let answer = match Question::decode(body)? {
            Question::Describe { above } => Ok(shared.describe(above).encode()),
            Question::Chunk { id, number } => shared.shelf.chunk(&id, number).map(Bytes::from),
            Question::Anchor { id, offset } => shared
                .shelf
                .anchor(&id)
                .map(|anchor| questions::part_of(&anchor, offset)),
        };
        answer
            .inspect_err(|e| tracing::debug!(error = %e, "a snapshot question has no answer"))
            .ok()
    }
}
