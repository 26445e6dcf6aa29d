//! Private payloads between members: their own protocol, lane, turns and room.

use std::time::Duration;

use bytes::Bytes;
use quorate_p2p::{Config, PrivacyRequest, QueryKind, Request, RequestError, Verdict};
use tokio::task::JoinHandle;

use crate::consortium::{Node, config, counter, dropped, member, pair, soon, wait_until};

/// Longer than any machine needs.
const LONG: Duration = Duration::from_secs(60);

const MIB: usize = 1 << 20;

type Asking = JoinHandle<Result<Bytes, RequestError>>;

/// `node` asks member `to` with a body of so many bytes.
fn ask(node: &Node, to: u64, size: usize) -> Asking {
    let handle = node.handle.clone();
    let body = Bytes::from(vec![5; size]);
    tokio::spawn(async move { handle.ask_privacy(to, body, LONG).await })
}

async fn next(node: &mut Node) -> PrivacyRequest {
    soon("a privacy request", node.events.privacy.recv())
        .await
        .unwrap()
}

async fn outcome(asking: Asking) -> Result<Bytes, RequestError> {
    soon("the answer", asking).await.unwrap()
}

/// Two connected members of which the second has other settings.
async fn unequal(first: impl Fn(&mut Config), second: impl Fn(&mut Config)) -> (Node, Node) {
    let (mut ours, mut theirs) = (config(1, 2), config(2, 2));
    first(&mut ours);
    second(&mut theirs);
    let (one, two) = (Node::start(ours), Node::start(theirs));
    one.knows(&two);
    two.knows(&one);
    wait_until("connected", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    (one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_request_and_the_largest_answer_pass() {
    let (one, mut two) = pair(|_| {}).await;
    for size in [0, 18 * MIB] {
        let asking = ask(&one, 2, size);
        let request = next(&mut two).await;
        assert_eq!((request.from, request.body.len()), (1, size));
        assert!(request.body.iter().all(|byte| *byte == 5));
        let answer = Bytes::from(vec![6; size]);
        request.reply.send(answer.clone()).unwrap();
        assert!(outcome(asking).await == Ok(answer));
    }
    // Both ways at once.
    let asking = ask(&two, 1, 3);
    let mut one = one;
    assert_eq!(next(&mut one).await.from, 2);
    assert_eq!(
        outcome(asking).await,
        Err(RequestError::Declined { raft_id: 1 }),
        "dropped without an answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_or_answered_is_named() {
    let (one, mut two) = unequal(
        |ours| ours.limits.privacy_bytes_max = 2 * MIB,
        |theirs| theirs.limits.privacy_bytes_max = MIB,
    )
    .await;
    assert_eq!(
        outcome(ask(&one, 2, 2 * MIB + 1)).await,
        Err(RequestError::TooLarge {
            got: 2 * MIB + 1,
            max: 2 * MIB
        })
    );
    assert_eq!(
        outcome(ask(&one, 9, 1)).await,
        Err(RequestError::UnknownMember { raft_id: 9 })
    );
    // The other side allows less, and does not read it.
    let broken = |reason: &str| {
        counter(
            "quorate_p2p_streams_broken_total",
            &[("lane", "privacy"), ("reason", reason)],
        )
    };
    let before = broken("frame_too_large");
    let error = outcome(ask(&one, 2, MIB + 1)).await.unwrap_err();
    assert!(matches!(error, RequestError::Broken { .. }), "{error}");
    wait_until("it is counted", || broken("frame_too_large") == before + 1).await;
    assert!(two.events.privacy.try_recv().is_err());

    let before = dropped("privacy", "answer_too_large");
    let asking = ask(&one, 2, MIB);
    let request = next(&mut two).await;
    request.reply.send(vec![0; MIB + 1].into()).unwrap();
    assert_eq!(
        outcome(asking).await,
        Err(RequestError::Declined { raft_id: 2 })
    );
    assert_eq!(dropped("privacy", "answer_too_large"), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_the_caller_gives_covers_all_of_it() {
    let (one, mut two) = pair(|config| config.limits.privacies_per_member = 1).await;
    let short = Duration::from_millis(300);
    let handle = one.handle.clone();
    let first = tokio::spawn(async move { handle.ask_privacy(2, Bytes::new(), short).await });
    let kept = next(&mut two).await;
    // The second has no turn as long as the first is under way.
    let handle = one.handle.clone();
    let second = tokio::spawn(async move { handle.ask_privacy(2, Bytes::new(), short).await });
    let late = Err(RequestError::Timeout {
        raft_id: 2,
        limit: short,
    });
    assert_eq!(outcome(first).await, late);
    assert!(outcome(second).await.is_err());
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_a_member_allows_are_told_busy_however_large_they_are() {
    let (one, mut two) = unequal(|_| {}, |theirs| theirs.limits.privacies_per_member = 1).await;
    let first = ask(&one, 2, 1);
    let held = next(&mut two).await;
    let before = dropped("privacy", "busy");
    // The larger one is more than a stream takes unread: its refusal arrives while it is being written.
    for size in [1, 4 * MIB] {
        assert_eq!(
            outcome(ask(&one, 2, size)).await,
            Err(RequestError::Busy { raft_id: 2 })
        );
    }
    assert_eq!(dropped("privacy", "busy"), before + 2);
    held.reply.send(Bytes::from_static(b"done")).unwrap();
    assert_eq!(outcome(first).await, Ok(Bytes::from_static(b"done")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_serve_private_payloads_says_so() {
    let (mut one, two) = unequal(|_| {}, |theirs| theirs.privacy = false).await;
    // It is as an older version is: it does not know the protocol.
    for size in [1, 4 * MIB] {
        assert_eq!(
            outcome(ask(&one, 2, size)).await,
            Err(RequestError::Unsupported {
                raft_id: 2,
                protocol: "/quorate/privacy/1"
            })
        );
    }
    // Nothing else suffers, and the other direction works.
    let asking = ask(&two, 1, 1);
    next(&mut one).await.reply.send(Bytes::new()).unwrap();
    assert_eq!(outcome(asking).await, Ok(Bytes::new()));
    assert!(one.is_connected_to(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_can_neither_ask_nor_be_asked() {
    let (mut one, mut two) = pair(|_| {}).await;
    let waiting = ask(&two, 1, 1);
    let held = next(&mut one).await;
    one.handle.set_membership(vec![member(1)], vec![2]).unwrap();
    assert!(
        outcome(waiting).await.is_err(),
        "it ends with its connection"
    );
    drop(held);
    let verdict = soon("a verdict", two.events.verdicts.recv()).await;
    assert_eq!(verdict, Some(Verdict::Removed { by: 1 }));
    assert_eq!(
        outcome(ask(&one, 2, 1)).await,
        Err(RequestError::UnknownMember { raft_id: 2 })
    );
    wait_until("it is cut off", || !two.is_connected_to(1)).await;
    assert_eq!(
        outcome(ask(&two, 1, 1)).await,
        Err(RequestError::NotConnected { raft_id: 1 })
    );
    assert!(one.events.privacy.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_one_takes_waits_unread_and_holds_up_nothing_else() {
    let (mut one, mut two) = pair(|config| {
        config.limits.privacy_bytes_max = MIB;
        config.limits.privacy_bytes_per_member = MIB;
        config.limits.privacy_lane_bytes = MIB;
    })
    .await;
    // The first takes all room; the others wait where they are.
    let asking: Vec<Asking> = (0..3).map(|_| ask(&one, 2, MIB)).collect();
    wait_until("the first is there", || two.events.privacy.len() == 1).await;
    assert!(one.handle.send_raft(2, Bytes::from_static(b"heartbeat")));
    let message = soon("a heartbeat", two.events.raft.recv()).await.unwrap();
    assert_eq!(message.bytes, "heartbeat");
    let handle = one.handle.clone();
    let membership = tokio::spawn(async move {
        handle
            .query(2, QueryKind::Membership, Bytes::from_static(b"q"))
            .await
    });
    let Some(Request::Query { reply, .. }) = soon("a query", two.events.control.recv()).await
    else {
        panic!("only a query was sent");
    };
    reply.send(Bytes::from_static(b"a")).unwrap();
    assert_eq!(outcome(membership).await, Ok(Bytes::from_static(b"a")));
    let handle = one.handle.clone();
    let fetching = tokio::spawn(async move { handle.fetch_blocks(2, 1, 1).await });
    let Some(Request::Blocks { reply, .. }) = soon("a fetch", two.events.requests.recv()).await
    else {
        panic!("only a fetch was sent");
    };
    reply.send(Vec::new()).unwrap();
    assert_eq!(soon("the blocks", fetching).await.unwrap(), Ok(Vec::new()));
    assert_eq!(two.events.privacy.len(), 1, "room for one alone");
    // Each that is answered makes room for the next.
    for _ in 0..3 {
        next(&mut two).await.reply.send(Bytes::new()).unwrap();
    }
    for asked in asking {
        assert_eq!(outcome(asked).await, Ok(Bytes::new()));
    }
    assert!(one.events.privacy.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_no_room_in_time_is_told_busy() {
    let (one, mut two) = unequal(
        |ours| ours.limits.privacy_bytes_max = MIB,
        |theirs| {
            theirs.limits.privacy_bytes_max = MIB;
            theirs.limits.privacy_bytes_per_member = MIB;
            theirs.timing.query_timeout = Duration::from_millis(300);
        },
    )
    .await;
    let before = dropped("privacy", "no_room");
    let first = ask(&one, 2, MIB);
    // Taken by the application, and kept: its room stays taken.
    let held = next(&mut two).await;
    assert_eq!(
        outcome(ask(&one, 2, MIB)).await,
        Err(RequestError::Busy { raft_id: 2 })
    );
    assert_eq!(dropped("privacy", "no_room"), before + 1);
    assert_eq!(
        outcome(first).await,
        Err(RequestError::Busy { raft_id: 2 }),
        "the application took too long"
    );
    drop(held);
    let third = ask(&one, 2, MIB);
    next(&mut two).await.reply.send(Bytes::new()).unwrap();
    assert_eq!(outcome(third).await, Ok(Bytes::new()));
}
