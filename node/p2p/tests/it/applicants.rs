//! Nodes that ask for admission: heard, answered once, never a peer, and never too many.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use quorate_p2p::{
    AddressError, Admission, AdmissionAnswer, AdmissionError, AdmissionRequest, Request,
    ask_admission, public_key_of,
};

use crate::consortium::{LOCAL, Node, config, counter, refused, secret, soon, wait_until};

/// An application of node `who` at a member's address.
fn application(who: u64, member: impl ToString) -> AdmissionRequest {
    AdmissionRequest {
        secret_key: secret(who),
        member: member.to_string(),
        addresses: vec!["node-9:30303".to_owned()],
        chain: None,
        timeout: Duration::from_secs(60),
    }
}

async fn ask(request: AdmissionRequest) -> Result<Admission, AdmissionError> {
    soon("the answer", ask_admission(request)).await
}

/// Answers the next application, and says who asked and where it will be.
async fn decide(node: &mut Node, answer: AdmissionAnswer) -> ([u8; 33], Vec<String>) {
    let request = soon("an application", node.events.control.recv()).await;
    let Some(Request::Admission {
        public_key,
        addresses,
        reply,
    }) = request
    else {
        panic!("only applications come here");
    };
    reply.send(answer).unwrap();
    (public_key, addresses)
}

