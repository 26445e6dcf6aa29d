//! What a member says on its Raft stream: any bytes, at any moment, to a core that runs.

use std::sync::Arc;

use bytes::Bytes;
use raft_adapter::{
    Config, Core, FakeDisk, Fatal, Input, LogIndex, LogWriter, Output, Proposal, RaftId,
};

use crate::{
    Memory, Target,
    cutter::{Cutter, put_piece},
};

pub(crate) const TARGETS: &[Target] = &[Target {
    catches_panics: true,
    input_bytes_max: 640,
    ..Target::new("raft-messages", messages, messages_seeds, Memory::ROOM)
}];

/// So many inputs of one script are taken.
const STEPS_MAX: usize = 24;
/// What raft-rs says when it ends itself because a member that has the leader's place says the contrary of what is
/// committed. Bytes alone do not show such a lie; every other panic is a fault.
const HONEST_PANICS: [&str; 4] = [
    "conflict with committed entry",
    "is out of range [last_index",
    "unmarshal",
    "commit out of range",
];

/// Settings of member `id` of three.
pub(super) fn config(id: u64) -> Config {
    Config {
        // Short scripts should get somewhere.
        election_ticks: 3,
        segment_bytes: 4 << 10,
        cache_bytes: 64 << 10,
        trailing_entries: 4,
        payload_bytes_max: 4 << 10,
        ..Config::new(RaftId(id), (1..=3).map(RaftId).collect())
    }
}

/// One member: its core, and a disk that is done at once.
pub(super) struct Member {
    pub(super) core: Core,
    writer: LogWriter,
    out: Vec<Output>,
    pub(super) sent: Vec<(RaftId, Bytes)>,
}

impl Member {
    pub(super) fn begin(id: u64, disk: &FakeDisk) -> Option<Self> {
        let core = Core::open(config(id), Arc::new(disk.clone()), LogIndex(0)).ok()?;
        Some(Self {
            core,
            writer: LogWriter::new(Arc::new(disk.clone())),
            out: Vec::new(),
            sent: Vec::new(),
        })
    }

    /// Takes an input, and does at once what the core asks for.
    pub(super) fn step(&mut self, input: Input) -> Result<(), Fatal> {
        self.core.step(input, &mut self.out)?;
        while !self.out.is_empty() {
            for output in std::mem::take(&mut self.out) {
                let done = match output {
                    Output::Send(envelope) => {
                        self.sent.push((envelope.to, envelope.message));
                        continue;
                    }
                    Output::Persist(persist) => {
                        self.writer.write(&persist.batch)?;
                        self.writer.barrier()?;
                        let sent = persist.then_send.into_iter();
                        self.sent.extend(sent.map(|e| (e.to, e.message)));
                        Input::Persisted {
                            write: persist.write,
                        }
                    }
                    Output::Deliver(delivery) => Input::Applied {
                        index: delivery.index(),
                    },
                    Output::Answer { .. } => continue,
                };
                self.core.step(done, &mut self.out)?;
            }
        }
        if let Err(wrong) = self.core.watermarks().check() {
            panic!("{wrong}");
        }
        Ok(())
    }

    fn propose(&mut self, payload: &[u8]) -> Result<(), Fatal> {
        let in_term = self.core.status().term;
        self.step(Input::Propose(Proposal {
            payload: Bytes::copy_from_slice(payload),
            in_term,
            ticket: None,
        }))
    }
}

/// Things that happen to member 1: the kind, then what belongs to it.
fn messages(bytes: &[u8]) -> bool {
    let Some(mut member) = Member::begin(1, &FakeDisk::new()) else {
        return false;
    };
    let mut script = Cutter(bytes);
    let mut received = 0;
    for _ in 0..STEPS_MAX {
        if script.is_empty() {
            break;
        }
        if let Err(fatal) = happen(&mut member, &mut script, &mut received) {
            judge(&fatal);
            return false;
        }
        member.sent.clear();
    }
    received > member.core.dropped().values().sum::<u64>()
}

