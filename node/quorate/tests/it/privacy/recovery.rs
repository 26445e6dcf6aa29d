//! What private transactions go through when nodes, enclaves and disks do not: nothing half-done is visible, trying again is safe, and
//! the parties agree afterwards.

use std::fs;
use std::process::Command;
use std::time::Duration;

use alloy_primitives::{U256, hex};
use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Form, Parties, REMOTE, is_retryable, merge};
use crate::consortium::quantity;

/// Both forms, one consortium each.
pub fn in_both_forms(settings: &[&str], run: fn(&mut Parties)) {
    for form in [Form::Marker, Form::Quorum] {
        let mut p = Parties::with(form, settings);
        run(&mut p);
        p.finish();
    }
}

/// Ends a process without the harness: the test is in the middle of a call to it on another thread.
fn kill_by_id(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}

/// The private roots of node `i` at these heights.
fn roots(p: &Parties, i: usize, heights: &[u64]) -> Vec<Value> {
    heights
        .iter()
        .map(|height| p.patiently(i, "debug_privateStateRoot", json!([format!("{height:#x}")])))
        .collect()
}

/// A contract, and transactions to it until there are `count` blocks with one. The heights of those.
fn history(p: &mut Parties, count: u64) -> (super::parties::Contract, Vec<u64>) {
    let contract = p.deploy(0, &[1, 2], &deploying(ACCUMULATOR));
    let mut heights = Vec::new();
    for n in 0..count {
        let from = (n % 3) as usize;
        let others: Vec<usize> = (0..3).filter(|i| *i != from).collect();
        let hash = p.execute(from, &others, &contract, &word(1 << n));
        heights.push(quantity(&p.private_receipt(0, &hash)["blockNumber"]));
    }
    (contract, heights)
}

/// The sender dies at a later moment of each send. Its client does not know what became of the transaction: it sends the same again,
/// with the same nonce.
#[test]
fn a_sender_killed_at_any_moment_sends_each_transaction_once_or_not_at_all() {
    in_both_forms(&[], |p| {
        let contract = p.deploy(0, &[1, 3], &deploying(ACCUMULATOR));
        for round in 0..10u64 {
            let next = p.c.rpc(
                0,
                "eth_getTransactionCount",
                json!([p.account(0), "pending"]),
            );
            let mut request = p.request(0, &[1, 3], Some(&contract.address), &word(1));
            merge(&mut request, json!({ "nonce": next }));
            let pid = p.c.pid(0);
            std::thread::scope(|scope| {
                let p = &*p;
                let request = &request;
                let client =
                    scope.spawn(move || p.c.try_rpc(0, "eth_sendTransaction", json!([request])));
                std::thread::sleep(Duration::from_millis(round * 5));
                kill_by_id(pid);
                // An answer or none: the client learns nothing from it.
                drop(client.join().unwrap());
            });
            assert_eq!(p.c.exit_code(0), None, "killed by a signal");
            p.c.start(0);
            p.wait_ready();
            p.wait("the transaction is on the chain once", || {
                let answer =
                    p.c.try_rpc(0, "eth_sendTransaction", json!([request]))
                        .ok()?;
                let Some(error) = answer.get("error") else {
                    return Some(());
                };
                let said = error["message"].as_str().unwrap();
                assert!(
                    is_retryable(error) || said.contains("nonce") || said.contains("known"),
                    "{error}"
                );
                (!is_retryable(error)).then_some(())
            });
            p.wait_number(&[0, 1, 3], &contract.address, round + 1);
        }
        assert_eq!(p.number(2, &contract.address), None);
    });
}

#[test]
fn a_recipient_killed_at_any_moment_misses_nothing() {
    in_both_forms(&[], |p| {
        let contract = p.deploy(0, &[2, 3], &deploying(ACCUMULATOR));
        for round in 0..10u64 {
            let request = p.request(0, &[2, 3], Some(&contract.address), &word(1));
            let pid = p.c.pid(2);
            let first = std::thread::scope(|scope| {
                let p = &*p;
                let request = &request;
                let client = scope.spawn(move || p.try_send(0, request));
                std::thread::sleep(Duration::from_millis(round * 5));
                kill_by_id(pid);
                client.join().unwrap()
            });
            assert_eq!(p.c.exit_code(2), None, "killed by a signal");
            p.c.start(2);
            p.wait_ready();
            // A refusal means that nothing came on the chain; the node that did not answer is named.
            if let Err(error) = first {
                assert!(is_retryable(&error), "{error}");
                p.wait("the recipient has it now", || {
                    match p.try_send(0, &request) {
                        Ok(_) => Some(()),
                        Err(error) if is_retryable(&error) => None,
                        Err(error) => panic!("{error}"),
                    }
                });
            }
            p.wait_number(&[0, 2, 3], &contract.address, round + 1);
        }
    });
}

