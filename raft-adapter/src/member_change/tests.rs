use proptest::prelude::*;

use super::*;

fn sample() -> LoggedChange {
    LoggedChange {
        id: ChangeId([7; 16]),
        joint: true,
        edits: vec![
            Edit {
                id: RaftId(5),
                role: MemberRole::Voter,
                details: Some("five".into()),
            },
            Edit {
                id: RaftId(2),
                role: MemberRole::Removed,
                details: None,
            },
            Edit {
                id: RaftId(3),
                role: MemberRole::Learner,
                details: Some(Bytes::new()),
            },
        ],
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of version 1. A change here is a change of the format and needs a new version.
#[test]
fn the_contexts_are_the_ones_in_existing_logs() {
    let broken = Logged::break_to_raft(RaftId(3), &"why".into());
    let text = format!("{}\n{}", hex(&sample().context()), hex(&broken.context));
    assert_eq!(
        text,
        include_str!("../../tests/golden/member_change_v1.hex").trim()
    );
}

#[test]
fn what_goes_into_the_log_comes_out_of_it() {
    for joint in [false, true] {
        let change = LoggedChange { joint, ..sample() };
        let raft = change.to_raft();
        assert_eq!(raft.enter_joint().is_some(), raft.changes.len() > 1);
        assert_eq!(Logged::of(&raft), Some(Logged::Change(change)));
    }
    let (survivor, note) = (RaftId(3), Bytes::from("why"));
    let raft = Logged::break_to_raft(survivor, &note);
    assert_eq!(Logged::of(&raft), Some(Logged::Break { survivor, note }));
    assert_eq!(Logged::of(&ConfChangeV2::default()), Some(Logged::Leave));
}

#[test]
fn a_context_that_says_something_else_than_raft_rs_is_told_is_refused() {
    let mut raft = sample().to_raft();
    raft.changes.pop();
    assert_eq!(Logged::of(&raft), None);
    let mut raft = sample().to_raft();
    raft.transition = ConfChangeTransition::Implicit as i32;
    assert_eq!(Logged::of(&raft), None);
    let mut raft = sample().to_raft();
    raft.context.push(0);
    assert_eq!(Logged::of(&raft), None);
}

proptest! {
    #[test]
    fn arbitrary_contexts_are_read_without_panic(
        context in proptest::collection::vec(any::<u8>(), 1..80)
    ) {
        let raft = ConfChangeV2 { context, ..ConfChangeV2::default() };
        prop_assert_eq!(Logged::of(&raft), None);
    }
}
