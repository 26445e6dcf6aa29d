//! Everything that waits for the raft thread: one lock, one wake-up, a lane with a limit for each kind.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{
    error::{ChangeError, Fatal, ProposeError, TransferError},
    ids::{LogIndex, RaftId, Term, WriteNumber},
    io::{Envelope, ProposeOutcome},
    member_change::{ChangeDone, MemberChange},
    metrics,
    status::{Role, Status},
};

/// Proposals waiting; more are refused as `Busy`. A few blocks wait at most in normal work; this leaves room for bursts.
const PROPOSALS_MAX: usize = 1024;
/// Payload bytes of proposals waiting; more are refused as `Busy`.
const PROPOSAL_BYTES_MAX: u64 = 64 << 20;
/// Messages waiting; the newest are dropped and counted, as Raft repeats what matters.
const MESSAGES_MAX: usize = 4096;
/// Bytes of messages waiting; the newest are dropped and counted. One larger message is taken if nothing else waits.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// Hand-overs waiting; more are refused as `Busy`. An operator's doing, so any small number does.
const TRANSFERS_MAX: usize = 64;
/// Membership changes waiting; more are refused as `Busy`. An operator's doing too.
const CHANGES_MAX: usize = 64;

pub(crate) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    lanes: Lanes,
    proposal_bytes: u64,
    message_bytes: u64,
    /// What callers are judged by without asking the raft thread.
    view: View,
    closed: bool,
}

/// The raft thread's part as of its last turn.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    leads: bool,
    term: Term,
    leader: Option<RaftId>,
    transferring: bool,
}

/// What the raft thread takes at once.
#[derive(Default)]
pub(crate) struct Lanes {
    pub proposals: VecDeque<WaitingProposal>,
    pub messages: VecDeque<(RaftId, Bytes)>,
    pub transfers: VecDeque<(RaftId, TransferReply)>,
    pub changes: VecDeque<(MemberChange, ChangeReply)>,
    /// Oldest first. As many as there are writes under way, which the log thread's queue limits.
    pub completions: Vec<Completion>,
    /// Coalesced: the highest.
    pub applied: Option<LogIndex>,
    /// Coalesced: the one that reaches furthest.
    pub compaction: Option<(LogIndex, Bytes)>,
    /// Coalesced by member.
    pub unreachable: BTreeSet<RaftId>,
    pub shutdown: bool,
    pub fatal: Option<Fatal>,
}

pub(crate) type ProposeReply = oneshot::Sender<ProposeOutcome>;
pub(crate) type TransferReply = oneshot::Sender<Result<(), TransferError>>;
pub(crate) type ChangeReply = oneshot::Sender<Result<ChangeDone, ChangeError>>;

pub(crate) struct WaitingProposal {
    pub payload: Bytes,
    pub in_term: Term,
    pub reply: Option<ProposeReply>,
}

/// A write that is durable, with what waited for it.
pub(crate) struct Completion {
    pub write: WriteNumber,
    pub then_send: Vec<Envelope>,
}

