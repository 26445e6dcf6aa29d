//! Heights whose blocks were pruned.

use alloy_primitives::Address;
use futures::StreamExt as _;
use quorate_proto::v1;
use quorate_proto::v1::get_block_request::Block as Choice;
use quorate_proto::v1::ledger_client::LedgerClient;
use serde_json::{Value, json};
use tonic::Code;

use crate::chain::{Account, TestNode};
use crate::client::{call, error};

/// The newest 256 blocks are never pruned.
const BLOCKS: u64 = 320;

#[tokio::test(flavor = "multi_thread")]
async fn pruned_heights_are_refused_with_the_first_that_is_kept() {
    let node = TestNode::start().await;
    let mut hashes = Vec::new();
    for nonce in 0..BLOCKS {
        let tx = Account::number(3).transfer(nonce, Address::repeat_byte(0x77), 1);
        hashes.push(*tx.hash());
        node.commit(&[tx]).await;
    }
    let base = node.blocks.prune(40).unwrap().base;
    assert!((2..=40).contains(&base), "{base}");
    let text = format!("pruned history unavailable: blocks are pruned below {base}");
    let expected = (4_444, text.clone(), json!({ "prunedBelow": base }));
    let rpc = node.rpc;
    for (method, params) in [
        ("eth_getBlockByNumber", json!(["0x1", false])),
        ("eth_getBlockReceipts", json!(["0x1"])),
        ("eth_getBlockTransactionCountByNumber", json!(["0x1"])),
        (
            "eth_getTransactionByBlockNumberAndIndex",
            json!(["0x1", "0x0"]),
        ),
        (
            "eth_getLogs",
            json!([{"fromBlock": "earliest", "toBlock": "latest"}]),
        ),
    ] {
        assert_eq!(error(rpc, method, params).await, expected, "{method}");
    }
    // Its transactions are forgotten with it; what is kept is kept whole.
    let forgotten = call(rpc, "eth_getTransactionReceipt", json!([hashes[0]])).await;
    assert_eq!(forgotten, Value::Null);
    let kept = format!("{base:#x}");
    assert_eq!(
        call(rpc, "eth_getBlockByNumber", json!([kept, false])).await["number"],
        json!(kept)
    );
    assert_eq!(
        call(rpc, "eth_getBlockByNumber", json!(["earliest", false])).await["number"],
        "0x0"
    );
    let history = call(rpc, "eth_feeHistory", json!(["0x400", "latest", [50]])).await;
    assert_eq!(history["oldestBlock"], json!(kept));
    let rows = history["reward"].as_array().unwrap().len() as u64;
    assert_eq!(rows, node.ledger.head().height() - base + 1);

    let mut client = LedgerClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap();
    let status = client
        .get_block(v1::GetBlockRequest {
            block: Some(Choice::Height(1)),
            hashes_only: false,
        })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::OutOfRange, text.as_str())
    );
    let mut blocks = client
        .subscribe_blocks(v1::SubscribeBlocksRequest {
            from_height: Some(1),
            hashes_only: true,
        })
        .await
        .unwrap()
        .into_inner();
    let status = blocks.next().await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::OutOfRange, text.as_str())
    );
    let mut blocks = client
        .subscribe_blocks(v1::SubscribeBlocksRequest {
            from_height: Some(base),
            hashes_only: true,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(blocks.next().await.unwrap().unwrap().height, base);
}
