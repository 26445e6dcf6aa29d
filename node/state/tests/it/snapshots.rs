use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_trie::proof::verify_proof;
use alloy_trie::{Nibbles, TrieAccount};
use proptest::prelude::*;
use quorate_kv::MemoryKv;
use quorate_state::{
    Account, AccountChange, ApplyError, HistoryError, StateConfig, StateDiff, StateRead,
};

use crate::model::{
    CASES, Model, address, balances, diff, flush, genesis_model, import, open, tight,
};

fn after(model: &Model, diff: &StateDiff) -> Model {
    let mut model = model.clone();
    model.apply(diff);
    model
}

#[test]
fn applying_changes_nothing_but_the_result() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    let genesis = store.latest();
    let diff = balances(&[(0, 1), (5, 2)]);
    let child = genesis.apply(&diff).unwrap();
    after(&genesis_model(), &diff).assert_equals(&child, "in the child");
    genesis_model().assert_equals(&genesis, "in the parent");
    genesis_model().assert_equals(&store.latest(), "in the store");
    assert_eq!((child.height(), store.latest().height()), (1, 0));
}

#[test]
fn only_a_child_of_the_head_becomes_the_head() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    let genesis = store.latest();
    let first = genesis.apply(&balances(&[(0, 1)])).unwrap();
    let rival = genesis.apply(&balances(&[(0, 2)])).unwrap();
    let grandchild = first.apply(&balances(&[(0, 3)])).unwrap();
    assert!(store.advance(grandchild.clone()).is_err());
    store.advance(first).unwrap();
    assert!(store.advance(rival).is_err());
    assert!(store.advance(genesis).is_err());
    store.advance(grandchild).unwrap();
    assert_eq!(store.latest().height(), 2);

    let stranger = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    let foreign = stranger.latest().apply(&balances(&[])).unwrap();
    let fresh = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    assert!(fresh.advance(foreign).is_err(), "a state of another store");
}

#[test]
fn a_block_that_changes_nothing_keeps_the_root() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    let root = store.latest().state_root();
    let same = genesis_model().accounts[&address(1)].account;
    let mut diff = StateDiff::default();
    diff.accounts.insert(
        address(1),
        AccountChange {
            account: Some(same),
            ..AccountChange::default()
        },
    );
    diff.accounts.insert(address(9), AccountChange::default());
    let child = import(&store, &diff);
    assert_eq!((child.state_root(), child.height()), (root, 1));
    flush(&store);
    assert_eq!(store.at(1).unwrap().state_root(), root);
}

#[test]
fn changes_that_contradict_themselves_are_refused() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    let mut diff = StateDiff::default();
    let storage = BTreeMap::from([(U256::from(1), U256::from(1))]);
    let gone = AccountChange {
        storage,
        ..AccountChange::default()
    };
    diff.accounts.insert(address(4), gone);
    let error = store.latest().apply(&diff).unwrap_err();
    assert!(matches!(error, ApplyError::InvalidDiff { address: a, .. } if a == address(4)));

    let mut diff = StateDiff::default();
    diff.codes.insert(B256::ZERO, Bytes::from_static(b"code"));
    let error = store.latest().apply(&diff).unwrap_err();
    assert!(matches!(
        error,
        ApplyError::InvalidDiff {
            address: Address::ZERO,
            ..
        }
    ));
}

#[test]
fn a_code_that_nobody_stored_is_damage_and_no_code_is_empty() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    assert!(store.latest().code(&KECCAK256_EMPTY).unwrap().is_empty());
    assert!(store.latest().code(&B256::repeat_byte(3)).is_err());
}

#[test]
fn the_storage_of_an_account_is_listed_from_disk_and_memory_without_what_was_cleared() {
    for config in [StateConfig::default(), tight()] {
        let store = open(&Arc::new(MemoryKv::new()), config);
        let own = Address::repeat_byte(0x77);
        let set = |slots: &[(u64, u64)]| {
            let account = Account {
                nonce: 1,
                ..Account::default()
            };
            let storage = slots.iter().map(|(s, v)| (U256::from(*s), U256::from(*v)));
            let change = AccountChange {
                account: Some(account),
                storage_wiped: false,
                storage: storage.collect(),
            };
            let mut diff = StateDiff::default();
            diff.accounts.insert(own, change);
            diff
        };
        import(&store, &set(&[(1, 10), (2, 20), (3, 30)]));
        flush(&store);
        import(&store, &set(&[(2, 0), (3, 31), (4, 40)]));
        let expected = [(1, 10), (3, 31), (4, 40)];
        let expected = expected.map(|(s, v): (u64, u64)| (U256::from(s), U256::from(v)));
        let latest = store.latest();
        let listed = latest.storage_entries(&own, 3).unwrap();
        assert_eq!(listed, Some(BTreeMap::from(expected)));
        assert_eq!(latest.storage_entries(&own, 2).unwrap(), None);
        let nobody = Address::repeat_byte(0x78);
        let nothing = latest.storage_entries(&nobody, 0).unwrap();
        assert_eq!(nothing, Some(BTreeMap::new()));
    }
}

