//! Files that are damaged, torn, missing or of another member.

use super::*;
use crate::error::Damage;

fn open_error(disk: &FakeDisk) -> OpenError {
    Rig::try_open(Arc::new(disk.clone()), config())
        .err()
        .unwrap()
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
