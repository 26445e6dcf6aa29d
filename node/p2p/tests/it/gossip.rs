//! Gossiped transactions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::consortium::{Node, config, consortium, dropped, soon, wait_until};

const WARM: &[u8] = b"warm";

/// Gossips until `receivers` hear it: subscriptions travel after the connection is up.
async fn warm_up(sender: &Node, receivers: &mut [&mut Node]) {
    for receiver in receivers {
        let hearing = async {
            loop {
                sender.handle.gossip(vec![Bytes::from_static(WARM)]);
                let wait = Duration::from_millis(20);
                let lane = &mut receiver.events.transactions;
                if let Ok(batch) = tokio::time::timeout(wait, lane.recv()).await {
                    return batch.unwrap();
                }
            }
        };
        soon("the first gossip", hearing).await;
    }
}

/// Receives until `count` transactions of the test have come; says how often each came, and from whom.
async fn receive(node: &mut Node, count: usize) -> (BTreeMap<Bytes, usize>, BTreeSet<u64>) {
    let (mut seen, mut from) = (BTreeMap::new(), BTreeSet::new());
    while seen.len() < count {
        let batch = soon("gossip", node.events.transactions.recv())
            .await
            .unwrap();
        assert!(batch.direct.is_none());
        for transaction in batch.transactions.iter().filter(|t| *t != WARM) {
            from.insert(batch.from);
            *seen.entry(transaction.clone()).or_default() += 1;
        }
    }
    (seen, from)
}

fn transactions(count: u32, size: usize) -> Vec<Bytes> {
    (0..count)
        .map(|number| {
            let mut transaction = vec![0; size];
            transaction[..4].copy_from_slice(&number.to_be_bytes());
            transaction.into()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_reaches_every_member_once() {
    let mut nodes = consortium(4, |_| {}).await;
    let (first, others) = nodes.split_at_mut(1);
    warm_up(&first[0], &mut others.iter_mut().collect::<Vec<_>>()).await;
    for chunk in transactions(2_000, 200).chunks(7) {
        first[0].handle.gossip(chunk.to_vec());
    }
    for node in others {
        let (seen, from) = receive(node, 2_000).await;
        assert!(
            seen.values().all(|times| *times == 1),
            "in a full mesh nobody passes it on"
        );
        assert_eq!(from, [1].into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_publisher_does_not_reach_is_reached_through_another() {
    // The ends do not find each other through what they announce.
    let astray = |raft_id| {
        let mut config = config(raft_id, 3);
        config.announce = vec!["127.0.0.1:1".to_owned()];
        Node::start(config)
    };
    let one = astray(1);
    let middle = Node::start(config(2, 3));
    let mut three = astray(3);
    for node in [&one, &three] {
        node.knows(&middle);
        middle.knows(node);
    }
    wait_until("the middle sees both", || {
        middle.handle.connected() == [1, 3]
    })
    .await;
    wait_until("the ends see the middle", || {
        one.handle.connected() == [2] && three.handle.connected() == [2]
    })
    .await;
    warm_up(&one, &mut [&mut three]).await;
    one.handle.gossip(transactions(10, 300));
    let (_seen, from) = receive(&mut three, 10).await;
    assert_eq!(from, [2].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_while_members_are_just_connecting_is_not_lost() {
    // Whoever has heard nothing of the last member's subscription yet has the others pass it on.
    for _ in 0..10 {
        let one = Node::start(config(1, 3));
        let middle = Node::start(config(2, 3));
        let mut three = Node::start(config(3, 3));
        for node in [&one, &three] {
            node.knows(&middle);
            middle.knows(node);
        }
        warm_up(&one, &mut [&mut three]).await;
        one.handle.gossip(transactions(10, 300));
        receive(&mut three, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_transactions_travel_alone_and_too_large_ones_not_at_all() {
    let mut nodes = consortium(2, |_| {}).await;
    let (first, others) = nodes.split_at_mut(1);
    warm_up(&first[0], &mut [&mut others[0]]).await;
    let before = dropped("gossip", "too_large");
    let largest = (2 << 20) - 18;
    let mut batch = transactions(2, largest);
    batch.extend(transactions(1, largest + 1));
    first[0].handle.gossip(batch);
    let (seen, _from) = receive(&mut others[0], 2).await;
    assert!(seen.keys().all(|transaction| transaction.len() == largest));
    assert_eq!(dropped("gossip", "too_large"), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_does_not_read_loses_gossip_and_the_loss_is_counted() {
    let mut nodes = consortium(2, |config| config.limits.transaction_lane_batches = 2).await;
    let (first, others) = nodes.split_at_mut(1);
    warm_up(&first[0], &mut [&mut others[0]]).await;
    let before = dropped("gossip", "lane_full");
    wait_until("gossip is dropped", || {
        first[0].handle.gossip(vec![Bytes::from(vec![5; 65_000])]);
        dropped("gossip", "lane_full") > before
    })
    .await;
    // Raft goes on while transactions are stuck.
    assert!(
        first[0]
            .handle
            .send_raft(2, Bytes::from_static(b"heartbeat"))
    );
    let message = soon("a heartbeat", others[0].events.raft.recv())
        .await
        .unwrap();
    assert_eq!(message.bytes, "heartbeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_can_be_gossiped_again() {
    let mut nodes = consortium(2, |_| {}).await;
    let (first, others) = nodes.split_at_mut(1);
    warm_up(&first[0], &mut [&mut others[0]]).await;
    for _ in 0..3 {
        first[0].handle.gossip(transactions(1, 100));
        let (seen, _from) = receive(&mut others[0], 1).await;
        assert_eq!(seen.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_flows_both_ways_after_crossing_connections() {
    for _ in 0..5 {
        let mut nodes = consortium(3, |config| {
            config.timing.dial_wait = Duration::from_millis(1)
        })
        .await;
        for sender in 0..3 {
            nodes.rotate_left(1);
            let (first, others) = nodes.split_at_mut(1);
            warm_up(&first[0], &mut others.iter_mut().collect::<Vec<_>>()).await;
            let mine: Vec<Bytes> = (0..5_u8).map(|n| vec![sender, n].into()).collect();
            first[0].handle.gossip(mine);
            for node in others {
                let (seen, _from) = receive(node, 5).await;
                assert!(seen.keys().all(|transaction| transaction[0] == sender));
            }
        }
    }
}
