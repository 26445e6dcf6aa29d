//! Calls, estimates and access lists.

use alloy_consensus::TxLegacy;
use alloy_primitives::{B256, Bytes, U256};
use quorate_chain::{Fork, RecoveredTransaction};
use quorate_evm::{
    AccountOverride, BlockOverrides, CallError, CallOutcome, CallRequest, CallSettings, CallStatus,
    EstimateError, InvalidTransaction, call, create_access_list, estimate_gas,
};

use crate::world::*;

const CAP: u64 = 50_000_000;

fn capped() -> CallSettings {
    CallSettings::capped(CAP)
}

fn request(input: Vec<u8>) -> CallRequest {
    CallRequest {
        from: Some(alice()),
        to: Some(CONTRACT),
        input: input.into(),
        ..CallRequest::default()
    }
}

fn ask(
    world: &World,
    request: &CallRequest,
    settings: &CallSettings,
) -> Result<CallOutcome, CallError> {
    call(
        &spec(Fork::Prague),
        &context(),
        world,
        &HASHES,
        request,
        settings,
    )
}

fn estimate(world: &World, request: &CallRequest) -> Result<u64, EstimateError> {
    estimate_gas(
        &spec(Fork::Prague),
        &context(),
        world,
        &HASHES,
        request,
        &capped(),
    )
}

fn token() -> World {
    World::new()
        .with_code(CONTRACT, TOKEN)
        .with_slot(CONTRACT, slot_of(alice()), 100)
}

/// Returns what stands in the given slot of itself.
const GETTER: &[u8] = &[0x5f, 0x35, 0x54, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3];

fn number(outcome: &CallOutcome) -> U256 {
    U256::from_be_slice(&outcome.output)
}

#[test]
fn a_call_answers_and_keeps_nothing() {
    let world = token();
    let before = world.clone();
    let outcome = ask(&world, &request(words(slot_of(bob()), 30)), &capped()).unwrap();
    assert_eq!(outcome.status, CallStatus::Success);
    assert_eq!((number(&outcome), outcome.logs.len()), (U256::ONE, 1));
    assert_eq!(world, before);
}

#[test]
fn reverts_and_halts_are_outcomes() {
    let outcome = ask(&token(), &request(words(slot_of(bob()), 101)), &capped()).unwrap();
    assert_eq!(
        (outcome.status.clone(), number(&outcome)),
        (CallStatus::Reverted, U256::from(0xbb))
    );
    let world = World::new().with_code(CONTRACT, &[0x56]);
    let outcome = ask(&world, &request(vec![]), &capped()).unwrap();
    assert!(matches!(outcome.status, CallStatus::Halted { .. }));
    // JUMPDEST; JUMP back: until the gas is gone.
    let world = World::new().with_code(CONTRACT, &[0x5b, 0x5f, 0x56]);
    let outcome = ask(&world, &request(vec![]), &CallSettings::capped(100_000)).unwrap();
    assert_eq!(
        outcome.status,
        CallStatus::Halted {
            reason: "out of gas".into()
        }
    );
    assert_eq!(outcome.gas_used, 100_000, "the cap holds");
}

#[test]
fn nonce_code_and_funds_for_gas_do_not_matter_but_the_value_must_be_there() {
    let world = World::default()
        .with_code(OTHER_CONTRACT, SETTER)
        .with_code(CONTRACT, GETTER)
        .with_balance(OTHER_CONTRACT, 5);
    let from_contract = CallRequest {
        from: Some(OTHER_CONTRACT),
        gas_price: Some(1_000),
        nonce: Some(77),
        value: U256::from(5),
        ..request(vec![])
    };
    assert_eq!(
        ask(&world, &from_contract, &capped()).unwrap().status,
        CallStatus::Success
    );
    let too_much = CallRequest {
        value: U256::from(6),
        ..from_contract
    };
    assert_eq!(
        ask(&world, &too_much, &capped()).unwrap_err(),
        CallError::Invalid(InvalidTransaction::InsufficientFunds {
            balance: U256::from(5),
            cost: U256::from(6)
        })
    );
}

#[test]
fn a_creation_returns_the_code_and_the_address() {
    let creation = CallRequest {
        to: None,
        input: deploying(SETTER).into(),
        ..request(vec![])
    };
    let outcome = ask(&World::new(), &creation, &capped()).unwrap();
    assert_eq!(
        (outcome.output, outcome.contract_address),
        (Bytes::from_static(SETTER), Some(alice().create(0)))
    );
}

