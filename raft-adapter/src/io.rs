//! Everything that goes into the core and everything that comes out of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    error::{ChangeError, ProposeError, TransferError},
    ids::{LogIndex, RaftId, Term, Ticket, WriteNumber},
    log::LogBatch,
    member_change::{ChangeDone, MemberChange},
    member_table::MemberTable,
};

/// Everything that can happen to the ordering core. Time is a tick; nothing else moves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// One tick of the clock passed.
    Tick,
    /// Bytes came in over the connection of member `from`.
    Received {
        /// Whose connection it was; checked against the message.
        from: RaftId,
        /// As sent by [`Output::Send`] or a write's `then_send` of that member.
        message: Bytes,
    },
    /// The application wants a payload ordered.
    Propose(Proposal),
    /// Leadership should go to `to`.
    TransferLeadership {
        /// The member to lead.
        to: RaftId,
        /// Where the answer goes.
        ticket: Ticket,
    },
    /// This member is about to stop: hand leadership over to whoever is best prepared. Nothing happens if it does not lead.
    HandOver,
    /// Write `write` and all before it survive power loss.
    Persisted {
        /// The highest such number.
        write: WriteNumber,
    },
    /// The application took everything up to `index`.
    Applied {
        /// The highest such index.
        index: LogIndex,
    },
    /// The application holds everything up to `up_to` durably; the log may be cut, and `manifest` stands for what is gone.
    Compact {
        /// The last index the manifest stands for.
        up_to: LogIndex,
        /// Small; opaque here.
        manifest: Bytes,
    },
    /// Something sent to `peer` was lost on the way, or the connection is down.
    Unreachable {
        /// The member.
        peer: RaftId,
    },
    /// What became of an [`Envelope`] with `snapshot` set. Must be reported for each of them, or the member behind
    /// never hears from this leader again.
    SnapshotOutcome {
        /// The member it was for.
        peer: RaftId,
        /// True if it left.
        delivered: bool,
    },
    /// Changes the membership. Answered when the change is in full effect, or refused. Refused while another change is
    /// under way; the same one, by its id, gets the same answer.
    ChangeMembers {
        /// From the present membership.
        change: MemberChange,
        /// Where the answer goes.
        ticket: Ticket,
    },
}

/// A payload to be ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// At least one byte.
    pub payload: Bytes,
    /// Only if this member leads in this term; guards against proposals made for an earlier leadership.
    pub in_term: Term,
    /// Where the answer goes, if one is wanted.
    pub ticket: Option<Ticket>,
}

/// Everything the core asks of the world, in the order it must be done.
#[derive(Debug)]
pub enum Output {
    /// May leave at once.
    Send(Envelope),
    /// Must become durable.
    Persist(Persist),
    /// For the application, in log order.
    Deliver(Delivery),
    /// The outcome of a request.
    Answer {
        /// Which request.
        ticket: Ticket,
        /// Its outcome.
        answer: Answer,
    },
}

/// Make `batch` durable. Only then send `then_send`, and report [`Input::Persisted`]. Writes must be executed in
/// order; several may share one barrier.
#[derive(Debug)]
pub struct Persist {
    /// One more than the write before.
    pub write: WriteNumber,
    /// May be empty: then only the order counts.
    pub batch: LogBatch,
    /// Votes and acknowledgements that would be lies before the batch is durable.
    pub then_send: Vec<Envelope>,
}

/// An encoded message and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The member.
    pub to: RaftId,
    /// Opaque outside this room.
    pub message: Bytes,
    /// Carries a manifest: [`Input::SnapshotOutcome`] must follow.
    pub snapshot: bool,
}

/// What the application receives, in log order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The next entry.
    Entry(CommittedEntry),
    /// The next entry, about the membership.
    Members(MembersChanged),
    /// The log before and at this index is gone: fetch what it stood for elsewhere.
    Snapshot(InstalledSnapshot),
}

impl Delivery {
    /// The index that is to be reported as applied once this is taken.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        match self {
            Self::Entry(entry) => entry.index,
            Self::Members(changed) => changed.index,
            Self::Snapshot(snapshot) => snapshot.index,
        }
    }
}

/// An entry that every member will deliver at this index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// One more than the delivery before.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// Empty: no application data (a leader's first entry); delivered all the same so that `applied` moves by every
    /// index.
    pub payload: Bytes,
}

/// An entry about the membership. Leaving a joint configuration is one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersChanged {
    /// One more than the delivery before.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// The membership from here on. Its own index may be smaller, if the entry had no effect, or larger, if this
    /// member got the table ahead of the log together with a manifest.
    pub table: Arc<MemberTable>,
}

/// A manifest in place of log entries. The application fetches what it describes and then reports `index` as applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledSnapshot {
    /// The last index it stands for.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// As given to `compact` by the member that made it.
    pub manifest: Bytes,
    /// The membership at `index`, or a newer one if this member was added later than that.
    pub table: Arc<MemberTable>,
}

/// The outcome of a request with a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a proposal.
    Propose(ProposeOutcome),
    /// Of a change of the membership.
    Change(Result<ChangeDone, ChangeError>),
    /// Of a hand-over.
    Transfer(Result<(), TransferError>),
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeOutcome {
    /// It is in this leader's log. It is committed if and only if an entry with this index *and* term is delivered.
    Appended {
        /// Its position.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// It is not in the log.
    Refused(ProposeError),
}
