//! What private transactions may see and change.

use alloy_primitives::{Address, B256, TxKind, U256, b256, keccak256};
use quorate_chain::Fork;
use quorate_evm::{
    BlockContext, CallRequest, CallSettings, CallStatus, DualState, INIT_CODE_BYTES_MAX,
    InvalidTransaction, PrivateAccess, PrivateCall, PrivateEstimateError, PrivateRefusal,
    REVERT_DATA_BYTES_MAX, call, execute_private,
};
use quorate_state::StateRead;

use super::codes::*;
use super::*;
use crate::world::*;

#[test]
fn a_private_contract_is_deployed_written_and_read() {
    let mut party = Party::new();
    let expected = by_alice_privately(None, &[]).created_address().unwrap();
    let outcome = party.send(None, &deploying(STORE));
    assert_eq!(expected, alice().create(0));
    assert_eq!(outcome.receipt.contract_address, Some(expected));
    assert_eq!(outcome.touched.created, set([expected]));
    assert!(outcome.touched.called.is_empty() && outcome.receipt.output.is_empty());
    let account = outcome.diff.accounts[&expected].account.unwrap();
    assert_eq!(
        (account.nonce, account.balance, account.code_hash),
        (1, U256::ZERO, keccak256(STORE))
    );

    let outcome = party.send(Some(expected), &word(42));
    assert_eq!(outcome.receipt.status, CallStatus::Success);
    assert_eq!(
        outcome.touched.called,
        [(expected, PrivateAccess::Written)].into()
    );
    let outcome = party.send(Some(expected), &[]);
    assert_eq!(numbers(&outcome.receipt.output), [U256::from(42)]);
    assert_eq!(
        outcome.touched.called,
        [(expected, PrivateAccess::Read)].into()
    );
    assert!(outcome.diff.is_empty());
    assert_eq!(outcome.affected(), set([expected]));
}

#[test]
fn a_private_call_does_and_costs_what_the_public_one_would() {
    let public = World::new().with_code(CONTRACT, STORE);
    let expected = run(&public, &[invoke(0, &word(7))]);
    let mut party = Party::new().with_private(CONTRACT, STORE);
    let outcome = party.send(Some(CONTRACT), &word(7));
    assert_eq!(outcome.receipt.gas_used, expected.gas_used);
    assert_eq!(outcome.receipt.logs, expected.receipts[0].logs);
    assert_eq!(
        outcome.diff.accounts[&CONTRACT],
        expected.diff.accounts[&CONTRACT]
    );
}

#[test]
fn a_creation_costs_what_the_public_one_would() {
    let init = deploying(STORE);
    let expected = run(&World::new(), &[by_alice(0, TxKind::Create, 0, &init)]);
    let outcome = Party::new().send(None, &init);
    assert_eq!(outcome.receipt.gas_used, expected.gas_used);
    assert_eq!(
        outcome.receipt.contract_address,
        expected.receipts[0].contract_address
    );
}

#[test]
fn events_are_in_the_private_receipt_and_its_bloom() {
    let mut party = Party::new().with_private(PRIVATE, STORE);
    let outcome = party.send(Some(PRIVATE), &word(5));
    let logs = &outcome.receipt.logs;
    assert_eq!(logs.len(), 1);
    assert_eq!(
        (logs[0].address, logs[0].data.data.as_ref()),
        (PRIVATE, &word(5)[..])
    );
    let topics = [B256::with_last_byte(0xaa)];
    assert!(outcome.receipt.bloom.contains_raw_log(PRIVATE, &topics));
    let silent = party.send(Some(PRIVATE), &[]);
    assert!(silent.receipt.logs.is_empty() && silent.receipt.bloom.is_zero());
}

