//! What a leader does about a joint configuration by itself: it leaves it, after handing over if it will have no vote.
//!
//! A leader may die or step down at any point of this. Its successor finds the joint configuration in force and goes on
//! where it was left.

use std::cmp::Reverse;

use raft::{StateRole, eraftpb::ConfChangeV2};

use super::Core;
use crate::ids::RaftId;

impl Core {
    pub(super) fn finish_joint(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader
            || planted!(NeverLeaveJoint)
            || raft.has_pending_conf()
            || raft.lead_transferee.is_some()
        {
            return;
        }
        let table = self.table();
        if !table.is_joint() {
            self.tried_successors.clear();
            return;
        }
        let stays = table.voters().any(|voter| voter == self.config.id);
        if stays {
            fail_point!("raft.change.leave");
            let left = self
                .raw
                .propose_conf_change(Vec::new(), ConfChangeV2::default());
            if let Err(error) = left {
                tracing::debug!(%error, "leaving the joint configuration has to wait");
            }
        } else if let Some(successor) = self.ready_successor() {
            tracing::info!(%successor, "handing over to a member that keeps its vote");
            self.tried_successors.insert(successor);
            self.raw.transfer_leader(successor.0);
        }
    }

    /// The voter to be that needs the least to catch up, among those that can be reached and know of the joint
    /// configuration: others could not stand for election yet. Whoever failed to take over comes last.
    fn ready_successor(&self) -> Option<RaftId> {
        let table = self.table();
        table
            .voters()
            .filter(|voter| self.is_heard(*voter))
            .filter_map(|voter| {
                let progress = self.raw.raft.prs().get(voter.0)?;
                let knows = progress.committed_index >= table.index.0;
                let untried = !self.tried_successors.contains(&voter);
                knows.then_some((untried, progress.matched, Reverse(voter)))
            })
            .max()
            .map(|(_, _, Reverse(voter))| voter)
    }

    /// The word to take over may be lost, or come before the member was ready for it.
    pub(super) fn repeat_timeout_now(&mut self) {
        let raft = &mut self.raw.raft;
        let Some(to) = raft
            .lead_transferee
            .filter(|_| raft.state == StateRole::Leader)
        else {
            return;
        };
        let last = raft.raft_log.last_index();
        if raft
            .prs()
            .get(to)
            .is_some_and(|progress| progress.matched == last)
        {
            raft.send_timeout_now(to);
        }
    }
}
