//! Privacy groups by name, and erasure.

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Parties, merge};
use super::table::scenarios;

scenarios! {
    disturbed: [
        a_group_is_made_known_to_its_members_and_used_by_name,
        a_group_is_found_by_name_by_members_and_by_id,
        a_group_and_a_key_may_be_named_together,
        an_erased_payload_is_gone_and_its_record_stays,
        payloads_of_a_group_expire_when_it_asks_for_that,
    ],
    calm: [
        a_group_that_nobody_made_is_refused,
        a_deleted_group_is_refused_and_its_contract_stays,
        a_payload_that_was_never_here_is_not_erased,
    ]
}

/// Makes a group of these nodes through node `from`, and waits until its members know it.
fn group(p: &mut Parties, from: usize, name: &str, nodes: &[usize], more: &[&str]) -> Value {
    let keys = p.keys(nodes);
    let mut arguments = vec!["group", "create", "--name", name];
    for key in &keys {
        arguments.extend(["--member", key]);
    }
    arguments.extend(more);
    let made = p.cli(from, &arguments);
    for i in nodes {
        p.wait(&format!("node {i} knows the group {name}"), || {
            let known = p.cli(*i, &["group", "list"]);
            known
                .as_array()?
                .iter()
                .any(|group| group["id"] == made["id"])
                .then_some(())
        });
    }
    p.note_group(&made, nodes);
    made
}

fn for_group(
    p: &Parties,
    from: usize,
    names: &[&str],
    contract: Option<&str>,
    data: &[u8],
) -> Value {
    let mut request = p.request(from, &[], contract, data);
    merge(&mut request, json!({ "privateFor": names }));
    request
}

fn a_group_is_made_known_to_its_members_and_used_by_name(p: &mut Parties) {
    group(p, 0, "loans", &[0, 1, 3], &[]);
    let known = p.cli(2, &["group", "list"]);
    let known = known.as_array().unwrap();
    assert!(
        known.iter().all(|group| group["name"] != "loans"),
        "{known:?}"
    );
    let request = for_group(p, 0, &["loans"], None, &deploying_with(STORE, 42));
    let hash = p.send(0, &request);
    let contract = p.deployed(&hash, &[0, 1, 3].into());
    p.track(contract.clone());
    p.midway();
    // Any member uses it. Which nodes it means, the request does not say.
    let request = for_group(p, 3, &["loans"], Some(&contract.address), &word(43));
    let hash = p.send(3, &request);
    for i in [0, 1, 3] {
        assert_eq!(p.private_receipt(i, &hash)["status"], "0x1");
        assert_eq!(p.number(i, &contract.address), Some(43));
    }
    p.assert_no_party(2, &hash);
}

fn a_group_is_found_by_name_by_members_and_by_id(p: &mut Parties) {
    let made = group(
        p,
        2,
        "custody",
        &[2, 3],
        &["--description", "who keeps what"],
    );
    let keys = p.keys(&[2, 3]);
    for arguments in [
        vec!["group", "find", "--name", "custody"],
        vec!["group", "find", "--name", made["id"].as_str().unwrap()],
        vec!["group", "find", "--member", &keys[1], "--member", &keys[0]],
    ] {
        for i in [2, 3] {
            let found = p.cli(i, &arguments);
            let found = found.as_array().unwrap();
            assert!(
                found.iter().any(|group| group["id"] == made["id"]),
                "{arguments:?}: {found:?}"
            );
        }
    }
    // The same again is the same group.
    assert_eq!(group(p, 3, "custody", &[2, 3], &[])["id"], made["id"]);
    p.midway();
    let id = made["id"].as_str().unwrap();
    let request = for_group(p, 2, &[id], None, &deploying_with(STORE, 5));
    let hash = p.send(2, &request);
    let contract = p.deployed(&hash, &[2, 3].into());
    p.track(contract.clone());
    let payload = p.cli(3, &["payload", &contract.payload]);
    assert_eq!(payload["groupId"], made["id"]);
}

fn a_group_and_a_key_may_be_named_together(p: &mut Parties) {
    group(p, 0, "a-pair", &[0, 3], &[]);
    let request = for_group(p, 0, &["a-pair", p.key(2)], None, &deploying_with(STORE, 7));
    p.midway();
    let hash = p.send(0, &request);
    let contract = p.deployed(&hash, &[0, 2, 3].into());
    p.track(contract);
    p.assert_no_party(1, &hash);
}

