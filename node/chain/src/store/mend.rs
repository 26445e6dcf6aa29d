//! Damage at rest: which blocks could not be read any more, and putting the same block back in their place.
//!
//! A record keeps its place and its length, so neither the index nor the records around it change.

use alloy_primitives::B256;

use super::index::Place;
use super::segment::framed;
use super::{BlockStore, StoreError};
use crate::{AnchorError, ImportedBlock, check_content};

/// Damaged blocks that are remembered at once. Further ones are found again when they are read again.
const DAMAGED_MAX: usize = 4_096;

/// Why a block was not put in the place of a damaged one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MendError {
    /// The store failed, or the block above cannot be read either: that one comes first.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Only blocks between genesis and head can be mended.
    #[error("block {height} cannot be mended: the head is {head}")]
    NotStored {
        /// Height asked for.
        height: u64,
        /// Height of the head.
        head: u64,
    },
    /// It is not the block that the next one follows.
    #[error("block {height} offered is {got}, the block above it follows {expected}")]
    OtherBlock {
        /// Height of both.
        height: u64,
        /// Hash of what was offered.
        got: B256,
        /// Hash that the block must have.
        expected: B256,
    },
    /// Seal, transactions, senders or receipts do not belong to its header.
    #[error(transparent)]
    Content(#[from] AnchorError),
    /// Its record is not as long as the one that was there.
    #[error(
        "block {height} makes no record of {room} bytes, which is what there is between its neighbours"
    )]
    Misfit {
        /// Its height.
        height: u64,
        /// Bytes from the start of its record to the start of the next.
        room: u64,
    },
}

impl BlockStore {
    /// Heights of blocks that were found damaged when they were read, rising. At most 4,096 are remembered.
    pub fn damaged(&self) -> Vec<u64> {
        let base = self.base();
        let mut damaged = self.damaged.lock();
        // What was pruned since needs no mending.
        damaged.retain(|height| *height >= base);
        damaged.iter().copied().collect()
    }

    /// Notes a block that cannot be read.
    pub(super) fn note_damage(&self, height: u64) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < DAMAGED_MAX && damaged.insert(height) {
            drop(damaged);
            tracing::error!(height, "a stored block is damaged");
        }
    }

    /// True if the block at `height` can be read (again): then it is not among the damaged any more.
    ///
    /// # Errors
    /// As [`Self::block`], but for damage.
    pub fn is_whole(&self, height: u64) -> Result<bool, StoreError> {
        match self.block(height) {
            Ok(found) => {
                self.damaged.lock().remove(&height);
                Ok(found.is_some())
            }
            Err(StoreError::Damaged { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The hash that the block at `height` has, read from the block above it.
    ///
    /// # Errors
    /// [`MendError::NotStored`] at genesis and from the head on, [`MendError::Store`] if the block above cannot be read.
    pub fn hash_from_above(&self, height: u64) -> Result<B256, MendError> {
        let head = self.head().height();
        let above = match height {
            0 => None,
            _ if height >= head => None,
            _ => self.block(height + 1)?,
        };
        let above = above.ok_or(MendError::NotStored { height, head })?;
        Ok(above.block.header().parent_hash)
    }

    /// Writes a block over the damaged record of the same block, durably. The caller has its receipts from executing it; its
    /// log index, which nobody else knows, becomes a lower bound of what it was. Does nothing if the record is whole.
    ///
    /// # Errors
    /// [`MendError`]; a failed sync makes the store refuse all further work.
    pub fn mend(&self, mut block: ImportedBlock) -> Result<(), MendError> {
        let height = block.height();
        let expected = self.hash_from_above(height)?;
        let got = block.hash();
        if got != expected {
            return Err(MendError::OtherBlock {
                height,
                got,
                expected,
            });
        }
        check_content(&block)?;
        // One at a time, and none while segments are dropped.
        let _turn = self.pruning.lock();
        if self.is_whole(height)? {
            return Ok(());
        }
        let head = self.head().height();
        let missing = MendError::NotStored { height, head };
        let place = self.place_of(height)?.ok_or_else(|| missing.clone())?;
        let next = self.place_of(height + 1)?.ok_or(missing)?;
        // The last record of a segment ends where the file ends, wherever damage has put that.
        let room = (next.segment == place.segment).then(|| next.offset - place.offset);
        let record = self.fitting(&mut block, room)?;
        if let Err(e) = self.segments.overwrite(place, &record, room.is_none()) {
            // Pages of other blocks may be lost with it.
            self.memory.write().poisoned = true;
            return Err(e.into());
        }
        match self.is_whole(height)? {
            true => Ok(()),
            false => Err(MendError::Misfit {
                height,
                room: record.len() as u64,
            }),
        }
    }

    /// The record of a block with a log index that makes it as long as it was: no lower than that of the block below, no
    /// higher than that of the block above.
    fn fitting(&self, block: &mut ImportedBlock, room: Option<u64>) -> Result<Vec<u8>, MendError> {
        let height = block.height();
        let index_of = |height: u64| match self.block(height) {
            Ok(found) => Ok(found.map(|block| block.raft_index)),
            // Its neighbour may be damaged as well, or pruned.
            Err(StoreError::Damaged { .. } | StoreError::Pruned { .. }) => Ok(None),
            Err(e) => Err(e),
        };
        let low = index_of(height - 1)?.unwrap_or_default();
        let high = index_of(height + 1)?.unwrap_or(u64::MAX);
        // From these numbers on, a number is one byte longer in RLP.
        let steps = std::iter::once(0x80).chain((1..8).map(|bytes| 1u64 << (8 * bytes)));
        let within = steps.filter(|step| low < *step && *step <= high);
        for raft_index in std::iter::once(low).chain(within) {
            block.raft_index = raft_index;
            let record = framed(self.segments.dir(), block)?;
            if room.is_none_or(|room| room == record.len() as u64) {
                return Ok(record);
            }
        }
        let room = room.unwrap_or_default();
        Err(MendError::Misfit { height, room })
    }

    /// Where the record of a block lies; `None` if it is not known.
    pub(super) fn place_of(&self, height: u64) -> Result<Option<Place>, StoreError> {
        // First what is not in the index yet: it leaves memory only after it has come there.
        let pending = self.memory.read().pending.get(&height).copied();
        match pending {
            Some(place) => Ok(Some(place)),
            None => Ok(self.index.place(height)?),
        }
    }
}
