//! Bringing the state up to the blocks at start.

use std::sync::Arc;

use quorate_chain::{BlockStore, Genesis, RecoveredTransaction};
use quorate_state::StateStore;

use crate::{Fatal, Ledger};

/// Progress is logged every so many blocks.
const PROGRESS_BLOCKS: u64 = 5_000;

/// Executes the stored blocks above the state's durable height again, so that both stores are at the same
/// height. Every root is compared with the block's.
///
/// # Errors
/// [`Fatal::Recovery`] if a stored block does not execute to what it says, or if the state is ahead of the
/// blocks: then the state must be moved aside and built anew from block 0.
pub fn catch_up_state(
    genesis: &Genesis,
    blocks: &Arc<BlockStore>,
    state: &Arc<StateStore>,
) -> Result<(), Fatal> {
    let from = state.durable_height();
    let head = blocks.head().height();
    if from > head {
        return Err(Fatal::Recovery {
            height: from,
            reason: format!("the state is at {from}, the block store ends at {head}"),
        });
    }
    let ledger = Ledger::new(genesis, Arc::clone(blocks), Arc::clone(state));
    for height in from + 1..=head {
        let Some(block) = blocks.block(height)? else {
            return Err(Fatal::Recovery {
                height,
                reason: "the block is missing".into(),
            });
        };
        let recovered: Vec<RecoveredTransaction> = block.recovered().collect();
        let parent = state.latest();
        let header = block.block.header();
        let context = Ledger::context_of(header);
        let outcome = quorate_evm::execute_block(
            genesis.spec(),
            context,
            &parent,
            &ledger.hashes(),
            &recovered,
        )
        .map_err(|e| Fatal::Recovery {
            height,
            reason: e.to_string(),
        })?;
        let after = parent.apply(&outcome.diff).map_err(|e| Fatal::Recovery {
            height,
            reason: e.to_string(),
        })?;
        if after.state_root() != header.state_root {
            return Err(Fatal::Recovery {
                height,
                reason: format!(
                    "state root {} instead of {}",
                    after.state_root(),
                    header.state_root
                ),
            });
        }
        state.advance(after).map_err(|e| Fatal::StateWrite {
            reason: e.to_string(),
        })?;
        if state.needs_flush()
            && let Some(job) = state.flush_job()
        {
            blocks.barrier()?;
            job.run().map_err(|e| Fatal::StateWrite {
                reason: e.to_string(),
            })?;
        }
        if height % PROGRESS_BLOCKS == 0 {
            tracing::info!(height, head, "re-executing stored blocks");
        }
    }
    if head > from {
        tracing::info!(
            blocks = head - from,
            head,
            "state is up to the stored blocks again"
        );
    }
    Ok(())
}
