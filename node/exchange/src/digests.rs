//! Parties compare what came of a private transaction: each tells the payload's sending node the digest that it found, and that node
//! compares with its own. Both raise an alarm when they differ.
//!
//! What waits here is lost with the process: after a restart the executor reports again what it executes again, and of what it does
//! not, the comparison is missing. It is a watch, not a condition of anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use alloy_primitives::B256;
use parking_lot::Mutex;
use quorate_enclave::{NodeKey, PublicKey, Stored};
use quorate_privacy::Executed;

use crate::clock::now_ms;
use crate::wire::{Answer, DIGESTS_MAX, DigestItem, RefusalCode, Request};
use crate::{Alarm, Exchange, ExchangeError, ExecutedDigest, MemberKeys, RecordError, metrics};

/// Most digests that wait for one node; of more, the oldest are dropped and counted.
const WAITING_MAX: usize = 20_000;
/// Most digests of others that wait until we executed the transaction too; of more, the oldest are dropped and counted.
const EARLY_MAX: usize = 20_000;
/// Results of our own that are compared without a look at private state.
const FOUND_MAX: usize = 4_096;

/// Digests on their way.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Ours, by the node that they go to.
    outgoing: BTreeMap<NodeKey, VecDeque<DigestItem>>,
    /// Others', of transactions that were not executed here yet, in the order of their arrival.
    early: VecDeque<(NodeKey, DigestItem)>,
    /// Reports of the executor that nobody has looked at.
    reported: VecDeque<Executed>,
    /// What came of the last transactions, and these in the order in which they were executed.
    found: BTreeMap<B256, ExecutedDigest>,
    last: VecDeque<B256>,
}

impl Digests {
    fn queue(&self, node: NodeKey, item: DigestItem) {
        let mut state = self.state.lock();
        let queue = state.outgoing.entry(node).or_default();
        if queue.len() >= WAITING_MAX {
            queue.pop_front();
            metrics::dropped("digests");
        }
        queue.push_back(item);
    }

    /// The next batches, one per node. They are given back if they could not be sent.
    fn take(&self) -> Vec<(NodeKey, Vec<DigestItem>)> {
        let mut state = self.state.lock();
        let batches = state.outgoing.iter_mut().map(|(node, queue)| {
            let count = queue.len().min(DIGESTS_MAX);
            (*node, queue.drain(..count).collect::<Vec<_>>())
        });
        let batches = batches.filter(|(_, items)| !items.is_empty()).collect();
        state.outgoing.retain(|_, queue| !queue.is_empty());
        batches
    }

    fn give_back(&self, node: NodeKey, items: Vec<DigestItem>) {
        let mut state = self.state.lock();
        let queue = state.outgoing.entry(node).or_default();
        for item in items.into_iter().rev() {
            if queue.len() < WAITING_MAX {
                queue.push_front(item);
            } else {
                metrics::dropped("digests");
            }
        }
    }

    fn keep_early(&self, node: NodeKey, item: DigestItem) {
        let mut state = self.state.lock();
        if state.early.len() >= EARLY_MAX {
            state.early.pop_front();
            metrics::dropped("early_digests");
        }
        state.early.push_back((node, item));
    }

    fn take_early(&self, transactions: &BTreeSet<B256>) -> Vec<(NodeKey, DigestItem)> {
        let mut state = self.state.lock();
        if state.early.is_empty() {
            return Vec::new();
        }
        let (taken, left) = std::mem::take(&mut state.early)
            .into_iter()
            .partition(|(_, item)| transactions.contains(&item.transaction));
        let taken: VecDeque<(NodeKey, DigestItem)> = taken;
        state.early = left;
        taken.into()
    }

    fn found(&self, transaction: &B256) -> Option<ExecutedDigest> {
        self.state.lock().found.get(transaction).copied()
    }

    fn has_more(&self) -> bool {
        !self.state.lock().outgoing.is_empty()
    }

    /// Takes a report, and does no more with it than to remember it: the executor must not wait.
    pub(crate) fn report(&self, report: Executed) {
        let mut state = self.state.lock();
        if state.reported.len() >= WAITING_MAX {
            state.reported.pop_front();
            metrics::dropped("digests");
        }
        let found = ExecutedDigest {
            height: report.height,
            digest: report.digest,
        };
        state.remember(report.transaction, found);
        state.reported.push_back(report);
    }

    fn take_reported(&self) -> Vec<Executed> {
        std::mem::take(&mut self.state.lock().reported).into()
    }
}

