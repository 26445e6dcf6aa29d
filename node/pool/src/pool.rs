//! The pool itself: a plain struct, told the time and the accounts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use quorate_chain::RecoveredTransaction;
use quorate_state::Account;

use crate::fate::Fates;
use crate::sender::SenderQueue;
use crate::{AdmitError, DropReason, Fate, PoolConfig};

/// A transaction in the pool.
#[derive(Debug, Clone)]
pub struct PooledTransaction {
    /// The transaction with its sender.
    pub transaction: RecoveredTransaction,
    /// When it came, in milliseconds of the caller's clock.
    pub arrived_ms: u64,
}

/// How full the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    /// Transactions that could be minted now or are in blocks that are being committed.
    pub ready: usize,
    /// Transactions that wait for a lower nonce.
    pub waiting: usize,
    /// Bytes of all.
    pub bytes: usize,
}

/// Transactions by sender and nonce, with the senders that have something to offer standing in line.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    senders: BTreeMap<Address, SenderQueue>,
    by_hash: HashMap<B256, (Address, u64)>,
    /// Senders that have an offerable transaction, each once, by ticket: the lowest has its turn next.
    line: BTreeMap<i64, Address>,
    /// Senders of whom something waits for a lower nonce.
    gapped: BTreeSet<Address>,
    bytes: usize,
    fates: Fates,
}

impl Pool {
    /// An empty pool.
    pub fn new(config: PoolConfig) -> Self {
        let fates = Fates::new(config.fates_max);
        Self {
            config,
            senders: BTreeMap::new(),
            by_hash: HashMap::new(),
            line: BTreeMap::new(),
            gapped: BTreeSet::new(),
            bytes: 0,
            fates,
        }
    }

    /// Takes a transaction that the rules of the chain allow. `account` is the sender's as of the head.
    /// Returns true if it made its sender offer something new.
    ///
    /// # Errors
    /// [`AdmitError`]; the pool is unchanged then.
    pub fn admit(
        &mut self,
        transaction: RecoveredTransaction,
        account: Option<Account>,
        now_ms: u64,
    ) -> Result<bool, AdmitError> {
        let hash = transaction.hash();
        if self.by_hash.contains_key(&hash) {
            return Err(AdmitError::Known { hash });
        }
        let account = account.unwrap_or_default();
        self.check_account(&transaction, &account)?;

        let sender = transaction.sender();
        let nonce = transaction.nonce();
        let size = transaction.size_bytes();
        let queue = self.senders.get(&sender);
        let existing = queue
            .and_then(|q| q.by_nonce.get(&nonce))
            .map(|p| p.transaction.clone());
        match &existing {
            Some(old) => {
                let in_flight = queue.is_some_and(|q| q.is_in_flight(nonce));
                self.check_replacement(&transaction, old, in_flight)?;
            }
            None => self.make_room(&transaction, account.nonce)?,
        }
        if let Some(old) = &existing {
            self.by_hash.remove(&old.hash());
            self.bytes = self.bytes.saturating_sub(old.size_bytes());
            self.fates.record(old.hash(), Fate::Replaced { by: hash });
        }
        self.fates.forget(&hash);
        self.bytes += size;
        self.by_hash.insert(hash, (sender, nonce));
        let queue = self.senders.entry(sender).or_default();
        let offered_before = queue.offerable().is_some();
        let stale = queue.advance(account.nonce);
        queue.by_nonce.insert(
            nonce,
            PooledTransaction {
                transaction,
                arrived_ms: now_ms,
            },
        );
        let offers = queue.offerable().is_some();
        self.line_up(sender, Side::Back);
        self.forget_used(stale, None);
        Ok(offers && !offered_before)
    }

    fn check_account(
        &self,
        tx: &RecoveredTransaction,
        account: &Account,
    ) -> Result<(), AdmitError> {
        let nonce = tx.nonce();
        if nonce < account.nonce {
            return Err(AdmitError::NonceTooLow {
                got: nonce,
                next: account.nonce,
            });
        }
        let max = account.nonce.saturating_add(self.config.nonce_window);
        if nonce > max {
            return Err(AdmitError::NonceTooHigh { got: nonce, max });
        }
        let cost = cost_max(tx);
        if cost > account.balance {
            return Err(AdmitError::InsufficientFunds {
                balance: account.balance,
                cost,
            });
        }
        Ok(())
    }

    fn check_replacement(
        &self,
        new: &RecoveredTransaction,
        old: &RecoveredTransaction,
        in_flight: bool,
    ) -> Result<(), AdmitError> {
        if in_flight {
            return Err(AdmitError::InFlight {
                nonce: new.nonce(),
                existing: old.hash(),
            });
        }
        let percent = self.config.replacement_percent;
        let enough = |new: u128, old: u128| {
            let rise = (old.saturating_mul(u128::from(percent)) / 100).max(1);
            new >= old.saturating_add(rise)
        };
        let (new, old_tx) = (new.transaction(), old.transaction());
        let tip = |tx: &quorate_chain::Transaction| {
            tx.max_priority_fee_per_gas()
                .unwrap_or_else(|| tx.max_fee_per_gas())
        };
        if enough(new.max_fee_per_gas(), old_tx.max_fee_per_gas()) && enough(tip(new), tip(old_tx))
        {
            return Ok(());
        }
        Err(AdmitError::Underpriced {
            existing: old.hash(),
            percent,
        })
    }

