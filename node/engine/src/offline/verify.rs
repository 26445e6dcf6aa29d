//! Verifying everything that a node's folder holds.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use quorate_chain::{BlockStore, Genesis, SharedBlock, StoreError};
use quorate_state::{HistoryError, StateStore};
use rayon::prelude::*;

use super::error::{Fault, FaultKind, OfflineError};
use super::judge::{Judge, Parent, flush_if_due};
use super::{OnProgress, Progress};

/// Blocks that are read and checked together.
const STRETCH: u64 = 256;
/// Faults that are kept with their reasons; beyond them they are counted.
const FAULTS_KEPT: usize = 100;

/// What to verify, and against what.
#[derive(Debug)]
pub struct VerifyTask<'a> {
    /// The chain's genesis.
    pub genesis: &'a Genesis,
    /// The blocks.
    pub blocks: &'a BlockStore,
    /// The node's own state, to be compared with the blocks.
    pub state: Option<&'a StateStore>,
    /// A fresh state of this genesis, to execute all blocks on. Used only if the store has all blocks.
    pub scratch: Option<&'a StateStore>,
    /// Addresses of all who were ever members; with `None` a seal must only be that of the coinbase.
    pub sealers: Option<BTreeSet<Address>>,
}

/// One kind of check, and how far it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub what: &'static str,
    /// First height.
    pub from: u64,
    /// Last height; below `from` if it could not be done at all.
    pub to: u64,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Lowest height in the store, besides genesis.
    pub base: u64,
    /// Highest one.
    pub head: u64,
    /// Blocks that were read.
    pub blocks: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// What was checked, and how far.
    pub checks: Vec<Check>,
    /// The first faults, by height.
    pub faults: Vec<Fault>,
    /// How many there are in all.
    pub faults_total: u64,
}

impl VerifyReport {
    /// True if nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.faults_total == 0
    }

    fn add(&mut self, fault: Fault) {
        self.faults_total += 1;
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault);
        }
    }
}

/// Reads every block and checks it: record, parent, seal, transactions with senders, receipts; by executing all of them from
/// genesis if the store has them all and there is a scratch state: gas, receipts, state root; and the node's own state against
/// the headers at its heights. Damage does not end it: it goes on with the next block.
///
/// # Errors
/// [`OfflineError`] if something cannot be read for another reason than damage.
pub fn verify(
    task: &VerifyTask<'_>,
    progress: OnProgress<'_>,
) -> Result<VerifyReport, OfflineError> {
    let (base, head) = (task.blocks.base(), task.blocks.head().height());
    let judge = Judge::new(task.genesis, task.sealers.as_ref());
    let mut report = VerifyReport {
        base,
        head,
        blocks: 0,
        transactions: 0,
        checks: Vec::new(),
        faults: Vec::new(),
        faults_total: 0,
    };
    let mut parent = parent_of(task.blocks, base)?;
    // From a base above 1 there is no state to begin with.
    let mut scratch = task
        .scratch
        .filter(|state| base == 1 && state.latest().height() == 0);
    let mut executed_to = 0;
    let mut first = base;
    while first <= head {
        let last = head.min(first.saturating_add(STRETCH - 1));
        let read: Vec<(u64, Result<SharedBlock, Fault>)> = (first..=last)
            .map(|height| Ok((height, read(task.blocks, height)?)))
            .collect::<Result<_, OfflineError>>()?;
        let alone: Vec<Option<Fault>> = read
            .par_iter()
            .map(|(_, block)| block.as_ref().ok().and_then(|block| judge.alone(block)))
            .collect();
        for ((height, block), alone) in read.into_iter().zip(alone) {
            let block = match block {
                Ok(block) => block,
                Err(fault) => {
                    report.add(fault);
                    // Neither can the next one be compared with this one, nor can it be executed.
                    (parent, scratch) = (None, None);
                    continue;
                }
            };
            report.blocks += 1;
            report.transactions += block.block.transactions().len() as u64;
            let follows = parent.and_then(|parent| judge.follows(&block, parent));
            let is_sound = alone.is_none() && follows.is_none();
            alone.into_iter().chain(follows).for_each(|f| report.add(f));
            parent = Some(Parent::of(block.block.header(), block.hash()));
            if let Some(state) = scratch {
                let result = match is_sound {
                    true => judge.execute(&block, task.blocks, state)?,
                    // What is not even a block of this chain is not executed.
                    false => None,
                };
                if result.is_none() && is_sound {
                    executed_to = height;
                    flush_if_due(None, state)?;
                } else {
                    scratch = None;
                }
                result.into_iter().for_each(|fault| report.add(fault));
            }
        }
        progress(Progress {
            done: last - base + 1,
            total: head - base + 1,
            height: last,
        });
        first = last + 1;
    }
    let check = |what, from, to| Check { what, from, to };
    report.checks.push(check("records", base, head));
    report.checks.push(check("parents", base, head));
    report.checks.push(check("seals", base, head));
    report
        .checks
        .push(check("transactions and senders", base, head));
    report.checks.push(check("receipts", base, head));
    report.checks.push(check("execution", 1, executed_to));
    if let Some(state) = task.state {
        let (from, to) = check_state(task.blocks, state, &mut report)?;
        report.checks.push(check("own state roots", from, to));
    }
    Ok(report)
}

