//! Private contracts that call and create each other.

use alloy_primitives::{Address, U256};
use serde_json::json;

use super::codes::*;
use super::parties::{Contract, Parties};
use super::table::scenarios;

scenarios! {
    disturbed: [
        a_private_contract_calls_another_one,
        a_nested_call_reaches_only_the_parties_of_both,
        a_nested_contract_is_updated_through_its_caller,
        three_private_contracts_call_each_other_in_a_row,
        a_parent_creates_a_child_that_works_by_itself,
        a_parent_creates_two_children_in_one_transaction,
        a_public_parent_creates_children_that_everyone_sees,
        a_child_that_asks_its_creator_stays_private,
        a_nested_call_that_reverts_leaves_the_rest_in_force,
        a_contract_is_not_called_by_a_party_of_another_one,
    ],
    calm: []
}

fn child_of(parent: &str, nonce: u64) -> String {
    parent
        .parse::<Address>()
        .unwrap()
        .create(nonce)
        .to_checksum(None)
}

fn slot_of(address: &str) -> U256 {
    address.parse::<Address>().unwrap().into_word().into()
}

/// A child is agreed about as its parent is.
fn track_child(p: &mut Parties, parent: &Contract, child: &str) {
    p.track(Contract {
        address: child.to_owned(),
        ..parent.clone()
    });
}

fn a_private_contract_calls_another_one(p: &mut Parties) {
    let inner = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let outer = p.deploy(0, &[1], &deploying(KEEPING_PROXY));
    p.midway();
    p.execute(0, &[1], &outer, &via(&inner.address, &[]));
    for i in [0, 1] {
        assert_eq!(p.slot(i, &outer.address, 0), U256::ONE);
        assert_eq!(p.slot(i, &outer.address, 1), U256::from(42));
    }
    assert_eq!(p.number(2, &outer.address), None);
    assert_eq!(p.number(2, &inner.address), None);
}

fn a_nested_call_reaches_only_the_parties_of_both(p: &mut Parties) {
    let inner = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let outer = p.deploy(0, &[1, 2], &deploying(KEEPING_PROXY));
    p.midway();
    p.execute(0, &[1, 2], &outer, &via(&inner.address, &word(5)));
    // Node 2 is a party of the outer contract alone: where the others have the inner one, it has nothing.
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &inner.address)),
        [Some(5), Some(5), None]
    );
    for i in [0, 1, 2] {
        assert_eq!(p.slot(i, &outer.address, 0), U256::ONE, "node {i}");
    }
    // What differs is what the outer contract kept of it, so an alarm may be right.
    p.expect_alarms();
    p.execute(0, &[1, 2], &outer, &via(&inner.address, &[]));
    assert_eq!(p.slot(1, &outer.address, 1), U256::from(5));
    assert_eq!(p.slot(2, &outer.address, 1), U256::ZERO);
    p.let_diverge(&outer);
}

fn a_nested_contract_is_updated_through_its_caller(p: &mut Parties) {
    let inner = p.deploy(3, &[2], &deploying_with(STORE, 42));
    let outer = p.deploy(2, &[3], &deploying(PROXY));
    p.midway();
    let hash = p.execute(2, &[3], &outer, &via(&inner.address, &word(7)));
    for i in [2, 3] {
        assert_eq!(p.number(i, &inner.address), Some(7));
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["logs"][0]["address"], inner.address.as_str());
    }
    p.execute(3, &[2], &outer, &via(&inner.address, &word(8)));
    assert_eq!(p.number(2, &inner.address), Some(8));
}

fn three_private_contracts_call_each_other_in_a_row(p: &mut Parties) {
    let last = p.deploy(0, &[1], &deploying(ACCUMULATOR));
    let middle = p.deploy(0, &[1], &deploying(PROXY));
    let first = p.deploy(1, &[0], &deploying(PROXY));
    let input = via(&middle.address, &via(&last.address, &word(21)));
    p.execute(0, &[1], &first, &input);
    p.midway();
    p.execute(1, &[0], &first, &input);
    for i in [0, 1] {
        assert_eq!(p.number(i, &last.address), Some(42));
    }
}

