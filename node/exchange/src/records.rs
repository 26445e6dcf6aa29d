//! What an exchange remembers beside envelopes, in the key-value store. Keys begin with `xr/`; numbers are big-endian:
//!
//! ```text
//! i                        → format 1 | chain id (8) | genesis hash (32) | node (33)
//! c                        → 1: the payload store is complete; 0: it is not
//! h                        → nothing: the keys that members had before this node knew them were learned
//! t | hash (64) | part (1) → signed terms of a payload, in parts: earlier versions kept them here, now they lie beside the payload
//! p | key (32) | hash      → nothing: the payload's terms name this party
//! e | key (32) | hash      → nothing: this party lost the payload if it was erased here
//! g | hash                 → node (33): that member says that it erased the payload, which is ours too
//! d | hash                 → when it was acknowledged as asked, ms (8), if its transaction did not come soon after
//! k | key (32)             → node (33) | 1: this node saw it in the table; 0: another member said so
//! a | number (8)           → alarm
//! b | transaction | node   → number of the alarm about these two
//! ```

mod erased;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use alloy_primitives::B256;
use parking_lot::Mutex;
use quorate_enclave::{NodeKey, PayloadHash, PublicKey};
use quorate_kv::{Batch, Direction, KeyRange, Kv};
use quorate_privacy::{SignedTerms, TERMS_BYTES_MAX, Terms};

use crate::barrier::GroupBarrier;
use crate::wire::HISTORY_MAX;
use crate::{Alarm, ExchangeIdentity, ExchangeOpenError, RecordError};

const PREFIX: &[u8] = b"xr/";
const FORMAT: u8 = 1;
/// Alarms that are kept. Of more, the oldest are dropped: whoever did not look at these looks at none.
pub(crate) const ALARMS_MAX: u64 = 10_000;

/// The records of one exchange.
#[derive(Debug)]
pub(crate) struct Records {
    kv: Arc<dyn Kv>,
    barrier: GroupBarrier,
    state: Mutex<State>,
    /// False: nobody ever said that it erased a payload of ours.
    any_erased_elsewhere: AtomicBool,
}

#[derive(Debug)]
struct State {
    complete: bool,
    /// How often something was lost since the start.
    losses: u64,
    history_known: bool,
    history: Arc<BTreeMap<PublicKey, Known>>,
    first_alarm: u64,
    next_alarm: u64,
}

/// Whose a key is, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) node: NodeKey,
    /// This node saw it in the replicated table. Otherwise another member said so, which is good for recognising a sender, and gives
    /// nobody a right.
    pub(crate) seen: bool,
}

