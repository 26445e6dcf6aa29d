//! Privacy flags: who may send what to which contract.

use alloy_primitives::{Address, U256, hex};
use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Contract, Parties, is_retryable, merge};
use super::raw::store_raw;
use super::signing::Wallet;
use super::table::scenarios;

scenarios! {
    disturbed: [
        a_contract_under_party_protection_is_used_by_its_parties,
        a_non_party_without_a_flag_changes_only_its_own_view,
        a_party_of_a_protected_contract_may_use_it_with_a_subset,
        a_non_party_cannot_use_a_protected_contract_of_its_partners,
        protected_contracts_call_each_other_and_read_public_ones,
        a_protected_contract_creates_one_that_refers_back_to_it,
        mandatory_recipients_take_part_in_every_transaction,
        mandatory_recipients_keep_the_full_view,
        mandatory_contracts_call_each_other,
        state_is_validated_by_all_parties,
        validated_contracts_call_each_other,
        a_validated_contract_reads_a_public_one,
        two_nodes_that_change_a_validated_contract_at_once_never_diverge,
        a_raw_transaction_has_a_flag_too,
        a_reader_is_never_asked_for_flags,
    ],
    calm: [
        a_flag_that_does_not_exist_is_refused,
        mandatory_recipients_go_with_their_flag_and_among_the_recipients,
        a_contract_without_a_flag_is_not_used_with_one,
        a_contract_with_a_flag_is_not_used_without_one,
        a_non_party_with_a_flag_is_refused,
        nested_calls_of_a_non_party_are_refused,
        a_validated_contract_is_not_used_with_other_parties,
        validated_and_other_contracts_do_not_write_each_other,
        a_validated_transaction_that_reverts_is_refused,
        metadata_tell_flag_and_mandatory_recipients,
    ]
}

fn flag(number: u8) -> Value {
    json!({ "privacyFlag": number })
}

fn mandatory(p: &Parties, nodes: &[usize]) -> Value {
    json!({ "privacyFlag": 2, "mandatoryFor": p.keys(nodes) })
}

fn with(
    p: &Parties,
    from: usize,
    to: &[usize],
    contract: &Contract,
    data: &[u8],
    more: Value,
) -> Value {
    let mut request = p.request(from, to, Some(&contract.address), data);
    merge(&mut request, more);
    request
}

fn a_contract_under_party_protection_is_used_by_its_parties(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1, 3], &deploying_with(STORE, 42), flag(1));
    p.execute_with(1, &[0, 3], &contract, &word(43), flag(1));
    p.midway();
    p.execute_with(3, &[0, 1], &contract, &word(44), flag(1));
    let at = [0, 1, 3, 2].map(|i| p.number(i, &contract.address));
    assert_eq!(at, [Some(44), Some(44), Some(44), None]);
}

fn a_non_party_without_a_flag_changes_only_its_own_view(p: &mut Parties) {
    for number in [1, 3] {
        let contract = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(number));
        // Node 2 knows no such contract; to its partner it claims nothing and gets nothing.
        let request = p.request(2, &[1], Some(&contract.address), &word(66));
        if number == 3 {
            p.midway();
        }
        let hash = p.send(2, &request);
        assert_eq!(p.private_receipt(2, &hash)["status"], "0x1");
        let receipt = p.private_receipt(1, &hash);
        assert_eq!(receipt["status"], "0x0", "{receipt}");
        assert!(
            receipt["failureReason"].as_str().unwrap().contains("flag"),
            "{receipt}"
        );
        assert_eq!(
            [0, 1, 2].map(|i| p.number(i, &contract.address)),
            [Some(42), Some(42), None]
        );
        // The chain goes on, and so does the contract.
        p.execute_with(0, &[1], &contract, &word(43), flag(number));
        assert_eq!(
            [0, 1].map(|i| p.number(i, &contract.address)),
            [Some(43), Some(43)]
        );
    }
    p.expect_alarms();
}

fn a_party_of_a_protected_contract_may_use_it_with_a_subset(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1, 2], &deploying_with(STORE, 42), flag(1));
    p.midway();
    p.execute_with(1, &[0], &contract, &word(43), flag(1));
    let at = [0, 1, 2].map(|i| p.number(i, &contract.address));
    assert_eq!(at, [Some(43), Some(43), Some(42)]);
    p.let_diverge(&contract);
}

