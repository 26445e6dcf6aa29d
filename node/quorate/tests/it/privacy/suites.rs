//! The encryption suite is the network's choice: what works with Tessera's construction works with the hybrid one, which holds
//! against quantum computers.

use std::fs;

use serde_json::{Value, json};

use super::codes::*;
use super::http::{get, post};
use super::parties::{Form, Parties};
use super::raw::store_raw;
use super::signing::Wallet;

/// Bytes by which a content key that is wrapped by X-Wing is longer than one in a NaCl box: the encapsulation's 1,120.
const ENCAPSULATION_BYTES: f64 = 1_120.0;

/// A consortium whose genesis chooses an encryption suite.
fn with_suite(form: Form, suite: u64) -> Parties {
    let parties = Parties::prepared(form, &[]);
    choose(&parties, suite);
    parties.started()
}

fn choose(parties: &Parties, suite: u64) {
    let path = parties.c.net_dir().join("genesis.json");
    let mut genesis: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    genesis["quorate"]["privacy"] = json!({ "suite": suite });
    fs::write(&path, genesis.to_string()).unwrap();
}

/// The fewest bytes that a call of 32 bytes to one recipient took between their nodes.
fn bytes_of_a_delivery(p: &mut Parties) -> f64 {
    let contract = p.deploy(0, &[2], &deploying(STORE));
    let mut least = f64::INFINITY;
    for value in 1..=3 {
        let before = p.metric(0, "quorate_exchange_bytes_sent_total");
        let request = p.request(0, &[2], Some(&contract.address), &word(value));
        let hash = p.send(0, &request);
        // It returns when the recipient has acknowledged.
        let sent = p.metric(0, "quorate_exchange_bytes_sent_total") - before;
        least = least.min(sent);
        p.private_receipt(2, &hash);
    }
    least
}

#[test]
fn a_consortium_with_x_wing_sends_and_reads_private_transactions() {
    let mut p = with_suite(Form::Marker, 2);
    // Node 1's keys are in a process of their own.
    let contract = p.deploy(0, &[1, 2], &deploying_with(STORE, 42));
    for (from, to, value) in [(0, [1, 2], 43), (1, [0, 2], 44), (2, [0, 1], 45)] {
        p.execute(from, &to, &contract, &word(value));
        p.wait_number(&[0, 1, 2], &contract.address, value);
    }
    assert_eq!(p.number(3, &contract.address), None);
    p.assert_no_party(3, &contract.transaction);

    // All flags, and a creator that is alone.
    for (flag, more) in [
        (1, json!({ "privacyFlag": 1 })),
        (2, json!({ "privacyFlag": 2, "mandatoryFor": p.keys(&[1]) })),
        (3, json!({ "privacyFlag": 3 })),
    ] {
        let contract = p.deploy_with(0, &[1], &deploying_with(STORE, flag), more.clone());
        p.execute_with(1, &[0], &contract, &word(flag + 10), more);
        p.wait_number(&[0, 1], &contract.address, flag + 10);
    }
    let own = p.deploy(3, &[], &deploying_with(STORE, 7));
    assert_eq!(p.number(3, &own.address), Some(7));

    // Payloads outlive the process, and those that came while a node was away are fetched.
    p.c.kill(2);
    let mut request = p.request(0, &[1, 2], Some(&contract.address), &word(46));
    request["acknowledgements"] = json!({ "of": p.keys(&[1]) });
    let sent = p.send(0, &request);
    p.c.start(2);
    p.wait_ready();
    p.private_receipt(2, &sent);
    p.wait_number(&[0, 1, 2], &contract.address, 46);
    p.finish();
}

#[test]
fn a_consortium_with_x_wing_takes_what_clients_sign() {
    let mut p = with_suite(Form::Quorum, 2);
    let wallet = Wallet::named("a client in a network with the second suite");
    let stored = store_raw(&p, 1, &deploying_with(STORE, 42));
    let private = json!({ "privateFor": p.keys(&[0]) });
    let raw = wallet.quorum(0, None, &stored);
    let hash = p.send_raw(1, "eth_sendRawPrivateTransaction", &raw, &private);
    let contract = p.deployed(&hash, &[0, 1].into());
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42), None]
    );
    p.track(contract);
    let sent = post(
        p.third(3),
        "/send",
        &json!({ "payload": "AAEC", "to": p.keys(&[1]) }),
    );
    assert_eq!(sent.status, 201, "{}", sent.text());
    let key = sent.json()["key"].as_str().unwrap().to_owned();
    let escaped = key
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let path = format!("/transaction/{escaped}");
    assert_eq!(get(p.third(1), &path).json()["payload"], "AAEC");
    assert_eq!(get(p.third(2), &path).status, 404);
    p.finish();
}

#[test]
fn the_suite_in_genesis_is_the_one_on_the_wire() {
    let nacl = bytes_of_a_delivery(&mut with_suite(Form::Marker, 1));
    let hybrid = bytes_of_a_delivery(&mut with_suite(Form::Marker, 2));
    eprintln!("bytes of one delivery: {nacl} with the first suite, {hybrid} with the second");
    assert!(
        hybrid >= nacl + ENCAPSULATION_BYTES,
        "{nacl} bytes with the first suite, {hybrid} with the second"
    );
}

#[test]
fn a_suite_that_is_not_known_is_refused_at_the_start() {
    let mut p = Parties::prepared(Form::Marker, &[]);
    choose(&p, 3);
    p.c.start(0);
    assert_eq!(p.c.exit_code(0), Some(3));
    let log = p.c.log(0);
    assert!(log.contains("suite"), "{log}");
}
