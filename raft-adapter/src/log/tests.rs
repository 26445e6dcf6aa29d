use std::{collections::BTreeMap, sync::Arc};

use raft::{
    GetEntriesContext, Storage as _,
    eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata},
};

use super::{
    Log,
    disk::{Disk, FolderDisk, SegmentNumber},
    fake_disk::FakeDisk,
    record::{self, Body, HEADER_BYTES, Marker, SegmentHeader},
    snapshot_data,
    writer::{LogBatch, LogWriter},
};
use crate::{
    config::Config,
    error::{Damage, Fatal, OpenError},
    ids::{LogIndex, RaftId, WriteNumber},
    member_table::{MemberRole, MemberTable},
};

const MEMBER: RaftId = RaftId(1);

fn config() -> Config {
    Config {
        segment_bytes: 4096,
        ..Config::new(MEMBER, vec![RaftId(3), RaftId(1), RaftId(2)])
    }
}

fn entry(index: u64, term: u64) -> Entry {
    sized(index, term, 20)
}

fn sized(index: u64, term: u64, bytes: usize) -> Entry {
    let mut data = format!("{index}/{term}/").into_bytes();
    data.resize(bytes.max(data.len()), b'x');
    Entry {
        index,
        term,
        data,
        ..Entry::default()
    }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote: 1,
        commit,
    }
}

/// A log with its writer on one disk.
struct Rig {
    disk: Arc<dyn Disk>,
    log: Log,
    writer: LogWriter,
}

impl Rig {
    fn open(disk: impl Disk) -> Self {
        Self::try_open(Arc::new(disk), config()).unwrap()
    }

    fn try_open(disk: Arc<dyn Disk>, config: Config) -> Result<Self, OpenError> {
        let log = Log::open(&config, Arc::clone(&disk))?;
        Ok(Self {
            writer: LogWriter::new(Arc::clone(&disk)),
            log,
            disk,
        })
    }

    fn reopen(self) -> Self {
        Self::try_open(self.disk, config()).unwrap()
    }

    fn write(&mut self, (write, batch): (WriteNumber, LogBatch)) -> WriteNumber {
        self.writer.write(&batch).unwrap();
        write
    }

    fn sync(&mut self, written: (WriteNumber, LogBatch)) {
        let write = self.write(written);
        self.writer.barrier().unwrap();
        self.log.persisted(write);
    }

    fn append(&mut self, entries: Vec<Entry>) {
        let saved = self.log.save(None, None, entries).unwrap();
        self.sync(saved);
    }

    /// Index and term of every entry, read back.
    fn entries(&self) -> Vec<(u64, u64)> {
        let (first, last) = (self.log.first(), self.log.last());
        let entries = self.log.read(first, last + 1, u64::MAX).unwrap();
        for read in &entries {
            assert!(
                read.data
                    .starts_with(format!("{}/{}/", read.index, read.term).as_bytes())
            );
        }
        entries
            .iter()
            .map(|entry| (entry.index, entry.term))
            .collect()
    }
}

fn table_of(index: u64, conf_state: &ConfState) -> MemberTable {
    MemberTable::from_conf_state(LogIndex(index), conf_state, &BTreeMap::new())
}

fn save_membership(rig: &mut Rig, index: u64, conf_state: &ConfState) -> (WriteNumber, LogBatch) {
    let table = Arc::new(table_of(index, conf_state));
    rig.log.save_membership(index, conf_state, table)
}

/// The newest membership, which must agree with its table.
fn membership(rig: &Rig) -> (u64, &ConfState) {
    let (since, membership) = rig.log.membership();
    membership.table.check(&membership.conf_state).unwrap();
    (since, &membership.conf_state)
}

fn open_error(disk: &FakeDisk) -> OpenError {
    Rig::try_open(Arc::new(disk.clone()), config())
        .err()
        .unwrap()
}

fn segments(disk: &FakeDisk) -> Vec<u64> {
    disk.segments()
        .unwrap()
        .into_iter()
        .map(|segment| segment.0)
        .collect()
}

#[test]
fn a_log_that_was_never_begun_knows_the_first_members() {
    let rig = Rig::open(FakeDisk::new());
    assert_eq!((rig.log.first(), rig.log.last()), (1, 0));
    assert_eq!(rig.log.membership().1.conf_state.voters, [1, 2, 3]);
    assert_eq!(rig.log.term_at(0), Some(0));
}

