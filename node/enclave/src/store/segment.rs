//! Segment files.
//!
//! ```text
//! file    payloads-<number, 12 digits>.seg, mode 0600
//! header  magic "QRTEPAY1" (8) | number, u64 LE (8) | zeros to byte 512
//!         two slots at 512 and 1024: turn, u64 LE (8) | synced end, u64 LE (8) | CRC32C of these, u32 LE (4)
//!         zeros to byte 1536
//! record  length of body, u32 LE (4) | CRC32C of body, u32 LE (4) | body
//! ```
//! The slot with the larger turn says up to where the file was synced. It is written after the sync that it speaks of and
//! reaches the disk with the next one: it may lag, and never leads. Behind it a bad record is an unfinished write, and
//! cut off; before it a bad record is damage.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{KIND_BLANK, Record};
use super::{BESIDE_BYTES_MAX, StoreError};
use crate::envelope::ENVELOPE_BYTES_MAX;

const MAGIC: &[u8; 8] = b"QRTEPAY1";
const SLOTS: [u64; 2] = [512, 1024];
const SLOT_BYTES: usize = 20;
pub(super) const HEADER_BYTES: u64 = 1536;
pub(super) const RECORD_HEADER_BYTES: u64 = 8;
/// The largest envelope with what stands before it and lies beside it.
const BODY_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + BESIDE_BYTES_MAX + 128;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Of the body.
    pub(super) length: u32,
}

impl Place {
    pub(super) fn end(&self) -> u64 {
        self.offset + RECORD_HEADER_BYTES + u64::from(self.length)
    }
}

#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    open: BTreeMap<u64, Arc<File>>,
    /// Length of the last one.
    end: u64,
    /// Turn of the newest slot of the last one.
    turn: u64,
}

/// What lies at an offset.
pub(super) enum Found {
    Record {
        place: Place,
        record: Record,
    },
    /// The record is bad, and its length at least may be right.
    Bad {
        place: Place,
        reason: String,
    },
    /// Not even a length.
    Torn {
        reason: &'static str,
    },
    End,
}

