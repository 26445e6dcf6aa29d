//! Which transactions carried a payload. That is asked for seldom (when a payload is erased, sent once more with other terms, or its
//! deliveries are looked at), and written for each transaction: so it is made cheap to write. The last ones are in memory, and are
//! read again from the records after a start; a great many at a time they are sorted and written as a run, many to a value:
//!
//! ```text
//! q | number of the run (8) | its first entry → entries, rising: begin of the payload's hash (16) | height (8) | position (4)
//! d                                            → number of runs (8) | height up to which they go (8)
//! ```
//! An entry is where to look: it counts if the record there names the payload. After [a rewind](super::Index::rewind) some do not.
//!
//! Format 1 had a key for each (`p`).

use std::collections::BTreeSet;

use parking_lot::Mutex;
use quorate_enclave::PayloadHash;
use quorate_kv::{Batch, Direction, KeyRange, Kv};

use super::{PART_BYTES, damaged};
use crate::{IndexError, PrivateRecord};

/// Entries of a run. More make a lookup faster, take more memory, and more time at the start.
pub(super) const RUN_ENTRIES: usize = 32_768;

const KEY_DONE: &[u8] = b"d";
const BEGIN_BYTES: usize = 16;
const ENTRY_BYTES: usize = BEGIN_BYTES + 12;

/// Begin of a payload's hash, height and position.
type Entry = ([u8; BEGIN_BYTES], u64, u32);

#[derive(Debug)]
pub(super) struct Carried {
    run_entries: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Those that are in no run.
    last: BTreeSet<Entry>,
    runs: u64,
}

impl Carried {
    pub(super) fn new(run_entries: usize) -> Self {
        Self {
            run_entries,
            inner: Mutex::default(),
        }
    }

    /// Takes note of what runs there are, and of the records behind them.
    pub(super) fn load(
        &self,
        runs: u64,
        behind: impl Iterator<Item = Result<PrivateRecord, IndexError>>,
    ) -> Result<(), IndexError> {
        let mut last = BTreeSet::new();
        for record in behind {
            last.extend(entries_of(&record?));
        }
        *self.inner.lock() = Inner { last, runs };
        Ok(())
    }

    /// Takes note of the records of a block that was written; when there are enough, writes a run.
    pub(super) fn add(
        &self,
        kv: &dyn Kv,
        height: u64,
        records: &[PrivateRecord],
    ) -> Result<(), IndexError> {
        let (run, entries) = {
            let mut inner = self.inner.lock();
            inner.last.extend(records.iter().flat_map(entries_of));
            if inner.last.len() < self.run_entries {
                return Ok(());
            }
            (inner.runs, inner.last.clone())
        };
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut batch = Batch::new();
        for together in entries.chunks(PART_BYTES / ENTRY_BYTES) {
            if let Some(first) = together.first() {
                let value: Vec<u8> = together.iter().flat_map(encode).collect();
                batch.put(run_key(run, first), value);
            }
        }
        put_done(&mut batch, run + 1, height);
        kv.write_staged(vec![batch])?;
        // By one caller at a time: nothing was added meanwhile.
        *self.inner.lock() = Inner {
            last: BTreeSet::new(),
            runs: run + 1,
        };
        Ok(())
    }

    /// Where to look for transactions with a payload: height and position.
    pub(super) fn places(
        &self,
        kv: &dyn Kv,
        hash: &PayloadHash,
    ) -> Result<BTreeSet<(u64, u32)>, IndexError> {
        let begin = begin_of(hash);
        let (least, most) = ((begin, 0, 0), (begin, u64::MAX, u32::MAX));
        let (mut found, runs) = {
            let inner = self.inner.lock();
            let last = inner.last.range(least..=most);
            let found: BTreeSet<_> = last.map(|(_, height, at)| (*height, *at)).collect();
            (found, inner.runs)
        };
        for run in 0..runs {
            let mut end = run_key(run, &most);
            end.push(0);
            let range = KeyRange::between(run_prefix(run), end);
            for value in kv.scan(range, Direction::Descending) {
                let (key, value) = value?;
                let entries = decode(&value).ok_or_else(|| damaged(&key, "is no part of a run"))?;
                let ours = entries.iter().filter(|(of, _, _)| *of == begin);
                found.extend(ours.map(|(_, height, position)| (*height, *position)));
                // Others may end the value before.
                if entries.first().is_some_and(|first| *first < least) {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// Number of runs, and the height up to which they go.
pub(super) fn done(kv: &dyn Kv) -> Result<(u64, u64), IndexError> {
    let Some(value) = kv.get(KEY_DONE)? else {
        return Ok((0, 0));
    };
    let (numbers, rest) = value.as_chunks::<8>();
    match (numbers, rest) {
        ([runs, through], []) => Ok((u64::from_be_bytes(*runs), u64::from_be_bytes(*through))),
        _ => Err(damaged(KEY_DONE, "is not 16 bytes")),
    }
}

pub(super) fn put_done(batch: &mut Batch, runs: u64, through: u64) {
    let value = [runs.to_be_bytes(), through.to_be_bytes()].concat();
    batch.put(KEY_DONE, value);
}

/// Of a signed inner transaction both payloads.
fn entries_of(record: &PrivateRecord) -> impl Iterator<Item = Entry> + use<> {
    let hashes = [Some(&record.hash), record.inner_hash.as_ref()];
    let (height, position) = (record.height, record.position);
    hashes
        .map(|hash| hash.map(begin_of))
        .into_iter()
        .flatten()
        .map(move |begin| (begin, height, position))
}

fn begin_of(hash: &PayloadHash) -> [u8; BEGIN_BYTES] {
    let mut begin = [0; BEGIN_BYTES];
    for (to, from) in begin.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    begin
}

fn run_prefix(run: u64) -> Vec<u8> {
    let mut key = b"q".to_vec();
    key.extend_from_slice(&run.to_be_bytes());
    key
}

fn run_key(run: u64, first: &Entry) -> Vec<u8> {
    let mut key = run_prefix(run);
    key.extend(encode(first));
    key
}

fn encode((begin, height, position): &Entry) -> Vec<u8> {
    let mut bytes = begin.to_vec();
    bytes.extend_from_slice(&height.to_be_bytes());
    bytes.extend_from_slice(&position.to_be_bytes());
    bytes
}

fn decode(value: &[u8]) -> Option<Vec<Entry>> {
    let (each, rest) = value.as_chunks::<ENTRY_BYTES>();
    let entry = |bytes: &[u8; ENTRY_BYTES]| {
        let (begin, place) = bytes.split_first_chunk::<BEGIN_BYTES>()?;
        let (height, position) = place.split_first_chunk::<8>()?;
        let position = position.try_into().ok()?;
        Some((
            *begin,
            u64::from_be_bytes(*height),
            u32::from_be_bytes(position),
        ))
    };
    if !rest.is_empty() {
        return None;
    }
    each.iter().map(entry).collect()
}
