//! From what the chain says to what is to be executed.

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes};
use quorate_chain::{
    ImportedBlock, PrivateReference, PublicForm, RecoveredTransaction, Transaction,
    decode_transaction, is_quorum_private, private_reference,
};
use quorate_enclave::{PayloadHash, PublicKey};
use quorate_evm::PrivateCall;

use crate::content::ExtensionStep;
use crate::{Content, Lookup, Payloads, PrivatePayload, Terms};

/// A transaction of a block that names a payload.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub(crate) position: u32,
    pub(crate) transaction: B256,
    pub(crate) sender: Address,
    pub(crate) nonce: u64,
    pub(crate) to: Option<Address>,
    pub(crate) gas_limit: u64,
    pub(crate) gas_price: u128,
    pub(crate) reference: PrivateReference,
}

/// What is known of a reference.
#[derive(Debug)]
pub(crate) enum Resolved {
    NotAParty,
    /// We were one, and the payload is gone.
    Erased,
    Ready(Box<Work>),
    /// One that is refused whatever the state is.
    Unknown {
        hash: PayloadHash,
        reason: String,
    },
}

/// A payload to execute.
#[derive(Debug)]
pub(crate) struct Work {
    /// What to execute, or why it must not be.
    pub(crate) action: Result<Action, String>,
    /// Recipient, data and gas limit in the clear, for the record.
    pub(crate) to: Option<Address>,
    pub(crate) data: Bytes,
    pub(crate) gas_limit: u64,
    pub(crate) gas_price: u128,
    /// The terms that count.
    pub(crate) terms: Terms,
    pub(crate) as_recipient: PublicKey,
    pub(crate) sender_key: PublicKey,
    pub(crate) we_sent: bool,
    /// Hash of the signed inner transaction, and its payload.
    pub(crate) inner: Option<(B256, Option<PayloadHash>)>,
}

/// What a payload has its parties do.
#[derive(Debug)]
pub(crate) enum Action {
    Call(PrivateCall),
    Extend(ExtensionStep),
}

/// The references of a block, in order.
pub(crate) fn references_of(block: &ImportedBlock) -> Vec<Reference> {
    let base_fee = block.block.header().base_fee_per_gas;
    let transactions = block.block.transactions().iter().zip(&block.senders);
    transactions
        .zip(0u32..)
        .filter_map(|((transaction, sender), position)| {
            Some(Reference {
                position,
                reference: private_reference(transaction)?,
                transaction: *transaction.hash(),
                sender: *sender,
                nonce: transaction.nonce(),
                to: transaction.to(),
                gas_limit: transaction.gas_limit(),
                gas_price: transaction.effective_gas_price(base_fee),
            })
        })
        .collect()
}

impl Reference {
    pub(crate) fn hash(&self) -> PayloadHash {
        PayloadHash::from_bytes(self.reference.hash)
    }

    /// What this answer means.
    async fn resolve(&self, answer: Option<Lookup>, payloads: &dyn Payloads) -> Resolved {
        let hash = self.hash();
        match answer.unwrap_or_else(unanswered) {
            Lookup::NotAParty => Resolved::NotAParty,
            Lookup::Erased => Resolved::Erased,
            Lookup::Unknown { reason } => Resolved::Unknown { hash, reason },
            Lookup::Party(payload) if payload.terms.hash != hash => other_terms(hash),
            Lookup::Party(payload) => self.opened(*payload, payloads).await,
        }
    }

    async fn opened(&self, payload: PrivatePayload, payloads: &dyn Payloads) -> Resolved {
        match (self.reference.form, &payload.content) {
            (PublicForm::Quorum, Content::Data(data)) => {
                let data = data.clone();
                self.ready(payload, self.to, data, self.gas_limit)
            }
            (
                PublicForm::Marker,
                Content::Call {
                    to,
                    data,
                    gas_limit,
                },
            ) => {
                let (to, data, gas_limit) = (*to, data.clone(), *gas_limit);
                self.ready(payload, to, data, gas_limit)
            }
            (PublicForm::Marker, Content::Signed(bytes)) => match self.inner(bytes) {
                Ok((inner, reference)) => self.second(payload, &inner, &reference, payloads).await,
                Err(reason) => self.refused(payload, reason),
            },
            (PublicForm::Marker | PublicForm::Quorum, Content::Extension(step)) => {
                let step = step.clone();
                self.step(payload, step)
            }
            (PublicForm::Marker, Content::Data(_)) => self.refused(
                payload,
                "the payload of a marker must hold a call or a signed transaction",
            ),
            (PublicForm::Quorum, Content::Call { .. } | Content::Signed(_)) => self.refused(
                payload,
                "the payload of a transaction with v 37 or 38 must hold its data",
            ),
        }
    }