/// What the transaction's payload said is not to be had from its record either.
fn assert_input_gone(p: &Parties, i: usize, hash: &str) {
    let transaction = p.patiently(i, "eth_getPrivateTransactionByHash", json!([hash]));
    assert_eq!(transaction["payload"], "0x", "{transaction}");
}

fn an_erased_payload_is_gone_and_its_record_stays(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    p.midway();
    let hash = p.execute(0, &[1], &contract, &word(43));
    let payload = p.payload_hash(&hash);
    let erased = p.cli(1, &["erase", &payload, "--note", "request 4711"]);
    assert_eq!(erased["payload"], payload.as_str());
    assert_eq!(
        p.patiently(1, "eth_getQuorumPayload", json!([payload])),
        "0x"
    );
    let records = p.cli(1, &["erasures"]);
    let record = records
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["payload"] == payload.as_str());
    assert_eq!(record.unwrap()["note"], "request 4711");
    assert_input_gone(p, 1, &hash);
    // Again changes nothing.
    assert_eq!(
        p.cli(1, &["erase", &payload])["sequence"],
        erased["sequence"]
    );
    // The hash stays on the chain, what was executed stays executed, and the other party keeps its own.
    assert_eq!(p.payload_hash(&hash), payload);
    for i in [0, 1] {
        assert_eq!(p.number(i, &contract.address), Some(43));
    }
    let kept = p.patiently(0, "eth_getQuorumPayload", json!([payload]));
    assert_eq!(kept, hex::encode_prefixed(word(43)));
    p.execute(1, &[0], &contract, &word(44));
    assert_eq!(p.number(0, &contract.address), Some(44));
}

fn payloads_of_a_group_expire_when_it_asks_for_that(p: &mut Parties) {
    group(p, 0, "forgetful", &[0, 1], &["--payloads-live", "3s"]);
    let request = for_group(p, 0, &["forgetful"], None, &deploying_with(STORE, 42));
    p.midway();
    let hash = p.send(0, &request);
    let contract = p.deployed(&hash, &[0, 1].into());
    p.track(contract.clone());
    for i in [0, 1] {
        p.wait(&format!("node {i} has erased the payload"), || {
            let answer =
                p.c.try_rpc(i, "eth_getQuorumPayload", json!([contract.payload]))
                    .ok()?;
            (answer["result"] == "0x").then_some(())
        });
        let records = p.cli(i, &["erasures"]);
        let mut records = records.as_array().unwrap().iter();
        let record = records
            .find(|r| r["payload"] == contract.payload.as_str())
            .unwrap();
        assert_eq!(record["reason"], "expired", "{record}");
        assert_input_gone(p, i, &hash);
        assert_eq!(p.number(i, &contract.address), Some(42));
    }
}

fn a_group_that_nobody_made_is_refused(p: &mut Parties) {
    let said = p.refused(0, &for_group(p, 0, &["ghosts"], None, &deploying(STORE)));
    assert!(said.contains("ghosts"), "{said}");
    let wrong = p.try_cli(0, &["group", "find", "--name", "ghosts"]);
    let found = String::from_utf8_lossy(&wrong.stdout).into_owned();
    assert!(!wrong.status.success() || found.trim() == "[]", "{found}");
}

fn a_deleted_group_is_refused_and_its_contract_stays(p: &mut Parties) {
    let made = group(p, 0, "short-lived", &[0, 2], &[]);
    let hash = p.send(
        0,
        &for_group(p, 0, &["short-lived"], None, &deploying_with(STORE, 9)),
    );
    let contract = p.deployed(&hash, &[0, 2].into());
    p.track(contract.clone());
    p.cli(0, &["group", "delete", made["id"].as_str().unwrap()]);
    let said = p.refused(
        0,
        &for_group(p, 0, &["short-lived"], None, &deploying(STORE)),
    );
    assert!(said.contains("short-lived"), "{said}");
    assert_eq!(
        [0, 2].map(|i| p.number(i, &contract.address)),
        [Some(9), Some(9)]
    );
}

fn a_payload_that_was_never_here_is_not_erased(p: &mut Parties) {
    let never = format!("0x{}", "77".repeat(64));
    let output = p.try_cli(0, &["erase", &never]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("payload"), "{said}");
}
