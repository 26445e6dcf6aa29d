//! What a member knows about itself and its consortium right now.

use std::{fmt, sync::Arc};

use crate::{
    ids::{LogIndex, RaftId, Term},
    member_table::MemberTable,
};

/// The part a member plays in the current term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Orders proposals.
    Leader,
    /// Asks for votes, or asks whether it would get them.
    Candidate,
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Receives the log without a vote.
    Learner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Candidate => "candidate",
            Self::Follower => "follower",
            Self::Learner => "learner",
        })
    }
}

/// How a leader sends the log to a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// One message at a time, until it is known where the logs agree.
    #[default]
    Probe,
    /// Continuously.
    Replicate,
    /// Waiting for a manifest to be delivered.
    Snapshot,
}

/// What a leader knows about one member, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerProgress {
    /// The member.
    pub id: RaftId,
    /// The highest entry known to be on its disk.
    pub matched: LogIndex,
    /// Heard from within the last election timeout; true for the leader itself.
    pub recent_active: bool,
    /// How the log is being sent.
    pub state: PeerState,
}

/// A picture of one member's ordering. All indexes are this member's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: RaftId,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads, as far as known.
    pub leader: Option<RaftId>,
    /// Only on a leader: the index of its first entry in this term. Once that is applied, everything that earlier
    /// leaders committed is applied, and it may mint.
    pub term_start: Option<LogIndex>,
    /// The oldest entry still in the log.
    pub first_index: LogIndex,
    /// The newest entry in the log, durable or not.
    pub last_index: LogIndex,
    /// The newest entry known to survive power loss here.
    pub persisted: LogIndex,
    /// The newest entry known to be held by a majority.
    pub committed: LogIndex,
    /// The newest entry the application reported.
    pub applied: LogIndex,
    /// Index of the manifest that stands for everything up to it; 0 if there is none.
    pub snapshot: LogIndex,
    /// Members with a vote, ascending. While a change is under way: those of the configuration to come.
    pub voters: Vec<RaftId>,
    /// Members that had a vote before the change that is under way; empty otherwise.
    pub voters_outgoing: Vec<RaftId>,
    /// Members without a vote, ascending.
    pub learners: Vec<RaftId>,
    /// Only on a leader: every member's progress, ascending by id.
    pub peers: Vec<PeerProgress>,
    /// Only on a leader: leadership is being handed over.
    pub transferring: bool,
    /// The membership in force here.
    pub table: Arc<MemberTable>,
    /// This member was removed: it takes no part any more and never will under this id.
    pub removed: bool,
    /// This member's disk is older than what it acknowledged to a leader: it neither votes nor stands for election until
    /// it holds everything up to this entry again and knows it to be committed.
    pub behind_own_promises: Option<LogIndex>,
}
