//! Private contracts: deployed, called, read, refused.

use std::collections::BTreeSet;

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Form, Parties, merge};
use super::table::scenarios;
use crate::consortium::quantity;

scenarios! {
    disturbed: [
        a_private_contract_is_deployed_set_and_read_by_its_parties_alone,
        its_payloads_are_read_by_its_parties_alone,
        a_contract_for_three_is_set_by_each_of_them,
        a_contract_for_all_is_set_by_each_of_them,
        a_contract_for_the_sender_alone_is_known_to_nobody_else,
        naming_the_senders_own_key_changes_nothing,
        the_sending_key_may_be_named,
        a_transaction_to_a_subset_changes_only_theirs,
        the_past_of_a_private_contract_can_be_read,
        gas_is_estimated_for_private_creations_and_calls,
        a_reverting_call_says_why_to_its_parties,
        a_creation_that_reverts_leaves_nothing,
        a_call_to_an_address_without_code_succeeds_and_does_nothing,
        nonces_go_on_for_everyone,
        the_public_side_is_the_same_on_all_nodes,
        private_execution_sees_the_block_that_it_is_in,
        transactions_of_two_nodes_to_one_contract_are_all_executed,
        a_nonce_may_be_given,
    ],
    calm: [
        value_in_a_private_transaction_is_refused,
        an_unknown_recipient_is_refused_by_name,
        a_malformed_recipient_is_refused,
        a_foreign_sending_key_is_refused,
        a_private_transaction_without_data_is_refused,
        an_unknown_account_is_refused,
        fields_of_a_private_transaction_without_recipients_are_refused,
        calls_of_a_private_contract_that_revert_tell_their_reason,
        status_and_keys_are_told,
        the_names_of_quorum_are_there,
    ]
}

/// The contract of Quorum's own tests: 42 at first.
fn forty_two() -> Vec<u8> {
    deploying_with(STORE, 42)
}

fn a_private_contract_is_deployed_set_and_read_by_its_parties_alone(p: &mut Parties) {
    let contract = p.deploy(0, &[3], &forty_two());
    let at = |p: &Parties| [0, 3, 2].map(|i| p.number(i, &contract.address));
    assert_eq!(at(p), [Some(42), Some(42), None]);
    assert_eq!(
        p.storage_root(0, &contract.address),
        p.storage_root(3, &contract.address)
    );
    assert_ne!(
        p.storage_root(0, &contract.address),
        p.storage_root(2, &contract.address)
    );
    p.midway();
    let hash = p.execute(0, &[3], &contract, &word(5));
    assert_eq!(at(p), [Some(5), Some(5), None]);
    assert_eq!(
        p.storage_root(0, &contract.address),
        p.storage_root(3, &contract.address)
    );
    p.assert_no_party(2, &hash);
    p.assert_no_party(1, &hash);
}

fn its_payloads_are_read_by_its_parties_alone(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &forty_two());
    p.midway();
    let hash = p.execute(0, &[1], &contract, &word(7));
    let payload = p.payload_hash(&hash);
    for i in [0, 1] {
        let data = p.patiently(i, "eth_getQuorumPayload", json!([payload]));
        assert_eq!(data, hex::encode_prefixed(word(7)), "node {i}");
        let extra = p.patiently(i, "eth_getQuorumPayloadExtra", json!([payload]));
        assert_eq!(extra["isSender"], i == 0);
        assert_eq!(extra["extraMetaData"]["Sender"], p.key(0));
        let inner = p.patiently(i, "eth_getPrivateTransactionByHash", json!([hash]));
        assert_eq!(inner["to"], contract.address.as_str());
        assert_eq!(inner["payload"], hex::encode_prefixed(word(7)));
    }
    for i in [2, 3] {
        assert_eq!(
            p.patiently(i, "eth_getQuorumPayload", json!([payload])),
            "0x"
        );
    }
    // A hash that nobody ever heard of.
    let unknown = format!("0x{}", "ab".repeat(64));
    assert_eq!(
        p.patiently(0, "eth_getQuorumPayload", json!([unknown])),
        "0x"
    );
    let error = p.c.rpc_error(0, "eth_getQuorumPayload", json!(["0xab"]));
    assert!(error["message"].as_str().unwrap().contains("64"), "{error}");
}

fn a_contract_for_three_is_set_by_each_of_them(p: &mut Parties) {
    let contract = p.deploy(0, &[1, 2], &forty_two());
    p.execute(1, &[0, 2], &contract, &word(11));
    p.midway();
    p.execute(2, &[0, 1], &contract, &word(12));
    for i in [0, 1, 2] {
        assert_eq!(p.number(i, &contract.address), Some(12));
    }
    assert_eq!(p.number(3, &contract.address), None);
}

