//! Bytes of a log file: its header and its records.
//!
//! ```text
//! file    | header 48 | record | record | … | zeros (preallocated)
//!
//! header  0 magic "QRTRLOG1"   8 version u32   12 CRC32C u32   16 segment u64   24 first sequence u64
//!        32 owner (raft id) u64   40 salt u32   44 zero u32
//! record  0 body length u32    4 CRC32C u32    8 kind u8       9 zero ×7       16 sequence u64
//!        24 durable u64       32 body          padded with zeros to a multiple of 8
//!
//! entry       index u64, term u64, type u32, context length u32, context, data
//! hard state  term u64, vote u64, commit u64
//! membership  index u64, ConfState length u32, ConfState (protobuf), member table
//! marker      cut index u64, cut term u64, snapshot index u64, snapshot term u64, flags u32 (1: log starts anew),
//!             ConfState length u32, ConfState (protobuf), table length u32, member table, manifest
//! floor       index u64
//! ```
//!
//! Version 1 knew no member tables: its membership (kind 3) was index and ConfState, its marker (kind 4) had no table. It
//! is read and not written any more.
//!
//! Numbers are little-endian. A record's CRC starts from the file's salt, then covers the whole record but itself, so
//! that a payload that imitates a record is not taken for one. `sequence` counts records through all files without a
//! gap. `durable` says that every record with a smaller sequence had survived a sync when this one was written: it tells
//! a tail torn by a crash (nothing there was ever promised) from damage (something promised is gone).
//!
//! Version rule: another layout or another kind of record gets another version; a file of an unknown version is refused,
//! never guessed at.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost011::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::{
    encoding::{Reader, put_blob},
    error::Damage,
    ids::LogIndex,
    member_table::MemberTable,
};

