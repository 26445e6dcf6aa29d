//! A state as chunks and back.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use proptest::prelude::*;
use quorate_kv::{Kv, MemoryKv};
use quorate_state::{
    Account, AccountChange, ExportedState, OpenError, RestoreError, StateConfig, StateDiff,
    StateRead, StateStore, chunk_file_name, export_chunks, restore,
};

use crate::model::{CASES, GENESIS_HASH, diff, flush, genesis, genesis_model, import, open, tight};

const CHUNK: usize = 64 * 1024;

fn chunks(dir: &Path, exported: &ExportedState) -> Vec<Vec<u8>> {
    let numbers = 0..exported.chunks.len() as u32;
    numbers
        .map(|n| fs::read(dir.join(chunk_file_name(n))).unwrap())
        .collect()
}

fn restore_from(
    kv: &Arc<MemoryKv>,
    chunks: Vec<Vec<u8>>,
    exported: &ExportedState,
) -> Result<(), RestoreError> {
    let chunks = chunks.into_iter().map(Ok::<_, String>);
    restore(
        Arc::clone(kv) as Arc<dyn Kv>,
        chunks,
        exported,
        GENESIS_HASH,
    )
}

/// Accounts `from..from + count` with a balance of `round`; every third has storage, every seventh code.
fn many(from: u64, count: u64, round: u64) -> StateDiff {
    let mut diff = StateDiff::default();
    for n in from..from + count {
        let mut account = Account {
            nonce: n % 5,
            balance: U256::from(round),
            ..Account::default()
        };
        let mut storage = std::collections::BTreeMap::new();
        if n % 3 == 0 {
            storage.extend((0..n % 11).map(|s| (U256::from(s), U256::from(n * 100 + s + round))));
        }
        if n % 7 == 0 {
            let code = Bytes::from(vec![(n % 250) as u8 + 1; 100 + (n % 9_000) as usize]);
            account.code_hash = keccak256(&code);
            diff.codes.insert(account.code_hash, code);
        }
        let change = AccountChange {
            account: Some(account),
            storage_wiped: false,
            storage,
        };
        diff.accounts.insert(many_address(n), change);
    }
    diff
}

fn many_address(n: u64) -> Address {
    Address::from_slice(&keccak256(n.to_be_bytes())[12..])
}

#[test]
fn twenty_thousand_accounts_with_storage_and_code_come_back_and_go_on() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, StateConfig::default());
    for part in 0..20 {
        import(&store, &many(part * 1_000, 1_000, 1));
    }
    flush(&store);
    let dir = tempfile::tempdir().unwrap();
    let exported = export_chunks(&store, dir.path(), CHUNK).unwrap();
    assert_eq!(exported.height, 20);
    assert_eq!(exported.state_root, store.durable_root());
    assert!(exported.chunks.len() > 40, "{}", exported.chunks.len());
    let bytes = chunks(dir.path(), &exported);
    assert!(bytes.iter().all(|chunk| chunk.len() <= CHUNK));

    let restored = Arc::new(MemoryKv::new());
    restore_from(&restored, bytes, &exported).unwrap();
    // Everything was behind a barrier.
    restored.crash();
    let copy = open(&restored, tight());
    assert_eq!((copy.durable_height(), copy.history_start()), (20, 20));
    for n in (0..20_000).step_by(37) {
        let address = many_address(n);
        let account = store.latest().account(&address).unwrap();
        assert_eq!(copy.latest().account(&address).unwrap(), account);
        for slot in (0..11).map(U256::from) {
            assert_eq!(
                copy.latest().storage(&address, &slot).unwrap(),
                store.latest().storage(&address, &slot).unwrap()
            );
        }
        let hash = account.unwrap().code_hash;
        assert_eq!(
            copy.latest().code(&hash).unwrap(),
            store.latest().code(&hash).unwrap()
        );
    }
    for round in 2..5 {
        let diff = many(round * 999, 500, round);
        let expected = import(&store, &diff).state_root();
        assert_eq!(import(&copy, &diff).state_root(), expected);
        flush(&copy);
    }
    assert!(matches!(
        copy.at(19),
        Err(quorate_state::HistoryError::Pruned { first: 20, .. })
    ));
    assert_eq!(copy.at(20).unwrap().state_root(), exported.state_root);
    // Chunks depend on the state alone, not on how a node came to it.
    flush(&store);
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    assert_eq!(
        export_chunks(&store, &one, CHUNK).unwrap(),
        export_chunks(&copy, &other, CHUNK).unwrap()
    );
}

#[test]
fn an_export_is_of_one_height_while_blocks_are_imported_and_flushed() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, tight());
    for part in 0..10 {
        import(&store, &many(part * 1_000, 1_000, 1));
    }
    flush(&store);
    let quiet = tempfile::tempdir().unwrap();
    let done = AtomicBool::new(false);
    let advanced = std::thread::scope(|scope| {
        let importer = scope.spawn(|| {
            let mut round = 2;
            // Goes on for as long as exports run, and has changed and removed much by then.
            while !done.load(Ordering::Acquire) {
                let mut diff = many(round * 131 % 12_000, 200, round);
                for n in (round * 57 % 9_000..).take(40) {
                    diff.accounts.remove(&many_address(n));
                    diff.accounts
                        .insert(many_address(n), AccountChange::default());
                }
                import(&store, &diff);
                flush(&store);
                round += 1;
            }
            round
        });
        for n in 0..4 {
            let dir = quiet.path().join(n.to_string());
            let exported = export_chunks(&store, &dir, CHUNK).unwrap();
            let expected = store.at(exported.height).unwrap().state_root();
            assert_eq!(exported.state_root, expected);
            let restored = Arc::new(MemoryKv::new());
            // Its root is that of the height at which the export began, or this fails.
            restore_from(&restored, chunks(&dir, &exported), &exported).unwrap();
        }
        done.store(true, Ordering::Release);
        importer.join().unwrap()
    });
    assert!(advanced > 6, "{advanced} blocks only");
}

