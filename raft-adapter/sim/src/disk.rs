//! A disk that keeps exactly what a real one promises, and fails as real ones do.
//!
//! Three levels of safety: what a process wrote is seen by everyone on the machine at once (`current`); a sync brings it to
//! the medium (`durable`); a name is safe once the folder was synced. A killed process loses nothing that it wrote; a
//! power loss takes what was not synced, sector by sector. After a failed sync the system holds the pages for clean: they
//! may go on showing what never reached the medium, and no later sync brings it there.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;
use raft_adapter::{Disk, SegmentNumber};

use crate::{
    faults::{Fault, Situation},
    random::Random,
};

/// Bytes that reach the medium together or not at all.
const SECTOR_BYTES: usize = 512;
/// A file's header goes in when the file is made and is synced with it.
const HEADER_BYTES: usize = 48;

/// Files in memory. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// A disk's medium at some moment.
#[derive(Clone, Debug)]
pub(crate) struct Image(BTreeMap<SegmentNumber, File>);

/// The kinds of loss that a power failure may bring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses {
    pub(crate) writes: bool,
    pub(crate) sectors: bool,
    pub(crate) names: bool,
}

#[derive(Debug)]
struct State {
    files: BTreeMap<SegmentNumber, File>,
    /// Removed, and the folder not synced since.
    removed: BTreeMap<SegmentNumber, File>,
    random: Random,
    /// For how far an operation on a whole file gets that fails.
    file_random: Random,
    planned: Planned,
    /// For the next process that starts here, beginning with its recovery.
    planned_at_start: Planned,
    power_lost: bool,
    /// Errors answered since the process started.
    errors: u64,
    flips: u64,
    /// Set when something that was on the medium was cut away or removed; looked at after a recovery.
    durable_cut: bool,
    torn_cut: bool,
    faults: Vec<Fault>,
    situations: Vec<Situation>,
}

/// What is to go wrong next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planned {
    pub(crate) read_error: bool,
    pub(crate) write_error: bool,
    pub(crate) sync_error: bool,
    /// No file can be made.
    pub(crate) full: bool,
    /// Operations until the power goes.
    pub(crate) power_lost_in: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct File {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// The folder knows it for certain.
    name_durable: bool,
    /// Behind the last byte that was written and synced.
    synced_end: usize,
    /// Behind the last byte that was written.
    written_end: usize,
}

