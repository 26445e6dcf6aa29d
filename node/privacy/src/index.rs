//! What lies on disk beside private state, in a key-value storage of its own. Numbers are big-endian:
//!
//! ```text
//! f                                        → format (1) | chain id (8) | genesis hash (32)
//! c                                        → cursor (8) | starts at (8) | records (8) | erased (8)
//! h | private height (8)                   → height of the block that led to it (8)
//! b | block height (8)                     → private height after it (8) | root of private state (32)
//! s | contract (20) | private height (8)   → root of the contract's storage from there on (32)
//! n | block height (8) | position (4) | part (2) → part of the block's records from that position on, RLP, one behind the other
//! q | run (8) | first entry (28)           → payloads and where their transactions are: see [`carried`]
//! d                                        → number of runs (8) | height up to which they go (8)
//! m | contract (20) | part (2)             → part of the contract's metadata, RLP
//! x | offer (20) | part (2)                → part of the extension, RLP
//! y | contract (20) | offer (20)           → nothing
//! z | vote's transaction (32)              → what came of an accepting vote, RLP
//! z | vote's transaction (32) | part (2)   → part of the contract's state then, RLP
//! ```
//! and, written by format 1 and still read:
//!
//! ```text
//! o | block height (8) | position (4)      → private transactions of the block from there on, in order, each hash (32) | 1 if erased
//! r | transaction (32) | part (2)          → part of the record, RLP
//! p | payload hash (64) | transaction (32) → nothing
//! ```
//! The index is written before private state is, and may be ahead of it after a crash; [`Index::rewind`] takes that back.

mod carried;
mod codec;
mod contracts;
mod extensions;
mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Address, B256};
use alloy_trie::EMPTY_ROOT_HASH;
use quorate_enclave::PayloadHash;
use quorate_kv::{Batch, Direction, KeyRange, Kv};

use crate::{ContractMetadata, Extension, IndexError, PrivateRecord, RecordOutcome};

use carried::Carried;
use contracts::ContractCache;
pub(crate) use extensions::{Handover, PAGE_BYTES};

pub(crate) const FORMAT: u8 = 2;
/// A format that is read, and written no more.
const FORMAT_EARLIER: u8 = 1;
const KEY_FORMAT: &[u8] = b"f";
const KEY_CURSOR: &[u8] = b"c";

/// Bytes per part: a value of the storage has at most 4096.
const PART_BYTES: usize = 4000;

/// From this size on a batch goes the way that does not hold others up, and is durable at once.
const STAGED_BYTES_MIN: usize = 1 << 20;

/// The chain that an index belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) chain_id: u64,
    pub(crate) genesis_hash: B256,
}

/// How far execution was when this was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) cursor: u64,
    pub(crate) starts_at: u64,
    pub(crate) records: u64,
    pub(crate) erased: u64,
}

/// What a block changed of private state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) private_height: u64,
    pub(crate) root: B256,
    /// Storage roots of the contracts that changed.
    pub(crate) storage_roots: Vec<(Address, B256)>,
}

/// What a block did to extensions of contracts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Extended {
    pub(crate) extensions: Vec<Extension>,
    pub(crate) handovers: Vec<Handover>,
}

/// How an index was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Empty,
    Ours,
    /// Ours, of an earlier format.
    Earlier,
    Other(B256),
    Format(u8),
}

#[derive(Debug, Clone)]
pub(crate) struct Index {
    kv: Arc<dyn Kv>,
    contracts: Arc<ContractCache>,
    carried: Arc<Carried>,
    /// Height of the last block whose records are of the earlier format; the highest there is until that is known.
    earlier: Arc<AtomicU64>,
}

