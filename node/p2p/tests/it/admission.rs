//! Who gets in and who does not.

use std::{net::TcpStream, time::Duration};

use bytes::Bytes;
use quorate_p2p::{AddressError, Config, ConfigError, PeerEvent, StartError, peer_id_of};

use crate::consortium::{LOCAL, Node, config, consortium, member, pair, refused, soon, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_refused_and_counted() {
    let mut one = Node::start(config(1, 1));
    // The stranger believes that both are members.
    let stranger = Node::start(config(2, 2));
    let before = refused("unknown_key");
    stranger.knows(&one);
    wait_until("the stranger is refused", || {
        refused("unknown_key") > before
    })
    .await;
    assert!(one.handle.peers().is_empty());
    assert!(one.handle.connected().is_empty());
    assert!(stranger.handle.connected().is_empty());
    assert!(one.events.peers.try_recv().is_err());
    assert!(!stranger.handle.send_raft(1, Bytes::from_static(b"x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_a_members_address_is_not_taken_for_the_member() {
    let one = Node::start(config(1, 2));
    let mut other = config(3, 3);
    other.members = vec![member(3), member(1)];
    let three = Node::start(other);
    let before = refused("unknown_key");
    // An operator's mistake: member 2's address is that of somebody else.
    one.handle
        .add_address(2, three.address.to_string())
        .unwrap();
    wait_until("it is refused", || refused("unknown_key") > before).await;
    assert!(one.handle.connected().is_empty() && three.handle.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_at_a_members_address_is_refused() {
    let one = Node::start(config(1, 3));
    let three = Node::start(config(3, 3));
    let before = refused("wrong_peer");
    one.handle
        .add_address(2, three.address.to_string())
        .unwrap();
    wait_until("it is refused", || refused("wrong_peer") > before).await;
    assert!(!one.is_connected_to(2));
}

/// Starts two members that differ in one thing; both sides must refuse for this reason.
async fn refuse(reason: &str, change: impl Fn(&mut Config)) {
    let one = Node::start(config(1, 2));
    let mut other = config(2, 2);
    change(&mut other);
    let two = Node::start(other);
    let before = refused(reason);
    one.knows(&two);
    // Both ends of the one attempt count it.
    wait_until(&format!("{reason} is refused at both ends"), || {
        refused(reason) >= before + 2
    })
    .await;
    two.knows(&one);
    wait_until(&format!("{reason} is refused the other way"), || {
        refused(reason) >= before + 4
    })
    .await;
    assert!(one.handle.connected().is_empty() && two.handle.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_genesis_is_refused_at_both_ends() {
    refuse("genesis", |config| config.genesis_hash = [0xbb; 32]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_chain_id_is_refused_at_both_ends() {
    refuse("chain_id", |config| config.chain_id = 1338).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_another_protocol_version_is_refused_at_both_ends() {
    refuse("protocol", |config| config.protocol_version = 99).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_do_not_block_members() {
    let mut one = config(1, 2);
    one.limits.handshakes_per_address = one.limits.handshakes_max;
    let one = Node::start(one);
    // Connections that say nothing, held open.
    let silent: Vec<TcpStream> = (0..64)
        .map(|_| TcpStream::connect(one.address).unwrap())
        .collect();
    let two = Node::start(config(2, 2));
    two.knows(&one);
    wait_until("the members are connected", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_beyond_the_limit_are_refused_and_end_by_themselves() {
    let mut few = config(1, 2);
    few.limits.handshakes_max = 4;
    few.limits.handshakes_per_address = 4;
    few.timing.handshake_timeout = Duration::from_millis(300);
    let one = Node::start(few);
    let before = refused("limit");
    let silent: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(one.address).unwrap())
        .collect();
    wait_until("the rest is refused", || refused("limit") > before).await;
    let two = Node::start(config(2, 2));
    two.knows(&one);
    wait_until("a member gets in", || one.is_connected_to(2)).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_cannot_take_all_handshakes() {
    let mut few = config(1, 2);
    few.limits.handshakes_per_address = 4;
    let one = Node::start(few);
    let before = refused("limit");
    // Its own address takes its share; another one still gets in.
    let silent: Vec<TcpStream> = (0..16)
        .map(|_| TcpStream::connect(one.address).unwrap())
        .collect();
    wait_until("the rest is refused", || refused("limit") >= before + 12).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let mut other = socket.connect(one.address).await.unwrap();
    // A listener that takes us answers the first line of the negotiation.
    let hello = b"\x13/multistream/1.0.0\n";
    tokio::io::AsyncWriteExt::write_all(&mut other, hello)
        .await
        .unwrap();
    let mut answer = [0; 20];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut other, &mut answer);
    soon("an answer", reading).await.unwrap();
    assert_eq!(&answer, hello);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_disconnected_and_comes_back_when_it_is_added_again() {
    let mut nodes = consortium(3, |_| {}).await;
    let before = refused("unknown_key");
    nodes[0]
        .handle
        .set_members(vec![member(1), member(2)])
        .unwrap();
    wait_until("3 is gone", || nodes[0].handle.connected() == [2]).await;
    wait_until("3 notices", || nodes[2].handle.connected() == [2]).await;
    assert!(!nodes[0].handle.send_raft(3, Bytes::from_static(b"x")));
    assert_eq!(nodes[0].handle.peers().len(), 1);
    nodes[2]
        .handle
        .add_address(1, nodes[0].address.to_string())
        .unwrap();
    wait_until("3 is refused", || refused("unknown_key") > before).await;

    nodes[0]
        .handle
        .set_members((1..=3).map(member).collect())
        .unwrap();
    let address = nodes[2].address.to_string();
    nodes[0].handle.add_address(3, address).unwrap();
    wait_until("3 is back", || nodes[0].handle.connected() == [2, 3]).await;
    let mut events = Vec::new();
    while let Ok(event) = nodes[0].events.peers.try_recv() {
        events.push(event);
    }
    let of_three: Vec<_> = events
        .into_iter()
        .filter(|event| {
            matches!(
                event,
                PeerEvent::Connected { raft_id: 3 } | PeerEvent::Disconnected { raft_id: 3 }
            )
        })
        .collect();
    let connected = PeerEvent::Connected { raft_id: 3 };
    assert_eq!(
        of_three,
        [
            connected.clone(),
            PeerEvent::Disconnected { raft_id: 3 },
            connected
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_contradicts_itself_changes_nothing() {
    let (one, _two) = pair(|_| {}).await;
    let mut twice = vec![member(1), member(2), member(2)];
    twice[2].raft_id = 3;
    assert_eq!(
        one.handle.set_members(twice),
        Err(ConfigError::KeyTwice {
            first: 2,
            second: 3
        })
    );
    assert_eq!(one.handle.connected(), [2]);
    let unknown = one.handle.add_address(7, "127.0.0.1:1".to_owned());
    assert_eq!(unknown, Err(AddressError::UnknownMember { raft_id: 7 }));
    assert!(one.handle.add_address(2, "nonsense".to_owned()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn start_refuses_what_cannot_work() {
    let one = Node::start(config(1, 2));
    let start = |config| Node::try_start(config).map(|_node| ()).unwrap_err();
    let mut taken = config(2, 2);
    taken.listen = one.address;
    assert!(matches!(start(taken), StartError::Listen { address, .. } if address == one.address));
    let mut foreign = config(1, 2);
    foreign.secret_key = [9; 32];
    assert!(matches!(
        start(foreign),
        StartError::Config(ConfigError::SelfKey { raft_id: 1 })
    ));
    let missing = Config {
        raft_id: 5,
        ..config(1, 2)
    };
    assert!(matches!(
        start(missing),
        StartError::Config(ConfigError::SelfMissing { raft_id: 5 })
    ));
    let mut zero = config(1, 2);
    zero.secret_key = [0; 32];
    assert!(matches!(
        start(zero),
        StartError::Config(ConfigError::OwnKey(_))
    ));
    let outside = std::thread::spawn(|| quorate_p2p::start(config(1, 2)).map(|_| ()));
    assert!(matches!(
        outside.join().unwrap(),
        Err(StartError::NoRuntime)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_id_is_that_of_the_members_key() {
    let mut listening = config(1, 1);
    listening.listen = (LOCAL, 0).into();
    let one = Node::start(listening);
    assert_eq!(
        one.handle.local_peer_id(),
        peer_id_of(&member(1).public_key).unwrap()
    );
    assert_eq!(
        one.handle.listen_addresses(),
        [format!("/ip4/127.0.0.1/tcp/{}", one.address.port())]
    );
    soon("stop", one.stop()).await;
}
