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
    assert_eq!(index.record(&B256::repeat_byte(1)), Ok(Some(record(1, 4))));
    assert_eq!(index.record(&B256::repeat_byte(2)), Ok(None));
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

#[test]
fn transactions_of_a_block_share_values_and_keep_their_order() {
    let kv = Arc::new(MemoryKv::new());
    let index = Index::new(Arc::clone(&kv) as Arc<dyn Kv>);
    let of = |height: u64, count: u32| -> Vec<PrivateRecord> {
        (0..count)
            .map(|n| PrivateRecord {
                transaction: B256::from(U256::from(height * 1_000 + u64::from(n))),
                position: n,
                data: Bytes::new(),
                ..record(1, height)
            })
            .collect()
    };
    let mut expected = Vec::new();
    for (height, count) in [(4, 1), (5, 250), (7, 122)] {
        let records = of(height, count);
        expected.extend(records.iter().map(|r| (height, r.transaction)));
        let position = position(height, expected.len() as u64);
        let nothing = Extended::default();
        index
            .write_block(&position, None, &records, &[], &nothing)
            .unwrap();
    }
    let found = |from, to| -> Vec<_> { index.transactions(from, to).map(Result::unwrap).collect() };
    assert_eq!(found(0, u64::MAX), expected);
    assert_eq!(found(5, 6), expected[1..251]);
    let prefix = KeyRange::prefix(b"o".to_vec());
    assert_eq!(kv.scan(prefix, Direction::Ascending).count(), 1 + 3 + 2);
    index.rewind(5, 0).unwrap();
    assert_eq!(found(0, u64::MAX), expected[..251]);
    let mut batch = Batch::new();
    batch.put(order_key(6, 0), vec![0; 34]);
    kv.write(batch).unwrap();
    assert!(index.transactions(6, 6).next().unwrap().is_err());
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
