//! What parties must agree on, on the state as a node keeps it.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy_primitives::{B256, Bytes, U256, keccak256};
use quorate_chain::Fork;
use quorate_evm::{PrivateCall, affected_root, contract_digest, execute_private};
use quorate_kv::MemoryKv;
use quorate_state::{Snapshot, StateDiff, StateRead, StateStore};

use super::codes::*;
use super::*;
use crate::world::*;

/// Private state as a node keeps it.
fn store() -> StateStore {
    StateStore::open(Arc::new(MemoryKv::new()), &[], B256::repeat_byte(1)).unwrap()
}

/// A factory, its child, and a write to the child: all differences, on the real state.
fn story() -> (Snapshot, Vec<StateDiff>) {
    let mut party = Party::new();
    let parent = alice().create(0);
    let steps = [
        (None, deploying(&factory(&deploying(STORE)))),
        (Some(parent), Vec::new()),
        (Some(parent.create(1)), word(5).to_vec()),
    ];
    let store = store();
    let mut diffs = Vec::new();
    for (nonce, (to, data)) in (0..).zip(steps) {
        let snapshot = store.latest();
        let call = PrivateCall {
            nonce,
            ..by_alice_privately(to, &data)
        };
        let spec = spec(Fork::Prague);
        let onto_disk =
            execute_private(&spec, context(), &party.public, &snapshot, &HASHES, &call).unwrap();
        // The same on a state of maps, and the same twice.
        assert_eq!(onto_disk, party.execute(&call).unwrap());
        assert_eq!(onto_disk, party.send(to, &data));
        store
            .advance(snapshot.apply(&onto_disk.diff).unwrap())
            .unwrap();
        diffs.push(onto_disk.diff);
    }
    (store.latest(), diffs)
}

#[test]
fn the_same_inputs_give_the_same_outcome_and_state() {
    let ((one, one_diffs), (two, two_diffs)) = (story(), story());
    assert_eq!(one_diffs, two_diffs);
    assert_eq!(one.state_root(), two.state_root());
    let child = alice().create(0).create(1);
    assert_eq!(one.storage(&child, &U256::ZERO).unwrap(), U256::from(5));
}

#[test]
fn the_affected_root_is_quorums_trie_of_accounts() {
    let (state, _) = story();
    let parent = alice().create(0);
    let child = parent.create(1);
    let proof = state.prove(&child, &[]).unwrap();
    let account = proof.account.unwrap();
    // One leaf, by hand: flag 2 and an even path of all nibbles, then the account.
    let path = [&[0x20][..], child.as_slice()].concat();
    let mut fields = Vec::new();
    alloy_rlp::Encodable::encode(&account.nonce, &mut fields);
    alloy_rlp::Encodable::encode(&account.balance, &mut fields);
    alloy_rlp::Encodable::encode(&proof.storage_root, &mut fields);
    alloy_rlp::Encodable::encode(&account.code_hash, &mut fields);
    let mut leaf_value = Vec::new();
    alloy_rlp::Header {
        list: true,
        payload_length: fields.len(),
    }
    .encode(&mut leaf_value);
    leaf_value.extend(fields);
    let node = alloy_rlp::encode(vec![Bytes::from(path), Bytes::from(leaf_value)]);
    assert_eq!(
        affected_root(&state, &set([child])).unwrap(),
        keccak256(node)
    );

    // Each account counts, also one that is not there.
    let of = |addresses| affected_root(&state, &addresses).unwrap();
    let roots = BTreeSet::from([
        of(set([])),
        of(set([child])),
        of(set([parent])),
        of(set([parent, child])),
        of(set([parent, child, CONTRACT])),
    ]);
    assert_eq!(roots.len(), 5);
    assert_eq!(of(set([])), alloy_trie::EMPTY_ROOT_HASH);
}

#[test]
fn parties_whose_contracts_differ_see_it_in_root_and_digest() {
    let (state, _) = story();
    let (parent, child) = (alice().create(0), alice().create(0).create(1));
    let (same, _) = story();
    let digest = |state: &Snapshot, address| contract_digest(state, &address).unwrap();
    assert_eq!(digest(&state, child), digest(&same, child));
    assert_eq!(
        affected_root(&state, &set([parent, child])).unwrap(),
        affected_root(&same, &set([parent, child])).unwrap()
    );

    let public = World::new();
    let spec = spec(Fork::Prague);
    for (to, data, changed, kept) in [
        (child, word(6).to_vec(), child, parent), // storage
        (parent, Vec::new(), parent, child),      // storage and nonce
    ] {
        let call = by_alice_privately(Some(to), &data);
        let outcome = execute_private(&spec, context(), &public, &state, &HASHES, &call).unwrap();
        let other = state.apply(&outcome.diff).unwrap();
        assert_ne!(digest(&state, changed), digest(&other, changed));
        assert_eq!(digest(&state, kept), digest(&other, kept));
        assert_ne!(
            affected_root(&state, &outcome.affected()).unwrap(),
            affected_root(&other, &outcome.affected()).unwrap()
        );
    }
    // Contracts with equal content at other addresses, and such that do not exist, are told apart.
    let digests = BTreeSet::from([
        digest(&state, CONTRACT),
        digest(&state, OTHER_CONTRACT),
        digest(&state, child),
    ]);
    assert_eq!(digests.len(), 3);
}
