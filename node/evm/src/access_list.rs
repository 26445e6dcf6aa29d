//! The accounts and slots that a transaction touches: `eth_createAccessList`.

use std::collections::{BTreeMap, BTreeSet};

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256};
use quorate_chain::ChainSpec;
use quorate_state::StateRead;
use revm::context::result::ExecutionResult;

use crate::call::{Run, Simulation, halt_text};
use crate::environment::spec_id;
use crate::overrides::OverriddenState;
use crate::{BlockContext, BlockHashes, CallError, CallRequest, CallSettings, CallStatus};

/// Rounds after which a list that still changes is given as it is: contracts may look at their gas and so at the list.
const ROUNDS_MAX: usize = 8;

/// A list, and what a transaction with it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessListOutcome {
    /// Accounts by address, slots in order.
    pub access_list: AccessList,
    /// Gas used with this list.
    pub gas_used: u64,
    /// How the execution with this list ended.
    pub status: CallStatus,
}

/// Finds the access list of `request`: every account and slot it touches that is not warm anyway. Sender, recipient, coinbase,
/// precompiles and contracts that the transaction creates are listed only for their slots.
///
/// # Errors
/// [`CallError`] if it could not even begin.
pub fn create_access_list<S: StateRead + ?Sized>(
    spec: &ChainSpec,
    context: &BlockContext,
    state: &S,
    hashes: &dyn BlockHashes,
    request: &CallRequest,
    settings: &CallSettings,
) -> Result<AccessListOutcome, CallError> {
    let state = OverriddenState::new(state, &settings.state)?;
    let mut simulation = Simulation::new(spec, settings.block.apply(context), &state, hashes);
    simulation.check_value(request)?;
    let gas = request
        .gas
        .unwrap_or(settings.gas_cap)
        .min(settings.gas_cap);
    let warm = warm_anyway(&simulation, request);

    let mut request = request.clone();
    let mut found = touched_by_list(request.access_list.as_ref());
    for _ in 0..ROUNDS_MAX {
        request.access_list = Some(list(&found));
        let run = simulation.run(&request, gas)?;
        let mut next = found.clone();
        add_touched(&mut next, &run, &warm);
        if next == found {
            return Ok(finished(
                request.access_list.unwrap_or_default(),
                run.result,
            ));
        }
        found = next;
    }
    request.access_list = Some(list(&found));
    let run = simulation.run(&request, gas)?;
    Ok(finished(
        request.access_list.unwrap_or_default(),
        run.result,
    ))
}

type Touched = BTreeMap<Address, BTreeSet<B256>>;

fn warm_anyway<S: StateRead + ?Sized>(
    simulation: &Simulation<'_, S>,
    request: &CallRequest,
) -> BTreeSet<Address> {
    let mut warm: BTreeSet<Address> = [request.sender(), simulation.context().coinbase].into();
    warm.extend(request.to);
    warm.extend(
        request
            .authorization_list
            .iter()
            .filter_map(|authorization| authorization.recover_authority().ok()),
    );
    let precompiles = revm::precompile::Precompiles::new(
        revm::precompile::PrecompileSpecId::from_spec_id(spec_id(simulation.fork())),
    );
    warm.extend(precompiles.addresses());
    warm
}

fn touched_by_list(given: Option<&AccessList>) -> Touched {
    let mut touched = Touched::new();
    for item in given.into_iter().flat_map(|list| list.iter()) {
        touched
            .entry(item.address)
            .or_default()
            .extend(item.storage_keys.iter().copied());
    }
    touched
}

fn add_touched(touched: &mut Touched, run: &Run, warm: &BTreeSet<Address>) {
    run.accesses.iter().for_each(|(address, account)| {
        let mut slots = account
            .storage
            .keys()
            .map(|slot| B256::from(*slot))
            .peekable();
        if slots.peek().is_some() {
            touched.entry(*address).or_default().extend(slots);
        } else if !warm.contains(address) && !account.is_created() {
            touched.entry(*address).or_default();
        }
    });
}

fn list(touched: &Touched) -> AccessList {
    let item = |(address, slots): (&Address, &BTreeSet<B256>)| AccessListItem {
        address: *address,
        storage_keys: slots.iter().copied().collect(),
    };
    AccessList(touched.iter().map(item).collect())
}

fn finished(access_list: AccessList, result: ExecutionResult) -> AccessListOutcome {
    let gas_used = result.tx_gas_used();
    let status = match result {
        ExecutionResult::Success { .. } => CallStatus::Success,
        ExecutionResult::Revert { .. } => CallStatus::Reverted,
        ExecutionResult::Halt { reason, .. } => CallStatus::Halted {
            reason: halt_text(&reason),
        },
    };
    AccessListOutcome {
        access_list,
        gas_used,
        status,
    }
}
