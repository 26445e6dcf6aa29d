//! Random schedules: loss, repetition, reordering, partitions, crashes that lose unsynced writes, slow disks, slow
//! applications, compactions, hand-overs and membership changes. Each seed is one run; a failing one replays exactly.

use bytes::Bytes;
use raft_adapter::{Core, Input, MemberChange, MemberRole, RaftId, Role};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::group::Group;

struct Run {
    group: Group,
    random: StdRng,
    size: u64,
    changes_members: bool,
    proposed: u64,
}

impl Run {
    fn new(seed: u64, size: u64) -> Self {
        Self {
            group: Group::of(size),
            random: StdRng::seed_from_u64(seed),
            size,
            changes_members: seed % 2 == 1,
            proposed: 0,
        }
    }

    fn any(&mut self) -> u64 {
        self.random.random_range(1..=self.size)
    }

    fn step(&mut self) {
        let id = self.any();
        match self.random.random_range(0..1000) {
            0..420 => self.network(),
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
            880..955 => self.propose(),
            955..970 => self.group.make_durable(id),
            970..976 if self.group.is_up(id) => self.group.compact(id),
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
            993..996 => {
                let (to, ticket) = (RaftId(self.any()), self.group.ticket());
                self.group
                    .step(id, Input::TransferLeadership { to, ticket });
            }
            996..998 => {
                let peer = RaftId(self.any());
                self.group.step(id, Input::Unreachable { peer });
            }
            998..1000 if self.changes_members => self.change_members(),
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
        let mut members = Vec::new();
        for id in 1..=self.size {
            if id == leader {
                continue;
            }
            match self.random.random_range(0..4) {
                0 => members.push((RaftId(id), MemberRole::Learner)),
                1 => members.push((RaftId(id), MemberRole::Voter)),
                _ => {}
            }
        }
        let ticket = self.group.ticket();
        self.group.step(
            leader,
            Input::ChangeMembers {
                change: MemberChange { members },
                ticket,
            },
        );
    }

    /// Once nothing is in its way any more, the group must work.
    fn must_recover(&mut self) {
        self.group.heal();
        for id in self.group.ids() {
            if !self.group.is_up(id) {
                self.group.start(id).unwrap();
            }
        }
        let leader = self.group.elect();
        for _ in 0..150 {
            self.group.tick();
        }
        let leader = self.group.leader().unwrap_or(leader);
        self.group.propose(leader, "the end");
        for _ in 0..20 {
            self.group.tick();
        }
        self.group.assert_converged();
        assert_eq!(self.group.payloads().last().unwrap(), "the end");
        let memberships: Vec<_> = self
            .group
            .members
            .values()
            .map(|member| member.core.as_ref().map(Core::status).unwrap())
            .map(|status| (status.voters, status.voters_outgoing, status.learners))
            .collect();
        assert!(
            memberships
                .iter()
                .all(|membership| *membership == memberships[0])
        );
        assert!(memberships[0].1.is_empty(), "still in a joint state");
    }
}

fn run(seeds: std::ops::Range<u64>, size: u64, steps: u32) {
    let mut agreed = 0;
    let mut manifests = 0;
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
            (run.group.payloads().len() as u64, manifests)
        });
        let (payloads, fetched) =
            outcome.unwrap_or_else(|_| panic!("seed {seed} with {size} members fails"));
        agreed += payloads;
        manifests += fetched;
    }
    let runs = seeds.end - seeds.start;
    assert!(
        agreed > runs * u64::from(steps) / 500,
        "hardly anything was agreed on: {agreed}"
    );
    assert!(manifests > 0 || runs < 10, "no run needed a manifest");
    println!("{runs} runs of {size} members: {agreed} payloads, {manifests} manifests");
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
    run(seeds(0..40), 3, steps(8_000));
}

#[test]
fn five_members_stay_safe_and_recover_under_random_faults() {
    run(seeds(100..120), 5, steps(12_000));
}
