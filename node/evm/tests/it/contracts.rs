//! Storage, creation, destruction, reverts, logs and delegation.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, TxKind, U256, keccak256};
use quorate_chain::{Fork, receipts_root_and_bloom};
use quorate_evm::{BlockContext, ExecuteError, REVERT_DATA_BYTES_MAX, execute_block};
use quorate_state::ReadError;

use crate::world::*;

/// Sends its balance to the caller and destroys itself.
const DESTROYER: &[u8] = &[0x33, 0xff];

fn slot(number: u64) -> U256 {
    U256::from(number)
}

#[test]
fn storage_is_in_the_difference_only_where_it_ends_up_changed() {
    let world = World::new()
        .with_code(CONTRACT, SETTER)
        .with_slot(CONTRACT, slot(1), 7)
        .with_slot(CONTRACT, slot(2), 8);
    let outcome = run(
        &world,
        &[
            invoke(0, &words(slot(1), 9)),
            invoke(1, &words(slot(1), 7)), // back to what it was
            invoke(2, &words(slot(2), 0)), // cleared
            invoke(3, &words(slot(3), 5)), // new
            invoke(4, &words(slot(4), 5)),
            invoke(5, &words(slot(4), 0)), // came and went
        ],
    );
    let change = &outcome.diff.accounts[&CONTRACT];
    assert_eq!(
        change.storage,
        [(slot(2), slot(0)), (slot(3), slot(5))].into()
    );
    assert_eq!(change.account, world.accounts.get(&CONTRACT).copied());
    assert!(!change.storage_wiped && outcome.diff.codes.is_empty());
    world.after(&outcome.diff);
}

#[test]
fn a_token_transfer_moves_balances_and_logs_into_the_bloom() {
    let world = World::new()
        .with_code(CONTRACT, TOKEN)
        .with_slot(CONTRACT, slot_of(alice()), 100);
    let outcome = run(&world, &[invoke(0, &words(slot_of(bob()), 30))]);
    let after = world.after(&outcome.diff);
    assert_eq!(after.slot(CONTRACT, slot_of(alice())), slot(70));
    assert_eq!(after.slot(CONTRACT, slot_of(bob())), slot(30));
    let receipt = &outcome.receipts[0];
    assert_eq!(receipt.logs.len(), 1);
    let log = &receipt.logs[0];
    assert_eq!(log.address, CONTRACT);
    let word = |address: Address| address.into_word();
    assert_eq!(
        log.topics(),
        [B256::with_last_byte(0xaa), word(alice()), word(bob())]
    );
    assert_eq!(U256::from_be_slice(&log.data.data), slot(30));
    let (_, bloom) = receipts_root_and_bloom(&outcome.receipts);
    assert!(bloom.contains_raw_log(CONTRACT, log.topics()));
    assert!(!bloom.contains_raw_log(OTHER_CONTRACT, &[]));
}

#[test]
fn a_reverted_transaction_pays_gas_and_keeps_what_it_said() {
    let world = World::new().with_code(CONTRACT, TOKEN);
    let tx = priced(
        1,
        0,
        TxKind::Call(CONTRACT),
        50,
        &words(slot_of(bob()), 30),
        2,
    );
    let outcome = run(&world, &[tx]);
    let receipt = &outcome.receipts[0];
    assert!(!receipt.success && receipt.logs.is_empty());
    assert_eq!(U256::from_be_slice(&receipt.revert_data), slot(0xbb));
    assert!(receipt.gas_used < GAS);
    let after = world.after(&outcome.diff);
    assert_eq!(
        after.balance(alice()),
        U256::from(RICH) - U256::from(2 * receipt.gas_used)
    );
    assert_eq!(after.accounts[&alice()].nonce, 1);
    assert!(!outcome.diff.accounts.contains_key(&CONTRACT));
}