/// All at once, in the middle of everything: what was acknowledged to the client is executed by all parties, what was not may be, once.
#[test]
fn all_nodes_killed_at_once_lose_nothing_that_was_accepted() {
    in_both_forms(&[], |p| {
        let contract = p.deploy(0, &[1, 2], &deploying(ACCUMULATOR));
        let mut accepted = 0;
        for round in 0..4u64 {
            let pids: Vec<u32> = (0..4).map(|i| p.c.pid(i)).collect();
            let request = p.request(0, &[1, 2], Some(&contract.address), &word(1));
            let sent = std::thread::scope(|scope| {
                let p = &*p;
                let request = &request;
                let client = scope.spawn(move || {
                    let mut sent = Vec::new();
                    while let Ok(answer) = p.c.try_rpc(0, "eth_sendTransaction", json!([request])) {
                        if let Some(hash) = answer["result"].as_str() {
                            sent.push(hash.to_owned());
                        }
                    }
                    sent
                });
                std::thread::sleep(Duration::from_millis(900 + round * 37));
                for pid in pids {
                    kill_by_id(pid);
                }
                client.join().unwrap()
            });
            for i in 0..4 {
                assert_eq!(p.c.exit_code(i), None, "killed by a signal");
                p.c.start(i);
            }
            p.wait_ready();
            accepted += sent.len();
            // The pool is memory: what was accepted and not yet in a block is gone with it, as a whole, on all nodes alike.
            for i in [0, 1, 2] {
                p.wait(&format!("node {i} has executed everything"), || {
                    let status = p.cli(i, &["status"]);
                    (status["cursor"] == status["headHeight"]).then_some(())
                });
            }
            let reached = p.number(0, &contract.address).unwrap();
            for hash in &sent {
                let found = p.c.rpc(1, "eth_getTransactionByHash", json!([hash]));
                if !found["blockNumber"].is_null() {
                    for i in [0, 1, 2] {
                        assert_eq!(p.private_receipt(i, hash)["status"], "0x1", "node {i}");
                    }
                }
            }
            let logs = p.logs(2, &contract.address).len() as u64;
            assert_eq!(
                reached, logs,
                "each execution has left one log and added one"
            );
            p.wait_number(&[0, 1, 2], &contract.address, reached);
        }
        assert!(accepted > 0);
    });
}

