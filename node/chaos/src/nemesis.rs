//! The one who does it: carries out the faults of a plan, restarts what fell over, replaces what cannot come back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::commands::{Asking, Tools};
use crate::consortium::{Consortium, Ended};
use crate::damage::damage;
use crate::links::{Condition, Slot};
use crate::observers::Observed;
use crate::plan::{Fault, PointFault, Whom, full_disk, slow_disk};

/// Before a node that fell over is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(150);
/// A stop takes no longer.
const STOP_MAX: Duration = Duration::from_secs(12);
/// A command beside the nodes is tried again after so long.
const COMMAND_PAUSE: Duration = Duration::from_millis(200);
/// Membership operations under way at once; each is one message.
const MESSAGES: usize = 32;

/// What follows a fault later.
#[derive(Debug)]
enum Later {
    Start(Slot),
    Continue(Slot),
    Open(Vec<(Slot, Slot)>),
    Disarm(Slot),
    /// Its disk gets room again.
    Relieve(Slot),
    /// One after the other.
    Roll(Vec<Slot>),
    /// It should have ended by now.
    Kill(Slot),
}

/// What a task beside the loop has achieved.
#[derive(Debug)]
enum Done {
    /// The member is none any more.
    Removed(Slot),
    /// The node was made a member with this raft id.
    Added(Slot, u64),
    /// A command beside the nodes has ended: what it printed, or why it failed although nothing was armed.
    Aside(Slot, Result<(), String>),
    Failed(String),
}

/// Carries out faults.
#[derive(Debug)]
pub struct Nemesis {
    /// The processes.
    pub consortium: Consortium,
    observed: Arc<Mutex<Observed>>,
    begun: Instant,
    later: Vec<(Instant, Later)>,
    /// Being stopped with SIGTERM; `true`: to be started again.
    stopping: BTreeMap<Slot, (Instant, bool)>,
    /// Being removed, and whether it is lost already: it has refused its files.
    leaving: BTreeMap<Slot, bool>,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    under_way: usize,
    exports: BTreeMap<Slot, u64>,
    /// What went wrong.
    pub complaints: Vec<String>,
    /// Faults by kind.
    pub counts: BTreeMap<String, u64>,
}

impl Nemesis {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(consortium: Consortium, observed: Arc<Mutex<Observed>>, begun: Instant) -> Self {
        Self {
            consortium,
            observed,
            begun,
            later: Vec::new(),
            stopping: BTreeMap::new(),
            leaving: BTreeMap::new(),
            done: mpsc::channel(MESSAGES),
            under_way: 0,
            exports: BTreeMap::new(),
            complaints: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Notes something in the run's journal.
    pub fn note(&self, text: &str) {
        let line = format!("{:8.3} {text}\n", self.begun.elapsed().as_secs_f64());
        let path = self.consortium.dir.join("journal");
        let file = fs::File::options().create(true).append(true).open(path);
        // The journal helps a person later; a run does not fail over it.
        if let Ok(mut file) = file {
            file.write_all(line.as_bytes()).ok();
        }
    }

    /// Counts something that happened.
    pub fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    fn after(&mut self, pause: Duration, later: Later) {
        self.later.push((Instant::now() + pause, later));
    }

    /// Disarms a node's fail points after so long.
    pub fn disarm_after(&mut self, slot: Slot, pause: Duration) {
        self.after(pause, Later::Disarm(slot));
    }

    fn leader(&self) -> Option<Slot> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let leaders = observed.latest.iter().filter(|(_, state)| state.leads);
        let mut leaders = leaders.map(|(slot, _)| *slot);
        leaders.find(|slot| self.is_member(*slot))
    }

    fn is_member(&self, slot: Slot) -> bool {
        self.consortium
            .members
            .get(slot)
            .is_some_and(|m| !m.removed && m.life > 0)
    }

    /// A command works on its files.
    fn is_exporting(&self, slot: Slot) -> bool {
        self.exports.contains_key(&slot) && !self.stopping.contains_key(&slot)
    }

    fn slots(&self, whom: Whom) -> Vec<Slot> {
        match whom {
            Whom::One(slot) => vec![slot],
            Whom::Leader => self.leader().into_iter().collect(),
            Whom::All => (0..self.consortium.members.len()).collect(),
        }
        .into_iter()
        .filter(|slot| self.is_member(*slot))
        .collect()
    }

