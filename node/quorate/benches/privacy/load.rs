//! Sending as fast as the nodes answer, or at a rate, and seeing what came on the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use serde_json::{Value, json};

use crate::client::{Client, Failure};
use crate::consortium::quantity;
use crate::world::{Kind, Lane, PARTIES, PATIENCE, World};

/// So many transactions may be accepted and not yet in a block; then senders wait. Below every limit of the pool.
const UNCOMMITTED_MAX: u64 = 4_000;
const PAUSE: Duration = Duration::from_millis(2);

/// When sending ends, and how fast it goes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Not longer than this.
    pub time: Option<Duration>,
    /// Not more transactions than this.
    pub count: u64,
    /// Transactions per second; else as fast as the node answers.
    pub rate: Option<f64>,
}

/// What senders and the follower share.
#[derive(Default)]
struct Shared {
    taken: AtomicU64,
    accepted: AtomicU64,
    committed: AtomicU64,
    stop: AtomicBool,
    followed: AtomicBool,
    seen: Mutex<Seen>,
}

/// What the chain holds since the phase began.
#[derive(Debug, Default)]
struct Seen {
    blocks: u64,
    bytes: u64,
    /// Height of the last block with a transaction.
    last: u64,
    transactions: BTreeSet<B256>,
}

/// What one connection heard.
#[derive(Debug, Default)]
struct Heard {
    accepted: Vec<B256>,
    /// Answers that were no hash, by their text.
    refused: BTreeMap<String, u64>,
}

/// Senders at work.
pub struct Running {
    kind: Kind,
    shared: Arc<Shared>,
    started: Instant,
    senders: Vec<JoinHandle<Heard>>,
    follower: JoinHandle<()>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Transactions that a node gave a hash for, all of which are in blocks.
    pub accepted: Vec<B256>,
    /// Transactions in blocks.
    pub committed: u64,
    pub blocks: u64,
    /// RLP of these blocks.
    pub block_bytes: u64,
    /// Height of the last of them.
    pub last: u64,
    /// From the first request until both parties had executed the last transaction.
    pub time: Duration,
    pub refused: BTreeMap<String, u64>,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.committed as f64 / self.time.as_secs_f64()
    }

    /// Names what was not taken; it is no loss, but it is no good sign either.
    pub fn complain(&self, what: &str) {
        for (reason, count) in &self.refused {
            println!("  {what}: {count} requests were refused: {reason}");
        }
    }
}

/// Begins to send over all lanes at once. Blocks are followed on the first party.
pub fn begin(world: &World, kind: Kind, lanes: Vec<Lane>, plan: Plan) -> Running {
    let shared = Arc::new(Shared::default());
    let height = world.height(PARTIES[0]);
    let follower = std::thread::spawn({
        let (shared, client) = (Arc::clone(&shared), world.client(PARTIES[0]));
        move || follow(&shared, client, height)
    });
    let started = Instant::now();
    let senders = lanes.into_iter().map(|lane| {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || send(&shared, &lane, plan, started))
    });
    Running {
        kind,
        senders: senders.collect(),
        shared,
        started,
        follower,
    }
}

/// Sends, and waits for the end.
pub fn run(world: &World, kind: Kind, lanes: Vec<Lane>, plan: Plan) -> Outcome {
    begin(world, kind, lanes, plan).wait(world)
}

