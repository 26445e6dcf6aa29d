//! A new party joins a contract.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256};
use quorate_chain::RecoveredTransaction;
use quorate_enclave::PrivacyFlag;
use quorate_evm::contract_digest;
use quorate_privacy::{
    Content, ContractState, ExtensionState, ExtensionStep, HandoverAnswer, PublicChain as _,
    RecordOutcome, Terms, check_offer,
};

use crate::script::{Dice, plain_terms};
use crate::world::*;

/// The newcomer of most tests: node 2, whose account is Bob's.
const NEWCOMER: usize = 2;

/// A step of an extension as an honest node sends it, not yet in a block.
fn step(net: &mut Net, send: &Send<'_>, step: ExtensionStep) -> RecoveredTransaction {
    let mut affected = BTreeMap::new();
    if let ExtensionStep::Offer { contract, .. } = &step
        && let Some(known) = net.parties[send.from].ledger.contract(contract).unwrap()
    {
        affected.insert(*contract, known.creation_hash);
    }
    let terms = Terms {
        from: Some(user(send.user)),
        affected,
        ..plain_terms(net, send.from)
    };
    let hash = net.distribute(send, Content::Extension(step), terms);
    marker(send.user, net.nonce(send.user), hash)
}

fn by(user: u8, from: usize, to: &[usize]) -> Send<'_> {
    Send {
        user,
        from,
        ..standard(to)
    }
}

fn offer_to(
    net: &mut Net,
    send: &Send<'_>,
    contract: Address,
    newcomer: usize,
    account: u8,
) -> (Address, RecoveredTransaction) {
    let id = user(send.user).create(net.peek_nonce(send.user));
    let mut parties: BTreeSet<_> = send
        .to
        .iter()
        .map(|node| net.parties[*node].key())
        .collect();
    parties.insert(net.parties[send.from].key());
    parties.remove(&net.parties[newcomer].key());
    let offer = ExtensionStep::Offer {
        contract,
        newcomer: net.parties[newcomer].key(),
        newcomer_account: user(account),
        parties,
    };
    (id, step(net, send, offer))
}

/// Alice of node 0 offers a contract of nodes 0 and 1 to node 2.
fn offered(net: &mut Net, contract: Address) -> (Address, RecoveredTransaction) {
    offer_to(net, &standard(&[1, NEWCOMER]), contract, NEWCOMER, BOB)
}

fn vote(net: &mut Net, send: &Send<'_>, offer: Address, accept: bool) -> RecoveredTransaction {
    step(net, send, ExtensionStep::Vote { offer, accept })
}

fn accepted(net: &mut Net, offer: Address) -> RecoveredTransaction {
    vote(net, &by(BOB, NEWCOMER, &[0, 1]), offer, true)
}

/// Everyone hands over what he has to whoever is entitled to it.
fn connect(net: &Net) {
    let ledgers = net.parties.iter();
    let ledgers: Vec<_> = ledgers
        .map(|party| (party.key(), party.ledger.clone()))
        .collect();
    for party in &net.parties {
        *party.payloads.vouching.lock() = ledgers.clone();
    }
}

/// A contract of nodes 0 and 1 with 129 in it, that is offered and accepted.
async fn extended(net: &mut Net, flag: PrivacyFlag) -> (Address, Address, B256) {
    connect(net);
    let send = by_alice(flag, &[1]);
    let contract = net.deploy(&send, STORE).await;
    net.run(&send, Some(contract), &word(129)).await;
    let (id, offer) = offered(net, contract);
    net.mine(vec![offer]).await;
    let vote = accepted(net, id);
    let hash = vote.hash();
    net.mine(vec![vote]).await;
    (contract, id, hash)
}

fn states(net: &Net, id: Address, nodes: &[usize]) -> Vec<Option<ExtensionState>> {
    let state = |node: &usize| net.parties[*node].ledger.extension(&id).unwrap();
    nodes
        .iter()
        .map(|node| state(node).map(|e| e.state))
        .collect()
}

fn digest(net: &Net, node: usize, contract: &Address) -> B256 {
    let ledger = &net.parties[node].ledger;
    contract_digest(&ledger.state_at(ledger.cursor()).unwrap(), contract).unwrap()
}

