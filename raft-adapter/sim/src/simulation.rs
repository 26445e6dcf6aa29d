//! The loop: takes the next event, lets it happen, and has everything checked.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use bytes::Bytes;
use raft_adapter::{Input, Output, Proposal, Term, Ticket};

use crate::{
    checks::{Checked, Checks, Violation, violated},
    event::{Event, Scheduled},
    faults::{Counters, Fault},
    history::History,
    member::{Asked, Member, Process},
    network::Network,
    operators::Operators,
    options::Options,
    profile::Profile,
    random::{Random, digest},
};

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
    pub(crate) leading: BTreeMap<u64, u64>,
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

    pub(crate) fn current(&mut self, id: u64, epoch: u64) -> Option<&mut Process> {
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

    pub(crate) fn forget_leader(&mut self, id: u64) {
        self.leading.remove(&id);
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
}
