//! A disk in memory that loses what was not synced, for tests and simulation.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;

use super::disk::{Disk, SegmentNumber};
use crate::random::Random;

/// Bytes that reach the medium together or not at all.
const SECTOR_BYTES: usize = 512;

/// Log files in memory. Clones share the same files, as a restarted process finds the same disk.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<SegmentNumber, FakeFile>,
    /// Removed, and the folder not synced since: a crash may bring them back.
    removed: BTreeMap<SegmentNumber, FakeFile>,
    creation_failures: u32,
    removal_failures: u32,
    sync_failures: u32,
    write_failures: u32,
    syncs: u64,
    reads: u64,
}

#[derive(Debug, Default)]
struct FakeFile {
    /// What the process sees.
    current: Vec<u8>,
    /// What survives a crash for certain.
    durable: Vec<u8>,
    /// Writes since the last sync, each of which a crash may keep, lose or tear.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl FakeDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Power loss: of every write since the last sync, each sector survives or not, as `seed` decides, and every file
    /// whose removal failed comes back or does not.
    pub fn crash(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        while let Some((segment, file)) = state.removed.pop_first() {
            if random.below(2) == 0 {
                state.files.entry(segment).or_insert(file);
            }
        }
        for file in state.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                let fate = random.below(3);
                let mut at = offset;
                let end = offset + bytes.len();
                while at < end {
                    let sector_end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                    let survives = match fate {
                        0 => false,
                        1 => true,
                        _ => random.below(2) == 0,
                    };
                    if survives {
                        overlay(
                            &mut file.durable,
                            at,
                            bytes.get(at - offset..sector_end - offset),
                        );
                    }
                    at = sector_end;
                }
            }
            file.current.clone_from(&file.durable);
        }
    }

    /// The next `count` syncs fail, make nothing durable, and leave the system in the belief that nothing is left to do, as
    /// Linux does: what was written is still shown, and no later sync brings it to the medium.
    pub fn fail_syncs(&self, count: u32) {
        self.state.lock().sync_failures = count;
    }

    /// The next `count` files that are made get no header.
    pub fn fail_creations(&self, count: u32) {
        self.state.lock().creation_failures = count;
    }

    /// The next `count` removals take the name and fail to sync the folder.
    pub fn fail_removals(&self, count: u32) {
        self.state.lock().removal_failures = count;
    }

    /// The next `count` writes fail.
    pub fn fail_writes(&self, count: u32) {
        self.state.lock().write_failures = count;
    }

    /// Turns one bit of a file over, on the medium and in what the process sees. Bits beyond the end are ignored.
    pub fn flip_bit(&self, segment: SegmentNumber, bit: u64) {
        let mut state = self.state.lock();
        let Some(file) = state.files.get_mut(&segment) else {
            return;
        };
        let (byte, mask) = ((bit / 8) as usize, 1_u8 << (bit % 8));
        for bytes in [&mut file.current, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= mask;
            }
        }
    }

    /// A disk of its own with what is durable on this one: what a backup taken now would hold.
    #[must_use]
    pub fn backup(&self) -> Self {
        let state = self.state.lock();
        let copy = |file: &FakeFile| FakeFile {
            current: file.durable.clone(),
            durable: file.durable.clone(),
            unsynced: Vec::new(),
        };
        let files = state
            .files
            .iter()
            .map(|(segment, file)| (*segment, copy(file)));
        let state = State {
            files: files.collect(),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Removes everything, as if the disk had been replaced.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.files.clear();
        state.removed.clear();
    }

    /// Syncs that succeeded so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Reads of single records so far: entries that were not in memory.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }
}

fn overlay(target: &mut [u8], at: usize, bytes: Option<&[u8]>) {
    let bytes = bytes.unwrap_or_default();
    if let Some(slot) = target.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn missing(segment: SegmentNumber) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no segment {segment}"))
}

impl Disk for FakeDisk {
    fn segments(&self) -> io::Result<Vec<SegmentNumber>> {
        Ok(self.state.lock().files.keys().copied().collect())
    }

    fn read_all(&self, segment: SegmentNumber) -> io::Result<Vec<u8>> {
        let state = self.state.lock();
        Ok(state
            .files
            .get(&segment)
            .ok_or_else(|| missing(segment))?
            .current
            .clone())
    }

    fn read(&self, segment: SegmentNumber, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock();
        state.reads += 1;
        let file = state.files.get(&segment).ok_or_else(|| missing(segment))?;
        let range = offset as usize..(offset + length) as usize;
        file.current
            .get(range)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    fn create(&self, segment: SegmentNumber, header: &[u8], size_bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.files.contains_key(&segment) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let mut bytes = vec![0; size_bytes as usize];
        let fails = state.creation_failures > 0;
        if !fails {
            overlay(&mut bytes, 0, Some(header));
        }
        let file = FakeFile {
            current: bytes.clone(),
            durable: bytes,
            unsynced: Vec::new(),
        };
        state.files.insert(segment, file);
        if fails {
            state.creation_failures -= 1;
            return Err(io::Error::other("creation fails as asked"));
        }
        state.removed.clear();
        Ok(())
    }

    fn write(&self, segment: SegmentNumber, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.write_failures > 0 {
            state.write_failures -= 1;
            return Err(io::Error::other("write fails as asked"));
        }
        let file = state
            .files
            .get_mut(&segment)
            .ok_or_else(|| missing(segment))?;
        let at = offset as usize;
        let end = at + bytes.len();
        if file.current.len() < end {
            file.current.resize(end, 0);
            file.durable.resize(end, 0);
        }
        overlay(&mut file.current, at, Some(bytes));
        file.unsynced.push((at, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self, segment: SegmentNumber) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.sync_failures > 0 {
            state.sync_failures -= 1;
            if let Some(file) = state.files.get_mut(&segment) {
                file.unsynced.clear();
            }
            return Err(io::Error::other("sync fails as asked"));
        }
        let file = state
            .files
            .get_mut(&segment)
            .ok_or_else(|| missing(segment))?;
        for (at, bytes) in std::mem::take(&mut file.unsynced) {
            overlay(&mut file.durable, at, Some(&bytes));
        }
        state.syncs += 1;
        Ok(())
    }

    fn truncate(&self, segment: SegmentNumber, size_bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state
            .files
            .get_mut(&segment)
            .ok_or_else(|| missing(segment))?;
        for (at, bytes) in std::mem::take(&mut file.unsynced) {
            overlay(&mut file.durable, at, Some(&bytes));
        }
        file.current.resize(size_bytes as usize, 0);
        file.durable.resize(size_bytes as usize, 0);
        Ok(())
    }

    fn remove(&self, segment: SegmentNumber) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state
            .files
            .remove(&segment)
            .ok_or_else(|| missing(segment))?;
        if state.removal_failures > 0 {
            state.removal_failures -= 1;
            state.removed.insert(segment, file);
            return Err(io::Error::other("removal fails as asked"));
        }
        state.removed.clear();
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.state.lock().removed.clear();
        Ok(())
    }
}
