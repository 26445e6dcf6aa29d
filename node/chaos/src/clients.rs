//! Clients that go on whatever happens to the members: each transfer is sent to one member after the other until some member
//! says which block it is in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::task::JoinSet;

use crate::accounts::{Account, Transfer, recipient, teller};
use crate::endpoints::{Directory, Nodes, Target};
use crate::history::{Acknowledgement, Moment, Seen, Submission};

/// So long one member is asked for the receipt of what it took, before another one gets the transaction too.
const ATTEMPT: Duration = Duration::from_millis(800);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(15);
/// Longest pause between two transfers of a client.
const GAP_MAX_MS: u64 = 60;
/// Transfers of an account that may wait for their blocks at once, for clients that do not wait for each.
const PIPELINE: usize = 4;
/// Addresses that only ever receive.
pub const RECIPIENTS: u64 = 8;

/// What all clients of a run share.
#[derive(Debug, Clone)]
pub struct Clients {
    /// How to reach nodes.
    pub nodes: Nodes,
    /// Which nodes.
    pub directory: Directory,
    /// When the run began.
    pub begun: Instant,
    /// Set when no new transfer is to be made.
    pub enough: Arc<AtomicBool>,
    /// What became of the transfers.
    pub submissions: Arc<Mutex<Vec<Submission>>>,
    /// The accounts of all clients.
    pub addresses: Arc<Vec<Address>>,
}

impl Clients {
    fn now(&self) -> Moment {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(Moment::MAX)
    }

    /// One client: sends from `account` until it is enough, then waits for what is still open, until `deadline`.
    pub async fn run(
        self,
        account: Account,
        seed: u64,
        deadline: tokio::sync::watch::Receiver<Option<Instant>>,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let pipelined = rng.random_bool(0.4);
        let mut open = JoinSet::new();
        let mut nonce = 0;
        while !self.enough.load(Ordering::Relaxed) {
            let at_once = if pipelined { PIPELINE } else { 1 };
            while open.len() >= at_once {
                open.join_next().await;
            }
            let to = match rng.random_range(0..10u32) {
                0..2 => teller(),
                2..6 => recipient(rng.random_range(0..RECIPIENTS)),
                _ => {
                    let number = rng.random_range(0..self.addresses.len());
                    self.addresses.get(number).copied().unwrap_or_default()
                }
            };
            let value = U256::from(rng.random_range(0..1_000_000u64));
            let is_free = to == teller() || rng.random_bool(0.5);
            let gas_price = if is_free { 0 } else { 1_000 };
            let transfer = account.transfer(nonce, to, value, gas_price);
            nonce += 1;
            let (clients, seed) = (self.clone(), rng.random());
            let deadline = deadline.clone();
            open.spawn(async move { clients.transfer(transfer, seed, deadline).await });
            let gap = Duration::from_millis(rng.random_range(0..GAP_MAX_MS));
            tokio::time::sleep(gap).await;
        }
        while open.join_next().await.is_some() {}
    }

    async fn transfer(
        &self,
        transfer: Transfer,
        seed: u64,
        deadline: tokio::sync::watch::Receiver<Option<Instant>>,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let at = self.now();
        let mut acknowledged = None;
        let is_late = || deadline.borrow().is_some_and(|end| Instant::now() > end);
        while acknowledged.is_none() && !is_late() {
            let targets = self.directory.all();
            let Some(target) = pick(&targets, &mut rng) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let sent = self.send(target, &transfer, rng.random_range(0..4)).await;
            let block = match sent {
                Ok(Some(block)) => Some(block),
                // A refusal may mean that it is in a block already: an earlier attempt may have come through.
                Ok(None) | Err(_) => {
                    let patience = if sent.is_ok() { ATTEMPT } else { PAUSE * 4 };
                    self.look(&targets, &transfer, patience, &mut rng).await
                }
            };
            acknowledged = block.map(|block| Acknowledgement {
                at: self.now(),
                block,
            });
        }
        let submission = Submission {
            transfer,
            at,
            acknowledged,
        };
        self.submissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(submission);
    }

    async fn send(
        &self,
        to: &Target,
        transfer: &Transfer,
        way: u32,
    ) -> anyhow::Result<Option<Seen>> {
        match way {
            0 => self.nodes.submit(to, &transfer.raw, true).await,
            1 => self.nodes.submit(to, &transfer.raw, false).await,
            _ => {
                let params = json!([transfer.raw]);
                self.nodes
                    .call(to, "eth_sendRawTransaction", params)
                    .await
                    .map(|_| None)
            }
        }
    }

    /// Asks one member after the other which block the transfer is in.
    async fn look(
        &self,
        targets: &[Target],
        transfer: &Transfer,
        patience: Duration,
        rng: &mut StdRng,
    ) -> Option<Seen> {
        let begun = Instant::now();
        let mut target = pick(targets, rng)?;
        while begun.elapsed() < patience {
            match self.nodes.receipt(target, transfer.hash).await {
                Ok(Some(block)) => return Some(block),
                Ok(None) => {}
                Err(_) => target = pick(targets, rng)?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}

fn pick<'a>(targets: &'a [Target], rng: &mut StdRng) -> Option<&'a Target> {
    if targets.is_empty() {
        return None;
    }
    targets.get(rng.random_range(0..targets.len()))
}
