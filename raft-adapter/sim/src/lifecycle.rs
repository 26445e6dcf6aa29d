//! Processes start, die and come back; disks go back in time or are lost.

use std::sync::Arc;

use raft_adapter::{Core, Input, LogIndex, OpenError, RaftId, Role};

use crate::{
    checks::{Checked, violated},
    disk::Losses,
    event::Event,
    faults::{Fault, Situation},
    member::{Asked, KNOWN_IDENTITY, Member, Process, Promise},
    simulation::Simulation,
};

impl Simulation {
    /// Starts the process of `id` on its disk. It may not come up, for a reason.
    pub(crate) fn start(&mut self, id: u64) -> Checked {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        if member.is_up() || (member.lost && member.is_known()) {
            return Ok(());
        }
        member.disk.begin();
        let applied = member.app_durable;
        let disk = Arc::new(member.disk.clone());
        let opened = Core::open(member.config.clone(), disk, LogIndex(applied));
        let cut = member.disk.durable_was_cut();
        if member.disk.torn_tail_was_cut() {
            self.counters.situation(Situation::TornTailCut);
        }
        let core = match opened {
            Ok(core) => core,
            Err(error) => return self.refused_to_start(id, &error),
        };
        let flips = member.disk.flips();
        let status = core.status();
        let promised = member.promised;
        let term_there = core.entry_term(LogIndex(promised.last)).map(|term| term.0);
        let keeps_entry = status.first_index.0 > promised.last
            || promised.last_term.is_none()
            || term_there == promised.last_term;
        let keeps = status.last_index.0 >= promised.last
            && keeps_entry
            && status.term.0 >= promised.term
            && !cut;
        let was = (status.last_index.0, status.term.0);
        // Of what was not durable a crash leaves something or nothing; whatever there is now stays.
        let unproven = std::mem::take(&mut member.unproven);
        for (index, term, digest) in unproven {
            if core.entry_term(LogIndex(index)).map(|term| term.0) == Some(term) {
                self.checks.proposed(index, term, digest)?;
            }
        }
        let kept = member.is_known().then_some(keeps);
        member.epoch += 1;
        member.process = Some(Process::new(core, &member.disk, applied));
        let (epoch, every) = (member.epoch, member.tick_every);
        if kept.is_some() {
            self.checks.started(id, applied);
        }
        self.history.note(&[1, id, was.0, was.1]);
        self.history.line(self.now, || {
            format!(
                "{id} starts with log to {}, term {}, applied {applied}",
                was.0, was.1
            )
        });
        if kept == Some(false) {
            if flips == 0 {
                return violated(
                    "recovery keeps what was durable",
                    format!(
                        "member {id}: log to {} of term {term_there:?} and term {}, promised {promised:?}, cut {cut}",
                        was.0, was.1
                    ),
                );
            }
            // Damage at the very end cannot be told from a torn tail: the disk is older than the member's word.
            self.counters.situation(Situation::DamageTakenForTornTail);
            if was.0 == 0 {
                // Nothing is left of it.
                return self.give_up(id);
            }
            self.reintroduce(id)?;
        } else if flips > 0 {
            self.counters.situation(Situation::DamageSurvived);
        }
        let Some(process) = self.members.get_mut(&id).and_then(Member::process) else {
            return Ok(());
        };
        let mut out = Vec::new();
        if let Err(fatal) = process.core.flush(&mut out) {
            return violated(
                "a process ends only for a reason",
                format!("member {id} at its start: {fatal}"),
            );
        }
        let delay = self.random.between(1, every);
        self.plan(delay, Event::Tick { id, epoch });
        self.settle(id, out)
    }

    fn refused_to_start(&mut self, id: u64, error: &OpenError) -> Checked {
        self.history
            .line(self.now, || format!("{id} does not start: {error}"));
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        if member.disk.power_lost() {
            self.counters.situation(Situation::InterruptedRecovery);
            return self.power_loss(id);
        }
        let flips = member.disk.flips();
        match error {
            OpenError::Io { .. } if member.disk.errors() > 0 => {
                self.counters.situation(Situation::FailedRecovery);
                self.plan_restart(id);
            }
            OpenError::Damaged(_) if flips > 0 => {
                self.counters.situation(Situation::DamageRefused);
                member.lost = true;
            }
            OpenError::LogBehindApplication { .. } if flips > 0 => {
                self.counters.situation(Situation::LogBehindApplication);
                member.lost = true;
            }
            _ => {
                return violated("a whole log opens", format!("member {id}: {error}"));
            }
        }
        Ok(())
    }

