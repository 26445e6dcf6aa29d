//! What was erased, what nobody has any more, and going on without it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use quorate_chain::{PrivateReference, PublicForm};
use quorate_enclave::{ErasureReason, NewGroup, PayloadHash, PrivacyFlag};
use quorate_exchange::{Acknowledgements, Distributed, Distribution, ExchangeError, Reception};
use quorate_privacy::Lookup;

use crate::network::{Network, content, is_unknown, party, reference, unknown_hash, wait_until};

/// The same payload in Quorum's form, which does not say whose it is.
fn bare(sent: &Distributed) -> PrivateReference {
    PrivateReference {
        form: PublicForm::Quorum,
        tags: Vec::new(),
        ..reference(sent)
    }
}

async fn erase(network: &Network, n: u64, hash: PayloadHash) -> Result<(), ExchangeError> {
    let member = network.at(n);
    let erased = member.erase(hash, ErasureReason::Requested, String::new());
    erased.await.map(drop)
}

async fn send(network: &Network, text: &str, to: &[u64]) -> Distributed {
    let how = Distribution::to(to.iter().map(|n| network.key(*n)));
    network.at(1).distribute(content(text), how).await.unwrap()
}

/// To a group of members 1 and 2, "loans", whose payloads live for a millisecond.
async fn to_short_lived_group(network: &Network) -> Distribution {
    let new = NewGroup {
        name: "loans".to_owned(),
        description: String::new(),
        members: BTreeSet::from([network.key(1), network.key(2)]),
        payloads_live_ms: Some(1),
    };
    let made = network.at(1).create_group(new).await.unwrap();
    let mut how = Distribution::to([]);
    how.parties.group = Some(made.group.id);
    how
}