/// With the enclave gone a node knows neither that it is a party nor that it is none: it says so, and goes on with what is public.
#[test]
fn a_node_without_its_enclave_says_what_it_waits_for_and_catches_up_in_order() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[REMOTE, 2], &deploying(ACCUMULATOR));
    let public = p.deploy_publicly(3, &deploying_with(STORE, 5));
    p.stop_enclave();
    // The sender chooses not to wait for it.
    let mut hashes = Vec::new();
    for n in 0..3 {
        let mut request = p.request(0, &[REMOTE, 2], Some(&contract.address), &word(1 << n));
        merge(&mut request, json!({ "acknowledgements": { "k": 1 } }));
        hashes.push(p.send(0, &request));
        p.call_publicly(3, &public, &word(n + 6));
    }
    // The public chain is as far as everywhere, and what is public is answered at once.
    let height = p.c.height(0);
    p.wait("the public chain goes on", || {
        (p.c.height(REMOTE) >= height).then_some(())
    });
    let call = json!({ "to": public });
    assert_eq!(
        p.c.rpc(REMOTE, "eth_call", json!([call, "latest"])),
        hex::encode_prefixed(word(8))
    );
    for (method, params) in [
        ("eth_call", json!([{ "to": contract.address }, "latest"])),
        (
            "eth_getStorageAt",
            json!([contract.address, "0x0", "latest"]),
        ),
        ("eth_getPrivateTransactionReceipt", json!([hashes[2]])),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "address": contract.address }]),
        ),
    ] {
        let error = p.c.rpc_error(REMOTE, method, params);
        let said = error["message"].as_str().unwrap();
        assert_eq!(error["code"], -32014, "{method}: {error}");
        assert!(said.contains("private state at block"), "{method}: {said}");
        assert!(said.contains("waiting for payload 0x"), "{method}: {said}");
        assert!(is_retryable(&error), "{error}");
    }
    let status = p.cli(REMOTE, &["status"]);
    assert_eq!(
        status["waiting"]["payload"],
        p.payload_hash(&hashes[0]).as_str(),
        "{status}"
    );
    assert!(status["enclaveError"].is_string(), "{status}");
    assert!(p.metric(REMOTE, "quorate_privacy_waiting") > 0.0);
    assert!(p.metric(REMOTE, "quorate_privacy_lag") > 0.0);
    // The others are done.
    p.wait_number(&[0, 2], &contract.address, 7);
    // To the sender it is still to be delivered.
    let deliveries = p.cli(0, &["deliveries", &p.payload_hash(&hashes[0])]);
    assert!(
        deliveries
            .as_array()
            .unwrap()
            .iter()
            .any(|d| d["state"] == "pending"),
        "{deliveries}"
    );
    p.start_enclave();
    p.wait_number(&[REMOTE], &contract.address, 7);
    let sums: Vec<Value> = p
        .logs(REMOTE, &contract.address)
        .iter()
        .map(|log| log["data"].clone())
        .collect();
    let expected: Vec<Value> = [1, 3, 7]
        .map(|sum| hex::encode_prefixed(word(sum)).into())
        .to_vec();
    assert_eq!(sums, expected, "in the order of the chain");
    p.wait("all deliveries are acknowledged", || {
        (p.cli(0, &["status"])["deliveriesPending"] == 0).then_some(())
    });
    p.finish();
}

#[test]
fn a_recipient_that_was_away_gets_what_was_sent_without_waiting_for_it() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[2, 3], &deploying(ACCUMULATOR));
    p.c.kill(3);
    // All of them: refused, and the one that is away is named. Nothing of it is on the chain.
    let before = p.c.rpc(
        0,
        "eth_getTransactionCount",
        json!([p.account(0), "pending"]),
    );
    let request = p.request(0, &[2, 3], Some(&contract.address), &word(1));
    let error = p.try_send(0, &request).unwrap_err();
    assert_eq!(error["code"], -32016, "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("member 4"),
        "{error}"
    );
    assert!(
        !error["message"].as_str().unwrap().contains("member 3"),
        "{error}"
    );
    assert_eq!(
        p.c.rpc(
            0,
            "eth_getTransactionCount",
            json!([p.account(0), "pending"])
        ),
        before
    );
    // One of two, the one that is named, or nobody.
    let named = json!({ "of": [p.key(2)] });
    for (n, policy) in [json!({ "k": 1 }), named, json!({ "k": 0 })]
        .into_iter()
        .enumerate()
    {
        let mut request = request.clone();
        merge(&mut request, json!({ "acknowledgements": policy }));
        let hash = p.send(0, &request);
        p.private_receipt(2, &hash);
        p.wait_number(&[0, 2], &contract.address, n as u64 + 1);
    }
    // More than there are.
    let mut wrong = request.clone();
    merge(&mut wrong, json!({ "acknowledgements": { "k": 5 } }));
    p.refused(0, &wrong);
    p.c.start(3);
    p.wait_ready();
    p.wait_number(&[3], &contract.address, 3);
    p.wait("nothing is left to deliver", || {
        (p.cli(0, &["status"])["deliveriesPending"] == 0).then_some(())
    });
    p.finish();
}

