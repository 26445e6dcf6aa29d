//! The leader's block builder.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use quorate_chain::{BlockTemplate, DraftBlock, ExecutedRoots, RecoveredTransaction, Sealer};
use quorate_evm::{BlockExecutor, BlockOutcome, ExecuteError, InvalidTransaction};
use quorate_pool::{DropReason, PoolHandle};
use quorate_state::Snapshot;
use raft_adapter::{ProposeOutcome, RaftHandle, Role, Term};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::executed::Executed;
use crate::{ExecutedBlocks, Fatal, Ledger, MinterConfig};

/// Transactions are taken from the pool in portions, so that what does not fit is a small remainder.
const PORTION: usize = 256;
/// A refused proposal has no event of its own: look at outcomes at least so often while blocks are in flight.
const OUTCOME_CHECK: Duration = Duration::from_millis(20);

/// After so many blocks on one another's states the minter lets the pipeline run empty once, see [`Minter::rebase`].
const REBASE_BLOCKS: usize = 128;
/// Looks at head and state until both are at the same height, and the pause between them.
const HEAD_LOOKS: usize = 20_000;
const HEAD_PAUSE: Duration = Duration::from_micros(50);

/// Seconds since 1970.
pub type Clock = Box<dyn Fn() -> u64 + Send>;

/// Mints while this node leads. Owns the speculative head: sealed blocks that have not committed.
pub struct Minter {
    config: MinterConfig,
    ledger: Ledger,
    pool: PoolHandle,
    raft: RaftHandle,
    executed: ExecutedBlocks,
    sealer: Sealer,
    clock: Clock,
    leading: Option<Leading>,
    last_minted: Option<Instant>,
}

/// One term of leadership.
struct Leading {
    term: Term,
    tip: Tip,
    in_flight: VecDeque<InFlight>,
    /// Blocks built since the tip's state was taken from the head.
    since_rebase: usize,
    /// A proposal was refused: nothing more is built on it, and when the ones before it are through, the
    /// minter begins again at the head.
    broken: bool,
}

/// The end of what has been sealed.
struct Tip {
    height: u64,
    hash: B256,
    timestamp: u64,
    state: Snapshot,
}

struct InFlight {
    height: u64,
    hash: B256,
    outcome: Option<oneshot::Receiver<ProposeOutcome>>,
    index: Option<u64>,
}

/// What became of the oldest block in flight.
enum Oldest {
    Waiting,
    Imported,
    Lost,
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.leading.as_ref().map_or(0, |l| l.in_flight.len());
        f.debug_struct("Minter")
            .field("in_flight", &in_flight)
            .finish_non_exhaustive()
    }
}

impl Minter {
    /// A minter that seals with this member's key.
    pub fn new(
        config: MinterConfig,
        ledger: Ledger,
        pool: PoolHandle,
        raft: RaftHandle,
        executed: ExecutedBlocks,
        sealer: Sealer,
        clock: Clock,
    ) -> Self {
        Self {
            config,
            ledger,
            pool,
            raft,
            executed,
            sealer,
            clock,
            leading: None,
            last_minted: None,
        }
    }

    /// Mints until cancelled. For a thread of its own: execution blocks.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), Fatal> {
        let mut status = self.raft.watch();
        let mut applied = self.ledger.watch_applied();
        let mut offers = self.pool.offers();
        loop {
            let pause = self.advance()?;
            let changed = async {
                tokio::select! {
                    r = status.changed() => r.is_ok(),
                    r = applied.changed() => r.is_ok(),
                    r = offers.changed() => r.is_ok(),
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                alive = changed => if !alive {
                    // Ordering has ended, and says why itself.
                    cancel.cancelled().await;
                    return Ok(());
                },
                () = sleep_or_forever(pause) => {}
            }
        }
    }

    /// Reacts to whatever changed. Returns when to look again even if nothing changes.
    fn advance(&mut self) -> Result<Option<Duration>, Fatal> {
        self.follow_role()?;
        self.follow_head()?;
        loop {
            let Some(leading) = &self.leading else {
                return Ok(None);
            };
            let waiting = leading.in_flight.len();
            let check = (waiting > 0).then_some(OUTCOME_CHECK);
            let drains = waiting > 0 && leading.since_rebase >= REBASE_BLOCKS;
            let full = waiting >= self.config.pipeline_blocks;
            if leading.broken {
                return Ok(Some(OUTCOME_CHECK));
            }
            if drains || full || !self.pool.has_offers() {
                return Ok(check);
            }
            let interval = if waiting == 0 {
                self.config.min_interval
            } else {
                self.config.pipeline_interval.max(self.config.min_interval)
            };
            let since = self.last_minted.map_or(interval, |at| at.elapsed());
            if since < interval {
                return Ok(Some(interval - since));
            }
            if !self.mint()? {
                return Ok(check);
            }
        }
    }