fn reason(net: &Net, node: usize, transaction: B256) -> String {
    match net.parties[node].record(transaction).outcome {
        RecordOutcome::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_newcomer_has_the_contract_from_its_vote_on_and_nobody_else_has() {
    let mut net = Net::new();
    let (contract, id, voted) = extended(&mut net, PrivacyFlag::Standard).await;
    assert_eq!(net.parties[NEWCOMER].slot(contract), U256::from(129));
    assert_eq!(
        states(&net, id, &[0, 1, 2]),
        [Some(ExtensionState::Done); 3]
    );
    assert_eq!(states(&net, id, &[3]), [None]);
    for node in 0..3 {
        let record = net.parties[node].record(voted);
        assert!(record.is_success());
        assert_eq!(record.affected, [contract]);
        assert_eq!(record.digest, net.parties[0].record(voted).digest);
    }
    net.run(&standard(&[1, NEWCOMER]), Some(contract), &word(999))
        .await;
    for node in 0..3 {
        assert_eq!(net.parties[node].slot(contract), U256::from(999));
        assert_eq!(digest(&net, node, &contract), digest(&net, 0, &contract));
    }
    // The newcomer sends, too.
    let send = by(BOB, NEWCOMER, &[0, 1]);
    net.run(&send, Some(contract), &word(5)).await;
    assert_eq!(net.parties[0].slot(contract), U256::from(5));
    assert_eq!(net.parties[3].slot(contract), U256::ZERO);
    assert_eq!(net.parties[3].ledger.status().records, 0);
    let known = |node: usize| {
        net.parties[node]
            .ledger
            .contract(&contract)
            .unwrap()
            .unwrap()
    };
    assert_eq!(known(NEWCOMER).creation_hash, known(0).creation_hash);
    // Before the vote there was nothing.
    let voted_at = net.parties[NEWCOMER].record(voted).height;
    assert_eq!(
        net.parties[NEWCOMER].slot_at(contract, voted_at - 1),
        U256::ZERO
    );
}

#[tokio::test]
async fn the_state_that_is_handed_over_is_that_of_the_vote_and_not_of_its_block() {
    let mut net = Net::new();
    connect(&net);
    let contract = net.deploy(&standard(&[1]), STORE).await;
    // Offer and vote in one block, too.
    let (id, offer) = offered(&mut net, contract);
    let before = net.send(&standard(&[1]), Some(contract), &word(5));
    let voted = accepted(&mut net, id);
    let after = net.send(&standard(&[1]), Some(contract), &word(6));
    net.mine(vec![offer, before, voted, after]).await;
    assert_eq!(net.parties[NEWCOMER].slot(contract), U256::from(5));
    assert_eq!(net.parties[0].slot(contract), U256::from(6));

    let mut net = Net::new();
    connect(&net);
    let contract = net.deploy(&standard(&[1]), STORE).await;
    let (id, offer) = offered(&mut net, contract);
    net.mine(vec![offer]).await;
    let voted = accepted(&mut net, id);
    let after = net.send(&standard(&[1, NEWCOMER]), Some(contract), &word(7));
    net.mine(vec![voted, after]).await;
    assert_eq!(net.parties[NEWCOMER].slot(contract), U256::from(7));
    assert_eq!(
        digest(&net, NEWCOMER, &contract),
        digest(&net, 0, &contract)
    );
}

#[tokio::test]
async fn only_the_named_account_and_key_vote_and_only_who_offered_cancels() {
    let mut net = Net::new();
    connect(&net);
    let contract = net.deploy(&standard(&[1]), STORE).await;
    let (id, offer) = offered(&mut net, contract);
    net.mine(vec![offer]).await;
    assert_eq!(
        states(&net, id, &[0, 1, 2]),
        [Some(ExtensionState::Active); 3]
    );
    let wrong_account = vote(&mut net, &by(3, NEWCOMER, &[0, 1]), id, true);
    let wrong_key = vote(&mut net, &by(BOB, 1, &[0, NEWCOMER]), id, true);
    let wrong_cancel = step(
        &mut net,
        &by(BOB, NEWCOMER, &[0, 1]),
        ExtensionStep::Cancel { offer: id },
    );
    let hashes = [wrong_account.hash(), wrong_key.hash(), wrong_cancel.hash()];
    net.mine(vec![wrong_account, wrong_key, wrong_cancel]).await;
    for node in 0..3 {
        assert!(reason(&net, node, hashes[0]).contains("account"));
        assert!(reason(&net, node, hashes[1]).contains("key"));
        assert!(reason(&net, node, hashes[2]).contains("cancel"));
    }
    assert_eq!(
        states(&net, id, &[0, 1, 2]),
        [Some(ExtensionState::Active); 3]
    );

    let send = standard(&[1, NEWCOMER]);
    let cancel = step(&mut net, &send, ExtensionStep::Cancel { offer: id });
    net.mine(vec![cancel]).await;
    assert_eq!(
        states(&net, id, &[0, 1, 2]),
        [Some(ExtensionState::Cancelled); 3]
    );
    let late = accepted(&mut net, id);
    let hash = late.hash();
    net.mine(vec![late]).await;
    for node in 0..3 {
        assert!(reason(&net, node, hash).contains("ended"));
    }
    assert_eq!(net.parties[NEWCOMER].root(), net.parties[3].root());

    // After the end there may be another one, which is declined.
    let (id, offer) = offered(&mut net, contract);
    net.mine(vec![offer]).await;
    let no = vote(&mut net, &by(BOB, NEWCOMER, &[0, 1]), id, false);
    net.mine(vec![no]).await;
    assert_eq!(
        states(&net, id, &[0, 1, 2]),
        [Some(ExtensionState::Declined); 3]
    );
    assert_eq!(net.parties[NEWCOMER].root(), net.parties[3].root());
}

#[tokio::test]
async fn a_contract_has_one_extension_at_a_time_and_a_second_one_to_a_party_does_nothing() {
    let mut net = Net::new();
    connect(&net);
    let contract = net.deploy(&standard(&[1]), STORE).await;
    let (first, offer) = offered(&mut net, contract);
    let (second, again) = offer_to(&mut net, &standard(&[1, 3]), contract, 3, 3);
    let refused = again.hash();
    net.mine(vec![offer, again]).await;
    for node in [0, 1] {
        assert!(reason(&net, node, refused).contains("already"));
    }
    // Who is offered something cannot know that it is void; it learns it from the parties when it accepts.
    let voted = vote(&mut net, &by(3, 3, &[0, 1]), second, true);
    let hash = voted.hash();
    net.mine(vec![voted]).await;
    assert!(reason(&net, 3, hash).contains("does not hand over"));
    assert_eq!(
        states(&net, second, &[0, 3]),
        [None, Some(ExtensionState::Refused)]
    );

    let voted = accepted(&mut net, first);
    net.mine(vec![voted]).await;
    let (parties, newcomer) = ([0, 1].map(|n| net.parties[n].key()), net.parties[2].key());
    let checked = check_offer(
        &net.parties[0].ledger,
        &contract,
        &parties[0],
        &newcomer,
        &parties.into(),
    );
    // Nobody but the newcomer knows whether it took the contract: so it may be offered again.
    checked.unwrap();
    let root = net.parties[NEWCOMER].root();
    let (third, offer) = offered(&mut net, contract);
    net.mine(vec![offer]).await;
    let voted = accepted(&mut net, third);
    let hash = voted.hash();
    net.mine(vec![voted]).await;
    assert!(net.parties[NEWCOMER].record(hash).is_success());
    assert_eq!(net.parties[NEWCOMER].root(), root);
}

#[tokio::test]
async fn under_flags_only_the_creator_extends_and_with_flag_three_the_newcomer_is_a_party() {
    use PrivacyFlag::{PartyProtection, StateValidation};
    for flag in [PartyProtection, StateValidation] {
        let mut net = Net::new();
        connect(&net);
        let contract = net.deploy(&by_alice(flag, &[1]), STORE).await;
        let (_, offer) = offer_to(&mut net, &by(3, 1, &[0, NEWCOMER]), contract, NEWCOMER, BOB);
        let hash = offer.hash();
        net.mine(vec![offer]).await;
        assert!(reason(&net, 0, hash).contains("only the creator"));
    }
    let mut net = Net::new();
    connect(&net);
    let contract = net.deploy(&by_alice(StateValidation, &[1]), STORE).await;
    let (_, offer) = offer_to(&mut net, &standard(&[NEWCOMER]), contract, NEWCOMER, BOB);
    let hash = offer.hash();
    net.mine(vec![offer]).await;
    assert!(reason(&net, 0, hash).contains("other parties"));

    let mut net = Net::new();
    let (contract, _, _) = extended(&mut net, StateValidation).await;
    for node in 0..3 {
        let known = net.parties[node]
            .ledger
            .contract(&contract)
            .unwrap()
            .unwrap();
        assert_eq!(known.parties.unwrap().len(), 3);
    }
    let all = by_alice(StateValidation, &[1, NEWCOMER]);
    net.run(&all, Some(contract), &word(7)).await;
    for node in 0..3 {
        assert_eq!(net.parties[node].slot(contract), U256::from(7));
    }
    let fewer = by_alice(StateValidation, &[1]);
    assert!(net.try_send(&fewer, Some(contract), &word(8)).is_err());
    let from_newcomer = Send {
        user: BOB,
        from: NEWCOMER,
        ..by_alice(StateValidation, &[0, 1])
    };
    net.run(&from_newcomer, Some(contract), &word(9)).await;
    assert_eq!(net.parties[0].slot(contract), U256::from(9));
}

#[tokio::test]
async fn mandatory_parties_are_named_by_an_offer_and_stay_mandatory() {
    let mut net = Net::new();
    connect(&net);
    let send = Send {
        mandatory: &[1],
        ..by_alice(PrivacyFlag::MandatoryParties, &[1])
    };
    let contract = net.deploy(&send, STORE).await;
    let (_, offer) = offer_to(&mut net, &standard(&[NEWCOMER]), contract, NEWCOMER, BOB);
    let hash = offer.hash();
    net.mine(vec![offer]).await;
    assert!(reason(&net, 0, hash).contains("needs party"));
    let (id, offer) = offered(&mut net, contract);
    net.mine(vec![offer]).await;
    let voted = accepted(&mut net, id);
    net.mine(vec![voted]).await;
    let known = net.parties[NEWCOMER]
        .ledger
        .contract(&contract)
        .unwrap()
        .unwrap();
    assert_eq!(known.mandatory, BTreeSet::from([net.parties[1].key()]));
}

#[tokio::test]
async fn a_state_that_is_not_the_signed_one_is_never_taken() {
    let mut net = Net::new();
    connect(&net);
    let contract = net.deploy(&standard(&[1]), STORE).await;
    net.run(&standard(&[1]), Some(contract), &word(129)).await;
    let (id, offer) = offered(&mut net, contract);
    net.mine(vec![offer]).await;
    let voted = accepted(&mut net, id);
    let hash = voted.hash();
    let height = net.chain.mine(vec![voted]);
    for node in [0, 1] {
        net.parties[node].catch_up(&net.chain).await;
    }
    let honest = handed(&net, 0, hash);
    let lie = ContractState {
        storage: BTreeMap::from([(U256::ZERO, U256::from(130))]),
        ..honest.clone()
    };
    let newcomer = &net.parties[NEWCOMER];
    *newcomer.payloads.told.lock() = Some(HandoverAnswer::Proved {
        state: Box::new(lie),
        digest: honest.digest().unwrap(),
    });
    let running = newcomer.start(&net.chain);
    newcomer
        .until(|status| {
            let waiting = status.waiting.as_ref();
            waiting.is_some_and(|w| w.reason.contains("not the one that the parties signed"))
        })
        .await;
    assert_eq!(newcomer.ledger.cursor(), height - 1);
    assert_eq!(newcomer.ledger.contract(&contract).unwrap(), None);
    *newcomer.payloads.told.lock() = None;
    newcomer.ledger.retry_now();
    newcomer.arrive(height).await;
    assert_eq!(newcomer.slot(contract), U256::from(129));
    running.stop().await.unwrap();
}

fn handed(net: &Net, node: usize, transaction: B256) -> ContractState {
    let ledger = &net.parties[node].ledger;
    let mut bytes = Vec::new();
    for page in 0.. {
        let more = ledger.handover_page(&transaction, page).unwrap();
        if more.is_empty() {
            break;
        }
        bytes.extend(more);
    }
    ContractState::decode(&bytes).unwrap()
}

#[tokio::test]
async fn two_nodes_that_extend_to_each_other_in_one_block_do_not_wait_for_ever() {
    let mut net = Net::new();
    connect(&net);
    let ours = net.deploy(&by(ALICE, 0, &[]), STORE).await;
    let theirs = net.deploy(&by(BOB, 1, &[]), STORE).await;
    let (first, offer) = offer_to(&mut net, &by(ALICE, 0, &[1]), ours, 1, BOB);
    let (second, back) = offer_to(&mut net, &by(BOB, 1, &[0]), theirs, 0, ALICE);
    net.mine(vec![offer, back]).await;
    let votes = vec![
        vote(&mut net, &by(BOB, 1, &[0]), first, true),
        vote(&mut net, &by(ALICE, 0, &[1]), second, true),
    ];
    let height = net.chain.mine(votes);
    let running: Vec<_> = net.parties[..2]
        .iter()
        .map(|p| p.start(&net.chain))
        .collect();
    for (party, running) in net.parties[..2].iter().zip(running) {
        party.arrive(height).await;
        running.stop().await.unwrap();
    }
    assert_eq!(net.parties[0].root(), net.parties[1].root());
    assert_eq!(
        states(&net, first, &[0, 1]),
        [Some(ExtensionState::Done); 2]
    );
}

/// Power fails everywhere in a chain with extensions; parties and newcomer end as if it had not.
#[tokio::test]
async fn crashes_during_extensions_change_nothing() {
    let mut net = Net::new();
    let (contract, _, _) = extended(&mut net, PrivacyFlag::StateValidation).await;
    let all = by_alice(PrivacyFlag::StateValidation, &[1, NEWCOMER]);
    net.run(&all, Some(contract), &word(7)).await;
    // A second newcomer.
    let (id, offer) = offer_to(&mut net, &standard(&[1, 2, 3]), contract, 3, 3);
    net.mine(vec![offer]).await;
    let voted = vote(&mut net, &by(3, 3, &[0, 1, 2]), id, true);
    net.mine(vec![voted]).await;
    let all = by_alice(PrivacyFlag::StateValidation, &[1, 2, 3]);
    net.run(&all, Some(contract), &word(8)).await;
    let top = net.chain.head();
    for node in 0..4 {
        let whole = net.parties[node].trace();
        let extensions = net.parties[node].ledger.extensions(None, 100).unwrap();
        let metadata = net.parties[node].ledger.contract(&contract).unwrap();
        for seed in 0..10u64 {
            let mut dice = Dice::new(seed ^ 0xabc);
            let mut party = net.parties[node].afresh();
            let mut farthest = 0;
            while farthest < top {
                let running = party.start(&net.chain);
                farthest = (farthest + 1 + dice.below(3)).min(top);
                party.arrive(farthest).await;
                running.kill(&mut party).await;
                party.index_kv.crash_by_seed(dice.below(u64::MAX));
                party.state_kv.crash_by_seed(dice.below(u64::MAX));
                party.reopen();
                let ours = party.trace();
                assert_eq!(ours[..], whole[..ours.len()], "node {node}, seed {seed}");
                let cursor = party.ledger.cursor();
                for known in party.ledger.extensions(None, 100).unwrap() {
                    assert!(known.ended_at.is_none_or(|height| height <= cursor));
                }
            }
            party.catch_up(&net.chain).await;
            assert_eq!(party.trace(), whole, "node {node}, seed {seed}");
            assert_eq!(party.ledger.extensions(None, 100).unwrap(), extensions);
            assert_eq!(party.ledger.contract(&contract).unwrap(), metadata);
        }
    }
}
