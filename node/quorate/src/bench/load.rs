//! One run: what is sent when, and what became of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use alloy_primitives::map::B256Map;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::workload::Signed;

/// After a refusal for lack of room a connection pauses so long, and doubles it up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What a run is made of.
pub struct Plan {
    /// Transaction `i` belongs to connection `i % workers` and to node `i % nodes`.
    pub transactions: Vec<Signed>,
    /// Connections, a multiple of `nodes`.
    pub workers: usize,
    /// Senders, a multiple of `workers`: transaction `i` comes from sender `i % senders`.
    pub senders: usize,
    /// Nodes.
    pub nodes: usize,
    /// Transactions per second; `None`: as many as the window allows.
    pub rate: Option<f64>,
    /// Most transactions that are sent and not committed.
    pub window: Option<usize>,
}

/// Refusals of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub sample: String,
}

/// The state of a run, shared by senders and followers.
pub struct Run {
    /// What it is made of.
    pub plan: Plan,
    /// Nothing new is sent any more.
    pub closing: CancellationToken,
    /// Everything ends.
    pub stop: CancellationToken,
    index: B256Map<u32>,
    epoch: Instant,
    /// Nanoseconds after `epoch` at which sending began.
    begun: AtomicU64,
    /// Per transaction: when it was due (or sent, without a schedule), in nanoseconds after `epoch`; 0: not yet.
    due: Vec<AtomicU64>,
    /// Per transaction: when it was seen in a block.
    seen: Vec<AtomicU64>,
    accepted: AtomicUsize,
    committed: AtomicUsize,
    refusals: Mutex<BTreeMap<String, Refusals>>,
    window: Option<Semaphore>,
}

impl Run {
    /// A run that has not begun.
    pub fn new(plan: Plan) -> Self {
        let count = plan.transactions.len();
        let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            index: plan
                .transactions
                .iter()
                .enumerate()
                .map(|(i, t)| (t.hash, i as u32))
                .collect(),
            due: zeros(),
            seen: zeros(),
            window: plan.window.map(Semaphore::new),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
            epoch: Instant::now(),
            begun: AtomicU64::new(0),
            accepted: AtomicUsize::new(0),
            committed: AtomicUsize::new(0),
            refusals: Mutex::new(BTreeMap::new()),
            plan,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Starts the clock.
    pub fn begin(&self) {
        self.begun.store(self.now(), Ordering::Release);
    }

    /// Transactions that nodes took.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Transactions that were seen in blocks.
    pub fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Notes a block that `node` told of (`None`: one node tells for all). True if any of it is ours.
    pub fn saw_block<'a>(
        &self,
        node: Option<usize>,
        hashes: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        let now = self.now();
        let mut ours = false;
        let mut fresh = 0;
        for hash in hashes {
            let Ok(hash) = B256::try_from(hash) else {
                continue;
            };
            let Some(i) = self.index.get(&hash).map(|i| *i as usize) else {
                continue;
            };
            ours = true;
            // A client looks for its receipt on the node that took its transaction.
            if node.is_some_and(|node| i % self.plan.nodes != node) {
                continue;
            }
            let first = self.seen.get(i).is_some_and(|s| {
                s.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            });
            fresh += usize::from(first);
        }
        self.committed.fetch_add(fresh, Ordering::Relaxed);
        self.release(fresh);
        ours
    }

    fn release(&self, count: usize) {
        if let Some(window) = &self.window {
            window.add_permits(count);
        }
    }

    fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A node refused a transaction. `for_good`: it will not be sent again, and its place in the window is free.
    fn refuse(&self, reason: &str, message: &str, for_good: bool) {
        let mut refusals = self.refusals.lock();
        let entry = refusals.entry(reason.to_owned()).or_default();
        entry.count += 1;
        if entry.sample.is_empty() {
            entry.sample = message.to_owned();
        }
        drop(refusals);
        if for_good {
            self.release(1);
        }
    }

    /// Refusals by reason.
    pub fn refusals(&self) -> BTreeMap<String, Refusals> {
        self.refusals.lock().clone()
    }

    /// Hashes of up to `count` committed transactions, spread over the run.
    pub fn committed_sample(&self, count: usize) -> Vec<B256> {
        let committed: Vec<&Signed> = self
            .plan
            .transactions
            .iter()
            .zip(&self.seen)
            .filter(|(_, seen)| seen.load(Ordering::Relaxed) != 0)
            .map(|(signed, _)| signed)
            .collect();
        let step = committed.len().div_ceil(count.max(1)).max(1);
        committed
            .iter()
            .step_by(step)
            .map(|signed| signed.hash)
            .collect()
    }

    /// Per sent transaction: seconds from the beginning until it was due, and until it was committed.
    pub fn timeline(&self) -> Vec<(f64, Option<f64>)> {
        let begun = self.begun.load(Ordering::Acquire);
        let seconds = |at: u64| at.saturating_sub(begun) as f64 / 1e9;
        let pairs = self.due.iter().zip(&self.seen);
        pairs
            .map(|(due, seen)| (due.load(Ordering::Relaxed), seen.load(Ordering::Relaxed)))
            .filter(|(due, _)| *due != 0)
            .map(|(due, seen)| (seconds(due), (seen != 0).then(|| seconds(seen))))
            .collect()
    }
}

