//! Payloads that nobody has any more, or that nobody will ever send: private execution goes on without them when the operator says so.

use serde_json::json;

use super::codes::*;
use super::parties::{Form, Parties, merge};
use super::recovery::{in_both_forms, lose_private_data};

#[test]
fn a_payload_that_never_comes_is_done_without_when_the_operator_says_so() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[2, 3], &deploying(STORE));
    p.c.kill(3);
    let mut request = p.request(0, &[2, 3], Some(&contract.address), &word(9));
    merge(&mut request, json!({ "acknowledgements": { "k": 1 } }));
    let hash = p.send(0, &request);
    let payload = p.payload_hash(&hash);
    p.private_receipt(2, &hash);
    p.c.kill(0);
    p.c.start(3);
    p.wait_ready_of(&[1, 2, 3]);
    let waits = || (p.cli(3, &["status"])["waiting"]["payload"] == payload.as_str()).then_some(());
    p.wait("node 3 says what it waits for", waits);
    let another = format!("0x{}", "77".repeat(64));
    let refused = p.try_cli(3, &["give-up", &another]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&payload), "{said}");
    let done = p.cli(3, &["give-up", &payload, "--note", "its sender is gone"]);
    assert_eq!(done["givenUp"], 1);
    p.wait_number(&[3], &contract.address, 0);
    let status = p.cli(3, &["status"]);
    assert_eq!(status["recordsErased"], 1, "{status}");
    // The sender comes back after all. What was decided stays, and the next transaction is executed by all.
    p.c.start(0);
    p.wait_ready();
    p.execute(0, &[2, 3], &contract, &word(10));
    p.wait_number(&[0, 2, 3], &contract.address, 10);
    let records = p.cli(3, &["erasures"]);
    assert_eq!(records[0]["reason"], "given up", "{records}");
    assert_eq!(records[0]["note"], "its sender is gone", "{records}");
    p.finish();
}

/// What everyone erased cannot be executed again, and is not taken for something foreign either: not even where the transaction does
/// not say whose it is.
#[test]
fn a_node_that_lost_its_private_data_goes_on_without_what_everyone_erased_when_it_is_told_to() {
    in_both_forms(&[], |p| {
        let contract = p.deploy(0, &[1, 2], &deploying_with(STORE, 42));
        let erased = p.execute(0, &[1, 2], &contract, &word(43));
        let payload = p.payload_hash(&erased);
        p.execute(1, &[0, 2], &contract, &word(44));
        for i in 0..3 {
            p.private_receipt(i, &erased);
            p.cli(i, &["erase", &payload]);
        }
        p.c.stop(0);
        lose_private_data(p, 0);
        p.c.start(0);
        p.c.wait_ready();
        p.wait("node 0 says that others erased what it waits for", || {
            let status = p.cli(0, &["status"]);
            let waiting = &status["waiting"];
            let named = waiting["payload"] == payload.as_str();
            (named && waiting["reason"].as_str()?.contains("erased")).then_some(())
        });
        let error =
            p.c.rpc_error(0, "eth_call", json!([{ "to": contract.address }, "latest"]));
        assert_eq!(error["code"], -32014, "{error}");
        p.wait("everyone told what it has", || {
            (p.cli(0, &["status"])["complete"] == true).then_some(())
        });
        let done = p.cli(0, &["give-up", "--erased"]);
        assert_eq!(done["givenUp"], 1);
        p.wait_number(&[0], &contract.address, 44);
        let receipt = p.private_receipt(0, &erased);
        let reason = receipt["failureReason"].as_str().unwrap_or_default();
        assert!(reason.contains("given up"), "{receipt}");
        p.execute(0, &[1, 2], &contract, &word(45));
        p.wait_number(&[0, 1, 2], &contract.address, 45);
    });
}
