//! What a private transaction did.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, Bloom, Bytes, Log, logs_bloom};
use quorate_state::{ReadError, StateDiff, StateRead};
use revm::Database as _;
use revm::state::EvmState;

use super::simulation::Run;
use crate::block_state::{BlockState, ReadFailed};
use crate::{CallStatus, REVERT_DATA_BYTES_MAX};

/// Everything that came of a private transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateOutcome {
    /// What parties are told.
    pub receipt: PrivateReceipt,
    /// What changed in private state; nothing if it failed.
    pub diff: StateDiff,
    /// Which contracts took part: what privacy flags are judged by.
    pub touched: Touched,
}

impl PrivateOutcome {
    /// The contracts that the transaction affected: the private ones that it created or called.
    pub fn affected(&self) -> BTreeSet<Address> {
        let called = self.touched.called.keys();
        self.touched.created.iter().chain(called).copied().collect()
    }
}

/// The receipt that only parties have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateReceipt {
    /// How it ended.
    pub status: CallStatus,
    /// Gas used, refunds taken off. Reported, and charged to nobody.
    pub gas_used: u64,
    /// What private contracts logged; empty if not successful.
    pub logs: Vec<Log>,
    /// Bloom filter of the logs.
    pub bloom: Bloom,
    /// The contract that was created.
    pub contract_address: Option<Address>,
    /// What a call returned or what the transaction reverted with, cut off at [`REVERT_DATA_BYTES_MAX`]. Empty for a creation that
    /// succeeded: its code is in the state.
    pub output: Bytes,
}

impl PrivateReceipt {
    /// True if it returned.
    pub fn is_success(&self) -> bool {
        self.status == CallStatus::Success
    }

    /// What it reverted with, cut off as [`output`](Self::output); empty if it did not revert.
    pub fn revert_data(&self) -> Bytes {
        if self.status == CallStatus::Reverted {
            self.output.clone()
        } else {
            Bytes::new()
        }
    }
}

/// Contracts that took part. Frames that were rolled back count for what was called and read: whoever was called may have decided
/// the result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// Private contracts that exist since this transaction.
    pub created: BTreeSet<Address>,
    /// Private contracts from before that were called or whose code was run.
    pub called: BTreeMap<Address, PrivateAccess>,
    /// Public contracts that were called, or whose balance or code was looked at.
    pub public_read: BTreeSet<Address>,
}

/// What happened to a private contract that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrivateAccess {
    /// Its nonce, code and storage are as before.
    Read,
    /// It changed, or is gone.
    Written,
}

/// Puts together what a run did. `private` is private state before it.
pub(super) fn assemble(
    sender: Address,
    run: Run,
    mut private: BlockState<'_, dyn StateRead + '_>,
) -> Result<PrivateOutcome, ReadError> {
    let public_read = public_contracts(sender, &run, &mut private)?;
    let mut called = BTreeSet::new();
    for address in &run.called {
        if private.account(address)?.is_some() {
            called.insert(*address);
        }
    }
    let diff = private_diff(run.accesses, &run.created, private)?;
    let access = |address| {
        if diff.accounts.contains_key(&address) {
            (address, PrivateAccess::Written)
        } else {
            (address, PrivateAccess::Read)
        }
    };
    let touched = Touched {
        // One that destroyed itself at once does not exist.
        created: run
            .created
            .into_iter()
            .filter(|address| {
                diff.accounts
                    .get(address)
                    .is_some_and(|change| change.account.is_some())
            })
            .collect(),
        called: called.into_iter().map(access).collect(),
        public_read,
    };
    let ended = run.outcome;
    let output = if ended.status == CallStatus::Success && ended.contract_address.is_some() {
        Bytes::new()
    } else {
        // Copied, so that a receipt does not hold on to more than it shows.
        let kept = ended.output.get(..REVERT_DATA_BYTES_MAX);
        Bytes::copy_from_slice(kept.unwrap_or(&ended.output))
    };
    Ok(PrivateOutcome {
        receipt: PrivateReceipt {
            status: ended.status,
            gas_used: ended.gas_used,
            bloom: logs_bloom(&ended.logs),
            logs: ended.logs,
            contract_address: ended.contract_address,
            output,
        },
        diff,
        touched,
    })
}

/// Loaded accounts with code that are not private. The sender is loaded always and counts only if it was called.
fn public_contracts(
    sender: Address,
    run: &Run,
    private: &mut BlockState<'_, dyn StateRead + '_>,
) -> Result<BTreeSet<Address>, ReadError> {
    let candidates: BTreeSet<Address> = run
        .accesses
        .iter()
        .filter(|(address, account)| {
            !account.info.is_empty_code_hash()
                && !account.info.code_hash.is_zero()
                && !run.created.contains(*address)
                && (**address != sender || run.called.contains(*address))
        })
        .map(|(address, _)| *address)
        .collect();
    let mut public = BTreeSet::new();
    for address in candidates {
        if private.account(&address)?.is_none() {
            public.insert(address);
        }
    }
    Ok(public)
}

/// The changes of accounts that were private before or are so now. Others were at most touched.
fn private_diff(
    accesses: EvmState,
    created: &BTreeSet<Address>,
    mut private: BlockState<'_, dyn StateRead + '_>,
) -> Result<StateDiff, ReadError> {
    let mut kept = EvmState::default();
    // Accounts do not depend on each other: the order of the map does not matter.
    accesses
        .into_iter()
        .filter(|(_, account)| account.is_touched())
        .try_for_each(|(address, account)| -> Result<(), ReadError> {
            if !created.contains(&address) && private.account(&address)?.is_none() {
                return Ok(());
            }
            // The values were read through the view of both states; the difference needs them as this state has them.
            let mut changed = account.storage.iter().filter(|(_, slot)| slot.is_changed());
            changed.try_for_each(|(key, _)| match private.storage(address, *key) {
                Ok(_) => Ok(()),
                Err(ReadFailed(error)) => Err(error),
            })?;
            kept.insert(address, account);
            Ok(())
        })?;
    private.commit(kept)?;
    Ok(private.into_diff())
}