/// The transactions of one connection, in order.
pub struct Share<'a> {
    run: &'a Run,
    next: usize,
    retry: VecDeque<usize>,
    /// Taken and neither accepted nor refused for good. A sender's next transaction waits for its last one: were the last
    /// one refused and the next one accepted, the next one would take up room in the pool and could not be minted.
    open: BTreeSet<usize>,
    pause: Duration,
    paused_until: Option<Instant>,
}

impl<'a> Share<'a> {
    /// The share of connection `worker`.
    pub fn new(run: &'a Run, worker: usize) -> Self {
        Self {
            run,
            next: worker,
            retry: VecDeque::new(),
            open: BTreeSet::new(),
            pause: PAUSE_MIN,
            paused_until: None,
        }
    }

    /// True if there is something to send, now or later.
    pub fn has_next(&self) -> bool {
        !self.run.closing.is_cancelled()
            && (!self.retry.is_empty() || self.next < self.run.plan.transactions.len())
    }

    /// True if nothing can be sent before an answer to something sent has come.
    pub fn blocked(&self) -> bool {
        let before = self.next.checked_sub(self.run.plan.senders);
        self.retry.is_empty() && before.is_some_and(|before| self.open.contains(&before))
    }

    /// Waits until the next transaction may be sent, unless [`Self::blocked`]: its time has come, no pause is on, the window is open. May be dropped
    /// while it waits.
    pub async fn ready(&self) {
        if let Some(until) = self.paused_until {
            tokio::time::sleep_until(until.into()).await;
        }
        if !self.retry.is_empty() {
            // It has its place in the window already.
            return;
        }
        if let Some(due) = self.due() {
            tokio::time::sleep_until(due.into()).await;
        }
        if let Some(window) = &self.run.window {
            // Taken for good: it is given back when the transaction is committed. An error would mean a closed window,
            // which no one closes.
            if let Ok(permit) = window.acquire().await {
                permit.forget();
            }
        }
    }

    /// True if one more may be sent without waiting; then its place in the window is taken.
    pub fn ready_now(&self) -> bool {
        if !self.has_next()
            || self
                .paused_until
                .is_some_and(|until| until > Instant::now())
        {
            return false;
        }
        if !self.retry.is_empty() {
            return true;
        }
        if self.blocked() || self.due().is_some_and(|due| due > Instant::now()) {
            return false;
        }
        match &self.run.window {
            None => true,
            Some(window) => window.try_acquire().map(|permit| permit.forget()).is_ok(),
        }
    }

    /// When the next transaction is due, if there is a schedule.
    fn due(&self) -> Option<Instant> {
        let rate = self.run.plan.rate?;
        let begun = Duration::from_nanos(self.run.begun.load(Ordering::Acquire));
        Some(self.run.epoch + begun + Duration::from_secs_f64(self.next as f64 / rate))
    }

    /// Takes the next transaction, after [`Self::ready`].
    pub fn take(&mut self) -> Option<(usize, &'a Signed)> {
        self.paused_until = None;
        let run: &'a Run = self.run;
        if let Some(i) = self.retry.pop_front() {
            return Some((i, run.plan.transactions.get(i)?));
        }
        let due = self.due();
        let i = self.next;
        let signed = run.plan.transactions.get(i)?;
        self.next += run.plan.workers;
        self.open.insert(i);
        let at = match due {
            Some(due) => u64::try_from(due.saturating_duration_since(run.epoch).as_nanos())
                .unwrap_or(u64::MAX),
            None => run.now(),
        };
        if let Some(slot) = run.due.get(i) {
            slot.store(at.max(1), Ordering::Relaxed);
        }
        Some((i, signed))
    }

    /// Transaction `i` was taken by the node.
    pub fn accepted(&mut self, i: usize) {
        self.open.remove(&i);
        self.pause = PAUSE_MIN;
        self.run.accept();
    }

    /// The node will never take transaction `i`.
    pub fn refused(&mut self, i: usize, reason: &str, message: &str) {
        self.open.remove(&i);
        self.run.refuse(reason, message, true);
    }

    /// The node has no room, or no leader: send it again after a pause.
    pub fn again(&mut self, i: usize, reason: &str, message: &str) {
        self.run.refuse(reason, message, false);
        self.retry.push_back(i);
        self.rest();
    }

    /// Sends transactions again whose fate is not known, oldest first.
    pub fn lost(&mut self, unanswered: impl DoubleEndedIterator<Item = usize>, reason: &str) {
        for i in unanswered.rev() {
            self.retry.push_front(i);
        }
        self.run.refuse("connection", reason, false);
        self.rest();
    }

