//! Clients, observers and subscribers of one consortium, whatever it runs on, and what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accounts::{Account, recipient, teller};
use crate::clients::{Clients, RECIPIENTS};
use crate::endpoints::{Directory, Nodes, Target};
use crate::history::{History, Holdings, Report, Submission};
use crate::observers::{Observed, Told, observe, subscribe};
use crate::run::Outcome;
use crate::sockets::{self, ToldLogs};

/// Clients of a run, each with an account of its own.
const CLIENTS: u64 = 5;

/// Everybody around the members.
pub struct Crowd {
    nodes: Nodes,
    enough: Arc<AtomicBool>,
    told: Vec<Arc<Mutex<Told>>>,
    told_logs: Vec<Arc<Mutex<ToldLogs>>>,
    submissions: Arc<Mutex<Vec<Submission>>>,
    /// The clients' accounts.
    pub accounts: Vec<Account>,
    /// What the observer sees.
    pub observed: Arc<Mutex<Observed>>,
    begun: Instant,
    stop: CancellationToken,
}

/// Clients at work.
pub struct Sending {
    /// One for each client.
    pub tasks: JoinSet<()>,
    deadline: tokio::sync::watch::Sender<Option<Instant>>,
}

/// What all members hold at the end.
pub struct Held {
    /// By member.
    pub holdings: Vec<Holdings>,
    /// Height of the last block.
    pub head: u64,
    /// Blocks in the middle that a member did not give.
    pub holes: BTreeMap<usize, usize>,
}

impl Crowd {
    /// Nobody does anything yet.
    ///
    /// # Errors
    /// Never in practice: if an account cannot be made.
    pub fn new(begun: Instant, stop: CancellationToken) -> anyhow::Result<Self> {
        Ok(Self {
            nodes: Nodes::default(),
            enough: Arc::default(),
            told: Vec::new(),
            told_logs: Vec::new(),
            submissions: Arc::default(),
            accounts: (0..CLIENTS).map(Account::of).collect::<Result<_, _>>()?,
            observed: Arc::default(),
            begun,
            stop,
        })
    }

    /// Lets the observer watch.
    pub fn observe(&self, directory: &Directory) {
        tokio::spawn(observe(
            self.nodes.clone(),
            directory.clone(),
            Arc::clone(&self.observed),
            Arc::clone(&self.enough),
            self.begun,
            self.stop.clone(),
        ));
    }

    /// True once `nodes` members have answered and one leads. Pauses count from then on.
    pub fn is_up(&self, nodes: usize) -> bool {
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let up = observed.latest.len() == nodes && observed.latest.values().any(|s| s.leads);
        if up {
            observed.rose_at = None;
            observed.longest_pause = Duration::ZERO;
        }
        up
    }

    /// Lets clients send and subscribers listen.
    pub fn begin(&mut self, directory: &Directory, seed: u64) -> Sending {
        let clients = Clients {
            nodes: self.nodes.clone(),
            directory: directory.clone(),
            begun: self.begun,
            enough: Arc::clone(&self.enough),
            submissions: Arc::clone(&self.submissions),
            addresses: Arc::new(self.accounts.iter().map(|a| a.address).collect()),
        };
        let (deadline, ends) = tokio::sync::watch::channel(None);
        let mut tasks = JoinSet::new();
        for (number, account) in (0..).zip(&self.accounts) {
            let own_seed = seed.wrapping_mul(1_000).wrapping_add(number);
            tasks.spawn(clients.clone().run(account.clone(), own_seed, ends.clone()));
        }
        for resumes in [true, false] {
            let (told, own_seed) = self.subscriber(seed);
            tokio::spawn(subscribe(
                self.nodes.clone(),
                directory.clone(),
                told,
                resumes,
                own_seed,
                self.stop.clone(),
            ));
        }
        for _ in 0..2 {
            let (told, own_seed) = self.subscriber(seed);
            let logs = Arc::new(Mutex::new(ToldLogs::default()));
            self.told_logs.push(Arc::clone(&logs));
            tokio::spawn(sockets::subscribe(
                self.nodes.clone(),
                directory.clone(),
                told,
                logs,
                own_seed,
                self.stop.clone(),
            ));
        }
        Sending { tasks, deadline }
    }

    fn subscriber(&mut self, seed: u64) -> (Arc<Mutex<Told>>, u64) {
        let told = Arc::new(Mutex::new(Told::default()));
        self.told.push(Arc::clone(&told));
        (told, seed.wrapping_add(self.told.len() as u64))
    }

    /// No new transaction is to be made; those under way are waited for until `end`.
    pub fn enough(&self, sending: &Sending, end: Instant) {
        self.enough.store(true, Ordering::Relaxed);
        sending.deadline.send_replace(Some(end));
    }

