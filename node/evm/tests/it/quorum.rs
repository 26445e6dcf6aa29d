//! The public side of private transactions in Quorum's form, and the state in the middle of a block.

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Address, Bytes, KECCAK256_EMPTY, TxKind, U256, address, keccak256};
use quorate_chain::{
    Fork, PRIVACY_PRECOMPILE, QuorumFormError, RecoveredTransaction, Transaction,
    is_quorum_private, quorum_private_hash, quorum_private_transaction,
};
use quorate_evm::{
    BlockContext, BlockExecutor, ExecuteError, InvalidTransaction, PrivateCall, execute_block,
    execute_private, intrinsic_gas, validate_static,
};
use quorate_state::{ReadError, StateRead};

use crate::world::*;

const PAYLOAD_HASH: [u8; 64] = [0x5a; 64];
const NOBODY: Address = address!("00000000000000000000000000000000000000d0");
const FORKS: [Fork; 8] = [
    Fork::Frontier,
    Fork::Homestead,
    Fork::Istanbul,
    Fork::Berlin,
    Fork::London,
    Fork::Shanghai,
    Fork::Prague,
    Fork::Osaka,
];

/// A private transaction of Alice in Quorum's form.
fn private(nonce: u64, to: TxKind) -> RecoveredTransaction {
    private_with(nonce, to, |_| {})
}

fn private_with(
    nonce: u64,
    to: TxKind,
    change: impl FnOnce(&mut TxLegacy),
) -> RecoveredTransaction {
    let tx = unsigned(nonce, to, change);
    let signature = sign(1, quorum_private_hash(&tx));
    RecoveredTransaction::recover(quorum_private_transaction(tx, signature).unwrap()).unwrap()
}

/// One that nobody should send: its form is not checked.
fn malformed(change: impl FnOnce(&mut TxLegacy)) -> RecoveredTransaction {
    let tx = unsigned(0, TxKind::Call(NOBODY), change);
    let signature = sign(1, quorum_private_hash(&tx));
    let marked = TxLegacy {
        chain_id: Some(1),
        ..tx
    };
    RecoveredTransaction::recover(Transaction::Legacy(marked.into_signed(signature))).unwrap()
}

fn unsigned(nonce: u64, to: TxKind, change: impl FnOnce(&mut TxLegacy)) -> TxLegacy {
    let mut tx = TxLegacy {
        chain_id: None,
        nonce,
        gas_price: 0,
        gas_limit: GAS,
        to,
        value: U256::ZERO,
        input: Bytes::copy_from_slice(&PAYLOAD_HASH),
    };
    change(&mut tx);
    tx
}

fn refusal(world: &World, tx: &RecoveredTransaction) -> InvalidTransaction {
    refusal_in(context(), world, tx)
}

