//! The durable store of envelopes by payload hash: append-only segment files ([`segment`]) hold them, the key-value store holds
//! where they lie ([`index`]).
//!
//! ```text
//! put ── append to the last segment ── fdatasync (one for all that wait) ──► acknowledged ── index, many at a time
//! erase ── append a tombstone ── fdatasync ── index ── overwrite the payload ── fdatasync ──► acknowledged
//! open ── finish what was to be overwritten ── read the files again from the index's watermark on
//! ```
//! The files are the truth; an index that was lost is made anew from them. New payloads are looked for in memory until they are in the
//! index: a batch of the key-value store costs nearly the same for one as for a hundred. A crash between any two steps loses nothing that was
//! acknowledged and leaves nothing half done. Calls block on the disk: make them from a thread that may.

mod commit;
mod compact;
mod erase;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod index;
mod lists;
mod record;
mod recover;
mod segment;
mod types;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_kv::Kv;

pub use types::{
    BESIDE_BYTES_MAX, Beside, Cursor, DamagedRecord, Erasure, ErasureReason, LIST_LIMIT_MAX,
    ListQuery, Listed, NOTE_BYTES_MAX, Put, StoreConfig, StoreError, Stored, ToStore,
};

use crate::{Envelope, PayloadHash};
use index::{Entry, Index, Listing, Live};
use record::{PayloadRecord, Record};
use recover::check_watermark;
use segment::{Found, Place, Segments, damaged};

/// Chooses between what lies beside a payload and what is given.
type Choose<'a> = dyn Fn(&PayloadHash, Option<&Bytes>, &Bytes) -> Beside + 'a;

/// A store of envelopes. See the module.
#[derive(Debug)]
pub struct PayloadStore {
    index: Index,
    inner: Mutex<Inner>,
    /// Held by the one that syncs for all. Taken before `inner`, never the other way round.
    commit: Mutex<()>,
    found_at_open: Vec<DamagedRecord>,
}

#[derive(Debug)]
struct Inner {
    segments: Segments,
    /// Appended and not durable yet, oldest first. As long as the number of callers that wait.
    pending: Vec<Arc<Pending>>,
    /// Durable and not in the index yet, oldest first, behind the watermark and before what is pending. New payloads only, each once.
    unindexed: Vec<Arc<Pending>>,
    /// The segment that the index's watermark lies in; 0 if there is none.
    marked_segment: u64,
    next_ticket: u64,
    /// Tickets below this one are done.
    committed: u64,
    next_sequence: u64,
    newest_ms: u64,
    poison: Option<String>,
}

#[derive(Debug)]
struct Pending {
    hash: PayloadHash,
    record: Record,
    place: Place,
    /// A payload of which nothing was here before.
    new: bool,
}

impl PayloadStore {
    /// Opens the store in `dir`, whose index lies in `kv` under keys that begin with `ep/`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if records are missing or the files cannot be followed: move folder and index away and fetch the
    /// payloads from other parties. Single damaged records do not stop it: see [`damaged_at_open`](Self::damaged_at_open).
    pub fn open(dir: &Path, kv: Arc<dyn Kv>, config: &StoreConfig) -> Result<Self, StoreError> {
        if !(4096..=1 << 30).contains(&config.segment_bytes) {
            return Err(StoreError::OutOfRange {
                field: "segment_bytes",
                value: config.segment_bytes,
                allowed: "4096 to 1073741824",
            });
        }
        let index = Index::new(kv);
        let segments = Segments::open(dir, config.segment_bytes)?;
        let mark = index.watermark()?;
        check_watermark(dir, &segments, mark.as_ref())?;
        let mut store = Self {
            index,
            inner: Mutex::new(Inner {
                segments,
                pending: Vec::new(),
                unindexed: Vec::new(),
                marked_segment: mark.map_or(0, |mark| mark.segment),
                next_ticket: 1,
                committed: 1,
                next_sequence: mark.map_or(1, |mark| mark.next_sequence),
                newest_ms: mark.map_or(0, |mark| mark.newest_ms),
                poison: None,
            }),
            commit: Mutex::new(()),
            found_at_open: Vec::new(),
        };
        // First, since a crash may have left such a record half overwritten.
        store.blank(&store.index.to_blank()?)?;
        store.found_at_open = store.read_again(mark)?;
        store.blank(&store.index.to_blank()?)?;
        Ok(store)
    }