impl State {
    /// Remembers what came of a transaction: others tell their results at about the same time.
    fn remember(&mut self, transaction: B256, found: ExecutedDigest) {
        if self.found.insert(transaction, found).is_none() {
            self.last.push_back(transaction);
        }
        if self.last.len() > FOUND_MAX
            && let Some(oldest) = self.last.pop_front()
        {
            self.found.remove(&oldest);
        }
    }
}

impl Exchange {
    /// Looks at what was executed, and sends what waits, a batch for every node.
    pub(crate) async fn digest_round(&self) -> Result<(), ExchangeError> {
        let reports = self.inner.digests.take_reported();
        if !reports.is_empty() {
            self.settle(reports).await?;
        }
        let members = self.members();
        for _ in 0..8 {
            let batches = self.inner.digests.take();
            let sent = batches.into_iter().map(|(node, items)| {
                let members = &members;
                async move {
                    match members.iter().find(|m| m.node == node && !m.this) {
                        Some(member) => self.send_digests(member, items).await,
                        // Who left does not compare any more.
                        None => Ok(true),
                    }
                }
            });
            let done = futures::future::try_join_all(sent).await?;
            // Nodes that do not answer are left for the next round.
            if done.contains(&false) || !self.inner.digests.has_more() {
                break;
            }
        }
        Ok(())
    }

    /// Notes what was executed, compares with what others found earlier, and queues our own results for the senders.
    async fn settle(&self, reports: Vec<Executed>) -> Result<(), ExchangeError> {
        let transactions: BTreeSet<B256> = reports.iter().map(|r| r.transaction).collect();
        let early = self.inner.digests.take_early(&transactions);
        let own = self.node();
        let executed = reports.iter().map(|report| &report.hash);
        self.inner.acknowledged.executed(executed);
        for report in &reports {
            let found = ExecutedDigest {
                height: report.height,
                digest: report.digest,
            };
            for (node, item) in early
                .iter()
                .filter(|(_, item)| item.transaction == report.transaction)
            {
                if differs(item, &found) {
                    self.alarm(*node, item, found.digest).await?;
                    self.inner.digests.queue(*node, own_item(item, &found));
                }
            }
            if !report.we_sent && report.sender_node != own {
                let item = DigestItem {
                    transaction: report.transaction,
                    height: report.height,
                    payload: report.hash,
                    digest: report.digest,
                };
                self.inner.digests.queue(report.sender_node, item);
            }
        }
        Ok(())
    }

    /// `false` if the member did not answer and the items wait for the next round.
    async fn send_digests(
        &self,
        member: &MemberKeys,
        items: Vec<DigestItem>,
    ) -> Result<bool, ExchangeError> {
        let request = Request::Digests {
            items: items.clone(),
        };
        match self.ask_for(member.raft_id, &request).await {
            Ok(Answer::Differences { items: different }) => {
                for (transaction, theirs) in different {
                    let Some(ours) = items.iter().find(|i| i.transaction == transaction) else {
                        continue;
                    };
                    let item = DigestItem {
                        digest: theirs,
                        ..*ours
                    };
                    self.alarm(member.node, &item, ours.digest).await?;
                }
                Ok(true)
            }
            Ok(Answer::Refused { code, text }) if !code.is_retryable() => {
                tracing::warn!(raft_id = member.raft_id, text, "a member refuses digests");
                Ok(true)
            }
            Ok(_) | Err(_) => {
                self.inner.digests.give_back(member.node, items);
                Ok(false)
            }
        }
    }

    /// Answers digests of a member: those that differ from ours, now. What was not executed here yet is compared later.
    pub(crate) async fn compare(&self, member: &MemberKeys, items: Vec<DigestItem>) -> Answer {
        let mut different = Vec::new();
        let Some(view) = self.state_view() else {
            return Answer::refused(RefusalCode::Busy, "private state is not there yet");
        };
        // Nobody else's word counts, nor is anyone else told anything.
        let shared = match self.shared_with(member, items).await {
            Ok(shared) => shared,
            Err(e) => {
                tracing::error!(error = %e, "the digests of a member cannot be compared");
                return Answer::refused(RefusalCode::StoreFailed, "our disk does not answer");
            }
        };
        for item in shared {
            let found = self.inner.digests.found(&item.transaction);
            match found.or_else(|| view.executed(&item.transaction)) {
                None => self.inner.digests.keep_early(member.node, item),
                Some(found) if differs(&item, &found) => {
                    if let Err(e) = self.alarm(member.node, &item, found.digest).await {
                        tracing::error!(error = %e, "an alarm was not recorded");
                    }
                    different.push((item.transaction, found.digest));
                }
                Some(_) => {}
            }
        }
        Answer::Differences { items: different }
    }

