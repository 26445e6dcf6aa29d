//! What GoQuorum's own acceptance tests ask of a Raft network, as far as it is about public transactions.

use serde_json::{Value, json};

use crate::consortium::{ALICE, BOB, Consortium, quantity};

/// keccak256 of `Transfer(address,address,uint256)`.
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

fn wei(value: &Value) -> u128 {
    u128::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn a_network_upgraded_node_by_node_and_all_at_once_keeps_chain_and_goes_on() {
    let mut c = Consortium::of(4);
    c.bench(0, &["--count", "500", "--accounts", "20"]);
    let before = c.height(0);
    c.assert_same_chain(before);
    // Node by node, as with a new version.
    for i in 0..4 {
        c.stop(i);
        let other = (i + 1) % 4;
        let hash = c.wait("the others go on", || c.try_transfer(other, ALICE, BOB));
        c.receipt(other, &hash);
        c.start(i);
        c.wait_ready();
        c.receipt(i, &hash);
    }
    let height = c.height(0);
    assert!(height > before);
    c.assert_same_chain(height);
    // All at once.
    for i in 0..4 {
        c.stop(i);
    }
    for i in 0..4 {
        c.start(i);
    }
    c.wait_ready();
    c.assert_same_chain(height);
    for n in 0..10 {
        let hash = c.wait("a transfer is taken", || c.try_transfer(n % 4, ALICE, BOB));
        assert_eq!(c.receipt((n + 1) % 4, &hash)["status"], "0x1");
    }
}

#[test]
fn with_a_gas_price_the_sender_pays_and_the_minter_earns() {
    let mut c = Consortium::prepared(3);
    for i in 0..3 {
        c.configure(i, "min_gas_price = 0", "min_gas_price = 1000");
        c.start(i);
    }
    c.wait_ready();
    let at = |account: &str| wei(&c.rpc(0, "eth_getBalance", json!([account, "latest"])));
    let cheap = json!([{ "from": ALICE, "to": BOB, "value": "0x1", "gasPrice": "0x1" }]);
    let refused = c.rpc_error(0, "eth_sendTransaction", cheap);
    assert!(
        refused["message"].as_str().unwrap().contains("price"),
        "{refused}"
    );
    let (sender, receiver) = (at(ALICE), at(BOB));
    let paid = json!([{ "from": ALICE, "to": BOB, "value": "0x7", "gasPrice": "0x7d0" }]);
    let hash = c.rpc(0, "eth_sendTransaction", paid);
    let receipt = c.receipt(0, hash.as_str().unwrap());
    let cost = u128::from(quantity(&receipt["gasUsed"])) * 0x7d0;
    assert_eq!(at(ALICE), sender - cost - 7);
    assert_eq!(at(BOB), receiver + 7);
    let block = c.block(0, quantity(&receipt["blockNumber"]));
    assert_eq!(at(block["miner"].as_str().unwrap()), cost);
}

#[test]
fn logs_are_found_on_every_member_also_behind_thousands_of_blocks_without_any() {
    let c = Consortium::of(3);
    c.bench(
        0,
        &[
            "--kind",
            "erc20",
            "--count",
            "10",
            "--accounts",
            "2",
            "--in-flight",
            "1",
        ],
    );
    let early = c.height(0);
    c.bench(
        0,
        &["--count", "4100", "--accounts", "2", "--in-flight", "1"],
    );
    c.bench(
        1,
        &[
            "--kind",
            "erc20",
            "--count",
            "10",
            "--accounts",
            "2",
            "--in-flight",
            "1",
        ],
    );
    let head = c.height(1);
    assert!(head > early + 4_096, "{early} to {head}");
    c.assert_same_chain(head);
    let logs = |i: usize, from: u64, to: u64, topic: &str| {
        let filter = json!([{ "fromBlock": format!("{from:#x}"), "toBlock": format!("{to:#x}"), "topics": [topic] }]);
        c.rpc(i, "eth_getLogs", filter).as_array().unwrap().len()
    };
    for i in 0..3 {
        let (before, after) = (
            logs(i, 0, early, TRANSFER),
            logs(i, early + 4_097, head, TRANSFER),
        );
        assert!(
            before >= 10 && after >= 10,
            "node {i}: {before} and {after}"
        );
        assert_eq!(
            logs(i, 0, head, TRANSFER),
            before + after + logs(i, early + 1, early + 4_096, TRANSFER)
        );
        assert_eq!(logs(i, 0, head, &TRANSFER.replace("dd", "ee")), 0);
    }
}
