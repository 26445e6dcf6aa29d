//! Where imported blocks lie: append-only segment files are the truth, an index beside them finds blocks by
//! height, by hash and by transaction.

mod bottom;
mod index;
mod mend;
mod prune;
mod record;
mod segment;
mod synced;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use alloy_primitives::B256;
use parking_lot::{Mutex, RwLock};
use quorate_kv::{Kv, KvError};

use crate::{Anchor, AnchorError, ImportedBlock, SealedBlock, SharedBlock};
use bottom::Bottom;
use index::{Index, Place};
use segment::Segments;

pub use mend::MendError;
pub use prune::PruneReport;
pub(crate) use record::{decode as decode_record, encode as encode_record};

/// So many of the newest blocks stay in memory: receipts are polled within moments of their block.
const RECENT_BLOCKS: usize = 256;

/// Settings of a [`BlockStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// A new segment file begins when the current one has passed so many bytes. Pruning drops whole segments, so this is
    /// also its step.
    pub segment_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
        }
    }
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionLocation {
    /// Height of its block.
    pub height: u64,
    /// Position in the block, from 0.
    pub position: u32,
}

/// Trouble with the store. Each of these stops the node, except [`StoreError::OtherGenesis`], which is the
/// operator's to resolve.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The operating system failed.
    #[error("block store: {action} {file}: {reason}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// A record in the middle of the store does not match its checksum or does not decode.
    #[error("block store is damaged: {file} at byte {offset}: {reason}")]
    Damaged {
        /// Segment file.
        file: String,
        /// Where the record starts.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The folder belongs to another chain.
    #[error(
        "block store holds the chain with genesis {found}, this node is configured for {expected}"
    )]
    OtherGenesis {
        /// Genesis hash in the folder.
        found: B256,
        /// Genesis hash of the configuration.
        expected: B256,
    },
    /// A block was appended out of order.
    #[error("block {got} cannot follow block {head} in the store")]
    OutOfOrder {
        /// Height offered.
        got: u64,
        /// Height of the head.
        head: u64,
    },
    /// The block was here once, or belongs to the part of the chain that this store never had.
    #[error("blocks below {below} are not kept here")]
    Pruned {
        /// Lowest height that is kept, besides genesis.
        below: u64,
    },
    /// A store is to begin in a folder, or with an index, that is in use.
    #[error("a new block store cannot begin in {folder}: {what} is there already")]
    NotEmpty {
        /// The folder.
        folder: String,
        /// What was found.
        what: &'static str,
    },
    /// The block at which a store is to begin is not what its hash stands for.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The index failed.
    #[error("block index: {0}")]
    Index(#[from] KvError),
    /// An earlier write failed; nothing more is accepted.
    #[error("block store refuses work after an earlier failure")]
    Poisoned,
}

/// The store. Appending is for one thread; reading is for all.
#[derive(Debug)]
pub struct BlockStore {
    genesis: SharedBlock,
    segments: Segments,
    index: Index,
    /// Where the store begins.
    bottom: RwLock<Bottom>,
    memory: RwLock<Memory>,
    /// One prune, or one mending, at a time.
    pruning: Mutex<()>,
    /// Heights that could not be read because their records are damaged.
    damaged: Mutex<BTreeSet<u64>>,
    /// Held by a barrier from sync to index, so that two cannot overtake each other.
    barrier: Mutex<()>,
}

#[derive(Debug)]
struct Memory {
    head: SharedBlock,
    recent: VecDeque<SharedBlock>,
    /// Places of blocks that are not in the index yet, by height.
    pending: BTreeMap<u64, Place>,
    heights: HashMap<B256, u64>,
    transactions: HashMap<B256, TransactionLocation>,
    poisoned: bool,
}

impl Memory {
    fn remember(&mut self, block: SharedBlock, place: Place) {
        let height = block.height();
        self.pending.insert(height, place);
        self.heights.insert(block.hash(), height);
        for (position, tx) in block.block.transactions().iter().enumerate() {
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            self.transactions
                .insert(*tx.hash(), TransactionLocation { height, position });
        }
        self.head = Arc::clone(&block);
        self.recent.push_back(block);
        if self.recent.len() > RECENT_BLOCKS {
            self.recent.pop_front();
        }
    }
}

impl BlockStore {
    /// Opens the folder or begins it, cuts a torn tail, and brings the index up to the segments.
    ///
    /// # Errors
    /// [`StoreError`]; a folder of another genesis is refused.
    pub fn open(dir: &Path, index: Arc<dyn Kv>, genesis: SealedBlock) -> Result<Self, StoreError> {
        Self::open_with(StoreConfig::default(), dir, index, genesis)
    }

