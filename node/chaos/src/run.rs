//! One run: a consortium, clients, faults by seed, then peace, and the judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accounts::{Account, recipient};
use crate::clients::{Clients, RECIPIENTS};
use crate::consortium::Consortium;
use crate::endpoints::{Nodes, Target};
use crate::history::{History, Holdings, Seen, Violation, check};
use crate::links::Links;
use crate::nemesis::Nemesis;
use crate::observers::{Observed, Told, observe, subscribe};
use crate::plan::Plan;

/// Clients of a run, each with an account of its own.
const CLIENTS: u64 = 5;
/// Between two looks at the processes.
const PACE: Duration = Duration::from_millis(10);
/// A consortium that does not get up in this time never will.
const START_MAX: Duration = Duration::from_secs(30);
/// After everything is healed, members agree in this time and every transaction has its block.
const PEACE_MAX: Duration = Duration::from_secs(40);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node.
    pub binary: PathBuf,
    /// Folder for the runs' files.
    pub out: PathBuf,
    /// Fewest and most members at the beginning.
    pub nodes: (usize, usize),
    /// For so long there are faults.
    pub lasts: Duration,
    /// The binary was built with the feature `fail-points`.
    pub with_points: bool,
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Members at the beginning.
    pub nodes: usize,
    /// Empty: everything held.
    pub violations: Vec<String>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Fail points that a node passed.
    pub reached: BTreeSet<String>,
    /// Fail points that a node passed while they were armed.
    pub fired: BTreeSet<String>,
    /// Transactions that were acknowledged, and checked.
    pub acknowledged: u64,
    /// Blocks at the end.
    pub blocks: u64,
    /// Connections that subscribers made.
    pub subscriptions: u64,
    /// The longest time without a new block while clients were sending.
    pub longest_pause: Duration,
    /// How long the run took.
    pub took: Duration,
    /// Its files, if they were kept.
    pub folder: Option<PathBuf>,
}

/// Carries out the run of a seed. Its folder stays if anything did not hold.
pub async fn run(options: &Options, seed: u64) -> Outcome {
    let begun = Instant::now();
    let folder = options.out.join(format!("run-{seed}"));
    let mut outcome = Outcome {
        seed,
        ..Outcome::default()
    };
    if let Err(error) = attempt(options, seed, &folder, &mut outcome).await {
        outcome.violations.push(format!("{error:#}"));
    }
    outcome.took = begun.elapsed();
    if outcome.violations.is_empty() {
        std::fs::remove_dir_all(&folder).ok();
    } else {
        let text = outcome.violations.join("\n");
        std::fs::write(folder.join("violations"), text).ok();
        outcome.folder = Some(folder);
    }
    outcome
}

async fn attempt(
    options: &Options,
    seed: u64,
    folder: &Path,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let stop = CancellationToken::new();
    let _stop_at_end = stop.clone().drop_guard();
    let plan = Plan::of(seed, options.nodes, options.lasts, options.with_points);
    outcome.nodes = plan.nodes;
    let accounts = (0..CLIENTS)
        .map(Account::of)
        .collect::<Result<Vec<_>, _>>()?;
    let links = Links::new(stop.clone());
    let consortium = Consortium::new(
        &options.binary,
        folder,
        plan.nodes,
        plan.settings,
        &accounts,
        links,
    )
    .await?;
    let begun = Instant::now();
    let observed = Arc::new(Mutex::new(Observed::default()));
    let mut nemesis = Nemesis::new(consortium, Arc::clone(&observed), begun);
    nemesis.note(&format!("{plan:#?}"));
    let mut run = Run {
        nodes: Nodes::default(),
        enough: Arc::new(AtomicBool::new(false)),
        told: Vec::new(),
        submissions: Arc::default(),
        accounts,
        observed,
        begun,
        stop,
    };
    let judged = run.whole(&mut nemesis, &plan, options, outcome).await;
    if judged.is_err() {
        outcome.violations.append(&mut nemesis.complaints);
    }
    for slot in 0..nemesis.consortium.members.len() {
        let (reached, fired) = nemesis.consortium.points_passed(slot);
        outcome.reached.extend(reached);
        outcome.fired.extend(fired);
        nemesis.consortium.kill(slot).await;
    }
    outcome.faults = std::mem::take(&mut nemesis.counts);
    judged
}

/// A run under way.
struct Run {
    nodes: Nodes,
    enough: Arc<AtomicBool>,
    told: Vec<Arc<Mutex<Told>>>,
    submissions: Arc<Mutex<Vec<crate::history::Submission>>>,
    accounts: Vec<Account>,
    observed: Arc<Mutex<Observed>>,
    begun: Instant,
    stop: CancellationToken,
}

/// Clients at work.
struct Sending {
    tasks: JoinSet<()>,
    deadline: tokio::sync::watch::Sender<Option<Instant>>,
}

