//! Reading the files again after a crash, from where the index ends.

use std::collections::BTreeSet;
use std::path::Path;

use super::commit::UNINDEXED_MAX;
use super::index::{Changes, Watermark};
use super::record::Record;
use super::segment::{self, Found, HEADER_BYTES, Place, Segments, damaged, io};
use super::{DamagedRecord, PayloadStore, StoreError};
use crate::PayloadHash;

impl PayloadStore {
    /// Reads the files from the watermark on and enters what the index lacks.
    pub(super) fn read_again(
        &self,
        mark: Option<Watermark>,
    ) -> Result<Vec<DamagedRecord>, StoreError> {
        let mut found = Vec::new();
        let mark = mark.unwrap_or_default();
        let numbers = self.inner.lock().segments.numbers();
        for number in numbers.into_iter().filter(|n| *n >= mark.segment) {
            let begin = if number == mark.segment {
                mark.offset
            } else {
                HEADER_BYTES
            };
            self.read_segment(number, begin, &mut found)?;
        }
        Ok(found)
    }

    fn read_segment(
        &self,
        number: u64,
        begin: u64,
        found: &mut Vec<DamagedRecord>,
    ) -> Result<(), StoreError> {
        let (file, path, synced, is_last) = {
            let inner = self.inner.lock();
            let segments = &inner.segments;
            let is_last = segments.tail().is_some_and(|(last, _, _)| last == number);
            let synced = segments.synced_end(number);
            (
                segments.file(number),
                segments.path(number),
                synced,
                is_last,
            )
        };
        let Some(file) = file else { return Ok(()) };
        let mut offset = begin;
        let mut again = Again::new();
        loop {
            // Behind the last sync nothing is promised, and pages reach the disk in any order.
            let cuttable = is_last && offset >= synced;
            match segment::read_at(&file, &path, number, offset)? {
                Found::End => return self.write_again(again),
                Found::Record { place, record } => {
                    if again.must_be_written_before(&record) {
                        self.write_again(std::mem::replace(&mut again, Again::new()))?;
                    }
                    self.enter_again(&mut again, &record, place)?;
                    offset = place.end();
                }
                Found::Bad { .. } | Found::Torn { .. } if cuttable => {
                    self.write_again(again)?;
                    return self.inner.lock().segments.cut(offset);
                }
                Found::Bad { place, reason } => {
                    tracing::error!(file = %path.display(), offset, reason, "a stored payload is damaged");
                    found.push(DamagedRecord {
                        file: path.clone(),
                        offset,
                        reason,
                    });
                    offset = place.end();
                }
                Found::Torn { reason } => return Err(damaged(&path, offset, reason)),
            }
        }
    }

    fn enter_again(
        &self,
        again: &mut Again,
        record: &Record,
        place: Place,
    ) -> Result<(), StoreError> {
        self.enter(&mut again.changes, record, place)?;
        let (sequence, time) = match record {
            Record::Payload(payload) => (payload.sequence, payload.stored_at_ms),
            Record::Tombstone(tombstone) => (tombstone.sequence, tombstone.erased_at_ms),
            Record::Blank => (0, 0),
        };
        again.entered.extend(hash_of(record));
        again.end = Some(place);
        let mut inner = self.inner.lock();
        inner.next_sequence = inner.next_sequence.max(sequence.saturating_add(1));
        inner.newest_ms = inner.newest_ms.max(time);
        Ok(())
    }

    fn write_again(&self, again: Again) -> Result<(), StoreError> {
        let Some(end) = again.end else { return Ok(()) };
        let mut inner = self.inner.lock();
        let mark = Watermark {
            segment: end.segment,
            offset: end.end(),
            next_sequence: inner.next_sequence,
            newest_ms: inner.newest_ms,
        };
        inner.marked_segment = end.segment;
        drop(inner);
        self.index.write(again.changes, &mark)
    }
}

/// What was read again and is written into the index at once.
#[derive(Debug)]
struct Again {
    changes: Changes,
    entered: BTreeSet<PayloadHash>,
    end: Option<Place>,
}

impl Again {
    fn new() -> Self {
        Self {
            changes: Changes::again(),
            entered: BTreeSet::new(),
            end: None,
        }
    }

    /// What is looked up in the index for a record must not lie here. Places that it obsoletes are made blank in the end.
    fn must_be_written_before(&self, record: &Record) -> bool {
        let again = hash_of(record).is_some_and(|hash| self.entered.contains(&hash));
        again || self.entered.len() >= UNINDEXED_MAX
    }
}

fn hash_of(record: &Record) -> Option<PayloadHash> {
    match record {
        Record::Payload(payload) => Some(payload.hash),
        Record::Tombstone(tombstone) => Some(tombstone.hash),
        Record::Blank => None,
    }
}

pub(super) fn check_watermark(
    dir: &Path,
    segments: &Segments,
    mark: Option<&Watermark>,
) -> Result<(), StoreError> {
    let Some(mark) = mark else { return Ok(()) };
    if !segments.numbers().iter().any(|n| *n >= mark.segment) {
        return Err(damaged(dir, 0, "segments that the index knows are missing"));
    }
    if let Some(file) = segments.file(mark.segment) {
        let path = segments.path(mark.segment);
        let length = file.metadata().map_err(|e| io("inspect", &path, &e))?.len();
        if length < mark.offset {
            return Err(damaged(
                &path,
                length,
                "records that the index knows are missing",
            ));
        }
    }
    Ok(())
}
