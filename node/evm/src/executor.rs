//! One block, transaction by transaction.

use std::fmt;

use alloy_consensus::{Transaction as _, TxType};
use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_eips::eip4788::BEACON_ROOTS_ADDRESS;
use alloy_primitives::{Address, B256, Bytes};
use quorate_chain::{
    ChainSpec, Fork, RecoveredTransaction, Transaction, TransactionReceipt, check_quorum_form,
};
use quorate_state::{StateDiff, StateRead};
use revm::context::result::ExecutionResult;
use revm::{ExecuteEvm as _, SystemCallEvm as _};

use crate::block_state::{BlockState, View};
use crate::environment::{self, Evm, Failure, Refused};
use crate::quorum;
use crate::rules::quorum_form;
use crate::{BlockContext, BlockHashes, ExecuteError, InvalidTransaction};

/// Most bytes of what a reverted transaction returned that its receipt keeps: enough for any error message of a contract, and no
/// way to fill the disk with what is not part of the chain's roots. The rest is cut off.
pub const REVERT_DATA_BYTES_MAX: usize = 4_096;

/// What a block did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockOutcome {
    /// One receipt per transaction, in order.
    pub receipts: Vec<TransactionReceipt>,
    /// Gas used by all transactions.
    pub gas_used: u64,
    /// What changed from the parent's state.
    pub diff: StateDiff,
}

/// Executes one block on top of its parent's state.
pub struct BlockExecutor<'a, S: StateRead + ?Sized> {
    spec: ChainSpec,
    fork: Fork,
    context: BlockContext,
    evm: Evm<'a, S>,
    receipts: Vec<TransactionReceipt>,
    gas_used: u64,
    /// See [`Self::for_vectors`].
    for_vectors: bool,
    /// Why nothing more can be executed.
    failed: Option<ExecuteError>,
}