#[test]
fn everything_synced_is_there_after_a_crash() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    let saved = rig
        .log
        .save(None, Some(hard_state(2, 0)), vec![entry(1, 1), entry(2, 2)])
        .unwrap();
    rig.sync(saved);
    let learner = ConfState {
        voters: vec![1, 2, 3],
        learners: vec![4],
        ..ConfState::default()
    };
    let saved = save_membership(&mut rig, 2, &learner);
    rig.sync(saved);
    disk.crash(7);
    let rig = rig.reopen();
    assert_eq!(rig.entries(), [(1, 1), (2, 2)]);
    assert_eq!(rig.log.hard_state(), &hard_state(2, 0));
    assert_eq!(membership(&rig), (2, &learner));
}

#[test]
fn what_was_not_synced_may_go_but_never_leaves_a_gap_or_damage() {
    let mut lost = 0;
    for seed in 0..200 {
        let disk = FakeDisk::new();
        let mut rig = Rig::open(disk.clone());
        rig.append((1..=5).map(|index| sized(index, 1, 300)).collect());
        for index in 6..=30 {
            let saved = rig
                .log
                .save(None, None, vec![sized(index, 1, 100 + index as usize * 20)])
                .unwrap();
            rig.write(saved);
        }
        disk.crash(seed);
        let mut rig = rig.reopen();
        let entries = rig.entries();
        let expected: Vec<_> = (1..=entries.len() as u64).map(|index| (index, 1)).collect();
        assert!(entries.len() >= 5, "seed {seed}: synced entries are gone");
        assert_eq!(entries, expected, "seed {seed}");
        lost += 30 - entries.len();
        // It goes on from there, and what is synced now stays.
        let next = entries.len() as u64 + 1;
        rig.append(vec![entry(next, 2)]);
        disk.crash(seed + 1);
        assert_eq!(rig.reopen().entries().last(), Some(&(next, 2)));
    }
    assert!(lost > 100, "the disk hardly lost anything: {lost}");
}

#[test]
fn leftovers_behind_a_torn_tail_never_come_back() {
    for seed in 0..100 {
        let disk = FakeDisk::new();
        let mut rig = Rig::open(disk.clone());
        rig.append(vec![entry(1, 1)]);
        for index in 2..=12 {
            let saved = rig
                .log
                .save(None, None, vec![sized(index, 1, 200)])
                .unwrap();
            rig.write(saved);
        }
        disk.crash(seed);
        let mut rig = rig.reopen();
        let survived = rig.log.last();
        rig.append(vec![sized(survived + 1, 2, 200)]);
        disk.crash(seed);
        assert_eq!(rig.reopen().log.last(), survived + 1, "seed {seed}");
    }
}

#[test]
fn damage_in_the_middle_is_refused() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    for index in 1..=10 {
        rig.append(vec![entry(index, 1)]);
    }
    let slot = *rig.log.contents.slot(4).unwrap();
    disk.flip_bit(slot.segment, (slot.offset + 40) * 8 + 3);
    let error = open_error(&disk);
    let expected = Damage::Record {
        segment: slot.segment.0,
        offset: slot.offset,
    };
    assert!(
        matches!(&error, OpenError::Damaged(damage) if *damage == expected),
        "{error}"
    );
}

#[test]
fn any_flipped_bit_before_the_last_sync_is_refused_and_none_changes_an_entry() {
    let pristine = || {
        let disk = FakeDisk::new();
        let mut rig = Rig::open(disk.clone());
        for index in 1..=4 {
            rig.append(vec![entry(index, 1)]);
        }
        let last = *rig.log.contents.slot(4).unwrap();
        let end = last.offset + last.size_bytes;
        (disk, last.offset, end)
    };
    let (_, last_offset, end) = pristine();
    for bit in 0..end * 8 {
        let (disk, ..) = pristine();
        disk.flip_bit(SegmentNumber(1), bit);
        match Rig::try_open(Arc::new(disk), config()) {
            Err(OpenError::Damaged(_)) => {}
            Err(other) => panic!("bit {bit}: {other}"),
            // The last record cannot be told from one that was being written.
            Ok(rig) => {
                assert!(bit >= last_offset * 8, "bit {bit} went unnoticed");
                assert_eq!(rig.entries(), [(1, 1), (2, 1), (3, 1)]);
            }
        }
    }
}

