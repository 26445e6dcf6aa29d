//! The log as raft-rs reads it.

use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{Entry, Snapshot, SnapshotMetadata},
};

use super::Log;

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state().clone(),
            self.membership().1.clone(),
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

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        let marker = self.marker();
        if marker.snapshot_index == 0 || marker.snapshot_index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(Snapshot {
            data: marker.manifest.clone(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(marker.conf_state.clone()),
                index: marker.snapshot_index,
                term: marker.snapshot_term,
            }),
        })
    }
}
