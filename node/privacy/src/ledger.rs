//! Private state, the records of private transactions, and how far execution is.
//!
//! ```text
//! dir/state   private state: one private height per block that changed something
//! dir/index   cursor, records, contracts, private height of each block
//! ```
//! The index is written first and private state becomes durable later, so that after a crash the index knows every durable private
//! height. What it knows beyond that is taken back when the ledger opens, and executed again.

mod durable;
mod extensions;
mod letting_go;
mod open;
mod read;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use parking_lot::{Mutex, RwLock};
use quorate_enclave::PayloadHash;
use quorate_state::{Snapshot, StateStore};
use tokio::sync::{Notify, watch};

use crate::index::{Change, Extended, Index, Position};
use crate::{
    ContractMetadata, PrivateFatal, PrivateReadError, PrivateRecord, PrivateStatus, RecordOutcome,
    ResetError, Waiting,
};

pub use extensions::HANDOVER_PAGE_BYTES;
pub(crate) use extensions::Kept;
pub use read::PrivateSnapshot;

/// Private state of this node, and what came of each private transaction. Cheap to clone. Everybody reads; one
/// [`PrivateExecutor`](crate::PrivateExecutor) writes.
#[derive(Clone)]
pub struct PrivateLedger {
    shared: Arc<Shared>,
}

struct Shared {
    state: StateStore,
    index: Index,
    chain_id: u64,
    /// The truth about the position, for readers too.
    status: watch::Sender<PrivateStatus>,
    /// The last block that changed private state, and the private height after it. Saves readers of recent heights a look into
    /// the index.
    last_change: RwLock<(u64, u64)>,
    /// The cursor as it is after a power loss.
    durable: AtomicU64,
    /// Held by the one that writes into the index, until state and status say the same.
    writing: Mutex<()>,
    /// Held by the one that makes things durable. Taken before `writing`.
    flushing: Mutex<()>,
    /// Rings when it is worth asking for a missing payload again.
    retry: Notify,
    /// Payloads that were erased. Taken after `writing`.
    let_go: Mutex<letting_go::LetGo>,
    /// The vote without whose state execution is to go on, and why.
    given_up: Mutex<Option<(PayloadHash, String)>>,
}

/// What came of a block.
pub(crate) struct BlockCommit {
    pub(crate) height: u64,
    pub(crate) records: Vec<PrivateRecord>,
    pub(crate) contracts: Vec<ContractMetadata>,
    pub(crate) extended: Extended,
    /// Private state afterwards, if it changed.
    pub(crate) after: Option<AfterBlock>,
}

/// Private state after a block that changed it.
pub(crate) struct AfterBlock {
    /// Built on the head, by one application.
    pub(crate) state: Snapshot,
    pub(crate) storage_roots: Vec<(Address, B256)>,
}

impl fmt::Debug for PrivateLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateLedger")
            .field("status", &*self.shared.status.borrow())
            .finish_non_exhaustive()
    }
}

impl PrivateLedger {
    /// Height of the last block whose private transactions have been executed.
    pub fn cursor(&self) -> u64 {
        self.shared.status.borrow().cursor
    }

    /// How far execution is.
    pub fn status(&self) -> PrivateStatus {
        self.shared.status.borrow().clone()
    }

    /// How far execution is, and its changes.
    pub fn watch(&self) -> watch::Receiver<PrivateStatus> {
        self.shared.status.subscribe()
    }

    /// Chain id of the network.
    pub fn chain_id(&self) -> u64 {
        self.shared.chain_id
    }

    /// Asks for a missing payload again at once: call it when one has arrived, or the enclave is back.
    pub fn retry_now(&self) {
        self.shared.retry.notify_one();
    }

    /// Execution waits for the state of a contract that was extended to this node by this payload: it goes on without, and the
    /// extension ends as refused here, durably when this returns. The parties have it as done, and may offer it again. False if
    /// execution does not wait for that.
    pub async fn give_up_state(&self, payload: &PayloadHash, why: &str) -> bool {
        let waits = |status: &PrivateStatus| {
            let waiting = status.waiting.as_ref();
            waiting.is_some_and(|waiting| waiting.hash == *payload && waiting.state_of.is_some())
        };
        let mut status = self.watch();
        if !waits(&status.borrow()) {
            return false;
        }
        *self.shared.given_up.lock() = Some((*payload, why.to_owned()));
        self.retry_now();
        // The sender lives as long as this ledger.
        status.wait_for(|status| !waits(status)).await.is_ok()
    }

    /// Why execution is to go on without the state that this vote is for, if it is. Says so once.
    pub(crate) fn take_given_up(&self, payload: &PayloadHash) -> Option<String> {
        let given_up = self.shared.given_up.lock().take();
        given_up.and_then(|(about, why)| (about == *payload).then_some(why))
    }

    /// The lowest block that execution may still need, together with the public state before it. Blocks and history from there
    /// on must not be pruned.
    pub fn needed_from(&self) -> u64 {
        self.shared
            .durable
            .load(Ordering::Acquire)
            .saturating_add(1)
    }

