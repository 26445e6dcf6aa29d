//! Payloads on their way to the disk: those that come while a write is under way go together in the next one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use quorate_enclave::{Envelope, PayloadHash};
use quorate_privacy::SignedTerms;
use tokio::sync::oneshot;

use crate::clock::now_ms;
use crate::records::Admitted;
use crate::{Exchange, ExchangeError};

/// Most payloads of one write.
const WRITE_MAX: usize = 256;

/// What is to be kept.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As long as the number of callers that wait.
    waiting: Vec<Waiting>,
    /// Payloads that were acknowledged as asked, with the time. Written with what is kept next, or at once if nothing is.
    acknowledged: BTreeMap<PayloadHash, u64>,
    working: bool,
}

#[derive(Debug)]
struct Waiting {
    payload: ToKeep,
    reply: oneshot::Sender<Result<Admitted, ExchangeError>>,
}

/// A payload, with its terms and the time of its expiry.
#[derive(Debug, Clone)]
pub(crate) struct ToKeep {
    pub(crate) envelope: Envelope,
    pub(crate) terms: SignedTerms,
    pub(crate) expires_at_ms: Option<u64>,
}

impl Keeper {
    /// When a payload was acknowledged, if that is not written yet.
    pub(crate) fn acknowledged_at(&self, hash: &PayloadHash) -> Option<u64> {
        self.state.lock().acknowledged.get(hash).copied()
    }

    /// Enters something. True if someone must begin to write.
    fn enter(&self, change: impl FnOnce(&mut State)) -> bool {
        let mut state = self.state.lock();
        change(&mut state);
        !std::mem::replace(&mut state.working, true)
    }

    /// The next write. `None`: nothing is left, and nobody writes any more.
    fn next(&self) -> Option<(Vec<Waiting>, BTreeMap<PayloadHash, u64>)> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() && state.acknowledged.is_empty() {
            state.working = false;
            return None;
        }
        let count = state.waiting.len().min(WRITE_MAX);
        let waiting = state.waiting.drain(..count).collect();
        // They stay readable here until they are written.
        Some((waiting, state.acknowledged.clone()))
    }

    fn written(&self, acknowledged: &BTreeMap<PayloadHash, u64>) {
        let mut state = self.state.lock();
        state
            .acknowledged
            .retain(|hash, at| acknowledged.get(hash) != Some(at));
    }
}

impl Exchange {
    /// Keeps a payload and its terms durably, together with others that come at the same time.
    pub(crate) async fn keep_durably(&self, payload: ToKeep) -> Result<Admitted, ExchangeError> {
        let (reply, kept) = oneshot::channel();
        let begin = self
            .inner
            .keeper
            .enter(|state| state.waiting.push(Waiting { payload, reply }));
        if begin {
            // On its own, since the others' payloads must be kept also if this caller gives up.
            tokio::spawn(self.clone().keep_all());
        }
        kept.await.unwrap_or(Err(ExchangeError::Stopping))
    }

    /// Remembers that a payload was acknowledged as its sender asked; not durable: it says what happened, no more.
    pub(crate) fn note_acknowledged(&self, hash: PayloadHash) {
        let begin = self.inner.keeper.enter(|state| {
            state.acknowledged.insert(hash, now_ms());
        });
        if begin {
            tokio::spawn(self.clone().keep_all());
        }
    }

    async fn keep_all(self) {
        while let Some((waiting, acknowledged)) = self.inner.keeper.next() {
            let (payloads, replies): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .map(|waiting| (waiting.payload, waiting.reply))
                .unzip();
            let kept = self.write(payloads, acknowledged).await;
            for (reply, kept) in replies.into_iter().zip(kept) {
                // Who gave up meanwhile does not want to know.
                drop(reply.send(kept));
            }
        }
    }

    async fn write(
        &self,
        payloads: Vec<ToKeep>,
        acknowledged: BTreeMap<PayloadHash, u64>,
    ) -> Vec<Result<Admitted, ExchangeError>> {
        let mut terms = Vec::with_capacity(payloads.len());
        let mut envelopes = Vec::with_capacity(payloads.len());
        for payload in payloads {
            terms.push(payload.terms);
            envelopes.push((payload.envelope, payload.expires_at_ms));
        }
        let count = terms.len();
        // Both wait for the disk, so side by side. Whichever a crash leaves alone is harmless: terms without a payload say nothing,
        // and a payload without terms counts as missing.
        let of_terms = self.blocking(move |inner| {
            let admitted = inner.records.admit_terms(&terms, &acknowledged)?;
            inner.keeper.written(&acknowledged);
            // Known ones may have been written by someone who is still waiting for the disk.
            if admitted.iter().any(|a| *a != Admitted::Executed) {
                inner.records.make_durable()?;
            }
            Ok(admitted)
        });
        let of_payloads = async {
            if count == 0 {
                return Ok(Vec::new());
            }
            self.blocking(move |inner| Ok(inner.store.put_all(&envelopes, now_ms())))
                .await
        };
        let (admitted, stored) = tokio::join!(of_terms, of_payloads);
        match (admitted, stored) {
            (Err(error), _) | (_, Err(error)) => vec![Err(error); count],
            (Ok(admitted), Ok(stored)) => {
                let each = admitted.into_iter().zip(stored);
                each.map(|(admitted, stored)| {
                    stored?;
                    Ok(admitted)
                })
                .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_known_until_it_is_written_and_one_writer_is_enough() {
        let keeper = Keeper::default();
        let hash = |n| PayloadHash::from_bytes([n; 64]);
        let note = |n, at| {
            keeper.enter(|state| {
                state.acknowledged.insert(hash(n), at);
            })
        };
        assert!(note(1, 10));
        assert!(!note(2, 20));
        let (waiting, acknowledged) = keeper.next().expect("two notes");
        assert!(waiting.is_empty());
        assert_eq!(acknowledged.len(), 2);
        // Again, while the first is being written.
        assert!(!note(2, 30));
        keeper.written(&acknowledged);
        assert_eq!(keeper.acknowledged_at(&hash(1)), None);
        assert_eq!(keeper.acknowledged_at(&hash(2)), Some(30));
        let (_, acknowledged) = keeper.next().expect("one note");
        keeper.written(&acknowledged);
        assert!(keeper.next().is_none());
        assert!(note(3, 40));
    }
}
