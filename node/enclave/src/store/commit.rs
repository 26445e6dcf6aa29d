//! From appended to durable, and from there into the index.
//!
//! ```text
//! pending ── fdatasync (one caller for all that wait) ──► unindexed, if it can wait ── many at a time ──► index
//!                                                    └──► index ── what is obsolete made blank ──► acknowledged
//! ```

use std::sync::Arc;

use super::index::{Changes, Entry, Index, Watermark};
use super::record::Record;
use super::segment::{self, Place, io};
use super::{Inner, PayloadStore, Pending, StoreError};
use crate::PayloadHash;

/// Payloads that may be in memory alone, beside their file, and their bytes.
pub(super) const UNINDEXED_MAX: usize = 128;
const UNINDEXED_BYTES_MAX: u64 = 4 << 20;

/// Why the index does not say everything about a payload yet.
#[derive(Debug, Clone, Copy)]
pub(super) enum NotSettled {
    /// It is being written: everything is durable after this ticket.
    Pending(u64),
    /// It is not in the index.
    Unindexed,
}

impl PayloadStore {
    /// Makes everything up to this ticket durable, and enters it into the index unless that can wait. One caller does it for all
    /// that wait.
    pub(super) fn commit_through(&self, ticket: u64) -> Result<(), StoreError> {
        let _leader = self.commit.lock();
        let (todo, tail) = {
            let inner = self.inner.lock();
            if inner.committed > ticket {
                return Ok(());
            }
            inner.check_poison()?;
            (inner.pending.clone(), inner.segments.tail())
        };
        let Some((segment, file, end)) = tail else {
            return Ok(());
        };
        let path = self.inner.lock().segments.path(segment);
        let synced = file.sync_data().map_err(|e| io("sync", &path, &e));
        let mut inner = self.inner.lock();
        let noted = synced.and_then(|()| inner.segments.note_synced(segment, end));
        noted.map_err(|e| inner.poison_if_fatal(e))?;
        let wait = inner.can_wait(&todo, segment);
        drop(inner);
        let places = if wait {
            Vec::new()
        } else {
            self.enter_all(&todo, (segment, end))?
        };
        let mut inner = self.inner.lock();
        if wait {
            inner.unindexed.extend(todo.iter().map(Arc::clone));
        }
        inner.pending.drain(..todo.len());
        inner.committed += todo.len() as u64;
        drop(inner);
        let blanked = self.blank(&places);
        blanked.map_err(|e| self.inner.lock().poison_if_fatal(e))
    }

    /// Enters into the index what is not in it yet, and what became durable behind that. The files are in it up to `end` then. By
    /// the holder of the commit lock. Returns what is to be made blank.
    fn enter_all(
        &self,
        durable: &[Arc<Pending>],
        end: (u64, u64),
    ) -> Result<Vec<Place>, StoreError> {
        let (unindexed, next_sequence, newest_ms) = {
            let inner = self.inner.lock();
            inner.check_poison()?;
            (
                inner.unindexed.clone(),
                inner.next_sequence,
                inner.newest_ms,
            )
        };
        let (segment, offset) = end;
        let mark = Watermark {
            segment,
            offset,
            next_sequence,
            newest_ms,
        };
        let mut changes = Changes::default();
        let mut places = Vec::new();
        let entered = (|| {
            for pending in unindexed.iter().chain(durable) {
                let Pending { record, place, .. } = &**pending;
                match record {
                    // Looked for when it was appended, and nothing else about it went in between.
                    Record::Payload(payload) if pending.new => {
                        self.index
                            .put_payload(&mut changes, payload, *place, None)?;
                    }
                    _ => places.extend(self.enter(&mut changes, record, *place)?),
                }
            }
            self.index.write(changes, &mark)
        })();
        let mut inner = self.inner.lock();
        entered.map_err(|e| inner.poison_if_fatal(e))?;
        inner.unindexed.clear();
        inner.marked_segment = segment;
        Ok(places)
    }

    /// Enters into the index what is durable and not in it yet.
    fn settle_durable(&self) -> Result<(), StoreError> {
        let _leader = self.commit.lock();
        let last = self.inner.lock().unindexed.last().map(|last| last.place);
        let Some(last) = last else { return Ok(()) };
        let places = self.enter_all(&[], (last.segment, last.end()))?;
        let blanked = self.blank(&places);
        blanked.map_err(|e| self.inner.lock().poison_if_fatal(e))
    }

