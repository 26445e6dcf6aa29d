//! Execution of what a private payload says, on the parties that can read it.
//!
//! Every frame of a private transaction sees one state: accounts of private state in front of those of public state
//! ([`DualState`]). What a frame may do depends on whose storage it runs in. In the storage of a private contract it may do
//! everything but move value. In the storage of a public account, and in all frames below, it may only read, as in a STATICCALL.
//! Code does not matter: a private contract may DELEGATECALL into a public library and writes its own storage there.
//!
//! So the effects are logs, the result, and changes of private contracts, which a [`StateDiff`] for private state alone carries.
//! Sender, nonce and fees belong to the public side, which has executed before; private accounts never hold value.

mod call;
mod digest;
mod dual_state;
mod error;
mod estimate;
mod frames;
mod outcome;
mod simulation;

use alloy_primitives::{Address, Bytes, TxKind, U256};
use quorate_chain::ChainSpec;
use quorate_state::StateRead;
use revm::context::TxEnv;

use crate::{BlockContext, BlockHashes, InvalidTransaction};

pub use call::call_private;
pub use digest::{RootedState, affected_root, contract_digest};
pub use dual_state::DualState;
pub use error::{PrivateEstimateError, PrivateRefusal};
pub use estimate::estimate_private_gas;
pub use outcome::{PrivateAccess, PrivateOutcome, PrivateReceipt, Touched};

use simulation::PrivateSimulation;

#[cfg(doc)]
use quorate_state::StateDiff;

/// A private transaction in the clear: what the sender signed for, with the payload in place of its hash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrivateCall {
    /// Who signed the public transaction.
    pub sender: Address,
    /// Nonce of the public transaction; the address of a creation follows from it.
    pub nonce: u64,
    /// Recipient; `None` creates a contract.
    pub to: Option<Address>,
    /// Value in wei. Only zero is executed.
    pub value: U256,
    /// Call data or init code: the decrypted payload.
    pub data: Bytes,
    /// Gas limit of the public transaction. It bounds the private execution too, which costs nothing beyond it.
    pub gas_limit: u64,
    /// What GASPRICE answers, in wei: the price per gas that the public transaction pays. Nothing is charged here.
    pub gas_price: u128,
}

impl PrivateCall {
    /// Where the contract would be that this creates; `None` for a call.
    pub fn created_address(&self) -> Option<Address> {
        self.to.is_none().then(|| self.sender.create(self.nonce))
    }

    fn tx_env(&self, spec: &ChainSpec) -> TxEnv {
        TxEnv {
            tx_type: 0,
            caller: self.sender,
            gas_limit: self.gas_limit,
            gas_price: self.gas_price,
            kind: self.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            data: self.data.clone(),
            nonce: self.nonce,
            chain_id: Some(spec.chain_id()),
            ..TxEnv::default()
        }
    }
}

/// Executes a private transaction in the block that `context` describes.
///
/// `public` is the public state as of this transaction, with what its own public side did (nonce, fees) and with all earlier
/// transactions of the block; `private` is private state after the private transactions before this one. For a simulation before
/// sending, both are the heads. The result is a function of the arguments alone, so parties with equal states agree.
///
/// Gas is counted as if the data stood in a public transaction, is limited by the gas limit, and is not charged. Too little gas
/// even to begin, or init code over the limit, is an outcome with a failed receipt, because the public transaction is in the
/// chain all the same.
///
/// # Errors
/// [`PrivateRefusal`]; [`PrivateRefusal::is_final`] tells refusals, on which all parties agree, from failures of this node.
pub fn execute_private(
    spec: &ChainSpec,
    context: BlockContext,
    public: &dyn StateRead,
    private: &dyn StateRead,
    hashes: &dyn BlockHashes,
    transaction: &PrivateCall,
) -> Result<PrivateOutcome, PrivateRefusal> {
    if !transaction.value.is_zero() {
        return Err(PrivateRefusal::ValueTransfer {
            got: transaction.value,
        });
    }
    if transaction.nonce == u64::MAX {
        return Err(InvalidTransaction::NonceOverflow {
            got: transaction.nonce,
        }
        .into());
    }
    let state = DualState::new(public, private);
    let mut simulation = PrivateSimulation::new(spec, context, &state, private, hashes);
    let run = simulation.run(transaction.tx_env(spec))?;
    Ok(outcome::assemble(
        transaction.sender,
        run,
        simulation.into_private(),
    )?)
}
