//! Takes what ordering committed, one entry after the other, and makes it the chain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes};
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};
use quorate_chain::{
    ExecutedRoots, ImportedBlock, RecoveredTransaction, SealedBlock, SharedBlock, StoreError,
    Transaction,
};
use quorate_pool::PoolHandle;
use raft_adapter::{
    CommittedEntry, Delivery, InstalledSnapshot, LogIndex, MemberTable, RaftHandle,
};
use rayon::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::executed::Executed;
use crate::flusher::FlusherHandle;
use crate::verify::{Rules, SkipReason, first_difference};
use crate::{Divergence, EngineConfig, ExecutedBlocks, Fatal, Ledger};

/// So many blocks are asked for at once when this node is behind the log.
const FETCH_BLOCKS: u32 = 256;
/// More entries than a leader has blocks in flight, several times over: a chain that skips so many in a row is not the
/// consortium's.
const ASTRAY_MAX: u32 = 256;
/// After so many attempts that brought no block, state snapshots are asked for (again).
const SNAPSHOT_EVERY_ATTEMPTS: u32 = 16;
/// Pause before the peers are asked again when none of them could help.
const FETCH_PAUSE: Duration = Duration::from_millis(500);
/// From so many signatures of a block on that nobody has checked, they are checked on several cores.
const PARALLEL_FROM: usize = 16;

/// What a Raft snapshot carries: the place in the chain that a member must reach by fetching blocks.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct SnapshotManifest {
    /// Height of the block.
    pub height: u64,
    /// Its hash.
    pub hash: B256,
    /// State root after it.
    pub state_root: B256,
}

impl SnapshotManifest {
    /// RLP list of the fields.
    pub fn encoded(&self) -> Bytes {
        let mut out = Vec::with_capacity(80);
        self.encode(&mut out);
        out.into()
    }

    fn decoded(bytes: &[u8]) -> Result<Self, Fatal> {
        Self::decode(&mut &*bytes).map_err(|e| Fatal::Impossible(format!("snapshot manifest: {e}")))
    }
}

/// Where a node that is behind the log gets blocks from.
pub trait BlockSource: Send {
    /// Encoded sealed blocks from `first` on, at most `count`, from whichever peer can help; `attempt` grows
    /// with every call that did not bring the chain forward, so that another peer is asked. Empty if none can.
    fn fetch(&mut self, first: u64, count: u32, attempt: u32) -> Vec<bytes::Bytes>;

    /// A state snapshot above `head` lies ready to be installed when the node opens again: its height. It may lie above the
    /// target, since the others go on. `None` if nobody has one, or the blocks should be fetched instead.
    fn snapshot(&mut self, head: u64, target: &Target<'_>) -> Option<u64>;

    /// The block at `height` is the one that the consortium ordered: a state snapshot that this node began with is right if it
    /// lies no higher.
    fn confirm_snapshot(&mut self, height: u64);

    /// If this node began with a state snapshot that is not confirmed yet: it does not lead to the consortium's
    /// chain. True if the stores from before are put back at the next start.
    fn reject_snapshot(&mut self) -> bool;

    /// Everything up to `index` has been delivered. True if a state snapshot that this node began with should have been
    /// confirmed by then and was not; the stores from before are put back at the next start.
    fn unproved_at(&mut self, index: u64) -> bool;
}

/// Where a node that is behind the log has to get to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The block that ordering knows.
    pub manifest: &'a SnapshotManifest,
    /// The log index that it stands for.
    pub index: u64,
    /// Nobody could give the next block.
    pub without_blocks: bool,
}

/// Owns the forward movement of the chain.
pub struct Importer {
    config: EngineConfig,
    ledger: Ledger,
    pool: PoolHandle,
    raft: RaftHandle,
    executed: ExecutedBlocks,
    flusher: FlusherHandle,
    source: Box<dyn BlockSource>,
    cancel: CancellationToken,
    /// Entries skipped since the last import.
    astray: u32,
}

