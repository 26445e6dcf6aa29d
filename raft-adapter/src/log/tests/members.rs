//! The membership that lies with the entries, and manifests that carry it.

use raft::eraftpb::{Snapshot, SnapshotMetadata};

use super::*;
use crate::log::record::{self, Body, Marker, SegmentHeader};
use crate::member_table::MemberRole;

#[test]
fn a_log_that_was_never_begun_knows_the_first_members() {
    let rig = Rig::open(FakeDisk::new());
    assert_eq!((rig.log.first(), rig.log.last()), (1, 0));
    assert_eq!(rig.log.membership().1.conf_state.voters, [1, 2, 3]);
    assert_eq!(rig.log.term_at(0), Some(0));
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
