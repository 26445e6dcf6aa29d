//! Transactions on their way out: calls are gathered into one gossip message per few milliseconds or kilobytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    config::{Limits, Timing},
    metrics::{self, lane::GOSSIP},
    wire,
};

/// Calls of `gossip` waiting to be gathered. Policy: drop the newest and count.
#[derive(Debug)]
pub(crate) struct GossipQueue {
    queue: mpsc::Sender<Vec<Bytes>>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    transaction_bytes_max: usize,
}

impl GossipQueue {
    /// The queue and the task that empties it into `publish`.
    pub(crate) fn new(
        limits: &Limits,
        timing: &Timing,
        nonce: u64,
        publish: mpsc::Sender<BytesMut>,
    ) -> (Self, Coalescer) {
        let (queue, receiver) = mpsc::channel(limits.gossip_queue_calls);
        let bytes = Arc::new(AtomicUsize::new(0));
        let overhead = wire::GOSSIP_HEAD + wire::LIST_HEAD + wire::ITEM_HEAD;
        let coalescer = Coalescer {
            receiver,
            bytes: Arc::clone(&bytes),
            delay: timing.gossip_delay,
            batch_bytes: limits.gossip_batch_bytes,
            nonce,
            publish,
        };
        let queue = Self {
            queue,
            bytes,
            bytes_max: limits.gossip_queue_bytes,
            transaction_bytes_max: limits.gossip_message_bytes_max.saturating_sub(overhead),
        };
        (queue, coalescer)
    }

    /// Takes transactions; those too large for any message are dropped one by one.
    pub(crate) fn push(&self, mut transactions: Vec<Bytes>) {
        let given = transactions.len();
        transactions.retain(|transaction| transaction.len() <= self.transaction_bytes_max);
        let count = transactions.len();
        metrics::dropped(GOSSIP, "too_large", given - count);
        if count == 0 {
            return;
        }
        let size = wire::list_size(&transactions);
        let before = self.bytes.fetch_add(size, Ordering::AcqRel);
        if before.saturating_add(size) > self.bytes_max
            || self.queue.try_send(transactions).is_err()
        {
            self.bytes.fetch_sub(size, Ordering::AcqRel);
            metrics::dropped(GOSSIP, "queue_full", count);
        }
    }
}

/// Gathers calls into messages. Waits when the swarm takes them slowly; then the queue fills.
#[derive(Debug)]
pub(crate) struct Coalescer {
    receiver: mpsc::Receiver<Vec<Bytes>>,
    bytes: Arc<AtomicUsize>,
    delay: Duration,
    batch_bytes: usize,
    /// Makes each message one of its kind; starts at random.
    nonce: u64,
    publish: mpsc::Sender<BytesMut>,
}

impl Coalescer {
    /// Runs until the queue or the swarm is gone.
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.receiver.recv().await {
            let deadline = Instant::now() + self.delay;
            let mut size = wire::list_size(&first);
            let mut pending = first;
            while size < self.batch_bytes {
                tokio::select! {
                    more = self.receiver.recv() => match more {
                        Some(more) => {
                            size += wire::list_size(&more);
                            pending.extend(more);
                        }
                        None => break,
                    },
                    () = sleep_until(deadline) => break,
                }
            }
            for batch in split(&pending, self.batch_bytes) {
                let message = wire::gossip_message(self.nonce, batch);
                self.nonce = self.nonce.wrapping_add(1);
                if self.publish.send(message).await.is_err() {
                    return;
                }
            }
            self.bytes.fetch_sub(size, Ordering::AcqRel);
        }
    }
}

/// Cuts into batches that stay within `bytes`, except that each has at least one transaction.
fn split(transactions: &[Bytes], bytes: usize) -> Vec<&[Bytes]> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut size = wire::LIST_HEAD;
    for (index, transaction) in transactions.iter().enumerate() {
        let item = wire::ITEM_HEAD + transaction.len();
        if index > start && size + item > bytes {
            batches.extend(transactions.get(start..index));
            start = index;
            size = wire::LIST_HEAD;
        }
        size += item;
    }
    batches.extend(transactions.get(start..).filter(|rest| !rest.is_empty()));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transactions(sizes: &[usize]) -> Vec<Bytes> {
        sizes
            .iter()
            .map(|size| Bytes::from(vec![1; *size]))
            .collect()
    }

    #[test]
    fn batches_stay_within_their_size_and_keep_the_order() {
        let all = transactions(&[10, 10, 100, 1, 1]);
        let sizes: Vec<Vec<usize>> = split(&all, 40)
            .iter()
            .map(|batch| batch.iter().map(Bytes::len).collect())
            .collect();
        assert_eq!(sizes, [vec![10, 10], vec![100], vec![1, 1]]);
        assert!(split(&[], 40).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_within_the_delay_become_one_message() {
        let (publish, mut published) = mpsc::channel(4);
        let (queue, coalescer) =
            GossipQueue::new(&Limits::default(), &Timing::default(), 9, publish);
        let task = tokio::spawn(coalescer.run());
        queue.push(transactions(&[3]));
        queue.push(transactions(&[4, 5]));
        let message = published.recv().await.unwrap().freeze();
        let (list, relay) = wire::read_gossip(message).unwrap();
        assert_eq!(list, transactions(&[3, 4, 5]));
        assert!(!relay);
        queue.push(transactions(&[6]));
        published.recv().await.unwrap();
        assert_eq!(queue.bytes.load(Ordering::Acquire), 0);
        drop(queue);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_full_batch_does_not_wait() {
        let (publish, mut published) = mpsc::channel(4);
        // A delay that would outlast the test.
        let timing = Timing {
            gossip_delay: Duration::from_secs(3_000),
            ..Timing::default()
        };
        let (queue, coalescer) = GossipQueue::new(&Limits::default(), &timing, 0, publish);
        let task = tokio::spawn(coalescer.run());
        queue.push(transactions(&[40_000]));
        queue.push(transactions(&[40_000]));
        assert!(published.recv().await.is_some());
        task.abort();
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_newest_and_oversized_transactions_never_enter() {
        let (publish, _published) = mpsc::channel(1);
        let limits = Limits {
            gossip_queue_calls: 2,
            ..Limits::default()
        };
        let (queue, mut coalescer) = GossipQueue::new(&limits, &Timing::default(), 0, publish);
        queue.push(transactions(&[3 << 20]));
        queue.push(transactions(&[1, 3 << 20]));
        queue.push(transactions(&[2]));
        queue.push(transactions(&[3]));
        assert_eq!(coalescer.receiver.try_recv().unwrap(), transactions(&[1]));
        assert_eq!(coalescer.receiver.try_recv().unwrap(), transactions(&[2]));
        assert!(coalescer.receiver.try_recv().is_err());
        assert_eq!(queue.bytes.load(Ordering::Acquire), 9 + 10);
    }
}
