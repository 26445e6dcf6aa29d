//! What a sender, its recipients and everyone else see when all goes well, or someone is away.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use alloy_primitives::Bytes;
use quorate_chain::{PrivateReference, PublicForm};
use quorate_enclave::{
    DeliveryState, ErasureReason, NewGroup, PayloadHash, PrivacyFlag, PublicKey, Suite,
};
use quorate_exchange::{Acknowledgements, Distribution, ExchangeError, Parties, Reception};
use quorate_privacy::{Content, Lookup};

use crate::network::{
    Fate, Network, content, is_unknown, party, reference, unknown_hash, wait_until,
};

#[tokio::test]
async fn parties_get_the_payload_and_others_are_certain_that_it_is_not_for_them() {
    for suite in Suite::ALL {
        let network = Network::with_suite(suite);
        let how = Distribution::to([network.key(2), network.key(3)]);
        let sent = network
            .at(1)
            .distribute(content("secret"), how)
            .await
            .unwrap();
        assert_eq!(sent.pending, []);
        assert_eq!(sent.sender, network.key(1));
        assert_eq!(sent.parties.len(), 3);
        // Three parties, hidden among four tags.
        assert_eq!(sent.tags.len(), 4);
        let reference = reference(&sent);
        for n in 1..=3 {
            let payload = party(network.lookup(n, &reference).await);
            assert_eq!(payload.content, content("secret"));
            assert_eq!(payload.as_recipient, network.key(n));
            assert_eq!(payload.sender, network.key(1));
            assert_eq!(payload.we_sent, n == 1);
            assert!(payload.terms.parties.is_empty());
        }
        assert_eq!(network.lookup(4, &reference).await, Lookup::NotAParty);
        let to_four = network.shared.requests.lock().unwrap();
        assert!(to_four.iter().all(|(_, to, _)| *to != 4));
    }
}

#[tokio::test]
async fn payloads_that_are_sent_at_once_share_signatures_and_each_is_believed_alone() {
    let mut network = Network::of_four();
    let at = network.at(1);
    let how = Distribution::to([network.key(2), network.key(3)]);
    let all = (0..30).map(|n| at.distribute(content(&format!("payload {n}")), how.clone()));
    let sent: Vec<_> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let signatures = network.shared.signatures.load(Ordering::Relaxed);
    assert!(signatures < 15, "{signatures} signatures for 30 payloads");
    // Each comes back alone, with what the sender signed about all of them.
    network.lose_disk(2).await;
    for sent in &sent {
        let lookup = network.lookup(2, &reference(sent)).await;
        assert!(is_unknown(&lookup), "{lookup:?}");
    }
    network.run(2);
    for (n, sent) in sent.iter().enumerate() {
        wait_until("the payload is back", || async {
            !is_unknown(&network.lookup(2, &reference(sent)).await)
        })
        .await;
        let payload = party(network.lookup(2, &reference(sent)).await);
        assert_eq!(payload.content, content(&format!("payload {n}")));
    }
}

#[tokio::test]
async fn what_was_executed_may_be_sent_again_with_the_same_terms_and_with_no_others() {
    let network = Network::of_four();
    let at = network.at(1);
    let hash = at
        .store_raw(Bytes::from_static(b"raw"), None)
        .await
        .unwrap();
    let how = Distribution::to([network.key(2)]);
    at.distribute_stored(hash, how.clone()).await.unwrap();
    let stricter = Distribution {
        flag: PrivacyFlag::PartyProtection,
        ..how.clone()
    };
    // Not executed yet: the last word counts.
    for how in [&stricter, &how] {
        at.distribute_stored(hash, how.clone()).await.unwrap();
    }
    for n in 1..=2 {
        let executed = &network.node(n).state.payloads;
        executed.lock().unwrap().insert(hash);
    }
    // Among others, so that the signature is another one.
    let others = (0..10).map(|n| at.distribute(content(&format!("{n}")), how.clone()));
    let (again, others) = tokio::join!(
        at.distribute_stored(hash, how.clone()),
        futures::future::join_all(others)
    );
    assert_eq!(again.unwrap().hash, hash);
    assert!(others.iter().all(Result::is_ok));
    let refused = at.distribute_stored(hash, stricter).await;
    assert_eq!(refused, Err(ExchangeError::AlreadyExecuted { hash }));
}