#[test]
fn overrides_change_accounts_for_one_call() {
    let world = World::new()
        .with_slot(CONTRACT, U256::from(1), 10)
        .with_slot(CONTRACT, U256::from(2), 20);
    let code = Some(Bytes::from_static(GETTER));
    let slots = Some([(U256::from(1), U256::from(11))].into());
    let with = |account: AccountOverride| CallSettings {
        state: [(CONTRACT, account)].into(),
        ..capped()
    };
    let read = |slot: u64, account: &AccountOverride| {
        let input = U256::from(slot).to_be_bytes::<32>().to_vec();
        number(&ask(&world, &request(input), &with(account.clone())).unwrap())
    };
    let some = AccountOverride {
        code: code.clone(),
        state_diff: slots.clone(),
        ..AccountOverride::default()
    };
    assert_eq!(
        (read(1, &some), read(2, &some)),
        (U256::from(11), U256::from(20))
    );
    let all = AccountOverride {
        code,
        state: slots.clone(),
        ..AccountOverride::default()
    };
    assert_eq!((read(1, &all), read(2, &all)), (U256::from(11), U256::ZERO));
    let both = AccountOverride {
        state: slots.clone(),
        state_diff: slots,
        ..AccountOverride::default()
    };
    assert_eq!(
        ask(&world, &request(vec![]), &with(both)).unwrap_err(),
        CallError::OverrideConflict { address: CONTRACT }
    );

    let poor = CallRequest {
        from: Some(RECIPIENT),
        value: U256::from(9),
        ..request(vec![])
    };
    assert!(ask(&world, &poor, &capped()).is_err());
    let rich = AccountOverride {
        balance: Some(U256::from(9)),
        ..AccountOverride::default()
    };
    let settings = CallSettings {
        state: [(RECIPIENT, rich)].into(),
        ..capped()
    };
    assert_eq!(
        ask(&world, &poor, &settings).unwrap().status,
        CallStatus::Success
    );
}

#[test]
fn overrides_change_the_environment_for_one_call() {
    // Returns NUMBER.
    let world = World::new().with_code(CONTRACT, &[0x43, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3]);
    let block = BlockOverrides {
        height: Some(555),
        ..BlockOverrides::default()
    };
    let settings = CallSettings { block, ..capped() };
    assert_eq!(
        number(&ask(&world, &request(vec![]), &settings).unwrap()),
        U256::from(555)
    );
    assert_eq!(
        number(&ask(&world, &request(vec![]), &capped()).unwrap()),
        U256::from(100)
    );
}

fn with_gas(gas_limit: u64, request: &CallRequest) -> RecoveredTransaction {
    signed(
        1,
        TxLegacy {
            chain_id: Some(CHAIN_ID),
            gas_limit,
            to: request
                .to
                .map_or(alloy_primitives::TxKind::Create, Into::into),
            value: request.value,
            input: request.input.clone(),
            ..TxLegacy::default()
        },
    )
}

/// The estimate succeeds as a transaction, and one gas less does not.
fn assert_exact(world: &World, request: &CallRequest) -> u64 {
    let gas = estimate(world, request).unwrap();
    let receipt = run(world, &[with_gas(gas, request)]).receipts.remove(0);
    assert!(receipt.success, "{gas} is not enough");
    let spec = spec(Fork::Prague);
    let less = [with_gas(gas - 1, request)];
    let succeeds = quorate_evm::execute_block(&spec, context(), world, &HASHES, &less)
        .is_ok_and(|outcome| outcome.receipts[0].success);
    assert!(!succeeds, "{} is enough already", gas - 1);
    gas
}

/// Passes its input on to `CONTRACT` with all gas that EIP-150 lets it, and reverts if that fails.
fn forwarder() -> Vec<u8> {
    let mut code = vec![0x36, 0x5f, 0x5f, 0x37, 0x5f, 0x5f, 0x36, 0x5f, 0x5f, 0x73];
    code.extend(CONTRACT.as_slice());
    // GAS CALL; jump over the revert to the stop.
    code.extend([0x5a, 0xf1, 0x60, 38, 0x57, 0x5f, 0x5f, 0xfd, 0x5b, 0x00]);
    assert_eq!(code[38], 0x5b);
    code
}

#[test]
fn an_estimate_is_the_least_gas_that_works() {
    let transfer = CallRequest {
        to: Some(RECIPIENT),
        value: U256::ONE,
        ..request(vec![])
    };
    assert_eq!(assert_exact(&World::new(), &transfer), 21_000);
    let world = token();
    assert_exact(&world, &request(words(slot_of(bob()), 30)));
    let creation = CallRequest {
        to: None,
        input: deploying(TOKEN).into(),
        ..request(vec![])
    };
    assert_exact(&world, &creation);
    // Clearing a slot earns a refund: what is used is less than what is needed.
    let world = World::new()
        .with_code(CONTRACT, SETTER)
        .with_slot(CONTRACT, U256::from(1), 7);
    let clearing = request(words(U256::from(1), 0));
    let gas = assert_exact(&world, &clearing);
    assert!(gas > ask(&world, &clearing, &capped()).unwrap().gas_used);
    // An inner call gets 63 of 64 parts.
    let world = token().with_code(OTHER_CONTRACT, &forwarder()).with_slot(
        CONTRACT,
        slot_of(OTHER_CONTRACT),
        100,
    );
    let nested = CallRequest {
        to: Some(OTHER_CONTRACT),
        ..request(words(slot_of(bob()), 30))
    };
    assert_exact(&world, &nested);
    // Data that does nothing: the floor of EIP-7623 is what counts.
    let data = CallRequest {
        to: Some(RECIPIENT),
        input: vec![1; 500].into(),
        ..request(vec![])
    };
    assert_eq!(assert_exact(&World::new(), &data), 21_000 + 500 * 40);
}