#[test]
fn public_execution_finds_no_private_code() {
    let mut party = Party::new();
    let hidden = party.deploy(STORE);
    // A public transaction to the private contract, and a public contract that asks it.
    party.public = party
        .public
        .with_code(CONTRACT, &forwarding(STATICCALL, hidden));
    let outcome = run(
        &party.public,
        &[by_alice(1, TxKind::Call(hidden), 0, &word(9))],
    );
    let receipt = &outcome.receipts[0];
    assert!(receipt.success && receipt.logs.is_empty());
    assert!(!outcome.diff.accounts.contains_key(&hidden));
    let asked = call(
        &spec(Fork::Prague),
        &context(),
        &party.public,
        &HASHES,
        &request(CONTRACT, &[]),
        &CallSettings::capped(CAP),
    )
    .unwrap();
    assert_eq!(numbers(&asked.output), [U256::ONE, U256::ZERO]);
    assert_eq!(party.public.account(&hidden).unwrap(), None);
}

#[test]
fn a_factory_makes_private_children_by_its_private_nonce() {
    let mut party = Party::new();
    let parent = party.deploy(&factory(&deploying(STORE)));
    for nonce in 1..=2 {
        let child = parent.create(nonce);
        let outcome = party.send(Some(parent), &[]);
        assert_eq!(numbers(&outcome.receipt.output), [slot_of(child)]);
        assert_eq!(outcome.touched.created, set([child]));
        assert_eq!(
            outcome.touched.called,
            [(parent, PrivateAccess::Written)].into()
        );
        assert_eq!(outcome.affected(), set([parent, child]));
        assert_eq!(
            outcome.diff.accounts[&parent].account.unwrap().nonce,
            nonce + 1
        );
        // The child works, on its own storage.
        party.send(Some(child), &word(nonce));
        assert_eq!(party.private.slot(child, U256::ZERO), U256::from(nonce));
    }
    assert_eq!(party.public.accounts.len(), 2);
}

#[test]
fn private_contracts_call_each_other() {
    let mut party = Party::new()
        .with_private(PRIVATE, &forwarding(CALL, OTHER_PRIVATE))
        .with_private(OTHER_PRIVATE, STORE);
    let outcome = party.send(Some(PRIVATE), &word(3));
    assert!(forwarded(&outcome).0);
    assert_eq!(
        outcome.touched.called,
        [
            (PRIVATE, PrivateAccess::Read),
            (OTHER_PRIVATE, PrivateAccess::Written)
        ]
        .into()
    );
    assert_eq!(outcome.receipt.logs[0].address, OTHER_PRIVATE);
    assert_eq!(forwarded(&party.send(Some(PRIVATE), &[])), (true, 3));
}

#[test]
fn public_contracts_go_on_calling_each_other() {
    let world = World::new()
        .with_code(CONTRACT, &forwarding(CALL, OTHER_CONTRACT))
        .with_code(OTHER_CONTRACT, STORE);
    let outcome = run(&world, &[invoke(0, &word(3))]);
    let after = world.after(&outcome.diff);
    assert_eq!(after.slot(OTHER_CONTRACT, U256::ZERO), U256::from(3));
}

#[test]
fn private_code_reads_public_contracts() {
    let mut party = Party::new()
        .with_public(CONTRACT, STORE)
        .with_private(PRIVATE, &forwarding(CALL, CONTRACT));
    party.public = party.public.with_slot(CONTRACT, U256::ZERO, 77);
    let outcome = party.send(Some(PRIVATE), &[]);
    assert_eq!(forwarded(&outcome), (true, 77));
    assert_eq!(outcome.touched.public_read, set([CONTRACT]));
    assert_eq!(outcome.affected(), set([PRIVATE]));
    assert!(outcome.diff.is_empty());
}

