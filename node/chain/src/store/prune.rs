//! The lower end of the store: what is kept, what is dropped, and what can still be asked about the dropped part.

use std::path::Path;

use alloy_consensus::Header;
use alloy_primitives::B256;

use super::bottom::Bottom;
use super::segment::damaged;
use super::{BlockStore, StoreError};
use crate::{ANCESTORS, Anchor, ImportedBlock};

/// Blocks whose index entries are removed with one write: sled holds readers up while it applies a batch.
const FORGET_BLOCKS: usize = 64;

/// What a prune achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneReport {
    /// Lowest height that is held from now on, besides genesis.
    pub base: u64,
    /// Segment files that were removed.
    pub segments: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl BlockStore {
    /// Lowest height above 0 whose block is held; 1 if nothing is missing. Genesis is always there.
    pub fn base(&self) -> u64 {
        self.bottom.read().base
    }

    pub(super) fn check_kept(&self, height: u64) -> Result<(), StoreError> {
        let below = self.base();
        if height > 0 && height < below {
            return Err(StoreError::Pruned { below });
        }
        Ok(())
    }

    /// Hash of the block at `height`, or `None` above the head. The 256 heights below [`Self::base`] are answered too.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] further down; else as [`Self::block`].
    pub fn hash_at(&self, height: u64) -> Result<Option<B256>, StoreError> {
        if let Some((hash, _)) = self.bottom.read().ancestor(height) {
            return Ok(Some(*hash));
        }
        Ok(self.block(height)?.map(|block| block.hash()))
    }

    /// Header of the block at `height`; as [`Self::hash_at`].
    ///
    /// # Errors
    /// As [`Self::hash_at`].
    pub fn header_at(&self, height: u64) -> Result<Option<Header>, StoreError> {
        if let Some((_, header)) = self.bottom.read().ancestor(height) {
            return Ok(Some(header.clone()));
        }
        Ok(self
            .block(height)?
            .map(|block| block.block.header().clone()))
    }

    /// The block at `height` with what another store needs to begin at it; `None` above the head.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] below [`Self::base`]; else as [`Self::block`].
    pub fn anchor(&self, height: u64) -> Result<Option<Anchor>, StoreError> {
        let Some(block) = self.block(height)? else {
            return Ok(None);
        };
        Ok(Some(Anchor {
            block: ImportedBlock::clone(&block),
            ancestors: self.headers_below(height)?,
        }))
    }

    pub(super) fn headers_below(&self, height: u64) -> Result<Vec<Header>, StoreError> {
        let count = Anchor::ancestors_at(height) as u64;
        let mut headers = Vec::with_capacity(ANCESTORS);
        for ancestor in height - count..height {
            let header = self.header_at(ancestor)?;
            headers.push(header.ok_or(StoreError::Pruned { below: height })?);
        }
        Ok(headers)
    }

    /// Drops the segments all of whose blocks lie below `below`, with their index entries. At least the newest 256 blocks
    /// stay, and whole segments go or stay, so [`PruneReport::base`] may be lower than asked for. The caller must not ask
    /// for more than the durable height of its state plus one: those blocks are executed again at the next start.
    ///
    /// It may run while others read and append. Stopped at any point, the next [`Self::open`] finishes it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn prune(&self, below: u64) -> Result<PruneReport, StoreError> {
        let _turn = self.pruning.lock();
        let newest_kept = self.head().height().saturating_sub(ANCESTORS as u64 - 1);
        let below = below.min(newest_kept);
        let firsts = self.segments.firsts();
        // A segment ends where the next one begins, so the last one never goes.
        let base = firsts
            .into_iter()
            .take_while(|first| *first <= below)
            .last();
        let Some(base) = base.filter(|base| *base > self.base()) else {
            return Ok(PruneReport {
                base: self.base(),
                segments: 0,
                bytes: 0,
            });
        };
        // Everything that is going to be dropped must be in the index first, or its entries would appear afterwards.
        self.barrier()?;
        fail_point!("blocks.prune");
        let bottom = Bottom::new(base, self.headers_below(base)?);
        bottom.write(self.segments.dir(), self.genesis.hash())?;
        *self.bottom.write() = bottom;
        self.drop_below_base()
    }

    /// Removes what lies below the base: index entries first, since the segments say which ones those are.
    fn drop_below_base(&self) -> Result<PruneReport, StoreError> {
        let base = self.base();
        let start = self.segments.first_from(0);
        // Height of the record that comes next: a segment is named by its first.
        let mut due = start.map_or(base, |place| place.segment);
        let mut scan = self.segments.scan(start);
        let mut blocks = Vec::with_capacity(FORGET_BLOCKS);
        loop {
            match scan.next_block() {
                Ok(Some((block, place))) if place.segment < base => {
                    due = block.height() + 1;
                    blocks.push(block);
                }
                Ok(_) => break,
                // What goes need not be readable. Its hash and its transactions stay in the index, as those of a pruned block.
                Err(e @ StoreError::Damaged { .. }) => {
                    tracing::warn!(height = due, error = %e, "a block that is dropped was damaged");
                    let next = (due + 1..base).find_map(|height| match self.place_of(height) {
                        Ok(Some(place)) => Some(Ok((height, place))),
                        Ok(None) => None,
                        Err(e) => Some(Err(e)),
                    });
                    let Some((height, place)) = next.transpose()? else {
                        break;
                    };
                    due = height;
                    scan = self.segments.scan(Some(place));
                }
                Err(e) => return Err(e),
            }
            if blocks.len() == FORGET_BLOCKS {
                self.index.forget(&blocks)?;
                blocks.clear();
            }
        }
        self.index.forget(&blocks)?;
        // Once the segments are gone nobody knows any more what was to be removed.
        self.index.barrier()?;
        let (segments, bytes) = self.segments.remove_below(base)?;
        tracing::info!(base, segments, bytes, "pruned blocks");
        Ok(PruneReport {
            base,
            segments,
            bytes,
        })
    }

    /// Goes on with a prune that was interrupted after it had written the new base.
    pub(super) fn finish_prune(&self) -> Result<(), StoreError> {
        let base = self.base();
        if self.segments.firsts().first().is_some_and(|f| *f < base) {
            self.drop_below_base()?;
        }
        Ok(())
    }

    /// The base must be the beginning of a segment, or blocks are missing.
    pub(super) fn check_bottom(&self, dir: &Path) -> Result<(), StoreError> {
        let base = self.base();
        let firsts = self.segments.firsts();
        let is_new = firsts.is_empty() && base == 1 && !self.segments.was_used();
        if is_new || firsts.contains(&base) {
            return Ok(());
        }
        let reason = format!("the segment that begins at block {base} is missing");
        Err(damaged(dir, 0, &reason))
    }
}
