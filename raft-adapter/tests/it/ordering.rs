//! What a group does when members vote, fail, lag, hand over and compact.

use bytes::Bytes;
use raft_adapter::{
    Answer, Config, Core, Fatal, Input, LogIndex, OpenError, ProposeError, ProposeOutcome, RaftId,
    Role, Term, TransferError,
};

use crate::group::{Group, tight};

fn refusal(outcome: ProposeOutcome) -> ProposeError {
    match outcome {
        ProposeOutcome::Refused(refusal) => refusal,
        ProposeOutcome::Appended { .. } => panic!("not refused: {outcome:?}"),
    }
}

pub(crate) fn payload(number: usize) -> Bytes {
    Bytes::from(format!("payload {number:>4} {}", "x".repeat(number % 90)))
}

pub(crate) fn propose_all(group: &mut Group, leader: u64, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let outcome = group.propose(leader, payload(number));
        assert!(
            matches!(outcome, ProposeOutcome::Appended { .. }),
            "{outcome:?}"
        );
        group.settle();
    }
}

#[test]
fn groups_of_any_size_elect_one_leader_and_agree_on_an_order() {
    for size in [1, 2, 3, 5, 7] {
        let mut group = Group::of(size);
        let leader = group.elect();
        propose_all(&mut group, leader, 0..30);
        group.tick();
        group.assert_converged();
        assert_eq!(group.payloads(), (0..30).map(payload).collect::<Vec<_>>());
    }
}

#[test]
fn a_leader_knows_from_which_index_it_may_mint() {
    let mut group = Group::of(3);
    let first = group.elect();
    propose_all(&mut group, first, 0..3);
    let start = group.status(first).term_start.unwrap();
    assert_eq!(
        group.truth[&start.0].1, "",
        "its own first entry carries no payload"
    );
    group.crash(first);
    let second = group.elect();
    let status = group.status(second);
    assert_eq!(status.term_start, Some(LogIndex(5)));
    assert!(status.applied >= LogIndex(5));
    group.start(first).unwrap();
    group.tick();
    assert_eq!(group.status(first).term_start, None);
}

#[test]
fn a_proposal_is_refused_at_a_follower_and_never_passed_on() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let follower = if leader == 1 { 2 } else { 1 };
    let refused = refusal(group.propose(follower, "x"));
    assert_eq!(
        refused,
        ProposeError::NotLeader {
            leader: Some(RaftId(leader))
        }
    );
    assert!(group.net.is_empty());
    group.settle();
    assert_eq!(group.payloads(), Vec::<Bytes>::new());
}

#[test]
fn a_proposal_for_another_term_or_of_a_wrong_size_is_refused() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let current = group.status(leader).term;
    let proposed = Term(current.0 - 1);
    let refused = refusal(group.propose_in(leader, "x", proposed));
    assert_eq!(refused, ProposeError::OtherTerm { proposed, current });
    assert_eq!(
        refusal(group.propose(leader, "")),
        ProposeError::EmptyPayload
    );
    assert_eq!(
        refusal(group.propose(leader, vec![0; 3001])),
        ProposeError::PayloadTooLarge {
            got: 3001,
            max: 3000
        }
    );
}

#[test]
fn a_leader_that_cannot_commit_takes_only_so_much() {
    let mut group = Group::of(3);
    let leader = group.elect();
    group.isolate(leader);
    let mut taken = 0;
    let refused = loop {
        match group.propose(leader, vec![1; 500]) {
            ProposeOutcome::Appended { .. } => taken += 1,
            ProposeOutcome::Refused(refusal) => break refusal,
        }
    };
    assert_eq!(taken, 8);
    assert!(matches!(
        refused,
        ProposeError::Busy {
            max: 4000,
            unit: "uncommitted bytes",
            ..
        }
    ));
    assert!(refused.is_retryable());
}

#[test]
fn an_isolated_leader_steps_down_and_its_uncommitted_entries_are_replaced() {
    let mut group = Group::of(3);
    let old = group.elect();
    propose_all(&mut group, old, 0..3);
    group.isolate(old);
    let lost = group.propose(old, "lost");
    assert!(matches!(lost, ProposeOutcome::Appended { .. }));
    let new = (0..100)
        .find_map(|_| {
            group.tick();
            group.leader().filter(|leader| *leader != old)
        })
        .unwrap();
    propose_all(&mut group, new, 3..6);
    for _ in 0..20 {
        group.tick();
    }
    assert_ne!(
        group.status(old).role,
        Role::Leader,
        "nobody answers it, so it must not lead on"
    );
    group.heal();
    for _ in 0..40 {
        group.tick();
    }
    group.assert_converged();
    assert_eq!(group.payloads(), (0..6).map(payload).collect::<Vec<_>>());
}

