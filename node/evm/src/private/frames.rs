//! The EVM of private transactions: who owns the storage of a frame decides what the frame may do.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::mem;

use alloy_primitives::{Address, U256};
use quorate_state::{Account, ReadError, StateRead};
use revm::ExecuteEvm as _;
use revm::context::result::{ExecutionResult, HaltReason};
use revm::context::{ContextSetters as _, ContextTr as _, FrameStack, JournalTr as _, TxEnv};
use revm::context_interface::journaled_state::account::JournaledAccountTr as _;
use revm::handler::evm::{ContextDbError, FrameInitResult};
use revm::handler::instructions::EthInstructions;
use revm::handler::{
    EthFrame, EthPrecompiles, EvmTr, FrameData, FrameInitOrResult, FrameResult, Handler,
    ItemOrResult, MainnetContext,
};
use revm::interpreter::interpreter::EthInterpreter;
use revm::interpreter::interpreter_action::FrameInit;
use revm::interpreter::{FrameInput, InitialAndFloorGas};
use revm::state::EvmState;

use crate::block_state::{BlockState, ReadFailed};
use crate::environment::{Evm, EvmFailure};

type PrivateContext<'a, S> = MainnetContext<BlockState<'a, S>>;
type Frame = EthFrame<EthInterpreter>;

/// An EVM over public and private state that lets nothing but private contracts change.
pub(super) struct PrivateEvm<'a, S: StateRead> {
    inner: Evm<'a, S>,
    /// Private state before the transaction: what exists here is private.
    private: BlockState<'a, dyn StateRead + 'a>,
    /// Owners of storage and of code in all frames of this run, also of those that failed.
    called: BTreeSet<Address>,
}

/// One run.
pub(super) struct Run {
    pub(super) result: ExecutionResult,
    /// Every account that was loaded, with what is left of its changes.
    pub(super) accesses: EvmState,
    /// See [`PrivateEvm::called`].
    pub(super) called: BTreeSet<Address>,
    /// Accounts that were created and not rolled back.
    pub(super) created: BTreeSet<Address>,
}

impl<'a, S: StateRead> PrivateEvm<'a, S> {
    pub(super) fn new(inner: Evm<'a, S>, private: BlockState<'a, dyn StateRead + 'a>) -> Self {
        Self {
            inner,
            private,
            called: BTreeSet::new(),
        }
    }

    /// Runs one transaction and forgets it, except for what was read.
    pub(super) fn run(&mut self, env: TxEnv) -> Result<Run, EvmFailure> {
        self.called.clear();
        self.inner.ctx.set_tx(env);
        let result = PrivateHandler(PhantomData).run(self);
        // Before `finalize`, which under old forks calls touched accounts created.
        let state = &self.inner.ctx.journaled_state.state;
        let created = state
            .iter()
            .filter(|(_, account)| account.is_created())
            .map(|(address, _)| *address)
            .collect();
        let accesses = self.inner.finalize();
        Ok(Run {
            result: result?,
            accesses,
            called: mem::take(&mut self.called),
            created,
        })
    }

    /// Everything that was read of private state.
    pub(super) fn into_private(self) -> BlockState<'a, dyn StateRead + 'a> {
        self.private
    }

    /// The account as frames see it at the beginning.
    pub(super) fn seen_account(&mut self, address: &Address) -> Result<Option<Account>, ReadError> {
        self.inner.ctx.journaled_state.database.account(address)
    }

    fn is_private(&mut self, address: &Address) -> Result<bool, ReadFailed> {
        // Frames that may create have a private owner, so what they create is private.
        let state = &self.inner.ctx.journaled_state.state;
        if state
            .get(address)
            .is_some_and(|account| account.is_created())
        {
            return Ok(true);
        }
        Ok(self.private.account(address)?.is_some())
    }
}

impl<'a, S: StateRead> EvmTr for PrivateEvm<'a, S> {
    type Context = PrivateContext<'a, S>;
    type Instructions = EthInstructions<EthInterpreter, Self::Context>;
    type Precompiles = EthPrecompiles;
    type Frame = Frame;

    fn all(
        &self,
    ) -> (
        &Self::Context,
        &Self::Instructions,
        &Self::Precompiles,
        &FrameStack<Frame>,
    ) {
        self.inner.all()
    }

    fn all_mut(
        &mut self,
    ) -> (
        &mut Self::Context,
        &mut Self::Instructions,
        &mut Self::Precompiles,
        &mut FrameStack<Frame>,
    ) {
        self.inner.all_mut()
    }

    fn frame_init(
        &mut self,
        mut init: FrameInit,
    ) -> Result<FrameInitResult<'_, Frame>, ContextDbError<Self::Context>> {
        if let FrameInput::Call(inputs) = &mut init.frame_input {
            self.called.insert(inputs.target_address);
            self.called.insert(inputs.bytecode_address);
            // A call from a static frame is static already; one from a private contract becomes it here.
            if !self.is_private(&inputs.target_address)? {
                inputs.is_static = true;
            }
        }
        let created = match self.inner.frame_init(init)? {
            ItemOrResult::Result(result) => return Ok(ItemOrResult::Result(result)),
            ItemOrResult::Item(frame) => match &frame.data {
                FrameData::Create(create) => Some(create.created_address),
                FrameData::Call(_) => None,
            },
        };
        if let Some(address) = created {
            // A public account at this address may have a balance. It is not the contract's: private accounts hold no value,
            // which is also why each attempt to send some fails for lack of funds. Done inside the frame, so that a creation
            // that fails shows the public account again.
            let journal = self.inner.ctx.journal_mut();
            journal
                .load_account_mut(address)?
                .data
                .set_balance(U256::ZERO);
        }
        Ok(ItemOrResult::Item(self.inner.frame_stack.get()))
    }

    fn frame_run(&mut self) -> Result<FrameInitOrResult<Frame>, ContextDbError<Self::Context>> {
        self.inner.frame_run()
    }

    fn frame_return_result(
        &mut self,
        result: FrameResult,
    ) -> Result<Option<FrameResult>, ContextDbError<Self::Context>> {
        self.inner.frame_return_result(result)
    }
}

/// A transaction of whose sender and fees the public side has taken care.
struct PrivateHandler<'a, S>(PhantomData<&'a S>);

impl<'a, S: StateRead> Handler for PrivateHandler<'a, S> {
    type Evm = PrivateEvm<'a, S>;
    type Error = EvmFailure;
    type HaltReason = HaltReason;

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), EvmFailure> {
        let (tx, journal) = evm.inner.ctx.tx_journal_mut();
        // Loaded in any case: the sender is warm.
        let mut sender = journal.load_account_with_code_mut(tx.caller)?.data;
        if tx.kind.is_create() {
            // The public side has used this nonce already, and the new address follows from it. Nothing of the sender's is kept.
            sender.set_nonce(tx.nonce);
        }
        Ok(())
    }

    fn reimburse_caller(
        &self,
        _evm: &mut Self::Evm,
        _result: &mut FrameResult,
    ) -> Result<(), EvmFailure> {
        Ok(())
    }

    fn reward_beneficiary(
        &self,
        _evm: &mut Self::Evm,
        _result: &mut FrameResult,
    ) -> Result<(), EvmFailure> {
        Ok(())
    }
}
