//! Asking for a change on behalf of a client: checked, counted, and answered in time.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::{ChangeReport, ChangeRequest, MembershipError, MembershipView};
use crate::RpcError;
use crate::node::Node;

/// Clients that wait for a change at the same time; more are refused. Only one change is made at a time, so this is plenty.
const WAITING_MAX: usize = 64;
/// A client without a deadline of its own is answered after so long: by then it cannot tell a slow change from a lost one.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(120);

/// Places for clients that wait for a change.
#[derive(Debug)]
pub(crate) struct ChangePlaces(Semaphore);

impl Default for ChangePlaces {
    fn default() -> Self {
        Self(Semaphore::new(WAITING_MAX))
    }
}

impl Node {
    /// The membership, if this node has a part in it.
    pub(crate) fn membership_as_member(
        &self,
    ) -> Result<std::sync::Arc<MembershipView>, MembershipError> {
        let view = self.ctx.membership.view();
        match view.this {
            Some(_) => Ok(view),
            None => Err(MembershipError::NotAMember),
        }
    }

    /// Makes a change and waits until it is in force, at most for `wait`.
    pub(crate) async fn change_members(
        &self,
        mut request: ChangeRequest,
        wait: Duration,
    ) -> Result<ChangeReport, RpcError> {
        request.check()?;
        let view = self.membership_as_member()?;
        let change_id = match request.change_id {
            Some(change_id) => change_id,
            None => {
                // A request that names its id may have been applied before, and would be in its own way.
                request.check_against(&view)?;
                rand::random()
            }
        };
        request.change_id = Some(change_id);
        let place = self.changes.0.try_acquire().map_err(|_| RpcError::Busy {
            what: "too many clients wait for membership changes",
        })?;
        let change = self.ctx.membership.change(request);
        let report = tokio::select! {
            biased;
            report = change => report?,
            () = self.stop.cancelled() => return Err(MembershipError::Undecided { change_id }.into()),
            () = tokio::time::sleep(wait) => return Err(MembershipError::Undecided { change_id }.into()),
        };
        drop(place);
        Ok(report)
    }

    /// Hands leadership over and waits until there is the new leader, at most for `wait`.
    pub(crate) async fn transfer_leadership(
        &self,
        to: Option<u64>,
        wait: Duration,
    ) -> Result<u64, RpcError> {
        if to == Some(0) {
            return Err(RpcError::argument("raftId", "raft ids begin at 1"));
        }
        self.membership_as_member()?;
        let place = self.changes.0.try_acquire().map_err(|_| RpcError::Busy {
            what: "too many clients wait for membership changes",
        })?;
        let leader = tokio::select! {
            biased;
            leader = self.ctx.membership.transfer(to) => leader?,
            () = self.stop.cancelled() => return Err(RpcError::Stopping),
            () = tokio::time::sleep(wait) => return Err(RpcError::TransferTimeout),
        };
        drop(place);
        Ok(leader)
    }
}
