//! Follows the chain with a cursor of its own.
//!
//! ```text
//! head ──► scan: which of the next blocks name payloads
//!            │ lookup, all of a block at once, the next block's meanwhile
//!            ├─ nobody's business ──► cursor
//!            ├─ unknown ──► say so, nudge, wait, ask again
//!            └─ ours ──► execute ──► ledger (index, private state, cursor) ──► report
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::OptionFuture;
use quorate_chain::{SharedBlock, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::execute::{NotExecuted, execute};
use crate::resolve::{Reference, Resolved, references_of, resolve};
use crate::{
    Executed, ExecutorConfig, HandoverAnswer, HandoverWanted, Payloads, PrivateFatal,
    PrivateLedger, PublicChain, Waiting, metrics,
};

/// Most blocks with references that are held at once.
const WINDOW_BLOCKS: usize = 32;

/// Most references of those blocks, after which no further block is taken.
const WINDOW_REFERENCES: usize = 1_024;

/// Executes the private transactions of imported blocks, in order.
#[derive(Debug)]
pub struct PrivateExecutor {
    ledger: PrivateLedger,
    chain: Arc<dyn PublicChain>,
    payloads: Arc<dyn Payloads>,
    config: ExecutorConfig,
    /// The flush under way. One at a time.
    flush: Option<JoinHandle<Result<u64, PrivateFatal>>>,
    flushed: Instant,
}

/// A block that names payloads.
#[derive(Debug)]
struct Planned {
    block: SharedBlock,
    references: Vec<Reference>,
}

/// The next blocks.
#[derive(Debug)]
struct Window {
    planned: Vec<Planned>,
    /// Blocks up to here were looked through.
    through: u64,
}

#[derive(Debug)]
enum Scan {
    Window(Window),
    /// The first block is not kept any more; the lowest one that is.
    Gap(u64),
}

type Found = Vec<(Reference, Resolved)>;

/// Whether to go on with the next block of a window.
#[derive(Debug)]
enum Next {
    Block,
    Window,
    Stop,
    /// When the state of a contract is here, the block is executed again.
    Handover(Box<HandoverWanted>),
}

/// What came of trying to execute a block.
#[derive(Debug)]
enum Done {
    Executed(Vec<Executed>),
    NeedsState(Box<HandoverWanted>),
    NoHistory(u64),
}

impl PrivateExecutor {
    /// An executor that goes on where the ledger is.
    pub fn new(
        ledger: PrivateLedger,
        chain: Arc<dyn PublicChain>,
        payloads: Arc<dyn Payloads>,
        config: ExecutorConfig,
    ) -> Self {
        Self {
            ledger,
            chain,
            payloads,
            config,
            flush: None,
            flushed: Instant::now(),
        }
    }

    /// Executes until `stop` is cancelled, then makes everything durable. Needs a tokio runtime; what blocks runs on its
    /// blocking threads.
    ///
    /// # Errors
    /// [`PrivateFatal`]: private execution ended, and the node must.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PrivateFatal> {
        let mut head = self.chain.watch_head();
        while !stop.is_cancelled() {
            self.flush_if_due().await?;
            let (cursor, top) = (self.ledger.cursor(), self.chain.head());
            metrics::position(cursor, top);
            if cursor >= top {
                self.idle(&mut head, &stop).await?;
                continue;
            }
            match self.scan(cursor + 1).await? {
                Scan::Window(window) => self.window(window, &stop).await?,
                Scan::Gap(base) => self.gap(cursor + 1, base.max(cursor + 2), &stop).await?,
            }
        }
        if let Some(flush) = self.flush.take() {
            joined(flush).await?;
        }
        let ledger = self.ledger.clone();
        blocking(move || ledger.make_durable()).await?;
        Ok(())
    }

    /// Waits for a block, or for the time to flush.
    async fn idle(
        &mut self,
        head: &mut watch::Receiver<u64>,
        stop: &CancellationToken,
    ) -> Result<(), PrivateFatal> {
        let ledger = self.ledger.clone();
        let due = self.flushed + self.config.flush_after;
        let flush_running = self.flush.is_some();
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            changed = head.changed() => {
                if changed.is_err() {
                    // The chain is gone, and the node with it.
                    stop.cancelled().await;
                }
                Ok(())
            }
            Some(flushed) = OptionFuture::from(self.flush.as_mut()) => {
                self.flush = None;
                ended(flushed)
            }
            () = tokio::time::sleep_until(due), if !flush_running && ledger.has_pending() => Ok(()),
        }
    }

    /// Looks through the next blocks.
    async fn scan(&self, from: u64) -> Result<Scan, PrivateFatal> {
        let chain = Arc::clone(&self.chain);
        let blocks = self.config.scan_blocks.max(1);
        blocking(move || scan(chain.as_ref(), from, blocks)).await
    }

    async fn window(
        &mut self,
        window: Window,
        stop: &CancellationToken,
    ) -> Result<(), PrivateFatal> {
        let mut blocks = window.planned.into_iter().peekable();
        let mut prefetched: Option<Found> = None;
        while let Some(planned) = blocks.next() {
            let found = match prefetched.take() {
                Some(found) => found,
                None => {
                    resolve(
                        self.payloads.as_ref(),
                        planned.references,
                        self.config.lookups,
                    )
                    .await
                }
            };
            let Some(found) = self.known(&planned.block, found, stop).await? else {
                return Ok(());
            };
            let payloads = Arc::clone(&self.payloads);
            let lookups = self.config.lookups;
            let ahead = blocks.peek_mut().map(|next| {
                let references = std::mem::take(&mut next.references);
                async move { resolve(payloads.as_ref(), references, lookups).await }
            });
            let (next, ahead) = futures::join!(
                self.block(planned.block, found, stop),
                OptionFuture::from(ahead)
            );
            match next? {
                Next::Block => prefetched = ahead,
                Next::Window | Next::Stop => return Ok(()),
                Next::Handover(wanted) => return self.handover(&wanted, stop).await,
            }
            self.flush_if_due().await?;
        }
        if self.ledger.cursor() < window.through {
            self.ledger.pass(window.through);
        }
        Ok(())
    }

    /// Waits until everything about a block is known. `None` if the node is being stopped.
    async fn known(
        &mut self,
        block: &SharedBlock,
        mut found: Found,
        stop: &CancellationToken,
    ) -> Result<Option<Found>, PrivateFatal> {
        let mut pause = self.config.retry_min;
        let mut waited = false;
        while let Some(waiting) = first_unknown(block.height(), &found) {
            if !waited {
                tracing::warn!(
                    height = waiting.height,
                    tx = %waiting.transaction,
                    payload = %waiting.hash,
                    reason = waiting.reason,
                    "private execution waits for a payload"
                );
                waited = true;
                metrics::waiting(true);
            }
            // Blocks before this one are done.
            let before = block.height().saturating_sub(1);
            if self.ledger.cursor() < before {
                self.ledger.pass(before);
            }
            self.ledger.set_waiting(waiting);
            metrics::position(self.ledger.cursor(), self.chain.head());
            for (_, resolved) in &found {
                if let Resolved::Unknown { hash, .. } = resolved {
                    self.payloads.waiting(hash);
                }
            }
            self.flush_if_due().await?;
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = self.ledger.retry_asked() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(self.config.retry_max);
            found = ask_again(&self.payloads, found, self.config.lookups).await;
        }
        if waited {
            tracing::info!(height = block.height(), "private execution goes on");
            metrics::waiting(false);
        }
        Ok(Some(found))
    }

    /// Waits until the state of a contract that was extended to us is here, and keeps it. Nothing is taken that not all parties
    /// vouch for.
    async fn handover(
        &mut self,
        wanted: &HandoverWanted,
        stop: &CancellationToken,
    ) -> Result<(), PrivateFatal> {
        let mut pause = self.config.retry_min;
        let mut waited = false;
        loop {
            let payloads = Arc::clone(&self.payloads);
            let given_up = self.ledger.take_given_up(&wanted.payload);
            let decided = given_up.is_some();
            let answer = match given_up {
                Some(why) => HandoverAnswer::Refused {
                    reason: format!("this node does without it: {why}"),
                },
                None => tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    answer = payloads.handover(wanted.clone()) => answer,
                },
            };
            let reason = match answer {
                HandoverAnswer::Missing { reason } => reason,
                answer => {
                    let (ledger, wanted) = (self.ledger.clone(), wanted.clone());
                    let kept = blocking(move || {
                        let kept = ledger.keep_answer(&wanted, answer)?;
                        if decided {
                            // Before whoever decided it is told.
                            ledger.make_durable()?;
                        }
                        Ok(kept)
                    });
                    match kept.await? {
                        Ok(()) => break,
                        Err(reason) => reason,
                    }
                }
            };
            if !waited {
                tracing::warn!(
                    height = wanted.height,
                    tx = %wanted.transaction,
                    contract = %wanted.contract,
                    reason,
                    "private execution waits for the state of a contract that was extended to this node"
                );
                waited = true;
                metrics::waiting(true);
            }
            self.ledger.set_waiting(Waiting {
                height: wanted.height,
                transaction: wanted.transaction,
                hash: wanted.payload,
                state_of: Some(wanted.contract),
                since_ms: unix_ms(),
                reason: format!(
                    "state of contract {} for its extension: {reason}",
                    wanted.contract
                ),
            });
            metrics::position(self.ledger.cursor(), self.chain.head());
            self.flush_if_due().await?;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.ledger.retry_asked() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(self.config.retry_max);
        }
        if waited {
            tracing::info!(height = wanted.height, "private execution goes on");
            metrics::waiting(false);
        }
        self.ledger.waits_no_longer();
        Ok(())
    }

    /// Executes a block of which everything is known.
    async fn block(
        &self,
        block: SharedBlock,
        found: Found,
        stop: &CancellationToken,
    ) -> Result<Next, PrivateFatal> {
        let height = block.height();
        let nothing = found
            .iter()
            .all(|(_, resolved)| matches!(resolved, Resolved::NotAParty));
        if nothing {
            self.ledger.pass(height);
            return Ok(Next::Block);
        }
        if self.ledger.cursor() < height.saturating_sub(1) {
            self.ledger.pass(height.saturating_sub(1));
        }
        let (chain, ledger) = (Arc::clone(&self.chain), self.ledger.clone());
        let done = blocking(
            move || match execute(chain.as_ref(), &ledger, &block, found) {
                Ok(outcome) => {
                    ledger.commit(outcome.commit)?;
                    Ok(Done::Executed(outcome.reports))
                }
                Err(NotExecuted::NoHistory { first }) => Ok(Done::NoHistory(first)),
                Err(NotExecuted::NeedsState { wanted, handovers }) => {
                    ledger.keep(&handovers)?;
                    Ok(Done::NeedsState(wanted))
                }
                Err(NotExecuted::Fatal(fatal)) => Err(fatal),
            },
        )
        .await?;
        match done {
            Done::Executed(reports) => {
                for report in reports {
                    metrics::executed(report.success);
                    self.payloads.executed(report);
                }
                Ok(Next::Block)
            }
            Done::NeedsState(wanted) => Ok(Next::Handover(wanted)),
            // The state before the first block that can be executed is the first one that is kept.
            Done::NoHistory(first) => {
                self.gap(height, first.saturating_add(1), stop).await?;
                Ok(if stop.is_cancelled() {
                    Next::Stop
                } else {
                    Next::Window
                })
            }
        }
    }

    /// `missing` cannot be executed, because the public chain before `first` is not kept. A node that has never executed
    /// anything private begins there; another one would lose what happened in between, and stands still.
    async fn gap(
        &self,
        missing: u64,
        first: u64,
        stop: &CancellationToken,
    ) -> Result<(), PrivateFatal> {
        let status = self.ledger.status();
        if status.records == 0 && status.private_height == 0 {
            tracing::warn!(
                missing,
                first,
                "public history begins late: private execution begins there"
            );
            let ledger = self.ledger.clone();
            return blocking(move || ledger.begin_at(first)).await;
        }
        let reason = format!(
            "block {missing} cannot be executed: public history before block {first} is not kept"
        );
        tracing::error!(reason, "private execution stands still");
        self.ledger.set_halted(reason);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.ledger.retry_asked() => {}
            () = tokio::time::sleep(self.config.retry_max) => {}
        }
        Ok(())
    }

    /// Starts a flush if one is due, waits while the disk is far behind, and learns how the last one ended.
    async fn flush_if_due(&mut self) -> Result<(), PrivateFatal> {
        if let Some(flush) = self.flush.take_if(|flush| flush.is_finished()) {
            joined(flush).await?;
        }
        let old = self.flushed.elapsed() >= self.config.flush_after && self.ledger.has_pending();
        if self.flush.is_none() && (old || self.ledger.needs_flush()) {
            let ledger = self.ledger.clone();
            self.flushed = Instant::now();
            self.flush = Some(tokio::task::spawn_blocking(move || ledger.make_durable()));
        }
        if self.ledger.flush_overdue()
            && let Some(flush) = self.flush.take()
        {
            joined(flush).await?;
        }
        Ok(())
    }
}