/// Who else takes part is nobody's business but the sender's: it alone can hand the payload over. Nothing goes on without it meanwhile.
#[test]
fn a_payload_that_the_sender_never_delivered_is_waited_for_until_the_sender_is_back() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[2, 3], &deploying(ACCUMULATOR));
    p.c.kill(3);
    let mut request = p.request(0, &[2, 3], Some(&contract.address), &word(9));
    merge(&mut request, json!({ "acknowledgements": { "k": 1 } }));
    let hash = p.send(0, &request);
    p.private_receipt(2, &hash);
    p.c.kill(0);
    p.c.start(3);
    p.wait_ready_of(&[1, 2, 3]);
    p.wait("node 3 says what it waits for, and from whom", || {
        let status = p.cli(3, &["status"]);
        let waiting = &status["waiting"];
        let named = waiting["payload"] == p.payload_hash(&hash).as_str();
        (named && waiting["reason"].as_str()?.contains(p.key(0))).then_some(())
    });
    let error =
        p.c.rpc_error(3, "eth_call", json!([{ "to": contract.address }, "latest"]));
    assert_eq!(error["code"], -32014, "{error}");
    p.c.start(0);
    p.wait_ready();
    p.wait_number(&[3], &contract.address, 9);
    p.finish();
}

/// Under flag 3 all parties know each other, and each has it.
#[test]
fn under_state_validation_a_lost_payload_is_got_from_any_party() {
    let mut p = Parties::of(Form::Marker);
    let flag = json!({ "privacyFlag": 3 });
    let contract = p.deploy_with(0, &[2, 3], &deploying(ACCUMULATOR), flag.clone());
    p.execute_with(0, &[2, 3], &contract, &word(9), flag);
    p.c.stop(3);
    lose_private_data(&p, 3);
    p.c.kill(0);
    p.c.start(3);
    p.wait_ready_of(&[1, 2]);
    p.wait_number(&[3], &contract.address, 9);
    p.c.start(0);
    p.wait_ready();
    p.finish();
}

#[test]
fn everything_stopped_and_started_again_is_as_it_was() {
    in_both_forms(&[], |p| {
        let (contract, heights) = history(p, 8);
        let before: Vec<_> = (0..4).map(|i| roots(p, i, &heights)).collect();
        let logs = p.logs(1, &contract.address);
        p.c.assert_same_chain(*heights.last().unwrap());
        for i in 0..4 {
            p.c.stop(i);
        }
        p.stop_enclave();
        p.start_enclave();
        for i in 0..4 {
            p.c.start(i);
        }
        p.wait_ready();
        for (i, before) in before.iter().enumerate() {
            assert_eq!(roots(p, i, &heights), *before, "node {i}");
        }
        assert_eq!(before[0], before[1]);
        assert_ne!(before[0], before[3]);
        assert_eq!(p.logs(1, &contract.address), logs);
        p.execute(2, &[0, 1], &contract, &word(1000));
        for i in 0..3 {
            assert_eq!(p.number(i, &contract.address), Some(255 + 1000));
        }
    });
}