/// What a node could do that skips the check when it sends: claim the flag for a contract that it has no part in.
fn a_non_party_cannot_use_a_protected_contract_of_its_partners(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(1));
    // A contract of its own at hand makes node 2 pass its own check of the flag, but not for this one.
    let own = p.deploy_with(2, &[1], &deploying(KEEPING_PROXY), flag(1));
    p.midway();
    let request = with(
        p,
        2,
        &[1],
        &own,
        &via(&contract.address, &word(66)),
        flag(1),
    );
    let hash = p.send(2, &request);
    assert_eq!(p.private_receipt(2, &hash)["status"], "0x1");
    let receipt = p.private_receipt(1, &hash);
    assert_eq!(receipt["status"], "0x0", "{receipt}");
    assert!(
        receipt["failureReason"].as_str().unwrap().contains("party"),
        "{receipt}"
    );
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42)]
    );
    p.let_diverge(&own);
}

fn protected_contracts_call_each_other_and_read_public_ones(p: &mut Parties) {
    let public = p.deploy_publicly(3, &deploying_with(STORE, 5));
    let inner = p.deploy_with(0, &[1], &deploying(STORE), flag(1));
    let outer = p.deploy_with(0, &[1], &deploying(KEEPING_PROXY), flag(1));
    p.midway();
    p.execute_with(1, &[0], &outer, &via(&inner.address, &word(9)), flag(1));
    assert_eq!(
        [0, 1].map(|i| p.number(i, &inner.address)),
        [Some(9), Some(9)]
    );
    p.execute_with(0, &[1], &outer, &via(&public, &[]), flag(1));
    for i in [0, 1] {
        assert_eq!(p.slot(i, &outer.address, 1), U256::from(5));
    }
}

fn a_protected_contract_creates_one_that_refers_back_to_it(p: &mut Parties) {
    let child = deploying_after_asking_the_caller(STORE);
    let parent = p.deploy_with(0, &[1], &deploying_with(&factory(&child, 1), 77), flag(1));
    p.midway();
    p.execute_with(0, &[1], &parent, &word(1), flag(1));
    let child = parent
        .address
        .parse::<Address>()
        .unwrap()
        .create(1)
        .to_checksum(None);
    let child = Contract {
        address: child,
        ..parent.clone()
    };
    p.track(child.clone());
    for i in [0, 1] {
        assert_eq!(p.number(i, &child.address), Some(77));
        let metadata = p.patiently(i, "eth_getContractPrivacyMetadata", json!([child.address]));
        assert_eq!(metadata["privacyFlag"], 1, "{metadata}");
    }
    // The child is protected as its parent is.
    p.execute_with(1, &[0], &child, &word(78), flag(1));
    let said = p.refused(0, &with(p, 0, &[1], &child, &word(1), flag(0)));
    assert!(said.contains("flag"), "{said}");
    assert_eq!(p.code(2, &child.address), "0x");
}

fn mandatory_recipients_take_part_in_every_transaction(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1, 2], &deploying_with(STORE, 42), mandatory(p, &[1]));
    let without = with(p, 0, &[2], &contract, &word(1), mandatory(p, &[2]));
    let said = p.refused(0, &without);
    assert!(said.contains("Recipients mismatched"), "{said}");
    p.midway();
    p.execute_with(0, &[1, 2], &contract, &word(43), mandatory(p, &[1]));
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(43), Some(43), Some(43)]
    );
    p.execute_with(1, &[0, 2], &contract, &word(44), mandatory(p, &[1]));
    assert_eq!(
        [0, 1, 2].map(|i| p.number(i, &contract.address)),
        [Some(44), Some(44), Some(44)]
    );
}

fn mandatory_recipients_keep_the_full_view(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1, 2, 3], &deploying(ACCUMULATOR), mandatory(p, &[3]));
    // Subsets that leave others out, but never the mandatory one.
    p.execute_with(0, &[1, 3], &contract, &word(1), mandatory(p, &[3]));
    p.midway();
    p.execute_with(0, &[2, 3], &contract, &word(10), mandatory(p, &[3]));
    let at = [0, 1, 2, 3].map(|i| p.number(i, &contract.address));
    assert_eq!(at, [Some(11), Some(1), Some(10), Some(11)]);
    p.let_diverge(&contract);
}

