//! The ordering core: raft-rs and the log, driven one input at a time. No clock, no threads, no sockets.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost011::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeV2, Entry, EntryType, Message, MessageType, Snapshot,
};
use raft::storage::{GetEntriesContext, RaftState};
use raft::{RawNode, SnapshotStatus, StateRole, Storage, StorageError};

use crate::log::{Log, Manifest};
use crate::{
    CommittedEntry, Config, Delivery, Fatal, InstalledSnapshot, LogIndex, OpenError, PeerProgress,
    ProposeOutcome, ProposeRefusal, RaftId, Role, Status, Term, TransferError,
};

/// The log as raft-rs reads it.
#[derive(Clone, Debug)]
pub(crate) struct LogView(Arc<Mutex<Log>>);

fn read_failed(e: &Fatal) -> raft::Error {
    raft::Error::Store(StorageError::Other(e.to_string().into()))
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let log = self.0.lock();
        Ok(RaftState::new(
            log.hard_state().clone(),
            log.members().clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let log = self.0.lock();
        if low < log.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > log.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        log.entries(low, high, max_size.into().unwrap_or(u64::MAX))
            .map_err(|e| read_failed(&e))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let log = self.0.lock();
        if index < log.start().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        log.term(index)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.0.lock().first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.0.lock().last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        let log = self.0.lock();
        let manifest = log.manifest();
        if manifest.index < request_index || manifest.index == 0 {
            return Err(raft::Error::Store(
                StorageError::SnapshotTemporarilyUnavailable,
            ));
        }
        let mut snapshot = Snapshot {
            data: manifest.data.clone(),
            ..Snapshot::default()
        };
        let metadata = snapshot.mut_metadata();
        metadata.index = manifest.index;
        metadata.term = manifest.term;
        metadata.set_conf_state(manifest.members.clone());
        Ok(snapshot)
    }
}

/// Where messages go: to whom, the bytes, and whether they carry a snapshot (what became of those must be reported).
pub(crate) type Send<'a> = &'a mut dyn FnMut(RaftId, Bytes, bool);

/// Ordering of one member.
pub(crate) struct Core {
    node: RawNode<LogView>,
    log: Arc<Mutex<Log>>,
    config: Config,
    random: u64,
    seen_term: (u64, StateRole),
    term_start: Option<u64>,
    /// Snapshots and committed entries up to this index have been given out or wait in `held`.
    delivered: u64,
    committed: u64,
    pub(crate) applied: u64,
    snapshot_delivery: VecDeque<InstalledSnapshot>,
}

impl Core {
    pub(crate) fn open(config: Config, log: Log, applied: LogIndex) -> Result<Self, OpenError> {
        let mut log = log;
        if applied.0 > log.last() {
            return Err(OpenError::LogBehindApplication {
                log_last: log.last_index(),
                applied,
            });
        }
        let start = log.start();
        let effective = applied.0.max(start.index);
        // The commit index is not synced on its own; what the application has was committed.
        let manifest = log.manifest().clone();
        let effective = if start.index > applied.0 {
            effective.max(manifest.index)
        } else {
            effective
        };
        let commit = log.hard_state().commit.max(effective);
        log.hard_state_mut().commit = commit.min(log.last());
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks as usize,
            heartbeat_tick: config.heartbeat_ticks as usize,
            applied: effective,
            max_size_per_msg: config.max_message_bytes,
            max_inflight_msgs: config.max_inflight_messages,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: config.uncommitted_bytes_max,
            max_committed_size_per_ready: 1 << 20,
            ..raft::Config::default()
        };
        let log = Arc::new(Mutex::new(log));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, LogView(Arc::clone(&log)), &logger).map_err(|e| {
            OpenError::Config {
                reason: e.to_string(),
            }
        })?;
        let mut snapshot_delivery = VecDeque::new();
        if start.index > applied.0 {
            // The node ended between taking the leader's snapshot and reaching it.
            snapshot_delivery.push_back(InstalledSnapshot {
                index: LogIndex(manifest.index),
                term: Term(manifest.term),
                manifest: manifest.data.into(),
            });
        }
        let committed = node.raft.raft_log.committed;
        let mut core = Self {
            random: config.seed | 1,
            node,
            log,
            config,
            seen_term: (0, StateRole::Follower),
            term_start: None,
            delivered: effective,
            committed,
            applied: applied.0,
            snapshot_delivery,
        };
        core.after_step();
        Ok(core)
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// raft-rs draws election timeouts from the system's randomness: draw them again from ours.
    fn after_step(&mut self) {
        let now = (self.node.raft.term, self.node.raft.state);
        if now != self.seen_term {
            self.seen_term = now;
            let ticks = self.config.election_ticks as usize;
            let jitter = (self.next_random() % ticks as u64) as usize;
            self.node
                .raft
                .set_randomized_election_timeout(ticks + jitter);
            if now.1 == StateRole::Leader {
                // become_leader has just appended this term's first entry.
                self.term_start = Some(self.node.raft.raft_log.last_index());
            } else {
                self.term_start = None;
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        self.node.tick();
        self.after_step();
    }

    pub(crate) fn received(&mut self, from: RaftId, bytes: &[u8]) {
        let refused = |reason: &'static str| {
            metrics::counter!("quorate_raft_refused_messages_total", "reason" => reason)
                .increment(1)
        };
        let Ok(message) = Message::decode(bytes) else {
            return refused("malformed");
        };
        if message.from != from.0 {
            return refused("sender");
        }
        if message.to != self.config.id.0 {
            return refused("recipient");
        }
        // A follower of raft-rs would hand a proposal on: proposals come from this node's own minter only.
        if message.msg_type() == MessageType::MsgPropose
            || raft::raw_node::is_local_msg(message.msg_type())
        {
            return refused("kind");
        }
        if let Err(e) = self.node.step(message) {
            tracing::trace!(peer = from.0, error = %e, "message not taken");
        }
        self.after_step();
    }

    pub(crate) fn propose(&mut self, payload: Bytes, in_term: Term) -> ProposeOutcome {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || raft.term != in_term.0 {
            return ProposeOutcome::Refused(ProposeRefusal::NotLeader {
                leader: leader_of(raft.leader_id),
            });
        }
        if payload.is_empty() {
            return ProposeOutcome::Refused(ProposeRefusal::Empty);
        }
        match self.node.propose(Vec::new(), payload.to_vec()) {
            Ok(()) => ProposeOutcome::Appended {
                index: LogIndex(self.node.raft.raft_log.last_index()),
                term: in_term,
            },
            Err(_) => ProposeOutcome::Refused(ProposeRefusal::Busy),
        }
    }

    pub(crate) fn transfer(&mut self, to: RaftId) -> Result<(), TransferError> {
        if self.node.raft.state != StateRole::Leader {
            return Err(TransferError::NotLeader {
                leader: leader_of(self.node.raft.leader_id),
            });
        }
        if to == self.config.id {
            return Ok(());
        }
        if !self.log.lock().members().voters.contains(&to.0) {
            return Err(TransferError::NotAVoter { member: to });
        }
        self.node.transfer_leader(to.0);
        self.after_step();
        Ok(())
    }

    /// The follower that is furthest, for a leader that wants to go.
    pub(crate) fn best_successor(&self) -> Option<RaftId> {
        let status = self.status();
        let voters = status
            .peers
            .iter()
            .filter(|p| p.recent_active && status.voters.contains(&p.id));
        voters
            .max_by_key(|p| (p.matched, std::cmp::Reverse(p.id)))
            .map(|p| p.id)
    }

    pub(crate) fn unreachable(&mut self, peer: RaftId) {
        self.node.report_unreachable(peer.0);
    }

    pub(crate) fn snapshot_sent(&mut self, peer: RaftId, queued: bool) {
        let outcome = if queued {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.node.report_snapshot(peer.0, outcome);
    }
}

fn emit(messages: Vec<Message>, send: Send<'_>) {
    for message in messages {
        let snapshot = message.msg_type() == MessageType::MsgSnapshot;
        send(
            RaftId(message.to),
            Bytes::from(message.encode_to_vec()),
            snapshot,
        );
    }
}

fn leader_of(id: u64) -> Option<RaftId> {
    (id != 0).then_some(RaftId(id))
}

impl Core {
    /// Carries out what raft-rs asks for until it asks for nothing more. A leader's appends leave before its own write
    /// (Raft thesis 10.2.1); votes and acknowledgements leave after the sync of what they promise.
    pub(crate) fn ready(&mut self, send: Send<'_>) -> Result<(), Fatal> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            emit(ready.take_messages(), send);
            let snapshot = ready.snapshot().clone();
            let mut sync = ready.must_sync();
            {
                let mut log = self.log.lock();
                if !snapshot.is_empty() {
                    let metadata = snapshot.get_metadata();
                    log.install(Manifest {
                        index: metadata.index,
                        term: metadata.term,
                        members: metadata.get_conf_state().clone(),
                        data: snapshot.data.clone(),
                    })?;
                    sync = true;
                    self.delivered = metadata.index;
                    self.committed = self.committed.max(metadata.index);
                    self.snapshot_delivery.push_back(InstalledSnapshot {
                        index: LogIndex(metadata.index),
                        term: Term(metadata.term),
                        manifest: snapshot.data.into(),
                    });
                }
                log.append(ready.entries())?;
                if let Some(hard_state) = ready.hs() {
                    log.set_hard_state(hard_state.clone())?;
                }
                if sync {
                    log.sync()?;
                }
            }
            emit(ready.take_persisted_messages(), send);
            let committed = ready.take_committed_entries();
            self.take_committed(committed)?;
            let mut light = self.node.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.log.lock().hard_state_mut().commit = commit;
            }
            emit(light.take_messages(), send);
            let committed = light.take_committed_entries();
            self.take_committed(committed)?;
            // For raft-rs an entry is applied when its membership is; the application's own progress is counted apart.
            self.node.advance_apply_to(self.committed);
            self.after_step();
        }
        Ok(())
    }

    /// Membership takes effect when it is committed; data is read again from the log when there is room for it.
    fn take_committed(&mut self, entries: Vec<Entry>) -> Result<(), Fatal> {
        for entry in entries {
            self.committed = self.committed.max(entry.index);
            let change = match entry.entry_type() {
                EntryType::EntryNormal => continue,
                EntryType::EntryConfChange => {
                    let change = ConfChange::decode(entry.data.as_slice());
                    change.map(|change| {
                        let mut single = ConfChangeSingle {
                            node_id: change.node_id,
                            ..ConfChangeSingle::default()
                        };
                        single.set_change_type(change.change_type());
                        ConfChangeV2 {
                            changes: vec![single],
                            ..ConfChangeV2::default()
                        }
                    })
                }
                // Leaving a joint configuration by itself is an entry without data: not to be passed over.
                EntryType::EntryConfChangeV2 => ConfChangeV2::decode(entry.data.as_slice()),
            };
            let change = change.map_err(|e| Fatal::Log {
                reason: format!("membership entry {}: {e}", entry.index),
            })?;
            let members = self
                .node
                .apply_conf_change(&change)
                .map_err(|e| Fatal::Impossible {
                    reason: format!("membership entry {}: {e}", entry.index),
                })?;
            self.log.lock().set_members(members);
        }
        Ok(())
    }
}