impl Lanes {
    fn is_empty(&self) -> bool {
        self.proposals.is_empty()
            && self.messages.is_empty()
            && self.transfers.is_empty()
            && self.changes.is_empty()
            && self.completions.is_empty()
            && self.applied.is_none()
            && self.compaction.is_none()
            && self.unreachable.is_empty()
            && !self.shutdown
            && self.fatal.is_none()
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
        }
    }

    /// Waits until something is there or `deadline` has come, and takes all of it.
    pub(crate) fn take(&self, deadline: Instant) -> Lanes {
        let mut state = self.state.lock();
        while state.lanes.is_empty() {
            if self.wake.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.proposal_bytes = 0;
        state.message_bytes = 0;
        std::mem::take(&mut state.lanes)
    }

    /// Lets callers be judged by this from now on.
    pub(crate) fn show(&self, status: &Status) {
        self.state.lock().view = View {
            leads: status.role == Role::Leader,
            term: status.term,
            leader: status.leader,
            transferring: status.transferring,
        };
    }

    /// Nothing is taken any more; whoever still waits for an answer learns that there will be none.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let unanswered = std::mem::take(&mut state.lanes);
        drop(state);
        drop(unanswered);
    }

    fn put(&self, change: impl FnOnce(&mut Lanes)) {
        let mut state = self.state.lock();
        if !state.closed {
            change(&mut state.lanes);
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(crate) fn propose(
        &self,
        payload: Bytes,
        in_term: Term,
        reply: Option<ProposeReply>,
    ) -> Result<(), ProposeError> {
        let mut state = self.state.lock();
        let view = state.view;
        if state.closed || state.lanes.shutdown {
            return Err(ProposeError::Stopped);
        }
        if !view.leads {
            return Err(ProposeError::NotLeader {
                leader: view.leader,
            });
        }
        if view.term != in_term {
            return Err(ProposeError::OtherTerm {
                proposed: in_term,
                current: view.term,
            });
        }
        if view.transferring {
            return Err(ProposeError::Transferring);
        }
        let busy = |waiting, max, unit| {
            metrics::proposal_refused_inbox_full();
            Err(ProposeError::Busy { waiting, max, unit })
        };
        let waiting = state.lanes.proposals.len();
        if waiting >= PROPOSALS_MAX {
            return busy(waiting as u64, PROPOSALS_MAX as u64, "proposals");
        }
        let bytes = payload.len() as u64;
        if waiting > 0 && state.proposal_bytes + bytes > PROPOSAL_BYTES_MAX {
            return busy(state.proposal_bytes, PROPOSAL_BYTES_MAX, "bytes");
        }
        state.proposal_bytes += bytes;
        state.lanes.proposals.push_back(WaitingProposal {
            payload,
            in_term,
            reply,
        });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn receive(&self, from: RaftId, message: Bytes) {
        let mut state = self.state.lock();
        let bytes = message.len() as u64;
        let waiting = state.lanes.messages.len();
        let full = waiting >= MESSAGES_MAX
            || (waiting > 0 && state.message_bytes + bytes > MESSAGE_BYTES_MAX);
        if full || state.closed {
            drop(state);
            if full {
                metrics::message_dropped_inbox_full();
            }
            return;
        }
        state.message_bytes += bytes;
        state.lanes.messages.push_back((from, message));
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn transfer(&self, to: RaftId, reply: TransferReply) -> Result<(), TransferError> {
        let mut state = self.state.lock();
        if state.closed || state.lanes.shutdown {
            return Err(TransferError::Stopped);
        }
        if state.lanes.transfers.len() >= TRANSFERS_MAX {
            return Err(TransferError::Busy {
                max: TRANSFERS_MAX as u64,
            });
        }
        state.lanes.transfers.push_back((to, reply));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn change(
        &self,
        change: MemberChange,
        reply: ChangeReply,
    ) -> Result<(), ChangeError> {
        let mut state = self.state.lock();
        if state.closed || state.lanes.shutdown {
            return Err(ChangeError::Stopped);
        }
        if state.lanes.changes.len() >= CHANGES_MAX {
            return Err(ChangeError::Busy);
        }
        state.lanes.changes.push_back((change, reply));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn applied(&self, index: LogIndex) {
        self.put(|lanes| lanes.applied = lanes.applied.max(Some(index)));
    }

    pub(crate) fn compact(&self, up_to: LogIndex, manifest: Bytes) {
        self.put(|lanes| {
            if lanes
                .compaction
                .as_ref()
                .is_none_or(|(waiting, _)| *waiting < up_to)
            {
                lanes.compaction = Some((up_to, manifest));
            }
        });
    }

    pub(crate) fn unreachable(&self, peer: RaftId) {
        self.put(|lanes| {
            lanes.unreachable.insert(peer);
        });
    }

    pub(crate) fn complete(&self, completions: Vec<Completion>) {
        self.put(|lanes| lanes.completions.extend(completions));
    }

    pub(crate) fn shut_down(&self) {
        self.put(|lanes| lanes.shutdown = true);
    }

    pub(crate) fn fail(&self, fatal: Fatal) {
        self.put(|lanes| {
            lanes.fatal.get_or_insert(fatal);
        });
    }
}
