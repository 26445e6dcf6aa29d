//! Damage at rest in blocks that are indexed already: found when they are read, mended from the same block.

use super::*;

const SMALL: StoreConfig = StoreConfig {
    segment_bytes: 20_000,
};

fn open_small(dir: &TempDir, kv: &Arc<MemoryKv>) -> BlockStore {
    let kv = Arc::clone(kv) as Arc<dyn Kv>;
    BlockStore::open_with(SMALL, dir.path(), kv, genesis()).unwrap()
}

/// 300 blocks, all indexed, none but the head in memory; and what they are.
fn filled(dir: &TempDir, kv: &Arc<MemoryKv>) -> (BlockStore, Vec<SharedBlock>) {
    let store = open_small(dir, kv);
    fill(&store, 300);
    store.barrier().unwrap();
    let blocks = (0..=300)
        .map(|h| store.block(h).unwrap().unwrap())
        .collect();
    drop(store);
    (open_small(dir, kv), blocks)
}

/// The file that holds a block, and where its record starts in it.
fn place(dir: &TempDir, store: &BlockStore, height: u64) -> (PathBuf, u64) {
    let place = store.place_of(height).unwrap().unwrap();
    let name = format!("blocks-{:012}.seg", place.segment);
    (dir.path().join(name), place.offset)
}

fn overwrite(path: &PathBuf, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// What a member gives, with the receipts that executing it makes.
fn from_a_member(block: &ImportedBlock) -> ImportedBlock {
    ImportedBlock {
        raft_index: 0,
        ..block.clone()
    }
}

fn is_damaged(store: &BlockStore, height: u64) -> bool {
    matches!(store.block(height), Err(StoreError::Damaged { .. }))
}

/// Everything is there, also for a store that reads the files from the first byte on.
fn check_whole(dir: &TempDir, kv: &Arc<MemoryKv>, blocks: &[SharedBlock]) {
    for kv in [Arc::clone(kv), Arc::new(MemoryKv::new())] {
        let store = open_small(dir, &kv);
        for (height, block) in (0u64..).zip(blocks) {
            let found = store.block(height).unwrap().unwrap();
            assert_eq!(found.block, block.block, "block {height}");
            assert_eq!(found.receipts, block.receipts);
            assert_eq!(found.senders, block.senders);
            assert!(found.raft_index <= block.raft_index);
        }
        assert_eq!(store.damaged(), Vec::<u64>::new());
    }
}

#[test]
fn a_damaged_block_is_noted_when_it_is_read_and_mended_in_its_place() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    let firsts = store.segments.firsts();
    // In the middle of a file, its first record, its last one, and one of the file that is being appended to.
    let last = *firsts.last().unwrap();
    for height in [firsts[2] + 3, firsts[2], firsts[3] - 1, last] {
        let (path, at) = place(&dir, &store, height);
        // Its length, its checksum, its body.
        for (offset, bytes) in [
            (0, &[0xff, 0xff, 0xff, 0x0f][..]),
            (1, &[0x77]),
            (5, &[0; 3]),
            (60, &[0; 80]),
        ] {
            let before = fs::metadata(&path).unwrap().len();
            overwrite(&path, at + offset, bytes);
            assert!(is_damaged(&store, height), "block {height}, byte {offset}");
            assert_eq!(store.damaged(), [height]);
            assert!(!store.is_whole(height).unwrap());
            let expected = blocks[height as usize].hash();
            assert_eq!(store.hash_from_above(height).unwrap(), expected);
            store.mend(from_a_member(&blocks[height as usize])).unwrap();
            assert_eq!(store.damaged(), Vec::<u64>::new());
            assert_eq!(fs::metadata(&path).unwrap().len(), before);
        }
    }
    // Appending goes on behind what was mended.
    fill(&store, 3);
    drop(store);
    check_whole(&dir, &kv, &blocks);
}

#[test]
fn a_file_that_lost_its_end_is_mended_from_the_highest_block_down() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    let firsts = store.segments.firsts();
    let (from, to) = (firsts[2] - 5, firsts[2]);
    let (path, at) = place(&dir, &store, from);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(at + 11).unwrap();
    for height in from..to {
        assert!(is_damaged(&store, height));
    }
    assert_eq!(store.damaged(), (from..to).collect::<Vec<_>>());
    // The block above is damaged too: nothing says which hash is right.
    let offered = from_a_member(&blocks[from as usize]);
    let above = store.mend(offered).unwrap_err();
    assert!(
        matches!(above, MendError::Store(StoreError::Damaged { .. })),
        "{above}"
    );
    for height in (from..to).rev() {
        store.mend(from_a_member(&blocks[height as usize])).unwrap();
    }
    drop(store);
    check_whole(&dir, &kv, &blocks);
}

