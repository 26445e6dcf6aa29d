use std::collections::BTreeSet;

use super::*;

use alloy_primitives::{Bloom, Bytes, Log, U256, logs_bloom};
use proptest::prelude::*;
use quorate_chain::PublicForm;
use quorate_enclave::{GroupId, NodeKey, PrivacyFlag, PublicKey};
use quorate_kv::MemoryKv;

fn record(number: u8, height: u64) -> PrivateRecord {
    PrivateRecord {
        transaction: B256::repeat_byte(number),
        height,
        position: 3,
        form: PublicForm::Marker,
        hash: PayloadHash::from_bytes([number; 64]),
        inner_hash: None,
        inner_transaction: None,
        sender: Address::repeat_byte(number),
        nonce: 7,
        to: None,
        data: Bytes::from(vec![number; 9_000]),
        gas_limit: 1,
        gas_price: 2,
        outcome: RecordOutcome::Success,
        gas_used: 3,
        logs: Vec::new(),
        bloom: Bloom::ZERO,
        contract_address: None,
        flag: PrivacyFlag::Standard,
        group: None,
        as_recipient: None,
        sender_key: None,
        sender_node: None,
        we_sent: false,
        affected: vec![Address::repeat_byte(number)],
        digest: B256::ZERO,
    }
}

fn contract(number: u8, created_at: u64) -> ContractMetadata {
    let parties: BTreeSet<PublicKey> = (0..=255).map(|i| PublicKey::from_bytes([i; 32])).collect();
    ContractMetadata {
        address: Address::repeat_byte(number),
        creation_transaction: B256::repeat_byte(number),
        creation_hash: PayloadHash::from_bytes([number; 64]),
        flag: PrivacyFlag::StateValidation,
        parties: Some(parties.clone()),
        mandatory: parties,
        creator: PublicKey::from_bytes([1; 32]),
        as_recipient: PublicKey::from_bytes([2; 32]),
        created_at,
    }
}

fn position(cursor: u64, records: u64) -> Position {
    Position {
        cursor,
        starts_at: 1,
        records,
        erased: 0,
    }
}

fn change(private_height: u64, contract: u8) -> Change {
    let number = u8::try_from(private_height).unwrap();
    let root = B256::repeat_byte(number);
    Change {
        private_height,
        root,
        storage_roots: vec![(Address::repeat_byte(contract), root)],
    }
}

fn any_record() -> impl Strategy<Value = PrivateRecord> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    let outcome = prop_oneof![
        Just(RecordOutcome::Success),
        bytes().prop_map(|data| RecordOutcome::Reverted { data }),
        ".{0,40}".prop_map(|reason| RecordOutcome::Halted { reason }),
        ".{0,40}".prop_map(|reason| RecordOutcome::Refused { reason }),
        Just(RecordOutcome::Erased),
    ];
    let options = proptest::option::of(any::<u8>());
    let logs = proptest::collection::vec((any::<u8>(), bytes()), 0..3);
    (any::<u8>(), any::<u64>(), outcome, options, logs, bytes()).prop_map(
        |(number, height, outcome, option, logs, data)| {
            let logs: Vec<Log> = logs
                .into_iter()
                .map(|(number, data)| {
                    let topics = vec![B256::repeat_byte(number)];
                    Log::new_unchecked(Address::repeat_byte(number), topics, data)
                })
                .collect();
            PrivateRecord {
                form: [PublicForm::Marker, PublicForm::Quorum][usize::from(number % 2)],
                inner_hash: option.map(|byte| PayloadHash::from_bytes([byte; 64])),
                inner_transaction: option.map(B256::repeat_byte),
                to: option.map(Address::repeat_byte),
                outcome,
                data,
                bloom: logs_bloom(&logs),
                logs,
                contract_address: option.map(Address::repeat_byte),
                flag: PrivacyFlag::from_number(number % 4).unwrap(),
                group: option.map(|byte| GroupId::from_bytes([byte; 32])),
                as_recipient: option.map(|byte| PublicKey::from_bytes([byte; 32])),
                sender_key: option.map(|byte| PublicKey::from_bytes([byte; 32])),
                sender_node: option.map(NodeKey::repeat_byte),
                we_sent: number % 2 == 0,
                ..record(number, height)
            }
        },
    )
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written(record in any_record()) {
        prop_assert_eq!(codec::decode_record(&codec::encode_record(&record)), Ok(record));
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(codec::decode_record(&bytes).is_err());
        prop_assert!(codec::decode_contract(&bytes).is_err());
    }
}

