//! What must always hold, kept apart from everything that it judges.
//!
//! The checker sees members only from outside: their logs' terms, watermarks, tables, deliveries and answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use raft_adapter::{
    AppliedChange, ChangeDone, ChangeId, Core, Delivery, LogIndex, MemberChange, MemberRole,
    MemberStep, MemberTable, RECENT_CHANGES, RaftId, Role, Status,
};

use crate::random::{digest, mixed};

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// By whom and how.
    pub what: String,
}

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn violated(rule: &'static str, what: String) -> Checked {
    Err(Violation { rule, what })
}

fn require(holds: bool, rule: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        violated(rule, what())
    }
}

/// What the checker remembers of one member.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The log as last seen: terms by index.
    terms: BTreeMap<u64, u64>,
    first: u64,
    last: (u64, u64),
    /// Within this run of the process.
    committed: u64,
    persisted: u64,
    delivered: u64,
    voters: Vec<RaftId>,
    outgoing: Vec<RaftId>,
    /// The term in which it was last seen to lead.
    led: u64,
    /// It led, in that term, when it was last seen.
    leads: bool,
}

impl View {
    /// The entry is on this member's disk, or it was and is compacted.
    fn holds(&self, index: u64, term: u64) -> bool {
        self.persisted >= index && (index < self.first || self.terms.get(&index) == Some(&term))
    }
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    term: u64,
    /// The term of whoever was first seen to count it as committed.
    by: u64,
}

/// Everything that was ever agreed on, answered or promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    views: BTreeMap<u64, View>,
    leaders: BTreeMap<u64, u64>,
    /// The term before each entry there ever was: logs that share an entry share all before it.
    preceding: BTreeMap<(u64, u64), u64>,
    committed: BTreeMap<u64, Committed>,
    /// Content of proposals by the place they were given.
    proposed: BTreeMap<(u64, u64), u64>,
    /// What was applied: term and digest by index, and the digest of everything up to there.
    applied: Vec<(u64, u64, u64)>,
    tables: BTreeMap<u64, Arc<MemberTable>>,
    given: BTreeMap<u64, ChangeId>,
    changes: BTreeMap<ChangeId, AppliedChange>,
    asked: BTreeMap<ChangeId, MemberChange>,
    done: BTreeMap<ChangeId, AppliedChange>,
    /// Some request for it ended without a definite refusal.
    uncertain: BTreeSet<ChangeId>,
    acknowledged: u64,
    /// A disk went back in time: acknowledgements cannot be counted from outside any more.
    disks_went_back: bool,
}

impl Checks {
    /// Digest of all that was applied up to `index`, or nothing if nobody applied that much.
    pub(crate) fn chain(&self, index: u64) -> Option<u64> {
        if index == 0 {
            return Some(0);
        }
        self.applied
            .get(usize::try_from(index - 1).ok()?)
            .map(|it| it.2)
    }