impl Index {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> Self {
        Self {
            kv,
            contracts: Arc::default(),
            carried: Arc::new(Carried::new(carried::RUN_ENTRIES)),
            earlier: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    pub(crate) fn find(&self, chain: &Chain) -> Result<Found, IndexError> {
        let Some(value) = self.kv.get(KEY_FORMAT)? else {
            return Ok(Found::Empty);
        };
        let format = value.first().copied().unwrap_or_default();
        let found = match format {
            FORMAT => Found::Ours,
            FORMAT_EARLIER => Found::Earlier,
            other => return Ok(Found::Format(other)),
        };
        if value.get(1..) == encode_chain(chain).get(1..) {
            return Ok(found);
        }
        let hash = value.get(9..).and_then(|bytes| B256::try_from(bytes).ok());
        hash.map(Found::Other)
            .ok_or_else(|| damaged(KEY_FORMAT, "is not 41 bytes"))
    }

    /// Makes an empty index one of this chain.
    pub(crate) fn begin(&self, chain: &Chain, position: Position) -> Result<(), IndexError> {
        let mut batch = Batch::new();
        batch.put(KEY_FORMAT, encode_chain(chain));
        batch.put(KEY_CURSOR, encode_position(&position));
        self.kv.write(batch)?;
        Ok(self.kv.barrier()?)
    }

    /// Makes an index of the earlier format, whose last block is `cursor`, one of this format. What it has stays as it is.
    pub(crate) fn upgrade(&self, chain: &Chain, cursor: u64) -> Result<(), IndexError> {
        let mut batch = Batch::new();
        batch.put(KEY_FORMAT, encode_chain(chain));
        carried::put_done(&mut batch, 0, cursor);
        self.kv.write(batch)?;
        Ok(self.kv.barrier()?)
    }

    /// Reads what is held in memory. Once, after [`rewind`](Self::rewind) and [`upgrade`](Self::upgrade).
    pub(crate) fn load(&self) -> Result<(), IndexError> {
        let earlier = self.last_of_earlier_format()?;
        self.earlier.store(earlier, Ordering::Relaxed);
        let (runs, through) = carried::done(&*self.kv)?;
        let behind = self.records(through.saturating_add(1), u64::MAX);
        self.carried.load(runs, behind)
    }

    pub(crate) fn position(&self) -> Result<Position, IndexError> {
        let value = self.kv.get(KEY_CURSOR)?;
        value
            .and_then(|value| decode_position(&value))
            .ok_or_else(|| damaged(KEY_CURSOR, "is missing or not 32 bytes"))
    }

    pub(crate) fn set_position(&self, position: &Position) -> Result<(), IndexError> {
        let mut batch = Batch::new();
        batch.put(KEY_CURSOR, encode_position(position));
        Ok(self.kv.write(batch)?)
    }

    pub(crate) fn barrier(&self) -> Result<(), IndexError> {
        Ok(self.kv.barrier()?)
    }

    /// Writes what came of a block, at once.
    pub(crate) fn write_block(
        &self,
        position: &Position,
        change: Option<&Change>,
        records: &[PrivateRecord],
        contracts: &[ContractMetadata],
        extended: &Extended,
    ) -> Result<(), IndexError> {
        let mut batch = Batch::new();
        for extension in &extended.extensions {
            extensions::put_extension(&mut batch, extension)?;
        }
        for handover in &extended.handovers {
            extensions::put_handover(&mut batch, handover)?;
        }
        for contract in contracts {
            let bytes = codec::encode_contract(contract);
            put_parts(&mut batch, &contract_key(&contract.address), &bytes)?;
        }
        Self::put_records(&mut batch, records)?;
        if let Some(change) = change {
            let private = change.private_height;
            batch.put(height_key(b'h', private), position.cursor.to_be_bytes());
            let mut value = private.to_be_bytes().to_vec();
            value.extend_from_slice(change.root.as_slice());
            batch.put(height_key(b'b', position.cursor), value);
            for (contract, root) in &change.storage_roots {
                batch.put(storage_root_key(contract, private), root.to_vec());
            }
        }
        batch.put(KEY_CURSOR, encode_position(position));
        if batch.size_bytes() >= STAGED_BYTES_MIN {
            self.kv.write_staged(vec![batch])?;
        } else {
            self.kv.write(batch)?;
        }
        if !contracts.is_empty() {
            self.contracts.written();
        }
        self.carried.add(&*self.kv, position.cursor, records)
    }

    /// Height of the block that led to this private height.
    pub(crate) fn block_of(&self, private_height: u64) -> Result<Option<u64>, IndexError> {
        let key = height_key(b'h', private_height);
        let Some(value) = self.kv.get(&key)? else {
            return Ok(None);
        };
        let height = value.as_slice().try_into().map(u64::from_be_bytes);
        height
            .map(Some)
            .map_err(|_| damaged(&key, "is not 8 bytes"))
    }

    /// The last change at or before a block: its private height and root.
    pub(crate) fn change_at(&self, height: u64) -> Result<Option<(u64, B256)>, IndexError> {
        let mut end = height_key(b'b', height);
        end.push(0);
        let range = KeyRange::between(height_key(b'b', 0), end);
        let Some(entry) = self.kv.scan(range, Direction::Descending).next() else {
            return Ok(None);
        };
        let (key, value) = entry?;
        let split = value.split_first_chunk::<8>();
        let change = split.and_then(|(private, root)| {
            Some((u64::from_be_bytes(*private), B256::try_from(root).ok()?))
        });
        change
            .map(Some)
            .ok_or_else(|| damaged(&key, "is not 40 bytes"))
    }

    /// Root of a contract's storage at a private height; that of the empty trie if it has none.
    pub(crate) fn storage_root(&self, contract: &Address, height: u64) -> Result<B256, IndexError> {
        let mut end = storage_root_key(contract, height);
        end.push(0);
        let range = KeyRange::between(storage_root_key(contract, 0), end);
        match self.kv.scan(range, Direction::Descending).next() {
            None => Ok(EMPTY_ROOT_HASH),
            Some(entry) => {
                let (key, value) = entry?;
                B256::try_from(value.as_slice()).map_err(|_| damaged(&key, "is not 32 bytes"))
            }
        }
    }

    /// Records of transactions that carried a payload.
    pub(crate) fn records_of(&self, hash: &PayloadHash) -> Result<Vec<PrivateRecord>, IndexError> {
        let mut found = Vec::new();
        let old = KeyRange::prefix(old_payload_key(hash, &[]));
        for entry in self.kv.scan(old, Direction::Ascending) {
            let (key, _) = entry?;
            let transaction = key.get(65..).and_then(|bytes| B256::try_from(bytes).ok());
            let transaction = transaction.ok_or_else(|| damaged(&key, "is no transaction"))?;
            found.extend(self.old_record(&transaction)?);
        }
        let carries = |record: &PrivateRecord| {
            record.hash == *hash || record.inner_hash.as_ref() == Some(hash)
        };
        for (height, position) in self.carried.places(&*self.kv, hash)? {
            found.extend(self.record_at(height, position)?.filter(carries));
        }
        Ok(found)
    }

    pub(crate) fn contract(
        &self,
        address: &Address,
    ) -> Result<Option<ContractMetadata>, IndexError> {
        let since = match self.contracts.get(address) {
            Ok(contract) => return Ok(Some(contract)),
            Err(since) => since,
        };
        let key = contract_key(address);
        let Some(bytes) = self.parts(&key)? else {
            return Ok(None);
        };
        let contract = codec::decode_contract(&bytes).map_err(|reason| damaged(&key, &reason))?;
        self.contracts.put(&contract, since);
        Ok(Some(contract))
    }

    /// Contracts by rising address, after the given one.
    pub(crate) fn contracts_after(
        &self,
        after: Option<Address>,
    ) -> impl Iterator<Item = Result<Address, IndexError>> + '_ {
        let start = after.map_or_else(
            || b"m".to_vec(),
            |address| {
                let mut key = contract_key(&address);
                key.extend_from_slice(&[0xff; 3]);
                key
            },
        );
        let range = KeyRange::prefix_from(b"m", start);
        self.kv
            .scan(range, Direction::Ascending)
            .filter_map(|entry| match entry {
                Ok((key, _)) if key.len() == 23 && key.ends_with(&[0, 0]) => {
                    let address = key
                        .get(1..21)
                        .and_then(|bytes| Address::try_from(bytes).ok());
                    Some(address.ok_or_else(|| damaged(&key, "is no contract")))
                }
                Ok(_) => None,
                Err(error) => Some(Err(error.into())),
            })
    }

