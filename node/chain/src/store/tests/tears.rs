//! What a power loss leaves behind the last barrier, and what is damage before it.

use super::*;

fn overwrite(path: &PathBuf, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Three blocks behind a barrier, five after it. Returns where each block ends.
fn three_and_five(dir: &TempDir, kv: &Arc<MemoryKv>) -> Vec<u64> {
    let store = open(dir, kv).unwrap();
    let mut ends = Vec::new();
    for height in 1..=8 {
        fill(&store, 1);
        ends.push(store.size_bytes());
        if height == 3 {
            store.barrier().unwrap();
        }
    }
    ends
}

#[test]
fn several_torn_records_behind_the_last_barrier_are_cut() {
    let rubbish: [(usize, &[u8]); 3] = [(3, &[0; 300]), (4, &[0xff; 40]), (6, &[1, 2, 3])];
    for (whole, bytes) in rubbish {
        for fresh_index in [false, true] {
            let dir = TempDir::new().unwrap();
            let kv = Arc::new(MemoryKv::new());
            let ends = three_and_five(&dir, &kv);
            overwrite(&only_segment(&dir), ends[whole - 1] + 3, bytes);
            let kv = if fresh_index {
                Arc::new(MemoryKv::new())
            } else {
                kv
            };
            let store = open(&dir, &kv).unwrap();
            assert_eq!(store.head().height(), whole as u64);
            fill(&store, 10);
            drop(store);
            let store = open(&dir, &kv).unwrap();
            assert_eq!(store.head().height(), whole as u64 + 10);
        }
    }
}

#[test]
fn a_torn_record_before_the_last_barrier_is_damage_and_so_is_a_file_cut_there() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let ends = three_and_five(&dir, &kv);
    let path = only_segment(&dir);
    let whole = fs::read(&path).unwrap();
    let open = || open(&dir, &Arc::new(MemoryKv::new())).map(|store| store.head().height());
    for at in [ends[0] + 3, ends[1] + 100, ends[2] - 1] {
        overwrite(&path, at, &[0xff, 0x00, 0xfe]);
        assert!(matches!(open(), Err(StoreError::Damaged { .. })), "at {at}");
        fs::write(&path, &whole).unwrap();
    }
    for length in [40, ends[0], ends[1] + 50, ends[2] - 1] {
        fs::write(&path, &whole[..length as usize]).unwrap();
        let result = open();
        assert!(
            matches!(result, Err(StoreError::Damaged { .. })),
            "{length}"
        );
    }
    fs::write(&path, &whole[..ends[2] as usize]).unwrap();
    assert_eq!(open().unwrap(), 3);
}

#[test]
fn segments_that_are_gone_are_damage_and_not_a_new_store() {
    let dir = TempDir::new().unwrap();
    three_and_five(&dir, &Arc::new(MemoryKv::new()));
    fs::remove_file(only_segment(&dir)).unwrap();
    let result = open(&dir, &Arc::new(MemoryKv::new()));
    assert!(matches!(result, Err(StoreError::Damaged { .. })));
}

#[test]
fn a_store_without_a_mark_may_have_torn_its_very_last_write_only() {
    let dir = TempDir::new().unwrap();
    let ends = three_and_five(&dir, &Arc::new(MemoryKv::new()));
    fs::remove_file(dir.path().join("synced")).unwrap();
    let path = only_segment(&dir);
    overwrite(&path, ends[6] + 20, &[0xff; 20]);
    let kv = Arc::new(MemoryKv::new());
    assert_eq!(open(&dir, &kv).unwrap().head().height(), 7);
    overwrite(&path, ends[4] + 20, &[0xff; 20]);
    let result = open(&dir, &Arc::new(MemoryKv::new()));
    assert!(matches!(result, Err(StoreError::Damaged { .. })));
}
