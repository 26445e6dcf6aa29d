//! One member: its disk, its application, and its process while it runs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use raft_adapter::{Config, Core, Delivery, Envelope, LogWriter, Persist, RaftId, WriteNumber};

use crate::{
    disk::{Image, SimDisk},
    random::Random,
};

/// What a member told others that its disk holds, when its process ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    pub(crate) last: u64,
    /// Of the last entry; unknown if it is compacted.
    pub(crate) last_term: Option<u64>,
    pub(crate) term: u64,
    pub(crate) leader: Option<u64>,
}

/// A disk of some time ago, and what the application held then.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) image: Image,
    pub(crate) applied: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) config: Config,
    pub(crate) disk: SimDisk,
    pub(crate) process: Option<Process>,
    /// Counts processes, so that events meant for an earlier one are void.
    pub(crate) epoch: u64,
    /// Applied and held by the application through any crash.
    pub(crate) app_durable: u64,
    pub(crate) tick_every: u64,
    pub(crate) paused_until: u64,
    /// Of the log on its disk. Others know the one it began with.
    pub(crate) identity: u64,
    /// Connections made before this were closed.
    pub(crate) connection: u64,
    pub(crate) promised: Promise,
    /// Index, term and digest of proposals taken while the vote that made it leader was not durable yet. Only a sole voter
    /// leads by such a vote: nobody hears of it, and if it is lost, somebody else may lead in the same term.
    pub(crate) unproven: Vec<(u64, u64, u64)>,
    pub(crate) backup: Option<Backup>,
    pub(crate) slow_disk: bool,
    /// Index of the table that was in force on it when it was last seen.
    pub(crate) table_index: u64,
    /// Its log is lost or damaged; it must never take part again under its id.
    pub(crate) lost: bool,
    /// Stays as it is to the end.
    pub(crate) frozen: bool,
    /// The next end by itself because of a lost log is right.
    pub(crate) expects_log_lost: bool,
}

/// The identity of the log that a member is known by.
pub(crate) const KNOWN_IDENTITY: u64 = 1;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) core: Core,
    pub(crate) writer: LogWriter,
    /// Handed out, with the term the core was in.
    pub(crate) writes: VecDeque<(Persist, u64)>,
    pub(crate) written: Vec<(WriteNumber, Vec<Envelope>, u64)>,
    pub(crate) durable_term: u64,
    /// The term that the newest write holds for certain.
    pub(crate) written_term: u64,
    pub(crate) disk_is_scheduled: bool,
    pub(crate) inbox: VecDeque<Delivery>,
    pub(crate) apply_is_scheduled: bool,
    pub(crate) applied: u64,
    /// Inputs were accepted that were not flushed.
    pub(crate) unflushed: bool,
    pub(crate) tickets: BTreeMap<u64, Asked>,
    /// Its own proposals that are in its log: digest by index and term.
    pub(crate) in_log: BTreeMap<u64, (u64, u64)>,
    pub(crate) was_behind: bool,
    pub(crate) last_index: u64,
}

/// What somebody waits for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Proposal {
        digest: u64,
    },
    Change {
        change: raft_adapter::ChangeId,
        forced: bool,
    },
    Transfer,
}

impl Member {
    pub(crate) fn new(seed: u64, id: u64, voters: &[u64]) -> Self {
        let mut random = Random::new(seed, 10_000 + id);
        Self {
            config: tight(&mut Random::new(seed, 9), id, voters),
            disk: SimDisk::new(seed, id),
            process: None,
            epoch: 0,
            app_durable: 0,
            tick_every: TICK,
            paused_until: 0,
            identity: KNOWN_IDENTITY,
            connection: random.next(),
            promised: Promise::default(),
            unproven: Vec::new(),
            backup: None,
            slow_disk: false,
            table_index: 0,
            lost: false,
            frozen: false,
            expects_log_lost: false,
        }
    }

    pub(crate) fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Others talk to it.
    pub(crate) fn is_known(&self) -> bool {
        self.identity == KNOWN_IDENTITY
    }
}

impl Process {
    pub(crate) fn new(core: Core, disk: &SimDisk, applied: u64) -> Self {
        let status = core.status();
        Self {
            core,
            writer: LogWriter::new(Arc::new(disk.clone())),
            writes: VecDeque::new(),
            written: Vec::new(),
            durable_term: status.term.0,
            written_term: status.term.0,
            disk_is_scheduled: false,
            inbox: VecDeque::new(),
            apply_is_scheduled: false,
            applied,
            unflushed: false,
            tickets: BTreeMap::new(),
            in_log: BTreeMap::new(),
            was_behind: status.behind_own_promises.is_some(),
            last_index: status.last_index.0,
        }
    }
}

/// Time units of a tick on a clock that goes right.
pub(crate) const TICK: u64 = 20;

/// Sizes so small that every limit is met within a few entries; the same for all members of a run.
fn tight(random: &mut Random, id: u64, voters: &[u64]) -> Config {
    let heartbeat_ticks = random.between(1, 2) as u32;
    Config {
        election_ticks: random.between(4, 10) as u32,
        heartbeat_ticks,
        max_message_bytes: random.between(100, 1000),
        max_inflight_messages: random.between(1, 6) as u32,
        uncommitted_bytes_max: 4000,
        payload_bytes_max: 3000,
        segment_bytes: 4096 * random.between(1, 2),
        cache_bytes: random.between(300, 4000),
        trailing_entries: random.between(0, 10),
        delivery_entries_max: random.between(1, 6) as u32,
        delivery_bytes_max: random.between(100, 1000),
        caught_up_entries: random.between(2, 30),
        ..Config::new(RaftId(id), voters.iter().copied().map(RaftId).collect())
    }
}
