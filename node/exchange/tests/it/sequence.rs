//! Contracts whose state is validated: one change at a time.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use quorate_enclave::{PayloadHash, PrivacyFlag};
use quorate_exchange::{Distribution, ExchangeError};
use quorate_privacy::Payloads as _;

use crate::network::{Fate, Network, content, executed, party, reference};

const CONTRACT: Address = Address::repeat_byte(0xcc);

fn digest(n: u8) -> B256 {
    B256::repeat_byte(n)
}

/// A change of the contract by any of three parties, which found it as `base`.
fn change(network: &Network, base: B256) -> Distribution {
    let mut how = Distribution::to((1..=3).map(|n| network.key(n)));
    how.flag = PrivacyFlag::StateValidation;
    how.affected = BTreeMap::from([(CONTRACT, PayloadHash::from_bytes([1; 64]))]);
    how.base = BTreeMap::from([(CONTRACT, base)]);
    how.exec_root = Some(B256::ZERO);
    how
}

fn set_state(network: &Network, n: u64, state: B256) {
    let digests = &network.node(n).state.digests;
    digests.lock().unwrap().insert(CONTRACT, state);
}

#[tokio::test]
async fn of_two_senders_one_comes_first_and_the_other_is_told_before_anything_is_ordered() {
    for round in 0..4 {
        let network = Network::of_four();
        for n in 1..=3 {
            set_state(&network, n, digest(1));
        }
        let (one, other) = if round % 2 == 0 { (1, 3) } else { (2, 3) };
        let (first, second) = (network.at(one), network.at(other));
        let (a, b) = tokio::join!(
            first.distribute(content("a"), change(&network, digest(1))),
            second.distribute(content("b"), change(&network, digest(1))),
        );
        let (won, lost, refusal) = match (a, b) {
            (Ok(won), Err(e)) => (won, other, e),
            (Err(e), Ok(won)) => (won, one, e),
            both => panic!("not one of them: {both:?}"),
        };
        assert_eq!(
            refusal,
            ExchangeError::Conflict {
                contract: CONTRACT,
                retryable: true
            }
        );
        // Ordered and executed everywhere: the other one simulates again and goes through.
        for n in 1..=3 {
            let payload = party(network.lookup(n, &reference(&won)).await);
            set_state(&network, n, digest(2));
            let report = executed(&payload.terms, digest(7), digest(2), payload.we_sent);
            network.at(n).executed(report);
        }
        let again = network.at(lost);
        again
            .distribute(content("c"), change(&network, digest(2)))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_simulation_on_a_state_that_the_others_do_not_have_is_a_conflict_and_holds_nothing() {
    let network = Network::of_four();
    for n in 1..=3 {
        set_state(&network, n, digest(1));
    }
    let stale = network
        .at(1)
        .distribute(content("a"), change(&network, digest(9)))
        .await;
    assert!(matches!(stale, Err(ExchangeError::Conflict { .. })));
    assert!(stale.unwrap_err().is_retryable());
    // Only member 3 is behind; those that had agreed are free again at once.
    set_state(&network, 3, digest(9));
    let behind = network
        .at(1)
        .distribute(content("b"), change(&network, digest(1)))
        .await;
    assert!(matches!(behind, Err(ExchangeError::Conflict { .. })));
    set_state(&network, 3, digest(1));
    network
        .at(2)
        .distribute(content("c"), change(&network, digest(1)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_sender_waits_for_its_own_turn_and_is_told_when_it_does_not_come() {
    let network = Network::of_four();
    for n in 1..=3 {
        set_state(&network, n, digest(1));
    }
    let sent = network
        .at(1)
        .distribute(content("a"), change(&network, digest(1)))
        .await
        .unwrap();
    let contracts = || BTreeSet::from([CONTRACT]);
    let too_early = network.at(1).turn(contracts()).await;
    assert!(matches!(too_early, Err(ExchangeError::Conflict { .. })));
    let waiting = tokio::spawn({
        let exchange = network.at(1);
        async move { exchange.turn(contracts()).await }
    });
    let payload = party(network.lookup(1, &reference(&sent)).await);
    let report = executed(&payload.terms, digest(7), digest(2), true);
    network.at(1).executed(report);
    let turn = waiting.await.unwrap().unwrap();
    assert_eq!(*turn.contracts(), contracts());
    for n in 1..=3 {
        set_state(&network, n, digest(2));
        network
            .at(n)
            .executed(executed(&payload.terms, digest(7), digest(2), n == 1));
    }
    let how = change(&network, digest(2));
    network
        .at(1)
        .distribute_in(turn, content("b"), how)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_party_that_is_away_stops_the_change_and_the_others_are_free_again() {
    let network = Network::of_four();
    for n in 1..=3 {
        set_state(&network, n, digest(1));
    }
    let mut how = change(&network, digest(1));
    // Whatever was asked for: state is validated by all or none.
    how.acknowledgements = quorate_exchange::Acknowledgements::KOfN(1);
    network.set_offline(3, true);
    let refused = network.at(1).distribute(content("a"), how).await;
    assert!(
        matches!(&refused, Err(ExchangeError::NotAcknowledged { nodes, .. }) if nodes[0].raft_id == 3),
        "{refused:?}"
    );
    network.set_offline(3, false);
    network
        .at(2)
        .distribute(content("b"), change(&network, digest(1)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_lost_answer_does_not_keep_the_contract_for_long() {
    let network = Network::of_four();
    for n in 1..=3 {
        set_state(&network, n, digest(1));
    }
    network.set_fault(|_, to, body| {
        if to == 3 && body[1] == 1 {
            Fate::LoseAnswer
        } else {
            Fate::Pass
        }
    });
    let refused = network
        .at(1)
        .distribute(content("a"), change(&network, digest(1)))
        .await;
    assert!(matches!(
        refused,
        Err(ExchangeError::NotAcknowledged { .. })
    ));
    network.clear_fault();
    network
        .at(2)
        .distribute(content("b"), change(&network, digest(1)))
        .await
        .unwrap();
}
