//! Transactions that a client signs: in Quorum's form, and markers of whole signed transactions.

use std::collections::BTreeSet;

use alloy_primitives::{Address, hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::codes::*;
use super::http;
use super::parties::Parties;
use super::signing::Wallet;
use super::table::scenarios;

scenarios! {
    disturbed: [
        a_client_stores_signs_and_sends_a_creation_and_a_call,
        a_filled_transaction_is_signed_by_the_client_and_sent,
        a_transaction_signed_by_the_node_is_sent_raw,
        a_raw_transaction_goes_to_all_that_it_names_and_no_others,
        many_raw_transactions_of_one_key_are_all_executed,
        a_signed_transaction_hides_in_a_marker,
        a_marker_of_someone_else_does_not_execute_a_signed_transaction,
        a_marker_of_a_payload_that_nobody_has_stops_nobody,
    ],
    calm: [
        a_raw_transaction_is_taken_once,
        quorums_form_is_refused_where_public_transactions_are_taken,
        a_public_transaction_is_refused_where_private_ones_are_taken,
        a_raw_transaction_with_value_is_refused,
        a_raw_transaction_whose_payload_is_not_here_is_refused,
        a_raw_transaction_without_recipients_is_refused,
    ]
}

/// Stores a payload as web3js-quorum does, over Tessera's HTTP surface; the hash with 0x.
pub fn store_raw(p: &Parties, node: usize, data: &[u8]) -> String {
    let body = json!({ "payload": STANDARD.encode(data), "from": p.key(node) });
    let answer = http::post(p.third(node), "/storeraw", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let hash = STANDARD
        .decode(answer.json()["key"].as_str().unwrap())
        .unwrap();
    assert_eq!(hash.len(), 64);
    hex::encode_prefixed(hash)
}

fn private_for(p: &Parties, from: usize, to: &[usize]) -> Value {
    json!({ "privateFor": p.keys(to), "privateFrom": p.key(from) })
}

/// As nodes write it.
fn lowercase(address: Address) -> String {
    format!("{address:#x}")
}

const SEND_RAW: &str = "eth_sendRawPrivateTransaction";

fn a_client_stores_signs_and_sends_a_creation_and_a_call(p: &mut Parties) {
    let wallet = Wallet::named("a client that stores first");
    let stored = store_raw(p, 0, &deploying_with(STORE, 42));
    let raw = wallet.quorum(0, None, &stored);
    let to = private_for(p, 0, &[3]);
    let hash = p.send_raw(0, SEND_RAW, &raw, &to);
    let contract = p.deployed(&hash, &BTreeSet::from([0, 3]));
    p.track(contract.clone());
    assert_eq!(contract.address, lowercase(wallet.address().create(0)));
    assert_eq!(contract.payload, stored);
    assert_eq!(
        [0, 3, 2].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42), None]
    );
    let stored = store_raw(p, 0, &word(5));
    let raw = wallet.quorum(1, Some(&contract.address), &stored);
    p.midway();
    let hash = p.send_raw(0, SEND_RAW, &raw, &to);
    for i in [0, 3] {
        assert_eq!(p.private_receipt(i, &hash)["status"], "0x1");
        assert_eq!(p.number(i, &contract.address), Some(5));
        assert_eq!(
            p.patiently(i, "eth_getQuorumPayload", json!([stored])),
            hex::encode_prefixed(word(5))
        );
    }
    p.assert_no_party(2, &hash);
}

fn a_filled_transaction_is_signed_by_the_client_and_sent(p: &mut Parties) {
    let wallet = Wallet::named("a client that lets fill");
    let mut request = p.request(0, &[1], None, &deploying_with(STORE, 42));
    request["from"] = wallet.address().to_string().into();
    let filled = p.c.rpc(0, "eth_fillTransaction", json!([request]));
    assert!(filled["raw"].as_str().unwrap().starts_with("0x"));
    // What it is to sign names the payload and does not show it.
    assert_eq!(filled["tx"]["input"].as_str().unwrap().len(), 2 + 128);
    let raw = wallet.sign_filled(&filled);
    let to = private_for(p, 0, &[1]);
    p.midway();
    let hash = p.send_raw(0, SEND_RAW, &raw, &to);
    let contract = p.deployed(&hash, &BTreeSet::from([0, 1]));
    p.track(contract.clone());
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42), None]
    );
}