#[test]
fn whatever_a_public_contract_tries_to_change_fails_its_call() {
    let payer = World::new().with_balance(CONTRACT, RICH);
    let tries: [(&str, &[u8], &[u8]); 6] = [
        ("write", STORE, &word(1)),
        ("log", LOGGER, &[]),
        ("create", CREATOR, &[]),
        ("self-destruct", DESTROYER, &[]),
        ("pay", PAYER, &[]),
        ("write transient storage", TRANSIENT, &[]),
    ];
    for (what, code, input) in tries {
        // It can do so when it is called publicly.
        let public = payer.clone().with_code(CONTRACT, code);
        assert!(
            run(&public, &[invoke(0, input)]).receipts[0].success,
            "{what}"
        );
        for op in [CALL, STATICCALL] {
            let mut party = Party::new().with_private(PRIVATE, &forwarding(op, CONTRACT));
            party.public = public.clone();
            let outcome = party.send(Some(PRIVATE), input);
            assert!(!forwarded(&outcome).0, "{what}");
            assert!(
                outcome.diff.is_empty() && outcome.receipt.logs.is_empty(),
                "{what}"
            );
        }
        // Directly, the whole transaction fails, as a write in a static frame does.
        let mut party = Party::new();
        party.public = public;
        let outcome = party.send(Some(CONTRACT), input);
        if what == "pay" {
            assert!(matches!(outcome.receipt.status, CallStatus::Halted { .. }));
        } else {
            assert_eq!(outcome.receipt.status, halted("write protection"), "{what}");
        }
        assert_eq!(outcome.receipt.gas_used, GAS);
        assert!(outcome.diff.is_empty() && outcome.receipt.logs.is_empty());
    }
}

#[test]
fn everything_below_a_public_frame_is_read_only() {
    // Private, public, then public or private again.
    let mut party = Party::new()
        .with_private(PRIVATE, &forwarding(CALL, CONTRACT))
        .with_public(CONTRACT, &forwarding(CALL, OTHER_CONTRACT))
        .with_public(OTHER_CONTRACT, STORE);
    let outcome = party.send(Some(PRIVATE), &word(1));
    assert_eq!(forwarded(&outcome), (true, 0));
    let outcome = party.send(Some(PRIVATE), &[]);
    assert_eq!(forwarded(&outcome), (true, 1));
    assert_eq!(outcome.touched.public_read, set([CONTRACT, OTHER_CONTRACT]));

    let mut party = Party::new()
        .with_private(PRIVATE, &forwarding(CALL, CONTRACT))
        .with_public(CONTRACT, &forwarding(CALL, OTHER_PRIVATE))
        .with_private(OTHER_PRIVATE, STORE);
    let outcome = party.send(Some(PRIVATE), &word(1));
    assert_eq!(forwarded(&outcome), (true, 0));
    assert!(outcome.diff.is_empty());
    let outcome = party.send(Some(PRIVATE), &[]);
    assert_eq!(forwarded(&outcome), (true, 1));
    assert_eq!(
        outcome.touched.called,
        [
            (PRIVATE, PrivateAccess::Read),
            (OTHER_PRIVATE, PrivateAccess::Read)
        ]
        .into()
    );
}

#[test]
fn a_private_contract_may_write_after_it_has_called_a_public_one() {
    // STATICCALL of a getter, then a change of its own: the public frame leaves no trace in the private one.
    let mut code = forwarding(CALL, CONTRACT);
    code.truncate(code.len() - 4);
    code.extend([0x60, 0x20, 0x51, 0x5f, 0x55, 0x00]); // SSTORE(0, MLOAD(32))
    let mut party = Party::new()
        .with_public(CONTRACT, STORE)
        .with_private(PRIVATE, &code);
    party.public = party.public.with_slot(CONTRACT, U256::ZERO, 77);
    assert!(party.send(Some(PRIVATE), &[]).receipt.is_success());
    assert_eq!(party.private.slot(PRIVATE, U256::ZERO), U256::from(77));
}

#[test]
fn a_public_library_works_on_the_storage_of_the_private_contract() {
    for op in [DELEGATECALL, CALLCODE] {
        let mut party = Party::new()
            .with_public(CONTRACT, STORE)
            .with_private(PRIVATE, &forwarding(op, CONTRACT));
        let outcome = party.send(Some(PRIVATE), &word(8));
        assert!(forwarded(&outcome).0);
        assert_eq!(outcome.receipt.logs[0].address, PRIVATE);
        assert_eq!(party.private.slot(PRIVATE, U256::ZERO), U256::from(8));
        assert_eq!(outcome.touched.public_read, set([CONTRACT]));
    }
}

