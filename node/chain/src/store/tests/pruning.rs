//! Dropping the oldest segments.

use super::*;

const SMALL: StoreConfig = StoreConfig {
    segment_bytes: 20_000,
};

fn open_small(dir: &TempDir, kv: &Arc<MemoryKv>) -> BlockStore {
    let kv = Arc::clone(kv) as Arc<dyn Kv>;
    BlockStore::open_with(SMALL, dir.path(), kv, genesis()).unwrap()
}

/// 600 blocks, and what they are.
fn filled(dir: &TempDir, kv: &Arc<MemoryKv>) -> (BlockStore, Vec<SharedBlock>) {
    let store = open_small(dir, kv);
    fill(&store, 600);
    let blocks = (0..=600)
        .map(|h| store.block(h).unwrap().unwrap())
        .collect();
    (store, blocks)
}

fn check_pruned(store: &BlockStore, blocks: &[SharedBlock], base: u64) {
    let pruned = |e| matches!(e, StoreError::Pruned { below } if below == base);
    assert_eq!(store.base(), base);
    assert_eq!(store.block(0).unwrap().unwrap().hash(), blocks[0].hash());
    for (height, block) in (0u64..).zip(blocks).skip(1) {
        let location = TransactionLocation {
            height,
            position: 0,
        };
        let transaction = block.block.transactions()[0].hash();
        if height >= base {
            assert_eq!(&store.block(height).unwrap().unwrap(), block);
            assert_eq!(store.height_of(&block.hash()).unwrap(), Some(height));
            assert_eq!(store.locate(transaction).unwrap(), Some(location));
        } else {
            assert!(pruned(store.block(height).unwrap_err()), "block {height}");
            assert_eq!(store.height_of(&block.hash()).unwrap(), None);
            assert_eq!(store.locate(transaction).unwrap(), None);
        }
        if height + 256 >= base {
            assert_eq!(store.hash_at(height).unwrap(), Some(block.hash()));
            let header = store.header_at(height).unwrap().unwrap();
            assert_eq!(&header, block.block.header());
        } else {
            assert!(pruned(store.hash_at(height).unwrap_err()), "hash {height}");
        }
    }
    assert_eq!(store.hash_at(0).unwrap(), Some(blocks[0].hash()));
    assert_eq!(store.hash_at(601).unwrap(), None);
}

#[test]
fn whole_segments_below_a_height_are_dropped_and_the_rest_is_found_as_before() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    let (before, files) = (store.size_bytes(), segments(&dir).len());
    let nothing = store.prune(5).unwrap();
    assert_eq!((nothing.base, nothing.segments), (1, 0));
    let report = store.prune(320).unwrap();
    assert!((300..=320).contains(&report.base), "{report:?}");
    assert_eq!(segments(&dir).len(), files - report.segments);
    assert_eq!(store.size_bytes(), before - report.bytes);
    assert!(report.segments > 5 && report.bytes > 100_000, "{report:?}");
    check_pruned(&store, &blocks, report.base);
    drop(store);
    check_pruned(&open_small(&dir, &kv), &blocks, report.base);
    let store = open_small(&dir, &Arc::new(MemoryKv::new()));
    check_pruned(&store, &blocks, report.base);

    // Once more, and on: the headers below now come from a store that has none of the first blocks.
    fill(&store, 200);
    let again = store.prune(500).unwrap();
    assert!(again.base > 480, "{again:?}");
    assert_eq!(
        store.hash_at(again.base - 256).unwrap(),
        Some(blocks[again.base as usize - 256].hash())
    );
    drop(store);
    let store = open_small(&dir, &Arc::new(MemoryKv::new()));
    assert_eq!((store.base(), store.head().height()), (again.base, 800));
}

#[test]
fn the_newest_256_blocks_stay_whatever_is_asked_for() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    let report = store.prune(u64::MAX).unwrap();
    assert!(report.base <= 345 && report.base > 320, "{report:?}");
    check_pruned(&store, &blocks, report.base);
}

#[test]
fn a_prune_that_is_interrupted_is_finished_at_the_next_open() {
    // After the base was written and before anything was dropped.
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    store.barrier().unwrap();
    let base = store.segments.firsts()[7];
    let headers = store.headers_below(base).unwrap();
    let bottom = Bottom::new(base, headers);
    bottom.write(dir.path(), genesis().hash()).unwrap();
    drop(store);
    check_pruned(&open_small(&dir, &kv), &blocks, base);
    assert_eq!(open_small(&dir, &kv).segments.firsts().first(), Some(&base));

    // When the index fails, and when a part of the segments is gone.
    for failing_barrier in [false, true] {
        let dir = TempDir::new().unwrap();
        let kv = Arc::new(MemoryKv::new());
        let (store, blocks) = filled(&dir, &kv);
        store.barrier().unwrap();
        kv.barrier().unwrap();
        if failing_barrier {
            kv.fail_next_barrier("no power");
        } else {
            kv.fail_next_write("no space");
        }
        assert!(store.prune(200).is_err());
        assert_eq!(segments(&dir).len(), store.segments.firsts().len());
        kv.crash();
        drop(store);
        fs::remove_file(&segments(&dir)[0]).unwrap();
        let store = open_small(&dir, &kv);
        assert!(store.base() > 150, "{}", store.base());
        assert!(store.block(1).is_err());
        // What stood in the segment that went first is still in the index, and known to be gone.
        let first = store.height_of(&blocks[1].hash());
        assert!(matches!(first, Err(StoreError::Pruned { .. })), "{first:?}");
        let other = blocks[store.base() as usize - 1].hash();
        assert_eq!(store.height_of(&other).unwrap(), None);
    }
}

#[test]
fn a_base_file_that_is_damaged_or_a_missing_segment_is_refused() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, _) = filled(&dir, &kv);
    store.prune(400).unwrap();
    drop(store);
    let open = || {
        let kv = Arc::new(MemoryKv::new()) as Arc<dyn Kv>;
        BlockStore::open_with(SMALL, dir.path(), kv, genesis()).map(|store| store.base())
    };
    let path = dir.path().join("base");
    let whole = fs::read(&path).unwrap();
    for at in [0, 9, 60, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(
            matches!(open(), Err(StoreError::Damaged { .. })),
            "byte {at}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(), Err(StoreError::Damaged { .. })));
    fs::write(&path, &whole).unwrap();
    assert!(open().is_ok());
    fs::remove_file(&segments(&dir)[0]).unwrap();
    assert!(matches!(open(), Err(StoreError::Damaged { .. })));
}

#[test]
fn others_read_and_append_while_segments_are_dropped() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut refused = 0;
            while refused < 100 {
                for (height, block) in (0u64..).zip(&blocks) {
                    match store.block(height) {
                        Ok(found) => assert_eq!(found.unwrap().hash(), block.hash()),
                        Err(StoreError::Pruned { below }) => {
                            assert!(height < below);
                            refused += 1;
                        }
                        Err(e) => panic!("block {height}: {e}"),
                    }
                }
            }
        });
        let writer = scope.spawn(|| fill(&store, 300));
        for below in [100, 200, 300] {
            store.prune(below).unwrap();
        }
        reader.join().unwrap();
        writer.join().unwrap();
    });
    assert_eq!(store.head().height(), 900);
}
