//! What a member's log thread and its application do in their own time.

use raft_adapter::{Input, LogIndex};

use crate::{
    checks::{Checked, manifest, violated},
    event::Event,
    faults::Situation,
    simulation::Simulation,
};

impl Simulation {
    /// The log thread takes what waits: writes some of it, and usually syncs and reports.
    pub(crate) fn disk_works(&mut self, id: u64, epoch: u64) -> Checked {
        let (count, syncs) = (self.random.between(1, 4), self.random.chance(800));
        let sync_first = self.random.chance(500);
        let Some(process) = self.current(id, epoch) else {
            return Ok(());
        };
        process.disk_is_scheduled = false;
        let mut outcome = Ok(());
        for _ in 0..count {
            let Some((persist, term)) = process.writes.pop_front() else {
                break;
            };
            outcome = process.writer.write(&persist.batch);
            if outcome.is_err() {
                break;
            }
            process
                .written
                .push((persist.write, persist.then_send, term));
        }
        let idle = process.writes.is_empty();
        let mut done = Vec::new();
        if outcome.is_ok() && (syncs || idle) {
            outcome = process.writer.barrier();
            if outcome.is_ok() {
                done = std::mem::take(&mut process.written);
            }
        }
        if let Err(fatal) = outcome {
            let again = process.writer.barrier();
            if again != Err(fatal.clone()) {
                return violated(
                    "a failed disk stays failed",
                    format!("member {id}: {fatal}, then {again:?}"),
                );
            }
            return self.process_failed(id, &fatal);
        }
        self.schedule_disk(id);
        let Some((write, _, term)) = done.last().map(|it| (it.0, (), it.2)) else {
            return Ok(());
        };
        let mut released = Vec::new();
        for (_, then_send, _) in done {
            released.extend(then_send);
        }
        if let Some(process) = self.current(id, epoch) {
            process.durable_term = process.durable_term.max(term);
        }
        self.prove(id)?;
        if sync_first {
            self.input(id, Input::Persisted { write })?;
            self.send_all(id, released)
        } else {
            self.send_all(id, released)?;
            self.input(id, Input::Persisted { write })
        }
    }

    /// Proposals in terms that are durable now count.
    pub(crate) fn prove(&mut self, id: u64) -> Checked {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let durable = member.process.as_ref().map_or(0, |it| it.durable_term);
        let proven = member.unproven.extract_if(.., |it| it.1 <= durable);
        let proven: Vec<_> = proven.collect();
        proven
            .into_iter()
            .try_for_each(|(index, term, digest)| self.checks.proposed(index, term, digest))
    }

    pub(crate) fn schedule_disk(&mut self, id: u64) {
        let slow = self.members.get(&id).is_some_and(|it| it.slow_disk);
        let delay = if slow && !self.ending {
            self.random.between(5, 120)
        } else {
            self.random.between(1, 6)
        };
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let epoch = member.epoch;
        let Some(process) = member.process() else {
            return;
        };
        if process.disk_is_scheduled || (process.writes.is_empty() && process.written.is_empty()) {
            return;
        }
        process.disk_is_scheduled = true;
        self.plan(delay, Event::Disk { id, epoch });
    }

    pub(crate) fn schedule_apply(&mut self, id: u64) {
        let delay = self.random.between(1, 15);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let epoch = member.epoch;
        let Some(process) = member.process() else {
            return;
        };
        if process.apply_is_scheduled || process.inbox.is_empty() {
            return;
        }
        process.apply_is_scheduled = true;
        self.plan(delay, Event::Apply { id, epoch });
    }

    /// The application takes some deliveries.
    pub(crate) fn apply(&mut self, id: u64, epoch: u64) -> Checked {
        let count = self.random.between(1, 4);
        let keeps = self.random.chance(300);
        let Some(process) = self.current(id, epoch) else {
            return Ok(());
        };
        process.apply_is_scheduled = false;
        for _ in 0..count {
            let Some(process) = self.current(id, epoch) else {
                return Ok(());
            };
            let Some(delivery) = process.inbox.pop_front() else {
                break;
            };
            let index = delivery.index().0;
            process.applied = index;
            let own = process.in_log.remove(&index);
            self.history.note(&[6, id, index]);
            self.history
                .line(self.now, || format!("{id} applies {index}"));
            if let raft_adapter::Delivery::Snapshot(snapshot) = &delivery {
                self.counters.situation(Situation::SnapshotInstalled);
                let newest = self.checks.tables().values().next_back();
                if snapshot.table.is_joint() || newest.is_some_and(|it| it.is_joint()) {
                    self.counters.situation(Situation::SnapshotDuringJoint);
                }
            }
            self.checks.deliver(id, &delivery)?;
            if let (Some((term, content)), raft_adapter::Delivery::Entry(entry)) = (own, &delivery)
                && entry.term.0 == term
            {
                self.checks.acknowledge(index, term, content)?;
            }
            self.input(
                id,
                Input::Applied {
                    index: LogIndex(index),
                },
            )?;
        }
        if keeps && let Some(member) = self.members.get_mut(&id) {
            let applied = member.process.as_ref().map_or(0, |it| it.applied);
            member.app_durable = member.app_durable.max(applied);
        }
        self.schedule_apply(id);
        Ok(())
    }

    /// The application of `id` lets go of what it holds durably.
    pub(crate) fn compact(&mut self, id: u64) -> Checked {
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(());
        };
        let up_to = member.app_durable;
        if up_to == 0 || !member.is_up() || !member.is_known() {
            return Ok(());
        }
        let Some(chain) = self.checks.chain(up_to) else {
            return Ok(());
        };
        let joint = self
            .checks
            .tables()
            .range(..=up_to)
            .next_back()
            .is_some_and(|(_, table)| table.is_joint());
        if joint {
            self.counters.situation(Situation::CompactionAtJoint);
        }
        self.input(
            id,
            Input::Compact {
                up_to: LogIndex(up_to),
                manifest: manifest(up_to, chain).into(),
            },
        )
    }
}