    fn others(&self, side: &[Slot]) -> Vec<Slot> {
        (0..self.consortium.members.len())
            .filter(|slot| !side.contains(slot))
            .collect()
    }

    /// Carries out one fault.
    ///
    /// # Errors
    /// If the system refuses what the harness needs.
    pub async fn inflict(&mut self, fault: &Fault) -> anyhow::Result<()> {
        self.note(&format!("fault: {fault}"));
        self.count(fault.kind());
        match fault {
            Fault::Kill(whom, down) => {
                for slot in self.slots(*whom) {
                    self.kill(slot, *down).await;
                }
            }
            Fault::Pause(whom, lasts) => {
                for slot in self.slots(*whom) {
                    self.consortium.signal(slot, Signal::STOP);
                    self.after(*lasts, Later::Continue(slot));
                }
            }
            Fault::CutOneWay(from, to, lasts) => self.cut(vec![(*from, *to)], *lasts),
            Fault::Isolate(whom, lasts) => {
                for slot in self.slots(*whom) {
                    self.part(&[slot], *lasts);
                }
            }
            Fault::Split(side, lasts) => self.part(side, *lasts),
            Fault::SlowLink(slot, delay, lasts) => {
                let directions = between(&[*slot], &self.others(&[*slot]));
                self.consortium
                    .links
                    .set(&directions, Condition::Slow(*delay));
                self.after(*lasts, Later::Open(directions));
            }
            Fault::Break => self.consortium.links.break_all(),
            Fault::Point(point) => self.arm(point).await?,
            Fault::FullDisk(slot, lasts) => {
                self.consortium.arm(*slot, &full_disk())?;
                self.after(*lasts, Later::Disarm(*slot));
            }
            // Commands on its files need room as well.
            Fault::FullFileSystem(slot, _) if self.exports.contains_key(slot) => {}
            Fault::FullFileSystem(slot, lasts) => match self.consortium.fill_disk(*slot)? {
                true => self.after(*lasts, Later::Relieve(*slot)),
                false => self.count("full file system: skipped, this machine lets nobody mount"),
            },
            Fault::SlowDisk(whom, delay, lasts) => {
                for slot in self.slots(*whom) {
                    self.consortium.arm(slot, &slow_disk(*delay))?;
                    self.after(*lasts, Later::Disarm(slot));
                }
            }
            Fault::Damage(slot, store, seed) => self.damage(*slot, store, *seed).await?,
            Fault::Wipe(slot) => {
                // Files that a command works on are not touched.
                if self.is_member(*slot) && !self.is_exporting(*slot) {
                    self.kill_for_good(*slot).await;
                    empty(&self.consortium.data_dir(*slot)).context("wiping a disk")?;
                    self.with(*slot, |m| m.wiped = true);
                    self.after(RESTART_PAUSE, Later::Start(*slot));
                }
            }
            Fault::RemoveLeader => {
                if let Some(slot) = self.leader() {
                    self.note(&format!("node {slot} leads and is removed"));
                    self.remove(slot, false);
                }
            }
            Fault::AddMember => self.join().await?,
            Fault::Transfer(slot) => self.transfer(*slot),
            Fault::RollingRestart => {
                let all = self.slots(Whom::All);
                self.later.push((Instant::now(), Later::Roll(all)));
            }
            Fault::Export(slot) => {
                if self.is_member(*slot) && self.consortium.runs(*slot) {
                    self.exports
                        .insert(*slot, self.begun.elapsed().as_nanos() as u64);
                    self.consortium.relieve_disk(*slot)?;
                    self.stop(*slot, false);
                }
            }
        }
        Ok(())
    }

    fn with(&mut self, slot: Slot, change: impl FnOnce(&mut crate::consortium::Member)) {
        if let Some(member) = self.consortium.members.get_mut(slot) {
            change(member);
        }
    }

    async fn kill(&mut self, slot: Slot, down: Duration) {
        self.kill_for_good(slot).await;
        self.after(down, Later::Start(slot));
    }

    /// Kills without planning a start. Whatever was to follow its orderly stop is off.
    async fn kill_for_good(&mut self, slot: Slot) {
        if self.stopping.remove(&slot).is_some() {
            self.exports.remove(&slot);
        }
        self.consortium.kill(slot).await;
    }