#[test]
fn nothing_is_acknowledged_before_it_is_synced() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let followers: Vec<u64> = group.ids().into_iter().filter(|id| *id != leader).collect();
    let before = group.status(leader).committed;
    group.propose(leader, "x");
    group.sync(leader);
    while let Some(packet) = group.net.pop_front() {
        group.deliver(packet).unwrap();
    }
    assert!(
        followers
            .iter()
            .all(|id| group.status(*id).last_index > before)
    );
    for follower in &followers {
        while group.write_one(*follower) {}
    }
    assert!(
        group.net.is_empty(),
        "an acknowledgement left before the sync"
    );
    assert_eq!(group.status(leader).committed, before);
    group.barrier(followers[0]);
    while let Some(packet) = group.net.pop_front() {
        group.deliver(packet).unwrap();
    }
    assert_eq!(group.status(leader).committed, before.next());
}

#[test]
fn a_leader_does_not_count_itself_before_its_own_sync() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let followers: Vec<u64> = group.ids().into_iter().filter(|id| *id != leader).collect();
    let before = group.status(leader).committed;
    group.cut(leader, followers[1]);
    group.propose(leader, "x");
    for _ in 0..3 {
        while let Some(packet) = group.net.pop_front() {
            group.deliver(packet).unwrap();
        }
        group.sync(followers[0]);
    }
    assert_eq!(
        group.status(leader).committed,
        before,
        "two of three, but one only in memory"
    );
    group.sync(leader);
    assert_eq!(group.status(leader).committed, before.next());
}

#[test]
fn a_sole_voter_says_nothing_as_a_leader_before_its_own_vote_is_durable() {
    let learners = vec![RaftId(2)];
    let configs = [1, 2].map(|id| Config {
        learners: learners.clone(),
        ..tight(id, &[1])
    });
    let mut group = Group::with(configs.into());
    while group.status(1).role != Role::Leader {
        group.step(1, Input::Tick);
    }
    let term = group.status(1).term;
    group.propose(1, "lost");
    // Whoever took these entries would meet others of the same term, from the same leader, after its crash.
    assert!(group.net.is_empty(), "{:?}", group.net);
    group.crash(1);
    group.start(1).unwrap();
    assert_eq!(group.elect(), 1);
    assert_eq!(group.status(1).term, term);
    group.propose(1, "kept");
    group.settle();
    group.tick();
    group.assert_converged();
    assert_eq!(group.payloads(), ["kept"]);
}

#[test]
fn a_crash_of_the_whole_group_loses_nothing_that_was_committed() {
    let mut group = Group::of(3);
    let leader = group.elect();
    propose_all(&mut group, leader, 0..20);
    for id in group.ids() {
        group.crash(id);
    }
    for id in group.ids() {
        group.start(id).unwrap();
    }
    let leader = group.elect();
    propose_all(&mut group, leader, 20..25);
    for _ in 0..3 {
        group.tick();
    }
    group.assert_converged();
    assert_eq!(group.payloads(), (0..25).map(payload).collect::<Vec<_>>());
}

#[test]
fn leadership_goes_where_it_is_asked_to() {
    let mut group = Group::of(3);
    let leader = group.elect();
    propose_all(&mut group, leader, 0..3);
    let to = RaftId(if leader == 3 { 1 } else { 3 });
    let ticket = group.ticket();
    group.step(leader, Input::TransferLeadership { to, ticket });
    assert!(group.status(leader).transferring);
    assert_eq!(
        refusal(group.propose(leader, "x")),
        ProposeError::Transferring
    );
    group.settle();
    assert_eq!(group.status(to.0).role, Role::Leader);
    assert_eq!(
        group.member(leader).answers.remove(&ticket.0),
        Some(Answer::Transfer(Ok(())))
    );
}