fn a_transaction_signed_by_the_node_is_sent_raw(p: &mut Parties) {
    let request = p.request(2, &[3], None, &deploying_with(STORE, 42));
    let signed = p.c.rpc(2, "eth_signTransaction", json!([request]));
    let raw = signed["raw"].as_str().unwrap().to_owned();
    assert!(
        ["0x25", "0x26"].contains(&signed["tx"]["v"].as_str().unwrap()),
        "{signed}"
    );
    let to = private_for(p, 2, &[3]);
    p.midway();
    let hash = p.send_raw(2, SEND_RAW, &raw, &to);
    let contract = p.deployed(&hash, &BTreeSet::from([2, 3]));
    p.track(contract.clone());
    // As Quorum's clients do it: the payload stored first, its hash as the data of what is to be signed.
    let stored = store_raw(p, 2, &word(6));
    let data = hex::decode(&stored).unwrap();
    let mut request = p.request(2, &[3], Some(&contract.address), &data);
    request["privateFrom"] = p.key(2).into();
    let signed = p.c.rpc(2, "eth_signTransaction", json!([request]));
    assert_eq!(signed["tx"]["input"], stored.as_str());
    let hash = p.send_raw(2, SEND_RAW, signed["raw"].as_str().unwrap(), &to);
    for i in [2, 3] {
        assert_eq!(p.private_receipt(i, &hash)["status"], "0x1");
        assert_eq!(p.number(i, &contract.address), Some(6));
    }
}

fn a_raw_transaction_goes_to_all_that_it_names_and_no_others(p: &mut Parties) {
    let wallet = Wallet::named("a client with three partners");
    let stored = store_raw(p, 0, &deploying_with(STORE, 1));
    let raw = wallet.quorum(0, None, &stored);
    let to = private_for(p, 0, &[1, 2]);
    p.midway();
    let hash = p.send_raw(0, SEND_RAW, &raw, &to);
    let contract = p.deployed(&hash, &BTreeSet::from([0, 1, 2]));
    p.track(contract);
    p.assert_no_party(3, &hash);
}

fn many_raw_transactions_of_one_key_are_all_executed(p: &mut Parties) {
    let wallet = Wallet::named("a busy client");
    let contract = p.deploy(0, &[1], &deploying(ACCUMULATOR));
    let to = private_for(p, 0, &[1]);
    let mut hashes = Vec::new();
    for nonce in 0..20 {
        if nonce == 10 {
            p.midway();
        }
        let stored = store_raw(p, 0, &word(1));
        let raw = wallet.quorum(nonce, Some(&contract.address), &stored);
        hashes.push(p.send_raw(0, SEND_RAW, &raw, &to));
    }
    for hash in &hashes {
        for i in [0, 1] {
            assert_eq!(p.private_receipt(i, hash)["status"], "0x1");
        }
    }
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(20), Some(20)]
    );
}

fn a_signed_transaction_hides_in_a_marker(p: &mut Parties) {
    let wallet = Wallet::named("a client that hides everything");
    let stored = store_raw(p, 0, &deploying_with(STORE, 42));
    let inner = wallet.quorum(0, None, &stored);
    let to = private_for(p, 0, &[1]);
    p.midway();
    let payload = p.send_raw(0, "eth_distributePrivateTransaction", &inner, &to);
    assert_ne!(payload, stored);
    let marker = wallet.marker(0, &payload);
    let hash = p.c.rpc(0, "eth_sendRawTransaction", json!([marker]));
    let hash = hash.as_str().unwrap().to_owned();
    let contract = p.deployed(&hash, &BTreeSet::from([0, 1]));
    p.track(contract.clone());
    assert_eq!(contract.address, lowercase(wallet.address().create(0)));
    for i in [0, 1] {
        assert_eq!(p.number(i, &contract.address), Some(42));
        let inner = p.patiently(i, "eth_getPrivateTransactionByHash", json!([hash]));
        assert_eq!(inner["input"], stored.as_str());
        assert_eq!(inner["from"], lowercase(wallet.address()));
        // Two receipts: the public one says that there is another, and knows no address.
        let public = p.public_receipt(i, &hash);
        assert_eq!(public["isPrivacyMarkerTransaction"], true);
        assert!(public["contractAddress"].is_null());
        assert_ne!(p.private_receipt(i, &hash)["gasUsed"], public["gasUsed"]);
    }
    p.assert_no_party(2, &hash);
}

fn a_marker_of_someone_else_does_not_execute_a_signed_transaction(p: &mut Parties) {
    let wallet = Wallet::named("a client whose transaction is stolen");
    let thief = Wallet::named("a thief");
    let stored = store_raw(p, 0, &deploying_with(STORE, 42));
    let inner = wallet.quorum(0, None, &stored);
    let to = private_for(p, 0, &[1]);
    p.midway();
    let payload = p.send_raw(0, "eth_distributePrivateTransaction", &inner, &to);
    let hash = p.c.rpc(
        3,
        "eth_sendRawTransaction",
        json!([thief.marker(0, &payload)]),
    );
    let hash = hash.as_str().unwrap();
    for i in [0, 1] {
        p.public_receipt(i, hash);
        let receipt = p.patiently(i, "eth_getPrivateTransactionReceipt", json!([hash]));
        assert_ne!(receipt["status"], "0x1", "{receipt}");
        for address in [wallet.address(), thief.address()] {
            assert_eq!(p.code(i, &address.create(0).to_string()), "0x");
        }
    }
}

