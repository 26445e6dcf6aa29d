//! Tessera's HTTP surface on whole nodes: what is stored, sent and read over it is the same that transactions name.

use alloy_primitives::hex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::codes::*;
use super::http::{get, post, request};
use super::parties::{Parties, merge};
use super::raw::store_raw;
use super::signing::Wallet;
use super::table::scenarios;

scenarios! {
    disturbed: [
        what_is_sent_over_http_is_executed_by_a_transaction_of_the_client,
        payloads_of_transactions_are_read_over_http_by_parties_alone,
    ],
    calm: [
        the_surface_says_that_it_is_up_and_which_keys_there_are,
        raw_bytes_are_sent_and_received_with_headers,
        a_stored_payload_is_read_by_its_owner_alone_until_it_is_sent,
        a_deleted_payload_is_gone_here_and_stays_elsewhere,
        what_cannot_be_read_is_refused_in_words,
        rules_that_rest_on_the_transaction_are_refused_with_the_field_and_the_way,
    ]
}

fn base64_of(hash: &str) -> String {
    STANDARD.encode(hex::decode(hash).unwrap())
}

fn escaped(text: &str) -> String {
    text.replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}

fn what_is_sent_over_http_is_executed_by_a_transaction_of_the_client(p: &mut Parties) {
    let wallet = Wallet::named("a client of the third-party surface");
    let body = json!({
        "payload": STANDARD.encode(deploying_with(STORE, 42)), "from": p.key(0), "to": p.keys(&[3]),
    });
    let sent = post(p.third(0), "/send", &body);
    assert_eq!(sent.status, 201, "{}", sent.text());
    let sent = sent.json();
    assert_eq!(sent["senderKey"], p.key(0));
    let payload = STANDARD.decode(sent["key"].as_str().unwrap()).unwrap();
    let payload = hex::encode_prefixed(payload);
    // Delivered already: what is left is the transaction, which any node may be given with the same recipients.
    let to = json!({ "privateFor": p.keys(&[3]), "privateFrom": p.key(0) });
    p.midway();
    let raw = wallet.quorum(0, None, &payload);
    let hash = p.send_raw(0, "eth_sendRawPrivateTransaction", &raw, &to);
    let contract = p.deployed(&hash, &[0, 3].into());
    p.track(contract.clone());
    assert_eq!(
        [0, 3, 1].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42), None]
    );
}

fn payloads_of_transactions_are_read_over_http_by_parties_alone(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    p.midway();
    let hash = p.execute(0, &[1], &contract, &word(43));
    let key = base64_of(&p.payload_hash(&hash));
    for i in [0, 1] {
        let read = p.wait("the enclave answers", || {
            let read = get(p.third(i), &format!("/transaction/{}", escaped(&key)));
            (read.status == 200).then(|| read.json())
        });
        assert_eq!(read["payload"], STANDARD.encode(word(43)));
        assert_eq!(read["senderKey"], p.key(0));
        assert_eq!(read["privacyFlag"], 0);
        let read = post(p.third(i), "/receive", &json!({ "key": key }));
        assert_eq!(read.json()["payload"], STANDARD.encode(word(43)));
        let sender = get(
            p.third(i),
            &format!("/transaction/{}/isSender", escaped(&key)),
        );
        assert_eq!(sender.text(), (i == 0).to_string());
    }
    // A recipient learns no other recipients, the sender knows them all.
    let participants = |i: usize| {
        get(
            p.third(i),
            &format!("/transaction/{}/participants", escaped(&key)),
        )
        .text()
    };
    assert!(participants(0).contains(p.key(1)));
    for i in [2, 3] {
        let read = get(p.third(i), &format!("/transaction/{}", escaped(&key)));
        assert_eq!(read.status, 404, "{}", read.text());
    }
}

fn the_surface_says_that_it_is_up_and_which_keys_there_are(p: &mut Parties) {
    for i in 0..4 {
        assert_eq!(get(p.third(i), "/upcheck").text(), "I'm up!");
        let keys = get(p.third(i), "/keys").json();
        assert_eq!(keys, json!({ "keys": [{ "key": p.key(i) }] }));
        let all = get(p.third(i), "/partyinfo/keys").json();
        let mut all: Vec<&str> = all["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|k| k["key"].as_str().unwrap())
            .collect();
        let mut expected: Vec<&str> = (0..4).map(|i| p.key(i)).collect();
        all.sort_unstable();
        expected.sort_unstable();
        assert_eq!(all, expected);
        assert!(get(p.third(i), "/version/api").json().is_array());
        assert_eq!(get(p.third(i), "/version").status, 200);
    }
}

fn raw_bytes_are_sent_and_received_with_headers(p: &mut Parties) {
    let headers = [
        ("Content-Type", "application/octet-stream"),
        ("c11n-from", p.key(0)),
        ("c11n-to", p.key(2)),
    ];
    let sent = request(
        p.third(0),
        "POST",
        "/sendraw",
        &headers,
        b"not for everyone",
    )
    .unwrap();
    assert_eq!(sent.status, 200, "{}", sent.text());
    let key = sent.text();
    let read =
        |i: usize| request(p.third(i), "GET", "/receiveraw", &[("c11n-key", &key)], &[]).unwrap();
    for i in [0, 2] {
        assert_eq!(read(i).body, b"not for everyone", "node {i}");
    }
    assert_eq!(read(1).status, 404);
    assert_eq!(read(3).status, 404);
}

fn a_stored_payload_is_read_by_its_owner_alone_until_it_is_sent(p: &mut Parties) {
    let stored = store_raw(p, 0, b"nobody has it yet");
    let key = base64_of(&stored);
    let read = |i: usize| {
        get(
            p.third(i),
            &format!("/transaction/{}?isRaw=true", escaped(&key)),
        )
    };
    assert_eq!(
        read(0).json()["payload"],
        STANDARD.encode(b"nobody has it yet")
    );
    assert_eq!(read(1).status, 404);
    let signed = json!({ "hash": key, "to": p.keys(&[1]) });
    let sent = post(p.third(0), "/sendsignedtx", &signed);
    assert_eq!(sent.status, 201, "{}", sent.text());
    assert_eq!(
        read(1).json()["payload"],
        STANDARD.encode(b"nobody has it yet")
    );
    assert_eq!(read(2).status, 404);
}

fn a_deleted_payload_is_gone_here_and_stays_elsewhere(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let key = escaped(&base64_of(&contract.payload));
    let path = format!("/transaction/{key}");
    let deleted = request(p.third(1), "DELETE", &path, &[], &[]).unwrap();
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(get(p.third(1), &path).status, 404);
    assert_eq!(get(p.third(0), &path).status, 200);
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42)]
    );
}