/// Bytes before the first record of a file.
pub(crate) const HEADER_BYTES: u64 = 48;
/// Bytes of a record before its body.
pub(crate) const RECORD_HEADER_BYTES: u64 = 32;
const MAGIC: &[u8; 8] = b"QRTRLOG1";
const VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;
const ALIGNMENT: usize = 8;
const FLAG_RESET: u32 = 1;
/// Above this, adding to an index or a term could overflow.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub segment: u64,
    /// Sequence of the file's first record.
    pub first_sequence: u64,
    /// Raft id of the member whose log it is.
    pub owner: u64,
    /// Starting value of every CRC in the file.
    pub salt: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.owner.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of file `segment` and checks that it is one.
    pub(crate) fn decode(segment: u64, file: &[u8]) -> Result<Self, Damage> {
        let fail = |fault| Damage::Header { segment, fault };
        let bytes = file
            .get(..HEADER_BYTES as usize)
            .ok_or(fail("file is too short"))?;
        if bytes.get(..8) != Some(MAGIC.as_slice()) {
            return Err(fail("it does not start with QRTRLOG1"));
        }
        let mut reader = Reader(bytes.get(8..).unwrap_or_default());
        let (version, crc) = (reader.u32(), reader.u32());
        let header = Self {
            segment: reader.u64().unwrap_or_default(),
            first_sequence: reader.u64().unwrap_or_default(),
            owner: reader.u64().unwrap_or_default(),
            salt: reader.u32().unwrap_or_default(),
        };
        if !version.is_some_and(|version| (OLDEST_VERSION..=VERSION).contains(&version)) {
            return Err(fail("unknown version"));
        }
        if crc != Some(header_crc(bytes)) {
            return Err(fail("CRC differs"));
        }
        if header.segment != segment {
            return Err(fail("it carries another file's number"));
        }
        Ok(header)
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    let (before, after) = (
        bytes.get(..12).unwrap_or_default(),
        bytes.get(16..).unwrap_or_default(),
    );
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

/// The state of the log apart from its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marker {
    /// Entries up to here are gone.
    pub cut_index: u64,
    pub cut_term: u64,
    /// The manifest stands for everything up to here. Zero: there is none.
    pub snapshot_index: u64,
    pub snapshot_term: u64,
    /// Membership at the snapshot's index, or a newer one that came with the snapshot.
    pub conf_state: ConfState,
    /// None: written before there were tables.
    pub table: Option<Arc<MemberTable>>,
    pub manifest: Vec<u8>,
    /// All entries before this record are void, whatever their index.
    pub reset: bool,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Entry(Entry),
    HardState(HardState),
    Membership {
        index: u64,
        conf_state: ConfState,
        /// None: written before there were tables.
        table: Option<Arc<MemberTable>>,
    },
    Marker(Marker),
    /// This member acknowledged entries up to here and lost some of them; 0: no longer.
    Floor(u64),
}

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_BARE_MEMBERSHIP: u8 = 3;
const KIND_BARE_MARKER: u8 = 4;
const KIND_MEMBERSHIP: u8 = 5;
const KIND_MARKER: u8 = 6;
const KIND_FLOOR: u8 = 7;
const KINDS: std::ops::RangeInclusive<u8> = KIND_ENTRY..=KIND_FLOOR;

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Entry(_) => KIND_ENTRY,
            Self::HardState(_) => KIND_HARD_STATE,
            Self::Membership { table: None, .. } => KIND_BARE_MEMBERSHIP,
            Self::Membership { .. } => KIND_MEMBERSHIP,
            Self::Marker(Marker { table: None, .. }) => KIND_BARE_MARKER,
            Self::Marker(_) => KIND_MARKER,
            Self::Floor(_) => KIND_FLOOR,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, numbers: &[u64]| {
            numbers
                .iter()
                .for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        };
        match self {
            Self::Entry(entry) => write_entry(entry, out),
            Self::HardState(state) => put(out, &[state.term, state.vote, state.commit]),
            Self::Membership {
                index,
                conf_state,
                table,
            } => {
                put(out, &[*index]);
                let conf_state = conf_state.encode_to_vec();
                if let Some(table) = table {
                    put_blob(out, &conf_state);
                    out.extend_from_slice(&table.encode());
                } else {
                    out.extend_from_slice(&conf_state);
                }
            }
            Self::Floor(index) => put(out, &[*index]),
            Self::Marker(marker) => {
                let conf_state = marker.conf_state.encode_to_vec();
                put(
                    out,
                    &[
                        marker.cut_index,
                        marker.cut_term,
                        marker.snapshot_index,
                        marker.snapshot_term,
                    ],
                );
                let flags = if marker.reset { FLAG_RESET } else { 0 };
                out.extend_from_slice(&flags.to_le_bytes());
                put_blob(out, &conf_state);
                if let Some(table) = &marker.table {
                    put_blob(out, &table.encode());
                }
                out.extend_from_slice(&marker.manifest);
            }
        }
    }

    fn read(kind: u8, body: &[u8]) -> Result<Self, &'static str> {
        let short = "body is too short";
        let mut reader = Reader(body);
        // Indexes and terms are counted on from.
        let number = |reader: &mut Reader<'_>| match reader.u64() {
            Some(number) if number <= NUMBER_MAX => Ok(number),
            Some(_) => Err("a number is out of range"),
            None => Err(short),
        };
        Ok(match kind {
            KIND_ENTRY => {
                let (index, term) = (number(&mut reader)?, number(&mut reader)?);
                if index == 0 {
                    return Err("an entry has index 0");
                }
                let entry_type = reader.u32().ok_or(short)? as i32;
                let context_bytes = reader.u32().ok_or(short)? as usize;
                let context = reader.take(context_bytes).ok_or(short)?.to_vec();
                let data = reader.0.to_vec();
                if raft::eraftpb::EntryType::from_i32(entry_type).is_none() {
                    return Err("unknown entry type");
                }
                Self::Entry(Entry {
                    entry_type,
                    term,
                    index,
                    data,
                    context,
                    sync_log: false,
                })
            }
            KIND_HARD_STATE => Self::HardState(HardState {
                term: number(&mut reader)?,
                vote: reader.u64().ok_or(short)?,
                commit: number(&mut reader)?,
            }),
            KIND_BARE_MEMBERSHIP => Self::Membership {
                index: number(&mut reader)?,
                conf_state: read_bare(reader.0)?,
                table: None,
            },
            KIND_MEMBERSHIP => {
                let index = number(&mut reader)?;
                let conf_bytes = reader.u32().ok_or(short)? as usize;
                let conf_state = reader.take(conf_bytes).ok_or(short)?;
                let (conf_state, table) = read_table(conf_state, reader.0)?;
                Self::Membership {
                    index,
                    conf_state,
                    table: Some(table),
                }
            }
            KIND_FLOOR => Self::Floor(number(&mut reader)?),
            KIND_BARE_MARKER | KIND_MARKER => {
                let (cut_index, cut_term) = (number(&mut reader)?, number(&mut reader)?);
                let (snapshot_index, snapshot_term) = (number(&mut reader)?, number(&mut reader)?);
                if cut_index > snapshot_index {
                    return Err("entries are cut off that no manifest stands for");
                }
                let reset = reader.u32().ok_or(short)? & FLAG_RESET != 0;
                let conf_bytes = reader.u32().ok_or(short)? as usize;
                let conf_state = reader.take(conf_bytes).ok_or(short)?;
                let (conf_state, table) = if kind == KIND_MARKER {
                    let table_bytes = reader.u32().ok_or(short)? as usize;
                    let table = reader.take(table_bytes).ok_or(short)?;
                    let (conf_state, table) = read_table(conf_state, table)?;
                    (conf_state, Some(table))
                } else {
                    (read_bare(conf_state)?, None)
                };
                let manifest = reader.0.to_vec();
                Self::Marker(Marker {
                    cut_index,
                    cut_term,
                    snapshot_index,
                    snapshot_term,
                    conf_state,
                    table,
                    manifest,
                    reset,
                })
            }
            _ => return Err("unknown kind"),
        })
    }
}

