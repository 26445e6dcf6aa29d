//! Several members in one process: real cores, real log code, fake disks, a network in a list. Safety is checked after
//! every step, whatever the test does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use raft_adapter::{
    Answer, ChangeDone, ChangeError, ChangeId, Config, Core, Delivery, Envelope, FakeDisk, Fatal,
    Input, LogIndex, LogWriter, MemberChange, MemberStep, MemberTable, OpenError, Output, Persist,
    Proposal, ProposeOutcome, RaftId, Role, Status, Term, Ticket, WriteNumber,
};

/// Sizes so small that every limit is met within a few entries.
pub fn tight(id: u64, voters: &[u64]) -> Config {
    Config {
        max_message_bytes: 400,
        max_inflight_messages: 4,
        uncommitted_bytes_max: 4000,
        payload_bytes_max: 3000,
        segment_bytes: 4096,
        cache_bytes: 1500,
        trailing_entries: 5,
        delivery_entries_max: 4,
        delivery_bytes_max: 300,
        ..Config::new(RaftId(id), voters.iter().copied().map(RaftId).collect())
    }
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub from: u64,
    pub to: u64,
    pub message: Bytes,
}

/// What an application would keep: every entry it applied. Some of it survives a crash.
#[derive(Debug, Default)]
pub struct App {
    pub applied: u64,
    pub durable: u64,
    pub entries: BTreeMap<u64, (u64, Bytes)>,
    pub manifests: u64,
    /// As last delivered.
    pub table: Option<Arc<MemberTable>>,
}

pub struct Member {
    pub config: Config,
    pub disk: FakeDisk,
    pub core: Option<Core>,
    writer: LogWriter,
    writes: VecDeque<Persist>,
    written: Vec<(WriteNumber, Vec<Envelope>)>,
    pub inbox: VecDeque<Delivery>,
    pub app: App,
    delivered: u64,
    committed: u64,
    pub answers: BTreeMap<u64, Answer>,
}

/// A member's disk and how far its application was, as of some moment.
pub struct Backup {
    disk: FakeDisk,
    durable: u64,
}

pub struct Group {
    pub members: BTreeMap<u64, Member>,
    pub net: VecDeque<Packet>,
    pub cut: BTreeSet<(u64, u64)>,
    /// What is agreed: learned from the first member that applied it.
    pub truth: BTreeMap<u64, (u64, Bytes)>,
    /// The member table by the index of the entry that made it: the same on everyone.
    pub tables: BTreeMap<u64, Arc<MemberTable>>,
    /// Which change gave an id.
    given: BTreeMap<u64, ChangeId>,
    leaders: BTreeMap<u64, u64>,
    next_ticket: u64,
    crashes: u64,
}

impl Group {
    pub fn of(count: u64) -> Self {
        let ids: Vec<u64> = (1..=count).collect();
        Self::with(ids.iter().map(|id| tight(*id, &ids)).collect())
    }

    pub fn with(configs: Vec<Config>) -> Self {
        let mut group = Self {
            members: BTreeMap::new(),
            net: VecDeque::new(),
            cut: BTreeSet::new(),
            truth: BTreeMap::new(),
            tables: BTreeMap::new(),
            given: BTreeMap::new(),
            leaders: BTreeMap::new(),
            next_ticket: 0,
            crashes: 0,
        };
        for config in configs {
            group.add(config);
        }
        group
    }

    pub fn add(&mut self, config: Config) {
        let disk = FakeDisk::new();
        let id = config.id.0;
        let member = Member {
            writer: LogWriter::new(Arc::new(disk.clone())),
            disk,
            core: None,
            config,
            writes: VecDeque::new(),
            written: Vec::new(),
            inbox: VecDeque::new(),
            app: App::default(),
            delivered: 0,
            committed: 0,
            answers: BTreeMap::new(),
        };
        self.members.insert(id, member);
        self.start(id).unwrap();
    }

