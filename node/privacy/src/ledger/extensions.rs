//! Extensions of contracts to new parties, and the states that are handed over.

use alloy_primitives::{Address, B256};
use quorate_state::ReadError;

use super::PrivateLedger;
use crate::index::{Handover, PAGE_BYTES};
use crate::{
    ContractState, Extension, HandoverAnswer, HandoverHead, HandoverOutcome, HandoverWanted,
    IndexError, PrivateFatal, PrivateReadError,
};

/// Bytes of every page of a state that is handed over, but the last.
pub const HANDOVER_PAGE_BYTES: usize = PAGE_BYTES;

/// What is kept under the transaction of an accepting vote.
#[derive(Debug)]
pub(crate) enum Kept {
    State(Box<ContractState>),
    Refused { reason: String },
}

impl PrivateLedger {
    /// An extension by the address of its offer; `None` if this node takes no part in it, or has not got there yet.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn extension(&self, offer: &Address) -> Result<Option<Extension>, PrivateReadError> {
        let found = self.settled(|index| index.extension(offer))?;
        let cursor = self.cursor();
        Ok(found.filter(|extension| extension.offered_at <= cursor))
    }

    /// Extensions by rising address of the offer, after the given one; about `limit` of them.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn extensions(
        &self,
        after: Option<Address>,
        limit: usize,
    ) -> Result<Vec<Extension>, PrivateReadError> {
        let ids = self.shared.index.extension_ids(after, limit);
        let mut found = Vec::new();
        for id in ids.map_err(ReadError::from)? {
            found.extend(self.extension(&id)?);
        }
        Ok(found)
    }

    /// All extensions of a contract.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn extensions_of(&self, contract: &Address) -> Result<Vec<Extension>, PrivateReadError> {
        self.settled(|index| index.extensions_of(contract))
    }

    /// What this node found when it executed an accepting vote; `None` if it did not. To be told to the newcomer only.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn handover(&self, transaction: &B256) -> Result<Option<HandoverHead>, PrivateReadError> {
        let found = self.shared.index.handover(transaction);
        Ok(found.map_err(ReadError::from)?)
    }

    /// A page of the encoded [`ContractState`] that is handed over, from 0; empty behind the end. To be told to the newcomer only.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn handover_page(
        &self,
        transaction: &B256,
        page: u32,
    ) -> Result<Vec<u8>, PrivateReadError> {
        let found = self.shared.index.handover_page(transaction, page);
        Ok(found.map_err(ReadError::from)?)
    }

    pub(crate) fn known_extension(&self, id: &Address) -> Result<Option<Extension>, IndexError> {
        self.shared.index.extension(id)
    }

    pub(crate) fn known_extensions_of(
        &self,
        contract: &Address,
    ) -> Result<Vec<Extension>, IndexError> {
        self.shared.index.extensions_of(contract)
    }

    pub(crate) fn kept(&self, transaction: &B256) -> Result<Option<Kept>, IndexError> {
        let index = &self.shared.index;
        let Some(head) = index.handover(transaction)? else {
            return Ok(None);
        };
        Ok(Some(match head.outcome {
            HandoverOutcome::Refused { reason } => Kept::Refused { reason },
            HandoverOutcome::State { .. } => {
                let bytes = index.handover_state(transaction)?;
                let state = ContractState::decode(&bytes);
                let damaged = |error: crate::HandoverError| IndexError::Damaged {
                    key: format!("state for {transaction}"),
                    reason: error.to_string(),
                };
                Kept::State(Box::new(state.map_err(damaged)?))
            }
        }))
    }

    pub(crate) fn keep(&self, handovers: &[Handover]) -> Result<(), PrivateFatal> {
        let _turn = self.shared.writing.lock();
        Ok(self.shared.index.keep_handovers(handovers)?)
    }

    /// Keeps what the parties of a contract say, for the execution of the vote. `Err` says why it cannot be believed.
    pub(crate) fn keep_answer(
        &self,
        wanted: &HandoverWanted,
        answer: HandoverAnswer,
    ) -> Result<Result<(), String>, PrivateFatal> {
        let (outcome, state) = match answer {
            HandoverAnswer::Missing { reason } => return Ok(Err(reason)),
            HandoverAnswer::Refused { reason } => (HandoverOutcome::Refused { reason }, Vec::new()),
            HandoverAnswer::Proved { state, digest } => {
                if state.contract != wanted.contract {
                    return Ok(Err("another contract was handed over".to_owned()));
                }
                if state.digest()? != digest {
                    return Ok(Err(
                        "the state that was handed over is not the one that the parties signed"
                            .to_owned(),
                    ));
                }
                let encoded = state.encode();
                let bytes = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
                (HandoverOutcome::State { digest, bytes }, encoded)
            }
        };
        let head = HandoverHead {
            offer: wanted.offer,
            newcomer: wanted.newcomer,
            outcome,
        };
        self.keep(&[Handover {
            transaction: wanted.transaction,
            head,
            state,
        }])?;
        Ok(Ok(()))
    }
}