impl Core {
    /// The next things for the application, up to `bytes_max` (at least one). Nothing is queued here: what does not fit
    /// is an index range, read from the log when there is room.
    pub(crate) fn deliveries(
        &mut self,
        count_max: usize,
        bytes_max: u64,
    ) -> Result<Vec<Delivery>, Fatal> {
        if let Some(snapshot) = self.snapshot_delivery.pop_front() {
            return Ok(vec![Delivery::Snapshot(snapshot)]);
        }
        if self.delivered >= self.committed || count_max == 0 {
            return Ok(Vec::new());
        }
        let high = self.committed.min(self.delivered + count_max as u64) + 1;
        let entries = self
            .log
            .lock()
            .entries(self.delivered + 1, high, bytes_max)?;
        let mut out = Vec::with_capacity(entries.len());
        for entry in entries {
            self.delivered = entry.index;
            let payload = match entry.entry_type() {
                EntryType::EntryNormal => entry.data.into(),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => Bytes::new(),
            };
            out.push(Delivery::Entry(CommittedEntry {
                index: LogIndex(entry.index),
                term: Term(entry.term),
                payload,
            }));
        }
        Ok(out)
    }

    pub(crate) fn applied(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index.0);
    }

    /// The application has everything up to `up_to` on disk: the log may begin later.
    pub(crate) fn compact(&mut self, up_to: LogIndex, manifest: Bytes) -> Result<(), Fatal> {
        let mut log = self.log.lock();
        let index = up_to.0;
        // Compaction costs a sync: it pays only by the thousand.
        if index > self.applied || index < log.start().index + 2 * self.config.trailing_entries {
            return Ok(());
        }
        let Some(term) = log.term(index) else {
            return Ok(());
        };
        let manifest = Manifest {
            index,
            term,
            members: log.members().clone(),
            data: manifest.to_vec(),
        };
        log.compact(manifest, self.config.trailing_entries)?;
        log.sync()?;
        log.remove_old_files()
    }

    pub(crate) fn status(&self) -> Status {
        let raft = &self.node.raft;
        let log = self.log.lock();
        let (voters, learners) = log.member_ids();
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if learners.contains(&self.config.id.0) => Role::Learner,
            StateRole::Follower => Role::Follower,
        };
        let mut peers: Vec<PeerProgress> = Vec::new();
        if role == Role::Leader {
            for (id, progress) in raft.prs().iter() {
                if *id != self.config.id.0 {
                    peers.push(PeerProgress {
                        id: RaftId(*id),
                        matched: LogIndex(progress.matched),
                        recent_active: progress.recent_active,
                        state: progress.state.to_string(),
                    });
                }
            }
            peers.sort_by_key(|p| p.id);
        }
        Status {
            id: self.config.id,
            role,
            term: Term(raft.term),
            leader: leader_of(raft.leader_id),
            term_start: self.term_start.map(LogIndex),
            first_index: LogIndex(log.first()),
            last_index: LogIndex(log.last()),
            persisted: LogIndex(raft.raft_log.persisted),
            committed: LogIndex(self.committed),
            applied: LogIndex(self.applied),
            voters: voters.into_iter().map(RaftId).collect(),
            learners: learners.into_iter().map(RaftId).collect(),
            peers,
            transferring: raft.lead_transferee.is_some(),
        }
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.lock().size_bytes()
    }
}

#[cfg(test)]
mod tests;