#[test]
fn revert_data_is_cut_off_at_its_limit() {
    // REVERT(0, 8192)
    let world = World::new().with_code(CONTRACT, &[0x61, 0x20, 0x00, 0x60, 0x00, 0xfd]);
    let outcome = run(&world, &[invoke(0, &[])]);
    assert_eq!(outcome.receipts[0].revert_data.len(), REVERT_DATA_BYTES_MAX);
}

#[test]
fn a_halted_transaction_uses_all_its_gas_and_says_nothing() {
    let world = World::new().with_code(CONTRACT, &[0xfe]);
    let receipt = run(&world, &[invoke(0, &[])]).receipts.remove(0);
    assert_eq!(
        (receipt.success, receipt.gas_used, receipt.revert_data.len()),
        (false, GAS, 0)
    );
}

#[test]
fn a_created_contract_has_its_code_and_answers_in_the_same_block() {
    let world = World::new();
    let address = alice().create(0);
    let outcome = run(
        &world,
        &[
            by_alice(0, TxKind::Create, 11, &deploying(SETTER)),
            by_alice(1, TxKind::Call(address), 0, &words(slot(1), 2)),
        ],
    );
    assert_eq!(outcome.receipts[0].contract_address, Some(address));
    assert_eq!(outcome.receipts[1].contract_address, None);
    assert_eq!(
        outcome.diff.codes,
        [(keccak256(SETTER), Bytes::from_static(SETTER))].into()
    );
    let change = &outcome.diff.accounts[&address];
    let account = change.account.unwrap();
    assert_eq!(
        (account.nonce, account.balance, account.code_hash),
        (1, slot(11), keccak256(SETTER))
    );
    assert_eq!(change.storage, [(slot(1), slot(2))].into());
    assert!(!change.storage_wiped);
    world.after(&outcome.diff);
}

#[test]
fn a_creation_that_fails_makes_no_contract() {
    let world = World::new();
    let outcome = run(&world, &[by_alice(0, TxKind::Create, 11, &[0xfe])]);
    assert_eq!(
        (
            outcome.receipts[0].success,
            outcome.receipts[0].contract_address
        ),
        (false, None)
    );
    assert_eq!(
        outcome.diff.accounts.keys().copied().collect::<Vec<_>>(),
        vec![alice()]
    );
}

#[test]
fn since_cancun_an_old_contract_survives_its_destruction() {
    let world = World::new()
        .with_code(CONTRACT, DESTROYER)
        .with_balance(CONTRACT, 40)
        .with_slot(CONTRACT, slot(1), 7);
    let outcome = run(&world, &[invoke(0, &[])]);
    let after = world.after(&outcome.diff);
    assert_eq!(after.balance(CONTRACT), slot(0));
    assert_eq!(after.balance(alice()), U256::from(RICH + 40));
    assert_eq!(after.slot(CONTRACT, slot(1)), slot(7));
    assert!(after.accounts[&CONTRACT].has_code());
}

#[test]
fn before_cancun_a_destroyed_contract_is_gone_with_its_storage() {
    let world = World::new()
        .with_code(CONTRACT, DESTROYER)
        .with_balance(CONTRACT, 40)
        .with_slot(CONTRACT, slot(1), 7);
    let outcome = run_under(Fork::Shanghai, &world, &[invoke(0, &[])]);
    let change = &outcome.diff.accounts[&CONTRACT];
    assert_eq!(
        (change.account, change.storage_wiped, change.storage.len()),
        (None, true, 0)
    );
    let after = world.after(&outcome.diff);
    assert!(!after.storage.contains_key(&CONTRACT));
    assert_eq!(after.balance(alice()), U256::from(RICH + 40));
}