fn scan(chain: &dyn PublicChain, from: u64, blocks: u64) -> Result<Scan, PrivateFatal> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut through = from - 1;
    let mut references = 0;
    while through - (from - 1) < blocks
        && planned.len() < WINDOW_BLOCKS
        && references < WINDOW_REFERENCES
    {
        let height = through + 1;
        let block = match chain.block(height) {
            Ok(Some(block)) => block,
            Ok(None) => break,
            Err(StoreError::Pruned { below }) if through < from => return Ok(Scan::Gap(below)),
            // The window ends before it; the next one begins there.
            Err(StoreError::Pruned { .. }) => break,
            Err(error) => return Err(PrivateFatal::block(height, &error)),
        };
        let found = references_of(&block);
        if !found.is_empty() {
            references += found.len();
            planned.push(Planned {
                block,
                references: found,
            });
        }
        through = height;
    }
    Ok(Scan::Window(Window { planned, through }))
}

/// Asks again for those that were unknown, and when none is left for the whole block: what was here at first may have been erased
/// meanwhile.
async fn ask_again(payloads: &Arc<dyn Payloads>, found: Found, lookups: usize) -> Found {
    let is_unknown = |(_, resolved): &(Reference, Resolved)| match resolved {
        Resolved::Unknown { .. } => true,
        Resolved::NotAParty | Resolved::Erased | Resolved::Ready(_) => false,
    };
    let references = |found: Found| found.into_iter().map(|(reference, _)| reference).collect();
    let (unknown, mut known): (Found, Found) = found.into_iter().partition(is_unknown);
    let asked = resolve(payloads.as_ref(), references(unknown), lookups).await;
    known.extend(asked);
    known.sort_by_key(|(reference, _)| reference.position);
    if known.iter().any(is_unknown) {
        return known;
    }
    resolve(payloads.as_ref(), references(known), lookups).await
}

fn first_unknown(height: u64, found: &Found) -> Option<Waiting> {
    found
        .iter()
        .find_map(|(reference, resolved)| match resolved {
            Resolved::Unknown { hash, reason } => Some(Waiting {
                height,
                transaction: reference.transaction,
                hash: *hash,
                state_of: None,
                since_ms: unix_ms(),
                reason: reason.clone(),
            }),
            Resolved::NotAParty | Resolved::Erased | Resolved::Ready(_) => None,
        })
}

fn unix_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrivateFatal> + Send + 'static,
) -> impl Future<Output = Result<T, PrivateFatal>> {
    joined(tokio::task::spawn_blocking(work))
}

async fn joined<T>(task: JoinHandle<Result<T, PrivateFatal>>) -> Result<T, PrivateFatal> {
    match task.await {
        Ok(result) => result,
        Err(error) => Err(PrivateFatal::Impossible(error.to_string())),
    }
}

fn ended(
    flushed: Result<Result<u64, PrivateFatal>, tokio::task::JoinError>,
) -> Result<(), PrivateFatal> {
    match flushed {
        Ok(result) => result.map(drop),
        Err(error) => Err(PrivateFatal::Impossible(error.to_string())),
    }
}
