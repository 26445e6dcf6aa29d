//! Transfers, fees, refusals and what a block does by itself.

use std::collections::BTreeSet;

use alloy_consensus::{SignableTransaction as _, TxEip4844, TxLegacy};
use alloy_eips::eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE};
use alloy_eips::eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE};
use alloy_primitives::{Address, B256, TxKind, U256};
use quorate_chain::{Fork, RecoveredTransaction, Transaction};
use quorate_evm::{BlockContext, BlockExecutor, ExecuteError, InvalidTransaction, execute_block};
use quorate_state::{ReadError, StateRead};

use crate::world::*;

fn word(hash: B256) -> U256 {
    hash.into()
}

fn refusal(world: &World, tx: &RecoveredTransaction) -> InvalidTransaction {
    let spec = spec(Fork::Prague);
    let mut executor = BlockExecutor::new(&spec, context(), world, &HASHES).unwrap();
    match executor.execute(tx).unwrap_err() {
        ExecuteError::Invalid(reason) => {
            assert!(
                executor.finish().diff.is_empty(),
                "a refused transaction left a trace"
            );
            reason
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_transfer_moves_value_counts_the_nonce_and_changes_nothing_else() {
    let world = World::new();
    let outcome = run(&world, &[transfer(0, 5)]);
    assert_eq!(outcome.gas_used, 21_000);
    let changed: BTreeSet<Address> = outcome.diff.accounts.keys().copied().collect();
    assert_eq!(changed, [alice(), RECIPIENT].into());
    let after = world.after(&outcome.diff);
    assert_eq!(after.balance(RECIPIENT), U256::from(5));
    assert_eq!(after.balance(alice()), U256::from(RICH - 5));
    assert_eq!(after.accounts[&alice()].nonce, 1);
    let receipt = &outcome.receipts[0];
    assert!(receipt.success && receipt.logs.is_empty() && receipt.contract_address.is_none());
}

#[test]
fn a_sender_without_a_coin_transacts_at_zero_gas_price() {
    let world = World::default();
    let outcome = run(&world, &[transfer(0, 0)]);
    assert!(outcome.receipts[0].success);
    let after = world.after(&outcome.diff);
    // Neither the recipient of nothing nor the coinbase that earned nothing exists (EIP-161).
    assert_eq!(
        after.accounts.keys().copied().collect::<Vec<_>>(),
        vec![alice()]
    );
}

#[test]
fn the_coinbase_gets_the_tip_and_the_base_fee_burns() {
    let world = World::new();
    let context = BlockContext {
        base_fee: 3,
        ..context()
    };
    let txs = [with_tip(0, 10, 4)];
    let outcome = execute_block(&spec(Fork::Prague), context, &world, &HASHES, &txs).unwrap();
    let after = world.after(&outcome.diff);
    assert_eq!(after.balance(COINBASE), U256::from(4 * 21_000));
    assert_eq!(after.balance(alice()), U256::from(RICH - 1 - 7 * 21_000));
}

#[test]
fn receipts_add_up_gas_over_the_block() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let outcome = run(
        &world,
        &[
            transfer(0, 1),
            invoke(1, &words(U256::from(1), 2)),
            transfer(2, 1),
        ],
    );
    let mut sum = 0;
    for receipt in &outcome.receipts {
        sum += receipt.gas_used;
        assert_eq!(receipt.cumulative_gas_used, sum);
    }
    assert_eq!(outcome.gas_used, sum);
}

#[test]
fn refusals_name_what_is_wrong_and_leave_no_trace() {
    let world = World::new();
    assert_eq!(
        refusal(&world, &transfer(3, 1)),
        InvalidTransaction::NonceTooHigh {
            got: 3,
            expected: 0
        }
    );
    let mut later = world.clone();
    later.accounts.get_mut(&alice()).unwrap().nonce = 4;
    assert_eq!(
        refusal(&later, &transfer(3, 1)),
        InvalidTransaction::NonceTooLow {
            got: 3,
            expected: 4
        }
    );
    assert_eq!(
        refusal(&world, &priced(1, 0, TxKind::Call(RECIPIENT), RICH, &[], 2)),
        InvalidTransaction::InsufficientFunds {
            balance: U256::from(RICH),
            cost: U256::from(RICH) + U256::from(2 * GAS),
        }
    );
    let small = |gas_limit| {
        signed(
            1,
            TxLegacy {
                chain_id: Some(CHAIN_ID),
                gas_limit,
                to: TxKind::Call(RECIPIENT),
                ..TxLegacy::default()
            },
        )
    };
    assert_eq!(
        refusal(&world, &small(20_999)),
        InvalidTransaction::IntrinsicGas {
            got: 20_999,
            required: 21_000
        }
    );
    assert_eq!(
        refusal(&world, &small(BLOCK_GAS + 1)),
        InvalidTransaction::GasLimitAboveBlock {
            got: BLOCK_GAS + 1,
            max: BLOCK_GAS
        }
    );
    let contract = World::new().with_code(alice(), SETTER);
    assert_eq!(
        refusal(&contract, &transfer(1, 0)),
        InvalidTransaction::SenderHasCode { sender: alice() }
    );
    assert_eq!(
        refusal(&world, &with_tip(0, 3, 4)),
        InvalidTransaction::TipAboveFeeCap { tip: 4, fee_cap: 3 }
    );
    let elsewhere = signed(
        1,
        TxLegacy {
            chain_id: Some(7),
            gas_limit: GAS,
            to: RECIPIENT.into(),
            ..TxLegacy::default()
        },
    );
    assert_eq!(
        refusal(&world, &elsewhere),
        InvalidTransaction::WrongChainId {
            got: Some(7),
            expected: CHAIN_ID
        }
    );
}

#[test]
fn refused_transactions_do_not_change_what_the_others_do() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let spec = spec(Fork::Prague);
    let good = [
        transfer(0, 5),
        invoke(1, &words(U256::from(1), 9)),
        transfer(2, 7),
    ];
    let mut executor = BlockExecutor::new(&spec, context(), &world, &HASHES).unwrap();
    for tx in &good {
        for bad in [
            transfer(9, 1),
            priced(
                2,
                0,
                TxKind::Call(CONTRACT),
                RICH,
                &words(U256::from(1), 1),
                1,
            ),
        ] {
            assert!(matches!(
                executor.execute(&bad),
                Err(ExecuteError::Invalid(_))
            ));
        }
        let used = executor.gas_used();
        let receipt = executor.execute(tx).unwrap().clone();
        assert_eq!(executor.gas_used(), used + receipt.gas_used);
        assert_eq!(executor.gas_left(), BLOCK_GAS - executor.gas_used());
    }
    assert_eq!(executor.finish(), run(&world, &good));
}

#[test]
fn a_full_block_says_how_much_it_has_left() {
    let world = World::new();
    let context = BlockContext {
        gas_limit: GAS + 20_000,
        ..context()
    };
    let spec = spec(Fork::Prague);
    let mut executor = BlockExecutor::new(&spec, context, &world, &HASHES).unwrap();
    executor.execute(&transfer(0, 1)).unwrap();
    assert_eq!(
        executor.execute(&transfer(1, 1)).unwrap_err(),
        ExecuteError::Invalid(InvalidTransaction::GasLimitAboveRemaining {
            got: GAS,
            remaining: GAS - 1_000
        })
    );
}

#[test]
fn a_block_with_an_invalid_transaction_names_its_position() {
    let world = World::new();
    let txs = [transfer(0, 1), transfer(1, 1), transfer(1, 1)];
    let error = execute_block(&spec(Fork::Prague), context(), &world, &HASHES, &txs).unwrap_err();
    assert_eq!(
        error,
        ExecuteError::InvalidAt {
            position: 2,
            hash: txs[2].hash(),
            reason: Box::new(InvalidTransaction::NonceTooLow {
                got: 1,
                expected: 2
            }),
        }
    );
}

#[test]
fn blob_transactions_are_refused() {
    let tx = TxEip4844 {
        chain_id: CHAIN_ID,
        gas_limit: GAS,
        to: RECIPIENT,
        max_fee_per_blob_gas: 1,
        blob_versioned_hashes: vec![B256::with_last_byte(1)],
        ..TxEip4844::default()
    };
    let signature = sign(1, tx.signature_hash());
    let tx =
        RecoveredTransaction::recover(Transaction::Eip4844(tx.into_signed(signature))).unwrap();
    assert_eq!(
        refusal(&World::new(), &tx),
        InvalidTransaction::BlobsRefused
    );
}

#[test]
fn a_state_that_cannot_be_read_ends_the_executor() {
    let world = World {
        broken: vec![RECIPIENT],
        ..World::new()
    };
    let spec = spec(Fork::Prague);
    let mut executor = BlockExecutor::new(&spec, context(), &world, &HASHES).unwrap();
    let expected = ExecuteError::State(ReadError::Storage {
        reason: "the disk is gone".into(),
    });
    assert_eq!(executor.execute(&transfer(0, 1)).unwrap_err(), expected);
    // Also for a transaction that would not meet the fault.
    assert_eq!(
        executor
            .execute(&by_alice(0, TxKind::Call(bob()), 1, &[]))
            .unwrap_err(),
        expected
    );
}

#[test]
fn the_same_block_gives_the_same_outcome() {
    let world =
        World::new()
            .with_code(CONTRACT, TOKEN)
            .with_slot(CONTRACT, slot_of(alice()), 1_000);
    let txs: Vec<_> = (0..50)
        .map(|n| {
            let to = Address::with_last_byte(100 + n);
            if n % 2 == 0 {
                by_alice(n.into(), TxKind::Call(to), 1, &[])
            } else {
                invoke(n.into(), &words(slot_of(to), 3))
            }
        })
        .collect();
    let first = run(&world, &txs);
    assert_eq!(first, run(&world, &txs));
    assert!(first.receipts.iter().all(|receipt| receipt.success));
}

#[test]
fn system_calls_record_parent_hash_and_beacon_root_where_their_contracts_exist() {
    let world = World::new()
        .with_code(HISTORY_STORAGE_ADDRESS, &HISTORY_STORAGE_CODE)
        .with_code(BEACON_ROOTS_ADDRESS, &BEACON_ROOTS_CODE);
    let context = BlockContext {
        parent_beacon_root: B256::repeat_byte(0xbb),
        ..context()
    };
    let outcome = execute_block(&spec(Fork::Prague), context, &world, &HASHES, &[]).unwrap();
    assert_eq!((outcome.gas_used, outcome.receipts.len()), (0, 0));
    assert_eq!(
        outcome.diff.accounts.len(),
        2,
        "only the two contracts change"
    );
    let after = world.after(&outcome.diff);
    // EIP-2935: ring of 8191 by height of the parent. EIP-4788: two rings of 8191 by timestamp.
    assert_eq!(
        after.slot(HISTORY_STORAGE_ADDRESS, U256::from(99)),
        word(context.parent_hash)
    );
    let at = context.timestamp % 8_191;
    assert_eq!(
        after.slot(BEACON_ROOTS_ADDRESS, U256::from(at)),
        U256::from(context.timestamp)
    );
    assert_eq!(
        after.slot(BEACON_ROOTS_ADDRESS, U256::from(at + 8_191)),
        word(context.parent_beacon_root)
    );

    let nowhere = execute_block(&spec(Fork::Prague), context, &World::new(), &HASHES, &[]).unwrap();
    assert!(nowhere.diff.is_empty());
    let earlier = execute_block(&spec(Fork::Shanghai), context, &world, &HASHES, &[]).unwrap();
    assert!(earlier.diff.is_empty());
}

#[test]
fn it_runs_on_a_state_behind_a_pointer() {
    let world: std::sync::Arc<dyn StateRead> = std::sync::Arc::new(World::new());
    let outcome = execute_block(
        &spec(Fork::Prague),
        context(),
        &*world,
        &HASHES,
        &[transfer(0, 1)],
    )
    .unwrap();
    assert_eq!(outcome.diff.accounts.len(), 2);
}

#[test]
fn every_fork_executes_a_transfer() {
    use Fork::*;
    let forks = [
        Frontier,
        Homestead,
        Tangerine,
        SpuriousDragon,
        Byzantium,
        Constantinople,
        Petersburg,
        Istanbul,
        Berlin,
        London,
        Paris,
        Shanghai,
        Cancun,
        Prague,
        Osaka,
    ];
    for fork in forks {
        let world = World::new();
        let after = world.after(&run_under(fork, &world, &[transfer(0, 5)]).diff);
        assert_eq!(after.balance(RECIPIENT), U256::from(5), "{fork}");
        // Before EIP-161 the coinbase comes to be by earning nothing.
        assert_eq!(
            after.accounts.contains_key(&COINBASE),
            fork < SpuriousDragon,
            "{fork}"
        );
    }
}
