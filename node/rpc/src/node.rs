//! What both servers share: the questions they ask the other rooms, and the limits on asking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, keccak256};
use parking_lot::Mutex;
use quorate_chain::SharedBlock;
use quorate_engine::Ledger;
use quorate_pool::AdmitError;
use quorate_state::Snapshot;
use raft_adapter::{Role, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::feed::is_recent;
use crate::json::filters::Filters;
use crate::json::logs::Blooms;
use crate::membership::ChangePlaces;
use crate::waiters::{Included, Waiter, Waiters};
use crate::{PrivacyApi, PrivacyError, RpcContext, RpcError};

/// Transactions above this size are hashed and checked on a thread of their own: keccak of 16 KiB takes about as long as the
/// signature check that every transaction costs.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// A transaction that a client waits for may leave the pool without a block: looked at in this interval.
const FATE_CHECK: Duration = Duration::from_millis(500);

/// One per server.
pub(crate) struct Node {
    pub(crate) ctx: RpcContext,
    pub(crate) stop: CancellationToken,
    pub(crate) waiters: Waiters,
    pub(crate) filters: Filters,
    pub(crate) blooms: Blooms,
    pub(crate) changes: ChangePlaces,
    /// Serialises `eth_sendTransaction` per account, so that two sends do not take the same nonce. Holds accounts of the
    /// signer only, so it is as small as that.
    pub(crate) senders: Mutex<BTreeMap<Address, Arc<tokio::sync::Mutex<()>>>>,
    /// Height when the server started, for `eth_syncing`.
    pub(crate) started_at: u64,
    head: watch::Receiver<u64>,
    /// Places for private transactions that are being distributed.
    pub(crate) private_sends: Semaphore,
    calls: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("ctx", &self.ctx)
            .finish_non_exhaustive()
    }
}

/// How far this node follows the consortium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sync {
    pub(crate) synced: bool,
    /// Committed entries that are still to be imported.
    pub(crate) lag: u64,
}

impl Node {
    pub(crate) fn new(ctx: RpcContext, stop: CancellationToken) -> Arc<Self> {
        let config = &ctx.config;
        let head = ctx.ledger.watch_head();
        let started_at = *head.borrow();
        Arc::new(Self {
            waiters: Waiters::new(config.waiters_max),
            filters: Filters::new(config.filters_max, config.filter_lifetime),
            blooms: Blooms::default(),
            changes: ChangePlaces::default(),
            senders: Mutex::new(BTreeMap::new()),
            private_sends: Semaphore::new(config.private_sends_max),
            calls: Arc::new(Semaphore::new(config.concurrent_calls)),
            reads: Arc::new(Semaphore::new(config.concurrent_reads)),
            started_at,
            head,
            ctx,
            stop,
        })
    }

    /// Private transactions, if this node takes part in them.
    pub(crate) fn privacy(&self) -> Result<&Arc<dyn PrivacyApi>, RpcError> {
        let privacy = self.ctx.privacy.as_ref();
        Ok(privacy.ok_or(PrivacyError::Off)?)
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ctx.ledger
    }

    /// Height of the last announced block. The store may hold one more whose state is not in force yet: that one is not
    /// there for clients, or a receipt could be followed by a balance from before it.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Height that a number or tag means now; `None` above the head. Blocks are final: `safe` and `finalized` are `latest`,
    /// and so is `pending`, because only the leader knows what comes next.
    pub(crate) fn height_of(&self, number: BlockNumberOrTag) -> Option<u64> {
        let head = self.head();
        match number {
            BlockNumberOrTag::Latest
            | BlockNumberOrTag::Safe
            | BlockNumberOrTag::Finalized
            | BlockNumberOrTag::Pending => Some(head),
            BlockNumberOrTag::Earliest => Some(0),
            BlockNumberOrTag::Number(height) => (height <= head).then_some(height),
        }
    }

