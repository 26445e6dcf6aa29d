//! The loop: takes the next event, lets it happen, and has everything checked.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use bytes::Bytes;
use raft_adapter::{
    Answer, ChangeError, Fatal, Input, LogIndex, Output, Proposal, ProposeOutcome, RaftId, Role,
    Term, Ticket,
};

use crate::{
    checks::{Checked, Checks, Violation, manifest, violated},
    faults::{Counters, Fault, Situation},
    history::History,
    member::{Asked, KNOWN_IDENTITY, Member, Process},
    message::described,
    network::{Network, Packet},
    operators::Operators,
    options::Options,
    profile::Profile,
    random::{Random, digest},
};

/// What may happen at some time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Tick { id: u64, epoch: u64 },
    Disk { id: u64, epoch: u64 },
    Apply { id: u64, epoch: u64 },
    Arrive(Packet),
    Client,
    Trouble,
    Operator,
    Start { id: u64 },
}

impl Event {
    /// Who has to be awake for it.
    fn member(&self) -> Option<u64> {
        match self {
            Self::Tick { id, .. } | Self::Disk { id, .. } | Self::Apply { id, .. } => Some(*id),
            Self::Arrive(packet) => Some(packet.to),
            Self::Client | Self::Trouble | Self::Operator | Self::Start { .. } => None,
        }
    }
}

struct Scheduled {
    at: u64,
    /// Events of one moment happen in the order in which they were planned.
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// All members and everything around them.
pub(crate) struct Simulation {
    pub(crate) options: Options,
    pub(crate) profile: Profile,
    pub(crate) voters: Vec<u64>,
    pub(crate) now: u64,
    pub(crate) steps: u64,
    planned: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) network: Network,
    pub(crate) operators: Operators,
    pub(crate) checks: Checks,
    pub(crate) counters: Counters,
    pub(crate) history: History,
    /// For schedules: who, when, how much.
    pub(crate) random: Random,
    pub(crate) client_random: Random,
    pub(crate) trouble_random: Random,
    /// For what recoveries meet.
    pub(crate) start_random: Random,
    next_ticket: u64,
    payloads: u64,
    /// Messages from the first member to the second are kept here instead of being sent.
    pub(crate) intercepted: Option<(u64, u64, Vec<Bytes>)>,
    /// The end has begun: nothing more goes wrong.
    pub(crate) ending: bool,
    leading: BTreeMap<u64, u64>,
}

impl Simulation {
    pub(crate) fn new(options: &Options) -> Result<Self, Violation> {
        let seed = options.seed;
        let profile = Profile::draw(options);
        let voters: Vec<u64> = (1..=profile.members).collect();
        let mut simulation = Self {
            options: options.clone(),
            voters: voters.clone(),
            now: 0,
            steps: 0,
            planned: 0,
            queue: BinaryHeap::new(),
            members: BTreeMap::new(),
            network: Network::new(seed),
            operators: Operators::new(seed),
            checks: Checks::default(),
            counters: Counters::default(),
            history: History::new(options.trace),
            random: Random::new(seed, 3),
            client_random: Random::new(seed, 4),
            trouble_random: Random::new(seed, 5),
            start_random: Random::new(seed, 7),
            next_ticket: 0,
            payloads: 0,
            intercepted: None,
            ending: false,
            leading: BTreeMap::new(),
            profile,
        };
        for id in voters {
            simulation.add_member(id)?;
        }
        simulation.plan(1, Event::Client);
        simulation.plan(200, Event::Trouble);
        simulation.plan(300, Event::Operator);
        Ok(simulation)
    }

