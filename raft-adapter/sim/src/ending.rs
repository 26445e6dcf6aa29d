//! How a run ends: what is broken is healed, in whole or only for a quorum, and then it must go on.

use raft_adapter::{RaftId, Role, Status};

use crate::{
    checks::{Checked, Violation, violated},
    faults::Situation,
    member::TICK,
    simulation::Simulation,
};

/// Ticks after which whoever can go on must have gone on. An election takes two to four timeouts of ten ticks at most; a
/// joint membership whose leader is leaving tries its successors one after another.
const PATIENCE_TICKS: u64 = 1500;
/// A proposal is tried this often.
const PROPOSE_EVERY_TICKS: u64 = 10;

impl Simulation {
    /// Heals, and waits until what must work works.
    pub(crate) fn end(&mut self) -> Checked {
        self.ending = true;
        self.network.calm();
        let frozen = if self.profile.freezes {
            self.choose_frozen()
        } else {
            Vec::new()
        };
        let joint = self
            .checks
            .tables()
            .values()
            .next_back()
            .is_some_and(|table| table.is_joint());
        self.history
            .line(self.now, || format!("the end begins; frozen {frozen:?}"));
        if self.profile.freezes && frozen.is_empty() {
            self.profile.freezes = false;
        }
        self.heal_all_but(&frozen)?;
        if !self.quorum_is_whole(&frozen) {
            self.counters.situation(Situation::NoQuorumLeft);
            return self.checks.refusals(&self.open_changes());
        }
        self.must_go_on(&frozen)?;
        if !frozen.is_empty() {
            self.counters.situation(Situation::WentOnWithoutFrozen);
        }
        if joint {
            self.counters.situation(Situation::JointAtTheEnd);
        }
        self.checks.refusals(&self.open_changes())
    }

    /// As many as can be missed in every configuration that may matter, in a random order.
    fn choose_frozen(&mut self) -> Vec<u64> {
        let mut ids = self.ids();
        self.random.shuffle(&mut ids);
        let mut frozen = Vec::new();
        for id in ids {
            let can_be_missed = !self.is_unsound(id) && {
                frozen.push(id);
                let whole = self.quorum_is_whole(&frozen);
                frozen.pop();
                whole
            };
            if can_be_missed {
                frozen.push(id);
            }
        }
        frozen
    }

    fn quorum_is_whole(&self, frozen: &[u64]) -> bool {
        self.configurations().iter().all(|voters| {
            let sound = voters
                .iter()
                .filter(|id| !frozen.contains(id) && !self.is_unsound(**id))
                .count();
            sound > voters.len() / 2
        })
    }

    fn heal_all_but(&mut self, frozen: &[u64]) -> Checked {
        let ids = self.ids();
        self.network.heal();
        for id in frozen {
            if let Some(member) = self.members.get_mut(id) {
                member.frozen = true;
            }
            // Down, deaf, mute, both, or only half there.
            let fate = self.random.below(5);
            if fate == 0 {
                self.kill(*id)?;
            }
            for other in &ids {
                if fate == 1 || fate == 3 || (fate == 4 && self.random.chance(500)) {
                    self.network.cut(*other, *id);
                }
                if fate == 2 || fate == 3 || (fate == 4 && self.random.chance(500)) {
                    self.network.cut(*id, *other);
                }
            }
        }
        for id in ids {
            if frozen.contains(&id) {
                continue;
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.paused_until = 0;
                member.slow_disk = false;
                member.disk.repair();
            }
            self.start(id)?;
        }
        Ok(())
    }

    fn must_go_on(&mut self, frozen: &[u64]) -> Checked {
        let began = self.now;
        let mut next_proposal = self.now;
        let mut payload = None;
        loop {
            let ticks = (self.now - began) / TICK;
            if ticks > PATIENCE_TICKS {
                let picture = self.picture();
                return violated(
                    "a whole quorum goes on",
                    format!("not within {PATIENCE_TICKS} ticks; frozen {frozen:?}\n{picture}"),
                );
            }
            if self.now >= next_proposal {
                next_proposal = self.now + PROPOSE_EVERY_TICKS * TICK;
                self.start_new_members(1000)?;
                if self.has_converged(frozen, payload)? {
                    return Ok(());
                }
                // A frozen member may lead, as long as a majority hears it and is heard.
                // More of them, too, until a member with an older disk is past all that it ever acknowledged.
                if let Some(leader) = self.newest_leader() {
                    let proposed = self.propose(leader)?;
                    let waits = payload.is_none_or(|payload| !self.checks.holds_payload(payload));
                    payload = if waits { Some(proposed) } else { payload };
                }
            }
            if !self.advance()? {
                return Ok(());
            }
        }
    }

    /// The payload is applied by everyone who can, the membership is the same and joint no more.
    fn has_converged(&self, frozen: &[u64], payload: Option<u64>) -> Result<bool, Violation> {
        let Some(payload) = payload.filter(|payload| self.checks.holds_payload(*payload)) else {
            return Ok(false);
        };
        let Some(leader) = self.newest_leader() else {
            return Ok(false);
        };
        let Some(status) = self.status(leader) else {
            return Ok(false);
        };
        let table = &status.table;
        if table.is_joint() || status.role != Role::Leader {
            return Ok(false);
        }
        let applied = self.checks.applied();
        let everyone = table.members.keys().all(|id| {
            let unheard = self.network.is_cut(leader, id.0) || self.network.is_cut(id.0, leader);
            if frozen.contains(&id.0) || self.is_given_up(id.0) || unheard {
                return true;
            }
            self.status(id.0).is_some_and(|it| {
                it.applied.0 == applied && it.table == *table && it.behind_own_promises.is_none()
            })
        });
        // The search for the payload is bounded by what was applied.
        Ok(everyone && payload != 0)
    }

    /// Lost, or on a disk that will not start.
    fn is_given_up(&self, id: u64) -> bool {
        self.members
            .get(&id)
            .is_some_and(|it| it.lost || !it.is_known() || (it.disk.flips() > 0 && !it.is_up()))
    }

    fn status(&self, id: u64) -> Option<Status> {
        let process = self.members.get(&id)?.process.as_ref()?;
        Some(process.core.status())
    }

    /// Everyone, in a few words each.
    pub(crate) fn picture(&self) -> String {
        let lines = self.members.iter().map(|(id, member)| {
            let standing = if member.lost {
                " lost"
            } else if member.frozen {
                " frozen"
            } else {
                ""
            };
            match self.status(*id) {
                None => format!("  {id}{standing} down, promised {:?}\n", member.promised),
                Some(status) => {
                    let table = &status.table;
                    let votes: Vec<RaftId> = table.voters().collect();
                    format!(
                        "  {id}{standing} {} term {} applied {} committed {} last {} table {} voters {votes:?} outgoing {:?} behind {:?} removed {} leader {:?}\n",
                        status.role,
                        status.term,
                        status.applied,
                        status.committed,
                        status.last_index,
                        table.index,
                        table.outgoing,
                        status.behind_own_promises,
                        status.removed,
                        status.leader,
                    )
                }
            }
        });
        lines.collect()
    }
}