    /// The block at an announced height.
    pub(crate) async fn block(&self, height: u64) -> Result<Option<SharedBlock>, RpcError> {
        let head = self.head();
        if height > head {
            return Ok(None);
        }
        if is_recent(height, head) {
            return Ok(self.ledger().block(height)?);
        }
        self.read(move |ledger| Ok(ledger.block(height)?)).await
    }

    /// The block with this hash.
    pub(crate) async fn block_by_hash(&self, hash: B256) -> Result<Option<SharedBlock>, RpcError> {
        let head = self.head();
        // The newest block is what everyone asks for by hash.
        if let Some(block) = self.ledger().block(head)?
            && block.hash() == hash
        {
            return Ok(Some(block));
        }
        let block = self
            .read(move |ledger| Ok(ledger.block_by_hash(&hash)?))
            .await?;
        Ok(block.filter(|block| block.height() <= self.head()))
    }

    /// The block that `id` means.
    pub(crate) async fn block_of(&self, id: BlockId) -> Result<Option<SharedBlock>, RpcError> {
        match id {
            BlockId::Hash(hash) => self.block_by_hash(hash.block_hash).await,
            BlockId::Number(number) => match self.height_of(number) {
                Some(height) => self.block(height).await,
                None => Ok(None),
            },
        }
    }

    /// The state after the block that `id` means. Reading the head's is quick; reads of an older one belong into
    /// [`Self::read`].
    pub(crate) async fn state_of(&self, id: BlockId) -> Result<Snapshot, RpcError> {
        let height = match id {
            BlockId::Hash(hash) => self
                .block_by_hash(hash.block_hash)
                .await?
                .map(|block| block.height()),
            BlockId::Number(number) => self.height_of(number),
        };
        self.state_at(height.ok_or(RpcError::UnknownBlock)?)
    }

    /// The state after the block at an announced height.
    pub(crate) fn state_at(&self, height: u64) -> Result<Snapshot, RpcError> {
        let latest = self.ledger().latest_state();
        if latest.height() == height {
            Ok(latest)
        } else {
            Ok(self.ledger().state_at(height)?)
        }
    }