fn mandatory_contracts_call_each_other(p: &mut Parties) {
    let inner = p.deploy_with(0, &[1, 3], &deploying(STORE), mandatory(p, &[3]));
    let outer = p.deploy_with(0, &[1, 3], &deploying(PROXY), mandatory(p, &[1]));
    p.midway();
    p.execute_with(
        0,
        &[1, 3],
        &outer,
        &via(&inner.address, &word(9)),
        mandatory(p, &[1, 3]),
    );
    assert_eq!(
        [0, 1, 3].map(|i| p.number(i, &inner.address)),
        [Some(9), Some(9), Some(9)]
    );
    // The inner one's mandatory party is missed as well.
    let without = with(
        p,
        0,
        &[1],
        &outer,
        &via(&inner.address, &word(1)),
        mandatory(p, &[1]),
    );
    let said = p.refused(0, &without);
    assert!(said.contains("Recipients mismatched"), "{said}");
}

fn state_is_validated_by_all_parties(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1, 3], &deploying_with(ACCUMULATOR, 1), flag(3));
    p.execute_with(0, &[1, 3], &contract, &word(10), flag(3));
    p.midway();
    p.execute_with(3, &[0, 1], &contract, &word(100), flag(3));
    p.execute_with(1, &[0, 3], &contract, &word(1000), flag(3));
    let at = [0, 1, 3, 2].map(|i| p.number(i, &contract.address));
    assert_eq!(at, [Some(1111), Some(1111), Some(1111), None]);
    // Under this flag all parties know each other.
    for i in [0, 1, 3] {
        let payload = p.cli(i, &["payload", &contract.payload]);
        let mut told: Vec<String> = payload["parties"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key.as_str().unwrap().to_owned())
            .collect();
        let mut expected = p.keys(&[0, 1, 3]);
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "node {i}");
        assert!(payload["execRoot"].is_string(), "{payload}");
    }
}

fn validated_contracts_call_each_other(p: &mut Parties) {
    let inner = p.deploy_with(0, &[1], &deploying(STORE), flag(3));
    let outer = p.deploy_with(1, &[0], &deploying(KEEPING_PROXY), flag(3));
    p.midway();
    p.execute_with(0, &[1], &outer, &via(&inner.address, &word(9)), flag(3));
    p.execute_with(1, &[0], &outer, &via(&inner.address, &[]), flag(3));
    for i in [0, 1] {
        assert_eq!(p.number(i, &inner.address), Some(9));
        assert_eq!(p.slot(i, &outer.address, 1), U256::from(9));
    }
    // With another party among those of one of the two it is refused.
    let wider = p.deploy_with(0, &[1, 2], &deploying(STORE), flag(3));
    let said = p.refused(
        0,
        &with(p, 0, &[1], &outer, &via(&wider.address, &word(1)), flag(3)),
    );
    assert!(said.contains("Recipients mismatched"), "{said}");
}

fn a_validated_contract_reads_a_public_one(p: &mut Parties) {
    let public = p.deploy_publicly(2, &deploying_with(STORE, 5));
    let contract = p.deploy_with(0, &[1], &deploying(KEEPING_PROXY), flag(3));
    p.midway();
    p.execute_with(0, &[1], &contract, &via(&public, &[]), flag(3));
    for i in [0, 1] {
        assert_eq!(p.slot(i, &contract.address, 1), U256::from(5));
    }
    // Writing it fails within the contract, or the whole is refused; the public one stays as it is.
    let request = with(p, 0, &[1], &contract, &via(&public, &word(6)), flag(3));
    if let Ok(hash) = p.try_send(0, &request) {
        p.private_receipt(0, &hash);
        p.private_receipt(1, &hash);
        assert_eq!(p.slot(1, &contract.address, 0), U256::ZERO);
    }
    for i in 0..4 {
        assert_eq!(p.number(i, &public), Some(5));
    }
}

