//! The smallest gas limit with which a transaction succeeds: `eth_estimateGas`.

use alloy_primitives::U256;
use quorate_chain::{ChainSpec, Fork};
use quorate_state::StateRead;
use revm::context::result::{ExecutionResult, HaltReason};

use crate::call::{Run, Simulation, halt_text};
use crate::overrides::OverriddenState;
use crate::{
    BlockContext, BlockHashes, CallError, CallRequest, CallSettings, EstimateError,
    InvalidTransaction, TRANSACTION_GAS_MAX,
};

/// Gas of a plain transfer, and the least that any transaction needs.
const TRANSFER_GAS: u64 = 21_000;
/// What a contract that is called with value gets on top (part of what a first guess has to allow for).
const CALL_STIPEND: u64 = 2_300;

/// Searches the smallest gas limit with which `request` succeeds.
///
/// The search is geth's (a bisection that first tries what one run used), but goes on until the answer is exact: one gas less
/// fails. For a contract that behaves differently with more gas the answer is one that works, not necessarily the smallest.
///
/// # Errors
/// [`EstimateError`]: it reverts, halts, or cannot get as much gas as it needs.
pub fn estimate_gas<S: StateRead + ?Sized>(
    spec: &ChainSpec,
    context: &BlockContext,
    state: &S,
    hashes: &dyn BlockHashes,
    request: &CallRequest,
    settings: &CallSettings,
) -> Result<u64, EstimateError> {
    let state = OverriddenState::new(state, &settings.state)?;
    let mut simulation = Simulation::new(spec, settings.block.apply(context), &state, hashes);
    simulation.check_value(request)?;
    let mut high = allowance(&mut simulation, request, settings.gas_cap)?;

    // A transfer to an account without code needs exactly this much: no search.
    if let Some(to) = request.to
        && request.input.is_empty()
        && request.access_list.is_none()
        && request.authorization_list.is_empty()
        && high >= TRANSFER_GAS
        && !simulation
            .account(&to)?
            .is_some_and(|account| account.has_code())
        && let Some(run) = attempt(&mut simulation, request, TRANSFER_GAS)?
        && run.result.is_success()
    {
        return Ok(TRANSFER_GAS);
    }

    let Some(run) = attempt(&mut simulation, request, high)? else {
        return Err(EstimateError::AboveAllowance { allowance: high });
    };
    let (used, spent) = match run.result {
        ExecutionResult::Success { gas, .. } => (
            gas.tx_gas_used(),
            gas.total_gas_spent().max(gas.floor_gas()),
        ),
        ExecutionResult::Revert { output, .. } => {
            return Err(EstimateError::Reverted { data: output });
        }
        ExecutionResult::Halt {
            reason: HaltReason::OutOfGas(_),
            ..
        } => {
            return Err(EstimateError::AboveAllowance { allowance: high });
        }
        ExecutionResult::Halt { reason, .. } => {
            return Err(EstimateError::Halted {
                reason: halt_text(&reason),
            });
        }
    };
    // With less than what it used it cannot succeed; `low` always fails, `high` always succeeds.
    let mut low = used.saturating_sub(1);
    // What it spent before refunds, and what EIP-150 holds back from inner calls, is usually enough.
    let guess = spent.saturating_add(CALL_STIPEND).saturating_mul(64) / 63;
    if guess < high {
        if succeeds(&mut simulation, request, guess)? {
            high = guess;
        } else {
            low = low.max(guess);
        }
    }
    while low + 1 < high {
        // Most need little more than they use: stay low until that has failed.
        let middle = (low + (high - low) / 2).min(low.saturating_mul(2));
        if succeeds(&mut simulation, request, middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

/// The most gas that the transaction can have: by request, block, cap, fork and what the sender can pay.
fn allowance<S: StateRead + ?Sized>(
    simulation: &mut Simulation<'_, S>,
    request: &CallRequest,
    gas_cap: u64,
) -> Result<u64, EstimateError> {
    let asked = request.gas.filter(|gas| *gas >= TRANSFER_GAS);
    let mut high = asked.unwrap_or(simulation.context().gas_limit).min(gas_cap);
    if simulation.fork() >= Fork::Osaka {
        high = high.min(TRANSACTION_GAS_MAX);
    }
    let fee_cap = request.fee_cap();
    if fee_cap > 0 {
        let balance = simulation
            .account(&request.sender())?
            .unwrap_or_default()
            .balance;
        let available = balance.saturating_sub(request.value);
        let affordable = available / U256::from(fee_cap);
        high = high.min(affordable.saturating_to());
    }
    Ok(high)
}

/// `None` if the gas does not even cover what is due at the beginning.
fn attempt<S: StateRead + ?Sized>(
    simulation: &mut Simulation<'_, S>,
    request: &CallRequest,
    gas: u64,
) -> Result<Option<Run>, EstimateError> {
    match simulation.run(request, gas) {
        Ok(run) => Ok(Some(run)),
        Err(CallError::Invalid(InvalidTransaction::IntrinsicGas { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn succeeds<S: StateRead + ?Sized>(
    simulation: &mut Simulation<'_, S>,
    request: &CallRequest,
    gas: u64,
) -> Result<bool, EstimateError> {
    Ok(attempt(simulation, request, gas)?.is_some_and(|run| run.result.is_success()))
}