    pub(crate) fn plan_restart(&mut self, id: u64) {
        let delay = self.random.between(5, 400);
        self.plan(delay, Event::Start { id });
    }

    /// The process ends; the system keeps what it wrote.
    pub(crate) fn kill(&mut self, id: u64) -> Checked {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let Some(process) = member.process.take() else {
            return Ok(());
        };
        member.epoch += 1;
        member.paused_until = 0;
        let known = member.is_known();
        let status = process.core.status();
        let last = status.persisted;
        member.promised = Promise {
            last: last.0,
            last_term: process.core.entry_term(last).map(|term| term.0),
            term: process.durable_term,
            leader: status.leader.map(|leader| leader.0),
        };
        if status.behind_own_promises.is_some() {
            self.counters.situation(Situation::OldDiskDiedBehind);
        }
        if status.role == Role::Leader && status.table.is_joint() {
            self.counters.situation(Situation::LeaderDiedInJoint);
        }
        for asked in process.tickets.values() {
            if let Asked::Change { change, .. } = asked {
                self.checks.uncertain(*change);
                self.operators.unanswered(*change);
            }
        }
        self.forget_leader(id);
        self.history.note(&[2, id]);
        self.history.line(self.now, || format!("{id} is gone"));
        if known {
            self.checks.ended(&process.core, &status);
        }
        Ok(())
    }

    /// The machine of `id` loses power.
    pub(crate) fn power_loss(&mut self, id: u64) -> Checked {
        self.kill(id)?;
        let losses = Losses {
            writes: self.profile.has(Fault::LostWrites),
            sectors: self.profile.has(Fault::TornSectors),
            names: self.profile.has(Fault::LostDirectoryEntries),
        };
        if let Some(member) = self.members.get(&id) {
            member.disk.lose_power(losses);
            let (faults, situations) = member.disk.take_counts();
            faults.into_iter().for_each(|it| self.counters.fault(it));
            situations
                .into_iter()
                .for_each(|it| self.counters.situation(it));
        }
        self.plan_restart(id);
        Ok(())
    }

    /// A leader that knows all that `id`, which is down, ever acknowledged and that others may count on.
    pub(crate) fn remembering_leader(&self, id: u64) -> Option<u64> {
        let promised = self.members.get(&id)?.promised;
        let leader = self.newest_leader()?;
        let member = self.members.get(&leader)?;
        if promised.leader != Some(leader) || member.paused_until > self.now {
            return None;
        }
        let status = member.process.as_ref()?.core.status();
        let newest = self
            .members
            .values()
            .filter_map(|it| it.process.as_ref())
            .map(|it| it.core.status().term)
            .max()?;
        let matched = status.peers.iter().find(|peer| peer.id == RaftId(id))?;
        (status.term == newest
            && status.term.0 == promised.term
            && status.role == Role::Leader
            && promised.last > 0
            && matched.matched.0 >= promised.last)
            .then_some(leader)
    }

    /// `id` runs on a disk that lacks something it promised. It is safe only because the first to speak to it is a leader
    /// that remembers; without one, the operator gives the member up.
    pub(crate) fn reintroduce(&mut self, id: u64) -> Checked {
        self.checks.disk_went_back();
        // Whatever it sent in its former life went with its connections.
        if let Some(member) = self.members.get_mut(&id) {
            member.connection += 1;
        }
        let Some(leader) = self.remembering_leader(id) else {
            return self.give_up(id);
        };
        self.intercepted = Some((leader, id, Vec::new()));
        for _ in 0..2 {
            self.input(leader, Input::Tick)?;
        }
        let heard = self.intercepted.take().map(|it| it.2).unwrap_or_default();
        let still_leads = self.leaders().contains(&leader);
        if heard.is_empty() || !still_leads {
            return self.give_up(id);
        }
        for message in heard {
            let from = RaftId(leader);
            self.input(id, Input::Received { from, message })?;
        }
        self.settle_reintroduced(id)
    }

