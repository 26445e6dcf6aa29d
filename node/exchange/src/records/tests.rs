use std::collections::BTreeSet;

use quorate_enclave::{PrivacyFlag, Suite};
use quorate_kv::MemoryKv;
use quorate_privacy::{Acknowledgements, Terms};

use super::*;

fn identity() -> ExchangeIdentity {
    ExchangeIdentity {
        chain_id: 10,
        genesis_hash: B256::repeat_byte(1),
        node: NodeKey::from([2; 33]),
        suite: Suite::Nacl,
    }
}

fn open(kv: &Arc<MemoryKv>) -> Records {
    Records::open(Arc::clone(kv) as Arc<dyn Kv>, &identity(), true).unwrap()
}

fn hash(n: u8) -> PayloadHash {
    PayloadHash::from_bytes([n; 64])
}

fn key_of(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn terms(n: u8, parties: u8) -> SignedTerms {
    let parties: BTreeSet<_> = (0..parties).map(key_of).collect();
    let validated = !parties.is_empty();
    SignedTerms {
        terms: Terms {
            hash: hash(n),
            flag: if validated {
                PrivacyFlag::StateValidation
            } else {
                PrivacyFlag::Standard
            },
            group: None,
            sender: key_of(0),
            from: None,
            parties,
            mandatory: BTreeSet::new(),
            affected: BTreeMap::new(),
            exec_root: validated.then_some(B256::ZERO),
            base: BTreeMap::new(),
            sender_node: NodeKey::from([2; 33]),
            acknowledgements: Acknowledgements::All,
        },
        signature: [7; 65],
        path: Vec::new(),
    }
}

#[test]
fn terms_that_an_earlier_version_kept_in_parts_are_read() {
    let kv = Arc::new(MemoryKv::new());
    let records = open(&kv);
    assert_eq!(records.terms(&hash(1)), Ok(None));
    let kept = terms(1, 200);
    let mut batch = Batch::new();
    for (part, bytes) in (0..).zip(kept.encode().chunks(4000)) {
        batch.put(key(b't', &[hash(1).as_bytes(), &[part]]), bytes);
    }
    kv.write(batch).unwrap();
    assert_eq!(records.terms(&hash(1)), Ok(Some(kept)));
    assert_eq!(records.terms(&hash(2)), Ok(None));
}

#[test]
fn when_payloads_were_acknowledged_is_remembered() {
    let records = open(&Arc::new(MemoryKv::new()));
    let noted = [(hash(1), 10), (hash(2), 20)];
    records.set_acknowledged(noted.into_iter()).unwrap();
    assert_eq!(records.acknowledged_at(&hash(2)), Ok(Some(20)));
    assert_eq!(records.acknowledged_at(&hash(3)), Ok(None));
}

#[test]
fn payloads_that_name_a_party_are_listed_page_by_page() {
    let records = open(&Arc::new(MemoryKv::new()));
    for n in [3, 1, 2] {
        let terms = terms(n, 5).terms;
        records.name_parties([&terms].into_iter()).unwrap();
    }
    assert_eq!(
        records.named(&key_of(4), None, 2),
        Ok(vec![hash(1), hash(2)])
    );
    assert_eq!(
        records.named(&key_of(4), Some(&hash(2)), 2),
        Ok(vec![hash(3)])
    );
    assert_eq!(records.named(&key_of(5), None, 2), Ok(vec![]));
}

#[test]
fn completeness_and_known_keys_survive_and_depend_on_how_the_store_began() {
    for empty in [true, false] {
        let kv = Arc::new(MemoryKv::new());
        let open = || Records::open(Arc::clone(&kv) as Arc<dyn Kv>, &identity(), empty).unwrap();
        let records = open();
        assert_eq!(records.is_complete(), empty);
        assert_eq!(records.history_known(), empty);
        match records.incomplete_since() {
            None => records.set_incomplete().unwrap(),
            Some(since) => {
                // Something is lost while everyone is asked.
                records.set_incomplete().unwrap();
                records.complete(since).unwrap();
                assert!(!records.is_complete());
                records.complete(since + 1).unwrap();
            }
        }
        assert_eq!(records.is_complete(), !empty);
        records.set_history_known().unwrap();
        let nodes = [NodeKey::from([3; 33]), NodeKey::from([4; 33])];
        let tell = |n: u8, node: usize, seen| {
            records.remember_keys([(key_of(n), nodes[node])].into_iter(), seen)
        };
        let known = |node: usize, seen| Known {
            node: nodes[node],
            seen,
        };
        assert_eq!(tell(2, 1, false), Ok(1));
        assert_eq!(records.history()[&key_of(2)], known(1, false));
        assert_eq!(tell(1, 0, true), Ok(1));
        // Hearsay does not take a key from where the table had it; the table does.
        assert_eq!(tell(1, 1, false), Ok(0));
        assert_eq!(records.history()[&key_of(1)], known(0, true));
        assert_eq!(tell(1, 1, true), Ok(1));
        records.make_durable().unwrap();
        kv.crash();
        let records = open();
        assert_eq!(records.is_complete(), !empty);
        assert!(records.history_known());
        assert_eq!(records.history()[&key_of(1)], known(1, true));
        assert_eq!(records.history()[&key_of(2)], known(1, false));
    }
}

#[test]
fn alarms_are_numbered_once_each_and_the_oldest_make_room() {
    let kv = Arc::new(MemoryKv::new());
    let records = open(&kv);
    let alarm = |n: u64| Alarm {
        number: 0,
        at_ms: n,
        transaction: B256::from(alloy_primitives::U256::from(n)),
        height: n,
        payload: hash(1),
        node: NodeKey::from([3; 33]),
        ours: B256::repeat_byte(1),
        theirs: B256::repeat_byte(2),
    };
    for n in 1..=ALARMS_MAX + 3 {
        let raised = records.raise(alarm(n)).unwrap().unwrap();
        assert_eq!(raised.number, n);
        assert_eq!(records.raise(alarm(n)), Ok(None));
    }
    assert_eq!(records.alarm_count(), ALARMS_MAX);
    let first = records.alarms(0, 2).unwrap();
    assert_eq!(
        first[0],
        Alarm {
            number: 4,
            ..alarm(4)
        }
    );
    assert_eq!(records.alarms(first[1].number, 1).unwrap()[0].number, 6);
    records.make_durable().unwrap();
    let records = open(&kv);
    assert_eq!(records.alarm_count(), ALARMS_MAX);
    assert_eq!(
        records
            .raise(alarm(ALARMS_MAX + 4))
            .unwrap()
            .unwrap()
            .number,
        ALARMS_MAX + 4
    );
}