    /// Begins or ends a term of leadership.
    fn follow_role(&mut self) -> Result<(), Fatal> {
        let status = self.raft.status();
        let leads = status.role == Role::Leader && !status.transferring;
        if let Some(leading) = &self.leading
            && !(leads && leading.term == status.term)
        {
            tracing::info!(
                term = leading.term.0,
                in_flight = leading.in_flight.len(),
                "stops minting"
            );
            self.give_up();
        }
        // A new leader mints only when it has applied everything that came before its term.
        let ready = status
            .term_start
            .is_some_and(|start| self.ledger.applied() >= start.0);
        if self.leading.is_none() && leads && ready {
            tracing::info!(term = status.term.0, "starts minting");
            fail_point!("engine.mint.lead");
            self.leading = Some(Leading {
                term: status.term,
                tip: self.head_tip()?,
                in_flight: VecDeque::new(),
                since_rebase: 0,
                broken: false,
            });
        }
        Ok(())
    }

    /// The head with its state. The importer stores a block a moment before it advances the state: wait for both.
    fn head_tip(&self) -> Result<Tip, Fatal> {
        for _ in 0..HEAD_LOOKS {
            let (head, state) = (self.ledger.head(), self.ledger.latest_state());
            if head.height() == state.height() {
                return Ok(Tip {
                    height: head.height(),
                    hash: head.hash(),
                    timestamp: head.block.header().timestamp,
                    state,
                });
            }
            std::thread::sleep(HEAD_PAUSE);
        }
        Err(Fatal::Impossible(
            "the state does not reach the head".into(),
        ))
    }

    /// With nothing in flight the tip is the head: go on from the importer's state. It is the same state, but it has
    /// forgotten what has been flushed since, and so does what is built on it.
    fn rebase(&mut self) -> Result<(), Fatal> {
        let idle = self
            .leading
            .as_ref()
            .is_some_and(|l| l.in_flight.is_empty());
        if !idle {
            return Ok(());
        }
        let head = self.head_tip()?;
        if let Some(leading) = &mut self.leading
            && leading.tip.hash == head.hash
        {
            leading.tip = head;
            leading.since_rebase = 0;
        }
        Ok(())
    }

    fn give_up(&mut self) {
        self.leading = None;
        self.executed.clear();
        self.pool.offer_again();
    }

    /// Notes which blocks in flight have been imported. If one was lost, starts again at the head.
    fn follow_head(&mut self) -> Result<(), Fatal> {
        while let Some(leading) = &mut self.leading {
            let Some(oldest) = leading.in_flight.front_mut() else {
                if leading.broken {
                    self.give_up();
                    self.follow_role()?;
                }
                return Ok(());
            };
            match oldest_fate(&self.ledger, oldest)? {
                Oldest::Waiting => return Ok(()),
                Oldest::Imported => {
                    leading.in_flight.pop_front();
                }
                Oldest::Lost => {
                    fail_point!("engine.mint.lost");
                    leading.in_flight.clear();
                    leading.broken = true;
                }
            }
        }
        Ok(())
    }

    /// Builds, seals and proposes one block. False if nothing could be put into it.
    fn mint(&mut self) -> Result<bool, Fatal> {
        let started = Instant::now();
        self.rebase()?;
        let Some(leading) = &self.leading else {
            return Ok(false);
        };
        let template = BlockTemplate {
            parent_hash: leading.tip.hash,
            height: leading.tip.height + 1,
            timestamp: (self.clock)().max(leading.tip.timestamp),
            coinbase: self.sealer.node_id().address(),
            gas_limit: self.ledger.gas_limit(),
        };
        let parent = leading.tip.state.clone();
        let (transactions, outcome) = self.fill(&template, &parent)?;
        if transactions.is_empty() {
            return Ok(false);
        }
        let after = parent.apply(&outcome.diff).map_err(|e| Fatal::StateWrite {
            reason: e.to_string(),
        })?;
        let roots = ExecutedRoots {
            state_root: after.state_root(),
            gas_used: outcome.gas_used,
        };
        let senders: Vec<Address> = transactions
            .iter()
            .map(RecoveredTransaction::sender)
            .collect();
        let Some(leading) = &mut self.leading else {
            return Ok(false);
        };
        fail_point!("engine.mint.seal");
        let draft = DraftBlock::new(
            &template,
            self.ledger.spec(),
            transactions,
            &outcome.receipts,
            roots,
        );
        let block = draft.seal(&self.sealer, leading.term.0);
        let (height, hash) = (block.height(), block.hash());
        let executed = Executed {
            senders,
            receipts: outcome.receipts,
            after: after.clone(),
        };
        self.executed.insert(height, hash, executed);
        fail_point!("engine.mint.propose");
        match self.raft.propose_tracked(block.encode().0, leading.term) {
            Ok(outcome) => {
                fail_point!("engine.mint.proposed");
                leading.in_flight.push_back(InFlight {
                    height,
                    hash,
                    outcome: Some(outcome),
                    index: None,
                });
                leading.tip = Tip {
                    height,
                    hash,
                    timestamp: template.timestamp,
                    state: after,
                };
            }
            Err(refusal) => {
                tracing::warn!(height, %refusal, "proposal refused");
                leading.broken = true;
            }
        }
        leading.since_rebase += 1;
        self.last_minted = Some(started);
        metrics::histogram!("quorate_engine_mint_seconds").record(started.elapsed().as_secs_f64());
        Ok(true)
    }

