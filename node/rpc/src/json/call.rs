//! Executions that leave nothing behind: `eth_call`, `eth_estimateGas`, `eth_createAccessList`.
//!
//! A call to a private contract is a private one. So is what a request with `privateFor` asks to estimate. Access lists are made for
//! public calls alone: a private transaction carries none.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_eips::BlockId;
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, U64, U256};
use alloy_rpc_types_eth::state::{AccountOverride as AccountOverrideRequest, StateOverride};
use alloy_rpc_types_eth::{BlockOverrides as BlockOverridesRequest, TransactionRequest};
use jsonrpsee::server::RegisterMethodError;
use quorate_engine::Ledger;
use quorate_evm::{
    AccountOverride, BlockContext, BlockOverrides, CallOutcome, CallRequest, CallSettings,
    CallStatus, RootedState, StateOverrides,
};
use quorate_state::Snapshot;
use serde::Serialize;

use super::args::Args;
use super::methods::{Module, method};
use super::send::private_or_public;
use super::state::block_argument;
use super::view::{Json, json, quantity};
use crate::RpcError;
use crate::node::Node;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_call", call)?;
    method(module, "eth_estimateGas", estimate_gas)?;
    method(module, "eth_createAccessList", create_access_list)
}

/// Everything that an execution needs, from one moment.
pub(crate) struct Execution {
    pub(crate) ledger: Ledger,
    pub(crate) context: BlockContext,
    pub(crate) state: Snapshot,
    /// Set if it is to be executed privately.
    pub(crate) private: Option<Arc<dyn RootedState>>,
    pub(crate) request: CallRequest,
    pub(crate) settings: CallSettings,
}

impl Execution {
    /// An execution as if in the block that `id` means, after its transactions.
    pub(crate) async fn at(
        node: &Node,
        id: BlockId,
        request: TransactionRequest,
        settings: CallSettings,
    ) -> Result<Self, RpcError> {
        let request = call_request(request, node.ledger().spec().chain_id())?;
        let state = node.state_of(id).await?;
        // The state of the head may be one block newer than the last announcement: take the header that fits it.
        let height = state.height();
        let block = match node.block(height).await? {
            Some(block) => block,
            None => node.ledger().block(height)?.ok_or(RpcError::UnknownBlock)?,
        };
        let context = Ledger::context_of(block.block.header());
        Ok(Self {
            ledger: node.ledger().clone(),
            context,
            state,
            private: None,
            request,
            settings,
        })
    }

    /// The same, executed privately if it calls a private contract.
    async fn at_either(
        node: &Node,
        id: BlockId,
        request: TransactionRequest,
        settings: CallSettings,
    ) -> Result<Self, RpcError> {
        let mut execution = Self::at(node, id, request, settings).await?;
        // A node without privacy has nothing to look for.
        if node.ctx.privacy.is_some()
            && let Some(to) = execution.request.to
            && !execution.replaces_code_of(&to)
        {
            execution.private = node.private_beside(&execution.state, &to).await?;
        }
        Ok(execution)
    }

    fn replaces_code_of(&self, address: &Address) -> bool {
        let overridden = self.settings.state.get(address);
        overridden.is_some_and(|account| account.code.is_some())
    }

    fn call(&self) -> Result<CallOutcome, RpcError> {
        let Self {
            ledger,
            context,
            state,
            private,
            request,
            settings,
        } = self;
        let (spec, hashes) = (ledger.spec(), ledger.hashes());
        Ok(match private {
            None => quorate_evm::call(spec, context, state, &hashes, request, settings)?,
            Some(private) => quorate_evm::call_private(
                spec, context, state, &**private, &hashes, request, settings,
            )?,
        })
    }

    pub(crate) fn estimate(&self) -> Result<u64, RpcError> {
        let Self {
            ledger,
            context,
            state,
            private,
            request,
            settings,
        } = self;
        let (spec, hashes) = (ledger.spec(), ledger.hashes());
        Ok(match private {
            None => quorate_evm::estimate_gas(spec, context, state, &hashes, request, settings)?,
            Some(private) => quorate_evm::estimate_private_gas(
                spec, context, state, &**private, &hashes, request, settings,
            )?,
        })
    }
}

/// The gas that `request` needs as a private transaction.
pub(crate) async fn estimate_private(
    node: &Node,
    id: BlockId,
    request: TransactionRequest,
    settings: CallSettings,
) -> Result<u64, RpcError> {
    let mut execution = Execution::at(node, id, request, settings).await?;
    let height = execution.state.height();
    execution.private = Some(node.privacy()?.private_state(height).await?);
    node.call(move || execution.estimate()).await
}

async fn call(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let request: TransactionRequest = args.required("transaction")?;
    let id = block_argument(&mut args)?;
    let settings = settings(&node, &mut args)?;
    args.end()?;
    let execution = Execution::at_either(&node, id, request, settings).await?;
    let outcome = node.call(move || execution.call()).await?;
    match outcome.status {
        CallStatus::Success => json(&outcome.output),
        CallStatus::Reverted => Err(RpcError::Reverted {
            data: outcome.output,
        }),
        CallStatus::Halted { reason } => Err(RpcError::Halted { reason }),
    }
}

