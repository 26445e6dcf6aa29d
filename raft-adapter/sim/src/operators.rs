//! What operators do: they change the membership, ask again when they hear nothing, and move leadership.

use std::collections::{BTreeMap, BTreeSet};

use raft_adapter::{
    ChangeError, ChangeId, Input, MemberChange, MemberRole, MemberStep, MemberTable, RaftId,
};

use crate::{
    checks::Checked,
    event::Event,
    faults::{Fault, Situation},
    member::Asked,
    random::Random,
    simulation::Simulation,
};

/// Members at most, and ids beyond those of the beginning: each is a process.
const MEMBERS_MAX: usize = 7;
const NEW_IDS_MAX: u64 = 8;

/// Changes that were asked for and may still come.
#[derive(Debug)]
pub(crate) struct Operators {
    random: Random,
    numbered: u64,
    open: BTreeMap<ChangeId, OpenChange>,
    last: Option<MemberChange>,
    lost_leadership: BTreeSet<ChangeId>,
}

#[derive(Clone, Debug)]
struct OpenChange {
    change: MemberChange,
    /// Requests without an answer yet.
    waiting: u64,
    /// A request ended without a definite answer.
    uncertain: bool,
    /// Voters there may be if it takes effect.
    voters: BTreeSet<Vec<u64>>,
}

impl Operators {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed, 6),
            numbered: 0,
            open: BTreeMap::new(),
            last: None,
            lost_leadership: BTreeSet::new(),
        }
    }

    pub(crate) fn done(&mut self, id: ChangeId) {
        self.answered(id);
    }

    pub(crate) fn refused(&mut self, id: ChangeId, error: &ChangeError) {
        if *error == ChangeError::LeadershipLost {
            self.lost_leadership.insert(id);
            self.unanswered(id);
        } else {
            self.answered(id);
        }
    }

    pub(crate) fn unanswered(&mut self, id: ChangeId) {
        if let Some(open) = self.open.get_mut(&id) {
            open.uncertain = true;
            open.waiting = open.waiting.saturating_sub(1);
        }
    }

    fn answered(&mut self, id: ChangeId) {
        if let Some(open) = self.open.get_mut(&id) {
            open.waiting = open.waiting.saturating_sub(1);
            if open.waiting == 0 && !open.uncertain {
                self.open.remove(&id);
            }
        }
    }

    fn next_change_id(&mut self) -> ChangeId {
        self.numbered += 1;
        ChangeId(u128::from(self.numbered).to_be_bytes())
    }
}

impl Simulation {
    pub(crate) fn operate(&mut self) -> Checked {
        let delay = self
            .operators
            .random
            .between(1, 2 * self.profile.operator_every);
        self.plan(delay, Event::Operator);
        self.start_new_members(700)?;
        self.note_late_changes();
        if self.ending {
            return Ok(());
        }
        let actions = self.profile.of(&[
            Fault::Change,
            Fault::Change,
            Fault::ForcedChange,
            Fault::Retry,
            Fault::Transfer,
            Fault::RemoveLeader,
        ]);
        let Some(action) = self.operators.random.pick(&actions) else {
            return Ok(());
        };
        match action {
            Fault::Change => self.change(false, false),
            Fault::ForcedChange => self.change(true, false),
            Fault::RemoveLeader => self.change(true, true),
            Fault::Retry => self.ask_again(),
            _ => self.transfer(),
        }
    }

    /// Whoever was given an id is started under it, sooner or later.
    pub(crate) fn start_new_members(&mut self, permille: u64) -> Checked {
        let next = self.checks.tables().values().map(|it| it.next_id.0).max();
        for id in self.profile.members + 1..next.unwrap_or_default() {
            if !self.members.contains_key(&id) && self.operators.random.chance(permille) {
                self.counters.situation(Situation::MemberAdded);
                self.history.line(self.now, || format!("{id} is new"));
                self.add_member(id)?;
            }
        }
        Ok(())
    }

