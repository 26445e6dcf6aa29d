//! One run: a consortium, clients, faults by seed, then peace, and the judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use crate::consortium::Consortium;
use crate::crowd::{Crowd, Held, Sending};
use crate::endpoints::Target;
use crate::history::check;
use crate::links::Links;
use crate::nemesis::Nemesis;
use crate::plan::Plan;

/// Between two looks at the processes.
const PACE: Duration = Duration::from_millis(10);
/// A consortium that does not get up in this time never will.
const START_MAX: Duration = Duration::from_secs(30);
/// A node mends what it found damaged in this time.
const MENDED_MAX: Duration = Duration::from_secs(20);
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
    /// Logs that subscribers were told of, and checked.
    pub logs: u64,
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
    let begun = Instant::now();
    let mut crowd = Crowd::new(begun, stop.clone())?;
    let links = Links::new(stop);
    let mut consortium = Consortium::new(
        &options.binary,
        folder,
        plan.nodes,
        plan.settings,
        &crowd.accounts,
        links,
    )
    .await?;
    for slot in plan.small_disks() {
        // Where nobody may mount, the fault is skipped by name.
        consortium.give_small_disk(slot)?;
    }
    let mut nemesis = Nemesis::new(consortium, Arc::clone(&crowd.observed), begun);
    nemesis.note(&format!("{plan:#?}"));
    let judged = whole(&mut crowd, &mut nemesis, &plan, options, outcome).await;
    if judged.is_err() {
        outcome.violations.append(&mut nemesis.complaints);
    }
    for slot in 0..nemesis.consortium.members.len() {
        let (reached, fired) = nemesis.consortium.points_passed(slot);
        outcome.reached.extend(reached);
        outcome.fired.extend(fired);
        nemesis.consortium.kill(slot).await;
    }
    let keep = judged.is_err() || !outcome.violations.is_empty();
    nemesis.consortium.take_small_disks(keep);
    outcome.faults = std::mem::take(&mut nemesis.counts);
    judged
}

async fn whole(
    crowd: &mut Crowd,
    nemesis: &mut Nemesis,
    plan: &Plan,
    options: &Options,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    start(crowd, nemesis, plan).await?;
    if options.with_points && !nemesis.consortium.has_fail_points(0) {
        bail!(
            "{} was built without the feature fail-points",
            options.binary.display()
        );
    }
    let directory = nemesis.consortium.directory.clone();
    let clients = crowd.begin(&directory, outcome.seed);
    faults(nemesis, plan, options.lasts).await?;
    let settled = peace(crowd, nemesis, clients).await?;
    judge(crowd, nemesis, settled, outcome).await
}

