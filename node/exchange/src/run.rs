//! What goes on by itself: deliveries of the outbox, digests, payloads that are missing, expiry.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use quorate_enclave::{Delivery, NodeKey, PayloadHash, Stored};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::deliver::{Outcome, Parcel, parcel};
use crate::exchange::Inner;
use crate::package::Package;
use crate::recipients::Recipient;
use crate::{Exchange, ExchangeError, MemberKeys, metrics};

/// Longest pause of the loops: what they were not told of, they notice by then.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Deliveries that are taken in one go.
const BATCH: usize = 256;
/// Deliveries that become due at once when their member is back. Further ones keep their time.
const WAKE_MAX: usize = 10_000;
/// First pause between two attempts to complete the store, and the longest.
const RESYNC_FIRST: Duration = Duration::from_secs(5);
const RESYNC_MAX: Duration = Duration::from_secs(600);

impl Exchange {
    /// Does all that goes on by itself, until it is stopped.
    ///
    /// # Errors
    /// The failure of this node's own disk: the exchange cannot be used any more and the node must stop.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), ExchangeError> {
        tokio::select! {
            biased;
            () = stop.cancelled() => self.write_acknowledged(true).await,
            failed = self.outbox_loop() => failed,
            failed = self.digest_loop() => failed,
            failed = self.fetch_loop() => failed,
            failed = self.expiry_loop() => failed,
            failed = self.completion_loop() => failed,
        }
    }

    /// A member is connected again: what waits for it is due now.
    ///
    /// # Errors
    /// [`ExchangeError::Outbox`].
    pub async fn reconnected(&self, raft_id: u64) -> Result<(), ExchangeError> {
        let members = self.members();
        let Some(member) = members.iter().find(|m| m.raft_id == raft_id && !m.this) else {
            return Ok(());
        };
        let node = member.node;
        self.blocking(move |inner| {
            inner.outbox.wake(&node, now_ms(), WAKE_MAX)?;
            Ok(())
        })
        .await?;
        self.inner.outbox_wake.notify_one();
        self.inner.wanted.wake();
        self.inner.completion_wake.notify_one();
        Ok(())
    }

    async fn outbox_loop(&self) -> Result<(), ExchangeError> {
        loop {
            let delivered = self.outbox_round().await?;
            let status = self.blocking(|inner| Ok(inner.outbox.status()?)).await?;
            metrics::outbox_pending(status.pending);
            if delivered >= BATCH {
                continue;
            }
            let until = status
                .next_at_ms
                .map(|at| Duration::from_millis(at.saturating_sub(now_ms())));
            let pause = until.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
            // Not at once again, whatever the clock says.
            let pause = pause.max(Duration::from_millis(5));
            tokio::select! {
                () = self.inner.outbox_wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Delivers what is due. Returns how many deliveries were taken.
    pub(crate) async fn outbox_round(&self) -> Result<usize, ExchangeError> {
        let due = self
            .blocking(|inner| Ok(inner.outbox.take_due(now_ms(), BATCH)?))
            .await?;
        let count = due.len();
        let mut by_node: BTreeMap<NodeKey, Vec<Delivery>> = BTreeMap::new();
        for delivery in due {
            by_node.entry(delivery.node).or_default().push(delivery);
        }
        let members = self.members();
        let each = by_node.into_iter().map(|(node, deliveries)| {
            let member = members.iter().find(|m| m.node == node && !m.this).cloned();
            self.deliver_due(member, deliveries)
        });
        let mut under_way =
            futures::stream::iter(each).buffer_unordered(self.inner.config.outbox_parallel);
        while let Some(done) = under_way.next().await {
            done?;
        }
        Ok(count)
    }

    /// Delivers what waits for one member, one after the other. When it does not answer, the rest waits with the first.
    async fn deliver_due(
        &self,
        member: Option<MemberKeys>,
        deliveries: Vec<Delivery>,
    ) -> Result<(), ExchangeError> {
        let mut silent: Option<String> = None;
        for delivery in deliveries {
            let outcome = match (&member, &silent) {
                (None, _) => Outcome::Refused("it is no member any more".to_owned()),
                (Some(_), Some(reason)) => Outcome::Failed(reason.clone()),
                (Some(member), None) => self.deliver_again(member, delivery.hash).await?,
            };
            if let Outcome::Failed(reason) = &outcome {
                silent = Some(reason.clone());
            }
            self.blocking(move |inner| note(inner, &delivery, outcome))
                .await?;
        }
        Ok(())
    }

    async fn deliver_again(
        &self,
        member: &MemberKeys,
        hash: PayloadHash,
    ) -> Result<Outcome, ExchangeError> {
        let found = self.blocking(move |inner| {
            let stored = match inner.store.get(&hash) {
                Err(e) if !e.is_fatal() => return Ok(Err(e.to_string())),
                other => other?,
            };
            match stored {
                Some(Stored::Held {
                    envelope, beside, ..
                }) => {
                    let terms = inner.terms(&hash, beside.as_ref())?;
                    Ok(terms
                        .map(|terms| (envelope, terms))
                        .ok_or_else(|| "its terms are not here".to_owned()))
                }
                Some(Stored::Erased(_)) => Ok(Err("it was erased".to_owned())),
                None => Ok(Err("it is not here".to_owned())),
            }
        });
        let (envelope, terms) = match found.await? {
            Ok(found) => found,
            Err(reason) => return Ok(Outcome::Refused(reason)),
        };
        let members = self.members();
        let keys: Vec<_> = envelope
            .recipients()
            .filter(|key| self.belongs(&members, member, key))
            .collect();
        let package = Package {
            hash,
            envelope: *envelope,
            terms,
        };
        let to = Recipient {
            raft_id: member.raft_id,
            node: member.node,
            organisation: member.organisation.clone(),
            keys,
        };
        let Some(parcel) = parcel(&package, to) else {
            return Ok(Outcome::Refused("none of its keys is a party".to_owned()));
        };
        Ok(self.hand_over_once(&parcel).await)
    }

    async fn hand_over_once(&self, parcel: &Parcel) -> Outcome {
        let (outcome, _) = self.hand_over(parcel, self.inner.config.ask_timeout).await;
        match outcome {
            Outcome::Conflict(contract) => Outcome::Failed(format!("conflict over {contract}")),
            other => other,
        }
    }

    async fn digest_loop(&self) -> Result<(), ExchangeError> {
        let mut ticks = tokio::time::interval(self.inner.config.digest_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.digest_round().await?;
        }
    }

    async fn fetch_loop(&self) -> Result<(), ExchangeError> {
        loop {
            self.fetch_round().await?;
            let next = self.inner.wanted.next_at();
            let latest = Instant::now() + LOOK_AGAIN;
            tokio::select! {
                () = self.inner.wanted.changed.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or(latest).min(latest)) => {}
            }
        }
    }

    async fn expiry_loop(&self) -> Result<(), ExchangeError> {
        loop {
            // The table is looked at from time to time, so that no key passes unseen.
            self.members();
            self.write_acknowledged(false).await?;
            let pause = self.expiry_round().await?;
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes the store complete, if it is not, by asking the others until all have answered.
    async fn completion_loop(&self) -> Result<(), ExchangeError> {
        let mut pause = RESYNC_FIRST;
        loop {
            if !self.inner.records.history_known() {
                self.learn_history().await?;
            }
            if self.is_complete() {
                pause = RESYNC_FIRST;
            } else if self.inner.config.resync_by_itself {
                match self.resync().await {
                    Ok(report) if report.complete => {
                        tracing::info!("the payload store is complete again");
                    }
                    Ok(report) => {
                        let lacking = report.members.iter().filter(|m| !m.is_complete());
                        let lacking: Vec<u64> = lacking.map(|m| m.raft_id).collect();
                        tracing::warn!(members = ?lacking, "the payload store is not complete: not all members gave all that they have for us");
                    }
                    // The enclave may be back next time; the disk is not.
                    Err(ExchangeError::Enclave(e)) => {
                        tracing::warn!(error = %e, "the payload store is not complete, and the enclave does not help");
                    }
                    Err(e) => return Err(e),
                }
                pause = (pause * 2).min(RESYNC_MAX);
            }
            tokio::select! {
                () = self.inner.completion_wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Learns the keys of before this node's time from the first other member that answers.
    pub(crate) async fn learn_history(&self) -> Result<(), ExchangeError> {
        let members = self.members();
        for member in members.iter().filter(|m| !m.this) {
            if self.learn_keys(member).await? {
                return self
                    .blocking(|inner| Ok(inner.records.set_history_known()?))
                    .await;
            }
        }
        Ok(())
    }
}

/// Enters what came of a delivery.
fn note(inner: &Inner, delivery: &Delivery, outcome: Outcome) -> Result<(), ExchangeError> {
    let (hash, node, now) = (&delivery.hash, &delivery.node, now_ms());
    let noted = match outcome {
        Outcome::Stored => inner.outbox.acknowledged(hash, node, now),
        Outcome::Refused(reason) => inner.outbox.refused(hash, node, &reason, now),
        Outcome::Failed(reason) => inner.outbox.failed(hash, node, &reason, now),
        Outcome::Conflict(contract) => {
            let reason = format!("conflict over {contract}");
            inner.outbox.failed(hash, node, &reason, now)
        }
    };
    match noted {
        // Erased, and with that forgotten, in the meantime.
        Err(quorate_enclave::OutboxError::Unknown { .. }) => Ok(()),
        other => Ok(other?),
    }
}
