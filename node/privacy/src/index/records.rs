//! Records of private transactions, in chain order. Those of a block lie one behind the other, as many to a value as fit: a key costs
//! the storage nearly the same whatever is under it.
//!
//! Format 1 had a key for each record (`r`), and the order of a block's transactions beside it (`o`). Such entries stay as they are
//! and are read; no height has entries of both kinds.

use std::sync::atomic::Ordering;

use alloy_primitives::B256;
use quorate_kv::{Batch, Direction, KeyRange};

use super::{Index, PART_BYTES, codec, damaged, height_key, put_parts};
use crate::{IndexError, PrivateRecord};

/// Bytes of a transaction in the order of its block: its hash, and 1 if its payload was erased.
const ORDERED_BYTES: usize = 33;

/// Bytes of the kind, height and position that begin a key.
const PLACE_BYTES: usize = 13;

/// Records that share a value.
struct Together {
    /// Their key, without the number of a part.
    place: Vec<u8>,
    records: Vec<PrivateRecord>,
}

impl Index {
    /// Enters the records of a block, in order.
    pub(super) fn put_records(
        batch: &mut Batch,
        records: &[PrivateRecord],
    ) -> Result<(), IndexError> {
        let mut together: Option<(Vec<u8>, Vec<u8>)> = None;
        for record in records {
            let bytes = codec::encode_record(record);
            match &mut together {
                Some((_, value)) if value.len() + bytes.len() <= PART_BYTES => value.extend(bytes),
                _ => {
                    let key = place_key(record.height, record.position);
                    if let Some((key, value)) = together.replace((key, bytes)) {
                        put_parts(batch, &key, &value)?;
                    }
                }
            }
        }
        match together {
            Some((key, value)) => put_parts(batch, &key, &value).map(drop),
            None => Ok(()),
        }
    }

