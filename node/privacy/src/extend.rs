//! Extending a contract to a new party, as executed: judged alike by all who take part.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bloom};
use quorate_enclave::{PayloadHash, PrivacyFlag, PublicKey};
use quorate_evm::contract_digest;
use quorate_state::{Account, AccountChange, StateDiff, StateRead as _};

use crate::content::ExtensionStep;
use crate::execute::{NotExecuted, Run, Verdict, merge};
use crate::index::Handover;
use crate::ledger::Kept;
use crate::resolve::{Reference, Work};
use crate::{
    ContractMetadata, ContractState, Extension, ExtensionState, HANDOVER_SLOTS_MAX, HandoverHead,
    HandoverOutcome, HandoverWanted, PrivateFatal, PrivateLedger, PrivateReadError, RecordOutcome,
};

/// Why a step does nothing. The text is part of the record.
type Refusal = String;

impl Run<'_> {
    pub(crate) fn extend(
        &mut self,
        reference: &Reference,
        work: &Work,
        step: &ExtensionStep,
    ) -> Result<Verdict, NotExecuted> {
        if work.terms.flag != PrivacyFlag::Standard {
            let reason = "a step of an extension must have privacy flag 0";
            return Ok(Verdict::refused(reason.to_owned()));
        }
        match step {
            ExtensionStep::Offer { .. } => self.offer(reference, work, step),
            ExtensionStep::Vote { offer, accept } => self.vote(reference, work, *offer, *accept),
            ExtensionStep::Cancel { offer } => self.cancel(reference, *offer),
        }
    }

    fn offer(
        &mut self,
        reference: &Reference,
        work: &Work,
        step: &ExtensionStep,
    ) -> Result<Verdict, NotExecuted> {
        let ExtensionStep::Offer {
            contract,
            newcomer,
            newcomer_account,
            parties,
        } = step
        else {
            return Err(PrivateFatal::Impossible("an offer that is none".to_owned()).into());
        };
        let extension = Extension {
            id: reference.sender.create(reference.nonce),
            contract: *contract,
            newcomer: *newcomer,
            newcomer_account: *newcomer_account,
            initiator: reference.sender,
            initiator_key: work.sender_key,
            parties: parties.clone(),
            transaction: reference.transaction,
            payload: reference.hash(),
            offered_at: self.height,
            state: ExtensionState::Active,
            ended_at: None,
        };
        let held = self.held(contract)?;
        let judged = match &held {
            Some((metadata, _)) => {
                let proof = work.terms.affected.get(contract);
                may_offer(&extension.initiator_key, newcomer, parties, metadata).and_then(|()| {
                    if proof == Some(&metadata.creation_hash) {
                        return Ok(());
                    }
                    Err(format!(
                        "the sender did not prove to be a party of contract {contract}"
                    ))
                })
            }
            // The newcomer cannot judge. If the others refuse, they will say so when it votes.
            None if work.as_recipient == *newcomer => Ok(()),
            None => Err(format!("contract {contract} is not private here")),
        };
        if let Err(reason) = judged {
            return Ok(Verdict::refused(reason));
        }
        if held.is_some() && self.is_being_extended(contract)? {
            let reason = format!("contract {contract} is being extended already");
            return Ok(Verdict::refused(reason));
        }
        let verdict = Verdict {
            contract_address: Some(extension.id),
            ..done([])
        };
        self.extensions.insert(extension.id, extension);
        Ok(verdict)
    }

    fn cancel(&mut self, reference: &Reference, offer: Address) -> Result<Verdict, NotExecuted> {
        let mut extension = match self.active(offer)? {
            Ok(extension) => extension,
            Err(reason) => return Ok(Verdict::refused(reason)),
        };
        if extension.initiator != reference.sender {
            let reason = "only the account that offered the contract may cancel";
            return Ok(Verdict::refused(reason.to_owned()));
        }
        extension.state = ExtensionState::Cancelled;
        extension.ended_at = Some(self.height);
        self.extensions.insert(offer, extension);
        Ok(done([]))
    }

    fn vote(
        &mut self,
        reference: &Reference,
        work: &Work,
        offer: Address,
        accept: bool,
    ) -> Result<Verdict, NotExecuted> {
        let refused = match self.active(offer)? {
            Err(reason) => reason,
            Ok(extension) => match may_vote(&extension, reference, work) {
                Err(reason) => reason,
                Ok(()) if !accept => {
                    self.ended(extension, ExtensionState::Declined);
                    return Ok(done([]));
                }
                Ok(()) => match self.accept(reference, work, extension)? {
                    Ok(verdict) => return Ok(verdict),
                    Err(reason) => reason,
                },
            },
        };
        if accept {
            // Whoever voted may be waiting for our word.
            self.handovers.push(Handover {
                transaction: reference.transaction,
                head: HandoverHead {
                    offer,
                    newcomer: work.sender_key,
                    outcome: HandoverOutcome::Refused {
                        reason: refused.clone(),
                    },
                },
                state: Vec::new(),
            });
        }
        Ok(Verdict::refused(refused))
    }

    fn accept(
        &mut self,
        reference: &Reference,
        work: &Work,
        extension: Extension,
    ) -> Result<Result<Verdict, Refusal>, NotExecuted> {
        let contract = extension.contract;
        if let Some((metadata, account)) = self.held(&contract)? {
            return self.hand_over(reference, extension, metadata, &account);
        }
        if work.as_recipient != extension.newcomer {
            return Ok(Err(format!("contract {contract} is not private here")));
        }
        match self.ledger.kept(&reference.transaction)? {
            None => Err(NotExecuted::NeedsState {
                wanted: Box::new(HandoverWanted {
                    transaction: reference.transaction,
                    height: self.height,
                    payload: reference.hash(),
                    offer: extension.id,
                    contract,
                    newcomer: extension.newcomer,
                    initiator_key: extension.initiator_key,
                    parties: extension.parties,
                }),
                handovers: std::mem::take(&mut self.handovers),
            }),
            Some(Kept::Refused { reason }) => {
                self.ended(extension, ExtensionState::Refused);
                let reason = format!("a party does not hand over the contract: {reason}");
                // What is kept stays as it is.
                Ok(Ok(Verdict::refused(reason)))
            }
            Some(Kept::State(state)) => {
                self.install(&extension, &state)?;
                self.ended(extension, ExtensionState::Done);
                Ok(Ok(done([contract])))
            }
        }
    }

    /// As a party: keeps the state as it is now for the newcomer.
    fn hand_over(
        &mut self,
        reference: &Reference,
        extension: Extension,
        mut metadata: ContractMetadata,
        account: &Account,
    ) -> Result<Result<Verdict, Refusal>, NotExecuted> {
        let contract = extension.contract;
        let storage = self.state.storage_entries(&contract, HANDOVER_SLOTS_MAX)?;
        let Some(storage) = storage else {
            return Ok(Err(format!(
                "contract {contract} has more than {HANDOVER_SLOTS_MAX} slots"
            )));
        };
        if let Some(parties) = &mut metadata.parties
            && parties.insert(extension.newcomer)
        {
            self.fresh.insert(contract, metadata.clone());
        }
        let code = self.state.code(&account.code_hash)?;
        let state = ContractState::of(&metadata, account, code, storage);
        self.handovers
            .push(kept_state(reference.transaction, &extension, &state)?);
        self.ended(extension, ExtensionState::Done);
        Ok(Ok(done([contract])))
    }

    /// As the newcomer: makes a state our own that all parties vouch for.
    fn install(
        &mut self,
        extension: &Extension,
        state: &ContractState,
    ) -> Result<(), PrivateFatal> {
        let account = ContractState::account(state);
        let change = AccountChange {
            account: Some(account),
            storage_wiped: true,
            storage: state.storage.clone(),
        };
        let mut diff = StateDiff::default();
        diff.accounts.insert(state.contract, change);
        if account.has_code() {
            diff.codes.insert(account.code_hash, state.code.clone());
        }
        let after = self.state.apply(&diff)?;
        if contract_digest(&after, &state.contract)? != contract_digest(state, &state.contract)? {
            return Err(PrivateFatal::Impossible(format!(
                "contract {} is not what was handed over",
                state.contract
            )));
        }
        let metadata = state.metadata(extension.newcomer, self.height);
        self.fresh.insert(state.contract, metadata);
        self.state = after;
        self.changes += 1;
        merge(&mut self.merged, diff);
        Ok(())
    }

    fn ended(&mut self, mut extension: Extension, state: ExtensionState) {
        extension.state = state;
        extension.ended_at = Some(self.height);
        self.extensions.insert(extension.id, extension);
    }

    /// What is known of a private contract that exists here.
    fn held(
        &self,
        contract: &Address,
    ) -> Result<Option<(ContractMetadata, Account)>, PrivateFatal> {
        let Some(metadata) = self.metadata_of(contract)? else {
            return Ok(None);
        };
        let account = self.state.account(contract)?;
        Ok(account.map(|account| (metadata, account)))
    }

    fn active(&self, offer: Address) -> Result<Result<Extension, Refusal>, PrivateFatal> {
        let known = match self.extensions.get(&offer) {
            Some(known) => Some(known.clone()),
            None => self.ledger.known_extension(&offer)?,
        };
        Ok(match known {
            None => Err(format!("there is no extension {offer} here")),
            Some(known) if known.state != ExtensionState::Active => {
                Err(format!("the extension {offer} has ended"))
            }
            Some(known) => Ok(known),
        })
    }

    fn is_being_extended(&self, contract: &Address) -> Result<bool, PrivateFatal> {
        let active = |known: &Extension| {
            known.contract == *contract && known.state == ExtensionState::Active
        };
        if self.extensions.values().any(active) {
            return Ok(true);
        }
        let before = self.ledger.known_extensions_of(contract)?;
        Ok(before
            .iter()
            .any(|known| active(known) && !self.extensions.contains_key(&known.id)))
    }
}

