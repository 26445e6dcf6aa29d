//! Groups of real cores and real logs in one thread: a network that loses, doubles and reorders, disks that forget.

use std::collections::BTreeMap;

use super::*;
use crate::disk::fake::FakeDisk;
use crate::driver::open_core;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

struct Member {
    disk: FakeDisk,
    core: Option<Core>,
    delivered: Vec<(u64, Bytes)>,
    snapshots: Vec<u64>,
}

struct Group {
    members: Vec<Member>,
    network: Vec<(RaftId, RaftId, Bytes)>,
    random: Random,
    /// Out of a hundred messages so many are lost, doubled, and delivered out of order.
    loss: usize,
    cut: Vec<u64>,
    leaders: BTreeMap<u64, u64>,
    trailing: u64,
}

impl Group {
    fn of(count: u64, seed: u64) -> Self {
        let mut group = Self {
            members: Vec::new(),
            network: Vec::new(),
            random: Random(seed),
            loss: 0,
            cut: Vec::new(),
            leaders: BTreeMap::new(),
            trailing: 8_192,
        };
        for id in 1..=count {
            let disk = FakeDisk::default();
            group.members.push(Member {
                disk,
                core: None,
                delivered: Vec::new(),
                snapshots: Vec::new(),
            });
            group.start(id, count);
        }
        group
    }

    fn start(&mut self, id: u64, count: u64) {
        let voters = (1..=count).map(RaftId).collect();
        let mut config = Config::new(RaftId(id), voters, Vec::new());
        config.seed = self.random.below(1 << 30) as u64;
        config.segment_bytes = 4_096;
        config.cache_bytes = 2_000;
        config.trailing_entries = self.trailing;
        let member = &mut self.members[id as usize - 1];
        let applied = member.delivered.last().map_or(0, |(index, _)| *index);
        let applied = applied.max(member.snapshots.last().copied().unwrap_or(0));
        member.core =
            Some(open_core(config, Box::new(member.disk.clone()), LogIndex(applied)).unwrap());
    }

    fn ids(&self) -> Vec<u64> {
        (1..=self.members.len() as u64)
            .filter(|id| self.members[*id as usize - 1].core.is_some())
            .collect()
    }

    fn core(&mut self, id: u64) -> &mut Core {
        self.members[id as usize - 1].core.as_mut().unwrap()
    }

    fn crash(&mut self, id: u64) {
        let keep = self.random.below(300);
        self.members[id as usize - 1].core = None;
        self.members[id as usize - 1].disk.crash(keep);
    }

    /// One round: everyone's clock ticks, and what is on the way arrives, or not.
    fn round(&mut self, tick: bool) {
        for id in self.ids() {
            if tick {
                self.core(id).tick();
            }
            self.progress(id);
        }
        let mut batch = std::mem::take(&mut self.network);
        if self.loss > 0 {
            for i in (1..batch.len()).rev() {
                let j = self.random.below(i + 1);
                batch.swap(i, j);
            }
        }
        for (from, to, message) in batch {
            if self.cut.contains(&from.0) != self.cut.contains(&to.0)
                || self.random.below(100) < self.loss
            {
                continue;
            }
            let copies = 1 + usize::from(self.random.below(100) < self.loss);
            for _ in 0..copies {
                if self.members[to.0 as usize - 1].core.is_some() {
                    self.core(to.0).received(from, &message);
                    self.progress(to.0);
                }
            }
        }
        self.check();
    }

    fn progress(&mut self, id: u64) {
        let mut out = Vec::new();
        let mut snapshots = Vec::new();
        let core = self.members[id as usize - 1].core.as_mut().unwrap();
        core.ready(&mut |to, bytes, snapshot| {
            if snapshot {
                snapshots.push(to);
            }
            out.push((RaftId(id), to, bytes));
        })
        .unwrap();
        for to in snapshots {
            core.snapshot_sent(to, true);
        }
        self.network.extend(out);
        let member = &mut self.members[id as usize - 1];
        let core = member.core.as_mut().unwrap();
        loop {
            let batch = core.deliveries(7, 500).unwrap();
            if batch.is_empty() {
                break;
            }
            for delivery in batch {
                let index = match delivery {
                    Delivery::Entry(entry) => {
                        let last = member
                            .delivered
                            .last()
                            .map_or(0, |d| d.0)
                            .max(member.snapshots.last().copied().unwrap_or(0));
                        assert_eq!(entry.index.0, last + 1, "member {id} is delivered in order");
                        member.delivered.push((entry.index.0, entry.payload));
                        entry.index
                    }
                    Delivery::Snapshot(snapshot) => {
                        assert!(snapshot.manifest.starts_with(b"at "));
                        member.snapshots.push(snapshot.index.0);
                        snapshot.index
                    }
                };
                core.applied(index);
            }
        }
    }

