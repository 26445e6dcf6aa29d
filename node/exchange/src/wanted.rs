//! Payloads that this node is, or may be, a party of and does not have: what to ask for, and when again.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_enclave::{PayloadHash, PublicKey};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics;

/// Most payloads that are looked for at once. Further ones are dropped and counted: whoever waits for one asks again.
const WANTED_MAX: usize = 4096;
/// First pause after nobody had it, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The list. Nothing of it survives a restart: the executor asks again.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    entries: Mutex<BTreeMap<PayloadHash, Entry>>,
    pub(crate) changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    attempts: u32,
    next_at: Instant,
    /// The key that sent it, if a tag says so.
    sender: Option<PublicKey>,
}

impl Wanted {
    /// Adds a payload, due at once. One that is listed keeps its time, and learns its sender.
    pub(crate) fn add(&self, hash: &PayloadHash, sender: Option<PublicKey>) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(hash) {
            entry.sender = entry.sender.or(sender);
            return;
        }
        if entries.len() >= WANTED_MAX {
            metrics::dropped("wanted");
            return;
        }
        let entry = Entry {
            attempts: 0,
            next_at: Instant::now(),
            sender,
        };
        entries.insert(*hash, entry);
        metrics::wanted(entries.len());
        drop(entries);
        self.changed.notify_one();
    }

    /// It is here. Returns whether it was listed.
    pub(crate) fn found(&self, hash: &PayloadHash) -> bool {
        let mut entries = self.entries.lock();
        let listed = entries.remove(hash).is_some();
        if listed {
            metrics::wanted(entries.len());
        }
        listed
    }

    /// Takes up to `limit` payloads that are due; each is due again after a pause that doubles.
    pub(crate) fn due(&self, limit: usize) -> Vec<(PayloadHash, Option<PublicKey>)> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let due = entries.iter_mut().filter(|(_, entry)| entry.next_at <= now);
        let due = due.take(limit).map(|(hash, entry)| {
            let pause = PAUSE_FIRST.saturating_mul(1 << entry.attempts.min(10));
            entry.attempts = entry.attempts.saturating_add(1);
            entry.next_at = now + pause.min(PAUSE_MAX);
            (*hash, entry.sender)
        });
        due.collect()
    }

    /// Everything is due now: a member is there again.
    pub(crate) fn wake(&self) {
        let now = Instant::now();
        for entry in self.entries.lock().values_mut() {
            entry.next_at = entry.next_at.min(now);
            entry.attempts = 0;
        }
        self.changed.notify_one();
    }

    /// When the next one is due.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.entries.lock().values().map(|e| e.next_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> PayloadHash {
        PayloadHash::from_bytes([n; 64])
    }

    #[tokio::test(start_paused = true)]
    async fn a_payload_is_asked_for_again_after_pauses_that_grow_up_to_a_limit() {
        let wanted = Wanted::default();
        wanted.add(&hash(1), None);
        wanted.add(&hash(1), Some(PublicKey::from_bytes([7; 32])));
        assert_eq!(
            wanted.due(10),
            [(hash(1), Some(PublicKey::from_bytes([7; 32])))]
        );
        assert_eq!(wanted.due(10), []);
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let before = Instant::now();
            let next = wanted.next_at().unwrap();
            tokio::time::sleep_until(next).await;
            let pause = Instant::now() - before;
            assert!(pause >= last && pause <= PAUSE_MAX, "{pause:?}");
            last = pause;
            assert_eq!(wanted.due(10).len(), 1);
        }
        assert_eq!(last, PAUSE_MAX);
        wanted.wake();
        assert_eq!(wanted.due(10).len(), 1);
        assert!(wanted.found(&hash(1)));
        assert!(!wanted.found(&hash(1)));
        assert_eq!(wanted.next_at(), None);
    }

    #[tokio::test]
    async fn more_than_the_limit_are_dropped() {
        let wanted = Wanted::default();
        for n in 0..WANTED_MAX + 5 {
            let mut bytes = [0; 64];
            bytes[..8].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
            wanted.add(&PayloadHash::from_bytes(bytes), None);
        }
        assert_eq!(wanted.due(usize::MAX).len(), WANTED_MAX);
    }
}
