//! What goes wrong, one thing at a time.

use raft_adapter::{Input, Role};

use crate::{
    checks::Checked,
    disk::Planned,
    event::Event,
    faults::Fault,
    member::{Backup, Member},
    simulation::Simulation,
};

/// Kinds that strike at some moment; the others colour everything else.
const STRIKES: &[Fault] = &[
    Fault::OneWayCut,
    Fault::Partition,
    Fault::Kill,
    Fault::PowerLoss,
    Fault::Blackout,
    Fault::InterruptedOperation,
    Fault::BitFlip,
    Fault::ReadError,
    Fault::WriteError,
    Fault::DiskFull,
    Fault::FailedSync,
    Fault::SlowDisk,
    Fault::OldDisk,
    Fault::Wipe,
    Fault::Pause,
    Fault::OrderlyStop,
    Fault::Compaction,
];

impl Simulation {
    pub(crate) fn trouble(&mut self) -> Checked {
        let delay = self
            .trouble_random
            .between(1, 2 * self.profile.trouble_every);
        self.plan(delay, Event::Trouble);
        if self.ending {
            return Ok(());
        }
        self.mend();
        let strikes = self.profile.of(STRIKES);
        let ids = self.ids();
        let (Some(fault), Some(any)) = (
            self.trouble_random.pick(&strikes),
            self.trouble_random.pick(&ids),
        ) else {
            return Ok(());
        };
        // Leaders and whoever is in a joint configuration are hit more often than their number would have it.
        let leader = self.newest_leader();
        let id = leader
            .filter(|_| self.trouble_random.chance(300))
            .unwrap_or(any);
        self.history.note(&[3, fault as u64, id]);
        self.history.line(self.now, || format!("{fault} at {id}"));
        self.strike(fault, id)
    }

    /// Some of what is broken comes right again by itself.
    fn mend(&mut self) {
        if !self.network.is_whole() && self.trouble_random.chance(250) {
            if self.trouble_random.chance(600) {
                self.network.heal();
            } else {
                self.network.heal_one();
            }
        }
        for member in self.members.values_mut() {
            if self.trouble_random.chance(200) {
                member.disk.plan(|planned| planned.full = false);
            }
            if self.trouble_random.chance(100) {
                member.slow_disk = false;
            }
            let holds_something = member
                .process
                .as_ref()
                .is_some_and(|it| it.core.watermarks().persisted.0 > 0);
            if self.trouble_random.chance(300)
                && holds_something
                && member.is_known()
                && !member.lost
            {
                member.backup = Some(Backup {
                    image: member.disk.image(),
                    applied: member.app_durable,
                });
            }
        }
    }

    /// Some recoveries meet trouble, too.
    pub(crate) fn plan_trouble_at_start(&mut self, id: u64) {
        let random = &mut self.start_random;
        let strikes = self.profile.has(Fault::FailingRecovery) && random.chance(200);
        let Some(member) = self.members.get(&id) else {
            return;
        };
        if !strikes || self.ending {
            return;
        }
        let kind = random.below(4);
        let operations = random.below(4);
        self.counters.fault(Fault::FailingRecovery);
        member.disk.plan_at_start(Planned {
            power_lost_in: (kind == 0).then_some(operations),
            read_error: kind == 1,
            write_error: kind == 2,
            sync_error: kind == 3,
            ..Planned::default()
        });
    }