    pub fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    pub fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap()
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.members[&id].core.is_some()
    }

    pub fn status(&self, id: u64) -> Status {
        self.members[&id].core.as_ref().unwrap().status()
    }

    pub fn start(&mut self, id: u64) -> Result<(), OpenError> {
        let member = self.member(id);
        let disk = Arc::new(member.disk.clone());
        let core = Core::open(
            member.config.clone(),
            disk.clone(),
            LogIndex(member.app.durable),
        )?;
        member.core = Some(core);
        member.writer = LogWriter::new(disk);
        self.step_nothing(id);
        Ok(())
    }

    /// Power loss: unsynced writes and what the application did not make durable are gone.
    pub fn crash(&mut self, id: u64) {
        self.crashes += 1;
        let seed = self.crashes;
        let member = self.member(id);
        member.core = None;
        member.writes.clear();
        member.written.clear();
        member.inbox.clear();
        member.answers.clear();
        member.disk.crash(seed);
        member.app.applied = member.app.durable;
        let durable = member.app.durable;
        member.app.entries.retain(|index, _| *index <= durable);
        member.delivered = durable;
        member.committed = 0;
    }

    /// Power loss, and then the disk and the application as they were when `backup` was taken.
    pub fn restore(&mut self, id: u64, backup: &Backup) {
        self.crash(id);
        let member = self.member(id);
        member.disk = backup.disk.backup();
        member.app.durable = backup.durable;
        member.app.applied = backup.durable;
        member
            .app
            .entries
            .retain(|index, _| *index <= backup.durable);
        member.delivered = backup.durable;
    }

    pub fn backup(&mut self, id: u64) -> Backup {
        let member = self.member(id);
        Backup {
            disk: member.disk.backup(),
            durable: member.app.durable,
        }
    }

    pub fn restart(&mut self, id: u64) {
        self.crash(id);
        self.start(id).unwrap();
    }

    pub fn try_step(&mut self, id: u64, input: Input) -> Result<(), Fatal> {
        let member = self.members.get_mut(&id).unwrap();
        let Some(core) = member.core.as_mut() else {
            return Ok(());
        };
        let mut out = Vec::new();
        core.step(input, &mut out)?;
        let mut sent = Vec::new();
        for output in out {
            match output {
                Output::Send(envelope) => sent.push(envelope),
                Output::Persist(persist) => member.writes.push_back(persist),
                Output::Deliver(delivery) => member.inbox.push_back(delivery),
                Output::Answer { ticket, answer } => {
                    member.answers.insert(ticket.0, answer);
                }
            }
        }
        self.send(id, sent)?;
        self.check(id);
        Ok(())
    }

    pub fn step(&mut self, id: u64, input: Input) {
        self.try_step(id, input)
            .unwrap_or_else(|fatal| panic!("member {id}: {fatal}"));
    }

    fn step_nothing(&mut self, id: u64) {
        let peer = RaftId(id);
        self.step(id, Input::Unreachable { peer });
    }

    fn send(&mut self, from: u64, envelopes: Vec<Envelope>) -> Result<(), Fatal> {
        for Envelope {
            to,
            message,
            snapshot,
        } in envelopes
        {
            self.net.push_back(Packet {
                from,
                to: to.0,
                message,
            });
            if snapshot {
                self.try_step(
                    from,
                    Input::SnapshotOutcome {
                        peer: to,
                        delivered: true,
                    },
                )?;
            }
        }
        Ok(())
    }

    pub fn deliver(&mut self, packet: Packet) -> Result<(), Fatal> {
        let Packet { from, to, message } = packet;
        if self.cut.contains(&(from, to)) || !self.members.contains_key(&to) {
            return Ok(());
        }
        self.try_step(
            to,
            Input::Received {
                from: RaftId(from),
                message,
            },
        )
    }

    pub fn has_writes(&self, id: u64) -> bool {
        let member = &self.members[&id];
        !(member.writes.is_empty() && member.written.is_empty())
    }

    /// Writes the next queued batch without syncing it. False if there is none.
    pub fn write_one(&mut self, id: u64) -> bool {
        let member = self.member(id);
        let Some(persist) = member.writes.pop_front() else {
            return false;
        };
        member.writer.write(&persist.batch).unwrap();
        member.written.push((persist.write, persist.then_send));
        true
    }

    /// Syncs what was written and reports it.
    pub fn barrier(&mut self, id: u64) {
        let member = self.member(id);
        if member.written.is_empty() {
            return;
        }
        member.writer.barrier().unwrap();
        let written = std::mem::take(&mut member.written);
        let write = written.last().unwrap().0;
        self.step(id, Input::Persisted { write });
        for (_, then_send) in written {
            self.send(id, then_send).unwrap();
        }
    }

    pub fn sync(&mut self, id: u64) {
        while self.write_one(id) {}
        self.barrier(id);
    }

    /// The application takes the next delivery, and with it one look at what everyone must agree on.
    pub fn apply_one(&mut self, id: u64) -> bool {
        let Some(delivery) = self.member(id).inbox.pop_front() else {
            return false;
        };
        let index = delivery.index().0;
        let delivered_table = match &delivery {
            Delivery::Entry(_) => None,
            Delivery::Members(changed) => Some(Arc::clone(&changed.table)),
            Delivery::Snapshot(snapshot) => Some(Arc::clone(&snapshot.table)),
        };
        if let Some(table) = delivered_table {
            self.note_table(id, &table);
            self.member(id).app.table = Some(table);
        }
        match delivery {
            Delivery::Entry(_) | Delivery::Members(_) => {
                let found = match delivery {
                    Delivery::Entry(entry) => (entry.term.0, entry.payload),
                    Delivery::Members(changed) => (changed.term.0, Bytes::new()),
                    Delivery::Snapshot(_) => unreachable!(),
                };
                let agreed = self.truth.entry(index).or_insert_with(|| found.clone());
                assert_eq!(*agreed, found, "member {id} disagrees at {index}");
                let member = self.member(id);
                assert_eq!(
                    index,
                    member.delivered + 1,
                    "member {id}: gap or repetition"
                );
                member.app.entries.insert(index, found);
            }
            Delivery::Snapshot(snapshot) => {
                assert_eq!(snapshot.manifest, format!("manifest {index}"));
                assert_eq!(self.truth[&index].0, snapshot.term.0);
                // The application fetches what it misses from elsewhere.
                let fetched: Vec<_> = self
                    .truth
                    .range(..=index)
                    .map(|(index, entry)| (*index, entry.clone()))
                    .collect();
                assert_eq!(fetched.len() as u64, index);
                let member = self.member(id);
                assert!(index > member.delivered);
                member.app.entries.extend(fetched);
                member.app.manifests += 1;
            }
        }
        let member = self.member(id);
        member.delivered = index;
        member.app.applied = index;
        self.step(
            id,
            Input::Applied {
                index: LogIndex(index),
            },
        );
        true
    }

    pub fn make_durable(&mut self, id: u64) {
        let member = self.member(id);
        member.app.durable = member.app.applied;
    }

    pub fn compact(&mut self, id: u64) {
        let up_to = self.members[&id].app.durable;
        let manifest = Bytes::from(format!("manifest {up_to}"));
        self.step(
            id,
            Input::Compact {
                up_to: LogIndex(up_to),
                manifest,
            },
        );
    }

    /// Proposes at `id` in the term it believes in; answers the outcome.
    pub fn propose(&mut self, id: u64, payload: impl Into<Bytes>) -> ProposeOutcome {
        let in_term = self.status(id).term;
        self.propose_in(id, payload, in_term)
    }

    pub fn propose_in(
        &mut self,
        id: u64,
        payload: impl Into<Bytes>,
        in_term: Term,
    ) -> ProposeOutcome {
        let ticket = self.ticket();
        let proposal = Proposal {
            payload: payload.into(),
            in_term,
            ticket: Some(ticket),
        };
        self.step(id, Input::Propose(proposal));
        match self.member(id).answers.remove(&ticket.0) {
            Some(Answer::Propose(outcome)) => outcome,
            other => panic!("proposal answered with {other:?}"),
        }
    }

    /// Asks `id` for a change and answers the ticket; the answer may come later.
    pub fn ask(&mut self, id: u64, change: MemberChange) -> Ticket {
        let ticket = self.ticket();
        self.step(id, Input::ChangeMembers { change, ticket });
        ticket
    }

    /// A change that is taken even if it is risky, under an id of its own.
    pub fn forced(&mut self, steps: Vec<MemberStep>) -> MemberChange {
        let id = u128::from(self.ticket().0).to_le_bytes();
        MemberChange {
            id: ChangeId(id),
            steps,
            force: true,
            ..MemberChange::default()
        }
    }

    /// The answer to a change, if there is one.
    pub fn answered(&mut self, id: u64, ticket: Ticket) -> Option<Result<ChangeDone, ChangeError>> {
        match self.member(id).answers.remove(&ticket.0) {
            Some(Answer::Change(answer)) => Some(answer),
            None => None,
            other => panic!("a change is answered with {other:?}"),
        }
    }

    /// Takes care that everyone has the same table of the same entry, and that no id is given twice.
    fn note_table(&mut self, id: u64, table: &Arc<MemberTable>) {
        let known = self
            .tables
            .entry(table.index.0)
            .or_insert_with(|| Arc::clone(table));
        assert_eq!(known, table, "member {id}: table of {}", table.index);
        for change in &table.recent {
            for added in &change.added {
                let given = self.given.entry(added.0).or_insert(change.id);
                assert_eq!(*given, change.id, "id {added} was given twice");
            }
        }
    }

    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Cuts `id` off from everyone, both ways.
    pub fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    /// Lets nothing from `from` reach `to`.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Everything but time goes on until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut busy = false;
            for id in self.ids() {
                let member = &self.members[&id];
                if !(member.writes.is_empty() && member.written.is_empty()) {
                    self.sync(id);
                    busy = true;
                }
                while self.apply_one(id) {
                    busy = true;
                }
            }
            while let Some(packet) = self.net.pop_front() {
                let to = packet.to;
                self.deliver(packet)
                    .unwrap_or_else(|fatal| panic!("member {to}: {fatal}"));
                busy = true;
            }
            if !busy {
                return;
            }
        }
        panic!("the group never comes to rest");
    }

    pub fn tick(&mut self) {
        for id in self.ids() {
            self.step(id, Input::Tick);
        }
        self.settle();
    }

    /// Lets time pass until one of the members that are up leads and the others that can hear it follow it.
    pub fn elect(&mut self) -> u64 {
        self.settle();
        for _ in 0..200 {
            self.tick();
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("no leader: {}", self.picture());
    }

    /// As [`Group::elect`], where a change of the membership may end a leadership again.
    pub fn elect_anyhow(&mut self) -> u64 {
        for _ in 0..50 {
            let leader = self.elect();
            self.tick();
            if self.leader() == Some(leader) {
                return leader;
            }
        }
        panic!("no leader stays: {}", self.picture());
    }

    fn picture(&self) -> String {
        let cores = self
            .members
            .values()
            .filter_map(|member| member.core.as_ref());
        let lines = cores.map(|core| {
            let status = core.status();
            let table = &status.table;
            format!(
                "{} {} term {} committed {}/{} voters {:?} outgoing {:?} removed {}\n",
                status.id,
                status.role,
                status.term,
                status.committed,
                status.last_index,
                status.voters,
                table.outgoing,
                status.removed
            )
        });
        lines.collect()
    }

    /// The leader of the highest term, if it is up and a majority follows it.
    pub fn leader(&self) -> Option<u64> {
        let statuses: Vec<Status> = self
            .members
            .values()
            .filter_map(|member| member.core.as_ref().map(Core::status))
            .collect();
        let leader = statuses
            .iter()
            .filter(|status| status.role == Role::Leader)
            .max_by_key(|status| status.term)?;
        let highest = statuses.iter().map(|status| status.term).max()?;
        let start = leader.term_start?;
        (leader.term == highest && leader.applied >= start).then_some(leader.id.0)
    }

    /// Makes `id` the leader.
    pub fn elect_member(&mut self, id: u64) {
        for _ in 0..20 {
            let leader = self.elect();
            if leader == id {
                return;
            }
            let ticket = self.ticket();
            self.step(
                leader,
                Input::TransferLeadership {
                    to: RaftId(id),
                    ticket,
                },
            );
            self.settle();
        }
        panic!("{id} does not become leader");
    }

    /// All members hold and applied the same, and everything that was ever agreed on.
    pub fn assert_converged(&self) {
        self.assert_converged_but(&[]);
    }

    /// As [`Group::assert_converged`], for all but those who were removed.
    pub fn assert_converged_but(&self, removed: &[u64]) {
        let last = self.truth.last_key_value().map_or(0, |(index, _)| *index);
        for (id, member) in &self.members {
            if removed.contains(id) {
                continue;
            }
            assert_eq!(member.app.applied, last, "member {id} lags");
            assert!(
                member.app.entries.iter().eq(self.truth.iter()),
                "member {id} differs"
            );
        }
    }

    /// Payloads in order, without the empty ones.
    pub fn payloads(&self) -> Vec<Bytes> {
        let payloads = self.truth.values().map(|(_, payload)| payload.clone());
        payloads.filter(|payload| !payload.is_empty()).collect()
    }

    fn check(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let Some(core) = member.core.as_ref() else {
            return;
        };
        core.watermarks()
            .check()
            .unwrap_or_else(|error| panic!("member {id}: {error}"));
        let status = core.status();
        let table = Arc::clone(&status.table);
        assert!(
            status.committed.0 >= member.committed,
            "member {id}: commit went back"
        );
        member.committed = status.committed.0;
        if status.role == Role::Leader {
            let leader = self.leaders.entry(status.term.0).or_insert(id);
            assert_eq!(*leader, id, "two leaders in term {}", status.term);
        }
        assert!(
            member.inbox.len() <= member.config.delivery_entries_max as usize,
            "member {id}: more delivered than the window allows"
        );
        self.note_table(id, &table);
    }
}
