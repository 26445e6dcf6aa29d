//! The same on containers: the consortium of `deploy/docker-compose.yml` as shipped, with what an orchestrator can do to it, one
//! fault after the other, and the same clients, observers and judge.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::compose::Compose;
use crate::consortium::{FUNDS_ETHER, place_teller, run};
use crate::crowd::{Crowd, Sending};
use crate::endpoints::{Directory, Nodes, Target};
use crate::history::check;
use crate::links::Slot;
use crate::run::Outcome;

/// Members from genesis on; the compose file has one more, which may join.
const NODES: usize = 4;
/// Between two looks.
const PACE: Duration = Duration::from_millis(50);
/// Starting containers on a busy machine takes seconds.
const START_MAX: Duration = Duration::from_secs(120);
/// After everything is healed, members agree in this time and every transaction has its block.
const PEACE_MAX: Duration = Duration::from_secs(90);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// The static binary that goes into the image.
    pub binary: PathBuf,
    /// The folder `deploy` of this project.
    pub deploy: PathBuf,
    /// Folder for the runs' files.
    pub out: PathBuf,
}

impl ContainerOptions {
    /// Why this machine cannot run it; `None` if it can.
    pub async fn why_not(&self) -> Option<String> {
        if !self.binary.is_file() {
            let missing = self.binary.display();
            return Some(format!("{missing} is missing: run `make static` first"));
        }
        let works = |program: PathBuf, argument: &str| {
            let arguments = [argument.to_owned()];
            async move { run(&program, &arguments, &[]).await.is_ok() }
        };
        if !works("docker".into(), "info").await {
            return Some("no Docker daemon answers".into());
        }
        if !works(self.deploy.join("compose"), "version").await {
            return Some("neither docker compose nor docker-compose is installed".into());
        }
        None
    }
}

/// What is done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL; started again after so long.
    Kill(Whom, Duration),
    /// SIGSTOP for so long.
    Pause(Whom, Duration),
    /// Off its network for so long.
    Disconnect(Whom, Duration),
    /// SIGTERM, then started again.
    Restart(Whom),
    /// The leader is removed, and the fifth node takes its place.
    RemoveLeader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Node(Slot),
    Leader,
}

impl Fault {
    fn kind(self) -> &'static str {
        match self {
            Self::Kill(..) => "container killed",
            Self::Pause(..) => "container frozen",
            Self::Disconnect(..) => "container off the network",
            Self::Restart(_) => "container restarted",
            Self::RemoveLeader => "leader removed, another member added",
        }
    }

    /// The faults of a seed: each kind once, in some order, the removal last.
    fn all_of(seed: u64) -> Vec<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let whom = |rng: &mut StdRng| match rng.random_bool(0.5) {
            true => Whom::Leader,
            false => Whom::Node(rng.random_range(0..NODES)),
        };
        let millis =
            |rng: &mut StdRng, from, to| Duration::from_millis(rng.random_range(from..=to));
        let mut faults = vec![
            Self::Kill(whom(&mut rng), millis(&mut rng, 100, 1_500)),
            Self::Pause(whom(&mut rng), millis(&mut rng, 500, 3_000)),
            Self::Disconnect(whom(&mut rng), millis(&mut rng, 500, 4_000)),
            Self::Restart(whom(&mut rng)),
        ];
        rand::seq::SliceRandom::shuffle(faults.as_mut_slice(), &mut rng);
        faults.push(Self::RemoveLeader);
        faults
    }
}

/// Carries out the run of a seed. Its journal and its containers' logs stay if anything did not hold.
pub async fn run_containers(options: &ContainerOptions, seed: u64) -> Outcome {
    let begun = Instant::now();
    let folder = options.out.join(format!("containers-{seed}"));
    let mut outcome = Outcome {
        seed,
        nodes: NODES,
        ..Outcome::default()
    };
    if let Err(error) = attempt(options, seed, &folder, &mut outcome).await {
        outcome.violations.push(format!("{error:#}"));
    }
    outcome.took = begun.elapsed();
    if outcome.violations.is_empty() {
        fs::remove_dir_all(&folder).ok();
    } else {
        fs::write(folder.join("violations"), outcome.violations.join("\n")).ok();
        outcome.folder = Some(folder);
    }
    outcome
}

