//! News over WebSocket.

use alloy_primitives::{Address, B256, U256};
use serde_json::{Value, json};

use crate::chain::{Account, LOGGER, TestNode, raw};
use crate::client::{Socket, call, number};

#[tokio::test(flavor = "multi_thread")]
async fn heads_logs_and_pending_transactions_are_announced() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let mut heads = Socket::open(node.rpc).await;
    let mut logs = Socket::open(node.rpc).await;
    let mut pending = Socket::open(node.rpc).await;
    let heads_id = heads.subscribe(json!(["newHeads"])).await;
    let logs_id = logs.subscribe(json!(["logs", {"address": LOGGER}])).await;
    let pending_id = pending.subscribe(json!(["newPendingTransactions"])).await;
    let full_id = pending
        .subscribe(json!(["newPendingTransactions", true]))
        .await;
    assert!(heads_id.starts_with("0x") && heads_id.len() <= 34);

    let word = B256::from(U256::from(5));
    let tx = sender.call(0, LOGGER, 0, word.as_slice());
    // The same connection takes requests.
    let sent = heads
        .request("eth_sendRawTransaction", json!([raw(&tx)]))
        .await;
    assert_eq!(sent["result"], json!(tx.hash()));
    let height = node.committed(*tx.hash()).await;

    let (id, head) = heads.next().await.unwrap();
    assert_eq!((id, number(&head["number"])), (heads_id.clone(), height));
    let block = call(
        node.rpc,
        "eth_getBlockByNumber",
        json!([head["number"], false]),
    )
    .await;
    for field in [
        "hash",
        "parentHash",
        "stateRoot",
        "logsBloom",
        "timestamp",
        "gasUsed",
        "miner",
        "nonce",
    ] {
        assert_eq!(head[field], block[field], "{field}");
    }
    let (id, log) = logs.next().await.unwrap();
    assert_eq!(id, logs_id);
    let found = call(
        node.rpc,
        "eth_getLogs",
        json!([{"fromBlock": head["number"]}]),
    )
    .await;
    assert_eq!(log, found[0]);
    let mut announced = [pending.next().await.unwrap(), pending.next().await.unwrap()];
    announced.sort_by_key(|(_, value)| value.is_object());
    assert_eq!(announced[0], (pending_id, json!(tx.hash())));
    assert_eq!(
        (&announced[1].0, &announced[1].1["hash"]),
        (&full_id, &json!(tx.hash()))
    );

    assert_eq!(
        heads.request("eth_unsubscribe", json!([heads_id])).await["result"],
        true
    );
    node.commit(&[sender.transfer(1, LOGGER, 0)]).await;
    assert_eq!(
        heads.request("eth_chainId", json!([])).await["result"],
        "0x539"
    );
    assert_eq!(
        heads.request("eth_unsubscribe", json!([heads_id])).await["result"],
        false
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_misses_no_head() {
    let node = TestNode::start_with(|config| config.subscription_queue = 4).await;
    let mut socket = Socket::open(node.rpc).await;
    socket.subscribe(json!(["newHeads"])).await;
    // More blocks than the queue holds and than the store keeps in memory.
    let sender = Account::number(3);
    const BLOCKS: u64 = 600;
    for nonce in 0..BLOCKS {
        let tx = sender.transfer(nonce, Address::repeat_byte(7), 1);
        node.pool.submit(&raw(&tx)).unwrap();
        node.committed(*tx.hash()).await;
    }
    for height in 1..=BLOCKS {
        let (_, head) = socket.next().await.unwrap();
        assert_eq!(number(&head["number"]), height);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_limited_and_checked() {
    let node = TestNode::start_with(|config| config.subscriptions_per_connection_max = 2).await;
    let mut socket = Socket::open(node.rpc).await;
    let wrong = socket.request("eth_subscribe", json!(["oldHeads"])).await;
    assert_eq!(wrong["error"]["code"], -32_602, "{wrong}");
    let wrong = socket
        .request("eth_subscribe", json!(["logs", {"topics": 5}]))
        .await;
    assert_eq!(wrong["error"]["code"], -32_602, "{wrong}");
    subscribe_when_free(&mut socket, json!(["newHeads"])).await;
    let second = subscribe_when_free(&mut socket, json!(["logs"])).await;
    let third = socket.request("eth_subscribe", json!(["newHeads"])).await;
    assert_eq!(third["error"]["code"], -32_006, "{third}");
    assert_eq!(
        socket.request("eth_unsubscribe", json!([second])).await["result"],
        true
    );
    subscribe_when_free(&mut socket, json!(["newHeads"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_can_be_ended_as_soon_as_its_id_is_known() {
    let node = TestNode::start_with(|config| config.subscriptions_per_connection_max = 16).await;
    let mut socket = Socket::open(node.rpc).await;
    for _ in 0..500 {
        let id = subscribe_when_free(&mut socket, json!(["newHeads"])).await;
        let ended = socket.request("eth_unsubscribe", json!([id])).await;
        assert_eq!(ended["result"], true);
    }
}

/// A refused or ended subscription gives its place back a moment after its answer.
async fn subscribe_when_free(socket: &mut Socket, params: Value) -> String {
    for _ in 0..1_000 {
        let answer = socket.request("eth_subscribe", params.clone()).await;
        if let Some(id) = answer["result"].as_str() {
            return id.to_owned();
        }
        assert_eq!(answer["error"]["code"], -32_006, "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("no place became free");
}
