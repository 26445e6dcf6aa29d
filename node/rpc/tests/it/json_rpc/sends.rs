//! Transactions: sent, waiting, and in blocks.

use alloy_primitives::TxKind;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_transaction_is_minted_and_shown_everywhere() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let tx = sender.transfer(0, NOBODY, 5);
    let hash = call(node.rpc, "eth_sendRawTransaction", json!([raw(&tx)])).await;
    assert_eq!(hash, json!(tx.hash()));
    let height = node.committed(*tx.hash()).await;

    let receipt = call(node.rpc, "eth_getTransactionReceipt", json!([hash])).await;
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(receipt["gasUsed"], "0x5208");
    assert_eq!(receipt["effectiveGasPrice"], "0x0");
    assert_eq!(receipt["contractAddress"], Value::Null);
    assert_eq!(number(&receipt["blockNumber"]), height);

    let by_hash = call(node.rpc, "eth_getTransactionByHash", json!([hash])).await;
    assert_eq!(by_hash["from"], json!(sender.address));
    assert_eq!(by_hash["blockHash"], receipt["blockHash"]);
    assert_eq!(by_hash["gasPrice"], "0x0");
    let by_number = call(
        node.rpc,
        "eth_getTransactionByBlockNumberAndIndex",
        json!([receipt["blockNumber"], "0x0"]),
    )
    .await;
    let by_block = call(
        node.rpc,
        "eth_getTransactionByBlockHashAndIndex",
        json!([receipt["blockHash"], "0x0"]),
    )
    .await;
    assert_eq!(by_hash, by_number);
    assert_eq!(by_hash, by_block);

    let full = call(
        node.rpc,
        "eth_getBlockByHash",
        json!([receipt["blockHash"], true]),
    )
    .await;
    assert_eq!(full["transactions"], json!([by_hash]));
    let brief = call(
        node.rpc,
        "eth_getBlockByNumber",
        json!([receipt["blockNumber"], false]),
    )
    .await;
    assert_eq!(brief["transactions"], json!([hash]));
    assert_eq!(brief["timestamp"], json!("0x6553f100"));
    let receipts = call(
        node.rpc,
        "eth_getBlockReceipts",
        json!([receipt["blockNumber"]]),
    )
    .await;
    assert_eq!(receipts, json!([receipt]));
    let count = call(
        node.rpc,
        "eth_getBlockTransactionCountByHash",
        json!([receipt["blockHash"]]),
    )
    .await;
    assert_eq!(count, "0x1");
    assert_eq!(
        call(node.rpc, "eth_getRawTransactionByHash", json!([hash])).await,
        json!(raw(&tx))
    );

    assert_eq!(
        call(node.rpc, "eth_getBalance", json!([NOBODY, "latest"])).await,
        "0x5"
    );
    assert_eq!(
        call(node.rpc, "eth_getBalance", json!([NOBODY, "0x0"])).await,
        "0x0"
    );
    let at_genesis = json!([sender.address, {"blockHash": node.ledger.genesis().hash()}]);
    assert_eq!(
        call(node.rpc, "eth_getTransactionCount", at_genesis).await,
        "0x0"
    );
    assert_eq!(
        call(node.rpc, "eth_getTransactionCount", json!([sender.address])).await,
        "0x1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_of_one_account_at_once_get_different_nonces() {
    let node = TestNode::start().await;
    let from = Account::number(1).address;
    let send = || {
        call(
            node.rpc,
            "eth_sendTransaction",
            json!([{"from": from, "to": NOBODY, "value": "0x1"}]),
        )
    };
    let hashes = futures::future::join_all((0..20).map(|_| send())).await;
    for hash in &hashes {
        node.committed(hash.as_str().unwrap().parse().unwrap())
            .await;
    }
    assert_eq!(
        call(node.rpc, "eth_getTransactionCount", json!([from, "latest"])).await,
        "0x14"
    );
    assert_eq!(
        call(node.rpc, "eth_getBalance", json!([NOBODY])).await,
        "0x14"
    );
    let tx = call(node.rpc, "eth_getTransactionByHash", json!([hashes[0]])).await;
    assert_eq!((&tx["type"], &tx["gas"]), (&json!("0x2"), &json!("0x5208")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_signs_for_its_accounts_only() {
    let node = TestNode::start().await;
    let (ours, theirs) = (Account::number(1), Account::number(3));
    let accounts = call(node.rpc, "eth_accounts", json!([])).await;
    assert_eq!(accounts, json!([ours.address, Account::number(2).address]));

    let request = json!([{"from": ours.address, "to": NOBODY, "gas": "0x5208", "gasPrice": "0x0", "nonce": "0x0"}]);
    let signed = call(node.rpc, "eth_signTransaction", request).await;
    assert_eq!(signed["tx"]["type"], "0x0");
    let sent = call(node.rpc, "eth_sendRawTransaction", json!([signed["raw"]])).await;
    assert_eq!(sent, signed["tx"]["hash"]);

    let message = json!([ours.address, "0xdeadbeef"]);
    let signature = call(node.rpc, "eth_sign", message).await;
    let hash = alloy_primitives::eip191_hash_message([0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(
        signature,
        json!(alloy_primitives::Bytes::copy_from_slice(
            &ours.sign(hash).as_bytes()
        ))
    );

    let (code, text, _) = error(
        node.rpc,
        "eth_sendTransaction",
        json!([{"from": theirs.address, "to": NOBODY}]),
    )
    .await;
    assert_eq!(
        (code, text.starts_with("unknown account")),
        (-32_000, true),
        "{text}"
    );
    let (code, text, _) = error(
        node.rpc,
        "eth_sendTransaction",
        json!([{"from": ours.address}]),
    )
    .await;
    assert_eq!(
        (code, text.contains("contract creation without any data")),
        (-32_602, true),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_pool_is_shown() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let waiting = sender.transfer(2, NOBODY, 1);
    call(node.rpc, "eth_sendRawTransaction", json!([raw(&waiting)])).await;

    assert_eq!(
        call(node.rpc, "txpool_status", json!([])).await,
        json!({"pending": "0x0", "queued": "0x1"})
    );
    let content = call(node.rpc, "txpool_content", json!([])).await;
    let listed = &content["queued"][sender.address.to_checksum(None)]["2"];
    assert_eq!(listed["hash"], json!(waiting.hash()));
    assert_eq!(
        (&listed["blockHash"], &listed["blockNumber"]),
        (&Value::Null, &Value::Null)
    );
    let from = call(node.rpc, "txpool_contentFrom", json!([sender.address])).await;
    assert_eq!(&from["queued"]["2"], listed);
    let inspected = call(node.rpc, "txpool_inspect", json!([])).await;
    let line = format!("{}: 1 wei + 200000 gas × 0 wei", NOBODY.to_checksum(None));
    assert_eq!(
        inspected["queued"][sender.address.to_checksum(None)]["2"],
        json!(line)
    );
    let by_hash = call(
        node.rpc,
        "eth_getTransactionByHash",
        json!([waiting.hash()]),
    )
    .await;
    assert_eq!(&by_hash, listed);
    assert_eq!(
        call(
            node.rpc,
            "eth_getTransactionReceipt",
            json!([waiting.hash()])
        )
        .await,
        Value::Null
    );

    // The gap is what comes next.
    assert_eq!(
        call(
            node.rpc,
            "eth_getTransactionCount",
            json!([sender.address, "pending"])
        )
        .await,
        "0x0"
    );
    node.commit(&[sender.transfer(0, NOBODY, 1), sender.transfer(1, NOBODY, 1)])
        .await;
    node.committed(*waiting.hash()).await;
    assert_eq!(
        call(
            node.rpc,
            "eth_getTransactionCount",
            json!([sender.address, "pending"])
        )
        .await,
        "0x3"
    );
    assert_eq!(
        call(node.rpc, "txpool_status", json!([])).await,
        json!({"pending": "0x0", "queued": "0x0"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_send_answers_with_the_receipt_or_in_time() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let tx = sender.transfer(0, NOBODY, 1);
    let receipt = call(node.rpc, "eth_sendRawTransactionSync", json!([raw(&tx)])).await;
    assert_eq!(receipt["transactionHash"], json!(tx.hash()));
    assert_eq!(
        receipt,
        call(node.rpc, "eth_getTransactionReceipt", json!([tx.hash()])).await
    );
    let waiting = sender.transfer(5, NOBODY, 1);
    let (code, _, data) = error(
        node.rpc,
        "eth_sendRawTransactionSync",
        json!([raw(&waiting), "0x32"]),
    )
    .await;
    assert_eq!((code, data), (4, json!(waiting.hash())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_is_created_where_its_receipt_says() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    // Returns one byte of code, 0x00.
    let tx = sender.legacy(0, TxKind::Create, &[0x60, 0x01, 0x60, 0x00, 0xf3]);
    node.commit(std::slice::from_ref(&tx)).await;
    let receipt = call(node.rpc, "eth_getTransactionReceipt", json!([tx.hash()])).await;
    assert_eq!(receipt["contractAddress"], json!(sender.address.create(0)));
    assert_eq!(
        (&receipt["to"], &receipt["type"]),
        (&Value::Null, &json!("0x0"))
    );
    assert_eq!(
        call(node.rpc, "eth_getCode", json!([receipt["contractAddress"]])).await,
        "0x00"
    );
}
