//! The write-ahead log: entries, votes, and where the log begins.
//!
//! ```text
//! file    raft-<number, 10 digits>.wal, numbers without gaps
//! header  magic "QRTEWAL1" (8 bytes)
//! record  length of body, u32 LE (4) | CRC32C of body, u32 LE (4) | body: kind (1) | protobuf or fields
//! ```
//! An entry with index i takes the place of every earlier entry from i on. A new file begins with the hard state, the
//! start of the log and the snapshot, so that older files can be removed once their entries are below the start.

use std::collections::VecDeque;

use prost011::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::disk::Disk;
use crate::{Fatal, LogIndex, OpenError};

const MAGIC: &[u8; 8] = b"QRTEWAL1";
const HEADER: u64 = 8;
const RECORD_HEADER: u64 = 8;
/// Nothing larger is written: the largest payload and room to spare.
const BODY_BYTES_MAX: u32 = 64 << 20;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_START: u8 = 3;
const KIND_SNAPSHOT: u8 = 4;

/// The entry before the log's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Start {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// What a member gets that is further behind than the log: a place, the members as of then, and what the application
/// said of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Manifest {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) members: ConfState,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    term: u64,
    file: u64,
    offset: u64,
    length: u32,
    cached: Option<Entry>,
}

/// The log of one member. After a failed write or sync it refuses all work.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Box<dyn Disk>,
    segment_bytes: u64,
    cache_bytes_max: usize,
    hard_state: HardState,
    members: ConfState,
    start: Start,
    manifest: Manifest,
    slots: VecDeque<Slot>,
    first_file: u64,
    file: u64,
    end: u64,
    buffer: Vec<u8>,
    cached_bytes: usize,
    /// Index of the oldest entry that is still cached.
    cached_from: u64,
    /// While reading: older files were removed, and no start record has said yet where the log begins.
    start_unknown: bool,
    poisoned: Option<String>,
}

fn name(number: u64) -> String {
    format!("raft-{number:010}.wal")
}