#[test]
fn nothing_but_the_same_block_is_put_in_the_place_of_a_damaged_one() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    let (path, at) = place(&dir, &store, 40);
    overwrite(&path, at + 60, &[0; 80]);
    assert!(is_damaged(&store, 40));
    let damaged = fs::read(&path).unwrap();

    // Another block of that height, the right one with other receipts, and with another sender.
    let forged = ImportedBlock {
        block: sealed_by_another(&blocks[39]),
        ..from_a_member(&blocks[40])
    };
    let refused = store.mend(forged).unwrap_err();
    assert!(
        matches!(refused, MendError::OtherBlock { height: 40, .. }),
        "{refused}"
    );

    let mut receipts = from_a_member(&blocks[40]);
    receipts.receipts[0].success = false;
    let refused = store.mend(receipts).unwrap_err();
    assert!(matches!(refused, MendError::Content(_)), "{refused}");

    let mut senders = from_a_member(&blocks[40]);
    senders.senders[0] = alloy_primitives::Address::repeat_byte(5);
    let refused = store.mend(senders).unwrap_err();
    assert!(matches!(refused, MendError::Content(_)), "{refused}");

    // What no hash covers must fit as well.
    let mut longer = from_a_member(&blocks[40]);
    longer.receipts[0].revert_data = Bytes::from(vec![1; 30]);
    let refused = store.mend(longer).unwrap_err();
    assert!(
        matches!(refused, MendError::Misfit { height: 40, .. }),
        "{refused}"
    );

    for height in [0, 300, 301] {
        let refused = store.hash_from_above(height).unwrap_err();
        assert!(matches!(refused, MendError::NotStored { .. }), "{refused}");
    }
    assert_eq!(fs::read(&path).unwrap(), damaged);
    store.mend(from_a_member(&blocks[40])).unwrap();
    // A whole one stays as it is.
    let whole = fs::read(&path).unwrap();
    store.mend(from_a_member(&blocks[40])).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
    drop(store);
    check_whole(&dir, &kv, &blocks);
}

/// A block as its parent's next one would be if another member had sealed it.
fn sealed_by_another(parent: &ImportedBlock) -> SealedBlock {
    let sealer = Sealer::new(SecretKey::from_byte_array([8; 32]).unwrap());
    let template = BlockTemplate {
        parent_hash: parent.hash(),
        height: parent.height() + 1,
        timestamp: 1_000 + parent.height(),
        coinbase: sealer.node_id().address(),
        gas_limit: 30_000_000,
    };
    let roots = ExecutedRoots {
        state_root: B256::repeat_byte(3),
        gas_used: 0,
    };
    DraftBlock::new(&template, &spec(), Vec::new(), &[], roots).seal(&sealer, 3)
}

#[test]
fn damaged_blocks_do_not_hinder_pruning_and_are_forgotten_with_it() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let (store, blocks) = filled(&dir, &kv);
    fill(&store, 300);
    store.barrier().unwrap();
    let firsts = store.segments.firsts();
    let damaged = [firsts[0], firsts[1] + 2, firsts[1] + 3, firsts[2] - 1];
    for height in damaged {
        let (path, at) = place(&dir, &store, height);
        overwrite(&path, at + 60, &[0; 80]);
        assert!(is_damaged(&store, height));
    }
    let report = store.prune(320).unwrap();
    assert!((300..=320).contains(&report.base), "{report:?}");
    assert_eq!(store.damaged(), Vec::<u64>::new());
    for (height, block) in (0u64..).zip(&blocks).skip(1) {
        assert!(matches!(
            store.block(height),
            Err(StoreError::Pruned { .. })
        ));
        // Nothing of a block that can be read stays in the index.
        let left = store.index.height_of(&block.hash()).unwrap();
        assert_eq!(left.is_some(), damaged.contains(&height), "block {height}");
    }
    drop(store);
    assert_eq!(open_small(&dir, &kv).base(), report.base);
}
