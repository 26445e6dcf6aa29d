//! Membership that changes while the network runs.

use std::time::Duration;

use bytes::Bytes;
use quorate_p2p::{ConfigError, MemberInfo, PeerEvent, Verdict};

use crate::consortium::{
    Node, config, consortium, full_mesh, member, pair, refused, soon, wait_until,
};

/// The next event of this kind about a member's log.
async fn log_seen(node: &mut Node) -> (u64, [u8; 16]) {
    loop {
        match soon("a log", node.events.peers.recv()).await.unwrap() {
            PeerEvent::LogSeen { raft_id, log_id } => return (raft_id, log_id),
            PeerEvent::Connected { .. }
            | PeerEvent::Disconnected { .. }
            | PeerEvent::AddressLearned { .. } => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_is_refused_by_its_log_and_told_so() {
    let (mut one, mut two) = pair(|config| config.log_id = [config.raft_id as u8; 16]).await;
    assert_eq!(log_seen(&mut one).await, (2, [2; 16]));
    assert_eq!(log_seen(&mut two).await, (1, [1; 16]));
    let address = two.address;
    two.stop().await;
    wait_until("it is gone", || !one.is_connected_to(2)).await;

    // Back with the same log: welcome.
    let same = |log: u8| {
        let mut config = config(2, 2);
        config.log_id = [log; 16];
        config.listen = address;
        config
    };
    let two = Node::start(same(2));
    wait_until("it is back", || one.is_connected_to(2)).await;
    two.stop().await;
    wait_until("it is gone", || !one.is_connected_to(2)).await;

    // Back without its disk: a new log.
    let mut wiped = Node::start(same(3));
    wiped.knows(&one);
    let verdict = soon("a verdict", wiped.events.verdicts.recv()).await;
    assert_eq!(verdict, Some(Verdict::OtherLog { by: 1 }));
    wait_until("both sides count it", || {
        refused("other_log") > 0 && refused("told_other_log") > 0
    })
    .await;
    assert!(wiped.handle.connected().is_empty() && one.handle.connected().is_empty());
    wiped.stop().await;

    // Whoever was told of the log knows it after a restart as well.
    let mut remembering = config(1, 2);
    remembering.known_logs = [(2, [2; 16])].into();
    let mut again = Node::start(remembering);
    let mut wiped = Node::start(same(3));
    again.knows(&wiped);
    let verdict = soon("a verdict", wiped.events.verdicts.recv()).await;
    assert_eq!(verdict, Some(Verdict::OtherLog { by: 1 }));
    assert!(again.events.peers.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_told_and_cut_off_and_told_again_when_it_knocks() {
    let mut nodes = consortium(3, |_| {}).await;
    let (rest, removed) = nodes.split_at_mut(2);
    let three = &mut removed[0];
    let members = vec![member(1), member(2)];
    let answer = rest[0].handle.set_membership(members.clone(), vec![1, 3]);
    assert_eq!(answer, Err(ConfigError::RemovedMember { raft_id: 1 }));
    rest[0]
        .handle
        .set_membership(members.clone(), vec![3])
        .unwrap();
    let verdict = soon("a verdict", three.events.verdicts.recv()).await;
    assert_eq!(verdict, Some(Verdict::Removed { by: 1 }));
    wait_until("1 has cut it off", || !three.is_connected_to(1)).await;
    assert_eq!(rest[0].handle.connected(), [2]);
    // It does not believe it, and knocks.
    three.knows(&rest[0]);
    let verdict = soon("a verdict", three.events.verdicts.recv()).await;
    assert_eq!(verdict, Some(Verdict::Removed { by: 1 }));
    wait_until("it is refused by name", || {
        refused("removed") > 0 && refused("told_removed") > 0
    })
    .await;
    // 2 has not heard of it yet.
    assert!(three.is_connected_to(2));
    rest[1].handle.set_membership(members, vec![3]).unwrap();
    let from_two =
        async { while three.events.verdicts.recv().await != Some(Verdict::Removed { by: 2 }) {} };
    soon("a verdict of 2", from_two).await;
    wait_until("it is alone", || three.handle.connected().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_removed_member_is_delivered() {
    let (mut one, mut two) = pair(|_| {}).await;
    let sender = two.handle.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let sending = tokio::spawn(async move {
        let mut round = 0_u64;
        while !stopped.is_cancelled() {
            sender.send_raft(1, Bytes::from(round.to_be_bytes().to_vec()));
            sender.gossip(vec![Bytes::from(round.to_be_bytes().to_vec())]);
            round += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    soon("a message", one.events.raft.recv()).await.unwrap();
    soon("gossip", one.events.transactions.recv())
        .await
        .unwrap();
    one.handle.set_membership(vec![member(1)], vec![2]).unwrap();
    let verdict = soon("a verdict", two.events.verdicts.recv()).await;
    assert_eq!(verdict, Some(Verdict::Removed { by: 1 }));
    // What was delivered before is still in the lanes; after the verdict nothing is added.
    while one.events.raft.try_recv().is_ok() {}
    while one.events.transactions.try_recv().is_ok() {}
    wait_until("it is cut off", || !two.is_connected_to(1)).await;
    stop.cancel();
    sending.await.unwrap();
    assert!(one.events.raft.try_recv().is_err());
    assert!(one.events.transactions.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_membership_changes_while_traffic_flows() {
    const MESSAGES: u32 = 2_000;
    let mut nodes = consortium(3, |_| {}).await;
    let three = nodes.pop().unwrap();
    let mut two = nodes.pop().unwrap();
    let one = nodes.pop().unwrap();
    let receiving = tokio::spawn(async move {
        for expected in 0..MESSAGES {
            let message = soon("a message", two.events.raft.recv()).await.unwrap();
            assert_eq!(
                (message.from, message.bytes.as_ref()),
                (1, expected.to_be_bytes().as_slice())
            );
        }
        two
    });
    let sender = one.handle.clone();
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            wait_until("there is room", || {
                sender.send_raft(2, Bytes::from(number.to_be_bytes().to_vec()))
            })
            .await;
            tokio::task::yield_now().await;
        }
    });
    // 4 comes, then 3 goes, then 5 comes; 1 knows their addresses from the table.
    let mut members: Vec<MemberInfo> = (1..=3).map(member).collect();
    let mut joined = Vec::new();
    for joining in [4, 5] {
        let mut own = config(joining, joining);
        own.members.retain(|member| member.raft_id != 3);
        let node = Node::start(own);
        let mut info = member(joining);
        info.addresses = vec![node.address.to_string()];
        members.push(info);
        members.retain(|member| joining == 4 || member.raft_id != 3);
        let removed = if joining == 4 { vec![] } else { vec![3] };
        one.handle.set_membership(members.clone(), removed).unwrap();
        wait_until("it is dialled", || node.is_connected_to(1)).await;
        joined.push(node);
    }
    wait_until("3 is gone", || one.handle.connected() == [2, 4, 5]).await;
    soon("all is sent", sending).await.unwrap();
    let two = soon("all is received", receiving).await.unwrap();
    assert!(two.is_connected_to(1));
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_address_in_the_table_is_dialled_without_a_restart() {
    let two = Node::start(config(2, 2));
    let gone = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut wrong = config(1, 2);
    wrong.members[1].addresses = vec![gone.local_addr().unwrap().to_string()];
    drop(gone);
    // Long pauses: only the new table brings it about in time.
    wrong.timing.dial_pause_min = Duration::from_secs(3_000);
    wrong.timing.dial_pause_max = Duration::from_secs(3_600);
    let one = Node::start(wrong.clone());
    let failed = || crate::consortium::counter("quorate_p2p_dials_total", &[("outcome", "failed")]);
    wait_until("the wrong address is tried", || failed() > 0).await;
    let mut members = wrong.members;
    members[1].addresses = vec![two.address.to_string()];
    one.handle.set_members(members).unwrap();
    full_mesh(&[one, two]).await;
}