/// The rules that everyone who holds the contract judges an offer by.
fn may_offer(
    initiator: &PublicKey,
    newcomer: &PublicKey,
    parties: &BTreeSet<PublicKey>,
    metadata: &ContractMetadata,
) -> Result<(), Refusal> {
    let contract = metadata.address;
    if !parties.contains(initiator) {
        return Err("the offer does not name its sender among the parties".to_owned());
    }
    if metadata.flag == PrivacyFlag::Standard {
        return Ok(());
    }
    if *initiator != metadata.creator {
        return Err(format!("only the creator may extend contract {contract}"));
    }
    if let Some(missing) = metadata.mandatory.difference(parties).next() {
        return Err(format!("contract {contract} needs party {missing}"));
    }
    match &metadata.parties {
        Some(known) if known.contains(newcomer) => Err(format!(
            "{newcomer} is a party of contract {contract} already"
        )),
        Some(known) if known != parties => Err(format!("contract {contract} has other parties")),
        Some(_) | None => Ok(()),
    }
}

/// An offer that would be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefusal {
    /// It breaks a rule.
    #[error("{reason}")]
    Rule {
        /// Which.
        reason: String,
    },
    /// Private state could not be read.
    #[error(transparent)]
    Read(#[from] PrivateReadError),
}

/// Judges an offer before it is sent, by what this node knows now. Returns what [`Terms::affected`](crate::Terms::affected) must
/// say of the contract.
///
/// # Errors
/// [`OfferRefusal`].
pub fn check_offer(
    ledger: &PrivateLedger,
    contract: &Address,
    initiator: &PublicKey,
    newcomer: &PublicKey,
    parties: &BTreeSet<PublicKey>,
) -> Result<PayloadHash, OfferRefusal> {
    let rule = |reason: String| Err(OfferRefusal::Rule { reason });
    let gone = || rule(format!("contract {contract} is not private here"));
    let Some(metadata) = ledger.contract(contract)? else {
        return gone();
    };
    let state = ledger.state_at(ledger.cursor())?;
    if !state.is_private(contract).map_err(PrivateReadError::Read)? {
        return gone();
    }
    may_offer(initiator, newcomer, parties, &metadata)
        .map_err(|reason| OfferRefusal::Rule { reason })?;
    // One that is done is no obstacle, even to the same newcomer: a party that could not vouch for the contract may have kept the newcomer
    // from taking it, which nobody else sees. To one that has the contract it changes nothing.
    let is_active = |known: &Extension| known.state == ExtensionState::Active;
    if ledger.extensions_of(contract)?.iter().any(is_active) {
        return rule(format!("contract {contract} is being extended already"));
    }
    Ok(metadata.creation_hash)
}

fn may_vote(extension: &Extension, reference: &Reference, work: &Work) -> Result<(), Refusal> {
    if reference.sender != extension.newcomer_account {
        return Err("only the account that the offer names may vote".to_owned());
    }
    if work.sender_key != extension.newcomer {
        return Err("only the key that the offer names may vote".to_owned());
    }
    Ok(())
}

/// What is kept of a state under the vote's transaction.
fn kept_state(
    transaction: B256,
    extension: &Extension,
    state: &ContractState,
) -> Result<Handover, PrivateFatal> {
    let encoded = state.encode();
    Ok(Handover {
        transaction,
        head: HandoverHead {
            offer: extension.id,
            newcomer: extension.newcomer,
            outcome: HandoverOutcome::State {
                digest: state.digest()?,
                bytes: u32::try_from(encoded.len()).unwrap_or(u32::MAX),
            },
        },
        state: encoded,
    })
}

fn done<const N: usize>(affected: [Address; N]) -> Verdict {
    Verdict {
        outcome: RecordOutcome::Success,
        gas_used: 0,
        logs: Vec::new(),
        bloom: Bloom::ZERO,
        contract_address: None,
        affected: affected.into_iter().collect(),
    }
}
