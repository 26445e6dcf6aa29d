//! Payloads on their way to a member: those that wait while a message is under way go together in the next one.
//!
//! A message costs both sides the same whether it carries one payload or sixty, and so does the other side's disk.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::wire::{Answer, DELIVER_MAX, Delivered, PAYLOADS_BYTES_SOFT_MAX, Request, Taken};
use crate::{Exchange, PeerError};

/// Messages with payloads that are under way to one member at once: one on the way while the other is worked on.
const UNDER_WAY_MAX: usize = 2;

/// What a member said to one payload.
type Said = Result<Taken, PeerError>;

/// Payloads that wait, by the raft id of the member that they are for.
#[derive(Debug, Default)]
pub(crate) struct Couriers {
    lanes: Mutex<BTreeMap<u64, Lane>>,
}

#[derive(Debug, Default)]
struct Lane {
    /// As long as the number of callers that wait.
    waiting: VecDeque<Waiting>,
    under_way: usize,
}

#[derive(Debug)]
struct Waiting {
    item: Delivered,
    reply: oneshot::Sender<Said>,
}

impl Couriers {
    /// Enters a payload. True if someone must set out for it.
    fn enter(&self, raft_id: u64, waiting: Waiting) -> bool {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(raft_id).or_default();
        lane.waiting.push_back(waiting);
        let sets_out = lane.under_way < UNDER_WAY_MAX;
        if sets_out {
            lane.under_way += 1;
        }
        sets_out
    }

    /// What goes into the next message. Empty: nothing waits, and one less is under way.
    fn load(&self, raft_id: u64) -> Vec<Waiting> {
        let mut lanes = self.lanes.lock();
        let Some(lane) = lanes.get_mut(&raft_id) else {
            return Vec::new();
        };
        let mut taken: Vec<Waiting> = Vec::new();
        let mut bytes = 0usize;
        while taken.len() < DELIVER_MAX
            && let Some(next) = lane.waiting.front()
        {
            // Whoever gave up does not want it delivered any more.
            if next.reply.is_closed() {
                lane.waiting.pop_front();
                continue;
            }
            bytes = bytes.saturating_add(next.item.envelope.len() + next.item.terms.len());
            if !taken.is_empty() && bytes > PAYLOADS_BYTES_SOFT_MAX {
                break;
            }
            taken.extend(lane.waiting.pop_front());
        }
        if taken.is_empty() {
            lane.under_way = lane.under_way.saturating_sub(1);
            if lane.under_way == 0 {
                lanes.remove(&raft_id);
            }
        }
        taken
    }
}

impl Exchange {
    /// Hands one payload to a member, with others that are on their way there.
    pub(crate) async fn courier(
        &self,
        raft_id: u64,
        (envelope, terms): (Bytes, Bytes),
        timeout: Duration,
    ) -> Said {
        let (reply, said) = oneshot::channel();
        let item = Delivered { envelope, terms };
        if self.inner.couriers.enter(raft_id, Waiting { item, reply }) {
            // On its own, since the others' payloads must arrive also if this caller gives up.
            tokio::spawn(self.clone().carry(raft_id));
        }
        match tokio::time::timeout(timeout, said).await {
            Ok(Ok(said)) => said,
            Ok(Err(_)) => Err(PeerError::Unreachable {
                reason: "this node is stopping".to_owned(),
            }),
            Err(_) => Err(PeerError::TimedOut {
                after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    async fn carry(self, raft_id: u64) {
        loop {
            let (items, replies): (Vec<_>, Vec<_>) = self
                .inner
                .couriers
                .load(raft_id)
                .into_iter()
                .map(|waiting| (waiting.item, waiting.reply))
                .unzip();
            if items.is_empty() {
                return;
            }
            let said = self.deliver_all(raft_id, items).await;
            for (reply, said) in replies.into_iter().zip(said) {
                // Who gave up meanwhile does not want to know.
                drop(reply.send(said));
            }
        }
    }

    /// What the member said to each, in their order.
    async fn deliver_all(&self, raft_id: u64, items: Vec<Delivered>) -> Vec<Said> {
        let count = items.len();
        let config = &self.inner.config;
        let timeout = config.acknowledge_timeout.max(config.ask_timeout);
        let request = Request::Deliver { items }.encode();
        let all = match self.ask(raft_id, request, timeout).await {
            Ok(Answer::Taken { items }) if items.len() == count => {
                return items.into_iter().map(Ok).collect();
            }
            Ok(Answer::Refused { code, text }) => Ok(Taken::Refused { code, text }),
            Ok(other) => Err(PeerError::Unreachable {
                reason: format!("it answers {count} payloads with {}", other.name()),
            }),
            Err(error) => Err(error),
        };
        vec![all; count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(bytes: usize) -> (Waiting, oneshot::Receiver<Said>) {
        let (reply, said) = oneshot::channel();
        let item = Delivered {
            envelope: Bytes::from(vec![1; bytes]),
            terms: Bytes::new(),
        };
        (Waiting { item, reply }, said)
    }

    #[test]
    fn what_waits_while_two_messages_are_under_way_goes_in_the_next_one() {
        let couriers = Couriers::default();
        let mut callers = Vec::new();
        let mut enter = || {
            let (waiting, said) = waiting(10);
            callers.push(said);
            couriers.enter(7, waiting)
        };
        assert!(enter());
        assert_eq!(couriers.load(7).len(), 1);
        assert!(enter());
        assert_eq!(couriers.load(7).len(), 1);
        for _ in 0..DELIVER_MAX + 1 {
            assert!(!enter());
        }
        assert_eq!(couriers.load(7).len(), DELIVER_MAX);
        assert_eq!(couriers.load(7).len(), 1);
        assert_eq!((couriers.load(7).len(), couriers.load(7).len()), (0, 0));
        assert!(couriers.lanes.lock().is_empty());
        assert!(enter());
    }

    #[test]
    fn a_message_is_closed_when_it_is_large_and_takes_one_payload_of_any_size() {
        let couriers = Couriers::default();
        let sizes = [PAYLOADS_BYTES_SOFT_MAX + 1, 1, PAYLOADS_BYTES_SOFT_MAX, 1];
        let entered = sizes.map(|bytes| {
            let (waiting, said) = waiting(bytes);
            couriers.enter(7, waiting);
            said
        });
        let loads = [(); 4].map(|()| couriers.load(7).len());
        assert_eq!(loads, [1, 1, 1, 1]);
        drop(entered);
    }

    #[test]
    fn what_its_caller_gave_up_is_not_delivered() {
        let couriers = Couriers::default();
        let (first, said) = waiting(10);
        let (second, _waits) = waiting(10);
        couriers.enter(7, first);
        couriers.enter(7, second);
        drop(said);
        assert_eq!(couriers.load(7).len(), 1);
    }
}
