//! Judging a stored block by itself, by its parent, and by executing it.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, U256};
use quorate_chain::{
    AnchorError, BlockStore, BlockTemplate, ChainSpec, DraftBlock, ExecutedRoots, Genesis,
    ImportedBlock, check_content,
};
use quorate_evm::{BlockHashes, ExecuteError};
use quorate_state::StateStore;

use super::error::{Fault, FaultKind, OfflineError};
use crate::Ledger;
use crate::verify::first_difference;

/// What the next block must follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent {
    pub(crate) height: u64,
    pub(crate) hash: B256,
    pub(crate) timestamp: u64,
}

impl Parent {
    pub(crate) fn of(header: &alloy_consensus::Header, hash: B256) -> Self {
        Self {
            height: header.number,
            hash,
            timestamp: header.timestamp,
        }
    }
}

/// The rules of one chain.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    spec: &'a ChainSpec,
    gas_limit: u64,
    /// Whose seals count; `None`: anybody's, if it is the coinbase.
    sealers: Option<&'a BTreeSet<Address>>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(genesis: &'a Genesis, sealers: Option<&'a BTreeSet<Address>>) -> Self {
        Self {
            spec: genesis.spec(),
            gas_limit: genesis.gas_limit(),
            sealers,
        }
    }

    /// Seal, transactions, senders and receipts against the header, and the header against what needs no other block.
    pub(crate) fn alone(&self, block: &ImportedBlock) -> Option<Fault> {
        let header = block.block.header();
        let fault = |kind, reason| {
            Some(Fault {
                height: block.height(),
                kind,
                reason,
            })
        };
        if let Err(error) = check_content(block) {
            return fault(kind_of(&error), error.to_string());
        }
        let is_sealer = |sealers: &BTreeSet<Address>| sealers.contains(&header.beneficiary);
        if !self.sealers.is_none_or(is_sealer) {
            let reason = format!("{} is not among the members given", header.beneficiary);
            return fault(FaultKind::Seal, reason);
        }
        if header.gas_limit != self.gas_limit {
            let reason = format!("gas limit {} is not {}", header.gas_limit, self.gas_limit);
            return fault(FaultKind::Header, reason);
        }
        if header.difficulty != U256::ZERO {
            return fault(FaultKind::Header, "difficulty is not 0".to_owned());
        }
        None
    }

    pub(crate) fn follows(&self, block: &ImportedBlock, parent: Parent) -> Option<Fault> {
        let header = block.block.header();
        let fault = |kind, reason| {
            Some(Fault {
                height: block.height(),
                kind,
                reason,
            })
        };
        if header.parent_hash != parent.hash || parent.height.checked_add(1) != Some(header.number)
        {
            let reason = format!(
                "its parent is {}, block {} is {}",
                header.parent_hash, parent.height, parent.hash
            );
            return fault(FaultKind::Parent, reason);
        }
        if header.timestamp < parent.timestamp {
            let reason = format!("time {} is before its parent's", header.timestamp);
            return fault(FaultKind::Header, reason);
        }
        None
    }

    /// Executes a block on the head of `state` and makes the result the new head. Returns what differs from the block; then
    /// the state stays where it is.
    pub(crate) fn execute(
        &self,
        block: &ImportedBlock,
        blocks: &BlockStore,
        state: &StateStore,
    ) -> Result<Option<Fault>, OfflineError> {
        let header = block.block.header();
        let fault = |kind, reason| Fault {
            height: block.height(),
            kind,
            reason,
        };
        let transactions: Vec<_> = block.recovered().collect();
        let parent = state.latest();
        let context = Ledger::context_of(header);
        let hashes = StoredHashes(blocks);
        let executed =
            quorate_evm::execute_block(self.spec, context, &parent, &hashes, &transactions);
        let outcome = match executed {
            Ok(outcome) => outcome,
            Err(ExecuteError::State(e)) => return Err(e.into()),
            Err(e) => return Ok(Some(fault(FaultKind::Execution, e.to_string()))),
        };
        let after = parent.apply(&outcome.diff)?;
        let roots = ExecutedRoots {
            state_root: after.state_root(),
            gas_used: outcome.gas_used,
        };
        let template = BlockTemplate {
            parent_hash: header.parent_hash,
            height: header.number,
            timestamp: header.timestamp,
            coinbase: header.beneficiary,
            gas_limit: header.gas_limit,
        };
        let draft = DraftBlock::new(&template, self.spec, transactions, &outcome.receipts, roots);
        let mut ours = draft.header().clone();
        // Free for the leader to choose.
        ours.extra_data = header.extra_data.clone();
        if let Some((what, ours, theirs)) = first_difference(&ours, header) {
            let reason = format!("{what} is {ours} by execution, {theirs} in the header");
            return Ok(Some(fault(FaultKind::Execution, reason)));
        }
        if outcome.receipts != block.receipts {
            let reason = "the stored receipts are not those of its execution".to_owned();
            return Ok(Some(fault(FaultKind::Receipts, reason)));
        }
        // Built on the head just now, by the only one who has this state.
        if let Err(e) = state.advance(after) {
            return Ok(Some(fault(FaultKind::Execution, e.to_string())));
        }
        Ok(None)
    }
}

fn kind_of(error: &AnchorError) -> FaultKind {
    match error {
        AnchorError::Malformed { .. } => FaultKind::Record,
        AnchorError::Genesis | AnchorError::Ancestors { .. } | AnchorError::Chain { .. } => {
            FaultKind::Parent
        }
        AnchorError::Seal { .. } => FaultKind::Seal,
        AnchorError::Content { what, .. } if *what == "transactionsRoot" => FaultKind::Transactions,
        AnchorError::Content { .. } => FaultKind::Receipts,
        AnchorError::Transaction { what, .. } if what.ends_with("receipt") => FaultKind::Receipts,
        AnchorError::Transaction { .. } => FaultKind::Transactions,
    }
}

/// Hashes of stored blocks, for the EVM.
struct StoredHashes<'a>(&'a BlockStore);

impl BlockHashes for StoredHashes<'_> {
    fn block_hash(&self, height: u64) -> Option<B256> {
        self.0.hash_at(height).ok().flatten()
    }
}

/// Makes a state durable if its policy asks for it, after the blocks that explain it.
pub(crate) fn flush_if_due(
    blocks: Option<&BlockStore>,
    state: &StateStore,
) -> Result<(), OfflineError> {
    if state.needs_flush() || state.flush_overdue() {
        flush(blocks, state)?;
    }
    Ok(())
}

pub(crate) fn flush(blocks: Option<&BlockStore>, state: &StateStore) -> Result<(), OfflineError> {
    if let Some(blocks) = blocks {
        blocks.barrier()?;
    }
    if let Some(job) = state.flush_job() {
        job.run()?;
    }
    Ok(())
}