fn refusal_in(
    context: BlockContext,
    world: &World,
    tx: &RecoveredTransaction,
) -> InvalidTransaction {
    let spec = spec(Fork::Prague);
    let mut executor = BlockExecutor::new(&spec, context, world, &HASHES).unwrap();
    match executor.execute(tx) {
        Err(ExecuteError::Invalid(reason)) => {
            assert!(executor.finish().diff.is_empty());
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_happens_but_the_nonce_and_the_fee_under_every_fork() {
    let world = World::new()
        .with_code(CONTRACT, SETTER)
        .with_balance(COINBASE, 1);
    for fork in FORKS {
        let base_fee = if fork >= Fork::London { 3 } else { 0 };
        let context = BlockContext {
            base_fee,
            ..context()
        };
        for to in [
            TxKind::Call(NOBODY),
            TxKind::Call(CONTRACT),
            TxKind::Call(PRIVACY_PRECOMPILE),
            // A precompile of Ethereum's is not called either.
            TxKind::Call(Address::with_last_byte(4)),
            TxKind::Create,
        ] {
            let tx = private_with(0, to, |tx| tx.gas_price = 7);
            let spec = spec(fork);
            let outcome =
                execute_block(&spec, context, &world, &HASHES, std::slice::from_ref(&tx)).unwrap();
            let gas = intrinsic_gas(fork, tx.transaction());
            let receipt = &outcome.receipts[0];
            assert!(receipt.success && receipt.logs.is_empty());
            assert_eq!(receipt.contract_address, None);
            assert_eq!(receipt.gas_used, gas, "{fork} {to:?}");
            assert_eq!(outcome.gas_used, gas);

            let mut expected = world.clone();
            let sender = expected.accounts.get_mut(&alice()).unwrap();
            sender.nonce = 1;
            sender.balance -= U256::from(gas * 7);
            // From London on the base fee is burnt.
            let coinbase = expected.accounts.get_mut(&COINBASE).unwrap();
            coinbase.balance += U256::from(gas * (7 - base_fee));
            assert_eq!(world.after(&outcome.diff), expected, "{fork} {to:?}");
        }
    }
}

#[test]
fn it_costs_and_leaves_what_an_ordinary_call_of_nothing_does() {
    let world = World::new();
    for fork in FORKS {
        for gas_price in [0, 5] {
            let ordinary = priced(1, 0, TxKind::Call(bob()), 0, &PAYLOAD_HASH, gas_price);
            let private = private_with(0, TxKind::Call(bob()), |tx| tx.gas_price = gas_price);
            let ordinary = run_under(fork, &world, &[ordinary]);
            assert_eq!(run_under(fork, &world, &[private]), ordinary, "{fork}");
        }
    }
}

#[test]
fn a_sender_that_is_the_coinbase_pays_itself() {
    let world = World::new();
    let context = BlockContext {
        coinbase: alice(),
        ..context()
    };
    let tx = private_with(0, TxKind::Create, |tx| tx.gas_price = 9);
    let outcome = execute_block(&spec(Fork::Prague), context, &world, &HASHES, &[tx]).unwrap();
    let after = world.after(&outcome.diff);
    assert_eq!(after.accounts[&alice()].nonce, 1);
    assert_eq!(after.balance(alice()), world.balance(alice()));
}

#[test]
fn the_outcome_does_not_depend_on_what_stands_at_the_recipient() {
    let after = |world: &World| {
        let outcome = run(
            world,
            &[
                private(0, TxKind::Call(CONTRACT)),
                private(1, TxKind::Create),
            ],
        );
        (outcome.receipts, outcome.diff)
    };
    let nothing = after(&World::new());
    assert_eq!(after(&World::new().with_code(CONTRACT, SETTER)), nothing);
    // Code that would burn all gas, and an account at the address that a creation would have taken.
    let occupied = World::new()
        .with_code(CONTRACT, &[0xfe])
        .with_code(alice().create(1), SETTER);
    assert_eq!(after(&occupied), nothing);
    assert!(nothing.0.iter().all(|receipt| receipt.success));
}

#[test]
fn intrinsic_gas_is_that_of_the_hash_and_of_the_recipient() {
    let world = World::new();
    let short = |to, gas_limit| private_with(0, to, |tx| tx.gas_limit = gas_limit);
    // 64 bytes that are not zero: 16 each, and for a creation 2 per word of it.
    let required = 53_000 + 64 * 16 + 4;
    let creation = short(TxKind::Create, 25_100);
    let too_low = InvalidTransaction::IntrinsicGas {
        got: 25_100,
        required,
    };
    assert_eq!(refusal(&world, &creation), too_low);
    assert_eq!(
        validate_static(Fork::Prague, creation.transaction()),
        Err(too_low.clone())
    );
    assert!(too_low.to_string().starts_with("intrinsic gas too low"));
    assert_eq!(
        run(&world, &[short(TxKind::Create, required)]).gas_used,
        required
    );
    // EIP-7623: the floor is the greater for a call.
    let floor = 21_000 + 64 * 40;
    let call = TxKind::Call(NOBODY);
    assert_eq!(
        refusal(&world, &short(call, floor - 1)),
        InvalidTransaction::IntrinsicGas {
            got: floor - 1,
            required: floor
        }
    );
    assert_eq!(run(&world, &[short(call, floor)]).gas_used, floor);
    assert_eq!(
        run_under(Fork::Cancun, &world, &[short(call, floor)]).gas_used,
        21_000 + 64 * 16
    );
}

#[test]
fn value_and_other_data_make_it_invalid_in_a_block_and_at_the_door() {
    let value = QuorumFormError::Value { got: U256::from(1) };
    let length = |got| QuorumFormError::DataLength { got };
    let cases = [
        (malformed(|tx| tx.value = U256::from(1)), value),
        (malformed(|tx| tx.input = Bytes::new()), length(0)),
        (malformed(|tx| tx.input = vec![1; 63].into()), length(63)),
        (malformed(|tx| tx.input = vec![1; 65].into()), length(65)),
    ];
    for (tx, reason) in cases {
        let expected = InvalidTransaction::PrivateForm(reason);
        assert_eq!(refusal(&World::new(), &tx), expected);
        assert_eq!(
            validate_static(Fork::Prague, tx.transaction()),
            Err(expected)
        );
    }
    assert_eq!(
        refusal(&World::new(), &malformed(|tx| tx.value = U256::from(1))).to_string(),
        "ether value is not supported for private transactions"
    );
    let fine = private(0, TxKind::Create);
    assert_eq!(validate_static(Fork::Prague, fine.transaction()), Ok(()));
}

#[test]
fn nonce_balance_price_and_sender_are_checked_as_always() {
    let world = World::new();
    let to = TxKind::Call(NOBODY);
    assert_eq!(
        refusal(&world, &private(2, TxKind::Create)),
        InvalidTransaction::NonceTooHigh {
            got: 2,
            expected: 0
        }
    );
    let mut later = world.clone();
    later.accounts.get_mut(&alice()).unwrap().nonce = 4;
    assert_eq!(
        refusal(&later, &private(3, to)),
        InvalidTransaction::NonceTooLow {
            got: 3,
            expected: 4
        }
    );
    // The gas limit must be there, not only what will be used.
    let poor = World::default().with_balance(alice(), 2 * u128::from(GAS) - 1);
    assert_eq!(
        refusal(&poor, &private_with(0, to, |tx| tx.gas_price = 2)),
        InvalidTransaction::InsufficientFunds {
            balance: U256::from(2 * GAS - 1),
            cost: U256::from(2 * GAS),
        }
    );
    let context = BlockContext {
        base_fee: 10,
        ..context()
    };
    assert_eq!(
        refusal_in(context, &world, &private_with(0, to, |tx| tx.gas_price = 9)),
        InvalidTransaction::FeeCapBelowBaseFee {
            got: 9,
            base_fee: 10
        }
    );
    assert_eq!(
        refusal(
            &world,
            &private_with(0, to, |tx| tx.gas_limit = BLOCK_GAS + 1)
        ),
        InvalidTransaction::GasLimitAboveBlock {
            got: BLOCK_GAS + 1,
            max: BLOCK_GAS
        }
    );
    let contract = World::new().with_code(alice(), SETTER);
    assert_eq!(
        refusal(&contract, &private(1, to)),
        InvalidTransaction::SenderHasCode { sender: alice() }
    );
}

#[test]
fn without_the_mark_it_does_not_become_a_public_transaction() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let tx = unsigned(0, TxKind::Call(CONTRACT), |_| {});
    let signature = sign(1, quorum_private_hash(&tx));
    let unmarked = Transaction::Legacy(tx.into_signed(signature));
    let unmarked = RecoveredTransaction::recover(unmarked).unwrap();
    assert_eq!(unmarked.sender(), alice());
    assert_eq!(
        refusal(&world, &unmarked),
        InvalidTransaction::WrongChainId {
            got: None,
            expected: CHAIN_ID
        }
    );
}

#[test]
fn all_forms_mix_in_one_block() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let mut marker = PAYLOAD_HASH.to_vec();
    marker.extend([0x77; 4 * 8]);
    let txs = [
        transfer(0, 5),
        private(1, TxKind::Call(CONTRACT)),
        invoke(2, &words(U256::from(1), 9)),
        private(3, TxKind::Create),
        by_alice(4, TxKind::Call(PRIVACY_PRECOMPILE), 0, &marker),
        by_alice(5, TxKind::Create, 0, &deploying(SETTER)),
        priced(2, 0, TxKind::Call(CONTRACT), 0, &words(U256::from(2), 8), 0),
    ];
    let outcome = run(&world, &txs);
    assert!(outcome.receipts.iter().all(|receipt| receipt.success));
    let mut sum = 0;
    for (receipt, tx) in outcome.receipts.iter().zip(&txs) {
        sum += receipt.gas_used;
        assert_eq!(receipt.cumulative_gas_used, sum);
        // Private ones and markers use nothing beyond what is due before execution.
        let due = intrinsic_gas(Fork::Prague, tx.transaction());
        let data = tx.encoded();
        let private = data.windows(64).any(|part| part == PAYLOAD_HASH);
        assert_eq!(
            receipt.gas_used == due,
            private || tx.nonce() == 0 && tx.sender() == alice()
        );
    }
    let after = world.after(&outcome.diff);
    assert_eq!(after.accounts[&alice()].nonce, 6);
    assert_eq!(after.slot(CONTRACT, U256::from(1)), U256::from(9));
    assert_eq!(after.slot(CONTRACT, U256::from(2)), U256::from(8));
    // Publicly the private creation made nothing, and the public one is where its nonce says.
    assert!(!after.accounts.contains_key(&alice().create(3)));
    assert!(after.accounts[&alice().create(5)].has_code());
    assert!(!after.accounts.contains_key(&PRIVACY_PRECOMPILE));
}

#[test]
fn a_state_that_cannot_be_read_ends_the_executor_here_too() {
    let world = World {
        broken: vec![COINBASE],
        ..World::new()
    };
    let spec = spec(Fork::Prague);
    let mut executor = BlockExecutor::new(&spec, context(), &world, &HASHES).unwrap();
    let expected = ExecuteError::State(ReadError::Storage {
        reason: "the disk is gone".into(),
    });
    let tx = private(0, TxKind::Create);
    assert_eq!(executor.execute(&tx).unwrap_err(), expected);
    assert_eq!(executor.execute(&tx).unwrap_err(), expected);
}

#[test]
fn under_ethereums_own_chain_id_the_mark_is_eip_155() {
    let world = World::new().with_code(CONTRACT, SETTER);
    let tx = TxLegacy {
        chain_id: Some(1),
        gas_limit: GAS,
        to: TxKind::Call(CONTRACT),
        input: words(U256::from(4), 2).into(),
        ..TxLegacy::default()
    };
    let signature = sign(1, tx.signature_hash());
    let tx = Transaction::Legacy(tx.into_signed(signature));
    let tx = RecoveredTransaction::with_sender(tx, alice());
    let ethereum = quorate_chain::ChainSpec::with_fork(1, Fork::Prague);
    let mut executor = BlockExecutor::for_vectors(&ethereum, context(), &world, &HASHES);
    executor.execute(&tx).unwrap();
    let after = world.after(&executor.finish().diff);
    assert_eq!(after.slot(CONTRACT, U256::from(4)), U256::from(2));
}

/// A contract that destroys itself and pays its caller.
const DESTROYER: &[u8] = &[0x33, 0xff];

/// Reads of both states are the same wherever one of them may know something.
fn assert_same(view: &dyn StateRead, world: &World, addresses: &[Address]) {
    for address in addresses {
        let account = world.accounts.get(address).copied();
        assert_eq!(view.account(address).unwrap(), account, "{address}");
        for slot in 0..6 {
            let slot = U256::from(slot);
            assert_eq!(
                view.storage(address, &slot).unwrap(),
                world.slot(*address, slot),
                "slot {slot} of {address}"
            );
        }
        if let Some(account) = account {
            assert_eq!(
                view.code(&account.code_hash).unwrap(),
                world.code(&account.code_hash).unwrap()
            );
        }
    }
}

#[test]
fn the_state_in_the_middle_of_a_block_is_that_after_its_beginning() {
    for fork in [Fork::London, Fork::Prague] {
        let unread = address!("00000000000000000000000000000000c0de0009");
        let world = World::new()
            .with_code(CONTRACT, SETTER)
            .with_slot(CONTRACT, U256::from(1), 11)
            .with_slot(CONTRACT, U256::from(2), 22)
            .with_code(OTHER_CONTRACT, DESTROYER)
            .with_slot(OTHER_CONTRACT, U256::from(3), 33)
            .with_balance(OTHER_CONTRACT, 44)
            .with_code(unread, &[0x00, 0x01])
            .with_slot(unread, U256::from(5), 55);
        let created = alice().create(3);
        let txs = [
            transfer(0, 5),
            invoke(1, &words(U256::from(1), 9)),
            by_alice(2, TxKind::Call(OTHER_CONTRACT), 0, &[]),
            by_alice(3, TxKind::Create, 0, &deploying(SETTER)),
            private_with(4, TxKind::Create, |tx| tx.gas_price = 3),
            by_alice(5, TxKind::Call(created), 0, &words(U256::from(4), 4)),
            // Back to zero, and something in what was created.
            invoke(6, &words(U256::from(1), 0)),
        ];
        let addresses = [
            alice(),
            bob(),
            COINBASE,
            RECIPIENT,
            CONTRACT,
            OTHER_CONTRACT,
            unread,
            created,
            NOBODY,
        ];
        let spec = spec(fork);
        let mut executor = BlockExecutor::new(&spec, context(), &world, &HASHES).unwrap();
        assert_same(&executor.state(), &world, &addresses);
        for (count, tx) in txs.iter().enumerate() {
            executor.execute(tx).unwrap();
            let prefix = run_under(fork, &world, &txs[..=count]);
            assert_same(&executor.state(), &world.after(&prefix.diff), &addresses);
            // One that is refused is not seen.
            executor.execute(&transfer(99, 1)).unwrap_err();
            assert_same(&executor.state(), &world.after(&prefix.diff), &addresses);
        }
        assert_eq!(executor.state().code(&KECCAK256_EMPTY).unwrap().len(), 0);
        let lost = keccak256(b"code that nobody has");
        assert!(matches!(
            executor.state().code(&lost),
            Err(ReadError::Damaged { .. })
        ));
        // The reads left no trace.
        assert_eq!(executor.finish(), run_under(fork, &world, &txs));
    }
}

/// Asks CONTRACT (STATICCALL without input) and keeps the word that comes back in slot 0.
const READER: &[u8] = &[
    0x60, 0x20, 0x60, 0x00, 0x60, 0x00, 0x60, 0x00, 0x73, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc0, 0xde, 0x00, 0x01, 0x5a, 0xfa, 0x50,
    0x60, 0x00, 0x51, 0x60, 0x00, 0x55, 0x00,
];

/// With input: SSTORE(0, first word). Without: returns SLOAD(0).
const CELL: &[u8] = &[
    0x36, 0x60, 0x0f, 0x57, 0x60, 0x00, 0x54, 0x60, 0x00, 0x52, 0x60, 0x20, 0x60, 0x00, 0xf3, 0x5b,
    0x60, 0x00, 0x35, 0x60, 0x00, 0x55, 0x00,
];

#[test]
fn private_execution_reads_public_state_as_of_its_transaction_while_the_block_goes_on() {
    let world = World::new().with_code(CONTRACT, CELL);
    let private_contract = address!("00000000000000000000000000000000c0de00aa");
    let mut parties = World::default().with_code(private_contract, READER);
    let set = |nonce, value: u64| invoke(nonce, &U256::from(value).to_be_bytes::<32>());
    let to = TxKind::Call(private_contract);
    let txs = [set(0, 7), private(1, to), set(2, 8), private(3, to)];
    let spec = spec(Fork::Prague);
    let mut executor = BlockExecutor::new(&spec, context(), &world, &HASHES).unwrap();
    let mut seen = Vec::new();
    for tx in &txs {
        executor.execute(tx).unwrap();
        if is_quorum_private(tx.transaction()) {
            let call = PrivateCall {
                sender: tx.sender(),
                nonce: tx.nonce(),
                to: Some(private_contract),
                gas_limit: GAS,
                ..PrivateCall::default()
            };
            let public = &executor.state();
            let outcome =
                execute_private(&spec, context(), public, &parties, &HASHES, &call).unwrap();
            assert!(outcome.receipt.is_success(), "{:?}", outcome.receipt);
            parties = parties.after(&outcome.diff);
            seen.push(parties.slot(private_contract, U256::ZERO).to::<u64>());
        }
    }
    assert_eq!(seen, [7, 8]);
    // What parties did in between has no effect on what everyone does.
    assert_eq!(executor.finish(), run(&world, &txs));
}
