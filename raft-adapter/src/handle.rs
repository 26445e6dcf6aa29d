//! How the rest of the node talks to the raft thread.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::{
    core::propose::check_payload,
    error::{ChangeError, ProposeError, TransferError},
    ids::{LogIndex, RaftId, Term},
    inbox::Inbox,
    io::ProposeOutcome,
    member_change::{ChangeDone, MemberChange},
    status::Status,
};

/// Asks the raft thread. Cheap to clone. Nothing here blocks, except that `transfer_leadership`
/// and `change_members` wait for their outcome.
#[derive(Clone)]
pub struct RaftHandle {
    inbox: Arc<Inbox>,
    status: watch::Receiver<Status>,
    payload_bytes_max: u64,
}

impl fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftHandle")
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

impl RaftHandle {
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        status: watch::Receiver<Status>,
        payload_bytes_max: u64,
    ) -> Self {
        Self {
            inbox,
            status,
            payload_bytes_max,
        }
    }

    /// Puts `payload` into the log if this member still leads in `in_term` when its turn comes. Proposals keep their
    /// order. `Ok` means that it waits its turn, not that it is in the log: whoever needs to know uses
    /// [`RaftHandle::propose_tracked`] or looks for it among the deliveries.
    ///
    /// # Errors
    /// What is already known not to work: [`ProposeError`].
    pub fn propose(&self, payload: Bytes, in_term: Term) -> Result<(), ProposeError> {
        check_payload(payload.len() as u64, self.payload_bytes_max)?;
        self.inbox.propose(payload, in_term, None)
    }

    /// As [`RaftHandle::propose`], with the outcome. The receiver fails if ordering ends first; the payload may or may
    /// not be in the log then.
    ///
    /// # Errors
    /// What is already known not to work: [`ProposeError`].
    pub fn propose_tracked(
        &self,
        payload: Bytes,
        in_term: Term,
    ) -> Result<oneshot::Receiver<ProposeOutcome>, ProposeError> {
        check_payload(payload.len() as u64, self.payload_bytes_max)?;
        let (reply, outcome) = oneshot::channel();
        self.inbox.propose(payload, in_term, Some(reply))?;
        Ok(outcome)
    }

    /// Bytes that came in over the connection of member `from`. At most 4,096 messages (64 MiB) wait; beyond that the
    /// newest are dropped and counted.
    pub fn receive(&self, from: RaftId, message: Bytes) {
        self.inbox.receive(from, message);
    }

    /// Something sent to `peer` was lost after the transport had taken it, or its connection is down.
    pub fn unreachable(&self, peer: RaftId) {
        self.inbox.unreachable(peer);
    }

    /// The application took every delivery up to `index`. Must be called for every delivery, soon: unreported ones fill
    /// a window of 64 entries, and nothing more is delivered when it is full.
    pub fn applied(&self, index: LogIndex) {
        self.inbox.applied(index);
    }

    /// The application holds everything up to `up_to` durably and has reported it as applied. The log is cut up to there
    /// but for the configured trailing entries, and `manifest` is what a member that is further behind receives.
    pub fn compact(&self, up_to: LogIndex, manifest: Bytes) {
        self.inbox.compact(up_to, manifest);
    }

    /// Hands leadership over to `to` and waits for the outcome, at most two election timeouts. No proposals are taken
    /// meanwhile.
    ///
    /// # Errors
    /// [`TransferError`]; this member may or may not lead afterwards.
    pub async fn transfer_leadership(&self, to: RaftId) -> Result<(), TransferError> {
        let (reply, outcome) = oneshot::channel();
        self.inbox.transfer(to, reply)?;
        outcome.await.unwrap_or(Err(TransferError::Stopped))
    }

    /// Changes the membership and waits until the change is in full effect: committed, and no joint configuration left of
    /// it. Dropping the future ends the wait and not the change. There is no limit of time as long as this member leads:
    /// new voters may have to catch up first.
    ///
    /// # Errors
    /// [`ChangeError`]. The same change, by its id, may be asked for again at any member without taking effect twice, as
    /// long as it is among the last 64.
    pub async fn change_members(&self, change: MemberChange) -> Result<ChangeDone, ChangeError> {
        let (reply, outcome) = oneshot::channel();
        self.inbox.change(change, reply)?;
        outcome.await.unwrap_or(Err(ChangeError::Stopped))
    }

    /// The latest status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows the status. Closed when ordering ends.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends ordering: a leader hands over first, for at most one election timeout; then everything accepted is synced and
    /// `RaftRunner::run` returns.
    pub fn shutdown(&self) {
        self.inbox.shut_down();
    }
}
