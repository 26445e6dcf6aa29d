//! Results against the schemas of the execution-apis specification.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::{B256, TxKind};
use serde_json::{Value, json};

use crate::chain::{Account, LOGGER, STORER, TestNode, raw};
use crate::client::call;

/// The unpacked specification, or `None` (and a line that says so) where the vectors are not there.
fn unpacked() -> Option<tempfile::TempDir> {
    let vectors = match std::env::var_os("QUORATE_VECTORS") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
    };
    let archive = vectors.join("execution-apis-schemas.tar.xz");
    if !archive.exists() {
        println!(
            "skipped: results_validate_against_the_execution_apis_schemas (no {})",
            archive.display()
        );
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    Some(dir)
}

fn yaml_files(dir: &Path) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files
        .iter()
        .map(|path| serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        .collect()
}

struct Specification {
    methods: BTreeMap<String, Value>,
    definitions: serde_json::Map<String, Value>,
}

impl Specification {
    fn read(root: &Path) -> Self {
        let mut methods = BTreeMap::new();
        for group in ["eth", "txpool"] {
            for file in yaml_files(&root.join(group)) {
                for method in file.as_array().unwrap() {
                    let schema = method["result"]["schema"].clone();
                    methods.insert(method["name"].as_str().unwrap().to_owned(), schema);
                }
            }
        }
        let mut definitions = serde_json::Map::new();
        for file in yaml_files(&root.join("schemas")) {
            definitions.extend(file.as_object().unwrap().clone());
        }
        Self {
            methods,
            definitions,
        }
    }

    fn check(&self, method: &str, result: &Value) {
        let schema = self
            .methods
            .get(method)
            .unwrap_or_else(|| panic!("{method} is not in the specification"));
        assert!(schema.is_object(), "{method} has no result schema");
        let document = json!({
            "$schema": "https://json-schema.org/draft/2019-09/schema",
            "allOf": [schema],
            "definitions": self.definitions,
        });
        let text = document
            .to_string()
            .replace("#/components/schemas/", "#/definitions/");
        let validator = jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(result)
            .map(|e| format!("{} at {}", e, e.instance_path()))
            .collect();
        assert!(
            faults.is_empty(),
            "{method}: {result}\n{}",
            faults.join("\n")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_validate_against_the_execution_apis_schemas() {
    let Some(dir) = unpacked() else { return };
    let specification = Specification::read(&dir.path().join("src"));
    let node = TestNode::start().await;
    let (sender, authority) = (Account::number(3), Account::number(4));
    let ours = Account::number(1).address;
    let waiting = sender.transfer(50, ours, 1);
    let block_filter = call(node.rpc, "eth_newBlockFilter", json!([])).await;
    let log_filter = call(
        node.rpc,
        "eth_newFilter",
        json!([{"fromBlock": "0x0", "address": LOGGER}]),
    )
    .await;
    // One transaction of each type, a contract creation, and one that waits.
    let transactions = [
        sender.legacy(0, TxKind::Call(LOGGER), &[1; 32]),
        sender.with_access_list(1, STORER),
        sender.call_paying(2, LOGGER, 0, &[2; 32], 5),
        sender.delegating(3, &authority, 0, STORER),
        sender.legacy(4, TxKind::Create, &[0x60, 0x01, 0x60, 0x00, 0xf3]),
    ];
    node.commit(&transactions).await;
    node.pool.submit(&raw(&waiting)).unwrap();
    let head = node.ledger.head();
    let (number, hash) = (format!("{:#x}", head.height()), head.hash());

    let mut requests = vec![
        ("eth_chainId", json!([])),
        ("eth_syncing", json!([])),
        ("eth_coinbase", json!([])),
        ("eth_accounts", json!([])),
        ("eth_blockNumber", json!([])),
        ("net_version", json!([])),
        ("eth_gasPrice", json!([])),
        ("eth_baseFee", json!([])),
        ("eth_blobBaseFee", json!([])),
        ("eth_maxPriorityFeePerGas", json!([])),
        ("eth_feeHistory", json!(["0x5", "latest", [10, 90]])),
        ("eth_getBlockByNumber", json!(["0x0", true])),
        ("eth_getBlockByNumber", json!(["0xffff", true])),
        ("eth_getBlockByHash", json!([hash, true])),
        ("eth_getBlockByHash", json!([hash, false])),
        ("eth_getBlockTransactionCountByHash", json!([hash])),
        ("eth_getBlockTransactionCountByNumber", json!([number])),
        ("eth_getTransactionByHash", json!([B256::ZERO])),
        ("eth_getTransactionReceipt", json!([B256::ZERO])),
        (
            "eth_getTransactionByBlockHashAndIndex",
            json!([hash, "0x0"]),
        ),
        (
            "eth_getTransactionByBlockNumberAndIndex",
            json!([number, "0x0"]),
        ),
        ("eth_getBalance", json!([sender.address, "latest"])),
        ("eth_getStorageAt", json!([STORER, "0x0", "latest"])),
        (
            "eth_getTransactionCount",
            json!([sender.address, "pending"]),
        ),
        ("eth_getCode", json!([authority.address, "latest"])),
        (
            "eth_getProof",
            json!([STORER, ["0x0", B256::repeat_byte(1)], "latest"]),
        ),
        ("eth_call", json!([{"to": STORER}, "latest"])),
        (
            "eth_estimateGas",
            json!([{"from": sender.address, "to": STORER, "input": B256::ZERO}]),
        ),
        (
            "eth_createAccessList",
            json!([{"from": sender.address, "to": STORER, "input": B256::ZERO}]),
        ),
        ("eth_getLogs", json!([{"fromBlock": "0x0"}])),
        ("eth_newFilter", json!([{}])),
        ("eth_newBlockFilter", json!([])),
        ("eth_newPendingTransactionFilter", json!([])),
        ("eth_getFilterChanges", json!([block_filter])),
        ("eth_getFilterChanges", json!([log_filter])),
        ("eth_getFilterLogs", json!([log_filter])),
        ("eth_uninstallFilter", json!([block_filter])),
        ("eth_sign", json!([ours, "0xdeadbeef"])),
        (
            "eth_signTransaction",
            json!([{"from": ours, "to": LOGGER, "gas": "0x30d40", "nonce": "0x0"}]),
        ),
        (
            "eth_sendTransaction",
            json!([{"from": ours, "to": LOGGER, "gas": "0x30d40"}]),
        ),
        (
            "eth_sendRawTransaction",
            json!([raw(&sender.transfer(51, ours, 1))]),
        ),
        ("txpool_status", json!([])),
        ("txpool_content", json!([])),
        ("txpool_contentFrom", json!([sender.address])),
    ];
    for height in 0..=head.height() {
        requests.push(("eth_getBlockReceipts", json!([format!("{height:#x}")])));
        requests.push((
            "eth_getBlockByNumber",
            json!([format!("{height:#x}"), true]),
        ));
    }
    for tx in &transactions {
        requests.push(("eth_getTransactionByHash", json!([tx.hash()])));
        requests.push(("eth_getTransactionReceipt", json!([tx.hash()])));
    }
    for (method, params) in requests {
        let result = call(node.rpc, method, params).await;
        specification.check(method, &result);
    }
    // The checker is not asleep.
    let wrong = std::panic::catch_unwind(|| specification.check("eth_chainId", &json!(5)));
    assert!(wrong.is_err());
}
