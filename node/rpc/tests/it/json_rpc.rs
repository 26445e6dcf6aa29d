//! What the methods answer.

mod sends;

use alloy_primitives::{Address, B256, U256, keccak256};
use serde_json::{Value, json};

use crate::chain::{Account, CHAIN_ID, LOGGER, REVERTER, SPINNER, STORER, TestNode, raw};
use crate::client::{call, error, number, post, request};

const NOBODY: Address = Address::repeat_byte(0x77);

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_codes() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let tx = sender.transfer(0, NOBODY, 1);
    node.commit(std::slice::from_ref(&tx)).await;
    let send = async |tx: Value| error(node.rpc, "eth_sendRawTransaction", json!([tx])).await;

    let (code, message, _) = send(json!(raw(&tx))).await;
    assert_eq!(
        (code, message.starts_with("already known")),
        (1_000, true),
        "{message}"
    );
    let (code, message, _) = send(json!(raw(&sender.transfer(0, NOBODY, 2)))).await;
    assert_eq!(
        (code, message.starts_with("nonce too low")),
        (1, true),
        "{message}"
    );
    let (code, message, _) = send(json!(raw(&Account::number(50).transfer(0, NOBODY, 1)))).await;
    assert_eq!(
        (
            code,
            message.starts_with("insufficient funds for gas * price + value")
        ),
        (809, true),
        "{message}"
    );
    let (code, ..) = send(json!("0x1234")).await;
    assert_eq!(code, -32_602);
    let (code, message, _) = send(json!("0x12345")).await;
    assert_eq!(
        (code, message.starts_with("invalid argument transaction")),
        (-32_602, true),
        "{message}"
    );

    let (code, message, data) = error(node.rpc, "eth_call", json!([{"to": REVERTER}])).await;
    assert_eq!((code, message.as_str()), (3, "execution reverted: no"));
    assert!(data.as_str().unwrap().starts_with("0x08c379a0"), "{data}");
    let (code, ..) = error(node.rpc, "eth_estimateGas", json!([{"to": REVERTER}])).await;
    assert_eq!(code, 3);
    let (code, message, _) = error(
        node.rpc,
        "eth_call",
        json!([{"to": SPINNER, "gas": "0x186a0"}]),
    )
    .await;
    assert_eq!((code, message.as_str()), (-32_000, "out of gas"));
    let (code, message, _) = error(node.rpc, "eth_getBalance", json!([NOBODY, "0xffff"])).await;
    assert_eq!((code, message.as_str()), (-32_001, "unknown block"));
    let (code, message, _) = error(node.rpc, "eth_getBalance", json!([])).await;
    assert_eq!(
        (code, message.as_str()),
        (-32_602, "invalid argument address: missing")
    );
    let (code, ..) = error(node.rpc, "eth_nothing", json!([])).await;
    assert_eq!(code, -32_601);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_null() {
    let node = TestNode::start().await;
    let (hash, far) = (json!(B256::repeat_byte(9)), json!("0xffffff"));
    let null = [
        ("eth_getBlockByHash", json!([hash, false])),
        ("eth_getBlockByNumber", json!([far, false])),
        ("eth_getBlockReceipts", json!([far])),
        ("eth_getBlockTransactionCountByHash", json!([hash])),
        ("eth_getUncleCountByBlockNumber", json!([far])),
        ("eth_getTransactionByHash", json!([hash])),
        (
            "eth_getTransactionByBlockNumberAndIndex",
            json!(["latest", "0x5"]),
        ),
        ("eth_getTransactionReceipt", json!([hash])),
        (
            "eth_getUncleByBlockNumberAndIndex",
            json!(["latest", "0x0"]),
        ),
    ];
    for (method, params) in null {
        assert_eq!(
            call(node.rpc, method, params).await,
            Value::Null,
            "{method}"
        );
    }
    for tag in ["latest", "safe", "finalized", "pending", "earliest"] {
        let block = call(node.rpc, "eth_getBlockByNumber", json!([tag, false])).await;
        assert_eq!(block["hash"], json!(node.ledger.genesis().hash()), "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_see_state_and_overrides_of_their_block() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let word = |n: u64| B256::from(U256::from(n));
    node.commit(&[sender.call(0, STORER, 0, word(7).as_slice())])
        .await;
    let before = node.ledger.head().height();
    node.commit(&[sender.call(1, STORER, 0, word(8).as_slice())])
        .await;

    let read = json!({"to": STORER});
    assert_eq!(
        call(node.rpc, "eth_call", json!([read])).await,
        json!(word(8))
    );
    assert_eq!(
        call(node.rpc, "eth_call", json!([read, format!("{before:#x}")])).await,
        json!(word(7))
    );
    assert_eq!(
        call(node.rpc, "eth_call", json!([read, "earliest"])).await,
        json!(word(0))
    );
    let overrides = json!({ STORER.to_string(): {"stateDiff": {word(0).to_string(): word(9)}} });
    assert_eq!(
        call(node.rpc, "eth_call", json!([read, "latest", overrides])).await,
        json!(word(9))
    );
    // NUMBER as code: the block override shows.
    let code = json!({ NOBODY.to_string(): {"code": "0x4360005260206000f3"} });
    let params = json!([{"to": NOBODY}, "latest", code, {"number": "0x2a"}]);
    assert_eq!(call(node.rpc, "eth_call", params).await, json!(word(42)));

    let storage = json!([STORER, "0x0", "latest"]);
    assert_eq!(
        call(node.rpc, "eth_getStorageAt", storage).await,
        json!(word(8))
    );
    assert_eq!(
        call(node.rpc, "eth_getCode", json!([NOBODY, "latest"])).await,
        "0x"
    );
    let code = call(node.rpc, "eth_getCode", json!([STORER, "latest"])).await;
    assert!(code.as_str().unwrap().starts_with("0x36600f57"));
}

#[tokio::test(flavor = "multi_thread")]
async fn estimates_are_exact_and_access_lists_complete() {
    let node = TestNode::start().await;
    let from = Account::number(3).address;
    let transfer = json!([{"from": from, "to": NOBODY, "value": "0x1"}]);
    assert_eq!(call(node.rpc, "eth_estimateGas", transfer).await, "0x5208");
    // Both names of the input, as older clients send it.
    let store = json!({"from": from, "to": STORER, "data": B256::repeat_byte(1), "input": B256::repeat_byte(1)});
    let estimate = call(node.rpc, "eth_estimateGas", json!([store])).await;
    let mut enough = store.clone();
    enough["gas"] = estimate.clone();
    call(node.rpc, "eth_call", json!([enough])).await;
    let mut less = store.clone();
    less["gas"] = json!(format!("{:#x}", number(&estimate) - 1));
    let (code, ..) = error(node.rpc, "eth_call", json!([less])).await;
    assert_eq!(code, -32_000);

    let list = call(node.rpc, "eth_createAccessList", json!([store])).await;
    assert_eq!(
        list["accessList"],
        json!([{"address": STORER, "storageKeys": [B256::ZERO]}])
    );
    let different = json!([{"to": STORER, "data": "0x01", "input": "0x02"}]);
    let (code, ..) = error(node.rpc, "eth_call", different).await;
    assert_eq!(code, -32_602);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_roles_have_quorums_shapes() {
    let node = TestNode::start().await;
    assert_eq!(call(node.rpc, "raft_role", json!([])).await, "minter");
    let leader = call(node.rpc, "raft_leader", json!([])).await;
    assert_eq!(leader.as_str().unwrap().len(), 128);
    let members = call(node.rpc, "raft_cluster", json!([])).await;
    let member = &members[0];
    assert_eq!(member["nodeId"], leader);
    for (field, expected) in [
        ("raftId", json!(1)),
        ("p2pPort", json!(30_303)),
        ("raftPort", json!(30_303)),
        ("hostname", json!("node1")),
        ("role", json!("minter")),
        ("nodeActive", json!(true)),
    ] {
        assert_eq!(member[field], expected, "{field}");
    }

    let info = call(node.rpc, "admin_nodeInfo", json!([])).await;
    assert_eq!(
        info["enode"],
        json!(format!("enode://{}@node1:30303", leader.as_str().unwrap()))
    );
    assert_eq!(info["protocols"]["eth"]["network"], CHAIN_ID);
    let peers = call(node.rpc, "admin_peers", json!([])).await;
    assert_eq!(peers.as_array().unwrap().len(), 1);
    assert_eq!(
        peers[0]["network"]["remoteAddress"],
        "/ip4/10.0.0.2/tcp/30303"
    );
    assert_eq!(
        call(node.rpc, "admin_addPeer", json!(["enode://x@y:1"])).await,
        true
    );
    let (code, message, _) = error(node.rpc, "admin_addPeer", json!(["y:1"])).await;
    assert_eq!(
        (code, message.as_str()),
        (-32_602, "peer was not added: it must begin with enode://")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_the_node_reads_and_says_that_it_does_not_follow() {
    let node = TestNode::start_without_a_majority().await;
    assert_eq!(call(node.rpc, "raft_role", json!([])).await, "");
    let (code, message, _) = error(node.rpc, "raft_leader", json!([])).await;
    assert_eq!(
        (code, message.as_str()),
        (-32_002, "no leader is currently elected")
    );
    assert_eq!(
        call(node.rpc, "raft_cluster", json!([])).await[0]["role"],
        ""
    );
    let syncing = call(node.rpc, "eth_syncing", json!([])).await;
    assert_eq!(
        syncing,
        json!({"startingBlock": "0x0", "currentBlock": "0x0", "highestBlock": "0x0"})
    );
    assert_eq!(
        call(
            node.rpc,
            "eth_getBalance",
            json!([Account::number(3).address])
        )
        .await,
        "0xde0b6b3a7640000"
    );
    let waiting = Account::number(3).transfer(0, NOBODY, 1);
    let (code, ..) = error(
        node.rpc,
        "eth_sendRawTransactionSync",
        json!([raw(&waiting), "0xa"]),
    )
    .await;
    assert_eq!(code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_over_http_are_refused() {
    let node = TestNode::start().await;
    for method in ["eth_subscribe", "eth_unsubscribe"] {
        let (code, message, _) = error(node.rpc, method, json!(["newHeads"])).await;
        assert_eq!(
            (code, message.as_str()),
            (-32_601, "notifications not supported, use WebSocket")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_small_methods_answer() {
    let node = TestNode::start().await;
    let expected = [
        ("eth_chainId", json!([]), json!("0x539")),
        ("net_version", json!([]), json!("1337")),
        ("net_listening", json!([]), json!(true)),
        ("net_peerCount", json!([]), json!("0x1")),
        ("web3_clientVersion", json!([]), json!("Quorate/test")),
        (
            "web3_sha3",
            json!(["0x68656c6c6f"]),
            json!(keccak256("hello")),
        ),
        ("eth_gasPrice", json!([]), json!("0x0")),
        ("eth_maxPriorityFeePerGas", json!([]), json!("0x0")),
        ("eth_baseFee", json!([]), json!("0x0")),
        ("eth_blobBaseFee", json!([]), json!("0x1")),
        ("eth_blockNumber", json!([]), json!("0x0")),
        ("eth_syncing", json!([]), json!(false)),
        (
            "eth_getUncleCountByBlockHash",
            json!([node.ledger.genesis().hash()]),
            json!("0x0"),
        ),
        (
            "rpc_modules",
            json!([]),
            json!({"admin": "1.0", "eth": "1.0", "net": "1.0", "quorumExtension": "1.0", "raft": "1.0", "rpc": "1.0", "txpool": "1.0", "web3": "1.0"}),
        ),
    ];
    for (method, params, expected) in expected {
        assert_eq!(call(node.rpc, method, params).await, expected, "{method}");
    }
    // Parameters may be left out altogether.
    let body = json!({"jsonrpc": "2.0", "id": "x", "method": "eth_chainId"}).to_string();
    let (status, body) = post(node.rpc, "127.0.0.1", body).await;
    assert_eq!((status, body.contains("0x539")), (200, true), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fee_history_weighs_tips_by_gas() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    node.commit(&[sender.call_paying(0, LOGGER, 0, &[], 7)])
        .await;
    let history = call(
        node.rpc,
        "eth_feeHistory",
        json!(["0x5", "latest", [0, 50, 100]]),
    )
    .await;
    let blocks = node.ledger.head().height() as usize + 1;
    assert_eq!(history["oldestBlock"], "0x0");
    assert_eq!(history["gasUsedRatio"].as_array().unwrap().len(), blocks);
    assert_eq!(
        history["baseFeePerGas"].as_array().unwrap().len(),
        blocks + 1
    );
    assert_eq!(history["reward"][blocks - 1], json!(["0x7", "0x7", "0x7"]));
    let without = call(node.rpc, "eth_feeHistory", json!([1, "latest", null])).await;
    assert!(without.get("reward").is_none());
    let (code, ..) = error(
        node.rpc,
        "eth_feeHistory",
        json!(["0x1", "latest", [50, 20]]),
    )
    .await;
    assert_eq!(code, -32_602);
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_for_the_head_and_old_ones_are_refused() {
    let node = TestNode::start().await;
    let sender = Account::number(3);
    let proof = call(
        node.rpc,
        "eth_getProof",
        json!([sender.address, ["0x0"], "latest"]),
    )
    .await;
    assert_eq!(proof["balance"], "0xde0b6b3a7640000");
    let root = proof["accountProof"][0]
        .as_str()
        .unwrap()
        .parse::<alloy_primitives::Bytes>()
        .unwrap();
    assert_eq!(
        keccak256(&root),
        node.ledger.genesis().block.header().state_root
    );
    node.commit(&[sender.transfer(0, NOBODY, 1)]).await;
    let (code, ..) = error(
        node.rpc,
        "eth_getProof",
        json!([sender.address, [], "earliest"]),
    )
    .await;
    assert_eq!(code, 4_444);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_request_in_order() {
    let node = TestNode::start_with(|config| config.batch_max = 3).await;
    let one =
        |id: u64, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": []});
    let batch = json!([
        one(1, "eth_chainId"),
        one(2, "eth_nothing"),
        one(3, "eth_blockNumber")
    ]);
    let (_, body) = post(node.rpc, "127.0.0.1", batch.to_string()).await;
    let answers: Vec<Value> = serde_json::from_str(&body).unwrap();
    assert_eq!(
        answers
            .iter()
            .map(|a| a["id"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(answers[0]["result"], "0x539");
    assert_eq!(answers[1]["error"]["code"], -32_601);
    let long = json!((0..4).map(|id| one(id, "eth_chainId")).collect::<Vec<_>>());
    let (_, body) = post(node.rpc, "127.0.0.1", long.to_string()).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["error"]["code"], -32_010, "{body}");
    assert_eq!(
        request(node.rpc, "eth_chainId", json!([1])).await["error"]["code"],
        -32_602
    );
}