    /// The record of the transaction at a position of a block.
    pub(crate) fn record_at(
        &self,
        height: u64,
        position: u32,
    ) -> Result<Option<PrivateRecord>, IndexError> {
        let found = match self.together_with(height, position)? {
            Some(together) => {
                let mut records = together.records.into_iter();
                records.find(|record| record.position == position)
            }
            None => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        let old = self.old_records(height, height);
        old.into_iter()
            .find(|r| !matches!(r, Ok(record) if record.position != position))
            .transpose()
    }

    /// Records of blocks in a range, both ends included, in chain order.
    pub(crate) fn records(
        &self,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = Result<PrivateRecord, IndexError>> + '_ {
        let mut entries = self
            .kv
            .scan(heights(b'n', from, to), Direction::Ascending)
            .peekable();
        let groups = std::iter::from_fn(move || {
            let (key, mut bytes) = match entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let place = key.get(..PLACE_BYTES).unwrap_or_default().to_vec();
            while let Some(more) = entries
                .next_if(|entry| matches!(entry, Ok((key, _)) if key.starts_with(&place)))
                .and_then(Result::ok)
            {
                bytes.extend_from_slice(&more.1);
            }
            Some(codec::decode_records(&bytes).map_err(|reason| damaged(&key, &reason)))
        });
        let new = groups.flat_map(|group| match group {
            Ok(records) => records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        self.old_records(from, to).chain(new)
    }

    /// Writes a record again whose input was taken out. Durable with the next [`barrier`](Self::barrier).
    pub(crate) fn replace_record(&self, record: &PrivateRecord) -> Result<(), IndexError> {
        let mut batch = Batch::new();
        let (key, bytes) = match self.together_with(record.height, record.position)? {
            Some(Together { place, mut records }) => {
                let same = |old: &&mut PrivateRecord| old.position == record.position;
                if let Some(old) = records.iter_mut().find(same) {
                    *old = record.clone();
                }
                let bytes = records.iter().flat_map(codec::encode_record);
                (place, bytes.collect())
            }
            None => (
                old_record_key(&record.transaction),
                codec::encode_record(record),
            ),
        };
        let kept = put_parts(&mut batch, &key, &bytes)?;
        let old = self.kv.scan(KeyRange::prefix(key), Direction::Ascending);
        for entry in old.skip(kept) {
            batch.delete(entry?.0);
        }
        Ok(self.kv.write(batch)?)
    }

    /// The records that share a value with the one at this position, if it is in this format, and their key.
    fn together_with(&self, height: u64, position: u32) -> Result<Option<Together>, IndexError> {
        let mut end = place_key(height, position);
        // Behind all parts of what begins here.
        end.extend_from_slice(&[0xff; 3]);
        let range = KeyRange::between(height_key(b'n', height), end);
        let Some(last) = self.kv.scan(range, Direction::Descending).next() else {
            return Ok(None);
        };
        let (key, mut bytes) = last?;
        let place = key.get(..PLACE_BYTES).unwrap_or_default().to_vec();
        if !key.ends_with(&[0, 0]) {
            bytes = self.parts(&place)?.unwrap_or_default();
        }
        let records = codec::decode_records(&bytes).map_err(|reason| damaged(&key, &reason))?;
        let holds = records.iter().any(|record| record.position == position);
        Ok(holds.then_some(Together { place, records }))
    }

    /// Records of format 1.
    fn old_records(
        &self,
        from: u64,
        to: u64,
    ) -> impl Iterator<Item = Result<PrivateRecord, IndexError>> + '_ {
        // Every block that is read asks here, and nearly none has such records.
        let any = from <= self.earlier.load(Ordering::Relaxed);
        let ordered = any.then(|| self.kv.scan(heights(b'o', from, to), Direction::Ascending));
        let ordered = ordered.into_iter().flatten();
        let transactions = ordered.flat_map(|entry| match entry {
            Ok((key, value)) => match decode_order(&value) {
                Some(found) => found.into_iter().map(Ok).collect(),
                None => vec![Err(damaged(&key, "is no list of transactions"))],
            },
            Err(error) => vec![Err(error.into())],
        });
        transactions.filter_map(|transaction| {
            transaction
                .and_then(|transaction| self.old_record(&transaction))
                .transpose()
        })
    }

    /// Height of the last block with records of format 1; 0 if there is none.
    pub(super) fn last_of_earlier_format(&self) -> Result<u64, IndexError> {
        let all = KeyRange::prefix(b"o".to_vec());
        let Some(last) = self.kv.scan(all, Direction::Descending).next() else {
            return Ok(0);
        };
        let (key, _) = last?;
        let height = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
        height
            .map(u64::from_be_bytes)
            .ok_or_else(|| damaged(&key, "has no height"))
    }

    /// A record of format 1.
    pub(super) fn old_record(
        &self,
        transaction: &B256,
    ) -> Result<Option<PrivateRecord>, IndexError> {
        let key = old_record_key(transaction);
        let Some(bytes) = self.parts(&key)? else {
            return Ok(None);
        };
        let record = codec::decode_record(&bytes);
        record.map(Some).map_err(|reason| damaged(&key, &reason))
    }
}

/// Everything of a kind whose keys begin with a height, both ends included.
fn heights(kind: u8, from: u64, to: u64) -> KeyRange {
    match to.checked_add(1) {
        Some(after) => KeyRange::between(height_key(kind, from), height_key(kind, after)),
        None => KeyRange::prefix_from(&[kind], height_key(kind, from)),
    }
}

fn place_key(height: u64, position: u32) -> Vec<u8> {
    let mut key = height_key(b'n', height);
    key.extend_from_slice(&position.to_be_bytes());
    key
}

/// Key of a record of format 1, without the number of its part.
pub(super) fn old_record_key(transaction: &B256) -> Vec<u8> {
    let mut key = b"r".to_vec();
    key.extend_from_slice(transaction.as_slice());
    key
}

/// Transactions of a block, of format 1.
fn decode_order(value: &[u8]) -> Option<Vec<B256>> {
    let (each, rest) = value.as_chunks::<ORDERED_BYTES>();
    let transaction = |bytes: &[u8; ORDERED_BYTES]| {
        let (hash, _) = bytes.split_first_chunk::<32>()?;
        Some(B256::new(*hash))
    };
    if !rest.is_empty() || each.is_empty() {
        return None;
    }
    each.iter().map(transaction).collect()
}
