//! What a seed does to a consortium. The same seed makes the same plan; what becomes of it depends on the machine.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use quorate_fail_points::{Effect, POINTS, Point};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::consortium::Settings;
use crate::damage::STORES;
use crate::links::Slot;

/// Places that are passed only when a node opens its files.
const AT_START: [&str; 6] = [
    ".recover",
    ".open",
    ".level",
    ".settle",
    ".truncate",
    ".rebuild",
];
/// Places that are passed only by a node that is far behind the others.
const BEHIND: [&str; 10] = [
    ".install.",
    "state.restore",
    ".download",
    ".chunk",
    ".complete",
    ".confirm",
    ".forget",
    "raft.snapshot",
    ".manifest",
    ".fetched",
];
/// Places that are passed once in the life of a data folder.
const AT_BIRTH: [&str; 2] = ["state.genesis", "node.file.replace"];
/// Places of commands beside the nodes.
const OFFLINE: [&str; 2] = ["engine.offline.", "raft.log.force"];
/// Places of membership changes.
const CHANGES: [&str; 3] = ["raft.change", "import.members", "node.seat"];
/// Places that only a full disk's first victims know.
const DISK: [&str; 8] = [
    "raft.log.write",
    "raft.log.create",
    "blocks.append",
    "blocks.roll.create",
    "kv.write",
    "kv.journal",
    "engine.snapshot.file.create",
    "state.export.chunk",
];
/// Places that a slow disk makes slow.
const SYNCS: [&str; 4] = [
    "raft.log.sync",
    "blocks.sync",
    "kv.sync",
    "engine.snapshot.file.sync",
];