    /// What the member noticed must be on its disk before it can be left to chance: if it dies first, it knows no more
    /// than before, and nobody may be there to tell it again.
    fn settle_reintroduced(&mut self, id: u64) -> Checked {
        for _ in 0..20 {
            let Some(member) = self.members.get(&id) else {
                return Ok(());
            };
            let Some(process) = &member.process else {
                return self.give_up(id);
            };
            if process.writes.is_empty() && process.written.is_empty() {
                return Ok(());
            }
            let epoch = member.epoch;
            self.disk_works(id, epoch)?;
        }
        self.give_up(id)
    }

    /// The member never takes part again; it may be replaced.
    pub(crate) fn give_up(&mut self, id: u64) -> Checked {
        self.kill(id)?;
        if let Some(member) = self.members.get_mut(&id) {
            member.lost = true;
        }
        self.history.line(self.now, || format!("{id} is given up"));
        Ok(())
    }

    /// The disk of `id` is replaced by what it was when the last backup was taken.
    pub(crate) fn return_with_old_disk(&mut self, id: u64) -> Checked {
        let Some(backup) = self.members.get_mut(&id).and_then(|it| it.backup.take()) else {
            return Ok(());
        };
        self.kill(id)?;
        if self.remembering_leader(id).is_none() {
            self.plan_restart(id);
            return Ok(());
        }
        self.counters.fault(Fault::OldDisk);
        self.checks.disk_went_back();
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        member.disk.restore(&backup.image);
        member.connection += 1;
        let promised = member.promised;
        let held = member.app_durable;
        let config = member.config.clone();
        member.disk.begin();
        // First with the application's newer data, as when only one of two disks is replaced.
        let disk = Arc::new(member.disk.clone());
        match Core::open(config, disk, LogIndex(held)) {
            Err(OpenError::LogBehindApplication { .. }) => {
                self.counters.situation(Situation::LogBehindApplication);
            }
            Ok(core) if core.status().last_index.0 >= held => {}
            Ok(core) => {
                let last = core.status().last_index;
                return violated(
                    "a log behind its application is refused",
                    format!("member {id}: log to {last}, applied {held}"),
                );
            }
            Err(error) => return violated("a whole log opens", format!("member {id}: {error}")),
        }
        member.app_durable = backup.applied;
        member.promised = Promise::default();
        self.start(id)?;
        if let Some(member) = self.members.get_mut(&id) {
            member.promised = promised;
        }
        self.reintroduce(id)?;
        // Most is at stake if whoever remembers is gone right after.
        if let Some(leader) = self.newest_leader().filter(|leader| *leader != id)
            && self.trouble_random.chance(500)
        {
            self.kill(leader)?;
            self.plan_restart(leader);
        }
        Ok(())
    }

    /// The disk of `id` is replaced by an empty one, and somebody starts the member all the same.
    pub(crate) fn return_with_empty_disk(&mut self, id: u64) -> Checked {
        self.kill(id)?;
        let told = self.remembering_leader(id).is_some();
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        self.counters.fault(Fault::Wipe);
        member.disk.wipe();
        member.app_durable = 0;
        member.backup = None;
        member.connection += 1;
        let promised = std::mem::take(&mut member.promised);
        if !told {
            // As the peers' check of the log's identity has it: nobody talks to it.
            member.lost = true;
            member.identity = KNOWN_IDENTITY + 1;
            return self.start(id);
        }
        member.expects_log_lost = true;
        self.start(id)?;
        if let Some(member) = self.members.get_mut(&id) {
            member.promised = promised;
        }
        self.reintroduce(id)?;
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let ended = !member.is_up();
        // Entries that the leader made before it heard the acknowledgement fit into an empty log, and tell nothing: the network's
        // check of the log's identity must stand against this member. A manifest that comes first has to tell.
        let brought_back = member.process.as_ref().is_some_and(|process| {
            let status = process.core.status();
            status.first_index.0 <= 1 && status.last_index.0 >= promised.last
        });
        member.lost = true;
        member.expects_log_lost = false;
        if brought_back {
            member.identity = KNOWN_IDENTITY + 1;
        }
        if ended || brought_back {
            Ok(())
        } else {
            violated("a lost log ends its member", format!("member {id} goes on"))
        }
    }
}