    /// Takes back everything of blocks after `cursor` and of private heights after `private_height`, and says where execution is
    /// now.
    pub(crate) fn rewind(&self, cursor: u64, private_height: u64) -> Result<Position, IndexError> {
        let mut position = self.position()?;
        let mut batch = Batch::new();
        for record in self.records(cursor.saturating_add(1), u64::MAX) {
            self.take_back(
                &mut batch,
                &record?,
                (cursor, private_height),
                &mut position,
            )?;
        }
        let kinds = [
            (b'h', private_height),
            (b'b', cursor),
            (b'n', cursor),
            (b'o', cursor),
        ];
        for (kind, after) in kinds {
            let range = KeyRange::prefix_from(&[kind], height_key(kind, after.saturating_add(1)));
            for entry in self.kv.scan(range, Direction::Ascending) {
                batch.delete(entry?.0);
            }
        }
        let (runs, through) = carried::done(&*self.kv)?;
        if through > cursor {
            carried::put_done(&mut batch, runs, cursor);
        }
        self.rewind_extensions(&mut batch, cursor)?;
        position.cursor = cursor;
        batch.put(KEY_CURSOR, encode_position(&position));
        self.kv.write_staged(vec![batch])?;
        self.contracts.written();
        Ok(position)
    }

    fn take_back(
        &self,
        batch: &mut Batch,
        record: &PrivateRecord,
        (cursor, private_height): (u64, u64),
        position: &mut Position,
    ) -> Result<(), IndexError> {
        let transaction = &record.transaction;
        position.records = position.records.saturating_sub(1);
        if record.outcome == RecordOutcome::Erased {
            position.erased = position.erased.saturating_sub(1);
        }
        let mut ranges = vec![KeyRange::prefix(records::old_record_key(transaction))];
        for address in &record.affected {
            if self
                .contract(address)?
                .is_some_and(|contract| contract.created_at > cursor)
            {
                ranges.push(KeyRange::prefix(contract_key(address)));
            }
            // What changed was affected.
            let later = private_height.saturating_add(1);
            let start = storage_root_key(address, later);
            ranges.push(KeyRange::prefix_from(&contract_roots(address), start));
        }
        for range in ranges {
            for entry in self.kv.scan(range, Direction::Ascending) {
                batch.delete(entry?.0);
            }
        }
        for hash in [Some(&record.hash), record.inner_hash.as_ref()]
            .into_iter()
            .flatten()
        {
            batch.delete(old_payload_key(hash, transaction.as_slice()));
        }
        Ok(())
    }

