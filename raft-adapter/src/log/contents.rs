//! The log as it stands in memory: where each entry lies, the newest entries themselves, and the state beside them.
//!
//! Replay at open and appending afterwards change it by the same methods, so that a restart sees what was written.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

use super::{cut_terms::CutTerms, disk::SegmentNumber, record::Marker};
use crate::{
    ids::{LogIndex, RaftId},
    member_table::MemberTable,
};

/// A configuration as raft-rs states it, and the member table it belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Membership {
    pub conf_state: ConfState,
    pub table: Arc<MemberTable>,
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub term: u64,
    pub segment: SegmentNumber,
    pub offset: u64,
    pub size_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Index of the first slot. One more than the cut, except in the middle of a replay.
    base: u64,
    slots: VecDeque<Slot>,
    /// The newest entries, without a gap, ending with the last slot's.
    cache: VecDeque<Entry>,
    cached_bytes: u64,
    cache_limit_bytes: u64,
    /// What is gone and what stands for it.
    marker: Marker,
    cut_terms: CutTerms,
    pub hard_state: HardState,
    /// The membership that belongs to the marker.
    at_snapshot: Membership,
    /// Membership by the index from which it is in force, down to the one that was at the cut.
    memberships: BTreeMap<u64, Membership>,
    /// Indexes of the entries that are membership changes.
    changes: BTreeSet<u64>,
    /// Details of genesis' members, for records from before there were tables.
    details: BTreeMap<RaftId, Bytes>,
    /// Entries up to here were acknowledged by this member, which lost some of them since; 0: none.
    pub floor: u64,
}

impl Contents {
    pub(crate) fn new(
        genesis: MemberTable,
        details: BTreeMap<RaftId, Bytes>,
        cache_limit_bytes: u64,
    ) -> Self {
        let genesis = Membership {
            conf_state: genesis.conf_state(),
            table: Arc::new(genesis),
        };
        Self {
            base: 1,
            cache_limit_bytes,
            marker: Marker {
                conf_state: genesis.conf_state.clone(),
                table: Some(Arc::clone(&genesis.table)),
                ..Marker::default()
            },
            at_snapshot: genesis,
            details,
            ..Self::default()
        }
    }

    /// The table of a record, or for one from before there were tables, what its configuration tells.
    fn table_of(
        &self,
        index: u64,
        conf_state: &ConfState,
        table: Option<Arc<MemberTable>>,
    ) -> Membership {
        let table = table.unwrap_or_else(|| {
            Arc::new(MemberTable::from_conf_state(
                LogIndex(index),
                conf_state,
                &self.details,
            ))
        });
        Membership {
            conf_state: conf_state.clone(),
            table,
        }
    }

    pub(crate) fn marker(&self) -> &Marker {
        &self.marker
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.marker.cut_index + 1
    }

    pub(crate) fn last_index(&self) -> u64 {
        if self.slots.is_empty() {
            self.marker.cut_index
        } else {
            self.end() - 1
        }
    }