    /// The heads of these members, if all of them have answered in their present life.
    pub fn heads(&self, members: &[Target]) -> Option<BTreeSet<(u64, String)>> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = |target: &Target| {
            let of_slot = |r: &&Report| r.slot == target.slot && r.life == target.life;
            observed.reports.iter().rev().find(of_slot).copied()
        };
        members
            .iter()
            .map(|target| newest(target).map(|r| (r.head.height, r.head.hash.to_string())))
            .collect()
    }

    /// True if members are level, no client waits, and every subscriber was told of everything.
    pub fn is_quiet(&self, sending: &mut Sending, heads: &Option<BTreeSet<(u64, String)>>) -> bool {
        while sending.tasks.try_join_next().is_some() {}
        let level = heads.as_ref().is_some_and(|heads| heads.len() == 1);
        sending.tasks.is_empty() && level && self.all_told(heads)
    }

    fn all_told(&self, heads: &Option<BTreeSet<(u64, String)>>) -> bool {
        let head = heads.iter().flatten().map(|(height, _)| *height).max();
        let of_heads = self.told.iter().all(|told| {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.blocks.last().map_or(0, |s| s.height) >= head.unwrap_or_default()
        });
        let submissions = self.submissions.lock();
        let submissions = submissions.unwrap_or_else(PoisonError::into_inner);
        let emit = submissions.iter().filter(|s| s.transfer.to == teller());
        let logs = emit.count();
        let of_logs = self.told_logs.iter().all(|told| {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.story.all.len() >= logs
        });
        of_heads && of_logs
    }

    /// How far subscribers are, for people.
    pub fn progress(&self) -> String {
        let heights: Vec<u64> = self
            .told
            .iter()
            .map(|told| {
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.blocks.last().map_or(0, |s| s.height)
            })
            .collect();
        let logs: Vec<usize> = self
            .told_logs
            .iter()
            .map(|told| {
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.story.all.len()
            })
            .collect();
        format!("subscribers at {heights:?}, with logs {logs:?}")
    }

    /// Reads everything from all members. Those for which `partial` is true may withhold something.
    ///
    /// # Errors
    /// If a member does not answer.
    pub async fn held(
        &self,
        members: &[Target],
        genesis: &BTreeMap<Address, U256>,
        partial: impl Fn(usize) -> bool,
    ) -> anyhow::Result<Held> {
        let heads = self.heads(members).unwrap_or_default();
        let head = heads.iter().map(|(height, _)| *height).max();
        let mut held = Held {
            holdings: Vec::new(),
            head: head.unwrap_or_default(),
            holes: BTreeMap::new(),
        };
        // Whoever made a block may have been paid; nodes that keep few blocks do not know all of them.
        let mut coinbases = BTreeSet::new();
        for target in members {
            let blocks = self.nodes.blocks(target, 1..=held.head).await;
            coinbases.extend(blocks.into_iter().flatten().flatten().map(|b| b.coinbase));
        }
        let mut accounts: BTreeSet<Address> = genesis.keys().copied().collect();
        accounts.extend(self.accounts.iter().map(|a| a.address));
        accounts.extend((0..RECIPIENTS).map(recipient));
        accounts.insert(teller());
        accounts.extend(coinbases);
        let accounts: Vec<Address> = accounts.into_iter().collect();
        for target in members {
            let partial = partial(target.slot);
            let (own, holes) = self
                .of_one(target, held.head, &accounts, partial)
                .await
                .with_context(|| format!("reading from node {}", target.slot))?;
            held.holdings.push(own);
            if holes > 0 {
                held.holes.insert(target.slot, holes);
            }
        }
        Ok(held)
    }

    async fn of_one(
        &self,
        target: &Target,
        head: u64,
        accounts: &[Address],
        partial: bool,
    ) -> anyhow::Result<(Holdings, usize)> {
        let blocks = self.nodes.blocks(target, 1..=head).await?;
        let first = blocks.iter().position(Option::is_some);
        // Older ones may be gone, but only those.
        let holes = blocks
            .iter()
            .skip(first.unwrap_or_default())
            .filter(|b| b.is_none())
            .count();
        let (balances, nonces) = self.nodes.accounts(target, accounts, head).await?;
        let own = Holdings {
            slot: target.slot,
            partial,
            blocks: blocks.into_iter().flatten().collect(),
            balances,
            nonces,
        };
        Ok((own, holes))
    }

    /// What everybody saw, with what the harness itself complains about.
    pub fn history(&self, complaints: Vec<String>, reopened: BTreeMap<usize, u64>) -> History {
        let submissions = self
            .submissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut history = History {
            submissions: submissions.clone(),
            reports: observed.reports.clone(),
            reopened,
            complaints,
            ..History::default()
        };
        for told in &self.told {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            history.subscriptions.push(told.blocks.clone());
            history.complaints.extend(told.complaints.iter().cloned());
        }
        for told in &self.told_logs {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            history.logs.push(told.story.clone());
        }
        history
    }

    /// Puts the figures of a run into its outcome.
    pub fn figures(&self, history: &History, head: u64, outcome: &mut Outcome) {
        let acknowledged = |s: &&Submission| s.acknowledged.is_some();
        outcome.acknowledged = history.submissions.iter().filter(acknowledged).count() as u64;
        outcome.blocks = head;
        outcome.logs = history.logs.iter().map(|s| s.all.len() as u64).sum();
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.longest_pause = observed.longest_pause;
        for told in &self.told {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.subscriptions += told.connections;
        }
    }
}