    /// At most one leader per term; no two members disagree about an index.
    fn check(&mut self) {
        for id in self.ids() {
            let status = self.core(id).status();
            if status.role == Role::Leader {
                let leader = *self.leaders.entry(status.term.0).or_insert(id);
                assert_eq!(leader, id, "two leaders in term {}", status.term);
            }
        }
        let mut agreed: BTreeMap<u64, &Bytes> = BTreeMap::new();
        for member in &self.members {
            for (index, payload) in &member.delivered {
                let first = agreed.entry(*index).or_insert(payload);
                assert_eq!(*first, payload, "members disagree about index {index}");
            }
        }
    }

    fn leader(&mut self) -> u64 {
        for _ in 0..2_000 {
            let found = self.ids().into_iter().find(|id| {
                let status = self.core(*id).status();
                status.role == Role::Leader && !self.cut.contains(id)
            });
            if let Some(id) = found {
                return id;
            }
            self.round(true);
        }
        panic!("nobody leads");
    }

    fn propose(&mut self, payload: &str) -> bool {
        let leader = self.leader();
        let term = self.core(leader).status().term;
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        matches!(
            self.core(leader).propose(payload, term),
            ProposeOutcome::Appended { .. }
        )
    }

    fn payloads(&self, id: u64) -> Vec<String> {
        let delivered = self.members[id as usize - 1].delivered.iter();
        delivered
            .filter(|d| !d.1.is_empty())
            .map(|d| String::from_utf8(d.1.to_vec()).unwrap())
            .collect()
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.round(true);
        }
    }
}

#[test]
fn three_and_five_members_elect_and_deliver_the_same() {
    for count in [1, 3, 5] {
        let mut group = Group::of(count, 1);
        for n in 0..50 {
            assert!(group.propose(&format!("payload {n}")));
            group.round(false);
        }
        group.settle();
        let expected: Vec<String> = (0..50).map(|n| format!("payload {n}")).collect();
        for id in 1..=count {
            assert_eq!(group.payloads(id), expected);
        }
    }
}

#[test]
fn a_follower_refuses_proposals_and_messages_that_are_not_from_their_sender() {
    let mut group = Group::of(3, 2);
    let leader = group.leader();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let term = group.core(follower).status().term;
    let refused = group.core(follower).propose(Bytes::from_static(b"x"), term);
    assert!(matches!(
        refused,
        ProposeOutcome::Refused(ProposeRefusal::NotLeader { .. })
    ));
    let wrong_term = group
        .core(leader)
        .propose(Bytes::from_static(b"x"), Term(term.0 + 1));
    assert!(matches!(
        wrong_term,
        ProposeOutcome::Refused(ProposeRefusal::NotLeader { .. })
    ));

    // A vote request in a far later term would unseat the leader, if it were believed.
    let mut forged = Message {
        from: follower,
        to: leader,
        term: term.0 + 50,
        ..Message::default()
    };
    forged.set_msg_type(MessageType::MsgRequestVote);
    let other = (1..=3).find(|id| *id != leader && *id != follower).unwrap();
    group
        .core(leader)
        .received(RaftId(other), &forged.encode_to_vec());
    forged.to = other;
    group
        .core(leader)
        .received(RaftId(follower), &forged.encode_to_vec());
    group
        .core(leader)
        .received(RaftId(follower), b"\xff\xff\xff");
    let mut proposal = Message {
        from: follower,
        to: leader,
        ..Message::default()
    };
    proposal.set_msg_type(MessageType::MsgPropose);
    proposal.set_entries(vec![Entry::default()]);
    group
        .core(leader)
        .received(RaftId(follower), &proposal.encode_to_vec());
    let status = group.core(leader).status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut group = Group::of(3, 3);
    let leader = group.leader();
    let to = (1..=3).find(|id| *id != leader).unwrap();
    group.propose("before");
    group.settle();
    assert!(matches!(
        group.core(to).transfer(RaftId(leader)),
        Err(TransferError::NotLeader { .. })
    ));
    assert!(matches!(
        group.core(leader).transfer(RaftId(9)),
        Err(TransferError::NotAVoter { .. })
    ));
    group.core(leader).transfer(RaftId(to)).unwrap();
    group.settle();
    assert_eq!(group.leader(), to);
}