#[tokio::test]
async fn after_a_restart_everything_that_was_acknowledged_is_there() {
    let mut network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let sent = network
        .at(1)
        .distribute(content("kept"), how)
        .await
        .unwrap();
    for n in 1..=2 {
        network.crash(n).await;
        let payload = party(network.lookup(n, &reference(&sent)).await);
        assert_eq!(payload.content, content("kept"));
    }
}

#[tokio::test]
async fn a_recipient_that_nobody_announced_is_refused_by_name() {
    let network = Network::of_four();
    let stranger = PublicKey::from_bytes([9; 32]);
    let sent = network
        .at(1)
        .distribute(content("x"), Distribution::to([network.key(2), stranger]))
        .await;
    assert_eq!(sent, Err(ExchangeError::UnknownRecipient { key: stranger }));
    assert!(network.shared.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn our_own_second_key_needs_no_delivery() {
    let network = Network::of_four();
    let second = network.node(1).enclave.inner.public_keys_now()[1].key;
    let sent = network
        .at(1)
        .distribute(content("self"), Distribution::to([second]))
        .await
        .unwrap();
    assert_eq!(sent.parties.len(), 2);
    assert!(network.shared.requests.lock().unwrap().is_empty());
    party(network.lookup(1, &reference(&sent)).await);
}

#[tokio::test]
async fn one_member_with_two_party_keys_gets_both_boxes_in_one_delivery() {
    let network = Network::of_four();
    let keys = network.node(2).enclave.inner.public_keys_now();
    let how = Distribution::to(keys.iter().map(|k| k.key));
    let sent = network.at(1).distribute(content("two"), how).await.unwrap();
    assert_eq!(network.shared.requests.lock().unwrap().len(), 1);
    let Reception::Received(received) = network.at(2).receive(sent.hash).await.unwrap() else {
        panic!("not received");
    };
    assert!(keys.iter().all(|k| received.parties.contains(&k.key)));
}

#[tokio::test]
async fn without_an_answer_in_time_the_error_names_who_did_not_answer() {
    let network = Network::of_four();
    network.set_offline(3, true);
    let how = Distribution::to([network.key(2), network.key(3)]);
    let sent = network.at(1).distribute(content("x"), how.clone()).await;
    let Err(ExchangeError::NotAcknowledged { nodes, .. }) = &sent else {
        panic!("{sent:?}");
    };
    assert_eq!(nodes.len(), 1);
    assert_eq!(
        (nodes[0].raft_id, nodes[0].organisation.as_str()),
        (3, "org 3")
    );
    assert!(sent.as_ref().unwrap_err().is_retryable());
    assert_eq!(network.at(1).outbox_status().unwrap().pending, 0);
    network.set_offline(3, false);
    network.at(1).distribute(content("x"), how).await.unwrap();
}

#[tokio::test]
async fn k_of_n_goes_on_without_one_and_delivers_to_it_later() {
    let mut network = Network::of_four();
    network.set_offline(3, true);
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = Acknowledgements::KOfN(1);
    let sent = network
        .at(1)
        .distribute(content("later"), how)
        .await
        .unwrap();
    assert!(sent.pending.iter().any(|p| p.raft_id == 3));
    // The absent party finds out from the tags that it is one, and waits.
    assert!(is_unknown(&network.lookup(3, &reference(&sent)).await));
    // Also after the sender's machine lost power.
    network.crash(1).await;
    network.run(1);
    network.set_offline(3, false);
    network.at(1).reconnected(3).await.unwrap();
    wait_until("member 3 has the payload", async || {
        matches!(network.lookup(3, &reference(&sent)).await, Lookup::Party(_))
    })
    .await;
    wait_until("the sender knows", async || {
        let deliveries = network.at(1).deliveries(sent.hash).await.unwrap();
        deliveries.len() == 2
            && deliveries
                .iter()
                .all(|d| d.state == DeliveryState::Acknowledged)
    })
    .await;
    network.stop(1).await;
}

#[tokio::test]
async fn named_nodes_and_mandatory_parties_are_waited_for_and_no_others() {
    let network = Network::of_four();
    network.set_offline(3, true);
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = Acknowledgements::Nodes(BTreeSet::from([network.node(2).node()]));
    let sent = network
        .at(1)
        .distribute(content("a"), how.clone())
        .await
        .unwrap();
    assert!(sent.pending.iter().any(|p| p.raft_id == 3));
    how.acknowledgements = Acknowledgements::Nodes(BTreeSet::from([network.node(3).node()]));
    assert!(matches!(
        network.at(1).distribute(content("b"), how.clone()).await,
        Err(ExchangeError::NotAcknowledged { nodes, .. }) if nodes.len() == 1 && nodes[0].raft_id == 3
    ));
    how.acknowledgements = Acknowledgements::Nodes(BTreeSet::from([network.node(4).node()]));
    assert!(matches!(
        network.at(1).distribute(content("c"), how.clone()).await,
        Err(ExchangeError::Malformed {
            field: "acknowledgements",
            ..
        })
    ));

    how.flag = PrivacyFlag::MandatoryParties;
    how.mandatory = BTreeSet::from([network.key(2)]);
    how.acknowledgements = Acknowledgements::Mandatory;
    let sent = network
        .at(1)
        .distribute(content("d"), how.clone())
        .await
        .unwrap();
    assert_eq!(sent.pending.len(), 1);
    let payload = party(network.lookup(2, &reference(&sent)).await);
    assert_eq!(payload.terms.mandatory, how.mandatory);
    how.mandatory = BTreeSet::from([network.key(3)]);
    assert!(matches!(
        network.at(1).distribute(content("e"), how.clone()).await,
        Err(ExchangeError::NotAcknowledged { .. })
    ));
    how.mandatory = BTreeSet::from([network.key(4)]);
    assert!(
        network
            .at(1)
            .distribute(content("f"), how.clone())
            .await
            .is_err()
    );
    how.mandatory = BTreeSet::new();
    assert!(matches!(
        network.at(1).distribute(content("g"), how).await,
        Err(ExchangeError::Malformed {
            field: "mandatory",
            ..
        })
    ));
}

#[tokio::test]
async fn without_tags_everybody_is_waited_for_whatever_was_asked() {
    let network = Network::of_four();
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = Acknowledgements::KOfN(1);
    how.tags = false;
    let sent = network
        .at(1)
        .distribute(content("a"), how.clone())
        .await
        .unwrap();
    assert_eq!((sent.tags.len(), sent.pending.len()), (0, 0));
    assert_eq!(
        network.lookup(4, &reference(&sent)).await,
        Lookup::NotAParty
    );
    network.set_offline(3, true);
    assert!(matches!(
        network.at(1).distribute(content("b"), how).await,
        Err(ExchangeError::NotAcknowledged { .. })
    ));
}

#[tokio::test]
async fn an_enclave_that_is_silent_makes_nobody_a_stranger() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let sent = network
        .at(1)
        .distribute(content("a"), how.clone())
        .await
        .unwrap();
    let down = |n: u64, down: bool| network.node(n).enclave.down.store(down, Ordering::SeqCst);
    for n in [2, 4] {
        down(n, true);
    }
    // Party 2 has it in memory; a fresh reference it must ask about, and so must a stranger.
    let fresh = PrivateReference {
        hash: *unknown_hash().as_bytes(),
        ..reference(&sent)
    };
    for n in [2, 4] {
        let lookup = network.lookup(n, &fresh).await;
        assert!(is_unknown(&lookup), "{lookup:?}");
    }
    // A recipient without its enclave acknowledges nothing, and takes the payload when it is back.
    let refused = network.at(1).distribute(content("b"), how.clone()).await;
    assert!(
        matches!(&refused, Err(ExchangeError::NotAcknowledged { nodes, .. }) if nodes[0].reason.contains("enclave")),
        "{refused:?}"
    );
    for n in [2, 4] {
        down(n, false);
    }
    assert_eq!(network.lookup(4, &fresh).await, Lookup::NotAParty);
    network
        .at(1)
        .distribute(content("b"), how.clone())
        .await
        .unwrap();
    down(1, true);
    assert!(matches!(
        network.at(1).distribute(content("c"), how).await,
        Err(ExchangeError::Enclave(_))
    ));
}

#[tokio::test]
async fn a_payload_that_is_missing_is_fetched_from_any_party() {
    let mut network = Network::of_four();
    network.set_offline(3, true);
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = Acknowledgements::KOfN(1);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let reference = reference(&sent);
    network.set_offline(3, false);
    network.run(3);
    // The executor asks; nobody delivers by himself.
    assert!(is_unknown(&network.lookup(3, &reference).await));
    let hash = PayloadHash::from_bytes(reference.hash);
    wait_until("member 3 fetched it", async || {
        quorate_privacy::Payloads::waiting(&network.at(3), &hash);
        matches!(network.lookup(3, &reference).await, Lookup::Party(_))
    })
    .await;
    network.stop(3).await;
}

#[tokio::test]
async fn what_was_stored_raw_is_sent_later_under_the_same_hash() {
    for suite in Suite::ALL {
        let network = Network::with_suite(suite);
        let data = Bytes::from_static(b"call data");
        let hash = network.at(1).store_raw(data.clone(), None).await.unwrap();
        let mut how = Distribution::to([network.key(2)]);
        how.tags = false;
        how.flag = PrivacyFlag::PartyProtection;
        let other = network.at(2).distribute_stored(hash, how.clone()).await;
        assert_eq!(other, Err(ExchangeError::Missing { hash }));
        network.set_offline(2, true);
        let sent = network.at(1).distribute_stored(hash, how.clone()).await;
        // In suite 2 not even its key can be asked for.
        assert!(
            matches!(
                sent,
                Err(ExchangeError::NotAcknowledged { .. } | ExchangeError::NoHybridKey { .. })
            ),
            "{sent:?}"
        );
        network.set_offline(2, false);
        let sent = network
            .at(1)
            .distribute_stored(hash, how.clone())
            .await
            .unwrap();
        assert_eq!(sent.hash, hash);
        for n in 1..=2 {
            let payload = party(network.lookup(n, &reference(&sent)).await);
            assert_eq!(payload.content, Content::Data(data.clone()));
            assert_eq!(payload.terms.flag, PrivacyFlag::PartyProtection);
        }
        // A recipient cannot pass it off as its own.
        let again = network.at(2).distribute_stored(hash, how).await;
        assert_eq!(again, Err(ExchangeError::NotOurs { hash }));
    }
}

#[tokio::test]
async fn a_group_is_known_to_its_members_and_its_payloads_expire_with_it() {
    let network = Network::of_four();
    let new = NewGroup {
        name: "loans".to_owned(),
        description: "of the two of us".to_owned(),
        members: BTreeSet::from([network.key(1), network.key(2)]),
        payloads_live_ms: Some(1),
    };
    network.set_offline(2, true);
    let made = network.at(1).create_group(new.clone()).await.unwrap();
    assert_eq!(made.not_told.len(), 1);
    network.set_offline(2, false);
    let made = network.at(1).create_group(new).await.unwrap();
    assert_eq!(made.not_told, []);
    assert_eq!(
        network.at(2).resolve_group("loans").unwrap().id,
        made.group.id
    );
    assert!(network.at(3).resolve_group("loans").is_err());

    let mut how = Distribution::to([]);
    how.parties = Parties {
        keys: BTreeSet::new(),
        group: Some(made.group.id),
    };
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let payload = party(network.lookup(2, &reference(&sent)).await);
    assert_eq!(payload.terms.group, Some(made.group.id));
    let mut network = network;
    let state = &network.node(2).state;
    state.payloads.lock().unwrap().insert(sent.hash);
    network.run(2);
    wait_until("the payload expired at member 2", async || {
        matches!(
            network.at(2).receive(sent.hash).await.unwrap(),
            Reception::Erased(erasure) if erasure.reason == ErasureReason::Expired
        )
    })
    .await;
    assert_eq!(network.lookup(2, &reference(&sent)).await, Lookup::Erased);
    network.stop(2).await;
}

#[tokio::test]
async fn an_erased_payload_is_gone_here_with_a_record_and_does_not_come_back() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let two = network.at(2);
    let note = "asked for by the data subject".to_owned();
    let erasure = two
        .erase(sent.hash, ErasureReason::Requested, note.clone())
        .await
        .unwrap();
    assert_eq!(erasure.note, note);
    assert_eq!(network.lookup(2, &reference(&sent)).await, Lookup::Erased);
    assert!(matches!(
        two.receive(sent.hash).await.unwrap(),
        Reception::Erased(_)
    ));
    assert_eq!(two.erasures(None, 10).await.unwrap(), [erasure]);
    let report = two.resync().await.unwrap();
    assert!(report.complete, "{report:?}");
    assert_eq!(network.lookup(2, &reference(&sent)).await, Lookup::Erased);
    let missing = two.erase(unknown_hash(), ErasureReason::Requested, String::new());
    assert!(matches!(missing.await, Err(ExchangeError::Missing { .. })));
    // The sender's is its own business.
    party(network.lookup(1, &reference(&sent)).await);
}

