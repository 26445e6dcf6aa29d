//! Crashes, and files that are damaged or lost.

use std::collections::BTreeMap;

use super::*;
use crate::store::index::Changes;

#[test]
fn an_index_that_was_lost_is_made_anew_from_the_files() {
    let mut f = Fixture::new();
    let reader = enclave();
    let sealed: Vec<_> = (0..30).map(|n| payload(&[&reader], n)).collect();
    for (n, sealed) in (1..).zip(&sealed) {
        f.store.put(&sealed.envelope, n, Some(1000 + n)).unwrap();
    }
    f.store
        .erase(&sealed[7].hash, ErasureReason::Requested, "", 50)
        .unwrap();
    assert!(f.files().len() > 3);
    let all = |f: &Fixture| {
        let expired: Vec<_> = f.store.index.expired(u64::MAX, None).collect();
        let erasures = f.store.erasures(None, 100).unwrap();
        let entry = |sealed: &Sealed| f.store.index.entry(&sealed.hash).unwrap();
        let entries: Vec<_> = sealed.iter().map(entry).collect();
        let lists = [f.listed(None), f.listed(Some(name(&reader)))];
        (lists, erasures, expired, entries, f.store.index.watermark())
    };
    f.store.settle_all().unwrap();
    let before = all(&f);
    f.kv = Arc::new(MemoryKv::new());
    f.reopen();
    assert_eq!(all(&f), before);
}

#[test]
fn a_torn_tail_is_cut_and_everything_acknowledged_is_there() {
    for cut in [1, 5, 9, 200] {
        let mut f = Fixture::new();
        let sealed: Vec<_> = (0..3).map(|n| payload(&[], n)).collect();
        for sealed in &sealed {
            f.store.put(&sealed.envelope, 1, None).unwrap();
        }
        let last = f.files().pop().unwrap();
        let whole = fs::read(&last).unwrap();
        // An unfinished record, or a file that grew before its content arrived.
        for tail in [vec![0x17; cut], vec![0; cut]] {
            fs::write(&last, [whole.as_slice(), &tail].concat()).unwrap();
            f.reopen();
            assert_eq!(fs::read(&last).unwrap().len(), whole.len());
            for sealed in &sealed {
                assert_eq!(f.held(&sealed.hash), sealed.envelope);
            }
        }
        let more = payload(&[], 9);
        f.store.put(&more.envelope, 2, None).unwrap();
        f.reopen();
        assert_eq!(f.held(&more.hash), more.envelope);
    }
}

