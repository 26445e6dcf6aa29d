//! State snapshots on their way: made for others, served, fetched from others, and put in place when the node opens.

mod questions;
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quorate_chain::{Anchor, BlockStore, Genesis, StoreError};
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
/// Least time between two snapshots that others ask for.
const MADE_PAUSE: Duration = Duration::from_secs(30);
/// After upkeep has failed it rests so long, twice as long with each further time.
const FAILED_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The rest grows no longer than this.
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(60);
/// No other snapshot is made so long after a part of one was given.
const GIVEN_PAUSE: Duration = Duration::from_secs(15);
/// So long the blocks that follow a snapshot are held after a part of it was given.
const GIVEN_HOLD: Duration = Duration::from_secs(600);
/// Blocks that are always kept, whatever the configuration says.
const RETAINED_MIN: u64 = 256;

/// What was learnt about others' snapshots. Survives a reopening of the node, not the process.
#[derive(Debug, Clone, Default)]
pub struct SnapshotMemory {
    state: Arc<Mutex<Remembered>>,
    /// Held while a snapshot is made, or blocks are dropped or mended: a node that closed may still be at it.
    busy: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// A download is complete, to be installed at the next opening.
    ready: Option<Ready>,
    /// The installed snapshot did not lead to the consortium's chain: to be reverted at the next opening.
    revert: bool,
    /// Installed, and not proved right yet.
    pending: Option<Pending>,
    /// Blocks whose snapshots are not to be taken again.
    rejected: BTreeSet<B256>,
    /// Members that gave something no honest one gives.
    blamed: BTreeSet<u64>,
}

/// A complete download.
#[derive(Debug, Clone, Copy)]
struct Ready {
    /// Who gave it.
    giver: u64,
    /// Hash of its block.
    block: B256,
    /// The log index that the manifest stood for which ordering had delivered.
    index: u64,
    /// The snapshot's block is ordered no later than at this index.
    proved_by: u64,
}

/// An installed snapshot. After a crash it is not known any more who gave it, and when it must have been proved.
#[derive(Debug, Clone, Copy)]
struct Pending {
    installed: Installed,
    giver: Option<u64>,
    proved_by: Option<u64>,
}

impl SnapshotMemory {
    /// Whoever works on the stores beside the importer holds this: they are not exchanged meanwhile.
    pub fn busy(&self) -> MutexGuard<'_, ()> {
        self.busy.lock()
    }

    /// True while the stores began with a snapshot that is still to be proved.
    pub fn is_unproved(&self) -> bool {
        self.state.lock().pending.is_some()
    }

    /// Brings the stores of a closed node into order: finishes what was interrupted, exchanges them if a download is ready.
    ///
    /// # Errors
    /// If files or stores cannot be worked with.
    pub fn settle(&self, config: &NodeConfig, genesis: &Genesis) -> anyhow::Result<()> {
        let data_dir = &config.node.data_dir;
        let _done = self.busy.lock();
        let mut memory = self.state.lock();
        let known = memory.pending.take();
        fail_point!("node.snapshot.settle");
        memory.pending = match recover_install(data_dir)? {
            Recovered::Pending(installed) => Some(known.unwrap_or(Pending {
                installed,
                giver: None,
                proved_by: None,
            })),
            Recovered::Nothing | Recovered::Reverted(_) => None,
        };
        if std::mem::take(&mut memory.revert) && memory.pending.take().is_some() {
            revert_install(data_dir)?;
        }
        if let Some(ready) = memory.ready.take() {
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
                raft_index_max: ready.index.saturating_sub(1),
            };
            match install(data_dir, &complete, &stores) {
                Ok(installed) => {
                    memory.pending = Some(Pending {
                        installed,
                        giver: Some(ready.giver),
                        proved_by: Some(ready.proved_by),
                    });
                }
                // The stores are as they were: the node goes on with them, and asks others.
                Err(e) if e.blames_source() => {
                    tracing::error!(peer = ready.giver, error = %e, "the state snapshot is none");
                    memory.rejected.insert(ready.block);
                    memory.blamed.insert(ready.giver);
                }
                Err(e) => return Err(e.into()),
            }
            download.discard()?;
        }
        Ok(())
    }
}

fn passed(since: &Mutex<Option<Instant>>, pause: Duration) -> bool {
    since.lock().is_none_or(|at| at.elapsed() >= pause)
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
    /// When one was made, and when a part of one was given, last.
    made: Mutex<Option<Instant>>,
    given: Mutex<Option<Instant>>,
    /// Upkeep failed: when, and for so long it rests.
    failed: Mutex<Option<(Instant, Duration)>>,
    /// What private execution needs of the public chain.
    private: OnceLock<Box<dyn PrivateNeeds>>,
}

/// What private execution needs of the public chain.
pub trait PrivateNeeds: Send + Sync {
    /// The lowest block that it has yet to execute, with the public state before it.
    fn needed_from(&self) -> u64;

