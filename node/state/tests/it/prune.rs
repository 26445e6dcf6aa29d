//! Forgetting old values.

use std::sync::Arc;

use proptest::prelude::*;
use quorate_kv::MemoryKv;
use quorate_state::{HistoryError, ReadError, StateRead};

use crate::model::{CASES, address, balances, diff, flush, genesis_model, import, open, tight};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn heights_from_the_first_one_kept_read_as_before_and_lower_ones_are_refused(
        blocks in prop::collection::vec(diff(), 4..14),
        flushes in prop::collection::vec(any::<bool>(), 14),
        below in 0u64..14,
        crash in any::<bool>(),
    ) {
        let kv = Arc::new(MemoryKv::new());
        let mut store = open(&kv, tight());
        let mut models = vec![genesis_model()];
        for (block, flushes) in blocks.iter().zip(flushes) {
            import(&store, block);
            let mut model = models[models.len() - 1].clone();
            model.apply(block);
            models.push(model);
            if flushes {
                flush(&store);
            }
        }
        flush(&store);
        let report = store.prune_history(below).unwrap();
        prop_assert_eq!(report.first, below.min(blocks.len() as u64));
        if crash {
            drop(store);
            kv.crash();
            store = open(&kv, tight());
        }
        prop_assert_eq!(store.history_start(), report.first);
        for (height, model) in (0u64..).zip(&models) {
            match store.at(height) {
                Ok(snapshot) if height >= report.first => model.assert_equals(&snapshot, "after a prune"),
                Err(HistoryError::Pruned { requested, first }) => {
                    prop_assert!(height < report.first);
                    prop_assert_eq!((requested, first), (height, report.first));
                }
                other => prop_assert!(false, "height {}: {:?}", height, other),
            }
        }
        prop_assert_eq!(store.prune_history(below).unwrap().entries, 0);
    }
}

#[test]
fn a_reader_that_holds_a_pruned_height_is_told_so_and_the_head_is_not_affected() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, tight());
    for n in 0..6u64 {
        import(&store, &balances(&[(0, 100 + n)]));
        flush(&store);
    }
    let (past, head) = (store.at(2).unwrap(), store.latest());
    let entries = kv.len();
    let report = store.prune_history(5).unwrap();
    assert!(report.entries >= 10, "{report:?}");
    assert_eq!(kv.len(), entries - report.entries as usize);
    let refused = past.account(&address(0));
    assert_eq!(
        refused,
        Err(ReadError::Pruned {
            height: 2,
            first: 5
        })
    );
    assert!(head.account(&address(0)).unwrap().is_some());
    // Never beyond what is durable.
    import(&store, &balances(&[(0, 1)]));
    assert_eq!(store.prune_history(100).unwrap().first, 6);
    assert_eq!(store.prune_history(1).unwrap().first, 6);
}