#[test]
fn large_entries_come_back_whole() {
    let index = Index::new(Arc::new(MemoryKv::new()));
    let contracts = [contract(1, 4), contract(2, 4)];
    index
        .write_block(
            &position(4, 1),
            None,
            &[record(1, 4)],
            &contracts,
            &Extended::default(),
        )
        .unwrap();
    assert_eq!(index.record_at(4, 3), Ok(Some(record(1, 4))));
    for (height, position) in [(3, 3), (4, 2), (4, 4), (5, 3)] {
        assert_eq!(index.record_at(height, position), Ok(None));
    }
    for contract in &contracts {
        assert_eq!(
            index.contract(&contract.address),
            Ok(Some(contract.clone()))
        );
    }
    let after = |address| -> Vec<Address> {
        index
            .contracts_after(address)
            .collect::<Result<_, _>>()
            .unwrap()
    };
    assert_eq!(
        after(None),
        contracts.clone().map(|contract| contract.address)
    );
    assert_eq!(
        after(Some(Address::repeat_byte(1))),
        [Address::repeat_byte(2)]
    );
    assert!(after(Some(Address::repeat_byte(2))).is_empty());
}

#[test]
fn rewinding_takes_back_exactly_what_came_later() {
    let kv = Arc::new(MemoryKv::new());
    let index = Index::new(kv.clone());
    let chain = Chain {
        chain_id: 1,
        genesis_hash: B256::ZERO,
    };
    index.begin(&chain, position(0, 0)).unwrap();
    let block = |height, records, private, number, created: &[ContractMetadata]| {
        let change = change(private, 9);
        let record = PrivateRecord {
            affected: vec![Address::repeat_byte(9), Address::repeat_byte(number)],
            ..record(number, height)
        };
        index
            .write_block(
                &position(height, records),
                Some(&change),
                &[record],
                created,
                &Extended::default(),
            )
            .unwrap();
    };
    block(4, 1, 1, 1, &[contract(9, 4)]);
    let before = kv.entries();
    block(6, 2, 2, 2, &[contract(2, 6)]);
    block(7, 3, 3, 3, &[contract(3, 7)]);
    assert_eq!(index.change_at(6), Ok(Some((2, B256::repeat_byte(2)))));
    assert_eq!(
        index.storage_root(&Address::repeat_byte(9), 3),
        Ok(B256::repeat_byte(3))
    );
    assert_eq!(index.rewind(5, 1).unwrap(), position(5, 1));
    index.set_position(&position(4, 1)).unwrap();
    assert_eq!(kv.entries(), before);
    assert_eq!(index.block_of(2), Ok(None));
    assert_eq!(index.change_at(100), Ok(Some((1, B256::repeat_byte(1)))));
    assert_eq!(index.change_at(3), Ok(None));
    assert_eq!(
        index.storage_root(&Address::repeat_byte(9), 3),
        Ok(B256::repeat_byte(1))
    );
    assert_eq!(
        index.storage_root(&Address::repeat_byte(9), 0),
        Ok(EMPTY_ROOT_HASH)
    );
}

/// `count` records of a block at every second position; each eighth has so much input that it fills values alone.
fn block(height: u64, count: u32) -> Vec<PrivateRecord> {
    let each = (0..count).map(|n| {
        let number = u8::try_from(n % 200).unwrap();
        let length = if n % 8 == 2 { 5_000 } else { 300 };
        PrivateRecord {
            transaction: B256::from(U256::from(height * 1_000 + u64::from(n))),
            position: 2 * n + 1,
            data: vec![number; length].into(),
            inner_hash: (n % 2 == 0).then(|| PayloadHash::from_bytes([number + 50; 64])),
            ..record(number, height)
        }
    });
    each.collect()
}

fn write(index: &Index, height: u64, records: &[PrivateRecord]) {
    let before = index.records(0, u64::MAX).count() + records.len();
    let position = position(height, before as u64);
    let nothing = Extended::default();
    index
        .write_block(&position, None, records, &[], &nothing)
        .unwrap();
}

fn all(index: &Index, from: u64, to: u64) -> Vec<PrivateRecord> {
    index.records(from, to).collect::<Result<_, _>>().unwrap()
}