fn what_cannot_be_read_is_refused_in_words(p: &mut Parties) {
    let port = p.third(0);
    let refused = |path: &str, body: Value| {
        let answer = post(port, path, &body);
        (answer.status, answer.text())
    };
    let (status, said) = refused("/send", json!({ "payload": "?" }));
    assert_eq!(status, 400, "{said}");
    let (status, said) = refused("/storeraw", json!({}));
    assert_eq!(status, 400, "{said}");
    let unknown = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
    let (status, said) = refused("/send", json!({ "payload": "AAAA", "to": [unknown] }));
    assert_eq!(status, 404, "{said}");
    assert!(said.contains(unknown), "{said}");
    let (status, said) = refused("/storeraw", json!({ "payload": "AAAA", "from": p.key(1) }));
    assert!(status == 404 || status == 400, "{status}: {said}");
    assert_eq!(get(port, "/transaction/short").status, 400);
    assert_eq!(get(port, "/nothing").status, 404);
    assert_eq!(get(port, "/send").status, 405);
    let nobody = escaped(&base64_of(&format!("0x{}", "13".repeat(64))));
    assert_eq!(get(port, &format!("/transaction/{nobody}")).status, 404);
}

/// Tessera takes the sender's word for what a transaction affects. Here the node finds out for itself, which needs the transaction.
fn rules_that_rest_on_the_transaction_are_refused_with_the_field_and_the_way(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1], &deploying(STORE), json!({ "privacyFlag": 1 }));
    let stored = base64_of(&store_raw(p, 0, &word(7)));
    let affected = base64_of(&contract.payload);
    let root = STANDARD.encode([7; 32]);
    for (named, more) in [
        ("privacyFlag", json!({ "privacyFlag": 1 })),
        (
            "privacyFlag",
            json!({ "privacyFlag": 2, "mandatoryRecipients": p.keys(&[1]) }),
        ),
        ("privacyFlag", json!({ "privacyFlag": 3 })),
        (
            "affectedContractTransactions",
            json!({ "privacyFlag": 1, "affectedContractTransactions": [affected] }),
        ),
        ("execHash", json!({ "privacyFlag": 3, "execHash": root })),
        (
            "mandatoryRecipients",
            json!({ "mandatoryRecipients": p.keys(&[1]) }),
        ),
        ("mandatoryRecipients", json!({ "privacyFlag": 2 })),
    ] {
        let is_mandatory = named == "mandatoryRecipients";
        for (path, what) in [
            ("/send", json!({ "payload": STANDARD.encode(word(7)) })),
            ("/sendsignedtx", json!({ "hash": stored })),
        ] {
            let mut body = what;
            body["to"] = json!(p.keys(&[1]));
            merge(&mut body, more.clone());
            let answer = post(p.third(0), path, &body);
            let said = answer.text();
            assert_eq!(answer.status, 400, "{path} {more}: {said}");
            assert!(said.contains(named), "{path} {more}: {said}");
            assert!(
                is_mandatory || said.contains("eth_sendRawPrivateTransaction"),
                "{path} {more}: {said}"
            );
        }
    }
    // The way that is named: the same flag, payload and recipients.
    let wallet = Wallet::named("a client of the third-party surface with a flag");
    let payload = store_raw(p, 0, &deploying_with(STORE, 42));
    let raw = wallet.quorum(0, None, &payload);
    let private = json!({ "privateFor": p.keys(&[1]), "privacyFlag": 1 });
    let hash = p.send_raw(0, "eth_sendRawPrivateTransaction", &raw, &private);
    let made = p.deployed(&hash, &[0, 1].into());
    let read = get(
        p.third(1),
        &format!("/transaction/{}", escaped(&base64_of(&made.payload))),
    );
    assert_eq!(read.json()["privacyFlag"], 1);
    p.track(made);
}
