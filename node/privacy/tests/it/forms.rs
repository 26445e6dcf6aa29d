//! The two public forms, and signed inner transactions.

use alloy_primitives::{Address, Bytes, U256};
use quorate_chain::PublicForm;
use quorate_enclave::PayloadHash;
use quorate_privacy::{Content, Lookup, RecordOutcome};

use crate::script::plain_terms;
use crate::world::*;

fn bytes(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(data)
}

/// A payload for nodes 0 and 1.
fn share(net: &mut Net, content: Content) -> PayloadHash {
    let terms = plain_terms(net, 0);
    net.distribute(&standard(&[1]), content, terms)
}

fn refusal(party: &Party, transaction: alloy_primitives::B256) -> String {
    match party.record(transaction).outcome {
        RecordOutcome::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn quorums_form_deploys_and_calls_with_its_public_recipient() {
    let mut net = Net::new();
    let init = share(&mut net, Content::Data(bytes(&deploying(STORE))));
    let nonce = net.nonce(ALICE);
    let contract = user(ALICE).create(nonce);
    let deploy = quorum(ALICE, nonce, None, init);
    let input = share(&mut net, Content::Data(bytes(&word(42))));
    let call = quorum(ALICE, net.nonce(ALICE), Some(contract), input);
    let hashes = [deploy.hash(), call.hash()];
    net.mine(vec![deploy, call]).await;
    for party in &net.parties[..2] {
        assert_eq!(party.slot(contract), U256::from(42));
        let record = party.record(hashes[0]);
        assert_eq!(
            (record.form, record.contract_address),
            (PublicForm::Quorum, Some(contract))
        );
        let record = party.record(hashes[1]);
        assert_eq!(
            (record.to, record.gas_limit, record.hash),
            (Some(contract), GAS, input)
        );
        assert_eq!(record.inner_hash, None);
    }
    assert_eq!(net.parties[2].ledger.status().records, 0);
    assert_eq!(net.chain.nonce(ALICE), 2);
}

#[tokio::test]
async fn a_payload_that_does_not_go_with_its_form_is_refused_by_every_party() {
    let mut net = Net::new();
    let data = share(&mut net, Content::Data(bytes(&[1])));
    let call = Content::Call {
        to: None,
        data: bytes(&deploying(STORE)),
        gas_limit: GAS,
    };
    let call = share(&mut net, call);
    let [first, second] = [net.nonce(ALICE), net.nonce(ALICE)];
    let marked = marker(ALICE, first, data);
    let formed = quorum(ALICE, second, None, call);
    let hashes = [marked.hash(), formed.hash()];
    net.mine(vec![marked, formed]).await;
    for party in &net.parties[..2] {
        assert!(refusal(party, hashes[0]).contains("marker"));
        assert!(refusal(party, hashes[1]).contains("v 37 or 38"));
        assert_eq!(party.ledger.status().private_height, 0);
    }
    assert_eq!(
        net.parties[0].record(hashes[0]).digest,
        net.parties[1].record(hashes[0]).digest
    );
}

/// An inner transaction in Quorum's form, with its payload shared, and the marker's payload around it.
fn signed_inner(
    net: &mut Net,
    signer: u8,
    nonce: u64,
    to: Option<Address>,
    data: &[u8],
) -> [PayloadHash; 2] {
    use alloy_eips::eip2718::Encodable2718 as _;
    let second = share(net, Content::Data(bytes(data)));
    let inner = quorum_form(signer, nonce, to, second);
    let first = share(net, Content::Signed(inner.encoded_2718().into()));
    [first, second]
}

#[tokio::test]
async fn a_signed_inner_transaction_is_executed_for_its_signer() {
    let mut net = Net::new();
    let nonce = net.nonce(ALICE);
    let contract = user(ALICE).create(nonce);
    let [first, second] = signed_inner(&mut net, ALICE, nonce, None, &deploying(STORE));
    let deploy = marker(ALICE, nonce, first);
    let hash = deploy.hash();
    net.mine(vec![deploy]).await;
    let nonce = net.nonce(ALICE);
    let [outer, _] = signed_inner(&mut net, ALICE, nonce, Some(contract), &word(5));
    net.mine(vec![marker(ALICE, nonce, outer)]).await;
    for party in &net.parties[..2] {
        let record = party.record(hash);
        assert_eq!((record.hash, record.inner_hash), (first, Some(second)));
        assert!(record.inner_transaction.is_some() && record.is_success());
        assert_eq!(record.contract_address, Some(contract));
        let metadata = party.ledger.contract(&contract).unwrap().unwrap();
        assert_eq!(
            (metadata.creation_hash, metadata.creation_transaction),
            (second, hash)
        );
        assert_eq!(party.slot(contract), U256::from(5));
        assert_eq!(party.payloads.reports.lock()[0].hash, second);
    }
    // The public nonce moved once each.
    assert_eq!(net.chain.nonce(ALICE), 2);
}

#[tokio::test]
async fn an_inner_transaction_of_another_signer_or_nonce_is_refused() {
    let mut net = Net::new();
    let nonce = net.nonce(ALICE);
    let [other_signer, _] = signed_inner(&mut net, BOB, nonce, None, &deploying(STORE));
    let first = marker(ALICE, nonce, other_signer);
    let nonce = net.nonce(ALICE);
    let [other_nonce, _] = signed_inner(&mut net, ALICE, nonce + 1, None, &deploying(STORE));
    let second = marker(ALICE, nonce, other_nonce);
    let garbage = share(&mut net, Content::Signed(bytes(&[1, 2, 3])));
    let third = marker(ALICE, net.nonce(ALICE), garbage);
    let nonce = net.nonce(ALICE);
    let public = public(ALICE, nonce, alloy_primitives::TxKind::Create, &[]);
    let public = share(&mut net, Content::Signed(public.encoded()));
    let fourth = marker(ALICE, nonce, public);
    let hashes = [first.hash(), second.hash(), third.hash(), fourth.hash()];
    net.mine(vec![first, second, third, fourth]).await;
    for (hash, expected) in hashes
        .into_iter()
        .zip(["signer", "nonce", "decode", "v 37"])
    {
        for party in &net.parties[..2] {
            assert!(refusal(party, hash).contains(expected), "{expected}");
        }
    }
    assert_eq!(net.parties[1].ledger.status().private_height, 0);
}

#[tokio::test]
async fn the_second_payload_may_be_missing_erased_or_for_others() {
    let mut net = Net::new();
    let party = net.parties[1].clone();
    let reason = "late".to_owned();
    for (second, expected) in [
        (Lookup::NotAParty, "others"),
        (Lookup::Erased, "erased"),
        (Lookup::Unknown { reason }, ""),
    ] {
        let nonce = net.nonce(ALICE);
        let [outer, inner] = signed_inner(&mut net, ALICE, nonce, None, &deploying(STORE));
        let there = party.payloads.get(&inner).unwrap();
        party.payloads.set(inner, second);
        let transaction = marker(ALICE, nonce, outer);
        let hash = transaction.hash();
        let height = net.chain.mine(vec![transaction]);
        let running = party.start(&net.chain);
        if expected.is_empty() {
            party
                .until(|status| status.waiting.as_ref().is_some_and(|w| w.hash == inner))
                .await;
            party.payloads.set(inner, there);
        }
        party.arrive(height).await;
        running.stop().await.unwrap();
        let record = party.record(hash);
        match expected {
            "" => assert!(record.is_success()),
            "erased" => assert_eq!(record.outcome, RecordOutcome::Erased),
            _ => assert!(record.reason().unwrap().contains(expected)),
        }
    }
}

#[tokio::test]
async fn a_payload_cannot_be_replayed_by_another_account() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, ADDER).await;
    let honest = net.send(&send, Some(contract), &word(5));
    let reference = quorate_chain::private_reference(honest.transaction()).unwrap();
    let replay = marker(BOB, net.nonce(BOB), PayloadHash::from_bytes(reference.hash));
    let hash = replay.hash();
    net.mine(vec![replay, honest]).await;
    for party in &net.parties[..2] {
        assert_eq!(party.slot(contract), U256::from(5));
        assert!(refusal(party, hash).contains("another account"));
    }
}

#[tokio::test]
async fn a_replayed_payload_without_a_named_account_is_executed_for_whoever_sends_it() {
    let mut net = Net::new();
    let contract = net.deploy(&standard(&[1]), ADDER).await;
    let call = Content::Call {
        to: Some(contract),
        data: bytes(&word(5)),
        gas_limit: GAS,
    };
    let hash = share(&mut net, call);
    let first = marker(ALICE, net.nonce(ALICE), hash);
    let second = marker(BOB, net.nonce(BOB), hash);
    net.mine(vec![first, second]).await;
    assert_eq!(net.parties[1].slot(contract), U256::from(10));
    let party = &net.parties[1];
    assert_eq!(party.ledger.let_go(&[hash]).unwrap(), 2);
}
