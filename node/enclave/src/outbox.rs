//! Who still has to receive which payload: a durable list of deliveries, one per payload and recipient node. No clock and no network
//! of its own: the caller says what time it is, sends what is due, and reports what came of it.
//!
//! ```text
//! enqueue ──► Pending ── take_due ──► (the caller sends) ──┬─ acknowledged ──► Acknowledged
//!                ▲                                         ├─ refused ───────► Refused
//!                └──── after a growing pause ◄── failed ───┘  (or nothing: due again after the lease)
//! ```
//! Or `enter` instead of `enqueue`, once the first attempts were made and their outcomes are known.
//!
//! Keys begin with `eo/`; numbers in them are big-endian:
//!
//! ```text
//! s | hash (64)                    → policy (1): 0 all, 1 named, 2 k of n | k (u16) | enqueued at (u64)
//! d | hash | node (33)             → state (1) | named (1) | attempts (u32) | next at | changed at | reason, UTF-8
//! q | next at | hash | node        → nothing: pending ones by time
//! n | node | hash                  → nothing: pending ones by node
//! ```

mod entries;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_kv::{Batch, Direction, KeyRange, Kv, KvError};
use sha3::{Digest as _, Sha3_256};

pub use policy::{AckPolicy, AckProgress};

use crate::{NodeKey, PayloadHash};
use entries::{PREFIX, decode, key, put, remove_pending, shortened, split_name};
use policy::{check_policy, policy_value};

/// Settings of an [`Outbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Most deliveries that may be pending; what would exceed it is refused. 1 or more.
    pub pending_max: u64,
    /// Pause after the first failure in milliseconds; it doubles with every further one. 1 or more.
    pub retry_first_ms: u64,
    /// Longest pause in milliseconds; not below the first one.
    pub retry_max_ms: u64,
    /// How long a delivery that was taken is left to its taker, in milliseconds. 1 or more.
    pub lease_ms: u64,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            pending_max: 1_000_000,
            retry_first_ms: 1_000,
            retry_max_ms: 5 * 60_000,
            lease_ms: 30_000,
        }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be sent, once more maybe.
    Pending,
    /// The recipient says that it stored it durably.
    Acknowledged,
    /// The recipient will not take it.
    Refused,
}

/// One payload for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The payload.
    pub hash: PayloadHash,
    /// The recipient's node.
    pub node: NodeKey,
    /// What became of it.
    pub state: DeliveryState,
    /// True if a policy names this node.
    pub named: bool,
    /// How often it was sent.
    pub attempts: u32,
    /// When it is due again, in milliseconds.
    pub next_at_ms: u64,
    /// When its state, or the number of attempts, last changed, in milliseconds.
    pub changed_at_ms: u64,
    /// Why the last attempt failed or was refused; empty if neither.
    pub reason: String,
}

/// The outbox as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Deliveries that are pending.
    pub pending: u64,
    /// When the first of them is due, in milliseconds.
    pub next_at_ms: Option<u64>,
}

/// Why the outbox did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// A value is out of its range.
    #[error("{field} is {value}, allowed is {allowed}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// A policy names a node that the payload does not go to.
    #[error("the policy names {node}, which is no recipient")]
    NoRecipient {
        /// The node.
        node: NodeKey,
    },
    /// There are too many pending deliveries.
    #[error("{pending} deliveries are pending, allowed are at most {max}")]
    Full {
        /// How many.
        pending: u64,
        /// The limit.
        max: u64,
    },
    /// There is no such delivery.
    #[error("there is no delivery of {hash} to {node}")]
    Unknown {
        /// The payload.
        hash: PayloadHash,
        /// The node.
        node: NodeKey,
    },
    /// An entry cannot be read.
    #[error("the outbox is damaged: entry {entry}")]
    Damaged {
        /// Which kind.
        entry: &'static str,
    },
    /// The key-value store failed.
    #[error("outbox: {0}")]
    Kv(#[from] KvError),
}

/// The list of deliveries. See the module.
#[derive(Debug)]
pub struct Outbox {
    kv: Arc<dyn Kv>,
    config: OutboxConfig,
    /// Number of pending deliveries; held while one of them is changed.
    pending: Mutex<u64>,
}

