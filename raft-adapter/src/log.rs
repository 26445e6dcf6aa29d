//! The write-ahead log: decides what goes where in which file, and knows all of it at once.
//!
//! Everything here is arithmetic in memory. The bytes of a change leave as a [`LogBatch`] for a [`LogWriter`], which may
//! take its time; reads of what is not durable yet are answered from memory. Every file begins with the whole state
//! beside the entries, so that old files can go as soon as none of their entries is needed.

pub(crate) mod contents;
mod cut_terms;
pub(crate) mod disk;
pub(crate) mod fake_disk;
pub(crate) mod record;
mod recover;
pub(crate) mod snapshot_data;
mod storage;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

pub use self::writer::LogBatch;
use self::{
    contents::{Contents, Membership, Slot, entry_bytes, is_change},
    disk::{Disk, SegmentNumber},
    record::{Body, HEADER_BYTES, Marker, SegmentHeader},
    writer::{DiskOperation, fault},
};
use crate::{
    config::Config,
    error::{Damage, Fatal, OpenError},
    ids::{LogIndex, RaftId, WriteNumber},
    member_table::MemberTable,
    random::mix,
};

/// Bytes read from disk at once at most, beyond one record.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A member's log.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    owner: RaftId,
    seed: u64,
    segment_bytes: u64,
    contents: Contents,
    /// All files, the one being written included, with their salts.
    segments: BTreeMap<SegmentNumber, u32>,
    highest_segment: u64,
    /// The file being written. None after opening: the first write begins a new one, so that a file whose tail may have
    /// been cut is never written to again.
    active: Option<Active>,
    next_sequence: u64,
    /// Records below this survived a sync.
    durable_sequence: u64,
    /// Writes not yet reported durable, oldest first.
    in_flight: VecDeque<InFlight>,
    next_write: u64,
    /// The entry about to be put into the log, while a write is being put together. It may replace one that is still there.
    next_entry: Option<u64>,
    /// The first failed read. Reads happen inside raft-rs, which cannot carry the fault out.
    fault: Mutex<Option<Fatal>>,
}

#[derive(Debug)]
struct Active {
    segment: SegmentNumber,
    salt: u32,
    end: u64,
    size_bytes: u64,
}

#[derive(Debug)]
struct InFlight {
    write: WriteNumber,
    sequence_end: u64,
    /// Until this write is durable, no entry above this is.
    durable_until_then: u64,
}

/// A write as it is being put together.
#[derive(Debug, Default)]
struct Staging {
    batch: LogBatch,
    durable_until_then: Option<u64>,
}

impl Log {
    /// Reads the log from its files. A log that was never begun starts with the membership of `config`.
    pub(crate) fn open(config: &Config, disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let genesis = MemberTable::genesis(&config.voters, &config.learners, &config.details);
        let mut contents = Contents::new(genesis, config.details.clone(), config.cache_bytes);
        let recovered = recover::recover(disk.as_ref(), config.id, &mut contents)?;
        Ok(Self {
            disk,
            owner: config.id,
            seed: config.seed,
            segment_bytes: config.segment_bytes,
            contents,
            segments: recovered.segments,
            highest_segment: recovered.highest_segment,
            active: None,
            next_sequence: recovered.next_sequence,
            durable_sequence: recovered.next_sequence,
            in_flight: VecDeque::new(),
            next_write: 1,
            next_entry: None,
            fault: Mutex::new(None),
        })
    }

    pub(crate) fn first(&self) -> u64 {
        self.contents.first_index()
    }

    pub(crate) fn last(&self) -> u64 {
        self.contents.last_index()
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        self.contents.term(index)
    }

    /// The term at `index` even if the entry was cut since this process began.
    pub(crate) fn term_once(&self, index: u64) -> Option<u64> {
        self.contents.term_once(index)
    }

    pub(crate) fn marker(&self) -> &Marker {
        self.contents.marker()
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.contents.hard_state
    }

