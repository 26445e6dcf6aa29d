//! Segment files.
//!
//! ```text
//! file    blocks-<first height, 12 digits>.seg
//! header  magic "QRTEBLK1" (8 bytes) | genesis hash (32)
//! record  length of body, u32 LE (4) | CRC32C of body, u32 LE (4) | body
//! ```
//! A new segment begins when the current one has passed [`SEGMENT_BYTES`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy_primitives::B256;
use parking_lot::Mutex;

use super::index::Place;
use super::{StoreError, record};
use crate::ImportedBlock;

const MAGIC: &[u8; 8] = b"QRTEBLK1";
const FILE_HEADER_BYTES: u64 = 40;
const RECORD_HEADER_BYTES: u64 = 8;
const SEGMENT_BYTES: u64 = 64 << 20;
/// No record is larger: the largest block (16 MiB) with receipts and senders, with room to spare.
const RECORD_BYTES_MAX: u32 = 256 << 20;

#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    genesis: B256,
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
    pub(super) fn open(dir: &Path, genesis: B256) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| io("create", dir, &e))?;
        let mut names: Vec<u64> = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| io("list", dir, &e))? {
            let entry = entry.map_err(|e| io("list", dir, &e))?;
            let name = entry.file_name();
            let first = name.to_str().and_then(|n| {
                n.strip_prefix("blocks-")?
                    .strip_suffix(".seg")?
                    .parse::<u64>()
                    .ok()
            });
            names.extend(first);
        }
        names.sort_unstable();
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
            files: Mutex::new(files),
        })
    }

    pub(super) fn append(&self, block: &ImportedBlock) -> Result<Place, StoreError> {
        let body = record::encode(block);
        let length = u32::try_from(body.len())
            .ok()
            .filter(|l| *l <= RECORD_BYTES_MAX)
            .ok_or_else(|| StoreError::Damaged {
                file: self.dir.display().to_string(),
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

        let mut files = self.files.lock();
        if files.open.is_empty() || files.end >= SEGMENT_BYTES {
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
        file.write_all_at(&bytes, offset)
            .map_err(|e| io("write", &path(&self.dir, segment), &e))?;
        files.end += bytes.len() as u64;
        Ok(Place { segment, offset })
    }

    fn roll(&self, files: &mut Files, first: u64) -> Result<(), StoreError> {
        // Only the end of the last file may be torn: everything before it is on disk first.
        if let Some((previous, file)) = files.open.last_key_value() {
            file.sync_data()
                .map_err(|e| io("sync", &self::path(&self.dir, *previous), &e))?;
        }
        let path = path(&self.dir, first);
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
        // The directory entry must survive as well, or the synced records in the file would be out of reach.
        let directory = File::open(&self.dir).map_err(|e| io("open", &self.dir, &e))?;
        directory
            .sync_all()
            .map_err(|e| io("sync", &self.dir, &e))?;
        files.earlier_bytes += files.end;
        files.end = FILE_HEADER_BYTES;
        files.open.insert(first, Arc::new(file));
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let file = self
            .files
            .lock()
            .open
            .last_key_value()
            .map(|(_, f)| Arc::clone(f));
        if let Some(file) = file {
            file.sync_data().map_err(|e| io("sync", &self.dir, &e))?;
        }
        Ok(())
    }

    pub(super) fn read(&self, place: Place) -> Result<ImportedBlock, StoreError> {
        let path = path(&self.dir, place.segment);
        let file = self.files.lock().open.get(&place.segment).cloned();
        let file =
            file.ok_or_else(|| damaged(&path, place.offset, "the segment file is missing"))?;
        let mut header = [0u8; 8];
        file.read_exact_at(&mut header, place.offset)
            .map_err(|e| io("read", &path, &e))?;
        let (length, crc) = split_header(header);
        if length > RECORD_BYTES_MAX {
            return Err(damaged(
                &path,
                place.offset,
                "record length is out of range",
            ));
        }
        let mut body = vec![0u8; length as usize];
        file.read_exact_at(&mut body, place.offset + RECORD_HEADER_BYTES)
            .map_err(|e| io("read", &path, &e))?;
        if crc32c::crc32c(&body) != crc {
            return Err(damaged(&path, place.offset, "checksum does not match"));
        }
        record::decode(&body).map_err(|reason| damaged(&path, place.offset, &reason))
    }

    /// Walks all records from `start` on (from the first one without it).
    pub(super) fn scan(&self, start: Option<Place>) -> Result<Scan<'_>, StoreError> {
        let first = self.files.lock().open.keys().next().copied();
        let at = start.or_else(|| {
            first.map(|segment| Place {
                segment,
                offset: FILE_HEADER_BYTES,
            })
        });
        Ok(Scan { segments: self, at })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        let files = self.files.lock();
        files.earlier_bytes + files.end
    }
}

pub(super) struct Scan<'a> {
    segments: &'a Segments,
    at: Option<Place>,
}

impl Scan<'_> {
    pub(super) fn next_block(&mut self) -> Result<Option<(ImportedBlock, Place)>, StoreError> {
        let Some(at) = self.at else { return Ok(None) };
        let mut files = self.segments.files.lock();
        let path = path(&self.segments.dir, at.segment);
        let Some(file) = files.open.get(&at.segment).cloned() else {
            return Err(damaged(&path, at.offset, "the segment file is missing"));
        };
        let length = file.metadata().map_err(|e| io("inspect", &path, &e))?.len();
        let next_segment = files
            .open
            .range(at.segment + 1..)
            .next()
            .map(|(first, _)| *first);
        if at.offset >= length {
            self.at = next_segment.map(|segment| Place {
                segment,
                offset: FILE_HEADER_BYTES,
            });
            drop(files);
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
            Found::Torn if next_segment.is_none() => {
                tracing::warn!(file = %path.display(), from = at.offset, to = length, "cutting the torn tail of the block store");
                file.set_len(at.offset)
                    .map_err(|e| io("truncate", &path, &e))?;
                file.sync_all().map_err(|e| io("sync", &path, &e))?;
                files.end = at.offset;
                self.at = None;
                Ok(None)
            }
            Found::Torn => Err(damaged(
                &path,
                at.offset,
                "a record is cut off, but later segments exist",
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

fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("blocks-{first:012}.seg"))
}

fn io(action: &'static str, file: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Io {
        action,
        file: file.display().to_string(),
        reason: e.to_string(),
    }
}

fn damaged(file: &Path, offset: u64, reason: &str) -> StoreError {
    StoreError::Damaged {
        file: file.display().to_string(),
        offset,
        reason: reason.to_owned(),
    }
}
