//! Reading everything, and giving back the room of what was erased.

use std::sync::Arc;

use super::index::Entry;
use super::record::Record;
use super::segment::{self, Found, HEADER_BYTES, Place};
use super::{DamagedRecord, PayloadStore, StoreError};
use crate::PayloadHash;

impl PayloadStore {
    /// Reads every record of every segment and reports those that cannot be read. Goes on beside other calls; what is
    /// overwritten while it reads may be reported and is gone in a second run.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn verify(&self) -> Result<Vec<DamagedRecord>, StoreError> {
        let mut found = Vec::new();
        let numbers = self.inner.lock().segments.numbers();
        for number in numbers {
            self.walk(number, |_, _| Ok(()), &mut found)?;
        }
        Ok(found)
    }

    /// Moves what is still of use out of segments of which at most half is, and removes them. Returns how many bytes that gave
    /// back. Segments with damaged records stay as they are, for whoever repairs them.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn compact(&self) -> Result<u64, StoreError> {
        let numbers = self.inner.lock().segments.numbers();
        let sealed = numbers.split_last().map(|(_, sealed)| sealed);
        // What lies in these segments must be in the index, which says what is of use.
        self.settle_all()?;
        let mut freed = 0;
        for number in sealed.unwrap_or_default() {
            freed += self.compact_segment(*number)?;
        }
        Ok(freed)
    }

    fn compact_segment(&self, number: u64) -> Result<u64, StoreError> {
        let mut bytes_of_use = 0;
        let mut places = Vec::new();
        let mut damaged = Vec::new();
        let file_bytes = self.walk(
            number,
            |place, record| {
                if let Some(hash) = self.hash_if_of_use(place, record)? {
                    bytes_of_use += place.end() - place.offset;
                    places.push((place, hash));
                }
                Ok(())
            },
            &mut damaged,
        )?;
        if !damaged.is_empty() || bytes_of_use > file_bytes / 2 {
            return Ok(0);
        }
        for (place, hash) in places {
            self.move_record(place, &hash)?;
        }
        // The commit lock keeps a move of the same records, and a blanking in this file, from going on meanwhile.
        let commit = self.commit.lock();
        let removed = self.inner.lock().segments.remove(number);
        drop(commit);
        removed.map_err(|e| self.inner.lock().poison_if_fatal(e))?;
        Ok(file_bytes.saturating_sub(bytes_of_use))
    }

    /// The payload hash of a record that the index points to, and of tombstones.
    fn hash_if_of_use(
        &self,
        place: Place,
        record: &Record,
    ) -> Result<Option<PayloadHash>, StoreError> {
        Ok(match record {
            Record::Blank => None,
            Record::Payload(payload) => match self.index.entry(&payload.hash)? {
                Some(Entry::Live(live)) if live.place == place => Some(payload.hash),
                Some(Entry::Live(_) | Entry::Erased(_)) | None => None,
            },
            Record::Tombstone(tombstone) => Some(tombstone.hash),
        })
    }

    /// Appends a record once more, and lets the index point to the copy.
    fn move_record(&self, place: Place, hash: &PayloadHash) -> Result<(), StoreError> {
        let ticket = loop {
            let mut inner = self.inner.lock();
            inner.check_poison()?;
            if let Some(way) = inner.not_settled(hash) {
                drop(inner);
                self.settle(way)?;
                continue;
            }
            let path = inner.segments.path(place.segment);
            let Some(file) = inner.segments.file(place.segment) else {
                return Ok(());
            };
            let Found::Record { record, .. } =
                segment::read_at(&file, &path, place.segment, place.offset)?
            else {
                return Err(segment::damaged(
                    &path,
                    place.offset,
                    "a record changed while it was moved",
                ));
            };
            // It may have been erased or merged since it was looked at.
            if self.hash_if_of_use(place, &record)?.is_none() {
                return Ok(());
            }
            break self.append(&mut inner, *hash, record, false)?;
        };
        self.commit_through(ticket)
    }

    /// Calls `visit` for every record of a segment that can be read. Returns the length of the file.
    fn walk(
        &self,
        number: u64,
        mut visit: impl FnMut(Place, &Record) -> Result<(), StoreError>,
        found: &mut Vec<DamagedRecord>,
    ) -> Result<u64, StoreError> {
        let (file, path, end) = {
            let inner = self.inner.lock();
            let segments = &inner.segments;
            // What is being appended right now is not looked at.
            let tail = segments.tail().filter(|(last, _, _)| *last == number);
            let file = segments.file(number);
            (
                file,
                segments.path(number),
                tail.map_or(u64::MAX, |(_, _, end)| end),
            )
        };
        let Some(file) = file.as_ref().map(Arc::clone) else {
            return Ok(0);
        };
        let mut offset = HEADER_BYTES;
        while offset < end {
            let bad = match segment::read_at(&file, &path, number, offset)? {
                Found::End => break,
                Found::Record { place, record } => {
                    visit(place, &record)?;
                    offset = place.end();
                    continue;
                }
                Found::Bad { place, reason } => (place.end(), reason),
                Found::Torn { reason } => (u64::MAX, reason.to_owned()),
            };
            found.push(DamagedRecord {
                file: path.clone(),
                offset,
                reason: bad.1,
            });
            offset = bad.0;
        }
        let metadata = file
            .metadata()
            .map_err(|e| segment::io("inspect", &path, &e))?;
        Ok(metadata.len())
    }
}
