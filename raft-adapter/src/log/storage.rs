//! The log as raft-rs reads it.

use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{Entry, Snapshot, SnapshotMetadata},
};

use super::{Log, snapshot_data};
use crate::ids::RaftId;

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state().clone(),
            self.membership().1.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        self.read(low, high, max_size.into().unwrap_or(u64::MAX))
            .map_err(|fatal| {
                // raft-rs panics over most errors here. "Later" is the one it can bear; the core looks at the remembered
                // fault right after the step and ends.
                self.remember(fatal);
                let later = context.can_async();
                Error::Store(if later {
                    StorageError::LogTemporarilyUnavailable
                } else {
                    StorageError::Unavailable
                })
            })
    }

    fn term(&self, index: u64) -> Result<u64> {
        self.term_at(index).ok_or_else(|| {
            Error::Store(if index < self.first() {
                StorageError::Compacted
            } else {
                StorageError::Unavailable
            })
        })
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// A member that was added later than the manifest was made would refuse the membership at the manifest's index,
    /// for it is not in it. It gets the newest one, whose entry is committed; when it comes to that entry, it finds it
    /// in effect already.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let marker = self.marker();
        if marker.snapshot_index == 0 || marker.snapshot_index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let at_snapshot = self.contents.membership_at_snapshot();
        let membership = if at_snapshot.table.members.contains_key(&RaftId(to)) {
            at_snapshot
        } else {
            self.membership().1
        };
        #[cfg(feature = "planted-bugs")]
        if planted!(ManifestWithoutHistory) {
            let mut table = crate::member_table::MemberTable::clone(&membership.table);
            table.recent.clear();
            return Ok(Snapshot {
                data: snapshot_data::join(&table, &marker.manifest),
                metadata: Some(SnapshotMetadata {
                    conf_state: Some(membership.conf_state.clone()),
                    index: marker.snapshot_index,
                    term: marker.snapshot_term,
                }),
            });
        }
        Ok(Snapshot {
            data: snapshot_data::join(&membership.table, &marker.manifest),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(membership.conf_state.clone()),
                index: marker.snapshot_index,
                term: marker.snapshot_term,
            }),
        })
    }
}