    /// The signed inner transaction, if it goes with the outer one.
    fn inner(&self, bytes: &[u8]) -> Result<(Transaction, PrivateReference), &'static str> {
        let transaction =
            decode_transaction(bytes).map_err(|_| "the inner transaction does not decode")?;
        if !is_quorum_private(&transaction) {
            return Err("the inner transaction must have v 37 or 38");
        }
        let Some(reference) = private_reference(&transaction) else {
            return Err("the inner transaction must have value 0 and a payload hash as its data");
        };
        let inner = RecoveredTransaction::recover(transaction)
            .map_err(|_| "the signature of the inner transaction is invalid")?;
        if inner.sender() != self.sender {
            return Err("the inner transaction has another signer");
        }
        if inner.nonce() != self.nonce {
            return Err("the inner transaction has another nonce");
        }
        Ok((inner.transaction().clone(), reference))
    }

    /// The second payload, that of the inner transaction.
    async fn second(
        &self,
        outer: PrivatePayload,
        inner: &Transaction,
        reference: &PrivateReference,
        payloads: &dyn Payloads,
    ) -> Resolved {
        let hash = PayloadHash::from_bytes(reference.hash);
        let answer = payloads.lookup(vec![reference.clone()]).await.pop();
        let resolved = match answer.unwrap_or_else(unanswered) {
            Lookup::Erased => return Resolved::Erased,
            Lookup::Unknown { reason } => return Resolved::Unknown { hash, reason },
            Lookup::NotAParty => {
                self.refused(outer, "the payload of the inner transaction is for others")
            }
            Lookup::Party(payload) if payload.terms.hash != hash => return other_terms(hash),
            Lookup::Party(payload) => {
                let payload = *payload;
                match self.check_from(&outer.terms) {
                    Err(reason) => self.refused(payload, reason),
                    Ok(()) => match &payload.content {
                        Content::Data(data) => {
                            let data = data.clone();
                            self.ready(payload, inner.to(), data, inner.gas_limit())
                        }
                        Content::Call { .. } | Content::Signed(_) | Content::Extension(_) => self
                            .refused(
                                payload,
                                "the payload of the inner transaction must hold its data",
                            ),
                    },
                }
            }
        };
        match resolved {
            Resolved::Ready(mut work) => {
                work.inner = Some((*inner.hash(), Some(hash)));
                work.gas_price = inner.max_fee_per_gas();
                if let Ok(Action::Call(call)) = &mut work.action {
                    call.gas_price = work.gas_price;
                }
                Resolved::Ready(work)
            }
            other => other,
        }
    }

    /// Only the account that the payload was distributed for may have it executed.
    fn check_from(&self, terms: &Terms) -> Result<(), &'static str> {
        match terms.from {
            Some(from) if from != self.sender => {
                Err("the payload was distributed for the transaction of another account")
            }
            Some(_) | None => Ok(()),
        }
    }

    fn ready(
        &self,
        payload: PrivatePayload,
        to: Option<Address>,
        data: Bytes,
        gas_limit: u64,
    ) -> Resolved {
        if let Err(reason) = self.check_from(&payload.terms) {
            return self.refused(payload, reason);
        }
        let call = PrivateCall {
            sender: self.sender,
            nonce: self.nonce,
            to,
            data: data.clone(),
            gas_limit,
            gas_price: self.gas_price,
            ..PrivateCall::default()
        };
        self.work(payload, Ok(Action::Call(call)), to, data, gas_limit)
    }

    fn step(&self, payload: PrivatePayload, step: ExtensionStep) -> Resolved {
        if let Err(reason) = self.check_from(&payload.terms) {
            return self.refused(payload, reason);
        }
        let to = match &step {
            ExtensionStep::Offer { .. } => None,
            ExtensionStep::Vote { offer, .. } | ExtensionStep::Cancel { offer } => Some(*offer),
        };
        let data = payload.content.clone().into_input();
        self.work(payload, Ok(Action::Extend(step)), to, data, self.gas_limit)
    }

    fn refused(&self, payload: PrivatePayload, reason: &str) -> Resolved {
        let (to, data) = match &payload.content {
            Content::Call { to, data, .. } => (*to, data.clone()),
            Content::Data(data) | Content::Signed(data) => (self.to, data.clone()),
            Content::Extension(_) => (self.to, payload.content.clone().into_input()),
        };
        self.work(payload, Err(reason.to_owned()), to, data, self.gas_limit)
    }

    fn work(
        &self,
        payload: PrivatePayload,
        action: Result<Action, String>,
        to: Option<Address>,
        data: Bytes,
        gas_limit: u64,
    ) -> Resolved {
        let PrivatePayload {
            content,
            terms,
            as_recipient,
            sender,
            we_sent,
        } = payload;
        // Of an inner transaction that does not fit, its hash is all there is to say.
        let inner = match &content {
            Content::Signed(bytes) => decode_transaction(bytes).ok().map(|tx| (*tx.hash(), None)),
            Content::Data(_) | Content::Call { .. } | Content::Extension(_) => None,
        };
        Resolved::Ready(Box::new(Work {
            action,
            to,
            data,
            gas_limit,
            gas_price: self.gas_price,
            terms,
            as_recipient,
            sender_key: sender,
            we_sent,
            inner,
        }))
    }
}

/// Asks what is known of these, `at_once` of them at a time.
pub(crate) async fn resolve(
    payloads: &dyn Payloads,
    references: Vec<Reference>,
    at_once: usize,
) -> Vec<(Reference, Resolved)> {
    let mut found = Vec::with_capacity(references.len());
    let mut references = references.into_iter().peekable();
    while references.peek().is_some() {
        let asked: Vec<_> = references.by_ref().take(at_once.max(1)).collect();
        let named = asked.iter().map(|asked| asked.reference.clone()).collect();
        let mut answers = payloads.lookup(named).await.into_iter();
        for reference in asked {
            let resolved = reference.resolve(answers.next(), payloads).await;
            found.push((reference, resolved));
        }
    }
    found
}

fn unanswered() -> Lookup {
    Lookup::Unknown {
        reason: "there was no answer about it".to_owned(),
    }
}

/// Beside a payload lie terms of another one: nothing may be decided by them.
fn other_terms(hash: PayloadHash) -> Resolved {
    Resolved::Unknown {
        hash,
        reason: "the terms beside the payload are those of another one".to_owned(),
    }
}