#[test]
fn lost_or_cut_off_files_are_damage_and_not_an_empty_store() {
    let f = Fixture::new();
    for n in 0..3 {
        f.store.put(&payload(&[], n).envelope, 1, None).unwrap();
    }
    let last = f.files().pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let open = || PayloadStore::open(f.dir.path(), f.kv.clone(), &CONFIG);
    fs::write(&last, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(open(), Err(StoreError::Damaged { .. })));
    // Also if the index is lost as well: the segment knows how long it was.
    let lost = PayloadStore::open(f.dir.path(), Arc::new(MemoryKv::new()), &CONFIG);
    assert!(matches!(lost, Err(StoreError::Damaged { .. })));
    fs::write(&last, [b"garbage!", &whole[8..]].concat()).unwrap();
    assert!(matches!(open(), Err(StoreError::Damaged { .. })));
    for file in f.files() {
        fs::remove_file(file).unwrap();
    }
    assert!(matches!(open(), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_damaged_record_is_reported_never_returned_and_replaced_by_the_next_put() {
    let mut f = Fixture::new();
    let reader = enclave();
    let sealed: Vec<_> = (0..3).map(|n| payload(&[&reader], n)).collect();
    for sealed in &sealed {
        f.store.put(&sealed.envelope, 1, None).unwrap();
    }
    let file = f.files().remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let text = &sealed[1].envelope.ciphertext()[..30];
    let at = bytes.windows(30).position(|w| w == text).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    // From here on it is read from there, and not from memory.
    f.store.settle_all().unwrap();
    assert!(matches!(
        f.store.get(&sealed[1].hash),
        Err(StoreError::Damaged { .. })
    ));
    assert_eq!(f.store.verify().unwrap().len(), 1);
    assert_eq!(f.held(&sealed[0].hash), sealed[0].envelope);
    // Made anew, the index leaves it out, and says so.
    let rebuilt = PayloadStore::open(f.dir.path(), Arc::new(MemoryKv::new()), &CONFIG).unwrap();
    assert_eq!(rebuilt.damaged_at_open().len(), 1);
    assert_eq!(rebuilt.get(&sealed[1].hash).unwrap(), None);
    drop(rebuilt);

    assert_eq!(
        f.store.put(&sealed[1].envelope, 2, None).unwrap(),
        Put::Merged
    );
    assert_eq!(f.store.verify().unwrap(), []);
    f.reopen();
    for sealed in &sealed {
        assert_eq!(f.held(&sealed.hash), sealed.envelope);
    }
}

#[test]
fn a_record_that_was_half_overwritten_when_power_failed_is_overwritten_at_the_next_open() {
    let mut f = Fixture::new();
    let gone = payload(&[], 1);
    f.store.put(&gone.envelope, 1, None).unwrap();
    let Some(Entry::Live(live)) = f.store.index.entry(&gone.hash).unwrap() else {
        panic!("not indexed");
    };
    let file = f.files().remove(0);
    let before = fs::read(&file).unwrap();
    f.store
        .erase(&gone.hash, ErasureReason::Requested, "", 2)
        .unwrap();
    // The second half of the old record is back, and so is the note that it is to be overwritten.
    let mut torn = fs::read(&file).unwrap();
    let end = usize::try_from(live.place.end()).unwrap();
    torn[end - 60..end].copy_from_slice(&before[end - 60..end]);
    fs::write(&file, torn).unwrap();
    let mark = f.store.index.watermark().unwrap().unwrap();
    let mut changes = Changes::default();
    Index::put_to_blank(&mut changes, live.place);
    f.store.index.write(changes, &mark).unwrap();
    f.reopen();
    assert_eq!(f.store.index.to_blank().unwrap(), []);
    assert_eq!(f.store.verify().unwrap(), []);
    assert!(!f.on_disk(&before[end - 30..end]));
}

/// Random operations, and after each a crash that loses some of the index's last writes, and now and then the whole index. What was
/// acknowledged must be there, what was erased must be on no disk.
#[test]
fn nothing_acknowledged_is_lost_and_nothing_erased_comes_back_whenever_it_crashes() {
    let readers = [enclave(), enclave()];
    for seed in 0..16u64 {
        let mut draw = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: u64| {
            draw ^= draw << 13;
            draw ^= draw >> 7;
            draw ^= draw << 17;
            draw % below
        };
        let mut f = if seed % 2 == 0 {
            Fixture::new()
        } else {
            Fixture::with_one_segment()
        };
        let mut held: BTreeMap<PayloadHash, Envelope> = BTreeMap::new();
        let mut erased: Vec<Envelope> = Vec::new();
        let mut all: Vec<Sealed> = Vec::new();
        for step in 0..40u32 {
            match random(10) {
                0..=4 => {
                    let sealed = payload(&[&readers[0], &readers[1]], step);
                    let copy = sealed.copies().remove(0).1;
                    f.store.put(&copy, u64::from(step), None).unwrap();
                    held.insert(sealed.hash, copy);
                    all.push(sealed);
                }
                5..=6 if !all.is_empty() => {
                    let sealed = &all[random(all.len() as u64) as usize];
                    if let Some(known) = held.get_mut(&sealed.hash) {
                        f.store
                            .put(&sealed.envelope, u64::from(step), None)
                            .unwrap();
                        known.merge(&sealed.envelope).unwrap();
                    }
                }
                7..=8 if !all.is_empty() => {
                    let hash = all[random(all.len() as u64) as usize].hash;
                    let reason = ErasureReason::Requested;
                    f.store.erase(&hash, reason, "", u64::from(step)).unwrap();
                    erased.extend(held.remove(&hash));
                }
                _ => {
                    f.store.compact().unwrap();
                }
            }
            match random(4) {
                0 => {
                    f.kv.crash_by_seed(random(u64::MAX));
                    f.reopen();
                }
                1 if random(4) == 0 => {
                    f.kv = Arc::new(MemoryKv::new());
                    f.reopen();
                }
                _ => {}
            }
            for (hash, envelope) in &held {
                assert_eq!(f.held(hash), *envelope, "seed {seed}, step {step}");
            }
            for envelope in &erased {
                let found = f.store.get(&envelope.payload_hash()).unwrap();
                assert!(matches!(found, Some(Stored::Erased(_))));
                assert!(!f.on_disk(&envelope.ciphertext()[..32]));
            }
            // Not always: a listing enters everything into the index.
            if random(4) == 0 {
                assert_eq!(f.listed(None).len(), held.len());
            }
            assert_eq!(f.store.verify().unwrap(), []);
        }
    }
}

#[test]
fn after_a_failed_write_of_the_index_the_store_refuses_to_go_on() {
    let mut f = Fixture::new();
    let (one, two) = (payload(&[], 1), payload(&[], 2));
    f.kv.fail_next_write("the disk is gone");
    let failed = f.store.put(&one.envelope, 1, None).unwrap_err();
    assert!(failed.is_fatal());
    f.kv.crash();
    assert!(matches!(
        f.store.put(&two.envelope, 1, None),
        Err(StoreError::Poisoned { .. })
    ));
    // Opened again, it has what reached the disk, and repeating the put is safe.
    f.reopen();
    assert_eq!(f.store.put(&one.envelope, 1, None).unwrap(), Put::Known);
    assert_eq!(f.listed(None), [one.hash]);
}