fn a_contract_for_all_is_set_by_each_of_them(p: &mut Parties) {
    let contract = p.deploy(2, &[0, 1, 3], &deploying(ACCUMULATOR));
    p.execute(0, &[1, 2, 3], &contract, &word(1));
    p.midway();
    p.execute(1, &[0, 2, 3], &contract, &word(10));
    p.execute(3, &[0, 1, 2], &contract, &word(100));
    for i in 0..4 {
        assert_eq!(p.number(i, &contract.address), Some(111));
    }
}

fn a_contract_for_the_sender_alone_is_known_to_nobody_else(p: &mut Parties) {
    p.midway();
    let contract = p.deploy(2, &[], &forty_two());
    let hash = p.execute(2, &[], &contract, &word(43));
    assert_eq!(p.number(2, &contract.address), Some(43));
    for i in [0, 1, 3] {
        p.assert_no_party(i, &hash);
        assert_eq!(p.number(i, &contract.address), None);
    }
}

fn naming_the_senders_own_key_changes_nothing(p: &mut Parties) {
    let contract = p.deploy(0, &[0, 1], &forty_two());
    p.midway();
    p.execute(1, &[0, 1, 0], &contract, &word(4));
    assert_eq!(contract.parties, BTreeSet::from([0, 1]));
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(4), Some(4), None]
    );
}

fn the_sending_key_may_be_named(p: &mut Parties) {
    let key = json!({ "privateFrom": p.key(0) });
    p.midway();
    let contract = p.deploy_with(0, &[1], &forty_two(), key);
    assert_eq!(p.number(1, &contract.address), Some(42));
    let extra = p.patiently(1, "eth_getQuorumPayloadExtra", json!([contract.payload]));
    assert_eq!(extra["extraMetaData"]["Sender"], p.key(0));
}

fn a_transaction_to_a_subset_changes_only_theirs(p: &mut Parties) {
    let contract = p.deploy(0, &[1, 2], &deploying_with(ACCUMULATOR, 1));
    p.midway();
    // A party that is not in it does not see it: the price of flag 0.
    let subset = p.execute(0, &[1], &contract, &word(2));
    p.assert_no_party(2, &subset);
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(3), Some(3), Some(1)]
    );
    let all = p.execute(0, &[1, 2], &contract, &word(10));
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(13), Some(13), Some(11)]
    );
    // Receipts differ where the outcome did.
    let log = |i: usize| p.private_receipt(i, &all)["logs"][0]["data"].clone();
    assert_eq!(log(0), hex::encode_prefixed(word(13)));
    assert_eq!(log(1), log(0));
    assert_eq!(log(2), hex::encode_prefixed(word(11)));
    p.let_diverge(&contract);
    // And it does not go unnoticed: sender and party each see an alarm with both digests and the block.
    for i in [0, 2] {
        p.wait(&format!("node {i} raises an alarm"), || {
            let alarms = p.cli(i, &["alarms"]);
            let alarms = alarms.as_array()?.iter();
            alarms
                .filter(|alarm| alarm["transaction"] == all.as_str())
                .find(|alarm| {
                    alarm["ourDigest"] != alarm["theirDigest"]
                        && alarm["blockHeight"].as_u64() > Some(0)
                })?;
            Some(())
        });
    }
}

fn the_past_of_a_private_contract_can_be_read(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &forty_two());
    let first = p.execute(0, &[1], &contract, &word(43));
    p.midway();
    let second = p.execute(1, &[0], &contract, &word(44));
    let block = |hash: &str| quantity(&p.private_receipt(0, hash)["blockNumber"]);
    let deployed = block(&contract.transaction);
    for i in [0, 1] {
        let at = |height: u64| {
            let call = json!({ "to": contract.address });
            let answer = p.patiently(i, "eth_call", json!([call, format!("{height:#x}")]));
            super::parties::first_word(answer.as_str().unwrap())
        };
        assert_eq!(at(deployed - 1), None);
        assert_eq!(at(deployed), Some(42));
        assert_eq!(at(block(&first)), Some(43));
        assert_eq!(at(block(&second)), Some(44));
        let slot = p.patiently(
            i,
            "eth_getStorageAt",
            json!([contract.address, "0x0", format!("{:#x}", block(&first))]),
        );
        assert_eq!(slot, hex::encode_prefixed(word(43)));
    }
}

