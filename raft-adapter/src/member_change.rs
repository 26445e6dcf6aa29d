//! Changes of the membership: as they are asked for, and as they stand in the log.
//!
//! ```text
//! context of a logged change   version u8 (1), kind u8
//!   kind 1, change   change id 16 bytes, joint u8 (0, 1), edits: count u32, each:
//!                    id u64, role u8 (1 voter, 2 learner, 3 removed), has details u8 (0, 1), details if it has
//!   kind 2, break    survivor u64, note (length u32, bytes)
//! ```
//!
//! It travels in the context of raft-rs' `ConfChangeV2`, whose own list of changes says the same for raft-rs. The ids of
//! new members are in it: they are given once, by the leader that took the change.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::{
    encoding::{Reader, put_blob, put_count, put_numbers},
    error::ChangeError,
    ids::{LogIndex, RaftId, Term},
    member_table::{
        AppliedChange, ChangeId, DETAILS_BYTES_MAX, MEMBERS_MAX, MemberRole, MemberTable,
    },
};

const VERSION: u8 = 1;
const KIND_CHANGE: u8 = 1;
const KIND_BREAK: u8 = 2;
/// Steps of one change at most: each member of a full table is touched by a role and a details step, and replaced.
const STEPS_MAX: usize = 4 * MEMBERS_MAX;

/// One part of a change. Each member at most once, except that a role and details may both be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberStep {
    /// A new member; the leader gives it the next id.
    Add {
        /// Voter or learner.
        role: MemberRole,
        /// What the application needs to know about it.
        details: Bytes,
    },
    /// Promotes or demotes. To `Removed` is the same as [`MemberStep::Remove`].
    SetRole {
        /// The member.
        id: RaftId,
        /// What it is to be.
        role: MemberRole,
    },
    /// Replaces the details.
    SetDetails {
        /// The member.
        id: RaftId,
        /// All of them, not only what changed.
        details: Bytes,
    },
    /// The member leaves for ever.
    Remove {
        /// The member.
        id: RaftId,
    },
}

/// A change of the membership, from what it is to what it is to be, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberChange {
    /// Makes it safe to ask again when the answer was lost.
    pub id: ChangeId,
    /// At least one.
    pub steps: Vec<MemberStep>,
    /// Take the change although a majority would then hang on members that cannot be reached now.
    pub force: bool,
    /// Refuse unless the table is still the one with this index.
    pub if_table: Option<LogIndex>,
    /// Refuse unless this member leads in this term.
    pub in_term: Option<Term>,
}

/// A change in full effect: committed, and no joint configuration left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeDone {
    /// Its place in the log and the ids it gave.
    pub change: AppliedChange,
    /// The table at the moment of the answer.
    pub table: Arc<MemberTable>,
}

/// What a member is from an entry on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub id: RaftId,
    pub role: MemberRole,
    /// `None`: as they were.
    pub details: Option<Bytes>,
}

/// A change with its ids, as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedChange {
    pub id: ChangeId,
    /// Old and new voters decide together until another entry ends that (Raft thesis, 4.3).
    pub joint: bool,
    pub edits: Vec<Edit>,
}

/// What an entry of raft-rs' membership kind means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    Change(LoggedChange),
    Break {
        survivor: RaftId,
        note: Bytes,
    },
    /// Leaves the joint configuration. raft-rs writes it as empty data.
    Leave,
    /// From before there were tables: raft-rs' list is all there is.
    Plain,
}

