//! Finding blocks: `n` height → place, `h` block hash → height, `t` transaction hash → height and position,
//! `m` the last indexed height. Everything here can be made anew from the segments.

use std::sync::Arc;

use alloy_primitives::B256;
use quorate_kv::{Batch, Direction, KeyRange, Kv, KvError};

use super::TransactionLocation;
use crate::{ImportedBlock, SharedBlock};

/// Where a record starts: the first height of its segment (its name) and the byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

const LAST: &[u8] = b"m";

#[derive(Debug)]
pub(super) struct Index {
    kv: Arc<dyn Kv>,
}

impl Index {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv }
    }

    pub(super) fn write(&self, blocks: &[(Place, SharedBlock)]) -> Result<(), KvError> {
        let Some((_, last)) = blocks.last() else {
            return Ok(());
        };
        fail_point!("blocks.index");
        let mut batch = Batch::new();
        for (place, block) in blocks {
            let height = block.height().to_be_bytes();
            batch.put(key(b'n', &height), pair(place.segment, place.offset));
            batch.put(key(b'h', block.hash().as_slice()), height.to_vec());
            for (position, tx) in (0u64..).zip(block.block.transactions()) {
                batch.put(
                    key(b't', tx.hash().as_slice()),
                    pair(block.height(), position),
                );
            }
        }
        batch.put(LAST.to_vec(), last.height().to_be_bytes().to_vec());
        self.kv.write(batch)?;
        fail_point!("blocks.index.done");
        Ok(())
    }

    pub(super) fn last(&self) -> Result<Option<(u64, Place)>, KvError> {
        let Some(height) = self.kv.get(LAST)?.and_then(|v| number(&v)) else {
            return Ok(None);
        };
        Ok(self.place(height)?.map(|place| (height, place)))
    }

    pub(super) fn place(&self, height: u64) -> Result<Option<Place>, KvError> {
        let value = self.kv.get(&key(b'n', &height.to_be_bytes()))?;
        Ok(value
            .and_then(|v| unpair(&v))
            .map(|(segment, offset)| Place { segment, offset }))
    }

    pub(super) fn height_of(&self, hash: &B256) -> Result<Option<u64>, KvError> {
        Ok(self
            .kv
            .get(&key(b'h', hash.as_slice()))?
            .and_then(|v| number(&v)))
    }

    pub(super) fn locate(&self, hash: &B256) -> Result<Option<TransactionLocation>, KvError> {
        let value = self.kv.get(&key(b't', hash.as_slice()))?;
        Ok(value
            .and_then(|v| unpair(&v))
            .and_then(|(height, position)| {
                Some(TransactionLocation {
                    height,
                    position: u32::try_from(position).ok()?,
                })
            }))
    }

    /// Removes the entries of blocks that are no longer kept.
    pub(super) fn forget(&self, blocks: &[ImportedBlock]) -> Result<(), KvError> {
        fail_point!("blocks.prune.forget");
        let mut batch = Batch::new();
        for block in blocks {
            batch.delete(key(b'n', &block.height().to_be_bytes()));
            batch.delete(key(b'h', block.hash().as_slice()));
            for tx in block.block.transactions() {
                batch.delete(key(b't', tx.hash().as_slice()));
            }
        }
        self.kv.write(batch)
    }

    pub(super) fn barrier(&self) -> Result<(), KvError> {
        self.kv.barrier()
    }

    /// True if nothing was ever indexed.
    pub(super) fn is_empty(&self) -> Result<bool, KvError> {
        let mut entries = self.kv.scan(KeyRange::all(), Direction::Ascending);
        entries.next().transpose().map(|first| first.is_none())
    }

    /// Forgets how far the index reaches; entries are overwritten by the scan that follows.
    pub(super) fn clear(&self) -> Result<(), KvError> {
        let mut batch = Batch::new();
        batch.delete(LAST.to_vec());
        self.kv.write(batch)
    }
}

fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

fn pair(a: u64, b: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(16);
    value.extend_from_slice(&a.to_be_bytes());
    value.extend_from_slice(&b.to_be_bytes());
    value
}

fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

fn unpair(value: &[u8]) -> Option<(u64, u64)> {
    let (a, b) = value.split_at_checked(8)?;
    Some((number(a)?, number(b)?))
}
