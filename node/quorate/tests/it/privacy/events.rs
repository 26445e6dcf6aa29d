//! Logs of private contracts: for parties alone, wherever logs are asked for.

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::codes::*;
use super::parties::Parties;
use super::socket::Socket;
use super::table::scenarios;
use crate::consortium::quantity;

scenarios! {
    disturbed: [
        events_of_a_private_contract_are_seen_by_its_parties_alone,
        ten_private_logs_are_found_by_parties_and_none_by_others,
        public_and_private_logs_of_one_block_have_places_of_their_own,
        filters_tell_parties_of_private_logs,
        events_are_filtered_by_topic_and_by_block,
        the_bloom_of_a_block_says_nothing_of_private_logs,
    ],
    calm: [
        subscribers_hear_of_private_logs_if_their_node_is_a_party,
    ]
}

fn events_of_a_private_contract_are_seen_by_its_parties_alone(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(STORE));
    let values: Vec<u64> = (1..=4).collect();
    for value in &values {
        if *value == 3 {
            p.midway();
        }
        let from = (*value % 2) as usize;
        p.execute(from, &[1 - from], &contract, &word(*value));
    }
    let expected: Vec<Value> = values
        .iter()
        .map(|v| hex::encode_prefixed(word(*v)).into())
        .collect();
    for i in [0, 1] {
        let logs = p.logs(i, &contract.address);
        let data: Vec<Value> = logs.iter().map(|log| log["data"].clone()).collect();
        assert_eq!(data, expected, "node {i}");
        assert!(logs.iter().all(|log| log["topics"] == json!([TOPIC])));
    }
    assert_eq!(p.logs(0, &contract.address), p.logs(1, &contract.address));
    for i in [2, 3] {
        assert_eq!(p.logs(i, &contract.address), Vec::<Value>::new());
    }
}

fn ten_private_logs_are_found_by_parties_and_none_by_others(p: &mut Parties) {
    let crier = p.deploy(3, &[1], &deploying(CRIER));
    p.midway();
    let hash = p.execute(3, &[1], &crier, &words(&[7, 10]));
    for i in [1, 3] {
        let logs = p.logs(i, &crier.address);
        assert_eq!(logs.len(), 10, "node {i}");
        let places: Vec<u64> = logs.iter().map(|log| quantity(&log["logIndex"])).collect();
        assert!(places.windows(2).all(|two| two[0] < two[1]), "{places:?}");
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["logs"], json!(logs));
        let bloom = hex::decode(receipt["logsBloom"].as_str().unwrap()).unwrap();
        assert!(bloom.iter().any(|byte| *byte != 0));
    }
    assert_eq!(p.logs(0, &crier.address).len(), 0);
    assert_eq!(p.logs(2, &crier.address).len(), 0);
}

fn public_and_private_logs_of_one_block_have_places_of_their_own(p: &mut Parties) {
    let public = p.deploy_publicly(2, &deploying(CRIER));
    let private = p.deploy(0, &[1], &deploying(CRIER));
    p.midway();
    let mut blocks = Vec::new();
    for _ in 0..8 {
        // At once, so that some of them share a block.
        let loud = json!({
            "from": p.account(2), "to": public, "gas": "0xf4240", "data": hex::encode_prefixed(words(&[1, 2])),
        });
        let other = p.try_send(2, &loud).unwrap();
        let request = p.request(0, &[1], Some(&private.address), &words(&[2, 2]));
        let hash = p.send(0, &request);
        for i in [0, 1] {
            assert_eq!(p.private_receipt(i, &hash)["status"], "0x1");
        }
        p.public_receipt(0, &other);
        blocks.push(quantity(&p.private_receipt(0, &hash)["blockNumber"]));
    }
    let at = |i: usize, block: u64| {
        let block = format!("{block:#x}");
        let filter = json!([{ "fromBlock": block, "toBlock": block }]);
        p.patiently(i, "eth_getLogs", filter)
            .as_array()
            .unwrap()
            .clone()
    };
    for block in blocks {
        let party = at(0, block);
        assert_eq!(party, at(1, block));
        let mut places: Vec<u64> = party.iter().map(|log| quantity(&log["logIndex"])).collect();
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count, "two logs in one place: {party:?}");
        // Others see the public ones, in the very same places.
        let others = at(3, block);
        assert!(
            others.iter().all(|log| party.contains(log)),
            "{others:?} and {party:?}"
        );
        assert!(
            others
                .iter()
                .all(|log| log["address"] != private.address.as_str())
        );
        assert_eq!(count - others.len(), 2);
    }
}