impl Outbox {
    /// Opens the list that lies in `kv` under keys that begin with `eo/`.
    ///
    /// # Errors
    /// [`OutboxError::OutOfRange`] for a setting, [`OutboxError::Kv`].
    pub fn open(kv: Arc<dyn Kv>, config: OutboxConfig) -> Result<Self, OutboxError> {
        for (field, value) in [
            ("pending_max", config.pending_max),
            ("retry_first_ms", config.retry_first_ms),
            ("lease_ms", config.lease_ms),
        ] {
            if value == 0 {
                return Err(OutboxError::OutOfRange {
                    field,
                    value,
                    allowed: "1 or more",
                });
            }
        }
        if config.retry_max_ms < config.retry_first_ms {
            return Err(OutboxError::OutOfRange {
                field: "retry_max_ms",
                value: config.retry_max_ms,
                allowed: "retry_first_ms or more",
            });
        }
        let mut pending = 0;
        for entry in kv.scan(KeyRange::prefix(key(b'q', &[])), Direction::Ascending) {
            entry?;
            pending += 1;
        }
        Ok(Self {
            kv,
            config,
            pending: Mutex::new(pending),
        })
    }

    /// Enters a payload's deliveries durably; they are due at once. One that is here already stays as it is, with its policy.
    ///
    /// # Errors
    /// [`OutboxError::OutOfRange`], [`OutboxError::NoRecipient`], [`OutboxError::Full`], [`OutboxError::Kv`].
    pub fn enqueue(
        &self,
        hash: &PayloadHash,
        nodes: &BTreeSet<NodeKey>,
        policy: &AckPolicy,
        now_ms: u64,
    ) -> Result<(), OutboxError> {
        check_policy(nodes, policy)?;
        let mut pending = self.pending.lock();
        if self.policy_entry(hash)?.is_some() {
            return Ok(());
        }
        let more = pending.saturating_add(nodes.len() as u64);
        if more > self.config.pending_max {
            return Err(OutboxError::Full {
                pending: *pending,
                max: self.config.pending_max,
            });
        }
        let mut batch = Batch::new();
        batch.put(key(b's', &[hash.as_bytes()]), policy_value(policy, now_ms));
        for node in nodes {
            let delivery = Delivery {
                hash: *hash,
                node: *node,
                state: DeliveryState::Pending,
                named: matches!(policy, AckPolicy::Named(named) if named.contains(node)),
                attempts: 0,
                next_at_ms: now_ms,
                changed_at_ms: now_ms,
                reason: String::new(),
            };
            put(&mut batch, None, &delivery);
        }
        self.kv.write(batch)?;
        *pending = more;
        // Others go on while the disk syncs.
        drop(pending);
        Ok(self.kv.barrier()?)
    }