    fn strike(&mut self, fault: Fault, id: u64) -> Checked {
        let (is_up, is_known) = match self.members.get(&id) {
            Some(member) => (member.is_up(), member.is_known() && !member.lost),
            None => return Ok(()),
        };
        let disk = self.members.get(&id).map(|it| it.disk.clone());
        let Some(disk) = disk else { return Ok(()) };
        let may_be_lost = self.may_be_lost(id);
        let random = &mut self.trouble_random;
        match fault {
            Fault::OneWayCut => {
                let ids: Vec<u64> = self.members.keys().copied().collect();
                if let Some(other) = random.pick(&ids) {
                    self.network.cut(id, other);
                    self.counters.fault(fault);
                }
            }
            Fault::Partition => {
                let side: Vec<(u64, bool)> = self
                    .members
                    .keys()
                    .map(|member| (*member, random.chance(500)))
                    .collect();
                for (from, one) in &side {
                    for (to, other) in &side {
                        if one != other {
                            self.network.cut(*from, *to);
                        }
                    }
                }
                self.counters.fault(fault);
            }
            Fault::Kill if is_up => {
                self.counters.fault(fault);
                self.kill(id)?;
                self.plan_restart(id);
            }
            Fault::PowerLoss if is_up => {
                self.counters.fault(fault);
                self.power_loss(id)?;
            }
            Fault::Blackout => {
                self.counters.fault(fault);
                for id in self.ids() {
                    if self.members.get(&id).is_some_and(Member::is_up) {
                        self.power_loss(id)?;
                    }
                }
            }
            Fault::InterruptedOperation if is_up => {
                let operations = random.below(6);
                disk.plan(|planned| planned.power_lost_in = Some(operations));
            }
            Fault::BitFlip if is_known && may_be_lost && disk.flip_bit() => {
                self.counters.fault(fault);
            }
            Fault::ReadError => disk.plan(|planned| planned.read_error = true),
            Fault::WriteError => disk.plan(|planned| planned.write_error = true),
            Fault::DiskFull => disk.plan(|planned| planned.full = true),
            Fault::FailedSync => disk.plan(|planned| planned.sync_error = true),
            Fault::SlowDisk => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.slow_disk = true;
                    self.counters.fault(fault);
                }
            }
            Fault::OldDisk if is_up && is_known && disk.flips() == 0 => {
                self.return_with_old_disk(id)?;
            }
            Fault::Wipe if is_up && is_known && may_be_lost && self.voters.len() > 1 => {
                self.return_with_empty_disk(id)?;
            }
            Fault::Pause if is_up => {
                let length = random.between(20, 600);
                let until = self.now + length;
                if let Some(member) = self.members.get_mut(&id) {
                    member.paused_until = until;
                    self.counters.fault(fault);
                }
            }
            Fault::OrderlyStop if is_up => {
                self.counters.fault(fault);
                self.input(id, Input::HandOver)?;
                let waits = self
                    .members
                    .get(&id)
                    .and_then(|it| it.process.as_ref())
                    .is_some_and(|it| it.core.status().role == Role::Leader);
                // A leader waits for its successor; here it dies at some time all the same.
                if !waits {
                    self.kill(id)?;
                    self.plan_restart(id);
                }
            }
            Fault::Compaction if is_up => {
                self.counters.fault(fault);
                self.compact(id)?;
            }
            _ => {}
        }
        let (faults, situations) = disk.take_counts();
        faults.into_iter().for_each(|it| self.counters.fault(it));
        situations
            .into_iter()
            .for_each(|it| self.counters.situation(it));
        Ok(())
    }

    /// Whether the consortium could bear to lose the disk of `id` for ever: in every configuration that is or may come in
    /// force, a majority of whole disks is left.
    pub(crate) fn may_be_lost(&self, id: u64) -> bool {
        let bad = |member: u64| member == id || self.is_unsound(member);
        self.configurations().iter().all(|voters| {
            let sound = voters.iter().filter(|voter| !bad(**voter)).count();
            sound > voters.len() / 2
        })
    }

    /// Its disk is lost, damaged or behind.
    pub(crate) fn is_unsound(&self, id: u64) -> bool {
        self.members.get(&id).is_some_and(|member| {
            let behind = member
                .process
                .as_ref()
                .is_some_and(|it| it.core.status().behind_own_promises.is_some());
            member.lost || !member.is_known() || member.disk.flips() > 0 || behind
        })
    }
}