#[test]
fn a_state_on_a_block_that_lost_reads_its_own_past_whatever_is_flushed() {
    for config in [StateConfig::default(), tight()] {
        let store = open(&Arc::new(MemoryKv::new()), config);
        let mut model = genesis_model();
        for n in 0..4 {
            let diff = balances(&[(n, 100 + u64::from(n)), (7, u64::from(n) + 1)]);
            import(&store, &diff);
            model.apply(&diff);
            flush(&store);
        }
        let lost_diff = balances(&[(3, 77)]);
        let lost = store.latest().apply(&lost_diff).unwrap();
        let lost_model = after(&model, &lost_diff);
        for n in 0..6 {
            import(
                &store,
                &balances(&[(n, 5_000 + u64::from(n)), (7, 9_000), (8, u64::from(n))]),
            );
            flush(&store);
            lost_model.assert_equals(&lost, "on the lost line");
        }
        // Its trie is gone from disk; it may say so, it may not give a wrong root and must not cry damage.
        let next = balances(&[(1, 1), (2, 2), (9, 9)]);
        match lost.apply(&next) {
            Ok(child) => after(&lost_model, &next).assert_equals(&child, "one further"),
            Err(error) => assert_eq!(error, ApplyError::Superseded { height: 5 }),
        }
    }
}

#[test]
fn proofs_verify_against_the_state_root() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, tight());
    for n in 0..8 {
        import(&store, &balances(&[(n, u64::from(n) + 50)]));
    }
    let mut diff = StateDiff::default();
    let contract = genesis_model().accounts[&address(2)].account;
    let storage = (0..6u64)
        .map(|n| (U256::from(n), U256::from(n * 7)))
        .collect();
    diff.accounts.insert(
        address(2),
        AccountChange {
            account: Some(contract),
            storage_wiped: false,
            storage,
        },
    );
    import(&store, &diff);
    flush(&store);
    drop(store);
    let store = open(&kv, tight());
    let head = store.latest();
    for (n, slots) in [(2u8, 6u64), (3, 0), (200, 0)] {
        let who = Address::repeat_byte(n + 1);
        let slots: Vec<U256> = (0..slots).map(U256::from).collect();
        let proof = head.prove(&who, &slots).unwrap();
        let account = head.account(&who).unwrap();
        assert_eq!(proof.account, account);
        let leaf = account.map(
            |Account {
                 nonce,
                 balance,
                 code_hash,
             }| {
                let storage_root = proof.storage_root;
                alloy_rlp::encode(TrieAccount {
                    nonce,
                    balance,
                    storage_root,
                    code_hash,
                })
            },
        );
        let key = Nibbles::unpack(keccak256(who));
        verify_proof(head.state_root(), key, leaf, &proof.proof).unwrap();
        for (slot, storage) in slots.iter().zip(&proof.storage) {
            assert_eq!(storage.value, head.storage(&who, slot).unwrap());
            let value = (!storage.value.is_zero()).then(|| alloy_rlp::encode(storage.value));
            let key = Nibbles::unpack(keccak256(slot.to_be_bytes::<32>()));
            verify_proof(proof.storage_root, key, value, &storage.proof).unwrap();
        }
    }
    let past = store.at(3).unwrap();
    assert_eq!(
        past.prove(&address(0), &[]),
        Err(ApplyError::Superseded { height: 3 })
    );
    assert!(matches!(
        store.at(99),
        Err(HistoryError::Future {
            requested: 99,
            head: 9
        })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn every_snapshot_stays_what_it_was(
        diffs in prop::collection::vec((diff(), prop::bool::weighted(0.3), prop::option::weighted(0.4, diff())), 1..12),
        roomy in any::<bool>(),
    ) {
        let config = if roomy { StateConfig::default() } else { tight() };
        let store = open(&Arc::new(MemoryKv::new()), config);
        let mut model = genesis_model();
        let mut seen = vec![(store.latest(), model.clone(), "genesis".to_owned())];
        for (height, (diff, flushes, rival)) in diffs.iter().enumerate() {
            if let Some(rival) = rival {
                // A speculative block that will not become the head, and one more on top of it.
                let lost = store.latest().apply(rival).unwrap();
                let on_top = lost.apply(diff).unwrap();
                let lost_model = after(&model, rival);
                seen.push((on_top, after(&lost_model, diff), format!("lost {height}, on top")));
                seen.push((lost, lost_model, format!("lost {height}")));
            }
            let child = import(&store, diff);
            model.apply(diff);
            seen.push((child, model.clone(), format!("block {}", height + 1)));
            if *flushes {
                flush(&store);
            }
            for (snapshot, model, name) in &seen {
                model.assert_equals(snapshot, name);
            }
        }
    }
}
