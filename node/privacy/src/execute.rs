//! One block's private transactions: the public side is executed again, up to the last of them, because private code reads public
//! state as it was at that very point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bloom};
use alloy_trie::EMPTY_ROOT_HASH;
use quorate_chain::{ImportedBlock, RecoveredTransaction, SharedBlock};
use quorate_enclave::PrivacyFlag;
use quorate_evm::{
    BlockContext, BlockExecutor, BlockHashes, CallStatus, PrivateCall, PrivateOutcome,
    PrivateRefusal, RootedState as _, affected_root, execute_private,
};
use quorate_state::{ApplyError, HistoryError, Snapshot, StateDiff, StateRead};

use crate::chain::context_of;
use crate::flags::judge;
use crate::index::{Extended, Handover};
use crate::ledger::{AfterBlock, BlockCommit};
use crate::resolve::{Action, Reference, Resolved, Work};
use crate::{
    ContractMetadata, Executed, Extension, HandoverWanted, PrivateFatal, PrivateLedger,
    PrivateReadError, PrivateRecord, PublicChain, RecordOutcome, outcome_digest,
};

/// What came of a block.
pub(crate) struct BlockOutcome {
    pub(crate) commit: BlockCommit,
    pub(crate) reports: Vec<Executed>,
}

/// Why a block was not executed.
#[derive(Debug)]
pub(crate) enum NotExecuted {
    /// The public state before it is not kept any more; `first` is the lowest height that is.
    NoHistory {
        first: u64,
    },
    /// A contract was extended to us, and its state is not here. What others may ask of us about the transactions before that
    /// goes with it: they may be waiting in their turn.
    NeedsState {
        wanted: Box<HandoverWanted>,
        handovers: Vec<Handover>,
    },
    Fatal(PrivateFatal),
}

impl<E: Into<PrivateFatal>> From<E> for NotExecuted {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// Executes what was resolved of a block, on top of private state at the cursor. Nothing is kept yet.
pub(crate) fn execute(
    chain: &dyn PublicChain,
    ledger: &PrivateLedger,
    block: &SharedBlock,
    found: Vec<(Reference, Resolved)>,
) -> Result<BlockOutcome, NotExecuted> {
    let mut work = BTreeMap::new();
    let mut erased = Vec::new();
    for (reference, resolved) in found {
        match resolved {
            Resolved::NotAParty => {}
            Resolved::Erased => erased.push(reference),
            Resolved::Ready(ready) => {
                work.insert(reference.position, (reference, *ready));
            }
            Resolved::Unknown { hash, .. } => {
                let text = format!("payload {hash} is not known, and its block is to be executed");
                return Err(PrivateFatal::Impossible(text).into());
            }
        }
    }
    let mut run = Run {
        ledger,
        height: block.height(),
        state: ledger.head_state(),
        changes: 0,
        merged: StateDiff::default(),
        fresh: BTreeMap::new(),
        extensions: BTreeMap::new(),
        handovers: Vec::new(),
        records: erased.iter().map(|r| erased_record(block, r)).collect(),
        reports: Vec::new(),
    };
    if let Some((last, _)) = work.last_key_value() {
        let last = *last;
        run.public_side(chain, block, last, work)?;
    }
    run.finish()
}

/// A block while it is executed.
pub(crate) struct Run<'a> {
    pub(crate) ledger: &'a PrivateLedger,
    pub(crate) height: u64,
    /// Private state after the transactions so far.
    pub(crate) state: Snapshot,
    /// How many of them changed it.
    pub(crate) changes: usize,
    /// All their changes.
    pub(crate) merged: StateDiff,
    /// Contracts that this block has created, or given a new party.
    pub(crate) fresh: BTreeMap<Address, ContractMetadata>,
    /// Extensions that this block has begun or ended.
    pub(crate) extensions: BTreeMap<Address, Extension>,
    /// What newcomers may ask of us.
    pub(crate) handovers: Vec<Handover>,
    records: Vec<PrivateRecord>,
    reports: Vec<Executed>,
}

/// How one transaction ended, before it is written down.
pub(crate) struct Verdict {
    pub(crate) outcome: RecordOutcome,
    pub(crate) gas_used: u64,
    pub(crate) logs: Vec<alloy_primitives::Log>,
    pub(crate) bloom: Bloom,
    pub(crate) contract_address: Option<Address>,
    pub(crate) affected: BTreeSet<Address>,
}

impl Verdict {
    pub(crate) fn refused(reason: String) -> Self {
        Self {
            outcome: RecordOutcome::Refused { reason },
            gas_used: 0,
            logs: Vec::new(),
            bloom: Bloom::ZERO,
            contract_address: None,
            affected: BTreeSet::new(),
        }
    }
}

/// What execution of one transaction needs of its block.
struct Surroundings<'a> {
    chain: &'a dyn PublicChain,
    context: BlockContext,
    hashes: &'a Arc<dyn BlockHashes>,
    public: &'a dyn StateRead,
}

