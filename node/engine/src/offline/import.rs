//! Moving blocks in.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use quorate_chain::{BlockStore, Genesis, ImportedBlock, StoreError};
use quorate_state::StateStore;

use super::error::OfflineError;
use super::file::{ExportIndex, Reader, check_whole, damaged};
use super::judge::{Judge, Parent, flush, flush_if_due};
use super::{OnProgress, Progress};

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportReport {
    /// Blocks that this node had already.
    pub skipped: u64,
    /// Blocks that are new here, each verified and executed.
    pub imported: u64,
    /// Height of the head now.
    pub head: u64,
    /// Its hash.
    pub head_hash: B256,
}

/// Imports exported blocks into a fresh or shorter node of the same genesis. Each block is verified and executed. Interrupted,
/// it can be called again: what is here already is skipped. With `sealers`, only their seals count.
///
/// # Errors
/// [`OfflineError`]; blocks before the one that failed stay imported.
pub fn import(
    genesis: &Genesis,
    blocks: &BlockStore,
    state: &StateStore,
    dir: &Path,
    sealers: Option<&BTreeSet<Address>>,
    progress: OnProgress<'_>,
) -> Result<ImportReport, OfflineError> {
    let index = ExportIndex::read(dir)?;
    let own_genesis = blocks.genesis().hash();
    if index.genesis != own_genesis {
        return Err(OfflineError::OtherGenesis {
            found: index.genesis,
            expected: own_genesis,
        });
    }
    let head = blocks.head().height();
    if state.latest().height() != head {
        return Err(OfflineError::NotLevel {
            state: state.latest().height(),
            blocks: head,
        });
    }
    if index.first > head + 1 {
        return Err(OfflineError::Gap {
            head,
            first: index.first,
        });
    }
    let intake = Intake {
        judge: Judge::new(genesis, sealers),
        blocks,
        state,
    };
    let mut report = ImportReport {
        skipped: 0,
        imported: 0,
        head,
        head_hash: blocks.head().hash(),
    };
    for listed in &index.files {
        let path = dir.join(&listed.name);
        check_whole(&path, listed)?;
        let mut reader = Reader::open(&path, listed, own_genesis)?;
        let mut expected = listed.first;
        while let Some(block) = reader.next_block()? {
            let height = block.height();
            if height != expected || height > listed.last {
                let reason = format!("block {height} stands where {expected} should");
                return Err(damaged(&path, reason));
            }
            expected += 1;
            if intake.take(block)? {
                report.imported += 1;
            } else {
                report.skipped += 1;
            }
            if height % 256 == 0 || height == index.last {
                progress(Progress {
                    done: height - index.first + 1,
                    total: index.last - index.first + 1,
                    height,
                });
            }
        }
        if expected != listed.last + 1 {
            let reason = format!("it ends before block {}", listed.last);
            return Err(damaged(&path, reason));
        }
    }
    flush(Some(blocks), state)?;
    let head = blocks.head();
    (report.head, report.head_hash) = (head.height(), head.hash());
    Ok(report)
}

struct Intake<'a> {
    judge: Judge<'a>,
    blocks: &'a BlockStore,
    state: &'a StateStore,
}

impl Intake<'_> {
    /// True if the block was new.
    fn take(&self, block: ImportedBlock) -> Result<bool, OfflineError> {
        fail_point!("engine.offline.import");
        let (height, found) = (block.height(), block.hash());
        let head = self.blocks.head();
        if height <= head.height() {
            return match self.blocks.hash_at(height) {
                Ok(Some(own)) if own != found => {
                    Err(OfflineError::OtherChain { height, own, found })
                }
                // What was pruned here cannot be compared, and need not be.
                Ok(_) | Err(StoreError::Pruned { .. }) => Ok(false),
                Err(e) => Err(e.into()),
            };
        }
        let parent = Parent::of(head.block.header(), head.hash());
        let fault = self.judge.follows(&block, parent);
        if let Some(fault) = fault.or_else(|| self.judge.alone(&block)) {
            return Err(fault.into());
        }
        if let Some(fault) = self.judge.execute(&block, self.blocks, self.state)? {
            return Err(fault.into());
        }
        // The exporter's log is not ours: ours may be shorter, or new. The place of the block before is a safe lower bound; what
        // ordering delivers again is skipped.
        let raft_index = head.raft_index;
        self.blocks.append(Arc::new(ImportedBlock {
            raft_index,
            ..block
        }))?;
        flush_if_due(Some(self.blocks), self.state)?;
        Ok(true)
    }
}