impl Running {
    /// Ends sending, and waits until everything is executed.
    pub fn end(self, world: &World) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait(world)
    }

    /// Waits until everything is sent and executed.
    ///
    /// # Panics
    /// If something that was accepted does not come on the chain.
    fn wait(self, world: &World) -> Outcome {
        let mut accepted = Vec::new();
        let mut refused = BTreeMap::new();
        for sender in self.senders {
            let heard = sender.join().unwrap();
            accepted.extend(heard.accepted);
            for (reason, count) in heard.refused {
                *refused.entry(reason).or_default() += count;
            }
        }
        let mut missing = accepted.clone();
        let mut moved = Instant::now();
        loop {
            let before = missing.len();
            let seen = self.shared.seen.lock().unwrap();
            missing.retain(|hash| !seen.transactions.contains(hash));
            drop(seen);
            if missing.is_empty() {
                break;
            }
            if missing.len() < before {
                moved = Instant::now();
            }
            assert!(
                moved.elapsed() < PATIENCE,
                "{} of {} transactions that were acknowledged are in no block, the first is {}",
                missing.len(),
                accepted.len(),
                missing[0]
            );
            std::thread::sleep(PAUSE);
        }
        let last = self.shared.seen.lock().unwrap().last;
        for i in PARTIES {
            world.wait_executed(self.kind, i, last);
        }
        let time = self.started.elapsed();
        self.shared.followed.store(true, Ordering::Relaxed);
        self.follower.join().unwrap();
        let seen = self.shared.seen.lock().unwrap();
        Outcome {
            committed: seen.transactions.len() as u64,
            blocks: seen.blocks,
            block_bytes: seen.bytes,
            last: seen.last,
            accepted,
            time,
            refused,
        }
    }
}

/// One request after the other over one connection.
fn send(shared: &Shared, lane: &Lane, plan: Plan, started: Instant) -> Heard {
    let mut client = Client::new(&lane.url);
    let mut heard = Heard::default();
    while !shared.stop.load(Ordering::Relaxed) {
        if plan.time.is_some_and(|time| started.elapsed() >= time) {
            break;
        }
        let committed = shared.committed.load(Ordering::Relaxed);
        if shared.accepted.load(Ordering::Relaxed) >= committed + UNCOMMITTED_MAX {
            std::thread::sleep(PAUSE);
            continue;
        }
        let turn = shared.taken.fetch_add(1, Ordering::Relaxed);
        if turn >= plan.count {
            break;
        }
        if let Some(rate) = plan.rate {
            let due = started + Duration::from_secs_f64(turn as f64 / rate);
            if !wait_until(due, &shared.stop) {
                break;
            }
        }
        match client.send(&lane.body) {
            Ok(hash) => {
                heard.accepted.push(hash_of(&hash));
                shared.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                // It is made up for by another one.
                shared.taken.fetch_sub(1, Ordering::Relaxed);
                let count = heard.refused.entry(reason_of(&failure)).or_default();
                *count += 1;
                assert!(*count < 10_000, "always refused: {failure}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    heard
}

/// False if it is to stop before.
fn wait_until(due: Instant, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::Relaxed) {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    false
}

pub fn hash_of(answer: &Value) -> B256 {
    let hash = answer.as_str().and_then(|hash| hash.parse().ok());
    hash.unwrap_or_else(|| panic!("{answer} is no hash"))
}

/// Without the figures, which differ each time.
fn reason_of(failure: &Failure) -> String {
    match failure {
        Failure::Refused(error) => match error["data"]["reason"].as_str() {
            Some(reason) => format!("{} ({reason})", error["code"]),
            None => format!("{} {}", error["code"], error["message"]),
        },
        Failure::Broken(reason) => reason.clone(),
    }
}

/// Looks at every block behind `height` until told to stop.
fn follow(shared: &Shared, mut client: Client, height: u64) {
    let mut next = height + 1;
    loop {
        let done = shared.followed.load(Ordering::Relaxed);
        let params = json!([format!("{next:#x}"), false]);
        let block = match client.call("eth_getBlockByNumber", &params) {
            Ok(block) if !block.is_null() => block,
            _ if done => return,
            _ => {
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        let transactions = block["transactions"].as_array().unwrap();
        let mut seen = shared.seen.lock().unwrap();
        if !transactions.is_empty() {
            seen.blocks += 1;
            seen.bytes += quantity(&block["size"]);
            seen.last = next;
        }
        seen.transactions.extend(transactions.iter().map(hash_of));
        drop(seen);
        let count = transactions.len() as u64;
        shared.committed.fetch_add(count, Ordering::Relaxed);
        next += 1;
    }
}