impl MemberChange {
    /// Works out what the change does to `table` under a leader `leader`, without looking at who can be reached.
    ///
    /// # Errors
    /// The refusals that depend on change and table alone.
    pub(crate) fn plan(
        &self,
        table: &MemberTable,
        leader: RaftId,
    ) -> Result<LoggedChange, ChangeError> {
        if self.steps.len() > STEPS_MAX {
            return Err(ChangeError::TooManySteps { max: STEPS_MAX });
        }
        let mut edits: Vec<Edit> = Vec::new();
        let mut roles_set = BTreeMap::new();
        let mut details_set = BTreeMap::new();
        let mut next_id = table.next_id;
        if planted!(ReuseId) {
            let highest = table.members.keys().max().copied().unwrap_or_default();
            next_id = RaftId(highest.0.saturating_add(1));
        }
        for step in &self.steps {
            match step {
                MemberStep::Add { role, details } => {
                    check_details(details)?;
                    if *role == MemberRole::Removed {
                        return Err(ChangeError::AddedAsRemoved);
                    }
                    edits.push(Edit {
                        id: next_id,
                        role: *role,
                        details: Some(details.clone()),
                    });
                    next_id = RaftId(next_id.0.saturating_add(1));
                }
                MemberStep::SetRole { id, role } => {
                    set_once(&mut roles_set, table, *id, *role)?;
                }
                MemberStep::Remove { id } => {
                    set_once(&mut roles_set, table, *id, MemberRole::Removed)?;
                }
                MemberStep::SetDetails { id, details } => {
                    check_details(details)?;
                    set_once(&mut details_set, table, *id, details.clone())?;
                }
            }
        }
        let touched: std::collections::BTreeSet<RaftId> = roles_set
            .keys()
            .chain(details_set.keys())
            .copied()
            .collect();
        for id in touched {
            let Some(member) = table.members.get(&id) else {
                continue;
            };
            let role = roles_set.get(&id).copied().unwrap_or(member.role);
            let details = details_set
                .get(&id)
                .filter(|details| **details != member.details)
                .cloned();
            if role == MemberRole::Removed && details_set.contains_key(&id) {
                return Err(ChangeError::MemberTwice { id });
            }
            if role != member.role || details.is_some() {
                edits.push(Edit { id, role, details });
            }
        }
        if edits.is_empty() {
            return Err(ChangeError::NothingToDo);
        }
        let mut change = LoggedChange {
            id: self.id,
            joint: false,
            edits,
        };
        change.joint = change.needs_joint(table, leader);
        let outcome = table.with_change(LogIndex(0), Term(0), &change);
        match outcome {
            Ok(after) if after.members.len() > MEMBERS_MAX => {
                Err(ChangeError::TooManyMembers { max: MEMBERS_MAX })
            }
            Ok(_) => Ok(change),
            // The rest was excluded above or by whoever asks for the plan.
            Err(_) => Err(ChangeError::NoVoterLeft),
        }
    }
}

fn check_details(details: &Bytes) -> Result<(), ChangeError> {
    if details.len() > DETAILS_BYTES_MAX {
        return Err(ChangeError::DetailsTooLong {
            got: details.len(),
            max: DETAILS_BYTES_MAX,
        });
    }
    Ok(())
}

fn set_once<T>(
    set: &mut BTreeMap<RaftId, T>,
    table: &MemberTable,
    id: RaftId,
    value: T,
) -> Result<(), ChangeError> {
    if table.removed.contains_key(&id) {
        return Err(ChangeError::AlreadyRemoved { id });
    }
    if !table.members.contains_key(&id) {
        return Err(ChangeError::UnknownMember { id });
    }
    match set.insert(id, value) {
        None => Ok(()),
        Some(_) => Err(ChangeError::MemberTwice { id }),
    }
}

impl LoggedChange {
    /// Majorities before and after must overlap: one changed voter keeps that by itself. The leader's own vote is the
    /// exception, for it has to hand over before it loses it.
    fn needs_joint(&self, table: &MemberTable, leader: RaftId) -> bool {
        let was_voter = |id: &RaftId| {
            table
                .members
                .get(id)
                .is_some_and(|member| member.role == MemberRole::Voter)
        };
        let changed = self
            .edits
            .iter()
            .filter(|edit| was_voter(&edit.id) != (edit.role == MemberRole::Voter))
            .count();
        let leader_stays = self
            .edits
            .iter()
            .all(|edit| edit.id != leader || edit.role == MemberRole::Voter);
        (changed > 1 && !planted!(ChangeManyWithoutJoint)) || !leader_stays
    }