#[test]
fn a_member_that_was_away_reads_old_entries_from_the_leaders_disk() {
    let mut group = Group::of(3, 4);
    let leader = group.leader();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    group.crash(away);
    for n in 0..200 {
        assert!(group.propose(&format!("payload {n}")));
        group.round(false);
    }
    group.start(away, 3);
    group.settle();
    assert_eq!(group.payloads(away), group.payloads(leader));
}

#[test]
fn a_member_that_is_further_behind_than_the_log_gets_the_manifest() {
    let mut group = Group::of(3, 5);
    group.trailing = 10;
    for id in 1..=3 {
        group.crash(id);
        group.start(id, 3);
    }
    let leader = group.leader();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    group.crash(away);
    for n in 0..100 {
        assert!(group.propose(&format!("payload {n}")));
        group.round(false);
    }
    group.settle();
    let applied = group.core(leader).applied;
    group
        .core(leader)
        .compact(LogIndex(applied), Bytes::from(format!("at {applied}")))
        .unwrap();
    assert_eq!(group.core(leader).status().first_index.0, applied - 10 + 1);
    // A wiped member comes back as well (under its old id, which only a test may do).
    group.members[away as usize - 1].disk.wipe();
    group.members[away as usize - 1].delivered.clear();
    group.start(away, 3);
    group.settle();
    assert_eq!(group.members[away as usize - 1].snapshots, [applied]);
    group.propose("after");
    group.settle();
    assert_eq!(group.payloads(away), ["after"]);
    // The snapshot survives a restart, and so does the leader's shorter log.
    for id in 1..=3 {
        group.crash(id);
        group.start(id, 3);
    }
    group.propose("again");
    group.settle();
    assert_eq!(group.payloads(away), ["after", "again"]);
}

#[test]
fn a_log_that_ends_before_what_the_application_has_is_refused() {
    let mut group = Group::of(1, 6);
    group.propose("x");
    group.settle();
    group.crash(1);
    let disk = group.members[0].disk.clone();
    let config = Config::new(RaftId(1), vec![RaftId(1)], Vec::new());
    let refused = open_core(config, Box::new(disk), LogIndex(1_000));
    assert!(matches!(
        refused,
        Err(OpenError::LogBehindApplication { .. })
    ));
}

/// Loss, doubling, reordering, partitions, crashes that lose unsynced bytes: what was committed stays, all agree,
/// and when the faults end everything that was acknowledged is everywhere.
#[test]
fn nothing_committed_is_lost_under_faults() {
    for seed in 0..60 {
        let count = if seed % 2 == 0 { 3 } else { 5 };
        let mut group = Group::of(count, seed);
        group.loss = 15;
        let mut sent = 0;
        for _ in 0..400 {
            match group.random.below(40) {
                0 => {
                    let id = 1 + group.random.below(count as usize) as u64;
                    if group.members[id as usize - 1].core.is_some() {
                        group.crash(id);
                    }
                }
                1 | 2 => {
                    for id in 1..=count {
                        if group.members[id as usize - 1].core.is_none() {
                            group.start(id, count);
                        }
                    }
                }
                3 => group.cut = vec![1 + group.random.below(count as usize) as u64],
                4 => group.cut.clear(),
                _ => {
                    let leads = group
                        .ids()
                        .into_iter()
                        .find(|id| group.core(*id).status().role == Role::Leader);
                    if let Some(leader) = leads {
                        let term = group.core(leader).status().term;
                        sent += 1;
                        group
                            .core(leader)
                            .propose(Bytes::from(format!("{seed}/{sent}")), term);
                    }
                }
            }
            group.round(true);
        }
        let committed: Vec<String> = (1..=count)
            .map(|id| group.payloads(id))
            .max_by_key(Vec::len)
            .unwrap();
        group.loss = 0;
        group.cut.clear();
        for id in 1..=count {
            if group.members[id as usize - 1].core.is_none() {
                group.start(id, count);
            }
        }
        group.settle();
        assert!(group.propose("last"), "seed {seed}");
        group.settle();
        let all = group.payloads(1);
        assert_eq!(all.last().map(String::as_str), Some("last"), "seed {seed}");
        assert!(
            all.starts_with(&committed),
            "seed {seed}: something committed is gone"
        );
        for id in 2..=count {
            assert_eq!(group.payloads(id), all, "seed {seed}, member {id}");
        }
    }
}
