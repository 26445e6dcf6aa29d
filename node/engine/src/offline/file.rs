//! Exported files.
//!
//! ```text
//! export.json            what there is: version, chain id, genesis hash, range, hash of the last block, and of each file
//!                        name, range, size and keccak256. Written last: without it there is no export.
//! blocks-<first>-<last>  header | records
//! header                 magic "QRTEXPT1" (8) | genesis hash (32) | first, u64 LE (8) | last, u64 LE (8) | CRC32C of these (4)
//! record                 length of body, u32 LE (4) | CRC32C of body, u32 LE (4) | body: bytes of ImportedBlock::encode
//! ```

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::Path;

use alloy_primitives::{B256, Keccak256};
use quorate_chain::ImportedBlock;
use serde_json::{Value, json};

use super::error::OfflineError;
use crate::snapshots::FileError;
use crate::snapshots::disk::read_at_most;

pub(super) const INDEX: &str = "export.json";
const INDEX_BYTES_MAX: u64 = 256 << 20;
const INDEX_VERSION: u64 = 1;

const MAGIC: &[u8; 8] = b"QRTEXPT1";
const HEADER_BYTES: usize = 60;
/// As in the block store.
const RECORD_BYTES_MAX: u32 = 256 << 20;

/// One file of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) hash: B256,
}

/// What `export.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExportIndex {
    pub(super) chain_id: u64,
    pub(super) genesis: B256,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) last_hash: B256,
    pub(super) files: Vec<Listed>,
}

impl ExportIndex {
    pub(super) fn encode(&self) -> String {
        let files: Vec<Value> = self
            .files
            .iter()
            .map(|file| {
                json!({ "name": file.name, "first": file.first, "last": file.last, "bytes": file.bytes, "keccak256": file.hash })
            })
            .collect();
        let index = json!({
            "version": INDEX_VERSION,
            "chainId": self.chain_id,
            "genesisHash": self.genesis,
            "first": self.first,
            "last": self.last,
            "lastHash": self.last_hash,
            "files": files,
        });
        format!("{index:#}\n")
    }

