//! A Raft log as a disk gives it back.
//!
//! Every record has a sum, and bytes changed at random hardly ever keep it. So on request the target puts right the sums
//! first: what is tried then is what lies behind them.

use std::sync::Arc;

use raft_adapter::{
    Core, Disk as _, FakeDisk, Fatal, Input, LogIndex, OpenError, SegmentNumber, fuzzing,
};

use super::core::{Member, config};
use crate::{
    Memory, Target,
    cutter::{Cutter, put_piece},
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("raft-record", record, records_seeds, Memory::DECODER),
    Target {
        catches_panics: true,
        input_bytes_max: 2 << 10,
        ..Target::new("raft-log", log, log_seeds, Memory::ROOM)
    },
];

const FILES_MAX: usize = 4;
const FILE_BYTES: usize = 4 << 10;
/// See the format in raft-adapter's `log/record.rs`.
const FILE_HEADER: usize = 48;
const RECORD_HEADER: usize = 32;

/// One file, whose sums are put right, record by record.
fn record(bytes: &[u8]) -> bool {
    let mut file = bytes.to_vec();
    mend(&mut file);
    fuzzing::records(&file)
}

fn records_seeds() -> Vec<Vec<u8>> {
    fuzzing::records_seeds()
}

/// First whether sums are put right, then files: the number, then the bytes, without the zeros that follow.
fn log(bytes: &[u8]) -> bool {
    let mut input = Cutter(bytes);
    let mended = input.byte() & 1 == 1;
    let disk = FakeDisk::new();
    for _ in 0..FILES_MAX {
        if input.is_empty() {
            break;
        }
        let number = SegmentNumber(u64::from(input.byte()));
        let mut file = input.piece().to_vec();
        if mended {
            mend(&mut file);
        }
        let size = file.len().max(FILE_BYTES) as u64;
        if disk.create(number, &file, size).is_err() {
            // The number came twice.
            return false;
        }
    }
    let end = || {
        let core = match Core::open(config(1), Arc::new(disk.clone()), LogIndex(0)) {
            Ok(core) => core,
            // The library below ended itself.
            Err(OpenError::Core { reason }) => panic!("what is damaged is not named: {reason}"),
            Err(_refusal) => return None,
        };
        let status = core.status();
        Some((status.last_index, status.term, status.table))
    };
    let Some(first) = end() else {
        return false;
    };
    // Recovery has cut off what was torn: a second one finds the same, and nothing more to cut.
    assert_eq!(end(), Some(first), "a log that was recovered changed");
    // What was recovered can be gone on with.
    let Some(mut member) = Member::begin(1, &disk) else {
        return false;
    };
    match member.step(Input::Tick) {
        Ok(()) => true,
        // Under right sums lies a change of members that nobody can have made. The core says so when it comes to it.
        Err(Fatal::Impossible { .. }) => false,
        Err(fatal) => panic!("a recovered log ends the core: {fatal}"),
    }
}

/// Writes the right sums into a file: its header's and each record's, as long as lengths lead from one to the next.
fn mend(file: &mut [u8]) {
    let Some(header) = file.get_mut(..FILE_HEADER) else {
        return;
    };
    let (before, after) = (&header[..12], &header[16..]);
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), after);
    let salt = u32::from_le_bytes([header[40], header[41], header[42], header[43]]);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    let mut at = FILE_HEADER;
    while let Some(rest) = file
        .get_mut(at..)
        .filter(|rest| rest.len() >= RECORD_HEADER)
    {
        let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let size = RECORD_HEADER
            .saturating_add(length)
            .checked_next_multiple_of(8);
        let Some(record) = size.and_then(|size| rest.get_mut(..size)) else {
            return;
        };
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(salt, &record[..4]), &record[8..]);
        record[4..8].copy_from_slice(&sum.to_le_bytes());
        at += record.len();
    }
}

/// The logs of a member that began, that ordered, and that cut its log; as they are and to be mended.
fn log_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for disk in super::core::disks() {
        for mended in [0, 1] {
            let mut seed = vec![mended];
            for number in disk.segments().unwrap_or_default() {
                let file = disk.read_all(number).unwrap_or_default();
                let end = file
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |at| at + 1);
                seed.push(number.0 as u8);
                put_piece(
                    &mut seed,
                    file.get(..end.next_multiple_of(8)).unwrap_or(&file),
                );
            }
            seeds.push(seed);
        }
    }
    seeds
}
