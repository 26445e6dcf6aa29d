//! A transaction that nobody signed and that leaves nothing behind: `eth_call`.

use alloy_eips::eip2930::AccessList;
use alloy_eips::eip7702::SignedAuthorization;
use alloy_primitives::{Address, Bytes, Log, TxKind, U256};
use quorate_chain::{ChainSpec, Fork};
use quorate_state::{Account, StateRead};
use revm::context::TxEnv;
use revm::context::either::Either;
use revm::context::result::{ExecutionResult, HaltReason};
use revm::state::EvmState;
use revm::{ExecuteEvm as _, context_interface::result::Output};

use crate::block_state::BlockState;
use crate::environment::{self, Evm, Failure, Refused};
use crate::overrides::OverriddenState;
use crate::{
    BlockContext, BlockHashes, BlockOverrides, CallError, InvalidTransaction, StateOverrides,
};

/// What a client asks to be executed. Fields have the meaning of a transaction's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallRequest {
    /// Sender; the zero address if none is given. Its code does not matter, its nonce is not checked.
    pub from: Option<Address>,
    /// Recipient; `None` creates a contract.
    pub to: Option<Address>,
    /// Gas limit; the cap if none is given.
    pub gas: Option<u64>,
    /// Gas price in wei, for types without a fee cap.
    pub gas_price: Option<u128>,
    /// Fee cap in wei (EIP-1559).
    pub max_fee_per_gas: Option<u128>,
    /// Tip in wei (EIP-1559).
    pub max_priority_fee_per_gas: Option<u128>,
    /// Value in wei. The sender must have it.
    pub value: U256,
    /// Call data, or init code.
    pub input: Bytes,
    /// Nonce, if it is given; not compared with the state.
    pub nonce: Option<u64>,
    /// Access list (EIP-2930).
    pub access_list: Option<AccessList>,
    /// Authorizations (EIP-7702); empty for none.
    pub authorization_list: Vec<SignedAuthorization>,
}

impl CallRequest {
    /// Who sends.
    pub fn sender(&self) -> Address {
        self.from.unwrap_or_default()
    }

    /// The most that the sender offers per gas, in wei.
    pub fn fee_cap(&self) -> u128 {
        self.max_fee_per_gas.or(self.gas_price).unwrap_or_default()
    }

    fn tx_type(&self) -> u8 {
        if !self.authorization_list.is_empty() {
            4
        } else if self.max_fee_per_gas.is_some() || self.max_priority_fee_per_gas.is_some() {
            2
        } else {
            u8::from(self.access_list.is_some())
        }
    }
}

/// Under which circumstances a call runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSettings {
    /// Accounts to change before.
    pub state: StateOverrides,
    /// Values of the environment to change before.
    pub block: BlockOverrides,
    /// Most gas that the call may use, whatever it asks for.
    pub gas_cap: u64,
}

impl CallSettings {
    /// Nothing changed.
    pub fn capped(gas_cap: u64) -> Self {
        Self {
            state: StateOverrides::new(),
            block: BlockOverrides::default(),
            gas_cap,
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallStatus {
    /// It returned.
    Success,
    /// It reverted; the output says why.
    Reverted,
    /// It ran into an error and used all its gas.
    Halted {
        /// Which error.
        reason: String,
    },
}

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// How it ended.
    pub status: CallStatus,
    /// What it returned, or reverted with; the code of a contract that it created.
    pub output: Bytes,
    /// Gas used, refunds taken off.
    pub gas_used: u64,
    /// What contracts logged; empty if not successful.
    pub logs: Vec<Log>,
    /// The contract that it would have created.
    pub contract_address: Option<Address>,
}

/// Executes `request` on `state` as a transaction of the block that `context` describes, and forgets what it changed.
///
/// As in geth, sender nonce, sender code, base fee and the block's gas limit are not checked; beyond geth, a sender need not be able
/// to pay for the gas. It must have the value it sends.
///
/// # Errors
/// [`CallError`] if it could not even begin. Reverts and halts are outcomes.
pub fn call<S: StateRead + ?Sized>(
    spec: &ChainSpec,
    context: &BlockContext,
    state: &S,
    hashes: &dyn BlockHashes,
    request: &CallRequest,
    settings: &CallSettings,
) -> Result<CallOutcome, CallError> {
    let state = OverriddenState::new(state, &settings.state)?;
    let mut simulation = Simulation::new(spec, settings.block.apply(context), &state, hashes);
    let gas = request
        .gas
        .unwrap_or(settings.gas_cap)
        .min(settings.gas_cap);
    simulation.check_value(request)?;
    Ok(outcome(simulation.run(request, gas)?.result))
}

pub(crate) fn outcome(result: ExecutionResult) -> CallOutcome {
    let gas_used = result.tx_gas_used();
    let contract_address = result.created_address();
    let (status, output, logs) = match result {
        ExecutionResult::Success { output, logs, .. } => {
            let data = match output {
                Output::Call(data) | Output::Create(data, _) => data,
            };
            (CallStatus::Success, data, logs)
        }
        ExecutionResult::Revert { output, .. } => (CallStatus::Reverted, output, Vec::new()),
        ExecutionResult::Halt { reason, .. } => (
            CallStatus::Halted {
                reason: halt_text(&reason),
            },
            Bytes::new(),
            Vec::new(),
        ),
    };
    CallOutcome {
        status,
        output,
        gas_used,
        logs,
        contract_address,
    }
}

/// The reason of a halt as clients know it from geth where they match on it.
pub(crate) fn halt_text(reason: &HaltReason) -> String {
    match reason {
        HaltReason::OutOfGas(_) => "out of gas".into(),
        HaltReason::InvalidJump => "invalid jump destination".into(),
        HaltReason::CreateCollision => "contract address collision".into(),
        HaltReason::CreateContractSizeLimit => "max code size exceeded".into(),
        HaltReason::CreateInitCodeSizeLimit => "max initcode size exceeded".into(),
        HaltReason::StateChangeDuringStaticCall => "write protection".into(),
        HaltReason::OpcodeNotFound | HaltReason::InvalidFEOpcode | HaltReason::NotActivated => {
            "invalid opcode".into()
        }
        other => other.to_string(),
    }
}

/// An EVM that runs the same state again and again and keeps nothing but what it has read.
pub(crate) struct Simulation<'a, S: StateRead + ?Sized> {
    spec: &'a ChainSpec,
    fork: Fork,
    context: BlockContext,
    evm: Evm<'a, S>,
}

/// One run.
pub(crate) struct Run {
    pub(crate) result: ExecutionResult,
    /// Everything that was read or changed.
    pub(crate) accesses: EvmState,
}

impl<'a, S: StateRead + ?Sized> Simulation<'a, S> {
    pub(crate) fn new(
        spec: &'a ChainSpec,
        context: BlockContext,
        state: &'a S,
        hashes: &'a dyn BlockHashes,
    ) -> Self {
        let fork = spec.fork_at(context.height, context.timestamp);
        let mut evm = environment::evm(
            spec,
            fork,
            &context,
            BlockState::new(&context, state, hashes),
        );
        evm.ctx.modify_cfg(|cfg| {
            cfg.disable_nonce_check = true;
            cfg.disable_balance_check = true;
            cfg.disable_block_gas_limit = true;
            cfg.disable_eip3607 = true;
            cfg.disable_base_fee = true;
            // The caller's cap takes the place of EIP-7825.
            cfg.tx_gas_limit_cap = Some(u64::MAX);
        });
        Self {
            spec,
            fork,
            context,
            evm,
        }
    }

