//! Reads over JSON-RPC on parties, and on nodes that are none.

use alloy_primitives::{Address, B256, TxKind, U256, hex};
use quorate_chain::{PRIVACY_PRECOMPILE, PublicForm, Transaction, marker_data};
use quorate_enclave::{Erasure, ErasureReason, PayloadHash, PrivacyFlag};
use quorate_privacy::{ContractMetadata, RecordOutcome};
use quorate_rpc::PayloadView;
use serde_json::{Value, json};

use crate::chain::{Account, LOGGER, STORER, TestNode, topic};
use crate::client::{Socket, call, error, number};
use crate::parties::{
    FakePrivacy, PRIVATE_REVERTER, PRIVATE_STORER, our_key, received, record, their_key, with_logs,
};

fn word(n: u64) -> B256 {
    B256::from(U256::from(n))
}

fn marker(sender: &Account, nonce: u64, hash: u8) -> Transaction {
    let data = marker_data(&[hash; 64], &[[7; 8]; 4]).unwrap();
    sender.call(nonce, PRIVACY_PRECOMPILE, 0, &data)
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_shown_to_parties_only_and_silence_is_no_answer() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let hash = |byte: u8| hex::encode_prefixed([byte; 64]);
    let put = |byte: u8, view| privacy.put(PayloadHash::from_bytes([byte; 64]), view);
    put(1, PayloadView::Party(Box::new(received(b"clear".into()))));
    put(2, PayloadView::Missing);
    put(
        3,
        PayloadView::Erased(Erasure {
            hash: PayloadHash::from_bytes([3; 64]),
            sequence: 1,
            erased_at_ms: 1,
            reason: ErasureReason::Requested,
            note: String::new(),
        }),
    );
    let payload = async |byte| call(node.rpc, "eth_getQuorumPayload", json!([hash(byte)])).await;
    assert_eq!(payload(1).await, hex::encode_prefixed(b"clear"));
    assert_eq!(payload(3).await, "0x");
    assert_eq!(payload(4).await, "0x");
    let (code, _, data) = error(node.rpc, "eth_getQuorumPayload", json!([hash(2)])).await;
    assert_eq!((code, &data["reason"]), (-32_014, &json!("payloadMissing")));

    let extra = call(node.rpc, "eth_getQuorumPayloadExtra", json!([hash(1)])).await;
    assert_eq!(
        (&extra["isSender"], &extra["payload"]),
        (&json!(true), &json!("0x636c656172"))
    );
    let meta = &extra["extraMetaData"];
    assert_eq!(meta["Sender"], json!(our_key()));
    assert_eq!(meta["PrivacyFlag"], 0);
    assert_eq!(meta["ACHashes"], json!({hash(3): {}}));
    let none = call(node.rpc, "eth_getQuorumPayloadExtra", json!([hash(4)])).await;
    assert_eq!(
        none,
        json!({"payload": "0x", "extraMetaData": null, "isSender": false})
    );
    for wrong in ["0x", "0x00", "0xzz"] {
        assert_eq!(
            error(node.rpc, "eth_getQuorumPayload", json!([wrong]))
                .await
                .0,
            -32_602
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_contracts_answer_where_there_is_no_public_code() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let ask = async |method: &str, params: Value| call(node.rpc, method, params).await;
    let code = ask("eth_getCode", json!([PRIVATE_STORER, "latest"])).await;
    assert!(code.as_str().unwrap().starts_with("0x3660"));
    assert_eq!(
        ask("eth_getStorageAt", json!([PRIVATE_STORER, "0x0", "latest"])).await,
        json!(word(7))
    );
    assert_eq!(
        ask("eth_call", json!([{"to": PRIVATE_STORER}, "latest"])).await,
        json!(word(7))
    );
    let set = json!([{"from": Account::number(1).address, "to": PRIVATE_STORER, "data": word(9)}]);
    assert!(number(&ask("eth_estimateGas", set).await) > 22_000);
    let reverted = error(
        node.rpc,
        "eth_call",
        json!([{"to": PRIVATE_REVERTER}, "latest"]),
    )
    .await;
    assert_eq!(
        (reverted.0, reverted.1.as_str()),
        (3, "execution reverted: no")
    );
    let value = json!([{"from": Account::number(1).address, "to": PRIVATE_STORER, "value": "0x1"}, "latest"]);
    let refused = error(node.rpc, "eth_call", value).await;
    assert_eq!(
        refused.1,
        "ether value is not supported for private transactions"
    );

    // A creation is private if the client says so, and pays for what the chain carries.
    let creation =
        json!([{"from": Account::number(1).address, "data": "0x00", "privateFor": [their_key()]}]);
    assert!(number(&ask("eth_estimateGas", creation).await) >= 53_000 + 64 * 16);

    // Overridden code is what the client wants to see run.
    let overridden = json!([{"to": PRIVATE_STORER}, "latest", {PRIVATE_STORER.to_string(): {"code": "0x602a60005260206000f3"}}]);
    assert_eq!(ask("eth_call", overridden).await, json!(word(42)));

    let root = ask("eth_storageRoot", json!([PRIVATE_STORER])).await;
    let empty = ask("eth_storageRoot", json!([Address::repeat_byte(0x99)])).await;
    assert_ne!(root, empty);
    assert_eq!(
        ask("debug_privateStateRoot", json!(["latest"])).await,
        json!(privacy.state_root())
    );
    assert_eq!(
        ask("debug_privateStateRoot", json!([])).await,
        json!(privacy.state_root())
    );
    assert_eq!(ask("eth_getPSI", json!([])).await, "private");
    assert_eq!(
        ask("eth_getPrivacyPrecompileAddress", json!([])).await,
        json!(PRIVACY_PRECOMPILE)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_never_waits_for_private_execution() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let sender = Account::number(3);
    let logged = sender.call(0, LOGGER, 0, word(1).as_slice());
    node.commit(&[
        logged.clone(),
        sender.call(1, STORER, 0, word(5).as_slice()),
    ])
    .await;
    let hash = privacy.stall(0);

    let ask = async |method: &str, params: Value| call(node.rpc, method, params).await;
    assert_eq!(
        ask("eth_call", json!([{"to": STORER}, "latest"])).await,
        json!(word(5))
    );
    assert_eq!(
        ask("eth_getStorageAt", json!([STORER, "0x0", "latest"])).await,
        json!(word(5))
    );
    assert_ne!(ask("eth_getCode", json!([STORER, "latest"])).await, "0x");
    ask("eth_estimateGas", json!([{"to": STORER, "data": word(6)}])).await;
    let filter = json!([{"fromBlock": "0x0", "address": LOGGER}]);
    assert_eq!(
        ask("eth_getLogs", filter).await.as_array().unwrap().len(),
        1
    );
    assert_eq!(
        ask("eth_getTransactionReceipt", json!([logged.hash()])).await["status"],
        "0x1"
    );
    assert_eq!(
        ask("eth_getBlockReceipts", json!(["0x1"])).await[0]["status"],
        "0x1"
    );
    ask("eth_getBalance", json!([sender.address, "latest"])).await;
    ask("eth_getTransactionCount", json!([sender.address, "latest"])).await;

    // Everything else says what it waits for.
    let cases = [
        ("eth_call", json!([{"to": PRIVATE_STORER}, "latest"])),
        ("eth_getCode", json!([PRIVATE_STORER, "latest"])),
        ("eth_getStorageAt", json!([PRIVATE_STORER, "0x0", "latest"])),
        ("eth_estimateGas", json!([{"to": PRIVATE_STORER}])),
        ("eth_storageRoot", json!([PRIVATE_STORER])),
        ("eth_getLogs", json!([{"fromBlock": "0x0"}])),
        (
            "eth_getLogs",
            json!([{"fromBlock": "0x0", "address": [LOGGER, PRIVATE_STORER]}]),
        ),
        ("eth_getContractPrivacyMetadata", json!([PRIVATE_STORER])),
        ("debug_privateStateRoot", json!(["latest"])),
    ];
    for (method, params) in cases {
        let (code, message, data) = error(node.rpc, method, params).await;
        assert_eq!(code, -32_014, "{method}: {message}");
        let expected = format!("private state at block 0, waiting for payload {hash}");
        assert!(message.starts_with(&expected), "{method}: {message}");
        assert_eq!(
            (&data["retryable"], &data["payload"]),
            (&json!(true), &json!(hash.to_string()))
        );
    }
    // Where private execution has been there is an answer.
    let past = json!([PRIVATE_STORER, "0x0", "0x0"]);
    assert_eq!(ask("eth_getStorageAt", past).await, json!(word(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_sees_its_private_receipt_in_place_of_the_public_one_in_quorums_form() {
    let privacy = FakePrivacy::party(PublicForm::Quorum);
    let node = TestNode::start_private(privacy.clone()).await;
    let sender = Account::number(3);
    let ours = sender.quorum_private(0, TxKind::Create, &[1; 64]);
    let theirs = sender.quorum_private(1, TxKind::Call(PRIVATE_STORER), &[2; 64]);
    let (ours_at, theirs_at) = {
        node.commit(std::slice::from_ref(&ours)).await;
        node.commit(std::slice::from_ref(&theirs)).await;
        (
            node.committed(*ours.hash()).await,
            node.committed(*theirs.hash()).await,
        )
    };
    let created = Address::repeat_byte(0xc1);
    let mut failed = with_logs(record(*ours.hash(), ours_at, 0, PublicForm::Quorum), &[]);
    failed.contract_address = Some(created);
    failed.to = None;
    failed.outcome = RecordOutcome::Reverted {
        data: vec![0xab].into(),
    };
    privacy.execute(theirs_at, vec![failed]);

    let receipt = call(node.rpc, "eth_getTransactionReceipt", json!([ours.hash()])).await;
    assert_eq!(
        (&receipt["status"], &receipt["gasUsed"]),
        (&json!("0x0"), &json!("0x0"))
    );
    assert_eq!(receipt["contractAddress"], json!(created));
    assert_eq!(receipt["revertReason"], "0xab");
    let all = call(
        node.rpc,
        "eth_getBlockReceipts",
        json!([format!("{ours_at:#x}")]),
    )
    .await;
    assert_eq!(all, json!([receipt]));
    let private = call(
        node.rpc,
        "eth_getPrivateTransactionReceipt",
        json!([ours.hash()]),
    )
    .await;
    assert_eq!(
        (number(&private["gasUsed"]), &private["status"]),
        (43_210, &json!("0x0"))
    );

    // No party of the other: the public receipt.
    let receipt = call(
        node.rpc,
        "eth_getTransactionReceipt",
        json!([theirs.hash()]),
    )
    .await;
    assert_eq!(receipt["status"], "0x1");
    assert!(number(&receipt["gasUsed"]) > 21_000);
    for method in [
        "eth_getPrivateTransactionReceipt",
        "eth_getPrivateTransactionByHash",
    ] {
        assert_eq!(
            call(node.rpc, method, json!([theirs.hash()])).await,
            Value::Null
        );
    }
    // Receipts of this form wait, because they depend on it.
    privacy.stall(0);
    assert_eq!(
        error(node.rpc, "eth_getTransactionReceipt", json!([ours.hash()]))
            .await
            .0,
        -32_014
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_markers_private_side_has_methods_of_its_own() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let sender = Account::number(3);
    let tx = marker(&sender, 0, 4);
    node.commit(std::slice::from_ref(&tx)).await;
    let height = node.committed(*tx.hash()).await;
    let mut done = with_logs(record(*tx.hash(), height, 0, PublicForm::Marker), &[1, 2]);
    done.sender = sender.address;
    privacy.execute(height, vec![done]);

    let public = call(node.rpc, "eth_getTransactionReceipt", json!([tx.hash()])).await;
    assert_eq!(
        (&public["isPrivacyMarkerTransaction"], &public["logs"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(public["to"], json!(PRIVACY_PRECOMPILE));
    let private = call(
        node.rpc,
        "eth_getPrivateTransactionReceipt",
        json!([tx.hash()]),
    )
    .await;
    assert_eq!(private["transactionHash"], json!(tx.hash()));
    assert_eq!(private["to"], json!(PRIVATE_STORER));
    assert_eq!(private["logs"].as_array().unwrap().len(), 2);
    assert_eq!(private.get("isPrivacyMarkerTransaction"), None);
    let inner = call(
        node.rpc,
        "eth_getPrivateTransactionByHash",
        json!([tx.hash()]),
    )
    .await;
    assert_eq!(
        (&inner["from"], &inner["to"]),
        (&json!(sender.address), &json!(PRIVATE_STORER))
    );
    assert_eq!(
        (&inner["v"], &inner["nonce"]),
        (&json!("0x25"), &json!("0x3"))
    );
    assert_eq!(inner["input"], hex::encode_prefixed([4; 64]));
    assert_eq!(inner["payload"], hex::encode_prefixed(b"clear"));
    // A public transaction has no private side.
    let public = sender.transfer(1, sender.address, 0);
    node.commit(std::slice::from_ref(&public)).await;
    let none = call(
        node.rpc,
        "eth_getPrivateTransactionReceipt",
        json!([public.hash()]),
    )
    .await;
    assert_eq!(none, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn contracts_tell_parties_how_they_came_to_be() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    privacy.put_contract(ContractMetadata {
        address: PRIVATE_STORER,
        creation_transaction: B256::repeat_byte(1),
        creation_hash: PayloadHash::from_bytes([6; 64]),
        flag: PrivacyFlag::MandatoryParties,
        parties: None,
        mandatory: [their_key()].into(),
        creator: our_key(),
        as_recipient: our_key(),
        created_at: 1,
    });
    let known = call(
        node.rpc,
        "eth_getContractPrivacyMetadata",
        json!([PRIVATE_STORER]),
    )
    .await;
    let expected = json!({
        "creationTxHash": hex::encode_prefixed([6; 64]), "privacyFlag": 2, "mandatoryFor": [their_key()],
    });
    assert_eq!(known, expected);
    let unknown = call(node.rpc, "eth_getContractPrivacyMetadata", json!([STORER])).await;
    assert_eq!(unknown, Value::Null);
}

/// Data and numbers of logs.
fn told(logs: &Value) -> Vec<(String, u64)> {
    let logs = logs.as_array().unwrap().iter();
    logs.map(|log| {
        (
            log["data"].as_str().unwrap().to_owned(),
            number(&log["logIndex"]),
        )
    })
    .collect()
}

/// Two blocks, each with a public log and a private transaction that logs; returns their heights and the private ones.
async fn logging(node: &TestNode, sender: &Account, first: u64) -> Vec<(u64, Transaction)> {
    let mut blocks = Vec::new();
    for nonce in [first, first + 2] {
        let log = sender.call(nonce, LOGGER, 0, word(nonce).as_slice());
        let private = marker(sender, nonce + 1, 1);
        node.commit(&[log]).await;
        node.commit(std::slice::from_ref(&private)).await;
        blocks.push((node.committed(*private.hash()).await, private));
    }
    blocks
}

#[tokio::test(flavor = "multi_thread")]
async fn private_logs_are_found_with_numbers_of_their_own() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let sender = Account::number(3);
    // Both in one block: the numbers of private logs must not be those of public ones.
    let log = sender.call(0, LOGGER, 0, word(1).as_slice());
    let (first, second) = (marker(&sender, 1, 1), marker(&sender, 2, 2));
    node.commit(&[log.clone(), first.clone(), second.clone()])
        .await;
    let position = |tx: &Transaction| {
        let at = node.ledger.locate(tx.hash()).unwrap().unwrap();
        (at.height, at.position)
    };
    let at = [position(&first), position(&second)];
    let records =
        [(&first, at[0], [1, 2].as_slice()), (&second, at[1], &[3])].map(|(tx, at, words)| {
            with_logs(record(*tx.hash(), at.0, at.1, PublicForm::Marker), words)
        });
    privacy.execute(at[1].0, records.to_vec());

    let all = call(node.rpc, "eth_getLogs", json!([{"fromBlock": "0x0"}])).await;
    let private: Vec<String> = told(&all).into_iter().map(|(data, _)| data).collect();
    assert_eq!(
        private,
        [word(1).to_string().as_str(), "0x01", "0x02", "0x03"]
    );
    let mut numbers = std::collections::BTreeSet::new();
    for log in all.as_array().unwrap() {
        let place = (log["blockHash"].to_string(), number(&log["logIndex"]));
        assert!(numbers.insert(place), "two logs have one number: {all}");
    }
    let topics = json!([{"fromBlock": "0x0", "topics": [B256::repeat_byte(2)]}]);
    let found = call(node.rpc, "eth_getLogs", topics).await;
    assert_eq!(found, json!([all[2]]));
    assert_eq!(found[0]["address"], json!(PRIVATE_STORER));
    assert_eq!(found[0]["transactionHash"], json!(first.hash()));
    let by_address = json!([{"fromBlock": "0x0", "address": PRIVATE_STORER}]);
    assert_eq!(
        told(&call(node.rpc, "eth_getLogs", by_address).await).len(),
        3
    );
    let by_hash = json!([{"blockHash": all[1]["blockHash"], "address": PRIVATE_STORER}]);
    assert!(!told(&call(node.rpc, "eth_getLogs", by_hash).await).is_empty());
    // A receipt numbers them as the query does.
    let receipt = call(
        node.rpc,
        "eth_getPrivateTransactionReceipt",
        json!([second.hash()]),
    )
    .await;
    assert_eq!(receipt["logs"], json!([all[3]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_return_private_logs_when_private_execution_has_reached_them() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let sender = Account::number(3);
    let filter = call(node.rpc, "eth_newFilter", json!([{"topics": []}])).await;
    privacy.stall(0);
    let blocks = logging(&node, &sender, 0).await;
    let changes = async || told(&call(node.rpc, "eth_getFilterChanges", json!([filter])).await);
    assert_eq!(changes().await.len(), 2);
    assert_eq!(changes().await, []);
    // The first is there, then the second.
    for ((height, tx), byte) in blocks.iter().zip([5u8, 6]) {
        let done = record(*tx.hash(), *height, 0, PublicForm::Marker);
        privacy.execute(*height, vec![with_logs(done, &[byte])]);
        assert_eq!(changes().await, [(format!("0x0{byte}"), 0)]);
        assert_eq!(changes().await, []);
    }
    let all = call(node.rpc, "eth_getFilterLogs", json!([filter])).await;
    assert_eq!(
        told(&all).len(),
        1,
        "of the head, which the filter does not name otherwise"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_get_public_logs_at_once_and_private_ones_in_their_order() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let sender = Account::number(3);
    let mut socket = Socket::open(node.rpc).await;
    socket.subscribe(json!(["logs", {"topics": []}])).await;
    let blocks = logging(&node, &sender, 0).await;
    for nonce in [0, 2] {
        let (_, log) = socket.next().await.unwrap();
        assert_eq!(log["data"], json!(word(nonce)));
        assert_eq!(log["topics"][0], json!(topic()));
    }
    let records = blocks.iter().zip([5u8, 6]).map(|((height, tx), byte)| {
        with_logs(
            record(*tx.hash(), *height, 0, PublicForm::Marker),
            &[byte, byte],
        )
    });
    privacy.execute(blocks[1].0, records.collect());
    for (byte, index, (height, tx)) in [
        (5, 0, &blocks[0]),
        (5, 1, &blocks[0]),
        (6, 0, &blocks[1]),
        (6, 1, &blocks[1]),
    ] {
        let (_, log) = socket.next().await.unwrap();
        assert_eq!(
            (log["data"].as_str(), number(&log["logIndex"])),
            (Some(format!("0x0{byte}").as_str()), index)
        );
        assert_eq!(
            (number(&log["blockNumber"]), &log["transactionHash"]),
            (*height, &json!(tx.hash()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_party_answers_as_if_there_was_nothing() {
    let without = TestNode::start().await;
    let stranger = TestNode::start_private(FakePrivacy::stranger()).await;
    let sender = Account::number(3);
    let private = sender.quorum_private(0, TxKind::Create, &[1; 64]);
    let log = sender.call(1, LOGGER, 0, word(1).as_slice());
    let created = sender.address.create(0);
    for node in [&without, &stranger] {
        node.commit(std::slice::from_ref(&private)).await;
        node.commit(std::slice::from_ref(&log)).await;
    }
    let hash = private.hash();
    let cases = [
        ("eth_getTransactionByHash", json!([hash])),
        ("eth_getTransactionReceipt", json!([hash])),
        ("eth_getRawTransactionByHash", json!([hash])),
        ("eth_getBlockByNumber", json!(["0x1", true])),
        ("eth_getBlockReceipts", json!(["0x1"])),
        ("eth_getCode", json!([created, "latest"])),
        ("eth_getStorageAt", json!([created, "0x0", "latest"])),
        ("eth_storageRoot", json!([created])),
        ("eth_getBalance", json!([created, "latest"])),
        ("eth_getTransactionCount", json!([created, "latest"])),
        ("eth_getProof", json!([created, ["0x0"], "latest"])),
        (
            "eth_call",
            json!([{"to": created, "data": "0x6d4ce63c"}, "latest"]),
        ),
        (
            "eth_estimateGas",
            json!([{"to": created, "data": "0x6d4ce63c"}]),
        ),
        ("eth_createAccessList", json!([{"to": created}, "latest"])),
        ("eth_getLogs", json!([{"fromBlock": "0x0"}])),
        (
            "eth_getLogs",
            json!([{"fromBlock": "0x0", "address": created}]),
        ),
        ("txpool_content", json!([])),
    ];
    for (method, params) in cases {
        let ask = async |node: &TestNode| call(node.rpc, method, params.clone()).await;
        assert_eq!(
            ask(&stranger).await,
            ask(&without).await,
            "{method} {params}"
        );
    }
    let nothing = [
        (
            "eth_getQuorumPayload",
            json!([hex::encode_prefixed([1; 64])]),
            json!("0x"),
        ),
        (
            "eth_getPrivateTransactionByHash",
            json!([hash]),
            Value::Null,
        ),
        (
            "eth_getPrivateTransactionReceipt",
            json!([hash]),
            Value::Null,
        ),
        (
            "eth_getContractPrivacyMetadata",
            json!([created]),
            Value::Null,
        ),
    ];
    for (method, params, expected) in nothing {
        assert_eq!(
            call(stranger.rpc, method, params).await,
            expected,
            "{method}"
        );
    }
}