    /// Refuses what does not fit. Only a transaction that can be minted at once may push out others, and only such as wait
    /// for a lower nonce: otherwise a pool full of waiting ones would refuse the very ones that they wait for.
    fn make_room(&mut self, new: &RecoveredTransaction, next: u64) -> Result<(), AdmitError> {
        let sender = new.sender();
        loop {
            let of_sender = self.senders.get(&sender).map_or(0, |q| q.by_nonce.len());
            let Err(full) = self.check_room(of_sender, new.size_bytes()) else {
                return Ok(());
            };
            let gap = self
                .senders
                .get(&sender)
                .map_or(next, SenderQueue::first_gap)
                .max(next);
            let from = match full {
                AdmitError::SenderFull { .. } => self.gapped.get(&sender),
                _ => self.gapped.first(),
            };
            let victim = from
                .filter(|_| new.nonce() == gap)
                .and_then(|from| self.senders.get(from))
                .and_then(|queue| queue.by_nonce.values().next_back())
                .map(|pooled| pooled.transaction.clone())
                .ok_or(full)?;
            self.drop_transaction(&victim, DropReason::MadeRoom);
        }
    }

    fn check_room(&self, of_sender: usize, size: usize) -> Result<(), AdmitError> {
        if of_sender >= self.config.per_sender_max {
            return Err(AdmitError::SenderFull {
                count: of_sender,
                max: self.config.per_sender_max,
            });
        }
        let full = self.by_hash.len() >= self.config.transactions_max
            || self.bytes + size > self.config.bytes_max;
        if full {
            return Err(AdmitError::PoolFull {
                transactions: self.by_hash.len(),
                transactions_max: self.config.transactions_max,
                bytes: self.bytes,
                bytes_max: self.config.bytes_max,
            });
        }
        Ok(())
    }

    /// Hands out the next transaction in turn: senders one after the other, each in nonce order. It counts as
    /// in flight until a block or [`Self::offer_again`] says otherwise.
    pub fn take_next(&mut self) -> Option<RecoveredTransaction> {
        let (_, sender) = self.line.pop_first()?;
        let queue = self.senders.get_mut(&sender)?;
        queue.ticket = None;
        let transaction = queue.offerable()?.transaction.clone();
        queue.offer_from += 1;
        self.line_up(sender, Side::Back);
        Some(transaction)
    }

    /// Takes back what was handed out last and not used (the block was full): its sender is first in line.
    pub fn put_back(&mut self, transaction: &RecoveredTransaction) {
        let sender = transaction.sender();
        let Some(queue) = self.senders.get_mut(&sender) else {
            return;
        };
        if queue.is_in_flight(transaction.nonce()) {
            queue.offer_from = transaction.nonce();
        }
        if let Some(ticket) = queue.ticket.take() {
            self.line.remove(&ticket);
        }
        self.line_up(sender, Side::Front);
    }

    /// Makes a sender stand in line exactly if it has an offer. One that stands there keeps its place.
    fn line_up(&mut self, sender: Address, side: Side) {
        let Some(queue) = self.senders.get_mut(&sender) else {
            return;
        };
        match (queue.ticket, queue.offerable().is_some()) {
            (None, true) => {
                let ticket = match side {
                    Side::Back => self.line.last_key_value().map_or(0, |(last, _)| last + 1),
                    Side::Front => self
                        .line
                        .first_key_value()
                        .map_or(0, |(first, _)| first - 1),
                };
                queue.ticket = Some(ticket);
                self.line.insert(ticket, sender);
            }
            (Some(ticket), false) => {
                queue.ticket = None;
                self.line.remove(&ticket);
            }
            (Some(_), true) | (None, false) => {}
        }
        if queue.has_waiting() {
            self.gapped.insert(sender);
        } else {
            self.gapped.remove(&sender);
        }
    }

    /// Forgets what is in flight: blocks of this node will not commit, so everything is offered again.
    pub fn offer_again(&mut self) {
        let senders: Vec<Address> = self.senders.keys().copied().collect();
        for sender in senders {
            if let Some(queue) = self.senders.get_mut(&sender) {
                queue.offer_from = queue.next;
            }
            self.line_up(sender, Side::Back);
        }
    }

    /// Gives up a transaction that cannot be executed. Later nonces of its sender wait for a new one.
    pub fn drop_transaction(&mut self, transaction: &RecoveredTransaction, reason: DropReason) {
        let (sender, nonce) = (transaction.sender(), transaction.nonce());
        let hash = transaction.hash();
        if self.by_hash.remove(&hash).is_none() {
            return;
        }
        self.bytes = self.bytes.saturating_sub(transaction.size_bytes());
        self.fates.record(hash, Fate::Dropped(reason));
        if let Some(queue) = self.senders.get_mut(&sender) {
            queue.by_nonce.remove(&nonce);
            queue.offer_from = queue.offer_from.min(nonce).max(queue.next);
            self.line_up(sender, Side::Back);
            self.remove_if_empty(&sender);
        }
    }