/// Quorum fails most of these at execution, because it simulates on the head. Here each is sequenced, or refused before it is on the
/// chain in a way that a client can repeat.
fn two_nodes_that_change_a_validated_contract_at_once_never_diverge(p: &mut Parties) {
    const EACH: usize = 6;
    let contract = p.deploy_with(0, &[1], &deploying(ACCUMULATOR), flag(3));
    let sent: Vec<String> = std::thread::scope(|scope| {
        let p = &*p;
        let contract = &contract;
        let senders: Vec<_> = [(0, 1), (1, 0)]
            .into_iter()
            .map(|(from, to)| {
                scope.spawn(move || {
                    let request = with(p, from, &[to], contract, &word(1), flag(3));
                    let mut hashes = Vec::new();
                    for _ in 0..EACH {
                        hashes.push(p.wait("it is this one's turn", || {
                            match p.try_send(from, &request) {
                                Ok(hash) => Some(hash),
                                Err(error) if is_retryable(&error) => None,
                                Err(error) => panic!("node {from}: {error}"),
                            }
                        }));
                    }
                    hashes
                })
            })
            .collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect()
    });
    assert_eq!(sent.len(), 2 * EACH);
    for hash in &sent {
        for i in [0, 1] {
            let receipt = p.private_receipt(i, hash);
            assert_eq!(receipt["status"], "0x1", "node {i}: {receipt}");
        }
    }
    let total = 2 * EACH as u64;
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(total), Some(total)]
    );
    p.midway();
    p.execute_with(1, &[0], &contract, &word(100), flag(3));
    assert_eq!(p.number(0, &contract.address), Some(total + 100));
}

fn a_raw_transaction_has_a_flag_too(p: &mut Parties) {
    let wallet = Wallet::named("a client with a flag");
    let stored = store_raw(p, 0, &deploying_with(STORE, 42));
    let more = json!({ "privateFor": p.keys(&[1]), "privacyFlag": 1 });
    let hash = p.send_raw(
        0,
        "eth_sendRawPrivateTransaction",
        &wallet.quorum(0, None, &stored),
        &more,
    );
    let contract = p.deployed(&hash, &[0, 1].into());
    p.track(contract.clone());
    let metadata = p.patiently(
        1,
        "eth_getContractPrivacyMetadata",
        json!([contract.address]),
    );
    assert_eq!(metadata["privacyFlag"], 1);
    let stored = store_raw(p, 0, &word(43));
    let raw = wallet.quorum(1, Some(&contract.address), &stored);
    let none = json!({ "privateFor": p.keys(&[1]) });
    let error =
        p.c.rpc_error(0, "eth_sendRawPrivateTransaction", json!([raw, none]));
    assert!(
        error["message"].as_str().unwrap().contains("flag"),
        "{error}"
    );
    p.midway();
    let hash = p.send_raw(0, "eth_sendRawPrivateTransaction", &raw, &more);
    for i in [0, 1] {
        assert_eq!(p.private_receipt(i, &hash)["status"], "0x1");
        assert_eq!(p.number(i, &contract.address), Some(43));
    }
}

fn a_reader_is_never_asked_for_flags(p: &mut Parties) {
    let validated = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(3));
    let standard = p.deploy(0, &[1, 2], &deploying(PROXY));
    p.midway();
    p.execute(
        0,
        &[1, 2],
        &standard,
        &via(&standard.address, &via(&standard.address, &[])),
    );
    // A call that leaves nothing behind may cross what a transaction may not.
    let answer = p.ask(1, &standard.address, &via(&validated.address, &[]));
    assert_eq!(hex::decode(answer).unwrap()[32..], word(42));
    p.expect_alarms();
}

fn a_flag_that_does_not_exist_is_refused(p: &mut Parties) {
    for wrong in [json!(4), json!(255), json!(-1), json!("one")] {
        let mut request = p.request(0, &[1], None, &deploying(STORE));
        merge(&mut request, json!({ "privacyFlag": wrong }));
        let said = p.refused(0, &request);
        assert!(
            said.contains("privacyFlag") || said.contains("transaction"),
            "{wrong}: {said}"
        );
    }
}

fn mandatory_recipients_go_with_their_flag_and_among_the_recipients(p: &mut Parties) {
    let refused = |more: Value| {
        let mut request = p.request(0, &[1], None, &deploying(STORE));
        merge(&mut request, more);
        p.refused(0, &request)
    };
    let keys = p.keys(&[1]);
    for number in [0, 1, 3] {
        let said = refused(json!({ "privacyFlag": number, "mandatoryFor": keys }));
        assert!(
            said.contains("only applicable for PrivacyFlag=2"),
            "{number}: {said}"
        );
    }
    for missing in [
        json!({ "privacyFlag": 2 }),
        json!({ "privacyFlag": 2, "mandatoryFor": [] }),
    ] {
        let said = refused(missing);
        assert!(said.contains("missing mandatory recipients data"), "{said}");
    }
    let said = refused(mandatory(p, &[3]));
    assert!(
        said.contains("mandatory") && said.contains("recipients"),
        "{said}"
    );
}

