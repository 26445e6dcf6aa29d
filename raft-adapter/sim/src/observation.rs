//! What is seen of a member after each step, what it answers, and how it ends.

use raft_adapter::{Answer, ChangeError, Fatal, ProposeOutcome, Role, Ticket};

use crate::{
    checks::{Checked, violated},
    faults::Situation,
    member::{Asked, Member},
    simulation::Simulation,
};

impl Simulation {
    pub(crate) fn look_at(&mut self, id: u64) -> Checked {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let known = member.is_known();
        let table_before = member.table_index;
        let window = member.config.delivery_entries_max as usize;
        let Some(process) = member.process() else {
            return Ok(());
        };
        if process.unflushed {
            return Ok(());
        }
        let status = process.core.status();
        if process.inbox.len() > window {
            return violated("deliveries have a limit", format!("member {id}"));
        }
        if process.core.holds_back() {
            self.counters.situation(Situation::DeliveriesHeldBack);
        }
        if status.last_index.0 < process.last_index {
            self.counters.situation(Situation::EntriesReplaced);
        }
        process.last_index = status.last_index.0;
        let behind = status.behind_own_promises.is_some();
        if behind != process.was_behind {
            process.was_behind = behind;
            self.counters.situation(if behind {
                Situation::OldDiskNoticed
            } else {
                Situation::OldDiskRecovered
            });
        }
        let table = &status.table;
        let joint_left = known && table.index.0 > table_before && !table.is_joint();
        if joint_left
            && let Some(before) = self.checks.tables().get(&table_before)
            && before.is_joint()
            && before.recent.last().is_some_and(|it| it.term < status.term)
            && status.role == Role::Leader
        {
            self.counters.situation(Situation::JointFinishedByNewLeader);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.table_index = table.index.0;
        }
        self.history.note(&[
            id,
            status.term.0,
            status.last_index.0,
            status.committed.0,
            status.applied.0,
            status.table.index.0,
        ]);
        if !known {
            // It is a stranger to all others; what it does by itself means nothing, unless it leads.
            return if status.role == Role::Leader {
                violated("a lost log leads nobody", format!("member {id}"))
            } else {
                Ok(())
            };
        }
        if status.role == Role::Leader {
            if self.leading.insert(id, status.term.0) != Some(status.term.0) {
                self.history
                    .line(self.now, || format!("{id} leads in term {}", status.term));
            }
            if self.leading.len() > 1 {
                self.counters.situation(Situation::TwoLeaders);
            }
        } else if self.leading.remove(&id).is_some() {
            if status.removed || !status.voters.contains(&status.id) {
                self.counters.situation(Situation::LeaderRemoved);
            }
            self.history.line(self.now, || {
                format!("{id} leads no longer, term {}", status.term)
            });
        }
        let process = self.members.get(&id).and_then(|it| it.process.as_ref());
        match process {
            // A sole voter leads by its own vote alone. Until that is durable nobody hears of it, and nothing of it need last.
            Some(process)
                if status.role == Role::Leader && process.durable_term < status.term.0 =>
            {
                Ok(())
            }
            Some(process) => self.checks.step(&process.core, &status),
            None => Ok(()),
        }
    }

    pub(crate) fn answered(&mut self, id: u64, ticket: Ticket, answer: Answer) -> Checked {
        let Some(process) = self.members.get_mut(&id).and_then(Member::process) else {
            return Ok(());
        };
        let Some(asked) = process.tickets.remove(&ticket.0) else {
            return violated(
                "a ticket is answered once",
                format!("member {id}: ticket {ticket}"),
            );
        };
        match (asked, answer) {
            (
                Asked::Proposal { digest },
                Answer::Propose(ProposeOutcome::Appended { index, term }),
            ) => {
                process.in_log.insert(index.0, (term.0, digest));
                if process.durable_term >= term.0 {
                    return self.checks.proposed(index.0, term.0, digest);
                }
                if let Some(member) = self.members.get_mut(&id) {
                    member.unproven.push((index.0, term.0, digest));
                }
                Ok(())
            }
            (Asked::Proposal { .. }, Answer::Propose(ProposeOutcome::Refused(_))) => Ok(()),
            (Asked::Transfer, Answer::Transfer(outcome)) => {
                if outcome.is_ok() {
                    self.counters.situation(Situation::TransferDone);
                }
                Ok(())
            }
            (Asked::Change { change, forced }, Answer::Change(outcome)) => {
                self.history
                    .line(self.now, || format!("change {change} at {id}: {outcome:?}"));
                match outcome {
                    Ok(done) => {
                        if self.checks.done(id, &done)? {
                            self.counters.situation(Situation::AnsweredFromHistory);
                        } else if forced {
                            self.counters.situation(Situation::ForcedChangeDone);
                        }
                        self.operators.done(change);
                        Ok(())
                    }
                    Err(error) => {
                        match error {
                            ChangeError::LeadershipLost | ChangeError::Stopped => {
                                self.checks.uncertain(change);
                            }
                            ChangeError::QuorumAtRisk { .. } => {
                                self.counters.situation(Situation::QuorumAtRisk);
                            }
                            _ => {}
                        }
                        self.operators.refused(change, &error);
                        Ok(())
                    }
                }
            }
            (asked, answer) => violated(
                "an answer fits its question",
                format!("member {id}: {asked:?} is answered with {answer:?}"),
            ),
        }
    }

    /// A process came to its end by itself.
    pub(crate) fn process_failed(&mut self, id: u64, fatal: &Fatal) -> Checked {
        self.history
            .line(self.now, || format!("{id} ends: {fatal}"));
        let Some(member) = self.members.get(&id) else {
            return Ok(());
        };
        if member.disk.power_lost() {
            return self.power_loss(id);
        }
        let excused = match fatal {
            Fatal::Disk { .. } => member.disk.errors() > 0,
            Fatal::Damaged(_) => member.disk.flips() > 0,
            Fatal::LogLost { .. } => member.expects_log_lost,
            Fatal::Panicked { .. }
            | Fatal::Impossible { .. }
            | Fatal::ApplicationGone
            | Fatal::ThreadGone { .. } => false,
        };
        if !excused {
            return violated(
                "a process ends only for a reason",
                format!("member {id}: {fatal}"),
            );
        }
        self.counters.situation(match fatal {
            Fatal::Damaged(_) => Situation::DamageMetRunning,
            Fatal::LogLost { .. } => Situation::LogLost,
            Fatal::Disk {
                operation: "syncing",
                ..
            } => Situation::StoppedBySync,
            _ => Situation::StoppedByDisk,
        });
        self.kill(id)?;
        self.plan_restart(id);
        Ok(())
    }
}