#[test]
fn what_never_works_has_no_estimate() {
    let error = estimate(&token(), &request(words(slot_of(bob()), 101))).unwrap_err();
    let EstimateError::Reverted { data } = error else {
        panic!("{error}")
    };
    assert_eq!(U256::from_be_slice(&data), U256::from(0xbb));

    let world = World::new().with_code(CONTRACT, &[0xfe]);
    assert!(matches!(
        estimate(&world, &request(vec![])).unwrap_err(),
        EstimateError::Halted { .. }
    ));

    let limited = CallRequest {
        gas: Some(30_000),
        ..request(words(slot_of(bob()), 30))
    };
    assert_eq!(
        estimate(&token(), &limited).unwrap_err(),
        EstimateError::AboveAllowance { allowance: 30_000 }
    );

    // 25,000 gas is all that Bob can pay.
    let world = token()
        .with_balance(bob(), 50_000)
        .with_slot(CONTRACT, slot_of(bob()), 9);
    let poor = CallRequest {
        from: Some(bob()),
        gas_price: Some(2),
        ..request(words(slot_of(alice()), 1))
    };
    assert_eq!(
        estimate(&world, &poor).unwrap_err(),
        EstimateError::AboveAllowance { allowance: 25_000 }
    );
}

#[test]
fn the_limit_per_transaction_of_osaka_caps_estimates_and_not_calls() {
    // Burns about 20 million gas: a loop of 500,000 rounds of about 40 gas.
    let burner = [
        0x62, 0x07, 0xa1, 0x20, 0x5b, 0x60, 0x01, 0x90, 0x03, 0x5f, 0x50, 0x5f, 0x50, 0x5f, 0x50,
        0x80, 0x60, 0x04, 0x57, 0x00,
    ];
    let world = World::new().with_code(CONTRACT, &burner);
    let osaka = spec(Fork::Osaka);
    let outcome = call(
        &osaka,
        &context(),
        &world,
        &HASHES,
        &request(vec![]),
        &capped(),
    )
    .unwrap();
    assert_eq!(outcome.status, CallStatus::Success);
    assert!(outcome.gas_used > quorate_evm::TRANSACTION_GAS_MAX);
    let error = estimate_gas(
        &osaka,
        &context(),
        &world,
        &HASHES,
        &request(vec![]),
        &capped(),
    )
    .unwrap_err();
    assert_eq!(
        error,
        EstimateError::AboveAllowance {
            allowance: quorate_evm::TRANSACTION_GAS_MAX
        }
    );
}

#[test]
fn an_access_list_names_what_is_touched_and_makes_the_call_cheaper() {
    let world = token().with_code(OTHER_CONTRACT, &forwarder()).with_slot(
        CONTRACT,
        slot_of(OTHER_CONTRACT),
        100,
    );
    let nested = CallRequest {
        to: Some(OTHER_CONTRACT),
        ..request(words(slot_of(bob()), 30))
    };
    let found = create_access_list(
        &spec(Fork::Prague),
        &context(),
        &world,
        &HASHES,
        &nested,
        &capped(),
    )
    .unwrap();
    assert_eq!(found.status, CallStatus::Success);
    let [item] = found.access_list.0.as_slice() else {
        panic!("{:?}", found.access_list)
    };
    let mut slots: Vec<B256> = [bob(), OTHER_CONTRACT]
        .map(|address| address.into_word())
        .into();
    slots.sort();
    assert_eq!((item.address, &item.storage_keys), (CONTRACT, &slots));
    let with_list = CallRequest {
        access_list: Some(found.access_list),
        ..nested.clone()
    };
    assert_eq!(
        ask(&world, &with_list, &capped()).unwrap().gas_used,
        found.gas_used
    );

    let plain = CallRequest {
        to: Some(RECIPIENT),
        value: U256::ONE,
        ..request(vec![])
    };
    let found = create_access_list(
        &spec(Fork::Prague),
        &context(),
        &world,
        &HASHES,
        &plain,
        &capped(),
    )
    .unwrap();
    assert!(found.access_list.is_empty());
}

#[test]
fn a_call_with_authorizations_runs_delegated_code() {
    let world = World::new()
        .with_code(CONTRACT, GETTER)
        .with_slot(bob(), U256::ZERO, 6);
    let delegated = CallRequest {
        to: Some(bob()),
        authorization_list: vec![authorization(2, CHAIN_ID, 0, CONTRACT)],
        ..request(vec![])
    };
    assert_eq!(
        number(&ask(&world, &delegated, &capped()).unwrap()),
        U256::from(6)
    );
    let nowhere = CallRequest {
        to: None,
        ..delegated
    };
    assert_eq!(
        ask(&world, &nowhere, &capped()).unwrap_err(),
        CallError::Invalid(InvalidTransaction::RecipientMissing { tx_type: 4 })
    );
}
