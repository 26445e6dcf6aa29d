//! Runs private transactions on the same states and sorts what came of them.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use quorate_chain::{ChainSpec, Fork};
use quorate_state::{Account, ReadError, StateRead};
use revm::context::TxEnv;
use revm::context::result::{ExecutionResult, HaltReason};
use revm::state::EvmState;

use super::PrivateRefusal;
use super::frames::PrivateEvm;
use crate::block_state::BlockState;
use crate::call::{halt_text, outcome};
use crate::environment::{self, Failure, Refused};
use crate::{BlockContext, BlockHashes, CallOutcome, CallStatus, InvalidTransaction};

/// Keeps nothing from run to run but what was read.
pub(super) struct PrivateSimulation<'a, S: StateRead> {
    spec: &'a ChainSpec,
    fork: Fork,
    context: BlockContext,
    evm: PrivateEvm<'a, S>,
}

/// One run that began, or that had too little to begin with.
pub(super) struct Run {
    pub(super) outcome: CallOutcome,
    /// True if more gas may help.
    pub(super) out_of_gas: bool,
    /// Every account that was loaded, with what is left of its changes.
    pub(super) accesses: EvmState,
    /// Owners of storage and of code in all frames.
    pub(super) called: BTreeSet<Address>,
    /// Accounts that were created and not rolled back.
    pub(super) created: BTreeSet<Address>,
}

impl<'a, S: StateRead> PrivateSimulation<'a, S> {
    /// `state` is what frames see; what exists in `private` is private.
    pub(super) fn new(
        spec: &'a ChainSpec,
        context: BlockContext,
        state: &'a S,
        private: &'a dyn StateRead,
        hashes: &'a dyn BlockHashes,
    ) -> Self {
        let fork = spec.fork_at(context.height, context.timestamp);
        let seen = BlockState::new(&context, state, hashes);
        let mut evm = environment::evm(spec, fork, &context, seen);
        evm.ctx.modify_cfg(|cfg| {
            // The public transaction passed these: price, and gas limit under block and EIP-7825.
            cfg.disable_base_fee = true;
            cfg.disable_block_gas_limit = true;
            cfg.tx_gas_limit_cap = Some(u64::MAX);
        });
        Self {
            spec,
            fork,
            context,
            evm: PrivateEvm::new(evm, BlockState::new(&context, private, hashes)),
        }
    }

    pub(super) fn fork(&self) -> Fork {
        self.fork
    }

    pub(super) fn context(&self) -> &BlockContext {
        &self.context
    }

    /// The account as frames see it at the beginning.
    pub(super) fn account(&mut self, address: &Address) -> Result<Option<Account>, ReadError> {
        self.evm.seen_account(address)
    }

    pub(super) fn run(&mut self, env: TxEnv) -> Result<Run, PrivateRefusal> {
        let gas_limit = env.gas_limit;
        let refused = Refused::new(self.spec, self.fork, &self.context, &env);
        match self.evm.run(env) {
            Ok(run) => {
                let out_of_gas = matches!(
                    run.result,
                    ExecutionResult::Halt {
                        reason: HaltReason::OutOfGas(_),
                        ..
                    }
                );
                Ok(Run {
                    outcome: outcome(run.result),
                    out_of_gas,
                    accesses: run.accesses,
                    called: run.called,
                    created: run.created,
                })
            }
            Err(failure) => match Failure::of(failure, refused) {
                Failure::Invalid(InvalidTransaction::IntrinsicGas { .. }) => {
                    let reason = HaltReason::OutOfGas(revm::context::result::OutOfGasError::Basic);
                    Ok(Run::not_begun(gas_limit, &reason, true))
                }
                Failure::Invalid(InvalidTransaction::InitCodeTooLarge { .. }) => {
                    let reason = HaltReason::CreateInitCodeSizeLimit;
                    Ok(Run::not_begun(gas_limit, &reason, false))
                }
                Failure::Invalid(invalid) => Err(PrivateRefusal::Invalid(invalid)),
                Failure::State(error) => Err(PrivateRefusal::State(error)),
                Failure::Internal(reason) => Err(PrivateRefusal::Internal { reason }),
            },
        }
    }

    /// Private state, with what was read of it.
    pub(super) fn into_private(self) -> BlockState<'a, dyn StateRead + 'a> {
        self.evm.into_private()
    }
}

impl Run {
    /// The end of a transaction whose first instruction was never reached: all gas, no effect.
    fn not_begun(gas_limit: u64, reason: &HaltReason, out_of_gas: bool) -> Self {
        Self {
            outcome: CallOutcome {
                status: CallStatus::Halted {
                    reason: halt_text(reason),
                },
                output: alloy_primitives::Bytes::new(),
                gas_used: gas_limit,
                logs: Vec::new(),
                contract_address: None,
            },
            out_of_gas,
            accesses: EvmState::default(),
            called: BTreeSet::new(),
            created: BTreeSet::new(),
        }
    }
}
