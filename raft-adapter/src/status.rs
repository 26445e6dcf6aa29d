//! What ordering gives out.

use bytes::Bytes;

use crate::{LogIndex, RaftId, Term};

/// A committed log entry: the same on every member, in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its place in the log.
    pub index: LogIndex,
    /// The term in which it was appended.
    pub term: Term,
    /// What was proposed; empty for an entry of ordering's own (a leader's first one, membership).
    pub payload: Bytes,
}

/// The leader's log begins after this member's: the application must reach the manifest's place by other means, then
/// report it as applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledSnapshot {
    /// Index that the snapshot stands for.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    /// What the application of the leader said of it, see [`RaftHandle::compact`](crate::RaftHandle::compact).
    pub manifest: Bytes,
}

/// The next thing that the application has to deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A committed entry.
    Entry(CommittedEntry),
    /// A jump: entries in between will not be delivered.
    Snapshot(InstalledSnapshot),
}

/// What a member is in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Proposes and decides what is committed.
    Leader,
    /// Stands for election.
    Candidate,
    /// Follows and votes.
    Follower,
    /// Follows and does not vote.
    Learner,
}

/// How far a follower is, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub id: RaftId,
    /// Last entry known to be on its disk.
    pub matched: LogIndex,
    /// It was heard within the last election timeout.
    pub recent_active: bool,
    /// Probe, Replicate or Snapshot.
    pub state: String,
}

/// Where a member's ordering stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: RaftId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<RaftId>,
    /// A leader's first entry in its term: when that is applied, so is everything from before.
    pub term_start: Option<LogIndex>,
    /// First entry in the log.
    pub first_index: LogIndex,
    /// Last entry in the log.
    pub last_index: LogIndex,
    /// Last entry on this member's disk.
    pub persisted: LogIndex,
    /// Last entry known to be on a majority.
    pub committed: LogIndex,
    /// Last entry that the application has dealt with.
    pub applied: LogIndex,
    /// Who votes.
    pub voters: Vec<RaftId>,
    /// Who follows without a vote.
    pub learners: Vec<RaftId>,
    /// A leader's followers.
    pub peers: Vec<PeerProgress>,
    /// Leadership is being handed over: proposals are refused.
    pub transferring: bool,
}