async fn attempt(
    options: &ContainerOptions,
    seed: u64,
    folder: &Path,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let stop = CancellationToken::new();
    let _stop_at_end = stop.clone().drop_guard();
    let mut crowd = Crowd::new(Instant::now(), stop)?;
    let genesis = make_network(&options.binary, folder, &crowd).await?;
    let compose = Compose::new(&options.deploy, NODES + 1)?;
    compose.build(&options.binary, folder).await?;
    compose.place_network(&folder.join("consortium")).await?;
    let mut site = Site {
        compose,
        directory: Directory::default(),
        lives: vec![1; NODES],
        members: (0..NODES).collect(),
        nodes: Nodes::default(),
        faults: BTreeMap::new(),
    };
    let judged = site.whole(&mut crowd, seed, &genesis, outcome).await;
    outcome.faults = std::mem::take(&mut site.faults);
    if judged.is_err() || !outcome.violations.is_empty() {
        fs::write(folder.join("logs"), site.compose.logs().await).ok();
    }
    site.compose.down().await;
    judged
}

type Balances = BTreeMap<alloy_primitives::Address, alloy_primitives::U256>;

/// Writes the files that the service `network` of the compose file would write, for accounts of ours.
async fn make_network(binary: &Path, folder: &Path, crowd: &Crowd) -> anyhow::Result<Balances> {
    let out = folder.join("consortium");
    let mut arguments: Vec<String> = ["network", "new", "--nodes=4"].map(str::to_owned).into();
    arguments.extend((1..=NODES).map(|n| format!("--host=node{n}")));
    arguments.push(format!("--out={}", out.display()));
    for account in &crowd.accounts {
        arguments.push(format!("--fund={}={FUNDS_ETHER}", account.address));
    }
    run(binary, &arguments, &[]).await?;
    let genesis = out.join("genesis.json");
    place_teller(&genesis)?;
    crate::consortium::balances_of(&genesis)
}

/// The containers of one run.
struct Site {
    compose: Compose,
    directory: Directory,
    /// How often each node was started.
    lives: Vec<u32>,
    members: Vec<Slot>,
    nodes: Nodes,
    faults: BTreeMap<String, u64>,
}

