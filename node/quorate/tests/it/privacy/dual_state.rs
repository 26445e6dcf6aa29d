//! Public and private contracts beside each other: reading public state is allowed, everything else is not.

use alloy_primitives::{U256, hex};
use serde_json::json;

use super::codes::*;
use super::parties::Parties;
use super::signing::Wallet;
use super::table::scenarios;
use crate::consortium::quantity;

scenarios! {
    disturbed: [
        public_contracts_go_on_calling_each_other,
        a_private_contract_reads_a_public_one,
        a_private_contract_cannot_write_a_public_one,
        a_private_contract_cannot_pay,
        a_public_contract_finds_no_private_one,
        a_public_transaction_to_a_private_contract_does_nothing_to_it,
        a_private_transaction_to_a_public_contract_changes_nothing,
        private_execution_sees_public_state_as_of_its_own_transaction,
        public_calls_do_not_wait_for_private_execution,
        a_private_contract_reads_balances_and_never_has_any,
    ],
    calm: []
}

fn public_contracts_go_on_calling_each_other(p: &mut Parties) {
    let inner = p.deploy_publicly(0, &deploying_with(STORE, 1));
    let middle = p.deploy_publicly(1, &deploying(PROXY));
    let outer = p.deploy_publicly(2, &deploying(PROXY));
    p.midway();
    p.deploy(0, &[1], &deploying(STORE));
    let receipt = p.call_publicly(3, &outer, &via(&middle, &via(&inner, &word(9))));
    assert_eq!(receipt["status"], "0x1");
    for i in 0..4 {
        p.wait_number(&[i], &inner, 9);
        assert_eq!(p.logs(i, &inner).len(), 1);
    }
}

fn a_private_contract_reads_a_public_one(p: &mut Parties) {
    let public = p.deploy_publicly(2, &deploying_with(STORE, 77));
    let private = p.deploy(0, &[1], &deploying(KEEPING_PROXY));
    p.midway();
    p.execute(0, &[1], &private, &via(&public, &[]));
    for i in [0, 1] {
        assert_eq!(p.slot(i, &private.address, 0), U256::ONE);
        assert_eq!(p.slot(i, &private.address, 1), U256::from(77));
    }
    // It follows what the public contract becomes.
    p.call_publicly(2, &public, &word(78));
    let answer = p.ask(1, &private.address, &[]);
    assert_eq!(hex::decode(&answer).unwrap()[32..], word(77));
    p.execute(1, &[0], &private, &via(&public, &[]));
    assert_eq!(p.slot(0, &private.address, 1), U256::from(78));
}

fn a_private_contract_cannot_write_a_public_one(p: &mut Parties) {
    let public = p.deploy_publicly(2, &deploying_with(STORE, 77));
    let private = p.deploy(0, &[1], &deploying(KEEPING_PROXY));
    p.midway();
    // The call to it fails, the private contract goes on.
    p.execute_with(
        0,
        &[1],
        &private,
        &via(&public, &word(1)),
        json!({ "gas": "0x2dc6c0" }),
    );
    for i in [0, 1] {
        assert_eq!(p.slot(i, &private.address, 0), U256::ZERO, "node {i}");
    }
    for i in 0..4 {
        assert_eq!(p.number(i, &public), Some(77), "node {i}");
        assert_eq!(p.logs(i, &public).len(), 0);
    }
}

fn a_private_contract_cannot_pay(p: &mut Parties) {
    let payer = p.deploy(0, &[1], &deploying(PAYER));
    let before =
        p.c.rpc(0, "eth_getBalance", json!([p.account(2), "latest"]));
    let request = p.request(0, &[1], Some(&payer.address), &word(1));
    p.midway();
    let hash = p.send(0, &request);
    p.private_receipt(0, &hash);
    p.private_receipt(1, &hash);
    for i in [0, 1] {
        let balance = p.patiently(i, "eth_getBalance", json!([payer.address, "latest"]));
        assert_eq!(balance, "0x0");
    }
    assert_eq!(
        p.c.rpc(0, "eth_getBalance", json!([p.account(2), "latest"])),
        before
    );
}

fn a_public_contract_finds_no_private_one(p: &mut Parties) {
    let private = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let public = p.deploy_publicly(0, &deploying(KEEPING_PROXY));
    p.midway();
    p.execute(0, &[1], &private, &word(43));
    // To the parties' nodes too, what is public is public: there is no code at that address.
    for input in [via(&private.address, &[]), via(&private.address, &word(1))] {
        assert_eq!(p.call_publicly(0, &public, &input)["status"], "0x1");
        for i in 0..4 {
            assert_eq!(p.slot(i, &public, 0), U256::ONE, "node {i}");
        }
    }
    for i in [0, 1] {
        assert_eq!(p.number(i, &private.address), Some(43));
        // The same holds for a call that leaves nothing behind.
        let answer = p.ask(i, &public, &[]);
        assert_eq!(hex::decode(answer).unwrap().len(), 64);
    }
}

