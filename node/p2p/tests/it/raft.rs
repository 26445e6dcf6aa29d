//! Raft messages.

use bytes::Bytes;
use quorate_p2p::{NetworkHandle, PeerEvent, RaftMessage};
use tokio::sync::mpsc;

use crate::consortium::{Node, consortium, counter, dropped, pair, soon, wait_until};

/// Sends `count` numbered messages, waiting while the outbox is full.
async fn send_numbered(handle: NetworkHandle, to: u64, count: u32, size: usize) {
    for number in 0..count {
        let mut message = vec![0; size];
        message[..4].copy_from_slice(&number.to_be_bytes());
        let message = Bytes::from(message);
        while !handle.send_raft(to, message.clone()) {
            tokio::task::yield_now().await;
        }
    }
}

async fn receive_numbered(
    lane: &mut mpsc::Receiver<RaftMessage>,
    from: u64,
    count: u32,
    size: usize,
) {
    for number in 0..count {
        let message = soon("a Raft message", lane.recv()).await.unwrap();
        assert_eq!(message.from, from);
        assert_eq!(message.bytes.len(), size);
        assert_eq!(message.bytes[..4], number.to_be_bytes(), "out of order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_members_connect_into_a_full_mesh_and_know_each_other_by_raft_id() {
    let mut nodes = consortium(4, |_| {}).await;
    for node in &nodes {
        wait_until("round trips and agent versions are known", || {
            node.handle
                .peers()
                .iter()
                .all(|p| p.rtt.is_some() && p.agent_version.is_some())
        })
        .await;
        for peer in node.handle.peers() {
            let other = nodes.iter().find(|n| n.raft_id == peer.raft_id).unwrap();
            assert_eq!(peer.peer_id, other.handle.local_peer_id());
            assert!(peer.connected && peer.connected_since.is_some());
            assert!(peer.agent_version.as_ref().unwrap().starts_with("quorate/"));
            assert!(
                peer.address.starts_with("/ip4/127.0.0.1/tcp/"),
                "{}",
                peer.address
            );
            assert_eq!(peer.organisation, format!("organisation {}", peer.raft_id));
        }
        assert_eq!(node.handle.peers().len(), 3);
    }
    let mut connected = Vec::new();
    while connected.len() < 3 {
        match soon("a peer event", nodes[0].events.peers.recv())
            .await
            .unwrap()
        {
            PeerEvent::Connected { raft_id } => connected.push(raft_id),
            PeerEvent::Disconnected { raft_id } => panic!("{raft_id} disconnected"),
            PeerEvent::LogSeen { raft_id, .. } => panic!("{raft_id} has no log"),
            PeerEvent::AddressLearned { .. } => {}
        }
    }
    connected.sort_unstable();
    assert_eq!(connected, [2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_arrive_in_order_both_ways() {
    let (mut one, mut two) = pair(|_| {}).await;
    let there = tokio::spawn(send_numbered(one.handle.clone(), 2, 10_000, 1_024));
    let back = tokio::spawn(send_numbered(two.handle.clone(), 1, 10_000, 1_024));
    tokio::join!(
        receive_numbered(&mut two.events.raft, 1, 10_000, 1_024),
        receive_numbered(&mut one.events.raft, 2, 10_000, 1_024),
    );
    there.await.unwrap();
    back.await.unwrap();
    assert!(
        counter(
            "quorate_p2p_messages_total",
            &[("lane", "raft"), ("direction", "in")]
        ) >= 20_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_eight_mebibytes_arrives_whole() {
    let (one, mut two) = pair(|_| {}).await;
    let large: Bytes = (0..8 << 20)
        .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    assert!(one.handle.send_raft(2, large.clone()));
    assert!(one.handle.send_raft(2, Bytes::from_static(b"after")));
    let message = soon("the large message", two.events.raft.recv())
        .await
        .unwrap();
    assert!(message.bytes == large);
    let message = soon("the next message", two.events.raft.recv())
        .await
        .unwrap();
    assert_eq!(message.bytes, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_read_fills_the_outbox_and_loses_nothing_that_was_taken() {
    let (one, mut two) = pair(|config| {
        config.limits.raft_lane_messages = 4;
        config.limits.raft_outbox_messages = 64;
    })
    .await;
    let before = dropped("raft", "outbox_full");
    let mut taken = 0_u32;
    // Far more than streams and sockets can hold between the two.
    let mut message = vec![0; 256 << 10];
    for _ in 0..100_000 {
        message[..4].copy_from_slice(&taken.to_be_bytes());
        if !one.handle.send_raft(2, Bytes::copy_from_slice(&message)) {
            break;
        }
        taken += 1;
        tokio::task::yield_now().await;
    }
    wait_until("the outbox is full", || {
        !one.handle.send_raft(2, Bytes::from_static(b"probe")) || {
            taken += 1;
            false
        }
    })
    .await;
    assert!(dropped("raft", "outbox_full") > before);
    for number in 0..taken {
        let message = soon("a message that was taken", two.events.raft.recv())
            .await
            .unwrap();
        if message.bytes != "probe" {
            assert_eq!(message.bytes[..4], number.to_be_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_closes_the_stream_and_the_next_message_still_arrives() {
    let one = Node::start(crate::consortium::config(1, 2));
    let mut small = crate::consortium::config(2, 2);
    small.limits.frame_bytes_max = 128 << 10;
    small.limits.forward_bytes_max = 128 << 10;
    small.limits.fetch_bytes_max = 128 << 10;
    let mut two = Node::start(small);
    one.knows(&two);
    two.knows(&one);
    wait_until("connected", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    let broken = || {
        counter(
            "quorate_p2p_streams_broken_total",
            &[("lane", "raft"), ("reason", "frame_too_large")],
        )
    };
    let before = broken();
    assert!(one.handle.send_raft(2, vec![1; (128 << 10) + 1].into()));
    wait_until("the frame is refused", || broken() > before).await;
    // Whoever sends too much is told so before it leaves.
    assert!(!two.handle.send_raft(1, vec![1; (128 << 10) + 1].into()));
    let received = async {
        loop {
            one.handle.send_raft(2, Bytes::from_static(b"small"));
            let wait = std::time::Duration::from_millis(20);
            if let Ok(message) = tokio::time::timeout(wait, two.events.raft.recv()).await {
                return message.unwrap();
            }
        }
    };
    assert_eq!(soon("a small message", received).await.bytes, "small");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_to_nobody_are_refused() {
    let one = Node::start(crate::consortium::config(1, 2));
    let before = dropped("raft", "not_connected");
    assert!(
        !one.handle.send_raft(2, Bytes::from_static(b"x")),
        "not connected"
    );
    assert!(!one.handle.send_raft(1, Bytes::from_static(b"x")), "itself");
    assert!(
        !one.handle.send_raft(9, Bytes::from_static(b"x")),
        "unknown"
    );
    assert!(dropped("raft", "not_connected") > before);
}