#[test]
fn records_of_a_block_share_values_and_keep_their_order() {
    let kv = Arc::new(MemoryKv::new());
    let index = Index::new(Arc::clone(&kv) as Arc<dyn Kv>);
    let blocks = [block(4, 1), block(5, 25), block(7, 12)];
    for records in &blocks {
        write(&index, records[0].height, records);
    }
    let expected = blocks.concat();
    assert_eq!(all(&index, 0, u64::MAX), expected);
    assert_eq!(all(&index, 5, 6), blocks[1]);
    for record in &expected {
        let found = index.record_at(record.height, record.position);
        assert_eq!(found, Ok(Some(record.clone())));
        assert_eq!(
            index.record_at(record.height, record.position + 1),
            Ok(None)
        );
    }
    let values = kv.scan(KeyRange::prefix(b"n".to_vec()), Direction::Ascending);
    assert!(2 * values.count() < expected.len());
    // Their input goes, and so do values.
    for record in &expected {
        let without = PrivateRecord {
            data: Bytes::new(),
            ..record.clone()
        };
        index.replace_record(&without).unwrap();
        let found = index.record_at(record.height, record.position);
        assert_eq!(found, Ok(Some(without)));
    }
    assert_eq!(all(&index, 0, u64::MAX).len(), expected.len());
    index.rewind(5, 0).unwrap();
    assert_eq!(all(&index, 0, u64::MAX).len(), 26);
    let mut batch = Batch::new();
    batch.put([&height_key(b'n', 6)[..], &[0; 6]].concat(), vec![0; 34]);
    kv.write(batch).unwrap();
    assert!(index.records(6, 6).next().unwrap().is_err());
    assert!(index.record_at(6, 0).is_err());
}

/// An index whose runs are short.
fn with_runs(kv: &Arc<MemoryKv>, entries: usize) -> Index {
    let index = Index {
        carried: Arc::new(Carried::new(entries)),
        ..Index::new(Arc::clone(kv) as Arc<dyn Kv>)
    };
    index.load().unwrap();
    index
}

/// Every record that there should be is found by each of its payloads.
fn check_payloads(index: &Index, records: &[PrivateRecord]) {
    for number in 0..=255 {
        let hash = PayloadHash::from_bytes([number; 64]);
        let carries = |r: &&PrivateRecord| r.hash == hash || r.inner_hash == Some(hash);
        let expected: Vec<_> = records.iter().filter(carries).cloned().collect();
        assert_eq!(index.records_of(&hash), Ok(expected), "payload {number}");
    }
}

#[test]
fn transactions_are_found_by_their_payloads_whether_in_a_run_or_not() {
    for run_entries in [1, 7, 40, 300, 10_000] {
        let kv = Arc::new(MemoryKv::new());
        let index = with_runs(&kv, run_entries);
        index.set_position(&position(0, 0)).unwrap();
        let mut written = Vec::new();
        // The same payloads in every block, one of them so often that it fills more than a value of a run.
        for height in 1..=9 {
            let mut records = block(height, 20);
            for record in &mut records[4..] {
                record.hash = PayloadHash::from_bytes([77; 64]);
            }
            write(&index, height, &records);
            written.extend(records);
        }
        check_payloads(&index, &written);
        // Another start, after a power loss or none.
        kv.barrier().unwrap();
        check_payloads(&with_runs(&kv, run_entries), &written);
        // Blocks are taken back, and others of the same height have other private transactions.
        index.rewind(4, 0).unwrap();
        written.retain(|record| record.height <= 4);
        let index = with_runs(&kv, run_entries);
        check_payloads(&index, &written);
        let mut others = block(5, 9);
        for record in &mut others {
            record.position += 1;
            record.hash = PayloadHash::from_bytes([78; 64]);
        }
        write(&index, 5, &others);
        written.extend(others);
        check_payloads(&index, &written);
        check_payloads(&with_runs(&kv, run_entries), &written);
    }
}

#[test]
fn a_power_loss_leaves_every_record_that_it_leaves_to_be_found() {
    for seed in 0..60 {
        let kv = Arc::new(MemoryKv::new());
        let index = with_runs(&kv, 25);
        index.set_position(&position(0, 0)).unwrap();
        for height in 1..=6 {
            write(
                &index,
                height,
                &block(height, 3 + u32::try_from(seed % 7).unwrap()),
            );
        }
        kv.crash_by_seed(seed);
        let index = with_runs(&kv, 25);
        let left = all(&index, 0, u64::MAX);
        assert_eq!(index.position().unwrap().records, left.len() as u64);
        check_payloads(&index, &left);
    }
}

#[test]
fn a_damaged_run_is_told() {
    let kv = Arc::new(MemoryKv::new());
    let index = with_runs(&kv, 1);
    write(&index, 1, &[record(9, 1)]);
    let hash = PayloadHash::from_bytes([9; 64]);
    let key = kv.entries().into_iter().find(|(key, _)| key[0] == b'q');
    let mut batch = Batch::new();
    batch.put(key.unwrap().0, vec![9; 27]);
    kv.write(batch).unwrap();
    assert!(index.records_of(&hash).is_err());
    let mut batch = Batch::new();
    batch.put(b"d".to_vec(), vec![9; 15]);
    kv.write(batch).unwrap();
    assert!(index.load().is_err());
}