const UNREADABLE: &str = "membership is unreadable";

/// One from before there were tables. raft-rs ends the process when it meets one that cannot be, so that it is checked as a table of
/// it would be.
fn read_bare(bytes: &[u8]) -> Result<ConfState, &'static str> {
    let conf_state = ConfState::decode(bytes).map_err(|_| UNREADABLE)?;
    let table = MemberTable::from_conf_state(LogIndex(0), &conf_state, &BTreeMap::new());
    match table.check(&conf_state) {
        Ok(()) => Ok(conf_state),
        Err(_) => Err("nobody can be in this configuration"),
    }
}

fn read_table(
    conf_state: &[u8],
    table: &[u8],
) -> Result<(ConfState, Arc<MemberTable>), &'static str> {
    let conf_state = ConfState::decode(conf_state).map_err(|_| UNREADABLE)?;
    let table = MemberTable::decode(table).map_err(|_| "member table is unreadable")?;
    match table.check(&conf_state) {
        Ok(()) => Ok((conf_state, Arc::new(table))),
        Err(_) => Err("member table differs from the configuration"),
    }
}

fn write_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.index.to_le_bytes());
    out.extend_from_slice(&entry.term.to_le_bytes());
    out.extend_from_slice(&(entry.entry_type as u32).to_le_bytes());
    out.extend_from_slice(&(entry.context.len() as u32).to_le_bytes());
    out.extend_from_slice(&entry.context);
    out.extend_from_slice(&entry.data);
}

/// Bytes an entry takes in a file.
pub(crate) fn entry_record_bytes(entry: &Entry) -> u64 {
    padded(RECORD_HEADER_BYTES as usize + 24 + entry.context.len() + entry.data.len()) as u64
}

