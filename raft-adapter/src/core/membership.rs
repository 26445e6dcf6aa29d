//! Changes of the membership: judged and proposed by a leader, put in force on every member when they are committed,
//! answered when no joint configuration is left of them.

use std::sync::Arc;

use prost011::Message as _;
use raft::{
    GetEntriesContext, StateRole,
    eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    },
};

use super::{Core, PendingWrite, non_zero};
use crate::{
    error::{ChangeError, Fatal},
    ids::{LogIndex, RaftId, Term, Ticket, WriteNumber},
    io::{Answer, Envelope, Output, Persist},
    log::LogBatch,
    member_change::{ChangeDone, Logged, LoggedChange, MemberChange, single},
    member_table::{ChangeId, MemberRole, MemberTable, Unfit},
};

/// Callers waiting for one change; more are refused as `Busy`. They are operators who asked again.
const WAITING_MAX: usize = 256;
/// Election timeouts for which a member that no longer leads still waits to see a committed change finished by its
/// successor.
const PATIENCE_ELECTIONS: u32 = 4;

/// A change somebody waits for.
#[derive(Debug)]
pub(super) struct WaitingChange {
    id: ChangeId,
    /// The term in which this member leads, or led, while it waits.
    term: u64,
    /// The table it was made for.
    table: LogIndex,
    tickets: Vec<Ticket>,
    /// Ticks left once this member leads no longer.
    ticks_left: u32,
}

/// The change that stands in the log behind what is in force, as far as the leader of a term knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoggedAhead {
    term: u64,
    id: Option<ChangeId>,
}

enum Begun {
    Done(ChangeDone),
    Waits,
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
pub(crate) fn change_of(entry: &Entry) -> Option<Option<(ConfChangeV2, Logged)>> {
    let data = entry.data.as_slice();
    if planted!(SkipEmptyChange) && data.is_empty() {
        return None;
    }
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
    Some(change.filter(known).and_then(|change| {
        let logged = Logged::of(&change)?;
        Some((change, logged))
    }))
}

impl Core {
    /// The membership in force here.
    #[must_use]
    pub fn table(&self) -> &Arc<MemberTable> {
        self.raw.store().table()
    }

    pub(super) fn change_members(
        &mut self,
        change: &MemberChange,
        ticket: Ticket,
        out: &mut Vec<Output>,
    ) {
        let answer = match self.begin_change(change, ticket) {
            Ok(Begun::Waits) => return,
            Ok(Begun::Done(done)) => Ok(done),
            Err(refusal) => Err(refusal),
        };
        self.answer_change(ticket, answer, out);
    }

    fn answer_change(
        &mut self,
        ticket: Ticket,
        answer: Result<ChangeDone, ChangeError>,
        out: &mut Vec<Output>,
    ) {
        let label = answer.as_ref().map_or_else(ChangeError::label, |_| "done");
        fail_point!("raft.change.answer");
        *self.change_outcomes.entry(label).or_default() += 1;
        let answer = Answer::Change(answer);
        out.push(Output::Answer { ticket, answer });
    }