#[test]
fn damage_in_a_file_that_is_not_the_last_is_refused() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    while segments(&disk).len() < 3 {
        let next = rig.log.last() + 1;
        rig.append(vec![sized(next, 1, 500)]);
    }
    let last_of_first = (1..)
        .take_while(|index| rig.log.contents.slot(*index).unwrap().segment == SegmentNumber(1));
    let slot = *rig
        .log
        .contents
        .slot(last_of_first.last().unwrap())
        .unwrap();
    disk.flip_bit(SegmentNumber(1), slot.offset * 8 + 400);
    assert!(matches!(
        open_error(&disk),
        OpenError::Damaged(Damage::Record { segment: 1, .. })
    ));
}

#[test]
fn a_missing_file_is_noticed() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    while segments(&disk).len() < 4 {
        let next = rig.log.last() + 1;
        rig.append(vec![sized(next, 1, 500)]);
    }
    disk.remove(SegmentNumber(2)).unwrap();
    assert!(matches!(
        open_error(&disk),
        OpenError::Damaged(Damage::Gap { segment: 3, .. })
    ));
    disk.remove(SegmentNumber(1)).unwrap();
    assert!(matches!(
        open_error(&disk),
        OpenError::Damaged(Damage::MissingEntries { .. })
    ));
}

#[test]
fn a_file_that_was_only_just_made_is_thrown_away() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append(vec![entry(1, 1)]);
    disk.create(SegmentNumber(2), &[], 4096).unwrap();
    let mut rig = rig.reopen();
    assert_eq!(rig.entries(), [(1, 1)]);
    rig.append(vec![entry(2, 1)]);
    assert_eq!(rig.reopen().entries(), [(1, 1), (2, 1)]);
}

#[test]
fn the_log_of_another_member_is_refused() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append(vec![entry(1, 1)]);
    let other = Config {
        id: RaftId(2),
        ..config()
    };
    let error = Rig::try_open(Arc::new(disk), other).err().unwrap();
    assert!(matches!(
        error,
        OpenError::OtherMember {
            found: RaftId(1),
            configured: RaftId(2)
        }
    ));
}

#[test]
fn an_entry_supersedes_all_at_and_behind_its_index() {
    let mut rig = Rig::open(FakeDisk::new());
    rig.append((1..=6).map(|index| entry(index, 1)).collect());
    rig.append(vec![entry(4, 2)]);
    assert_eq!(rig.entries(), [(1, 1), (2, 1), (3, 1), (4, 2)]);
    rig.append(vec![entry(5, 3), entry(6, 3)]);
    let expected = [(1, 1), (2, 1), (3, 1), (4, 2), (5, 3), (6, 3)];
    assert_eq!(rig.entries(), expected);
    assert_eq!(rig.reopen().entries(), expected);
}

#[test]
fn a_replacement_torn_by_a_crash_never_makes_the_replaced_entries_committed() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let disk = FakeDisk::new();
        let mut rig = Rig::open(disk.clone());
        // In some runs a new file begins in the middle of the replacement, or right before it.
        let filler = (seed % 10) as usize * 70;
        rig.append(
            (1..=10)
                .map(|index| sized(index, 1, 100 + filler / 2))
                .collect(),
        );
        let replacement = (5..=8).map(|index| sized(index, 2, 600)).collect();
        let saved = rig
            .log
            .save(None, Some(hard_state(2, 7)), replacement)
            .unwrap();
        rig.write(saved);
        disk.crash(seed);
        let rig = rig.reopen();
        let (commit, last) = (rig.log.hard_state().commit, rig.log.last());
        assert!(commit <= last);
        assert!(
            (5..=commit).all(|index| rig.log.term_at(index) == Some(2)),
            "seed {seed}: commit {commit} covers replaced entries"
        );
        outcomes.insert((rig.log.term_at(5), last));
    }
    assert!(outcomes.len() >= 4, "{outcomes:?}");
}