#[test]
fn a_hand_over_that_cannot_work_is_refused_or_times_out() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let other = if leader == 1 { 2 } else { 1 };
    let ask = |group: &mut Group, at: u64, to: u64| {
        let ticket = group.ticket();
        group.step(
            at,
            Input::TransferLeadership {
                to: RaftId(to),
                ticket,
            },
        );
        (ticket, group.member(at).answers.remove(&ticket.0))
    };
    let is = |answer, error| assert_eq!(answer, Some(Answer::Transfer(Err(error))));
    is(
        ask(&mut group, leader, leader).1,
        TransferError::ToItself { to: RaftId(leader) },
    );
    is(
        ask(&mut group, leader, 9).1,
        TransferError::NotVoter { to: RaftId(9) },
    );
    let known = Some(RaftId(leader));
    is(
        ask(&mut group, other, other).1,
        TransferError::NotLeader { leader: known },
    );
    group.isolate(other);
    let (ticket, answer) = ask(&mut group, leader, other);
    assert_eq!(answer, None);
    is(
        ask(&mut group, leader, other).1,
        TransferError::UnderWay { to: RaftId(other) },
    );
    for _ in 0..11 {
        group.tick();
    }
    let answer = group.member(leader).answers.remove(&ticket.0);
    is(answer, TransferError::TimedOut { to: RaftId(other) });
    assert!(matches!(
        group.propose(leader, "x"),
        ProposeOutcome::Appended { .. }
    ));
}

#[test]
fn a_leader_that_stops_hands_over_to_the_member_that_is_furthest() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let behind = if leader == 1 { 2 } else { 1 };
    let ahead = 6 - leader - behind;
    group.isolate(behind);
    propose_all(&mut group, leader, 0..5);
    group.heal();
    group.step(leader, Input::HandOver);
    group.settle();
    assert_eq!(group.status(ahead).role, Role::Leader);
}

#[test]
fn a_follower_far_behind_is_served_from_disk() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let behind = if leader == 1 { 2 } else { 1 };
    group.isolate(behind);
    propose_all(&mut group, leader, 0..150);
    let reads = group.member(leader).disk.reads();
    group.heal();
    for _ in 0..60 {
        group.tick();
    }
    assert!(
        group.member(leader).disk.reads() > reads,
        "it was all still in memory"
    );
    group.assert_converged();
    assert_eq!(group.member(behind).app.manifests, 0);
}

#[test]
fn a_follower_behind_the_log_receives_a_manifest_and_goes_on_from_there() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let behind = if leader == 1 { 2 } else { 1 };
    propose_all(&mut group, leader, 0..5);
    group.isolate(behind);
    propose_all(&mut group, leader, 5..60);
    group.make_durable(leader);
    group.compact(leader);
    group.settle();
    let up_to = group.status(leader).snapshot;
    assert_eq!(group.status(leader).first_index, LogIndex(up_to.0 - 5 + 1));
    propose_all(&mut group, leader, 60..70);
    group.heal();
    for _ in 0..60 {
        group.tick();
    }
    group.assert_converged();
    assert_eq!(group.member(behind).app.manifests, 1);
    // The same again after a crash that takes the application back to before the manifest.
    group.restart(behind);
    for _ in 0..60 {
        group.tick();
    }
    group.assert_converged();
    assert_eq!(group.member(behind).app.manifests, 2);
}

#[test]
fn a_member_with_an_empty_disk_that_never_took_part_catches_up() {
    for compacted in [false, true] {
        let mut group = Group::of(3);
        group.crash(3);
        group.member(3).disk.wipe();
        let leader = group.elect();
        propose_all(&mut group, leader, 0..40);
        if compacted {
            group.make_durable(leader);
            group.compact(leader);
            group.settle();
        }
        group.start(3).unwrap();
        for _ in 0..60 {
            group.tick();
        }
        group.assert_converged();
        assert_eq!(group.member(3).app.manifests, u64::from(compacted));
    }
}

#[test]
fn a_member_whose_disk_was_lost_is_found_out_by_its_leader() {
    let mut group = Group::of(3);
    let leader = group.elect();
    propose_all(&mut group, leader, 0..5);
    let victim = if leader == 1 { 2 } else { 1 };
    group.crash(victim);
    group.member(victim).disk.wipe();
    group.start(victim).unwrap();
    let fatal = (0..100).find_map(|_| {
        group.step(leader, Input::Tick);
        while let Some(packet) = group.net.pop_front() {
            let to = packet.to;
            if let Err(fatal) = group.deliver(packet) {
                assert_eq!(to, victim);
                return Some(fatal);
            }
        }
        for id in group.ids() {
            group.sync(id);
        }
        None
    });
    let Some(Fatal::LogLost {
        leader: by, last, ..
    }) = fatal
    else {
        panic!("{fatal:?}")
    };
    assert_eq!((by, last), (RaftId(leader), LogIndex(0)));
    // From then on it says nothing but that.
    assert!(group.try_step(victim, Input::Tick).is_err());
}