    /// Changes that took effect after their requester heard that leadership was lost, and joint memberships that a
    /// successor left.
    fn note_late_changes(&mut self) {
        let lost: Vec<ChangeId> = self.operators.lost_leadership.iter().copied().collect();
        for id in lost {
            if self.checks.changes().contains_key(&id) {
                self.operators.lost_leadership.remove(&id);
                self.counters.situation(Situation::DoneAfterLeadershipLost);
            }
        }
    }

    fn transfer(&mut self) -> Checked {
        let ids = self.ids();
        let (Some(at), Some(to)) = (self.newest_leader(), self.operators.random.pick(&ids)) else {
            return Ok(());
        };
        self.counters.fault(Fault::Transfer);
        let ticket = self.ticket(at, Asked::Transfer);
        let to = RaftId(to);
        self.input(at, Input::TransferLeadership { to, ticket })
    }

    fn ask_again(&mut self) -> Checked {
        let open: Vec<ChangeId> = self.operators.open.keys().copied().collect();
        let ids = self.ids();
        let random = &mut self.operators.random;
        let again = if random.chance(700) {
            random
                .pick(&open)
                .and_then(|id| self.operators.open.get(&id))
                .map(|open| open.change.clone())
        } else {
            self.operators.last.clone()
        };
        let anyone = self.operators.random.chance(200);
        let at = if anyone {
            self.operators.random.pick(&ids)
        } else {
            self.newest_leader()
        };
        let (Some(change), Some(at)) = (again, at) else {
            return Ok(());
        };
        self.counters.fault(Fault::Retry);
        self.ask(at, change)
    }

    fn change(&mut self, force: bool, removes_leader: bool) -> Checked {
        let Some(leader) = self.newest_leader() else {
            return Ok(());
        };
        let Some(table) = self.table_at(leader) else {
            return Ok(());
        };
        let steps = if removes_leader {
            self.without(&table, RaftId(leader))
        } else {
            self.some_steps(&table)
        };
        if steps.is_empty() {
            return Ok(());
        }
        let id = self.operators.next_change_id();
        let change = MemberChange {
            id,
            steps,
            force,
            if_table: self.operators.random.chance(100).then_some(table.index),
            in_term: self
                .term_of(leader)
                .filter(|_| self.operators.random.chance(100)),
        };
        self.counters.fault(if removes_leader {
            Fault::RemoveLeader
        } else if force {
            Fault::ForcedChange
        } else {
            Fault::Change
        });
        if removes_leader && self.network.has_cuts_from(leader) {
            self.counters
                .situation(Situation::LeaderRemovedWhilePartitioned);
        }
        self.ask(leader, change)
    }

    fn table_at(&self, id: u64) -> Option<std::sync::Arc<MemberTable>> {
        let process = self.members.get(&id)?.process.as_ref()?;
        Some(std::sync::Arc::clone(process.core.table()))
    }

    /// Steps that remove `id`, and bring someone else in if few would be left.
    fn without(&mut self, table: &MemberTable, id: RaftId) -> Vec<MemberStep> {
        let mut steps = vec![MemberStep::Remove { id }];
        if table.voters().count() <= 2 || self.operators.random.chance(300) {
            steps.extend(self.addition(table, MemberRole::Voter));
        }
        steps
    }

    fn addition(&mut self, table: &MemberTable, role: MemberRole) -> Option<MemberStep> {
        let room = table.members.len() < MEMBERS_MAX
            && table.next_id.0 <= self.profile.members + NEW_IDS_MAX;
        let details = format!("at {}", self.operators.random.below(1000)).into();
        room.then_some(MemberStep::Add { role, details })
    }