#[test]
fn chunks_that_lie_or_are_damaged_are_refused() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, StateConfig::default());
    import(&store, &many(0, 300, 1));
    flush(&store);
    let dir = tempfile::tempdir().unwrap();
    let exported = export_chunks(&store, dir.path(), 8 * 1024).unwrap();
    let good = chunks(dir.path(), &exported);
    assert!(good.len() > 4, "{}", good.len());
    let refused = |chunks: Vec<Vec<u8>>, exported: &ExportedState| {
        let restored = Arc::new(MemoryKv::new());
        let error = restore_from(&restored, chunks, exported).unwrap_err();
        let opened = StateStore::open(restored, &genesis(), GENESIS_HASH).map(|_| ());
        assert!(matches!(opened, Err(OpenError::Unfinished { height: 1 })));
        error
    };
    // What is announced for these bytes: a liar gets that far.
    let announced = |chunks: &[Vec<u8>]| {
        let mut exported = exported.clone();
        for (info, chunk) in exported.chunks.iter_mut().zip(chunks) {
            info.hash = keccak256(chunk);
            info.bytes = chunk.len() as u64;
        }
        exported
    };

    let mut chunks = good.clone();
    chunks[3][100] ^= 1;
    let error = refused(chunks, &exported);
    assert!(matches!(error, RestoreError::Chunk { number: 3, .. }) && error.blames_source());
    let mut chunks = good.clone();
    chunks.swap(1, 2);
    assert!(matches!(
        refused(chunks, &exported),
        RestoreError::Chunk { number: 1, .. }
    ));
    let mut chunks = good.clone();
    chunks.pop();
    assert!(matches!(
        refused(chunks, &exported),
        RestoreError::Count { .. }
    ));
    let mut chunks = good.clone();
    chunks.push(vec![0]);
    assert!(matches!(
        refused(chunks, &exported),
        RestoreError::Count { .. }
    ));

    // A balance that is another one: every chunk is what was announced, the root is not.
    let mut chunks = good.clone();
    let at = 12 + 1 + 20 + 1;
    let balance_at = at + 1 + usize::from(chunks[0][at]) + 1;
    chunks[0][balance_at] = 0x77;
    let error = refused(chunks.clone(), &announced(&chunks));
    assert!(matches!(error, RestoreError::Root { .. }), "{error:?}");
    assert!(error.blames_source());
    // A code that is left out, and storage that nobody has.
    let mut chunks = good.clone();
    let last = chunks.pop().unwrap();
    let mut short = announced(&chunks);
    short.chunks.pop();
    assert!(matches!(
        refused(chunks, &short),
        RestoreError::Loose { .. }
    ));
    let mut chunks = good.clone();
    let storage = good.iter().position(|chunk| chunk[12] == 2).unwrap();
    let extra = [&[2u8][..], &[0; 20], &[0; 32], &[1, 9]].concat();
    chunks[storage].splice(12..12, extra);
    let mut lie = announced(&chunks);
    lie.chunks[storage].records += 1;
    let error = refused(chunks, &lie);
    assert!(matches!(
        error,
        RestoreError::Chunk { .. } | RestoreError::Loose { .. }
    ));
    assert!(!last.is_empty());

    let used = Arc::new(MemoryKv::new());
    open(&used, tight());
    let error = restore_from(&used, good, &exported).unwrap_err();
    assert_eq!(error, RestoreError::NotEmpty);
}

#[test]
fn a_restore_that_loses_power_anywhere_is_recognised() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, StateConfig::default());
    import(&store, &many(0, 2_000, 1));
    flush(&store);
    let dir = tempfile::tempdir().unwrap();
    let exported = export_chunks(&store, dir.path(), CHUNK).unwrap();
    let good = chunks(dir.path(), &exported);
    for stop_at in [0, 1, good.len() / 2, good.len() - 1] {
        for seed in 0..4 {
            let restored = Arc::new(MemoryKv::new());
            let mut count = 0;
            let chunks = good.iter().map(|chunk| {
                count += 1;
                let dies = count > stop_at;
                if dies {
                    Err("no power")
                } else {
                    Ok(chunk.clone())
                }
            });
            let result = restore(
                Arc::clone(&restored) as Arc<dyn Kv>,
                chunks,
                &exported,
                GENESIS_HASH,
            );
            assert!(matches!(result, Err(RestoreError::Unreadable { .. })));
            restored.crash_by_seed(seed);
            let opened = StateStore::open(restored, &genesis(), GENESIS_HASH).map(|_| ());
            assert!(matches!(opened, Err(OpenError::Unfinished { height: 1 })));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn any_state_comes_back_as_it_was(blocks in prop::collection::vec(diff(), 1..8)) {
        let kv = Arc::new(MemoryKv::new());
        let store = open(&kv, tight());
        let mut model = genesis_model();
        for block in &blocks {
            import(&store, block);
            model.apply(block);
        }
        flush(&store);
        let dir = tempfile::tempdir().unwrap();
        let exported = export_chunks(&store, dir.path(), 1024).unwrap();
        let restored = Arc::new(MemoryKv::new());
        restore_from(&restored, chunks(dir.path(), &exported), &exported).unwrap();
        let copy = open(&restored, tight());
        // Code that no account has any more stays behind.
        let live: Vec<B256> = model.accounts.values().map(|entry| entry.account.code_hash).collect();
        model.codes.retain(|hash, _| live.contains(hash));
        model.assert_equals(&copy.latest(), "after a restore");
    }
}