    /// Index behind the last slot.
    fn end(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// First and last index whose place is known, if there are any.
    pub(crate) fn span(&self) -> Option<(u64, u64)> {
        (!self.slots.is_empty()).then(|| (self.base, self.end() - 1))
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots
            .get(usize::try_from(index.checked_sub(self.base)?).ok()?)
    }

    /// The term at `index`, from the last entry that is gone to the last there is.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.marker.cut_index {
            return Some(self.marker.cut_term);
        }
        if index == self.marker.snapshot_index && self.slot(index).is_none() && index != 0 {
            return Some(self.marker.snapshot_term);
        }
        self.slot(index).map(|slot| slot.term)
    }

    /// The term at `index` even if the entry was cut since this process began.
    pub(crate) fn term_once(&self, index: u64) -> Option<u64> {
        let cut = || self.cut_terms.term(index);
        self.term(index).or_else(|| {
            if planted!(ForgetCutTerms) {
                None
            } else {
                cut()
            }
        })
    }

    /// The entry at `index` if it is in memory.
    pub(crate) fn cached(&self, index: u64) -> Option<&Entry> {
        let from_end = usize::try_from(self.end().checked_sub(index)?).ok()?;
        self.cache.get(self.cache.len().checked_sub(from_end)?)
    }

    /// Puts an entry at its index and voids all it had behind it. Answers false if entries before it are missing.
    pub(crate) fn put(&mut self, entry: Entry, slot: Slot) -> bool {
        let index = entry.index;
        if self.slots.is_empty() {
            self.base = index;
        } else if index > self.end() {
            return false;
        } else if index < self.end() {
            self.truncate_from(index);
            if self.slots.is_empty() {
                self.base = index;
            }
        }
        self.slots.push_back(slot);
        if is_change(&entry) {
            self.changes.insert(index);
        }
        self.cached_bytes += entry_bytes(&entry);
        self.cache.push_back(entry);
        true
    }

    fn truncate_from(&mut self, index: u64) {
        self.changes.split_off(&index);
        let keep = usize::try_from(index.saturating_sub(self.base)).unwrap_or(usize::MAX);
        while self.slots.len() > keep {
            self.slots.pop_back();
            if let Some(entry) = self.cache.pop_back() {
                self.cached_bytes -= entry_bytes(&entry);
            }
        }
    }

    /// Forgets the oldest cached entries until the limit is kept, but none behind `durable`: they can be read nowhere else.
    pub(crate) fn evict(&mut self, durable: u64) {
        while self.cached_bytes > self.cache_limit_bytes {
            match self.cache.front() {
                Some(entry) if entry.index <= durable => {
                    self.cached_bytes -= entry_bytes(entry);
                    self.cache.pop_front();
                }
                _ => break,
            }
        }
    }

    pub(crate) fn apply_marker(&mut self, marker: Marker) {
        if marker.reset {
            self.slots.clear();
            self.cut_terms.clear();
            self.changes.clear();
            self.cache.clear();
            self.cached_bytes = 0;
            self.memberships.clear();
        } else if marker.snapshot_index > self.marker.snapshot_index {
            // Entries between cut and snapshot may yet be delivered, with the membership they had.
            self.memberships
                .entry(self.marker.snapshot_index)
                .or_insert_with(|| self.at_snapshot.clone());
        }
        let membership = self.table_of(
            marker.snapshot_index,
            &marker.conf_state,
            marker.table.clone(),
        );
        self.marker = Marker {
            table: Some(Arc::clone(&membership.table)),
            ..marker
        };
        self.at_snapshot = membership;
        let at_cut = self
            .memberships
            .range(..=self.marker.cut_index)
            .next_back()
            .map_or(0, |(index, _)| *index);
        self.memberships.retain(|index, _| *index >= at_cut);
        if planted!(DropChangeAtCompaction) {
            self.memberships.clear();
        }
        self.drop_cut();
    }

    /// Drops slots and cached entries up to the cut. In a replay, entries between the cut and the first slot may yet
    /// be declared gone by a later marker, so nothing is checked here.
    fn drop_cut(&mut self) {
        while self.base <= self.marker.cut_index
            && let Some(slot) = self.slots.pop_front()
        {
            self.cut_terms.note(self.base, slot.term);
            self.base += 1;
            if self.cache.len() > self.slots.len()
                && let Some(entry) = self.cache.pop_front()
            {
                self.cached_bytes -= entry_bytes(&entry);
            }
        }
        if self.slots.is_empty() {
            self.base = self.marker.cut_index + 1;
        }
        self.changes = self.changes.split_off(&self.base);
    }

    /// The first membership change behind the one that is in force.
    pub(crate) fn next_change(&self) -> Option<u64> {
        let (since, _) = self.membership();
        self.changes.range(since + 1..).next().copied()
    }

    pub(crate) fn apply_membership(
        &mut self,
        index: u64,
        conf_state: &ConfState,
        table: Option<Arc<MemberTable>>,
    ) {
        let membership = self.table_of(index, conf_state, table);
        self.memberships.insert(index, membership);
    }

    pub(crate) fn memberships(&self) -> &BTreeMap<u64, Membership> {
        &self.memberships
    }

    /// The membership that belongs to the marker.
    pub(crate) fn membership_at_snapshot(&self) -> &Membership {
        &self.at_snapshot
    }

    /// The newest membership and the index since when it is in force.
    pub(crate) fn membership(&self) -> (u64, &Membership) {
        let snapshot = self.marker.snapshot_index;
        self.memberships
            .last_key_value()
            .filter(|(index, _)| **index > snapshot)
            .map_or((snapshot, &self.at_snapshot), |(index, membership)| {
                (*index, membership)
            })
    }

    /// The membership in force at `index`, which must not lie below the cut.
    pub(crate) fn membership_at(&self, index: u64) -> &Membership {
        let snapshot = self.marker.snapshot_index;
        let from = if index >= snapshot { snapshot + 1 } else { 0 };
        if from > index {
            return &self.at_snapshot;
        }
        self.memberships
            .range(from..=index)
            .next_back()
            .map_or(&self.at_snapshot, |(_, membership)| membership)
    }
}

/// Whether an entry changes the membership, readable or not.
pub(crate) fn is_change(entry: &Entry) -> bool {
    entry.entry_type != EntryType::EntryNormal as i32
}

pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + std::mem::size_of::<Entry>()) as u64
}