impl Segments {
    pub(super) fn open(dir: &Path, segment_bytes: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| io("create", dir, &e))?;
        let numbers = numbers_in(dir)?;
        let mut segments = Self {
            dir: dir.to_owned(),
            segment_bytes,
            open: BTreeMap::new(),
            end: 0,
            turn: 0,
        };
        for (position, number) in numbers.iter().enumerate() {
            let path = segments.path(*number);
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(|e| io("open", &path, &e))?;
            let length = file.metadata().map_err(|e| io("inspect", &path, &e))?.len();
            if position + 1 == numbers.len() && length < HEADER_BYTES {
                // The process or the machine ended between creating the file and writing its header.
                drop(file);
                fs::remove_file(&path).map_err(|e| io("remove", &path, &e))?;
                continue;
            }
            check_header(&file, &path, *number)?;
            let (turn, synced) = newest_slot(&file).unwrap_or((0, HEADER_BYTES));
            if length < synced {
                return Err(damaged(
                    &path,
                    length,
                    "records that were on disk are missing",
                ));
            }
            segments.end = length;
            segments.turn = turn;
            segments.open.insert(*number, Arc::new(file));
        }
        Ok(segments)
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.open.keys().copied().collect()
    }

    pub(super) fn file(&self, number: u64) -> Option<Arc<File>> {
        self.open.get(&number).cloned()
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("payloads-{number:012}.seg"))
    }

    /// Writes a record behind the last one. Not durable yet.
    pub(super) fn append(&mut self, record: &Record) -> Result<Place, StoreError> {
        let body = record.encode();
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= BODY_BYTES_MAX)
            .ok_or(StoreError::TooLarge {
                bytes: body.len() as u64,
                max: BODY_BYTES_MAX as u64,
            })?;
        if self.open.is_empty() || self.end >= self.segment_bytes {
            self.roll()?;
        }
        let Some((number, file)) = self.open.last_key_value().map(|(n, f)| (*n, Arc::clone(f)))
        else {
            return Err(damaged(&self.dir, 0, "there is no segment to write to"));
        };
        let offset = self.end;
        let path = self.path(number);
        if let Err(e) = file.write_all_at(&framed(&body), offset) {
            // The disk may be full: take back what arrived, so that the store goes on when there is room again.
            file.set_len(offset)
                .map_err(|e| io("truncate", &path, &e))?;
            return Err(StoreError::NotWritten {
                file: path,
                reason: e.to_string(),
            });
        }
        let place = Place {
            segment: number,
            offset,
            length,
        };
        self.end = place.end();
        Ok(place)
    }

    /// The last segment and where it ends; `None` if there is none yet.
    pub(super) fn tail(&self) -> Option<(u64, Arc<File>, u64)> {
        let (number, file) = self.open.last_key_value()?;
        Some((*number, Arc::clone(file), self.end))
    }

    /// Remembers that the last segment is synced up to `end`, if it still is the last one.
    pub(super) fn note_synced(&mut self, number: u64, end: u64) -> Result<(), StoreError> {
        if self
            .open
            .last_key_value()
            .is_some_and(|(n, _)| *n == number)
        {
            self.turn += 1;
            self.write_slot(number, end)?;
        }
        Ok(())
    }

    fn write_slot(&self, number: u64, end: u64) -> Result<(), StoreError> {
        let Some(file) = self.open.get(&number) else {
            return Ok(());
        };
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend_from_slice(&self.turn.to_le_bytes());
        slot.extend_from_slice(&end.to_le_bytes());
        slot.extend_from_slice(&crc32c::crc32c(&slot).to_le_bytes());
        let [even, odd] = SLOTS;
        let at = if self.turn.is_multiple_of(2) {
            even
        } else {
            odd
        };
        file.write_all_at(&slot, at)
            .map_err(|e| io("write", &self.path(number), &e))
    }

    fn roll(&mut self) -> Result<(), StoreError> {
        let mut number = 1;
        if let Some((last, file, end)) = self.tail() {
            // Only the end of the last file may be torn: everything before it is on disk first.
            let path = self.path(last);
            file.sync_data().map_err(|e| io("sync", &path, &e))?;
            self.turn += 1;
            self.write_slot(last, end)?;
            file.sync_data().map_err(|e| io("sync", &path, &e))?;
            number = last + 1;
        }
        let path = self.path(number);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io("create", &path, &e))?;
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&number.to_le_bytes());
        header.resize(HEADER_BYTES as usize, 0);
        file.write_all_at(&header, 0)
            .map_err(|e| io("write", &path, &e))?;
        file.sync_all().map_err(|e| io("sync", &path, &e))?;
        // The directory entry must survive as well, or the synced records in the file would be out of reach.
        sync_folder(&self.dir)?;
        self.open.insert(number, Arc::new(file));
        self.end = HEADER_BYTES;
        self.turn = 0;
        Ok(())
    }

    /// Up to where a segment is known to be on disk. All of it, for any but the last.
    pub(super) fn synced_end(&self, number: u64) -> u64 {
        let is_last = self
            .open
            .last_key_value()
            .is_some_and(|(n, _)| *n == number);
        match self.open.get(&number) {
            Some(file) if is_last => newest_slot(file).map_or(HEADER_BYTES, |(_, end)| end),
            Some(_) => u64::MAX,
            None => HEADER_BYTES,
        }
    }

    /// Cuts the last segment off.
    pub(super) fn cut(&mut self, from: u64) -> Result<(), StoreError> {
        if let Some((number, file, to)) = self.tail() {
            let path = self.path(number);
            tracing::warn!(file = %path.display(), from, to, "cutting the torn tail of the payload store");
            file.set_len(from).map_err(|e| io("truncate", &path, &e))?;
            file.sync_all().map_err(|e| io("sync", &path, &e))?;
            self.end = from;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, number: u64) -> Result<(), StoreError> {
        let path = self.path(number);
        self.open.remove(&number);
        fs::remove_file(&path).map_err(|e| io("remove", &path, &e))?;
        sync_folder(&self.dir)
    }

    pub(super) fn size_bytes(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for (number, file) in &self.open {
            let metadata = file.metadata();
            total += metadata
                .map_err(|e| io("inspect", &self.path(*number), &e))?
                .len();
        }
        Ok(total)
    }
}

