//! Takes what ordering committed, one entry after the other, and makes it the chain.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes};
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};
use quorate_chain::{ExecutedRoots, ImportedBlock, RecoveredTransaction, SealedBlock, SharedBlock};
use quorate_pool::PoolHandle;
use raft_adapter::{CommittedEntry, Delivery, InstalledSnapshot, LogIndex, RaftHandle};
use rayon::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::executed::Executed;
use crate::flusher::FlusherHandle;
use crate::verify::{Rules, SkipReason, first_difference};
use crate::{Divergence, EngineConfig, ExecutedBlocks, Fatal, Ledger};

/// So many blocks are asked for at once when this node is behind the log.
const FETCH_BLOCKS: u32 = 256;
/// Pause before the peers are asked again when none of them could help.
const FETCH_PAUSE: Duration = Duration::from_millis(500);

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
        }
    }

    /// Imports deliveries until ordering has ended.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end.
    pub fn run(mut self, deliveries: Receiver<Delivery>) -> Result<(), Fatal> {
        while let Ok(delivery) = deliveries.recv() {
            let index = match delivery {
                Delivery::Entry(entry) => {
                    let index = entry.index;
                    self.entry(entry)?;
                    index
                }
                Delivery::Snapshot(snapshot) => {
                    let index = snapshot.index;
                    if !self.snapshot(&snapshot)? {
                        // The node is being stopped while it waits for peers: ordering ends next.
                        while deliveries.recv().is_ok() {}
                        return Ok(());
                    }
                    index
                }
            };
            self.ledger.set_applied(index.0);
            self.raft.applied(index);
            // Only now: a flush lets the log be cut up to its height, which ordering must know to be applied.
            self.flusher.offer(self.ledger.state())?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: CommittedEntry) -> Result<(), Fatal> {
        if entry.payload.is_empty() {
            return Ok(());
        }
        let judged = SealedBlock::decode(&entry.payload)
            .map_err(|e| SkipReason::Undecodable(e.to_string()))
            .and_then(|block| {
                if block.term() != entry.term.0 {
                    return Err(SkipReason::Term {
                        minted: block.term(),
                        appended: entry.term.0,
                    });
                }
                self.rules().check(&block, &self.ledger.head())?;
                Ok(block)
            });
        match judged {
            Ok(block) => self.import(block, entry.index.0),
            Err(reason) => {
                metrics::counter!("quorate_engine_skipped_total", "reason" => reason.label())
                    .increment(1);
                tracing::info!(index = entry.index.0, term = entry.term.0, %reason, "committed entry skipped");
                Ok(())
            }
        }
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            spec: self.ledger.spec(),
            limits: self.ledger.block_limits(),
            gas_limit: self.ledger.gas_limit(),
            members: self.ledger.members(),
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
        self.ledger.blocks().append(Arc::clone(&imported))?;
        self.ledger
            .state()
            .advance(after)
            .map_err(|e| Fatal::StateWrite {
                reason: e.to_string(),
            })?;
        self.pool.on_block(&imported)?;
        self.executed.forget_through(height);
        metrics::gauge!("quorate_chain_height").set(height as f64);
        metrics::counter!("quorate_chain_transactions_total")
            .increment(imported.receipts.len() as u64);
        metrics::histogram!("quorate_engine_import_seconds")
            .record(started.elapsed().as_secs_f64());
        tracing::debug!(height, block = %hash, index = raft_index, transactions = imported.receipts.len(), "imported");
        self.ledger.announce(imported);
        Ok(())
    }

    fn execute(&self, block: &SealedBlock) -> Result<Executed, Fatal> {
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
        let ours = self
            .rules()
            .expected_header(block, recovered, &outcome.receipts, executed);
        if let Some((what, ours, theirs)) = first_difference(&ours, block.header()) {
            return Err(self.diverged(block, what, ours, theirs));
        }
        Ok(Executed {
            senders,
            receipts: outcome.receipts,
            after,
        })
    }

    /// Senders come from the pool where it knows the transaction; the rest is recovered on all cores.
    fn recover(&self, block: &SealedBlock) -> Result<Vec<RecoveredTransaction>, String> {
        let transactions = block.transactions();
        let hashes: Vec<B256> = transactions.iter().map(|tx| *tx.hash()).collect();
        let known = self.pool.senders_of(&hashes);
        transactions
            .par_iter()
            .zip(known.par_iter())
            .with_min_len(4)
            .map(|(transaction, sender)| match sender {
                Some(sender) => Ok(RecoveredTransaction::with_sender(
                    transaction.clone(),
                    *sender,
                )),
                None => RecoveredTransaction::recover(transaction.clone())
                    .map_err(|e| format!("{}: {e}", transaction.hash())),
            })
            .collect()
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
    /// from peers, so nothing in them is believed that seal, parent and execution do not prove.
    fn snapshot(&mut self, snapshot: &InstalledSnapshot) -> Result<bool, Fatal> {
        let manifest = SnapshotManifest::decoded(&snapshot.manifest)?;
        tracing::info!(
            from = self.ledger.head().height(),
            to = manifest.height,
            "behind the log: fetching blocks"
        );
        let mut attempt = 0u32;
        while self.ledger.head().height() < manifest.height {
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
            let head = self.ledger.head();
            let blocks = self.source.fetch(head.height() + 1, FETCH_BLOCKS, attempt);
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
                attempt = 0;
            } else {
                attempt = attempt.saturating_add(1);
                std::thread::sleep(FETCH_PAUSE);
            }
        }
        let reached = self
            .ledger
            .block(manifest.height)?
            .map(|block| block.hash());
        if reached != Some(manifest.hash) {
            return Err(Fatal::Impossible(format!(
                "block {} is {reached:?} here, the consortium's snapshot says {}",
                manifest.height, manifest.hash
            )));
        }
        tracing::info!(height = manifest.height, "caught up with the snapshot");
        Ok(true)
    }

    fn fetched(
        &mut self,
        encoded: &[u8],
        manifest: &SnapshotManifest,
        snapshot_index: LogIndex,
    ) -> Result<bool, Fatal> {
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
        if let Err(reason) = self.rules().check(&block, &head) {
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
            self.flusher.offer(self.ledger.state())?;
        }
        Ok(true)
    }
}
