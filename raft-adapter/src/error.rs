//! What can go wrong: refusals (the caller's doing), faults at open, and the end of the instance.

use std::{io, path::PathBuf};

use crate::{
    config::ConfigError,
    ids::{LogIndex, RaftId, Term},
    member_table::{ChangeId, TableError},
};

/// Why a proposal was not put into the log. The payload did not and will not take effect through this proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another member orders now; ask there.
    #[error("not the leader; leader is {leader:?}")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<RaftId>,
    },
    /// The proposal was made for another term than the current one; what it builds upon may be gone.
    #[error("proposed for term {proposed}, current term is {current}")]
    OtherTerm {
        /// The term the caller asked for.
        proposed: Term,
        /// The term now.
        current: Term,
    },
    /// Leadership is being handed over; no proposal can be taken meanwhile.
    #[error("leadership is being handed over")]
    Transferring,
    /// Too much is waiting; try again later.
    #[error("too many proposals are waiting: {waiting} of {max} {unit}")]
    Busy {
        /// What waits.
        waiting: u64,
        /// What may wait.
        max: u64,
        /// What is counted: `proposals`, `bytes` or `uncommitted bytes`.
        unit: &'static str,
    },
    /// An empty payload means "no application data" in the log.
    #[error("payload is empty; at least 1 byte is needed")]
    EmptyPayload,
    /// Larger than the configuration allows.
    #[error("payload of {got} bytes exceeds payload_bytes_max {max}")]
    PayloadTooLarge {
        /// Bytes offered.
        got: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// This member's ordering has ended.
    #[error("ordering has stopped")]
    Stopped,
}

impl ProposeError {
    /// True if the same proposal may succeed here later without anything else changing at the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Transferring => true,
            // The caller must look for the leader or build the proposal anew.
            Self::NotLeader { .. }
            | Self::OtherTerm { .. }
            | Self::EmptyPayload
            | Self::PayloadTooLarge { .. }
            | Self::Stopped => false,
        }
    }
}

/// Why a change of the membership was not carried out. But for the last two, it did not and will not take effect through
/// this request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another member orders now; ask there.
    #[error("not the leader; leader is {leader:?}")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<RaftId>,
    },
    /// The change was meant for another term than the current one.
    #[error("asked for in term {asked}, current term is {current}")]
    OtherTerm {
        /// The term the caller asked for.
        asked: Term,
        /// The term now.
        current: Term,
    },
    /// Another change is under way, or may be as far as a new leader knows; one at a time.
    #[error("a change of the membership is under way{}", id.map(|id| format!(": {id}")).unwrap_or_default())]
    Pending {
        /// Which, if it is known.
        id: Option<ChangeId>,
    },
    /// The membership is no longer the one the change was made for.
    #[error("the member table is the one of index {actual}, the change was made for {expected}")]
    TableMoved {
        /// The index the caller named.
        expected: LogIndex,
        /// The table's index.
        actual: LogIndex,
    },
    /// No member ever had this id.
    #[error("member {id} is unknown")]
    UnknownMember {
        /// The id asked for.
        id: RaftId,
    },
    /// Removal is for ever; the node may come back as a new member.
    #[error("member {id} was removed; an id is never used again")]
    AlreadyRemoved {
        /// The id asked for.
        id: RaftId,
    },
    /// There are no steps, or everything is so already.
    #[error("the change changes nothing")]
    NothingToDo,
    /// Without a voter nothing could ever be ordered again.
    #[error("no voter would be left")]
    NoVoterLeft,
    /// More members than a table holds.
    #[error("more than {max} members")]
    TooManyMembers {
        /// The limit, members that are leaving included.
        max: usize,
    },
    /// More steps than any change needs.
    #[error("more than {max} steps in one change")]
    TooManySteps {
        /// The limit.
        max: usize,
    },
    /// A new member has to be a voter or a learner.
    #[error("a new member has role removed; allowed are voter and learner")]
    AddedAsRemoved,
    /// Details travel with every table.
    #[error("details are {got} bytes; at most {max} are allowed")]
    DetailsTooLong {
        /// Bytes offered.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Two steps say something of the same kind about one member.
    #[error("member {id} is named twice")]
    MemberTwice {
        /// The member.
        id: RaftId,
    },
    /// With the members that can be reached now, the change might never be finished, or nothing be ordered after it.
    #[error(
        "only {reachable} of {needed} needed voters can be reached; cannot reach {}",
        ids(unreachable)
    )]
    QuorumAtRisk {
        /// The majority.
        needed: usize,
        /// Voters that are connected and hold nearly the whole log.
        reachable: usize,
        /// The voters that are not or do not, ascending. New ones count among them: nobody has heard of them yet.
        unreachable: Vec<RaftId>,
    },
    /// Too much is waiting, or leadership is being handed over; try again later.
    #[error("too much is waiting or leadership is being handed over")]
    Busy,
    /// This member stopped leading first. Whether the change takes effect is not known here: once an entry of a later
    /// term is applied, the table tells. Asking the new leader with the same id is safe.
    #[error("leadership was lost before the change was complete")]
    LeadershipLost,
    /// This member's ordering has ended; as for [`ChangeError::LeadershipLost`], another member may know more.
    #[error("ordering has stopped")]
    Stopped,
}