#[test]
fn an_entry_counts_as_durable_only_with_the_write_that_put_it_there_last() {
    let mut rig = Rig::open(FakeDisk::new());
    rig.append(vec![entry(1, 1)]);
    let first = rig
        .log
        .save(None, None, vec![entry(2, 1), entry(3, 1)])
        .unwrap();
    let second = rig.log.save(None, None, vec![entry(2, 2)]).unwrap();
    assert_eq!(rig.log.durable(), 1);
    rig.sync(first);
    assert_eq!(rig.log.durable(), 1);
    rig.sync(second);
    assert_eq!(rig.log.durable(), 2);
}

#[test]
fn a_gap_is_impossible() {
    let mut rig = Rig::open(FakeDisk::new());
    assert!(matches!(
        rig.log.save(None, None, vec![entry(2, 1)]),
        Err(Fatal::Impossible { .. })
    ));
}

#[test]
fn after_a_failed_sync_nothing_is_promised_any_more() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    let saved = rig.log.save(None, None, vec![entry(1, 1)]).unwrap();
    rig.write(saved);
    disk.fail_syncs(1);
    let first = rig.writer.barrier().unwrap_err();
    assert!(matches!(
        first,
        Fatal::Disk {
            operation: "syncing",
            segment: 1,
            ..
        }
    ));
    // The disk would work again; the writer must not believe it.
    assert_eq!(rig.writer.barrier().unwrap_err(), first);
    let saved = rig.log.save(None, None, vec![entry(2, 1)]).unwrap();
    assert_eq!(rig.writer.write(&saved.1).unwrap_err(), first);
}

#[test]
fn what_is_recovered_after_a_failed_sync_is_on_the_medium() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append(vec![entry(1, 1)]);
    let second = rig.log.save(None, None, vec![entry(2, 1)]).unwrap();
    rig.write(second);
    disk.fail_syncs(1);
    assert!(rig.writer.barrier().is_err());
    // The process starts again, the machine does not: the system still shows what never reached the medium.
    let rig = rig.reopen();
    assert_eq!(rig.entries(), [(1, 1), (2, 1)]);
    disk.crash(7);
    assert_eq!(rig.reopen().entries(), [(1, 1), (2, 1)]);
}

#[test]
fn after_a_failed_write_nothing_is_promised_any_more() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    disk.fail_writes(1);
    let saved = rig.log.save(None, None, vec![entry(1, 1)]).unwrap();
    assert!(matches!(
        rig.writer.write(&saved.1),
        Err(Fatal::Disk {
            operation: "writing",
            ..
        })
    ));
    assert!(rig.writer.barrier().is_err());
}

#[test]
fn one_barrier_covers_all_that_was_written() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append(vec![entry(1, 1)]);
    let before = disk.syncs();
    let mut write = WriteNumber(0);
    for index in 2..=9 {
        let saved = rig.log.save(None, None, vec![entry(index, 1)]).unwrap();
        write = rig.write(saved);
    }
    rig.writer.barrier().unwrap();
    rig.log.persisted(write);
    assert_eq!(disk.syncs() - before, 1);
    assert_eq!(rig.log.durable(), 9);
}

#[test]
fn entries_that_left_memory_are_read_from_disk_in_few_reads() {
    let disk = FakeDisk::new();
    let small_cache = Config {
        cache_bytes: 1000,
        segment_bytes: 1 << 20,
        ..config()
    };
    let mut rig = Rig::try_open(Arc::new(disk.clone()), small_cache).unwrap();
    for index in 1..=50 {
        rig.append(vec![sized(index, 1, 100)]);
    }
    assert_eq!(rig.entries().len(), 50);
    assert!((1..=3).contains(&disk.reads()), "{} reads", disk.reads());
    let some = rig
        .log
        .entries(1, 51, Some(450), GetEntriesContext::empty(false))
        .unwrap();
    assert!((1..50).contains(&some.len()));
    let one = rig
        .log
        .entries(1, 51, Some(0), GetEntriesContext::empty(false))
        .unwrap();
    assert_eq!(one.len(), 1, "at least one entry, whatever its size");
}

#[test]
fn an_entry_damaged_after_opening_is_noticed_when_it_is_read() {
    let disk = FakeDisk::new();
    let small_cache = Config {
        cache_bytes: 0,
        ..config()
    };
    let mut rig = Rig::try_open(Arc::new(disk.clone()), small_cache).unwrap();
    rig.append(vec![entry(1, 1), entry(2, 1)]);
    let slot = *rig.log.contents.slot(1).unwrap();
    disk.flip_bit(slot.segment, (slot.offset + 60) * 8);
    assert!(matches!(
        rig.log.read(1, 3, u64::MAX),
        Err(Fatal::Damaged(Damage::Record { segment: 1, .. }))
    ));
}