    pub(crate) fn fork(&self) -> Fork {
        self.fork
    }

    pub(crate) fn context(&self) -> &BlockContext {
        &self.context
    }

    pub(crate) fn account(&mut self, address: &Address) -> Result<Option<Account>, CallError> {
        Ok(self.evm.ctx.journaled_state.database.account(address)?)
    }

    /// Refuses a value that the sender has not: without balance checks revm would make it up.
    pub(crate) fn check_value(&mut self, request: &CallRequest) -> Result<(), CallError> {
        let balance = self.account(&request.sender())?.unwrap_or_default().balance;
        if request.value > balance {
            let cost = request.value;
            return Err(InvalidTransaction::InsufficientFunds { balance, cost }.into());
        }
        Ok(())
    }

    pub(crate) fn run(&mut self, request: &CallRequest, gas: u64) -> Result<Run, CallError> {
        let env = self.tx_env(request, gas)?;
        let refused = Refused::new(self.spec, self.fork, &self.context, &env);
        let result = self.evm.transact_one(env);
        let accesses = self.evm.finalize();
        match result {
            Ok(result) => Ok(Run { result, accesses }),
            Err(failure) => Err(match Failure::of(failure, refused) {
                Failure::Invalid(invalid) => CallError::Invalid(invalid),
                Failure::State(error) => CallError::State(error),
                Failure::Internal(reason) => CallError::Internal { reason },
            }),
        }
    }

    fn tx_env(&mut self, request: &CallRequest, gas: u64) -> Result<TxEnv, CallError> {
        let caller = request.sender();
        let tx_type = request.tx_type();
        if tx_type == 4 && request.to.is_none() {
            return Err(InvalidTransaction::RecipientMissing { tx_type }.into());
        }
        let nonce = match request.nonce {
            Some(nonce) => nonce,
            None => self.account(&caller)?.unwrap_or_default().nonce,
        };
        Ok(TxEnv {
            tx_type,
            caller,
            gas_limit: gas,
            gas_price: match (request.max_fee_per_gas.or(request.gas_price), tx_type) {
                (Some(price), _) => price,
                // A tip without a cap: the cap that just pays it.
                (None, 2 | 4) => request
                    .max_priority_fee_per_gas
                    .unwrap_or_default()
                    .saturating_add(u128::from(self.context.base_fee)),
                (None, _) => 0,
            },
            kind: request.to.map_or(TxKind::Create, TxKind::Call),
            value: request.value,
            data: request.input.clone(),
            nonce,
            chain_id: Some(self.spec.chain_id()),
            access_list: request.access_list.clone().unwrap_or_default(),
            gas_priority_fee: (tx_type >= 2)
                .then(|| request.max_priority_fee_per_gas.unwrap_or_default()),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: request
                .authorization_list
                .iter()
                .cloned()
                .map(Either::Left)
                .collect(),
        })
    }
}
