use proptest::prelude::*;

use super::*;
use crate::{
    error::ChangeError,
    member_change::{MemberChange, MemberStep},
};

const LEADER: RaftId = RaftId(1);

fn genesis() -> MemberTable {
    let details = BTreeMap::from([(RaftId(1), Bytes::from("one"))]);
    MemberTable::genesis(&[RaftId(1), RaftId(2), RaftId(3)], &[RaftId(4)], &details)
}

fn add(role: MemberRole) -> MemberStep {
    let details = Bytes::from("new");
    MemberStep::Add { role, details }
}

fn set(id: u64, role: MemberRole) -> MemberStep {
    let id = RaftId(id);
    MemberStep::SetRole { id, role }
}

fn remove(id: u64) -> MemberStep {
    MemberStep::Remove { id: RaftId(id) }
}

fn details(id: u64, details: &'static str) -> MemberStep {
    let (id, details) = (RaftId(id), details.into());
    MemberStep::SetDetails { id, details }
}

fn change(number: u8, steps: Vec<MemberStep>) -> MemberChange {
    MemberChange {
        id: ChangeId([number; 16]),
        steps,
        ..MemberChange::default()
    }
}

fn applied(table: &MemberTable, index: u64, change: &MemberChange) -> MemberTable {
    let logged = change.plan(table, LEADER).unwrap();
    let after = table
        .with_change(LogIndex(index), Term(2), &logged)
        .unwrap();
    after.check(&after.conf_state()).unwrap();
    after
}

fn ids(ids: impl IntoIterator<Item = RaftId>) -> Vec<u64> {
    ids.into_iter().map(|id| id.0).collect()
}

#[test]
fn members_are_added_promoted_demoted_changed_and_removed() {
    let table = applied(
        &genesis(),
        5,
        &change(1, vec![add(MemberRole::Learner), add(MemberRole::Learner)]),
    );
    assert_eq!(ids(table.in_role(MemberRole::Learner)), [4, 5, 6]);
    assert_eq!(
        ids(table.applied(&ChangeId([1; 16])).unwrap().added.clone()),
        [5, 6]
    );
    assert_eq!(table.next_id, RaftId(7));
    let table = applied(&table, 6, &change(2, vec![set(5, MemberRole::Voter)]));
    assert!(!table.is_joint());
    let table = applied(
        &table,
        7,
        &change(
            3,
            vec![details(2, "two"), remove(4), set(6, MemberRole::Removed)],
        ),
    );
    assert_eq!(ids(table.voters()), [1, 2, 3, 5]);
    assert_eq!(ids(table.removed.keys().copied()), [4, 6]);
    assert_eq!(table.removed[&RaftId(6)], "new");
    assert_eq!(table.members[&RaftId(2)].details, "two");
}

#[test]
fn whoever_leaves_through_a_joint_configuration_is_listed_until_it_is_left() {
    let table = applied(
        &genesis(),
        5,
        &change(
            1,
            vec![
                remove(1),
                remove(2),
                set(3, MemberRole::Learner),
                add(MemberRole::Voter),
            ],
        ),
    );
    assert_eq!(ids(table.outgoing.iter().copied()), [1, 2, 3]);
    assert_eq!(ids(table.voters()), [5]);
    assert_eq!(ids(table.in_role(MemberRole::Removed)), [1, 2]);
    assert_eq!(table.conf_state().learners_next, [3]);
    assert!(table.removed.is_empty());
    let left = table.left_joint(LogIndex(6));
    left.check(&left.conf_state()).unwrap();
    assert_eq!(ids(left.removed.keys().copied()), [1, 2]);
    assert_eq!(ids(left.members.keys().copied()), [3, 4, 5]);
    assert_eq!((left.index, left.is_joint()), (LogIndex(6), false));
}

