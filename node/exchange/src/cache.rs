//! Opened payloads in memory, so that one that just arrived, or is executed again soon, need not be read and opened anew.
//!
//! What is erased must not be served from here, and not come back by a reader that found it on the disk just before: whoever erases
//! closes the cache meanwhile, and whoever fills it shows that it was open since before the payload was looked for.

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
    /// Whom our copy has boxes for.
    pub(crate) recipients: Vec<PublicKey>,
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
    /// How many are erasing now.
    erasing: usize,
    /// Rises with every erasure that begins or ends.
    erasures: u64,
    /// Rises with every use.
    clock: u64,
    entries: BTreeMap<PayloadHash, (u64, Arc<OpenedPayload>)>,
    by_use: BTreeMap<u64, PayloadHash>,
}

/// That no erasure was under way at some time. What was found since then may be put into the cache, if none began after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since(Option<u64>);

/// While this lives the cache gives out nothing and takes nothing.
#[derive(Debug)]
pub(crate) struct Erasing<'a>(&'a OpenedCache);

impl Erasing<'_> {
    pub(crate) fn remove(&self, hash: &PayloadHash) {
        self.0.state.lock().remove(hash);
    }
}

impl Drop for Erasing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.erasing = state.erasing.saturating_sub(1);
        state.erasures = state.erasures.wrapping_add(1);
    }
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
        if state.erasing > 0 {
            return None;
        }
        state.clock = state.clock.saturating_add(1);
        let clock = state.clock;
        let (used, payload) = state.entries.get_mut(hash)?;
        state.by_use.remove(used);
        *used = clock;
        state.by_use.insert(clock, *hash);
        Some(Arc::clone(payload))
    }

    /// To be asked before a payload that will be put here is looked for, or kept.
    pub(crate) fn since_now(&self) -> Since {
        let state = self.state.lock();
        Since((state.erasing == 0).then_some(state.erasures))
    }

    pub(crate) fn put(&self, hash: PayloadHash, payload: Arc<OpenedPayload>, since: Since) {
        let size = size_of_entry(&payload);
        if size > self.bytes_max {
            return;
        }
        let mut state = self.state.lock();
        if since.0 != Some(state.erasures) {
            return;
        }
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

    /// To be held from before a payload is erased until it is removed from here.
    pub(crate) fn erasing(&self) -> Erasing<'_> {
        let mut state = self.state.lock();
        state.erasing = state.erasing.saturating_add(1);
        state.erasures = state.erasures.wrapping_add(1);
        Erasing(self)
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
    let keys = payload.terms.terms.parties.len() * 64 + payload.recipients.len() * 32;
    payload.content.data().map_or(0, |data| data.len()) + keys + ENTRY_BYTES
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
                path: Vec::new(),
            },
            recipients: Vec::new(),
        })
    }

    fn put(cache: &OpenedCache, hash: PayloadHash, payload: Arc<OpenedPayload>) {
        cache.put(hash, payload, cache.since_now());
    }

    #[test]
    fn what_is_erased_is_not_given_out_meanwhile_and_no_late_reader_brings_it_back() {
        let cache = OpenedCache::new(1 << 20);
        for n in [1, 2] {
            put(&cache, hash(n), payload(n, 1));
        }
        let before = cache.since_now();
        let erasing = cache.erasing();
        let during = cache.since_now();
        assert!(cache.get(&hash(1)).is_none());
        cache.put(hash(1), payload(1, 1), before);
        cache.put(hash(1), payload(1, 1), during);
        let another = cache.erasing();
        erasing.remove(&hash(1));
        drop(erasing);
        assert!(cache.get(&hash(2)).is_none(), "another goes on");
        drop(another);
        for late in [before, during] {
            cache.put(hash(1), payload(1, 1), late);
            assert!(cache.get(&hash(1)).is_none());
        }
        assert!(cache.get(&hash(2)).is_some());
        put(&cache, hash(3), payload(3, 1));
        assert!(cache.get(&hash(3)).is_some());
    }

    #[test]
    fn the_entry_that_was_not_used_for_longest_makes_room() {
        let cache = OpenedCache::new(3 * (ENTRY_BYTES + 100));
        for n in 1..=3 {
            put(&cache, hash(n), payload(n, 100));
        }
        assert!(cache.get(&hash(1)).is_some());
        put(&cache, hash(4), payload(4, 100));
        assert!(cache.get(&hash(2)).is_none());
        for n in [1, 3, 4] {
            assert!(cache.get(&hash(n)).is_some(), "{n}");
        }
        // Replacing counts once, and what is too large is not kept at all.
        put(&cache, hash(4), payload(4, 100));
        put(&cache, hash(5), payload(5, 100_000));
        assert!(cache.get(&hash(5)).is_none());
        for n in [1, 3, 4] {
            assert!(cache.get(&hash(n)).is_some(), "{n}");
        }
        cache.erasing().remove(&hash(1));
        put(&cache, hash(6), payload(6, 100));
        for n in [3, 4, 6] {
            assert!(cache.get(&hash(n)).is_some(), "{n}");
        }
    }
}