#[test]
fn a_contract_that_is_created_and_destroyed_in_one_transaction_leaves_nothing() {
    for fork in [Fork::Shanghai, Fork::Prague] {
        let world = World::new();
        // Stores something, then destroys itself in its own creation.
        let init = [0x60, 0x01, 0x60, 0x02, 0x55, 0x33, 0xff];
        let outcome = run_under(fork, &world, &[by_alice(0, TxKind::Create, 11, &init)]);
        assert!(outcome.receipts[0].success);
        assert_eq!(
            outcome.diff.accounts.keys().copied().collect::<Vec<_>>(),
            vec![alice()],
            "{fork}"
        );
        assert_eq!(
            world.after(&outcome.diff).balance(alice()),
            U256::from(RICH)
        );
    }
}

/// Creates, by CREATE2 with salt 0, a contract with its input as init code.
const FACTORY: &[u8] = &[0x36, 0x5f, 0x5f, 0x37, 0x5f, 0x36, 0x5f, 0x5f, 0xf5, 0x00];

#[test]
fn a_contract_that_comes_back_at_its_address_has_only_its_new_storage() {
    // With input it stores 1 in slot 9, without it destroys itself.
    let runtime = [
        0x36, 0x60, 0x06, 0x57, 0x33, 0xff, 0x5b, 0x60, 0x01, 0x60, 0x09, 0x55, 0x00,
    ];
    // SSTORE(7, 5), then CODECOPY and RETURN of the runtime, which begins 17 bytes in.
    let length = u8::try_from(runtime.len()).unwrap();
    let mut init = vec![0x60, 0x05, 0x60, 0x07, 0x55];
    init.extend([
        0x60, length, 0x60, 17, 0x60, 0, 0x39, 0x60, length, 0x60, 0, 0xf3,
    ]);
    init.extend(runtime);
    let child = OTHER_CONTRACT.create2_from_code(B256::ZERO, &init);
    let make = |nonce| by_alice(nonce, TxKind::Call(OTHER_CONTRACT), 0, &init);
    let poke = |nonce, input: &[u8]| by_alice(nonce, TxKind::Call(child), 0, input);

    let world = World::new().with_code(OTHER_CONTRACT, FACTORY);
    let first = run_under(Fork::Shanghai, &world, &[make(0), poke(1, &[1])]);
    let world = world.after(&first.diff);
    assert_eq!(
        world.storage[&child],
        [(slot(7), slot(5)), (slot(9), slot(1))].into()
    );

    let second = run_under(Fork::Shanghai, &world, &[poke(2, &[]), make(3)]);
    assert!(second.receipts.iter().all(|receipt| receipt.success));
    let change = &second.diff.accounts[&child];
    assert!(change.storage_wiped);
    assert_eq!(change.storage, [(slot(7), slot(5))].into());
    let world = world.after(&second.diff);
    assert_eq!(world.storage[&child], [(slot(7), slot(5))].into());

    // Gone, back and gone again within one block.
    let third = run_under(
        Fork::Shanghai,
        &world,
        &[poke(4, &[]), make(5), poke(6, &[1]), poke(7, &[])],
    );
    let change = &third.diff.accounts[&child];
    assert_eq!(
        (change.account, change.storage_wiped, change.storage.len()),
        (None, true, 0)
    );
}

#[test]
fn a_contract_may_be_created_where_there_is_a_balance() {
    let address = alice().create(0);
    let world = World::new().with_balance(address, 9);
    let outcome = run(
        &world,
        &[by_alice(0, TxKind::Create, 1, &deploying(SETTER))],
    );
    let after = world.after(&outcome.diff);
    assert_eq!(after.balance(address), slot(10));
    assert!(after.accounts[&address].has_code());
}