    /// Damaged records that were met while opening. Only what the index did not cover is read then; [`verify`](Self::verify)
    /// reads everything.
    pub fn damaged_at_open(&self) -> &[DamagedRecord] {
        &self.found_at_open
    }

    /// Stores an envelope durably. What is here already gains the boxes and the signature that it lacked.
    ///
    /// Open the envelope, or verify its signature, before storing it: the hash it is stored under covers the ciphertext alone.
    ///
    /// # Errors
    /// [`StoreError::Erased`], [`StoreError::Conflict`], [`StoreError::NotWritten`]; the others end this instance.
    pub fn put(
        &self,
        envelope: &Envelope,
        now_ms: u64,
        expires_at_ms: Option<u64>,
    ) -> Result<Put, StoreError> {
        let item = ToStore {
            envelope: envelope.clone(),
            expires_at_ms,
            beside: None,
        };
        let (ticket, put) = self.append_envelope(item, now_ms, &|_, _, _| Beside::New)?;
        if let Some(ticket) = ticket {
            self.commit_through(ticket)?;
        }
        Ok(put)
    }

    /// As [`put`](Self::put), for several: one wait for the disk for all of them. Of a payload that is here with something else
    /// beside it, or nothing, `choose` says what it is to be. What came of each, in their order.
    pub fn put_all(
        &self,
        items: Vec<ToStore>,
        now_ms: u64,
        choose: &Choose<'_>,
    ) -> Vec<Result<Put, StoreError>> {
        let append = |item| self.append_envelope(item, now_ms, choose);
        let appended: Vec<_> = items.into_iter().map(append).collect();
        let tickets = appended.iter().flatten().filter_map(|(ticket, _)| *ticket);
        let committed = tickets
            .max()
            .map_or(Ok(()), |last| self.commit_through(last));
        let done = |appended: Result<(Option<u64>, Put), StoreError>| match appended? {
            (Some(_), put) => committed.clone().map(|()| put),
            (None, put) => Ok(put),
        };
        appended.into_iter().map(done).collect()
    }

    /// Appends an envelope; durable once its ticket is. No ticket: nothing is to be written.
    fn append_envelope(
        &self,
        item: ToStore,
        now_ms: u64,
        choose: &Choose<'_>,
    ) -> Result<(Option<u64>, Put), StoreError> {
        if let Some(beside) = &item.beside {
            check_beside(beside)?;
        }
        let hash = item.envelope.payload_hash();
        let (mut inner, old) = loop {
            let inner = self.inner.lock();
            inner.check_poison()?;
            if let Some(way) = inner.not_settled(&hash) {
                drop(inner);
                self.settle(way)?;
                continue;
            }
            match self.index.entry(&hash)? {
                Some(Entry::Erased(erasure)) => return Err(StoreError::Erased(erasure)),
                Some(Entry::Live(live)) => break (inner, Some(live)),
                None => break (inner, None),
            }
        };
        let ToStore {
            mut envelope,
            mut expires_at_ms,
            mut beside,
        } = item;
        let mut put = Put::Stored;
        if let Some(live) = old {
            put = Put::Merged;
            expires_at_ms = live.expires_at_ms.or(expires_at_ms);
            // A damaged record is replaced.
            if let Some(held) = inner.read_payload(&hash, &live)? {
                let mut changed = live.expires_at_ms != expires_at_ms;
                let chosen = match &beside {
                    Some(given) if held.beside.as_ref() != Some(given) => {
                        choose(&hash, held.beside.as_ref(), given)
                    }
                    Some(_) | None => Beside::Old,
                };
                match chosen {
                    Beside::Old => beside = held.beside,
                    Beside::New => changed = true,
                    Beside::Fixed => return Ok((None, Put::Fixed)),
                }
                let mut merged = held.envelope;
                match merged.merge(&envelope) {
                    None => return Err(StoreError::Conflict { hash }),
                    Some(gained) => changed |= gained,
                }
                if !changed {
                    return Ok((None, Put::Known));
                }
                envelope = merged;
            }
        }
        let record = Record::Payload(Box::new(PayloadRecord {
            hash,
            sequence: inner.take_sequence(),
            stored_at_ms: inner.time(now_ms),
            // 0 stands for never in the record.
            expires_at_ms: expires_at_ms.map(|at| at.max(1)),
            beside,
            envelope,
        }));
        let new = put == Put::Stored;
        Ok((Some(self.append(&mut inner, hash, record, new)?), put))
    }

