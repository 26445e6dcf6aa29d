//! Runs the texts in `tests/scenarios`: commands, a line of dashes, and what they must print.
//!
//! ```text
//! members 3 [learners 1]        members 1 to 3 vote, 4 learns; once, first
//! new 5                         starts member 5, which knows only genesis; it has to be added
//! elect 1                       member 1 becomes the leader, and its first entry is applied
//! campaign 1                    time passes for member 1 alone until it leads
//! change [at N] [id x] [force] [unless-table I] [in-term T] STEP, STEP …
//!     STEP: add voter|learner TEXT · voter N · learner N · remove N · details N TEXT
//! propose TEXT                  at the leader
//! transfer N                    leadership goes to N
//! settle                        writes and messages until nothing moves; no time passes
//! ticks K                       K ticks on everyone, settling after each
//! tick N K                      K ticks on N alone, nothing else moves
//! round [K]                     K times: everyone writes, then every message that is under way arrives
//! until N joint|left|leads|applied x
//!                               rounds until N is in a joint configuration, is out of it, leads, has change x
//! drop 1->2 · isolate N · heal
//! unreachable N at M            M is told that a message to N could not be sent
//! kill N · restart N            power loss: what was not synced may be gone
//! backup N · restore N          the disk of N is copied; later it comes back as it was then
//! wipe N                        N loses its disk
//! durable N · compact N         the application of N holds what it applied; the log is cut
//! force-new N NOTE              N, killed before, becomes the only member
//! status [N …] · table N
//! ```
//!
//! Changes are asked of the leader of the highest term and named by `id`; their answers are printed where they come.
//! `QUORATE_UPDATE=1` writes what comes out into the files; read the difference.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use raft_adapter::{
    ChangeId, Config, Core, Input, LogIndex, MemberChange, MemberRole, MemberStep, MemberTable,
    RaftId, Role, Status, Term, Ticket, force_new_cluster_on,
};

use crate::group::{Backup, Group};

struct Scenario {
    group: Group,
    genesis: Config,
    backups: BTreeMap<u64, Backup>,
    /// Who was asked, which ticket, what the change is called.
    asked: Vec<(u64, Ticket, String)>,
    unnamed: u32,
    out: String,
}

fn config(id: u64, genesis: &Config) -> Config {
    Config {
        id: RaftId(id),
        seed: id,
        ..genesis.clone()
    }
}