    /// An imported block used these nonces: `(sender, next nonce afterwards)` for every sender in it.
    pub fn on_block(&mut self, height: u64, next_nonces: &[(Address, u64)]) {
        for (sender, next) in next_nonces {
            let Some(queue) = self.senders.get_mut(sender) else {
                continue;
            };
            let used = queue.advance(*next);
            self.line_up(*sender, Side::Back);
            self.forget_used(used, Some(height));
            self.remove_if_empty(sender);
        }
    }

    /// The account's next nonce is `next`, whoever used the ones before.
    pub fn catch_up(&mut self, sender: &Address, next: u64) {
        let Some(queue) = self.senders.get_mut(sender) else {
            return;
        };
        let used = queue.advance(next);
        self.line_up(*sender, Side::Back);
        self.forget_used(used, None);
        self.remove_if_empty(sender);
    }

    fn forget_used(&mut self, used: Vec<PooledTransaction>, height: Option<u64>) {
        for pooled in used {
            let hash = pooled.transaction.hash();
            self.by_hash.remove(&hash);
            self.bytes = self.bytes.saturating_sub(pooled.transaction.size_bytes());
            // Whether it was this transaction or another one of the same nonce is for the reader of the
            // fate to find out: a committed transaction is looked up in the chain first.
            if let Some(height) = height {
                self.fates
                    .record(hash, Fate::Dropped(DropReason::NonceUsed { height }));
            }
        }
    }

    fn remove_if_empty(&mut self, sender: &Address) {
        let empty = self
            .senders
            .get(sender)
            .is_some_and(|queue| queue.by_nonce.is_empty());
        if empty {
            self.gapped.remove(sender);
            if let Some(ticket) = self.senders.remove(sender).and_then(|queue| queue.ticket) {
                self.line.remove(&ticket);
            }
        }
    }

    /// Removes what has waited longer than the configured lifetime and is not in flight.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let lifetime = u64::try_from(self.config.lifetime.as_millis()).unwrap_or(u64::MAX);
        let mut expired = Vec::new();
        for queue in self.senders.values() {
            let old = queue.by_nonce.iter().filter(|(nonce, pooled)| {
                now_ms.saturating_sub(pooled.arrived_ms) > lifetime && !queue.is_in_flight(**nonce)
            });
            expired.extend(old.map(|(_, pooled)| pooled.transaction.clone()));
        }
        for transaction in &expired {
            self.drop_transaction(transaction, DropReason::NotExecutable(String::new()));
            self.fates.record(transaction.hash(), Fate::Expired);
        }
        expired.len()
    }

    /// A transaction in the pool.
    pub fn get(&self, hash: &B256) -> Option<&PooledTransaction> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        self.senders.get(sender)?.by_nonce.get(nonce)
    }

    /// What a pooled transaction waits for, in words.
    pub fn pending_reason(&self, hash: &B256) -> Option<String> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        let queue = self.senders.get(sender)?;
        let gap = queue.first_gap();
        Some(if *nonce > gap {
            format!("waits for nonce {gap} of the same sender")
        } else if queue.is_in_flight(*nonce) {
            "in a block that is being committed".to_owned()
        } else {
            "ready: waits for the leader to put it into a block".to_owned()
        })
    }

    /// How a transaction left the pool, if that is still remembered.
    pub fn fate(&self, hash: &B256) -> Option<&Fate> {
        self.fates.get(hash)
    }

    /// The nonce that the sender should use next, counting what is in the pool.
    pub fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        self.senders.get(sender).map(SenderQueue::first_gap)
    }

    /// How full the pool is.
    pub fn counts(&self) -> PoolCounts {
        let ready = self.senders.values().map(SenderQueue::ready).sum();
        PoolCounts {
            ready,
            waiting: self.by_hash.len().saturating_sub(ready),
            bytes: self.bytes,
        }
    }

    /// Transactions in all.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// True if the minter could take one now.
    pub fn has_offers(&self) -> bool {
        !self.line.is_empty()
    }

    /// All transactions by sender and nonce; the flag tells whether it could be minted without waiting for a gap.
    pub fn content(&self) -> impl Iterator<Item = (&Address, u64, &PooledTransaction, bool)> {
        self.senders.iter().flat_map(|(sender, queue)| {
            let gap = queue.first_gap();
            queue
                .by_nonce
                .iter()
                .map(move |(nonce, pooled)| (sender, *nonce, pooled, *nonce < gap))
        })
    }
}

/// Where a sender joins the line.
#[derive(Debug, Clone, Copy)]
enum Side {
    Front,
    Back,
}

/// The most that a transaction can cost its sender: value plus gas limit times fee cap, in wei.
fn cost_max(tx: &RecoveredTransaction) -> U256 {
    let tx = tx.transaction();
    let fee = U256::from(tx.max_fee_per_gas()).saturating_mul(U256::from(tx.gas_limit()));
    tx.value().saturating_add(fee)
}

#[cfg(test)]
mod tests;
