//! Segment files.
//!
//! ```text
//! file    blocks-<first height, 12 digits>.seg
//! header  magic "QRTEBLK1" (8 bytes) | genesis hash (32)
//! record  length of body, u32 LE (4) | CRC32C of body, u32 LE (4) | body
//! ```
//! A new segment begins when the current one has passed the configured size. Beside the segments lie `synced` (see
//! [`super::synced`]) and, if the store does not begin at block 1, `base` (see [`super::bottom`]).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy_primitives::B256;
use parking_lot::Mutex;

use super::index::Place;
use super::synced::SyncedMark;
use super::{StoreError, record};
use crate::ImportedBlock;

const MAGIC: &[u8; 8] = b"QRTEBLK1";
const FILE_HEADER_BYTES: u64 = 40;
const RECORD_HEADER_BYTES: u64 = 8;
/// No record is larger: the largest block (16 MiB) with receipts and senders, with room to spare.
const RECORD_BYTES_MAX: u32 = 256 << 20;

#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    genesis: B256,
    segment_bytes: u64,
    /// How far the files survive a power loss.
    synced: SyncedMark,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Open files by first height.
    open: BTreeMap<u64, Arc<File>>,
    /// Length of the last one.
    end: u64,
    /// Bytes of all the earlier ones.
    earlier_bytes: u64,
}

impl Segments {
    /// True if the folder holds a segment.
    pub(super) fn any_in(dir: &Path) -> Result<bool, StoreError> {
        Ok(dir.exists() && !firsts_in(dir)?.is_empty())
    }

