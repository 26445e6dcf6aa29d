//! Members that move, and are found again without anybody's configuration.

use std::{net::SocketAddr, time::Duration};

use quorate_p2p::{AddressError, Config, ConfigError, PeerEvent, StartError};

use crate::consortium::{Node, announcements, config, consortium, counter, pair, soon, wait_until};

fn text(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

/// Waits until `node` has learned that member `raft_id` is at `address`.
async fn learned(node: &mut Node, raft_id: u64, address: &str) {
    let learning = async {
        loop {
            if let PeerEvent::AddressLearned {
                raft_id: whose,
                address: what,
            } = node.events.peers.recv().await.unwrap()
                && (whose, what.as_str()) == (raft_id, address)
            {
                return;
            }
        }
    };
    soon(&format!("{raft_id} at {address}"), learning).await;
}

/// Configuration of a member whose table has this address for another one.
fn knowing(raft_id: u64, count: u64, other: &Node) -> Config {
    let mut config = config(raft_id, count);
    let info = config
        .members
        .iter_mut()
        .find(|m| m.raft_id == other.raft_id);
    info.unwrap().addresses = vec![other.address.to_string()];
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_on_another_port_is_found_by_its_announcement() {
    let mut one = Node::start(config(1, 2));
    let two = Node::start(knowing(2, 2, &one));
    learned(&mut one, 2, &text(two.address)).await;
    two.stop().await;
    wait_until("it is gone", || !one.is_connected_to(2)).await;
    // It comes back elsewhere, and reaches 1 once.
    let two = Node::start(knowing(2, 2, &one));
    let there = two.address;
    learned(&mut one, 2, &text(there)).await;
    two.stop().await;
    wait_until("it is gone", || !one.is_connected_to(2)).await;
    // Now it knows nobody and stays where it announced itself: 1 comes to it.
    let mut deaf = config(2, 2);
    deaf.listen = there;
    let two = Node::start(deaf);
    wait_until("1 has found it", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_found_through_a_third_one_that_knows_it() {
    let mut nodes = consortium(3, |_| {}).await;
    let three = nodes.pop().unwrap();
    let two = nodes.pop().unwrap();
    let one = nodes.pop().unwrap();
    three.stop().await;
    wait_until("3 is gone", || {
        !one.is_connected_to(3) && !two.is_connected_to(3)
    })
    .await;
    // 3 comes back elsewhere and knows 1 only; 2 knows where 3 was.
    let mut three = Node::start(knowing(3, 3, &one));
    wait_until("2 and 3 have found each other", || {
        two.is_connected_to(3) && three.is_connected_to(2)
    })
    .await;
    let found = || counter("quorate_p2p_lookups_total", &[("outcome", "found")]);
    wait_until("somebody was asked", || found() > 0).await;
    learned(&mut three, 2, &text(two.address)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_without_any_address_of_each_other_meet_through_a_third_one() {
    // Only 1 knows addresses, and the others know none.
    let two = Node::start(config(2, 3));
    let three = Node::start(config(3, 3));
    let one = Node::start(config(1, 3));
    one.knows(&two);
    one.knows(&three);
    wait_until("all are connected", || {
        two.is_connected_to(3) && three.is_connected_to(2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_announced_to_everybody_connected_and_beats_what_was_said_before() {
    let mut nodes = consortium(3, |_| {}).await;
    let moved = vec!["node-1.example:30303".to_owned(), "10.9.8.7:1".to_owned()];
    nodes[0].handle.announce(moved).unwrap();
    for other in &mut nodes[1..] {
        learned(other, 1, "/dns/node-1.example/tcp/30303").await;
        learned(other, 1, "/ip4/10.9.8.7/tcp/1").await;
    }
    let refused = nodes[0].handle.announce(Vec::new());
    assert_eq!(
        refused,
        Err(AddressError::Count {
            got: 0,
            min: 1,
            max: 8
        })
    );
    let refused = nodes[0].handle.announce(vec!["nonsense".to_owned()]);
    assert!(matches!(refused, Err(AddressError::Malformed { .. })));
    let mut bad = config(4, 4);
    bad.announce = vec!["x".to_owned()];
    assert!(matches!(
        Node::try_start(bad).map(drop),
        Err(StartError::Config(ConfigError::Announce(_)))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_announcement_is_refused_and_its_author_makes_a_newer_one() {
    let at = |sequence, place: &str| {
        let mut config = config(2, 2);
        config.announce_sequence = sequence;
        config.announce = vec![place.to_owned()];
        config
    };
    let mut one = Node::start(config(1, 2));
    let two = Node::start(at(1_000, "10.0.0.1:1"));
    two.knows(&one);
    learned(&mut one, 2, "/ip4/10.0.0.1/tcp/1").await;
    two.stop().await;
    wait_until("it is gone", || !one.is_connected_to(2)).await;
    // Its clock went back.
    assert_eq!(announcements("older"), 0);
    let two = Node::start(at(10, "10.0.0.2:2"));
    two.knows(&one);
    learned(&mut one, 2, "/ip4/10.0.0.2/tcp/2").await;
    assert!(announcements("older") > 0 && announcements("own") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_tried_again_and_again_with_growing_pauses() {
    let (one, two) = pair(|_| {}).await;
    two.stop().await;
    wait_until("it is gone", || !one.is_connected_to(2)).await;
    let failed = || counter("quorate_p2p_dials_total", &[("outcome", "failed")]);
    let before = failed();
    wait_until("it is tried again", || failed() >= before + 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_looks_on_the_local_network_starts_and_connects() {
    let (one, two) = pair(|config| config.mdns = true).await;
    assert!(one.is_connected_to(2) && two.is_connected_to(1));
    let stopping = async {
        one.stop().await;
        two.stop().await;
    };
    tokio::time::timeout(Duration::from_secs(60), stopping)
        .await
        .unwrap();
}