    fn stop(&mut self, slot: Slot, again: bool) {
        if self.is_member(slot) && self.consortium.runs(slot) {
            self.consortium.signal(slot, Signal::CONT);
            self.consortium.signal(slot, Signal::TERM);
            self.stopping.insert(slot, (Instant::now(), again));
        }
    }

    fn cut(&mut self, directions: Vec<(Slot, Slot)>, lasts: Duration) {
        self.consortium.links.set(&directions, Condition::Cut);
        self.after(lasts, Later::Open(directions));
    }

    fn part(&mut self, side: &[Slot], lasts: Duration) {
        let directions = between(side, &self.others(side));
        self.cut(directions, lasts);
    }

    async fn arm(&mut self, point: &PointFault) -> anyhow::Result<()> {
        let line = format!("{}={}\n", point.name, point.actions);
        for slot in self.slots(point.whom) {
            match point.restart_after {
                Some(down) => {
                    self.kill(slot, down).await;
                    self.consortium.arm(slot, &line)?;
                    self.after(down + point.lasts, Later::Disarm(slot));
                }
                None => {
                    self.consortium.arm(slot, &line)?;
                    self.after(point.lasts, Later::Disarm(slot));
                }
            }
        }
        Ok(())
    }

    async fn damage(&mut self, slot: Slot, store: &str, seed: u64) -> anyhow::Result<()> {
        if !self.is_member(slot) || self.is_exporting(slot) {
            return Ok(());
        }
        self.kill_for_good(slot).await;
        let data = self.consortium.data_dir(slot);
        if let Some(what) = damage(&data, store, seed)? {
            self.note(&format!("node {slot}: {what}"));
            self.count(&format!("damaged file in {store}"));
            self.with(slot, |m| m.damaged = true);
        }
        self.after(RESTART_PAUSE, Later::Start(slot));
        Ok(())
    }

    /// Removes a member; when that is done another one takes its place.
    fn remove(&mut self, slot: Slot, lost: bool) {
        let raft_id = self.consortium.members.get(slot).and_then(|m| m.raft_id);
        // One that is being removed already may turn out to be lost.
        let known = self.leaving.get_mut(&slot).map(|known| *known |= lost);
        let Some(raft_id) = raft_id.filter(|_| known.is_none()) else {
            return;
        };
        self.leaving.insert(slot, lost);
        let mut arguments: Vec<String> = ["member", "remove"].map(str::to_owned).into();
        arguments.push(raft_id.to_string());
        let directory = self.consortium.directory.clone();
        let listing = Asking {
            binary: self.consortium.binary(),
            directory,
        };
        self.beside(async move {
            loop {
                if let Ok(members) = listing.members().await
                    && !members.iter().any(|(_, id)| *id == raft_id)
                {
                    return Done::Removed(slot);
                }
                if listing.command(&arguments).await.is_ok() {
                    return Done::Removed(slot);
                }
                tokio::time::sleep(COMMAND_PAUSE).await;
            }
        });
    }

    /// Lets a new node join.
    async fn join(&mut self) -> anyhow::Result<()> {
        let via = self.slots(Whom::All).into_iter().find_map(|slot| {
            let runs = self.consortium.runs(slot);
            self.consortium
                .members
                .get(slot)
                .filter(|_| runs)
                .and_then(|m| m.raft_id)
        });
        let Ok((slot, node_id, address)) = self.consortium.prepare_joiner(via.unwrap_or(1)).await
        else {
            self.note("no place for another member");
            return Ok(());
        };
        self.note(&format!("node {slot} joins"));
        self.start(slot)?;
        let asking = Asking {
            binary: self.consortium.binary(),
            directory: self.consortium.directory.clone(),
        };
        let arguments = ["member", "add", &node_id, &address].map(str::to_owned);
        self.beside(async move {
            loop {
                if let Ok(members) = asking.members().await
                    && let Some((_, raft_id)) = members.iter().find(|(id, _)| *id == node_id)
                {
                    return Done::Added(slot, *raft_id);
                }
                if let Err(error) = asking.command(&arguments).await
                    && asking.directory.all().is_empty()
                {
                    return Done::Failed(error.to_string());
                }
                tokio::time::sleep(COMMAND_PAUSE).await;
            }
        });
        Ok(())
    }

