//! Where payloads lie, in the key-value store. All keys begin with `ep/`, numbers in keys are big-endian:
//!
//! ```text
//! h | hash (64)                        → 1 | segment | offset | length (u32) | sequence | stored at | expires at, 0 for never
//!                                      or 2 | sequence | erased at | reason (1) | note
//! t | stored at | sequence             → list of all payloads
//! p | party (32) | stored at | sequence → list of a party's
//! e | erased at | sequence             → list of erasures
//! x | expires at | hash                → nothing
//! b | segment | offset | length (u32)  → nothing: to be made blank
//! w                                    → segment and offset up to which the files are in here | next sequence | newest time
//! ```
//! It is written after the files, in their order, without barriers of its own: after a crash the files are read again from `w` on.
//! [Lists](super::lists) share values. An entry under `t`, `p` or `x` counts only if `h` has the same sequence or hash; one that
//! was left behind means nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_kv::{Batch, Direction, KeyRange, Kv};

use super::lists::{self, ListChanges, Step};
use super::record::{PayloadRecord, TombstoneRecord};
use super::segment::Place;
use super::{Erasure, ErasureReason, StoreError};
use crate::{Envelope, PayloadHash, PublicKey};

const PREFIX: &[u8] = b"ep/";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Live(Live),
    Erased(Erasure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) place: Place,
    pub(super) sequence: u64,
    pub(super) stored_at_ms: u64,
    pub(super) expires_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Watermark {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) next_sequence: u64,
    pub(super) newest_ms: u64,
}

/// What is to be written at once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    batch: Batch,
    lists: ListChanges,
}

impl Changes {
    /// For records that are read again: those that were moved lie behind later ones.
    pub(super) fn again() -> Self {
        Self {
            lists: ListChanges::apart(),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
pub(super) struct Index {
    kv: Arc<dyn Kv>,
}

/// Everyone whose boxes an envelope holds, and its sender.
pub(super) fn parties_of(envelope: &Envelope) -> BTreeSet<PublicKey> {
    envelope.recipients().chain([envelope.sender()]).collect()
}

impl Index {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv }
    }

    /// Writes changes, with how far the files are in the index then.
    pub(super) fn write(&self, changes: Changes, mark: &Watermark) -> Result<(), StoreError> {
        let Changes { mut batch, lists } = changes;
        lists.write(&mut batch);
        let numbers = [
            mark.segment,
            mark.offset,
            mark.next_sequence,
            mark.newest_ms,
        ];
        let value: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        batch.put(key(b'w', &[]), value);
        Ok(self.kv.write(batch)?)
    }

    pub(super) fn watermark(&self) -> Result<Option<Watermark>, StoreError> {
        let Some(value) = self.kv.get(&key(b'w', &[]))? else {
            return Ok(None);
        };
        let mut rest = value.as_slice();
        let read = (|| {
            Some(Watermark {
                segment: number(&mut rest)?,
                offset: number(&mut rest)?,
                next_sequence: number(&mut rest)?,
                newest_ms: number(&mut rest)?,
            })
        })();
        read.map(Some).ok_or(StoreError::Index { entry: "w" })
    }

    pub(super) fn entry(&self, hash: &PayloadHash) -> Result<Option<Entry>, StoreError> {
        let value = self.kv.get(&key(b'h', &[hash.as_bytes()]))?;
        let Some(value) = value else { return Ok(None) };
        let entry = decode_entry(*hash, &value).ok_or(StoreError::Index { entry: "h" })?;
        Ok(Some(entry))
    }

    /// Enters a payload, or its new place. `replaced` is what the old place held, if it could be read.
    pub(super) fn put_payload(
        &self,
        changes: &mut Changes,
        record: &PayloadRecord,
        place: Place,
        replaced: Option<(&Live, Option<&Envelope>)>,
    ) -> Result<(), StoreError> {
        let hash = record.hash.as_bytes();
        let mut value = vec![1];
        value.extend_from_slice(&place.segment.to_be_bytes());
        value.extend_from_slice(&place.offset.to_be_bytes());
        value.extend_from_slice(&place.length.to_be_bytes());
        value.extend_from_slice(&record.sequence.to_be_bytes());
        value.extend_from_slice(&record.stored_at_ms.to_be_bytes());
        value.extend_from_slice(&record.expires_at_ms.unwrap_or(0).to_be_bytes());
        changes.batch.put(key(b'h', &[hash]), value);
        if let Some((live, envelope)) = replaced {
            // One that was only moved stands where it stood.
            if live.sequence == record.sequence {
                return Ok(());
            }
            self.remove(changes, &record.hash, live, envelope)?;
        }
        let step = Step {
            time_ms: record.stored_at_ms,
            sequence: record.sequence,
            hash: record.hash,
        };
        changes.lists.add(key(b't', &[]), step);
        for party in parties_of(&record.envelope) {
            changes.lists.add(key(b'p', &[party.as_bytes()]), step);
        }
        if let Some(at) = record.expires_at_ms {
            let key = key(b'x', &[&at.to_be_bytes(), hash]);
            changes.batch.put(key, Vec::new());
        }
        Ok(())
    }

    pub(super) fn put_tombstone(
        &self,
        changes: &mut Changes,
        record: &TombstoneRecord,
        old: Option<(&Live, Option<&Envelope>)>,
    ) -> Result<(), StoreError> {
        if let Some((live, envelope)) = old {
            self.remove(changes, &record.hash, live, envelope)?;
        }
        let mut value = vec![2];
        value.extend_from_slice(&record.sequence.to_be_bytes());
        value.extend_from_slice(&record.erased_at_ms.to_be_bytes());
        value.push(record.reason.number());
        value.extend_from_slice(record.note.as_bytes());
        let entry = key(b'h', &[record.hash.as_bytes()]);
        changes.batch.put(entry, value);
        let step = Step {
            time_ms: record.erased_at_ms,
            sequence: record.sequence,
            hash: record.hash,
        };
        changes.lists.add(key(b'e', &[]), step);
        Ok(())
    }

    fn remove(
        &self,
        changes: &mut Changes,
        hash: &PayloadHash,
        live: &Live,
        envelope: Option<&Envelope>,
    ) -> Result<(), StoreError> {
        let mut prefixes = vec![key(b't', &[])];
        let parties = envelope.map(parties_of).unwrap_or_default();
        prefixes.extend(parties.iter().map(|party| key(b'p', &[party.as_bytes()])));
        for prefix in prefixes {
            let place = (live.stored_at_ms, live.sequence);
            changes.lists.remove(&*self.kv, &prefix, place)?;
        }
        if let Some(at) = live.expires_at_ms {
            let key = key(b'x', &[&at.to_be_bytes(), hash.as_bytes()]);
            changes.batch.delete(key);
        }
        Ok(())
    }

    pub(super) fn put_to_blank(changes: &mut Changes, place: Place) {
        changes.batch.put(blank_key(place), Vec::new());
    }

    pub(super) fn blanked(&self, places: &[Place]) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        for place in places {
            batch.delete(blank_key(*place));
        }
        Ok(self.kv.write(batch)?)
    }