#[tokio::test]
async fn an_x_wing_key_that_is_not_the_announced_one_is_not_used() {
    let network = Network::with_suite(Suite::Hybrid);
    network.change_table(1, |table| {
        for (_, commitment) in &mut table[1].hybrid_commitments {
            commitment.0[0] ^= 1;
        }
    });
    let refused = network
        .at(1)
        .distribute(content("a"), Distribution::to([network.key(2)]))
        .await;
    assert!(
        matches!(&refused, Err(ExchangeError::NoHybridKey { key, .. }) if *key == network.key(2)),
        "{refused:?}"
    );
    network.set_fault(|_, _, _| Fate::Lose);
    let refused = network
        .at(1)
        .distribute(content("a"), Distribution::to([network.key(3)]))
        .await;
    assert!(matches!(refused, Err(ExchangeError::NoHybridKey { .. })));
}

#[tokio::test]
async fn what_is_received_names_the_parties_that_a_party_may_know() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2), network.key(3)]);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let received = async |n: u64| match network.at(n).receive(sent.hash).await.unwrap() {
        Reception::Received(received) => received,
        other => panic!("{other:?}"),
    };
    let one = received(1).await;
    assert!(one.we_sent);
    assert_eq!(one.parties, sent.parties);
    let two = received(2).await;
    assert!(!two.we_sent);
    assert_eq!(two.sender_node, network.node(1).node());
    assert_eq!(
        two.parties,
        BTreeSet::from([network.key(1), network.key(2)])
    );
    assert_eq!(
        network.at(4).receive(sent.hash).await.unwrap(),
        Reception::NotAParty
    );
    let bare = PrivateReference {
        form: PublicForm::Quorum,
        hash: *unknown_hash().as_bytes(),
        tags: Vec::new(),
    };
    assert_eq!(network.lookup(4, &bare).await, Lookup::NotAParty);
    network.at(4).mark_incomplete().await.unwrap();
    assert_eq!(
        network.at(4).receive(sent.hash).await.unwrap(),
        Reception::Missing
    );
    assert!(is_unknown(&network.lookup(4, &bare).await));
    // With tags the enclave's answer is enough.
    assert_eq!(
        network.lookup(4, &reference(&sent)).await,
        Lookup::NotAParty
    );
}
