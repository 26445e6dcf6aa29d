//! The member table: who belongs to the consortium, in which role, with which details, and what became of the others.
//!
//! It is replicated like everything else: an entry of the log changes it, so it is the same on every member at the same
//! index. What a member's details mean is for the application to know.

mod codec;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, ConfState};

use self::codec::VERSION;
use crate::{
    ids::{LogIndex, RaftId, Term},
    member_change::LoggedChange,
};

/// Bytes of details or of a note at most. Every member carries the details of all others, so they must stay small.
pub const DETAILS_BYTES_MAX: usize = 4096;
/// Members at most, those that are leaving included. Far above any consortium ordered by one Raft group.
pub const MEMBERS_MAX: usize = 128;
/// Changes kept in [`MemberTable::recent`].
pub const RECENT_CHANGES: usize = 64;

/// Names a change of the membership, chosen at random by whoever asks for it. Asking twice with one id changes the
/// membership once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(pub [u8; 16]);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a member is, or is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// Takes part in elections and majorities.
    Voter,
    /// Receives the log without a vote.
    Learner,
    /// No member any more; its id is never used again. In a table: it is leaving, and listed only until the joint
    /// configuration in which it still has a vote is left.
    Removed,
}

impl MemberRole {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Voter => 1,
            Self::Learner => 2,
            Self::Removed => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Voter, Self::Learner, Self::Removed]
            .into_iter()
            .find(|role| role.code() == code)
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Removed => "removed",
        })
    }
}

/// One member as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMember {
    /// What it is; while a joint configuration is in force, what it is to be.
    pub role: MemberRole,
    /// Opaque here: key, address, organisation. At most [`DETAILS_BYTES_MAX`].
    pub details: Bytes,
}

/// A change that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedChange {
    /// Chosen by whoever asked for it.
    pub id: ChangeId,
    /// Its place in the log.
    pub index: LogIndex,
    /// The term of the leader that took it.
    pub term: Term,
    /// The ids given to the members it added, in the order of its steps.
    pub added: Vec<RaftId>,
}

/// The consortium was begun anew by one survivor, because its majority was lost for good. Entries that only the lost
/// members held are gone. Kept for ever, so that everyone can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The first entry after the break; all before it are what the survivor's log held.
    pub index: LogIndex,
    /// The term that began with it.
    pub term: Term,
    /// The one member that went on.
    pub survivor: RaftId,
    /// The members that were given up.
    pub lost: Vec<RaftId>,
    /// The operator's words. At most [`DETAILS_BYTES_MAX`].
    pub note: Bytes,
}

/// The membership at one position of the log, and its history as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberTable {
    /// The entry that made it what it is; 0: as at genesis.
    pub index: LogIndex,
    /// Everyone who belongs to it now, those included that leave with the joint configuration.
    pub members: BTreeMap<RaftId, TableMember>,
    /// Voters of the configuration that is being left; empty unless joint.
    pub outgoing: BTreeSet<RaftId>,
    /// Everyone who ever was removed, with the last details. Grows for ever.
    pub removed: BTreeMap<RaftId, Bytes>,
    /// Larger than every id ever given.
    pub next_id: RaftId,
    /// The last [`RECENT_CHANGES`] changes, oldest first.
    pub recent: Vec<AppliedChange>,
    /// Every forced new beginning, oldest first.
    pub breaks: Vec<Break>,
}

/// Why bytes are no member table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Written by another version of this software.
    #[error("member table has version {found}, known is {VERSION}")]
    UnknownVersion {
        /// The version found.
        found: u8,
    },
    /// The bytes end too early, or a length in them is larger than allowed.
    #[error("member table: {part} is cut short or too long")]
    Length {
        /// The part that cannot be read.
        part: &'static str,
    },
    /// It can be read and makes no sense.
    #[error("member table: {fault}")]
    Content {
        /// What is wrong.
        fault: &'static str,
    },
}

/// Why a logged change does not fit a table. Decided by the table alone, so every member decides alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it is in effect already")]
    Repeated,
    #[error("another joint configuration is in force")]
    Joint,
    #[error("no joint configuration is in force")]
    NothingToLeave,
    #[error("member {0} is unknown")]
    Unknown(RaftId),
    #[error("id {0} was given before")]
    UsedId(RaftId),
    #[error("no voter would be left")]
    NoVoter,
    #[error("more than one voter changes without a joint configuration")]
    NotJoint,
}

impl MemberTable {
    /// The table at the very beginning.
    pub(crate) fn genesis(
        voters: &[RaftId],
        learners: &[RaftId],
        details: &BTreeMap<RaftId, Bytes>,
    ) -> Self {
        let ids = |members: &[RaftId]| members.iter().map(|member| member.0).collect();
        let conf_state = ConfState {
            voters: ids(voters),
            learners: ids(learners),
            ..ConfState::default()
        };
        Self::from_conf_state(LogIndex(0), &conf_state, details)
    }