#[test]
fn compaction_drops_files_and_keeps_what_is_behind_it() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    for index in 1..=60 {
        rig.append(vec![sized(index, 1, 300)]);
    }
    let before = segments(&disk);
    assert!(before.len() > 4);
    let learner = ConfState {
        voters: vec![1, 2],
        ..ConfState::default()
    };
    let saved = save_membership(&mut rig, 45, &learner);
    rig.sync(saved);
    let saved = rig
        .log
        .save_compaction(50, 40, b"manifest".to_vec())
        .unwrap();
    rig.sync(saved);
    assert!(segments(&disk).len() < before.len());
    assert_eq!((rig.log.first(), rig.log.last()), (41, 60));
    let rig = rig.reopen();
    assert_eq!((rig.log.first(), rig.log.last()), (41, 60));
    assert_eq!(rig.entries().len(), 20);
    assert_eq!(rig.log.term_at(40), Some(1));
    assert!(
        rig.log
            .entries(40, 42, None, GetEntriesContext::empty(false))
            .is_err()
    );
    let snapshot = rig.log.snapshot(0, 2).unwrap();
    let (table, manifest) = snapshot_data::split(&snapshot.data).unwrap();
    assert_eq!(manifest, b"manifest");
    assert_eq!(table.conf_state(), learner);
    let metadata = snapshot.metadata.unwrap();
    assert_eq!((metadata.index, metadata.term), (50, 1));
    assert_eq!(metadata.conf_state, Some(learner));
}

#[test]
fn a_manifest_carries_the_membership_of_its_index_and_later_ones_stay() {
    let mut rig = Rig::open(FakeDisk::new());
    rig.append((1..=20).map(|index| entry(index, 1)).collect());
    let with = |learner| ConfState {
        voters: vec![1, 2, 3],
        learners: vec![learner],
        ..ConfState::default()
    };
    for (index, learner) in [(5, 5), (15, 6)] {
        let saved = save_membership(&mut rig, index, &with(learner));
        rig.sync(saved);
    }
    let saved = rig.log.save_compaction(10, 10, b"ten".to_vec()).unwrap();
    rig.sync(saved);
    let rig = rig.reopen();
    assert_eq!(rig.log.marker().conf_state, with(5));
    assert_eq!(membership(&rig), (15, &with(6)));
    // Whoever was a member then gets what belongs together; whoever came later, the membership it is in.
    for (to, expected) in [(5, with(5)), (6, with(6))] {
        let snapshot = rig.log.snapshot(0, to).unwrap();
        let (table, manifest) = snapshot_data::split(&snapshot.data).unwrap();
        assert_eq!(manifest, b"ten");
        assert_eq!(table.conf_state(), expected);
        assert_eq!(snapshot.metadata.unwrap().conf_state, Some(expected));
    }
}

#[test]
fn a_manifest_from_the_leader_replaces_the_whole_log() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    for index in 1..=40 {
        rig.append(vec![sized(index, 1, 300)]);
    }
    let conf_state = ConfState {
        voters: vec![1, 2, 3, 4],
        ..ConfState::default()
    };
    let snapshot = Snapshot {
        data: snapshot_data::join(&table_of(30, &conf_state), b"manifest"),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state.clone()),
            index: 30,
            term: 4,
        }),
    };
    rig.log.note_commit(hard_state(1, 25));
    let saved = rig
        .log
        .save(Some(snapshot), Some(hard_state(4, 30)), vec![entry(31, 4)])
        .unwrap();
    assert_eq!(
        rig.log.durable(),
        25,
        "the disk may hold other entries behind what is committed until the manifest is there"
    );
    rig.sync(saved);
    assert_eq!(rig.entries(), [(31, 4)]);
    disk.crash(1);
    let rig = rig.reopen();
    assert_eq!((rig.log.first(), rig.log.last()), (31, 31));
    assert_eq!(rig.log.term_at(30), Some(4));
    assert_eq!(membership(&rig), (30, &conf_state));
    assert_eq!(rig.log.hard_state(), &hard_state(4, 30));
}