/// Whom a fault concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// One node.
    One(Slot),
    /// Whoever leads then.
    Leader,
    /// All of them.
    All,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`; started again after so long.
    Kill(Whom, Duration),
    /// SIGSTOP; SIGCONT after so long.
    Pause(Whom, Duration),
    /// Nothing comes from one node to another.
    CutOneWay(Slot, Slot, Duration),
    /// Nothing passes between a node and the others.
    Isolate(Whom, Duration),
    /// Nothing passes between two halves.
    Split(Vec<Slot>, Duration),
    /// What a node sends and gets is late.
    SlowLink(Slot, Duration, Duration),
    /// All connections break.
    Break,
    /// A named place fails, waits or panics.
    Point(PointFault),
    /// Nothing can be written any more.
    FullDisk(Slot, Duration),
    /// The file system that holds a node's data has no room left: truly so, on a small one of its own.
    FullFileSystem(Slot, Duration),
    /// Every sync takes long.
    SlowDisk(Whom, Duration, Duration),
    /// A node is killed, a file of this store damaged.
    Damage(Slot, &'static str, u64),
    /// A node is killed, its data removed.
    Wipe(Slot),
    /// The leader is removed and comes back as a new member.
    RemoveLeader,
    /// Another member joins.
    AddMember,
    /// Leadership is handed to this node.
    Transfer(Slot),
    /// One after the other is stopped and started.
    RollingRestart,
    /// A node is stopped, exported, judged and started.
    Export(Slot),
}

/// A named place and what happens there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointFault {
    /// The place.
    pub name: &'static str,
    /// In the language of the crate `fail`.
    pub actions: String,
    /// At whom.
    pub whom: Whom,
    /// Killed first, and down for so long before it is started armed.
    pub restart_after: Option<Duration>,
    /// Armed for so long.
    pub lasts: Duration,
}

impl Fault {
    /// Its kind, for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill(Whom::All, _) => "kill -9 of all",
            Self::Kill(..) => "kill -9",
            Self::Pause(..) => "SIGSTOP",
            Self::CutOneWay(..) => "one-way cut",
            Self::Isolate(..) => "isolation",
            Self::Split(..) => "partition",
            Self::SlowLink(..) => "slow link",
            Self::Break => "broken connections",
            Self::Point(point) if point.actions.contains("panic") => "fail point: panic",
            Self::Point(point) if point.actions.contains("return") => "fail point: error",
            Self::Point(_) => "fail point: sleep",
            Self::FullDisk(..) => "full disk",
            Self::FullFileSystem(..) => "full file system",
            Self::SlowDisk(..) => "slow disk",
            Self::Damage(..) => "damaged file",
            Self::Wipe(_) => "wiped disk",
            Self::RemoveLeader => "leader removed",
            Self::AddMember => "member added",
            Self::Transfer(_) => "leadership handed over",
            Self::RollingRestart => "rolling restart",
            Self::Export(_) => "export",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What happens in a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Members at the beginning.
    pub nodes: usize,
    /// Configuration of all of them.
    pub settings: Settings,
    /// A place that is armed at a node before its first start.
    pub at_birth: Option<(Slot, PointFault)>,
    /// When after the beginning, and what; in order of time.
    pub faults: Vec<(Duration, Fault)>,
}

impl Plan {
    /// The plan of a seed: faults fall into the first `lasts` after the start. Without `with_points` no fail point is used.
    #[must_use]
    pub fn of(seed: u64, nodes: (usize, usize), lasts: Duration, with_points: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = rng.random_range(nodes.0..=nodes.1.max(nodes.0));
        let mut maker = Maker { rng, nodes };
        let settings = Settings {
            flush_blocks: *[2, 8, 16, 64].choose(&mut maker.rng).unwrap_or(&8),
            trailing_entries: *[1, 16, 64, 8_192].choose(&mut maker.rng).unwrap_or(&16),
            snapshot_every: *[20, 60].choose(&mut maker.rng).unwrap_or(&20),
            snapshot_distance: *[10, 30, 20_000].choose(&mut maker.rng).unwrap_or(&30),
            retain_blocks: *[0, 256].choose(&mut maker.rng).unwrap_or(&0),
        };
        let mut plan = Self {
            nodes,
            settings,
            at_birth: None,
            faults: Vec::new(),
        };
        let mut faults = Vec::new();
        let point = POINTS.get(usize::try_from(seed).unwrap_or_default() % POINTS.len());
        if let Some(point) = point.filter(|_| with_points) {
            plan.point(point, &mut maker, &mut faults);
        }
        if maker.rng.random_bool(0.5) {
            faults.push(maker.large(with_points));
        }
        for _ in 0..maker.rng.random_range(2..=4) {
            faults.push(maker.small(with_points));
        }
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let mut times: Vec<u64> = faults
            .iter()
            .map(|_| maker.rng.random_range(0..=lasts_ms * 8 / 10))
            .collect();
        times.sort_unstable();
        let mut order: Vec<usize> = (0..faults.len()).collect();
        rand::seq::SliceRandom::shuffle(order.as_mut_slice(), &mut maker.rng);
        let shuffled = order.into_iter().filter_map(|n| faults.get(n).cloned());
        plan.faults = times
            .into_iter()
            .map(Duration::from_millis)
            .zip(shuffled)
            .collect();
        plan
    }

    /// Nodes whose data lie on a small file system of their own.
    pub fn small_disks(&self) -> BTreeSet<Slot> {
        let disks = self.faults.iter().filter_map(|(_, fault)| match fault {
            Fault::FullFileSystem(slot, _) => Some(*slot),
            _ => None,
        });
        disks.collect()
    }

    /// The place whose turn it is with this seed, in circumstances in which it is passed.
    fn point(&mut self, point: &'static Point, maker: &mut Maker, faults: &mut Vec<Fault>) {
        let is = |parts: &[&str]| parts.iter().any(|part| point.name.contains(part));
        let mut fault = maker.point(point);
        if is(&AT_BIRTH) {
            self.at_birth = Some((maker.slot(), fault));
            return;
        }
        if is(&OFFLINE) {
            faults.push(Fault::Export(maker.slot()));
            return;
        }
        if is(&BEHIND) || point.name.starts_with("engine.snapshot") {
            self.settings.trailing_entries = 1;
            self.settings.flush_blocks = 4;
            self.settings.snapshot_every = 20;
            self.settings.snapshot_distance = if is(&[".fetched"]) { 20_000 } else { 10 };
        }
        if point.name.contains("prune") || point.name.contains(".base.") {
            self.settings.retain_blocks = 256;
            self.settings.flush_blocks = 2;
        }
        if is(&AT_START) {
            fault.restart_after = Some(maker.millis(20, 300));
            fault.whom = Whom::One(maker.slot());
        } else if is(&BEHIND) {
            fault.restart_after = Some(maker.millis(1_000, 1_600));
            fault.whom = Whom::One(maker.slot());
        }
        if point.name == "node.stores.rebuild" {
            let slot = maker.rng.random_range(1..self.nodes);
            fault.whom = Whom::One(slot);
            fault.restart_after = None;
            fault.lasts = Duration::from_secs(4);
            faults.push(Fault::Damage(slot, "state", maker.rng.random()));
        }
        if point.name.starts_with("blocks.mend.") {
            // Passed by a node that reads what was damaged: later than this place is armed, and before it is disarmed.
            let slot = maker.rng.random_range(1..self.nodes);
            fault.whom = Whom::One(slot);
            fault.restart_after = None;
            fault.lasts = Duration::from_secs(20);
            faults.push(Fault::Damage(slot, "blocks", maker.rng.random()));
        }
        if point.name == "engine.flush.last" || point.name == "node.stop" {
            fault.whom = Whom::All;
            faults.push(Fault::RollingRestart);
        }
        if point.name == "raft.ready.transfer" {
            fault.whom = Whom::All;
            faults.push(Fault::Transfer(maker.slot()));
        }
        if is(&CHANGES) {
            fault.whom = Whom::All;
            fault.lasts = Duration::from_secs(4);
            faults.push(match maker.rng.random_bool(0.5) {
                true => Fault::RemoveLeader,
                false => Fault::AddMember,
            });
        }
        faults.push(Fault::Point(fault));
    }
}

struct Maker {
    rng: StdRng,
    nodes: usize,
}

impl Maker {
    fn slot(&mut self) -> Slot {
        self.rng.random_range(0..self.nodes)
    }

    fn whom(&mut self) -> Whom {
        match self.rng.random_range(0..4u32) {
            0 => Whom::Leader,
            _ => Whom::One(self.slot()),
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    fn point(&mut self, point: &'static Point) -> PointFault {
        let skip = self.rng.random_range(0..12u32);
        let skipped = match skip {
            0..4 => String::new(),
            _ => format!("{}*off->", skip - 3),
        };
        let act = match (point.effect, self.rng.random_range(0..6u32)) {
            (_, 0) => "1*sleep(700)".to_owned(),
            (_, 1) => format!("30*sleep({})", self.rng.random_range(5..60u32)),
            (Effect::Fail, 2 | 3) => "1*return(EIO)".to_owned(),
            (Effect::Fail, 4) => "return(ENOSPC)".to_owned(),
            _ => "1*panic".to_owned(),
        };
        let whom = match self.rng.random_range(0..8u32) {
            0..=3 => Whom::One(self.slot()),
            4..=6 => Whom::Leader,
            _ => Whom::All,
        };
        let restarts = self.rng.random_bool(0.25);
        PointFault {
            name: point.name,
            actions: skipped + &act,
            whom,
            restart_after: restarts.then(|| self.millis(20, 400)),
            lasts: self.millis(500, 1_500),
        }
    }

    fn small(&mut self, with_points: bool) -> Fault {
        let kinds = if with_points { 15 } else { 10 };
        match self.rng.random_range(0..kinds) {
            0 | 1 => Fault::Kill(self.whom(), self.millis(20, 1_200)),
            2 => Fault::Kill(Whom::All, self.millis(0, 300)),
            3 => Fault::Pause(self.whom(), self.millis(100, 1_500)),
            4 => {
                let from = self.slot();
                let to = (from + self.rng.random_range(1..self.nodes.max(2))) % self.nodes;
                Fault::CutOneWay(from, to, self.millis(300, 2_000))
            }
            5 => Fault::Isolate(self.whom(), self.millis(300, 2_000)),
            6 => {
                let first = self.slot();
                let side = [first, (first + 1) % self.nodes];
                Fault::Split(side.into(), self.millis(300, 2_000))
            }
            7 => {
                let delay = self.millis(1, 40);
                Fault::SlowLink(self.slot(), delay, self.millis(300, 2_000))
            }
            8 => Fault::Break,
            9 => Fault::FullFileSystem(self.slot(), self.millis(300, 1_500)),
            10 => Fault::FullDisk(self.slot(), self.millis(300, 1_200)),
            11 => {
                let delay = self.millis(5, 150);
                Fault::SlowDisk(self.whom(), delay, self.millis(300, 1_500))
            }
            _ => {
                let number = self.rng.random_range(0..POINTS.len());
                match POINTS.get(number) {
                    Some(point) => Fault::Point(self.point(point)),
                    None => Fault::Break,
                }
            }
        }
    }

    fn large(&mut self, with_points: bool) -> Fault {
        match self.rng.random_range(0..10u32) {
            0..=3 => {
                let store = *STORES.choose(&mut self.rng).unwrap_or(&"raft");
                // The first node keeps all blocks: what it holds decides about the others.
                let slot = self.rng.random_range(1..self.nodes);
                Fault::Damage(slot, store, self.rng.random())
            }
            4 => Fault::Wipe(self.rng.random_range(1..self.nodes)),
            5 => Fault::RemoveLeader,
            6 => Fault::AddMember,
            7 => Fault::Transfer(self.slot()),
            8 if with_points => Fault::Export(self.slot()),
            _ => Fault::RollingRestart,
        }
    }
}

/// Lines that make a node's disk full.
#[must_use]
pub fn full_disk() -> String {
    lines(&DISK, "return(ENOSPC)")
}

/// Lines that make a node's disk slow.
#[must_use]
pub fn slow_disk(delay: Duration) -> String {
    lines(&SYNCS, &format!("sleep({})", delay.as_millis()))
}

fn lines(names: &[&str], actions: &str) -> String {
    names
        .iter()
        .map(|name| format!("{name}={actions}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(4);

    #[test]
    fn a_seed_always_makes_the_same_plan_and_others_make_others() {
        let plan = |seed| format!("{:?}", Plan::of(seed, (3, 5), LASTS, true));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_place_has_its_turn_and_every_kind_of_fault_comes_up() {
        let mut names = std::collections::BTreeSet::new();
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let plan = Plan::of(seed, (3, 5), LASTS, true);
            names.extend(plan.at_birth.iter().map(|(_, p)| p.name));
            for (at, fault) in &plan.faults {
                assert!(*at <= LASTS);
                kinds.insert(fault.kind());
                if let Fault::Point(point) = fault {
                    names.insert(point.name);
                }
            }
        }
        let missing: Vec<_> = POINTS
            .iter()
            .map(|p| p.name)
            .filter(|name| !names.contains(name))
            .filter(|name| !OFFLINE.iter().any(|part| name.contains(part)))
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
        assert_eq!(kinds.len(), 21, "{kinds:?}");
    }

    #[test]
    fn the_places_of_full_and_slow_disks_exist_and_can_fail() {
        for name in DISK.iter().chain(&SYNCS) {
            let point = POINTS.iter().find(|p| p.name == *name);
            assert_eq!(point.map(|p| p.effect), Some(Effect::Fail), "{name}");
        }
    }

    #[test]
    fn without_fail_points_none_is_planned() {
        for seed in 0..200 {
            let plan = Plan::of(seed, (3, 4), LASTS, false);
            assert!(plan.at_birth.is_none());
            let uses = |f: &Fault| {
                matches!(
                    f,
                    Fault::Point(_) | Fault::FullDisk(..) | Fault::SlowDisk(..)
                )
            };
            assert!(!plan.faults.iter().any(|(_, f)| uses(f)));
        }
    }
}
