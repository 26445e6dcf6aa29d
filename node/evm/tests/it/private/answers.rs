//! What clients are told: calls, estimates, and the view of both states.

use alloy_primitives::{B256, Bytes, U256, keccak256};
use quorate_chain::Fork;
use quorate_evm::{
    AccountOverride, CallRequest, CallSettings, CallStatus, DualState, PrivateCall,
    PrivateEstimateError, PrivateRefusal,
};
use quorate_state::StateRead;

use super::codes::*;
use super::*;
use crate::world::*;

#[test]
fn an_estimate_is_the_least_that_works() {
    let party = Party::new().with_private(PRIVATE, STORE);
    let asked = request(PRIVATE, &word(1));
    let gas_limit = party.estimate(&asked).unwrap();
    let call = |gas_limit| PrivateCall {
        gas_limit,
        ..by_alice_privately(Some(PRIVATE), &word(1))
    };
    let succeeds = |gas| party.execute(&call(gas)).unwrap().receipt.is_success();
    assert!(succeeds(gas_limit) && !succeeds(gas_limit - 1));

    let create = CallRequest {
        to: None,
        ..request(PRIVATE, &deploying(STORE))
    };
    let gas_limit = party.estimate(&create).unwrap();
    let deploy = |gas_limit| PrivateCall {
        gas_limit,
        ..by_alice_privately(None, &deploying(STORE))
    };
    assert!(
        party
            .execute(&deploy(gas_limit))
            .unwrap()
            .receipt
            .is_success()
    );
    assert!(
        !party
            .execute(&deploy(gas_limit - 1))
            .unwrap()
            .receipt
            .is_success()
    );
}

#[test]
fn an_estimate_covers_the_transaction_that_carries_the_hash() {
    // 21,000 and the floor of EIP-7623 for 64 bytes that are not zero: 64 * 40.
    let party = Party::new().with_private(PRIVATE, &[0x00]);
    assert_eq!(party.estimate(&request(PRIVATE, &[])).unwrap(), 23_560);
    // Before, 64 * 16.
    let party = party.under(Fork::Cancun);
    assert_eq!(party.estimate(&request(PRIVATE, &[])).unwrap(), 22_024);
}

#[test]
fn an_estimate_tells_why_there_is_none() {
    let party = Party::new()
        .with_private(PRIVATE, REVERTING)
        .with_private(OTHER_PRIVATE, &[0xfe])
        .with_private(CONTRACT, STORE)
        .with_public(OTHER_CONTRACT, STORE);
    assert_eq!(
        party.estimate(&request(PRIVATE, &[])).unwrap_err(),
        PrivateEstimateError::Reverted {
            data: Bytes::copy_from_slice(&word(0xbb))
        }
    );
    assert_eq!(
        party.estimate(&request(OTHER_PRIVATE, &[])).unwrap_err(),
        PrivateEstimateError::Halted {
            reason: "invalid opcode".into()
        }
    );
    assert_eq!(
        party
            .estimate(&request(OTHER_CONTRACT, &word(1)))
            .unwrap_err(),
        PrivateEstimateError::Halted {
            reason: "write protection".into()
        }
    );
    for gas in [22_000, 30_000] {
        let asked = CallRequest {
            gas: Some(gas),
            ..request(CONTRACT, &word(1))
        };
        assert_eq!(
            party.estimate(&asked).unwrap_err(),
            PrivateEstimateError::AboveAllowance { allowance: gas }
        );
    }
}

#[test]
fn a_call_answers_and_keeps_nothing() {
    let mut party = Party::new();
    let contract = party.deploy(STORE);
    party.send(Some(contract), &word(6));
    let answer = party.ask(&request(contract, &[])).unwrap();
    assert_eq!(numbers(&answer.output), [U256::from(6)]);
    let written = party.ask(&request(contract, &word(7))).unwrap();
    assert_eq!(
        (written.status, written.logs.len()),
        (CallStatus::Success, 1)
    );
    assert_eq!(party.private.slot(contract, U256::ZERO), U256::from(6));
    // The next address is the one of the next nonce.
    let create = CallRequest {
        to: None,
        ..request(contract, &deploying(STORE))
    };
    let created = party.ask(&create).unwrap().contract_address;
    assert_eq!(created, Some(alice().create(2)));
}

#[test]
fn a_call_takes_overrides_and_refuses_authorizations() {
    let party = Party::new().with_private(PRIVATE, STORE);
    let mut settings = CallSettings::capped(CAP);
    let slots = [(U256::ZERO, U256::from(31))];
    settings.state.insert(
        PRIVATE,
        AccountOverride {
            state_diff: Some(slots.into()),
            ..AccountOverride::default()
        },
    );
    let answer = party.ask_with(&request(PRIVATE, &[]), &settings).unwrap();
    assert_eq!(numbers(&answer.output), [U256::from(31)]);
    settings.state.get_mut(&PRIVATE).unwrap().state = Some(slots.into());
    assert_eq!(
        party
            .ask_with(&request(PRIVATE, &[]), &settings)
            .unwrap_err(),
        PrivateRefusal::OverrideConflict { address: PRIVATE }
    );
    let asked = CallRequest {
        authorization_list: vec![authorization(2, 0, 0, PRIVATE)],
        ..request(PRIVATE, &[])
    };
    assert_eq!(
        party.ask(&asked).unwrap_err(),
        PrivateRefusal::Authorizations { got: 1 }
    );
}

#[test]
fn private_accounts_hide_public_ones() {
    let mut party = Party::new()
        .with_public(CONTRACT, TOKEN)
        .with_public(OTHER_CONTRACT, LOGGER)
        .with_private(CONTRACT, STORE);
    party.public = party
        .public
        .with_balance(CONTRACT, RICH)
        .with_slot(CONTRACT, U256::ONE, 5)
        .with_slot(OTHER_CONTRACT, U256::ONE, 6);
    party.private = party.private.with_slot(CONTRACT, U256::from(2), 7);
    let dual = DualState::new(&party.public, &party.private);
    let slot = |address, slot: u64| dual.storage(&address, &U256::from(slot)).unwrap();
    assert_eq!(
        (
            slot(CONTRACT, 1),
            slot(CONTRACT, 2),
            slot(OTHER_CONTRACT, 1)
        ),
        (U256::ZERO, U256::from(7), U256::from(6))
    );
    assert_eq!(dual.code_of(&CONTRACT).unwrap()[..], *STORE);
    assert_eq!(dual.code_of(&OTHER_CONTRACT).unwrap()[..], *LOGGER);
    assert!(dual.code_of(&alice()).unwrap().is_empty());
    assert!(dual.code_of(&RECIPIENT).unwrap().is_empty());
    // Code goes by its hash: either state may have it.
    for code in [STORE, TOKEN, LOGGER] {
        assert_eq!(dual.code(&keccak256(code)).unwrap()[..], *code);
    }
    assert!(dual.code(&B256::repeat_byte(1)).is_err());
    assert_eq!(
        dual.account(&CONTRACT).unwrap().unwrap().balance,
        U256::ZERO
    );
    assert_eq!(dual.account(&RECIPIENT).unwrap(), None);
    assert!(dual.is_private(&CONTRACT).unwrap() && !dual.is_private(&OTHER_CONTRACT).unwrap());
}