    /// For a log from before there were tables: all that its configuration tells.
    pub(crate) fn from_conf_state(
        index: LogIndex,
        conf_state: &ConfState,
        details: &BTreeMap<RaftId, Bytes>,
    ) -> Self {
        Self {
            next_id: RaftId(1),
            ..Self::default()
        }
        .adopting(index, conf_state, details)
    }

    /// What this table becomes if the configuration becomes `conf_state` by an entry that says nothing more.
    pub(crate) fn adopting(
        &self,
        index: LogIndex,
        conf_state: &ConfState,
        details: &BTreeMap<RaftId, Bytes>,
    ) -> Self {
        let mut table = self.clone();
        table.index = index;
        let ids = |ids: &[u64]| ids.iter().copied().map(RaftId).collect::<BTreeSet<_>>();
        let voters = ids(&conf_state.voters);
        table.outgoing = ids(&conf_state.voters_outgoing);
        let learners: BTreeSet<_> = &ids(&conf_state.learners) | &ids(&conf_state.learners_next);
        let everyone = &(&voters | &learners) | &table.outgoing;
        let gone: Vec<_> = self.members.keys().copied().collect();
        for id in gone.into_iter().filter(|id| !everyone.contains(id)) {
            table.bury(id);
        }
        for id in everyone {
            let role = if voters.contains(&id) {
                MemberRole::Voter
            } else if learners.contains(&id) {
                MemberRole::Learner
            } else {
                MemberRole::Removed
            };
            let known = table.members.get(&id).map(|member| member.details.clone());
            let details = known
                .or_else(|| details.get(&id).cloned())
                .unwrap_or_default();
            table.removed.remove(&id);
            table.members.insert(id, TableMember { role, details });
            table.next_id = table.next_id.max(RaftId(id.0.saturating_add(1)));
        }
        table
    }

    /// True while two configurations decide together.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The members with a vote, ascending; while joint, those of the configuration to come.
    pub fn voters(&self) -> impl Iterator<Item = RaftId> {
        self.in_role(MemberRole::Voter)
    }

    /// The members in `role`, ascending.
    pub fn in_role(&self, role: MemberRole) -> impl Iterator<Item = RaftId> {
        self.members
            .iter()
            .filter(move |(_, member)| member.role == role)
            .map(|(id, _)| *id)
    }

    /// A change that took effect, if it is among the last [`RECENT_CHANGES`].
    #[must_use]
    pub fn applied(&self, id: &ChangeId) -> Option<&AppliedChange> {
        self.recent.iter().find(|change| change.id == *id)
    }

    /// The configuration as raft-rs states it, every list ascending.
    pub(crate) fn conf_state(&self) -> ConfState {
        let raw = |ids: &mut dyn Iterator<Item = RaftId>| ids.map(|id| id.0).collect::<Vec<_>>();
        let (next, learners): (Vec<_>, Vec<_>) = self
            .in_role(MemberRole::Learner)
            .partition(|id| self.outgoing.contains(id));
        ConfState {
            voters: raw(&mut self.voters()),
            learners: raw(&mut learners.into_iter()),
            voters_outgoing: raw(&mut self.outgoing.iter().copied()),
            learners_next: raw(&mut next.into_iter()),
            auto_leave: false,
        }
    }

    fn bury(&mut self, id: RaftId) {
        if let Some(member) = self.members.remove(&id) {
            self.removed.insert(id, member.details);
        }
    }

    /// The table behind the entry at `index` that carries `change`.
    pub(crate) fn with_change(
        &self,
        index: LogIndex,
        term: Term,
        change: &LoggedChange,
    ) -> Result<Self, Unfit> {
        if self.applied(&change.id).is_some() && !planted!(ApplyTwice) {
            return Err(Unfit::Repeated);
        }
        if self.is_joint() {
            return Err(Unfit::Joint);
        }
        let mut table = self.clone();
        table.index = index;
        let mut added = Vec::new();
        for edit in &change.edits {
            if !table.members.contains_key(&edit.id) {
                if edit.id < table.next_id && !planted!(ReuseId) {
                    return Err(Unfit::UsedId(edit.id));
                }
                if edit.role == MemberRole::Removed || edit.details.is_none() {
                    return Err(Unfit::Unknown(edit.id));
                }
                added.push(edit.id);
                table.next_id = RaftId(edit.id.0.saturating_add(1));
                if planted!(ReuseId) {
                    table.next_id = table.next_id.max(self.next_id);
                    table.removed.remove(&edit.id);
                }
            }
            let member = table.members.entry(edit.id).or_insert(TableMember {
                role: edit.role,
                details: Bytes::new(),
            });
            member.role = edit.role;
            if let Some(details) = &edit.details {
                member.details.clone_from(details);
            }
        }
        if table.voters().next().is_none() {
            return Err(Unfit::NoVoter);
        }
        let (voters, next): (BTreeSet<_>, BTreeSet<_>) =
            (self.voters().collect(), table.voters().collect());
        if change.joint {
            table.outgoing = voters;
        } else if voters.symmetric_difference(&next).count() > 1
            && !planted!(ChangeManyWithoutJoint)
        {
            return Err(Unfit::NotJoint);
        }
        table.bury_the_removed();
        table.recent.push(AppliedChange {
            id: change.id,
            index,
            term,
            added,
        });
        let excess = table.recent.len().saturating_sub(RECENT_CHANGES);
        table.recent.drain(..excess);
        Ok(table)
    }

