//! Privacy flags, at send and at execution.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, TxKind, U256};
use quorate_enclave::{PayloadHash, PrivacyFlag};
use quorate_privacy::{FlagViolation, RecordOutcome, SimulationRefusal, Terms};

use crate::script::plain_terms;
use crate::world::*;

use PrivacyFlag::{MandatoryParties, PartyProtection, Standard, StateValidation};

fn mandatory<'a>(to: &'a [usize], mandatory: &'a [usize]) -> Send<'a> {
    Send {
        mandatory,
        ..by_alice(MandatoryParties, to)
    }
}

fn from_node<'a>(from: usize, flag: PrivacyFlag, to: &'a [usize]) -> Send<'a> {
    Send {
        from,
        ..by_alice(flag, to)
    }
}

fn text(result: Result<quorate_privacy::Simulation, SimulationRefusal>) -> String {
    result.unwrap_err().to_string()
}

/// Terms that a node makes that does not care what its simulation says.
fn forged(net: &Net, send: &Send<'_>, affected: &[(Address, PayloadHash)]) -> Terms {
    let keys = |nodes: &[usize]| -> BTreeSet<_> {
        nodes.iter().map(|node| net.parties[*node].key()).collect()
    };
    let mut parties = keys(send.to);
    parties.insert(net.parties[send.from].key());
    let validated = send.flag == StateValidation;
    Terms {
        flag: send.flag,
        parties: if validated { parties } else { BTreeSet::new() },
        mandatory: keys(send.mandatory),
        affected: affected.iter().copied().collect(),
        exec_root: validated.then_some(B256::ZERO),
        ..plain_terms(net, send.from)
    }
}