fn filters_tell_parties_of_private_logs(p: &mut Parties) {
    let contract = p.deploy(0, &[3], &deploying(STORE));
    let filter = |p: &Parties, i: usize| {
        p.c.rpc(i, "eth_newFilter", json!([{ "address": contract.address }]))
    };
    let filters = [2, 3].map(|i| (i, filter(p, i)));
    p.execute(0, &[3], &contract, &word(1));
    let told = |p: &Parties, at: usize| {
        let (i, id) = &filters[at];
        p.patiently(*i, "eth_getFilterChanges", json!([id]))
            .as_array()
            .unwrap()
            .len()
    };
    p.wait("the party's filter tells of it", || {
        (told(p, 1) == 1).then_some(())
    });
    // Filters are gone with a node that is killed: what follows asks anew.
    p.midway();
    p.execute(3, &[0], &contract, &word(2));
    let id = filter(p, 3);
    let all = p.patiently(3, "eth_getFilterLogs", json!([id]));
    assert!(all.is_array());
    let id = filter(p, 2);
    assert_eq!(p.patiently(2, "eth_getFilterLogs", json!([id])), json!([]));
    assert_eq!(p.logs(3, &contract.address).len(), 2);
}

fn events_are_filtered_by_topic_and_by_block(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(STORE));
    let first = p.execute(0, &[1], &contract, &word(1));
    p.midway();
    let second = p.execute(0, &[1], &contract, &word(2));
    let receipt = p.private_receipt(0, &first);
    let found = |filter: Value| {
        let logs = p.patiently(1, "eth_getLogs", json!([filter]));
        logs.as_array()
            .unwrap()
            .iter()
            .map(|log| log["transactionHash"].clone())
            .collect::<Vec<_>>()
    };
    let address = &contract.address;
    let all = json!({ "fromBlock": "0x0", "address": address, "topics": [TOPIC] });
    assert_eq!(found(all), [json!(first), json!(second)]);
    let other = TOPIC.replace("aa", "bb");
    assert!(found(json!({ "fromBlock": "0x0", "address": address, "topics": [other] })).is_empty());
    let one = json!({ "blockHash": receipt["blockHash"], "address": address });
    assert_eq!(found(one), [json!(first)]);
    let until =
        json!({ "fromBlock": "0x0", "toBlock": receipt["blockNumber"], "address": address });
    assert_eq!(found(until), [json!(first)]);
}

fn the_bloom_of_a_block_says_nothing_of_private_logs(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(CRIER));
    p.midway();
    let hash = p.execute(0, &[1], &contract, &words(&[1, 3]));
    let height = quantity(&p.private_receipt(0, &hash)["blockNumber"]);
    for i in 0..4 {
        p.public_receipt(i, &hash);
        let block = p.c.rpc(
            i,
            "eth_getBlockByNumber",
            json!([format!("{height:#x}"), true]),
        );
        let alone = block["transactions"].as_array().unwrap().len() == 1;
        assert!(alone, "{block}");
        let bloom = hex::decode(block["logsBloom"].as_str().unwrap()).unwrap();
        assert!(bloom.iter().all(|byte| *byte == 0), "node {i}: {block}");
    }
}

fn subscribers_hear_of_private_logs_if_their_node_is_a_party(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying(CRIER));
    let public = p.deploy_publicly(3, &deploying(CRIER));
    let filter = json!({ "address": contract.address });
    // The sender, a recipient, and one that is neither, which asks for everything besides.
    let mut parties: Vec<(usize, Socket, String)> = Vec::new();
    for i in [0, 1] {
        let mut socket = Socket::open(&p.c.ws_url(i));
        let id = socket.subscribe_logs(&filter);
        parties.push((i, socket, id));
    }
    let mut other = Socket::open(&p.c.ws_url(2));
    let named = other.subscribe_logs(&filter);
    let all = other.subscribe_logs(&json!({}));
    assert_ne!(named, all);

    for round in 0..3 {
        p.execute(round % 2, &[1 - round % 2], &contract, &words(&[7, 2]));
    }
    let expected = p.logs(0, &contract.address);
    assert_eq!(expected.len(), 6);
    for (i, socket, id) in &mut parties {
        for log in &expected {
            assert_eq!(socket.next(), (id.clone(), log.clone()), "node {i}");
        }
        assert_eq!(socket.rest(), [], "node {i}");
    }

    // The others' news go on, and there was nothing else before them.
    let loud = p.call_publicly(3, &public, &words(&[5, 2]));
    for log in loud["logs"].as_array().unwrap() {
        assert_eq!(other.next(), (all.clone(), log.clone()));
    }
    // Waits until private execution has reached the head.
    assert_eq!(p.logs(2, &contract.address).len(), 0);
    assert_eq!(other.rest(), []);
}