/// Enters records as format 1 did.
fn put_earlier(kv: &MemoryKv, records: &[PrivateRecord]) {
    let mut batch = Batch::new();
    for record in records {
        let bytes = codec::encode_record(record);
        put_parts(
            &mut batch,
            &records::old_record_key(&record.transaction),
            &bytes,
        )
        .unwrap();
        for hash in [Some(&record.hash), record.inner_hash.as_ref()]
            .into_iter()
            .flatten()
        {
            batch.put(
                old_payload_key(hash, record.transaction.as_slice()),
                Vec::new(),
            );
        }
    }
    for together in records.chunks(3) {
        let mut key = height_key(b'o', together[0].height);
        key.extend_from_slice(&together[0].position.to_be_bytes());
        let each = together
            .iter()
            .map(|r| [r.transaction.as_slice(), &[0]].concat());
        batch.put(key, each.collect::<Vec<_>>().concat());
    }
    kv.write(batch).unwrap();
}

#[test]
fn what_the_earlier_format_has_is_read_and_taken_back() {
    let kv = Arc::new(MemoryKv::new());
    let chain = Chain {
        chain_id: 1,
        genesis_hash: B256::repeat_byte(4),
    };
    let mut earlier = encode_chain(&chain);
    earlier[0] = FORMAT_EARLIER;
    let mut batch = Batch::new();
    batch.put(KEY_FORMAT, earlier);
    batch.put(KEY_CURSOR, encode_position(&position(6, 14)));
    kv.write(batch).unwrap();
    let mut written = [block(2, 5), block(4, 7)].concat();
    let later = block(6, 2);
    put_earlier(&kv, &written[..5]);
    put_earlier(&kv, &written[5..]);
    put_earlier(&kv, &later);

    let index = Index::new(Arc::clone(&kv) as Arc<dyn Kv>);
    assert_eq!(index.find(&chain), Ok(Found::Earlier));
    let other = Chain {
        genesis_hash: B256::ZERO,
        ..chain
    };
    assert_eq!(index.find(&other), Ok(Found::Other(chain.genesis_hash)));
    assert_eq!(index.rewind(5, 0), Ok(position(5, 12)));
    assert_eq!(all(&index, 0, u64::MAX), written);
    index.upgrade(&chain, 5).unwrap();
    assert_eq!(index.find(&chain), Ok(Found::Ours));
    let index = with_runs(&kv, 4);
    check_payloads(&index, &written);
    let new = block(6, 6);
    write(&index, 6, &new);
    written.extend(new);
    check_payloads(&index, &written);
    check_payloads(&with_runs(&kv, 4), &written);
    assert_eq!(all(&index, 0, u64::MAX), written);
    for record in &written {
        let mut without = record.clone();
        without.data = Bytes::new();
        index.replace_record(&without).unwrap();
        let found = index.record_at(record.height, record.position);
        assert_eq!(found, Ok(Some(without)));
    }
    assert_eq!(index.rewind(3, 0), Ok(position(3, 5)));
    let found = all(&index, 0, u64::MAX);
    assert_eq!(found.len(), 5);
    check_payloads(&with_runs(&kv, 4), &found);
    let left = kv.entries().into_iter().map(|(key, _)| key[0]);
    let left = left.filter(|kind| b"np".contains(kind)).count();
    // Five payloads, and three more of inner transactions.
    assert_eq!(left, 8);
}

#[test]
fn metadata_that_was_read_once_is_the_one_that_was_written_last() {
    let index = Index::new(Arc::new(MemoryKv::new()) as Arc<dyn Kv>);
    let nothing = Extended::default();
    let write = |height, contract: &ContractMetadata| {
        let contracts = std::slice::from_ref(contract);
        let of = PrivateRecord {
            affected: vec![contract.address],
            ..record(u8::try_from(height).unwrap(), height)
        };
        index
            .write_block(&position(height, height), None, &[of], contracts, &nothing)
            .unwrap();
    };
    let (first, second) = (contract(1, 1), contract(2, 3));
    assert_eq!(index.contract(&first.address), Ok(None));
    // Read before the write, shown after it.
    let since = index.contracts.get(&first.address).unwrap_err();
    write(1, &first);
    index.contracts.put(&contract(1, 9), since);
    for _ in 0..2 {
        assert_eq!(index.contract(&first.address), Ok(Some(first.clone())));
    }
    let changed = ContractMetadata {
        creator: PublicKey::from_bytes([9; 32]),
        ..first.clone()
    };
    write(2, &changed);
    write(3, &second);
    for _ in 0..2 {
        assert_eq!(index.contract(&first.address), Ok(Some(changed.clone())));
        assert_eq!(index.contract(&second.address), Ok(Some(second.clone())));
    }
    index.rewind(2, 0).unwrap();
    assert_eq!(index.contract(&second.address), Ok(None));
    assert_eq!(index.contract(&first.address), Ok(Some(changed)));
}