fn number(word: &str) -> u64 {
    word.parse()
        .unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

impl Scenario {
    fn new(command: &str) -> Self {
        let words: Vec<_> = command.split_whitespace().collect();
        let (voters, learners) = match words[..] {
            ["members", voters] => (number(voters), 0),
            ["members", voters, "learners", learners] => (number(voters), number(learners)),
            _ => panic!("a scenario begins with members, not {command:?}"),
        };
        let genesis = Config {
            voters: (1..=voters).map(RaftId).collect(),
            learners: (voters + 1..=voters + learners).map(RaftId).collect(),
            trailing_entries: 2,
            caught_up_entries: 5,
            segment_bytes: 4096,
            ..Config::new(RaftId(1), vec![])
        };
        let configs = (1..=voters + learners).map(|id| config(id, &genesis));
        Self {
            group: Group::with(configs.collect()),
            genesis,
            backups: BTreeMap::new(),
            asked: Vec::new(),
            unnamed: 0,
            out: String::new(),
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.out, "{line}").unwrap();
    }

    fn run(&mut self, command: &str) {
        let words: Vec<_> = command.split_whitespace().collect();
        match words[..] {
            ["members", ..] => {}
            ["new", id] => self.group.add(config(number(id), &self.genesis)),
            ["elect", id] => {
                self.group.elect_member(number(id));
                self.settle();
            }
            ["campaign", id] => self.campaign(number(id)),
            ["change", ..] => self.change(&words[1..]),
            ["propose", text] => {
                let Some(leader) = self.leader() else {
                    return self.say("nobody leads");
                };
                let outcome = self.group.propose(leader, text.to_string());
                if !matches!(outcome, raft_adapter::ProposeOutcome::Appended { .. }) {
                    self.say(&format!("{leader} refuses {text}: {outcome:?}"));
                }
            }
            ["transfer", to] => {
                let (to, ticket) = (RaftId(number(to)), self.group.ticket());
                let Some(leader) = self.leader() else {
                    return self.say("nobody leads");
                };
                self.group
                    .step(leader, Input::TransferLeadership { to, ticket });
                if let Some(answer) = self.group.member(leader).answers.remove(&ticket.0) {
                    self.say(&format!("{leader} answers: {answer:?}"));
                }
            }
            ["settle"] => self.settle(),
            ["ticks", count] => {
                for _ in 0..number(count) {
                    for id in self.group.ids() {
                        self.input(id, Input::Tick);
                    }
                    self.settle();
                }
            }
            ["tick", id, count] => {
                for _ in 0..number(count) {
                    self.input(number(id), Input::Tick);
                }
            }
            ["round"] => self.round(),
            ["round", count] => (0..number(count)).for_each(|_| self.round()),
            ["until", id, ref what @ ..] => self.until(number(id), what),
            ["drop", pair] => {
                let (from, to) = pair.split_once("->").expect("drop FROM->TO");
                self.group.cut(number(from), number(to));
            }
            ["isolate", id] => {
                let id = number(id);
                for other in 1..20 {
                    self.group.cut(id, other);
                    self.group.cut(other, id);
                }
            }
            ["heal"] => self.group.heal(),
            ["unreachable", peer, "at", id] => {
                let peer = RaftId(number(peer));
                self.input(number(id), Input::Unreachable { peer });
            }
            ["kill", id] => self.group.crash(number(id)),
            ["restart", id] => {
                let id = number(id);
                if self.group.is_up(id) {
                    self.group.crash(id);
                }
                match self.group.start(id) {
                    Ok(()) => {}
                    Err(error) => self.say(&format!("{id} does not start: {error}")),
                }
            }
            ["backup", id] => {
                let id = number(id);
                let backup = self.group.backup(id);
                self.backups.insert(id, backup);
            }
            ["restore", id] => {
                let id = number(id);
                let backup = self.backups.remove(&id).expect("a backup");
                self.group.restore(id, &backup);
                self.group.start(id).unwrap();
            }
            ["wipe", id] => {
                let id = number(id);
                self.group.crash(id);
                self.group.member(id).disk.wipe();
                self.group.start(id).unwrap();
            }
            ["durable", id] => self.group.make_durable(number(id)),
            ["compact", id] => {
                let id = number(id);
                self.group.make_durable(id);
                self.group.compact(id);
                self.settle();
            }
            ["force-new", id, ref note @ ..] => {
                let id = number(id);
                let config = self.group.member(id).config.clone();
                let disk = Arc::new(self.group.member(id).disk.clone());
                match force_new_cluster_on(disk, config, note.join(" ").into()) {
                    Ok(table) => self.table(&table),
                    Err(error) => self.say(&format!("{id} cannot go on alone: {error}")),
                }
            }
            ["status"] => {
                let ids = self.group.ids();
                ids.into_iter().for_each(|id| self.status(id));
            }
            ["status", ref ids @ ..] => ids.iter().for_each(|id| self.status(number(id))),
            ["table", id] => {
                let table = self.group.status(number(id)).table;
                self.table(&table);
            }
            _ => panic!("unknown command {command:?}"),
        }
        self.answers();
    }

    fn leader(&self) -> Option<u64> {
        let up = self.group.members.values();
        let statuses = up.filter_map(|member| member.core.as_ref().map(Core::status));
        statuses
            .filter(|status| status.role == Role::Leader)
            .max_by_key(|status| status.term)
            .map(|status| status.id.0)
    }

    fn input(&mut self, id: u64, input: Input) {
        if let Err(fatal) = self.group.try_step(id, input) {
            self.say(&format!("{id} ends: {fatal}"));
            self.group.crash(id);
        }
    }

    /// Everyone writes and applies. True if anything was done.
    fn work(&mut self) -> bool {
        let mut busy = false;
        for id in self.group.ids() {
            if !self.group.is_up(id) {
                continue;
            }
            busy |= self.group.has_writes(id);
            self.group.sync(id);
            while self.group.apply_one(id) {
                busy = true;
            }
        }
        busy
    }

    fn deliver_some(&mut self, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.group.net.pop_front() else {
                return;
            };
            let to = packet.to;
            if let Err(fatal) = self.group.deliver(packet) {
                self.say(&format!("{to} ends: {fatal}"));
                self.group.crash(to);
            }
        }
    }

    fn round(&mut self) {
        self.work();
        self.deliver_some(self.group.net.len());
        self.answers();
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let busy = self.work() || !self.group.net.is_empty();
            self.deliver_some(self.group.net.len());
            if !busy {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn until(&mut self, id: u64, what: &[&str]) {
        for _ in 0..200 {
            let table = self.group.status(id).table;
            let holds = match what {
                ["joint"] => table.is_joint(),
                ["leads"] => self.group.status(id).role == Role::Leader,
                ["left"] => !table.is_joint(),
                ["applied", name] => table.applied(&change_id(name)).is_some(),
                _ => panic!("unknown condition {what:?}"),
            };
            if holds {
                return;
            }
            if self.group.net.is_empty() && !self.work() {
                for id in self.group.ids() {
                    self.input(id, Input::Tick);
                }
            }
            self.round();
        }
        panic!("{id} never is {what:?}");
    }

    /// Time passes for `id` alone until it leads; not even its first entry need be committed then.
    fn campaign(&mut self, id: u64) {
        for _ in 0..100 {
            if self.group.status(id).role == Role::Leader {
                return;
            }
            self.input(id, Input::Tick);
            self.round();
        }
        panic!("{id} does not win");
    }

    fn change(&mut self, words: &[&str]) {
        let mut change = MemberChange::default();
        let (mut at, mut name) = (None, None);
        let mut rest = words;
        loop {
            match rest {
                ["at", id, tail @ ..] => (at, rest) = (Some(number(id)), tail),
                ["id", id, tail @ ..] => (name, rest) = (Some(id.to_string()), tail),
                ["force", tail @ ..] => (change.force, rest) = (true, tail),
                ["unless-table", index, tail @ ..] => {
                    change.if_table = Some(LogIndex(number(index)));
                    rest = tail;
                }
                ["in-term", term, tail @ ..] => {
                    change.in_term = Some(Term(number(term)));
                    rest = tail;
                }
                _ => break,
            }
        }
        let name = name.unwrap_or_else(|| {
            self.unnamed += 1;
            format!("#{}", self.unnamed)
        });
        change.id = change_id(&name);
        let steps = rest.join(" ");
        change.steps = steps
            .split(',')
            .map(|step| parse_step(step.split_whitespace().collect::<Vec<_>>().as_slice()))
            .collect();
        let Some(at) = at.or_else(|| self.leader()) else {
            return self.say("nobody leads");
        };
        let ticket = self.group.ask(at, change);
        self.asked.push((at, ticket, name));
    }

    fn answers(&mut self) {
        let mut open = Vec::new();
        for (at, ticket, name) in std::mem::take(&mut self.asked) {
            if !self.group.is_up(at) {
                self.say(&format!("{name} at {at}: no answer"));
                continue;
            }
            match self.group.answered(at, ticket) {
                None => open.push((at, ticket, name)),
                Some(Ok(done)) => self.say(&format!(
                    "{name} at {at}: done at {} in term {}, gave [{}], table {}",
                    done.change.index,
                    done.change.term,
                    list(done.change.added),
                    done.table.index
                )),
                Some(Err(error)) => self.say(&format!("{name} at {at}: {error}")),
            }
        }
        self.asked = open;
    }

    fn status(&mut self, id: u64) {
        if !self.group.is_up(id) {
            self.say(&format!("{id} is down"));
            return;
        }
        let Status {
            role,
            term,
            committed,
            last_index,
            table,
            removed,
            behind_own_promises,
            ..
        } = self.group.status(id);
        let mut line = format!(
            "{id} {role} term {term} committed {committed}/{last_index} {}",
            members(&table)
        );
        if removed {
            line += " removed";
        }
        if let Some(floor) = behind_own_promises {
            line += &format!(" behind-own-promises {floor}");
        }
        self.say(&line);
    }

    fn table(&mut self, table: &MemberTable) {
        let head = format!("table {} {}", table.index, members(table));
        self.say(&head);
        self.say(&format!(
            "  removed [{}] next {}",
            list(table.removed.keys()),
            table.next_id
        ));
        for (id, member) in &table.members {
            self.say(&format!("  {id} {} {:?}", member.role, member.details));
        }
        for broken in &table.breaks {
            let lost = list(&broken.lost);
            self.say(&format!(
                "  break at {} term {}: {} without [{lost}] {:?}",
                broken.index, broken.term, broken.survivor, broken.note
            ));
        }
    }
}

fn members(table: &MemberTable) -> String {
    let mut text = format!("voters [{}]", list(table.voters()));
    if table.is_joint() {
        text += &format!(" outgoing [{}]", list(&table.outgoing));
    }
    let learners: Vec<_> = table.in_role(MemberRole::Learner).collect();
    if !learners.is_empty() {
        text += &format!(" learners [{}]", list(learners));
    }
    text
}

fn change_id(name: &str) -> ChangeId {
    let mut id = [0; 16];
    for (slot, byte) in id.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    ChangeId(id)
}

fn parse_step(words: &[&str]) -> MemberStep {
    let id = |word: &str| RaftId(number(word));
    let role = |word: &str| match word {
        "voter" => MemberRole::Voter,
        "learner" => MemberRole::Learner,
        _ => panic!("{word:?} is no role"),
    };
    match words {
        ["add", as_what, details @ ..] => MemberStep::Add {
            role: role(as_what),
            details: details.join(" ").into(),
        },
        ["remove", member] => MemberStep::Remove { id: id(member) },
        ["details", member, details @ ..] => MemberStep::SetDetails {
            id: id(member),
            details: details.join(" ").into(),
        },
        [as_what, member] => MemberStep::SetRole {
            id: id(member),
            role: role(as_what),
        },
        _ => panic!("unknown step {words:?}"),
    }
}

/// Runs a file's text and answers it with what came out in place of what was expected.
fn play(text: &str) -> String {
    let mut scenario = None;
    let mut played = Vec::new();
    for block in text.split("\n\n") {
        let (commands, _) = block.split_once("\n----").unwrap_or((block, ""));
        let commands = commands.trim_end();
        for command in commands.lines().map(str::trim) {
            if command.is_empty() || command.starts_with('#') {
                continue;
            }
            scenario
                .get_or_insert_with(|| Scenario::new(command))
                .run(command);
        }
        let out = scenario
            .as_mut()
            .map(|scenario| std::mem::take(&mut scenario.out));
        match out.filter(|out| !out.is_empty()) {
            Some(out) => played.push(format!("{commands}\n----\n{}", out.trim_end())),
            None => played.push(commands.to_string()),
        }
    }
    played.join("\n\n") + "\n"
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_goes_as_its_text_says() {
    let update = std::env::var_os("QUORATE_UPDATE").is_some();
    let mut differ = Vec::new();
    let files = files();
    assert!(files.len() >= 20, "scenarios are missing");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let Ok(played) = std::panic::catch_unwind(|| play(&text)) else {
            differ.push(name);
            continue;
        };
        if played == text {
            continue;
        }
        if update {
            std::fs::write(&file, played).unwrap();
        } else {
            println!("---- {name}\n{played}");
            differ.push(name);
        }
    }
    assert!(
        differ.is_empty(),
        "other outcomes than expected: {differ:?}"
    );
}