#[test]
fn a_manifest_lost_in_a_crash_leaves_the_log_as_it_was_or_as_it_was_to_be() {
    let mut outcomes = [0, 0];
    for seed in 0..100 {
        let disk = FakeDisk::new();
        let mut rig = Rig::open(disk.clone());
        rig.append((1..=10).map(|index| sized(index, 1, 250)).collect());
        let snapshot = Snapshot {
            data: snapshot_data::join(
                &MemberTable::genesis(&config().voters, &[], &BTreeMap::new()),
                &[b'm'; 2000],
            ),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(ConfState {
                    voters: vec![1, 2, 3],
                    ..ConfState::default()
                }),
                index: 100,
                term: 2,
            }),
        };
        let saved = rig
            .log
            .save(Some(snapshot), Some(hard_state(2, 100)), vec![])
            .unwrap();
        rig.write(saved);
        disk.crash(seed);
        let rig = rig.reopen();
        match (rig.log.first(), rig.log.last()) {
            (1, 10) => outcomes[0] += 1,
            (101, 100) => outcomes[1] += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(outcomes.iter().all(|count| *count > 5), "{outcomes:?}");
}

#[test]
fn a_record_larger_than_a_file_gets_a_file_of_its_own() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append(vec![entry(1, 1), sized(2, 1, 20_000), entry(3, 1)]);
    assert_eq!(rig.entries(), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(rig.reopen().entries(), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn reopening_again_and_again_adds_no_files() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append(vec![entry(1, 1)]);
    for _ in 0..5 {
        rig = rig.reopen();
    }
    assert_eq!(segments(&disk), [1]);
    rig.append(vec![entry(2, 1)]);
    assert_eq!(segments(&disk), [1, 2]);
    assert_eq!(rig.reopen().entries(), [(1, 1), (2, 1)]);
}

#[test]
fn a_log_does_not_mind_another_seed_at_the_next_start() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    rig.append((1..=5).map(|index| entry(index, 1)).collect());
    let other = Config {
        seed: 99,
        cache_bytes: 0,
        ..config()
    };
    let rig = Rig::try_open(Arc::new(disk), other).unwrap();
    assert_eq!(rig.entries().len(), 5);
}

#[test]
fn real_files_hold_the_same_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(FolderDisk::open(dir.path()).unwrap());
    for index in 1..=40 {
        rig.append(vec![sized(index, 1, 300)]);
    }
    let saved = rig
        .log
        .save_compaction(30, 25, b"manifest".to_vec())
        .unwrap();
    rig.sync(saved);
    let Rig { disk, log, writer } = rig;
    drop((disk, log, writer));
    let rig = Rig::open(FolderDisk::open(dir.path()).unwrap());
    assert_eq!((rig.log.first(), rig.log.last()), (26, 40));
    assert_eq!(rig.entries().len(), 15);
    assert!(rig.disk.read_all(SegmentNumber(1)).is_err());
    let newest = rig.disk.segments().unwrap().pop().unwrap();
    assert!(rig.disk.read_all(newest).unwrap().len() as u64 > HEADER_BYTES);
}

#[test]
fn a_log_from_before_there_were_member_tables_opens_and_gets_its_table() {
    let disk = FakeDisk::new();
    let header = SegmentHeader {
        segment: 1,
        first_sequence: 1,
        owner: MEMBER.0,
        salt: 9,
    };
    let joined = ConfState {
        voters: vec![1, 2, 3],
        learners: vec![7],
        ..ConfState::default()
    };
    let genesis = Marker {
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        },
        ..Marker::default()
    };
    let bodies = [
        Body::Marker(genesis),
        Body::HardState(hard_state(1, 0)),
        Body::Entry(entry(1, 1)),
        Body::Entry(entry(2, 1)),
        Body::Membership {
            index: 2,
            conf_state: joined.clone(),
            table: None,
        },
    ];
    let mut bytes = Vec::new();
    for (sequence, body) in (1..).zip(&bodies) {
        record::encode(body, sequence, 1, 9, &mut bytes);
    }
    let number = SegmentNumber(1);
    disk.create(number, &header.encode(), 4096).unwrap();
    disk.write(number, HEADER_BYTES, &bytes).unwrap();
    disk.sync(number).unwrap();
    let config = Config {
        details: BTreeMap::from([(RaftId(2), "two".into())]),
        ..config()
    };
    let mut rig = Rig::try_open(Arc::new(disk.clone()), config.clone()).unwrap();
    assert_eq!(rig.entries(), [(1, 1), (2, 1)]);
    assert_eq!(membership(&rig), (2, &joined));
    let table = MemberTable::clone(rig.log.table());
    assert_eq!((table.index, table.next_id), (LogIndex(2), RaftId(8)));
    assert_eq!(table.members[&RaftId(2)].details, "two");
    assert_eq!(table.members[&RaftId(7)].role, MemberRole::Learner);
    // The next file is of today's format and holds the table.
    rig.append(vec![entry(3, 1)]);
    let rig = Rig::try_open(
        rig.disk,
        Config {
            details: BTreeMap::new(),
            ..config
        },
    )
    .unwrap();
    assert_eq!(**rig.log.table(), table);
}

