//! Makes the state durable behind the head, and lets ordering forget what no longer matters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use quorate_state::{FlushJob, StateStore};
use raft_adapter::{LogIndex, RaftHandle};

use crate::{Fatal, Ledger, SnapshotManifest};

/// Pause between looks at a flush that the importer has to wait for.
const OVERDUE_PAUSE: Duration = Duration::from_millis(2);

/// The thread that waits for the disk. One job is under way, one may wait.
#[derive(Debug)]
pub struct Flusher {
    jobs: Receiver<FlushJob>,
    ledger: Ledger,
    raft: RaftHandle,
    alive: Arc<AtomicBool>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
    }
}

/// The importer's end.
#[derive(Debug, Clone)]
pub struct FlusherHandle {
    jobs: SyncSender<FlushJob>,
    alive: Arc<AtomicBool>,
}

impl Flusher {
    /// A flusher and the handle that gives it work.
    pub fn new(ledger: Ledger, raft: RaftHandle) -> (FlusherHandle, Self) {
        let (sender, receiver) = sync_channel(1);
        let alive = Arc::new(AtomicBool::new(true));
        let handle = FlusherHandle {
            jobs: sender,
            alive: Arc::clone(&alive),
        };
        (
            handle,
            Self {
                jobs: receiver,
                ledger,
                raft,
                alive,
            },
        )
    }

    /// Flushes until the importer has ended, then once more, so that a clean stop leaves nothing to re-execute.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end.
    pub fn run(self) -> Result<(), Fatal> {
        while let Ok(job) = self.jobs.recv() {
            self.flush(job)?;
        }
        if let Some(job) = self.ledger.state().flush_job() {
            self.flush(job)?;
        }
        self.ledger.blocks().barrier()?;
        Ok(())
    }

    fn flush(&self, job: FlushJob) -> Result<(), Fatal> {
        // Blocks first: the state must never be ahead of the blocks that explain it.
        self.ledger.blocks().barrier()?;
        let flushed = job.run().map_err(|e| Fatal::StateWrite {
            reason: e.to_string(),
        })?;
        let height = flushed.height;
        self.ledger.set_state_durable(height);
        if let Some(block) = self.ledger.blocks().block(height)? {
            let manifest = SnapshotManifest {
                height,
                hash: block.hash(),
                state_root: block.block.header().state_root,
            };
            if block.raft_index > 0 {
                self.raft
                    .compact(LogIndex(block.raft_index), manifest.encoded().0);
            }
        }
        Ok(())
    }
}

impl FlusherHandle {
    /// Hands the flusher a job if one is due; holds the importer back while the disk is far behind.
    ///
    /// # Errors
    /// [`Fatal::Impossible`] if the flusher is gone, which it is only after a failure of its own.
    pub fn offer(&self, state: &Arc<StateStore>) -> Result<(), Fatal> {
        loop {
            if state.needs_flush()
                && let Some(job) = state.flush_job()
            {
                match self.jobs.try_send(job) {
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