fn gas_is_estimated_for_private_creations_and_calls(p: &mut Parties) {
    let mut creation = p.request(0, &[1], None, &forty_two());
    creation.as_object_mut().unwrap().remove("gas");
    let estimate = p.patiently(0, "eth_estimateGas", json!([creation]));
    assert!(quantity(&estimate) > 53_000, "{estimate}");
    // Sent without a limit, the node takes its own estimate.
    let contract = p.deploy_with(0, &[1], &forty_two(), json!({ "gas": null }));
    let mut call = p.request(1, &[0], Some(&contract.address), &word(9));
    call.as_object_mut().unwrap().remove("gas");
    let estimate = quantity(&p.patiently(1, "eth_estimateGas", json!([call])));
    assert!(estimate > 26_000, "{estimate}");
    p.midway();
    p.execute_with(
        1,
        &[0],
        &contract,
        &word(9),
        json!({ "gas": format!("{estimate:#x}") }),
    );
    assert_eq!(p.number(0, &contract.address), Some(9));
    // What is sure to revert has no estimate.
    let reverting = p.deploy(0, &[1], &deploying(&reverting("not today")));
    let call = p.request(0, &[1], Some(&reverting.address), &word(1));
    let error = p.c.rpc_error(0, "eth_estimateGas", json!([call]));
    assert!(
        error["message"].as_str().unwrap().contains("not today"),
        "{error}"
    );
}

fn a_reverting_call_says_why_to_its_parties(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(&reverting("not today")));
    let request = p.request(0, &[1], Some(&contract.address), &word(1));
    p.midway();
    let hash = p.send(0, &request);
    for i in [0, 1] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x0", "{receipt}");
        let reason = hex::decode(receipt["revertReason"].as_str().unwrap()).unwrap();
        assert!(
            reason.windows(9).any(|part| part == b"not today"),
            "{receipt}"
        );
        assert_eq!(receipt["logs"], json!([]));
        assert_eq!(
            p.slot(i, &contract.address, 0),
            alloy_primitives::U256::ZERO
        );
    }
    // The chain knows of nothing.
    p.assert_no_party(2, &hash);
    assert_eq!(p.public_receipt(2, &hash)["status"], "0x1");
}

fn a_creation_that_reverts_leaves_nothing(p: &mut Parties) {
    let request = p.request(0, &[1], None, &reverting("never"));
    p.midway();
    let hash = p.send(0, &request);
    for i in [0, 1] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x0", "{receipt}");
        let data = p.patiently(i, "eth_getQuorumPayload", json!([p.payload_hash(&hash)]));
        assert_eq!(data, hex::encode_prefixed(reverting("never")));
        if let Some(address) = receipt["contractAddress"].as_str() {
            assert_eq!(p.code(i, address), "0x");
        }
    }
}

fn a_call_to_an_address_without_code_succeeds_and_does_nothing(p: &mut Parties) {
    let nobody = "0x00000000000000000000000000000000000b0d1e";
    let request = p.request(1, &[3], Some(nobody), b"hello");
    p.midway();
    let hash = p.send(1, &request);
    for i in [1, 3] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        assert_eq!(p.code(i, nobody), "0x");
    }
    p.assert_no_party(0, &hash);
}

fn nonces_go_on_for_everyone(p: &mut Parties) {
    let count = |p: &Parties, i: usize| {
        quantity(&p.c.rpc(
            i,
            "eth_getTransactionCount",
            json!([p.account(0), "latest"]),
        ))
    };
    let before = count(p, 2);
    p.midway();
    let contract = p.deploy(0, &[1], &forty_two());
    let last = p.execute(0, &[1], &contract, &word(1));
    for i in 0..4 {
        p.public_receipt(i, &last);
        assert_eq!(count(p, i), before + 2, "node {i}");
    }
}

