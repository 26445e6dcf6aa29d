//! A private transaction that nobody sent and that leaves nothing behind: `eth_call` on a private contract.

use alloy_eips::eip2930::AccessList;
use alloy_primitives::{TxKind, U256};
use quorate_chain::ChainSpec;
use quorate_state::StateRead;
use revm::context::TxEnv;

use super::simulation::PrivateSimulation;
use super::{DualState, PrivateRefusal};
use crate::overrides::OverriddenState;
use crate::{BlockContext, BlockHashes, CallOutcome, CallRequest, CallSettings};

/// Executes `request` as a private transaction and forgets what it changed. As in [`call`](crate::call()), the nonce is not
/// compared with the state, and no price is too low. The nonce, if none is given, is the next one of the sender.
///
/// A public contract can only be read through this; a call that a client addresses to one is a public call. An override changes
/// what frames see of an account, and does not make it private or public.
///
/// # Errors
/// [`PrivateRefusal`] if it could not be executed. Reverts and halts are outcomes.
pub fn call_private(
    spec: &ChainSpec,
    context: &BlockContext,
    public: &dyn StateRead,
    private: &dyn StateRead,
    hashes: &dyn BlockHashes,
    request: &CallRequest,
    settings: &CallSettings,
) -> Result<CallOutcome, PrivateRefusal> {
    check(request)?;
    let dual = DualState::new(public, private);
    let state = OverriddenState::new(&dual, &settings.state)?;
    let context = settings.block.apply(context);
    let mut simulation = PrivateSimulation::new(spec, context, &state, private, hashes);
    let mut env = tx_env(spec, &mut simulation, request)?;
    env.gas_limit = request
        .gas
        .unwrap_or(settings.gas_cap)
        .min(settings.gas_cap);
    Ok(simulation.run(env)?.outcome)
}

/// What a private transaction cannot carry.
pub(super) fn check(request: &CallRequest) -> Result<(), PrivateRefusal> {
    if !request.value.is_zero() {
        return Err(PrivateRefusal::ValueTransfer { got: request.value });
    }
    if !request.authorization_list.is_empty() {
        let got = request.authorization_list.len();
        return Err(PrivateRefusal::Authorizations { got });
    }
    Ok(())
}

/// The request as a transaction, still without a gas limit.
pub(super) fn tx_env<S: StateRead>(
    spec: &ChainSpec,
    simulation: &mut PrivateSimulation<'_, S>,
    request: &CallRequest,
) -> Result<TxEnv, PrivateRefusal> {
    let caller = request.sender();
    let nonce = match request.nonce {
        Some(nonce) => nonce,
        None => simulation.account(&caller)?.unwrap_or_default().nonce,
    };
    if nonce == u64::MAX {
        return Err(crate::InvalidTransaction::NonceOverflow { got: nonce }.into());
    }
    Ok(TxEnv {
        tx_type: u8::from(request.access_list.is_some()),
        caller,
        gas_price: request.fee_cap(),
        kind: request.to.map_or(TxKind::Create, TxKind::Call),
        value: U256::ZERO,
        data: request.input.clone(),
        nonce,
        chain_id: Some(spec.chain_id()),
        access_list: request
            .access_list
            .as_ref()
            .map_or_else(AccessList::default, AccessList::clone),
        ..TxEnv::default()
    })
}