    pub(super) fn settle(&self, way: NotSettled) -> Result<(), StoreError> {
        match way {
            NotSettled::Pending(ticket) => self.commit_through(ticket),
            NotSettled::Unindexed => self.settle_durable(),
        }
    }

    /// Everything that was appended before is durable and in the index.
    pub(super) fn settle_all(&self) -> Result<(), StoreError> {
        let last = {
            let inner = self.inner.lock();
            (!inner.pending.is_empty()).then(|| inner.next_ticket.saturating_sub(1))
        };
        if let Some(ticket) = last {
            self.commit_through(ticket)?;
        }
        self.settle_durable()
    }

    /// Enters a record into changes of the index, and says what is to be made blank because of it. Later sequences win, and a
    /// tombstone wins over all.
    pub(super) fn enter(
        &self,
        changes: &mut Changes,
        record: &Record,
        place: Place,
    ) -> Result<Option<Place>, StoreError> {
        let obsolete = match record {
            Record::Blank => None,
            Record::Payload(payload) => match self.index.entry(&payload.hash)? {
                None => {
                    self.index.put_payload(changes, payload, place, None)?;
                    None
                }
                Some(Entry::Live(live)) if live.place == place => None,
                Some(Entry::Live(live)) if live.sequence <= payload.sequence => {
                    let old = self.inner.lock().read_payload(&payload.hash, &live)?;
                    let old = old.as_ref().map(|old| &old.envelope);
                    let replaced = Some((&live, old));
                    self.index.put_payload(changes, payload, place, replaced)?;
                    Some(live.place)
                }
                Some(Entry::Live(_) | Entry::Erased(_)) => Some(place),
            },
            Record::Tombstone(tombstone) => match self.index.entry(&tombstone.hash)? {
                Some(Entry::Live(live)) => {
                    let old = self.inner.lock().read_payload(&tombstone.hash, &live)?;
                    let old = old.as_ref().map(|old| &old.envelope);
                    self.index
                        .put_tombstone(changes, tombstone, Some((&live, old)))?;
                    Some(live.place)
                }
                // One that was only moved stands where it stood, in a value that it may share with others.
                Some(Entry::Erased(erasure)) if erasure.sequence == tombstone.sequence => None,
                Some(Entry::Erased(_)) | None => {
                    self.index.put_tombstone(changes, tombstone, None)?;
                    None
                }
            },
        };
        if let Some(place) = obsolete {
            Index::put_to_blank(changes, place);
        }
        Ok(obsolete)
    }

    /// Overwrites records durably.
    pub(super) fn blank(&self, places: &[Place]) -> Result<(), StoreError> {
        if places.is_empty() {
            return Ok(());
        }
        let mut touched = std::collections::BTreeMap::new();
        for place in places {
            let (file, path) = {
                let inner = self.inner.lock();
                let segments = &inner.segments;
                (segments.file(place.segment), segments.path(place.segment))
            };
            // A segment that was removed took the record with it.
            if let Some(file) = file {
                segment::blank(&file, &path, *place)?;
                touched.insert(path, file);
            }
        }
        for (path, file) in touched {
            file.sync_data().map_err(|e| io("sync", &path, &e))?;
        }
        self.index.blanked(places)
    }
}

impl Inner {
    /// What keeps the index from saying everything about a payload.
    pub(super) fn not_settled(&self, hash: &PayloadHash) -> Option<NotSettled> {
        let about = |p: &Arc<Pending>| p.hash == *hash;
        if let Some(position) = self.pending.iter().rposition(about) {
            return Some(NotSettled::Pending(self.committed + position as u64));
        }
        let unindexed = self.unindexed.iter().any(about);
        unindexed.then_some(NotSettled::Unindexed)
    }

    /// True if these records, which are durable now, can do without the index for a while. The first of a segment cannot: that the
    /// segment is there must be known beside it.
    fn can_wait(&self, durable: &[Arc<Pending>], segment: u64) -> bool {
        let both = || self.unindexed.iter().chain(durable);
        let bytes: u64 = both().map(|p| u64::from(p.place.length)).sum();
        self.marked_segment == segment
            && durable.iter().all(|p| p.new)
            && both().count() < UNINDEXED_MAX
            && bytes < UNINDEXED_BYTES_MAX
    }
}