    fn rest(&mut self) {
        if self.paused_until.is_none() {
            self.paused_until = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Bytes, keccak256};

    use super::*;

    fn run(
        count: u64,
        workers: usize,
        nodes: usize,
        rate: Option<f64>,
        window: Option<usize>,
    ) -> Run {
        let transactions = (0..count)
            .map(|i| {
                let raw = Bytes::copy_from_slice(&i.to_be_bytes());
                Signed {
                    hash: keccak256(&raw),
                    raw,
                }
            })
            .collect();
        // Twice as many senders as there are transactions: nobody waits for its own.
        let senders = workers * 2 * count as usize;
        Run::new(Plan {
            transactions,
            workers,
            senders,
            nodes,
            rate,
            window,
        })
    }

    fn hash(run: &Run, i: usize) -> &[u8] {
        run.plan.transactions[i].hash.as_slice()
    }

    #[test]
    fn connections_share_the_transactions_without_overlap() {
        let run = run(10, 4, 2, None, None);
        let mut all = Vec::new();
        for worker in 0..4 {
            let mut share = Share::new(&run, worker);
            while share.has_next() && share.ready_now() {
                all.push(share.take().unwrap().0);
            }
        }
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_window_opens_when_a_transaction_is_seen_on_the_node_that_took_it() {
        let run = run(10, 2, 2, None, Some(2));
        run.begin();
        let mut share = Share::new(&run, 1);
        assert!(share.ready_now() && share.take().is_some());
        assert!(share.ready_now() && share.take().is_some());
        assert!(!share.ready_now());
        // Transaction 1 belongs to node 1.
        assert!(run.saw_block(Some(0), [hash(&run, 1)].into_iter()));
        assert_eq!(run.committed(), 0);
        assert!(!share.ready_now());
        assert!(run.saw_block(Some(1), [hash(&run, 1), hash(&run, 1)].into_iter()));
        assert_eq!(run.committed(), 1);
        assert!(share.ready_now());
        assert!(!run.saw_block(Some(1), [[7u8; 32].as_slice()].into_iter()));
    }

    #[test]
    fn a_refused_transaction_goes_first_after_a_pause_and_keeps_its_place_in_the_window() {
        let run = run(4, 1, 1, None, Some(2));
        let mut share = Share::new(&run, 0);
        assert!(share.ready_now());
        let (first, _) = share.take().unwrap();
        share.again(first, "RESOURCE_EXHAUSTED", "pool is full");
        assert!(share.has_next() && !share.ready_now());
        share.paused_until = None;
        assert!(share.ready_now());
        assert_eq!(share.take().unwrap().0, first);
        assert!(share.ready_now());
        assert_eq!(share.take().unwrap().0, 1);
        assert!(!share.ready_now());
        assert_eq!(
            run.refusals()["RESOURCE_EXHAUSTED"],
            Refusals {
                count: 1,
                sample: "pool is full".into()
            }
        );
        share.refused(1, "INVALID_ARGUMENT", "bad");
        assert!(share.ready_now());
    }

    #[test]
    fn a_sender_waits_until_its_last_transaction_is_taken() {
        let mut run = run(8, 1, 1, None, None);
        run.plan.senders = 2;
        let mut share = Share::new(&run, 0);
        for expected in [0, 1] {
            assert!(share.ready_now());
            assert_eq!(share.take().unwrap().0, expected);
        }
        assert!(share.blocked() && !share.ready_now());
        share.accepted(1);
        assert!(share.blocked());
        share.again(0, "RESOURCE_EXHAUSTED", "pool is full");
        share.paused_until = None;
        assert!(share.ready_now());
        assert_eq!(share.take().unwrap().0, 0);
        assert!(share.blocked());
        share.accepted(0);
        assert!(share.ready_now());
        assert_eq!(share.take().unwrap().0, 2);
    }

    #[test]
    fn what_got_lost_is_sent_again_in_order() {
        let run = run(9, 1, 1, None, None);
        let mut share = Share::new(&run, 0);
        let taken: Vec<usize> = (0..3).map(|_| share.take().unwrap().0).collect();
        share.lost(taken.into_iter(), "gone");
        let again: Vec<usize> = (0..4).map(|_| share.take().unwrap().0).collect();
        assert_eq!(again, [0, 1, 2, 3]);
    }

    #[test]
    fn latency_counts_from_the_time_that_a_transaction_was_due() {
        let run = run(2, 1, 1, Some(1e9), None);
        run.begin();
        let mut share = Share::new(&run, 0);
        while share.has_next() {
            assert!(share.ready_now());
            share.take().unwrap();
        }
        run.saw_block(None, [hash(&run, 1)].into_iter());
        let timeline = run.timeline();
        assert_eq!(timeline.len(), 2);
        assert!(timeline[0].0 < 1e-6 && timeline[0].1.is_none());
        assert!(timeline[1].1.unwrap() >= timeline[1].0);
        assert_eq!(run.committed_sample(10).len(), 1);
    }

    #[test]
    fn nothing_new_is_sent_while_closing() {
        let run = run(2, 1, 1, None, None);
        let share = Share::new(&run, 0);
        assert!(share.has_next());
        run.closing.cancel();
        assert!(!share.has_next());
    }
}