fn a_parent_creates_a_child_that_works_by_itself(p: &mut Parties) {
    let parent = p.deploy(0, &[1], &deploying(&factory(&deploying_with(STORE, 42), 1)));
    p.midway();
    p.execute(0, &[1], &parent, &word(1));
    let child = child_of(&parent.address, 1);
    track_child(p, &parent, &child);
    for i in [0, 1] {
        assert_eq!(p.slot(i, &parent.address, 0), slot_of(&child));
        assert_eq!(p.number(i, &child), Some(42));
    }
    assert_eq!(p.code(2, &child), "0x");
    let contract = Contract {
        address: child.clone(),
        ..parent.clone()
    };
    p.execute(1, &[0], &contract, &word(43));
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &child)),
        [Some(43), Some(43), None]
    );
}

fn a_parent_creates_two_children_in_one_transaction(p: &mut Parties) {
    let parent = p.deploy(0, &[2], &deploying(&factory(&deploying(STORE), 2)));
    p.midway();
    p.execute(2, &[0], &parent, &word(1));
    p.execute(0, &[2], &parent, &word(1));
    for i in [0, 2] {
        assert_eq!(p.slot(i, &parent.address, 1), U256::from(4));
    }
    for nonce in 1..=4 {
        let child = child_of(&parent.address, nonce);
        track_child(p, &parent, &child);
        assert_ne!(p.code(0, &child), "0x");
        assert_eq!(p.code(1, &child), "0x");
    }
}

fn a_public_parent_creates_children_that_everyone_sees(p: &mut Parties) {
    let parent = p.deploy_publicly(0, &deploying(&factory(&deploying_with(STORE, 42), 1)));
    // Something private in between does not disturb it.
    p.midway();
    p.deploy(0, &[1], &deploying(STORE));
    let receipt = p.call_publicly(3, &parent, &word(1));
    assert_eq!(receipt["status"], "0x1");
    let child = child_of(&parent, 1);
    for i in 0..4 {
        assert_eq!(p.number(i, &child), Some(42), "node {i}");
    }
}

fn a_child_that_asks_its_creator_stays_private(p: &mut Parties) {
    let child = deploying_after_asking_the_caller(STORE);
    let parent = p.deploy(0, &[1], &deploying_with(&factory(&child, 1), 77));
    p.midway();
    p.execute(0, &[1], &parent, &word(1));
    let child = child_of(&parent.address, 1);
    track_child(p, &parent, &child);
    for i in [0, 1] {
        assert_eq!(p.number(i, &child), Some(77), "node {i}");
    }
    assert_eq!(p.code(3, &child), "0x");
}

fn a_nested_call_that_reverts_leaves_the_rest_in_force(p: &mut Parties) {
    let inner = p.deploy(0, &[1], &deploying(&reverting("closed")));
    let outer = p.deploy(0, &[1], &deploying(KEEPING_PROXY));
    p.midway();
    let hash = p.execute(0, &[1], &outer, &via(&inner.address, &word(1)));
    for i in [0, 1] {
        assert_eq!(p.slot(i, &outer.address, 0), U256::ZERO);
        // The first word of what came back is the reason's.
        assert_ne!(p.slot(i, &outer.address, 1), U256::ZERO);
        assert_eq!(p.slot(i, &inner.address, 0), U256::ZERO);
        assert_eq!(p.private_receipt(i, &hash)["logs"], json!([]));
    }
}

fn a_contract_is_not_called_by_a_party_of_another_one(p: &mut Parties) {
    let ours = p.deploy(0, &[1], &deploying_with(STORE, 42));
    // Node 2 has a contract with node 1, and asks the contract of nodes 0 and 1 through it: there is nothing for node 2, and what
    // node 1 finds is not written, because the call only asks.
    let other = p.deploy(2, &[1], &deploying(KEEPING_PROXY));
    p.midway();
    p.expect_alarms();
    p.execute(2, &[1], &other, &via(&ours.address, &[]));
    assert_eq!(p.slot(2, &other.address, 1), U256::ZERO);
    assert_eq!(p.slot(1, &other.address, 1), U256::from(42));
    assert_eq!(
        [0, 1].map(|i| p.number(i, &ours.address)),
        [Some(42), Some(42)]
    );
    p.let_diverge(&other);
}