    /// Those about payloads of which this member and we are both parties: it sent them to us, or we to it.
    async fn shared_with(
        &self,
        member: &MemberKeys,
        items: Vec<DigestItem>,
    ) -> Result<Vec<DigestItem>, ExchangeError> {
        let members = self.members();
        let theirs = |key: &PublicKey| self.belongs(&members, member, key);
        let mut shared = Vec::with_capacity(items.len());
        let mut on_disk = Vec::new();
        for item in items {
            let Some(opened) = self.inner.cache.get(&item.payload) else {
                on_disk.push(item);
                continue;
            };
            // What is on the disk may have gained recipients since.
            let sent = opened.terms.terms.sender_node == member.node;
            if sent || opened.recipients.iter().any(theirs) {
                shared.push(item);
            } else {
                on_disk.push(item);
            }
        }
        if on_disk.is_empty() {
            return Ok(shared);
        }
        let (this, member, members) = (self.clone(), member.clone(), Arc::clone(&members));
        let further = self.blocking(move |inner| {
            let theirs = |key| this.belongs(&members, &member, &key);
            let mut shared = Vec::with_capacity(on_disk.len());
            for item in on_disk {
                let Some(Stored::Held { envelope, .. }) = inner.store.get(&item.payload)? else {
                    continue;
                };
                let sent = envelope.context().sender_node == member.node;
                if sent || envelope.recipients().any(theirs) {
                    shared.push(item);
                }
            }
            Ok(shared)
        });
        shared.extend(further.await?);
        Ok(shared)
    }

    async fn alarm(
        &self,
        node: NodeKey,
        theirs: &DigestItem,
        ours: B256,
    ) -> Result<(), ExchangeError> {
        let alarm = Alarm {
            number: 0,
            at_ms: now_ms(),
            transaction: theirs.transaction,
            height: theirs.height,
            payload: theirs.payload,
            node,
            ours,
            theirs: theirs.digest,
        };
        self.raise(alarm).await
    }

    /// Enters an alarm durably, and says so in the log, unless there is one about this transaction and node.
    pub(crate) async fn raise(&self, alarm: Alarm) -> Result<(), ExchangeError> {
        let raised = self
            .blocking(move |inner| {
                let raised = inner.records.raise(alarm)?;
                if raised.is_some() {
                    inner.records.make_durable()?;
                }
                Ok(raised)
            })
            .await?;
        if let Some(alarm) = raised {
            metrics::alarm();
            tracing::error!(
                tx = %alarm.transaction, height = alarm.height, payload = %alarm.payload, node = %alarm.node,
                ours = %alarm.ours, theirs = %alarm.theirs,
                "two parties executed a private transaction differently: their private states diverge"
            );
        }
        Ok(())
    }

    /// Alarms behind a number, oldest first, at most `limit`; 0 begins with the first that is kept.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn alarms(&self, after: u64, limit: usize) -> Result<Vec<Alarm>, RecordError> {
        self.inner.records.alarms(after, limit)
    }

    /// Number of alarms that are kept.
    pub fn alarm_count(&self) -> u64 {
        self.inner.records.alarm_count()
    }
}

fn differs(item: &DigestItem, found: &ExecutedDigest) -> bool {
    item.digest != found.digest || item.height != found.height
}

fn own_item(theirs: &DigestItem, found: &ExecutedDigest) -> DigestItem {
    DigestItem {
        height: found.height,
        digest: found.digest,
        ..*theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_last_results_are_remembered_and_the_oldest_go() {
        let digests = Digests::default();
        let transaction = |n: usize| B256::from(alloy_primitives::U256::from(n));
        let found = |height| ExecutedDigest {
            height,
            digest: B256::ZERO,
        };
        for n in 0..FOUND_MAX {
            digests.state.lock().remember(transaction(n), found(1));
        }
        // Executed again, after a crash.
        digests.state.lock().remember(transaction(0), found(2));
        assert_eq!(digests.found(&transaction(0)), Some(found(2)));
        digests
            .state
            .lock()
            .remember(transaction(FOUND_MAX), found(3));
        assert_eq!(digests.found(&transaction(0)), None);
        assert_eq!(digests.found(&transaction(1)), Some(found(1)));
        let state = digests.state.lock();
        assert_eq!(
            (state.found.len(), state.last.len()),
            (FOUND_MAX, FOUND_MAX)
        );
    }
}
