//! Random schedules: loss, repetition, reordering, partitions, crashes that lose unsynced writes, slow disks, slow
//! applications, compactions, hand-overs and membership changes. Each seed is one run; a failing one replays exactly.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft_adapter::{Input, MemberChange, MemberRole, MemberStep, RaftId, Role, Ticket};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::group::{Group, tight};

struct Run {
    group: Group,
    random: StdRng,
    size: u64,
    changes_members: bool,
    proposed: u64,
    steps: u64,
    changed: u64,
    killed_in_joint: u64,
    last_change: Option<MemberChange>,
    asked: Vec<(u64, Ticket)>,
}

impl Run {
    fn new(seed: u64, size: u64) -> Self {
        Self {
            group: Group::of(size),
            random: StdRng::seed_from_u64(seed),
            size,
            changes_members: seed % 2 == 1,
            proposed: 0,
            steps: 0,
            changed: 0,
            killed_in_joint: 0,
            last_change: None,
            asked: Vec::new(),
        }
    }

    fn any(&mut self) -> u64 {
        let count = self.group.members.len() as u64;
        self.random.random_range(1..=count)
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(20) {
            self.start_new_members();
        }
        let id = self.any();
        match self.random.random_range(0..1000) {
            0..420 => {
                // A change takes many messages, and there are more members to send them.
                let packets = if self.changes_members { 4 } else { 1 };
                (0..packets).for_each(|_| self.network());
            }
            420..620 => {
                for _ in 0..self.random.random_range(0..4) {
                    self.group.write_one(id);
                }
                if self.random.random_bool(0.7) {
                    self.group.barrier(id);
                }
            }
            620..770 => self.group.step(id, Input::Tick),
            770..880 => {
                for _ in 0..self.random.random_range(1..4) {
                    self.group.apply_one(id);
                }
            }
            // A new leader refuses until its first entry is applied, so most of them come to nothing.
            880..890 if self.changes_members => {
                self.change_members();
                self.check_answers();
            }
            880..955 => self.propose(),
            955..970 => self.group.make_durable(id),
            970..976 if self.group.is_up(id) => self.group.compact(id),
            // Half of the deaths come in the middle of a change, and there half to the leader.
            976..979 if self.changes_members => {
                let joint: Vec<u64> = self
                    .group
                    .ids()
                    .into_iter()
                    .filter(|id| self.group.is_up(*id) && self.group.status(*id).table.is_joint())
                    .collect();
                let leader = joint
                    .iter()
                    .copied()
                    .find(|id| self.group.status(*id).role == Role::Leader);
                let victim = leader.filter(|_| self.random.random_bool(0.5));
                if let Some(victim) = victim.or(joint.first().copied()) {
                    self.killed_in_joint += 1;
                    self.group.crash(victim);
                }
            }
            976..982 => {
                if self.group.is_up(id) {
                    self.group.crash(id);
                } else {
                    self.group.start(id).unwrap();
                }
            }
            982..986 => {
                if self.random.random_bool(0.5) {
                    self.group.isolate(id);
                } else {
                    let other = self.any();
                    self.group.cut(id, other);
                }
            }
            986..993 => self.group.heal(),
            993..995 => {
                let (to, ticket) = (RaftId(self.any()), self.group.ticket());
                self.group
                    .step(id, Input::TransferLeadership { to, ticket });
            }
            995..996 => {
                let peer = RaftId(self.any());
                self.group.step(id, Input::Unreachable { peer });
            }
            _ => {}
        }
    }