    /// Enters what came of a payload's first deliveries, durably: those that are pending are due at once. For a sender that
    /// delivers before it makes entries, so that nothing is entered for a payload which it gives up. Of a payload that is here
    /// already, the policy is replaced, further nodes are added, and an acknowledgement stays one.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enter(
        &self,
        hash: &PayloadHash,
        outcomes: &BTreeMap<NodeKey, (DeliveryState, String)>,
        policy: &AckPolicy,
        now_ms: u64,
    ) -> Result<(), OutboxError> {
        check_policy(&outcomes.keys().copied().collect(), policy)?;
        let mut pending = self.pending.lock();
        let old: BTreeMap<_, _> = self
            .deliveries(hash)?
            .into_iter()
            .map(|delivery| (delivery.node, delivery))
            .collect();
        let mut batch = Batch::new();
        batch.put(key(b's', &[hash.as_bytes()]), policy_value(policy, now_ms));
        let (mut more, mut fewer) = (0u64, 0u64);
        for (node, (state, reason)) in outcomes {
            let old = old.get(node);
            if old.is_some_and(|old| old.state == DeliveryState::Acknowledged) {
                continue;
            }
            more += u64::from(*state == DeliveryState::Pending);
            fewer += u64::from(old.is_some_and(|old| old.state == DeliveryState::Pending));
            let delivery = Delivery {
                hash: *hash,
                node: *node,
                state: *state,
                named: matches!(policy, AckPolicy::Named(named) if named.contains(node)),
                attempts: old.map_or(0, |old| old.attempts).saturating_add(1),
                next_at_ms: now_ms,
                changed_at_ms: now_ms,
                reason: shortened(reason),
            };
            put(&mut batch, old, &delivery);
        }
        let after = pending.saturating_add(more).saturating_sub(fewer);
        if more > fewer && after > self.config.pending_max {
            return Err(OutboxError::Full {
                pending: *pending,
                max: self.config.pending_max,
            });
        }
        self.kv.write(batch)?;
        *pending = after;
        drop(pending);
        Ok(self.kv.barrier()?)
    }

    /// Takes deliveries that are due, at most `limit`, longest due first. They are due again when the lease is over, if nothing is
    /// reported until then.
    ///
    /// # Errors
    /// [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn take_due(&self, now_ms: u64, limit: usize) -> Result<Vec<Delivery>, OutboxError> {
        let _held = self.pending.lock();
        let end = key(b'q', &[&now_ms.saturating_add(1).to_be_bytes()]);
        let range = KeyRange::between(key(b'q', &[]), end);
        let mut due = Vec::new();
        for entry in self.kv.scan(range, Direction::Ascending).take(limit) {
            let (found, _) = entry?;
            // A list of deliveries' names, read before any of them is changed.
            let name = found.get(PREFIX.len() + 1 + 8..).unwrap_or_default();
            due.push(split_name(name).ok_or(OutboxError::Damaged { entry: "q" })?);
        }
        let mut batch = Batch::new();
        let mut taken = Vec::with_capacity(due.len());
        for (hash, node) in due {
            let old = self.delivery(&hash, &node)?;
            let mut delivery = old.clone();
            delivery.attempts = delivery.attempts.saturating_add(1);
            delivery.next_at_ms = now_ms.saturating_add(self.config.lease_ms);
            delivery.changed_at_ms = now_ms;
            put(&mut batch, Some(&old), &delivery);
            taken.push(delivery);
        }
        if !batch.is_empty() {
            self.kv.write(batch)?;
        }
        Ok(taken)
    }

    /// The recipient stored it durably. Repeating this changes nothing.
    ///
    /// # Errors
    /// [`OutboxError::Unknown`], [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn acknowledged(
        &self,
        hash: &PayloadHash,
        node: &NodeKey,
        now_ms: u64,
    ) -> Result<(), OutboxError> {
        // Also after a refusal: the recipient may have changed its mind, and says so.
        self.finish(hash, node, DeliveryState::Acknowledged, "", now_ms)
    }

    /// The recipient will not take it, whatever happens: it is not tried again. An acknowledgement stays one.
    ///
    /// # Errors
    /// As [`acknowledged`](Self::acknowledged).
    pub fn refused(
        &self,
        hash: &PayloadHash,
        node: &NodeKey,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), OutboxError> {
        self.finish(hash, node, DeliveryState::Refused, reason, now_ms)
    }

    /// An attempt failed: it is due again after a pause that doubles with every attempt, up to the limit, and varies by a quarter
    /// so that the deliveries to a node that comes back do not all start at once.
    ///
    /// # Errors
    /// As [`acknowledged`](Self::acknowledged).
    pub fn failed(
        &self,
        hash: &PayloadHash,
        node: &NodeKey,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), OutboxError> {
        let _held = self.pending.lock();
        let old = self.delivery(hash, node)?;
        if old.state != DeliveryState::Pending {
            return Ok(());
        }
        let mut delivery = old.clone();
        delivery.next_at_ms = now_ms.saturating_add(self.pause_ms(&old));
        delivery.changed_at_ms = now_ms;
        delivery.reason = shortened(reason);
        let mut batch = Batch::new();
        put(&mut batch, Some(&old), &delivery);
        Ok(self.kv.write(batch)?)
    }

    /// A node is there again: what is pending for it is due now, at most `limit` of it. Returns how many that are.
    ///
    /// # Errors
    /// [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn wake(&self, node: &NodeKey, now_ms: u64, limit: usize) -> Result<usize, OutboxError> {
        let _held = self.pending.lock();
        let prefix = key(b'n', &[node.as_slice()]);
        let mut hashes = Vec::new();
        let range = KeyRange::prefix(prefix.clone());
        for entry in self.kv.scan(range, Direction::Ascending).take(limit) {
            let (found, _) = entry?;
            let hash = found.get(prefix.len()..).unwrap_or_default().try_into();
            let hash = hash.map_err(|_| OutboxError::Damaged { entry: "n" })?;
            hashes.push(PayloadHash::from_bytes(hash));
        }
        let mut batch = Batch::new();
        for hash in &hashes {
            let old = self.delivery(hash, node)?;
            let mut delivery = old.clone();
            delivery.next_at_ms = delivery.next_at_ms.min(now_ms);
            put(&mut batch, Some(&old), &delivery);
        }
        if !batch.is_empty() {
            self.kv.write(batch)?;
        }
        Ok(hashes.len())
    }

    /// All deliveries of a payload, by node.
    ///
    /// # Errors
    /// [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn deliveries(&self, hash: &PayloadHash) -> Result<Vec<Delivery>, OutboxError> {
        let range = KeyRange::prefix(key(b'd', &[hash.as_bytes()]));
        let mut deliveries = Vec::new();
        for entry in self.kv.scan(range, Direction::Ascending) {
            let (found, value) = entry?;
            let name = found.get(PREFIX.len() + 1..).unwrap_or_default();
            let (hash, node) = split_name(name).ok_or(OutboxError::Damaged { entry: "d" })?;
            let delivery = decode(hash, node, &value);
            deliveries.push(delivery.ok_or(OutboxError::Damaged { entry: "d" })?);
        }
        Ok(deliveries)
    }

    /// How far a payload's policy is; `None` if there is no such payload here.
    ///
    /// # Errors
    /// [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn progress(&self, hash: &PayloadHash) -> Result<Option<AckProgress>, OutboxError> {
        let Some((kind, k)) = self.policy_entry(hash)? else {
            return Ok(None);
        };
        let deliveries = self.deliveries(hash)?;
        let policy = match kind {
            0 => AckPolicy::All,
            1 => AckPolicy::Named(
                deliveries
                    .iter()
                    .filter(|d| d.named)
                    .map(|d| d.node)
                    .collect(),
            ),
            2 => AckPolicy::KOfN(k),
            _ => return Err(OutboxError::Damaged { entry: "s" }),
        };
        Ok(Some(policy.progress(&deliveries)))
    }

    /// Forgets a payload: its submission was given up, or everything is done and reported. Returns whether it was here.
    ///
    /// # Errors
    /// [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn forget(&self, hash: &PayloadHash) -> Result<bool, OutboxError> {
        let mut pending = self.pending.lock();
        let known = self.policy_entry(hash)?.is_some();
        let mut batch = Batch::new();
        let mut fewer = 0;
        for delivery in self.deliveries(hash)? {
            fewer += u64::from(delivery.state == DeliveryState::Pending);
            remove_pending(&mut batch, &delivery);
            let (hash, node) = (delivery.hash.as_bytes(), delivery.node.as_slice());
            batch.delete(key(b'd', &[hash, node]));
        }
        batch.delete(key(b's', &[hash.as_bytes()]));
        self.kv.write(batch)?;
        *pending = pending.saturating_sub(fewer);
        Ok(known)
    }

    /// How much there is to do.
    ///
    /// # Errors
    /// [`OutboxError::Kv`], [`OutboxError::Damaged`].
    pub fn status(&self) -> Result<OutboxStatus, OutboxError> {
        let pending = *self.pending.lock();
        let range = KeyRange::prefix(key(b'q', &[]));
        let first = self.kv.scan(range, Direction::Ascending).next();
        let next_at_ms = match first.transpose()? {
            None => None,
            Some((found, _)) => {
                let rest = found.get(PREFIX.len() + 1..).unwrap_or_default();
                let time = rest.first_chunk::<8>().copied();
                let time = time.ok_or(OutboxError::Damaged { entry: "q" })?;
                Some(u64::from_be_bytes(time))
            }
        };
        Ok(OutboxStatus {
            pending,
            next_at_ms,
        })
    }

    fn finish(
        &self,
        hash: &PayloadHash,
        node: &NodeKey,
        state: DeliveryState,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), OutboxError> {
        let mut pending = self.pending.lock();
        let old = self.delivery(hash, node)?;
        if old.state == state || old.state == DeliveryState::Acknowledged {
            return Ok(());
        }
        let mut delivery = old.clone();
        delivery.state = state;
        delivery.changed_at_ms = now_ms;
        delivery.reason = shortened(reason);
        let mut batch = Batch::new();
        put(&mut batch, Some(&old), &delivery);
        self.kv.write(batch)?;
        if old.state == DeliveryState::Pending {
            *pending = pending.saturating_sub(1);
        }
        Ok(())
    }

    fn pause_ms(&self, delivery: &Delivery) -> u64 {
        let doublings = delivery.attempts.saturating_sub(1).min(40);
        let pause = self.config.retry_first_ms.saturating_mul(1 << doublings);
        let pause = pause.min(self.config.retry_max_ms);
        // No source of randomness is needed: names differ, and so do their hashes.
        let mut hash = Sha3_256::new();
        hash.update(delivery.hash.as_bytes());
        hash.update(delivery.node);
        hash.update(delivery.attempts.to_be_bytes());
        let draw = u64::from(hash.finalize().first().copied().unwrap_or(0));
        pause - pause / 4 * draw / 256
    }

    fn delivery(&self, hash: &PayloadHash, node: &NodeKey) -> Result<Delivery, OutboxError> {
        let value = self
            .kv
            .get(&key(b'd', &[hash.as_bytes(), node.as_slice()]))?;
        let value = value.ok_or(OutboxError::Unknown {
            hash: *hash,
            node: *node,
        })?;
        decode(*hash, *node, &value).ok_or(OutboxError::Damaged { entry: "d" })
    }

    fn policy_entry(&self, hash: &PayloadHash) -> Result<Option<(u8, u16)>, OutboxError> {
        let Some(value) = self.kv.get(&key(b's', &[hash.as_bytes()]))? else {
            return Ok(None);
        };
        match value.as_slice() {
            [kind, k0, k1, ..] => Ok(Some((*kind, u16::from_be_bytes([*k0, *k1])))),
            _ => Err(OutboxError::Damaged { entry: "s" }),
        }
    }
}

#[cfg(test)]
mod tests;
