//! Erasing payloads, by request or when their time is over, and doing without those that nobody has any more.
//!
//! ```text
//! erase ── whose it was, durably ── what came of it, durably ── tombstone ── overwritten ── out of memory and the outbox
//! ```
//! An erased payload cannot be executed again, here or by a party that lost its disk. So private state is made durable first, and
//! its parties can ask later on: what nobody has any more must not look like what was never theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_enclave::{
    Cursor, DeliveryState, Erasure, ErasureReason, PayloadHash, PublicKey, StoreError, Stored,
};

use crate::clock::now_ms;
use crate::exchange::Inner;
use crate::{Exchange, ExchangeError, RecordError, StateView};

/// Payloads that are erased, or given up, at one go.
const BATCH: usize = 256;
/// How much longer than its time a payload is kept that was not executed here, or that a recipient has not got yet, in milliseconds of
/// the chain's time. If it were erased at its time, a transaction that comes late would be executed by some parties and not by others.
const UNFINISHED_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Pause between two looks for payloads whose time is over; and when many had to be kept, which would be looked at each time.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_BEHIND: Duration = Duration::from_secs(300);

/// What came of a page of payloads whose time is over.
struct Page {
    /// Where the next one begins, if there may be one.
    next: Option<(u64, PayloadHash)>,
    /// How many had to be kept.
    kept: usize,
}

impl Exchange {
    /// Overwrites a payload here for ever; its hash, and the record of this, stay. Others are not asked to do the same.
    ///
    /// # Errors
    /// [`ExchangeError::Missing`], [`ExchangeError::PrivateState`], [`ExchangeError::Store`].
    pub async fn erase(
        &self,
        hash: PayloadHash,
        reason: ErasureReason,
        note: String,
    ) -> Result<Erasure, ExchangeError> {
        let erased = self.blocking(move |inner| inner.erase(&[hash], reason, &note));
        let erasure = erased.await?.pop();
        erasure.ok_or(ExchangeError::Missing { hash })
    }

    /// Goes on without a payload that is not here: private execution does not wait for it any more, and it is not taken if it comes
    /// after all. The record of this stays with those of erasures.
    ///
    /// # Errors
    /// [`ExchangeError::Here`], [`ExchangeError::Store`].
    pub async fn give_up(&self, hash: PayloadHash, note: String) -> Result<Erasure, ExchangeError> {
        let given_up = self.blocking(move |inner| inner.give_up(&[hash], &note));
        let record = given_up.await?.pop().flatten();
        record.ok_or(ExchangeError::Here { hash })
    }

