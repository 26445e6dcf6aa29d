//! Both stores against one set of expectations, and what a crash or damage does to each.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use quorate_kv::{
    Batch, Direction, Entry, KeyRange, Kv, KvError, MemoryKv, OpenError, SledConfig, SledKv,
    VALUE_SIZE_MAX, quarantine,
};

fn open(dir: &Path) -> SledKv {
    SledKv::open(dir, &SledConfig::default()).unwrap()
}

fn on_both(check: impl Fn(&dyn Kv)) {
    check(&MemoryKv::new());
    let dir = tempfile::tempdir().unwrap();
    check(&open(dir.path()));
}

fn collect(kv: &dyn Kv, range: KeyRange, direction: Direction) -> Vec<Entry> {
    kv.scan(range, direction).map(Result::unwrap).collect()
}

fn put(key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

#[test]
fn what_was_written_is_read_and_scanned_in_order() {
    on_both(|kv| {
        let mut batch = Batch::new();
        for n in [5u8, 1, 9, 3] {
            batch.put(vec![b'k', n], vec![n]);
        }
        batch.put(b"other".to_vec(), b"x".to_vec());
        kv.write(batch).unwrap();
        let mut batch = Batch::new();
        batch.delete(vec![b'k', 3]);
        batch.delete(b"never there".to_vec());
        kv.write(batch).unwrap();

        assert_eq!(kv.get(b"k\x05").unwrap(), Some(vec![5]));
        assert_eq!(kv.get(b"k\x03").unwrap(), None);
        let up: Vec<u8> = collect(kv, KeyRange::prefix(b"k".to_vec()), Direction::Ascending)
            .into_iter()
            .map(|(_, value)| value[0])
            .collect();
        assert_eq!(up, [1, 5, 9]);
        let down = collect(kv, KeyRange::prefix(b"k".to_vec()), Direction::Descending);
        assert_eq!(
            down.iter().map(|(_, value)| value[0]).collect::<Vec<_>>(),
            [9, 5, 1]
        );
        let part = collect(
            kv,
            KeyRange::between(*b"k\x02", *b"k\x09"),
            Direction::Ascending,
        );
        assert_eq!(part, [(b"k\x05".to_vec(), vec![5])]);
        assert!(collect(kv, KeyRange::between(*b"b", *b"a"), Direction::Ascending).is_empty());
    });
}

#[test]
fn the_last_write_to_a_key_in_a_batch_wins() {
    on_both(|kv| {
        let mut batch = Batch::new();
        batch.put(*b"a", *b"1");
        batch.delete(*b"a");
        batch.delete(*b"b");
        batch.put(*b"b", *b"2");
        kv.write(batch).unwrap();
        assert_eq!(kv.get(b"a").unwrap(), None);
        assert_eq!(kv.get(b"b").unwrap(), Some(b"2".to_vec()));
    });
}

fn stages() -> Vec<Batch> {
    let (mut first, mut second) = (Batch::new(), Batch::new());
    for n in 0..3_000u32 {
        first.put(n.wrapping_mul(2_654_435_761).to_be_bytes(), n.to_be_bytes());
    }
    second.delete(0u32.to_be_bytes());
    second.put(*b"done", *b"yes");
    vec![first, second]
}

fn assert_has_stages(kv: &dyn Kv) {
    assert_eq!(
        collect(kv, KeyRange::all(), Direction::Ascending).len(),
        3_000
    );
    assert_eq!(kv.get(&0u32.to_be_bytes()).unwrap(), None);
    assert_eq!(kv.get(b"done").unwrap(), Some(b"yes".to_vec()));
}

#[test]
fn a_staged_write_is_applied_in_order_and_durable_when_it_returns() {
    on_both(|kv| {
        kv.write_staged(stages()).unwrap();
        assert_has_stages(kv);
        kv.write_staged(Vec::new()).unwrap();
    });
    let kv = MemoryKv::new();
    kv.write_staged(stages()).unwrap();
    kv.crash();
    assert_has_stages(&kv);
}

#[test]
fn a_staged_write_that_fails_in_memory_is_kept_as_a_whole_or_lost_as_a_whole() {
    let mut kept = [false; 2];
    for seed in 0..50 {
        let kv = MemoryKv::new();
        kv.fail_next_barrier("power is going");
        kv.write_staged(stages()).unwrap_err();
        let survived = kv.crash_by_seed(seed);
        kept[survived] = true;
        if survived == 1 {
            assert_has_stages(&kv)
        } else {
            assert!(kv.is_empty())
        }
    }
    assert_eq!(kept, [true; 2]);
}

/// The folder of a store, with the journal as it was while a staged write was under way.
fn interrupted(dir: &Path, journal: &[u8]) -> std::path::PathBuf {
    let path = dir.join("kv");
    drop(open(&path));
    fs::write(path.join("journal"), journal).unwrap();
    path
}

/// `key size | value size | key | value` of one write, under a header: the format by hand.
fn journal_with_one_write() -> Vec<u8> {
    let payload = [&3u32.to_le_bytes()[..], &2u32.to_le_bytes(), b"key", b"42"].concat();
    let size = (payload.len() as u64).to_le_bytes();
    // crc32c of the payload, from an independent implementation.
    let crc = crc32c_by_bits(&payload).to_le_bytes();
    [&b"qrtjrnl1"[..], &size, &crc, &payload].concat()
}

fn crc32c_by_bits(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[test]
fn an_interrupted_staged_write_is_finished_at_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = interrupted(dir.path(), &journal_with_one_write());
    let kv = open(&path);
    assert_eq!(kv.get(b"key").unwrap(), Some(b"42".to_vec()));
    drop(kv);
    assert_eq!(fs::metadata(path.join("journal")).unwrap().len(), 0);
}

#[test]
fn a_staged_write_that_never_began_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal_with_one_write();
    let path = interrupted(dir.path(), &journal[..journal.len() - 1]);
    let kv = open(&path);
    assert_eq!(kv.get(b"key").unwrap(), None);
}