impl Run<'_> {
    fn public_side(
        &mut self,
        chain: &dyn PublicChain,
        block: &ImportedBlock,
        last: u32,
        mut work: BTreeMap<u32, (Reference, Work)>,
    ) -> Result<(), NotExecuted> {
        let height = self.height;
        let parent = match chain.state_at(height.saturating_sub(1)) {
            Ok(parent) => parent,
            Err(HistoryError::Pruned { first, .. }) => {
                return Err(NotExecuted::NoHistory { first });
            }
            Err(HistoryError::Read(error)) => return Err(error.into()),
            Err(error @ HistoryError::Future { .. }) => {
                return Err(PrivateFatal::Impossible(error.to_string()).into());
            }
        };
        let context = context_of(block.block.header());
        let hashes = chain.hashes();
        let public = |error| PrivateFatal::public(height, error);
        let mut executor =
            BlockExecutor::new(chain.spec(), context, &parent, &hashes).map_err(public)?;
        let transactions = block.block.transactions().iter().zip(&block.senders);
        for ((transaction, sender), position) in transactions.zip(0..=last) {
            let transaction = RecoveredTransaction::with_sender(transaction.clone(), *sender);
            let receipt = executor.execute(&transaction).map_err(public)?;
            let imported = usize::try_from(position).ok();
            let imported = imported.and_then(|position| block.receipts.get(position));
            if imported != Some(receipt) {
                return Err(PrivateFatal::PublicDiffers {
                    height,
                    reason: format!("the receipt of {} is another one", transaction.hash()),
                }
                .into());
            }
            if let Some((reference, work)) = work.remove(&position) {
                let surroundings = Surroundings {
                    chain,
                    context,
                    hashes: &hashes,
                    public: &executor.state(),
                };
                self.private_side(&surroundings, &reference, work)?;
            }
        }
        Ok(())
    }

    fn private_side(
        &mut self,
        surroundings: &Surroundings<'_>,
        reference: &Reference,
        work: Work,
    ) -> Result<(), NotExecuted> {
        let mut success = false;
        let verdict = match &work.action {
            Err(reason) => Verdict::refused(reason.clone()),
            Ok(Action::Call(call)) => self.run(surroundings, reference, &work, call)?,
            Ok(Action::Extend(step)) => {
                // A newcomer cannot judge an offer, so parties compare only what became of the contract.
                success = true;
                self.extend(reference, &work, step)?
            }
        };
        success |= verdict.outcome == RecordOutcome::Success;
        let digest = outcome_digest(&self.state, &verdict.affected, success)?;
        let affected: Vec<Address> = verdict.affected.into_iter().collect();
        let terms = &work.terms;
        self.reports.push(Executed {
            transaction: reference.transaction,
            height: self.height,
            position: reference.position,
            hash: terms.hash,
            sender_node: terms.sender_node,
            sender: work.sender_key,
            as_recipient: work.as_recipient,
            we_sent: work.we_sent,
            success: verdict.outcome == RecordOutcome::Success,
            affected: affected.clone(),
            digest,
        });
        self.records.push(PrivateRecord {
            transaction: reference.transaction,
            height: self.height,
            position: reference.position,
            form: reference.reference.form,
            hash: reference.hash(),
            inner_hash: work.inner.and_then(|(_, hash)| hash),
            inner_transaction: work.inner.map(|(transaction, _)| transaction),
            sender: reference.sender,
            nonce: reference.nonce,
            to: work.to,
            data: work.data,
            gas_limit: work.gas_limit,
            gas_price: work.gas_price,
            outcome: verdict.outcome,
            gas_used: verdict.gas_used,
            logs: verdict.logs,
            bloom: verdict.bloom,
            contract_address: verdict.contract_address,
            flag: terms.flag,
            group: terms.group,
            as_recipient: Some(work.as_recipient),
            sender_key: Some(work.sender_key),
            sender_node: Some(terms.sender_node),
            we_sent: work.we_sent,
            affected,
            digest,
        });
        Ok(())
    }

    /// Executes and judges, and takes over the changes if nothing speaks against it.
    fn run(
        &mut self,
        surroundings: &Surroundings<'_>,
        reference: &Reference,
        work: &Work,
        call: &PrivateCall,
    ) -> Result<Verdict, PrivateFatal> {
        let executed = execute_private(
            surroundings.chain.spec(),
            surroundings.context,
            surroundings.public,
            &self.state,
            surroundings.hashes,
            call,
        );
        let outcome = match executed {
            Ok(outcome) => outcome,
            Err(refusal) if refusal.is_final() => return Ok(Verdict::refused(refusal.to_string())),
            Err(PrivateRefusal::State(error)) => return Err(error.into()),
            Err(other) => {
                return Err(PrivateFatal::Execution {
                    transaction: reference.transaction,
                    reason: other.to_string(),
                });
            }
        };
        let affected = outcome.affected();
        let called = self.called(&outcome)?;
        let after = if outcome.diff.is_empty() {
            None
        } else {
            Some(self.state.apply(&outcome.diff)?)
        };
        let root = match work.terms.flag {
            PrivacyFlag::StateValidation => {
                let after = after.as_ref().unwrap_or(&self.state);
                Some(affected_root(after, &affected)?)
            }
            PrivacyFlag::Standard
            | PrivacyFlag::PartyProtection
            | PrivacyFlag::MandatoryParties => None,
        };
        if let Err(violation) = judge(&work.terms, &called, root) {
            return Ok(Verdict {
                gas_used: outcome.receipt.gas_used,
                affected,
                ..Verdict::refused(violation.to_string())
            });
        }
        for address in &outcome.touched.created {
            self.fresh
                .insert(*address, self.created(*address, reference, work));
        }
        if let Some(after) = after {
            self.state = after;
            self.changes += 1;
            merge(&mut self.merged, outcome.diff);
        }
        let receipt = outcome.receipt;
        Ok(Verdict {
            outcome: match receipt.status {
                CallStatus::Success => RecordOutcome::Success,
                CallStatus::Reverted => RecordOutcome::Reverted {
                    data: receipt.output,
                },
                CallStatus::Halted { reason } => RecordOutcome::Halted { reason },
            },
            gas_used: receipt.gas_used,
            logs: receipt.logs,
            bloom: receipt.bloom,
            contract_address: receipt.contract_address,
            affected,
        })
    }

    fn called(
        &self,
        outcome: &PrivateOutcome,
    ) -> Result<BTreeMap<Address, Option<ContractMetadata>>, PrivateFatal> {
        let mut called = BTreeMap::new();
        for address in outcome.touched.called.keys() {
            called.insert(*address, self.metadata_of(address)?);
        }
        Ok(called)
    }

    /// What is known of a private contract after the transactions so far.
    pub(crate) fn metadata_of(
        &self,
        address: &Address,
    ) -> Result<Option<ContractMetadata>, PrivateFatal> {
        if let Some(fresh) = self.fresh.get(address) {
            return Ok(Some(fresh.clone()));
        }
        match self.ledger.contract(address) {
            Ok(known) => Ok(known),
            Err(PrivateReadError::Read(error)) => Err(error.into()),
            Err(other) => Err(PrivateFatal::Impossible(other.to_string())),
        }
    }

    fn created(&self, address: Address, reference: &Reference, work: &Work) -> ContractMetadata {
        let terms = &work.terms;
        let validated = terms.flag == PrivacyFlag::StateValidation;
        ContractMetadata {
            address,
            creation_transaction: reference.transaction,
            creation_hash: terms.hash,
            flag: terms.flag,
            parties: validated.then(|| terms.parties.clone()),
            mandatory: terms.mandatory.clone(),
            creator: terms.sender,
            as_recipient: work.as_recipient,
            created_at: self.height,
        }
    }

    fn finish(mut self) -> Result<BlockOutcome, NotExecuted> {
        self.records.sort_by_key(|record| record.position);
        let after = match self.changes {
            0 => None,
            // One application from the head, as the store wants it.
            1 => Some(self.state),
            _ => Some(self.ledger.head_state().apply(&self.merged)?),
        };
        let after = match after {
            None => None,
            Some(state) => Some(AfterBlock {
                storage_roots: storage_roots(&state, &self.merged)?,
                state,
            }),
        };
        Ok(BlockOutcome {
            commit: BlockCommit {
                height: self.height,
                records: self.records,
                contracts: self.fresh.into_values().collect(),
                extended: Extended {
                    extensions: self.extensions.into_values().collect(),
                    handovers: self.handovers,
                },
                after,
            },
            reports: self.reports,
        })
    }
}

