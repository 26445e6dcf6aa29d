use super::*;
use crate::disk::fake::FakeDisk;

fn members() -> ConfState {
    ConfState {
        voters: vec![1],
        ..ConfState::default()
    }
}

fn open(disk: &FakeDisk) -> Result<Log, OpenError> {
    Log::open(Box::new(disk.clone()), members(), 4_096, 10_000)
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        data: vec![index as u8; 100],
        ..Entry::default()
    }
}

fn append(log: &mut Log, range: std::ops::RangeInclusive<u64>, term: u64) {
    let entries: Vec<Entry> = range.map(|i| entry(i, term)).collect();
    log.append(&entries).unwrap();
    log.sync().unwrap();
}

#[test]
fn entries_votes_and_rolled_files_survive_a_restart() {
    let disk = FakeDisk::default();
    let mut log = open(&disk).unwrap();
    append(&mut log, 1..=200, 1);
    log.set_hard_state(HardState {
        term: 3,
        vote: 2,
        commit: 150,
    })
    .unwrap();
    log.sync().unwrap();
    assert!(disk.names().len() > 3);
    disk.crash(0);
    let log = open(&disk).unwrap();
    assert_eq!((log.first(), log.last()), (1, 200));
    assert_eq!(
        (
            log.hard_state().term,
            log.hard_state().vote,
            log.hard_state().commit
        ),
        (3, 2, 150)
    );
    let entries = log.entries(1, 201, u64::MAX).unwrap();
    assert_eq!(entries, (1..=200).map(|i| entry(i, 1)).collect::<Vec<_>>());
    assert_eq!(log.entries(5, 100, 1).unwrap().len(), 1);
}

#[test]
fn an_entry_takes_the_place_of_what_it_contradicts() {
    let disk = FakeDisk::default();
    let mut log = open(&disk).unwrap();
    append(&mut log, 1..=50, 1);
    append(&mut log, 20..=22, 2);
    for log in [&log, &open(&disk).unwrap()] {
        assert_eq!(log.last(), 22);
        assert_eq!(
            (log.term(19), log.term(20), log.term(23)),
            (Some(1), Some(2), None)
        );
        assert_eq!(log.entries(20, 21, u64::MAX).unwrap(), [entry(20, 2)]);
    }
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    for keep in (0..400).step_by(13) {
        let disk = FakeDisk::default();
        let mut log = open(&disk).unwrap();
        append(&mut log, 1..=5, 1);
        log.append(&[entry(6, 1), entry(7, 1), entry(8, 1)])
            .unwrap();
        log.write().unwrap();
        disk.crash(keep);
        let mut log = open(&disk).unwrap();
        let last = log.last();
        assert!((5..=8).contains(&last));
        append(&mut log, last + 1..=last + 2, 2);
        assert_eq!(open(&disk).unwrap().last(), last + 2);
    }
}

#[test]
fn a_flipped_bit_that_is_not_at_the_end_is_refused_and_a_missing_file_too() {
    let disk = FakeDisk::default();
    append(&mut open(&disk).unwrap(), 1..=200, 1);
    let names = disk.names();
    disk.flip_bit(&names[1], 600);
    assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })));
    disk.flip_bit(&names[1], 600);
    disk.flip_bit(names.last().unwrap(), 200);
    assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })));
    disk.flip_bit(names.last().unwrap(), 200);
    assert!(open(&disk).is_ok());
    disk.clone().remove(&names[1]).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })));
}

#[test]
fn after_a_failed_sync_the_log_refuses_all_work() {
    let disk = FakeDisk::default();
    let mut log = open(&disk).unwrap();
    log.append(&[entry(1, 1)]).unwrap();
    disk.fail_sync();
    assert!(log.sync().is_err());
    assert!(log.append(&[entry(2, 1)]).is_err());
    assert!(log.set_hard_state(HardState::default()).is_err());
    assert!(log.sync().is_err());
}

#[test]
fn compaction_keeps_the_trailing_entries_and_removes_old_files() {
    let disk = FakeDisk::default();
    let mut log = open(&disk).unwrap();
    append(&mut log, 1..=300, 1);
    let files = disk.names().len();
    let manifest = Manifest {
        index: 280,
        term: 1,
        members: members(),
        data: b"place".to_vec(),
    };
    log.compact(manifest.clone(), 30).unwrap();
    log.sync().unwrap();
    log.remove_old_files().unwrap();
    assert!(disk.names().len() < files / 2);
    disk.crash(0);
    let log = open(&disk).unwrap();
    assert_eq!((log.first(), log.last(), log.start().term), (251, 300, 1));
    assert_eq!(log.manifest(), &manifest);
    assert_eq!(log.entries(251, 301, u64::MAX).unwrap().len(), 50);
    assert!(log.entries(250, 252, u64::MAX).is_err());
}