fn the_public_side_is_the_same_on_all_nodes(p: &mut Parties) {
    p.midway();
    let contract = p.deploy(0, &[1], &forty_two());
    let hash = &contract.transaction;
    let transaction = |i: usize| {
        p.public_receipt(i, hash);
        p.c.rpc(i, "eth_getTransactionByHash", json!([hash]))
    };
    let first = transaction(0);
    for i in 1..4 {
        assert_eq!(transaction(i), first, "node {i}");
    }
    let height = quantity(&first["blockNumber"]);
    let block = p.c.block(0, height);
    for i in 1..4 {
        assert_eq!(p.c.block(i, height), block, "node {i}");
    }
    match p.form {
        Form::Marker => {
            assert_eq!(first["to"], "0x000000000000000000000000000000000000007a");
            // What is longer than the hash are tags, four or more, and their number says nothing exact.
            let tags = (first["input"].as_str().unwrap().len() - 2) / 2 - 64;
            assert_eq!(tags % 32, 0, "{first}");
            assert!(tags >= 32, "{first}");
            for i in 0..4 {
                let receipt = p.public_receipt(i, hash);
                assert_eq!(receipt["isPrivacyMarkerTransaction"], true, "node {i}");
                assert_eq!(receipt["logs"], json!([]));
                assert!(receipt["contractAddress"].is_null());
            }
            assert!(p.public_receipt(0, hash) == p.public_receipt(2, hash));
        }
        Form::Quorum => {
            assert!(
                ["0x25", "0x26"].contains(&first["v"].as_str().unwrap()),
                "{first}"
            );
            assert_eq!(first["input"].as_str().unwrap().len(), 2 + 128);
            // Parties are shown the private receipt in its place, as Quorum does.
            let party = p.patiently(1, "eth_getTransactionReceipt", json!([hash]));
            assert_eq!(party["contractAddress"], contract.address.as_str());
            assert_eq!(party["gasUsed"], "0x0");
            let other = p.patiently(2, "eth_getTransactionReceipt", json!([hash]));
            assert_eq!(other["status"], "0x1");
            assert_eq!(other["logs"], json!([]));
        }
    }
}

fn private_execution_sees_the_block_that_it_is_in(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(CLOCK));
    p.midway();
    let hash = p.execute(0, &[1], &contract, &word(1));
    let height = quantity(&p.private_receipt(0, &hash)["blockNumber"]);
    let time = quantity(&p.c.block(0, height)["timestamp"]);
    for i in [0, 1] {
        assert_eq!(p.number(i, &contract.address), Some(height));
        assert_eq!(
            p.slot(i, &contract.address, 1),
            alloy_primitives::U256::from(time)
        );
    }
}

fn transactions_of_two_nodes_to_one_contract_are_all_executed(p: &mut Parties) {
    let contract = p.deploy(0, &[1, 2], &deploying(ACCUMULATOR));
    let mut hashes = Vec::new();
    for n in 0..6 {
        let from = n % 3;
        let others: Vec<usize> = (0..3).filter(|i| *i != from).collect();
        let request = p.request(from, &others, Some(&contract.address), &word(1 << n));
        if n == 3 {
            p.midway();
        }
        hashes.push(p.send(from, &request));
    }
    for hash in &hashes {
        for i in 0..3 {
            assert_eq!(p.private_receipt(i, hash)["status"], "0x1");
        }
    }
    for i in 0..3 {
        assert_eq!(p.number(i, &contract.address), Some(63));
    }
}

fn a_nonce_may_be_given(p: &mut Parties) {
    let next = p.c.rpc(
        3,
        "eth_getTransactionCount",
        json!([p.account(3), "pending"]),
    );
    let mut request = p.request(3, &[1], None, &forty_two());
    merge(&mut request, json!({ "nonce": next }));
    p.midway();
    let hash = p.send(3, &request);
    let contract = p.deployed(&hash, &BTreeSet::from([1, 3]));
    assert_eq!(p.number(1, &contract.address), Some(42));
    let said = p.refused(3, &request);
    assert!(said.contains("nonce") || said.contains("known"), "{said}");
}

fn value_in_a_private_transaction_is_refused(p: &mut Parties) {
    let mut request = p.request(0, &[1], Some(p.account(3)), &word(1));
    merge(&mut request, json!({ "value": "0x1" }));
    let said = p.refused(0, &request);
    assert!(
        said.contains("ether value is not supported for private transactions"),
        "{said}"
    );
    // The same in public is nothing special.
    let hash = p.c.transfer(0, p.account(0), p.account(3));
    assert_eq!(p.public_receipt(3, &hash)["status"], "0x1");
}

fn an_unknown_recipient_is_refused_by_name(p: &mut Parties) {
    let unknown = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
    let mut request = p.request(0, &[1], None, &forty_two());
    merge(&mut request, json!({ "privateFor": [p.key(1), unknown] }));
    let said = p.refused(0, &request);
    assert!(said.contains(unknown), "{said}");
}

fn a_malformed_recipient_is_refused(p: &mut Parties) {
    for wrong in [
        "",
        "no key and no group",
        "BULeR8JyUWhiuuCMU/HLA0Q5pzkYT+cHII3ZKBey3Bo",
    ] {
        let mut request = p.request(0, &[], None, &forty_two());
        merge(&mut request, json!({ "privateFor": [wrong] }));
        let said = p.refused(0, &request);
        assert!(
            said.contains("privateFor") || said.contains(wrong),
            "{wrong:?}: {said}"
        );
    }
}