fn a_marker_of_a_payload_that_nobody_has_stops_nobody(p: &mut Parties) {
    let wallet = Wallet::named("a vandal");
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 1));
    let nothing = format!("0x{}", "5a".repeat(64));
    let hash = p.c.rpc(
        2,
        "eth_sendRawTransaction",
        json!([wallet.marker(0, &nothing)]),
    );
    let hash = hash.as_str().unwrap().to_owned();
    for i in 0..4 {
        assert_eq!(p.public_receipt(i, &hash)["status"], "0x1");
        p.assert_no_party(i, &hash);
    }
    p.midway();
    p.execute(0, &[1], &contract, &word(2));
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(2), Some(2)]
    );
}

fn a_raw_transaction_is_taken_once(p: &mut Parties) {
    let wallet = Wallet::named("a client that repeats itself");
    let contract = p.deploy(0, &[1], &deploying(ACCUMULATOR));
    let stored = store_raw(p, 0, &word(1));
    let raw = wallet.quorum(0, Some(&contract.address), &stored);
    let to = private_for(p, 0, &[1]);
    let hash = p.send_raw(0, SEND_RAW, &raw, &to);
    p.private_receipt(1, &hash);
    let again = p.c.rpc_error(0, SEND_RAW, json!([raw, to]));
    let said = again["message"].as_str().unwrap();
    assert!(said.contains("nonce") || said.contains("known"), "{said}");
    // The same payload in another transaction is executed again, as in Quorum: it is another transaction.
    let raw = wallet.quorum(1, Some(&contract.address), &stored);
    match p.c.try_rpc(0, SEND_RAW, json!([raw, to])).unwrap() {
        answer if answer.get("result").is_some() => {
            let hash = answer["result"].as_str().unwrap();
            assert_eq!(p.private_receipt(1, hash)["status"], "0x1");
            assert_eq!(
                [0, 1].map(|i| p.number(i, &contract.address)),
                [Some(2), Some(2)]
            );
        }
        answer => {
            let said = answer["error"]["message"].as_str().unwrap();
            assert!(said.contains("payload"), "{said}");
            assert_eq!(
                [0, 1].map(|i| p.number(i, &contract.address)),
                [Some(1), Some(1)]
            );
        }
    }
}

fn quorums_form_is_refused_where_public_transactions_are_taken(p: &mut Parties) {
    let wallet = Wallet::named("a client with the wrong call");
    // A payload that this node has not sent would be nothing to anyone.
    let elsewhere = store_raw(p, 2, &word(1));
    let nowhere = format!("0x{}", "21".repeat(64));
    for payload in [elsewhere, nowhere] {
        let raw = wallet.quorum(0, Some(p.account(0)), &payload);
        let error = p.c.rpc_error(0, "eth_sendRawTransaction", json!([raw]));
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("eth_sendRawPrivateTransaction"), "{said}");
    }
}

fn a_public_transaction_is_refused_where_private_ones_are_taken(p: &mut Parties) {
    let wallet = Wallet::named("a client with the other wrong call");
    let raw = wallet.public(0, p.account(0), &word(1));
    let error =
        p.c.rpc_error(0, SEND_RAW, json!([raw, private_for(p, 0, &[1])]));
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("not private"), "{said}");
}

fn a_raw_transaction_with_value_is_refused(p: &mut Parties) {
    let wallet = Wallet::named("a client with too much money");
    let stored = store_raw(p, 0, &word(1));
    let raw = wallet.quorum_with_value(0, p.account(1), &stored);
    let error =
        p.c.rpc_error(0, SEND_RAW, json!([raw, private_for(p, 0, &[1])]));
    let said = error["message"].as_str().unwrap();
    assert!(
        said.contains("ether value is not supported for private transactions"),
        "{said}"
    );
}

fn a_raw_transaction_whose_payload_is_not_here_is_refused(p: &mut Parties) {
    let wallet = Wallet::named("a client at the wrong node");
    let stored = store_raw(p, 0, &word(1));
    let raw = wallet.quorum(0, Some(p.account(0)), &stored);
    let error =
        p.c.rpc_error(2, SEND_RAW, json!([raw, private_for(p, 2, &[3])]));
    let said = error["message"].as_str().unwrap();
    assert!(said.contains(&stored), "{said}");
}

fn a_raw_transaction_without_recipients_is_refused(p: &mut Parties) {
    let wallet = Wallet::named("a client without friends");
    let stored = store_raw(p, 0, &word(1));
    let raw = wallet.quorum(0, Some(p.account(0)), &stored);
    let error = p.c.rpc_error(0, SEND_RAW, json!([raw, {}]));
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("privateFor"), "{said}");
}