/// Sends under forged terms and gives the reason of the refusal at a node.
async fn refused_at(
    net: &mut Net,
    node: usize,
    send: &Send<'_>,
    to: Address,
    affected: &[(Address, PayloadHash)],
) -> String {
    let terms = forged(net, send, affected);
    let transaction = net.send_with(send, Some(to), &word(9), terms);
    let hash = transaction.hash();
    let before = net.parties[node].root();
    net.mine(vec![transaction]).await;
    let party = &net.parties[node];
    assert_eq!(party.root(), before);
    match party.record(hash).outcome {
        RecordOutcome::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn creation(net: &Net, node: usize, contract: Address) -> PayloadHash {
    let metadata = net.parties[node].ledger.contract(&contract).unwrap();
    metadata.unwrap().creation_hash
}

#[tokio::test]
async fn contracts_of_each_flag_can_be_used_with_the_same_flag_only() {
    let mut net = Net::new();
    let sends = [
        by_alice(Standard, &[1]),
        by_alice(PartyProtection, &[1]),
        mandatory(&[1], &[1]),
        by_alice(StateValidation, &[1]),
    ];
    let mut contracts = Vec::new();
    for send in &sends {
        contracts.push(net.deploy(send, ADDER).await);
    }
    for (i, contract) in contracts.iter().enumerate() {
        for (j, send) in sends.iter().enumerate() {
            let result = net.simulate(send, Some(*contract), &word(1));
            if i == j {
                net.run(send, Some(*contract), &word(1)).await;
                for party in &net.parties[..2] {
                    assert_eq!(party.slot(*contract), U256::from(1));
                }
                continue;
            }
            let expected = if i == 0 {
                "PrivacyMetadata not found"
            } else {
                "sent privacy flag doesn't match all affected contract flags"
            };
            assert!(text(result).starts_with(expected), "{i} {j}");
            // A node that sends it all the same changes nothing at the other party.
            let named = [(*contract, creation(&net, 1, *contract))];
            let affected: &[_] = if j == 0 { &[] } else { &named };
            let reason = refused_at(&mut net, 1, send, *contract, affected).await;
            assert!(reason.starts_with(expected), "{i} {j}: {reason}");
        }
    }
    for contract in contracts {
        assert_eq!(net.parties[1].slot(contract), U256::from(1));
    }
    assert_eq!(net.parties[0].root(), net.parties[1].root());
}

#[tokio::test]
async fn what_is_known_of_a_contract_depends_on_its_flag() {
    let mut net = Net::new();
    let keys = |nodes: &[usize]| -> BTreeSet<_> {
        nodes
            .iter()
            .map(|n| party_key(u8::try_from(*n).unwrap() + 1))
            .collect()
    };
    let check = |net: &Net, contract, flag, parties, mandatory| {
        for party in &net.parties[..2] {
            let metadata = party.ledger.contract(&contract).unwrap().unwrap();
            assert_eq!(metadata.flag, flag);
            assert_eq!(
                (&metadata.parties, &metadata.mandatory),
                (&parties, &mandatory)
            );
        }
    };
    let contract = net.deploy(&by_alice(PartyProtection, &[1]), STORE).await;
    check(&net, contract, PartyProtection, None, keys(&[]));
    let contract = net.deploy(&mandatory(&[1, 2], &[1]), STORE).await;
    check(&net, contract, MandatoryParties, None, keys(&[1]));
    let contract = net.deploy(&by_alice(StateValidation, &[1, 3]), STORE).await;
    check(
        &net,
        contract,
        StateValidation,
        Some(keys(&[0, 1, 3])),
        keys(&[]),
    );
}

#[tokio::test]
async fn a_non_party_is_told_that_there_is_no_contract_and_fails_at_the_parties() {
    let mut net = Net::new();
    for flag in [PartyProtection, StateValidation] {
        let contract = net.deploy(&by_alice(flag, &[1]), ADDER).await;
        let outsider = from_node(2, flag, &[1]);
        let told = text(net.simulate(&outsider, Some(contract), &word(1)));
        assert!(
            told.starts_with("contract not found. cannot transact"),
            "{told}"
        );
        // Without a flag it is sent, succeeds where there is no contract, and fails where there is one.
        let plain = from_node(2, Standard, &[1]);
        let hash = net.run(&plain, Some(contract), &word(1)).await;
        assert!(net.parties[2].record(hash).is_success());
        assert!(!net.parties[1].record(hash).is_success());
        // Made-up proof.
        let made_up = [(contract, PayloadHash::from_bytes([9; 64]))];
        for affected in [&[][..], &made_up] {
            let reason = refused_at(&mut net, 1, &outsider, contract, affected).await;
            assert!(reason.contains("did not prove to be a party"), "{reason}");
        }
        assert_eq!(net.parties[1].slot(contract), U256::ZERO);
    }
}

#[tokio::test]
async fn a_contract_behind_a_contract_needs_proof_too() {
    let mut net = Net::new();
    // Node 2 is no party of the inner contract, and node 1 is one of both.
    let inner = net.deploy(&by_alice(PartyProtection, &[1]), ADDER).await;
    let outer = net
        .deploy(&from_node(2, PartyProtection, &[1]), &forwarder(inner))
        .await;
    let send = from_node(2, PartyProtection, &[1]);
    let simulation = net.simulate(&send, Some(outer), &word(4)).unwrap();
    assert_eq!(
        simulation.affected.keys().copied().collect::<Vec<_>>(),
        [outer]
    );
    let hash = net.run(&send, Some(outer), &word(4)).await;
    assert!(net.parties[2].record(hash).is_success());
    let record = net.parties[1].record(hash);
    assert!(
        record.reason().unwrap().contains(&inner.to_string()),
        "{record:?}"
    );
    assert_eq!(net.parties[1].slot(inner), U256::ZERO);
    assert_eq!(net.parties[1].slot(outer), U256::ZERO);
    assert_ne!(record.digest, net.parties[2].record(hash).digest);
}

#[tokio::test]
async fn contracts_of_different_flags_do_not_call_each_other() {
    let mut net = Net::new();
    for (inner_flag, outer_flag) in [(StateValidation, Standard), (Standard, StateValidation)] {
        let inner = net.deploy(&by_alice(inner_flag, &[1]), STORE).await;
        for code in [forwarder(inner), copier(inner)] {
            let outer = net.deploy(&by_alice(outer_flag, &[1]), &code).await;
            for flag in [Standard, StateValidation] {
                let told = text(net.simulate(&by_alice(flag, &[1]), Some(outer), &word(1)));
                let expected = if flag == Standard {
                    "sent privacy flag doesn't match all affected contract flags"
                } else {
                    "PrivacyMetadata not found"
                };
                assert!(told.starts_with(expected), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn any_flag_may_read_a_public_contract_and_none_may_change_one() {
    let mut net = Net::new();
    let nonce = net.nonce(BOB);
    let shop = user(BOB).create(nonce);
    let next = net.nonce(BOB);
    net.mine(vec![
        public(BOB, nonce, TxKind::Create, &deploying(STORE)),
        public(BOB, next, TxKind::Call(shop), &word(42)),
    ])
    .await;
    for send in [
        by_alice(PartyProtection, &[1]),
        mandatory(&[1], &[1]),
        by_alice(StateValidation, &[1]),
    ] {
        let reader = net.deploy(&send, &copier(shop)).await;
        net.run(&send, Some(reader), &[]).await;
        assert_eq!(net.parties[1].slot(reader), U256::from(42));
        let writer = net.deploy(&send, &forwarder(shop)).await;
        let simulation = net.simulate(&send, Some(writer), &word(1)).unwrap();
        assert!(simulation.reverted.is_some());
    }
}

#[tokio::test]
async fn mandatory_parties_take_part_in_every_transaction() {
    let mut net = Net::new();
    let contract = net.deploy(&mandatory(&[1, 2], &[2]), ADDER).await;
    let told = text(net.simulate(&mandatory(&[1], &[1]), Some(contract), &word(1)));
    assert!(told.contains("needs party"), "{told}");
    // Named or not, a mandatory party that takes part is in the terms.
    let send = mandatory(&[1, 2], &[1]);
    let simulation = net.simulate(&send, Some(contract), &word(1)).unwrap();
    assert_eq!(simulation.mandatory, [party_key(2), party_key(3)].into());
    net.run(&send, Some(contract), &word(1)).await;
    for party in &net.parties[..3] {
        assert_eq!(party.slot(contract), U256::from(1));
    }
    let named = [(contract, creation(&net, 1, contract))];
    let reason = refused_at(&mut net, 1, &mandatory(&[1], &[1]), contract, &named).await;
    assert!(reason.contains("needs party"), "{reason}");

    let told = text(net.simulate(&mandatory(&[1], &[]), None, &[]));
    assert!(told.contains("flag 2 needs at least one"));
    let told = text(net.simulate(&mandatory(&[1], &[2]), None, &[]));
    assert!(told.contains("among the recipients"));
    let wrong = Send {
        flag: PartyProtection,
        ..mandatory(&[1], &[1])
    };
    assert!(text(net.simulate(&wrong, None, &[])).contains("flag 2 only"));
}

#[tokio::test]
async fn state_validation_wants_exactly_the_parties_of_the_contract() {
    let mut net = Net::new();
    let contract = net.deploy(&by_alice(StateValidation, &[1, 2]), ADDER).await;
    for to in [&[1][..], &[1, 2, 3]] {
        let send = by_alice(StateValidation, to);
        let told = text(net.simulate(&send, Some(contract), &word(1)));
        assert!(
            told.starts_with("Recipients mismatched for Affected Txn"),
            "{told}"
        );
        let named = [(contract, creation(&net, 1, contract))];
        let reason = refused_at(&mut net, 1, &send, contract, &named).await;
        assert!(reason.starts_with("Recipients mismatched"), "{reason}");
    }
    let other = net
        .deploy(&by_alice(StateValidation, &[1]), &forwarder(contract))
        .await;
    let told = text(net.simulate(&by_alice(StateValidation, &[1]), Some(other), &word(1)));
    assert!(
        told.starts_with("Recipients mismatched for Affected Txn"),
        "{told}"
    );
}

#[tokio::test]
async fn state_validation_refuses_what_its_sender_found_otherwise() {
    let mut net = Net::new();
    let send = by_alice(StateValidation, &[1]);
    let contract = net.deploy(&send, ADDER).await;
    // Both were simulated on the same state: the second finds another one.
    let first = net.send(&send, Some(contract), &word(1));
    let simulation = net.simulate(&send, Some(contract), &word(2)).unwrap();
    assert_eq!(simulation.base.len(), 1);
    let second = net.send(&send, Some(contract), &word(2));
    let hashes = [first.hash(), second.hash()];
    net.mine(vec![first, second]).await;
    for party in &net.parties[..2] {
        assert!(party.record(hashes[0]).is_success());
        let record = party.record(hashes[1]);
        assert!(
            record
                .reason()
                .unwrap()
                .starts_with("private state validation failed")
        );
        assert_eq!(party.slot(contract), U256::from(1));
    }
    let again = net.run(&send, Some(contract), &word(2)).await;
    assert!(net.parties[1].record(again).is_success());
    assert_eq!(net.parties[1].slot(contract), U256::from(3));
    // A sender that lies about the root.
    let named = [(contract, creation(&net, 1, contract))];
    let reason = refused_at(&mut net, 1, &send, contract, &named).await;
    assert!(
        reason.starts_with("private state validation failed"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_validated_creation_is_validated_too() {
    let mut net = Net::new();
    let send = by_alice(StateValidation, &[1]);
    let terms = forged(&net, &send, &[]);
    let transaction = net.send_with(&send, None, &deploying(STORE), terms);
    let hash = transaction.hash();
    net.mine(vec![transaction]).await;
    let record = net.parties[1].record(hash);
    assert!(!record.is_success() && record.contract_address.is_none());
    let contract = user(ALICE).create(record.nonce);
    assert_eq!(net.parties[1].ledger.contract(&contract), Ok(None));
    assert_eq!(net.parties[1].ledger.status().private_height, 0);
}

#[tokio::test]
async fn a_simulation_says_what_the_transaction_will_do() {
    let mut net = Net::new();
    let send = by_alice(StateValidation, &[1]);
    let creation = net.simulate(&send, None, &deploying(ADDER)).unwrap();
    let contract = net.deploy(&send, ADDER).await;
    assert_eq!(creation.contract_address, Some(contract));
    assert!(creation.affected.is_empty() && creation.base.is_empty());
    let simulation = net.simulate(&send, Some(contract), &word(7)).unwrap();
    let hash = net.run(&send, Some(contract), &word(7)).await;
    let record = net.parties[1].record(hash);
    assert_eq!(simulation.gas_used, record.gas_used);
    assert_eq!(simulation.reverted, None);
    assert_eq!(simulation.height, record.height - 1);
    let violation = FlagViolation::NoContract { contract: user(3) };
    let refusal = net.simulate(&send, Some(user(3)), &[]).unwrap_err();
    assert_eq!(refusal, SimulationRefusal::Flag(violation));
    assert!(!refusal.is_retryable());
}