    fn some_steps(&mut self, table: &MemberTable) -> Vec<MemberStep> {
        let mut steps = Vec::new();
        for (id, member) in &table.members {
            let (id, role) = (*id, member.role);
            let bad = self.is_unsound(id.0);
            let random = &mut self.operators.random;
            match (random.below(14), role) {
                _ if bad && random.chance(500) => steps.push(MemberStep::Remove { id }),
                (0 | 1, MemberRole::Voter) => steps.push(MemberStep::SetRole {
                    id,
                    role: MemberRole::Learner,
                }),
                (0..6, MemberRole::Learner) if !bad => {
                    self.counters.situation(Situation::LearnerPromoted);
                    steps.push(MemberStep::SetRole {
                        id,
                        role: MemberRole::Voter,
                    });
                }
                (6, _) => steps.push(MemberStep::Remove { id }),
                (7, _) => {
                    let details = format!("{id} at {}", random.below(1000)).into();
                    steps.push(MemberStep::SetDetails { id, details });
                }
                _ => {}
            }
        }
        for _ in 0..2 {
            let role = match self.operators.random.below(5) {
                0 => MemberRole::Voter,
                1 | 2 => MemberRole::Learner,
                _ => continue,
            };
            steps.extend(self.addition(table, role));
        }
        steps
    }

    fn ask(&mut self, at: u64, change: MemberChange) -> Checked {
        let Some(table) = self.table_at(at) else {
            return Ok(());
        };
        let voters = voters_after(&table, &change);
        // Operators do not choose a membership that the disks they know to be lost could hold up for ever.
        let sound = voters.iter().filter(|id| !self.is_unsound(**id)).count();
        if voters.is_empty() || sound <= voters.len() / 2 {
            return Ok(());
        }
        let (id, forced) = (change.id, change.force);
        self.history.line(self.now, || {
            format!("change {id} asked of {at}: {change:?}")
        });
        let open = self.operators.open.entry(id).or_insert_with(|| OpenChange {
            change: change.clone(),
            waiting: 0,
            uncertain: false,
            voters: BTreeSet::new(),
        });
        open.waiting += 1;
        open.voters.insert(voters);
        self.operators.last = Some(change.clone());
        self.checks.asked(&change);
        let ticket = self.ticket(at, Asked::Change { change: id, forced });
        self.input(at, Input::ChangeMembers { change, ticket })
    }

    /// Every set of voters whose majority may be needed: of memberships in force somewhere, and of those that changes
    /// under way may bring.
    pub(crate) fn configurations(&self) -> Vec<Vec<u64>> {
        let mut sets: BTreeSet<Vec<u64>> = BTreeSet::new();
        let newest = self.checks.tables().values().next_back();
        let oldest = self
            .members
            .iter()
            .filter(|(id, member)| {
                !member.lost && newest.is_none_or(|it| it.members.contains_key(&RaftId(**id)))
            })
            .map(|(_, member)| member.table_index)
            .min()
            .unwrap_or_default();
        for table in self.checks.tables().range(oldest..).map(|it| it.1) {
            sets.insert(table.voters().map(|id| id.0).collect());
            sets.insert(table.outgoing.iter().map(|id| id.0).collect());
        }
        for (id, open) in &self.operators.open {
            if !self.checks.changes().contains_key(id) {
                sets.extend(open.voters.iter().cloned());
            }
        }
        sets.retain(|set| !set.is_empty());
        sets.into_iter().collect()
    }

    /// Changes whose outcome is not known.
    pub(crate) fn open_changes(&self) -> BTreeSet<ChangeId> {
        let open = self.operators.open.iter();
        open.filter(|(_, open)| open.waiting > 0 || open.uncertain)
            .map(|(id, _)| *id)
            .collect()
    }
}

/// Voters after `change`, new ones under the ids they will get.
fn voters_after(table: &MemberTable, change: &MemberChange) -> Vec<u64> {
    let mut voters: BTreeSet<u64> = table.voters().map(|id| id.0).collect();
    let mut next = table.next_id.0;
    for step in &change.steps {
        match step {
            MemberStep::Add { role, .. } => {
                if *role == MemberRole::Voter {
                    voters.insert(next);
                }
                next += 1;
            }
            MemberStep::SetRole { id, role } => {
                if *role == MemberRole::Voter {
                    voters.insert(id.0);
                } else {
                    voters.remove(&id.0);
                }
            }
            MemberStep::Remove { id } => {
                voters.remove(&id.0);
            }
            MemberStep::SetDetails { .. } => {}
        }
    }
    voters.into_iter().collect()
}