fn a_contract_without_a_flag_is_not_used_with_one(p: &mut Parties) {
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    for more in [flag(1), flag(3), mandatory(p, &[1])] {
        let said = p.refused(0, &with(p, 0, &[1], &contract, &word(1), more));
        assert!(said.contains("PrivacyMetadata"), "{said}");
    }
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42)]
    );
}

fn a_contract_with_a_flag_is_not_used_without_one(p: &mut Parties) {
    for number in [1, 3] {
        let contract = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(number));
        for other in [0, 1, 3] {
            if other == number {
                continue;
            }
            let said = p.refused(0, &with(p, 0, &[1], &contract, &word(1), flag(other)));
            assert!(
                said.contains("sent privacy flag doesn't match"),
                "{number}, {other}: {said}"
            );
        }
        assert_eq!(
            [0, 1].map(|i| p.number(i, &contract.address)),
            [Some(42), Some(42)]
        );
    }
}

fn a_non_party_with_a_flag_is_refused(p: &mut Parties) {
    for number in [0, 1, 3] {
        let contract = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(number));
        for other in [1, 3] {
            let said = p.refused(2, &with(p, 2, &[0, 1], &contract, &word(1), flag(other)));
            assert!(
                said.contains("contract not found. cannot transact"),
                "{number}: {said}"
            );
        }
    }
}

fn nested_calls_of_a_non_party_are_refused(p: &mut Parties) {
    // A party of the outer contract that is none of the inner one.
    let inner = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(1));
    let outer = p.deploy_with(0, &[1, 2], &deploying(PROXY), flag(1));
    let request = with(
        p,
        2,
        &[0, 1],
        &outer,
        &via(&inner.address, &word(66)),
        flag(1),
    );
    // Node 2 has nothing at the inner address and cannot know that others have; they refuse it.
    let hash = p.send(2, &request);
    for i in [0, 1] {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x0", "{receipt}");
        assert_eq!(p.number(i, &inner.address), Some(42));
    }
    p.expect_alarms();
}

fn a_validated_contract_is_not_used_with_other_parties(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(3));
    for others in [&[][..], &[2], &[1, 2], &[1, 2, 3]] {
        let said = p.refused(0, &with(p, 0, others, &contract, &word(1), flag(3)));
        assert!(said.contains("Recipients mismatched"), "{others:?}: {said}");
    }
    assert_eq!(
        [0, 1].map(|i| p.number(i, &contract.address)),
        [Some(42), Some(42)]
    );
}

fn validated_and_other_contracts_do_not_write_each_other(p: &mut Parties) {
    let validated = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(3));
    let calling = p.deploy_with(0, &[1], &deploying(PROXY), flag(3));
    let protected = p.deploy_with(0, &[1], &deploying_with(STORE, 42), flag(1));
    let standard = p.deploy(0, &[1], &deploying(PROXY));
    let cases = [
        (&standard, &validated, 0),
        (&calling, &protected, 3),
        (&calling, &standard, 3),
    ];
    for (outer, inner, number) in cases {
        let request = with(
            p,
            0,
            &[1],
            outer,
            &via(&inner.address, &word(1)),
            flag(number),
        );
        let said = p.refused(0, &request);
        assert!(
            said.contains("flag") || said.contains("PrivacyMetadata"),
            "{number}: {said}"
        );
    }
    for contract in [&validated, &protected] {
        assert_eq!(
            [0, 1].map(|i| p.number(i, &contract.address)),
            [Some(42), Some(42)]
        );
    }
}

fn a_validated_transaction_that_reverts_is_refused(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1], &deploying(&reverting("closed")), flag(3));
    let said = p.refused(0, &with(p, 0, &[1], &contract, &word(1), flag(3)));
    assert!(said.contains("revert"), "{said}");
}

fn metadata_tell_flag_and_mandatory_recipients(p: &mut Parties) {
    let contract = p.deploy_with(0, &[1, 2], &deploying(STORE), mandatory(p, &[2]));
    for i in [0, 1, 2] {
        let metadata = p.patiently(
            i,
            "eth_getContractPrivacyMetadata",
            json!([contract.address]),
        );
        assert_eq!(metadata["privacyFlag"], 2, "{metadata}");
        assert_eq!(metadata["mandatoryFor"], json!(p.keys(&[2])), "{metadata}");
        assert_eq!(metadata["creationTxHash"], contract.payload.as_str());
    }
    assert!(
        p.patiently(
            3,
            "eth_getContractPrivacyMetadata",
            json!([contract.address])
        )
        .is_null()
    );
}
