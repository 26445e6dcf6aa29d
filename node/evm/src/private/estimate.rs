//! The smallest gas limit with which a private transaction succeeds.

use quorate_chain::{ChainSpec, Fork};
use quorate_state::StateRead;
use revm::context::TxEnv;
use revm::context_interface::cfg::GasParams;

use super::call::{check, tx_env};
use super::simulation::{PrivateSimulation, Run};
use super::{DualState, PrivateEstimateError, PrivateRefusal};
use crate::environment::spec_id;
use crate::overrides::OverriddenState;
use crate::{
    BlockContext, BlockHashes, CallRequest, CallSettings, CallStatus, TRANSACTION_GAS_MAX,
};

/// Least gas of any transaction: a request for less means nothing.
const TRANSFER_GAS: u64 = 21_000;
/// Part of a first guess, as in the public estimate.
const CALL_STIPEND: u64 = 2_300;
/// Bytes of the payload's hash, which is what the public transaction carries.
const PAYLOAD_HASH_BYTES: usize = 64;

/// Searches the smallest gas limit with which `request` succeeds as a private transaction. It is never less than what the public
/// transaction needs that carries the payload's hash. The sender's balance is not looked at: private execution costs nothing.
///
/// # Errors
/// [`PrivateEstimateError`]: it reverts, halts, or cannot get as much gas as it needs.
pub fn estimate_private_gas(
    spec: &ChainSpec,
    context: &BlockContext,
    public: &dyn StateRead,
    private: &dyn StateRead,
    hashes: &dyn BlockHashes,
    request: &CallRequest,
    settings: &CallSettings,
) -> Result<u64, PrivateEstimateError> {
    check(request)?;
    let dual = DualState::new(public, private);
    let state = OverriddenState::new(&dual, &settings.state).map_err(PrivateRefusal::from)?;
    let context = settings.block.apply(context);
    let mut simulation = PrivateSimulation::new(spec, context, &state, private, hashes);
    let env = tx_env(spec, &mut simulation, request)?;
    let allowance = allowance(&simulation, request, settings.gas_cap);
    let carrier = carrier_gas(simulation.fork(), request.to.is_none());
    if carrier > allowance {
        return Err(PrivateEstimateError::AboveAllowance { allowance });
    }

    let mut attempt = |gas_limit| -> Result<Run, PrivateRefusal> {
        simulation.run(TxEnv {
            gas_limit,
            ..env.clone()
        })
    };
    let run = attempt(allowance)?;
    match run.outcome.status {
        CallStatus::Success => {}
        CallStatus::Reverted => {
            let data = run.outcome.output;
            return Err(PrivateEstimateError::Reverted { data });
        }
        CallStatus::Halted { .. } if run.out_of_gas => {
            return Err(PrivateEstimateError::AboveAllowance { allowance });
        }
        CallStatus::Halted { reason } => return Err(PrivateEstimateError::Halted { reason }),
    }
    let mut succeeds = |gas| -> Result<bool, PrivateRefusal> {
        Ok(attempt(gas)?.outcome.status == CallStatus::Success)
    };
    let used = run.outcome.gas_used;
    // With less than what it used it cannot succeed; `low` always fails, `high` always succeeds.
    let (mut low, mut high) = (used.saturating_sub(1), allowance);
    let guess = used.saturating_add(CALL_STIPEND).saturating_mul(64) / 63;
    if guess < high {
        if succeeds(guess)? {
            high = guess;
        } else {
            low = low.max(guess);
        }
    }
    // Nothing below what the carrier needs is of interest.
    while low + 1 < high && high > carrier {
        let middle = (low + (high - low) / 2).min(low.saturating_mul(2));
        if succeeds(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high.max(carrier))
}

/// The most gas that the transaction can have: by request, block, cap and fork.
fn allowance<S: StateRead>(
    simulation: &PrivateSimulation<'_, S>,
    request: &CallRequest,
    gas_cap: u64,
) -> u64 {
    let asked = request.gas.filter(|gas| *gas >= TRANSFER_GAS);
    let high = asked.unwrap_or(simulation.context().gas_limit).min(gas_cap);
    if simulation.fork() >= Fork::Osaka {
        high.min(TRANSACTION_GAS_MAX)
    } else {
        high
    }
}

/// What is due before the first instruction of a public transaction that carries a payload's hash, all of whose bytes may be
/// other than zero.
fn carrier_gas(fork: Fork, creates: bool) -> u64 {
    let hash = [0xff; PAYLOAD_HASH_BYTES];
    let gas = GasParams::new_spec(spec_id(fork)).initial_tx_gas(&hash, creates, 0, 0, 0, None);
    gas.initial_total_gas().max(gas.floor_gas())
}
