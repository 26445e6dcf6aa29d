//! Erasing payloads, by request or when their time is over, and doing without those that nobody has any more.
//!
//! ```text
//! erase ── whose it was, durably ── what came of it, durably ── tombstone ── overwritten ── out of memory and the outbox
//! ```
//! An erased payload cannot be executed again, here or by a party that lost its disk. So private state is made durable first, and
//! its parties can ask later on: what nobody has any more must not look like what was never theirs.

use std::collections::BTreeSet;

use quorate_enclave::{
    Cursor, DeliveryState, Erasure, ErasureReason, PayloadHash, PublicKey, StoreError, Stored,
};

use crate::clock::now_ms;
use crate::exchange::Inner;
use crate::{Exchange, ExchangeError};

/// Payloads that are erased, or given up, at one go.
const BATCH: usize = 256;
/// How much longer than its time a payload is kept that was not executed here, or that a recipient has not got yet, in milliseconds.
/// If it were erased at its time, a transaction that comes late would be executed by some parties and not by others.
const UNFINISHED_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

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
        let given_up = self.blocking(move |inner| inner.give_up(&hash, &note));
        given_up.await?.ok_or(ExchangeError::Here { hash })
    }

    /// As [`give_up`](Self::give_up), with all payloads of ours that are not here and that another member said it erased. Returns how
    /// many these were.
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
                for hash in &page {
                    let absent = inner.store.get(hash)?.is_none();
                    if absent && inner.give_up(hash, &note)?.is_some() {
                        given_up += 1;
                    }
                }
                inner.records.forget_erased_elsewhere(&page)?;
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

    /// Erases what its group lets live no longer.
    pub(crate) async fn expiry_round(&self) -> Result<(), ExchangeError> {
        let mut behind = None;
        loop {
            let page = self
                .blocking(move |inner| inner.erase_expired(behind))
                .await?;
            match page {
                None => return Ok(()),
                Some(last) => behind = Some(last),
            }
        }
    }
}

impl Inner {
    /// Erases those of these payloads that are here.
    fn erase(
        &self,
        hashes: &[PayloadHash],
        reason: ErasureReason,
        note: &str,
    ) -> Result<Vec<Erasure>, ExchangeError> {
        let mut parties = Vec::new();
        for hash in hashes {
            parties.extend(self.parties_of(hash)?.into_iter().map(|key| (key, hash)));
        }
        self.records.erasing(parties.into_iter())?;
        self.records.make_durable()?;
        self.let_go(hashes)?;
        let erasing = self.cache.erasing();
        let mut erased = Vec::new();
        for hash in hashes {
            erased.extend(self.store.erase(hash, reason, note, now_ms())?);
            erasing.remove(hash);
            self.wanted.found(hash);
            self.outbox.forget(hash)?;
        }
        drop(erasing);
        // It may have been executed meanwhile.
        self.let_go(hashes)?;
        Ok(erased)
    }

    /// The keys that a payload is between, as far as this node knows. None if it is not here, or cannot be read.
    fn parties_of(&self, hash: &PayloadHash) -> Result<BTreeSet<PublicKey>, ExchangeError> {
        let stored = match self.store.get(hash) {
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::warn!(payload = %hash, error = %error, "whom a payload belongs to that is erased cannot be read");
                return Ok(BTreeSet::new());
            }
            stored => stored?,
        };
        let Some(Stored::Held {
            envelope, beside, ..
        }) = stored
        else {
            return Ok(BTreeSet::new());
        };
        let mut parties: BTreeSet<PublicKey> =
            envelope.recipients().chain([envelope.sender()]).collect();
        if let Some(terms) = self.terms(hash, beside.as_ref())? {
            parties.extend(terms.terms.parties);
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

    fn give_up(&self, hash: &PayloadHash, note: &str) -> Result<Option<Erasure>, ExchangeError> {
        let given_up = self.store.give_up(hash, note, now_ms())?;
        if given_up.is_some() {
            self.wanted.found(hash);
        }
        Ok(given_up)
    }

    /// Erases a page of what has expired, behind a place. Where the next page begins, if there may be one.
    fn erase_expired(
        &self,
        behind: Option<(u64, PayloadHash)>,
    ) -> Result<Option<(u64, PayloadHash)>, ExchangeError> {
        let now = now_ms();
        let page = self.store.expired(now, behind, BATCH)?;
        let last = page.last().copied();
        let mut due = Vec::new();
        for (at_ms, hash) in &page {
            if is_due(*at_ms, now, || self.is_finished(hash))? {
                due.push(*hash);
            }
        }
        if !due.is_empty() {
            self.erase(&due, ErasureReason::Expired, "")?;
        }
        Ok(last.filter(|_| page.len() == BATCH))
    }

    /// True if a payload was executed here, and everyone has it that this node sends it to.
    fn is_finished(&self, hash: &PayloadHash) -> Result<bool, ExchangeError> {
        let Some(view) = self.state_view() else {
            return Ok(false);
        };
        let executed = view.was_executed(hash);
        if !executed.map_err(|reason| ExchangeError::PrivateState { reason })? {
            return Ok(false);
        }
        let deliveries = self.outbox.deliveries(hash)?;
        Ok(deliveries
            .iter()
            .all(|delivery| delivery.state != DeliveryState::Pending))
    }
}

fn is_due(
    expires_at_ms: u64,
    now_ms: u64,
    is_finished: impl FnOnce() -> Result<bool, ExchangeError>,
) -> Result<bool, ExchangeError> {
    Ok(now_ms >= expires_at_ms.saturating_add(UNFINISHED_KEPT_MS)
        || now_ms >= expires_at_ms && is_finished()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_still_needed_is_kept_a_week_longer() {
        let is_due = |now, finished| is_due(1_000, now, || Ok(finished)).unwrap();
        assert!(!is_due(999, true));
        assert!(is_due(1_000, true));
        assert!(!is_due(1_000, false));
        assert!(!is_due(1_000 + UNFINISHED_KEPT_MS - 1, false));
        assert!(is_due(1_000 + UNFINISHED_KEPT_MS, false));
    }
}
