mod damage;
mod members;

use std::{collections::BTreeMap, sync::Arc};

use raft::{
    GetEntriesContext, Storage as _,
    eraftpb::{ConfState, Entry, HardState},
};

use super::{
    Log,
    disk::{Disk, FolderDisk, SegmentNumber},
    fake_disk::FakeDisk,
    record::HEADER_BYTES,
    snapshot_data,
    writer::{LogBatch, LogWriter},
};
use crate::{
    config::Config,
    error::{Fatal, OpenError},
    ids::{LogIndex, RaftId, WriteNumber},
    member_table::MemberTable,
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

fn segments(disk: &FakeDisk) -> Vec<u64> {
    disk.segments()
        .unwrap()
        .into_iter()
        .map(|segment| segment.0)
        .collect()
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