    pub(super) fn open(dir: &Path, genesis: B256, segment_bytes: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| io("create", dir, &e))?;
        let names = firsts_in(dir)?;
        let synced = SyncedMark::open(dir)?;
        let mut files = Files::default();
        for (position, first) in names.iter().enumerate() {
            let path = path(dir, *first);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|e| io("open", &path, &e))?;
            let length = file.metadata().map_err(|e| io("inspect", &path, &e))?.len();
            if position + 1 == names.len() && length < FILE_HEADER_BYTES {
                // The process or the machine ended between creating the file and writing its header.
                drop(file);
                fs::remove_file(&path).map_err(|e| io("remove", &path, &e))?;
                continue;
            }
            check_header(&file, &path, genesis)?;
            files.earlier_bytes += files.end;
            files.end = length;
            files.open.insert(*first, Arc::new(file));
        }
        Ok(Self {
            dir: dir.to_owned(),
            genesis,
            segment_bytes,
            synced,
            files: Mutex::new(files),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// True if something was ever appended here, whatever has become of it.
    pub(super) fn was_used(&self) -> bool {
        self.synced.get().is_some()
    }

    /// First heights of the segments, rising.
    pub(super) fn firsts(&self) -> Vec<u64> {
        self.files.lock().open.keys().copied().collect()
    }

    /// Where the first record of the first segment at or above this height lies.
    pub(super) fn first_from(&self, height: u64) -> Option<Place> {
        let files = self.files.lock();
        let (segment, _) = files.open.range(height..).next()?;
        Some(Place {
            segment: *segment,
            offset: FILE_HEADER_BYTES,
        })
    }

    /// Removes the segments that begin below `height`; the last one always stays. Returns their number and bytes.
    pub(super) fn remove_below(&self, height: u64) -> Result<(usize, u64), StoreError> {
        let mut removed = (0, 0);
        for first in self.firsts() {
            let file = {
                let mut files = self.files.lock();
                if first >= height || files.open.len() == 1 {
                    break;
                }
                // Readers that hold the file finish with it; nobody finds it from here on.
                files.open.remove(&first)
            };
            let path = path(&self.dir, first);
            let bytes = file.map_or(Ok(0), |file| file.metadata().map(|m| m.len()));
            let bytes = bytes.map_err(|e| io("inspect", &path, &e))?;
            fail_point!("blocks.prune.remove", |e| io("remove", &path, &e));
            fs::remove_file(&path).map_err(|e| io("remove", &path, &e))?;
            let mut files = self.files.lock();
            files.earlier_bytes = files.earlier_bytes.saturating_sub(bytes);
            removed = (removed.0 + 1, removed.1 + bytes);
        }
        if removed.0 > 0 {
            sync_folder(&self.dir)?;
        }
        Ok(removed)
    }

    pub(super) fn append(&self, block: &ImportedBlock) -> Result<Place, StoreError> {
        let bytes = framed(&self.dir, block)?;
        let mut files = self.files.lock();
        if files.open.is_empty() || files.end >= self.segment_bytes {
            self.roll(&mut files, block.height())?;
        }
        let Some((segment, file)) = files
            .open
            .last_key_value()
            .map(|(s, f)| (*s, Arc::clone(f)))
        else {
            return Err(StoreError::Poisoned);
        };
        let offset = files.end;
        let failed = |e: std::io::Error| io("write", &path(&self.dir, segment), &e);
        fail_point!("blocks.append", failed);
        fail_point!("blocks.append.torn", |e| {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            failed(file.write_all_at(half, offset).err().unwrap_or(e))
        });
        file.write_all_at(&bytes, offset).map_err(failed)?;
        fail_point!("blocks.append.done");
        files.end += bytes.len() as u64;
        Ok(Place { segment, offset })
    }

    fn roll(&self, files: &mut Files, first: u64) -> Result<(), StoreError> {
        // Only the end of the last file may be torn: everything before it is on disk first.
        if let Some((previous, file)) = files.open.last_key_value() {
            fail_point!("blocks.roll.sync", |e| io("sync", &self.dir, &e));
            file.sync_data()
                .map_err(|e| io("sync", &self::path(&self.dir, *previous), &e))?;
        }
        let path = path(&self.dir, first);
        fail_point!("blocks.roll.create", |e| io("create", &path, &e));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| io("create", &path, &e))?;
        let mut header = Vec::with_capacity(40);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(self.genesis.as_slice());
        file.write_all(&header)
            .map_err(|e| io("write", &path, &e))?;
        file.sync_all().map_err(|e| io("sync", &path, &e))?;
        fail_point!("blocks.roll.folder", |e| io("sync", &self.dir, &e));
        // The directory entry must survive as well, or the synced records in the file would be out of reach.
        sync_folder(&self.dir)?;
        self.synced.advance(first, FILE_HEADER_BYTES)?;
        files.earlier_bytes += files.end;
        files.end = FILE_HEADER_BYTES;
        files.open.insert(first, Arc::new(file));
        Ok(())
    }

    /// Makes what was appended so far durable, and durably known to be so.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let last = {
            let files = self.files.lock();
            let last = files.open.last_key_value();
            last.map(|(first, file)| (*first, Arc::clone(file), files.end))
        };
        if let Some((segment, file, end)) = last {
            fail_point!("blocks.sync", |e| io("sync", &self.dir, &e));
            file.sync_data().map_err(|e| io("sync", &self.dir, &e))?;
            self.synced.advance(segment, end)?;
        }
        Ok(())
    }

    pub(super) fn read(&self, place: Place) -> Result<ImportedBlock, StoreError> {
        let path = path(&self.dir, place.segment);
        let file = self.files.lock().open.get(&place.segment).cloned();
        let file =
            file.ok_or_else(|| damaged(&path, place.offset, "the segment file is missing"))?;
        let mut header = [0u8; 8];
        let ended = |e: std::io::Error| match e.kind() {
            ErrorKind::UnexpectedEof => damaged(&path, place.offset, "the file ends before it"),
            _ => io("read", &path, &e),
        };
        file.read_exact_at(&mut header, place.offset)
            .map_err(ended)?;
        let (length, crc) = split_header(header);
        let body_at = place.offset + RECORD_HEADER_BYTES;
        // What is not in the file needs no memory either.
        let held = file.metadata().map_err(|e| io("inspect", &path, &e))?.len();
        if length > RECORD_BYTES_MAX || u64::from(length) > held.saturating_sub(body_at) {
            return Err(damaged(
                &path,
                place.offset,
                "record length is out of range",
            ));
        }
        let mut body = vec![0u8; length as usize];
        file.read_exact_at(&mut body, body_at).map_err(ended)?;
        if crc32c::crc32c(&body) != crc {
            return Err(damaged(&path, place.offset, "checksum does not match"));
        }
        record::decode(&body).map_err(|reason| damaged(&path, place.offset, &reason))
    }

    /// That the record at `place` is of another block than the index says.
    pub(super) fn another(&self, place: Place, expected: u64, found: u64) -> StoreError {
        let reason = format!("it is block {found}, the index says {expected}");
        damaged(&path(&self.dir, place.segment), place.offset, &reason)
    }

    /// Writes a record over a damaged one of the same length, durably. `is_last`: of its segment, which is then cut behind it;
    /// never of the segment that is being appended to.
    pub(super) fn overwrite(
        &self,
        place: Place,
        record: &[u8],
        is_last: bool,
    ) -> Result<(), StoreError> {
        let path = path(&self.dir, place.segment);
        let file = self.files.lock().open.get(&place.segment).cloned();
        let file =
            file.ok_or_else(|| damaged(&path, place.offset, "the segment file is missing"))?;
        fail_point!("blocks.mend.write", |e| io("write", &path, &e));
        file.write_all_at(record, place.offset)
            .map_err(|e| io("write", &path, &e))?;
        if is_last {
            file.set_len(place.offset + record.len() as u64)
                .map_err(|e| io("truncate", &path, &e))?;
        }
        fail_point!("blocks.mend.sync", |e| io("sync", &path, &e));
        file.sync_all().map_err(|e| io("sync", &path, &e))
    }

    /// Walks all records from `start` on.
    pub(super) fn scan(&self, start: Option<Place>) -> Scan<'_> {
        Scan {
            segments: self,
            at: start,
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        let files = self.files.lock();
        files.earlier_bytes + files.end
    }
}