/// Folders of a node with everything that is private on it, but its keys.
pub fn lose_private_data(p: &Parties, i: usize) {
    let data = p.c.node_dir(i).join("data");
    let folder = data.join("privacy");
    assert!(folder.is_dir(), "{} holds no private data", data.display());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_node_that_lost_its_private_data_gets_it_back_from_the_others() {
    in_both_forms(&[], |p| {
        let (contract, heights) = history(p, 9);
        // Something that nobody else was a party of, and something that concerns others alone.
        let others = p.deploy(1, &[3], &deploying_with(STORE, 1));
        let before = roots(p, 0, &heights);
        p.c.stop(0);
        lose_private_data(p, 0);
        p.c.start(0);
        p.c.wait_ready();
        // Until it has asked all others it does not take absence for an answer.
        let done = p.wait("a resync has reached everyone", || {
            let output = p.try_cli(0, &["resync"]);
            output
                .status
                .success()
                .then(|| String::from_utf8(output.stdout).unwrap())
        });
        let done: Value = serde_json::from_str(&done).unwrap();
        assert_eq!(done["complete"], true, "{done}");
        assert_eq!(done["members"].as_array().unwrap().len(), 3);
        assert_eq!(
            roots(p, 0, &heights),
            before,
            "the same private roots as before"
        );
        p.wait_number(&[0], &contract.address, 511);
        assert_eq!(p.number(0, &others.address), None);
        let status = p.cli(0, &["status"]);
        assert_eq!(status["complete"], true, "{status}");
        p.execute(0, &[1, 2], &contract, &word(1000));
        p.wait_number(&[0, 1, 2], &contract.address, 1511);
    });
}

#[test]
fn a_node_that_joins_later_is_a_party_of_nothing_before() {
    let mut p = Parties::of(Form::Marker);
    let (contract, heights) = history(&mut p, 4);
    let (fifth, _) = p.c.join(0, &[]);
    p.c.wait("the new node has the chain", || {
        (p.c.height(fifth) >= *heights.last().unwrap()).then_some(())
    });
    // It has no enclave: what is private is nothing to it, and nothing waits.
    let call = json!({ "to": contract.address });
    assert_eq!(p.c.rpc(fifth, "eth_call", json!([call, "latest"])), "0x");
    assert_eq!(
        p.c.rpc(fifth, "eth_getCode", json!([contract.address, "latest"])),
        "0x"
    );
    let error =
        p.c.rpc_error(fifth, "eth_getQuorumPayload", json!([contract.payload]));
    assert!(
        error["message"].as_str().unwrap().contains("switched off"),
        "{error}"
    );
    p.execute(1, &[0, 2], &contract, &word(100));
    p.c.assert_same_chain(p.c.height(0));
    p.finish();
}

/// The network prunes blocks and makes snapshots, as a long-lived one does; what is private stays where its parties are.
#[test]
fn private_state_outlives_pruned_blocks_and_is_in_no_snapshot() {
    let settings = [
        "sync.retain_blocks=600",
        "sync.block_file_bytes=64KiB",
        "sync.snapshot_every=300",
        "sync.snapshot_distance=200",
        "state.flush_blocks=16",
    ];
    let mut p = Parties::with(Form::Marker, &settings);
    let (contract, _) = history(&mut p, 4);
    // In parts: it looks at receipts at the end of each.
    for _ in 0..4 {
        p.c.bench(
            3,
            &["--count", "400", "--accounts", "2", "--in-flight", "1"],
        );
    }
    p.execute(0, &[1, 2], &contract, &word(100));
    for i in 0..3 {
        assert_eq!(p.number(i, &contract.address), Some(115));
        let payload = p.patiently(i, "eth_getQuorumPayload", json!([contract.payload]));
        assert_eq!(payload, hex::encode_prefixed(deploying(ACCUMULATOR)));
    }
    for i in 0..4 {
        p.c.stop(i);
        p.c.start(i);
        p.wait_ready();
    }
    for i in 0..3 {
        assert_eq!(p.number(i, &contract.address), Some(115), "node {i}");
        assert_eq!(p.slot(i, &contract.address, 0), U256::from(115));
    }
    // One that joins through a snapshot is given the public state alone.
    let (fifth, _) = p.c.join(3, &["--set", "sync.snapshot_distance=100"]);
    assert_eq!(
        p.c.rpc(fifth, "eth_getCode", json!([contract.address, "latest"])),
        "0x"
    );
    p.execute(2, &[0, 1], &contract, &word(1000));
    p.wait_number(&[0, 1, 2], &contract.address, 1115);
    p.finish();
}

#[test]
fn a_new_generation_of_a_key_is_announced_and_the_old_one_still_opens() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[2], &deploying(ACCUMULATOR));
    let old = p.key(2).to_owned();
    let keys = p.c.node_dir(2).join("enclave");
    let rotated = crate::consortium::quorate(&[
        "enclave",
        "rotate",
        "--keys",
        keys.to_str().unwrap(),
        "--unlocked",
        "--json",
    ]);
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    p.c.stop(2);
    p.c.start(2);
    p.c.wait_ready();
    let new = rotated["publicKey"].as_str().unwrap();
    assert_ne!(new, old);
    p.wait("the new key is announced", || {
        let known = super::http::request(p.third(0), "GET", "/partyinfo/keys", &[], &[]).ok()?;
        known.text().contains(new).then_some(())
    });
    // Both the old payload and one to the new key are readable.
    let mut request = p.request(0, &[], Some(&contract.address), &word(5));
    merge(&mut request, json!({ "privateFor": [new] }));
    let hash = p.send(0, &request);
    assert_eq!(p.private_receipt(2, &hash)["status"], "0x1");
    assert_eq!(
        [0, 2].map(|i| p.number(i, &contract.address)),
        [Some(5), Some(5)]
    );
    let payload = p.patiently(2, "eth_getQuorumPayload", json!([contract.payload]));
    assert_eq!(payload, hex::encode_prefixed(deploying(ACCUMULATOR)));
}