#[test]
fn a_joint_configuration_is_used_for_more_than_one_voter_or_the_leader_itself() {
    let cases = [
        (vec![add(MemberRole::Voter)], false),
        (
            vec![add(MemberRole::Voter), set(4, MemberRole::Voter)],
            true,
        ),
        (vec![remove(2)], false),
        (vec![remove(2), remove(4)], false),
        (vec![remove(2), add(MemberRole::Voter)], true),
        (vec![remove(1)], true),
        (vec![set(1, MemberRole::Learner)], true),
        (vec![details(1, "moved")], false),
    ];
    for (steps, joint) in cases {
        let plan = change(1, steps.clone()).plan(&genesis(), LEADER).unwrap();
        assert_eq!(plan.joint, joint, "{steps:?}");
    }
}

#[test]
fn every_refusal_that_the_table_decides_has_its_name() {
    let table = applied(&genesis(), 5, &change(1, vec![remove(4)]));
    let long = Bytes::from(vec![0; DETAILS_BYTES_MAX + 1]);
    let cases = [
        (vec![], ChangeError::NothingToDo),
        (vec![set(2, MemberRole::Voter)], ChangeError::NothingToDo),
        (vec![details(1, "one")], ChangeError::NothingToDo),
        (
            vec![remove(9)],
            ChangeError::UnknownMember { id: RaftId(9) },
        ),
        (
            vec![remove(4)],
            ChangeError::AlreadyRemoved { id: RaftId(4) },
        ),
        (
            vec![set(4, MemberRole::Voter)],
            ChangeError::AlreadyRemoved { id: RaftId(4) },
        ),
        (
            vec![remove(2), set(2, MemberRole::Learner)],
            ChangeError::MemberTwice { id: RaftId(2) },
        ),
        (
            vec![remove(2), details(2, "two")],
            ChangeError::MemberTwice { id: RaftId(2) },
        ),
        (
            vec![remove(1), remove(2), remove(3)],
            ChangeError::NoVoterLeft,
        ),
        (vec![add(MemberRole::Removed)], ChangeError::AddedAsRemoved),
        (
            vec![MemberStep::SetDetails {
                id: RaftId(2),
                details: long,
            }],
            ChangeError::DetailsTooLong {
                got: DETAILS_BYTES_MAX + 1,
                max: DETAILS_BYTES_MAX,
            },
        ),
        (
            vec![add(MemberRole::Learner); MEMBERS_MAX],
            ChangeError::TooManyMembers { max: MEMBERS_MAX },
        ),
        (
            vec![remove(2); 4 * MEMBERS_MAX + 1],
            ChangeError::TooManySteps {
                max: 4 * MEMBERS_MAX,
            },
        ),
    ];
    for (steps, expected) in cases {
        let refusal = change(2, steps).plan(&table, LEADER).unwrap_err();
        assert_eq!(refusal, expected);
        assert!(!refusal.is_retryable());
    }
}

#[test]
fn a_change_in_effect_or_with_a_used_id_does_not_apply_again() {
    let first = change(1, vec![add(MemberRole::Learner)]);
    let logged = first.plan(&genesis(), LEADER).unwrap();
    let table = applied(&genesis(), 5, &first);
    let again = |logged: &LoggedChange| table.with_change(LogIndex(6), Term(2), logged);
    assert_eq!(again(&logged), Err(Unfit::Repeated));
    let mut other = logged;
    other.id = ChangeId([2; 16]);
    other.edits[0].id = RaftId(2);
    other.edits[0].role = MemberRole::Removed;
    assert!(again(&other).is_ok());
    // Once removed, the id does not come back as a new member.
    let table = again(&other).unwrap();
    other.id = ChangeId([3; 16]);
    other.edits[0].role = MemberRole::Voter;
    assert_eq!(
        table.with_change(LogIndex(7), Term(2), &other),
        Err(Unfit::UsedId(RaftId(2)))
    );
}

#[test]
fn only_the_last_changes_are_remembered() {
    let mut table = genesis();
    for number in 0..=RECENT_CHANGES as u8 {
        let name = if number % 2 == 0 { "even" } else { "odd" };
        table = applied(
            &table,
            5 + u64::from(number),
            &change(number, vec![details(2, name)]),
        );
    }
    assert_eq!(table.recent.len(), RECENT_CHANGES);
    assert!(table.applied(&ChangeId([0; 16])).is_none());
    assert!(table.applied(&ChangeId([1; 16])).is_some());
}