#[test]
fn a_staged_write_that_began_and_lost_its_journal_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal_with_one_write();
    let path = interrupted(dir.path(), &journal[..journal.len() - 1]);
    {
        let db = sled::open(&path).unwrap();
        db.open_tree("journal")
            .unwrap()
            .insert("running", &[0; 4])
            .unwrap();
        db.flush().unwrap();
    }
    let error = SledKv::open(&path, &SledConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_value_over_the_limit_refuses_the_whole_batch_and_harms_nothing() {
    on_both(|kv| {
        let mut batch = put(b"small", b"1");
        batch.put(*b"large", vec![0; VALUE_SIZE_MAX + 1]);
        let error = kv.write(batch).unwrap_err();
        assert!(matches!(error, KvError::ValueTooLarge { size, .. } if size == VALUE_SIZE_MAX + 1));
        assert_eq!(kv.get(b"small").unwrap(), None);
        let error = kv.write(put(&[0; 513], b"")).unwrap_err();
        assert!(matches!(error, KvError::KeyTooLarge { size: 513, .. }));
        kv.write(put(b"exact", &[7; VALUE_SIZE_MAX])).unwrap();
        kv.barrier().unwrap();
    });
}

#[test]
fn a_crash_in_memory_loses_what_no_barrier_covered() {
    let kv = MemoryKv::new();
    kv.write(put(b"a", b"1")).unwrap();
    kv.barrier().unwrap();
    kv.write(put(b"a", b"2")).unwrap();
    kv.write(put(b"b", b"2")).unwrap();
    kv.crash();
    assert_eq!(kv.entries(), [(b"a".to_vec(), b"1".to_vec())]);
}

#[test]
fn a_crash_by_seed_loses_a_suffix_and_every_length_occurs() {
    let mut seen = [false; 5];
    for seed in 0..200 {
        let kv = MemoryKv::new();
        for n in 0..4u8 {
            kv.write(put(b"n", &[n])).unwrap();
        }
        let kept = kv.crash_by_seed(seed);
        let expected = kept.checked_sub(1).map(|last| vec![last as u8]);
        assert_eq!(kv.get(b"n").unwrap(), expected);
        seen[kept] = true;
    }
    assert_eq!(seen, [true; 5]);
}

#[test]
fn a_failed_write_poisons_the_store() {
    let kv = MemoryKv::new();
    kv.write(put(b"a", b"1")).unwrap();
    kv.fail_next_write("no space left");
    assert!(matches!(
        kv.write(put(b"a", b"2")),
        Err(KvError::Failed {
            operation: "write",
            ..
        })
    ));
    assert!(matches!(kv.get(b"a"), Err(KvError::Poisoned { .. })));
    assert!(matches!(kv.barrier(), Err(KvError::Poisoned { .. })));
    let mut scan = kv.scan(KeyRange::all(), Direction::Ascending);
    assert!(matches!(scan.next(), Some(Err(KvError::Poisoned { .. }))));
    assert!(scan.next().is_none());
    drop(scan);
    kv.crash();
    assert_eq!(kv.get(b"a").unwrap(), None);
}

#[test]
fn a_failed_barrier_poisons_the_store_and_a_crash_may_keep_what_it_should_have_covered() {
    let mut kept = [false; 2];
    for seed in 0..50 {
        let kv = MemoryKv::new();
        kv.write(put(b"a", b"1")).unwrap();
        kv.fail_next_barrier("power is going");
        assert!(matches!(
            kv.barrier(),
            Err(KvError::Failed {
                operation: "sync",
                ..
            })
        ));
        assert!(matches!(
            kv.write(put(b"a", b"2")),
            Err(KvError::Poisoned { .. })
        ));
        kept[kv.crash_by_seed(seed)] = true;
        kv.barrier().unwrap();
    }
    assert_eq!(kept, [true; 2]);
}

#[test]
fn a_store_on_disk_keeps_everything_across_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nested").join("kv");
    {
        let kv = open(&path);
        for round in 0..20u32 {
            let mut batch = Batch::new();
            for n in 0..200u32 {
                batch.put((n * 7919 % 1000).to_be_bytes(), (round * n).to_be_bytes());
            }
            kv.write(batch).unwrap();
        }
        kv.barrier().unwrap();
        assert!(kv.size_bytes().unwrap() > 0);
    }
    let kv = open(&path);
    assert_eq!(
        collect(&kv, KeyRange::all(), Direction::Ascending).len(),
        200
    );
    for n in 0..200u32 {
        let value = kv.get(&(n * 7919 % 1000).to_be_bytes()).unwrap();
        assert_eq!(value, Some((19 * n).to_be_bytes().to_vec()));
    }
}

