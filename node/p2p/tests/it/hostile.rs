//! Rows of the list of bad behaviour that no other file tells: each is refused or cut, and has a counter.

use std::time::Duration;

use bytes::Bytes;
use quorate_p2p::RequestError;

use crate::consortium::{Node, config, counter, dropped, member, pair, refused, soon, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_the_same_member_replaces_the_first_and_is_counted() {
    let one = Node::start(config(1, 2));
    let first = Node::start(config(2, 2));
    first.knows(&one);
    wait_until("connected", || one.is_connected_to(2)).await;
    let before = refused("replaced");
    // A copy of member 2, with its key, dials member 1 while the original is connected.
    let mut copy = config(2, 2);
    copy.members[0].addresses = vec![one.address.to_string()];
    let copy = Node::start(copy);
    wait_until("one connection gives way", || refused("replaced") > before).await;
    // However often the two replace each other, there is one member 2.
    assert!(one.handle.connected().len() <= 1);
    copy.stop().await;
    first.stop().await;
    wait_until("both are gone", || !one.is_connected_to(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_says_it_is_another_one_is_refused_and_counted() {
    let one = Node::start(config(1, 2));
    // Its key is that of member 2; by its own table that is member 4.
    let mut other = config(2, 2);
    other.raft_id = 4;
    other.members[1].raft_id = 4;
    let four = Node::start(other);
    let before = refused("raft_id");
    four.knows(&one);
    wait_until("it is refused by name", || refused("raft_id") > before).await;
    assert!(one.handle.connected().is_empty() && four.handle.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_streams_is_answered_busy_or_dropped_and_raft_goes_on() {
    let one = Node::start(config(1, 2));
    let mut flooding = config(2, 2);
    flooding.limits.fetches_per_member = 64;
    let two = Node::start(flooding);
    two.knows(&one);
    one.knows(&two);
    wait_until("connected", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    let mut one = one;
    let lost = || counter("quorate_p2p_dropped_total", &[("lane", "blocks")]);
    let before = lost();
    let handle = two.handle.clone();
    let flood = tokio::spawn(async move {
        let fetches = (0..200).map(|_| handle.fetch_blocks(1, 1, u32::MAX));
        futures::future::join_all(fetches).await
    });
    wait_until("the flood is turned away", || lost() > before).await;
    assert!(two.handle.send_raft(1, Bytes::from_static(b"heartbeat")));
    let message = soon("a Raft message", one.events.raft.recv())
        .await
        .unwrap();
    assert_eq!(message.bytes.as_ref(), b"heartbeat");
    // Those that were taken wait for the application, which does not answer: never more than a member may have.
    let mut held = Vec::new();
    while let Ok(request) = one.events.requests.try_recv() {
        held.push(request);
    }
    assert!(
        held.len() <= 4,
        "{} requests of one member at a time",
        held.len()
    );
    drop(held);
    one.stop().await;
    let answers = soon("the flood ends", flood).await.unwrap();
    let busy = answers
        .iter()
        .filter(|a| **a == Err(RequestError::Busy { raft_id: 1 }));
    assert!(busy.count() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_longer_than_its_channel_allows_breaks_its_stream_and_is_counted() {
    let (one, two) = pair(|config| {
        // Member 2 sends what member 1 does not take.
        let max = if config.raft_id == 1 {
            64 << 10
        } else {
            8 << 20
        };
        config.limits.forward_bytes_max = max;
    })
    .await;
    let labels = [("lane", "forward"), ("reason", "frame_too_large")];
    let broken = || counter("quorate_p2p_streams_broken_total", &labels);
    let before = broken();
    let sent = two
        .handle
        .forward(1, vec![Bytes::from(vec![7; 1 << 20])])
        .await;
    assert!(sent.is_err());
    wait_until("the stream is broken off", || broken() > before).await;
    assert!(one.is_connected_to(2), "only the stream ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_takes_too_long_is_given_up_and_counted() {
    let mut hasty = config(1, 2);
    hasty.timing.handshake_timeout = Duration::from_millis(200);
    let one = Node::start(hasty);
    let before = refused("handshake");
    let silent = std::net::TcpStream::connect(one.address).unwrap();
    wait_until("it is given up", || refused("handshake") > before).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_member_that_is_removed_while_they_are_under_way_are_not_sent_on() {
    let (mut one, two) = pair(|_| {}).await;
    assert!(two.handle.send_raft(1, Bytes::from_static(b"before")));
    soon("a message", one.events.raft.recv()).await.unwrap();
    let before = refused("removed");
    one.handle.set_membership(vec![member(1)], vec![2]).unwrap();
    wait_until("it is cut off", || !two.is_connected_to(1)).await;
    two.knows(&one);
    wait_until("it is refused when it comes back", || {
        refused("removed") > before
    })
    .await;
    assert!(one.events.raft.try_recv().is_err());
    // Asked to send to somebody who is no member, it says so and counts.
    let unknown = dropped("raft", "unknown_member");
    assert!(!one.handle.send_raft(2, Bytes::from_static(b"after")));
    assert!(dropped("raft", "unknown_member") > unknown);
}
