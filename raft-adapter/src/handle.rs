//! Ordering as others see it.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::{
    LogIndex, ProposeError, ProposeOutcome, ProposeRefusal, RaftId, Role, Status, Term,
    TransferError,
};

/// What the raft thread is asked. One queue keeps the order of proposals.
#[derive(Debug)]
pub(crate) enum Request {
    Propose {
        payload: Bytes,
        term: Term,
        outcome: Option<oneshot::Sender<ProposeOutcome>>,
    },
    Received {
        from: RaftId,
        message: Bytes,
    },
    Unreachable {
        peer: RaftId,
    },
    Applied {
        index: LogIndex,
    },
    Compact {
        up_to: LogIndex,
        manifest: Bytes,
    },
    Transfer {
        to: RaftId,
        done: oneshot::Sender<Result<(), TransferError>>,
    },
    Shutdown,
}

/// Asks ordering. Cheap to clone; nothing here waits for the disk or for others.
#[derive(Clone, Debug)]
pub struct RaftHandle {
    pub(crate) requests: SyncSender<Request>,
    pub(crate) status: Arc<watch::Sender<Status>>,
}

impl RaftHandle {
    /// Proposes a payload under the leadership of `in_term`; refused if this member does not lead in that term.
    /// Proposals keep their order.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose(&self, payload: Bytes, in_term: Term) -> Result<(), ProposeError> {
        self.request_proposal(payload, in_term, None)
    }

    /// As [`Self::propose`]; the receiver tells where the payload was appended, or that it was refused.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_tracked(
        &self,
        payload: Bytes,
        in_term: Term,
    ) -> Result<oneshot::Receiver<ProposeOutcome>, ProposeError> {
        let (sender, receiver) = oneshot::channel();
        self.request_proposal(payload, in_term, Some(sender))?;
        Ok(receiver)
    }

    fn request_proposal(
        &self,
        payload: Bytes,
        term: Term,
        outcome: Option<oneshot::Sender<ProposeOutcome>>,
    ) -> Result<(), ProposeError> {
        if payload.is_empty() {
            return Err(ProposeRefusal::Empty);
        }
        {
            let status = self.status.borrow();
            if status.role != Role::Leader || status.term != term {
                return Err(ProposeRefusal::NotLeader {
                    leader: status.leader,
                });
            }
        }
        self.requests
            .try_send(Request::Propose {
                payload,
                term,
                outcome,
            })
            .map_err(|e| match e {
                TrySendError::Full(_) => ProposeRefusal::Busy,
                TrySendError::Disconnected(_) => ProposeRefusal::Stopped,
            })
    }

    /// A message from another member, as the network knows that member. When the queue is full it is dropped and
    /// counted: Raft repeats itself.
    pub fn receive(&self, from: RaftId, message: Bytes) {
        if self
            .requests
            .try_send(Request::Received { from, message })
            .is_err()
        {
            metrics::counter!("quorate_raft_dropped_messages_total").increment(1);
        }
    }

    /// The network could not deliver to this member.
    pub fn unreachable(&self, peer: RaftId) {
        // A hint: if there is no room, the next heartbeat finds out.
        drop(self.requests.try_send(Request::Unreachable { peer }));
    }

    /// The application has dealt with everything up to this index.
    pub fn applied(&self, index: LogIndex) {
        // Only fails when ordering has ended, and then nobody wants to know.
        drop(self.requests.send(Request::Applied { index }));
    }

    /// The application has everything up to here on its own disk; `manifest` is what a member that is further behind
    /// than the log needs to know.
    pub fn compact(&self, up_to: LogIndex, manifest: Bytes) {
        drop(self.requests.send(Request::Compact { up_to, manifest }));
    }

    /// Hands leadership over to a voter.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer_leadership(&self, to: RaftId) -> Result<(), TransferError> {
        let (done, outcome) = oneshot::channel();
        self.requests
            .try_send(Request::Transfer { to, done })
            .map_err(|_| TransferError::Stopped)?;
        outcome.await.unwrap_or(Err(TransferError::Stopped))
    }

    /// Where ordering stands now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Where ordering stands, and its changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Ends ordering: a leader hands over first (one election timeout at most).
    pub fn shutdown(&self) {
        drop(self.requests.send(Request::Shutdown));
    }
}
