//! Gas, size, many at once.

use std::collections::BTreeSet;

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Form, Parties, is_retryable, merge};
use super::table::scenarios;
use crate::consortium::quantity;

scenarios! {
    disturbed: [
        enough_gas_deploys_a_private_contract,
        too_little_gas_for_the_execution_fails_at_the_parties_alone,
        a_transaction_that_uses_all_its_gas_stops_nobody,
        many_transactions_at_once_from_one_account_are_all_executed,
        many_private_contracts_are_seen_by_both_parties,
        a_large_payload_reaches_its_parties,
        nodes_send_to_each_other_all_at_once,
    ],
    calm: [
        too_little_gas_for_the_transaction_itself_is_refused,
        a_payload_above_the_limit_is_refused,
        a_code_above_the_limit_is_not_deployed,
    ]
}

/// The figures are those of Quorum's own tests.
fn too_little_gas_for_the_transaction_itself_is_refused(p: &mut Parties) {
    let leader = p.c.leader();
    for from in [leader, (leader + 1) % 4] {
        let to = (from + 2) % 4;
        let mut request = p.request(from, &[to], None, &deploying_with(STORE, 42));
        // Of a marker the gas limit is that of the private execution; the public one is the node's own affair.
        let gas = match p.form {
            Form::Quorum => "0x620c",
            Form::Marker => "0x5000",
        };
        merge(&mut request, json!({ "gas": gas }));
        let said = p.refused(from, &request);
        assert!(said.contains("intrinsic gas"), "{said}");
        for i in 0..4 {
            let pending = p.c.rpc(i, "txpool_status", json!([]));
            assert_eq!(quantity(&pending["pending"]), 0, "{pending}");
        }
    }
}

fn enough_gas_deploys_a_private_contract(p: &mut Parties) {
    let more = json!({ "gas": format!("{:#x}", 200_000) });
    p.midway();
    let contract = p.deploy_with(0, &[3], &deploying_with(STORE, 42), more);
    assert_eq!(p.number(3, &contract.address), Some(42));
}

fn too_little_gas_for_the_execution_fails_at_the_parties_alone(p: &mut Parties) {
    let mut request = p.request(0, &[1], None, &deploying_with(STORE, 42));
    merge(&mut request, json!({ "gas": format!("{:#x}", 60_352) }));
    p.midway();
    let hash = p.send(0, &request);
    for i in [0, 1] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x0", "{receipt}");
    }
    p.assert_no_party(2, &hash);
    for i in 0..4 {
        // No node died of it, and nothing is left over.
        let pending = p.c.rpc(i, "txpool_status", json!([]));
        assert_eq!(quantity(&pending["pending"]), 0, "node {i}: {pending}");
    }
}

fn a_transaction_that_uses_all_its_gas_stops_nobody(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(ENDLESS));
    let request = p.request(0, &[1], Some(&contract.address), &word(1));
    p.midway();
    let hash = p.send(0, &request);
    for i in [0, 1] {
        assert_eq!(p.private_receipt(i, &hash)["status"], "0x0");
    }
    let after = p.deploy(1, &[0], &deploying_with(STORE, 3));
    assert_eq!(p.number(0, &after.address), Some(3));
}

fn many_transactions_at_once_from_one_account_are_all_executed(p: &mut Parties) {
    const THREADS: usize = 8;
    const EACH: usize = 6;
    let contract = p.deploy(0, &[2, 3], &deploying(ACCUMULATOR));
    let request = p.request(0, &[2, 3], Some(&contract.address), &word(1));
    let hashes: Vec<String> = std::thread::scope(|scope| {
        let (p, request) = (&*p, &request);
        let senders: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    let send = || {
                        p.wait("it is taken", || match p.try_send(0, request) {
                            Ok(hash) => Some(hash),
                            Err(error) if is_retryable(&error) => None,
                            Err(error) => panic!("{error}"),
                        })
                    };
                    (0..EACH).map(|_| send()).collect::<Vec<_>>()
                })
            })
            .collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect()
    });
    assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), THREADS * EACH);
    for hash in &hashes {
        for i in [0, 2, 3] {
            assert_eq!(p.private_receipt(i, hash)["status"], "0x1");
        }
    }
    let total = (THREADS * EACH) as u64;
    assert_eq!(
        [0, 2, 3, 1].map(|i| p.number(i, &contract.address)),
        [Some(total), Some(total), Some(total), None]
    );
    p.midway();
    p.execute(0, &[2, 3], &contract, &word(1));
    assert_eq!(p.number(3, &contract.address), Some(total + 1));
}

