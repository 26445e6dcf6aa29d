//! Log queries and filters.

use alloy_primitives::{Address, B256, U256};
use serde_json::{Value, json};

use crate::chain::{Account, LOGGER, TestNode, raw, topic};
use crate::client::{call, error, number};

/// Commits one log per transaction, each in a block of its own; returns their data.
async fn log(node: &TestNode, sender: &Account, nonces: std::ops::Range<u64>) -> Vec<B256> {
    let mut data = Vec::new();
    for nonce in nonces {
        let word = B256::from(U256::from(nonce + 1));
        node.commit(&[sender.call(nonce, LOGGER, 0, word.as_slice())])
            .await;
        data.push(word);
    }
    data
}

fn data(logs: &Value) -> Vec<B256> {
    logs.as_array()
        .unwrap()
        .iter()
        .map(|log| log["data"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_found_by_range_address_topic_and_block() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let written = log(&node, &sender, 0..5).await;
    let get = async |filter: Value| call(node.rpc, "eth_getLogs", json!([filter])).await;

    let all = get(json!({"fromBlock": "earliest"})).await;
    assert_eq!(data(&all), written);
    assert_eq!(
        all[0]["topics"],
        json!([topic(), sender.address.into_word()])
    );
    assert_eq!(
        (&all[0]["logIndex"], &all[0]["removed"]),
        (&json!("0x0"), &json!(false))
    );
    assert_eq!(
        data(&get(json!({"fromBlock": "0x2", "toBlock": "0x3"})).await),
        written[1..3]
    );
    // Without a range it is the head's.
    assert_eq!(data(&get(json!({})).await), written[4..]);
    assert_eq!(
        data(&get(json!({"blockHash": all[2]["blockHash"]})).await),
        written[2..3]
    );
    let mine = json!({"fromBlock": "0x0", "address": [LOGGER], "topics": [null, [sender.address.into_word()]]});
    assert_eq!(data(&get(mine).await), written);
    let other =
        json!({"fromBlock": "0x0", "topics": [null, Account::number(4).address.into_word()]});
    assert_eq!(get(other).await, json!([]));
    assert_eq!(
        get(json!({"fromBlock": "0x0", "address": Address::repeat_byte(1)})).await,
        json!([])
    );
    // Blocks that are still to come are no error.
    assert_eq!(
        data(&get(json!({"fromBlock": "0x5", "toBlock": "0x100"})).await),
        written[4..]
    );
    assert_eq!(
        get(json!({"fromBlock": "0x50", "toBlock": "0x100"})).await,
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_queries_are_refused_with_the_limit() {
    let node = TestNode::start_with(|config| {
        config.log_blocks_max = 3;
        config.log_results_max = 2;
        config.log_terms_max = 2;
    })
    .await;
    log(&node, &Account::number(3), 0..4).await;
    let refused = async |filter: Value| error(node.rpc, "eth_getLogs", json!([filter])).await;
    let (code, message, _) = refused(json!({"fromBlock": "0x0", "toBlock": "0x3"})).await;
    assert_eq!(
        (code, message.as_str()),
        (-32_005, "block range of a log query: at most 3 blocks")
    );
    let (code, message, _) = refused(json!({"fromBlock": "0x1", "toBlock": "0x3"})).await;
    assert_eq!(
        (code, message.as_str()),
        (
            -32_005,
            "results of a log query, narrow its range: at most 2 logs"
        )
    );
    let many = [1u8, 2, 3].map(Address::repeat_byte);
    let (code, message, _) = refused(json!({"address": many})).await;
    assert_eq!(
        (code, message.as_str()),
        (-32_005, "log filter: at most 2 addresses and topics")
    );
    let (code, ..) = refused(json!({"fromBlock": "0x3", "toBlock": "0x2"})).await;
    assert_eq!(code, -32_602);
    let (code, ..) = refused(json!({"blockHash": B256::repeat_byte(1)})).await;
    assert_eq!(code, -32_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_give_each_change_once() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    log(&node, &sender, 0..1).await;
    let logs = call(
        node.rpc,
        "eth_newFilter",
        json!([{"address": LOGGER, "fromBlock": "0x0"}]),
    )
    .await;
    let blocks = call(node.rpc, "eth_newBlockFilter", json!([])).await;
    let pending = call(node.rpc, "eth_newPendingTransactionFilter", json!([])).await;
    let changes = async |id: &Value| call(node.rpc, "eth_getFilterChanges", json!([id])).await;
    for id in [&logs, &blocks, &pending] {
        assert_eq!(changes(id).await, json!([]), "nothing has happened yet");
    }

    let written = log(&node, &sender, 1..4).await;
    assert_eq!(data(&changes(&logs).await), written);
    assert_eq!(changes(&logs).await, json!([]));
    let hashes = changes(&blocks).await;
    let expected: Vec<_> = (2..=4)
        .map(|h| node.ledger.block(h).unwrap().unwrap().hash())
        .collect();
    assert_eq!(hashes, json!(expected));
    assert_eq!(changes(&blocks).await, json!([]));
    assert_eq!(changes(&pending).await.as_array().unwrap().len(), 3);

    // All that it matches, not only what is new.
    let all = call(node.rpc, "eth_getFilterLogs", json!([logs])).await;
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert_eq!(
        call(node.rpc, "eth_uninstallFilter", json!([logs])).await,
        true
    );
    assert_eq!(
        call(node.rpc, "eth_uninstallFilter", json!([logs])).await,
        false
    );
    let (code, message, _) = error(node.rpc, "eth_getFilterChanges", json!([logs])).await;
    assert_eq!((code, message.as_str()), (-32_001, "filter not found"));
    let (code, ..) = error(node.rpc, "eth_getFilterLogs", json!([blocks])).await;
    assert_eq!(code, -32_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_far_behind_catches_up_in_steps_without_a_hole() {
    let node = TestNode::start_with(|config| {
        config.log_blocks_max = 4;
        config.log_results_max = 3;
    })
    .await;
    let id = call(node.rpc, "eth_newFilter", json!([{"address": LOGGER}])).await;
    let written = log(&node, &Account::number(3), 0..10).await;
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        let changes = call(node.rpc, "eth_getFilterChanges", json!([id])).await;
        let step = data(&changes);
        assert!(!step.is_empty() && step.len() <= 3, "{changes}");
        seen.extend(step);
    }
    assert_eq!(seen, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_numbered_across_the_transactions_of_a_block() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    // The later ones wait for the first, so that the minter takes them together.
    let transactions: Vec<_> = (0..6)
        .map(|nonce| sender.call(nonce, LOGGER, 0, &[1]))
        .collect();
    for tx in transactions.iter().rev() {
        call(node.rpc, "eth_sendRawTransaction", json!([raw(tx)])).await;
    }
    for tx in &transactions {
        node.committed(*tx.hash()).await;
    }
    let all = call(node.rpc, "eth_getLogs", json!([{"fromBlock": "0x0"}])).await;
    let mut next = std::collections::BTreeMap::new();
    for log in all.as_array().unwrap() {
        let expected = next.entry(number(&log["blockNumber"])).or_insert(0);
        assert_eq!(number(&log["logIndex"]), *expected);
        assert_eq!(log["transactionIndex"], log["logIndex"], "each has one log");
        *expected += 1;
    }
    assert_eq!(next.values().sum::<u64>(), 6);
    assert!(
        next.values().any(|logs| *logs > 1),
        "some block holds several"
    );
}