impl SimDisk {
    pub(crate) fn new(seed: u64, id: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                files: BTreeMap::new(),
                removed: BTreeMap::new(),
                random: Random::new(seed, 1000 + id),
                file_random: Random::new(seed, 2000 + id),
                planned: Planned::default(),
                planned_at_start: Planned::default(),
                power_lost: false,
                errors: 0,
                flips: 0,
                durable_cut: false,
                torn_cut: false,
                faults: Vec::new(),
                situations: Vec::new(),
            })),
        }
    }

    pub(crate) fn plan(&self, change: impl FnOnce(&mut Planned)) {
        change(&mut self.state.lock().planned);
    }

    /// What is to go wrong once the next process starts.
    pub(crate) fn plan_at_start(&self, planned: Planned) {
        self.state.lock().planned_at_start = planned;
    }

    pub(crate) fn power_lost(&self) -> bool {
        self.state.lock().power_lost
    }

    /// Errors answered since the last call of [`SimDisk::begin`].
    pub(crate) fn errors(&self) -> u64 {
        self.state.lock().errors
    }

    /// Bits turned over since the disk was new.
    pub(crate) fn flips(&self) -> u64 {
        self.state.lock().flips
    }

    /// A process is about to start on it.
    pub(crate) fn begin(&self) {
        let mut state = self.state.lock();
        state.errors = 0;
        state.durable_cut = false;
        state.torn_cut = false;
        let full = state.planned.full;
        state.planned = Planned {
            full,
            ..std::mem::take(&mut state.planned_at_start)
        };
    }

    /// True if a recovery threw something away that had been on the medium.
    pub(crate) fn durable_was_cut(&self) -> bool {
        self.state.lock().durable_cut
    }

    /// True if a recovery cut off something that had been written and not synced.
    pub(crate) fn torn_tail_was_cut(&self) -> bool {
        self.state.lock().torn_cut
    }

    /// Counted since the last call.
    pub(crate) fn take_counts(&self) -> (Vec<Fault>, Vec<Situation>) {
        let mut state = self.state.lock();
        (
            std::mem::take(&mut state.faults),
            std::mem::take(&mut state.situations),
        )
    }

    /// The machine loses power.
    pub(crate) fn lose_power(&self, losses: Losses) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.power_lost = false;
        state.planned.power_lost_in = None;
        if losses.names {
            let names: Vec<_> = state.files.keys().copied().collect();
            for name in names {
                let volatile = state.files.get(&name).is_some_and(|it| !it.name_durable);
                if volatile && state.random.chance(500) {
                    state.files.remove(&name);
                    state.faults.push(Fault::LostDirectoryEntries);
                }
            }
            while let Some((name, file)) = state.removed.pop_first() {
                if state.random.chance(500) {
                    state.files.insert(name, file);
                    state.faults.push(Fault::LostDirectoryEntries);
                }
            }
        }
        state.removed.clear();
        for file in state.files.values_mut() {
            file.name_durable = true;
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                let fate = if losses.writes {
                    state.random.below(3)
                } else {
                    1
                };
                let torn = fate == 2 && losses.sectors;
                let mut at = offset;
                let end = offset + bytes.len();
                let (mut kept, mut lost) = (0, 0);
                while at < end {
                    let sector_end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                    let survives = if torn {
                        state.random.chance(500)
                    } else {
                        fate != 0
                    };
                    if survives {
                        kept += 1;
                        overlay(
                            &mut file.durable,
                            at,
                            bytes
                                .get(at - offset..sector_end - offset)
                                .unwrap_or_default(),
                        );
                        file.written_end = file.written_end.max(sector_end);
                    } else {
                        lost += 1;
                    }
                    at = sector_end;
                }
                match (kept, lost) {
                    (_, 0) => {}
                    (0, _) => state.faults.push(Fault::LostWrites),
                    _ => state.faults.push(Fault::TornSectors),
                }
            }
            file.current.clone_from(&file.durable);
        }
    }

    /// Turns one bit over among the bytes that were ever written. False if there are none.
    pub(crate) fn flip_bit(&self) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let names: Vec<_> = state.files.keys().copied().collect();
        let Some(name) = state.random.pick(&names) else {
            return false;
        };
        let Some(file) = state.files.get_mut(&name) else {
            return false;
        };
        if file.synced_end == 0 {
            return false;
        }
        let at = state.random.below(file.synced_end as u64) as usize;
        let mask = 1_u8 << state.random.below(8);
        for bytes in [&mut file.current, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
        state.flips += 1;
        true
    }

    /// What a backup taken now would hold.
    pub(crate) fn image(&self) -> Image {
        let state = self.state.lock();
        let copy = |file: &File| File {
            current: file.durable.clone(),
            durable: file.durable.clone(),
            unsynced: Vec::new(),
            name_durable: true,
            synced_end: file.synced_end,
            written_end: file.synced_end,
        };
        Image(
            state
                .files
                .iter()
                .map(|(name, file)| (*name, copy(file)))
                .collect(),
        )
    }

    pub(crate) fn restore(&self, image: &Image) {
        let mut state = self.state.lock();
        state.files.clone_from(&image.0);
        state.removed.clear();
        state.power_lost = false;
    }

    pub(crate) fn wipe(&self) {
        let mut state = self.state.lock();
        state.files.clear();
        state.removed.clear();
        state.power_lost = false;
    }

    /// No more trouble from here.
    pub(crate) fn repair(&self) {
        let mut state = self.state.lock();
        state.planned = Planned::default();
        state.planned_at_start = Planned::default();
    }
}

fn overlay(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = target.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn missing(segment: SegmentNumber) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no segment {segment}"))
}

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("input/output error: {what}"))
}