    fn context(&self) -> Vec<u8> {
        let mut out = vec![VERSION, KIND_CHANGE];
        out.extend_from_slice(&self.id.0);
        out.push(u8::from(self.joint));
        put_count(&mut out, self.edits.len());
        for edit in &self.edits {
            put_numbers(&mut out, &[edit.id.0]);
            out.push(edit.role.code());
            out.push(u8::from(edit.details.is_some()));
            if let Some(details) = &edit.details {
                put_blob(&mut out, details);
            }
        }
        out
    }

    /// For raft-rs. A member whose details alone change is named in its own role: raft-rs refuses an empty change, and
    /// naming a member as what it is leaves its progress alone.
    pub(crate) fn to_raft(&self) -> ConfChangeV2 {
        let transition = if self.joint {
            ConfChangeTransition::Explicit
        } else {
            ConfChangeTransition::Auto
        };
        ConfChangeV2 {
            transition: transition as i32,
            changes: self.singles(),
            context: self.context(),
        }
    }

    /// The changes for raft-rs, one by one.
    pub(crate) fn singles(&self) -> Vec<ConfChangeSingle> {
        self.edits
            .iter()
            .map(|edit| single(edit.id, edit.role))
            .collect()
    }
}

/// One change for raft-rs.
pub(crate) fn single(id: RaftId, role: MemberRole) -> ConfChangeSingle {
    let change_type = match role {
        MemberRole::Voter => ConfChangeType::AddNode,
        MemberRole::Learner if planted!(CountLearners) => ConfChangeType::AddNode,
        MemberRole::Learner => ConfChangeType::AddLearnerNode,
        MemberRole::Removed => ConfChangeType::RemoveNode,
    };
    ConfChangeSingle {
        change_type: change_type as i32,
        node_id: id.0,
    }
}

impl Logged {
    /// A forced new beginning, for the log. raft-rs' part is only what keeps it from being taken for a leave.
    pub(crate) fn break_to_raft(survivor: RaftId, note: &Bytes) -> ConfChangeV2 {
        let mut context = vec![VERSION, KIND_BREAK];
        put_numbers(&mut context, &[survivor.0]);
        put_blob(&mut context, note);
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![single(survivor, MemberRole::Voter)],
            context,
        }
    }

    /// What `change` means. `None` if it is not what a member of this version writes.
    pub(crate) fn of(change: &ConfChangeV2) -> Option<Self> {
        if change.context.is_empty() {
            return Some(if change.changes.is_empty() {
                Self::Leave
            } else {
                Self::Plain
            });
        }
        let logged = Self::read(&change.context)?;
        let same = match &logged {
            Self::Change(logged) => logged.to_raft() == *change,
            Self::Break { survivor, note } => Self::break_to_raft(*survivor, note) == *change,
            Self::Leave | Self::Plain => false,
        };
        same.then_some(logged)
    }

    fn read(context: &[u8]) -> Option<Self> {
        let mut reader = Reader(context);
        if reader.u8()? != VERSION {
            return None;
        }
        match reader.u8()? {
            KIND_CHANGE => {
                let id = ChangeId(reader.array()?);
                let joint = read_flag(&mut reader)?;
                let edits = (0..reader.count(10)?)
                    .map(|_| read_edit(&mut reader))
                    .collect::<Option<Vec<_>>>()?;
                (!edits.is_empty()).then_some(Self::Change(LoggedChange { id, joint, edits }))
            }
            KIND_BREAK => Some(Self::Break {
                survivor: RaftId(reader.u64()?),
                note: reader.blob(DETAILS_BYTES_MAX)?,
            }),
            _ => None,
        }
    }
}

fn read_flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_edit(reader: &mut Reader<'_>) -> Option<Edit> {
    let id = RaftId(reader.u64()?);
    let role = MemberRole::from_code(reader.u8()?)?;
    let details = if read_flag(reader)? {
        Some(reader.blob(DETAILS_BYTES_MAX)?)
    } else {
        None
    };
    (id.0 != 0).then_some(Edit { id, role, details })
}

#[cfg(test)]
mod tests;