    /// Executes transactions in the pool's order until the block is full or the pool has nothing more.
    fn fill(
        &self,
        template: &BlockTemplate,
        parent: &Snapshot,
    ) -> Result<(Vec<RecoveredTransaction>, BlockOutcome), Fatal> {
        let context = quorate_evm::BlockContext {
            height: template.height,
            timestamp: template.timestamp,
            coinbase: template.coinbase,
            gas_limit: template.gas_limit,
            prevrandao: B256::ZERO,
            base_fee: 0,
            excess_blob_gas: 0,
            parent_hash: template.parent_hash,
            parent_beacon_root: B256::ZERO,
        };
        let pending = self
            .leading
            .iter()
            .flat_map(|l| l.in_flight.iter().map(|b| (b.height, b.hash)));
        let hashes = self.ledger.hashes().with_pending(pending.collect());
        let mut executor = BlockExecutor::new(self.ledger.spec(), context, parent, &hashes)
            .map_err(execute_fatal)?;
        let limits = self.ledger.block_limits();
        let count_max = usize::try_from(limits.max_transactions).unwrap_or(usize::MAX);
        let bytes_max = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
        let mut chosen: Vec<RecoveredTransaction> = Vec::new();
        let mut bytes = 0usize;
        // Senders of whom something was dropped: what follows waits for the gap to be filled.
        let mut held: BTreeSet<Address> = BTreeSet::new();
        loop {
            let portion = self.pool.take(PORTION.min(count_max - chosen.len()));
            let mut unused = Vec::new();
            let full = portion.is_empty();
            for transaction in &portion {
                if held.contains(&transaction.sender()) {
                    unused.push(transaction.clone());
                    continue;
                }
                if bytes + transaction.size_bytes() > bytes_max {
                    held.insert(transaction.sender());
                    unused.push(transaction.clone());
                    continue;
                }
                match executor.execute(transaction) {
                    Ok(_) => {
                        bytes += transaction.size_bytes();
                        chosen.push(transaction.clone());
                    }
                    Err(ExecuteError::Invalid(InvalidTransaction::GasLimitAboveRemaining {
                        ..
                    })) => {
                        held.insert(transaction.sender());
                        unused.push(transaction.clone());
                    }
                    Err(ExecuteError::Invalid(reason)) => {
                        tracing::debug!(tx = %transaction.hash(), %reason, "dropped by the minter");
                        self.pool.drop_transaction(
                            transaction,
                            DropReason::NotExecutable(reason.to_string()),
                        );
                        held.insert(transaction.sender());
                    }
                    Err(e) => return Err(execute_fatal(e)),
                }
            }
            let done = full || !unused.is_empty() || chosen.len() >= count_max;
            self.pool.put_back(&unused);
            if done {
                return Ok((chosen, executor.finish()));
            }
        }
    }
}

/// What became of a block in flight, by the chain and by what ordering said of its proposal.
fn oldest_fate(ledger: &Ledger, oldest: &mut InFlight) -> Result<Oldest, Fatal> {
    if let Some(outcome) = &mut oldest.outcome {
        match outcome.try_recv() {
            Ok(ProposeOutcome::Appended { index, .. }) => {
                oldest.index = Some(index.0);
                oldest.outcome = None;
            }
            Ok(ProposeOutcome::Refused { .. }) | Err(oneshot::error::TryRecvError::Closed) => {
                return Ok(Oldest::Lost);
            }
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
    }
    // Read before the head: if the entry was applied and the head is still below, it was skipped.
    let applied = ledger.applied();
    if ledger.head().height() >= oldest.height {
        let imported = ledger.block(oldest.height)?.map(|block| block.hash());
        return Ok(if imported == Some(oldest.hash) {
            Oldest::Imported
        } else {
            Oldest::Lost
        });
    }
    Ok(match oldest.index {
        Some(index) if applied >= index => Oldest::Lost,
        _ => Oldest::Waiting,
    })
}

fn execute_fatal(e: ExecuteError) -> Fatal {
    match e {
        ExecuteError::State(e) => Fatal::State(e),
        other => Fatal::Impossible(format!("block execution: {other}")),
    }
}

async fn sleep_or_forever(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