    /// The newest membership and the index since when it is in force.
    pub(crate) fn membership(&self) -> (u64, &Membership) {
        self.contents.membership()
    }

    /// The member table in force.
    pub(crate) fn table(&self) -> &Arc<MemberTable> {
        &self.membership().1.table
    }

    /// The first membership change in the log that is not in force yet.
    pub(crate) fn next_change(&self) -> Option<u64> {
        self.contents.next_change()
    }

    /// The member table at `index`, which must not lie below the first entry.
    pub(crate) fn table_at(&self, index: u64) -> &Arc<MemberTable> {
        &self.contents.membership_at(index).table
    }

    /// Entries up to here were acknowledged by this member, which lost some of them since; 0: none.
    pub(crate) fn floor(&self) -> u64 {
        self.contents.floor
    }

    /// The last entry that survives power loss as it now stands in the log.
    pub(crate) fn durable(&self) -> u64 {
        let in_flight = self.in_flight.iter().map(|write| write.durable_until_then);
        in_flight
            .min()
            .map_or(self.last(), |durable| durable.min(self.last()))
    }

    /// Bytes in all files, including what is set aside for the future.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments.len() as u64 * self.segment_bytes
    }

    /// Takes note of a commit index without writing it: it is learned again after a restart.
    pub(crate) fn note_commit(&mut self, hard_state: HardState) {
        self.contents.hard_state = hard_state;
    }

    /// Everything of one turn of raft-rs: a manifest in place of the log, term and vote, entries.
    pub(crate) fn save(
        &mut self,
        snapshot: Option<Snapshot>,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
    ) -> Result<(WriteNumber, LogBatch), Fatal> {
        let mut staging = Staging::default();
        if let Some(snapshot) = snapshot {
            self.stage_snapshot(&mut staging, snapshot)?;
        }
        // Before the entries: if only a part survives a crash, a term without its entries is harmless, while entries of
        // a term this member has forgotten would not be.
        self.next_entry = entries.first().map(|entry| entry.index);
        if let Some(hard_state) = hard_state {
            self.contents.hard_state = hard_state;
            let record = Body::HardState(self.hard_state_to_write());
            self.stage(&mut staging, &record);
        }
        for entry in entries {
            self.next_entry = Some(entry.index);
            if is_change(&entry) && !planted!(ForgetCommitBeforeChange) {
                // A change is proposed when the one before it is known to be committed, and whoever holds it must not
                // forget that: with a configuration two changes old, it could find a majority of its own.
                let record = Body::HardState(self.hard_state_to_write());
                self.stage(&mut staging, &record);
            }
            self.stage_entry(&mut staging, entry)?;
        }
        self.next_entry = None;
        Ok(self.finish(staging))
    }

    /// The membership that is in force from `index` on.
    pub(crate) fn save_membership(
        &mut self,
        index: u64,
        conf_state: &ConfState,
        table: Arc<MemberTable>,
    ) -> (WriteNumber, LogBatch) {
        let mut staging = Staging::default();
        self.stage(
            &mut staging,
            &Body::Membership {
                index,
                conf_state: conf_state.clone(),
                table: Some(Arc::clone(&table)),
            },
        );
        self.contents
            .apply_membership(index, conf_state, Some(table));
        self.finish(staging)
    }

    /// This member acknowledged entries up to `index` and lost some of them; 0: it holds them again.
    pub(crate) fn save_floor(&mut self, index: u64) -> (WriteNumber, LogBatch) {
        let mut staging = Staging::default();
        if !planted!(ForgetFloor) {
            self.stage(&mut staging, &Body::Floor(index));
        }
        self.contents.floor = index;
        self.finish(staging)
    }

    /// Lets `manifest` stand for everything up to `up_to`, and drops the entries up to `cut`.
    pub(crate) fn save_compaction(
        &mut self,
        up_to: u64,
        cut: u64,
        manifest: Vec<u8>,
    ) -> Result<(WriteNumber, LogBatch), Fatal> {
        let mut staging = Staging::default();
        let cut = cut.clamp(self.marker().cut_index, up_to);
        let (Some(snapshot_term), Some(cut_term)) = (self.term_at(up_to), self.term_at(cut)) else {
            let what = format!("compaction to {up_to}, cut at {cut}, outside of the log");
            return Err(Fatal::Impossible { what });
        };
        let membership = if planted!(ManifestWithOldTable) {
            self.contents.membership_at(self.first())
        } else {
            self.contents.membership_at(up_to)
        };
        let marker = Marker {
            cut_index: cut,
            cut_term,
            snapshot_index: up_to,
            snapshot_term,
            conf_state: membership.conf_state.clone(),
            table: Some(Arc::clone(&membership.table)),
            manifest,
            reset: false,
        };
        self.stage_marker(&mut staging, marker);
        Ok(self.finish(staging))
    }

    /// A place in the order of writes, with nothing to write.
    pub(crate) fn save_nothing(&mut self) -> (WriteNumber, LogBatch) {
        self.finish(Staging::default())
    }

    /// Write `write` and all before it are durable.
    pub(crate) fn persisted(&mut self, write: WriteNumber) {
        while let Some(oldest) = self.in_flight.front()
            && oldest.write <= write
        {
            self.durable_sequence = oldest.sequence_end;
            self.in_flight.pop_front();
        }
        let durable = self.durable();
        self.contents.evict(durable);
    }

    /// Entries from `low` up to but not including `high`; stops before `max_bytes` of payload are exceeded, but never
    /// before the first.
    pub(crate) fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, Fatal> {
        let mut entries = Vec::new();
        let mut bytes = 0_u64;
        let mut index = low;
        while index < high {
            let fetched;
            let run = match self.contents.cached(index) {
                Some(entry) => std::slice::from_ref(entry),
                None => {
                    fetched = self.read_run(index, high, max_bytes.saturating_sub(bytes))?;
                    &fetched
                }
            };
            for entry in run {
                bytes = bytes.saturating_add(entry_bytes(entry));
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry.clone());
                index += 1;
            }
        }
        Ok(entries)
    }

    /// Entries that lie behind one another in a file, by one read.
    fn read_run(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, Fatal> {
        let lost = |index| Damage::MissingEntries {
            from: LogIndex(index),
            to: LogIndex(index),
        };
        let first = *self.contents.slot(low).ok_or_else(|| lost(low))?;
        let mut slots = vec![first];
        let mut length = first.size_bytes;
        let limit = max_bytes.min(READ_BYTES_MAX);
        for index in low + 1..high {
            let Some(slot) = self.contents.slot(index) else {
                break;
            };
            let adjacent = slot.segment == first.segment && slot.offset == first.offset + length;
            if !adjacent
                || length + slot.size_bytes > limit
                || self.contents.cached(index).is_some()
            {
                break;
            }
            length += slot.size_bytes;
            slots.push(*slot);
        }
        let bytes = self
            .disk
            .read(first.segment, first.offset, length)
            .map_err(|error| fault("reading", first.segment, &error))?;
        let salt = self
            .segments
            .get(&first.segment)
            .copied()
            .unwrap_or_default();
        let mut rest = bytes.as_slice();
        let mut entries = Vec::with_capacity(slots.len());
        for (index, slot) in (low..).zip(slots) {
            let damaged = Damage::Record {
                segment: slot.segment.0,
                offset: slot.offset,
            };
            match record::decode(rest, salt).map(|record| record.body) {
                Ok(Body::Entry(entry)) if (entry.index, entry.term) == (index, slot.term) => {
                    entries.push(entry);
                }
                _ => return Err(damaged.into()),
            }
            rest = rest.get(slot.size_bytes as usize..).unwrap_or_default();
        }
        Ok(entries)
    }

    /// Keeps the first failed read for [`Log::fault`].
    pub(crate) fn remember(&self, fatal: Fatal) {
        self.fault.lock().get_or_insert(fatal);
    }

    /// A read that failed inside raft-rs.
    pub(crate) fn fault(&self) -> Option<Fatal> {
        self.fault.lock().clone()
    }

    fn finish(&mut self, staging: Staging) -> (WriteNumber, LogBatch) {
        let write = WriteNumber(self.next_write);
        self.next_write += 1;
        self.in_flight.push_back(InFlight {
            write,
            sequence_end: self.next_sequence,
            durable_until_then: staging.durable_until_then.unwrap_or(u64::MAX),
        });
        (write, staging.batch)
    }

    fn stage_snapshot(&mut self, staging: &mut Staging, snapshot: Snapshot) -> Result<(), Fatal> {
        let metadata = snapshot.metadata.unwrap_or_default();
        let Some((table, manifest)) = snapshot_data::split(&snapshot.data) else {
            return Err(Fatal::Impossible {
                what: format!("the manifest at {} has no member table", metadata.index),
            });
        };
        // What is committed stays what it is; of the rest, an older entry may be on disk until the manifest is.
        let settled = self.hard_state().commit.min(metadata.index);
        staging.durable_until_then = Some(self.durable().min(settled));
        let marker = Marker {
            cut_index: metadata.index,
            cut_term: metadata.term,
            snapshot_index: metadata.index,
            snapshot_term: metadata.term,
            conf_state: metadata.conf_state.unwrap_or_default(),
            table: Some(Arc::new(table)),
            manifest: manifest.to_vec(),
            reset: true,
        };
        self.stage_marker(staging, marker);
        Ok(())
    }

    /// Written before it is in force: a file begun for it must start with the state before.
    fn stage_marker(&mut self, staging: &mut Staging, marker: Marker) {
        let record = Body::Marker(marker.clone());
        self.stage(staging, &record);
        self.contents.apply_marker(marker);
        self.stage_removals(staging);
    }

    fn stage_entry(&mut self, staging: &mut Staging, entry: Entry) -> Result<(), Fatal> {
        let index = entry.index;
        if index < self.first() || index > self.last() + 1 {
            let (first, last) = (self.first(), self.last());
            let what = format!("entry {index} appended to a log of {first} to {last}");
            return Err(Fatal::Impossible { what });
        }
        let durable = staging.durable_until_then.unwrap_or(u64::MAX);
        staging.durable_until_then = Some(durable.min(index - 1));
        let durable = self.durable_sequence;
        let slot = self.append(
            staging,
            entry.term,
            record::entry_record_bytes(&entry),
            |sequence, salt, out| record::encode_entry(&entry, sequence, durable, salt, out),
        );
        if self.contents.put(entry, slot) {
            Ok(())
        } else {
            Err(Fatal::Impossible {
                what: format!("entry {index} leaves a gap"),
            })
        }
    }

    fn stage(&mut self, staging: &mut Staging, body: &Body) {
        let durable = self.durable_sequence;
        self.append(
            staging,
            0,
            record::record_bytes(body),
            |sequence, salt, out| record::encode(body, sequence, durable, salt, out),
        );
    }

    /// The commit index must not point at what the same write still adds: if that is lost in a crash, there is nothing
    /// at that index, or worse, the entry that was to be replaced.
    fn hard_state_to_write(&self) -> HardState {
        let settled = self
            .next_entry
            .filter(|_| !planted!(CommitOfTornReplacement))
            .map_or(u64::MAX, |next| next.saturating_sub(1));
        let mut hard_state = self.hard_state().clone();
        hard_state.commit = hard_state.commit.min(self.last()).min(settled);
        hard_state
    }

    /// Adds a record of `size_bytes` at the end of the active file, beginning a new file if it does not fit.
    fn append(
        &mut self,
        staging: &mut Staging,
        term: u64,
        size_bytes: u64,
        encode: impl FnOnce(u64, u32, &mut Vec<u8>) -> u64,
    ) -> Slot {
        let mut active = match self.active.take() {
            Some(active) if active.end + size_bytes <= active.size_bytes => active,
            _ => self.begin_segment(staging, size_bytes),
        };
        let (offset, size_bytes) = active.append(self.next_sequence, &mut staging.batch, encode);
        self.next_sequence += 1;
        let segment = active.segment;
        self.active = Some(active);
        Slot {
            term,
            segment,
            offset,
            size_bytes,
        }
    }

    /// A new file that begins with the whole state beside the entries and has room for a record of `size_bytes`.
    fn begin_segment(&mut self, staging: &mut Staging, size_bytes: u64) -> Active {
        let mut state = vec![
            Body::Marker(Marker {
                reset: false,
                ..self.marker().clone()
            }),
            Body::HardState(self.hard_state_to_write()),
        ];
        for (index, membership) in self.contents.memberships() {
            state.push(Body::Membership {
                index: *index,
                conf_state: membership.conf_state.clone(),
                table: Some(Arc::clone(&membership.table)),
            });
        }
        if self.floor() != 0 && !planted!(ForgetFloor) {
            state.push(Body::Floor(self.floor()));
        }
        let state_bytes: u64 = state.iter().map(record::record_bytes).sum();
        self.highest_segment += 1;
        let segment = SegmentNumber(self.highest_segment);
        let salt = mix(&[self.seed, self.owner.0, segment.0]) as u32;
        let size_bytes = self
            .segment_bytes
            .max(HEADER_BYTES + state_bytes + size_bytes);
        let mut active = Active {
            segment,
            salt,
            end: HEADER_BYTES,
            size_bytes,
        };
        let header = SegmentHeader {
            segment: segment.0,
            first_sequence: self.next_sequence,
            owner: self.owner.0,
            salt,
        };
        let header = header.encode();
        staging.batch.operations.push(DiskOperation::Create {
            segment,
            header,
            size_bytes,
        });
        self.segments.insert(segment, salt);
        let durable = self.durable_sequence;
        for body in &state {
            active.append(
                self.next_sequence,
                &mut staging.batch,
                |sequence, salt, out| record::encode(body, sequence, durable, salt, out),
            );
            self.next_sequence += 1;
        }
        active
    }

    /// Files before the one with the oldest entry hold nothing that the newer ones do not hold too.
    fn stage_removals(&mut self, staging: &mut Staging) {
        let oldest_entry = self.contents.slot(self.first()).map(|slot| slot.segment);
        let Some(active) = self.active.as_ref().map(|active| active.segment) else {
            return;
        };
        let keep_from = oldest_entry.unwrap_or(active).min(active);
        while let Some(oldest) = self.segments.first_entry()
            && *oldest.key() < keep_from
        {
            let segment = oldest.remove_entry().0;
            staging
                .batch
                .operations
                .push(DiskOperation::Remove { segment });
        }
    }
}

impl Active {
    /// Encodes a record at the end and answers its offset and size.
    fn append(
        &mut self,
        sequence: u64,
        batch: &mut LogBatch,
        encode: impl FnOnce(u64, u32, &mut Vec<u8>) -> u64,
    ) -> (u64, u64) {
        let offset = self.end;
        let size_bytes = match batch.operations.last_mut() {
            Some(DiskOperation::Write { segment, bytes, .. }) if *segment == self.segment => {
                encode(sequence, self.salt, bytes)
            }
            _ => {
                let mut bytes = Vec::new();
                let size_bytes = encode(sequence, self.salt, &mut bytes);
                let segment = self.segment;
                batch.operations.push(DiskOperation::Write {
                    segment,
                    offset,
                    bytes,
                });
                size_bytes
            }
        };
        self.end += size_bytes;
        (offset, size_bytes)
    }
}