    /// As [`give_up`](Self::give_up), with all payloads of ours that are not here and that another member said it erased, when this node
    /// asked all of them for what it lacks. Returns how many these were.
    ///
    /// # Errors
    /// [`ExchangeError::Incomplete`] as long as somebody may still have them; [`ExchangeError::Store`].
    pub async fn give_up_erased(&self, note: String) -> Result<u64, ExchangeError> {
        if !self.is_complete() {
            return Err(ExchangeError::Incomplete);
        }
        self.blocking(move |inner| {
            let mut given_up = 0;
            let mut behind = None;
            loop {
                let page = inner.records.all_erased_elsewhere(behind.as_ref(), BATCH)?;
                let Some(last) = page.last() else {
                    return Ok(given_up);
                };
                behind = Some(*last);
                let mut absent = Vec::new();
                for hash in page {
                    match inner.store.get(&hash) {
                        Ok(None) => absent.push(hash),
                        Ok(Some(_)) | Err(StoreError::Damaged { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                let records = inner.give_up(&absent, &note)?;
                given_up += records.iter().flatten().count() as u64;
            }
        })
        .await
    }

    /// Erasures in the order in which they happened, behind a place, at most `limit`.
    ///
    /// # Errors
    /// [`ExchangeError::Store`].
    pub async fn erasures(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<Erasure>, ExchangeError> {
        self.blocking(move |inner| Ok(inner.store.erasures(after, limit)?))
            .await
    }

    /// Erases what its group lets live no longer. Returns how long to pause then.
    pub(crate) async fn expiry_round(&self) -> Result<Duration, ExchangeError> {
        let mut behind = None;
        let mut kept = 0;
        loop {
            let page = self
                .blocking(move |inner| inner.erase_expired(behind))
                .await?;
            kept += page.kept;
            behind = page.next;
            if behind.is_none() {
                return Ok(if kept > BATCH { PAUSE_BEHIND } else { PAUSE });
            }
        }
    }
}

impl Inner {
    /// Erases those of these payloads that are here. The records of them, and of those that were erased before.
    fn erase(
        &self,
        hashes: &[PayloadHash],
        reason: ErasureReason,
        note: &str,
    ) -> Result<Vec<Erasure>, ExchangeError> {
        let mut known = Vec::new();
        for hash in hashes {
            match self.store.get(hash) {
                Ok(None) => continue,
                Ok(Some(stored)) => self
                    .records
                    .erasing(&self.parties_of(hash, &stored)?, hash)?,
                Err(error @ StoreError::Damaged { .. }) => {
                    tracing::warn!(payload = %hash, error = %error, "whom a payload belongs to that is erased cannot be read");
                }
                Err(error) => return Err(error.into()),
            }
            known.push(*hash);
        }
        if known.is_empty() {
            return Ok(Vec::new());
        }
        self.records.make_durable()?;
        self.let_go(&known)?;
        let erased = self.overwrite(&known, reason, note);
        // They may have been executed meanwhile.
        self.let_go(&known)?;
        erased
    }

    fn overwrite(
        &self,
        hashes: &[PayloadHash],
        reason: ErasureReason,
        note: &str,
    ) -> Result<Vec<Erasure>, ExchangeError> {
        let erasing = self.cache.erasing();
        let mut erased = Vec::new();
        for hash in hashes {
            erased.extend(self.store.erase(hash, reason, note, now_ms())?);
            erasing.remove(hash);
            self.wanted.found(hash);
            self.outbox.forget(hash)?;
        }
        Ok(erased)
    }

    /// The keys that a payload is between, as far as this node knows.
    fn parties_of(
        &self,
        hash: &PayloadHash,
        stored: &Stored,
    ) -> Result<BTreeSet<PublicKey>, ExchangeError> {
        let Stored::Held {
            envelope, beside, ..
        } = stored
        else {
            return Ok(BTreeSet::new());
        };
        let mut parties: BTreeSet<PublicKey> =
            envelope.recipients().chain([envelope.sender()]).collect();
        match self.terms(hash, beside.as_ref()) {
            Ok(terms) => parties.extend(terms.into_iter().flat_map(|terms| terms.terms.parties)),
            Err(ExchangeError::Records(error @ RecordError::Damaged { .. })) => {
                tracing::warn!(payload = %hash, error = %error, "the terms of a payload that is erased cannot be read");
            }
            Err(error) => return Err(error),
        }
        Ok(parties)
    }

    fn let_go(&self, hashes: &[PayloadHash]) -> Result<(), ExchangeError> {
        let Some(view) = self.state_view() else {
            return Ok(());
        };
        view.let_go(hashes)
            .map_err(|reason| ExchangeError::PrivateState { reason })
    }

    fn give_up(
        &self,
        hashes: &[PayloadHash],
        note: &str,
    ) -> Result<Vec<Option<Erasure>>, ExchangeError> {
        let records = self.store.give_up(hashes, note, now_ms())?;
        for record in records.iter().flatten() {
            self.wanted.found(&record.hash);
        }
        Ok(records)
    }

    /// Erases a page of what has expired, behind a place.
    fn erase_expired(&self, behind: Option<(u64, PayloadHash)>) -> Result<Page, ExchangeError> {
        let now = now_ms();
        let page = self.store.expired(now, behind, BATCH)?;
        let mut due = Vec::new();
        if let Some(view) = self.state_view() {
            // Asked first: what is not executed then is in no block up to that time.
            let executed_until = view.executed_until_ms();
            for (at_ms, hash) in &page {
                let finished = || self.is_finished(&*view, hash);
                if is_due(*at_ms, now, executed_until, finished) {
                    due.push(*hash);
                }
            }
        }
        let erased = match self.erase(&due, ErasureReason::Expired, "") {
            // One of them may be to blame.
            Err(ExchangeError::PrivateState { .. }) => self.erase_one_by_one(&due)?,
            erased => erased?.len(),
        };
        Ok(Page {
            next: page.last().copied().filter(|_| page.len() == BATCH),
            kept: page.len().saturating_sub(erased),
        })
    }

    /// Erases those that private state lets go of. Returns how many these were.
    fn erase_one_by_one(&self, due: &[PayloadHash]) -> Result<usize, ExchangeError> {
        let mut erased = 0;
        for hash in due {
            match self.erase(&[*hash], ErasureReason::Expired, "") {
                Ok(records) => erased += records.len(),
                // Whoever executes notices by itself that its storage fails.
                Err(ExchangeError::PrivateState { reason }) => {
                    kept(hash, &reason);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(erased)
    }

    /// True if a payload was executed here, and everyone has it that this node sends it to.
    fn is_finished(&self, view: &dyn StateView, hash: &PayloadHash) -> bool {
        let executed = view.was_executed(hash);
        let deliveries = self.outbox.deliveries(hash);
        match (executed, deliveries) {
            (Ok(executed), Ok(deliveries)) => {
                let pending = |d: &quorate_enclave::Delivery| d.state == DeliveryState::Pending;
                executed && !deliveries.iter().any(pending)
            }
            (Err(reason), _) => kept(hash, &reason),
            (_, Err(error)) => kept(hash, &error.to_string()),
        }
    }
}

/// An expired payload of which something cannot be read is not finished.
fn kept(hash: &PayloadHash, reason: &str) -> bool {
    tracing::error!(payload = %hash, reason, "an expired payload is kept: what became of it cannot be read");
    false
}

/// What is not finished is long over by the time of the chain, not of this machine: a node that was away has not seen yet what came.
fn is_due(
    expires_at_ms: u64,
    now_ms: u64,
    executed_until_ms: Option<u64>,
    is_finished: impl FnOnce() -> bool,
) -> bool {
    let long_over = expires_at_ms.saturating_add(UNFINISHED_KEPT_MS);
    now_ms >= expires_at_ms
        && (executed_until_ms.is_some_and(|until| until >= long_over) || is_finished())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_still_needed_is_kept_until_the_chain_is_a_week_older() {
        let due = |now, until, finished| is_due(1_000, now, until, || finished);
        let week_later = 1_000 + UNFINISHED_KEPT_MS;
        for until in [None, Some(1_000), Some(week_later - 1)] {
            assert!(!due(999, until, true));
            assert!(due(1_000, until, true));
            assert!(!due(u64::MAX, until, false));
        }
        assert!(due(1_000, Some(week_later), false));
        assert!(!due(999, Some(week_later), false));
    }
}
