//! Makes the state durable behind the head, and lets ordering forget what no longer matters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use quorate_state::{FlushJob, StateStore};
use raft_adapter::{LogIndex, RaftHandle};

use crate::{Fatal, Ledger, SnapshotManifest};

/// Pause between looks at a flush that the importer has to wait for.
const OVERDUE_PAUSE: Duration = Duration::from_millis(2);

/// How long a demanded manifest may wait for its turn.
const DEMAND_PAUSE: Duration = Duration::from_millis(50);

/// The thread that waits for the disk. One job is under way, one may wait.
#[derive(Debug)]
pub struct Flusher {
    jobs: Receiver<Flush>,
    ledger: Ledger,
    raft: RaftHandle,
    alive: Arc<AtomicBool>,
    /// A manifest of this log index or a later one is wanted.
    demand: Arc<AtomicU64>,
    /// The log index of the last one.
    made: u64,
}

/// The state as of a log index, to be made durable.
#[derive(Debug)]
struct Flush {
    job: FlushJob,
    /// Everything up to this index is part of the job's state.
    up_to: LogIndex,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
    }
}

/// The importer's end.
#[derive(Debug, Clone)]
pub struct FlusherHandle {
    jobs: SyncSender<Flush>,
    alive: Arc<AtomicBool>,
    demand: Arc<AtomicU64>,
}

impl Flusher {
    /// A flusher and the handle that gives it work.
    pub fn new(ledger: Ledger, raft: RaftHandle) -> (FlusherHandle, Self) {
        let (sender, receiver) = sync_channel(1);
        let alive = Arc::new(AtomicBool::new(true));
        let demand = Arc::new(AtomicU64::new(0));
        let handle = FlusherHandle {
            jobs: sender,
            alive: Arc::clone(&alive),
            demand: Arc::clone(&demand),
        };
        (
            handle,
            Self {
                jobs: receiver,
                ledger,
                raft,
                alive,
                demand,
                made: 0,
            },
        )
    }

    /// Flushes until the importer has ended, then once more, so that a clean stop leaves nothing to re-execute.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end.
    pub fn run(mut self) -> Result<(), Fatal> {
        loop {
            match self.jobs.recv_timeout(DEMAND_PAUSE) {
                Ok(Flush { job, up_to }) => self.flush(job, up_to)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.satisfy_demand()?;
        }
        if let Some(job) = self.ledger.state().flush_job() {
            fail_point!("engine.flush.last");
            let up_to = self.applied();
            self.flush(job, up_to)?;
        }
        self.ledger.blocks().barrier()?;
        Ok(())
    }

    fn applied(&self) -> LogIndex {
        LogIndex(self.ledger.applied())
    }

    /// Makes a manifest as of now, also when there is nothing to write: a member that was just added needs one that knows it.
    fn satisfy_demand(&mut self) -> Result<(), Fatal> {
        let wanted = self.demand.load(Ordering::Acquire);
        // Before the state is looked at: whatever is applied up to here is in it.
        let up_to = self.applied();
        if wanted <= self.made || up_to.0 < wanted {
            return Ok(());
        }
        let state = self.ledger.state();
        match state.flush_job() {
            Some(job) => self.flush(job, up_to)?,
            None if state.durable_height() == state.latest().height() => {
                self.compact(state.durable_height(), up_to)?;
            }
            None => {}
        }
        Ok(())
    }

    fn flush(&mut self, job: FlushJob, up_to: LogIndex) -> Result<(), Fatal> {
        // Blocks first: the state must never be ahead of the blocks that explain it.
        fail_point!("engine.flush.begin");
        self.ledger.blocks().barrier()?;
        fail_point!("engine.flush.blocks");
        let flushed = job.run().map_err(|e| Fatal::StateWrite {
            reason: e.to_string(),
        })?;
        fail_point!("engine.flush.state");
        self.ledger.set_state_durable(flushed.height);
        self.compact(flushed.height, up_to)
    }

    /// Everything up to `up_to` is durable, and led to the block at `height`: ordering may forget it.
    fn compact(&mut self, height: u64, up_to: LogIndex) -> Result<(), Fatal> {
        let Some(block) = self.ledger.blocks().block(height)? else {
            return Err(Fatal::Impossible(format!(
                "block {height}, whose state is durable, is not in the store"
            )));
        };
        let manifest = SnapshotManifest {
            height,
            hash: block.hash(),
            state_root: block.block.header().state_root,
        };
        if up_to.0 > 0 {
            fail_point!("engine.flush.compact");
            self.raft.compact(up_to, manifest.encoded().0);
            self.made = self.made.max(up_to.0);
        }
        Ok(())
    }
}

impl FlusherHandle {
    /// Asks for a manifest of log index `index` or a later one, soon, however little there is to write.
    pub fn demand(&self, index: LogIndex) {
        self.demand.fetch_max(index.0, Ordering::AcqRel);
    }

    /// Hands the flusher a job if one is due; holds the importer back while the disk is far behind. `applied` is the
    /// last index that the state contains.
    ///
    /// # Errors
    /// [`Fatal::Impossible`] if the flusher is gone, which it is only after a failure of its own.
    pub fn offer(&self, state: &Arc<StateStore>, applied: LogIndex) -> Result<(), Fatal> {
        loop {
            if state.needs_flush()
                && let Some(job) = state.flush_job()
            {
                let flush = Flush {
                    job,
                    up_to: applied,
                };
                match self.jobs.try_send(flush) {
                    Ok(()) | Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return Err(ended()),
                }
            }
            // Beyond this memory would grow without bound: wait for the disk.
            if !state.flush_overdue() {
                return Ok(());
            }
            if !self.alive.load(Ordering::Acquire) {
                return Err(ended());
            }
            std::thread::sleep(OVERDUE_PAUSE);
        }
    }
}

fn ended() -> Fatal {
    Fatal::Impossible("the flusher has ended".into())
}
