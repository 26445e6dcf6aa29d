mod damage;

use std::fs;
use std::path::PathBuf;

use quorate_kv::MemoryKv;
use tempfile::TempDir;

use super::commit::UNINDEXED_MAX;
use super::*;
use crate::fixtures::{announcement, enclave, name, sealed};
use crate::{LocalEnclave, PublicKey, Sealed, Suite};

/// Small, so that a few payloads fill several segments.
const CONFIG: StoreConfig = StoreConfig {
    segment_bytes: 4096,
};

struct Fixture {
    config: StoreConfig,
    dir: TempDir,
    kv: Arc<MemoryKv>,
    store: PayloadStore,
}

impl Fixture {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    /// With one segment for everything, so that new payloads are not in the index at once.
    fn with_one_segment() -> Self {
        Self::with(StoreConfig::default())
    }

    fn with(config: StoreConfig) -> Self {
        let dir = TempDir::new().unwrap();
        let kv = Arc::new(MemoryKv::new());
        let store = PayloadStore::open(dir.path(), kv.clone(), &config).unwrap();
        Self {
            config,
            dir,
            kv,
            store,
        }
    }

    fn reopen(&mut self) {
        self.store = PayloadStore::open(self.dir.path(), self.kv.clone(), &self.config).unwrap();
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn on_disk(&self, bytes: &[u8]) -> bool {
        self.files().iter().any(|file| {
            let content = fs::read(file).unwrap();
            content.windows(bytes.len()).any(|window| window == bytes)
        })
    }

    fn held(&self, hash: &PayloadHash) -> Envelope {
        match self.store.get(hash).unwrap() {
            Some(Stored::Held { envelope, .. }) => *envelope,
            other => panic!("{hash}: {other:?}"),
        }
    }

    fn listed(&self, party: Option<PublicKey>) -> Vec<PayloadHash> {
        let query = ListQuery {
            party,
            limit: 1000,
            ..ListQuery::default()
        };
        let listed = self.store.list(&query).unwrap();
        listed.into_iter().map(|l| l.hash).collect()
    }
}

fn payload(to: &[&LocalEnclave], n: u32) -> Sealed {
    sealed(Suite::Nacl, to, &[n.to_be_bytes(); 100].concat())
}

#[test]
fn a_payload_is_stored_once_and_read_as_it_was() {
    let mut f = Fixture::new();
    let sealed = payload(&[&enclave()], 1);
    assert_eq!(f.store.get(&sealed.hash).unwrap(), None);
    assert_eq!(
        f.store.put(&sealed.envelope, 50, None).unwrap(),
        Put::Stored
    );
    let size = f.store.size_bytes().unwrap();
    assert_eq!(f.store.put(&sealed.envelope, 60, None).unwrap(), Put::Known);
    assert_eq!(f.store.size_bytes().unwrap(), size);
    for _ in 0..2 {
        assert_eq!(f.held(&sealed.hash), sealed.envelope);
        assert!(f.store.holds(&sealed.hash).unwrap());
        f.reopen();
    }
}

#[test]
fn further_boxes_are_merged_in_and_the_earlier_record_is_overwritten() {
    let mut f = Fixture::new();
    let (one, two) = (enclave(), enclave());
    let sealed = payload(&[&one, &two], 1);
    let copy = |to| sealed.envelope.copy_for(name(to)).unwrap();
    assert_eq!(f.store.put(&copy(&one), 1, Some(500)).unwrap(), Put::Stored);
    assert_eq!(f.store.put(&copy(&two), 2, None).unwrap(), Put::Merged);
    assert_eq!(f.store.put(&copy(&two), 3, None).unwrap(), Put::Known);
    for _ in 0..2 {
        assert_eq!(f.held(&sealed.hash).recipients().count(), 2);
        assert_eq!(f.listed(None), [sealed.hash]);
        assert_eq!(f.listed(Some(name(&one))), [sealed.hash]);
        assert_eq!(f.listed(Some(name(&two))), [sealed.hash]);
        // One record of the two is blank.
        let found = fs::read(&f.files()[0]).unwrap();
        let text = sealed.envelope.ciphertext();
        let copies = found.windows(text.len()).filter(|w| *w == text).count();
        assert_eq!(copies, 1);
        f.reopen();
    }
    assert!(matches!(
        f.store.get(&sealed.hash).unwrap(),
        Some(Stored::Held {
            expires_at_ms: Some(500),
            ..
        })
    ));
}

fn with(sealed: &Sealed, beside: &str) -> ToStore {
    ToStore {
        envelope: sealed.envelope.clone(),
        expires_at_ms: None,
        beside: Some(Bytes::copy_from_slice(beside.as_bytes())),
    }
}

#[test]
fn what_lies_beside_a_payload_is_kept_replaced_if_that_is_allowed_and_erased_with_it() {
    let mut f = Fixture::new();
    let (one, two) = (payload(&[&enclave()], 1), payload(&[&enclave()], 2));
    f.store.put(&one.envelope, 1, None).unwrap();
    let put = |f: &Fixture, item, choice| {
        let mut put = f.store.put_all(vec![item], 2, &|_, _, _| choice);
        put.remove(0)
    };
    let beside = |f: &Fixture, sealed: &Sealed| match f.store.get(&sealed.hash).unwrap() {
        Some(Stored::Held { beside, .. }) => beside,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        put(&f, with(&one, "first terms"), Beside::Fixed),
        Ok(Put::Fixed)
    );
    assert_eq!(
        put(&f, with(&one, "first terms"), Beside::New),
        Ok(Put::Merged)
    );
    assert_eq!(
        put(&f, with(&two, "first terms"), Beside::Fixed),
        Ok(Put::Stored)
    );
    assert_eq!(
        put(&f, with(&two, "first terms"), Beside::Fixed),
        Ok(Put::Known)
    );
    assert_eq!(f.store.put(&two.envelope, 3, None), Ok(Put::Known));
    assert_eq!(
        put(&f, with(&two, "second terms"), Beside::Fixed),
        Ok(Put::Fixed)
    );
    assert_eq!(put(&f, with(&two, "the same"), Beside::Old), Ok(Put::Known));
    assert_eq!(
        put(&f, with(&one, "second terms"), Beside::New),
        Ok(Put::Merged)
    );
    for lost_index in [false, true] {
        assert_eq!(beside(&f, &one).unwrap(), "second terms");
        assert_eq!(beside(&f, &two).unwrap(), "first terms");
        assert!(f.on_disk(b"second terms"));
        if lost_index {
            f.kv = Arc::new(MemoryKv::new());
        }
        f.reopen();
    }
    let reason = ErasureReason::Requested;
    f.store.erase(&one.hash, reason, "", 4).unwrap().unwrap();
    assert!(!f.on_disk(b"second terms"));
    assert!(f.on_disk(b"first terms"));
    for long in [String::new(), "a".repeat(BESIDE_BYTES_MAX + 1)] {
        let refused = put(&f, with(&two, &long), Beside::New);
        assert!(matches!(refused, Err(StoreError::OutOfRange { .. })));
    }
}

#[test]
fn payloads_stored_together_are_listed_moved_and_erased_one_by_one() {
    let mut f = Fixture::new();
    let reader = enclave();
    let sealed: Vec<_> = (0..130).map(|n| payload(&[&reader], n)).collect();
    let items = sealed.iter().map(|sealed| with(sealed, "terms")).collect();
    assert!(
        f.store
            .put_all(items, 5, &|_, _, _| Beside::Fixed)
            .iter()
            .all(|put| *put == Ok(Put::Stored))
    );
    // One for itself and one in its sender's list, each of which is another; next to nothing for the two that they share.
    assert!(f.kv.len() < 2 * 130 + 10, "{}", f.kv.len());
    let mut left: Vec<_> = sealed.iter().map(|sealed| sealed.hash).collect();
    for n in [129, 100, 64, 63, 51, 50, 49, 7, 1, 0] {
        let hash = left.remove(n);
        let reason = ErasureReason::Requested;
        f.store.erase(&hash, reason, "", 6).unwrap().unwrap();
    }
    // One gains something, and moves to the end.
    let moved = left.remove(3);
    let of = sealed.iter().find(|sealed| sealed.hash == moved).unwrap();
    let put = f
        .store
        .put_all(vec![with(of, "others")], 7, &|_, _, _| Beside::New);
    assert_eq!(put, [Ok(Put::Merged)]);
    left.push(moved);
    for lost_index in [false, true, false] {
        assert_eq!(f.listed(None), left);
        assert_eq!(f.listed(Some(name(&reader))), left);
        let from = |listed: &Listed| ListQuery {
            after: Some(listed.cursor),
            limit: 1,
            ..ListQuery::default()
        };
        let mut query = ListQuery {
            limit: 1,
            ..ListQuery::default()
        };
        for hash in &left {
            let page = f.store.list(&query).unwrap();
            assert_eq!(page[0].hash, *hash);
            query = from(&page[0]);
        }
        f.store.compact().unwrap();
        if lost_index {
            f.kv = Arc::new(MemoryKv::new());
        }
        f.reopen();
    }
}

#[test]
fn new_payloads_are_here_before_they_are_in_the_index_and_after_a_crash() {
    let mut f = Fixture::with_one_segment();
    let sealed: Vec<_> = (0..300).map(|n| payload(&[], n)).collect();
    for (n, sealed) in sealed.iter().enumerate() {
        f.store.put(&sealed.envelope, 1, None).unwrap();
        assert_eq!(f.held(&sealed.hash), sealed.envelope);
        assert!(f.store.holds(&sealed.hash).unwrap());
        let entered = f.store.index.entry(&sealed.hash).unwrap();
        // The first of the segment, and then the last of so many.
        let at_once = n % UNINDEXED_MAX == 0;
        assert_eq!(entered.is_some(), at_once, "payload {n}");
    }
    let last = &sealed[299];
    assert_eq!(f.store.put(&last.envelope, 2, None), Ok(Put::Known));
    let erased = f
        .store
        .erase(&sealed[298].hash, ErasureReason::Requested, "", 3);
    erased.unwrap().unwrap();
    let more = payload(&[], 300);
    f.store.put(&more.envelope, 4, None).unwrap();
    for crash in [true, false] {
        for sealed in sealed.iter().take(298).chain([last, &more]) {
            assert_eq!(f.held(&sealed.hash), sealed.envelope);
        }
        assert!(!f.store.holds(&sealed[298].hash).unwrap());
        assert!(!f.on_disk(&sealed[298].envelope.ciphertext()[..40]));
        if crash {
            f.kv.crash();
        }
        f.reopen();
    }
    assert_eq!(f.listed(None).len(), 300);
}

#[test]
fn the_same_ciphertext_with_another_header_is_a_conflict() {
    let f = Fixture::new();
    let sealed = payload(&[&enclave()], 1);
    f.store.put(&sealed.envelope, 1, None).unwrap();
    let mut other = sealed.envelope.clone();
    other.header.context.chain_id += 1;
    assert_eq!(
        f.store.put(&other, 2, None),
        Err(StoreError::Conflict { hash: sealed.hash })
    );
}

#[test]
fn an_erased_payload_is_gone_from_the_disk_stays_on_record_and_does_not_come_back() {
    let mut f = Fixture::new();
    let reader = enclave();
    let (kept, gone) = (payload(&[&reader], 1), payload(&[&reader], 2));
    for sealed in [&kept, &gone] {
        f.store.put(&sealed.envelope, 10, Some(99)).unwrap();
    }
    let erasure = f
        .store
        .erase(&gone.hash, ErasureReason::Requested, "case 17", 20)
        .unwrap()
        .unwrap();
    assert_eq!(
        (erasure.erased_at_ms, erasure.note.as_str()),
        (20, "case 17")
    );
    for lost_index in [false, true] {
        assert!(!f.on_disk(&gone.envelope.ciphertext()[..40]));
        assert!(f.on_disk(&kept.envelope.ciphertext()[..40]));
        let stored = f.store.get(&gone.hash).unwrap();
        assert_eq!(stored, Some(Stored::Erased(erasure.clone())));
        let again = f
            .store
            .erase(&gone.hash, ErasureReason::Expired, "", 30)
            .unwrap();
        assert_eq!(again, Some(erasure.clone()));
        assert_eq!(
            f.store.put(&gone.envelope, 40, None),
            Err(StoreError::Erased(erasure.clone()))
        );
        assert_eq!(f.listed(None), [kept.hash]);
        assert_eq!(f.listed(Some(name(&reader))), [kept.hash]);
        assert_eq!(f.store.erasures(None, 10).unwrap(), vec![erasure.clone()]);
        if lost_index {
            f.kv = Arc::new(MemoryKv::new());
        }
        f.reopen();
    }
    assert_eq!(
        f.store
            .erase(&payload(&[], 3).hash, ErasureReason::Requested, "", 1),
        Ok(None)
    );
    let long = "a".repeat(513);
    assert!(
        f.store
            .erase(&kept.hash, ErasureReason::Requested, &long, 1)
            .is_err()
    );
    assert_eq!(f.held(&kept.hash), kept.envelope);
}

#[test]
fn what_has_expired_is_named_oldest_first_page_by_page_and_no_more_once_it_is_erased() {
    let f = Fixture::new();
    let sealed: Vec<_> = (0..5).map(|n| payload(&[], n)).collect();
    let expiries = [Some(300), Some(100), None, Some(200), Some(200)];
    for (sealed, expires) in sealed.iter().zip(expiries) {
        f.store.put(&sealed.envelope, 1, expires).unwrap();
    }
    let hash = |n: usize| sealed[n].hash;
    let mut second = [(200, hash(3)), (200, hash(4))];
    second.sort();
    assert_eq!(f.store.expired(99, None, 10).unwrap(), []);
    assert_eq!(f.store.expired(250, None, 1).unwrap(), [(100, hash(1))]);
    let behind = Some((100, hash(1)));
    assert_eq!(f.store.expired(250, behind, 1).unwrap(), second[..1]);
    assert_eq!(f.store.expired(250, behind, 10).unwrap(), second);
    assert_eq!(f.store.expired(250, Some(second[1]), 10).unwrap(), []);
    assert!(f.store.expired(250, None, 0).is_err());
    let erase = |hash| f.store.erase(hash, ErasureReason::Expired, "", 250);
    erase(&second[0].1).unwrap();
    assert_eq!(
        f.store.expired(250, None, 10).unwrap(),
        [(100, hash(1)), second[1]]
    );
}

#[test]
fn a_payload_that_is_given_up_is_not_taken_any_more_and_one_that_is_here_is_not_given_up() {
    let mut f = Fixture::new();
    let (here, never) = (payload(&[], 1), payload(&[], 2));
    f.store.put(&here.envelope, 1, None).unwrap();
    let both = [here.hash, never.hash];
    let given_up = f.store.give_up(&both, "its sender is gone", 7).unwrap();
    assert_eq!(given_up[0], None);
    let record = given_up[1].clone().unwrap();
    assert_eq!(
        (record.reason, record.note.as_str(), record.erased_at_ms),
        (ErasureReason::GivenUp, "its sender is gone", 7)
    );
    for _ in 0..2 {
        assert_eq!(f.store.give_up(&both, "again", 8), Ok(given_up.clone()));
        let put = f.store.put(&never.envelope, 8, None);
        assert_eq!(put, Err(StoreError::Erased(record.clone())));
        assert_eq!(
            f.store.get(&never.hash),
            Ok(Some(Stored::Erased(record.clone())))
        );
        assert_eq!(
            f.store.erasures(None, 10).unwrap(),
            std::slice::from_ref(&record)
        );
        f.reopen();
    }
    // Also when the index has to be made again from the files.
    f.kv = Arc::new(MemoryKv::new());
    f.reopen();
    assert_eq!(f.store.get(&never.hash), Ok(Some(Stored::Erased(record))));
    let long = "a".repeat(513);
    assert!(f.store.give_up(&both, &long, 9).is_err());
}

#[test]
fn tombstones_that_share_a_value_of_the_index_are_all_listed_after_they_are_moved() {
    let mut f = Fixture::new();
    let sealed: Vec<_> = (0..14).map(|n| payload(&[], n)).collect();
    let put = |f: &Fixture, range: std::ops::Range<usize>| {
        for sealed in &sealed[range] {
            f.store.put(&sealed.envelope, 5, None).unwrap();
        }
    };
    // The first of them in one segment with payloads that are erased, so that it is cleaned up, the others in the next.
    put(&f, 0..2);
    let given_up: Vec<_> = (100..124).map(|n| payload(&[], n).hash).collect();
    f.store.give_up(&given_up, "", 7).unwrap();
    put(&f, 2..14);
    for sealed in &sealed[..2] {
        let erased = f.store.erase(&sealed.hash, ErasureReason::Requested, "", 9);
        assert!(erased.unwrap().is_some());
    }
    let erased = sealed[..2].iter().map(|sealed| sealed.hash);
    let expected: Vec<_> = given_up.iter().copied().chain(erased).collect();
    let first = f.files()[0].clone();
    f.store.compact().unwrap();
    assert!(!f.files().contains(&first));
    for _ in 0..2 {
        let erasures = f.store.erasures(None, 1000).unwrap();
        let listed: Vec<_> = erasures.iter().map(|erasure| erasure.hash).collect();
        assert_eq!(listed, expected);
        f.reopen();
    }
}

#[test]
fn listings_go_page_by_page_by_time_and_party_without_gaps() {
    let f = Fixture::new();
    let (one, two) = (enclave(), enclave());
    let mut expected = Vec::new();
    for n in 0..20u32 {
        let reader = if n % 3 == 0 { &one } else { &two };
        let sealed = payload(&[reader], n);
        // The clock of the machine goes back in between.
        let now = if n == 10 { 5 } else { u64::from(100 + n) };
        f.store.put(&sealed.envelope, now, None).unwrap();
        if n % 3 == 0 {
            expected.push(sealed.hash);
        }
    }
    let mut seen = Vec::new();
    let mut query = ListQuery {
        party: Some(name(&one)),
        limit: 2,
        ..ListQuery::default()
    };
    loop {
        let page = f.store.list(&query).unwrap();
        let Some(last) = page.last() else { break };
        query.after = Some(last.cursor);
        seen.extend(page.iter().map(|listed| listed.hash));
    }
    assert_eq!(seen, expected);
    assert_eq!(f.listed(None).len(), 20);
    let since = ListQuery {
        since_ms: 115,
        limit: 100,
        ..ListQuery::default()
    };
    assert_eq!(f.store.list(&since).unwrap().len(), 5);
    for limit in [0, LIST_LIMIT_MAX + 1] {
        let query = ListQuery {
            limit,
            ..ListQuery::default()
        };
        assert!(matches!(
            f.store.list(&query),
            Err(StoreError::OutOfRange { field: "limit", .. })
        ));
    }
}

#[test]
fn compaction_gives_room_back_and_keeps_payloads_tombstones_and_their_order() {
    let mut f = Fixture::new();
    let reader = enclave();
    let sealed: Vec<_> = (0..40).map(|n| payload(&[&reader], n)).collect();
    for sealed in &sealed {
        f.store.put(&sealed.envelope, 1, None).unwrap();
    }
    for (n, sealed) in sealed.iter().enumerate() {
        if n % 4 != 0 {
            f.store
                .erase(&sealed.hash, ErasureReason::Requested, "x", 2)
                .unwrap();
        }
    }
    let (listed, erasures) = (f.listed(None), f.store.erasures(None, 100).unwrap());
    assert_eq!((listed.len(), erasures.len()), (10, 30));
    let before = f.store.size_bytes().unwrap();
    assert!(f.store.compact().unwrap() > before / 3);
    assert!(f.store.size_bytes().unwrap() < before * 2 / 3);
    for step in 0..3 {
        assert_eq!(f.listed(None), listed);
        assert_eq!(f.listed(Some(name(&reader))), listed);
        assert_eq!(f.store.erasures(None, 100).unwrap(), erasures);
        for hash in &listed {
            assert_eq!(f.held(hash).payload_hash(), *hash);
        }
        assert_eq!(f.store.verify().unwrap(), []);
        if step == 1 {
            f.kv = Arc::new(MemoryKv::new());
        }
        f.reopen();
    }
}

#[test]
fn writers_at_once_all_get_what_they_were_promised() {
    let f = Fixture::new();
    let reader = enclave();
    let shared = payload(&[&reader, &enclave()], 0);
    let copies = shared.copies();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (f, reader, copies) = (&f, &reader, &copies);
            scope.spawn(move || {
                for n in 0..10 {
                    let sealed = payload(&[reader], thread * 100 + n);
                    let put = f.store.put(&sealed.envelope, 1, None).unwrap();
                    assert_eq!(put, Put::Stored);
                    assert_eq!(f.held(&sealed.hash), sealed.envelope);
                    let (_, copy) = &copies[(n % 2) as usize];
                    f.store.put(copy, 1, None).unwrap();
                    if n % 3 == 0 {
                        let reason = ErasureReason::Requested;
                        f.store.erase(&sealed.hash, reason, "", 2).unwrap().unwrap();
                        assert!(!f.store.holds(&sealed.hash).unwrap());
                    }
                }
            });
        }
    });
    assert_eq!(f.held(&shared.hash).recipients().count(), 2);
    assert_eq!(f.listed(None).len(), 4 * 6 + 1);
    assert_eq!(f.store.erasures(None, 100).unwrap().len(), 16);
    assert_eq!(f.store.verify().unwrap(), []);
}

#[test]
fn settings_out_of_range_are_refused() {
    let dir = TempDir::new().unwrap();
    for segment_bytes in [4095, (1 << 30) + 1] {
        let config = StoreConfig { segment_bytes };
        let opened = PayloadStore::open(dir.path(), Arc::new(MemoryKv::new()), &config);
        assert!(matches!(opened, Err(StoreError::OutOfRange { .. })));
    }
}

#[test]
fn large_boxes_of_the_second_suite_are_stored_as_well() {
    let f = Fixture::new();
    let (one, two) = (enclave(), enclave());
    let sealed = sealed(Suite::Hybrid, &[&one], b"payload");
    f.store.put(&sealed.envelope, 1, None).unwrap();
    let held = f.held(&sealed.hash);
    let resealed = one.reseal_now(held, sealed.envelope.context(), &[announcement(&two)]);
    assert_eq!(
        f.store.put(&resealed.unwrap(), 2, None).unwrap(),
        Put::Merged
    );
    assert_eq!(f.listed(Some(name(&two))), [sealed.hash]);
}
