//! What the application receives, and when it may throw log away.
//!
//! At most a window of entries is with the application. What does not fit is not kept anywhere: it is a range of
//! indexes, read from the log again when there is room.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

use super::Core;
use crate::{
    error::Fatal,
    ids::{LogIndex, Term},
    io::{CommittedEntry, Delivery, InstalledSnapshot, MembersChanged, Output},
};

/// Deliveries that the application has not reported as applied.
#[derive(Debug, Default)]
pub(super) struct Window {
    waiting: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Window {
    fn add(&mut self, index: u64, bytes: u64) {
        self.waiting.push_back((index, bytes));
        self.bytes += bytes;
    }

    fn applied(&mut self, up_to: u64) {
        while let Some((index, bytes)) = self.waiting.front().copied()
            && index <= up_to
        {
            self.waiting.pop_front();
            self.bytes -= bytes;
        }
    }
}

impl Core {
    pub(super) fn applied(&mut self, index: LogIndex) -> Result<(), Fatal> {
        if index.0 > self.delivered {
            let delivered = self.delivered;
            let what =
                format!("the application reports {index} as applied, delivered is {delivered}");
            return Err(Fatal::Impossible { what });
        }
        fail_point!("raft.ready.applied");
        self.applied = self.applied.max(index.0);
        self.window.applied(self.applied);
        Ok(())
    }

    /// Delivers entries that just came out of raft-rs, as far as they are next and there is room.
    pub(super) fn deliver_fresh(&mut self, committed: Vec<Entry>, out: &mut Vec<Output>) {
        let limit = self.deliverable();
        for entry in committed {
            let bytes = entry.data.len() as u64;
            if entry.index != self.delivered + 1 || entry.index > limit || !self.has_room(bytes) {
                break;
            }
            self.deliver(entry, out);
        }
    }

    /// Delivers what was held back, as far as there is room now.
    pub(super) fn deliver_held_back(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        loop {
            let limit = self.deliverable();
            if self.delivered >= limit || !self.has_room(0) {
                return Ok(());
            }
            if self.delivered + 1 < self.raw.store().first() {
                if !self.deliver_snapshot(limit, out) {
                    return Ok(());
                }
                continue;
            }
            let slots =
                u64::from(self.config.delivery_entries_max) - self.window.waiting.len() as u64;
            let end = limit.min(self.delivered.saturating_add(slots)) + 1;
            let room = self
                .config
                .delivery_bytes_max
                .saturating_sub(self.window.bytes);
            for entry in self.raw.store().read(self.delivered + 1, end, room)? {
                if !self.has_room(entry.data.len() as u64) {
                    return Ok(());
                }
                self.deliver(entry, out);
            }
        }
    }

    /// The log before its first entry is gone: its manifest goes in place of it. False if it may not go yet.
    fn deliver_snapshot(&mut self, limit: u64, out: &mut Vec<Output>) -> bool {
        let store = self.raw.store();
        let marker = store.marker();
        if marker.snapshot_index > limit {
            return false;
        }
        fail_point!("raft.snapshot.deliver");
        let snapshot = InstalledSnapshot {
            index: LogIndex(marker.snapshot_index),
            term: Term(marker.snapshot_term),
            manifest: Bytes::from(marker.manifest.clone()),
            table: Arc::clone(store.table_at(marker.snapshot_index)),
        };
        self.delivered = snapshot.index.0;
        self.window
            .add(snapshot.index.0, snapshot.manifest.len() as u64);
        out.push(Output::Deliver(Delivery::Snapshot(snapshot)));
        true
    }

    fn deliver(&mut self, entry: Entry, out: &mut Vec<Output>) {
        let (index, term) = (LogIndex(entry.index), Term(entry.term));
        self.delivered = entry.index;
        let delivery = if entry.entry_type == EntryType::EntryNormal as i32 {
            let payload = Bytes::from(entry.data);
            self.window.add(entry.index, payload.len() as u64);
            Delivery::Entry(CommittedEntry {
                index,
                term,
                payload,
            })
        } else {
            self.window.add(entry.index, 0);
            let table = Arc::clone(self.raw.store().table_at(entry.index));
            Delivery::Members(MembersChanged { index, term, table })
        };
        out.push(Output::Deliver(delivery));
    }

    /// The last index that may be delivered: committed, its membership changes in force, and all of it on this
    /// member's disk in the form it now has.
    fn deliverable(&self) -> u64 {
        let gate = self.writes.iter().filter_map(|write| write.gate).min();
        let below_gate = gate.map_or(u64::MAX, |gate| gate.0.saturating_sub(1));
        self.processed
            .min(self.raw.store().durable())
            .min(below_gate)
    }

    fn has_room(&self, bytes: u64) -> bool {
        let window = &self.window;
        window.waiting.is_empty()
            || (window.waiting.len() < self.config.delivery_entries_max as usize
                && window.bytes.saturating_add(bytes) <= self.config.delivery_bytes_max)
    }

    pub(super) fn compact(
        &mut self,
        up_to: LogIndex,
        manifest: Bytes,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        if up_to.0 > self.applied {
            let applied = self.applied;
            let what =
                format!("the application compacts to {up_to}, but has applied only {applied}");
            return Err(Fatal::Impossible { what });
        }
        if up_to.0 <= self.raw.store().marker().snapshot_index {
            return Ok(());
        }
        fail_point!("raft.ready.compact");
        let cut = up_to.0.saturating_sub(self.config.trailing_entries);
        let (write, batch) = self
            .raw
            .mut_store()
            .save_compaction(up_to.0, cut, manifest.into())?;
        self.push_write(write, batch, None, Vec::new(), out);
        Ok(())
    }
}