    pub(super) fn read(dir: &Path) -> Result<Self, OfflineError> {
        let path = dir.join(INDEX);
        let bad = |reason: String| damaged(&path, reason);
        let bytes = read_at_most(&path, INDEX_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| bad("it is missing: this is no finished export".into()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let version = number(&value, "version").map_err(bad)?;
        if version != INDEX_VERSION {
            return Err(bad(format!("version {version}, known is {INDEX_VERSION}")));
        }
        let list = value.get("files").and_then(Value::as_array);
        let list = list.ok_or_else(|| bad("files is no list".into()))?;
        let files = list.iter().map(listed).collect::<Result<Vec<_>, _>>();
        let index = Self {
            chain_id: number(&value, "chainId").map_err(bad)?,
            genesis: hash(&value, "genesisHash").map_err(bad)?,
            first: number(&value, "first").map_err(bad)?,
            last: number(&value, "last").map_err(bad)?,
            last_hash: hash(&value, "lastHash").map_err(bad)?,
            files: files.map_err(bad)?,
        };
        index.check().map_err(bad)?;
        Ok(index)
    }

    /// The files must cover the range without gaps.
    fn check(&self) -> Result<(), String> {
        let mut next = self.first;
        for file in &self.files {
            if file.first != next || file.last < file.first {
                return Err(format!("{} does not begin at block {next}", file.name));
            }
            next = file.last.checked_add(1).ok_or("a height is out of range")?;
        }
        if self.files.is_empty() || next != self.last.saturating_add(1) {
            return Err(format!("the files do not end at block {}", self.last));
        }
        Ok(())
    }
}

fn listed(value: &Value) -> Result<Listed, String> {
    let name = value.get("name").and_then(Value::as_str);
    // Nothing outside the folder.
    let name = name.filter(|name| name.starts_with("blocks-") && !name.contains(['/', '\\']));
    Ok(Listed {
        name: name.ok_or("a file has no allowed name")?.to_owned(),
        first: number(value, "first")?,
        last: number(value, "last")?,
        bytes: number(value, "bytes")?,
        hash: hash(value, "keccak256")?,
    })
}

fn number(value: &Value, name: &str) -> Result<u64, String> {
    let number = value.get(name).and_then(Value::as_u64);
    number.ok_or(format!("{name} is no number"))
}

fn hash(value: &Value, name: &str) -> Result<B256, String> {
    let text = value.get(name).and_then(Value::as_str);
    let hash = text.and_then(|text| text.parse().ok());
    hash.ok_or(format!("{name} is no hash"))
}

/// Writes one file.
pub(super) struct Writer<'a> {
    path: &'a Path,
    out: BufWriter<File>,
    hasher: Keccak256,
    bytes: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn create(
        path: &'a Path,
        genesis: B256,
        first: u64,
        last: u64,
    ) -> Result<Self, OfflineError> {
        let file = File::create(path).map_err(|e| FileError::new("create", path, &e))?;
        let mut writer = Self {
            path,
            out: BufWriter::new(file),
            hasher: Keccak256::new(),
            bytes: 0,
        };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(genesis.as_slice());
        header.extend_from_slice(&first.to_le_bytes());
        header.extend_from_slice(&last.to_le_bytes());
        let crc = crc32c::crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        writer.write(&header)?;
        Ok(writer)
    }

    pub(super) fn push(&mut self, block: &ImportedBlock) -> Result<(), OfflineError> {
        let body = block.encode();
        let length = u32::try_from(body.len()).ok();
        let length = length.filter(|length| *length <= RECORD_BYTES_MAX);
        let length = length.ok_or_else(|| damaged(self.path, "a block is too large".to_owned()))?;
        self.write(&length.to_le_bytes())?;
        self.write(&crc32c::crc32c(&body).to_le_bytes())?;
        self.write(&body)
    }

    /// Syncs the file; returns its size and hash.
    pub(super) fn finish(mut self) -> Result<(u64, B256), OfflineError> {
        let synced = self
            .out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all());
        synced.map_err(|e| FileError::new("sync", self.path, &e))?;
        Ok((self.bytes, self.hasher.finalize()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OfflineError> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        let written = self.out.write_all(bytes);
        Ok(written.map_err(|e| FileError::new("write", self.path, &e))?)
    }
}

/// Checks size and hash of a listed file.
pub(super) fn check_whole(path: &Path, listed: &Listed) -> Result<(), OfflineError> {
    let failed = |e: std::io::Error| FileError::new("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length != listed.bytes {
        let reason = format!("it has {length} bytes, the index says {}", listed.bytes);
        return Err(damaged(path, reason));
    }
    let mut hasher = Keccak256::new();
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        hasher.update(read);
    }
    if hasher.finalize() != listed.hash {
        return Err(damaged(path, "its hash is not the index's".to_owned()));
    }
    Ok(())
}

/// Reads one file, record by record.
pub(super) struct Reader<'a> {
    path: &'a Path,
    input: BufReader<File>,
    left: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn open(
        path: &'a Path,
        listed: &Listed,
        genesis: B256,
    ) -> Result<Self, OfflineError> {
        let file = File::open(path).map_err(|e| FileError::new("open", path, &e))?;
        let mut reader = Self {
            path,
            input: BufReader::new(file),
            left: listed.bytes,
        };
        let header = reader.take(HEADER_BYTES)?;
        let mut expected = Vec::with_capacity(HEADER_BYTES);
        expected.extend_from_slice(MAGIC);
        expected.extend_from_slice(genesis.as_slice());
        expected.extend_from_slice(&listed.first.to_le_bytes());
        expected.extend_from_slice(&listed.last.to_le_bytes());
        let crc = crc32c::crc32c(&expected);
        expected.extend_from_slice(&crc.to_le_bytes());
        if header != expected {
            let reason = "its header is not what the index says".to_owned();
            return Err(damaged(path, reason));
        }
        Ok(reader)
    }

    pub(super) fn next_block(&mut self) -> Result<Option<ImportedBlock>, OfflineError> {
        if self.left == 0 {
            return Ok(None);
        }
        let length = self.take_u32()?;
        let crc = self.take_u32()?;
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(damaged(self.path, "a record has no length".to_owned()));
        }
        let body = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        if crc32c::crc32c(&body) != crc {
            let reason = "a record does not match its checksum".to_owned();
            return Err(damaged(self.path, reason));
        }
        let block = ImportedBlock::decode(&body);
        block
            .map(Some)
            .map_err(|e| damaged(self.path, e.to_string()))
    }

    fn take_u32(&mut self) -> Result<u32, OfflineError> {
        let bytes = self.take(4)?;
        let bytes: [u8; 4] = bytes.try_into().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, OfflineError> {
        // Before memory is taken for it.
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| damaged(self.path, "a record is cut off".to_owned()))?;
        let mut bytes = vec![0u8; count];
        let read = self.input.read_exact(&mut bytes);
        read.map_err(|e| FileError::new("read", self.path, &e))?;
        Ok(bytes)
    }
}

pub(super) fn damaged(file: &Path, reason: String) -> OfflineError {
    OfflineError::Damaged {
        file: file.display().to_string(),
        reason,
    }
}