async fn estimate_gas(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let (request, private) = private_or_public(&mut args)?;
    let id = block_argument(&mut args)?;
    let settings = settings(&node, &mut args)?;
    args.end()?;
    if private.arguments()?.is_some() {
        return json(&quantity(
            estimate_private(&node, id, request, settings).await?,
        ));
    }
    let execution = Execution::at_either(&node, id, request, settings).await?;
    json(&quantity(node.call(move || execution.estimate()).await?))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessListView {
    access_list: AccessList,
    gas_used: U64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn create_access_list(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let request: TransactionRequest = args.required("transaction")?;
    let id = block_argument(&mut args)?;
    let settings = settings(&node, &mut args)?;
    args.end()?;
    let execution = Execution::at(&node, id, request, settings).await?;
    let outcome = node.call(move || {
        let Execution {
            ledger,
            context,
            state,
            request,
            settings,
            ..
        } = execution;
        let hashes = ledger.hashes();
        Ok(quorate_evm::create_access_list(
            ledger.spec(),
            &context,
            &state,
            &hashes,
            &request,
            &settings,
        )?)
    });
    let outcome = outcome.await?;
    json(&AccessListView {
        access_list: outcome.access_list,
        gas_used: quantity(outcome.gas_used),
        error: match outcome.status {
            CallStatus::Success => None,
            CallStatus::Reverted => Some("execution reverted".into()),
            CallStatus::Halted { reason } => Some(reason),
        },
    })
}

/// State and block overrides as geth takes them, with this node's gas cap.
fn settings(node: &Node, args: &mut Args) -> Result<CallSettings, RpcError> {
    let state: Option<StateOverride> = args.optional("stateOverrides")?;
    let block: Option<BlockOverridesRequest> = args.optional("blockOverrides")?;
    let mut settings = CallSettings::capped(node.ctx.config.call_gas_max);
    settings.state = state_overrides(state.unwrap_or_default())?;
    settings.block = block_overrides(block.unwrap_or_default())?;
    Ok(settings)
}

fn state_overrides(requested: StateOverride) -> Result<StateOverrides, RpcError> {
    // Ordered before anything looks at it: the request's map has no order.
    let requested: BTreeMap<Address, AccountOverrideRequest> = requested.into_iter().collect();
    let mut overrides = StateOverrides::new();
    for (address, account) in requested {
        if account.move_precompile_to.is_some() {
            return Err(RpcError::argument(
                "stateOverrides",
                "movePrecompileToAddress is not supported",
            ));
        }
        let slots = |slots: alloy_primitives::map::B256HashMap<alloy_primitives::B256>| {
            slots
                .into_iter()
                .map(|(slot, value)| (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0)))
                .collect()
        };
        overrides.insert(
            address,
            AccountOverride {
                balance: account.balance,
                nonce: account.nonce,
                code: account.code,
                state: account.state.map(slots),
                state_diff: account.state_diff.map(slots),
            },
        );
    }
    Ok(overrides)
}

fn block_overrides(requested: BlockOverridesRequest) -> Result<BlockOverrides, RpcError> {
    let narrow = |field: &'static str, value: Option<U256>| match value.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => Err(RpcError::argument(field, "must fit into 64 bits")),
    };
    Ok(BlockOverrides {
        height: narrow("blockOverrides.number", requested.number)?,
        timestamp: requested.time,
        coinbase: requested.coinbase,
        gas_limit: requested.gas_limit,
        prevrandao: requested.random,
        base_fee: narrow("blockOverrides.baseFeePerGas", requested.base_fee)?,
    })
}

/// A transaction object into what the EVM takes.
fn call_request(request: TransactionRequest, chain_id: u64) -> Result<CallRequest, RpcError> {
    if request.blob_versioned_hashes.is_some()
        || request.max_fee_per_blob_gas.is_some()
        || request.sidecar.is_some()
    {
        return Err(RpcError::argument(
            "transaction",
            "blob transactions (type 3) are not accepted on this chain",
        ));
    }
    if request.gas_price.is_some()
        && (request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some())
    {
        let reason = "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified";
        return Err(RpcError::argument("transaction", reason));
    }
    if let Some(got) = request.chain_id
        && got != chain_id
    {
        let reason = format!("chainId {got} is not this chain's {chain_id}");
        return Err(RpcError::argument("transaction", reason));
    }
    let input = request
        .input
        .try_into_unique_input()
        .map_err(|e| RpcError::argument("transaction", e))?;
    Ok(CallRequest {
        from: request.from,
        to: request.to.and_then(|to| to.into_to()),
        gas: request.gas,
        gas_price: request.gas_price,
        max_fee_per_gas: request.max_fee_per_gas,
        max_priority_fee_per_gas: request.max_priority_fee_per_gas,
        value: request.value.unwrap_or_default(),
        input: input.unwrap_or_default(),
        nonce: request.nonce,
        access_list: request.access_list,
        authorization_list: request.authorization_list.unwrap_or_default(),
    })
}
