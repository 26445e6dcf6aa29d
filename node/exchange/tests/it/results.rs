//! Parties compare what they executed.

use alloy_primitives::B256;
use quorate_exchange::{Distributed, Distribution, ExecutedDigest};
use quorate_privacy::Payloads as _;

use crate::network::{Network, content, executed, party, reference, wait_until};

/// A payload from member 1 to member 2.
async fn sent(network: &Network) -> Distributed {
    let how = Distribution::to([network.key(2)]);
    network.at(1).distribute(content("a"), how).await.unwrap()
}

/// As the executor of a member does it.
async fn execute(network: &Network, n: u64, sent: &Distributed, transaction: B256, digest: B256) {
    let payload = party(network.lookup(n, &reference(sent)).await);
    let found = ExecutedDigest { height: 7, digest };
    let state = &network.node(n).state;
    state.executed.lock().unwrap().insert(transaction, found);
    let report = executed(&payload.terms, transaction, digest, payload.we_sent);
    network.at(n).executed(report);
}

#[tokio::test]
async fn parties_that_differ_raise_an_alarm_with_both_digests_whoever_was_first() {
    for first in [1, 2] {
        let mut network = Network::of_four();
        let sent = sent(&network).await;
        let transaction = B256::repeat_byte(7);
        let digest = |n: u64| B256::repeat_byte(u8::try_from(n).unwrap());
        network.run(1);
        network.run(2);
        execute(&network, first, &sent, transaction, digest(first)).await;
        if first == 2 {
            wait_until("the early digest arrived", async || {
                let requests = network.shared.requests.lock().unwrap();
                requests
                    .iter()
                    .any(|(from, to, b)| (*from, *to, b[1]) == (2, 1, 5))
            })
            .await;
        }
        execute(&network, 3 - first, &sent, transaction, digest(3 - first)).await;
        wait_until("both have an alarm", async || {
            (1..=2).all(|n| network.at(n).alarm_count() == 1)
        })
        .await;
        for n in 1..=2 {
            let alarms = network.at(n).alarms(0, 10).unwrap();
            let alarm = &alarms[0];
            assert_eq!((alarm.number, alarm.height), (1, 7));
            assert_eq!(alarm.transaction, transaction);
            assert_eq!(alarm.node, network.node(3 - n).node());
            assert_eq!((alarm.ours, alarm.theirs), (digest(n), digest(3 - n)));
            assert_eq!(network.at(n).alarms(1, 10).unwrap(), []);
        }
        // The same again is no new alarm, also after power loss.
        network.crash(1).await;
        assert_eq!(network.at(1).alarm_count(), 1);
        network.run(1);
        execute(&network, 1, &sent, transaction, digest(1)).await;
        execute(&network, 2, &sent, transaction, digest(2)).await;
        let before = network.shared.requests.lock().unwrap().len();
        wait_until("the digest went again", async || {
            network.shared.requests.lock().unwrap().len() > before
        })
        .await;
        assert_eq!(network.at(1).alarm_count(), 1);
        for n in 1..=2 {
            network.stop(n).await;
        }
    }
}

#[tokio::test]
async fn parties_that_agree_raise_none() {
    let mut network = Network::of_four();
    let sent = sent(&network).await;
    let transaction = B256::repeat_byte(7);
    network.run(1);
    network.run(2);
    for n in 1..=2 {
        execute(&network, n, &sent, transaction, B256::repeat_byte(1)).await;
    }
    wait_until("the digest arrived", async || {
        let requests = network.shared.requests.lock().unwrap();
        requests
            .iter()
            .any(|(from, to, b)| (*from, *to, b[1]) == (2, 1, 5))
    })
    .await;
    for n in 1..=2 {
        network.stop(n).await;
        assert_eq!(network.at(n).alarm_count(), 0);
    }
}

#[tokio::test]
async fn digests_of_a_member_that_is_no_party_raise_nothing_and_get_no_answer() {
    let network = Network::of_four();
    let sent = sent(&network).await;
    let transaction = B256::repeat_byte(7);
    execute(&network, 1, &sent, transaction, B256::repeat_byte(1)).await;
    let mut body = vec![1, 5, 0, 1];
    body.extend_from_slice(transaction.as_slice());
    body.extend_from_slice(&7u64.to_be_bytes());
    body.extend_from_slice(sent.hash.as_bytes());
    body.extend_from_slice(&[9; 32]);
    let answer = network.at(1).answer(4, body.clone().into()).await;
    assert_eq!(*answer, [1, 6, 0, 0]);
    assert_eq!(network.at(1).alarm_count(), 0);
    let answer = network.at(1).answer(2, body.into()).await;
    assert_eq!(answer[..4], [1, 6, 0, 1]);
    assert_eq!(network.at(1).alarm_count(), 1);
}
