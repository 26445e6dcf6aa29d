//! What can go wrong, by what the caller has to do about it.

use crate::{LogIndex, RaftId};

/// A promise of ordering is broken: the node must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum Fatal {
    /// The log could not be written, synced or read.
    #[error("raft log: {reason}")]
    Log {
        /// What failed.
        reason: String,
    },
    /// A state that cannot be.
    #[error("impossible: {reason}")]
    Impossible {
        /// What was found.
        reason: String,
    },
}

/// Why ordering does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error("configuration: {reason}")]
    Config {
        /// Which, and what is allowed.
        reason: String,
    },
    /// The operating system failed.
    #[error("raft log: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
    /// Something before the end of the log does not read well.
    #[error("raft log is damaged: {file} at byte {offset}: {reason}")]
    Damaged {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The application has more than the log: log files are missing. Voting now could break earlier promises.
    #[error(
        "raft log ends at {log_last}, but the chain of this node has applied {applied}: log files are missing"
    )]
    LogBehindApplication {
        /// Last index in the log.
        log_last: LogIndex,
        /// Last index that the application has.
        applied: LogIndex,
    },
}

/// Why a proposal was refused before or in the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeRefusal {
    /// This member does not lead, or not in that term.
    #[error("this member does not lead in that term (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<RaftId>,
    },
    /// Too much is waiting, or leadership is being handed over.
    #[error("too many proposals are waiting")]
    Busy,
    /// An empty payload means something else in the log.
    #[error("the payload is empty")]
    Empty,
    /// Ordering has ended.
    #[error("ordering has stopped")]
    Stopped,
}

/// Refusals at the handle are the same as in the core.
pub type ProposeError = ProposeRefusal;

/// What became of a proposal. Appended does not mean committed: the committed entries tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeOutcome {
    /// It stands in this leader's log.
    Appended {
        /// At this index.
        index: LogIndex,
        /// In this term.
        term: crate::Term,
    },
    /// It does not, and never will.
    Refused(ProposeRefusal),
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This member does not lead.
    #[error("this member does not lead (leader: {leader:?})")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<RaftId>,
    },
    /// Only voters lead.
    #[error("member {member} is not a voter")]
    NotAVoter {
        /// Who was asked for.
        member: RaftId,
    },
    /// It did not take over within an election timeout; this member goes on leading, or somebody else does.
    #[error("member did not take over in time")]
    TimedOut,
    /// Ordering has ended.
    #[error("ordering has stopped")]
    Stopped,
}
