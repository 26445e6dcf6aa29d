//! Who watches: an observer that asks each member how it is doing, and subscribers that must be told of every block.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use crate::endpoints::{Directory, NodeState, Nodes, word};
use crate::history::{Report, Seen};
use crate::links::Slot;

/// Between two questions to one member.
const PACE: Duration = Duration::from_millis(80);
/// Before a subscriber connects again.
pub(crate) const RECONNECT: Duration = Duration::from_millis(60);
/// A subscriber that hears nothing for so long goes to another member.
pub(crate) const SILENCE: Duration = Duration::from_millis(1_500);

/// What the observer has seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// In order of time.
    pub reports: Vec<Report>,
    /// The newest word of each member.
    pub latest: BTreeMap<Slot, NodeState>,
    /// Highest block that any member showed.
    pub highest: u64,
    /// When that rose last.
    pub rose_at: Option<Instant>,
    /// The longest time that it did not, while clients were sending.
    pub longest_pause: Duration,
}

/// Asks all members how they are doing until `stop`. Pauses count until `enough` is set.
pub async fn observe(
    nodes: Nodes,
    directory: Directory,
    observed: Arc<Mutex<Observed>>,
    enough: Arc<AtomicBool>,
    begun: Instant,
    stop: CancellationToken,
) {
    let mut by_rpc = false;
    while stop
        .run_until_cancelled(tokio::time::sleep(PACE))
        .await
        .is_some()
    {
        by_rpc = !by_rpc;
        let mut asked = tokio::task::JoinSet::new();
        for target in directory.all() {
            let nodes = nodes.clone();
            asked.spawn(async move {
                // What both ways tell must be the same chain.
                let state = match by_rpc {
                    true => nodes.status_by_rpc(&target).await,
                    false => nodes.status(&target).await,
                };
                (state, target)
            });
        }
        let current = directory.clone();
        while let Some(answer) = asked.join_next().await {
            let Ok((Ok(state), target)) = answer else {
                continue;
            };
            // A process that was exchanged while it was asked: it is not known which one answered.
            if !current.all().contains(&target) {
                continue;
            }
            let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = now.duration_since(begun).as_micros();
            observed.reports.push(Report {
                slot: target.slot,
                life: target.life,
                at: u64::try_from(at).unwrap_or(u64::MAX),
                head: state.head,
                committed: state.committed,
            });
            let rises = state.head.height > observed.highest;
            let since = *observed.rose_at.get_or_insert(now);
            if !enough.load(Ordering::Relaxed) {
                observed.longest_pause = observed.longest_pause.max(now.duration_since(since));
            }
            if rises {
                observed.highest = state.head.height;
                observed.rose_at = Some(now);
            }
            observed.latest.insert(target.slot, state);
        }
    }
}

/// What a subscriber was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Blocks in the order in which it was told of them, each once.
    pub blocks: Vec<Seen>,
    /// What was wrong on the spot.
    pub complaints: Vec<String>,
    /// How often it had to connect.
    pub connections: u64,
}

/// Follows the chain until `stop`, from one member to the next. With `resumes`, the member is asked for what was missed; else
/// the subscriber fetches it, as a client of `eth_subscribe` has to.
pub async fn subscribe(
    nodes: Nodes,
    directory: Directory,
    told: Arc<Mutex<Told>>,
    resumes: bool,
    seed: u64,
    stop: CancellationToken,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut subscriber = Subscriber::new(nodes, told);
    while !stop.is_cancelled() {
        let targets = directory.all();
        if targets.is_empty() {
            tokio::time::sleep(RECONNECT).await;
            continue;
        }
        let Some(target) = targets.get(rng.random_range(0..targets.len())) else {
            continue;
        };
        let following = subscriber.follow(target, resumes, stop.clone());
        // Whatever ended it: the next member is asked.
        if stop.run_until_cancelled(following).await.is_some() {
            tokio::time::sleep(RECONNECT).await;
        }
    }
}

/// Keeps what one subscriber was told of blocks.
#[derive(Debug)]
pub struct Subscriber {
    nodes: Nodes,
    told: Arc<Mutex<Told>>,
}

impl Subscriber {
    /// It has not connected yet.
    pub fn new(nodes: Nodes, told: Arc<Mutex<Told>>) -> Self {
        Self { nodes, told }
    }

    /// A connection was made.
    pub fn connected(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.connections += 1;
    }

    /// Complains if a subscription that told of block `last` tells of another one than the next.
    pub fn follows(
        &self,
        what: &str,
        target: &crate::endpoints::Target,
        last: Option<u64>,
        seen: Seen,
    ) {
        if let Some(last) = last
            && seen.height != last + 1
        {
            self.complain(format!(
                "a subscription to {what} at node {} told of block {} after {last}",
                target.slot, seen.height
            ));
        }
    }

    fn due(&self) -> u64 {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.blocks.last().map_or(1, |s| s.height + 1)
    }

    async fn follow(
        &mut self,
        target: &crate::endpoints::Target,
        resumes: bool,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let from = resumes.then(|| self.due());
        let mut stream = self.nodes.subscribe(target, from).await?;
        self.connected();
        if !resumes {
            // What came before the subscription, nobody tells: it has to be asked for.
            let head = self.nodes.status(target).await?.head;
            self.take(target, head).await?;
        }
        let mut last: Option<u64> = from.map(|from| from.saturating_sub(1));
        while !stop.is_cancelled() {
            let next = tokio::time::timeout(SILENCE, stream.message()).await??;
            let Some(block) = next else { return Ok(()) };
            let seen = Seen {
                height: block.height,
                hash: word(&block.hash)?,
            };
            self.follows("blocks", target, last, seen);
            last = Some(seen.height);
            self.take(target, seen).await?;
        }
        Ok(())
    }

    /// Takes a block, after fetching what came before it and was missed.
    ///
    /// # Errors
    /// If what was missed is not given.
    pub async fn take(
        &mut self,
        target: &crate::endpoints::Target,
        seen: Seen,
    ) -> anyhow::Result<()> {
        let due = self.due();
        if seen.height == 0 {
            return Ok(());
        }
        if seen.height < due {
            // This member is behind the one that was followed before. What it tells must be the same.
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let known = told.blocks.iter().rev().find(|s| s.height == seen.height);
            let differs = known.is_some_and(|known| *known != seen);
            drop(told);
            if differs {
                self.complain(format!(
                    "node {} told of another block {} than a member before",
                    target.slot, seen.height
                ));
            }
            return Ok(());
        }
        if seen.height > due {
            for block in self.nodes.blocks(target, due..seen.height).await? {
                let block =
                    block.ok_or_else(|| anyhow::anyhow!("a block below the head is not there"))?;
                self.push(Seen {
                    height: block.height,
                    hash: block.hash,
                });
            }
        }
        self.push(seen);
        Ok(())
    }

    fn push(&self, seen: Seen) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.blocks.push(seen);
    }

    /// Notes what is wrong on the spot.
    pub fn complain(&self, text: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.complaints.push(text);
    }
}