#[test]
fn private_code_in_a_public_frame_cannot_write() {
    let mut party = Party::new()
        .with_private(PRIVATE, &forwarding(CALL, CONTRACT))
        .with_public(CONTRACT, &forwarding(DELEGATECALL, OTHER_PRIVATE))
        .with_private(OTHER_PRIVATE, STORE);
    let outcome = party.send(Some(PRIVATE), &word(8));
    assert_eq!(forwarded(&outcome), (true, 0));
    assert!(outcome.diff.is_empty() && outcome.receipt.logs.is_empty());
}

#[test]
fn value_is_refused() {
    let party = Party::new().with_private(PRIVATE, STORE);
    let call = PrivateCall {
        value: U256::ONE,
        ..by_alice_privately(Some(PRIVATE), &word(1))
    };
    let refusal = party.execute(&call).unwrap_err();
    assert_eq!(refusal, PrivateRefusal::ValueTransfer { got: U256::ONE });
    assert!(refusal.is_final());
    let asked = CallRequest {
        value: U256::ONE,
        ..request(PRIVATE, &[])
    };
    assert_eq!(party.ask(&asked).unwrap_err(), refusal);
    assert_eq!(
        party.estimate(&asked).unwrap_err(),
        PrivateEstimateError::Refused(refusal)
    );
}

#[test]
fn private_contracts_have_no_value_to_send() {
    for to in [bob(), OTHER_PRIVATE, CONTRACT] {
        let mut party = Party::new()
            .with_public(CONTRACT, STORE)
            .with_private(OTHER_PRIVATE, STORE)
            .with_private(PRIVATE, &forwarding_value(CALL, to, 1));
        assert!(!forwarded(&party.send(Some(PRIVATE), &[])).0);
    }
}

#[test]
fn what_was_public_at_the_address_is_not_the_contracts() {
    let address = alice().create(0);
    let mut party = Party::new();
    party.public = party.public.with_balance(address, RICH);
    let outcome = party.send(None, BALANCE_KEEPER);
    let change = &outcome.diff.accounts[&address];
    // It saw no balance, has none, and hides the public account.
    assert_eq!(change.storage, [(U256::ZERO, U256::ONE)].into());
    assert_eq!(change.account.unwrap().balance, U256::ZERO);
    assert!(!change.storage_wiped);
    let dual = DualState::new(&party.public, &party.private);
    assert_eq!(dual.account(&address).unwrap().unwrap().balance, U256::ZERO);
}

#[test]
fn a_creation_that_fails_shows_the_public_account_again() {
    let child = PRIVATE.create(1);
    let mut party = Party::new().with_private(PRIVATE, &failing_factory(child));
    party.public = party.public.with_balance(child, 99);
    let outcome = party.send(Some(PRIVATE), &[]);
    assert_eq!(numbers(&outcome.receipt.output), [U256::from(99)]);
    assert!(outcome.touched.created.is_empty());
    // The nonce was used.
    assert_eq!(outcome.diff.accounts[&PRIVATE].account.unwrap().nonce, 2);
    assert_eq!(outcome.diff.accounts.len(), 1);
}

#[test]
fn a_public_contract_at_the_address_stops_a_creation() {
    let mut party = Party::new().with_public(alice().create(0), STORE);
    let outcome = party.send(None, &deploying(STORE));
    assert_eq!(outcome.receipt.status, halted("contract address collision"));
    assert!(outcome.diff.is_empty());
}

#[test]
fn a_revert_keeps_its_reason_and_nothing_else() {
    let mut party = Party::new()
        .with_private(PRIVATE, REVERTING)
        .with_private(OTHER_PRIVATE, &forwarding(CALL, PRIVATE));
    let outcome = party.send(Some(PRIVATE), &[]);
    assert_eq!(outcome.receipt.status, CallStatus::Reverted);
    assert_eq!(outcome.receipt.revert_data()[..], word(0xbb));
    assert!(outcome.receipt.logs.is_empty() && outcome.receipt.bloom.is_zero());
    assert!(outcome.diff.is_empty() && outcome.receipt.gas_used < GAS);
    assert_eq!(outcome.affected(), set([PRIVATE]));
    // Inside another call only that call is lost.
    let outcome = party.send(Some(OTHER_PRIVATE), &[]);
    assert_eq!(forwarded(&outcome), (false, 0xbb));
    assert!(outcome.diff.is_empty());
    assert_eq!(outcome.affected(), set([PRIVATE, OTHER_PRIVATE]));

    // REVERT(0, 8192)
    let mut loud = Party::new().with_private(PRIVATE, &[0x61, 0x20, 0x00, 0x5f, 0xfd]);
    let outcome = loud.send(Some(PRIVATE), &[]);
    assert_eq!(outcome.receipt.revert_data().len(), REVERT_DATA_BYTES_MAX);
}