#[test]
fn a_delegation_runs_the_code_of_its_target_in_the_account() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let set = delegating(0, bob(), vec![authorization(2, CHAIN_ID, 0, CONTRACT)]);
    let outcome = run(
        &world,
        &[set, by_alice(1, TxKind::Call(bob()), 0, &words(slot(3), 4))],
    );
    let world = world.after(&outcome.diff);
    let account = world.accounts[&bob()];
    assert_eq!(account.nonce, 1);
    let mut designation = vec![0xef, 0x01, 0x00];
    designation.extend(CONTRACT.as_slice());
    assert_eq!(world.codes[&account.code_hash], Bytes::from(designation));
    assert_eq!(world.slot(bob(), slot(3)), slot(4));

    // A delegated account still sends, and a delegation to the zero address ends it.
    let send = priced(2, 1, TxKind::Call(RECIPIENT), 5, &[], 0);
    let clear = delegating(2, RECIPIENT, vec![authorization(2, 0, 2, Address::ZERO)]);
    let outcome = run(&world, &[send, clear]);
    assert!(outcome.receipts.iter().all(|receipt| receipt.success));
    let world = world.after(&outcome.diff);
    assert_eq!(world.accounts[&bob()].code_hash, KECCAK256_EMPTY);
    assert_eq!(world.slot(bob(), slot(3)), slot(4));
}

#[test]
fn authorizations_for_another_chain_or_nonce_are_passed_over() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let list = vec![
        authorization(2, 5, 0, CONTRACT),
        authorization(2, CHAIN_ID, 7, CONTRACT),
    ];
    let outcome = run(&world, &[delegating(0, RECIPIENT, list)]);
    assert!(outcome.receipts[0].success);
    assert!(!outcome.diff.accounts.contains_key(&bob()));
}

/// Stores BLOCKHASH of the number in its input in slot 0.
const HASH_KEEPER: &[u8] = &[0x5f, 0x35, 0x40, 0x5f, 0x55, 0x00];

#[test]
fn blockhash_knows_the_parent_and_asks_for_the_others() {
    let world = World::new().with_code(CONTRACT, HASH_KEEPER);
    let ask = |number: u64| invoke(0, &slot(number).to_be_bytes::<32>());
    let answer = |number| {
        world
            .after(&run(&world, &[ask(number)]).diff)
            .slot(CONTRACT, slot(0))
    };
    assert_eq!(answer(99), U256::from_be_bytes(context().parent_hash.0));
    assert_eq!(answer(98), slot(98));
    // Not an ancestor, or too far back (the block is 100).
    assert_eq!(answer(100), slot(0));
    let far = BlockContext {
        height: 1_000,
        ..context()
    };
    let outcome = execute_block(&spec(Fork::Prague), far, &world, &HASHES, &[ask(743)]).unwrap();
    assert_eq!(world.after(&outcome.diff).slot(CONTRACT, slot(0)), slot(0));

    // An ancestor that should be known and is not ends the execution: nobody may guess.
    let error = execute_block(
        &spec(Fork::Prague),
        context(),
        &world,
        &HashesFrom(99),
        &[ask(98)],
    )
    .unwrap_err();
    assert!(
        matches!(error, ExecuteError::State(ReadError::Damaged { .. })),
        "{error}"
    );
}

#[test]
fn code_that_the_state_has_lost_is_damage_not_an_empty_account() {
    let mut world = World::new().with_code(CONTRACT, &[0x60, 0x01, 0x60, 0x02, 0x55, 0x5b, 0x00]);
    world.codes.clear();
    let error = execute_block(
        &spec(Fork::Prague),
        context(),
        &world,
        &HASHES,
        &[invoke(0, &[])],
    )
    .unwrap_err();
    assert!(
        matches!(error, ExecuteError::State(ReadError::Damaged { .. })),
        "{error}"
    );
}

#[test]
fn prevrandao_answers_for_difficulty_before_paris() {
    // SSTORE(0, PREVRANDAO or DIFFICULTY)
    let world = World::new().with_code(CONTRACT, &[0x44, 0x60, 0x00, 0x55]);
    let context = BlockContext {
        prevrandao: B256::with_last_byte(77),
        ..context()
    };
    for fork in [Fork::London, Fork::Prague] {
        let outcome =
            execute_block(&spec(fork), context, &world, &HASHES, &[invoke(0, &[])]).unwrap();
        assert_eq!(
            world.after(&outcome.diff).slot(CONTRACT, slot(0)),
            slot(77),
            "{fork}"
        );
    }
}
