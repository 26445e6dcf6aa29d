//! What a group does when its members change.

use raft_adapter::{
    Answer, ChangeError, Config, Input, MemberRole, MemberStep, RaftId, Role, Ticket, TransferError,
};

use crate::group::{Group, tight};
use crate::ordering::propose_all;

fn set_role(id: u64, role: MemberRole) -> MemberStep {
    MemberStep::SetRole {
        id: RaftId(id),
        role,
    }
}

fn change(group: &mut Group, at: u64, steps: Vec<MemberStep>) -> Ticket {
    let change = group.forced(steps);
    group.ask(at, change)
}

fn ids(members: &[RaftId]) -> Vec<u64> {
    members.iter().map(|member| member.0).collect()
}

#[test]
fn members_join_as_learners_become_voters_and_replace_others_through_a_joint_state() {
    let mut group = Group::of(3);
    group.elect_member(1);
    propose_all(&mut group, 1, 0..30);
    group.make_durable(1);
    group.compact(1);
    group.settle();
    group.add(tight(4, &[1, 2, 3]));
    assert_eq!(group.status(4).role, Role::Learner);
    let learner = MemberStep::Add {
        role: MemberRole::Learner,
        details: "four".into(),
    };
    change(&mut group, 1, vec![learner]);
    for _ in 0..20 {
        group.tick();
    }
    assert_eq!(ids(&group.status(1).learners), [4]);
    assert_eq!(
        group.member(4).app.manifests,
        1,
        "the manifest is older than its membership, and it gets it with the newer membership"
    );
    group.make_durable(1);
    group.compact(1);
    group.settle();
    let replaced = change(
        &mut group,
        1,
        vec![
            set_role(4, MemberRole::Voter),
            MemberStep::Remove { id: RaftId(2) },
        ],
    );
    group.settle();
    for _ in 0..3 {
        group.tick();
    }
    let done = group.answered(1, replaced).unwrap().unwrap();
    assert!(!done.table.is_joint());
    assert!(group.status(2).removed, "it was told");
    for id in [1, 3, 4] {
        let status = group.status(id);
        assert_eq!(ids(&status.voters), [1, 3, 4], "at {id}");
        assert!(
            status.voters_outgoing.is_empty() && status.learners.is_empty(),
            "at {id}"
        );
    }
    // A restart finds the same membership in the log, not the first one from the configuration.
    group.crash(2);
    for id in [1, 3, 4] {
        group.restart(id);
        assert_eq!(
            ids(&group.status(id).voters),
            [1, 3, 4],
            "at {id} after its restart"
        );
    }
    let leader = group.elect();
    propose_all(&mut group, leader, 30..35);
    group.tick();
    assert_eq!(group.payloads().len(), 35);
    assert_eq!(group.member(4).app.entries.len(), group.truth.len());
}

#[test]
fn a_second_change_while_one_is_under_way_is_refused_and_not_swallowed() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let demoted = if leader == 1 { 2 } else { 1 };
    let first = change(
        &mut group,
        leader,
        vec![set_role(demoted, MemberRole::Learner)],
    );
    assert_eq!(group.answered(leader, first), None);
    let second = change(
        &mut group,
        leader,
        vec![set_role(demoted, MemberRole::Voter)],
    );
    assert!(matches!(
        group.answered(leader, second),
        Some(Err(ChangeError::Pending { id: Some(_) }))
    ));
    group.settle();
    assert!(matches!(group.answered(leader, first), Some(Ok(_))));
    let third = change(
        &mut group,
        leader,
        vec![set_role(demoted, MemberRole::Voter)],
    );
    group.settle();
    group.tick();
    assert!(matches!(group.answered(leader, third), Some(Ok(_))));
    assert_eq!(ids(&group.status(leader).voters), [1, 2, 3]);
}

#[test]
fn a_joint_state_left_behind_by_a_leader_is_left_by_its_successor() {
    let mut group = Group::of(5);
    group.elect_member(1);
    change(
        &mut group,
        1,
        vec![
            set_role(4, MemberRole::Learner),
            set_role(5, MemberRole::Learner),
        ],
    );
    // It gets as far as everyone being in the joint state, and then the leader is gone before it could leave it.
    let joint = |group: &Group, id| !group.status(id).voters_outgoing.is_empty();
    let mut rounds = 0;
    while ![1, 2, 3].iter().all(|id| joint(&group, *id)) {
        rounds += 1;
        assert!(rounds < 100);
        for id in group.ids() {
            group.sync(id);
        }
        for _ in 0..group.net.len() {
            let packet = group.net.pop_front().unwrap();
            // The entry that would leave the joint state reaches nobody.
            let leaves = packet.from == 1 && joint(&group, 1) && packet.message.len() > 40;
            if !leaves {
                group.deliver(packet).unwrap();
            }
        }
        if joint(&group, 1) {
            group.step(1, Input::Tick);
        }
    }
    group.crash(1);
    let leader = group.elect();
    assert_ne!(leader, 1);
    for _ in 0..20 {
        group.tick();
    }
    let status = group.status(leader);
    assert!(status.voters_outgoing.is_empty(), "still joint: {status:?}");
    assert_eq!(ids(&status.voters), [1, 2, 3]);
    assert_eq!(ids(&status.learners), [4, 5]);
}

#[test]
fn nothing_from_a_membership_change_on_is_delivered_before_the_change_is_on_disk() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let demoted = if leader == 1 { 2 } else { 1 };
    change(
        &mut group,
        leader,
        vec![set_role(demoted, MemberRole::Learner)],
    );
    let changed = group.status(leader).last_index;
    // Everything goes on but the leader's writes after the one with the change itself.
    group.sync(leader);
    for _ in 0..3 {
        while let Some(packet) = group.net.pop_front() {
            group.deliver(packet).unwrap();
        }
        for id in group.ids() {
            if id != leader {
                group.sync(id);
            }
        }
    }
    while group.apply_one(leader) {}
    assert_eq!(
        ids(&group.status(leader).learners),
        [demoted],
        "it is in force"
    );
    assert!(group.status(leader).committed >= changed);
    assert_eq!(group.member(leader).app.applied, changed.0 - 1);
    group.sync(leader);
    while group.apply_one(leader) {}
    assert_eq!(group.member(leader).app.applied, changed.0);
}

#[test]
fn a_learner_follows_and_never_leads() {
    let learner = Config {
        learners: vec![RaftId(4)],
        ..tight(4, &[1, 2, 3])
    };
    let mut configs: Vec<Config> = (1..=3)
        .map(|id| Config {
            learners: vec![RaftId(4)],
            ..tight(id, &[1, 2, 3])
        })
        .collect();
    configs.push(learner);
    let mut group = Group::with(configs);
    let leader = group.elect();
    propose_all(&mut group, leader, 0..10);
    for _ in 0..3 {
        group.tick();
    }
    group.assert_converged();
    assert_eq!(group.status(4).role, Role::Learner);
    group.isolate(4);
    for _ in 0..50 {
        group.tick();
    }
    assert_eq!(group.status(4).role, Role::Learner);
    let ticket = group.ticket();
    group.step(
        leader,
        Input::TransferLeadership {
            to: RaftId(4),
            ticket,
        },
    );
    assert_eq!(
        group.member(leader).answers.remove(&ticket.0),
        Some(Answer::Transfer(Err(TransferError::NotVoter {
            to: RaftId(4)
        })))
    );
}