impl std::fmt::Debug for Importer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl Importer {
    /// An importer that continues at the ledger's head. `cancel` ends its wait for peers while it fetches blocks;
    /// otherwise it runs until ordering ends.
    #[expect(
        clippy::too_many_arguments,
        reason = "one place makes it, each argument is a part of its own"
    )]
    pub fn new(
        config: EngineConfig,
        ledger: Ledger,
        pool: PoolHandle,
        raft: RaftHandle,
        executed: ExecutedBlocks,
        flusher: FlusherHandle,
        source: Box<dyn BlockSource>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            config,
            ledger,
            pool,
            raft,
            executed,
            flusher,
            source,
            cancel,
            astray: 0,
        }
    }

    /// Imports deliveries until ordering has ended.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end.
    pub fn run(mut self, deliveries: &Receiver<Delivery>) -> Result<(), Fatal> {
        while let Ok(delivery) = deliveries.recv() {
            let index = delivery.index();
            match delivery {
                Delivery::Entry(entry) => self.entry(entry)?,
                Delivery::Members(changed) => self.members(&changed.table, index)?,
                Delivery::Snapshot(snapshot) => {
                    if !self.snapshot(&snapshot)? {
                        // The node is being stopped while it waits for peers: ordering ends next.
                        while deliveries.recv().is_ok() {}
                        return Ok(());
                    }
                }
            }
            // First to ordering: whoever sees the index below may ask for the log to be cut there.
            self.raft.applied(index);
            fail_point!("engine.import.applied");
            self.ledger.set_applied(index.0);
            self.flusher.offer(self.ledger.state(), index)?;
            if self.source.unproved_at(index.0) {
                return Err(Fatal::Reopen(
                    "what is ordered does not contain the block of the installed state snapshot"
                        .into(),
                ));
            }
        }
        Ok(())
    }

    /// Follows a membership change, and sees to it that a new member finds a manifest that knows of it.
    fn members(&mut self, table: &MemberTable, index: LogIndex) -> Result<(), Fatal> {
        fail_point!("engine.import.members");
        self.ledger
            .adopt_members(table)
            .map_err(|e| Fatal::Impossible(e.to_string()))?;
        tracing::info!(
            index = table.index.0,
            members = table.members.len(),
            joint = table.is_joint(),
            "membership changed"
        );
        self.flusher.demand(index);
        Ok(())
    }

    fn entry(&mut self, entry: CommittedEntry) -> Result<(), Fatal> {
        if entry.payload.is_empty() {
            return Ok(());
        }
        fail_point!("engine.import.entry");
        let judged = SealedBlock::decode(&entry.payload)
            .map_err(|e| SkipReason::Undecodable(e.to_string()))
            .and_then(|block| {
                if block.term() != entry.term.0 {
                    return Err(SkipReason::Term {
                        minted: block.term(),
                        appended: entry.term.0,
                    });
                }
                self.check(&block, &self.ledger.head())?;
                Ok(block)
            });
        match judged {
            Ok(block) => {
                self.astray = 0;
                // It follows this node's head: whatever that began with is right.
                self.source.confirm_snapshot(block.height());
                fail_point!("engine.import.verified");
                self.import(block, entry.index.0)
            }
            Err(SkipReason::Parent { height, block, .. }) if self.holds(height, block)? => {
                // Delivered again: this node opened with stores that are ahead of its log.
                self.source.confirm_snapshot(height);
                Ok(())
            }
            Err(reason) => {
                metrics::counter!("quorate_engine_skipped_total", "reason" => reason.label())
                    .increment(1);
                tracing::info!(index = entry.index.0, term = entry.term.0, %reason, "committed entry skipped");
                self.stray()
            }
        }
    }

    /// True if this is a block of the chain as this node has it.
    fn holds(&self, height: u64, hash: B256) -> Result<bool, Fatal> {
        if height > self.ledger.head().height() {
            return Ok(false);
        }
        match self.ledger.blocks().hash_at(height) {
            Ok(own) => Ok(own == Some(hash)),
            // Too old to be compared.
            Err(StoreError::Pruned { .. }) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// Notes a committed entry that does not extend the chain. Some are normal after a change of leader; if nothing else
    /// comes, a state snapshot that this node began with was not of this chain.
    fn stray(&mut self) -> Result<(), Fatal> {
        self.astray += 1;
        if self.astray >= ASTRAY_MAX && self.source.reject_snapshot() {
            return Err(Fatal::Reopen(
                "nothing that is ordered follows the installed state snapshot".into(),
            ));
        }
        Ok(())
    }

    fn check(&self, block: &SealedBlock, parent: &ImportedBlock) -> Result<(), SkipReason> {
        let sealers = self.ledger.sealers();
        self.rules(&sealers).check(block, parent)
    }

    fn rules<'a>(&'a self, sealers: &'a BTreeSet<Address>) -> Rules<'a> {
        Rules {
            spec: self.ledger.spec(),
            limits: self.ledger.block_limits(),
            gas_limit: self.ledger.gas_limit(),
            sealers,
        }
    }

    /// Executes (or takes the minter's execution of) a block that passed the rules, and makes it the head.
    fn import(&mut self, block: SealedBlock, raft_index: u64) -> Result<(), Fatal> {
        let started = Instant::now();
        let (height, hash) = (block.height(), block.hash());
        let executed = match self.executed.take(&hash) {
            Some(executed) => executed,
            None => self.execute(&block)?,
        };
        let Executed {
            senders,
            receipts,
            after,
        } = executed;
        let imported = Arc::new(ImportedBlock {
            block,
            senders,
            receipts,
            raft_index,
        });
        fail_point!("engine.import.store");
        self.ledger.blocks().append(Arc::clone(&imported))?;
        fail_point!("engine.import.stored");
        self.ledger
            .state()
            .advance(after)
            .map_err(|e| Fatal::StateWrite {
                reason: e.to_string(),
            })?;
        fail_point!("engine.import.advanced");
        self.pool.on_block(&imported)?;
        self.executed.forget_through(height);
        metrics::gauge!("quorate_chain_height").set(height as f64);
        metrics::counter!("quorate_chain_transactions_total")
            .increment(imported.receipts.len() as u64);
        metrics::histogram!("quorate_engine_import_seconds")
            .record(started.elapsed().as_secs_f64());
        tracing::debug!(height, block = %hash, index = raft_index, transactions = imported.receipts.len(), "imported");
        fail_point!("engine.import.announce");
        self.ledger.announce(imported);
        Ok(())
    }

    fn execute(&self, block: &SealedBlock) -> Result<Executed, Fatal> {
        fail_point!("engine.import.execute");
        let recovered = match self.recover(block) {
            Ok(recovered) => recovered,
            Err(reason) => return Err(self.diverged(block, "senders", "none".into(), reason)),
        };
        let parent = self.ledger.latest_state();
        let context = Ledger::context_of(block.header());
        let hashes = self.ledger.hashes();
        let outcome = match quorate_evm::execute_block(
            self.ledger.spec(),
            context,
            &parent,
            &hashes,
            &recovered,
        ) {
            Ok(outcome) => outcome,
            Err(quorate_evm::ExecuteError::State(e)) => return Err(Fatal::State(e)),
            Err(e) => {
                return Err(self.diverged(block, "execution", e.to_string(), "valid".into()));
            }
        };
        let after = parent.apply(&outcome.diff).map_err(|e| Fatal::StateWrite {
            reason: e.to_string(),
        })?;
        let executed = ExecutedRoots {
            state_root: after.state_root(),
            gas_used: outcome.gas_used,
        };
        let senders: Vec<Address> = recovered.iter().map(RecoveredTransaction::sender).collect();
        let sealers = self.ledger.sealers();
        let ours =
            self.rules(&sealers)
                .expected_header(block, recovered, &outcome.receipts, executed);
        if let Some((what, ours, theirs)) = first_difference(&ours, block.header()) {
            return Err(self.diverged(block, what, ours, theirs));
        }
        fail_point!("engine.import.executed");
        Ok(Executed {
            senders,
            receipts: outcome.receipts,
            after,
        })
    }

    /// Senders come from the pool where it knows the transaction; the rest is recovered, on all cores if there are many.
    fn recover(&self, block: &SealedBlock) -> Result<Vec<RecoveredTransaction>, String> {
        let transactions = block.transactions();
        let hashes: Vec<B256> = transactions.iter().map(|tx| *tx.hash()).collect();
        let known = self.pool.senders_of(&hashes);
        let recover = |(transaction, sender): (&Transaction, &Option<Address>)| match sender {
            Some(sender) => Ok(RecoveredTransaction::with_sender(
                transaction.clone(),
                *sender,
            )),
            None => RecoveredTransaction::recover(transaction.clone())
                .map_err(|e| format!("{}: {e}", transaction.hash())),
        };
        let unknown = known.iter().filter(|sender| sender.is_none()).count();
        let recovered: Vec<RecoveredTransaction> = if unknown < PARALLEL_FROM {
            let each = transactions.iter().zip(&known).map(recover);
            each.collect::<Result<_, String>>()?
        } else {
            let each = transactions.par_iter().zip(known.par_iter());
            let each = each.with_min_len(4).map(recover);
            each.collect::<Result<_, String>>()?
        };
        let both = recovered.iter().zip(&known);
        let news = both.filter(|(_, known)| known.is_none());
        self.pool
            .remember_senders(news.map(|(transaction, _)| transaction));
        Ok(recovered)
    }

    fn diverged(
        &self,
        block: &SealedBlock,
        what: &'static str,
        ours: String,
        theirs: String,
    ) -> Fatal {
        metrics::counter!("quorate_engine_diverged_total").increment(1);
        let path = self
            .config
            .evidence_dir
            .join(format!("divergence-{}.json", block.height()));
        let evidence = serde_json::json!({
            "height": block.height(),
            "hash": block.hash(),
            "what": what,
            "ours": ours,
            "theirs": theirs,
            "parentState": self.ledger.latest_state().state_root(),
            "sealedBlock": Bytes::from(block.encode().to_vec()),
        });
        let written = std::fs::create_dir_all(&self.config.evidence_dir)
            .and_then(|()| std::fs::write(&path, evidence.to_string()));
        let evidence = match written {
            Ok(()) => path.display().to_string(),
            Err(e) => format!("could not be written to {}: {e}", path.display()),
        };
        Fatal::Diverged(Box::new(Divergence {
            height: block.height(),
            hash: block.hash(),
            what,
            ours,
            theirs,
            evidence,
        }))
    }

    /// This member is behind the log: fetch blocks up to the manifest's, verify and import each. Blocks come
    /// from peers, so nothing in them is believed that seal, parent and execution do not prove. False if the node is
    /// being stopped.
    fn snapshot(&mut self, snapshot: &InstalledSnapshot) -> Result<bool, Fatal> {
        fail_point!("engine.import.manifest");
        let manifest = SnapshotManifest::decoded(&snapshot.manifest)?;
        self.members(&snapshot.table, snapshot.index)?;
        let from = self.ledger.head().height();
        if from < manifest.height {
            tracing::info!(from, to = manifest.height, "behind the log");
        }
        let mut attempt = 0u32;
        let mut fruitless = 0u32;
        // Blocks came that do not follow: somebody is of another chain, perhaps this node.
        let mut refused = false;
        while self.ledger.head().height() < manifest.height {
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
            let head = self.ledger.head();
            if fruitless.is_multiple_of(SNAPSHOT_EVERY_ATTEMPTS) {
                let without_blocks = fruitless > 0;
                if refused && self.source.reject_snapshot() {
                    return Err(Fatal::Reopen(format!(
                        "nobody's blocks follow {}, where the installed state snapshot ends",
                        head.height()
                    )));
                }
                let target = Target {
                    manifest: &manifest,
                    index: snapshot.index.0,
                    without_blocks,
                };
                if let Some(height) = self.source.snapshot(head.height(), &target) {
                    return Err(Fatal::Reopen(format!(
                        "a state snapshot at {height} is ready"
                    )));
                }
            }
            let blocks = self.source.fetch(head.height() + 1, FETCH_BLOCKS, attempt);
            let came = !blocks.is_empty();
            let mut progressed = false;
            for encoded in blocks {
                if self.cancel.is_cancelled() {
                    return Ok(false);
                }
                if self.fetched(&encoded, &manifest, snapshot.index)? {
                    progressed = true;
                } else {
                    break;
                }
            }
            if progressed {
                // Whoever has begun with blocks goes on with blocks.
                (attempt, fruitless, refused) = (0, 1, false);
            } else {
                refused |= came;
                attempt = attempt.saturating_add(1);
                fruitless = fruitless.saturating_add(1);
                self.pause();
            }
        }
        let reached = match self.ledger.blocks().hash_at(manifest.height) {
            // It was compared when it was the head, before it was dropped.
            Err(StoreError::Pruned { .. }) => Some(manifest.hash),
            found => found?,
        };
        if reached != Some(manifest.hash) {
            if self.source.reject_snapshot() {
                return Err(Fatal::Reopen(format!(
                    "block {} is {reached:?} here, the consortium's is {}",
                    manifest.height, manifest.hash
                )));
            }
            return Err(Fatal::Impossible(format!(
                "block {} is {reached:?} here, the consortium's snapshot says {}",
                manifest.height, manifest.hash
            )));
        }
        self.source.confirm_snapshot(manifest.height);
        tracing::info!(height = manifest.height, "caught up with the snapshot");
        Ok(true)
    }

    /// Waits before peers are asked again, but no longer than the node runs.
    fn pause(&self) {
        let until = Instant::now() + FETCH_PAUSE;
        while Instant::now() < until && !self.cancel.is_cancelled() {
            std::thread::sleep(FETCH_PAUSE / 10);
        }
    }

    fn fetched(
        &mut self,
        encoded: &[u8],
        manifest: &SnapshotManifest,
        snapshot_index: LogIndex,
    ) -> Result<bool, Fatal> {
        fail_point!("engine.import.fetched");
        let head: SharedBlock = self.ledger.head();
        let refused = |reason: String| {
            metrics::counter!("quorate_engine_fetched_refused_total").increment(1);
            tracing::warn!(height = head.height() + 1, reason, "fetched block refused");
            Ok(false)
        };
        let block = match SealedBlock::decode(encoded) {
            Ok(block) => block,
            Err(e) => return refused(e.to_string()),
        };
        if block.height() > manifest.height {
            return Ok(false);
        }
        if let Err(reason) = self.check(&block, &head) {
            return refused(reason.to_string());
        }
        if block.height() == manifest.height && block.hash() != manifest.hash {
            return refused(format!(
                "its hash is {}, the snapshot says {}",
                block.hash(),
                manifest.hash
            ));
        }
        // The index of an earlier block is not known here; that of its predecessor is a safe lower bound.
        let index = if block.height() == manifest.height {
            snapshot_index.0
        } else {
            head.raft_index
        };
        let last = block.height() == manifest.height;
        self.import(block, index)?;
        if !last {
            self.flusher.offer(self.ledger.state(), LogIndex(index))?;
        }
        Ok(true)
    }
}
