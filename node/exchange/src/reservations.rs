//! Contracts with flag 3 that a payload is on its way to change: until it is executed, or its time is over, no other may. And the turns
//! of this node's own senders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use parking_lot::Mutex;
use quorate_enclave::{NodeKey, PayloadHash};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

/// Most contracts that are reserved at once; further ones are in conflict. More would be many times what fits into 30 seconds.
const RESERVED_MAX: usize = 100_000;

/// Who may change which contract next.
#[derive(Debug)]
pub(crate) struct Reservations {
    lasts: Duration,
    reserved: Mutex<BTreeMap<Address, Reserved>>,
    lanes: Mutex<BTreeMap<Address, Arc<tokio::sync::Mutex<()>>>>,
    released: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Reserved {
    by: PayloadHash,
    /// The node that sends that payload, and may give it up.
    sender: NodeKey,
    until: Instant,
}

/// The right to be the next of this node to change some contracts with flag 3. Given back when dropped.
#[derive(Debug)]
pub struct Turn {
    contracts: BTreeSet<Address>,
    _lanes: Vec<OwnedMutexGuard<()>>,
}

impl Turn {
    /// The contracts.
    pub fn contracts(&self) -> &BTreeSet<Address> {
        &self.contracts
    }
}

impl Reservations {
    pub(crate) fn new(lasts: Duration) -> Self {
        Self {
            lasts,
            reserved: Mutex::default(),
            lanes: Mutex::default(),
            released: Notify::new(),
        }
    }

    /// Reserves all of these contracts for a payload, or none. Again for the same payload: begins anew.
    ///
    /// # Errors
    /// The first contract that another payload has.
    pub(crate) fn reserve<'a>(
        &self,
        contracts: impl Iterator<Item = &'a Address> + Clone,
        by: &PayloadHash,
        sender: &NodeKey,
    ) -> Result<(), Address> {
        let now = Instant::now();
        let mut reserved = self.reserved.lock();
        reserved.retain(|_, r| r.until > now);
        for contract in contracts.clone() {
            let taken = reserved.get(contract).is_some_and(|r| r.by != *by);
            if taken || reserved.len() >= RESERVED_MAX {
                return Err(*contract);
            }
        }
        for contract in contracts {
            let until = now + self.lasts;
            let taken = Reserved {
                by: *by,
                sender: *sender,
                until,
            };
            reserved.insert(*contract, taken);
        }
        Ok(())
    }

    /// Gives back what a payload has.
    pub(crate) fn release(&self, by: &PayloadHash) {
        self.release_if(|r| r.by == *by);
    }

    /// Gives back what a payload of this node has; of another's, nothing.
    pub(crate) fn withdraw(&self, by: &PayloadHash, sender: &NodeKey) {
        self.release_if(|r| r.by == *by && r.sender == *sender);
    }

    fn release_if(&self, ends: impl Fn(&Reserved) -> bool) {
        let mut reserved = self.reserved.lock();
        let before = reserved.len();
        reserved.retain(|_, r| !ends(r));
        let changed = reserved.len() != before;
        drop(reserved);
        if changed {
            self.released.notify_waiters();
        }
    }

    /// Waits until this node's other senders have had their turns on these contracts and nothing is on its way to change them.
    ///
    /// # Errors
    /// The contract that was not free by the deadline.
    pub(crate) async fn turn(
        &self,
        contracts: BTreeSet<Address>,
        deadline: Instant,
    ) -> Result<Turn, Address> {
        let mut lanes = Vec::with_capacity(contracts.len());
        // Rising, as everyone takes them: two senders never wait for each other.
        for contract in &contracts {
            let lane = self.lane(contract);
            let guard = tokio::time::timeout_at(deadline, lane.lock_owned()).await;
            lanes.push(guard.map_err(|_| *contract)?);
        }
        let turn = Turn {
            contracts,
            _lanes: lanes,
        };
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on a release is noticed, also one between the next two lines.
            released.as_mut().enable();
            let Some((contract, until)) = self.first_reserved(&turn.contracts) else {
                return Ok(turn);
            };
            if Instant::now() >= deadline {
                return Err(contract);
            }
            // Either way there is a reason to look again.
            if tokio::time::timeout_at(until.min(deadline), released)
                .await
                .is_err()
            {
                continue;
            }
        }
    }

    fn first_reserved(&self, contracts: &BTreeSet<Address>) -> Option<(Address, Instant)> {
        let now = Instant::now();
        let reserved = self.reserved.lock();
        contracts.iter().find_map(|contract| {
            let found = reserved.get(contract).filter(|r| r.until > now)?;
            Some((*contract, found.until))
        })
    }

    fn lane(&self, contract: &Address) -> Arc<tokio::sync::Mutex<()>> {
        let mut lanes = self.lanes.lock();
        // Only those that someone holds or waits for: as many as there are senders.
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        Arc::clone(lanes.entry(*contract).or_default())
    }
}

#[cfg(test)]
mod tests;