impl Records {
    /// Opens the records. Those of a new exchange say that its payload store is complete if there is nothing that it could lack.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        identity: &ExchangeIdentity,
        chain_is_empty: bool,
    ) -> Result<Self, ExchangeOpenError> {
        let own = identity_value(identity);
        match kv.get(&key(b'i', &[])).map_err(RecordError::from)? {
            Some(found) => check_identity(&found, &own)?,
            None => {
                let mut batch = Batch::new();
                batch.put(key(b'i', &[]), own);
                batch.put(key(b'c', &[]), vec![u8::from(chain_is_empty)]);
                if chain_is_empty {
                    batch.put(key(b'h', &[]), Vec::new());
                }
                kv.write(batch).map_err(RecordError::from)?;
                kv.barrier().map_err(RecordError::from)?;
            }
        }
        let state = read_state(&*kv)?;
        let any_erased_elsewhere = !hashes_behind(&*kv, key(b'g', &[]), None, 1)?.is_empty();
        Ok(Self {
            barrier: GroupBarrier::new(Arc::clone(&kv)),
            kv,
            state: Mutex::new(state),
            any_erased_elsewhere: AtomicBool::new(any_erased_elsewhere),
        })
    }

    /// Everything that was written before survives power loss when this returns. Blocks on the disk, once for all that wait.
    pub(crate) fn make_durable(&self) -> Result<(), RecordError> {
        Ok(self.barrier.wait()?)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state.lock().complete
    }

    /// The payload store may lack something from now on.
    pub(crate) fn set_incomplete(&self) -> Result<(), RecordError> {
        let mut state = self.state.lock();
        self.put(key(b'c', &[]), vec![0])?;
        state.complete = false;
        state.losses = state.losses.wrapping_add(1);
        drop(state);
        self.make_durable()
    }

    /// What to give to [`complete`](Self::complete) when everyone was asked; `None` if the store is complete.
    pub(crate) fn incomplete_since(&self) -> Option<u64> {
        let state = self.state.lock();
        (!state.complete).then_some(state.losses)
    }

    /// The payload store lacks nothing of what it lacked then. If something was lost since, it stays incomplete.
    pub(crate) fn complete(&self, since: u64) -> Result<(), RecordError> {
        {
            let state = self.state.lock();
            if state.losses != since {
                return Ok(());
            }
            self.put(key(b'c', &[]), vec![1])?;
        }
        self.make_durable()?;
        let mut state = self.state.lock();
        state.complete = state.losses == since;
        Ok(())
    }

    /// Signed terms of a payload that an earlier version kept.
    pub(crate) fn terms(&self, hash: &PayloadHash) -> Result<Option<SignedTerms>, RecordError> {
        let Some(bytes) = self.terms_bytes(hash)? else {
            return Ok(None);
        };
        let damaged = RecordError::Damaged { entry: "terms" };
        SignedTerms::decode(&bytes).map(Some).map_err(|_| damaged)
    }

    /// The same, encoded.
    pub(crate) fn terms_bytes(&self, hash: &PayloadHash) -> Result<Option<Vec<u8>>, RecordError> {
        let mut bytes = Vec::new();
        let range = KeyRange::prefix(key(b't', &[hash.as_bytes()]));
        for entry in self.kv.scan(range, Direction::Ascending) {
            let (_, part) = entry?;
            bytes.extend_from_slice(&part);
            if bytes.len() > TERMS_BYTES_MAX {
                return Err(RecordError::Damaged { entry: "terms" });
            }
        }
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// Remembers whom the terms of a payload name as parties. Durable after [`make_durable`](Self::make_durable).
    pub(crate) fn name_parties<'a>(
        &self,
        terms: impl Iterator<Item = &'a Terms>,
    ) -> Result<(), RecordError> {
        let mut batch = Batch::new();
        for terms in terms {
            for party in &terms.parties {
                let key = key(b'p', &[party.as_bytes(), terms.hash.as_bytes()]);
                batch.put(key, Vec::new());
            }
        }
        Ok(self.kv.write(batch)?)
    }

    /// Payloads whose terms name a party, behind one of them.
    pub(crate) fn named(
        &self,
        party: &PublicKey,
        behind: Option<&PayloadHash>,
        limit: usize,
    ) -> Result<Vec<PayloadHash>, RecordError> {
        hashes_behind(&*self.kv, key(b'p', &[party.as_bytes()]), behind, limit)
    }

    /// Remembers when payloads were acknowledged as their senders asked; not durable: it says what happened, no more.
    pub(crate) fn set_acknowledged(
        &self,
        at_ms: impl Iterator<Item = (PayloadHash, u64)>,
    ) -> Result<(), RecordError> {
        let mut batch = Batch::new();
        for (hash, at_ms) in at_ms {
            batch.put(key(b'd', &[hash.as_bytes()]), at_ms.to_be_bytes().to_vec());
        }
        Ok(self.kv.write(batch)?)
    }

    pub(crate) fn acknowledged_at(&self, hash: &PayloadHash) -> Result<Option<u64>, RecordError> {
        let found = self.kv.get(&key(b'd', &[hash.as_bytes()]))?;
        found
            .map(|value| number(&value, "distribution"))
            .transpose()
    }

    /// Keys with the node that announced them, now or once.
    pub(crate) fn history(&self) -> Arc<BTreeMap<PublicKey, Known>> {
        Arc::clone(&self.state.lock().history)
    }

    /// Adds keys to the history; returns how many were changed by that. What was `seen` in the table replaces what was there; what
    /// was only heard does not.
    pub(crate) fn remember_keys(
        &self,
        keys: impl Iterator<Item = (PublicKey, NodeKey)>,
        seen: bool,
    ) -> Result<usize, RecordError> {
        let mut state = self.state.lock();
        let changes = |(public, node): &(PublicKey, NodeKey)| {
            let old = state.history.get(public);
            old.is_none_or(|old| seen && *old != Known { node: *node, seen })
        };
        let news: Vec<_> = keys.filter(changes).collect();
        if news.is_empty() {
            return Ok(0);
        }
        let mut history = (*state.history).clone();
        let mut batch = Batch::new();
        let mut added = 0;
        for (public, node) in news {
            let old = history.get(&public);
            let known = Known { node, seen };
            if old.is_some_and(|old| !seen || *old == known) {
                continue;
            }
            if old.is_none() && history.len() >= HISTORY_MAX {
                tracing::error!(key = %public, max = HISTORY_MAX, "too many keys were announced to remember this one");
                continue;
            }
            let mut value = node.to_vec();
            value.push(u8::from(seen));
            batch.put(key(b'k', &[public.as_bytes()]), value);
            history.insert(public, known);
            added += 1;
        }
        if added > 0 {
            self.kv.write(batch)?;
            state.history = Arc::new(history);
        }
        Ok(added)
    }

    /// True if the keys of before this node's time are known, or there were none.
    pub(crate) fn history_known(&self) -> bool {
        self.state.lock().history_known
    }

    pub(crate) fn set_history_known(&self) -> Result<(), RecordError> {
        self.put(key(b'h', &[]), Vec::new())?;
        self.make_durable()?;
        self.state.lock().history_known = true;
        Ok(())
    }

    /// Enters an alarm, unless there is one about this transaction and node. Returns it with its number if it is new.
    pub(crate) fn raise(&self, mut alarm: Alarm) -> Result<Option<Alarm>, RecordError> {
        let mut state = self.state.lock();
        let about = about_key(&alarm.transaction, &alarm.node);
        if self.kv.get(&about)?.is_some() {
            return Ok(None);
        }
        alarm.number = state.next_alarm;
        let mut batch = Batch::new();
        batch.put(number_key(alarm.number), alarm_value(&alarm));
        batch.put(about, alarm.number.to_be_bytes().to_vec());
        let mut first = state.first_alarm;
        while alarm.number.saturating_sub(first) >= ALARMS_MAX {
            if let Some(value) = self.kv.get(&number_key(first))? {
                let old = read_alarm(first, &value)?;
                batch.delete(about_key(&old.transaction, &old.node));
            }
            batch.delete(number_key(first));
            first = first.saturating_add(1);
        }
        self.kv.write(batch)?;
        state.first_alarm = first;
        state.next_alarm = alarm.number.saturating_add(1);
        Ok(Some(alarm))
    }

    /// Alarms behind a number, oldest first.
    pub(crate) fn alarms(&self, after: u64, limit: usize) -> Result<Vec<Alarm>, RecordError> {
        let prefix = key(b'a', &[]);
        let range = KeyRange::prefix_from(&prefix, number_key(after.saturating_add(1)));
        let found = self.kv.scan(range, Direction::Ascending).take(limit);
        let alarms = found.map(|entry| {
            let (found, value) = entry?;
            let number = number(found.get(prefix.len()..).unwrap_or_default(), "alarm")?;
            read_alarm(number, &value)
        });
        alarms.collect()
    }

    /// Number of alarms that are kept.
    pub(crate) fn alarm_count(&self) -> u64 {
        let state = self.state.lock();
        state.next_alarm.saturating_sub(state.first_alarm)
    }

    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), RecordError> {
        let mut batch = Batch::new();
        batch.put(key, value);
        Ok(self.kv.write(batch)?)
    }
}

