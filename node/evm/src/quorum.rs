//! The public side of a private transaction in Quorum's form.
//!
//! Nobody can say in public what the payload does, so publicly nothing is called and nothing is created. The sender's nonce moves
//! and the gas is paid that an ordinary transaction with the same data and recipient would have to pay before its first
//! instruction: the same on members that are parties and on those that are not. All of this is done by the rules of an ordinary
//! transaction; the one thing replaced is what would run.

use std::marker::PhantomData;

use alloy_primitives::Bytes;
use quorate_state::StateRead;
use revm::context::journaled_state::JournalCheckpoint;
use revm::context::result::{ExecutionResult, HaltReason};
use revm::context::{ContextSetters as _, ContextTr as _, JournalTr as _, TxEnv};
use revm::context_interface::journaled_state::account::JournaledAccountTr as _;
use revm::handler::{FrameResult, Handler};
use revm::interpreter::{CallOutcome, Gas, GasTracker, InstructionResult, InterpreterResult};

use crate::environment::{Evm, EvmFailure};

/// Executes a transaction without its call or creation. Value and length of its data have been checked.
pub(crate) fn transact<S: StateRead + ?Sized>(
    evm: &mut Evm<'_, S>,
    mut env: TxEnv,
) -> Result<ExecutionResult, EvmFailure> {
    // Its signature covers none; the one that decoding shows is the mark of the form.
    env.chain_id = None;
    evm.ctx.set_tx(env);
    QuorumHandler(PhantomData).run(evm)
}

/// An ordinary transaction whose first frame ends before its first instruction, with success.
struct QuorumHandler<'a, S: ?Sized>(PhantomData<&'a S>);

impl<'a, S: StateRead + ?Sized> Handler for QuorumHandler<'a, S> {
    type Evm = Evm<'a, S>;
    type Error = EvmFailure;
    type HaltReason = HaltReason;

    fn execution(
        &mut self,
        evm: &mut Self::Evm,
        _checkpoint: JournalCheckpoint,
        gas: &mut GasTracker,
    ) -> Result<Option<FrameResult>, EvmFailure> {
        let (tx, journal) = evm.ctx.tx_journal_mut();
        if tx.kind.is_create() {
            // Of a call the nonce has moved already; of a creation this is part of making the first frame.
            journal.load_account_mut(tx.caller)?.data.bump_nonce();
        }
        journal.checkpoint_commit();
        let unused = Gas::new(gas.remaining());
        let nothing = InterpreterResult::new(InstructionResult::Stop, Bytes::new(), unused);
        // A call also in place of a creation: no address is given away.
        let mut result = FrameResult::Call(CallOutcome::new(nothing, 0..0));
        self.last_frame_result(evm, &mut result, gas)?;
        Ok(Some(result))
    }
}