#[test]
fn too_little_gas_is_an_outcome() {
    let party = Party::new().with_private(PRIVATE, STORE);
    // Not enough to write, and not enough to begin.
    for gas_limit in [30_000, 21_100, 21_000, 0] {
        let call = PrivateCall {
            gas_limit,
            ..by_alice_privately(Some(PRIVATE), &word(u64::MAX))
        };
        let outcome = party.execute(&call).unwrap();
        assert_eq!(outcome.receipt.status, halted("out of gas"));
        assert_eq!(outcome.receipt.gas_used, gas_limit);
        assert!(outcome.diff.is_empty());
    }
    let deploy = PrivateCall {
        gas_limit: 53_000,
        ..by_alice_privately(None, &deploying(STORE))
    };
    let outcome = party.execute(&deploy).unwrap();
    assert_eq!(outcome.receipt.status, halted("out of gas"));
    assert_eq!(outcome.receipt.contract_address, None);
}

#[test]
fn limits_of_block_and_fork_are_left_to_the_public_side() {
    let party = Party::new().under(Fork::Osaka).with_private(PRIVATE, STORE);
    let call = PrivateCall {
        gas_limit: BLOCK_GAS + 1,
        ..by_alice_privately(Some(PRIVATE), &word(1))
    };
    assert!(party.execute(&call).unwrap().receipt.is_success());
}

#[test]
fn init_code_over_the_limit_is_an_outcome() {
    let call = by_alice_privately(None, &vec![0; INIT_CODE_BYTES_MAX + 1]);
    let outcome = Party::new().execute(&call).unwrap();
    assert_eq!(outcome.receipt.status, halted("max initcode size exceeded"));
    assert_eq!(outcome.receipt.gas_used, GAS);
}

#[test]
fn the_last_nonce_cannot_be_used() {
    let call = PrivateCall {
        nonce: u64::MAX,
        ..by_alice_privately(None, &deploying(STORE))
    };
    assert_eq!(
        Party::new().execute(&call).unwrap_err(),
        PrivateRefusal::Invalid(InvalidTransaction::NonceOverflow { got: u64::MAX })
    );
}

#[test]
fn a_self_destructed_contract_is_gone_where_the_fork_says_so() {
    let mut party = Party::new()
        .under(Fork::Shanghai)
        .with_private(PRIVATE, DESTROYER);
    party.private = party.private.with_slot(PRIVATE, U256::from(4), 4);
    let public = party.public.clone();
    let outcome = party.send(Some(PRIVATE), &[]);
    let change = &outcome.diff.accounts[&PRIVATE];
    assert_eq!(change.account, None);
    assert_eq!(
        outcome.touched.called,
        [(PRIVATE, PrivateAccess::Written)].into()
    );
    assert!(party.private.accounts.is_empty());
    // Alice, to whom it would have sent its balance, is as before but for the nonce.
    assert_eq!(party.public.balance(alice()), public.balance(alice()));

    // From Cancun on only what was created in the same transaction goes (EIP-6780).
    let mut party = Party::new().with_private(PRIVATE, DESTROYER);
    let outcome = party.send(Some(PRIVATE), &[]);
    assert!(outcome.receipt.is_success() && outcome.diff.is_empty());
    let outcome = party.send(None, DESTROYER);
    assert!(outcome.receipt.is_success() && outcome.diff.is_empty());
    assert!(outcome.touched.created.is_empty());
}