fn many_private_contracts_are_seen_by_both_parties(p: &mut Parties) {
    let mut hashes = Vec::new();
    for n in 0..30 {
        if n == 15 {
            p.midway();
        }
        let request = p.request(0, &[3], None, &deploying_with(STORE, n));
        hashes.push(p.send(0, &request));
    }
    for (n, hash) in hashes.iter().enumerate() {
        let contract = p.deployed(hash, &BTreeSet::from([0, 3]));
        for i in [0, 3] {
            assert_eq!(p.number(i, &contract.address), Some(n as u64));
        }
        if n % 10 == 0 {
            p.assert_no_party(1, hash);
        }
        p.track(contract);
    }
}

fn a_large_payload_reaches_its_parties(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(STORE));
    let mut data = word(5).to_vec();
    data.resize(40_000, 0xee);
    p.midway();
    let gas = json!({ "gas": format!("{:#x}", 3_000_000) });
    let hash = p.execute_with(0, &[1], &contract, &data, gas);
    for i in [0, 1] {
        assert_eq!(p.number(i, &contract.address), Some(5));
        let payload = p.patiently(i, "eth_getQuorumPayload", json!([p.payload_hash(&hash)]));
        assert_eq!(payload, hex::encode_prefixed(&data));
    }
    // What is on the chain is as small as ever.
    let public = p.c.rpc(2, "eth_getTransactionByHash", json!([hash]));
    assert!(public["input"].as_str().unwrap().len() < 300, "{public}");
}

fn nodes_send_to_each_other_all_at_once(p: &mut Parties) {
    let contract = p.deploy(0, &[1, 2, 3], &deploying(ACCUMULATOR));
    let hashes: Vec<String> = std::thread::scope(|scope| {
        let (p, contract) = (&*p, &contract);
        let senders: Vec<_> = (0..4)
            .map(|from| {
                scope.spawn(move || {
                    let others: Vec<usize> = (0..4).filter(|i| *i != from).collect();
                    let request = p.request(from, &others, Some(&contract.address), &word(1));
                    let send = || {
                        p.try_send(from, &request)
                            .unwrap_or_else(|error| panic!("{error}"))
                    };
                    (0..8).map(|_| send()).collect::<Vec<_>>()
                })
            })
            .collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect()
    });
    for hash in &hashes {
        for i in 0..4 {
            assert_eq!(p.private_receipt(i, hash)["status"], "0x1");
        }
    }
    p.midway();
    p.execute(2, &[0, 1, 3], &contract, &word(1));
    for i in 0..4 {
        assert_eq!(p.number(i, &contract.address), Some(33), "node {i}");
    }
}

fn a_payload_above_the_limit_is_refused(p: &mut Parties) {
    // Above what a JSON-RPC request may have: refused by its size, before anything is done with it.
    let data = vec![1; 5 << 20];
    let request = p.request(0, &[1], Some(p.account(1)), &data);
    match p.c.try_rpc(0, "eth_sendTransaction", json!([request])) {
        Ok(answer) => assert!(answer.get("error").is_some(), "{answer}"),
        // The node may close the connection without reading all of it.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // The node goes on.
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 1));
    assert_eq!(p.number(1, &contract.address), Some(1));
}

fn a_code_above_the_limit_is_not_deployed(p: &mut Parties) {
    // EIP-170: 24,576 bytes of code. Init code may have twice as many (EIP-3860).
    let mut request = p.request(0, &[1], None, &deploying(&vec![0x00; 25_000]));
    merge(&mut request, json!({ "gas": format!("{:#x}", 20_000_000) }));
    let hash = p.send(0, &request);
    for i in [0, 1] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x0", "{receipt}");
        if let Some(address) = receipt["contractAddress"].as_str() {
            assert_eq!(p.code(i, address), "0x");
        }
    }
    let request: Value = p.request(0, &[1], None, &deploying(&vec![0x00; 50_000]));
    if let Ok(hash) = p.try_send(0, &request) {
        assert_eq!(p.private_receipt(0, &hash)["status"], "0x0");
        assert_eq!(p.private_receipt(1, &hash)["status"], "0x0");
    }
}