#[test]
fn a_break_leaves_one_voter_and_says_who_was_lost() {
    let table = applied(
        &genesis(),
        5,
        &change(1, vec![remove(1), add(MemberRole::Voter)]),
    );
    let broken = table
        .broken(LogIndex(9), Term(4), RaftId(4), "fire".into())
        .unwrap();
    broken.check(&broken.conf_state()).unwrap();
    assert_eq!(ids(broken.voters()), [4]);
    assert_eq!(ids(broken.breaks[0].lost.clone()), [1, 2, 3, 5]);
    assert_eq!(ids(broken.removed.keys().copied()), [1, 2, 3, 5]);
    assert_eq!(broken.next_id, RaftId(6));
    // Whoever was leaving, or never was there, cannot go on.
    for id in [1, 77] {
        assert!(
            table
                .broken(LogIndex(9), Term(4), RaftId(id), Bytes::new())
                .is_none()
        );
    }
}

fn sample() -> MemberTable {
    let table = applied(
        &genesis(),
        5,
        &change(1, vec![remove(4), add(MemberRole::Learner)]),
    );
    let table = table
        .broken(LogIndex(7), Term(3), RaftId(2), "why".into())
        .unwrap();
    let table = applied(&table, 8, &change(2, vec![add(MemberRole::Voter)]));
    applied(
        &table,
        9,
        &change(3, vec![remove(2), add(MemberRole::Voter)]),
    )
}

/// The bytes of version 1. A change here is a change of the format and needs a new version.
#[test]
fn the_encoding_is_the_one_in_existing_logs() {
    let text: String = sample()
        .encode()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        text,
        include_str!("../../tests/golden/member_table_v1.hex").trim()
    );
}

#[test]
fn a_table_reads_back_as_written_and_in_no_other_encoding() {
    for table in [genesis(), sample()] {
        let bytes = table.encode();
        assert_eq!(MemberTable::decode(&bytes), Ok(table));
        for end in 0..bytes.len() {
            assert!(MemberTable::decode(&bytes[..end]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(MemberTable::decode(&longer).is_err());
    }
    let mut newer = genesis().encode().to_vec();
    newer[0] = 2;
    assert_eq!(
        MemberTable::decode(&newer),
        Err(TableError::UnknownVersion { found: 2 })
    );
}

#[test]
fn a_table_that_contradicts_itself_or_the_configuration_is_refused() {
    let mut conf_state = genesis().conf_state();
    conf_state.learners.clear();
    assert!(genesis().check(&conf_state).is_err());
    let mut named_twice = genesis().conf_state();
    named_twice.voters.extend_from_within(..1);
    assert!(genesis().check(&named_twice).is_err());
    let leaves_nothing = ConfState {
        auto_leave: true,
        ..genesis().conf_state()
    };
    assert!(genesis().check(&leaves_nothing).is_err());
    let spoil: [fn(&mut MemberTable); 5] = [
        |table| table.next_id = RaftId(3),
        |table| table.removed.extend([(RaftId(2), Bytes::new())]),
        |table| table.outgoing.extend([RaftId(77)]),
        |table| {
            table
                .members
                .values_mut()
                .for_each(|member| member.role = MemberRole::Learner);
        },
        |table| {
            if let Some(member) = table.members.get_mut(&RaftId(4)) {
                member.role = MemberRole::Removed;
            }
        },
    ];
    for spoil in spoil {
        let mut table = genesis();
        spoil(&mut table);
        assert!(table.check(&table.conf_state()).is_err());
        assert!(MemberTable::decode(&table.encode()).is_err());
    }
}

proptest! {
    #[test]
    fn arbitrary_changes_of_a_table_never_panic(at in 0_usize..400, bit in 0_u8..8) {
        let mut bytes = sample().encode().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(table) = MemberTable::decode(&bytes) {
            prop_assert_eq!(table.encode(), bytes);
        }
    }
}