impl Run {
    async fn whole(
        &mut self,
        nemesis: &mut Nemesis,
        plan: &Plan,
        options: &Options,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        self.start(nemesis, plan).await?;
        if options.with_points && !nemesis.consortium.has_fail_points(0) {
            bail!(
                "{} was built without the feature fail-points",
                options.binary.display()
            );
        }
        let clients = self.clients(nemesis, outcome.seed);
        self.faults(nemesis, plan, options.lasts).await?;
        let settled = self.peace(nemesis, clients).await?;
        self.judge(nemesis, settled, outcome).await
    }

    /// Starts all nodes and waits until they serve and one leads.
    async fn start(&self, nemesis: &mut Nemesis, plan: &Plan) -> anyhow::Result<()> {
        if let Some((slot, point)) = &plan.at_birth {
            nemesis.note(&format!("at birth of node {slot}: {point:?}"));
            let line = format!("{}={}\n", point.name, point.actions);
            nemesis.consortium.arm(*slot, &line)?;
            *nemesis
                .counts
                .entry("fail point at birth".to_owned())
                .or_default() += 1;
        }
        for slot in 0..plan.nodes {
            nemesis.consortium.start(slot)?;
        }
        tokio::spawn(observe(
            self.nodes.clone(),
            nemesis.consortium.directory.clone(),
            Arc::clone(&self.observed),
            Arc::clone(&self.enough),
            self.begun,
            self.stop.clone(),
        ));
        let started = Instant::now();
        loop {
            nemesis.tick().await?;
            let ready = {
                let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
                observed.latest.len() == plan.nodes && observed.latest.values().any(|s| s.leads)
            };
            if ready {
                // Pauses count from the first transaction on.
                let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
                observed.rose_at = None;
                observed.longest_pause = Duration::ZERO;
                return Ok(());
            }
            if started.elapsed() > START_MAX {
                bail!("the consortium did not get up in {START_MAX:?}");
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Lets clients send and subscribers listen.
    fn clients(&mut self, nemesis: &Nemesis, seed: u64) -> Sending {
        let directory = nemesis.consortium.directory.clone();
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
        for resumes in [true, false, false] {
            let told = Arc::new(Mutex::new(Told::default()));
            self.told.push(Arc::clone(&told));
            let own_seed = seed.wrapping_add(self.told.len() as u64);
            tokio::spawn(subscribe(
                self.nodes.clone(),
                directory.clone(),
                told,
                resumes,
                own_seed,
                self.stop.clone(),
            ));
        }
        Sending { tasks, deadline }
    }

    async fn faults(
        &self,
        nemesis: &mut Nemesis,
        plan: &Plan,
        lasts: Duration,
    ) -> anyhow::Result<()> {
        let from = Instant::now() + Duration::from_millis(200);
        let mut faults = plan.faults.iter().peekable();
        while from.elapsed() < lasts || faults.peek().is_some() {
            if let Some((_, fault)) = faults.next_if(|(at, _)| Instant::now() >= from + *at) {
                nemesis.inflict(fault).await?;
            }
            nemesis.tick().await?;
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    /// Heals everything and waits until all members agree and every client has its answers. Gives back the members.
    async fn peace(
        &self,
        nemesis: &mut Nemesis,
        mut sending: Sending,
    ) -> anyhow::Result<Vec<Target>> {
        nemesis.heal().await?;
        let end = Instant::now() + PEACE_MAX;
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            nemesis.tick().await?;
            tokio::time::sleep(PACE).await;
        }
        self.enough.store(true, Ordering::Relaxed);
        sending.deadline.send_replace(Some(end));
        let mut last = None;
        loop {
            nemesis.tick().await?;
            while sending.tasks.try_join_next().is_some() {}
            let members = nemesis.consortium.directory.all();
            let heads = self.heads(&members);
            let level = heads.as_ref().is_some_and(|heads| heads.len() == 1);
            if sending.tasks.is_empty() && nemesis.is_settled() && level && self.all_told(&heads) {
                // Twice the same: nothing is on its way any more.
                if last == heads {
                    return Ok(members);
                }
                last = heads;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            if Instant::now() > end {
                let clients = sending.tasks.len();
                let heads = self.heads(&members);
                bail!(
                    "no agreement {PEACE_MAX:?} after everything was healed: heads {heads:?}, {clients} clients wait; {}",
                    nemesis.outstanding()
                );
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// The heads of these members, if all of them have answered in their present life.
    fn heads(&self, members: &[Target]) -> Option<BTreeSet<(u64, String)>> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = |target: &Target| {
            let of_slot =
                |r: &&crate::history::Report| r.slot == target.slot && r.life == target.life;
            observed.reports.iter().rev().find(of_slot).copied()
        };
        members
            .iter()
            .map(|target| newest(target).map(|r| (r.head.height, r.head.hash.to_string())))
            .collect()
    }

    fn all_told(&self, heads: &Option<BTreeSet<(u64, String)>>) -> bool {
        let head = heads.iter().flatten().map(|(height, _)| *height).max();
        self.told.iter().all(|told| {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.blocks.last().map_or(0, |s| s.height) >= head.unwrap_or_default()
        })
    }

    /// Reads everything from all members and checks it.
    async fn judge(
        &self,
        nemesis: &mut Nemesis,
        members: Vec<Target>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let genesis = nemesis.consortium.genesis_balances()?;
        let heads = self.heads(&members).unwrap_or_default();
        let head = heads
            .iter()
            .map(|(height, _)| *height)
            .max()
            .unwrap_or_default();
        let mut holdings = Vec::new();
        // Whoever made a block may have been paid; nodes that keep few blocks do not know all of them.
        let mut coinbases = BTreeSet::new();
        for target in &members {
            let blocks = self.nodes.blocks(target, 1..=head).await;
            coinbases.extend(blocks.into_iter().flatten().flatten().map(|b| b.coinbase));
        }
        for target in &members {
            let held = self
                .holdings(target, head, &genesis, &coinbases, nemesis)
                .await;
            holdings.push(held.with_context(|| format!("reading from node {}", target.slot))?);
        }
        let history = self.history(nemesis);
        outcome.acknowledged = history
            .submissions
            .iter()
            .filter(|s| s.acknowledged.is_some())
            .count() as u64;
        outcome.blocks = head;
        let violations: Vec<Violation> = check(&history, &holdings, &genesis);
        outcome
            .violations
            .extend(violations.iter().map(ToString::to_string));
        for slot in 0..nemesis.consortium.members.len() {
            outcome.violations.extend(panics(slot, &nemesis.consortium));
        }
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.longest_pause = observed.longest_pause;
        for told in &self.told {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.subscriptions += told.connections;
        }
        Ok(())
    }

    fn history(&self, nemesis: &mut Nemesis) -> History {
        let mut history = History {
            complaints: std::mem::take(&mut nemesis.complaints),
            ..History::default()
        };
        let submissions = self
            .submissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        history.submissions.clone_from(&submissions);
        for slot in 0..nemesis.consortium.members.len() {
            let log = nemesis.consortium.log(slot);
            let count = log
                .matches("closing the node in order to open it again")
                .count();
            history.reopened.insert(slot, count as u64);
        }
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        history.reports.clone_from(&observed.reports);
        for told in &self.told {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let blocks: Vec<Seen> = told.blocks.clone();
            history.subscriptions.push(blocks);
            history.complaints.extend(told.complaints.iter().cloned());
        }
        history
    }

    async fn holdings(
        &self,
        target: &Target,
        head: u64,
        genesis: &BTreeMap<Address, U256>,
        coinbases: &BTreeSet<Address>,
        nemesis: &mut Nemesis,
    ) -> anyhow::Result<Holdings> {
        let slot = target.slot;
        let member = nemesis.consortium.members.get(slot);
        let partial = member.is_some_and(|m| m.damaged);
        let blocks = self.nodes.blocks(target, 1..=head).await?;
        let first = blocks.iter().position(Option::is_some);
        // Older ones may be gone, but only those.
        let holes = blocks
            .iter()
            .skip(first.unwrap_or_default())
            .filter(|b| b.is_none())
            .count();
        if holes > 0 {
            nemesis.note(&format!("node {slot} does not give {holes} blocks"));
            match partial {
                true => nemesis.count("damage that showed only when it was read"),
                false => nemesis
                    .complaints
                    .push(format!("node {slot} does not give {holes} of its blocks")),
            }
        }
        let kept = blocks.into_iter().flatten().collect();
        let mut accounts: BTreeSet<Address> = genesis.keys().copied().collect();
        accounts.extend(self.accounts.iter().map(|a| a.address));
        accounts.extend((0..RECIPIENTS).map(recipient));
        accounts.extend(coinbases);
        let accounts: Vec<Address> = accounts.into_iter().collect();
        let (balances, nonces) = self.nodes.accounts(target, &accounts, head).await?;
        Ok(Holdings {
            slot,
            partial,
            blocks: kept,
            balances,
            nonces,
        })
    }
}

/// Panics in a node's log that no fail point made.
fn panics(slot: usize, consortium: &Consortium) -> Vec<String> {
    let spoiled = consortium.members.get(slot).is_some_and(|m| m.damaged);
    let log = consortium.log(slot);
    let lines: Vec<&str> = log.lines().collect();
    let pairs = lines.iter().zip(lines.iter().skip(1));
    pairs
        .into_iter()
        // The storage library panics over damaged files; that is caught and mended.
        .filter(|(at, _)| at.contains(" panicked at ") && !(spoiled && at.contains("sled")))
        .filter(|(_, message)| !message.contains("failpoint"))
        .map(|(at, message)| format!("node {slot}: {at} {message}"))
        .collect()
}