/// A block as it stands in a segment of the folder `dir`: length, checksum and body.
pub(super) fn framed(dir: &Path, block: &ImportedBlock) -> Result<Vec<u8>, StoreError> {
    let body = record::encode(block);
    let length = u32::try_from(body.len())
        .ok()
        .filter(|l| *l <= RECORD_BYTES_MAX)
        .ok_or_else(|| StoreError::Damaged {
            file: dir.display().to_string(),
            offset: 0,
            reason: format!(
                "block {} makes a record of {} bytes",
                block.height(),
                body.len()
            ),
        })?;
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

pub(super) struct Scan<'a> {
    segments: &'a Segments,
    at: Option<Place>,
}

impl Scan<'_> {
    pub(super) fn next_block(&mut self) -> Result<Option<(ImportedBlock, Place)>, StoreError> {
        let Some(at) = self.at else { return Ok(None) };
        let path = path(&self.segments.dir, at.segment);
        // Not held while reading: others append meanwhile.
        let (file, next_segment) = {
            let files = self.segments.files.lock();
            let next = files.open.range(at.segment + 1..).next();
            (
                files.open.get(&at.segment).cloned(),
                next.map(|(first, _)| *first),
            )
        };
        let Some(file) = file else {
            return Err(damaged(&path, at.offset, "the segment file is missing"));
        };
        let length = file.metadata().map_err(|e| io("inspect", &path, &e))?.len();
        let synced = self.segments.synced.get();
        if at.offset >= length {
            // A file that lost what was synced is damage; so is a whole one.
            if next_segment.is_none() && synced.is_some_and(|synced| synced > (at.segment, length))
            {
                return Err(damaged(
                    &path,
                    length,
                    "records that were on disk are missing",
                ));
            }
            self.at = next_segment.map(|segment| Place {
                segment,
                offset: FILE_HEADER_BYTES,
            });
            return self.next_block();
        }
        match next_record(&file, at.offset, length).map_err(|e| io("read", &path, &e))? {
            Found::Whole { body, end } => {
                let block =
                    record::decode(&body).map_err(|reason| damaged(&path, at.offset, &reason))?;
                self.at = Some(Place {
                    segment: at.segment,
                    offset: end,
                });
                Ok(Some((block, at)))
            }
            // Behind the last barrier nothing is promised, and pages reach the disk in any order: after a power loss
            // several records may be torn. The Raft log still has their blocks. A store from before there was a mark is
            // taken to have torn its very last write only.
            Found::Torn | Found::Bad(_)
                if next_segment.is_none()
                    && synced.is_some_and(|synced| (at.segment, at.offset) >= synced) =>
            {
                self.at = None;
                cut(&file, &path, at.offset, length)?;
                self.segments.files.lock().end = at.offset;
                Ok(None)
            }
            Found::Torn if next_segment.is_none() && synced.is_none() => {
                self.at = None;
                cut(&file, &path, at.offset, length)?;
                self.segments.files.lock().end = at.offset;
                Ok(None)
            }
            Found::Torn => Err(damaged(
                &path,
                at.offset,
                "a record is cut off that was on disk in whole",
            )),
            Found::Bad(reason) => Err(damaged(&path, at.offset, reason)),
        }
    }
}

