//! A contract is handed over to a new party.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256};
use quorate_enclave::{PayloadHash, PrivacyFlag};
use quorate_privacy::{
    ContractState, HANDOVER_PAGE_BYTES, HandoverAnswer, HandoverHead, HandoverOutcome,
    HandoverWanted, Payloads as _,
};

use crate::network::{Fate, Network};

const VOTE: B256 = B256::repeat_byte(7);
const OFFER: Address = Address::repeat_byte(8);
const STATEMENT: u8 = 8;
const STATE: u8 = 9;

fn state(network: &Network, slots: u64, first: u64) -> ContractState {
    ContractState {
        contract: Address::repeat_byte(5),
        nonce: 1,
        code: Bytes::from_static(&[0x60, 0x00]),
        storage: (0..slots)
            .map(|slot| {
                (
                    U256::from(slot) << 200,
                    U256::MAX - U256::from(slot + first),
                )
            })
            .collect(),
        creation_transaction: B256::repeat_byte(1),
        creation_hash: PayloadHash::from_bytes([2; 64]),
        flag: PrivacyFlag::Standard,
        parties: None,
        mandatory: BTreeSet::new(),
        creator: network.key(1),
    }
}

/// Member 3 wants what members 1 and 2 have.
fn wanted(network: &Network) -> HandoverWanted {
    HandoverWanted {
        transaction: VOTE,
        height: 9,
        payload: PayloadHash::from_bytes([3; 64]),
        offer: OFFER,
        contract: Address::repeat_byte(5),
        newcomer: network.key(3),
        initiator_key: network.key(2),
        parties: [1, 2].map(|n| network.key(n)).into(),
    }
}

/// As a member's executor keeps it.
fn executed(network: &Network, n: u64, state: &ContractState, digest: B256) {
    let encoded = state.encode();
    let head = HandoverHead {
        offer: OFFER,
        newcomer: network.key(3),
        outcome: HandoverOutcome::State {
            digest,
            bytes: u32::try_from(encoded.len()).unwrap(),
        },
    };
    let mut handovers = network.node(n).state.handovers.lock().unwrap();
    handovers.insert(VOTE, (head, encoded));
}

fn honest(network: &Network, n: u64, state: &ContractState) {
    executed(network, n, state, state.digest().unwrap());
}

async fn gather(network: &Network) -> HandoverAnswer {
    network.at(3).handover(wanted(network)).await
}

fn missing(answer: HandoverAnswer) -> String {
    match answer {
        HandoverAnswer::Missing { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn asked(network: &Network, kind: u8) -> BTreeMap<u64, usize> {
    let mut asked = BTreeMap::new();
    let requests = network.shared.requests.lock().unwrap();
    for (_, to, _) in requests
        .iter()
        .filter(|(_, _, body)| body.get(1) == Some(&kind))
    {
        *asked.entry(*to).or_default() += 1;
    }
    asked
}

#[tokio::test]
async fn the_state_comes_in_pages_from_who_offered_when_all_have_signed_it() {
    let network = Network::of_four();
    let state = state(&network, 40_000, 0);
    assert!(state.encode().len() > 2 * HANDOVER_PAGE_BYTES);
    honest(&network, 1, &state);
    assert!(missing(gather(&network).await).contains("member 2 (org 2)"));
    assert_eq!(asked(&network, STATE), BTreeMap::new());
    honest(&network, 2, &state);
    let digest = state.digest().unwrap();
    let expected = HandoverAnswer::Proved {
        state: Box::new(state),
        digest,
    };
    assert_eq!(gather(&network).await, expected);
    assert_eq!(asked(&network, STATE), BTreeMap::from([(2, 3)]));
    assert_eq!(asked(&network, STATEMENT), BTreeMap::from([(1, 2), (2, 2)]));
    // The one that offered breaks off: the other one gives it.
    network.set_fault(|_, to, body| match (to, body.get(1)) {
        (2, Some(&STATE)) => Fate::Lose,
        _ => Fate::Pass,
    });
    assert_eq!(gather(&network).await, expected);
    assert_eq!(network.at(3).alarm_count(), 0);
}

#[tokio::test]
async fn parties_that_contradict_each_other_raise_an_alarm_and_nothing_is_taken() {
    let network = Network::of_four();
    honest(&network, 1, &state(&network, 3, 0));
    honest(&network, 2, &state(&network, 3, 1));
    assert!(missing(gather(&network).await).contains("another state"));
    assert_eq!(asked(&network, STATE), BTreeMap::new());
    let alarms = network.at(3).alarms(0, 10).unwrap();
    assert_eq!((alarms.len(), alarms[0].transaction), (1, VOTE));
}

#[tokio::test]
async fn a_party_that_hands_over_another_state_than_it_signed_is_found_out() {
    let network = Network::of_four();
    let (truth, lie) = (state(&network, 3, 0), state(&network, 3, 1));
    honest(&network, 1, &truth);
    executed(&network, 2, &lie, truth.digest().unwrap());
    let digest = truth.digest().unwrap();
    let answer = gather(&network).await;
    let state = Box::new(truth.clone());
    assert_eq!(answer, HandoverAnswer::Proved { state, digest });
    let alarms = network.at(3).alarms(0, 10).unwrap();
    assert_eq!(alarms[0].node, network.node(2).node());
    assert_eq!(alarms[0].theirs, lie.digest().unwrap());
    // If both lie, nothing is taken.
    executed(&network, 1, &lie, digest);
    missing(gather(&network).await);
}

#[tokio::test]
async fn a_statement_that_another_key_signed_does_not_count() {
    let network = Network::of_four();
    let state = state(&network, 3, 0);
    honest(&network, 1, &state);
    honest(&network, 2, &state);
    let other = network.node(4).node();
    network.change_table(3, |members| {
        for member in members.iter_mut().filter(|m| m.raft_id == 1) {
            member.node = other;
        }
        members.retain(|m| m.raft_id != 4);
    });
    assert!(missing(gather(&network).await).contains("not signed by its node"));
}

#[tokio::test]
async fn one_party_that_refuses_ends_it() {
    let network = Network::of_four();
    honest(&network, 1, &state(&network, 3, 0));
    let head = HandoverHead {
        offer: OFFER,
        newcomer: network.key(3),
        outcome: HandoverOutcome::Refused {
            reason: "there is no extension".to_owned(),
        },
    };
    let handovers = &network.node(2).state.handovers;
    handovers.lock().unwrap().insert(VOTE, (head, Vec::new()));
    let HandoverAnswer::Refused { reason } = gather(&network).await else {
        panic!("it was not refused");
    };
    assert!(reason.contains("member 2 (org 2): there is no extension"));
}

#[tokio::test]
async fn a_stranger_gets_the_answer_of_a_vote_that_was_never_heard_of() {
    let network = Network::of_four();
    honest(&network, 1, &state(&network, 3, 0));
    let ask = |kind: u8, transaction: B256| {
        let mut body = vec![1, kind];
        body.extend_from_slice(transaction.as_slice());
        if kind == STATE {
            body.extend_from_slice(&0u32.to_be_bytes());
        }
        bytes::Bytes::from(body)
    };
    for kind in [STATEMENT, STATE] {
        let unknown = network.at(1).answer(4, ask(kind, B256::ZERO)).await;
        assert_eq!(network.at(1).answer(4, ask(kind, VOTE)).await, unknown);
        assert_eq!(network.at(1).answer(2, ask(kind, VOTE)).await, unknown);
        assert_ne!(network.at(1).answer(3, ask(kind, VOTE)).await, unknown);
    }
}
