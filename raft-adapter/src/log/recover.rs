//! Reads a log from its files: replays records, cuts off a tail torn by a crash, refuses damage.

use std::{collections::BTreeMap, io};

use super::{
    contents::{Contents, Slot},
    disk::{Disk, SegmentNumber},
    record::{self, Body, HEADER_BYTES, Record, SegmentHeader, Unreadable},
};
use crate::{
    error::{Damage, OpenError},
    ids::{LogIndex, RaftId},
};

/// What replay found beside the contents.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// With their salts.
    pub segments: BTreeMap<SegmentNumber, u32>,
    pub highest_segment: u64,
    pub next_sequence: u64,
}

/// Replays every file into `contents`. Afterwards every file ends with its last record, and all of it is durable.
pub(crate) fn recover(
    disk: &dyn Disk,
    owner: RaftId,
    contents: &mut Contents,
) -> Result<Recovered, OpenError> {
    // What is about to be taken for removed must stay so: a half-made file that came back behind a new one would make
    // that one, if it is half-made too, look damaged.
    disk.sync_folder()
        .map_err(|error| failed("sync the folder of log files", error))?;
    let numbers = disk
        .segments()
        .map_err(|error| failed("list log files", error))?;
    let mut recovered = Recovered {
        next_sequence: 1,
        ..Recovered::default()
    };
    for (position, segment) in numbers.iter().copied().enumerate() {
        recovered.highest_segment = segment.0;
        let file = disk
            .read_all(segment)
            .map_err(|error| failed(&format!("read log segment {segment}"), error))?;
        let replay = Replay {
            segment,
            is_first: recovered.segments.is_empty(),
            is_last: position + 1 == numbers.len(),
            file: &file,
        };
        // A crash between making a file and writing its header leaves nothing but zeros.
        if replay.is_last && file.iter().all(|byte| *byte == 0) {
            remove(disk, segment)?;
            continue;
        }
        let (salt, end) = replay.run(owner, contents, &mut recovered)?;
        if replay.is_last && end == HEADER_BYTES {
            remove(disk, segment)?;
            continue;
        }
        if replay.is_last {
            make_durable(disk, segment, &file, end)?;
        }
        recovered.segments.insert(segment, salt);
    }
    check_complete(contents)?;
    Ok(recovered)
}

/// Brings what was read of the last file to the medium, and cuts off what follows its last record: leftovers would
/// otherwise one day stand where a record is expected.
///
/// A process that was killed may have left writes that only the system's cache holds. After a failed sync the system may
/// even believe that it wrote them: another sync would do nothing. So they are written again.
fn make_durable(
    disk: &dyn Disk,
    segment: SegmentNumber,
    file: &[u8],
    end: u64,
) -> Result<(), OpenError> {
    let records = file
        .get(HEADER_BYTES as usize..end as usize)
        .unwrap_or_default();
    let records = if planted!(TrustTheCache) {
        &[]
    } else {
        records
    };
    disk.write(segment, HEADER_BYTES, records)
        .map_err(|error| failed(&format!("write log segment {segment} again"), error))?;
    if end < file.len() as u64 {
        disk.truncate(segment, end)
            .map_err(|error| failed(&format!("cut log segment {segment}"), error))
    } else {
        disk.sync(segment)
            .map_err(|error| failed(&format!("sync log segment {segment}"), error))
    }
}

fn failed(action: &str, source: io::Error) -> OpenError {
    OpenError::Io {
        action: action.to_string(),
        source,
    }
}

fn remove(disk: &dyn Disk, segment: SegmentNumber) -> Result<(), OpenError> {
    disk.remove(segment)
        .map_err(|error| failed(&format!("remove empty log segment {segment}"), error))
}

fn check_complete(contents: &Contents) -> Result<(), Damage> {
    if let Some((first, _)) = contents.span()
        && first > contents.first_index()
    {
        let (from, to) = (LogIndex(contents.first_index()), LogIndex(first - 1));
        return Err(Damage::MissingEntries { from, to });
    }
    // A membership is in force, and a manifest is made, only of what is committed.
    let (membership_since, _) = contents.membership();
    let committed = contents
        .hard_state
        .commit
        .max(membership_since)
        .max(contents.marker().snapshot_index);
    let last = contents.last_index();
    if committed > last {
        return Err(Damage::MissingEntries {
            from: LogIndex(last + 1),
            to: LogIndex(committed),
        });
    }
    Ok(())
}

/// The replay of one file.
struct Replay<'a> {
    segment: SegmentNumber,
    is_first: bool,
    is_last: bool,
    file: &'a [u8],
}

