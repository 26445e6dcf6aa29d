//! What an operator does with a node's folder while the node does not run: verify it, move blocks out and in, make it smaller.
//!
//! None of this opens a storage: the caller does, and makes sure that nobody else has the folder open.

mod error;
mod export;
mod file;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod import;
pub(crate) mod judge;
#[cfg(test)]
mod tests;
mod verify;

use quorate_chain::{BlockStore, PruneReport};
use quorate_state::{HistoryPruned, StateStore};

pub use error::{Fault, FaultKind, OfflineError};
pub use export::{BLOCKS_PER_FILE, ExportReport, export};
pub use import::{ImportReport, import};
pub use verify::{Check, VerifyReport, VerifyTask, verify};

/// Where a long task is. Told every few hundred blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Blocks that are done.
    pub done: u64,
    /// Blocks in all.
    pub total: u64,
    /// Height of the last one that is done.
    pub height: u64,
}

/// Told where a long task is.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// What a prune of blocks and history achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Of the block store.
    pub blocks: PruneReport,
    /// Of the state's old values.
    pub history: HistoryPruned,
}

/// Drops blocks and old state values below a height, as far as whole segments, the newest 256 blocks and the durable height of
/// the state allow. A running node may call it too.
///
/// # Errors
/// [`OfflineError::Store`] or [`OfflineError::State`].
pub fn prune(blocks: &BlockStore, state: &StateStore, below: u64) -> Result<Pruned, OfflineError> {
    let below = below.min(state.durable_height());
    let blocks = blocks.prune(below)?;
    // Both end at one height, so that whoever asks for it gets one answer.
    let history = state.prune_history(blocks.base)?;
    Ok(Pruned { blocks, history })
}
