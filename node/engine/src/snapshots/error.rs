//! What can go wrong with snapshots, and whose doing it is.

use std::path::Path;

use alloy_primitives::B256;
use quorate_chain::{AnchorError, StoreError};
use quorate_state::{ExportError, RestoreError};

use super::description::DescriptionError;

/// A failed operation on a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} {file}: {reason}")]
pub struct FileError {
    /// What was being done.
    pub action: &'static str,
    /// To which file or folder.
    pub file: String,
    /// What the system said.
    pub reason: String,
}

impl FileError {
    pub(crate) fn new(action: &'static str, file: &Path, error: &std::io::Error) -> Self {
        Self {
            action,
            file: file.display().to_string(),
            reason: error.to_string(),
        }
    }
}

/// Why a snapshot was not made or not served.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state could not be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The block store failed, or the block is pruned.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state is that of genesis, which every node has.
    #[error("nothing but genesis is durable yet")]
    Genesis,
    /// Another snapshot is being made.
    #[error("another snapshot is being made")]
    Busy,
    /// State and blocks of this node contradict each other. The node must stop.
    #[error("state root at height {height} is {state}, the block says {block}")]
    Contradiction {
        /// Height of both.
        height: u64,
        /// Root of the state.
        state: B256,
        /// Root in the block.
        block: B256,
    },
    /// It is not here, or not any more.
    #[error("snapshot {id} is not here")]
    Unknown {
        /// Which one.
        id: B256,
    },
    /// The snapshot has fewer chunks.
    #[error("chunk {number} of {count} chunks does not exist")]
    NoSuchChunk {
        /// Which one was asked for, from 0.
        number: u32,
        /// How many there are.
        count: usize,
    },
    /// Its files are damaged; it has been dropped.
    #[error("snapshot {id} was damaged and is dropped: {reason}")]
    Damaged {
        /// Which one.
        id: B256,
        /// What is wrong.
        reason: String,
    },
}

/// Why a download did not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The description is not one of this chain, or contradicts itself or its anchor.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// The anchor contradicts itself.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The snapshot lies above the block that ordering knows.
    #[error("snapshot is at height {height}, at most {highest} is of use")]
    TooHigh {
        /// Height of the snapshot.
        height: u64,
        /// Height of the block that the caller knows.
        highest: u64,
    },
    /// There is no chunk with this number.
    #[error("chunk {number} of {count} chunks does not exist")]
    NoSuchChunk {
        /// The number.
        number: u32,
        /// How many there are.
        count: usize,
    },
    /// A chunk is not what the description says.
    #[error("chunk {number} is refused: {reason}")]
    Chunk {
        /// Which one.
        number: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// Chunks are missing.
    #[error("{missing} chunks are missing")]
    Incomplete {
        /// How many.
        missing: usize,
    },
    /// A chunk was damaged on our own disk; it is missing again.
    #[error("chunk {number} was damaged on disk: {reason}")]
    Spoiled {
        /// Which one.
        number: u32,
        /// What is wrong.
        reason: &'static str,
    },
}

impl DownloadError {
    /// True if an honest peer could not have sent this. Every arm is written out: a new variant must be judged.
    pub fn blames_peer(&self) -> bool {
        match self {
            Self::Description(_)
            | Self::Anchor(_)
            | Self::NoSuchChunk { .. }
            | Self::Chunk { .. } => true,
            // Its chain may simply be longer by now.
            Self::TooHigh { .. } => false,
            Self::File(_) | Self::Incomplete { .. } | Self::Spoiled { .. } => false,
        }
    }
}

/// Why stores were not exchanged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InstallError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The new state could not be built.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The new block store could not be built.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A new storage could not be opened.
    #[error("new storage in {folder}: {reason}")]
    Open {
        /// Which folder.
        folder: String,
        /// What the storage said.
        reason: String,
    },
    /// An earlier installation is neither confirmed nor reverted.
    #[error("an installation at height {height} is neither confirmed nor reverted")]
    Pending {
        /// Height of its snapshot.
        height: u64,
    },
    /// There is nothing to confirm or to revert.
    #[error("no installation waits for a decision")]
    NothingPending,
    /// Something is in the way that only a human may remove.
    #[error("{path} is in the way: move it aside")]
    InTheWay {
        /// What.
        path: String,
    },
    /// The file that says how far an installation got is damaged.
    #[error("{file} is damaged: {reason}")]
    Journal {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

impl InstallError {
    /// True if the snapshot's source cannot have been honest: mark it, and fetch another one elsewhere.
    pub fn blames_source(&self) -> bool {
        match self {
            Self::Restore(error) => error.blames_source(),
            Self::Store(StoreError::Anchor(_) | StoreError::OtherGenesis { .. }) => true,
            Self::Store(_)
            | Self::File(_)
            | Self::Open { .. }
            | Self::Pending { .. }
            | Self::NothingPending
            | Self::InTheWay { .. }
            | Self::Journal { .. } => false,
        }
    }
}