    fn begin_change(
        &mut self,
        change: &MemberChange,
        ticket: Ticket,
    ) -> Result<Begun, ChangeError> {
        let table = Arc::clone(self.table());
        if let Some(done) = done(&table, change.id)
            && !planted!(ApplyTwice)
        {
            return Ok(Begun::Done(done));
        }
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            let leader = non_zero(raft.leader_id);
            return Err(ChangeError::NotLeader { leader });
        }
        let current = Term(raft.term);
        if let Some(asked) = change.in_term
            && asked != current
        {
            return Err(ChangeError::OtherTerm { asked, current });
        }
        // Until this term's first entry is committed, an earlier leader's change may still come to be, here or through a leader
        // that holds it: neither acceptance nor refusal would be final.
        let settled = self
            .term_start
            .is_some_and(|start| self.processed >= start.0);
        match self.pending_change() {
            Some(Some(id)) if id == change.id => return self.wait_for(id, ticket),
            // raft-rs would answer Ok and append an empty entry in its place.
            Some(id) => return Err(ChangeError::Pending { id }),
            None if !settled => return Err(ChangeError::Pending { id: None }),
            None => {}
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(ChangeError::Busy);
        }
        if let Some(expected) = change.if_table
            && expected != table.index
        {
            let actual = table.index;
            return Err(ChangeError::TableMoved { expected, actual });
        }
        let logged = change.plan(&table, self.config.id)?;
        if !change.force {
            self.check_reachable(&table, &logged)?;
        }
        fail_point!("raft.change.propose");
        self.raw
            .propose_conf_change(Vec::new(), logged.to_raft())
            .map_err(|_| ChangeError::Busy)?;
        self.logged_ahead = Some(LoggedAhead {
            term: current.0,
            id: Some(change.id),
        });
        self.wait_for(change.id, ticket)
    }

    fn wait_for(&mut self, id: ChangeId, ticket: Ticket) -> Result<Begun, ChangeError> {
        let waiting = self.waiting_change.get_or_insert_with(|| WaitingChange {
            id,
            term: self.raw.raft.term,
            table: self.raw.store().table().index,
            tickets: Vec::new(),
            ticks_left: self
                .config
                .election_ticks
                .saturating_mul(PATIENCE_ELECTIONS),
        });
        // One change is pending at a time, and whoever waited for another was answered when it ceased to be.
        if waiting.id != id || waiting.tickets.len() >= WAITING_MAX {
            return Err(ChangeError::Busy);
        }
        waiting.tickets.push(ticket);
        Ok(Begun::Waits)
    }

    /// The change that is under way: `Some(None)` if there may be one that is not known.
    fn pending_change(&mut self) -> Option<Option<ChangeId>> {
        let table = self.table();
        if table.is_joint() {
            let entered = table.recent.last();
            return Some(
                entered
                    .filter(|change| change.index == table.index)
                    .map(|change| change.id),
            );
        }
        let raft = &self.raw.raft;
        if !raft.has_pending_conf() {
            return None;
        }
        let term = raft.term;
        if let Some(known) = self.logged_ahead.filter(|known| known.term == term) {
            return Some(known.id);
        }
        // A new leader looks once at what it took over.
        let (from, to) = (self.processed + 1, raft.raft_log.last_index() + 1);
        let entries = raft
            .raft_log
            .slice(from, to, None, GetEntriesContext::empty(false))
            .unwrap_or_default();
        let id = entries
            .iter()
            .rev()
            .find_map(|entry| match change_of(entry)?? {
                (_, Logged::Change(change)) => Some(change.id),
                _ => None,
            });
        self.logged_ahead = Some(LoggedAhead { term, id });
        Some(id)
    }

    /// Refuses a change that could not be finished, or behind which nothing could be ordered, with those who can be
    /// reached now.
    fn check_reachable(
        &self,
        table: &MemberTable,
        change: &LoggedChange,
    ) -> Result<(), ChangeError> {
        let Ok(after) = table.with_change(LogIndex(0), Term(0), change) else {
            return Err(ChangeError::NothingToDo);
        };
        for voters in [table, &after].map(|table| table.voters().collect::<Vec<_>>()) {
            let needed = voters.len() / 2 + 1;
            let unreachable: Vec<_> = voters
                .iter()
                .copied()
                .filter(|id| !self.is_caught_up(*id))
                .collect();
            let reachable = voters.len() - unreachable.len();
            if reachable < needed {
                return Err(ChangeError::QuorumAtRisk {
                    needed,
                    reachable,
                    unreachable,
                });
            }
        }
        Ok(())
    }

    fn is_caught_up(&self, id: RaftId) -> bool {
        let last = self.raw.raft.raft_log.last_index();
        let enough = last.saturating_sub(self.config.caught_up_entries);
        id == self.config.id
            || (self.is_heard(id)
                && self
                    .raw
                    .raft
                    .prs()
                    .get(id.0)
                    .is_some_and(|progress| progress.matched >= enough))
    }

