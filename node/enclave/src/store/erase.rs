//! Tombstones: what is erased, what is given up before it came, and what has expired.

use super::index::{Entry, Listing};
use super::record::{Record, TombstoneRecord};
use super::{
    Cursor, Erasure, ErasureReason, NOTE_BYTES_MAX, PayloadStore, StoreError, checked_limit,
};
use crate::PayloadHash;

impl PayloadStore {
    /// Overwrites a payload and leaves a record of that, durably. Returns that record, the old one if it was erased before, and
    /// `None` if there is no such payload.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] for a note that is too long, [`StoreError::NotWritten`]; the others end this instance.
    pub fn erase(
        &self,
        hash: &PayloadHash,
        reason: ErasureReason,
        note: &str,
        now_ms: u64,
    ) -> Result<Option<Erasure>, StoreError> {
        let (ticket, erasure) = self.bury(hash, Some(reason), note, now_ms)?;
        if let Some(ticket) = ticket {
            self.commit_through(ticket)?;
        }
        Ok(erasure)
    }

    /// Gives up payloads that are not here: leaves a record as of an erased one for each, durably, so that it is not taken any more.
    /// In their order those records, the old one of what was given up or erased before, and `None` of what is here. One wait for the
    /// disk for all of them.
    ///
    /// # Errors
    /// As [`erase`](Self::erase).
    pub fn give_up(
        &self,
        hashes: &[PayloadHash],
        note: &str,
        now_ms: u64,
    ) -> Result<Vec<Option<Erasure>>, StoreError> {
        let mut last = None;
        let mut erasures = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let (ticket, erasure) = self.bury(hash, None, note, now_ms)?;
            last = ticket.or(last);
            erasures.push(erasure);
        }
        if let Some(last) = last {
            self.commit_through(last)?;
        }
        Ok(erasures)
    }

    /// Appends a tombstone: for a reason of a payload that is here, without one of a payload that is not. Durable once its ticket
    /// is; no ticket: nothing is to be written.
    fn bury(
        &self,
        hash: &PayloadHash,
        reason: Option<ErasureReason>,
        note: &str,
        now_ms: u64,
    ) -> Result<(Option<u64>, Option<Erasure>), StoreError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(StoreError::OutOfRange {
                field: "note length",
                value: note.len() as u64,
                allowed: "at most 512 bytes",
            });
        }
        loop {
            let mut inner = self.inner.lock();
            inner.check_poison()?;
            if let Some(way) = inner.not_settled(hash) {
                drop(inner);
                self.settle(way)?;
                continue;
            }
            let reason = match (self.index.entry(hash)?, reason) {
                (Some(Entry::Erased(erasure)), _) => return Ok((None, Some(erasure))),
                (Some(Entry::Live(_)), Some(reason)) => reason,
                (None, None) => ErasureReason::GivenUp,
                (Some(Entry::Live(_)), None) | (None, Some(_)) => return Ok((None, None)),
            };
            let erasure = Erasure {
                hash: *hash,
                sequence: inner.take_sequence(),
                erased_at_ms: inner.time(now_ms),
                reason,
                note: note.to_owned(),
            };
            let record = Record::Tombstone(TombstoneRecord {
                hash: *hash,
                sequence: erasure.sequence,
                erased_at_ms: erasure.erased_at_ms,
                reason,
                note: erasure.note.clone(),
            });
            let ticket = self.append(&mut inner, *hash, record, false)?;
            return Ok((Some(ticket), Some(erasure)));
        }
    }

    /// Payloads whose time is over, with that time, in its order: behind one of them, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] for `limit`; [`StoreError::Kv`], [`StoreError::Index`].
    pub fn expired(
        &self,
        now_ms: u64,
        after: Option<(u64, PayloadHash)>,
        limit: usize,
    ) -> Result<Vec<(u64, PayloadHash)>, StoreError> {
        let limit = checked_limit(limit)?;
        self.settle_all()?;
        let mut expired = Vec::new();
        for due in self.index.expired(now_ms, after) {
            let (at_ms, hash) = due?;
            match self.index.entry(&hash)? {
                Some(Entry::Live(live)) if live.expires_at_ms == Some(at_ms) => {
                    expired.push((at_ms, hash));
                }
                _ => self.index.forget_expiry(at_ms, &hash)?,
            }
            if expired.len() >= limit {
                break;
            }
        }
        Ok(expired)
    }

    /// Erasures in the order in which they happened, behind a cursor.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn erasures(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<Erasure>, StoreError> {
        let (time, sequence) = after.map_or((0, 0), |c| (c.time_ms, c.sequence + 1));
        let steps = self.index.steps(Listing::Erasures, time, sequence);
        let mut erasures = Vec::new();
        for step in steps.take(checked_limit(limit)?) {
            if let Some(Entry::Erased(erasure)) = self.index.entry(&step?.hash)? {
                erasures.push(erasure);
            }
        }
        Ok(erasures)
    }
}
