//! Membership changes: proposing them, putting them in force when they are committed, and leaving joint states.

use prost011::Message as _;
use raft::{
    StateRole,
    eraftpb::{ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType},
};

use super::{Core, PendingWrite};
use crate::{
    error::{Fatal, ProposeError},
    ids::{LogIndex, RaftId, Ticket},
    io::{Answer, Output, Persist, ProposeOutcome},
};

/// What a member is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberRole {
    /// Takes part in elections and majorities.
    Voter,
    /// Receives the log without a vote.
    Learner,
    /// No member any more. Its id must never be used again.
    Removed,
}

/// A change of several members at once, from the present membership. More than one changed voter goes through joint
/// consensus (Raft thesis, 4.3), which this room leaves by itself.
///
/// A member added after the log was cut is served once a manifest was made that knows of it: raft-rs does not accept one
/// from before its membership. The application's next compaction makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberChange {
    /// Each member at most once.
    pub members: Vec<(RaftId, MemberRole)>,
}

impl MemberChange {
    fn to_raft(&self) -> ConfChangeV2 {
        let single = |(member, role): &(RaftId, MemberRole)| {
            let change_type = match role {
                MemberRole::Voter => ConfChangeType::AddNode,
                MemberRole::Learner => ConfChangeType::AddLearnerNode,
                MemberRole::Removed => ConfChangeType::RemoveNode,
            };
            ConfChangeSingle {
                change_type: change_type as i32,
                node_id: member.0,
            }
        };
        ConfChangeV2 {
            changes: self.members.iter().map(single).collect(),
            ..ConfChangeV2::default()
        }
    }
}

/// The older form carries exactly one change; everything here works on the newer one.
fn from_older(change: ConfChange) -> ConfChangeV2 {
    let single = ConfChangeSingle {
        change_type: change.change_type,
        node_id: change.node_id,
    };
    ConfChangeV2 {
        changes: vec![single],
        context: change.context,
        ..ConfChangeV2::default()
    }
}

/// The change an entry carries. `None`: the entry is none, `Some(None)`: it is one and cannot be read.
///
/// Empty data is not "nothing": an empty change is how raft-rs leaves a joint state.
pub(super) fn change_of(entry: &Entry) -> Option<Option<ConfChangeV2>> {
    let data = entry.data.as_slice();
    let change = match EntryType::from_i32(entry.entry_type) {
        Some(EntryType::EntryNormal) => return None,
        Some(EntryType::EntryConfChange) => ConfChange::decode(data).ok().map(from_older),
        Some(EntryType::EntryConfChangeV2) => ConfChangeV2::decode(data).ok(),
        None => None,
    };
    let known = |change: &ConfChangeV2| {
        raft::eraftpb::ConfChangeTransition::from_i32(change.transition).is_some()
            && change.changes.iter().all(|single| {
                ConfChangeType::from_i32(single.change_type).is_some() && single.node_id != 0
            })
    };
    Some(change.filter(known))
}

impl Core {
    pub(super) fn change_members(
        &mut self,
        change: &MemberChange,
        ticket: Ticket,
        out: &mut Vec<Output>,
    ) {
        let outcome = match self.try_change_members(change) {
            Ok(()) => self.appended(),
            Err(refusal) => ProposeOutcome::Refused(refusal),
        };
        out.push(Output::Answer {
            ticket,
            answer: Answer::Propose(outcome),
        });
    }

    fn try_change_members(&mut self, change: &MemberChange) -> Result<(), ProposeError> {
        self.check_leading(self.term())?;
        // raft-rs would answer Ok and append an empty entry in its place.
        if self.raw.raft.has_pending_conf() || self.is_joint() {
            return Err(ProposeError::ChangePending);
        }
        if change.members.is_empty() || change.members.iter().any(|(member, _)| member.0 == 0) {
            return Err(ProposeError::EmptyPayload);
        }
        self.raw
            .propose_conf_change(Vec::new(), change.to_raft())
            .map_err(|_| self.uncommitted_full())
    }

    fn is_joint(&self) -> bool {
        !self
            .raw
            .raft
            .prs()
            .conf()
            .to_conf_state()
            .voters_outgoing
            .is_empty()
    }

    /// A leader that stepped down between entering and leaving a joint state leaves it to its successor, and raft-rs does
    /// not notice there.
    pub(super) fn leave_hanging_joint_state(&mut self) {
        let raft = &self.raw.raft;
        let hangs = raft.state == StateRole::Leader
            && raft.prs().conf().to_conf_state().auto_leave
            && raft.lead_transferee.is_none()
            && !raft.has_pending_conf();
        if hangs
            && self
                .raw
                .propose_conf_change(Vec::new(), ConfChangeV2::default())
                .is_err()
        {
            tracing::debug!(
                "the proposal to leave a joint membership was dropped; next tick again"
            );
        }
    }

    /// Puts the membership changes among committed entries in force and tells raft-rs that they are.
    ///
    /// The new membership is written before anything from its entry on is delivered, so that an application that holds
    /// an entry durably can rely on the log to know the membership at it.
    pub(super) fn process(
        &mut self,
        committed: &[Entry],
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let Some(last) = committed.last().map(|entry| entry.index) else {
            return Ok(());
        };
        for entry in committed {
            let Some(change) = change_of(entry) else {
                continue;
            };
            let change = change.ok_or_else(|| Fatal::Impossible {
                what: format!(
                    "committed membership change at {} is unreadable",
                    entry.index
                ),
            })?;
            match self.raw.apply_conf_change(&change) {
                Ok(conf_state) => {
                    let (write, batch) = self
                        .raw
                        .mut_store()
                        .save_membership(entry.index, conf_state);
                    self.writes.push_back(PendingWrite {
                        write,
                        ready: None,
                        holds_log: false,
                        snapshot: None,
                        gate: Some(LogIndex(entry.index)),
                    });
                    out.push(Output::Persist(Persist {
                        write,
                        batch,
                        then_send: Vec::new(),
                    }));
                }
                // Every member refuses it alike: the decision depends on the membership only.
                Err(error) => {
                    tracing::warn!(index = entry.index, %error, "membership change does not apply");
                }
            }
        }
        self.raw.advance_apply_to(last);
        self.processed = last;
        Ok(())
    }
}
