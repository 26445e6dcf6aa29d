//! What is known of a transaction without a state.

use alloy_consensus::{SignableTransaction as _, TxEip2930, TxEip7702, TxLegacy};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{B256, Signature, TxKind, U256};
use quorate_chain::{Fork, Transaction};
use quorate_evm::{
    INIT_CODE_BYTES_MAX, InvalidTransaction, TRANSACTION_GAS_MAX, intrinsic_gas, validate_static,
};

use crate::world::*;

fn signature() -> Signature {
    Signature::new(U256::ONE, U256::ONE, false)
}

fn legacy(to: TxKind, input: Vec<u8>) -> TxLegacy {
    TxLegacy {
        chain_id: Some(CHAIN_ID),
        gas_limit: BLOCK_GAS,
        to,
        input: input.into(),
        ..TxLegacy::default()
    }
}

fn envelope(tx: TxLegacy) -> Transaction {
    Transaction::Legacy(tx.into_signed(signature()))
}

#[test]
fn intrinsic_gas_follows_the_fork() {
    let gas = |fork, to, input| intrinsic_gas(fork, &envelope(legacy(to, input)));
    let call = TxKind::Call(RECIPIENT);
    assert_eq!(gas(Fork::Prague, call, vec![]), 21_000);
    assert_eq!(gas(Fork::Byzantium, call, vec![1; 10]), 21_000 + 680);
    assert_eq!(gas(Fork::Istanbul, call, vec![1; 10]), 21_000 + 160);
    assert_eq!(gas(Fork::Istanbul, call, vec![0; 10]), 21_000 + 40);
    // EIP-7623: 10 per token, a byte that is not zero is four.
    assert_eq!(gas(Fork::Prague, call, vec![1; 10]), 21_000 + 400);
    assert_eq!(gas(Fork::Frontier, TxKind::Create, vec![]), 21_000);
    assert_eq!(gas(Fork::Homestead, TxKind::Create, vec![]), 53_000);
    // EIP-3860: 2 per word of init code.
    assert_eq!(
        gas(Fork::Shanghai, TxKind::Create, vec![0; 64]),
        53_000 + 256 + 4
    );

    let item = |keys| AccessListItem {
        address: RECIPIENT,
        storage_keys: vec![B256::ZERO; keys],
    };
    let listed = TxEip2930 {
        to: call,
        access_list: AccessList(vec![item(2), item(1)]),
        ..TxEip2930::default()
    };
    let listed = Transaction::Eip2930(listed.into_signed(signature()));
    assert_eq!(
        intrinsic_gas(Fork::Berlin, &listed),
        21_000 + 2 * 2_400 + 3 * 1_900
    );
    let list = vec![authorization(2, CHAIN_ID, 0, CONTRACT)];
    let delegation = TxEip7702 {
        to: RECIPIENT,
        authorization_list: list,
        ..TxEip7702::default()
    };
    let delegation = Transaction::Eip7702(delegation.into_signed(signature()));
    assert_eq!(intrinsic_gas(Fork::Prague, &delegation), 21_000 + 25_000);
}

#[test]
fn types_are_allowed_from_their_fork_on() {
    let tipped = with_tip(0, 1, 1);
    assert_eq!(
        validate_static(Fork::Berlin, tipped.transaction()),
        Err(InvalidTransaction::TypeNotSupported {
            tx_type: 2,
            fork: Fork::Berlin
        })
    );
    assert_eq!(validate_static(Fork::London, tipped.transaction()), Ok(()));
    let delegation = delegating(0, RECIPIENT, vec![authorization(2, CHAIN_ID, 0, CONTRACT)]);
    assert!(validate_static(Fork::Cancun, delegation.transaction()).is_err());
    assert_eq!(
        validate_static(Fork::Prague, delegation.transaction()),
        Ok(())
    );
    assert_eq!(
        validate_static(Fork::Prague, delegating(0, RECIPIENT, vec![]).transaction()),
        Err(InvalidTransaction::EmptyAuthorizationList)
    );
}

#[test]
fn limits_are_exact() {
    let check = |fork, tx: TxLegacy| validate_static(fork, &envelope(tx));
    let create = |bytes| legacy(TxKind::Create, vec![0; bytes]);
    let max = INIT_CODE_BYTES_MAX;
    assert_eq!(check(Fork::Shanghai, create(max)), Ok(()));
    assert_eq!(
        check(Fork::Shanghai, create(max + 1)),
        Err(InvalidTransaction::InitCodeTooLarge { got: max + 1, max })
    );
    assert_eq!(check(Fork::Paris, create(max + 1)), Ok(()));

    let call = legacy(TxKind::Call(RECIPIENT), vec![1; 10]);
    let with_gas = |gas_limit| TxLegacy {
        gas_limit,
        ..call.clone()
    };
    assert_eq!(check(Fork::Prague, with_gas(21_400)), Ok(()));
    assert_eq!(
        check(Fork::Prague, with_gas(21_399)),
        Err(InvalidTransaction::IntrinsicGas {
            got: 21_399,
            required: 21_400
        })
    );
    let max = TRANSACTION_GAS_MAX;
    assert_eq!(check(Fork::Osaka, with_gas(max)), Ok(()));
    assert_eq!(
        check(Fork::Osaka, with_gas(max + 1)),
        Err(InvalidTransaction::GasLimitAboveCap { got: max + 1, max })
    );
    assert_eq!(check(Fork::Prague, with_gas(max + 1)), Ok(()));

    let last = TxLegacy {
        nonce: u64::MAX,
        ..call
    };
    assert_eq!(
        check(Fork::Prague, last),
        Err(InvalidTransaction::NonceOverflow { got: u64::MAX })
    );
    assert_eq!(
        validate_static(Fork::Prague, with_tip(0, 1, 2).transaction()),
        Err(InvalidTransaction::TipAboveFeeCap { tip: 2, fee_cap: 1 })
    );
}

/// What the pool refuses and what a block refuses must be the same where both look.
#[test]
fn the_executor_wants_exactly_the_intrinsic_gas() {
    let world = World::new();
    let inputs = [vec![], vec![0; 33], vec![7; 100], deploying(SETTER)];
    for fork in [
        Fork::Homestead,
        Fork::Istanbul,
        Fork::Shanghai,
        Fork::Prague,
        Fork::Osaka,
    ] {
        for input in &inputs {
            for to in [TxKind::Call(RECIPIENT), TxKind::Create] {
                let tx = legacy(to, input.clone());
                let needed = intrinsic_gas(fork, &envelope(tx.clone()));
                let run = |gas_limit| {
                    let txs = [signed(
                        1,
                        TxLegacy {
                            gas_limit,
                            ..tx.clone()
                        },
                    )];
                    quorate_evm::execute_block(&spec(fork), context(), &world, &HASHES, &txs)
                };
                assert!(run(needed).is_ok(), "{fork} {to:?}");
                assert!(run(needed - 1).is_err(), "{fork} {to:?}");
            }
        }
    }
}