/// Bytes any record takes in a file.
pub(crate) fn record_bytes(body: &Body) -> u64 {
    let mut bytes = Vec::new();
    body.write(&mut bytes);
    padded(RECORD_HEADER_BYTES as usize + bytes.len()) as u64
}

/// A record with its place in the order of all records.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub sequence: u64,
    /// Records with a smaller sequence had been synced when this one was written.
    pub durable: u64,
    pub body: Body,
    /// Bytes in the file, padding included.
    pub size_bytes: u64,
}

/// Appends a record to `out` and returns its size in the file.
pub(crate) fn encode(
    body: &Body,
    sequence: u64,
    durable: u64,
    salt: u32,
    out: &mut Vec<u8>,
) -> u64 {
    encode_with(body.kind(), sequence, durable, salt, out, |out| {
        body.write(out)
    })
}

/// As [`encode`], for an entry that stays where it is.
pub(crate) fn encode_entry(
    entry: &Entry,
    sequence: u64,
    durable: u64,
    salt: u32,
    out: &mut Vec<u8>,
) -> u64 {
    encode_with(KIND_ENTRY, sequence, durable, salt, out, |out| {
        write_entry(entry, out)
    })
}

fn encode_with(
    kind: u8,
    sequence: u64,
    durable: u64,
    salt: u32,
    out: &mut Vec<u8>,
    write_body: impl FnOnce(&mut Vec<u8>),
) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    let body_start = out.len();
    write_body(out);
    let length = ((out.len() - body_start) as u32).to_le_bytes();
    out.resize(start + padded(out.len() - start), 0);
    let crc = record_crc(salt, &length, out.get(start + 8..).unwrap_or_default());
    if let Some(slot) = out.get_mut(start..start + 8) {
        slot[..4].copy_from_slice(&length);
        slot[4..].copy_from_slice(&crc.to_le_bytes());
    }
    (out.len() - start) as u64
}

fn record_crc(salt: u32, length: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, length), rest)
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Why no record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Nothing was ever written here.
    Zero,
    /// Cut short, or the CRC differs.
    Broken,
    /// The CRC fits and the content does not: written by a fault of ours, or by someone else.
    Content(&'static str),
}

/// Reads the record at the start of `bytes`.
pub(crate) fn decode(bytes: &[u8], salt: u32) -> Result<Record, Unreadable> {
    let header = bytes.get(..RECORD_HEADER_BYTES as usize).ok_or_else(|| {
        if bytes.iter().all(|byte| *byte == 0) {
            Unreadable::Zero
        } else {
            Unreadable::Broken
        }
    })?;
    if header.iter().all(|byte| *byte == 0) {
        return Err(Unreadable::Zero);
    }
    let mut reader = Reader(header);
    let (length, crc) = (
        reader.u32().unwrap_or_default(),
        reader.u32().unwrap_or_default(),
    );
    let kind = reader.u64().unwrap_or_default();
    let (sequence, durable) = (
        reader.u64().unwrap_or_default(),
        reader.u64().unwrap_or_default(),
    );
    let kind = u8::try_from(kind).map_err(|_| Unreadable::Broken)?;
    if !KINDS.contains(&kind) || durable > sequence {
        return Err(Unreadable::Broken);
    }
    let body_start = RECORD_HEADER_BYTES as usize;
    let body_end = body_start + length as usize;
    let size = padded(body_end);
    let whole = bytes.get(..size).ok_or(Unreadable::Broken)?;
    let (length_field, rest) = (
        whole.get(..4).unwrap_or_default(),
        whole.get(8..).unwrap_or_default(),
    );
    if record_crc(salt, length_field, rest) != crc && !planted!(IgnoreRecordSum) {
        return Err(Unreadable::Broken);
    }
    let body = whole.get(body_start..body_end).unwrap_or_default();
    let body = Body::read(kind, body).map_err(Unreadable::Content)?;
    Ok(Record {
        sequence,
        durable,
        body,
        size_bytes: size as u64,
    })
}

#[cfg(test)]
mod tests;
