//! A new party joins a private contract, as users of Quorum do it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Contract, Form, Parties};

/// Sends a step of an extension; what it returned, or the error.
fn step(p: &Parties, from: usize, method: &str, mut params: Vec<Value>) -> Result<String, Value> {
    params.push(json!({ "from": p.account(from), "privateFor": [] }));
    let answer = p.c.try_rpc(from, method, Value::from(params)).unwrap();
    match answer.get("result").and_then(Value::as_str) {
        Some(hash) => Ok(hash.to_owned()),
        None => Err(answer["error"].clone()),
    }
}

fn status(p: &Parties, i: usize, extension: &str) -> Value {
    p.patiently(i, "quorumExtension_getExtensionStatus", json!([extension]))
}

fn active(p: &Parties, i: usize) -> Value {
    p.patiently(i, "quorumExtension_activeExtensionContracts", json!([]))
}

#[test]
fn a_contract_is_extended_to_a_third_party_which_then_takes_part() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let address = contract.address.clone();
    p.execute(0, &[1], &contract, &word(129));
    assert_eq!(p.number(2, &address), None);

    let offer = |p: &Parties, from: usize| {
        let mut params = vec![json!(address), json!(p.key(2)), json!(p.account(2))];
        params.push(json!({ "from": p.account(from), "privateFor": [p.key(1), p.key(2)] }));
        let answer =
            p.c.try_rpc(from, "quorumExtension_extendContract", Value::from(params));
        answer.unwrap()
    };
    // A node that does not have the contract cannot offer it.
    assert!(
        offer(&p, 3)["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not private here")
    );
    let offered = offer(&p, 0)["result"].as_str().unwrap().to_owned();
    let extension = p.private_receipt(2, &offered)["contractAddress"]
        .as_str()
        .unwrap()
        .to_owned();
    for i in [0, 1, 2] {
        assert_eq!(p.private_receipt(i, &offered)["status"], "0x1", "node {i}");
        assert_eq!(status(&p, i, &extension), "ACTIVE");
        let listed = active(&p, i);
        assert_eq!(listed[0]["managementContractAddress"], extension);
        assert_eq!(listed[0]["contractExtended"], address.to_lowercase());
        assert_eq!(listed[0]["recipientPtmKey"], p.key(2));
    }
    assert_eq!(active(&p, 3), json!([]));
    assert!(
        offer(&p, 0)["error"]["message"]
            .as_str()
            .unwrap()
            .contains("already")
    );

    // Whoever was not asked cannot answer.
    let vote = "quorumExtension_approveExtension";
    step(&p, 1, vote, vec![json!(extension), json!(true)]).unwrap_err();
    let voted = step(&p, 2, vote, vec![json!(extension), json!(true)]).unwrap();
    for i in [0, 1, 2] {
        assert_eq!(p.private_receipt(i, &voted)["status"], "0x1", "node {i}");
        assert_eq!(status(&p, i, &extension), "DONE");
    }
    p.wait_number(&[0, 1, 2], &address, 129);

    let contract = Contract {
        parties: BTreeSet::from([0, 1, 2]),
        ..contract
    };
    p.execute(1, &[0, 2], &contract, &word(999));
    p.wait_number(&[0, 1, 2], &address, 999);
    p.execute(2, &[0, 1], &contract, &word(1000));
    p.wait_number(&[0, 1, 2], &address, 1000);
    assert_eq!(p.storage_root(2, &address), p.storage_root(0, &address));
    assert_eq!(p.storage_root(1, &address), p.storage_root(0, &address));
    assert_eq!(p.number(3, &address), None);
    for hash in [&offered, &voted] {
        p.assert_no_party(3, hash);
    }
    let error = step(&p, 2, vote, vec![json!(extension), json!(true)]).unwrap_err();
    assert!(
        error["message"].as_str().unwrap().contains("ended"),
        "{error}"
    );
}