    /// What is stored under a hash.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it cannot be read; [`StoreError::Kv`], [`StoreError::Poisoned`].
    pub fn get(&self, hash: &PayloadHash) -> Result<Option<Stored>, StoreError> {
        if let Some(recent) = self.recent(hash)
            && let Record::Payload(payload) = &recent.record
        {
            return Ok(Some(Stored::from(PayloadRecord::clone(payload))));
        }
        let mut tried: Option<Live> = None;
        loop {
            let live = match self.index.entry(hash)? {
                None => return Ok(None),
                Some(Entry::Erased(erasure)) => return Ok(Some(Stored::Erased(erasure))),
                Some(Entry::Live(live)) => live,
            };
            let (file, path) = {
                let inner = self.inner.lock();
                inner.check_poison()?;
                let segment = live.place.segment;
                (inner.segments.file(segment), inner.segments.path(segment))
            };
            match read_payload(file.as_deref(), &path, hash, &live)? {
                Ok(payload) => return Ok(Some(Stored::from(payload))),
                // Erased, merged or moved between the two looks: look again. The same answer twice is damage.
                Err(reason) if tried == Some(live) => {
                    return Err(damaged(&path, live.place.offset, &reason));
                }
                Err(_) => tried = Some(live),
            }
        }
    }

    /// True if an envelope is held under this hash; it is not read.
    ///
    /// # Errors
    /// [`StoreError::Kv`], [`StoreError::Index`].
    pub fn holds(&self, hash: &PayloadHash) -> Result<bool, StoreError> {
        Ok(self.recent(hash).is_some() || matches!(self.index.entry(hash)?, Some(Entry::Live(_))))
    }

    /// A payload that is not in the index yet. To be asked before the index is: what leaves here is there.
    fn recent(&self, hash: &PayloadHash) -> Option<Arc<Pending>> {
        let inner = self.inner.lock();
        let recent = inner.unindexed.iter().find(|p| p.hash == *hash);
        recent.map(Arc::clone)
    }

    /// Payloads in the order in which they were stored. A payload that gained a box moves to the end.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] for `limit`; [`StoreError::Kv`], [`StoreError::Index`].
    pub fn list(&self, query: &ListQuery) -> Result<Vec<Listed>, StoreError> {
        let (time, sequence) = query
            .after
            .map_or((query.since_ms, 0), |c| (c.time_ms, c.sequence + 1));
        let listing = match &query.party {
            None => Listing::All,
            Some(party) => Listing::Party(party),
        };
        let mut listed = Vec::new();
        let limit = checked_limit(query.limit)?;
        self.settle_all()?;
        for step in self.index.steps(listing, time, sequence) {
            let step = step?;
            // What was left behind by a payload that moved on, or was erased while unreadable, does not count.
            let live = matches!(
                self.index.entry(&step.hash)?,
                Some(Entry::Live(live)) if live.sequence == step.sequence
            );
            if live {
                listed.push(Listed {
                    hash: step.hash,
                    cursor: Cursor {
                        time_ms: step.time_ms,
                        sequence: step.sequence,
                    },
                });
            }
            if listed.len() >= limit {
                break;
            }
        }
        Ok(listed)
    }