    fn network(&mut self) {
        if self.group.net.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.group.net.len());
        let packet = self.group.net.remove(at).unwrap();
        match self.random.random_range(0..100) {
            0..5 => {}
            5..10 => {
                self.group.net.push_back(packet.clone());
                self.group.deliver(packet).unwrap();
            }
            _ => self.group.deliver(packet).unwrap(),
        }
        // As a real transport would, when a member reads too slowly.
        while self.group.net.len() > 300 {
            self.group.net.pop_front();
        }
    }

    fn propose(&mut self) {
        for id in self.group.ids() {
            if self.group.is_up(id) && self.group.status(id).role == Role::Leader {
                self.proposed += 1;
                let size = self.random.random_range(1..200);
                let payload = format!("{}:{}", self.proposed, "x".repeat(size));
                self.group.propose(id, Bytes::from(payload));
            }
        }
    }

    fn change_members(&mut self) {
        let ids = self.group.ids();
        let Some(leader) = ids
            .into_iter()
            .find(|id| self.group.is_up(*id) && self.group.status(*id).role == Role::Leader)
        else {
            return;
        };
        let mut steps = Vec::new();
        let table = self.group.status(leader).table;
        for (id, member) in &table.members {
            let (id, role) = (*id, member.role);
            match (self.random.random_range(0..12), role) {
                (0 | 1, MemberRole::Voter) => steps.push(MemberStep::SetRole {
                    id,
                    role: MemberRole::Learner,
                }),
                (0..6, MemberRole::Learner) => steps.push(MemberStep::SetRole {
                    id,
                    role: MemberRole::Voter,
                }),
                (6, _) => steps.push(MemberStep::Remove { id }),
                (7, _) => {
                    let details = format!("{id} at {}", self.changed).into();
                    steps.push(MemberStep::SetDetails { id, details });
                }
                _ => {}
            }
        }
        // Everyone who was ever added is a process; this keeps them few.
        if table.next_id.0 <= 2 * self.size && self.random.random_bool(0.4) {
            let role = if self.random.random_bool(0.5) {
                MemberRole::Voter
            } else {
                MemberRole::Learner
            };
            let details = format!("new at {}", self.changed).into();
            steps.push(MemberStep::Add { role, details });
        }
        self.changed += 1;
        let mut change = self.group.forced(steps);
        // Some are asked for again, here or elsewhere; some under an id that is taken.
        if self.random.random_bool(0.3)
            && let Some(last) = &self.last_change
        {
            change = last.clone();
        }
        change.force = self.random.random_bool(0.6);
        self.last_change = Some(change.clone());
        let ticket = self.group.ask(leader, change);
        self.asked.push((leader, ticket));
    }

    /// What was answered must be so.
    fn check_answers(&mut self) {
        let mut open = Vec::new();
        for (at, ticket) in std::mem::take(&mut self.asked) {
            match self.group.answered(at, ticket) {
                Some(Ok(done)) => {
                    let entry = self.group.truth.get(&done.change.index.0);
                    assert!(
                        entry.is_none_or(|(term, _)| *term == done.change.term.0),
                        "a change was reported done that another entry replaced"
                    );
                    assert!(done.table.index >= done.change.index);
                }
                Some(Err(_)) => {}
                None => open.push((at, ticket)),
            }
        }
        self.asked = open;
    }

    /// Changes that took effect, whoever was told.
    fn applied_changes(&self) -> u64 {
        let tables = self.group.tables.values();
        let ids: BTreeSet<_> = tables
            .flat_map(|table| table.recent.iter().map(|change| change.id))
            .collect();
        ids.len() as u64
    }

    /// Whoever was given an id is started under it.
    fn start_new_members(&mut self) {
        let highest = self
            .group
            .tables
            .values()
            .map(|table| table.next_id.0)
            .max();
        for id in self.size + 1..highest.unwrap_or_default() {
            if !self.group.members.contains_key(&id) {
                let voters: Vec<u64> = (1..=self.size).collect();
                self.group.add(tight(id, &voters));
            }
        }
    }

    /// Once nothing is in its way any more, the group must work.
    fn must_recover(&mut self) {
        self.group.heal();
        for id in self.group.ids() {
            if !self.group.is_up(id) {
                self.group.start(id).unwrap();
            }
        }
        self.group.settle();
        for _ in 0..200 {
            self.start_new_members();
            self.group.tick();
        }
        let leader = self.group.elect_anyhow();
        self.group.propose(leader, "the end");
        for _ in 0..20 {
            self.group.tick();
        }
        self.check_answers();
        let table = self.group.status(leader).table;
        let strangers: Vec<u64> = self
            .group
            .ids()
            .into_iter()
            .filter(|id| !table.members.contains_key(&RaftId(*id)))
            .collect();
        self.group.assert_converged_but(&strangers);
        assert_eq!(self.group.payloads().last().unwrap(), "the end");
        for id in self.group.ids() {
            let status = self.group.status(id);
            if !strangers.contains(&id) {
                assert_eq!(status.table, table, "at {id}");
                assert_eq!(status.behind_own_promises, None);
            }
        }
        assert!(!table.is_joint(), "still in a joint state");
    }
}

fn run(seeds: std::ops::Range<u64>, size: u64, steps: u32) {
    let mut agreed = 0;
    let mut manifests = 0;
    let mut changes = 0;
    let mut deaths = 0;
    for seed in seeds.clone() {
        let outcome = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed, size);
            for _ in 0..steps {
                run.step();
            }
            run.must_recover();
            let manifests: u64 = run
                .group
                .members
                .values()
                .map(|member| member.app.manifests)
                .sum();
            (
                run.group.payloads().len() as u64,
                manifests,
                run.applied_changes(),
                run.killed_in_joint,
            )
        });
        let (payloads, fetched, done, killed) =
            outcome.unwrap_or_else(|_| panic!("seed {seed} with {size} members fails"));
        agreed += payloads;
        manifests += fetched;
        changes += done;
        deaths += killed;
    }
    let runs = seeds.end - seeds.start;
    assert!(
        agreed > runs * u64::from(steps) / 500,
        "hardly anything was agreed on: {agreed}"
    );
    assert!(manifests > 0 || runs < 10, "no run needed a manifest");
    println!(
        "{runs} runs of {size} members: {agreed} payloads, {manifests} manifests, {changes} changes"
    );
    assert!(
        (changes > runs / 4 && deaths > 0) || runs < 10,
        "too few membership changes were done: {changes}, {deaths} deaths within"
    );
}

/// `SEEDS=1000..2000 STEPS=20000 cargo test -p raft-adapter --release --test it stay_safe` searches elsewhere, and for
/// longer.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SEEDS") else {
        return usual;
    };
    let (start, end) = text.split_once("..").expect("SEEDS is FIRST..END");
    start.parse().unwrap()..end.parse().unwrap()
}

fn steps(usual: u32) -> u32 {
    std::env::var("STEPS").map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn three_members_stay_safe_and_recover_under_random_faults() {
    run(seeds(0..120), 3, steps(6_000));
}

#[test]
fn five_members_stay_safe_and_recover_under_random_faults() {
    run(seeds(1000..1080), 5, steps(8_000));
}