    /// Answers whoever waits for a change once its outcome shows.
    pub(super) fn settle_change(&mut self, out: &mut Vec<Output>) {
        let Some(waiting) = &self.waiting_change else {
            return;
        };
        let (id, expected, patient) = (waiting.id, waiting.table, waiting.ticks_left > 0);
        let table = Arc::clone(self.table());
        let leads = self.raw.raft.state == StateRole::Leader;
        let same_term = self.raw.raft.term == waiting.term;
        let answer = if let Some(done) = done(&table, id) {
            Ok(done)
        } else if table.applied(&id).is_some() {
            // Committed; the joint configuration is still to be left, here or by a successor.
            if leads || patient {
                return;
            }
            Err(ChangeError::LeadershipLost)
        } else if leads {
            match self.pending_change() {
                Some(Some(pending)) if pending == id => return,
                _ if same_term => Err(ChangeError::TableMoved {
                    expected,
                    actual: table.index,
                }),
                _ => Err(ChangeError::LeadershipLost),
            }
        } else {
            Err(ChangeError::LeadershipLost)
        };
        if let Some(waiting) = self.waiting_change.take() {
            for ticket in waiting.tickets {
                self.answer_change(ticket, answer.clone(), out);
            }
        }
    }

    pub(super) fn age_change(&mut self) {
        if self.raw.raft.state != StateRole::Leader
            && let Some(waiting) = &mut self.waiting_change
        {
            waiting.ticks_left = waiting.ticks_left.saturating_sub(1);
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
            let (change, logged) = change.ok_or_else(|| Fatal::Impossible {
                what: format!(
                    "committed membership change at {} is unreadable",
                    entry.index
                ),
            })?;
            self.put_in_force(entry, &change, logged, out)?;
        }
        self.raw.advance_apply_to(last);
        self.processed = last;
        self.stop_leading_if_removed();
        Ok(())
    }

    fn put_in_force(
        &mut self,
        entry: &Entry,
        change: &ConfChangeV2,
        logged: Logged,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let before = Arc::clone(self.table());
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        if index <= before.index {
            // The table came with a manifest, ahead of the log.
            return Ok(());
        }
        let after = match &logged {
            Logged::Change(change) => before.with_change(index, term, change),
            Logged::Break { survivor, note } => before
                .broken(index, term, *survivor, note.clone())
                .ok_or(Unfit::Unknown(*survivor)),
            Logged::Leave if before.is_joint() => Ok(before.left_joint(index)),
            Logged::Leave => Err(Unfit::NothingToLeave),
            // What this makes of the table shows once raft-rs has carried it out.
            Logged::Plain => Ok(MemberTable::clone(&before)),
        };
        let after = match after {
            Ok(after) => after,
            // Every member refuses it alike: the decision depends on the table only.
            Err(unfit) => {
                tracing::warn!(%index, %unfit, "membership change does not apply");
                return Ok(());
            }
        };
        fail_point!("raft.change.apply");
        self.say_farewell(&before, &after);
        let carried_out = match &logged {
            Logged::Plain => {
                let Ok(conf_state) = self.raw.apply_conf_change(change) else {
                    tracing::warn!(%index, "membership change does not apply");
                    return Ok(());
                };
                let after = before.adopting(index, &conf_state, &self.config.details);
                Ok((conf_state, after))
            }
            Logged::Leave => self
                .raw
                .apply_conf_change(change)
                .map(|conf_state| (conf_state, after)),
            Logged::Change(logged) if logged.joint => self
                .raw
                .apply_conf_change(change)
                .map(|conf_state| (conf_state, after)),
            Logged::Change(logged) => self
                .apply_singly(logged.singles())
                .map(|conf_state| (conf_state, after)),
            Logged::Break { survivor, .. } => self
                .apply_break(&before, *survivor)
                .map(|conf_state| (conf_state, after)),
        };
        let (mut conf_state, after) = carried_out.map_err(|error| Fatal::Impossible {
            what: format!("membership change at {index} fits the table and not raft-rs: {error}"),
        })?;
        for ids in [
            &mut conf_state.voters,
            &mut conf_state.learners,
            &mut conf_state.voters_outgoing,
            &mut conf_state.learners_next,
        ] {
            ids.sort_unstable();
        }
        tracing::info!(%index, members = after.members.len(), joint = after.is_joint(), "membership changed");
        let (write, batch) =
            self.raw
                .mut_store()
                .save_membership(index.0, &conf_state, Arc::new(after));
        self.push_write(write, batch, Some(index), Vec::new(), out);
        Ok(())
    }