/// Starts all nodes and waits until they serve and one leads.
async fn start(crowd: &Crowd, nemesis: &mut Nemesis, plan: &Plan) -> anyhow::Result<()> {
    if let Some((slot, point)) = &plan.at_birth {
        nemesis.note(&format!("at birth of node {slot}: {point:?}"));
        let line = format!("{}={}\n", point.name, point.actions);
        nemesis.consortium.arm(*slot, &line)?;
        // What fails at every start would never let it get up.
        nemesis.disarm_after(*slot, point.lasts);
        nemesis.count("fail point at birth");
    }
    for slot in 0..plan.nodes {
        nemesis.consortium.start(slot)?;
    }
    crowd.observe(&nemesis.consortium.directory);
    let started = Instant::now();
    while !crowd.is_up(plan.nodes) {
        nemesis.tick().await?;
        if started.elapsed() > START_MAX {
            bail!("the consortium did not get up in {START_MAX:?}");
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

async fn faults(nemesis: &mut Nemesis, plan: &Plan, lasts: Duration) -> anyhow::Result<()> {
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
    crowd: &Crowd,
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
    crowd.enough(&sending, end);
    let mut last = None;
    loop {
        nemesis.tick().await?;
        let members = nemesis.consortium.directory.all();
        let heads = crowd.heads(&members);
        if crowd.is_quiet(&mut sending, &heads) && nemesis.is_settled() {
            // Twice the same: nothing is on its way any more.
            if last == heads {
                return Ok(members);
            }
            last = heads;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if Instant::now() > end {
            let clients = sending.tasks.len();
            let heads = crowd.heads(&members);
            bail!(
                "no agreement {PEACE_MAX:?} after everything was healed: heads {heads:?}, {clients} clients wait, {}; {}",
                crowd.progress(),
                nemesis.outstanding()
            );
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Reads everything from all members and checks it.
async fn judge(
    crowd: &Crowd,
    nemesis: &mut Nemesis,
    members: Vec<Target>,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let genesis = nemesis.consortium.genesis_balances()?;
    let damaged: BTreeSet<usize> = nemesis
        .consortium
        .members
        .iter()
        .filter(|m| m.damaged)
        .map(|m| m.slot)
        .collect();
    let partial = |slot: usize| damaged.contains(&slot);
    let mut held = crowd.held(&members, &genesis, partial).await?;
    if !held.holes.is_empty() {
        // Reading has shown it what is damaged: now it can be mended.
        held = mended(crowd, &members, &genesis, partial, held, nemesis).await?;
    }
    for (slot, holes) in &held.holes {
        nemesis.complaints.push(format!(
            "node {slot} does not give {holes} of its blocks, also after {MENDED_MAX:?}"
        ));
    }
    let mut reopened = BTreeMap::new();
    for slot in 0..nemesis.consortium.members.len() {
        let log = nemesis.consortium.log(slot);
        let openings = log.matches("closing the node in order to open it again");
        reopened.insert(slot, openings.count() as u64);
    }
    let history = crowd.history(std::mem::take(&mut nemesis.complaints), reopened);
    crowd.figures(&history, held.head, outcome);
    let violations = check(&history, &held.holdings, &genesis);
    outcome
        .violations
        .extend(violations.iter().map(ToString::to_string));
    for slot in 0..nemesis.consortium.members.len() {
        outcome.violations.extend(panics(slot, &nemesis.consortium));
    }
    Ok(())
}

/// Reads again until members whose files were damaged have mended what they did not give at first.
async fn mended(
    crowd: &Crowd,
    members: &[Target],
    genesis: &BTreeMap<alloy_primitives::Address, alloy_primitives::U256>,
    partial: impl Fn(usize) -> bool,
    mut held: Held,
    nemesis: &mut Nemesis,
) -> anyhow::Result<Held> {
    nemesis.note(&format!("blocks that are not given: {:?}", held.holes));
    let missing: usize = held.holes.values().sum();
    let damaged = held.holes.keys().all(|slot| partial(*slot));
    let until = Instant::now() + MENDED_MAX;
    // Only damage excuses a hole, and only for so long.
    while damaged && !held.holes.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(250)).await;
        held = crowd.held(members, genesis, &partial).await?;
    }
    let left: usize = held.holes.values().sum();
    for _ in left..missing {
        nemesis.count("damaged block mended by the node");
    }
    Ok(held)
}

/// Panics in a node's log that no fail point made.
fn panics(slot: usize, consortium: &Consortium) -> Vec<String> {
    let member = consortium.members.get(slot);
    let spoiled = member.is_some_and(|m| m.damaged || m.full_through.is_some());
    let log = consortium.log(slot);
    let lines: Vec<&str> = log.lines().collect();
    let pairs = lines.iter().zip(lines.iter().skip(1));
    pairs
        .into_iter()
        // The storage library panics over damaged files, and for want of room; that is caught and mended.
        .filter(|(at, _)| at.contains(" panicked at ") && !(spoiled && at.contains("sled")))
        .filter(|(_, message)| !message.contains("failpoint"))
        .map(|(at, message)| format!("node {slot}: {at} {message}"))
        .collect()
}