#[test]
fn precompiles_work() {
    let sha256 = Address::with_last_byte(2);
    let identity = Address::with_last_byte(4);
    let mut party = Party::new()
        .with_private(PRIVATE, &forwarding(STATICCALL, sha256))
        .with_private(OTHER_PRIVATE, &forwarding(CALL, identity));
    let output = party.send(Some(PRIVATE), &[]).receipt.output;
    // SHA-256 of nothing.
    let expected = b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(output.get(32..).unwrap(), expected.as_slice());
    let outcome = party.send(Some(OTHER_PRIVATE), &word(9));
    assert_eq!(forwarded(&outcome), (true, 9));
    assert!(outcome.touched.public_read.is_empty());
}

#[test]
fn the_block_looks_the_same_as_in_public_execution() {
    let context = BlockContext {
        prevrandao: B256::repeat_byte(0x5a),
        base_fee: 9,
        ..context()
    };
    let asked = CallRequest {
        gas_price: Some(11),
        ..request(CONTRACT, &[])
    };
    let public = World::new().with_code(CONTRACT, ENVIRONMENT);
    let settings = CallSettings::capped(CAP);
    let spec = spec(Fork::Prague);
    let expected = call(&spec, &context, &public, &HASHES, &asked, &settings).unwrap();
    let party = Party::new().with_private(CONTRACT, ENVIRONMENT);
    // A price below the base fee is the public side's concern.
    for gas_price in [11, 1] {
        let sent = PrivateCall {
            gas_price,
            ..by_alice_privately(Some(CONTRACT), &[])
        };
        let outcome = execute_private(
            &spec,
            context,
            &party.public,
            &party.private,
            &HASHES,
            &sent,
        )
        .unwrap();
        let (got, expected) = (numbers(&outcome.receipt.output), numbers(&expected.output));
        assert_eq!((got.len(), got[6]), (7, U256::from(gas_price)));
        assert_eq!(got[..6], expected[..6]);
    }
}

#[test]
fn the_sender_counts_as_public_contract_only_if_it_is_called() {
    // Alice has delegated to a public contract (EIP-7702).
    let delegation = [&[0xef, 0x01, 0x00][..], CONTRACT.as_slice()].concat();
    let mut party = Party::new()
        .with_public(CONTRACT, STORE)
        .with_public(alice(), &delegation)
        .with_private(PRIVATE, STORE)
        .with_private(OTHER_PRIVATE, &forwarding(CALL, alice()));
    let outcome = party.send(Some(PRIVATE), &word(1));
    assert!(outcome.receipt.is_success() && outcome.touched.public_read.is_empty());
    let outcome = party.send(Some(OTHER_PRIVATE), &word(1));
    assert!(!forwarded(&outcome).0);
    assert_eq!(outcome.touched.public_read, set([alice(), CONTRACT]));
}

#[test]
fn touching_nobody_makes_nobody_under_old_rules() {
    // CALL(1000, nobody, 0, 0, 0, 0, 0) where accounts could be empty.
    let mut code = vec![0x60, 0, 0x60, 0, 0x60, 0, 0x60, 0, 0x60, 0, 0x73];
    code.extend(RECIPIENT);
    code.extend([0x61, 0x03, 0xe8, 0xf1, 0x00]);
    let mut party = Party::new()
        .under(Fork::Homestead)
        .with_private(PRIVATE, &code);
    let outcome = party.send(Some(PRIVATE), &[]);
    assert!(outcome.receipt.is_success() && outcome.diff.is_empty());
    assert!(outcome.touched.created.is_empty());
}

#[test]
fn a_state_that_cannot_be_read_is_no_outcome() {
    let call = by_alice_privately(Some(PRIVATE), &[]);
    let healthy = Party::new().with_private(PRIVATE, STORE);
    let mut broken = [healthy.clone(), healthy.clone(), healthy];
    broken[0].private.broken.push(PRIVATE);
    broken[1].public.broken.push(alice());
    // Code that is not there is damage too.
    broken[2].private.codes.clear();
    broken[2]
        .private
        .accounts
        .get_mut(&PRIVATE)
        .unwrap()
        .code_hash = B256::repeat_byte(7);
    for party in broken {
        let refusal = party.execute(&call).unwrap_err();
        assert!(matches!(refusal, PrivateRefusal::State(_)), "{refusal}");
        assert!(!refusal.is_final());
    }
}