fn read_state(kv: &dyn Kv) -> Result<State, RecordError> {
    let complete = match kv.get(&key(b'c', &[]))?.as_deref() {
        Some([1]) => true,
        Some([0]) => false,
        _ => {
            return Err(RecordError::Damaged {
                entry: "completeness",
            });
        }
    };
    let mut history = BTreeMap::new();
    let prefix = key(b'k', &[]);
    for entry in kv.scan(KeyRange::prefix(prefix.clone()), Direction::Ascending) {
        let (found, value) = entry?;
        let damaged = || RecordError::Damaged { entry: "known key" };
        let public = found.get(prefix.len()..).unwrap_or_default().try_into();
        let (node, seen) = match value.split_first_chunk::<33>() {
            Some((node, [0])) => (*node, false),
            Some((node, [1])) => (*node, true),
            Some(_) | None => return Err(damaged()),
        };
        let public = PublicKey::from_bytes(public.map_err(|_| damaged())?);
        let node = NodeKey::from(node);
        history.insert(public, Known { node, seen });
    }
    let prefix = key(b'a', &[]);
    let end = |direction| {
        let entry = kv.scan(KeyRange::prefix(prefix.clone()), direction).next();
        let Some((found, _)) = entry.transpose()? else {
            return Ok(None);
        };
        number(found.get(prefix.len()..).unwrap_or_default(), "alarm").map(Some)
    };
    let next_alarm = end(Direction::Descending)?.map_or(1, |last| last.saturating_add(1));
    Ok(State {
        complete,
        losses: 0,
        history_known: kv.get(&key(b'h', &[]))?.is_some(),
        history: Arc::new(history),
        first_alarm: end(Direction::Ascending)?.unwrap_or(next_alarm),
        next_alarm,
    })
}