const TICKS: u8 = 0;
const PROPOSE: u8 = 6;
const COMPACT: u8 = 7;

fn happen(member: &mut Member, script: &mut Cutter<'_>, received: &mut u64) -> Result<(), Fatal> {
    match script.byte() % 8 {
        TICKS => (0..=script.byte() % 8).try_for_each(|_| member.step(Input::Tick)),
        PROPOSE => member.propose(script.piece()),
        COMPACT => {
            let up_to = member.core.watermarks().applied;
            member.step(Input::Compact {
                up_to,
                manifest: Bytes::copy_from_slice(script.piece()),
            })
        }
        from => {
            *received += 1;
            member.step(Input::Received {
                from: RaftId(u64::from(from)),
                message: Bytes::copy_from_slice(script.piece()),
            })
        }
    }
}

/// A core may end with a typed fault when a member lies about the log, never by a panic of another kind.
fn judge(fatal: &Fatal) {
    match fatal {
        Fatal::LogLost { .. } | Fatal::Impossible { .. } => {}
        Fatal::Panicked { message } => assert!(
            HONEST_PANICS.iter().any(|honest| message.contains(honest)),
            "{fatal}"
        ),
        Fatal::Disk { .. }
        | Fatal::Damaged(_)
        | Fatal::ApplicationGone
        | Fatal::ThreadGone { .. } => panic!("{fatal}"),
    }
}

/// What member 1 lives through while each of the members is elected and orders a few payloads.
fn messages_seeds() -> Vec<Vec<u8>> {
    (1..=3).filter_map(life).collect()
}

/// Disks of member 1 at the end of such lives, of different lengths.
pub(super) fn disks() -> Vec<FakeDisk> {
    [(1, 1), (1, 64), (2, 200)]
        .into_iter()
        .filter_map(|(leader, rounds)| live(leader, rounds))
        .map(|(_script, disk)| disk)
        .collect()
}

fn life(leader: u64) -> Option<Vec<u8>> {
    live(leader, 32).map(|(script, _disk)| script)
}

fn live(leader: u64, rounds: u8) -> Option<(Vec<u8>, FakeDisk)> {
    let disk = FakeDisk::new();
    let mut members: Vec<Member> = vec![
        Member::begin(1, &disk)?,
        Member::begin(2, &FakeDisk::new())?,
        Member::begin(3, &FakeDisk::new())?,
    ];
    let mut script = Vec::new();
    for round in 0..rounds {
        for (id, member) in (1..).zip(&mut members) {
            if id != leader {
                continue;
            }
            member.step(Input::Tick).ok()?;
            if id == 1 {
                script.extend([TICKS, 0]);
            }
            if round % 8 == 7 {
                let payload = [round; 20];
                member.propose(&payload).ok()?;
                if id == 1 {
                    script.push(PROPOSE);
                    put_piece(&mut script, &payload);
                }
            }
        }
        deliver(&mut members, &mut script)?;
    }
    let first = members.first_mut()?;
    let up_to = first.core.watermarks().applied;
    let manifest = Bytes::from_static(b"manifest");
    first.step(Input::Compact { up_to, manifest }).ok()?;
    script.push(COMPACT);
    put_piece(&mut script, b"manifest");
    Some((script, disk))
}

/// Carries messages until nobody has more to say, and writes down those for member 1.
fn deliver(members: &mut [Member], script: &mut Vec<u8>) -> Option<()> {
    loop {
        let packets: Vec<_> = (1..)
            .zip(members.iter_mut())
            .flat_map(|(from, member)| {
                let sent = std::mem::take(&mut member.sent);
                sent.into_iter().map(move |(to, bytes)| (from, to, bytes))
            })
            .collect();
        if packets.is_empty() {
            return Some(());
        }
        for (from, to, message) in packets {
            if to == RaftId(1) {
                script.push(from as u8);
                put_piece(script, &message);
            }
            let at = usize::try_from(to.0).ok()?.checked_sub(1)?;
            let from = RaftId(from);
            members
                .get_mut(at)?
                .step(Input::Received { from, message })
                .ok()?;
        }
    }
}
