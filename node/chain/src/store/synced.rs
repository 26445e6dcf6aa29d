//! How far the segments survive a power loss, known durably.
//!
//! ```text
//! file   synced: two slots at byte 0 and 512; the valid one with the larger turn counts
//! slot   turn, u64 LE (8) | segment (8) | end of the last synced record in it (8) | CRC32C of these, u32 LE (4)
//! ```
//! Turns alternate between the slots, so that a torn write of one leaves the other.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::StoreError;
use super::segment::{io, sync_folder};

const SLOT_STEP: u64 = 512;
const SLOT_BYTES: usize = 28;

#[derive(Debug)]
pub(super) struct SyncedMark {
    file: File,
    path: PathBuf,
    latest: Mutex<Option<Slot>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    turn: u64,
    segment: u64,
    end: u64,
}

impl SyncedMark {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("synced");
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| io("open", &path, &e))?;
        if is_new {
            sync_folder(dir)?;
        }
        let slots = [0, SLOT_STEP].map(|at| read_slot(&file, at));
        let latest = slots.into_iter().flatten().max_by_key(|slot| slot.turn);
        Ok(Self {
            file,
            path,
            latest: Mutex::new(latest),
        })
    }

    /// Segment and byte up to which everything was synced; `None` if nothing ever said so.
    pub(super) fn get(&self) -> Option<(u64, u64)> {
        self.latest.lock().map(|slot| (slot.segment, slot.end))
    }

    /// Says so durably, unless it was said already.
    pub(super) fn advance(&self, segment: u64, end: u64) -> Result<(), StoreError> {
        let mut latest = self.latest.lock();
        if latest.is_some_and(|slot| (slot.segment, slot.end) >= (segment, end)) {
            return Ok(());
        }
        fail_point!("blocks.sync.mark", |e| io("write", &self.path, &e));
        let turn = latest.map_or(0, |slot| slot.turn + 1);
        let slot = Slot { turn, segment, end };
        self.file
            .write_all_at(&slot.encode(), (turn % 2) * SLOT_STEP)
            .map_err(|e| io("write", &self.path, &e))?;
        // The first writes also make the file longer, which its metadata must say.
        let synced = if turn < 2 {
            self.file.sync_all()
        } else {
            self.file.sync_data()
        };
        synced.map_err(|e| io("sync", &self.path, &e))?;
        *latest = Some(slot);
        Ok(())
    }
}

impl Slot {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.turn, self.segment, self.end];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Self> {
        let (numbers, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(numbers) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (turn, rest) = numbers.split_first_chunk::<8>()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let (end, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            turn: u64::from_le_bytes(*turn),
            segment: u64::from_le_bytes(*segment),
            end: u64::from_le_bytes(*end),
        })
    }
}

fn read_slot(file: &File, at: u64) -> Option<Slot> {
    let mut bytes = [0u8; SLOT_BYTES];
    file.read_exact_at(&mut bytes, at).ok()?;
    Slot::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_survives_a_torn_write_of_its_newest_slot_and_never_goes_back() {
        let dir = tempfile::TempDir::new().unwrap();
        let mark = SyncedMark::open(dir.path()).unwrap();
        assert_eq!(mark.get(), None);
        for end in [40, 100, 250] {
            mark.advance(1, end).unwrap();
        }
        mark.advance(1, 90).unwrap();
        assert_eq!(mark.get(), Some((1, 250)));
        drop(mark);
        assert_eq!(SyncedMark::open(dir.path()).unwrap().get(), Some((1, 250)));
        let mark = SyncedMark::open(dir.path()).unwrap();
        mark.advance(300, 40).unwrap();
        // The fourth turn lies in the second slot.
        mark.file.write_all_at(&[0xff], SLOT_STEP + 9).unwrap();
        assert_eq!(SyncedMark::open(dir.path()).unwrap().get(), Some((1, 250)));
    }
}