    pub(crate) fn add_member(&mut self, id: u64) -> Checked {
        let mut member = Member::new(self.options.seed, id, &self.voters);
        if self.profile.has(Fault::ClockSkew) {
            let period = member.tick_every;
            member.tick_every = self.random.between(period * 7 / 10, period * 14 / 10);
            self.counters.fault(Fault::ClockSkew);
        }
        if self.profile.has(Fault::SlowDisk) && self.random.chance(300) {
            member.slow_disk = true;
            self.counters.fault(Fault::SlowDisk);
        }
        self.members.insert(id, member);
        self.start(id)
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    pub(crate) fn plan(&mut self, delay: u64, event: Event) {
        self.planned += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + delay,
            number: self.planned,
            event,
        }));
    }

    /// Lets the next event happen. False if there is none.
    pub(crate) fn advance(&mut self) -> Result<bool, Violation> {
        let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else {
            return Ok(false);
        };
        self.now = at;
        self.steps += 1;
        if let Some(id) = event.member()
            && let Some(member) = self.members.get(&id)
            && member.paused_until > at
            && member.is_up()
        {
            let delay = member.paused_until - at;
            self.plan(delay, event);
            return Ok(true);
        }
        self.happen(event)?;
        Ok(true)
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Tick { id, epoch } => self.tick(id, epoch),
            Event::Disk { id, epoch } => self.disk_works(id, epoch),
            Event::Apply { id, epoch } => self.apply(id, epoch),
            Event::Arrive(packet) => self.arrive(packet),
            Event::Client => self.client(),
            Event::Trouble => self.trouble(),
            Event::Operator => self.operate(),
            Event::Start { id } => {
                if self
                    .members
                    .get(&id)
                    .is_some_and(|it| !it.is_up() && !it.frozen)
                {
                    self.plan_trouble_at_start(id);
                    self.start(id)?;
                }
                Ok(())
            }
        }
    }

    fn current(&mut self, id: u64, epoch: u64) -> Option<&mut Process> {
        let member = self.members.get_mut(&id)?;
        if member.epoch == epoch {
            member.process()
        } else {
            None
        }
    }

    fn tick(&mut self, id: u64, epoch: u64) -> Checked {
        if self.current(id, epoch).is_none() {
            return Ok(());
        }
        let every = self.members.get(&id).map_or(1, |it| it.tick_every);
        self.plan(every, Event::Tick { id, epoch });
        self.input(id, Input::Tick)
    }

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
    fn prove(&mut self, id: u64) -> Checked {
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

    fn schedule_disk(&mut self, id: u64) {
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

    fn schedule_apply(&mut self, id: u64) {
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
    fn apply(&mut self, id: u64, epoch: u64) -> Checked {
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

    /// Clients propose to whoever leads as far as they know, and to others.
    fn client(&mut self) -> Checked {
        if self.ending {
            return Ok(());
        }
        let delay = self.client_random.between(1, self.profile.client_every);
        self.plan(delay, Event::Client);
        let leaders: Vec<u64> = self.leaders();
        let stray = self.client_random.chance(30);
        let ids = self.ids();
        let target = if stray {
            self.client_random.pick(&ids)
        } else {
            self.client_random.pick(&leaders)
        };
        match target {
            Some(id) => self.propose(id).map(drop),
            None => Ok(()),
        }
    }

    /// Proposes a payload of its own at `id` and answers its digest.
    pub(crate) fn propose(&mut self, id: u64) -> Result<u64, Violation> {
        self.payloads += 1;
        let size = self.client_random.between(1, 160);
        let payload = Bytes::from(format!("{} {}", self.payloads, "x".repeat(size as usize)));
        let content = digest(1, &payload);
        let Some(process) = self.members.get_mut(&id).and_then(Member::process) else {
            return Ok(content);
        };
        let in_term = process.core.status().term;
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        process
            .tickets
            .insert(ticket.0, Asked::Proposal { digest: content });
        self.input(
            id,
            Input::Propose(Proposal {
                payload,
                in_term,
                ticket: Some(ticket),
            }),
        )?;
        Ok(content)
    }

    /// A ticket at `id` for `asked`.
    pub(crate) fn ticket(&mut self, id: u64, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        if let Some(process) = self.members.get_mut(&id).and_then(Member::process) {
            process.tickets.insert(self.next_ticket, asked);
        }
        Ticket(self.next_ticket)
    }

    /// Everyone who leads, as seen from outside.
    pub(crate) fn leaders(&self) -> Vec<u64> {
        self.leading.keys().copied().collect()
    }

    /// The leader of the highest term.
    pub(crate) fn newest_leader(&self) -> Option<u64> {
        self.leading
            .iter()
            .max_by_key(|(_, term)| **term)
            .map(|(id, _)| *id)
    }

    fn arrive(&mut self, packet: Packet) -> Checked {
        self.network.under_way = self.network.under_way.saturating_sub(1);
        let Packet { from, to, .. } = packet;
        if self.network.is_cut(from, to) {
            return Ok(());
        }
        let (Some(sender), Some(receiver)) = (self.members.get(&from), self.members.get(&to))
        else {
            return Ok(());
        };
        if packet.connection != sender.connection {
            return Ok(());
        }
        if packet.identity != KNOWN_IDENTITY || !receiver.is_known() {
            self.counters.situation(Situation::StrangeLogRefused);
            return Ok(());
        }
        if !receiver.is_up() {
            return Ok(());
        }
        self.history.line(self.now, || {
            format!("{to} <- {from} {}", described(&packet.message))
        });
        self.input(
            to,
            Input::Received {
                from: RaftId(from),
                message: packet.message,
            },
        )
    }

    pub(crate) fn send_all(
        &mut self,
        from: u64,
        envelopes: Vec<raft_adapter::Envelope>,
    ) -> Checked {
        for envelope in envelopes {
            self.send(from, envelope)?;
        }
        Ok(())
    }

    fn send(&mut self, from: u64, envelope: raft_adapter::Envelope) -> Checked {
        let (to, message) = (envelope.to.0, envelope.message);
        self.history.note(&[5, from, to, digest(0, &message)]);
        self.history.line(self.now, || {
            format!("{from} -> {to} {}", described(&message))
        });
        if let Some((source, target, kept)) = &mut self.intercepted
            && (*source, *target) == (from, to)
        {
            kept.push(message);
            return Ok(());
        }
        let network = &mut self.network;
        let connected = !network.is_cut(from, to) && self.members.contains_key(&to);
        let lost = network.random.chance(network.loss);
        let twice = network.random.chance(network.duplication);
        let late = network.random.chance(network.reordering);
        let mut delay = network.random.between(1, network.delay);
        if late && self.profile.has(Fault::Reordering) {
            delay += network.random.between(10, 250);
            self.counters.fault(Fault::Reordering);
        }
        let second = delay + network.random.between(0, 60);
        let lost = lost && self.profile.has(Fault::Loss);
        let fits = !network.is_full();
        if connected && fits {
            if lost {
                self.counters.fault(Fault::Loss);
            } else {
                let sender = self.members.get(&from);
                let packet = Packet {
                    from,
                    to,
                    identity: sender.map_or(0, |it| it.identity),
                    connection: sender.map_or(0, |it| it.connection),
                    message,
                };
                if twice && self.profile.has(Fault::Duplication) {
                    self.counters.fault(Fault::Duplication);
                    self.network.under_way += 1;
                    self.plan(second, Event::Arrive(packet.clone()));
                }
                self.network.under_way += 1;
                self.plan(delay, Event::Arrive(packet));
            }
        }
        let delivered = connected && fits;
        if envelope.snapshot {
            let peer = envelope.to;
            self.input(from, Input::SnapshotOutcome { peer, delivered })?;
        }
        if !delivered && self.random.chance(500) {
            let peer = envelope.to;
            self.input(from, Input::Unreachable { peer })?;
        }
        Ok(())
    }

    /// Gives `id` an input, carries out what it asks for, and has it checked.
    pub(crate) fn input(&mut self, id: u64, input: Input) -> Checked {
        // Several inputs may share a flush.
        let flush = !matches!(input, Input::Received { .. }) || self.random.chance(800);
        let Some(process) = self.members.get_mut(&id).and_then(Member::process) else {
            return Ok(());
        };
        let mut out = Vec::new();
        let mut outcome = process.core.accept(input, &mut out);
        process.unflushed = true;
        let answers = out.iter().any(|it| matches!(it, Output::Answer { .. }));
        if (flush || answers) && outcome.is_ok() {
            outcome = process.core.flush(&mut out);
            process.unflushed = false;
        }
        if let Err(fatal) = outcome {
            let again = process.core.step(Input::Tick, &mut Vec::new());
            if again != Err(fatal.clone()) {
                return violated(
                    "a core that ended stays ended",
                    format!("member {id}: {fatal}, then {again:?}"),
                );
            }
            return self.process_failed(id, &fatal);
        }
        self.settle(id, out)
    }

    /// Carries out outputs, unless the core still collects, and looks at the member.
    pub(crate) fn settle(&mut self, id: u64, out: Vec<Output>) -> Checked {
        let (mut sent, mut answers) = (Vec::new(), Vec::new());
        for output in out {
            match output {
                Output::Send(envelope) => sent.push(envelope),
                Output::Persist(persist) => {
                    if let Some(process) = self.members.get_mut(&id).and_then(Member::process) {
                        let term = process.written_term;
                        process.writes.push_back((persist, term));
                    }
                }
                Output::Deliver(delivery) => {
                    if let Some(process) = self.members.get_mut(&id).and_then(Member::process) {
                        process.inbox.push_back(delivery);
                    }
                }
                Output::Answer { ticket, answer } => answers.push((ticket, answer)),
            }
        }
        // The term of now is durable only with the last of these writes, and not before the core was flushed.
        if let Some(process) = self.members.get_mut(&id).and_then(Member::process)
            && !process.unflushed
        {
            process.written_term = process.core.status().term.0;
            let term = process.written_term;
            if let Some((_, newest)) = process.writes.back_mut() {
                *newest = term;
            }
        }
        self.look_at(id)?;
        for (ticket, answer) in answers {
            self.answered(id, ticket, answer)?;
        }
        self.schedule_disk(id);
        self.schedule_apply(id);
        self.send_all(id, sent)
    }

    fn look_at(&mut self, id: u64) -> Checked {
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

    pub(crate) fn forget_leader(&mut self, id: u64) {
        self.leading.remove(&id);
    }

    fn answered(&mut self, id: u64, ticket: Ticket, answer: Answer) -> Checked {
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

    /// Terms of the members that lead, for judging who knows more.
    pub(crate) fn term_of(&self, id: u64) -> Option<Term> {
        self.leading.get(&id).copied().map(Term)
    }

    /// Adds what disks counted and nobody fetched.
    pub(crate) fn collect_disk_counts(&mut self) {
        for member in self.members.values() {
            let (faults, situations) = member.disk.take_counts();
            faults.into_iter().for_each(|it| self.counters.fault(it));
            situations
                .into_iter()
                .for_each(|it| self.counters.situation(it));
        }
    }

    /// A process came to its end by itself.
    fn process_failed(&mut self, id: u64, fatal: &Fatal) -> Checked {
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