    /// True if this node is a party of something: then it must execute every block, and a snapshot that leaps over some would end its
    /// private state.
    fn needs_every_block(&self) -> bool;
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
                made: Mutex::new(None),
                given: Mutex::new(None),
                failed: Mutex::new(None),
                private: OnceLock::new(),
            }),
        })
    }

    /// Names what private execution needs. Once.
    pub fn keep_for(&self, needs: impl PrivateNeeds + 'static) {
        drop(self.shared.private.set(Box::new(needs)));
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
                let upkeep = tokio::task::spawn_blocking(move || shared.upkeep());
                // A stop does not wait for it: whatever is half made is removed at the next start.
                let Some(upkeep) = stop.run_until_cancelled(upkeep).await else {
                    return;
                };
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
        let wanted = periodic || self.demanded.load(Ordering::Acquire);
        // What somebody fetches is not taken from under them, and nobody keeps this node making new ones.
        let quiet =
            newest == 0 || (passed(&self.made, MADE_PAUSE) && passed(&self.given, GIVEN_PAUSE));
        wanted && durable > newest && quiet
    }

    /// The lowest block that a member which fetches the newest snapshot still needs, or private execution here.
    fn needed_from(&self) -> u64 {
        let fetched = match self.shelf.newest() {
            Some(newest) if !passed(&self.given, GIVEN_HOLD) => newest.height,
            _ => u64::MAX,
        };
        let private = self.private.get().map(|private| private.needed_from());
        fetched.min(private.unwrap_or(u64::MAX))
    }

    fn needs_every_block(&self) -> bool {
        let private = self.private.get();
        private.is_some_and(|private| private.needs_every_block())
    }

    /// An error ends the node.
    fn upkeep(&self) -> anyhow::Result<()> {
        let _busy = self.memory.busy.lock();
        if self.rests() {
            return Ok(());
        }
        let mut failed = false;
        if self.is_due() {
            let table = self.raft.status().table;
            match self.shelf.make(&self.ledger, table.encode().into()) {
                Ok(_) => {
                    self.demanded.store(false, Ordering::Release);
                    *self.made.lock() = Some(Instant::now());
                }
                Err(e @ SnapshotError::Contradiction { .. }) => return Err(e.into()),
                // Asked for again: whoever waits for it asks again.
                Err(e) => {
                    tracing::warn!(error = %e, "no snapshot was made");
                    failed = true;
                }
            }
        }
        if self.retain > 0 {
            let keep = self.retain.max(RETAINED_MIN);
            let below = self.ledger.head().height().saturating_sub(keep);
            let below = below.min(self.needed_from());
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
                    // It is being mended (`mend.rs`); nothing was dropped yet.
                    Err(Fatal::Store(e @ StoreError::Damaged { .. })) => {
                        tracing::warn!(error = %e, "old blocks were not dropped");
                        failed = true;
                    }
                    Err(e @ (Fatal::Store(_) | Fatal::State(_))) => {
                        return Err(anyhow!("pruning: {e}"));
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "old blocks were not dropped");
                        failed = true;
                    }
                }
            }
        }
        self.note(failed);
        Ok(())
    }

    /// True as long as nothing is to be tried again after a failure.
    fn rests(&self) -> bool {
        let failed = *self.failed.lock();
        failed.is_some_and(|(at, pause)| at.elapsed() < pause)
    }

    /// What failed is tried again, each time after twice as long.
    fn note(&self, failed: bool) {
        let mut last = self.failed.lock();
        *last = failed.then(|| {
            let pause = last.map_or(FAILED_PAUSE_MIN, |(_, pause)| pause * 2);
            (Instant::now(), pause.min(FAILED_PAUSE_MAX))
        });
    }

    /// The block at `height` is the consortium's: an installed snapshot that lies no higher is right, and the stores from
    /// before it are not needed any more.
    fn confirm(&self, height: u64) {
        let mut memory = self.memory.state.lock();
        let pending = memory.pending;
        if pending.is_none_or(|pending| pending.installed.height > height) {
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
        let mut memory = self.memory.state.lock();
        let Some(Pending {
            installed, giver, ..
        }) = memory.pending
        else {
            return false;
        };
        tracing::error!(height = installed.height, block = %installed.hash, ?giver, "the installed state snapshot is not of this chain");
        memory.rejected.insert(installed.hash);
        memory.blamed.extend(giver);
        memory.revert = true;
        true
    }

    /// True if the installed snapshot should have been proved by index `index`.
    fn is_overdue(&self, index: u64) -> bool {
        let mut memory = self.memory.state.lock();
        let Some(pending) = &mut memory.pending else {
            return false;
        };
        // After a crash: what ordering knows now is no less than what it knew then.
        let known = self.raft.status().last_index.0;
        index >= *pending.proved_by.get_or_insert(known)
    }

    /// A chunk of this snapshot, or the same bytes from another one: states differ from member to member by a few blocks, most
    /// chunks do not.
    fn chunk(
        &self,
        id: &B256,
        number: u32,
        hash: &B256,
    ) -> Result<alloy_primitives::Bytes, SnapshotError> {
        let own = self.shelf.chunk(id, number);
        if !matches!(own, Err(SnapshotError::Unknown { .. })) {
            return own;
        }
        for other in self.shelf.list() {
            let place = other.chunks.iter().position(|chunk| chunk.hash == *hash);
            if let Some(place) = place.and_then(|place| u32::try_from(place).ok()) {
                return self.shelf.chunk(&other.id(), place);
            }
        }
        own
    }

    fn describe(&self, above: u64) -> Description {
        let newest = self.shelf.newest().filter(|d| d.height > above);
        // The blocks that follow it must still be there.
        match newest.filter(|d| d.height.saturating_add(1) >= self.ledger.base()) {
            Some(description) => {
                *self.given.lock() = Some(Instant::now());
                Description::Here(description.encoded().into())
            }
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
            Question::Chunk { id, number, hash } => {
                *shared.given.lock() = Some(Instant::now());
                shared.chunk(&id, number, &hash).map(Bytes::from)
            }
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
