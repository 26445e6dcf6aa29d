//! Payloads on their way to the disk: those that come while a write is under way go together in the next one.

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_enclave::{Beside, Envelope, PayloadHash, Put, StoreError, ToStore};
use quorate_privacy::SignedTerms;
use tokio::sync::oneshot;

use crate::clock::now_ms;
use crate::exchange::Inner;
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
    working: bool,
}

#[derive(Debug)]
struct Waiting {
    payload: ToKeep,
    reply: oneshot::Sender<Result<Kept, ExchangeError>>,
}

/// What came of keeping a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is here, with these terms.
    Here,
    /// It was executed with other terms, and nothing was changed.
    Executed,
}

/// A payload, with its terms and the time of its expiry.
#[derive(Debug, Clone)]
pub(crate) struct ToKeep {
    pub(crate) envelope: Envelope,
    pub(crate) terms: SignedTerms,
    pub(crate) expires_at_ms: Option<u64>,
}

impl Keeper {
    /// Enters a payload. True if someone must begin to write.
    fn enter(&self, waiting: Waiting) -> bool {
        let mut state = self.state.lock();
        state.waiting.push(waiting);
        !std::mem::replace(&mut state.working, true)
    }

    /// The next write. `None`: nothing is left, and nobody writes any more.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            state.working = false;
            return None;
        }
        let count = state.waiting.len().min(WRITE_MAX);
        Some(state.waiting.drain(..count).collect())
    }
}

impl Exchange {
    /// Keeps a payload and its terms durably, together with others that come at the same time.
    pub(crate) async fn keep_durably(&self, payload: ToKeep) -> Result<Kept, ExchangeError> {
        let (reply, kept) = oneshot::channel();
        if self.inner.keeper.enter(Waiting { payload, reply }) {
            // On its own, since the others' payloads must be kept also if this caller gives up.
            tokio::spawn(self.clone().keep_all());
        }
        kept.await.unwrap_or(Err(ExchangeError::Stopping))
    }

    async fn keep_all(self) {
        while let Some(waiting) = self.inner.keeper.next() {
            let (payloads, replies): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .map(|waiting| (waiting.payload, waiting.reply))
                .unzip();
            let count = payloads.len();
            let kept = self.blocking(move |inner| inner.keep(payloads)).await;
            let kept = kept.unwrap_or_else(|error| vec![Err(error); count]);
            for (reply, kept) in replies.into_iter().zip(kept) {
                // Who gave up meanwhile does not want to know.
                drop(reply.send(kept));
            }
        }
    }
}

impl Inner {
    /// Keeps payloads durably. By one caller at a time.
    fn keep(
        &self,
        payloads: Vec<ToKeep>,
    ) -> Result<Vec<Result<Kept, ExchangeError>>, ExchangeError> {
        let terms = payloads.iter().map(|payload| &payload.terms.terms);
        if terms.clone().any(|terms| !terms.parties.is_empty()) {
            // First: of a payload that is here, all whom its terms name can learn. Names without a payload say nothing.
            self.records.name_parties(terms)?;
            self.records.make_durable()?;
        }
        let items = payloads.into_iter().map(|payload| ToStore {
            envelope: payload.envelope,
            expires_at_ms: payload.expires_at_ms,
            beside: Some(payload.terms.encode().into()),
        });
        let choose = |hash: &PayloadHash, held: Option<&Bytes>, given: &Bytes| {
            self.choose_terms(hash, held, given)
        };
        let put = self.store.put_all(items.collect(), now_ms(), &choose);
        let kept = |put: Result<Put, StoreError>| match put? {
            Put::Stored | Put::Merged | Put::Known => Ok(Kept::Here),
            Put::Fixed => Ok(Kept::Executed),
        };
        Ok(put.into_iter().map(kept).collect())
    }

    /// Terms give way to others until they were executed. A signature makes no difference: the same terms, sent again, may have been
    /// signed together with others.
    fn choose_terms(&self, hash: &PayloadHash, held: Option<&Bytes>, given: &Bytes) -> Beside {
        // What cannot be read is no reason to refuse what can.
        let terms = self.terms(hash, held).ok().flatten();
        let same = match (&terms, SignedTerms::decode(given)) {
            (Some(old), Ok(new)) => old.terms == new.terms,
            (_, Ok(_) | Err(_)) => false,
        };
        match (same, held) {
            (true, Some(_)) => Beside::Old,
            // From where an earlier version kept them to where they belong.
            (true, None) => Beside::New,
            (false, _) if self.was_executed(hash) => Beside::Fixed,
            (false, _) => Beside::New,
        }
    }
}