fn answered(outcome: &str) -> u64 {
    counter("quorate_p2p_admissions_total", &[("outcome", outcome)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applicant_hears_not_yet_and_then_that_it_is_admitted() {
    let mut one = Node::start(config(1, 1));
    let body = Bytes::from((0..3_u32 << 20).map(|n| n as u8).collect::<Vec<u8>>());
    let admitted = AdmissionAnswer::Admitted { body };
    for expected in [AdmissionAnswer::NotYet, AdmissionAnswer::Removed, admitted] {
        let asking = tokio::spawn(ask(application(9, one.address)));
        let (key, addresses) = decide(&mut one, expected.clone()).await;
        assert_eq!(key, public_key_of(&secret(9)).unwrap());
        assert_eq!(addresses, ["node-9:30303"]);
        let admission = asking.await.unwrap().unwrap();
        assert_eq!(admission.by, one.handle.local_peer_id());
        assert!(admission.answer == expected);
    }
    wait_until("all are counted", || {
        ["not_yet", "removed", "admitted"].map(answered) == [1, 1, 1]
    })
    .await;
    // It never was a peer, and is not counted as a refusal.
    assert!(one.handle.connected().is_empty());
    assert!(one.events.peers.try_recv().is_err());
    assert_eq!(refused("applicant") + refused("unknown_key"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_ask_too_before_it_starts() {
    let mut one = Node::start(config(1, 2));
    let asking = tokio::spawn(ask(application(2, one.address)));
    let body = Bytes::from_static(b"genesis");
    decide(&mut one, AdmissionAnswer::Admitted { body: body.clone() }).await;
    let answer = asking.await.unwrap().unwrap().answer;
    assert_eq!(answer, AdmissionAnswer::Admitted { body });
    let two = Node::start(config(2, 2));
    two.knows(&one);
    wait_until("it is connected", || one.is_connected_to(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_named_peer_and_the_named_chain_are_enforced() {
    let mut one = Node::start(config(1, 1));
    let right = one.handle.local_peer_id();
    let wrong = quorate_p2p::peer_id_of(&public_key_of(&secret(5)).unwrap()).unwrap();
    let at = |peer: &str| format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", one.address.port());
    let error = ask(application(9, at(&wrong))).await.unwrap_err();
    assert!(
        matches!(&error, AdmissionError::WrongPeer { got, .. } if *got == right),
        "{error}"
    );
    for chain in [(1, [0xaa; 32]), (1337, [0xbb; 32])] {
        let mut other = application(9, one.address);
        other.chain = Some(chain);
        let error = ask(other).await.unwrap_err();
        assert!(
            matches!(error, AdmissionError::OtherChain { .. }),
            "{error}"
        );
        assert!(!error.is_retryable());
    }
    let mut both = application(9, format!("{}/p2p/{right}", one.address));
    both.chain = Some((1337, [0xaa; 32]));
    let asking = tokio::spawn(ask(both));
    decide(&mut one, AdmissionAnswer::NotYet).await;
    assert!(asking.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_before_or_at_the_attempt() {
    let error = ask(application(9, "nonsense")).await.unwrap_err();
    assert!(matches!(
        error,
        AdmissionError::Address(AddressError::Malformed { .. })
    ));
    let mut many = application(9, "127.0.0.1:1");
    many.addresses = vec!["a:1".to_owned(); 9];
    let error = ask(many).await.unwrap_err();
    assert!(matches!(
        error,
        AdmissionError::Address(AddressError::Count { got: 9, .. })
    ));
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind((LOCAL, 0)).unwrap();
    let free = port.local_addr().unwrap();
    drop(port);
    let error = ask(application(9, free)).await.unwrap_err();
    assert!(
        matches!(error, AdmissionError::Unreachable { .. }),
        "{error}"
    );
    assert!(error.is_retryable());
    // Somebody who accepts and says nothing.
    let silent = std::net::TcpListener::bind((LOCAL, 0)).unwrap();
    let mut hasty = application(9, silent.local_addr().unwrap());
    hasty.timeout = Duration::from_millis(50);
    let error = ask(hasty).await.unwrap_err();
    assert!(matches!(error, AdmissionError::Timeout { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_not_answered_ends_as_busy() {
    let mut slow = config(1, 1);
    slow.timing.stranger_timeout = Duration::from_millis(20);
    let mut one = Node::start(slow);
    let asking = tokio::spawn(ask(application(9, one.address)));
    let held = soon("an application", one.events.control.recv()).await;
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, AdmissionError::Busy { .. }), "{error}");
    drop(held);
    let asking = tokio::spawn(ask(application(9, one.address)));
    drop(soon("an application", one.events.control.recv()).await);
    assert!(matches!(
        asking.await.unwrap(),
        Err(AdmissionError::Busy { .. })
    ));
    wait_until("both are counted", || answered("busy") == 2).await;
}

/// How a crowd of applicants fared, while the application answers nobody.
async fn crowd(address: SocketAddr, count: u64) -> Vec<tokio::task::JoinHandle<bool>> {
    (0..count)
        .map(|n| {
            let request = application(100 + n, address);
            tokio::spawn(
                async move { matches!(ask(request).await, Err(AdmissionError::Busy { .. })) },
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_flood_admissions_nor_keep_members_out() {
    let mut few = config(1, 2);
    few.limits.strangers_max = 3;
    few.limits.strangers_per_address = 2;
    let mut one = Node::start(few);
    let asking = crowd(one.address, 12).await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push(
            soon("an application", one.events.control.recv())
                .await
                .unwrap(),
        );
    }
    // One address has two places, and everybody else is told to come again.
    wait_until("ten are told that we are busy", || {
        refused("strangers") == 10
    })
    .await;
    assert!(one.events.control.try_recv().is_err());
    let two = Node::start(config(2, 2));
    two.knows(&one);
    wait_until("a member gets in", || one.is_connected_to(2)).await;
    drop(heard);
    for busy in asking {
        assert!(busy.await.unwrap());
    }
    // The places are free again.
    let asking = tokio::spawn(ask(application(9, one.address)));
    decide(&mut one, AdmissionAnswer::NotYet).await;
    assert!(asking.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_asks_too_often_is_not_heard_for_a_while() {
    let mut few = config(1, 1);
    few.limits.strangers_per_minute = 3;
    let mut one = Node::start(few);
    for _ in 0..3 {
        let asking = tokio::spawn(ask(application(9, one.address)));
        decide(&mut one, AdmissionAnswer::NotYet).await;
        assert!(asking.await.unwrap().is_ok());
    }
    let error = ask(application(9, one.address)).await.unwrap_err();
    assert!(matches!(error, AdmissionError::Busy { .. }), "{error}");
    assert!(one.events.control.try_recv().is_err());
}
