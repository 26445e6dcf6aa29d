//! What happens beyond the limits.

use std::time::Duration;

use alloy_primitives::Bytes;
use quorate_rpc::Namespace;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::chain::{Account, SPINNER, TestNode};
use crate::client::{call, post, request};

#[tokio::test(flavor = "multi_thread")]
async fn expensive_calls_wait_for_their_turn_and_leave_the_rest_alone() {
    let node = TestNode::start_with(|config| {
        config.concurrent_calls = 1;
        config.turn_wait_max = Duration::from_millis(1);
        config.call_gas_max = 100_000_000;
    })
    .await;
    let spin = || request(node.rpc, "eth_call", json!([{"to": SPINNER}]));
    let spins = futures::future::join_all((0..6).map(|_| spin()));
    let (answers, number) = tokio::join!(spins, call(node.rpc, "eth_blockNumber", json!([])));
    assert_eq!(number, "0x0");
    let codes: Vec<i64> = answers
        .iter()
        .map(|answer| answer["error"]["code"].as_i64().unwrap())
        .collect();
    assert!(codes.contains(&-32_000), "one runs out of gas: {codes:?}");
    assert!(codes.contains(&-32_005), "one finds no turn: {codes:?}");
    assert!(
        codes.iter().all(|code| [-32_000, -32_005].contains(code)),
        "{codes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_answers_are_refused() {
    let node = TestNode::start_with(|config| {
        config.request_bytes_max = 10_000;
        config.response_bytes_max = 4_096;
    })
    .await;
    let large = json!({"jsonrpc": "2.0", "id": 1, "method": "web3_sha3", "params": [Bytes::from(vec![0; 6_000])]});
    let (status, _) = post(node.rpc, "127.0.0.1", large.to_string()).await;
    assert_eq!(status, 413);
    let sender = Account::number(3);
    for nonce in 10..30 {
        let tx = sender.transfer(nonce, SPINNER, 0);
        node.pool.submit(&crate::chain::raw(&tx)).unwrap();
    }
    let answer = request(node.rpc, "txpool_content", json!([])).await;
    assert_eq!(answer["error"]["code"], -32_008, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_host_names_are_refused_and_listed_origins_may_call() {
    let node =
        TestNode::start_with(|config| config.cors_origins = vec!["https://wallet.example".into()])
            .await;
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).to_string();
    assert_eq!(
        post(node.rpc, "evil.example:8545", body.clone()).await.0,
        403
    );
    assert_eq!(post(node.rpc, "localhost:8545", body).await.0, 200);

    for (origin, allowed) in [
        ("https://wallet.example", true),
        ("https://evil.example", false),
    ] {
        let mut stream = TcpStream::connect(node.rpc).await.unwrap();
        let preflight = format!(
            "OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(preflight.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let header = format!("access-control-allow-origin: {origin}");
        assert_eq!(answer.to_lowercase().contains(&header), allowed, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_closed() {
    let node = TestNode::start_with(|config| config.connections_max = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(node.rpc).await.unwrap();
        // A request that is never finished.
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            .await
            .unwrap();
        held.push(stream);
    }
    let mut third = TcpStream::connect(node.rpc).await.unwrap();
    // A failed write means the same: the node has closed it.
    drop(
        third
            .write_all(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .await,
    );
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), third.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(read.is_err() || answer.is_empty(), "{answer:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_off_does_not_exist() {
    let node =
        TestNode::start_with(|config| config.namespaces = vec![Namespace::Eth, Namespace::Net])
            .await;
    for method in ["admin_peers", "raft_role", "txpool_status", "web3_sha3"] {
        assert_eq!(
            request(node.rpc, method, json!([])).await["error"]["code"],
            -32_601,
            "{method}"
        );
    }
    let modules = call(node.rpc, "rpc_modules", json!([])).await;
    assert_eq!(modules, json!({"eth": "1.0", "net": "1.0", "rpc": "1.0"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_limited() {
    let node = TestNode::start_with(|config| config.filters_max = 1).await;
    let first = call(node.rpc, "eth_newBlockFilter", json!([])).await;
    let second: Value = request(node.rpc, "eth_newBlockFilter", json!([])).await;
    assert_eq!(second["error"]["code"], -32_005, "{second}");
    assert_eq!(
        call(node.rpc, "eth_uninstallFilter", json!([first])).await,
        true
    );
    call(node.rpc, "eth_newBlockFilter", json!([])).await;
}
