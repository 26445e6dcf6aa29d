use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::U256;
use proptest::prelude::*;
use quorate_kv::MemoryKv;
use quorate_state::{Account, AccountChange, HistoryError, StateConfig, StateDiff};

use crate::model::{CASES, address, balances, diff, flush, genesis_model, import, open, tight};

#[test]
fn heights_above_the_head_are_in_the_future() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    import(&store, &balances(&[(0, 1)]));
    assert_eq!(store.at(1).unwrap().height(), 1);
    let error = store.at(2).unwrap_err();
    assert_eq!(
        error,
        HistoryError::Future {
            requested: 2,
            head: 1
        }
    );
}

#[test]
fn a_destroyed_contract_is_readable_before_gone_after_and_new_when_created_again() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, tight());
    let mut models = vec![genesis_model()];
    let contract = models[0].accounts[&address(2)].account;
    let change = |account: Option<Account>, wiped: bool, storage: &[(u64, u64)]| {
        let storage: BTreeMap<U256, U256> = storage
            .iter()
            .map(|(slot, value)| (U256::from(*slot), U256::from(*value)))
            .collect();
        let change = AccountChange {
            account,
            storage_wiped: wiped,
            storage,
        };
        StateDiff {
            accounts: BTreeMap::from([(address(2), change)]),
            ..StateDiff::default()
        }
    };
    let blocks = [
        change(Some(contract), false, &[(3, 33), (1, 0)]),
        change(None, true, &[]),
        change(Some(contract), false, &[(4, 44)]),
        // Destroyed and created again within one block, keeping one slot number.
        change(Some(contract), true, &[(4, 45), (5, 55)]),
        change(Some(contract), false, &[(5, 0)]),
        change(None, false, &[]),
    ];
    for flush_every in [1, 2, 3, 100] {
        let kv = Arc::new(MemoryKv::new());
        let store = open(&kv, tight());
        let mut models = vec![genesis_model()];
        for (n, diff) in blocks.iter().enumerate() {
            let mut model = models.last().unwrap().clone();
            model.apply(diff);
            models.push(model);
            import(&store, diff);
            if (n + 1) % flush_every == 0 {
                flush(&store);
            }
            for (height, model) in models.iter().enumerate() {
                let when = format!("at {height}, flushing every {flush_every}, head {}", n + 1);
                model.assert_equals(&store.at(height as u64).unwrap(), &when);
            }
        }
    }
    // And all of it between two flushes, so that disk never saw the middle.
    for diff in &blocks {
        let mut model = models.last().unwrap().clone();
        model.apply(diff);
        models.push(model);
        import(&store, diff);
    }
    flush(&store);
    drop(store);
    let store = open(&kv, tight());
    for (height, model) in models.iter().enumerate() {
        model.assert_equals(
            &store.at(height as u64).unwrap(),
            &format!("at {height}, reopened"),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn every_height_reads_as_it_was_whatever_was_flushed_and_reopened(
        blocks in prop::collection::vec((diff(), 0u8..10), 1..16),
        roomy in any::<bool>(),
    ) {
        let config = if roomy { StateConfig::default() } else { tight() };
        let kv = Arc::new(MemoryKv::new());
        let mut store = open(&kv, config);
        let mut models = vec![genesis_model()];
        for (diff, action) in blocks {
            let mut model = models.last().unwrap().clone();
            model.apply(&diff);
            models.push(model);
            import(&store, &diff);
            if action < 4 {
                flush(&store);
            }
            if action == 0 {
                drop(store);
                store = open(&kv, config);
            }
            for (height, model) in models.iter().enumerate() {
                let snapshot = store.at(height as u64).unwrap();
                prop_assert_eq!(snapshot.height(), height as u64);
                model.assert_equals(&snapshot, &format!("at {height}"));
            }
        }
    }
}