impl State {
    /// True if the power goes in this operation.
    fn goes_out(&mut self) -> io::Result<bool> {
        if self.power_lost {
            return Err(eio("the power is gone"));
        }
        match &mut self.planned.power_lost_in {
            None => Ok(false),
            Some(0) => {
                self.planned.power_lost_in = None;
                self.power_lost = true;
                self.faults.push(Fault::InterruptedOperation);
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
        }
    }

    fn fail(&mut self, fault: Fault, what: &str) -> io::Error {
        self.errors += 1;
        self.faults.push(fault);
        match fault {
            Fault::DiskFull => {
                io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
            }
            _ => eio(what),
        }
    }

    /// All names there are now, and no others, survive.
    fn names_are_durable(&mut self) {
        self.removed.clear();
        for file in self.files.values_mut() {
            file.name_durable = true;
        }
    }

    fn file(&mut self, segment: SegmentNumber) -> io::Result<&mut File> {
        self.files.get_mut(&segment).ok_or_else(|| missing(segment))
    }

    fn read_fails(&mut self) -> io::Result<()> {
        if self.power_lost {
            return Err(eio("the power is gone"));
        }
        if std::mem::take(&mut self.planned.read_error) {
            return Err(self.fail(Fault::ReadError, "read"));
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn segments(&self) -> io::Result<Vec<SegmentNumber>> {
        Ok(self.state.lock().files.keys().copied().collect())
    }

    fn read_all(&self, segment: SegmentNumber) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock();
        state.read_fails()?;
        Ok(state.file(segment)?.current.clone())
    }

    fn read(&self, segment: SegmentNumber, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock();
        state.read_fails()?;
        let range = offset as usize..offset.saturating_add(length) as usize;
        let file = state.file(segment)?;
        file.current
            .get(range)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    fn create(&self, segment: SegmentNumber, header: &[u8], size_bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let interrupted = state.goes_out()?;
        if state.files.contains_key(&segment) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let mut bytes = vec![0; size_bytes as usize];
        let full = state.planned.full;
        let fails = !full && std::mem::take(&mut state.planned.write_error);
        if interrupted || full || fails {
            // Open, set space aside, write, sync, sync the folder: it got to one of these. A full disk has no space to set
            // aside, but maybe room for the name.
            let stage = if interrupted {
                state.random.below(4)
            } else {
                state.file_random.below(if full { 2 } else { 4 })
            };
            let mut durable = bytes;
            if stage <= 1 {
                durable.clear();
            }
            let mut current = durable.clone();
            if stage == 3 {
                overlay(&mut current, 0, header);
                // Of an unfinished sync anything may have reached the medium.
                if interrupted || state.file_random.chance(500) {
                    durable.clone_from(&current);
                }
            }
            if interrupted {
                state.situations.push(Situation::InterruptedCreate);
                current.clone_from(&durable);
            }
            let file = File {
                current,
                durable,
                unsynced: Vec::new(),
                name_durable: false,
                synced_end: 0,
                written_end: if stage == 3 { header.len() } else { 0 },
            };
            if stage > 0 {
                state.files.insert(segment, file);
            }
            return Err(match (full, interrupted) {
                (true, _) => state.fail(Fault::DiskFull, "create"),
                (_, true) => eio("the power went"),
                _ => state.fail(Fault::WriteError, "create"),
            });
        }
        overlay(&mut bytes, 0, header);
        let file = File {
            current: bytes.clone(),
            durable: bytes,
            unsynced: Vec::new(),
            name_durable: true,
            synced_end: header.len(),
            written_end: header.len(),
        };
        state.files.insert(segment, file);
        state.names_are_durable();
        Ok(())
    }

    fn write(&self, segment: SegmentNumber, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let interrupted = state.goes_out()?;
        let fails = std::mem::take(&mut state.planned.write_error);
        let written = if fails {
            let part = state.random.below(bytes.len() as u64 + 1) as usize;
            bytes.get(..part).unwrap_or_default()
        } else {
            bytes
        };
        let file = state.file(segment)?;
        let at = offset as usize;
        let end = at + written.len();
        if file.current.len() < end {
            file.current.resize(end, 0);
            file.durable.resize(end, 0);
        }
        overlay(&mut file.current, at, written);
        file.unsynced.push((at, written.to_vec()));
        file.written_end = file.written_end.max(end);
        if fails {
            return Err(state.fail(Fault::WriteError, "write"));
        }
        if interrupted {
            return Err(eio("the power went"));
        }
        Ok(())
    }

    fn sync(&self, segment: SegmentNumber) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.goes_out()? {
            return Err(eio("the power went"));
        }
        if std::mem::take(&mut state.planned.sync_error) {
            let (shown, partly) = (state.random.chance(500), state.random.chance(500));
            let file = state
                .files
                .get_mut(&segment)
                .ok_or_else(|| missing(segment))?;
            for (at, bytes) in std::mem::take(&mut file.unsynced) {
                if partly && state.random.chance(500) {
                    overlay(&mut file.durable, at, &bytes);
                }
            }
            if !shown {
                // The system dropped the pages: what is read next comes from the medium.
                file.current.clone_from(&file.durable);
            }
            return Err(state.fail(Fault::FailedSync, "sync"));
        }
        let file = state
            .files
            .get_mut(&segment)
            .ok_or_else(|| missing(segment))?;
        for (at, bytes) in std::mem::take(&mut file.unsynced) {
            overlay(&mut file.durable, at, &bytes);
            file.synced_end = file.synced_end.max(at + bytes.len());
        }
        Ok(())
    }

    fn truncate(&self, segment: SegmentNumber, size_bytes: u64) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let interrupted = state.goes_out()?;
        let fails = std::mem::take(&mut state.planned.write_error);
        let size = size_bytes as usize;
        let file = state
            .files
            .get_mut(&segment)
            .ok_or_else(|| missing(segment))?;
        if size < file.synced_end {
            state.durable_cut = true;
        } else if size < file.written_end {
            state.torn_cut = true;
        }
        if interrupted && state.random.chance(500) {
            return Err(eio("the power went"));
        }
        if fails {
            // The system may show the new size all the same.
            if state.file_random.chance(500) {
                file.current.resize(size, 0);
                file.written_end = file.written_end.min(size);
            }
            return Err(state.fail(Fault::WriteError, "truncate"));
        }
        for (at, bytes) in std::mem::take(&mut file.unsynced) {
            overlay(&mut file.durable, at, &bytes);
            file.synced_end = file.synced_end.max(at + bytes.len());
        }
        file.current.resize(size, 0);
        file.durable.resize(size, 0);
        file.synced_end = file.synced_end.min(size);
        file.written_end = file.written_end.min(size);
        if interrupted {
            return Err(eio("the power went"));
        }
        Ok(())
    }

    fn remove(&self, segment: SegmentNumber) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let interrupted = state.goes_out()?;
        let file = state
            .files
            .remove(&segment)
            .ok_or_else(|| missing(segment))?;
        if file.synced_end > HEADER_BYTES {
            state.durable_cut = true;
        } else if file.written_end > HEADER_BYTES {
            state.torn_cut = true;
        }
        if interrupted {
            state.situations.push(Situation::InterruptedRemove);
            state.removed.insert(segment, file);
            return Err(eio("the power went"));
        }
        if std::mem::take(&mut state.planned.write_error) {
            // The name is gone, and the folder was not synced.
            state.removed.insert(segment, file);
            return Err(state.fail(Fault::WriteError, "remove"));
        }
        state.names_are_durable();
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.goes_out()? {
            return Err(eio("the power went"));
        }
        // The files' syncs are to fail, too.
        if state.planned.sync_error && state.file_random.chance(250) {
            state.planned.sync_error = false;
            return Err(state.fail(Fault::FailedSync, "sync"));
        }
        state.names_are_durable();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentNumber = SegmentNumber(1);
    const ALL: Losses = Losses {
        writes: true,
        sectors: true,
        names: true,
    };

    fn written(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed, 1);
        disk.create(SEGMENT, &[1; HEADER_BYTES], 8192).unwrap();
        disk.write(SEGMENT, 48, &[2; 4096]).unwrap();
        disk
    }

    #[test]
    fn a_synced_write_survives_power_loss_and_an_unsynced_one_only_by_sectors() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let disk = written(seed);
            disk.sync(SEGMENT).unwrap();
            disk.write(SEGMENT, 4144, &[3; 2048]).unwrap();
            disk.lose_power(ALL);
            let bytes = disk.read_all(SEGMENT).unwrap();
            assert!(bytes[48..4144].iter().all(|byte| *byte == 2));
            let tail: Vec<_> = bytes[4144..6192].chunks(512).map(|it| it[0] == 3).collect();
            outcomes.insert(tail);
        }
        assert!(outcomes.len() > 3);
    }

    #[test]
    fn a_failed_sync_may_show_what_no_later_sync_brings_to_the_medium() {
        let shown = (0..50).any(|seed| {
            let disk = written(seed);
            disk.plan(|planned| planned.sync_error = true);
            assert!(disk.sync(SEGMENT).is_err());
            let shown = disk.read(SEGMENT, 48, 1).unwrap() == [2];
            disk.sync(SEGMENT).unwrap();
            disk.lose_power(ALL);
            shown && disk.read(SEGMENT, 48, 1).unwrap() == [0]
        });
        assert!(shown);
    }
}