impl Log {
    /// Opens the log or begins one with the given members.
    pub(crate) fn open(
        disk: Box<dyn Disk>,
        members: ConfState,
        segment_bytes: u64,
        cache_bytes_max: usize,
    ) -> Result<Self, OpenError> {
        let io = |e: std::io::Error| OpenError::Io {
            reason: e.to_string(),
        };
        let mut numbers: Vec<u64> = disk
            .list()
            .map_err(io)?
            .iter()
            .filter_map(|n| n.strip_prefix("raft-")?.strip_suffix(".wal")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut log = Self {
            disk,
            segment_bytes,
            cache_bytes_max,
            hard_state: HardState::default(),
            manifest: Manifest {
                members: members.clone(),
                ..Manifest::default()
            },
            members,
            start: Start::default(),
            slots: VecDeque::new(),
            first_file: numbers.first().copied().unwrap_or(1),
            file: numbers.last().copied().unwrap_or(0),
            end: 0,
            buffer: Vec::new(),
            cached_bytes: 0,
            cached_from: 1,
            start_unknown: false,
            poisoned: None,
        };
        for (position, number) in numbers.iter().enumerate() {
            if *number != log.first_file + position as u64 {
                return Err(OpenError::Damaged {
                    file: name(log.first_file + position as u64),
                    offset: 0,
                    reason: "the file is missing".into(),
                });
            }
            log.read_file(*number, position + 1 == numbers.len())?;
        }
        if log.start_unknown {
            return Err(OpenError::Damaged {
                file: name(log.first_file),
                offset: 0,
                reason: "the files before it are missing".into(),
            });
        }
        if numbers.is_empty() {
            log.roll().map_err(|e| OpenError::Io {
                reason: e.to_string(),
            })?;
            log.sync().map_err(|e| OpenError::Io {
                reason: e.to_string(),
            })?;
        }
        Ok(log)
    }

    fn read_file(&mut self, number: u64, last: bool) -> Result<(), OpenError> {
        let file = name(number);
        let io = |e: std::io::Error| OpenError::Io {
            reason: format!("{}: {e}", name(number)),
        };
        let damaged = |offset, reason: &str| OpenError::Damaged {
            file: name(number),
            offset,
            reason: reason.into(),
        };
        let length = self.disk.length(&file).map_err(io)?;
        let mut bytes = vec![0u8; usize::try_from(length).unwrap_or(usize::MAX)];
        self.disk.read(&file, 0, &mut bytes).map_err(io)?;
        if bytes.get(..8) != Some(MAGIC) {
            let unwritten = last && bytes.iter().all(|b| *b == 0);
            if !unwritten {
                return Err(damaged(0, "this is no log of this version"));
            }
        }
        let mut at = HEADER as usize;
        while at < bytes.len() {
            match record_at(&bytes, at) {
                Some((kind, body, next)) => {
                    let place = (number, (at as u64) + RECORD_HEADER + 1);
                    self.replay(kind, body, place)
                        .map_err(|reason| damaged(at as u64, &reason))?;
                    at = next;
                }
                None if last && !valid_after(&bytes, at) => break,
                None => {
                    return Err(damaged(
                        at as u64,
                        "checksum does not match, but valid records follow",
                    ));
                }
            }
        }
        self.end = at as u64;
        if last && at < bytes.len() {
            tracing::warn!(
                file,
                from = at,
                to = bytes.len(),
                "cutting the torn tail of the log"
            );
            self.disk.truncate(&file, at as u64).map_err(io)?;
        }
        if last && bytes.len() < HEADER as usize {
            self.disk.write(&file, 0, MAGIC).map_err(io)?;
            self.end = HEADER;
        }
        Ok(())
    }

    fn replay(&mut self, kind: u8, body: &[u8], (file, offset): (u64, u64)) -> Result<(), String> {
        match kind {
            KIND_ENTRY => {
                let entry = Entry::decode(body).map_err(|e| e.to_string())?;
                self.place(&entry, file, offset, body.len() as u32, false)
            }
            KIND_HARD_STATE => {
                self.hard_state = HardState::decode(body).map_err(|e| e.to_string())?;
                Ok(())
            }
            KIND_START => {
                let start = decode_start(body).ok_or("the start record does not decode")?;
                // The head of a file repeats what held when it was begun.
                if start.index >= self.start.index {
                    self.begin_at(start);
                }
                Ok(())
            }
            KIND_SNAPSHOT => {
                let manifest =
                    decode_manifest(body).ok_or("the snapshot record does not decode")?;
                self.members = manifest.members.clone();
                self.manifest = manifest;
                Ok(())
            }
            other => Err(format!("unknown kind {other}")),
        }
    }
}

fn record_at(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let header = bytes.get(at..at + 8)?;
    let length = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
    let crc = u32::from_le_bytes(header.get(4..)?.try_into().ok()?);
    if length == 0 || length > BODY_BYTES_MAX {
        return None;
    }
    let next = at + 8 + length as usize;
    let body = bytes.get(at + 8..next)?;
    if crc32c::crc32c(body) != crc {
        return None;
    }
    let (kind, rest) = body.split_first()?;
    Some((*kind, rest, next))
}

/// Whether a record that reads well stands behind the bad one: then the bad one is damage, not a torn write.
fn valid_after(bytes: &[u8], at: usize) -> bool {
    let Some(length) = bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes)
    else {
        return false;
    };
    length != 0 && length <= BODY_BYTES_MAX && record_at(bytes, at + 8 + length as usize).is_some()
}

fn encode_start(start: &Start) -> Vec<u8> {
    [start.index.to_le_bytes(), start.term.to_le_bytes()].concat()
}

fn decode_start(bytes: &[u8]) -> Option<Start> {
    let (index, term) = bytes.split_at_checked(8)?;
    Some(Start {
        index: number(index)?,
        term: number(term)?,
    })
}

