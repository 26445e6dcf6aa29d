//! Payloads that are not there yet.

use std::time::Duration;

use alloy_primitives::{TxKind, U256};
use quorate_chain::private_reference;
use quorate_enclave::{PayloadHash, PrivacyFlag};
use quorate_privacy::{
    Lookup, PrivateReadError, PublicChain as _, RecordOutcome, SimulationRefusal,
};

use crate::world::*;

fn payload_of(transaction: &quorate_chain::RecoveredTransaction) -> PayloadHash {
    PayloadHash::from_bytes(private_reference(transaction.transaction()).unwrap().hash)
}

fn unknown() -> Lookup {
    Lookup::Unknown {
        reason: "no member has sent it".to_owned(),
    }
}

#[tokio::test]
async fn what_is_erased_while_its_block_waits_for_another_payload_is_not_executed() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, ADDER).await;
    let erased = net.send(&send, Some(contract), &word(1));
    let missing = net.send(&send, Some(contract), &word(2));
    let erased_hash = erased.hash();
    let (of_erased, of_missing) = (payload_of(&erased), payload_of(&missing));
    let party = net.parties[1].clone();
    let arrived = party.payloads.get(&of_missing).unwrap();
    party.payloads.set(of_missing, unknown());
    let running = party.start(&net.chain);
    let height = net.chain.mine(vec![erased, missing]);
    party.until(|status| status.waiting.is_some()).await;
    party.payloads.set(of_erased, Lookup::Erased);
    party.payloads.set(of_missing, arrived);
    party.ledger.retry_now();
    party.arrive(height).await;
    assert_eq!(party.slot(contract), U256::from(2));
    assert_eq!(party.record(erased_hash).outcome, RecordOutcome::Erased);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn execution_waits_for_a_payload_and_goes_on_in_order() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, ADDER).await;
    let missing = net.send(&send, Some(contract), &word(1));
    let next = net.send(&send, Some(contract), &word(2));
    let (missing_hash, next_hash) = (missing.hash(), next.hash());
    let payload = payload_of(&missing);
    let party = net.parties[1].clone();
    let arrived = party.payloads.get(&payload).unwrap();
    party.payloads.set(payload, unknown());

    let running = party.start(&net.chain);
    net.chain.mine(vec![]);
    net.chain.mine(vec![missing]);
    party.until(|status| status.waiting.is_some()).await;
    let status = party.ledger.status();
    let waiting = status.waiting.unwrap();
    assert_eq!((status.cursor, waiting.height), (2, 3));
    assert_eq!((waiting.transaction, waiting.hash), (missing_hash, payload));
    assert_eq!(waiting.reason, "no member has sent it");
    assert!(party.payloads.nudged.lock().contains(&payload));
    // Public blocks come all the same.
    net.chain.mine(vec![next]);
    net.chain.mine(vec![]);
    assert_eq!(net.chain.head(), 5);
    let behind = party.ledger.reached(5, Duration::ZERO).await.unwrap_err();
    assert_eq!(
        behind.to_string(),
        format!("private state at block 3, waiting for payload {payload}")
    );
    assert_eq!(
        party.ledger.state_at(3).err(),
        Some(PrivateReadError::Behind {
            wanted: 3,
            cursor: 2,
            waiting: Some(Box::new(waiting)),
        })
    );
    assert_eq!(party.recorded(next_hash), None);
    // What rests on the contracts' flags cannot be judged now; what does not, can be sent.
    let refused = net.simulate(
        &on_node(1, PrivacyFlag::PartyProtection),
        Some(contract),
        &[],
    );
    assert!(
        matches!(&refused, Err(refusal @ SimulationRefusal::Behind(_)) if refusal.is_retryable())
    );
    net.simulate(&on_node(1, PrivacyFlag::Standard), Some(contract), &[])
        .unwrap();

    party.payloads.set(payload, arrived);
    party.ledger.retry_now();
    party.arrive(5).await;
    running.stop().await.unwrap();
    assert_eq!(party.slot_at(contract, 3), U256::from(1));
    assert_eq!(party.slot(contract), U256::from(3));
    assert_eq!(party.ledger.status().waiting, None);
    assert!(party.record(missing_hash).is_success() && party.record(next_hash).is_success());
    net.parties[0].catch_up(&net.chain).await;
    assert_eq!(party.root(), net.parties[0].root());
}