    /// Whoever has no vote left in any configuration and is no member to be is removed.
    fn bury_the_removed(&mut self) {
        let gone: Vec<_> = self
            .in_role(MemberRole::Removed)
            .filter(|id| !self.outgoing.contains(id))
            .collect();
        gone.into_iter().for_each(|id| self.bury(id));
    }

    /// The table behind an entry from before there were tables, worked out without raft-rs. `None` if it does not apply.
    pub(crate) fn with_plain(
        &self,
        index: LogIndex,
        change: &ConfChangeV2,
        details: &BTreeMap<RaftId, Bytes>,
    ) -> Option<Self> {
        if self.is_joint() {
            return None;
        }
        let before: BTreeSet<_> = self.voters().collect();
        let mut conf_state = self.conf_state();
        if change.enter_joint().is_some() {
            conf_state.voters_outgoing.clone_from(&conf_state.voters);
        }
        for single in &change.changes {
            let id = single.node_id;
            let leaving = conf_state.voters_outgoing.contains(&id);
            for ids in [
                &mut conf_state.voters,
                &mut conf_state.learners,
                &mut conf_state.learners_next,
            ] {
                ids.retain(|other| *other != id);
            }
            match ConfChangeType::from_i32(single.change_type)? {
                ConfChangeType::AddNode => conf_state.voters.push(id),
                ConfChangeType::AddLearnerNode if leaving => conf_state.learners_next.push(id),
                ConfChangeType::AddLearnerNode => conf_state.learners.push(id),
                ConfChangeType::RemoveNode => {}
            }
        }
        let after = self.adopting(index, &conf_state, details);
        let next: BTreeSet<_> = after.voters().collect();
        let applies = !next.is_empty()
            && (after.is_joint() || before.symmetric_difference(&next).count() <= 1);
        applies.then_some(after)
    }

    /// The table behind the entry at `index` that leaves the joint configuration.
    pub(crate) fn left_joint(&self, index: LogIndex) -> Self {
        let mut table = self.clone();
        table.index = index;
        table.outgoing.clear();
        table.bury_the_removed();
        table
    }

    /// The table behind the entry at `index` by which `survivor` goes on alone. `None` if it is no member.
    pub(crate) fn broken(
        &self,
        index: LogIndex,
        term: Term,
        survivor: RaftId,
        note: Bytes,
    ) -> Option<Self> {
        let stays = self.members.get(&survivor)?;
        if stays.role == MemberRole::Removed {
            return None;
        }
        let mut table = self.clone();
        table.index = index;
        table.outgoing.clear();
        let lost: Vec<_> = self
            .members
            .keys()
            .copied()
            .filter(|id| *id != survivor)
            .collect();
        lost.iter().for_each(|id| table.bury(*id));
        if let Some(member) = table.members.get_mut(&survivor) {
            member.role = MemberRole::Voter;
        }
        table.breaks.push(Break {
            index,
            term,
            survivor,
            lost,
            note,
        });
        Some(table)
    }

    /// Checks the table in itself and against the configuration that raft-rs has in force.
    pub(crate) fn check(&self, conf_state: &ConfState) -> Result<(), TableError> {
        let fail = |fault| Err(TableError::Content { fault });
        let sorted = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        // Who is named twice is so in the configuration alone.
        let same =
            |own: &[u64], other: &[u64]| own.len() == other.len() && sorted(own) == sorted(other);
        let own = self.conf_state();
        let agree = [
            (&own.voters, &conf_state.voters),
            (&own.learners, &conf_state.learners),
            (&own.voters_outgoing, &conf_state.voters_outgoing),
            (&own.learners_next, &conf_state.learners_next),
        ]
        .into_iter()
        .all(|(own, other)| same(own, other));
        if !agree || conf_state.auto_leave {
            return fail("its roles differ from the configuration");
        }
        self.check_itself()
    }

    fn check_itself(&self) -> Result<(), TableError> {
        let fail = |fault| Err(TableError::Content { fault });
        let ids = || self.members.keys().chain(self.removed.keys());
        if ids().any(|id| *id >= self.next_id || id.0 == 0) {
            return fail("an id is 0 or not below the next id");
        }
        if self.removed.keys().any(|id| self.members.contains_key(id)) {
            return fail("a removed member is among the members");
        }
        if self
            .outgoing
            .iter()
            .any(|id| !self.members.contains_key(id))
        {
            return fail("an outgoing voter is not among the members");
        }
        if self
            .in_role(MemberRole::Removed)
            .any(|id| !self.outgoing.contains(&id))
        {
            return fail("a leaving member has no vote to lose");
        }
        if self.voters().next().is_none() {
            return fail("it has no voter");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