fn a_foreign_sending_key_is_refused(p: &mut Parties) {
    let mut request = p.request(0, &[1], None, &forty_two());
    merge(&mut request, json!({ "privateFrom": p.key(2) }));
    let said = p.refused(0, &request);
    assert!(
        said.contains(p.key(2)) && said.contains("not a key of this node"),
        "{said}"
    );
}

fn a_private_transaction_without_data_is_refused(p: &mut Parties) {
    let request = p.request(0, &[1], Some(p.account(1)), &[]);
    let said = p.refused(0, &request);
    assert!(said.contains("data"), "{said}");
}

fn an_unknown_account_is_refused(p: &mut Parties) {
    let mut request = p.request(0, &[1], None, &forty_two());
    merge(
        &mut request,
        json!({ "from": "0x00000000000000000000000000000000000b0d1e" }),
    );
    let said = p.refused(0, &request);
    assert!(said.to_lowercase().contains("account"), "{said}");
}

fn fields_of_a_private_transaction_without_recipients_are_refused(p: &mut Parties) {
    for field in ["privateFrom", "privacyFlag", "mandatoryFor"] {
        let mut request = p.request(0, &[], None, &forty_two());
        let fields = request.as_object_mut().unwrap();
        fields.remove("privateFor");
        fields.insert(
            field.into(),
            match field {
                "privateFrom" => p.key(0).into(),
                "privacyFlag" => 1.into(),
                _ => json!([p.key(1)]),
            },
        );
        let said = p.refused(0, &request);
        assert!(said.contains("privateFor"), "{field}: {said}");
    }
}

fn calls_of_a_private_contract_that_revert_tell_their_reason(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(&reverting("closed")));
    let call = json!({ "to": contract.address, "data": "0x01" });
    for i in [0, 1] {
        let error = p.c.rpc_error(i, "eth_call", json!([call, "latest"]));
        assert_eq!(error["code"], 3);
        assert!(
            error["message"].as_str().unwrap().contains("closed"),
            "{error}"
        );
    }
    assert_eq!(p.patiently(2, "eth_call", json!([call, "latest"])), "0x");
}

fn status_and_keys_are_told(p: &mut Parties) {
    let contract = p.deploy(0, &[3], &forty_two());
    for i in [0, 3] {
        p.private_receipt(i, &contract.transaction);
        let status = p.cli(i, &["status"]);
        assert_eq!(status["complete"], true, "{status}");
        assert!(
            status["waiting"].is_null() && status["halted"].is_null(),
            "{status}"
        );
        assert!(status["payloads"].as_u64() > Some(0), "{status}");
        assert!(status["enclaveVersion"].is_string(), "{status}");
        let keys = p.cli(i, &["keys"]);
        assert_eq!(keys["own"], json!([p.key(i)]));
        assert_eq!(keys["members"].as_array().unwrap().len(), 4);
        let receipt = p.cli(i, &["receipt", &contract.transaction]);
        assert_eq!(receipt["success"], true, "{receipt}");
        assert_eq!(receipt["weSent"], i == 0);
        let told = p.cli(i, &["contract", &contract.address]);
        assert_eq!(told["creationPayload"], contract.payload.as_str(), "{told}");
    }
    let deliveries = p.cli(0, &["deliveries", &contract.payload]);
    let deliveries = deliveries.as_array().unwrap();
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0]["nodeId"], p.c.node_id(3));
    assert_eq!(deliveries[0]["state"], "acknowledged");
    let missing = p.try_cli(2, &["receipt", &contract.transaction]);
    assert!(
        !missing.status.success(),
        "a node that is no party has no receipt"
    );
}

fn the_names_of_quorum_are_there(p: &mut Parties) {
    let precompile = p.c.rpc(0, "eth_getPrivacyPrecompileAddress", json!([]));
    assert_eq!(precompile, "0x000000000000000000000000000000000000007a");
    assert_eq!(p.c.rpc(0, "eth_getPSI", json!([])), "private");
    let contract = p.deploy(0, &[1], &forty_two());
    let metadata = p.patiently(
        1,
        "eth_getContractPrivacyMetadata",
        json!([contract.address]),
    );
    assert_eq!(metadata["creationTxHash"], contract.payload.as_str());
    assert_eq!(metadata["privacyFlag"], 0);
    let nothing = p.patiently(
        2,
        "eth_getContractPrivacyMetadata",
        json!([contract.address]),
    );
    assert_eq!(nothing, Value::Null);
    let root = |i: usize| p.patiently(i, "debug_privateStateRoot", json!(["latest"]));
    assert_ne!(root(0), root(2));
}