#[test]
fn a_floor_survives_restarts_and_new_files_until_it_is_lifted() {
    let disk = FakeDisk::new();
    let mut rig = Rig::open(disk.clone());
    let saved = rig.log.save_floor(17);
    rig.sync(saved);
    for index in 1..=40 {
        rig.append(vec![sized(index, 1, 300)]);
    }
    let saved = rig
        .log
        .save_compaction(30, 30, b"manifest".to_vec())
        .unwrap();
    rig.sync(saved);
    disk.crash(1);
    let mut rig = rig.reopen();
    assert_eq!(rig.log.floor(), 17);
    let saved = rig.log.save_floor(0);
    rig.sync(saved);
    assert_eq!(rig.reopen().log.floor(), 0);
}

#[test]
fn entries_between_the_cut_and_the_manifest_keep_the_membership_they_had() {
    let mut rig = Rig::open(FakeDisk::new());
    rig.append((1..=20).map(|index| entry(index, 1)).collect());
    let with = |learner| ConfState {
        voters: vec![1, 2, 3],
        learners: vec![learner],
        ..ConfState::default()
    };
    for index in [5, 9, 15] {
        let saved = save_membership(&mut rig, index, &with(index));
        rig.sync(saved);
    }
    let saved = rig.log.save_compaction(12, 6, b"twelve".to_vec()).unwrap();
    rig.sync(saved);
    for _ in 0..2 {
        let indexes = (7..=16).map(|index| rig.log.table_at(index).index.0);
        assert_eq!(
            indexes.collect::<Vec<_>>(),
            [5, 5, 9, 9, 9, 9, 9, 9, 15, 15]
        );
        rig.append(vec![entry(rig.log.last() + 1, 1)]);
        rig = rig.reopen();
    }
}

#[test]
fn what_is_committed_before_a_membership_change_is_written_with_it() {
    let mut rig = Rig::open(FakeDisk::new());
    rig.append(vec![entry(1, 1)]);
    // Two changes and what lies between them arrive at once, with word that all of it is committed.
    let change = |index| Entry {
        entry_type: raft::eraftpb::EntryType::EntryConfChangeV2 as i32,
        ..entry(index, 2)
    };
    let entries = vec![change(2), entry(3, 2), change(4), entry(5, 2)];
    let saved = rig.log.save(None, Some(hard_state(2, 5)), entries).unwrap();
    rig.sync(saved);
    let rig = rig.reopen();
    assert_eq!(rig.log.hard_state().commit, 3, "up to the last change");
    assert_eq!(rig.log.next_change(), Some(2));
}

#[test]
fn a_change_that_was_replaced_is_no_change_any_more() {
    let mut rig = Rig::open(FakeDisk::new());
    let change = |index, term| Entry {
        entry_type: raft::eraftpb::EntryType::EntryConfChangeV2 as i32,
        ..entry(index, term)
    };
    rig.append(vec![entry(1, 1), change(2, 1), change(3, 1)]);
    rig.append(vec![entry(3, 2)]);
    assert_eq!(rig.log.next_change(), Some(2));
    rig.append(vec![entry(2, 3)]);
    assert_eq!(rig.log.next_change(), None);
    assert_eq!(rig.reopen().log.next_change(), None);
}