#[test]
fn a_log_that_ends_before_what_the_application_holds_is_refused() {
    let mut group = Group::of(3);
    let leader = group.elect();
    propose_all(&mut group, leader, 0..5);
    group.make_durable(leader);
    group.crash(leader);
    group.member(leader).disk.wipe();
    let error = group.start(leader).unwrap_err();
    assert!(matches!(
        error,
        OpenError::LogBehindApplication {
            applied: LogIndex(6),
            last: LogIndex(0)
        }
    ));
}

#[test]
fn a_member_delivers_on_from_what_its_application_holds() {
    let mut group = Group::of(3);
    let leader = group.elect();
    propose_all(&mut group, leader, 0..5);
    group.make_durable(leader);
    propose_all(&mut group, leader, 5..9);
    let durable = group.member(leader).app.durable;
    group.restart(leader);
    assert_eq!(group.member(leader).app.applied, durable);
    group.elect();
    group.tick();
    group.assert_converged();
}

#[test]
fn what_the_application_has_no_room_for_is_held_back_in_the_log() {
    let mut group = Group::of(1);
    group.elect();
    for number in 0..20 {
        group.propose(1, payload(number));
        group.sync(1);
    }
    let waiting = group.member(1).inbox.len();
    assert!((1..=4).contains(&waiting), "{waiting} of 20 delivered");
    assert!(group.status(1).committed > group.status(1).applied);
    group.settle();
    group.assert_converged();
    assert_eq!(group.payloads().len(), 20);
}

#[test]
fn one_payload_larger_than_the_whole_window_is_delivered_all_the_same() {
    let mut group = Group::of(3);
    let leader = group.elect();
    for fill in 0..4_u8 {
        group.propose(leader, vec![fill; 900]);
    }
    group.settle();
    group.tick();
    group.assert_converged();
    assert_eq!(group.payloads().len(), 4);
}

#[test]
fn reporting_what_was_never_delivered_is_an_impossible_state() {
    let mut group = Group::of(1);
    group.elect();
    let last = group.status(1).last_index;
    let fatal = group
        .try_step(1, Input::Applied { index: last.next() })
        .unwrap_err();
    assert!(matches!(fatal, Fatal::Impossible { .. }));
}

#[test]
fn a_damaged_entry_that_is_needed_again_ends_the_core() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let behind = if leader == 1 { 2 } else { 1 };
    group.isolate(behind);
    propose_all(&mut group, leader, 0..60);
    for bit in (0..4096 * 8).step_by(512) {
        group
            .member(leader)
            .disk
            .flip_bit(raft_adapter::SegmentNumber(1), bit);
    }
    group.heal();
    let fatal = (0..60).find_map(|_| {
        for id in group.ids() {
            if let Err(fatal) = group.try_step(id, Input::Tick) {
                return Some((id, fatal));
            }
            group.sync(id);
        }
        while let Some(packet) = group.net.pop_front() {
            let to = packet.to;
            if let Err(fatal) = group.deliver(packet) {
                return Some((to, fatal));
            }
        }
        None
    });
    let (id, fatal) = fatal.unwrap();
    assert_eq!(id, leader);
    assert!(matches!(fatal, Fatal::Damaged(_)), "{fatal}");
}

#[test]
fn a_member_that_is_still_writing_a_manifest_does_not_stand_for_election() {
    let mut group = Group::of(3);
    let leader = group.elect();
    let behind = if leader == 1 { 2 } else { 1 };
    group.isolate(behind);
    propose_all(&mut group, leader, 0..40);
    group.make_durable(leader);
    group.compact(leader);
    group.settle();
    group.heal();
    let before = group.status(behind).snapshot;
    let mut rounds = 0;
    while group.status(behind).snapshot == before {
        rounds += 1;
        assert!(rounds < 100, "no manifest arrives");
        group.step(leader, Input::Tick);
        while let Some(packet) = group.net.pop_front() {
            group.deliver(packet).unwrap();
        }
        // Its disk is quick until the manifest comes.
        if group.status(behind).snapshot == before {
            group.sync(behind);
        }
    }
    for _ in 0..50 {
        group.step(behind, Input::Tick);
    }
    assert_eq!(group.status(behind).role, Role::Follower);
    assert_eq!(group.member(behind).app.manifests, 0);
    for _ in 0..20 {
        group.tick();
    }
    group.assert_converged();
}

#[test]
fn equal_seeds_and_inputs_give_equal_runs() {
    let run = || {
        let mut group = Group::of(5);
        let leader = group.elect();
        propose_all(&mut group, leader, 0..5);
        group.crash(leader);
        let next = group.elect();
        let statuses: Vec<_> = group
            .members
            .values()
            .filter_map(|member| member.core.as_ref().map(Core::status))
            .collect();
        (leader, next, statuses)
    };
    assert_eq!(run(), run());
}