fn on_node(from: usize, flag: PrivacyFlag) -> Send<'static> {
    Send {
        from,
        ..by_alice(flag, &[])
    }
}

#[tokio::test]
async fn a_payload_is_asked_for_again_without_being_told() {
    let mut net = Net::new();
    let missing = net.send(&standard(&[1]), None, &deploying(STORE));
    let party = net.parties[1].clone();
    let payload = payload_of(&missing);
    let arrived = party.payloads.get(&payload).unwrap();
    party.payloads.set(payload, unknown());
    net.chain.mine(vec![missing]);
    let running = party.start(&net.chain);
    party.until(|status| status.waiting.is_some()).await;
    party.payloads.set(payload, arrived);
    party.arrive(1).await;
    running.stop().await.unwrap();
    assert_eq!(party.ledger.status().private_height, 1);
}

#[tokio::test]
async fn one_that_turns_out_to_be_for_others_is_passed_over() {
    let mut net = Net::new();
    let foreign = net.send(&standard(&[1]), None, &deploying(STORE));
    let party = net.parties[2].clone();
    let payload = payload_of(&foreign);
    party.payloads.set(payload, unknown());
    net.chain.mine(vec![foreign]);
    let running = party.start(&net.chain);
    party.until(|status| status.waiting.is_some()).await;
    party.payloads.set(payload, Lookup::NotAParty);
    party.ledger.retry_now();
    party.arrive(1).await;
    running.stop().await.unwrap();
    let status = party.ledger.status();
    assert_eq!(
        (status.waiting, status.records, status.cursor),
        (None, 0, 1)
    );
}

#[tokio::test]
async fn the_whole_block_waits_for_the_last_of_its_payloads() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = user(ALICE).create(0);
    let deploy = net.send(&send, None, &deploying(ADDER));
    let call = net.send(&send, Some(contract), &word(4));
    let nonce = net.nonce(BOB);
    let ordinary = public(BOB, nonce, TxKind::Call(user(3)), &[]);
    let party = net.parties[1].clone();
    let payload = payload_of(&call);
    let arrived = party.payloads.get(&payload).unwrap();
    party.payloads.set(payload, unknown());
    net.chain.mine(vec![deploy, ordinary, call]);
    let running = party.start(&net.chain);
    party.until(|status| status.waiting.is_some()).await;
    assert_eq!(
        (party.ledger.cursor(), party.ledger.status().private_height),
        (0, 0)
    );
    assert_eq!(party.ledger.contracts(None, 10).unwrap(), []);
    running.stop().await.unwrap();
    // A stop while it waits, and another start.
    party.payloads.set(payload, arrived);
    party.catch_up(&net.chain).await;
    assert_eq!(party.slot(contract), U256::from(4));
}

#[tokio::test]
async fn terms_of_another_payload_decide_nothing() {
    let mut net = Net::new();
    let transaction = net.send(&standard(&[1]), None, &deploying(STORE));
    let party = net.parties[1].clone();
    let payload = payload_of(&transaction);
    let arrived = party.payloads.get(&payload).unwrap();
    let Lookup::Party(mut wrong) = arrived.clone() else {
        panic!("{arrived:?}")
    };
    wrong.terms.hash = PayloadHash::from_bytes([1; 64]);
    party.payloads.set(payload, Lookup::Party(wrong));
    net.chain.mine(vec![transaction]);
    let running = party.start(&net.chain);
    party.until(|status| status.waiting.is_some()).await;
    party.payloads.set(payload, arrived);
    party.arrive(1).await;
    running.stop().await.unwrap();
}