    /// The last index that anyone applied.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.len() as u64
    }

    /// Whether a payload was applied.
    pub(crate) fn holds_payload(&self, digest: u64) -> bool {
        self.applied.iter().rev().any(|(_, it, _)| *it == digest)
    }

    /// Proposals whose outcome was told.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn tables(&self) -> &BTreeMap<u64, Arc<MemberTable>> {
        &self.tables
    }

    pub(crate) fn changes(&self) -> &BTreeMap<ChangeId, AppliedChange> {
        &self.changes
    }

    pub(crate) fn disk_went_back(&mut self) {
        self.disks_went_back = true;
    }

    /// A new process runs on a member's log.
    pub(crate) fn started(&mut self, id: u64, delivered: u64) {
        let view = self.views.entry(id).or_default();
        view.terms.clear();
        view.committed = 0;
        view.persisted = 0;
        view.last = (0, 0);
        view.delivered = delivered;
        view.led = 0;
        view.leads = false;
    }

    /// A member's process ended: what its disk held by then still counts.
    pub(crate) fn ended(&mut self, core: &Core, status: &Status) {
        let view = self.views.entry(status.id.0).or_default();
        let persisted = status.persisted.0;
        for index in status.first_index.0..=persisted {
            if let Some(term) = core.entry_term(LogIndex(index)) {
                view.terms.insert(index, term.0);
            }
        }
        view.persisted = persisted;
    }

    /// After every step of a member.
    pub(crate) fn step(&mut self, core: &Core, status: &Status) -> Checked {
        let id = status.id.0;
        core.watermarks().check().or_else(|error| {
            violated("watermarks are in order", format!("member {id}: {error}"))
        })?;
        let mut view = self.views.remove(&id).unwrap_or_default();
        let outcome = self
            .see_log(id, core, status, &mut view)
            .and_then(|()| self.see_leader(core, status, &mut view))
            .and_then(|()| self.see_commit(core, status, &mut view));
        view.voters.clone_from(&status.voters);
        view.outgoing.clone_from(&status.voters_outgoing);
        view.leads = status.role == Role::Leader;
        self.views.insert(id, view);
        outcome?;
        self.see_table(id, &status.table)?;
        self.see_roles(core, status)
    }

    /// Log matching: the same entry in two logs has the same one before it.
    fn see_log(&mut self, id: u64, core: &Core, status: &Status, view: &mut View) -> Checked {
        let (first, last) = (status.first_index.0, status.last_index.0);
        let term_of = |index: u64| core.entry_term(LogIndex(index)).map_or(0, |term| term.0);
        view.persisted = status.persisted.0;
        let now = (last, term_of(last));
        if now == view.last && first == view.first {
            return Ok(());
        }
        view.terms.split_off(&(last + 1));
        view.terms = view.terms.split_off(&first);
        view.first = first;
        view.last = now;
        for index in (first..=last).rev() {
            let term = term_of(index);
            if view.terms.insert(index, term) == Some(term) {
                break;
            }
            let before = term_of(index - 1);
            require(term >= before && term > 0, "terms in a log ascend", || {
                format!("member {id}: term {term} at {index}, {before} before it")
            })?;
            let known = *self.preceding.entry((index, term)).or_insert(before);
            require(known == before, "logs match", || {
                format!(
                    "member {id}: before {index} of term {term} lies an entry of {before}, elsewhere of {known}"
                )
            })?;
        }
        Ok(())
    }

    /// One leader a term, and it holds everything that was committed before.
    fn see_leader(&mut self, core: &Core, status: &Status, view: &mut View) -> Checked {
        if status.role != Role::Leader || view.led == status.term.0 {
            return Ok(());
        }
        let (id, term) = (status.id.0, status.term.0);
        view.led = term;
        let leader = *self.leaders.entry(term).or_insert(id);
        require(leader == id, "one leader a term", || {
            format!("members {leader} and {id} lead in term {term}")
        })?;
        for (index, committed) in &self.committed {
            if committed.by >= term || *index < status.first_index.0 {
                continue;
            }
            let found = core.entry_term(LogIndex(*index)).map(|term| term.0);
            require(
                found == Some(committed.term),
                "a leader holds everything committed",
                || {
                    format!(
                        "member {id}, leader of term {term}, holds {found:?} at {index}; committed is term {}",
                        committed.term
                    )
                },
            )?;
        }
        Ok(())
    }

    /// Commit never goes back, never means two things, and rests on majorities of disks.
    fn see_commit(&mut self, core: &Core, status: &Status, view: &mut View) -> Checked {
        let (id, committed) = (status.id.0, status.committed.0);
        require(
            committed >= view.committed,
            "commit never goes back",
            || format!("member {id}: from {} to {committed}", view.committed),
        )?;
        // Disks that were wiped since do not take back what was counted when they held it; a new leader may hear of it by a vote.
        let known_before = self.committed.contains_key(&committed);
        let from = (view.committed + 1).max(status.first_index.0);
        for index in from..=committed {
            let Some(term) = core.entry_term(LogIndex(index)).map(|term| term.0) else {
                continue;
            };
            let by = status.term.0;
            let known = *self
                .committed
                .entry(index)
                .or_insert(Committed { term, by });
            require(known.term == term, "committed entries agree", || {
                format!(
                    "member {id} has term {term} committed at {index}, others {}",
                    known.term
                )
            })?;
        }
        if status.role == Role::Leader && committed > view.committed && view.committed > 0 {
            let term = core.entry_term(status.committed).map_or(0, |term| term.0);
            // Raft thesis, 3.6.2: an entry of an earlier term may still be replaced, whoever holds it.
            require(
                !view.leads || term == status.term.0,
                "a leader counts entries of its own term only",
                || {
                    format!(
                        "member {id} in term {} counts {committed} of term {term}",
                        status.term
                    )
                },
            )?;
            let before = [&view.voters, &view.outgoing];
            let after = [&status.voters, &status.voters_outgoing];
            let legitimate = known_before
                || self.disks_went_back
                || self.quorum_holds(id, view, before, committed, term)
                || self.quorum_holds(id, view, after, committed, term);
            require(
                legitimate,
                "a majority of disks holds what is committed",
                || {
                    format!(
                        "member {id} counts {committed} of term {term} as committed; voters {:?}, outgoing {:?}",
                        status.voters, status.voters_outgoing
                    )
                },
            )?;
        }
        view.committed = committed;
        Ok(())
    }

    fn quorum_holds(
        &self,
        id: u64,
        own: &View,
        halves: [&Vec<RaftId>; 2],
        index: u64,
        term: u64,
    ) -> bool {
        halves.into_iter().all(|voters| {
            let holders = voters.iter().filter(|voter| {
                let view = if voter.0 == id {
                    Some(own)
                } else {
                    self.views.get(&voter.0)
                };
                view.is_some_and(|view| view.holds(index, term))
            });
            voters.is_empty() || holders.count() > voters.len() / 2
        })
    }

    /// The same table at the same index everywhere, and no id given twice, and no change applied twice.
    pub(crate) fn see_table(&mut self, id: u64, table: &Arc<MemberTable>) -> Checked {
        if let Some(known) = self.tables.get(&table.index.0) {
            return require(
                Arc::ptr_eq(known, table) || known == table,
                "tables agree",
                || {
                    format!(
                        "member {id}: the table of {} is {table:?}, elsewhere {known:?}",
                        table.index
                    )
                },
            );
        }
        for change in &table.recent {
            let known = self
                .changes
                .entry(change.id)
                .or_insert_with(|| change.clone());
            require(known == change, "a change takes effect once", || {
                format!("member {id}: {change:?}, elsewhere {known:?}")
            })?;
            for added in &change.added {
                let given = *self.given.entry(added.0).or_insert(change.id);
                require(given == change.id, "an id is given once", || {
                    format!("member {id}: {added} by {} and {given}", change.id)
                })?;
            }
        }
        let ids: BTreeSet<_> = table.recent.iter().map(|change| change.id).collect();
        require(
            ids.len() == table.recent.len(),
            "a change takes effect once",
            || format!("member {id}: {:?}", table.recent),
        )?;
        if table.recent.len() < RECENT_CHANGES {
            let forgotten = self
                .changes
                .values()
                .find(|change| change.index <= table.index && !ids.contains(&change.id));
            require(forgotten.is_none(), "history keeps every change", || {
                format!(
                    "member {id}: the table of {} lacks {forgotten:?}",
                    table.index
                )
            })?;
        }
        self.tables.insert(table.index.0, Arc::clone(table));
        Ok(())
    }

    /// Roles in force are those of the table, and the table is the one of its position.
    fn see_roles(&self, core: &Core, status: &Status) -> Checked {
        let id = status.id.0;
        let table = &status.table;
        let voters: Vec<_> = table.voters().collect();
        let outgoing: Vec<_> = table.outgoing.iter().copied().collect();
        let in_force = voters == status.voters && outgoing == status.voters_outgoing;
        require(in_force, "votes are those of the table", || {
            format!(
                "member {id}: {:?} and {:?}, table {table:?}",
                status.voters, status.voters_outgoing
            )
        })?;
        let votes = voters.contains(&status.id) || outgoing.contains(&status.id);
        require(
            status.role != Role::Leader || votes,
            "only a voter leads",
            || format!("member {id} leads without a vote, table of {}", table.index),
        )?;
        let processed = core.watermarks().processed.0;
        if let Some((newest, _)) = self.tables.range(..=processed).next_back() {
            require(
                table.index.0 >= *newest,
                "the table is that of its position",
                || {
                    format!(
                        "member {id} at {processed} has the table of {}, due is that of {newest}",
                        table.index
                    )
                },
            )?;
        }
        Ok(())
    }

    /// A proposal was put into the log of a leader whose vote for itself is durable.
    pub(crate) fn proposed(&mut self, index: u64, term: u64, digest: u64) -> Checked {
        let known = *self.proposed.entry((index, term)).or_insert(digest);
        require(known == digest, "a place is given once", || {
            format!("two proposals at {index} of term {term}")
        })
    }

    /// The application of `id` takes a delivery.
    pub(crate) fn deliver(&mut self, id: u64, delivery: &Delivery) -> Checked {
        let index = delivery.index().0;
        let before = self.views.get(&id).map_or(0, |view| view.delivered);
        match delivery {
            Delivery::Snapshot(snapshot) => {
                require(index > before, "deliveries go forward", || {
                    format!("member {id}: manifest {index} after {before}")
                })?;
                let expected = self.chain(index).map(|chain| manifest(index, chain));
                require(
                    expected.is_some_and(|expected| snapshot.manifest == expected),
                    "a manifest is the one that was made",
                    || format!("member {id}: {:?} at {index}", snapshot.manifest),
                )?;
                self.see_table(id, &snapshot.table)?;
                self.see_position(id, index, &snapshot.table)?;
            }
            Delivery::Entry(entry) => {
                self.next(id, before, index)?;
                let content = digest(1, &entry.payload);
                if let Some(proposed) = self.proposed.get(&(index, entry.term.0)) {
                    require(
                        *proposed == content,
                        "what is delivered was proposed",
                        || format!("member {id}: other bytes at {index} than proposed"),
                    )?;
                } else {
                    require(
                        entry.payload.is_empty(),
                        "what is delivered was proposed",
                        || format!("member {id}: nobody proposed what is at {index}"),
                    )?;
                }
                self.agree(id, index, entry.term.0, content)?;
            }
            Delivery::Members(changed) => {
                self.next(id, before, index)?;
                self.see_table(id, &changed.table)?;
                self.see_position(id, index, &changed.table)?;
                self.agree(id, index, changed.term.0, 2)?;
            }
        }
        if let Some(view) = self.views.get_mut(&id) {
            view.delivered = index;
        }
        Ok(())
    }

    fn next(&self, id: u64, before: u64, index: u64) -> Checked {
        require(index == before + 1, "deliveries have no gap", || {
            format!("member {id}: {index} after {before}")
        })
    }

    /// A table delivered at `index` is the newest that was made up to there, or newer.
    fn see_position(&self, id: u64, index: u64, table: &MemberTable) -> Checked {
        let due = self
            .tables
            .range(..=index)
            .next_back()
            .map_or(0, |it| *it.0);
        require(
            table.index.0 >= due,
            "the table is that of its position",
            || {
                format!(
                    "member {id}: at {index} the table of {} is delivered, due is that of {due}",
                    table.index
                )
            },
        )
    }

    fn agree(&mut self, id: u64, index: u64, term: u64, content: u64) -> Checked {
        let committed = self.committed.get(&index).map(|it| it.term);
        require(
            committed == Some(term),
            "what is delivered is committed",
            || format!("member {id}: term {term} at {index}, committed is {committed:?}"),
        )?;
        let at = index as usize - 1;
        match self.applied.get(at) {
            Some((known, digest, _)) => require(
                (*known, *digest) == (term, content),
                "applied sequences are equal",
                || format!("member {id} differs at {index}"),
            ),
            None => {
                require(
                    at == self.applied.len(),
                    "applied sequences are equal",
                    || {
                        format!(
                            "member {id} is at {index}, everyone before it ended at {}",
                            self.applied.len()
                        )
                    },
                )?;
                let before = self.chain(index - 1).unwrap_or_default();
                let chain = mixed(mixed(before ^ term) ^ content);
                self.applied.push((term, content, chain));
                Ok(())
            }
        }
    }

    /// A client was told that its payload is in: it is delivered at its place on the member that said so.
    pub(crate) fn acknowledge(&mut self, index: u64, term: u64, content: u64) -> Checked {
        self.acknowledged += 1;
        let found = self.applied.get(index as usize - 1).map(|it| (it.0, it.1));
        require(
            found == Some((term, content)),
            "nothing acknowledged is lost",
            || format!("{index} of term {term} holds {found:?}"),
        )
    }

    pub(crate) fn asked(&mut self, change: &MemberChange) {
        self.asked.insert(change.id, change.clone());
    }

    /// A request for the change ended without a definite answer.
    pub(crate) fn uncertain(&mut self, id: ChangeId) {
        self.uncertain.insert(id);
    }

    /// A change was reported as done. True if it had been before.
    pub(crate) fn done(&mut self, at: u64, done: &ChangeDone) -> Result<bool, Violation> {
        let id = done.change.id;
        self.see_table(at, &done.table)?;
        let known = self.done.insert(id, done.change.clone());
        require(
            known.as_ref().is_none_or(|known| *known == done.change),
            "a change has one answer",
            || format!("{:?}, before {known:?}", done.change),
        )?;
        let in_force = self.committed.get(&done.change.index.0).map(|it| it.term);
        require(
            in_force == Some(done.change.term.0),
            "a change reported as done is committed",
            || format!("{:?}, committed is {in_force:?}", done.change),
        )?;
        let entered = done.table.is_joint() && done.table.index == done.change.index;
        require(
            !entered,
            "a change reported as done is in full effect",
            || format!("{:?} is joint still", done.change),
        )?;
        let lacking = self.tables.range(done.change.index.0..).find(|(_, table)| {
            table.recent.len() < RECENT_CHANGES && table.applied(&id) != Some(&done.change)
        });
        require(lacking.is_none(), "history keeps every change", || {
            format!("{:?} is not in {lacking:?}", done.change)
        })?;
        self.has_effect(done)?;
        Ok(known.is_some())
    }

    /// What was asked for is so in the table that the change made.
    fn has_effect(&self, done: &ChangeDone) -> Checked {
        let (Some(asked), Some(table)) = (
            self.asked.get(&done.change.id),
            self.tables.get(&done.change.index.0),
        ) else {
            return Ok(());
        };
        let role = |id: &RaftId| {
            table
                .members
                .get(id)
                .map_or(MemberRole::Removed, |it| it.role)
        };
        let mut added = done.change.added.iter();
        for step in &asked.steps {
            let so = match step {
                MemberStep::Add { role: wanted, .. } => {
                    added.next().is_some_and(|id| role(id) == *wanted)
                }
                MemberStep::SetRole { id, role: wanted } => role(id) == *wanted,
                MemberStep::SetDetails { id, details } => table
                    .members
                    .get(id)
                    .is_some_and(|it| it.details == *details),
                MemberStep::Remove { id } => role(id) == MemberRole::Removed,
            };
            require(so, "a change does what was asked", || {
                format!("{step:?} in {:?}", done.change)
            })?;
        }
        Ok(())
    }

    /// At the end: what was refused for certain, each time, did not happen.
    pub(crate) fn refusals(&self, open: &BTreeSet<ChangeId>) -> Checked {
        let broken = self.changes.keys().find(|id| {
            !self.done.contains_key(id) && !self.uncertain.contains(id) && !open.contains(id)
        });
        require(broken.is_none(), "a refused change has no effect", || {
            format!("change {broken:?}")
        })
    }
}

/// What an application hands out for everything up to `index`.
pub(crate) fn manifest(index: u64, chain: u64) -> String {
    format!("manifest {index} {chain:016x}")
}
