//! What the user interface asks about payloads.

use std::collections::BTreeSet;

use quorate_enclave::{
    Cursor, Delivery, DeliveryState, LIST_LIMIT_MAX, ListQuery, OutboxStatus, PayloadHash, Stored,
};

use crate::lookup::Held;
use crate::{Exchange, ExchangeError, Received, Reception};

impl Exchange {
    /// What this node knows under a payload hash.
    ///
    /// # Errors
    /// [`ExchangeError`] if the payload is here and cannot be read or opened now.
    pub async fn receive(&self, hash: PayloadHash) -> Result<Reception, ExchangeError> {
        // Before the look: what completes the store meanwhile may bring what was not found.
        let complete = self.is_complete();
        let found = self.blocking(move |inner| Ok(inner.store.get(&hash)?));
        let envelope = match found.await? {
            None if !complete => return Ok(Reception::Missing),
            None => {
                let erased = self.blocking(move |inner| Ok(inner.records.who_erased(&hash)?));
                return Ok(match erased.await? {
                    None => Reception::NotAParty,
                    Some(_) => Reception::Missing,
                });
            }
            Some(Stored::Erased(erasure)) => return Ok(Reception::Erased(erasure)),
            Some(Stored::Held { envelope, .. }) => envelope,
        };
        let context = *envelope.context();
        let we_sent = context.sender_node == self.node();
        let (clear, terms) = match self.held(hash).await {
            Held::Opened(opened) => {
                let clear = crate::keeping::InTheClear {
                    content: opened.content.clone(),
                    as_recipient: opened.as_recipient,
                    sender: opened.sender,
                };
                (clear, Some(opened.terms.terms.clone()))
            }
            // Kept raw and not sent yet. Of someone else's, it was never acknowledged.
            Held::Absent if we_sent => (self.own_payload(&envelope).await?, None),
            Held::Absent => return Ok(Reception::Missing),
            Held::Erased(erasure) => return Ok(Reception::Erased(erasure)),
            // Once more, for the error itself.
            Held::Unreadable(_) => (self.own_payload(&envelope).await?, None),
        };
        let mut parties: BTreeSet<_> = envelope.recipients().collect();
        parties.extend([clear.sender, clear.as_recipient]);
        parties.extend(envelope.parties().unwrap_or_default());
        let mandatory = match &terms {
            Some(terms) => {
                parties.extend(&terms.parties);
                terms.mandatory.clone()
            }
            None => envelope.mandatory().iter().copied().collect(),
        };
        parties.extend(&mandatory);
        Ok(Reception::Received(Box::new(Received {
            content: clear.content,
            sender: clear.sender,
            sender_node: context.sender_node,
            as_recipient: clear.as_recipient,
            parties,
            mandatory,
            we_sent,
            flag: terms.as_ref().map_or(context.flag, |t| t.flag),
            group: terms.as_ref().map_or(context.privacy_group, |t| t.group),
            exec_root: terms.as_ref().and_then(|t| t.exec_root),
            affected: terms.map(|t| t.affected).unwrap_or_default(),
        })))
    }

    /// What became of a payload's deliveries, by node. Of one that everybody acknowledged before its transaction was sent, that
    /// moment is given, or a while later the one when it was stored here. Empty if this node never sent it successfully.
    ///
    /// # Errors
    /// [`ExchangeError::Outbox`], [`ExchangeError::Records`], [`ExchangeError::Store`].
    pub async fn deliveries(&self, hash: PayloadHash) -> Result<Vec<Delivery>, ExchangeError> {
        let members = self.members();
        let history = self.inner.records.history();
        let own = self.node();
        self.blocking(move |inner| {
            let entered = inner.outbox.deliveries(&hash)?;
            if !entered.is_empty() {
                return Ok(entered);
            }
            let held = inner.store.get(&hash)?;
            let Some(Stored::Held {
                envelope,
                stored_at_ms,
                ..
            }) = held
            else {
                return Ok(entered);
            };
            if envelope.context().sender_node != own {
                return Ok(entered);
            }
            let Some(at_ms) = inner.acknowledged_at(&hash, stored_at_ms)? else {
                return Ok(entered);
            };
            let nodes: BTreeSet<_> = envelope
                .recipients()
                .filter_map(|key| {
                    let owner = Self::owner(&members, &key).map(|member| member.node);
                    owner.or_else(|| history.get(&key).map(|known| known.node))
                })
                .filter(|node| *node != own)
                .collect();
            let each = nodes.into_iter().map(|node| Delivery {
                hash,
                node,
                state: DeliveryState::Acknowledged,
                named: false,
                attempts: 1,
                next_at_ms: at_ms,
                changed_at_ms: at_ms,
                reason: String::new(),
            });
            Ok(each.collect())
        })
        .await
    }

    /// How many payloads are held, and how many were erased. Looks through the whole index.
    ///
    /// # Errors
    /// [`ExchangeError::Store`].
    pub async fn payload_counts(&self) -> Result<(u64, u64), ExchangeError> {
        self.blocking(|inner| {
            let (mut held, mut erased) = (0, 0);
            let mut query = ListQuery {
                party: None,
                since_ms: 0,
                after: None,
                limit: LIST_LIMIT_MAX,
            };
            loop {
                let page = inner.store.list(&query)?;
                held += page.len() as u64;
                let Some(last) = page.last() else { break };
                query.after = Some(last.cursor);
            }
            let mut after = None;
            loop {
                let page = inner.store.erasures(after, LIST_LIMIT_MAX)?;
                erased += page.len() as u64;
                let Some(last) = page.last() else { break };
                after = Some(Cursor {
                    time_ms: last.erased_at_ms,
                    sequence: last.sequence,
                });
            }
            Ok((held, erased))
        })
        .await
    }

    /// How much waits in the outbox.
    ///
    /// # Errors
    /// [`ExchangeError::Outbox`].
    pub fn outbox_status(&self) -> Result<OutboxStatus, ExchangeError> {
        Ok(self.inner.outbox.status()?)
    }
}