#[test]
fn a_copy_of_the_folder_taken_after_a_barrier_opens_with_everything() {
    // The copy is what the disk holds while the process is still running: no clean close helped it.
    let dir = tempfile::tempdir().unwrap();
    let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
    let kv = open(&original);
    for n in 0..500u32 {
        kv.write(put(&n.to_be_bytes(), &[n as u8; 100])).unwrap();
    }
    kv.barrier().unwrap();
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&original).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    let copied = open(&copy);
    assert_eq!(
        collect(&copied, KeyRange::all(), Direction::Ascending).len(),
        500
    );
}

#[test]
fn values_of_the_largest_size_stay_out_of_unsynced_files() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(dir.path());
    for round in 0..10u8 {
        let mut batch = Batch::new();
        for n in 0..200u32 {
            batch.put(n.to_be_bytes(), vec![round; VALUE_SIZE_MAX]);
        }
        kv.write(batch).unwrap();
    }
    kv.barrier().unwrap();
    let blobs = fs::read_dir(dir.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}

#[test]
fn a_second_open_of_the_same_folder_is_unusable_and_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let second = SledKv::open(dir.path(), &SledConfig::default());
    assert!(
        matches!(second, Err(OpenError::Unusable { .. })),
        "{second:?}"
    );
}

#[test]
fn damage_is_a_typed_error_and_the_folder_can_be_moved_away_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    {
        let kv = open(&path);
        for n in 0..2_000u32 {
            kv.write(put(&n.to_be_bytes(), &[3; 200])).unwrap();
        }
        kv.barrier().unwrap();
    }
    fs::write(path.join("conf"), b"this is not what sled wrote").unwrap();
    let error = SledKv::open(&path, &SledConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");

    let moved = quarantine(&path).unwrap();
    assert!(moved.ends_with("kv.damaged-1") && moved.join("db").exists() && !path.exists());
    let kv = open(&path);
    assert_eq!(collect(&kv, KeyRange::all(), Direction::Ascending).len(), 0);
    drop(kv);
    assert!(quarantine(&path).unwrap().ends_with("kv.damaged-2"));
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = SledConfig {
        flush_every_ms: 0,
        ..SledConfig::default()
    };
    let error = SledKv::open(dir.path(), &config).unwrap_err();
    assert!(matches!(
        error,
        OpenError::Config {
            field: "flush_every_ms",
            value: 0,
            ..
        }
    ));
    let config = SledConfig {
        cache_capacity_bytes: 5,
        ..SledConfig::default()
    };
    let error = SledKv::open(dir.path(), &config).unwrap_err();
    assert!(matches!(
        error,
        OpenError::Config {
            field: "cache_capacity_bytes",
            ..
        }
    ));
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(u8, Option<u8>)>),
    Barrier,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec((0u8..12, prop::option::of(any::<u8>())), 0..6).prop_map(Step::Write),
        1 => Just(Step::Barrier),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_store_in_memory_behaves_as_a_list_of_states(steps in prop::collection::vec(step(), 0..40)) {
        let kv = MemoryKv::new();
        // states[0] is what the last barrier covered, the rest one state per batch since.
        let mut states: Vec<BTreeMap<u8, u8>> = vec![BTreeMap::new()];
        for step in steps {
            match step {
                Step::Write(writes) => {
                    let mut state = states.last().unwrap().clone();
                    let mut batch = Batch::new();
                    for (key, value) in writes {
                        match value {
                            Some(value) => {
                                batch.put([key], [value]);
                                state.insert(key, value);
                            }
                            None => {
                                batch.delete([key]);
                                state.remove(&key);
                            }
                        }
                    }
                    kv.write(batch).unwrap();
                    states.push(state);
                }
                Step::Barrier => {
                    kv.barrier().unwrap();
                    states = vec![states.pop().unwrap()];
                }
                Step::Crash(seed) => {
                    let kept = kv.crash_by_seed(seed);
                    states = vec![states[kept].clone()];
                }
            }
            let expected: Vec<Entry> =
                states.last().unwrap().iter().map(|(key, value)| (vec![*key], vec![*value])).collect();
            prop_assert_eq!(collect(&kv, KeyRange::all(), Direction::Ascending), expected.clone());
            let mut down = collect(&kv, KeyRange::all(), Direction::Descending);
            down.reverse();
            prop_assert_eq!(down, expected);
        }
    }
}
