//! Messages that no honest member sends, or that come too late.

use bytes::Bytes;
use prost011::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};
use raft_adapter::{DropReason, Input, RaftId};

use crate::group::{Group, Packet};

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    Message {
        msg_type: kind as i32,
        from,
        to,
        term,
        ..Message::default()
    }
}

/// Sends `bytes` to member 1 over the connection of member `from` and answers what was dropped.
fn dropped(group: &mut Group, from: u64, bytes: Vec<u8>) -> Vec<(DropReason, u64)> {
    let before = group.member(1).core.as_ref().unwrap().dropped().clone();
    group.step(
        1,
        Input::Received {
            from: RaftId(from),
            message: bytes.into(),
        },
    );
    let core = group.member(1).core.as_ref().unwrap();
    let difference = core.dropped().iter().map(|(reason, count)| {
        (
            *reason,
            count - before.get(reason).copied().unwrap_or_default(),
        )
    });
    difference.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn each_kind_of_wrong_message_is_dropped_and_counted() {
    let mut group = Group::of(3);
    group.elect_member(2);
    let term = group.status(1).term.0;
    let heartbeat = message(MessageType::MsgHeartbeat, 2, 1, term);
    let append = |entries| Message {
        entries,
        ..message(MessageType::MsgAppend, 2, 1, term)
    };
    let entry = |index, term| Entry {
        index,
        term,
        ..Entry::default()
    };
    let cases: Vec<(u64, Vec<u8>, Option<DropReason>)> = vec![
        (2, heartbeat.encode_to_vec(), None),
        (2, vec![0xff; 40], Some(DropReason::Malformed)),
        (3, heartbeat.encode_to_vec(), Some(DropReason::WrongSender)),
        (
            1,
            Message {
                from: 1,
                ..heartbeat.clone()
            }
            .encode_to_vec(),
            Some(DropReason::WrongSender),
        ),
        (
            2,
            Message {
                to: 3,
                ..heartbeat.clone()
            }
            .encode_to_vec(),
            Some(DropReason::WrongReceiver),
        ),
        (
            2,
            Message {
                msg_type: 99,
                ..heartbeat.clone()
            }
            .encode_to_vec(),
            Some(DropReason::UnexpectedKind),
        ),
        (
            2,
            message(MessageType::MsgHup, 2, 1, term).encode_to_vec(),
            Some(DropReason::UnexpectedKind),
        ),
        (
            2,
            message(MessageType::MsgPropose, 2, 1, term).encode_to_vec(),
            Some(DropReason::UnexpectedKind),
        ),
        (
            2,
            message(MessageType::MsgReadIndex, 2, 1, term).encode_to_vec(),
            Some(DropReason::UnexpectedKind),
        ),
        (
            2,
            message(MessageType::MsgTransferLeader, 2, 1, term).encode_to_vec(),
            Some(DropReason::UnexpectedKind),
        ),
        (
            2,
            message(MessageType::MsgRequestVote, 2, 1, 0).encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            Message {
                term: u64::MAX,
                ..heartbeat.clone()
            }
            .encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            append(vec![entry(5, term)]).encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            append(vec![entry(1, term + 1)]).encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        // Only before the first entry there is none, and no term of it.
        (
            2,
            Message {
                index: 2,
                commit: 2,
                ..append(vec![entry(3, term)])
            }
            .encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            Message {
                log_term: 1,
                ..append(vec![entry(1, term)])
            }
            .encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            append(vec![Entry {
                entry_type: 7,
                ..entry(1, 1)
            }])
            .encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            append(vec![Entry {
                entry_type: 2,
                data: vec![0xff; 9],
                ..entry(1, 1)
            }])
            .encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            2,
            message(MessageType::MsgSnapshot, 2, 1, term).encode_to_vec(),
            Some(DropReason::Implausible),
        ),
        (
            9,
            message(MessageType::MsgHeartbeatResponse, 9, 1, term).encode_to_vec(),
            Some(DropReason::NotMember),
        ),
    ];
    for (position, (from, bytes, reason)) in cases.into_iter().enumerate() {
        let expected: Vec<_> = reason.into_iter().map(|reason| (reason, 1)).collect();
        assert_eq!(
            dropped(&mut group, from, bytes),
            expected,
            "case {position}"
        );
    }
    group.settle();
    group.tick();
    group.assert_converged();
}

#[test]
fn an_acknowledgement_of_what_the_leader_never_had_is_dropped() {
    let mut group = Group::of(3);
    group.elect_member(1);
    let status = group.status(1);
    let forged = Message {
        index: status.last_index.0 + 5,
        ..message(MessageType::MsgAppendResponse, 2, 1, status.term.0)
    };
    assert_eq!(
        dropped(&mut group, 2, forged.encode_to_vec()),
        [(DropReason::Implausible, 1)]
    );
}

#[test]
fn a_late_rejection_does_not_take_a_leader_back_behind_what_was_acknowledged() {
    let mut group = Group::of(3);
    group.elect_member(1);
    for number in 0..5 {
        group.propose(1, format!("{number}"));
        group.settle();
    }
    let status = group.status(1);
    // Back to probing, with everything acknowledged.
    group.step(1, Input::Unreachable { peer: RaftId(2) });
    let last = status.last_index.0;
    for (index, reject_hint) in [(last, 0), (last, last - 3)] {
        let late = Message {
            index,
            reject: true,
            reject_hint,
            log_term: status.term.0,
            ..message(MessageType::MsgAppendResponse, 2, 1, status.term.0)
        };
        group.step(
            1,
            Input::Received {
                from: RaftId(2),
                message: late.encode_to_vec().into(),
            },
        );
    }
    group.propose(1, "next");
    let sent = group.net.iter().find(|packet| packet.to == 2).unwrap();
    let append = Message::decode(sent.message.as_ref()).unwrap();
    assert_eq!(append.index, last, "it sends again what was acknowledged");
    group.settle();
    group.tick();
    group.assert_converged();
}

#[test]
fn arbitrary_changes_to_real_messages_never_panic() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..30 {
        let mut group = Group::of(3);
        group.elect();
        let leader = group.leader().unwrap();
        group.propose(leader, "payload");
        for id in group.ids() {
            group.step(id, Input::Tick);
        }
        let packets: Vec<Packet> = group.net.iter().cloned().collect();
        for packet in packets {
            let mut bytes = packet.message.to_vec();
            if bytes.is_empty() {
                continue;
            }
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            let changed = Packet {
                message: Bytes::from(bytes),
                ..packet
            };
            // A changed number may claim that the log was lost or that a committed entry differs, which ends the core.
            // It must do so with a typed fault.
            if let Err(fatal) = group.deliver(changed) {
                assert!(!fatal.to_string().is_empty());
                break;
            }
        }
    }
}