    /// Waits until execution has reached `height`, but no longer than `limit`.
    ///
    /// # Errors
    /// [`PrivateReadError::Behind`] when the time is over.
    pub async fn reached(&self, height: u64, limit: Duration) -> Result<(), PrivateReadError> {
        let mut status = self.watch();
        let arrived = status.wait_for(|status| status.cursor >= height);
        match tokio::time::timeout(limit, arrived).await {
            // The sender lives as long as this ledger.
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => self.check_reached(height, &self.shared.status.borrow()),
        }
    }

    /// Removes everything under `dir`, so that private execution begins again with the first block. While no ledger is open there.
    ///
    /// # Errors
    /// [`ResetError`] names the folder.
    pub fn reset(dir: &Path) -> Result<(), ResetError> {
        for part in [open::STATE_DIR, open::INDEX_DIR] {
            let dir = dir.join(part);
            match std::fs::remove_dir_all(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let reason = error.to_string();
                    return Err(ResetError { dir, reason });
                }
            }
        }
        Ok(())
    }

    /// Private state at the cursor, with its trie.
    pub(crate) fn head_state(&self) -> Snapshot {
        self.shared.state.latest()
    }

    /// Cursor and private state that belong together.
    pub(crate) fn head(&self) -> (u64, Snapshot) {
        loop {
            let cursor = self.cursor();
            let state = self.head_state();
            // The state moves before the cursor does: both are of one block if neither has moved meanwhile.
            let expected = self.shared.status.borrow().private_height;
            if self.cursor() == cursor && state.height() == expected {
                return (cursor, state);
            }
            // The one that moves them may want this very core.
            std::thread::yield_now();
        }
    }

    /// Waits for [`retry_now`](Self::retry_now).
    pub(crate) async fn retry_asked(&self) {
        self.shared.retry.notified().await;
    }

    /// The next block came to nothing.
    pub(crate) fn pass(&self, height: u64) {
        self.shared.status.send_modify(|status| {
            status.cursor = height;
            status.waiting = None;
            status.halted = None;
        });
    }

    /// What execution waited for is here.
    pub(crate) fn waits_no_longer(&self) {
        self.shared
            .status
            .send_modify(|status| status.waiting = None);
    }

    /// Takes over what came of the next block.
    pub(crate) fn commit(&self, mut commit: BlockCommit) -> Result<(), PrivateFatal> {
        let shared = &self.shared;
        let turn = shared.writing.lock();
        let erased_meanwhile = self.forget_let_go(&mut commit.records);
        let (mut position, root) = {
            let status = shared.status.borrow();
            (position_of(&status), status.state_root)
        };
        if commit.height != position.cursor + 1 {
            return Err(PrivateFatal::Impossible(format!(
                "block {} was executed after block {}",
                commit.height, position.cursor
            )));
        }
        let erased = |record: &&PrivateRecord| record.outcome == RecordOutcome::Erased;
        position.cursor = commit.height;
        position.records += commit.records.len() as u64;
        position.erased += commit.records.iter().filter(erased).count() as u64;
        let change = commit.after.as_ref().map(|after| Change {
            private_height: after.state.height(),
            root: after.state.state_root(),
            storage_roots: after.storage_roots.clone(),
        });
        shared.index.write_block(
            &position,
            change.as_ref(),
            &commit.records,
            &commit.contracts,
            &commit.extended,
        )?;
        if let Some(after) = commit.after {
            shared.state.advance(after.state)?;
        }
        let private_height = change.as_ref().map(|change| change.private_height);
        if let Some(private_height) = private_height {
            *shared.last_change.write() = (commit.height, private_height);
        }
        shared.status.send_modify(|status| {
            status.cursor = position.cursor;
            status.records = position.records;
            status.erased = position.erased;
            status.state_root = change.map_or(root, |change| change.root);
            status.private_height = private_height.unwrap_or(status.private_height);
            status.waiting = None;
            status.halted = None;
        });
        drop(turn);
        if erased_meanwhile {
            // It cannot be executed again.
            self.make_durable()?;
        }
        Ok(())
    }

    /// Execution begins with this block: earlier ones are not here, and nothing private was executed before.
    pub(crate) fn begin_at(&self, height: u64) -> Result<(), PrivateFatal> {
        let _turn = self.shared.writing.lock();
        let mut position = position_of(&self.shared.status.borrow());
        position.starts_at = height;
        position.cursor = height.saturating_sub(1);
        self.shared.index.set_position(&position)?;
        self.shared.index.barrier()?;
        self.shared
            .durable
            .store(position.cursor, Ordering::Release);
        self.shared.status.send_modify(|status| {
            status.cursor = position.cursor;
            status.starts_at = position.starts_at;
        });
        Ok(())
    }

    pub(crate) fn set_waiting(&self, waiting: Waiting) {
        self.shared.status.send_modify(|status| {
            let since_ms = match &status.waiting {
                Some(earlier) if earlier.hash == waiting.hash => earlier.since_ms,
                Some(_) | None => waiting.since_ms,
            };
            status.waiting = Some(Waiting {
                since_ms,
                ..waiting
            });
        });
    }

    pub(crate) fn set_halted(&self, reason: String) {
        self.shared
            .status
            .send_modify(|status| status.halted = Some(reason));
    }
}

fn position_of(status: &PrivateStatus) -> Position {
    Position {
        cursor: status.cursor,
        starts_at: status.starts_at,
        records: status.records,
        erased: status.erased,
    }
}