#[tokio::test]
async fn what_came_of_a_payload_is_kept_before_it_is_erased_and_its_input_forgotten_after_it() {
    let network = Network::of_four();
    let sent = send(&network, "a", &[2]).await;
    let state = &network.node(2).state;
    // As long as that is not sure, nothing is erased.
    state.holds_on.store(true, Ordering::SeqCst);
    let refused = erase(&network, 2, sent.hash).await;
    assert!(matches!(refused, Err(ExchangeError::PrivateState { .. })));
    party(network.lookup(2, &reference(&sent)).await);
    state.holds_on.store(false, Ordering::SeqCst);
    erase(&network, 2, sent.hash).await.unwrap();
    let let_go = state.let_go.lock().unwrap().clone();
    assert_eq!(let_go, [sent.hash, sent.hash]);
    // Of what was never here there is nothing to let go of.
    let hash = unknown_hash();
    let missing = erase(&network, 2, hash).await;
    assert_eq!(missing, Err(ExchangeError::Missing { hash }));
    assert_eq!(state.let_go.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_others_erased_is_asked_for_only_by_who_lost_something() {
    let mut network = Network::of_four();
    network.set_offline(2, true);
    let mut how = Distribution::to([network.key(2)]);
    how.acknowledgements = Acknowledgements::KOfN(0);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    erase(&network, 1, sent.hash).await.unwrap();
    network.set_offline(2, false);
    // What it does not have is on its way to it, as far as it knows.
    let two = network.at(2);
    assert!(two.resync().await.unwrap().complete);
    assert!(network.requests(2, 1, 10).is_empty());
    assert_eq!(two.give_up_erased(String::new()).await, Ok(0));
    assert!(is_unknown(&network.lookup(2, &reference(&sent)).await));
    network.lose_disk(2).await;
    assert!(network.at(2).resync().await.unwrap().complete);
    assert!(!network.requests(2, 1, 10).is_empty());
}

#[tokio::test]
async fn a_payload_expires_when_it_was_executed_and_everyone_has_it() {
    let mut network = Network::of_four();
    let mut how = to_short_lived_group(&network).await;
    let one = network.at(1);
    let send = |text, how: &Distribution| one.distribute(content(text), how.clone());
    let waits = send("waits", &how).await.unwrap();
    let executed = send("is executed", &how).await.unwrap();
    network.set_offline(2, true);
    how.acknowledgements = Acknowledgements::KOfN(0);
    let undelivered = send("is not delivered", &how).await.unwrap();
    let state = &network.node(1).state;
    let of_both = [executed.hash, undelivered.hash];
    state.payloads.lock().unwrap().extend(of_both);
    network.run(1);
    wait_until("one expired", async || {
        network.lookup(1, &reference(&executed)).await == Lookup::Erased
    })
    .await;
    let records = network.at(1).erasures(None, 10).await.unwrap();
    let records: Vec<_> = records.iter().map(|e| (e.hash, e.reason)).collect();
    assert_eq!(records, [(executed.hash, ErasureReason::Expired)]);
    network.stop(1).await;
    for kept in [&waits, &undelivered] {
        party(network.lookup(1, &reference(kept)).await);
    }
    // Neither is of use any more when the chain is a week older and everything in it was executed.
    let state = &network.node(1).state;
    *state.executed_until_ms.lock().unwrap() = Some(u64::MAX);
    network.run(1);
    for gone in [&waits, &undelivered] {
        wait_until("the others expired", async || {
            network.lookup(1, &reference(gone)).await == Lookup::Erased
        })
        .await;
    }
    network.stop(1).await;
}

#[tokio::test]
async fn a_payload_that_came_before_its_group_was_known_expires_all_the_same() {
    let mut network = Network::of_four();
    let how = to_short_lived_group(&network).await;
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    network.lose_disk(2).await;
    assert!(is_unknown(&network.lookup(2, &reference(&sent)).await));
    network.run(2);
    wait_until("the payload is fetched", async || {
        matches!(network.lookup(2, &reference(&sent)).await, Lookup::Party(_))
    })
    .await;
    network.stop(2).await;
    let state = &network.node(2).state;
    state.payloads.lock().unwrap().insert(sent.hash);
    assert!(network.at(2).resolve_group("loans").is_err());
    assert!(network.at(2).resync().await.unwrap().complete);
    network.run(2);
    wait_until("the payload expired", async || {
        network.lookup(2, &reference(&sent)).await == Lookup::Erased
    })
    .await;
    network.stop(2).await;
}

#[tokio::test]
async fn what_everyone_erased_is_not_foreign_to_a_party_that_lost_its_disk() {
    let mut network = Network::of_four();
    let erased = send(&network, "erased", &[2]).await;
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.flag = PrivacyFlag::StateValidation;
    how.exec_root = Some(Default::default());
    let kept = network
        .at(1)
        .distribute(content("kept"), how)
        .await
        .unwrap();
    let foreign = send(&network, "foreign", &[3]).await;
    for sent in [&erased, &kept, &foreign] {
        erase(&network, 1, sent.hash).await.unwrap();
    }
    network.lose_disk(2).await;
    let two = network.at(2);
    let early = two.give_up_erased(String::new()).await;
    assert_eq!(early, Err(ExchangeError::Incomplete));
    let report = two.resync().await.unwrap();
    assert!(report.complete, "{report:?}");
    let told: u64 = report.members.iter().map(|m| m.erased).sum();
    // Of the second one member 1 may have been asked before member 3 gave it.
    assert!((1..=2).contains(&told), "{report:?}");

    for reference in [reference(&erased), bare(&erased)] {
        let Lookup::Unknown { reason } = network.lookup(2, &reference).await else {
            panic!("{reference:?} is called known");
        };
        assert!(reason.contains("erased"), "{reason}");
    }
    assert_eq!(two.receive(erased.hash).await, Ok(Reception::Missing));
    party(network.lookup(2, &bare(&kept)).await);
    for reference in [reference(&foreign), bare(&foreign)] {
        assert_eq!(network.lookup(2, &reference).await, Lookup::NotAParty);
    }
    network.crash(2).await;
    assert!(is_unknown(&network.lookup(2, &bare(&erased)).await));

    // The one who runs the node decides to go on without it.
    let two = network.at(2);
    let note = "erased by both, case 4711".to_owned();
    assert_eq!(two.give_up_erased(note.clone()).await, Ok(1));
    assert_eq!(two.give_up_erased(note.clone()).await, Ok(0));
    for reference in [reference(&erased), bare(&erased)] {
        assert_eq!(network.lookup(2, &reference).await, Lookup::Erased);
    }
    party(network.lookup(2, &bare(&kept)).await);
    let records = two.erasures(None, 10).await.unwrap();
    let records: Vec<_> = records
        .iter()
        .map(|e| (e.hash, e.reason, &e.note))
        .collect();
    assert_eq!(records, [(erased.hash, ErasureReason::GivenUp, &note)]);
    network.crash(2).await;
    assert_eq!(network.lookup(2, &bare(&erased)).await, Lookup::Erased);
}

#[tokio::test]
async fn members_are_told_of_erased_payloads_of_their_own_keys_only() {
    let mut network = Network::of_four();
    let sent = send(&network, "a", &[2]).await;
    erase(&network, 1, sent.hash).await.unwrap();
    erase(&network, 2, sent.hash).await.unwrap();
    network.lose_disk(3).await;
    let report = network.at(3).resync().await.unwrap();
    assert!(report.complete && report.members.iter().all(|m| m.erased == 0));
    // It asks as if the key were its own.
    network.lose_disk(2).await;
    network.at(2).resync().await.unwrap();
    let mut named = [0, 0];
    for question in network.requests(2, 1, 10) {
        for (asker, named) in [2, 3].into_iter().zip(&mut named) {
            let answer = network.at(1).answer(asker, question.clone()).await;
            let hash = sent.hash.as_bytes();
            *named += usize::from(answer.windows(hash.len()).any(|window| window == hash));
        }
    }
    assert_eq!(named, [1, 0]);
}

#[tokio::test]
async fn a_payload_that_never_comes_can_be_given_up() {
    let mut network = Network::of_four();
    network.set_offline(2, true);
    let mut how = Distribution::to([network.key(2)]);
    how.acknowledgements = Acknowledgements::KOfN(0);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let two = network.at(2);
    let lookup = network.lookup(2, &reference(&sent)).await;
    assert!(is_unknown(&lookup), "{lookup:?}");
    let given_up = two.give_up(sent.hash, "its sender is gone".to_owned());
    assert_eq!(given_up.await.unwrap().reason, ErasureReason::GivenUp);
    assert_eq!(network.lookup(2, &reference(&sent)).await, Lookup::Erased);
    // It comes after all, and is not taken: the private state went on without it.
    network.set_offline(2, false);
    network.run(1);
    wait_until("the recipient refused it", async || {
        let deliveries = network.at(1).deliveries(sent.hash).await.unwrap();
        deliveries.iter().any(|d| d.reason.contains("erased"))
    })
    .await;
    network.stop(1).await;
    network.crash(2).await;
    assert_eq!(network.lookup(2, &reference(&sent)).await, Lookup::Erased);
    // What is here is not given up.
    let hash = send(&network, "b", &[2]).await.hash;
    let two = network.at(2);
    let here = two.give_up(hash, String::new()).await;
    assert_eq!(here, Err(ExchangeError::Here { hash }));
    let long = two.give_up(unknown_hash(), "a".repeat(513));
    assert!(matches!(long.await, Err(ExchangeError::Store(_))));
}

#[tokio::test]
async fn power_loss_while_a_payload_is_erased_leaves_it_whole_or_gone_and_its_parties_know() {
    let (mut whole, mut gone) = (0, 0);
    for steps in 0..20 {
        let mut network = Network::of_four();
        let sent = send(&network, "a", &[2]).await;
        erase(&network, 2, sent.hash).await.unwrap();
        network.node(1).kv.break_after(steps);
        let done = erase(&network, 1, sent.hash).await;
        network.crash(1).await;
        match network.lookup(1, &reference(&sent)).await {
            Lookup::Party(_) => {
                assert!(done.is_err());
                whole += 1;
            }
            Lookup::Erased => {
                gone += 1;
                network.lose_disk(2).await;
                assert!(network.at(2).resync().await.unwrap().complete);
                let lookup = network.lookup(2, &bare(&sent)).await;
                assert!(is_unknown(&lookup), "after {steps} steps: {lookup:?}");
            }
            other => panic!("after {steps} steps: {other:?}"),
        }
        if done.is_ok() {
            break;
        }
        erase(&network, 1, sent.hash).await.unwrap();
        assert_eq!(network.lookup(1, &reference(&sent)).await, Lookup::Erased);
    }
    assert!(whole > 0 && gone > 0, "{whole} whole, {gone} gone");
}
