use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy_primitives::U256;
use quorate_kv::{Kv, MemoryKv, SledConfig, SledKv};
use quorate_state::{FlushPolicy, Snapshot, StateConfig, StateRead, StateStore};

use crate::model::{
    ADDRESSES, GENESIS_HASH, address, balances, flush, genesis, import, open, tight,
};

#[test]
fn the_policy_asks_after_its_blocks_or_its_bytes() {
    let flush_policy = FlushPolicy {
        blocks: 3,
        bytes: 1 << 40,
        overdue_factor: 2,
    };
    let by_blocks = StateConfig {
        flush: flush_policy,
        ..StateConfig::default()
    };
    let store = open(&Arc::new(MemoryKv::new()), by_blocks);
    for n in 1..=6u8 {
        import(&store, &balances(&[(n % 4, u64::from(n))]));
        assert_eq!(store.needs_flush(), n >= 3, "block {n}");
        assert_eq!(store.flush_overdue(), n >= 6, "block {n}");
    }
    flush(&store);
    assert!(!store.needs_flush() && !store.flush_overdue());

    let flush_policy = FlushPolicy {
        blocks: 1_000,
        bytes: 5_000,
        overdue_factor: 2,
    };
    let by_bytes = StateConfig {
        flush: flush_policy,
        ..StateConfig::default()
    };
    let store = open(&Arc::new(MemoryKv::new()), by_bytes);
    let mut blocks = 0;
    while !store.needs_flush() {
        blocks += 1;
        import(&store, &balances(&[(0, blocks), (1, blocks), (2, blocks)]));
        assert!(blocks < 10);
    }
    assert!(blocks > 1);
}

#[test]
fn one_flush_at_a_time_and_none_without_work() {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    assert!(store.flush_job().is_none());
    import(&store, &balances(&[(0, 1)]));
    let job = store.flush_job().unwrap();
    import(&store, &balances(&[(0, 2)]));
    assert!(store.flush_job().is_none(), "the first one is not done");
    assert_eq!(job.run().unwrap().height, 1);
    let dropped = store.flush_job().unwrap();
    drop(dropped);
    assert_eq!(store.durable_height(), 1);
    flush(&store);
    assert_eq!(store.durable_height(), 2);
}

#[test]
fn blocks_that_were_built_before_a_flush_become_the_head_after_it() {
    let store = open(&Arc::new(MemoryKv::new()), tight());
    import(&store, &balances(&[(0, 1), (1, 1), (2, 1)]));
    let head = store.latest();
    let first = head.apply(&balances(&[(3, 1)])).unwrap();
    let second = first.apply(&balances(&[(4, 1)])).unwrap();
    flush(&store);
    let third = second.apply(&balances(&[(5, 1)])).unwrap();
    for snapshot in [first, second, third.clone()] {
        store.advance(snapshot).unwrap();
    }
    flush(&store);
    let again = open_model_root(&store.latest());
    assert_eq!(third.state_root(), again);
}

/// The same history in one go, without any flush.
fn open_model_root(_: &Snapshot) -> alloy_primitives::B256 {
    let store = open(&Arc::new(MemoryKv::new()), StateConfig::default());
    for diff in [
        balances(&[(0, 1), (1, 1), (2, 1)]),
        balances(&[(3, 1)]),
        balances(&[(4, 1)]),
        balances(&[(5, 1)]),
    ] {
        import(&store, &diff);
    }
    store.latest().state_root()
}

/// In block `n` every account gets the balance `n`, so a reader can tell a mixture from a state.
fn assert_uniform(snapshot: &Snapshot) {
    let expected = U256::from(snapshot.height());
    for n in 0..ADDRESSES {
        let balance = snapshot
            .account(&address(n))
            .unwrap()
            .map(|account| account.balance);
        assert_eq!(
            balance,
            Some(expected),
            "account {n} at {}",
            snapshot.height()
        );
    }
}

fn readers_see_whole_states(kv: Arc<dyn Kv>, blocks: u64) {
    let store = StateStore::open_with(tight(), kv, &genesis(), GENESIS_HASH).unwrap();
    let uniform = |n: u64| {
        let all: Vec<(u8, u64)> = (0..ADDRESSES).map(|address| (address, n)).collect();
        balances(&all)
    };
    import(&store, &uniform(1));
    flush(&store);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                flush(&store);
            }
        });
        for reader in 0..2u64 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut held = store.latest();
                let mut round = reader;
                while !done.load(Ordering::Acquire) {
                    round += 1;
                    assert_uniform(&held);
                    let head = store.latest();
                    assert_uniform(&head);
                    let height = 1 + round.wrapping_mul(7_919) % head.height();
                    let past = store.at(height).unwrap();
                    assert_eq!(past.height(), height);
                    assert_uniform(&past);
                    if round % 8 == 0 {
                        held = head;
                    }
                }
            });
        }
        for n in 2..=blocks {
            import(&store, &uniform(n));
        }
        done.store(true, Ordering::Release);
    });
    flush(&store);
    for height in 1..=blocks {
        assert_uniform(&store.at(height).unwrap());
    }
}

#[test]
fn readers_see_whole_states_while_memory_is_flushed_under_them() {
    readers_see_whole_states(Arc::new(MemoryKv::new()), 600);
}

#[test]
fn readers_see_whole_states_while_sled_is_flushed_under_them() {
    let dir = tempfile::tempdir().unwrap();
    let kv = SledKv::open(dir.path(), &SledConfig::default()).unwrap();
    readers_see_whole_states(Arc::new(kv), 300);
}