impl Site {
    async fn whole(
        &mut self,
        crowd: &mut Crowd,
        seed: u64,
        genesis: &Balances,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        self.compose.run(&["up", "-d"]).await?;
        self.publish();
        crowd.observe(&self.directory);
        let started = Instant::now();
        while !crowd.is_up(NODES) {
            if started.elapsed() > START_MAX {
                bail!("the containers did not get up in {START_MAX:?}");
            }
            tokio::time::sleep(PACE).await;
        }
        let sending = crowd.begin(&self.directory, seed);
        for fault in Fault::all_of(seed) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.inflict(fault)
                .await
                .with_context(|| format!("{fault:?}"))?;
        }
        let members = self.peace(crowd, sending).await?;
        let held = crowd.held(&members, genesis, |_| false).await?;
        let mut complaints = Vec::new();
        for (slot, holes) in &held.holes {
            complaints.push(format!("node {slot} does not give {holes} of its blocks"));
        }
        let history = crowd.history(complaints, BTreeMap::new());
        crowd.figures(&history, held.head, outcome);
        let violations = check(&history, &held.holdings, genesis);
        outcome
            .violations
            .extend(violations.iter().map(ToString::to_string));
        let logs = self.compose.logs().await;
        let panics = logs.lines().filter(|line| line.contains(" panicked at "));
        outcome.violations.extend(panics.map(str::to_owned));
        Ok(())
    }

    fn publish(&self) {
        let target = |slot: &Slot| Target {
            slot: *slot,
            life: self.lives.get(*slot).copied().unwrap_or_default(),
            rpc: self.compose.rpc(*slot),
            grpc: self.compose.grpc(*slot),
        };
        self.directory
            .replace(self.members.iter().map(target).collect());
    }

    /// Nobody can be asked what the process before said any more: the next one may begin.
    fn reborn(&mut self, slot: Slot) {
        if let Some(life) = self.lives.get_mut(slot) {
            *life += 1;
        }
        self.publish();
    }

    async fn leader(&self) -> anyhow::Result<Slot> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            for target in self.directory.all() {
                if self.nodes.status(&target).await.is_ok_and(|s| s.leads) {
                    return Ok(target.slot);
                }
            }
            tokio::time::sleep(PACE).await;
        }
        bail!("nobody leads after {START_MAX:?}")
    }

    async fn slot(&self, whom: Whom) -> anyhow::Result<Slot> {
        match whom {
            Whom::Node(slot) => Ok(slot),
            Whom::Leader => self.leader().await,
        }
    }

    async fn inflict(&mut self, fault: Fault) -> anyhow::Result<()> {
        *self.faults.entry(fault.kind().to_owned()).or_default() += 1;
        match fault {
            Fault::Kill(whom, down) => {
                let slot = self.slot(whom).await?;
                self.compose.run(&["kill", &name(slot)]).await?;
                self.reborn(slot);
                tokio::time::sleep(down).await;
                self.compose.run(&["start", &name(slot)]).await
            }
            Fault::Restart(whom) => {
                let slot = self.slot(whom).await?;
                self.compose.run(&["stop", &name(slot)]).await?;
                let code = self.compose.exit_code(slot).await?;
                if code != 0 {
                    bail!("node {slot} was told to stop and ended with {code}");
                }
                self.reborn(slot);
                self.compose.run(&["start", &name(slot)]).await
            }
            Fault::Pause(whom, lasts) => {
                let slot = self.slot(whom).await?;
                // Not the freezer of Docker's `pause`: Docker 20.10 hangs if that catches the command of a health check.
                self.compose
                    .run(&["kill", "-s", "SIGSTOP", &name(slot)])
                    .await?;
                tokio::time::sleep(lasts).await;
                self.compose
                    .run(&["kill", "-s", "SIGCONT", &name(slot)])
                    .await
            }
            Fault::Disconnect(whom, lasts) => {
                let slot = self.slot(whom).await?;
                self.compose.disconnect(slot).await?;
                tokio::time::sleep(lasts).await;
                self.compose.connect(slot, &name(slot)).await
            }
            Fault::RemoveLeader => self.exchange_leader().await,
        }
    }

    /// Removes the leader for good and lets the fifth node join.
    async fn exchange_leader(&mut self) -> anyhow::Result<()> {
        let leader = self.leader().await?;
        let rest = self.members.iter().find(|slot| **slot != leader);
        let asked = name(*rest.context("more than one member")?);
        let raft_id = (leader + 1).to_string();
        self.until_done(&[
            "exec", "-T", &asked, "/quorate", "member", "remove", &raft_id,
        ])
        .await?;
        self.members.retain(|slot| *slot != leader);
        self.publish();
        // It ends by itself, and would be started again and again.
        self.compose.run(&["stop", &name(leader)]).await?;

        let joiner = NODES;
        // Whom the fifth node asks for admission stands in the compose file.
        let is_via = leader == 0;
        if is_via {
            self.faults.insert(
                "no other member added: the one to ask was removed".into(),
                1,
            );
            return Ok(());
        }
        self.compose
            .run(&["--profile", "five", "up", "-d", "--no-deps", &name(joiner)])
            .await?;
        let applicant = self.applicant(&asked).await?;
        let address = format!("{}:30303", name(joiner));
        self.until_done(&[
            "exec", "-T", &asked, "/quorate", "member", "add", &applicant, &address,
        ])
        .await?;
        self.lives.push(1);
        self.members.push(joiner);
        self.publish();
        Ok(())
    }

    /// The node id of who waits for admission.
    async fn applicant(&self, asked: &str) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let listed = self
                .compose
                .output(&["exec", "-T", asked, "/quorate", "member", "list", "--json"])
                .await;
            let listed = listed.and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
            if let Ok(listed) = &listed
                && let Some(id) = listed
                    .pointer("/applicants/0/nodeId")
                    .and_then(Value::as_str)
            {
                return Ok(id.to_owned());
            }
            if begun.elapsed() > START_MAX {
                bail!("nobody asks for admission: {listed:?}");
            }
            tokio::time::sleep(PACE * 4).await;
        }
    }

    /// A command that may be refused while members elect a leader.
    async fn until_done(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match self.compose.run(arguments).await {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > START_MAX => return Err(error),
                Err(_) => tokio::time::sleep(PACE * 4).await,
            }
        }
    }

    /// Waits until all members agree and every client has its answers. Gives back the members.
    async fn peace(&self, crowd: &Crowd, mut sending: Sending) -> anyhow::Result<Vec<Target>> {
        let end = Instant::now() + PEACE_MAX;
        tokio::time::sleep(Duration::from_millis(500)).await;
        crowd.enough(&sending, end);
        let mut last = None;
        loop {
            let members = self.directory.all();
            let heads = crowd.heads(&members);
            if crowd.is_quiet(&mut sending, &heads) {
                if last == heads {
                    return Ok(members);
                }
                last = heads;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            if Instant::now() > end {
                bail!(
                    "no agreement {PEACE_MAX:?} after the last fault: heads {:?}, {} clients wait, {}",
                    crowd.heads(&members),
                    sending.tasks.len(),
                    crowd.progress()
                );
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

fn name(slot: Slot) -> String {
    format!("node{}", slot + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_faults_again_and_each_kind_comes_once() {
        assert_eq!(Fault::all_of(3), Fault::all_of(3));
        assert_ne!(Fault::all_of(3), Fault::all_of(4));
        for seed in 0..20 {
            let mut kinds: Vec<_> = Fault::all_of(seed).into_iter().map(Fault::kind).collect();
            assert_eq!(kinds.last(), Some(&Fault::RemoveLeader.kind()));
            kinds.sort_unstable();
            kinds.dedup();
            assert_eq!(kinds.len(), 5);
        }
    }
}