fn a_public_transaction_to_a_private_contract_does_nothing_to_it(p: &mut Parties) {
    let private = p.deploy(0, &[1], &deploying_with(STORE, 42));
    p.midway();
    p.execute(1, &[0], &private, &word(43));
    let request = json!({
        "from": p.account(0), "to": private.address, "gas": "0xf4240", "data": hex::encode_prefixed(word(9)),
    });
    let hash = p.send_publicly(0, &request);
    for i in 0..4 {
        let receipt = p.public_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x1");
        assert_eq!(receipt["logs"], json!([]));
    }
    assert_eq!(
        [0, 1].map(|i| p.number(i, &private.address)),
        [Some(43), Some(43)]
    );
}

fn a_private_transaction_to_a_public_contract_changes_nothing(p: &mut Parties) {
    let public = p.deploy_publicly(3, &deploying_with(STORE, 77));
    // Asking it is allowed.
    let reading = p.deploy(0, &[1], &deploying(PROXY));
    p.execute(0, &[1], &reading, &via(&public, &[]));
    let request = p.request(0, &[1], Some(&public), &word(1));
    p.midway();
    let hash = p.send(0, &request);
    for i in [0, 1] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x0", "node {i}: {receipt}");
        assert_eq!(receipt["logs"], json!([]));
    }
    for i in 0..4 {
        assert_eq!(p.number(i, &public), Some(77), "node {i}");
    }
}

/// Public transactions before and after a private one, as close as they come: what the private one read is what was there when it was
/// its turn, on all parties.
fn private_execution_sees_public_state_as_of_its_own_transaction(p: &mut Parties) {
    let public = p.deploy_publicly(2, &deploying(ACCUMULATOR));
    let private = p.deploy(0, &[1], &deploying(KEEPING_PROXY));
    p.midway();
    let mut reads = Vec::new();
    for _ in 0..5 {
        let mut publics = Vec::new();
        for _ in 0..3 {
            let request = json!({
                "from": p.account(2), "to": public, "gas": "0xf4240", "data": hex::encode_prefixed(word(1)),
            });
            publics.push(p.try_send(2, &request).unwrap());
        }
        let request = p.request(0, &[1], Some(&private.address), &via(&public, &[]));
        let hash = p.send(0, &request);
        for i in [0, 1] {
            assert_eq!(p.private_receipt(i, &hash)["status"], "0x1");
        }
        for other in &publics {
            p.public_receipt(0, other);
        }
        reads.push((hash, p.slot(0, &private.address, 1)));
        assert_eq!(
            p.slot(0, &private.address, 1),
            p.slot(1, &private.address, 1)
        );
    }
    // By the chain: as many additions as there are logs of the public contract before it.
    let logs = p.logs(3, &public);
    assert_eq!(logs.len(), 15);
    let place = |value: &serde_json::Value| {
        (
            quantity(&value["blockNumber"]),
            quantity(&value["transactionIndex"]),
        )
    };
    for (hash, read) in &reads {
        let receipt = p.private_receipt(0, hash);
        let before = logs
            .iter()
            .filter(|log| place(log) < place(&receipt))
            .count();
        assert_eq!(*read, U256::from(before), "{hash}");
    }
}

fn public_calls_do_not_wait_for_private_execution(p: &mut Parties) {
    let public = p.deploy_publicly(0, &deploying_with(STORE, 5));
    let private = p.deploy(0, &[1], &deploying(ACCUMULATOR));
    p.midway();
    for n in 0..5 {
        p.execute(0, &[1], &private, &word(n));
        // Not with patience: at once.
        let call = json!({ "to": public });
        let answer = p.c.rpc(1, "eth_call", json!([call, "latest"]));
        assert_eq!(answer, hex::encode_prefixed(word(5)));
        assert_ne!(p.c.rpc(1, "eth_getCode", json!([public, "latest"])), "0x");
    }
}

fn a_private_contract_reads_balances_and_never_has_any(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 1));
    p.midway();
    p.execute(0, &[1], &contract, &word(2));
    // Value sent to its address in public is at the public address, and no private code runs for it.
    let request =
        json!({ "from": p.account(0), "to": contract.address, "gas": "0xf4240", "value": "0x7" });
    let hash = p.send_publicly(0, &request);
    assert_eq!(p.public_receipt(2, &hash)["status"], "0x1");
    assert_eq!(
        p.c.rpc(2, "eth_getBalance", json!([contract.address, "latest"])),
        "0x7"
    );
    for i in [0, 1] {
        assert_eq!(p.number(i, &contract.address), Some(2));
    }
    // An account that nobody of the parties has ever seen, as the sender of a private call that only asks.
    let stranger = Wallet::named("a stranger").address();
    let call = json!({ "from": stranger, "to": contract.address });
    assert_eq!(
        p.patiently(1, "eth_call", json!([call, "latest"])),
        hex::encode_prefixed(word(2))
    );
}