    /// As [`Self::open`], with other settings.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        config: StoreConfig,
        dir: &Path,
        index: Arc<dyn Kv>,
        genesis: SealedBlock,
    ) -> Result<Self, StoreError> {
        let bottom = Bottom::read(dir, genesis.hash())?;
        let store = Self::assemble(config, dir, index, genesis, bottom)?;
        store.check_bottom(dir)?;
        store.recover()?;
        store.finish_prune()?;
        Ok(store)
    }

    /// Begins a store at a block whose predecessors are not here: [`Self::head`] and [`Self::base`] are that block. From
    /// then on [`Self::open`] opens it. The folder must hold no blocks and the index nothing; both are unusable if this
    /// does not come to its end.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`], [`StoreError::Anchor`] if the anchor contradicts itself, [`StoreError::OtherGenesis`] if it
    /// reaches down to another genesis; else as [`Self::open`].
    pub fn open_from_anchor(
        dir: &Path,
        index: Arc<dyn Kv>,
        genesis: SealedBlock,
        anchor: Anchor,
    ) -> Result<Self, StoreError> {
        anchor.check()?;
        let bottom = Bottom::below(&anchor, genesis.hash())?;
        if Segments::any_in(dir)? || Bottom::exists(dir) {
            return Err(StoreError::NotEmpty {
                folder: dir.display().to_string(),
                what: "a block store",
            });
        }
        if !Index::new(Arc::clone(&index)).is_empty()? {
            return Err(StoreError::NotEmpty {
                folder: dir.display().to_string(),
                what: "an index",
            });
        }
        bottom.write(dir, genesis.hash())?;
        let store = Self::assemble(StoreConfig::default(), dir, index, genesis, bottom)?;
        store.append(Arc::new(anchor.block))?;
        store.barrier()?;
        store.index.barrier()?;
        Ok(store)
    }

    fn assemble(
        config: StoreConfig,
        dir: &Path,
        index: Arc<dyn Kv>,
        genesis: SealedBlock,
        bottom: Bottom,
    ) -> Result<Self, StoreError> {
        let genesis = Arc::new(ImportedBlock {
            block: genesis,
            senders: Vec::new(),
            receipts: Vec::new(),
            raft_index: 0,
        });
        Ok(Self {
            segments: Segments::open(dir, genesis.hash(), config.segment_bytes)?,
            index: Index::new(index),
            bottom: RwLock::new(bottom),
            memory: RwLock::new(Memory {
                head: Arc::clone(&genesis),
                recent: VecDeque::new(),
                pending: BTreeMap::new(),
                heights: HashMap::new(),
                transactions: HashMap::new(),
                poisoned: false,
            }),
            pruning: Mutex::new(()),
            damaged: Mutex::new(BTreeSet::new()),
            barrier: Mutex::new(()),
            genesis,
        })
    }

    /// Scans the segments from the last indexed block on. If the index and the segments disagree (one of
    /// them was restored or lost), the index is made anew from the segments.
    fn recover(&self) -> Result<(), StoreError> {
        fail_point!("blocks.recover");
        let mut start = self.index.last()?;
        let base = self.base();
        if let Some((height, place)) = start {
            let known = height >= base
                && self
                    .segments
                    .read(place)
                    .is_ok_and(|block| block.height() == height);
            if !known {
                tracing::warn!(
                    height,
                    "block index does not fit the segments: making it anew"
                );
                self.index.clear()?;
                start = None;
            }
        }
        let from = start.map(|(_, place)| place);
        let mut scan = self
            .segments
            .scan(from.or_else(|| self.segments.first_from(base)));
        while let Some((block, place)) = scan.next_block()? {
            let block = Arc::new(block);
            if start.is_some_and(|(height, _)| height == block.height()) {
                let mut memory = self.memory.write();
                memory.head = Arc::clone(&block);
                memory.recent.push_back(block);
                continue;
            }
            self.check_follows(&block)?;
            self.memory.write().remember(block, place);
            let backlog = self.memory.read().pending.len();
            if backlog >= 1024 {
                self.barrier()?;
            }
        }
        Ok(())
    }

    fn check_follows(&self, block: &ImportedBlock) -> Result<(), StoreError> {
        let head = self.memory.read().head.height();
        // The first block of a store that began at a snapshot, or was pruned, follows nothing that is here.
        let expected = (head + 1).max(self.base());
        if block.height() != expected {
            return Err(StoreError::OutOfOrder {
                got: block.height(),
                head,
            });
        }
        Ok(())
    }

    /// Appends the block that follows the head. It is readable at once and survives a crash of the process;
    /// it survives a power loss after the next [`Self::barrier`] (until then the Raft log holds it).
    ///
    /// # Errors
    /// [`StoreError`]; after a failed write the store refuses all further work.
    pub fn append(&self, block: SharedBlock) -> Result<(), StoreError> {
        if self.memory.read().poisoned {
            return Err(StoreError::Poisoned);
        }
        self.check_follows(&block)?;
        match self.segments.append(&block) {
            Ok(place) => {
                self.memory.write().remember(block, place);
                Ok(())
            }
            Err(e) => {
                self.memory.write().poisoned = true;
                Err(e)
            }
        }
    }

    /// Makes everything appended so far durable and returns the height up to which that holds.
    ///
    /// # Errors
    /// [`StoreError`]; after a failed sync the store refuses all further work, because the kernel may have
    /// dropped the pages that it could not write.
    pub fn barrier(&self) -> Result<u64, StoreError> {
        let _turn = self.barrier.lock();
        let (height, places) = {
            let memory = self.memory.read();
            if memory.poisoned {
                return Err(StoreError::Poisoned);
            }
            (memory.head.height(), memory.pending.clone())
        };
        let result = self.segments.sync().and_then(|()| {
            let mut blocks = Vec::with_capacity(places.len());
            for (height, place) in &places {
                if let Some(block) = self.block(*height)? {
                    blocks.push((*place, block));
                }
            }
            self.index.write(&blocks)?;
            Ok(blocks)
        });
        let mut memory = self.memory.write();
        match result {
            Ok(blocks) => {
                for (_, block) in blocks {
                    memory.pending.remove(&block.height());
                    memory.heights.remove(&block.hash());
                    for tx in block.block.transactions() {
                        memory.transactions.remove(tx.hash());
                    }
                }
                Ok(height)
            }
            Err(e) => {
                memory.poisoned = true;
                Err(e)
            }
        }
    }

    /// The last imported block; genesis on a new chain.
    pub fn head(&self) -> SharedBlock {
        Arc::clone(&self.memory.read().head)
    }

    /// Block 0.
    pub fn genesis(&self) -> SharedBlock {
        Arc::clone(&self.genesis)
    }

    /// The block at `height`, or `None` above the head.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] below [`Self::base`] (genesis is always there); else if the record is damaged, which is noted in
    /// [`Self::damaged`], or cannot be read.
    pub fn block(&self, height: u64) -> Result<Option<SharedBlock>, StoreError> {
        if height == 0 {
            return Ok(Some(self.genesis()));
        }
        self.check_kept(height)?;
        {
            let memory = self.memory.read();
            if height > memory.head.height() {
                return Ok(None);
            }
            let from_newest = memory.head.height() - height;
            let position = usize::try_from(from_newest)
                .ok()
                .and_then(|back| memory.recent.len().checked_sub(back + 1));
            if let Some(block) = position.and_then(|i| memory.recent.get(i)) {
                return Ok(Some(Arc::clone(block)));
            }
        }
        let Some(place) = self.place_of(height)? else {
            return Ok(None);
        };
        match self.segments.read(place) {
            Ok(block) if block.height() == height => Ok(Some(Arc::new(block))),
            read => {
                // The segment may have been dropped since we looked.
                self.check_kept(height)?;
                let error = match read {
                    Ok(other) => self.segments.another(place, height, other.height()),
                    Err(e) => e,
                };
                if matches!(error, StoreError::Damaged { .. }) {
                    self.note_damage(height);
                }
                Err(error)
            }
        }
    }

    /// Height of the block with this hash.
    ///
    /// Blocks that were pruned are unknown.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] if pruning has reached it and not yet forgotten it; else if the index fails.
    pub fn height_of(&self, hash: &B256) -> Result<Option<u64>, StoreError> {
        if *hash == self.genesis.hash() {
            return Ok(Some(0));
        }
        let known = self.memory.read().heights.get(hash).copied();
        match known {
            Some(height) => Ok(Some(height)),
            None => {
                let found = self.index.height_of(hash)?;
                found.map_or(Ok(()), |height| self.check_kept(height))?;
                Ok(found)
            }
        }
    }

    /// Where the transaction with this hash stands.
    ///
    /// Transactions of blocks that were pruned are unknown.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] if pruning has reached it and not yet forgotten it; else if the index fails.
    pub fn locate(&self, transaction: &B256) -> Result<Option<TransactionLocation>, StoreError> {
        let known = self.memory.read().transactions.get(transaction).copied();
        match known {
            Some(location) => Ok(Some(location)),
            None => {
                let found = self.index.locate(transaction)?;
                found.map_or(Ok(()), |location| self.check_kept(location.height))?;
                Ok(found)
            }
        }
    }

    /// Bytes of all segment files.
    pub fn size_bytes(&self) -> u64 {
        self.segments.size_bytes()
    }
}

#[cfg(test)]
mod tests;
