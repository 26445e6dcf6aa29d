//! Members that go and come back.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
};

use crate::consortium::{LOCAL, Node, config, pair, soon, wait_until};

/// One message each way.
async fn talk(one: &mut Node, two: &mut Node) {
    wait_until("one can send", || {
        one.handle.send_raft(2, Bytes::from_static(b"there"))
    })
    .await;
    let message = soon("a message", two.events.raft.recv()).await.unwrap();
    assert_eq!(
        (message.from, message.bytes.as_ref()),
        (1, b"there".as_slice())
    );
    wait_until("two can send", || {
        two.handle.send_raft(1, Bytes::from_static(b"back"))
    })
    .await;
    let message = soon("a message", one.events.raft.recv()).await.unwrap();
    assert_eq!(
        (message.from, message.bytes.as_ref()),
        (2, b"back".as_slice())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_restarted_on_its_port_is_found_again() {
    let (mut one, mut two) = pair(|_| {}).await;
    talk(&mut one, &mut two).await;
    for _ in 0..2 {
        let address = two.address;
        two.stop().await;
        wait_until("one notices", || !one.is_connected_to(2)).await;
        let mut again = config(2, 2);
        again.listen = address;
        // Only the other one knows an address: it has to dial, whoever is first.
        two = Node::start(again);
        wait_until("connected again", || {
            one.is_connected_to(2) && two.is_connected_to(1)
        })
        .await;
        talk(&mut one, &mut two).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_restarted_on_another_port_is_found_by_a_new_address() {
    let (mut one, two) = pair(|_| {}).await;
    two.stop().await;
    wait_until("one notices", || !one.is_connected_to(2)).await;
    let mut two = Node::start(config(2, 2));
    one.knows(&two);
    wait_until("connected again", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    talk(&mut one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_member_that_dials_is_taken_back() {
    let (mut one, two) = pair(|_| {}).await;
    two.stop().await;
    wait_until("one notices", || !one.is_connected_to(2)).await;
    let mut two = Node::start(config(2, 2));
    two.knows(&one);
    wait_until("connected again", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    talk(&mut one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_dial_each_other_at_the_same_time_end_with_a_working_connection() {
    for _ in 0..10 {
        let (mut one, mut two) =
            pair(|config| config.timing.dial_wait = Duration::from_millis(1)).await;
        // Messages on the way when a crossing connection is closed may be lost; the stream must come back.
        let exchange = async {
            loop {
                one.handle.send_raft(2, Bytes::from_static(b"x"));
                two.handle.send_raft(1, Bytes::from_static(b"y"));
                let wait = Duration::from_millis(20);
                let there = tokio::time::timeout(wait, two.events.raft.recv()).await;
                let back = tokio::time::timeout(wait, one.events.raft.recv()).await;
                if there.is_ok() && back.is_ok() {
                    return;
                }
            }
        };
        soon("messages both ways", exchange).await;
        one.stop().await;
        two.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_back_unnoticed_takes_over_and_is_heard_and_told_everything() {
    // As after the crash of a whole machine: the other side still holds the old connection, which says nothing.
    let mut first = config(1, 2);
    // An older connection is taken for dead once it is older than an attempt to dial.
    first.timing.resolve_timeout = Duration::from_millis(1);
    first.timing.handshake_timeout = Duration::from_secs(2);
    let mut one = Node::start(first);
    let old = Node::start(config(2, 2));
    one.knows(&old);
    wait_until("connected", || {
        one.is_connected_to(2) && old.is_connected_to(1)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let mut again = Node::start(config(2, 2));
    again.knows(&one);
    wait_until("the new one is connected", || again.is_connected_to(1)).await;
    wait_until("the old one is cut off", || !old.is_connected_to(1)).await;
    talk(&mut one, &mut again).await;
    for round in 0..2_u8 {
        let gossip = async {
            loop {
                one.handle.gossip(vec![vec![round].into()]);
                again.handle.gossip(vec![vec![round].into()]);
                let wait = Duration::from_millis(20);
                let there = tokio::time::timeout(wait, again.events.transactions.recv()).await;
                let back = tokio::time::timeout(wait, one.events.transactions.recv()).await;
                if there.is_ok() && back.is_ok() {
                    return;
                }
            }
        };
        soon("gossip both ways", gossip).await;
    }
    drop(old);
}

/// A line to `target`. What passes when `frozen` changes stays where it is: no byte and no end of a connection comes
/// through any more. Connections made later pass.
async fn line(target: SocketAddr, frozen: watch::Receiver<()>) -> SocketAddr {
    // Little room at the far end, so that the sender's buffers fill.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.bind((LOCAL, 0).into()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _from) = listener.accept().await.unwrap();
            let mut frozen = frozen.clone();
            frozen.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    changed = frozen.changed() => {
                        changed.unwrap();
                        // Hold both ends until the test is over.
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_behind_a_dead_line_is_given_up_and_reached_again() {
    let impatient = |raft_id| {
        let mut config = config(raft_id, 2);
        config.timing.ping_interval = Duration::from_millis(200);
        config.timing.ping_timeout = Duration::from_secs(1);
        config
    };
    let mut one = Node::start(impatient(1));
    let mut two = Node::start(impatient(2));
    let (freeze, frozen) = watch::channel(());
    let address = line(two.address, frozen).await;
    one.handle.add_address(2, address.to_string()).unwrap();
    wait_until("connected", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    talk(&mut one, &mut two).await;
    freeze.send_replace(());
    // Each stream sends one window before it waits; many of them fill the send buffer, and a connection in that state
    // cannot be closed in order.
    let batch = vec![Bytes::from(vec![0; 1 << 20])];
    for _ in 0..32 {
        let (handle, batch) = (one.handle.clone(), batch.clone());
        tokio::spawn(async move { handle.forward(2, batch).await });
    }
    wait_until("one gives up", || !one.is_connected_to(2)).await;
    wait_until("connected again", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    let again = async {
        loop {
            one.handle.send_raft(2, Bytes::from_static(b"again"));
            let wait = Duration::from_millis(20);
            let lane = &mut two.events.raft;
            if let Ok(Some(message)) = tokio::time::timeout(wait, lane.recv()).await
                && message.bytes == "again"
            {
                return;
            }
        }
    };
    soon("a message over the new connection", again).await;
    assert!(!freeze.is_closed());
}