    fn parts(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let mut bytes = None;
        for entry in self
            .kv
            .scan(KeyRange::prefix(prefix.to_vec()), Direction::Ascending)
        {
            bytes
                .get_or_insert_with(Vec::new)
                .extend_from_slice(&entry?.1);
        }
        Ok(bytes)
    }
}

/// Returns the number of parts.
fn put_parts(batch: &mut Batch, prefix: &[u8], bytes: &[u8]) -> Result<usize, IndexError> {
    let parts = bytes.chunks(PART_BYTES);
    let count = parts.len();
    for (part, bytes) in parts.enumerate() {
        let number = u16::try_from(part).map_err(|_| damaged(prefix, "has too many parts"))?;
        let mut key = prefix.to_vec();
        key.extend_from_slice(&number.to_be_bytes());
        batch.put(key, bytes);
    }
    Ok(count)
}

fn height_key(kind: u8, height: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&height.to_be_bytes());
    key
}

fn contract_key(address: &Address) -> Vec<u8> {
    let mut key = b"m".to_vec();
    key.extend_from_slice(address.as_slice());
    key
}

/// Key of format 1 that says that a transaction carried a payload, or the begin of all of that payload.
fn old_payload_key(hash: &PayloadHash, transaction: &[u8]) -> Vec<u8> {
    let mut key = b"p".to_vec();
    key.extend_from_slice(hash.as_bytes());
    key.extend_from_slice(transaction);
    key
}

fn contract_roots(contract: &Address) -> Vec<u8> {
    let mut key = b"s".to_vec();
    key.extend_from_slice(contract.as_slice());
    key
}

fn storage_root_key(contract: &Address, private_height: u64) -> Vec<u8> {
    let mut key = contract_roots(contract);
    key.extend_from_slice(&private_height.to_be_bytes());
    key
}

fn encode_chain(chain: &Chain) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&chain.chain_id.to_be_bytes());
    value.extend_from_slice(chain.genesis_hash.as_slice());
    value
}

fn encode_position(position: &Position) -> Vec<u8> {
    let Position {
        cursor,
        starts_at,
        records,
        erased,
    } = *position;
    [cursor, starts_at, records, erased]
        .map(u64::to_be_bytes)
        .concat()
}

fn decode_position(value: &[u8]) -> Option<Position> {
    let (numbers, rest) = value.as_chunks::<8>();
    let [cursor, starts_at, records, erased] = <[[u8; 8]; 4]>::try_from(numbers).ok()?;
    rest.is_empty().then(|| Position {
        cursor: u64::from_be_bytes(cursor),
        starts_at: u64::from_be_bytes(starts_at),
        records: u64::from_be_bytes(records),
        erased: u64::from_be_bytes(erased),
    })
}

pub(crate) fn damaged(key: &[u8], reason: &str) -> IndexError {
    IndexError::Damaged {
        key: alloy_primitives::hex::encode_prefixed(key),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