    /// What a crash kept from being made blank.
    pub(super) fn to_blank(&self) -> Result<Vec<Place>, StoreError> {
        let mut places = Vec::new();
        for entry in self
            .kv
            .scan(KeyRange::prefix(key(b'b', &[])), Direction::Ascending)
        {
            let (found, _) = entry?;
            let mut rest = found.get(PREFIX.len() + 1..).unwrap_or_default();
            let read = (|| {
                Some(Place {
                    segment: number(&mut rest)?,
                    offset: number(&mut rest)?,
                    length: u32::from_be_bytes(rest.try_into().ok()?),
                })
            })();
            places.push(read.ok_or(StoreError::Index { entry: "b" })?);
        }
        Ok(places)
    }

    /// Steps of the listing of all payloads, of one party's, or of erasures, behind (time, sequence).
    pub(super) fn steps(
        &self,
        of: Listing<'_>,
        from_ms: u64,
        from_sequence: u64,
    ) -> impl Iterator<Item = Result<Step, StoreError>> + '_ {
        let prefix = match of {
            Listing::All => key(b't', &[]),
            Listing::Party(party) => key(b'p', &[party.as_bytes()]),
            Listing::Erasures => key(b'e', &[]),
        };
        lists::steps(&*self.kv, prefix, (from_ms, from_sequence))
    }

    /// Payloads whose time is over, with that time, oldest first, behind one of them.
    pub(super) fn expired(
        &self,
        now_ms: u64,
        after: Option<(u64, PayloadHash)>,
    ) -> impl Iterator<Item = Result<(u64, PayloadHash), StoreError>> + '_ {
        let end = key(b'x', &[&now_ms.saturating_add(1).to_be_bytes()]);
        let start = after.map_or(key(b'x', &[]), |(at_ms, hash)| {
            key(b'x', &[&at_ms.to_be_bytes(), hash.as_bytes(), &[0]])
        });
        let range = KeyRange::between(start, end);
        self.kv.scan(range, Direction::Ascending).map(|entry| {
            let (key, _) = entry?;
            let mut rest = key.get(PREFIX.len() + 1..).unwrap_or_default();
            let at = number(&mut rest);
            let hash = rest.try_into().ok().map(PayloadHash::from_bytes);
            at.zip(hash).ok_or(StoreError::Index { entry: "x" })
        })
    }

    /// Removes an expiry that has nothing to expire.
    pub(super) fn forget_expiry(&self, at_ms: u64, hash: &PayloadHash) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        batch.delete(key(b'x', &[&at_ms.to_be_bytes(), hash.as_bytes()]));
        Ok(self.kv.write(batch)?)
    }
}

pub(super) enum Listing<'a> {
    All,
    Party(&'a PublicKey),
    Erasures,
}

fn decode_entry(hash: PayloadHash, value: &[u8]) -> Option<Entry> {
    let (kind, mut rest) = value.split_first()?;
    match *kind {
        1 => {
            let segment = number(&mut rest)?;
            let offset = number(&mut rest)?;
            let (length, mut rest) = rest.split_first_chunk::<4>()?;
            let live = Live {
                place: Place {
                    segment,
                    offset,
                    length: u32::from_be_bytes(*length),
                },
                sequence: number(&mut rest)?,
                stored_at_ms: number(&mut rest)?,
                expires_at_ms: Some(number(&mut rest)?).filter(|at| *at > 0),
            };
            rest.is_empty().then_some(Entry::Live(live))
        }
        2 => {
            let sequence = number(&mut rest)?;
            let erased_at_ms = number(&mut rest)?;
            let (reason, note) = rest.split_first()?;
            Some(Entry::Erased(Erasure {
                hash,
                sequence,
                erased_at_ms,
                reason: ErasureReason::from_number(*reason)?,
                note: String::from_utf8(note.to_vec()).ok()?,
            }))
        }
        _ => None,
    }
}

fn blank_key(place: Place) -> Vec<u8> {
    let (segment, offset) = (place.segment.to_be_bytes(), place.offset.to_be_bytes());
    key(b'b', &[&segment, &offset, &place.length.to_be_bytes()])
}

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_be_bytes(*number))
}