    /// Hands out a write that is no turn of raft-rs.
    pub(super) fn push_write(
        &mut self,
        write: WriteNumber,
        batch: LogBatch,
        gate: Option<LogIndex>,
        then_send: Vec<Envelope>,
        out: &mut Vec<Output>,
    ) {
        self.writes.push_back(PendingWrite {
            write,
            ready: None,
            holds_log: false,
            holds_vote: false,
            snapshot: None,
            gate,
        });
        out.push(Output::Persist(Persist {
            write,
            batch,
            then_send,
        }));
    }

    /// raft-rs takes several changes at once for a joint one, so those that need none go one by one. Nothing happens in
    /// between, and together they change at most one voter.
    fn apply_singly(&mut self, changes: Vec<ConfChangeSingle>) -> raft::Result<ConfState> {
        let mut conf_state = self.raw.raft.prs().conf().to_conf_state();
        for change in changes {
            let change = ConfChangeV2 {
                changes: vec![change],
                ..ConfChangeV2::default()
            };
            conf_state = self.raw.apply_conf_change(&change)?;
        }
        Ok(conf_state)
    }

    /// Takes raft-rs, whatever its configuration, to the one with `survivor` alone.
    fn apply_break(&mut self, before: &MemberTable, survivor: RaftId) -> raft::Result<ConfState> {
        if before.is_joint() {
            self.raw.apply_conf_change(&ConfChangeV2::default())?;
        }
        let others = before
            .members
            .keys()
            .filter(|id| **id != survivor)
            .map(|id| single(*id, MemberRole::Removed));
        let changes = std::iter::once(single(survivor, MemberRole::Voter)).chain(others);
        self.apply_singly(changes.collect())
    }

    /// A leader's last word to members it removes: what they lack of the log, and that it is committed. raft-rs forgets
    /// them the moment the removal is in force, and tells a member that it still probes nothing before that: such a
    /// member would never learn that it was removed.
    fn say_farewell(&mut self, before: &MemberTable, after: &MemberTable) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader {
            return;
        }
        let gone = before.members.keys();
        for id in gone.filter(|id| !after.members.contains_key(id)) {
            if id.0 == raft.id {
                continue;
            }
            if let Some(progress) = raft.mut_prs().get_mut(id.0) {
                progress.resume();
                raft.send_append(id.0);
            }
        }
    }

    /// raft-rs lets a leader go on that its own change removed.
    fn stop_leading_if_removed(&mut self) {
        if planted!(LeadAfterRemoval) {
            return;
        }
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(raft.id) {
            let term = raft.term;
            tracing::warn!(term, "this member is no voter any more and stops leading");
            raft.become_follower(term, 0);
        }
    }
}

/// The answer to a change that is in full effect.
fn done(table: &Arc<MemberTable>, id: ChangeId) -> Option<ChangeDone> {
    let change = table.applied(&id)?;
    let entered_here = table.is_joint() && change.index == table.index && !planted!(DoneWhileJoint);
    (!entered_here).then(|| ChangeDone {
        change: change.clone(),
        table: Arc::clone(table),
    })
}
