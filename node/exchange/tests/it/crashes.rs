//! Power loss between any two steps of sender and recipient: what was promised holds, what was not leaves nothing half done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_enclave::DeliveryState;
use quorate_exchange::{Acknowledgements, Distributed, Distribution, ExchangeError};
use quorate_privacy::Lookup;

use crate::network::{Fate, Network, PATIENT, content, is_unknown, party, reference, wait_until};

/// What must hold after any crash: whoever was promised to have the payload has it, nobody is wrong about being a party, and the
/// one that waits gets it.
async fn check(network: &mut Network, sent: &Distributed) {
    let reference = reference(sent);
    party(network.lookup(1, &reference).await);
    let lookup = network.lookup(2, &reference).await;
    assert!(
        matches!(lookup, Lookup::Party(_)) || is_unknown(&lookup),
        "{lookup:?}"
    );
    if !sent.pending.iter().any(|p| p.raft_id == 2) {
        party(lookup);
    }
    network.run(1);
    network.run(2);
    wait_until("everybody has it", async || {
        let mut have = true;
        for n in 2..=3 {
            have &= matches!(network.lookup(n, &reference).await, Lookup::Party(_));
        }
        have
    })
    .await;
    network.stop(1).await;
    network.stop(2).await;
}

fn to_both(network: &Network, acknowledgements: Acknowledgements) -> Distribution {
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = acknowledgements;
    how
}

/// Breaks one member's disk after every possible number of steps, until a distribution gets through.
async fn break_disk_of(broken: u64, acknowledgements: Acknowledgements, offline: bool) {
    let mut promised = 0;
    let mut refused = 0;
    for steps in 0..40 {
        let mut network = Network::of_four();
        network.config.acknowledge_timeout = std::time::Duration::from_millis(300);
        network.restart(1).await;
        network.set_offline(3, offline);
        network.node(broken).kv.break_after(steps);
        let how = to_both(&network, acknowledgements.clone());
        let result = network.at(1).distribute(content("a"), how.clone()).await;
        network.config.acknowledge_timeout = PATIENT;
        network.crash(broken).await;
        network.set_offline(3, false);
        match result {
            Ok(sent) => {
                promised += 1;
                check(&mut network, &sent).await;
                if promised == 3 {
                    break;
                }
            }
            Err(e) => {
                refused += 1;
                assert!(!matches!(e, ExchangeError::UnknownRecipient { .. }));
                // Nothing goes on by itself, and trying again is safe.
                assert_eq!(network.at(1).outbox_status().unwrap().pending, 0);
                network.restart(1).await;
                let sent = network.at(1).distribute(content("a"), how).await.unwrap();
                check(&mut network, &sent).await;
            }
        }
    }
    assert_eq!(promised, 3, "it never got through");
    assert!(refused > 0 || broken != 1, "no step was hit");
}

#[tokio::test]
async fn a_sender_that_loses_power_at_any_step_promised_nothing_that_does_not_hold() {
    break_disk_of(1, Acknowledgements::All, false).await;
}

#[tokio::test]
async fn a_sender_that_loses_power_at_any_step_delivers_later_what_it_promised() {
    break_disk_of(1, Acknowledgements::KOfN(1), true).await;
}

#[tokio::test]
async fn a_recipient_that_loses_power_at_any_step_acknowledged_nothing_that_is_gone() {
    break_disk_of(2, Acknowledgements::All, false).await;
}

#[tokio::test]
async fn a_recipient_whose_answer_is_lost_has_the_payload_once_and_may_get_it_again() {
    let mut network = Network::of_four();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    network.set_fault(move |_, to, body| {
        if to == 2 && body[1] == 1 && count.fetch_add(1, Ordering::SeqCst) < 2 {
            Fate::LoseAnswer
        } else {
            Fate::Pass
        }
    });
    let how = to_both(&network, Acknowledgements::All);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    assert!(asked.load(Ordering::SeqCst) >= 3);
    network.crash(2).await;
    party(network.lookup(2, &reference(&sent)).await);
}

#[tokio::test]
async fn a_request_that_never_arrives_is_made_again() {
    let network = Network::of_four();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    network.set_fault(move |_, to, _| {
        if to == 2 && count.fetch_add(1, Ordering::SeqCst) < 2 {
            Fate::Lose
        } else {
            Fate::Pass
        }
    });
    let how = to_both(&network, Acknowledgements::All);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let deliveries = network.at(1).deliveries(sent.hash).await.unwrap();
    assert_eq!(deliveries.len(), 2);
    assert!(
        deliveries
            .iter()
            .all(|d| d.state == DeliveryState::Acknowledged)
    );
}

#[tokio::test]
async fn a_sender_that_gives_up_waiting_in_the_middle_leaves_nothing_that_goes_on() {
    let network = Network::of_four();
    network.set_offline(3, true);
    let how = to_both(&network, Acknowledgements::All);
    let one = network.at(1);
    {
        let distribution = one.distribute(content("a"), how.clone());
        tokio::pin!(distribution);
        // As when the client goes away: the call is dropped while it waits for member 3.
        let waited = tokio::time::timeout(std::time::Duration::from_millis(200), &mut distribution);
        assert!(waited.await.is_err());
    }
    assert_eq!(one.outbox_status().unwrap().pending, 0);
    network.set_offline(3, false);
    one.distribute(content("a"), how).await.unwrap();
}