/// index (8) | term (8) | length of members (4) | members (protobuf ConfState) | the application's bytes
fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let members = manifest.members.encode_to_vec();
    let mut out = Vec::with_capacity(20 + members.len() + manifest.data.len());
    out.extend_from_slice(&manifest.index.to_le_bytes());
    out.extend_from_slice(&manifest.term.to_le_bytes());
    out.extend_from_slice(
        &u32::try_from(members.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(&members);
    out.extend_from_slice(&manifest.data);
    out
}

fn decode_manifest(bytes: &[u8]) -> Option<Manifest> {
    let (index, rest) = bytes.split_at_checked(8)?;
    let (term, rest) = rest.split_at_checked(8)?;
    let (length, rest) = rest.split_at_checked(4)?;
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (members, data) = rest.split_at_checked(length)?;
    Some(Manifest {
        index: number(index)?,
        term: number(term)?,
        members: ConfState::decode(members).ok()?,
        data: data.to_vec(),
    })
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

impl Log {
    pub(crate) fn first(&self) -> u64 {
        self.start.index + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.start.index + self.slots.len() as u64
    }

    pub(crate) fn start(&self) -> Start {
        self.start
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn members(&self) -> &ConfState {
        &self.members
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn hard_state_mut(&mut self) -> &mut HardState {
        &mut self.hard_state
    }

    /// Bytes of the files.
    pub(crate) fn size_bytes(&self) -> u64 {
        (self.file - self.first_file) * self.segment_bytes + self.end
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.slot(index).map(|slot| slot.term)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let position = index.checked_sub(self.first())?;
        self.slots.get(usize::try_from(position).ok()?)
    }

    /// Entries of `low..high`, at least one, then as many as fit into `bytes_max`.
    pub(crate) fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, Fatal> {
        let mut entries = Vec::new();
        let mut bytes = 0u64;
        for index in low..high {
            let slot = self.slot(index).ok_or(Fatal::Log {
                reason: format!("entry {index} is not in the log"),
            })?;
            bytes = bytes.saturating_add(u64::from(slot.length));
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(match &slot.cached {
                Some(entry) => entry.clone(),
                None => self.read_entry(index, slot)?,
            });
        }
        Ok(entries)
    }

    fn read_entry(&self, index: u64, slot: &Slot) -> Result<Entry, Fatal> {
        let fatal = |reason: String| Fatal::Log {
            reason: format!("entry {index} in {}: {reason}", name(slot.file)),
        };
        let mut body = vec![0u8; slot.length as usize];
        self.disk
            .read(&name(slot.file), slot.offset, &mut body)
            .map_err(|e| fatal(e.to_string()))?;
        let entry = Entry::decode(body.as_slice()).map_err(|e| fatal(e.to_string()))?;
        if entry.index != index || entry.term != slot.term {
            return Err(fatal(format!(
                "holds index {} of term {}",
                entry.index, entry.term
            )));
        }
        Ok(entry)
    }

    fn begin_at(&mut self, start: Start) {
        // Entries above the new start stay if they continue it.
        let keeps = self.term(start.index) == Some(start.term);
        if keeps {
            let gone =
                usize::try_from(start.index.saturating_sub(self.start.index)).unwrap_or(usize::MAX);
            for slot in self.slots.drain(..gone.min(self.slots.len())) {
                if slot.cached.is_some() {
                    self.cached_bytes = self.cached_bytes.saturating_sub(slot.length as usize);
                }
            }
        } else {
            self.slots.clear();
            self.cached_bytes = 0;
        }
        self.start = start;
        self.start_unknown = false;
        self.cached_from = self.cached_from.max(self.first());
    }

    fn place(
        &mut self,
        entry: &Entry,
        file: u64,
        offset: u64,
        length: u32,
        cache: bool,
    ) -> Result<(), String> {
        if entry.index <= self.start.index {
            return Ok(());
        }
        if entry.index > self.last() + 1
            && self.slots.is_empty()
            && file == self.first_file
            && file > 1
            && !cache
        {
            // The first file that is left names the start as of its own beginning; the one in force stands further on.
            self.start = Start {
                index: entry.index - 1,
                term: 0,
            };
            self.start_unknown = true;
        }
        if entry.index > self.last() + 1 {
            return Err(format!(
                "entry {} follows entry {}",
                entry.index,
                self.last()
            ));
        }
        while self.last() >= entry.index {
            if let Some(slot) = self.slots.pop_back()
                && slot.cached.is_some()
            {
                self.cached_bytes = self.cached_bytes.saturating_sub(slot.length as usize);
            }
        }
        self.cached_from = self.cached_from.min(entry.index);
        if cache {
            self.cached_bytes += length as usize;
        }
        let cached = cache.then(|| entry.clone());
        self.slots.push_back(Slot {
            term: entry.term,
            file,
            offset,
            length,
            cached,
        });
        Ok(())
    }
}

impl Log {
    fn record(&mut self, kind: u8, body: &[u8]) -> u64 {
        let length = (body.len() + 1) as u32;
        let mut crc = crc32c::crc32c(&[kind]);
        crc = crc32c::crc32c_append(crc, body);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.push(kind);
        let offset = self.end + self.buffer.len() as u64;
        self.buffer.extend_from_slice(body);
        offset
    }

    /// Adds entries; what they contradict is gone. Durable after [`Self::sync`].
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), Fatal> {
        self.check()?;
        for entry in entries {
            if self.end + self.buffer.len() as u64 >= self.segment_bytes {
                self.write()?;
                self.roll()?;
            }
            let body = entry.encode_to_vec();
            let offset = self.record(KIND_ENTRY, &body);
            self.place(entry, self.file, offset, body.len() as u32, true)
                .map_err(|reason| self.poison(reason))?;
        }
        self.trim_cache();
        Ok(())
    }

    /// Records term, vote and commit. Durable after [`Self::sync`].
    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) -> Result<(), Fatal> {
        self.check()?;
        self.record(KIND_HARD_STATE, &hard_state.encode_to_vec());
        self.hard_state = hard_state;
        Ok(())
    }

    /// Takes a leader's snapshot: the log begins behind it. Durable after [`Self::sync`].
    pub(crate) fn install(&mut self, manifest: Manifest) -> Result<(), Fatal> {
        self.check()?;
        let start = Start {
            index: manifest.index,
            term: manifest.term,
        };
        self.record(KIND_START, &encode_start(&start));
        self.record(KIND_SNAPSHOT, &encode_manifest(&manifest));
        self.begin_at(start);
        self.members = manifest.members.clone();
        self.manifest = manifest;
        Ok(())
    }

    /// Replaces the snapshot and lets the log begin up to `trailing` entries before it. Durable after [`Self::sync`].
    pub(crate) fn compact(&mut self, manifest: Manifest, trailing: u64) -> Result<(), Fatal> {
        self.check()?;
        let index = manifest
            .index
            .saturating_sub(trailing)
            .max(self.start.index);
        let term = self.term(index).unwrap_or(manifest.term);
        self.record(KIND_SNAPSHOT, &encode_manifest(&manifest));
        self.manifest = manifest;
        if index > self.start.index {
            let start = Start { index, term };
            self.record(KIND_START, &encode_start(&start));
            self.begin_at(start);
        }
        Ok(())
    }

    pub(crate) fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    /// Makes everything so far durable: one write, one sync.
    pub(crate) fn sync(&mut self) -> Result<(), Fatal> {
        self.write()?;
        let file = name(self.file);
        match self.disk.sync(&file) {
            Ok(()) => Ok(()),
            Err(e) => Err(self.poison(format!("sync of {file}: {e}"))),
        }
    }

    fn write(&mut self) -> Result<(), Fatal> {
        self.check()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        let file = name(self.file);
        if let Err(e) = self.disk.write(&file, self.end, &bytes) {
            return Err(self.poison(format!("write to {file}: {e}")));
        }
        self.end += bytes.len() as u64;
        self.buffer = bytes;
        self.buffer.clear();
        Ok(())
    }

    /// Begins a new file that stands on its own: hard state and start come first.
    fn roll(&mut self) -> Result<(), Fatal> {
        if self.file >= self.first_file && self.end > 0 {
            let old = name(self.file);
            if let Err(e) = self.disk.sync(&old) {
                return Err(self.poison(format!("sync of {old}: {e}")));
            }
        }
        let next = self.file + 1;
        if let Err(e) = self.disk.create(&name(next)) {
            return Err(self.poison(format!("create {}: {e}", name(next))));
        }
        self.file = next;
        self.end = 0;
        self.buffer.extend_from_slice(MAGIC);
        let (hard_state, start) = (self.hard_state.encode_to_vec(), encode_start(&self.start));
        let manifest = encode_manifest(&self.manifest);
        self.record(KIND_HARD_STATE, &hard_state);
        self.record(KIND_START, &start);
        self.record(KIND_SNAPSHOT, &manifest);
        self.write()
    }

    /// Removes files whose entries all lie below the start.
    pub(crate) fn remove_old_files(&mut self) -> Result<(), Fatal> {
        let oldest = self.slots.front().map_or(self.file, |slot| slot.file);
        while self.first_file < oldest {
            let file = name(self.first_file);
            if let Err(e) = self.disk.remove(&file) {
                return Err(self.poison(format!("remove {file}: {e}")));
            }
            self.first_file += 1;
        }
        Ok(())
    }

    fn trim_cache(&mut self) {
        while self.cached_bytes > self.cache_bytes_max {
            let first = self.first();
            let position =
                usize::try_from(self.cached_from.saturating_sub(first)).unwrap_or(usize::MAX);
            // The newest entry stays: it is what is sent next.
            if position + 1 >= self.slots.len() {
                return;
            }
            if let Some(slot) = self.slots.get_mut(position)
                && slot.cached.take().is_some()
            {
                self.cached_bytes = self.cached_bytes.saturating_sub(slot.length as usize);
            }
            self.cached_from += 1;
        }
    }

    fn check(&self) -> Result<(), Fatal> {
        match &self.poisoned {
            Some(reason) => Err(Fatal::Log {
                reason: format!("refuses work after: {reason}"),
            }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, reason: String) -> Fatal {
        self.poisoned.get_or_insert_with(|| reason.clone());
        Fatal::Log { reason }
    }

    pub(crate) fn member_ids(&self) -> (Vec<u64>, Vec<u64>) {
        (self.members.voters.clone(), self.members.learners.clone())
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        LogIndex(self.last())
    }
}

#[cfg(test)]
mod tests;