impl Replay<'_> {
    /// Replays the file's records and answers its salt and where they end.
    fn run(
        &self,
        owner: RaftId,
        contents: &mut Contents,
        recovered: &mut Recovered,
    ) -> Result<(u32, u64), OpenError> {
        let segment = self.segment.0;
        let header = SegmentHeader::decode(segment, self.file)?;
        if header.owner != owner.0 {
            return Err(OpenError::OtherMember {
                found: RaftId(header.owner),
                configured: owner,
            });
        }
        if self.is_first {
            recovered.next_sequence = header.first_sequence;
        } else if header.first_sequence != recovered.next_sequence {
            let (expected, found) = (recovered.next_sequence, header.first_sequence);
            return Err(Damage::Gap {
                segment,
                expected,
                found,
            }
            .into());
        }
        let mut offset = HEADER_BYTES;
        loop {
            let rest = self.file.get(offset as usize..).unwrap_or_default();
            match record::decode(rest, header.salt) {
                Ok(record) if record.sequence == recovered.next_sequence => {
                    let size_bytes = record.size_bytes;
                    self.replay(record, offset, contents)?;
                    offset += size_bytes;
                    recovered.next_sequence += 1;
                }
                Err(Unreadable::Content(fault)) => {
                    return Err(Damage::Content {
                        segment,
                        offset,
                        fault,
                    }
                    .into());
                }
                Ok(_) | Err(Unreadable::Zero | Unreadable::Broken) => {
                    self.judge_tail(offset, rest, header.salt, recovered.next_sequence)?;
                    return Ok((header.salt, offset));
                }
            }
        }
    }

    fn replay(&self, record: Record, offset: u64, contents: &mut Contents) -> Result<(), Damage> {
        match record.body {
            Body::Entry(entry) => {
                let slot = Slot {
                    term: entry.term,
                    segment: self.segment,
                    offset,
                    size_bytes: record.size_bytes,
                };
                if !contents.put(entry, slot) {
                    let fault = "entries before it are missing";
                    return Err(Damage::Content {
                        segment: self.segment.0,
                        offset,
                        fault,
                    });
                }
                contents.evict(u64::MAX);
            }
            Body::HardState(hard_state) => contents.hard_state = hard_state,
            Body::Membership {
                index,
                conf_state,
                table,
            } => contents.apply_membership(index, &conf_state, table),
            Body::Floor(index) => contents.floor = index,
            Body::Marker(marker) => contents.apply_marker(marker),
        }
        Ok(())
    }

    /// Decides what it means that no record with sequence `missing` can be read at `offset`.
    ///
    /// Nothing behind: the end. Otherwise only the last file may end in a torn tail: writes between two syncs reach the
    /// medium in any order, so that intact records may follow a torn one. But a record behind it that says the missing
    /// one had been durable proves damage, and going on would void promises made to other members.
    fn judge_tail(&self, offset: u64, rest: &[u8], salt: u32, missing: u64) -> Result<(), Damage> {
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let damaged = Damage::Record {
            segment: self.segment.0,
            offset,
        };
        if !self.is_last {
            return Err(damaged);
        }
        for start in (0..rest.len()).step_by(8) {
            let behind = rest.get(start..).unwrap_or_default();
            if behind.first_chunk::<8>().is_none_or(|word| *word == [0; 8]) {
                continue;
            }
            if record::decode(behind, salt).is_ok_and(|record| record.durable > missing) {
                return Err(damaged);
            }
        }
        tracing::warn!(
            segment = self.segment.0,
            offset,
            "cutting off the end of the raft log: it was being written when the process or machine stopped"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::eraftpb::{ConfState, Entry, HardState};

    use super::*;
    use crate::{
        config::Config,
        error::Fatal,
        log::{Log, fake_disk::FakeDisk, record::Marker, writer::LogWriter},
    };

    const MEMBER: RaftId = RaftId(1);

    /// What a process does that finds `last` entries on `disk`: appends another.
    fn live(disk: &FakeDisk, last: u64) -> Result<(), Fatal> {
        let mut log = open(disk).unwrap();
        assert_eq!(log.last(), last);
        let mut writer = LogWriter::new(Arc::new(disk.clone()));
        let (_, batch) = log.save(None, None, vec![entry_at(last + 1)])?;
        writer.write(&batch)?;
        writer.barrier()
    }

    fn open(disk: &FakeDisk) -> Result<Log, OpenError> {
        let config = Config {
            segment_bytes: 4096,
            ..Config::new(MEMBER, vec![RaftId(1), RaftId(2), RaftId(3)])
        };
        Log::open(&config, Arc::new(disk.clone()))
    }

    /// Why a log of one file with these records is refused; their sums are right.
    fn refused(bodies: &[Body]) -> OpenError {
        let header = SegmentHeader {
            segment: 1,
            first_sequence: 1,
            owner: MEMBER.0,
            salt: 9,
        };
        let mut file = header.encode();
        for (sequence, body) in (1..).zip(bodies) {
            record::encode(body, sequence, 1, 9, &mut file);
        }
        let disk = FakeDisk::new();
        let size = file.len() as u64;
        disk.create(SegmentNumber(1), &file, size).unwrap();
        open(&disk).unwrap_err()
    }

    fn three() -> ConfState {
        ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        }
    }

    fn entry_at(index: u64) -> Entry {
        Entry {
            index,
            term: 1,
            ..Entry::default()
        }
    }

    fn entry(index: u64) -> Body {
        Body::Entry(entry_at(index))
    }

    fn missing(from: u64, to: u64) -> Damage {
        let (from, to) = (LogIndex(from), LogIndex(to));
        Damage::MissingEntries { from, to }
    }

    #[test]
    fn a_log_that_ends_before_its_membership_or_its_manifest_is_damaged() {
        let membership = Body::Membership {
            index: 5,
            conf_state: three(),
            table: None,
        };
        let error = refused(&[entry(1), entry(2), membership]);
        assert!(
            matches!(&error, OpenError::Damaged(damage) if *damage == missing(3, 5)),
            "{error}"
        );
        let manifest = Body::Marker(Marker {
            snapshot_index: 4,
            snapshot_term: 1,
            conf_state: three(),
            ..Marker::default()
        });
        let error = refused(&[entry(1), entry(2), manifest]);
        assert!(
            matches!(&error, OpenError::Damaged(damage) if *damage == missing(3, 4)),
            "{error}"
        );
    }

    /// Two half-made files behind one another would be taken for damage: only the last may be half-made.
    #[test]
    fn a_half_made_file_whose_removal_failed_does_not_come_back_behind_the_next_one() {
        for seed in 0..16 {
            let disk = FakeDisk::new();
            live(&disk, 0).unwrap();
            // The second one gets a number that leaves room for another before it.
            for _ in 0..2 {
                disk.fail_creations(1);
                assert!(live(&disk, 1).is_err());
            }
            disk.fail_removals(1);
            let error = open(&disk).unwrap_err();
            assert!(matches!(error, OpenError::Io { .. }), "{error}");
            disk.fail_creations(1);
            assert!(live(&disk, 1).is_err());
            disk.crash(seed);
            let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(log.last(), 1);
        }
    }

    #[test]
    fn a_configuration_that_nobody_can_be_in_is_damage() {
        let with = |voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64]| ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners_next: next.to_vec(),
            auto_leave: false,
        };
        let leaves_nothing = ConfState {
            auto_leave: true,
            ..three()
        };
        for conf_state in [
            with(&[], &[], &[], &[]),
            with(&[], &[1], &[], &[]),
            with(&[1, 0], &[], &[], &[]),
            with(&[1, 1], &[], &[], &[]),
            with(&[1], &[2, 2], &[], &[]),
            with(&[1], &[1], &[], &[]),
            with(&[1], &[2], &[2], &[]),
            with(&[1], &[], &[], &[2]),
            with(&[1], &[], &[2], &[3]),
            with(&[1, 2], &[], &[2], &[2]),
            leaves_nothing,
        ] {
            let membership = Body::Membership {
                index: 1,
                conf_state: conf_state.clone(),
                table: None,
            };
            let marker = Body::Marker(Marker {
                snapshot_index: 1,
                snapshot_term: 1,
                conf_state: conf_state.clone(),
                ..Marker::default()
            });
            for body in [membership, marker] {
                let error = refused(&[entry(1), body]);
                assert!(
                    matches!(error, OpenError::Damaged(Damage::Content { .. })),
                    "{conf_state:?}: {error}"
                );
            }
        }
    }

    #[test]
    fn numbers_that_cannot_be_counted_on_from_are_damage() {
        let marker = |marker: Marker| {
            Body::Marker(Marker {
                conf_state: three(),
                ..marker
            })
        };
        let hard_state = |term, commit| HardState {
            term,
            vote: 1,
            commit,
        };
        for body in [
            entry(u64::MAX),
            entry(0),
            Body::HardState(hard_state(1, u64::MAX)),
            Body::HardState(hard_state(u64::MAX, 0)),
            Body::Floor(u64::MAX),
            Body::Membership {
                index: u64::MAX,
                conf_state: three(),
                table: None,
            },
            marker(Marker {
                snapshot_index: u64::MAX,
                ..Marker::default()
            }),
            marker(Marker {
                cut_index: u64::MAX,
                snapshot_index: u64::MAX,
                ..Marker::default()
            }),
        ] {
            let error = refused(std::slice::from_ref(&body));
            assert!(
                matches!(error, OpenError::Damaged(Damage::Content { .. })),
                "{body:?}: {error}"
            );
        }
    }
}