    /// Size of the segment files in bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        self.inner.lock().segments.size_bytes()
    }

    /// Appends a record and returns the ticket to wait for.
    fn append(
        &self,
        inner: &mut Inner,
        hash: PayloadHash,
        record: Record,
        new: bool,
    ) -> Result<u64, StoreError> {
        match inner.segments.append(&record) {
            Ok(place) => {
                let ticket = inner.next_ticket;
                inner.next_ticket += 1;
                inner.pending.push(Arc::new(Pending {
                    hash,
                    record,
                    place,
                    new,
                }));
                Ok(ticket)
            }
            Err(e) => Err(inner.poison_if_fatal(e)),
        }
    }
}

impl Inner {
    fn check_poison(&self) -> Result<(), StoreError> {
        match &self.poison {
            None => Ok(()),
            Some(first) => Err(StoreError::Poisoned {
                first: first.clone(),
            }),
        }
    }

    fn poison_if_fatal(&mut self, error: StoreError) -> StoreError {
        if error.is_fatal() && self.poison.is_none() {
            self.poison = Some(error.to_string());
        }
        error
    }

    fn take_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Times never go back, so that nothing is stored before a cursor that someone holds.
    fn time(&mut self, now_ms: u64) -> u64 {
        self.newest_ms = self.newest_ms.max(now_ms);
        self.newest_ms
    }

    /// The payload at a place; `None` if it is damaged.
    fn read_payload(
        &self,
        hash: &PayloadHash,
        live: &Live,
    ) -> Result<Option<PayloadRecord>, StoreError> {
        let file = self.segments.file(live.place.segment);
        let path = self.segments.path(live.place.segment);
        let read = read_payload(file.as_deref(), &path, hash, live)?;
        Ok(read.ok())
    }
}

/// The payload at a place, or why it cannot be read.
fn read_payload(
    file: Option<&std::fs::File>,
    path: &Path,
    hash: &PayloadHash,
    live: &Live,
) -> Result<Result<PayloadRecord, String>, StoreError> {
    let Some(file) = file else {
        return Ok(Err("the segment file is missing".to_owned()));
    };
    let found = segment::read_at(file, path, live.place.segment, live.place.offset)?;
    Ok(match found {
        Found::Record { place, record } if place == live.place => match record {
            Record::Payload(payload)
                if payload.hash == *hash && payload.sequence == live.sequence =>
            {
                Ok(*payload)
            }
            Record::Payload(_) | Record::Tombstone(_) | Record::Blank => {
                Err("another record lies here".to_owned())
            }
        },
        Found::Record { .. } => Err("another record lies here".to_owned()),
        Found::Bad { reason, .. } => Err(reason),
        Found::Torn { reason } => Err(reason.to_owned()),
        Found::End => Err("the file ends before it".to_owned()),
    })
}

impl From<PayloadRecord> for Stored {
    fn from(payload: PayloadRecord) -> Self {
        Self::Held {
            envelope: Box::new(payload.envelope),
            stored_at_ms: payload.stored_at_ms,
            expires_at_ms: payload.expires_at_ms,
            beside: payload.beside,
        }
    }
}

fn check_beside(beside: &Bytes) -> Result<(), StoreError> {
    if !(1..=BESIDE_BYTES_MAX).contains(&beside.len()) {
        return Err(StoreError::OutOfRange {
            field: "length of what is kept beside a payload",
            value: beside.len() as u64,
            allowed: "1 to 65536",
        });
    }
    Ok(())
}

fn checked_limit(limit: usize) -> Result<usize, StoreError> {
    if !(1..=LIST_LIMIT_MAX).contains(&limit) {
        return Err(StoreError::OutOfRange {
            field: "limit",
            value: limit as u64,
            allowed: "1 to 10000",
        });
    }
    Ok(limit)
}

#[cfg(test)]
mod tests;