/// Reads what lies at an offset.
pub(super) fn read_at(
    file: &File,
    path: &Path,
    segment: u64,
    offset: u64,
) -> Result<Found, StoreError> {
    let length = file.metadata().map_err(|e| io("inspect", path, &e))?.len();
    if offset >= length {
        return Ok(Found::End);
    }
    if length - offset < RECORD_HEADER_BYTES {
        return Ok(Found::Torn {
            reason: "a record ends inside of its header",
        });
    }
    let mut header = [0u8; 8];
    file.read_exact_at(&mut header, offset)
        .map_err(|e| io("read", path, &e))?;
    let [a, b, c, d, e, f, g, h] = header;
    let (body_length, crc) = (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    );
    if body_length == 0 || body_length as usize > BODY_BYTES_MAX {
        return Ok(Found::Torn {
            reason: "a record's length is out of range",
        });
    }
    let place = Place {
        segment,
        offset,
        length: body_length,
    };
    if place.end() > length {
        return Ok(Found::Torn {
            reason: "a record is longer than its file",
        });
    }
    let mut body = vec![0u8; body_length as usize];
    file.read_exact_at(&mut body, offset + RECORD_HEADER_BYTES)
        .map_err(|e| io("read", path, &e))?;
    if crc32c::crc32c(&body) != crc {
        return Ok(Found::Bad {
            place,
            reason: "checksum does not match".to_owned(),
        });
    }
    Ok(match Record::decode(&body) {
        Ok(record) => Found::Record { place, record },
        Err(reason) => Found::Bad { place, reason },
    })
}

/// Overwrites a record with a blank one of the same length. Not durable yet.
pub(super) fn blank(file: &File, path: &Path, place: Place) -> Result<(), StoreError> {
    let mut body = vec![0u8; place.length as usize];
    if let Some(kind) = body.first_mut() {
        *kind = KIND_BLANK;
    }
    file.write_all_at(&framed(&body), place.offset)
        .map_err(|e| io("write", path, &e))
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 8);
    // Checked by those who call: a body is far below 4 GiB.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn check_header(file: &File, path: &Path, number: u64) -> Result<(), StoreError> {
    let mut header = [0u8; 16];
    file.read_exact_at(&mut header, 0)
        .map_err(|e| io("read", path, &e))?;
    let (magic, found) = header.split_at(8);
    if magic != MAGIC {
        return Err(damaged(
            path,
            0,
            "this is no payload segment of this version",
        ));
    }
    if found != number.to_le_bytes() {
        return Err(damaged(
            path,
            8,
            "the segment has another number than its file",
        ));
    }
    Ok(())
}

/// Turn and synced end.
fn newest_slot(file: &File) -> Option<(u64, u64)> {
    let read = |at| {
        let mut slot = [0u8; SLOT_BYTES];
        file.read_exact_at(&mut slot, at).ok()?;
        let (numbers, crc) = slot.split_last_chunk::<4>()?;
        let (turn, end) = numbers.split_first_chunk::<8>()?;
        let (turn, end) = (
            u64::from_le_bytes(*turn),
            u64::from_le_bytes(*end.first_chunk::<8>()?),
        );
        let valid = crc32c::crc32c(numbers) == u32::from_le_bytes(*crc) && end >= HEADER_BYTES;
        valid.then_some((turn, end))
    };
    SLOTS.into_iter().filter_map(read).max()
}

fn numbers_in(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io("list", dir, &e))? {
        let name = entry.map_err(|e| io("list", dir, &e))?.file_name();
        let number = name.to_str().and_then(|n| {
            let digits = n.strip_prefix("payloads-")?.strip_suffix(".seg")?;
            digits.parse::<u64>().ok().filter(|n| *n > 0)
        });
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn sync_folder(dir: &Path) -> Result<(), StoreError> {
    let folder = File::open(dir).map_err(|e| io("open", dir, &e))?;
    folder.sync_all().map_err(|e| io("sync", dir, &e))
}

pub(super) fn io(action: &'static str, file: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Io {
        action,
        file: file.to_owned(),
        reason: e.to_string(),
    }
}

pub(super) fn damaged(file: &Path, offset: u64, reason: &str) -> StoreError {
    StoreError::Damaged {
        file: file.to_owned(),
        offset,
        reason: reason.to_owned(),
    }
}