    fn transfer(&mut self, slot: Slot) {
        let raft_id = self.consortium.members.get(slot).and_then(|m| m.raft_id);
        let Some(raft_id) = raft_id else { return };
        let asking = Asking {
            binary: self.consortium.binary(),
            directory: self.consortium.directory.clone(),
        };
        let arguments = ["member", "transfer", &raft_id.to_string()].map(str::to_owned);
        self.beside(async move {
            // It may be refused for many good reasons.
            asking.command(&arguments).await.ok();
            Done::Aside(slot, Ok(()))
        });
    }

    /// Exports, judges and imports the blocks of a node that was stopped, with a fail point on the way.
    fn export(&mut self, slot: Slot, seed: u64) {
        let config = self.consortium.node_dir(slot).join("quorate.toml");
        let binary = self.consortium.binary();
        let points = self.consortium.points_dir(slot).display().to_string();
        let out = self.consortium.dir.join(format!("export-{seed}"));
        let genesis = self.consortium.dir.join("net/genesis.json");
        let copy = self.consortium.dir.join(format!("copy-{seed}"));
        self.count("export, verify, import and recover of a stopped node");
        self.beside(async move {
            let tools = Tools {
                binary,
                config,
                points,
            };
            let judged = tools.round(&out, &copy, &genesis).await;
            Done::Aside(slot, judged.map_err(|e| format!("{e:#}")))
        });
    }

    fn beside(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.under_way += 1;
        let done = self.done.0.clone();
        tokio::spawn(async move {
            let outcome = work.await;
            // The run may be over.
            done.send(outcome).await.ok();
        });
    }

    fn start(&mut self, slot: Slot) -> anyhow::Result<()> {
        let keep_down = self.consortium.members.get(slot).is_none_or(|m| m.removed)
            || self.exports.contains_key(&slot)
            || self.stopping.contains_key(&slot);
        if !keep_down && !self.consortium.runs(slot) {
            self.note(&format!("node {slot} starts"));
            self.consortium.start(slot)?;
        }
        Ok(())
    }