fn storage_roots(state: &Snapshot, diff: &StateDiff) -> Result<Vec<(Address, B256)>, ApplyError> {
    let roots = diff.accounts.iter().map(|(address, change)| {
        let root = match change.account {
            Some(_) => state.storage_root(address)?,
            None => EMPTY_ROOT_HASH,
        };
        Ok((*address, root))
    });
    roots.collect()
}

/// Adds the changes of a later transaction.
pub(crate) fn merge(merged: &mut StateDiff, later: StateDiff) {
    merged.codes.extend(later.codes);
    for (address, change) in later.accounts {
        let entry = merged.accounts.entry(address).or_default();
        entry.account = change.account;
        if change.storage_wiped || change.account.is_none() {
            entry.storage_wiped = true;
            entry.storage = change.storage;
        } else {
            entry.storage.extend(change.storage);
        }
    }
}

fn erased_record(block: &ImportedBlock, reference: &Reference) -> PrivateRecord {
    PrivateRecord {
        transaction: reference.transaction,
        height: block.height(),
        position: reference.position,
        form: reference.reference.form,
        hash: reference.hash(),
        inner_hash: None,
        inner_transaction: None,
        sender: reference.sender,
        nonce: reference.nonce,
        to: None,
        data: alloy_primitives::Bytes::new(),
        gas_limit: reference.gas_limit,
        gas_price: reference.gas_price,
        outcome: RecordOutcome::Erased,
        gas_used: 0,
        logs: Vec::new(),
        bloom: Bloom::ZERO,
        contract_address: None,
        flag: PrivacyFlag::Standard,
        group: None,
        as_recipient: None,
        sender_key: None,
        sender_node: None,
        we_sent: false,
        affected: Vec::new(),
        digest: B256::ZERO,
    }
}