impl<S: StateRead + ?Sized> fmt::Debug for BlockExecutor<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockExecutor")
            .field("fork", &self.fork)
            .field("context", &self.context)
            .field("transactions", &self.receipts.len())
            .field("gas_used", &self.gas_used)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl<'a, S: StateRead + ?Sized> BlockExecutor<'a, S> {
    /// Begins the block: runs the system calls of EIP-4788 and EIP-2935 if the fork has them and their contracts exist. They use
    /// no gas of the block and have no receipts.
    ///
    /// # Errors
    /// [`ExecuteError::State`] or [`ExecuteError::Internal`].
    pub fn new(
        spec: &ChainSpec,
        context: BlockContext,
        state: &'a S,
        hashes: &'a dyn BlockHashes,
    ) -> Result<Self, ExecuteError> {
        let mut executor = Self::bare(spec, context, state, hashes);
        // The genesis block has no parent to record.
        if context.height > 0 {
            if executor.fork >= Fork::Cancun {
                executor.system_call(BEACON_ROOTS_ADDRESS, context.parent_beacon_root)?;
            }
            if executor.fork >= Fork::Prague {
                executor.system_call(HISTORY_STORAGE_ADDRESS, context.parent_hash)?;
            }
        }
        Ok(executor)
    }

    /// The environment of Ethereum's public state tests: transactions alone, without the system calls of a block, and with blob
    /// transactions and ones without chain id, which a chain of ours must not accept. Under chain id 1 a `v` of 37 or 38 is what
    /// EIP-155 says, and no mark of a private transaction.
    pub fn for_vectors(
        spec: &ChainSpec,
        context: BlockContext,
        state: &'a S,
        hashes: &'a dyn BlockHashes,
    ) -> Self {
        Self {
            for_vectors: true,
            ..Self::bare(spec, context, state, hashes)
        }
    }

    fn bare(
        spec: &ChainSpec,
        context: BlockContext,
        state: &'a S,
        hashes: &'a dyn BlockHashes,
    ) -> Self {
        let fork = spec.fork_at(context.height, context.timestamp);
        let state = BlockState::new(&context, state, hashes);
        Self {
            evm: environment::evm(spec, fork, &context, state),
            spec: spec.clone(),
            fork,
            context,
            receipts: Vec::new(),
            gas_used: 0,
            for_vectors: false,
            failed: None,
        }
    }

    /// The rules that this block runs under.
    pub fn fork(&self) -> Fork {
        self.fork
    }

    /// Gas used so far.
    pub fn gas_used(&self) -> u64 {
        self.gas_used
    }

    /// Gas that the block has left.
    pub fn gas_left(&self) -> u64 {
        self.context.gas_limit.saturating_sub(self.gas_used)
    }

    /// The state as the transactions executed so far have left it: the parent's state, overlaid by what this block changed. Nonce
    /// and fees of the last transaction are part of it, so it is what [`execute_private`](crate::execute_private) wants as public
    /// state when the last transaction is the public side of a private one. A transaction that was refused left nothing in it.
    ///
    /// The view borrows the executor, which can go on when it is dropped; the next transaction needs a new view. Reads do not
    /// change the executor: what the block has not read itself is read from the parent each time, and errors of these reads concern
    /// the reader alone.
    ///
    /// ```
    /// # use quorate_chain::{ChainSpec, RecoveredTransaction};
    /// # use quorate_evm::{BlockContext, BlockExecutor, BlockHashes, PrivateCall, PrivateOutcome, execute_private};
    /// # use quorate_state::StateRead;
    /// fn between_two<S: StateRead + ?Sized>(
    ///     executor: &mut BlockExecutor<'_, S>,
    ///     [first, second]: &[RecoveredTransaction; 2],
    ///     private: &dyn StateRead,
    ///     call: &PrivateCall,
    ///     # spec: &ChainSpec, context: BlockContext, hashes: &dyn BlockHashes,
    /// ) -> Result<PrivateOutcome, Box<dyn std::error::Error>> {
    ///     executor.execute(first)?;
    ///     let outcome = execute_private(spec, context, &executor.state(), private, hashes, call)?;
    ///     executor.execute(second)?;
    ///     Ok(outcome)
    /// }
    /// ```
    pub fn state(&self) -> impl StateRead + '_ {
        View(&self.evm.ctx.journaled_state.database)
    }

    /// Executes the next transaction. Of a private one this is the public side: a marker is an ordinary call of an address without
    /// code, and in Quorum's form nothing is called or created, while nonce and intrinsic gas are used as by an ordinary
    /// transaction.
    ///
    /// # Errors
    /// [`ExecuteError::Invalid`]: it must not be in the block, and nothing happened. [`ExecuteError::State`] and
    /// [`ExecuteError::Internal`]: this executor is of no more use and repeats the error.
    pub fn execute(
        &mut self,
        tx: &RecoveredTransaction,
    ) -> Result<&TransactionReceipt, ExecuteError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.admit(tx.transaction())?;
        let env = environment::tx_env(tx);
        let refused = Refused::new(&self.spec, self.fork, &self.context, &env);
        let result = match quorum_form(&self.spec, tx.transaction()) {
            Some(tx) => {
                check_quorum_form(tx).map_err(InvalidTransaction::from)?;
                quorum::transact(&mut self.evm, env)
            }
            None => self.evm.transact_one(env),
        };
        // Clears the journal either way; a transaction that was refused leaves nothing behind.
        let changes = self.evm.finalize();
        let result = match result {
            Ok(result) => result,
            Err(failure) => return Err(self.fail(Failure::of(failure, refused))),
        };
        if let Err(error) = self.evm.ctx.journaled_state.database.commit(changes) {
            return Err(self.fail(Failure::State(error)));
        }
        let receipt = self.receipt(tx.transaction(), result);
        self.gas_used = receipt.cumulative_gas_used;
        Ok(self.receipts.push_mut(receipt))
    }

    /// Ends the block.
    pub fn finish(self) -> BlockOutcome {
        BlockOutcome {
            receipts: self.receipts,
            gas_used: self.gas_used,
            diff: self.evm.ctx.journaled_state.database.into_diff(),
        }
    }

    /// The checks that need the block, and not the state.
    fn admit(&self, tx: &Transaction) -> Result<(), InvalidTransaction> {
        if tx.is_eip4844() && !self.for_vectors {
            return Err(InvalidTransaction::BlobsRefused);
        }
        // Without a chain id it could be from any chain, or be a private one in Quorum's form whose mark, which the signature does
        // not cover, was taken off. No pool admits it, so no honest minter has it.
        if tx.chain_id().is_none() && !self.for_vectors {
            return Err(InvalidTransaction::WrongChainId {
                got: None,
                expected: self.spec.chain_id(),
            });
        }
        let got = tx.gas_limit();
        if got > self.context.gas_limit {
            return Err(InvalidTransaction::GasLimitAboveBlock {
                got,
                max: self.context.gas_limit,
            });
        }
        if got > self.gas_left() {
            return Err(InvalidTransaction::GasLimitAboveRemaining {
                got,
                remaining: self.gas_left(),
            });
        }
        Ok(())
    }

    fn receipt(&self, tx: &Transaction, result: ExecutionResult) -> TransactionReceipt {
        let gas_used = result.tx_gas_used();
        let tx_type = match tx {
            Transaction::Legacy(_) => TxType::Legacy,
            Transaction::Eip2930(_) => TxType::Eip2930,
            Transaction::Eip1559(_) => TxType::Eip1559,
            Transaction::Eip4844(_) => TxType::Eip4844,
            Transaction::Eip7702(_) => TxType::Eip7702,
        };
        let mut receipt = TransactionReceipt {
            tx_type,
            success: result.is_success(),
            gas_used,
            cumulative_gas_used: self.gas_used + gas_used,
            logs: Vec::new(),
            contract_address: result.created_address(),
            revert_data: Bytes::new(),
        };
        match result {
            ExecutionResult::Success { logs, .. } => receipt.logs = logs,
            ExecutionResult::Revert { output, .. } => {
                // Copied, so that a receipt does not hold on to more than it shows.
                let kept = output.get(..REVERT_DATA_BYTES_MAX).unwrap_or(&output);
                receipt.revert_data = Bytes::copy_from_slice(kept);
            }
            ExecutionResult::Halt { .. } => {}
        }
        receipt
    }

    fn system_call(&mut self, contract: Address, input: B256) -> Result<(), ExecuteError> {
        let deployed = self.evm.ctx.journaled_state.database.account(&contract)?;
        if !deployed.is_some_and(|account| account.has_code()) {
            return Ok(());
        }
        let result = self
            .evm
            .system_call_one(contract, Bytes::copy_from_slice(input.as_slice()));
        let mut changes = self.evm.finalize();
        match result {
            Ok(result) => {
                // The caller is no account: it is neither charged nor touched.
                changes.retain(|address, _| *address == contract);
                if result.is_success() {
                    self.evm.ctx.journaled_state.database.commit(changes)?;
                } else {
                    tracing::warn!(height = self.context.height, %contract, "system call failed");
                }
                Ok(())
            }
            Err(revm::context::result::EVMError::Database(error)) => {
                Err(ExecuteError::State(error.0))
            }
            Err(other) => Err(ExecuteError::Internal {
                reason: other.to_string(),
            }),
        }
    }

    fn fail(&mut self, failure: Failure) -> ExecuteError {
        let fatal = match failure {
            Failure::Invalid(invalid) => return ExecuteError::Invalid(invalid),
            Failure::State(error) => ExecuteError::State(error),
            Failure::Internal(reason) => ExecuteError::Internal { reason },
        };
        self.failed = Some(fatal.clone());
        fatal
    }
}

/// Executes a whole block.
///
/// # Errors
/// [`ExecuteError::InvalidAt`] naming the first transaction that must not be in it, [`ExecuteError::State`] or
/// [`ExecuteError::Internal`].
pub fn execute_block<S: StateRead + ?Sized>(
    spec: &ChainSpec,
    context: BlockContext,
    state: &S,
    hashes: &dyn BlockHashes,
    transactions: &[RecoveredTransaction],
) -> Result<BlockOutcome, ExecuteError> {
    let mut executor = BlockExecutor::new(spec, context, state, hashes)?;
    for (position, tx) in transactions.iter().enumerate() {
        match executor.execute(tx) {
            Ok(_) => {}
            Err(ExecuteError::Invalid(reason)) => {
                return Err(ExecuteError::InvalidAt {
                    position,
                    hash: tx.hash(),
                    reason: Box::new(reason),
                });
            }
            Err(other) => return Err(other),
        }
    }
    Ok(executor.finish())
}