/// The payload hashes that follow a prefix, behind one of them.
fn hashes_behind(
    kv: &dyn Kv,
    prefix: Vec<u8>,
    behind: Option<&PayloadHash>,
    limit: usize,
) -> Result<Vec<PayloadHash>, RecordError> {
    let mut start = prefix.clone();
    if let Some(hash) = behind {
        start.extend_from_slice(hash.as_bytes());
        start.push(0);
    }
    let range = KeyRange::prefix_from(&prefix, start);
    let found = kv.scan(range, Direction::Ascending).take(limit);
    let hashes = found.map(|entry| {
        let (found, _) = entry?;
        let hash = found.get(prefix.len()..).unwrap_or_default().try_into();
        let hash = hash.map_err(|_| RecordError::Damaged { entry: "payload" })?;
        Ok(PayloadHash::from_bytes(hash))
    });
    hashes.collect()
}

fn identity_value(identity: &ExchangeIdentity) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&identity.chain_id.to_be_bytes());
    value.extend_from_slice(identity.genesis_hash.as_slice());
    value.extend_from_slice(identity.node.as_slice());
    value
}

fn check_identity(found: &[u8], own: &[u8]) -> Result<(), ExchangeOpenError> {
    let part = |value: &[u8], from: usize, to: usize| value.get(from..to).map(<[u8]>::to_vec);
    for (field, from, to) in [
        ("format", 0, 1),
        ("chain id", 1, 9),
        ("genesis hash", 9, 41),
        ("node", 41, 74),
    ] {
        if part(found, from, to) != part(own, from, to) {
            return Err(ExchangeOpenError::OtherNetwork { field });
        }
    }
    Ok(())
}

fn alarm_value(alarm: &Alarm) -> Vec<u8> {
    let mut value = alarm.at_ms.to_be_bytes().to_vec();
    value.extend_from_slice(alarm.transaction.as_slice());
    value.extend_from_slice(&alarm.height.to_be_bytes());
    value.extend_from_slice(alarm.payload.as_bytes());
    value.extend_from_slice(alarm.node.as_slice());
    value.extend_from_slice(alarm.ours.as_slice());
    value.extend_from_slice(alarm.theirs.as_slice());
    value
}

fn read_alarm(number: u64, value: &[u8]) -> Result<Alarm, RecordError> {
    fn part<const N: usize>(value: &mut &[u8]) -> Option<[u8; N]> {
        let (part, rest) = value.split_first_chunk::<N>()?;
        *value = rest;
        Some(*part)
    }
    let mut rest = value;
    let read = |rest: &mut &[u8]| {
        Some(Alarm {
            number,
            at_ms: u64::from_be_bytes(part(rest)?),
            transaction: B256::new(part(rest)?),
            height: u64::from_be_bytes(part(rest)?),
            payload: PayloadHash::from_bytes(part(rest)?),
            node: NodeKey::from(part::<33>(rest)?),
            ours: B256::new(part(rest)?),
            theirs: B256::new(part(rest)?),
        })
    };
    read(&mut rest).ok_or(RecordError::Damaged { entry: "alarm" })
}

fn number(bytes: &[u8], entry: &'static str) -> Result<u64, RecordError> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| RecordError::Damaged { entry })?;
    Ok(u64::from_be_bytes(bytes))
}

fn number_key(number: u64) -> Vec<u8> {
    key(b'a', &[&number.to_be_bytes()])
}

fn about_key(transaction: &B256, node: &NodeKey) -> Vec<u8> {
    key(b'b', &[transaction.as_slice(), node.as_slice()])
}

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

#[cfg(test)]
mod tests;