    /// One look at everything; to be called often.
    ///
    /// # Errors
    /// If the system refuses what the harness needs.
    pub async fn tick(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let (due, rest) = std::mem::take(&mut self.later)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.later = rest;
        for (_, later) in due {
            self.carry_out(later).await?;
        }
        for ended in self.consortium.ended() {
            self.fallen(ended).await?;
        }
        let overdue: Vec<Slot> = self
            .stopping
            .iter()
            .filter(|(_, (since, _))| since.elapsed() > STOP_MAX)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in overdue {
            self.stopping.remove(&slot);
            self.complaints
                .push(format!("node {slot} did not stop in {STOP_MAX:?}"));
            self.exports.remove(&slot);
            self.consortium.kill(slot).await;
            self.after(RESTART_PAUSE, Later::Start(slot));
        }
        while let Ok(done) = self.done.1.try_recv() {
            self.under_way = self.under_way.saturating_sub(1);
            self.finished(done).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, later: Later) -> anyhow::Result<()> {
        match later {
            Later::Start(slot) => self.start(slot)?,
            Later::Continue(slot) => self.consortium.signal(slot, Signal::CONT),
            Later::Open(directions) => self.consortium.links.set(&directions, Condition::Open),
            Later::Disarm(slot) => self.consortium.arm(slot, "")?,
            Later::Relieve(slot) => self.consortium.relieve_disk(slot)?,
            Later::Kill(slot) => self.kill_for_good(slot).await,
            Later::Roll(mut slots) => {
                // The next one when the one before has come back.
                let busy = !self.stopping.is_empty();
                if !busy && let Some(slot) = slots.pop() {
                    self.stop(slot, true);
                }
                if !slots.is_empty() {
                    self.after(Duration::from_millis(400), Later::Roll(slots));
                }
            }
        }
        Ok(())
    }

    /// A process has ended and nobody killed it.
    async fn fallen(&mut self, ended: Ended) -> anyhow::Result<()> {
        let Ended {
            slot,
            code,
            unborn,
            full,
            excused,
        } = ended;
        self.note(&format!(
            "node {slot} ended with {code:?}, unborn: {unborn}, full: {full}, excused: {excused}"
        ));
        let stopped = self.stopping.remove(&slot);
        let member = self.consortium.members.get(slot);
        let Some(member) = member else { return Ok(()) };
        let (spoiled, removed) = (member.damaged || member.wiped, member.removed);
        let leaves = removed || self.leaving.contains_key(&slot);
        match code {
            Some(0) if stopped.is_some() => {}
            // Between its start and its first statement nobody listens.
            None if stopped.is_some() && unborn => self.count("stopped before it had begun"),
            // Nothing can be written: it must not go on, and it says so.
            Some(4 | 11 | 12) if full => self.count("ended for want of room"),
            Some(15) if leaves => return Ok(()),
            // It says that its files are no good, and does not serve what is in them.
            Some(3 | 4 | 11 | 12 | 16) if spoiled => {
                self.count("refused after damage or loss");
                self.exports.remove(&slot);
                self.remove(slot, true);
                return Ok(());
            }
            Some(10) if spoiled => {
                self.count("stopped by its own check after damage");
                self.remove(slot, true);
                return Ok(());
            }
            _ if excused => {}
            code => self
                .complaints
                .push(format!("node {slot} ended by itself with {code:?}")),
        }
        match stopped {
            Some((_, false)) if self.exports.contains_key(&slot) => {
                let seed = self.exports.get(&slot).copied().unwrap_or_default();
                self.export(slot, seed);
            }
            _ => self.after(RESTART_PAUSE, Later::Start(slot)),
        }
        Ok(())
    }

    async fn finished(&mut self, done: Done) -> anyhow::Result<()> {
        match done {
            Done::Removed(slot) => {
                self.note(&format!("node {slot} is no member any more"));
                self.with(slot, |m| m.removed = true);
                self.consortium.publish();
                self.observed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .latest
                    .remove(&slot);
                self.after(Duration::from_secs(1), Later::Kill(slot));
                self.join().await?;
            }
            Done::Added(slot, raft_id) => {
                self.note(&format!("node {slot} is member {raft_id}"));
                self.consortium.identify(slot, raft_id);
            }
            Done::Aside(slot, outcome) => {
                if let Err(reason) = outcome {
                    self.complaints.push(format!(
                        "commands on node {slot}, which does not run: {reason}"
                    ));
                }
                if self.exports.remove(&slot).is_some() {
                    self.start(slot)?;
                }
            }
            Done::Failed(reason) => self.complaints.push(reason),
        }
        Ok(())
    }

    /// Ends all faults: everything is open, disarmed and running again.
    ///
    /// # Errors
    /// If the system refuses what the harness needs.
    pub async fn heal(&mut self) -> anyhow::Result<()> {
        self.note("everything is healed");
        // Only those that were removed are still to end.
        self.later.retain(|(_, l)| matches!(l, Later::Kill(_)));
        self.consortium.links.heal();
        for slot in 0..self.consortium.members.len() {
            self.consortium.arm(slot, "")?;
            self.consortium.relieve_disk(slot)?;
            self.consortium.signal(slot, Signal::CONT);
            self.start_if_expected(slot)?;
        }
        Ok(())
    }

    fn start_if_expected(&mut self, slot: Slot) -> anyhow::Result<()> {
        // What has refused its files is being replaced and must not be asked again. Whoever else is to leave still counts.
        let lost = self.leaving.get(&slot).is_some_and(|lost| *lost);
        if self.is_member(slot) && !lost {
            self.start(slot)?;
        }
        Ok(())
    }

    /// True if no node is to be started, stopped, removed or added any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.under_way == 0
            && self.stopping.is_empty()
            && self.exports.is_empty()
            && !self
                .later
                .iter()
                .any(|(_, l)| matches!(l, Later::Start(_) | Later::Roll(_)))
    }

    /// What is still to be waited for, for people.
    #[must_use]
    pub fn outstanding(&self) -> String {
        let mut text = String::new();
        write!(
            text,
            "{} operations under way, stopping {:?}, leaving {:?}, later {:?}",
            self.under_way, self.stopping, self.leaving, self.later
        )
        .ok();
        text
    }
}

/// Removes everything in a folder, but not the folder: it may be a file system of its own.
fn empty(folder: &std::path::Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// All directions between two sides.
fn between(side: &[Slot], others: &[Slot]) -> Vec<(Slot, Slot)> {
    side.iter()
        .flat_map(|a| others.iter().flat_map(|b| [(*a, *b), (*b, *a)]))
        .collect()
}