    /// Reads something from the state after the block that `id` means.
    pub(crate) async fn read_state<T: Send + 'static>(
        &self,
        id: BlockId,
        read: impl FnOnce(&Snapshot) -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let state = self.state_of(id).await?;
        if is_recent(state.height(), self.head()) {
            return read(&state);
        }
        self.read(move |_| read(&state)).await
    }

    /// The block of a transaction, and its position there.
    pub(crate) async fn included(&self, hash: &B256) -> Result<Option<Included>, RpcError> {
        let Some(location) = self.ledger().locate(hash)? else {
            return Ok(None);
        };
        let Some(block) = self.block(location.height).await? else {
            return Ok(None);
        };
        Ok(Some(Included {
            block,
            position: location.position as usize,
        }))
    }

    /// Runs something that waits for the disk, when it is its turn.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let permit = self
            .turn(
                &self.reads,
                "concurrent_reads",
                "too many reads of old blocks",
            )
            .await?;
        let ledger = self.ledger().clone();
        on_a_thread(permit, move || work(&ledger)).await
    }

    /// Runs something that uses a core for a while, when it is its turn.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let permit = self
            .turn(&self.calls, "concurrent_calls", "too many calls")
            .await?;
        on_a_thread(permit, work).await
    }

    async fn turn(
        &self,
        turns: &Arc<Semaphore>,
        limit: &'static str,
        what: &'static str,
    ) -> Result<OwnedSemaphorePermit, RpcError> {
        if let Ok(permit) = Arc::clone(turns).try_acquire_owned() {
            return Ok(permit);
        }
        match timeout(
            self.ctx.config.turn_wait_max,
            Arc::clone(turns).acquire_owned(),
        )
        .await
        {
            Ok(Ok(permit)) => Ok(permit),
            // Nobody closes it.
            Ok(Err(_)) => Err(RpcError::Stopping),
            Err(_) => {
                metrics::counter!("quorate_rpc_refused_total", "limit" => limit).increment(1);
                Err(RpcError::Busy { what })
            }
        }
    }

    /// Gives a signed transaction to the pool.
    pub(crate) async fn submit(&self, raw: Bytes) -> Result<B256, RpcError> {
        let submitted = if raw.len() <= INLINE_BYTES_MAX {
            self.ctx.pool.submit(&raw)
        } else {
            let (pool, raw) = (self.ctx.pool.clone(), raw.clone());
            let work = tokio::task::spawn_blocking(move || pool.submit(&raw));
            work.await.map_err(RpcError::internal)?
        };
        submitted.map_err(|error| self.judge(error, &raw))
    }

    /// What a refusal by the pool means to the client.
    pub(crate) fn judge(&self, error: AdmitError, raw: &[u8]) -> RpcError {
        match error {
            // Our fault, not the client's.
            AdmitError::State(error) => error.into(),
            // Sent again after it was committed: that is good news, not a mistake with the nonce.
            AdmitError::NonceTooLow { .. } => {
                let hash = keccak256(raw);
                match self.ledger().locate(&hash) {
                    Ok(Some(_)) => AdmitError::Known { hash }.into(),
                    Ok(None) => error.into(),
                    Err(failed) => failed.into(),
                }
            }
            error => error.into(),
        }
    }

    /// Gives a signed transaction to the pool and waits until it is in a block.
    pub(crate) async fn submit_and_wait(
        &self,
        raw: Bytes,
        wait: Duration,
    ) -> Result<Included, RpcError> {
        let started = Instant::now();
        // The network form's hash is the transaction's, so that the waiter is there before the block can be.
        let waiter = self.waiters.register(keccak256(&raw))?;
        let hash = self.submit(raw).await?;
        self.included_within(hash, waiter, started, wait).await
    }

    /// Waits until a transaction that the pool has taken is in a block; `waiter` was there before. The time is counted from
    /// `started`.
    pub(crate) async fn included_within(
        &self,
        hash: B256,
        mut waiter: Waiter,
        started: Instant,
        wait: Duration,
    ) -> Result<Included, RpcError> {
        let deadline = started + wait.min(self.ctx.config.submit_wait_max);
        loop {
            let look = deadline.min(Instant::now() + FATE_CHECK);
            tokio::select! {
                biased;
                included = waiter.included() => return included.ok_or(RpcError::Stopping),
                () = self.stop.cancelled() => return Err(RpcError::Stopping),
                () = tokio::time::sleep_until(look) => {}
            }
            // Departures are remembered after the chain has moved on, so look there last.
            let fate = self.ctx.pool.fate(&hash);
            if let Some(included) = self.included(&hash).await? {
                return Ok(included);
            }
            if let Some(fate) = fate {
                return Err(RpcError::Departed { hash, fate });
            }
            if Instant::now() >= deadline {
                let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Err(RpcError::WaitTimeout { hash, waited_ms });
            }
        }
    }

    /// How far this node follows: it needs to know a leader, and to have imported nearly everything that it knows to be
    /// committed.
    pub(crate) fn sync(&self, status: &Status) -> Sync {
        let applied = *self.ledger().watch_applied().borrow();
        let lag = status.committed.0.saturating_sub(applied);
        Sync {
            synced: status.leader.is_some() && lag <= self.ctx.config.sync_lag_max,
            lag,
        }
    }
}

/// A role as `Status` and logs name it.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Candidate => "candidate",
        Role::Follower => "follower",
        Role::Learner => "learner",
    }
}

/// The permit goes along: a client that disconnects ends its request, not the work, and the limit must count the work.
async fn on_a_thread<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(permit);
        result
    });
    match done.await {
        Ok(result) => result,
        Err(error) => Err(RpcError::internal(error)),
    }
}