fn parent_of(blocks: &BlockStore, base: u64) -> Result<Option<Parent>, OfflineError> {
    let below = base.saturating_sub(1);
    let Some(header) = blocks.header_at(below)? else {
        return Ok(None);
    };
    let hash = header.hash_slow();
    Ok(Some(Parent::of(&header, hash)))
}

fn read(blocks: &BlockStore, height: u64) -> Result<Result<SharedBlock, Fault>, OfflineError> {
    let fault = |reason| Fault {
        height,
        kind: FaultKind::Record,
        reason,
    };
    match blocks.block(height) {
        Ok(Some(block)) if block.height() == height => Ok(Ok(block)),
        Ok(Some(block)) => Ok(Err(fault(format!(
            "block {} lies in its place",
            block.height()
        )))),
        Ok(None) => Ok(Err(fault("it is missing".to_owned()))),
        Err(e @ StoreError::Damaged { .. }) => Ok(Err(fault(e.to_string()))),
        Err(e) => Err(e.into()),
    }
}

/// Compares every state root that the node has kept with the header at its height.
fn check_state(
    blocks: &BlockStore,
    state: &StateStore,
    report: &mut VerifyReport,
) -> Result<(u64, u64), OfflineError> {
    let (base, head) = (report.base, report.head);
    let mut fault = |height, reason| {
        report.add(Fault {
            height,
            kind: FaultKind::State,
            reason,
        });
    };
    let durable = state.durable_height();
    if durable > head {
        let reason = format!("the state is at {durable}, the blocks end before");
        fault(durable, reason);
    }
    let from = state.history_start().max(base.saturating_sub(1));
    let to = durable.min(head);
    for height in from..=to {
        let root = match state.at(height) {
            Ok(snapshot) => snapshot.state_root(),
            Err(HistoryError::Read(e)) => {
                fault(height, e.to_string());
                continue;
            }
            Err(HistoryError::Pruned { .. } | HistoryError::Future { .. }) => continue,
        };
        // A record that cannot be read was reported above.
        let header = match blocks.header_at(height) {
            Ok(header) => header,
            Err(StoreError::Damaged { .. }) => continue,
            Err(e) => return Err(e.into()),
        };
        if let Some(expected) = header
            .map(|header| header.state_root)
            .filter(|r| *r != root)
        {
            let reason = format!("state root {root}, the header says {expected}");
            fault(height, reason);
        }
    }
    Ok((from, to))
}