fn ids(members: &[RaftId]) -> String {
    let members: Vec<_> = members.iter().map(ToString::to_string).collect();
    members.join(", ")
}

impl ChangeError {
    /// True if the same change, with the same id, may succeed later here or at the leader without anyone doing anything
    /// else.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotLeader { .. } | Self::Pending { .. } | Self::Busy | Self::LeadershipLost => {
                true
            }
            // The caller must look again at what is there, or an operator must act.
            Self::OtherTerm { .. }
            | Self::TableMoved { .. }
            | Self::UnknownMember { .. }
            | Self::AlreadyRemoved { .. }
            | Self::NothingToDo
            | Self::NoVoterLeft
            | Self::TooManyMembers { .. }
            | Self::TooManySteps { .. }
            | Self::AddedAsRemoved
            | Self::DetailsTooLong { .. }
            | Self::MemberTwice { .. }
            | Self::QuorumAtRisk { .. }
            | Self::Stopped => false,
        }
    }

    /// The outcome as a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not_leader",
            Self::OtherTerm { .. } => "other_term",
            Self::Pending { .. } => "pending",
            Self::TableMoved { .. } => "table_moved",
            Self::UnknownMember { .. } => "unknown_member",
            Self::AlreadyRemoved { .. } => "already_removed",
            Self::NothingToDo => "nothing_to_do",
            Self::NoVoterLeft => "no_voter_left",
            Self::TooManyMembers { .. } => "too_many_members",
            Self::TooManySteps { .. } => "too_many_steps",
            Self::AddedAsRemoved => "added_as_removed",
            Self::DetailsTooLong { .. } => "details_too_long",
            Self::MemberTwice { .. } => "member_twice",
            Self::QuorumAtRisk { .. } => "quorum_at_risk",
            Self::Busy => "busy",
            Self::LeadershipLost => "leadership_lost",
            Self::Stopped => "stopped",
        }
    }
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Only a leader can hand over.
    #[error("not the leader; leader is {leader:?}")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<RaftId>,
    },
    /// Only voters can lead.
    #[error("member {to} is not a voter")]
    NotVoter {
        /// The member asked for.
        to: RaftId,
    },
    /// We lead already.
    #[error("member {to} is this member itself")]
    ToItself {
        /// The member asked for.
        to: RaftId,
    },
    /// One hand-over at a time.
    #[error("a hand-over to {to} is under way")]
    UnderWay {
        /// Where leadership goes.
        to: RaftId,
    },
    /// The member did not take over within an election timeout.
    #[error("member {to} did not take over in time")]
    TimedOut {
        /// The member asked for.
        to: RaftId,
    },
    /// The election had another outcome.
    #[error("member {leader} became the leader instead of {to}")]
    OtherLeader {
        /// The member asked for.
        to: RaftId,
        /// The member that won.
        leader: RaftId,
    },
    /// Too many requests are waiting.
    #[error("too many control requests are waiting, at most {max}")]
    Busy {
        /// The limit.
        max: u64,
    },
    /// This member's ordering has ended.
    #[error("ordering has stopped")]
    Stopped,
}

