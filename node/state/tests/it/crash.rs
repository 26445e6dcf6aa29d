use std::sync::Arc;

use proptest::prelude::*;
use quorate_kv::{MemoryKv, SledConfig, SledKv};
use quorate_state::{StateConfig, StateStore};

use crate::model::{
    CASES, GENESIS_HASH, balances, diff, flush, genesis, genesis_model, import, open, tight,
};

#[test]
fn what_was_not_flushed_is_executed_again_and_ends_at_the_same_root() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, tight());
    let blocks: Vec<_> = (0..10u8)
        .map(|n| balances(&[(n % 4, 10 + u64::from(n)), (9, 3)]))
        .collect();
    for diff in &blocks[..6] {
        import(&store, diff);
    }
    flush(&store);
    for diff in &blocks[6..] {
        import(&store, diff);
    }
    let root = store.latest().state_root();
    drop(store);
    kv.crash();
    let store = open(&kv, tight());
    assert_eq!((store.durable_height(), store.latest().height()), (6, 6));
    for diff in &blocks[6..] {
        import(&store, diff);
    }
    assert_eq!(store.latest().state_root(), root);
}

#[test]
fn a_flush_that_fails_leaves_the_durable_height_where_it_was() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, StateConfig::default());
    import(&store, &balances(&[(0, 1)]));
    flush(&store);
    import(&store, &balances(&[(0, 2)]));
    kv.fail_next_write("no space left");
    let error = store.flush_job().unwrap().run().unwrap_err();
    assert_eq!(error.height, 2);
    assert_eq!(store.durable_height(), 1);
    drop(store);
    kv.crash();
    let store = open(&kv, StateConfig::default());
    assert_eq!(store.latest().height(), 1);
}

#[test]
fn the_state_on_sled_survives_closing_without_a_last_flush() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let kv = Arc::new(SledKv::open(dir.path(), &SledConfig::default()).unwrap());
        StateStore::open_with(tight(), kv, &genesis(), GENESIS_HASH).unwrap()
    };
    let mut model = genesis_model();
    let store = open();
    for n in 0..20u8 {
        let diff = balances(&[(n % 7, u64::from(n) + 1)]);
        import(&store, &diff);
        if n < 15 {
            model.apply(&diff);
        }
        if n == 14 {
            flush(&store);
        }
    }
    drop(store);
    let store = open();
    assert_eq!(store.latest().height(), 15);
    model.assert_equals(&store.latest(), "after reopening");
    genesis_model().assert_equals(&store.at(0).unwrap(), "at the genesis");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_crash_anywhere_leaves_one_whole_height_and_the_rest_can_be_executed_again(
        blocks in prop::collection::vec((diff(), 0u8..8, any::<u64>()), 1..16),
    ) {
        let kv = Arc::new(MemoryKv::new());
        let mut store = open(&kv, tight());
        let mut models = vec![genesis_model()];
        let mut diffs = Vec::new();
        for (diff, action, seed) in blocks {
            import(&store, &diff);
            let mut model = models.last().unwrap().clone();
            model.apply(&diff);
            models.push(model);
            diffs.push(diff);
            match action {
                0 | 1 => flush(&store),
                2 => {
                    let durable = store.durable_height();
                    drop(store);
                    kv.crash_by_seed(seed);
                    store = open(&kv, tight());
                    prop_assert_eq!(store.durable_height(), durable);
                    for diff in &diffs[durable as usize..] {
                        import(&store, diff);
                    }
                }
                3 => {
                    // The batch is written and the barrier fails: disk may be at either height, and at nothing between.
                    let durable = store.durable_height();
                    let target = store.latest().height();
                    if let Some(job) = store.flush_job() {
                        kv.fail_next_barrier("power is going");
                        prop_assert!(job.run().is_err());
                    }
                    prop_assert_eq!(store.durable_height(), durable);
                    drop(store);
                    let kept = kv.crash_by_seed(seed);
                    store = open(&kv, tight());
                    let survived = if kept > 0 { target } else { durable };
                    prop_assert_eq!(store.durable_height(), survived);
                    for diff in &diffs[survived as usize..] {
                        import(&store, diff);
                    }
                }
                _ => {}
            }
            for (height, model) in models.iter().enumerate() {
                model.assert_equals(&store.at(height as u64).unwrap(), &format!("at {height}"));
            }
        }
    }
}
