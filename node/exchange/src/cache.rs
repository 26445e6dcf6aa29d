//! Opened payloads in memory, so that one that just arrived, or is executed again soon, need not be read and opened anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_enclave::{PayloadHash, PublicKey};
use quorate_privacy::{Content, SignedTerms};

/// What every entry takes beside its data.
const ENTRY_BYTES: usize = 1024;

/// A payload that one of our keys opened, with what its sending node signed about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenedPayload {
    pub(crate) content: Content,
    pub(crate) as_recipient: PublicKey,
    pub(crate) sender: PublicKey,
    pub(crate) terms: SignedTerms,
}

/// Opened payloads up to a number of bytes; the one that was not used for longest goes first.
#[derive(Debug)]
pub(crate) struct OpenedCache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    /// Rises with every use.
    clock: u64,
    entries: BTreeMap<PayloadHash, (u64, Arc<OpenedPayload>)>,
    by_use: BTreeMap<u64, PayloadHash>,
}

impl OpenedCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, hash: &PayloadHash) -> Option<Arc<OpenedPayload>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.clock = state.clock.saturating_add(1);
        let clock = state.clock;
        let (used, payload) = state.entries.get_mut(hash)?;
        state.by_use.remove(used);
        *used = clock;
        state.by_use.insert(clock, *hash);
        Some(Arc::clone(payload))
    }

    pub(crate) fn put(&self, hash: PayloadHash, payload: Arc<OpenedPayload>) {
        let size = size_of_entry(&payload);
        if size > self.bytes_max {
            return;
        }
        let mut state = self.state.lock();
        state.remove(&hash);
        while state.bytes.saturating_add(size) > self.bytes_max {
            let Some((_, oldest)) = state.by_use.pop_first() else {
                break;
            };
            state.remove(&oldest);
        }
        state.clock = state.clock.saturating_add(1);
        let clock = state.clock;
        state.bytes = state.bytes.saturating_add(size);
        state.by_use.insert(clock, hash);
        state.entries.insert(hash, (clock, payload));
    }

    pub(crate) fn remove(&self, hash: &PayloadHash) {
        self.state.lock().remove(hash);
    }
}

impl State {
    fn remove(&mut self, hash: &PayloadHash) {
        if let Some((used, payload)) = self.entries.remove(hash) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(size_of_entry(&payload));
        }
    }
}

fn size_of_entry(payload: &OpenedPayload) -> usize {
    let parties = payload.terms.terms.parties.len() * 64;
    payload.content.data().map_or(0, |data| data.len()) + parties + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Bytes;
    use quorate_enclave::{NodeKey, PrivacyFlag};
    use quorate_privacy::{Acknowledgements, Terms};

    use super::*;

    fn hash(n: u8) -> PayloadHash {
        PayloadHash::from_bytes([n; 64])
    }

    fn payload(n: u8, bytes: usize) -> Arc<OpenedPayload> {
        let key = PublicKey::from_bytes([n; 32]);
        let terms = Terms {
            hash: hash(n),
            flag: PrivacyFlag::Standard,
            group: None,
            sender: key,
            from: None,
            parties: Default::default(),
            mandatory: Default::default(),
            affected: Default::default(),
            exec_root: None,
            base: Default::default(),
            sender_node: NodeKey::from([2; 33]),
            acknowledgements: Acknowledgements::All,
        };
        Arc::new(OpenedPayload {
            content: Content::Data(Bytes::from(vec![n; bytes])),
            as_recipient: key,
            sender: key,
            terms: SignedTerms {
                terms,
                signature: [0; 65],
            },
        })
    }

    #[test]
    fn the_entry_that_was_not_used_for_longest_makes_room() {
        let cache = OpenedCache::new(3 * (ENTRY_BYTES + 100));
        for n in 1..=3 {
            cache.put(hash(n), payload(n, 100));
        }
        assert!(cache.get(&hash(1)).is_some());
        cache.put(hash(4), payload(4, 100));
        assert!(cache.get(&hash(2)).is_none());
        for n in [1, 3, 4] {
            assert!(cache.get(&hash(n)).is_some(), "{n}");
        }
        // Replacing counts once, and what is too large is not kept at all.
        cache.put(hash(4), payload(4, 100));
        cache.put(hash(5), payload(5, 100_000));
        assert!(cache.get(&hash(5)).is_none());
        for n in [1, 3, 4] {
            assert!(cache.get(&hash(n)).is_some(), "{n}");
        }
        cache.remove(&hash(1));
        cache.put(hash(6), payload(6, 100));
        for n in [3, 4, 6] {
            assert!(cache.get(&hash(n)).is_some(), "{n}");
        }
    }
}