/// The log on disk is not what was written. Nothing is repaired by guessing: an operator must restore the member or
/// let it join anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A file does not begin as a log file of ours.
    #[error("segment {segment}: header is damaged or of another format: {fault}")]
    Header {
        /// The file's number.
        segment: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A record that had been durable cannot be read any more.
    #[error(
        "segment {segment}: the record at offset {offset} is damaged though it had been durable"
    )]
    Record {
        /// The file's number.
        segment: u64,
        /// Bytes from the file's start.
        offset: u64,
    },
    /// A record is intact but its content makes no sense.
    #[error("segment {segment}: the record at offset {offset} has impossible content: {fault}")]
    Content {
        /// The file's number.
        segment: u64,
        /// Bytes from the file's start.
        offset: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Records are missing between two files.
    #[error(
        "segment {segment} begins with record {found}, expected {expected}: a file or its end is missing"
    )]
    Gap {
        /// The file's number.
        segment: u64,
        /// The sequence number expected there.
        expected: u64,
        /// The sequence number found there.
        found: u64,
    },
    /// Entries are missing between the compacted part and the first one on disk, or below the commit index.
    #[error("entries {from} to {to} are missing")]
    MissingEntries {
        /// First missing index.
        from: LogIndex,
        /// Last missing index.
        to: LogIndex,
    },
}

/// Why a member's ordering could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The settings are faulty.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process has the log open.
    #[error("log folder {dir} is in use by another process")]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The log could not be read or prepared.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The log is damaged.
    #[error("log is damaged: {0}")]
    Damaged(#[from] Damage),
    /// The log belongs to another member; two members with one log would vote twice.
    #[error("log belongs to member {found}, configured is {configured}")]
    OtherMember {
        /// The owner written in the log.
        found: RaftId,
        /// The configured id.
        configured: RaftId,
    },
    /// The application holds more than the log: the log was lost or replaced, and what this member promised to others
    /// with it. It must not vote again under this id.
    #[error(
        "log ends at index {last}, but the application has applied {applied}: the log was lost or replaced"
    )]
    LogBehindApplication {
        /// What the application holds.
        applied: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// The member table in the log cannot be read.
    #[error("log holds an unreadable member table: {0}")]
    Table(#[from] TableError),
    /// Only a member can go on alone; what another log holds is not known to be the consortium's.
    #[error("member {id} is neither voter nor learner by its own log, so it cannot go on alone")]
    NotMember {
        /// The configured id.
        id: RaftId,
    },
    /// The note stays in the member table for ever, so it is short.
    #[error("note of {got} bytes; at most {max} are allowed")]
    NoteTooLong {
        /// Bytes offered.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The log cannot be worked with.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// raft-rs refused the recovered state.
    #[error("ordering core refused to start: {reason}")]
    Core {
        /// Its words.
        reason: String,
    },
}

/// A promise is broken; this instance is over and the process should end. There is no way to go on: after a failed
/// sync nobody knows what is on the disk.
#[must_use = "a fatal fault has to stop the node"]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Writing, syncing or reading the log failed. The instance is poisoned: every later call answers the same.
    #[error("log segment {segment}: {operation} failed: {reason}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file's number.
        segment: u64,
        /// The system's answer.
        reason: String,
    },
    /// What was written cannot be read back.
    #[error("log is damaged: {0}")]
    Damaged(#[from] Damage),
    /// A leader counts on entries this member acknowledged, and its log is empty: the disk was lost or replaced. Under
    /// this id it could help elect a leader without committed entries. It has to join anew under a new id. (A log that is
    /// merely older catches up, see [`crate::Status::behind_own_promises`].)
    #[error(
        "leader {leader} counts on entry {acknowledged} which this log (last entry {last}) does not hold: the log was lost"
    )]
    LogLost {
        /// Who said so.
        leader: RaftId,
        /// The entry this member is known to have acknowledged.
        acknowledged: LogIndex,
        /// Where its log ends.
        last: LogIndex,
    },
    /// The core panicked; its state is unknown.
    #[error("ordering core panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A state that the rules exclude.
    #[error("impossible state: {what}")]
    Impossible {
        /// What was found.
        what: String,
    },
    /// The application dropped its end of the deliveries while ordering was running.
    #[error("the application no longer takes deliveries")]
    ApplicationGone,
    /// A thread of ours could not be started or ended without a word.
    #[error("thread {thread} is gone: {reason}")]
    ThreadGone {
        /// Its name.
        thread: &'static str,
        /// What is known.
        reason: String,
    },
}