enum Found {
    Whole {
        body: Vec<u8>,
        end: u64,
    },
    /// What an unfinished write leaves: nothing valid follows it.
    Torn,
    Bad(&'static str),
}

fn next_record(file: &File, offset: u64, file_length: u64) -> std::io::Result<Found> {
    if file_length - offset < RECORD_HEADER_BYTES {
        return Ok(Found::Torn);
    }
    let mut header = [0u8; 8];
    file.read_exact_at(&mut header, offset)?;
    let (length, crc) = split_header(header);
    let body_at = offset + RECORD_HEADER_BYTES;
    if length == 0 || length > RECORD_BYTES_MAX {
        // A file that grew before its content reached the disk reads as zeros.
        let rest = file_length - offset;
        return Ok(
            if rest <= u64::from(RECORD_BYTES_MAX) && all_zero(file, offset, rest)? {
                Found::Torn
            } else {
                Found::Bad("record length is out of range")
            },
        );
    }
    let end = body_at + u64::from(length);
    if end > file_length {
        return Ok(Found::Torn);
    }
    let mut body = vec![0u8; length as usize];
    file.read_exact_at(&mut body, body_at)?;
    if crc32c::crc32c(&body) == crc {
        return Ok(Found::Whole { body, end });
    }
    // Only the very last write can be torn.
    Ok(if end == file_length {
        Found::Torn
    } else {
        Found::Bad("checksum does not match")
    })
}

fn cut(file: &File, path: &Path, from: u64, to: u64) -> Result<(), StoreError> {
    tracing::warn!(file = %path.display(), from, to, "cutting the torn tail of the block store");
    fail_point!("blocks.recover.cut", |e| io("truncate", path, &e));
    file.set_len(from).map_err(|e| io("truncate", path, &e))?;
    file.sync_all().map_err(|e| io("sync", path, &e))
}

fn all_zero(file: &File, offset: u64, length: u64) -> std::io::Result<bool> {
    let mut bytes = vec![0u8; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.iter().all(|b| *b == 0))
}

fn split_header(header: [u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = header;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

fn check_header(file: &File, path: &Path, expected: B256) -> Result<(), StoreError> {
    let mut header = [0u8; 40];
    file.read_exact_at(&mut header, 0)
        .map_err(|e| io("read", path, &e))?;
    let (magic, genesis) = header.split_at(8);
    if magic != MAGIC {
        return Err(damaged(path, 0, "this is no block segment of this version"));
    }
    let found = B256::from_slice(genesis);
    if found != expected {
        return Err(StoreError::OtherGenesis { found, expected });
    }
    Ok(())
}

/// First heights of the segments in a folder, rising.
fn firsts_in(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut firsts: Vec<u64> = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io("list", dir, &e))? {
        let name = entry.map_err(|e| io("list", dir, &e))?.file_name();
        let first = name.to_str().and_then(|n| {
            n.strip_prefix("blocks-")?
                .strip_suffix(".seg")?
                .parse::<u64>()
                .ok()
        });
        firsts.extend(first);
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Makes created, renamed and removed entries of a folder durable.
pub(super) fn sync_folder(dir: &Path) -> Result<(), StoreError> {
    let folder = File::open(dir).map_err(|e| io("open", dir, &e))?;
    folder.sync_all().map_err(|e| io("sync", dir, &e))
}

fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("blocks-{first:012}.seg"))
}

pub(super) fn io(action: &'static str, file: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Io {
        action,
        file: file.display().to_string(),
        reason: e.to_string(),
    }
}

pub(super) fn damaged(file: &Path, offset: u64, reason: &str) -> StoreError {
    StoreError::Damaged {
        file: file.display().to_string(),
        offset,
        reason: reason.to_owned(),
    }
}
