//! Carries out what the log decided: the half that touches the disk and may wait for it.

use std::{collections::BTreeSet, io, sync::Arc};

use super::disk::{Disk, SegmentNumber};
use crate::error::Fatal;

/// File operations that belong to one write, in order. Opaque: made by the core, carried out by a [`LogWriter`].
#[derive(Debug, Default)]
pub struct LogBatch {
    pub(crate) operations: Vec<DiskOperation>,
}

#[derive(Debug)]
pub(crate) enum DiskOperation {
    Create {
        segment: SegmentNumber,
        header: Vec<u8>,
        size_bytes: u64,
    },
    Write {
        segment: SegmentNumber,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Only once everything before it is durable.
    Remove { segment: SegmentNumber },
}

impl LogBatch {
    /// True if nothing is to be written: only the order among the writes counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes to be written.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let size = |operation: &DiskOperation| match operation {
            DiskOperation::Write { bytes, .. } => bytes.len() as u64,
            DiskOperation::Create { header, .. } => header.len() as u64,
            DiskOperation::Remove { .. } => 0,
        };
        self.operations.iter().map(size).sum()
    }
}

/// Writes batches and makes them durable. Owned by one thread.
#[derive(Debug)]
pub struct LogWriter {
    disk: Arc<dyn Disk>,
    /// Written since the last barrier.
    unsynced: BTreeSet<SegmentNumber>,
    /// To be removed after the next barrier.
    removals: BTreeSet<SegmentNumber>,
    /// Set by the first failure: after it nobody knows what is on the disk, so nothing may be promised any more.
    poisoned: Option<Fatal>,
}

impl LogWriter {
    /// Writes to the files of the log that was opened on `disk`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            unsynced: BTreeSet::new(),
            removals: BTreeSet::new(),
            poisoned: None,
        }
    }

    /// Writes a batch; not durable until [`LogWriter::barrier`]. Batches must come in the order of their write numbers.
    ///
    /// # Errors
    /// `Fatal::Disk`, from then on always.
    pub fn write(&mut self, batch: &LogBatch) -> Result<(), Fatal> {
        self.unless_poisoned(|writer| {
            batch
                .operations
                .iter()
                .try_for_each(|operation| writer.carry_out(operation))
        })
    }

    /// When this returns, every batch written before survives power loss.
    ///
    /// # Errors
    /// `Fatal::Disk`, from then on always.
    pub fn barrier(&mut self) -> Result<(), Fatal> {
        self.unless_poisoned(|writer| {
            writer.sync_all()?;
            while let Some(segment) = writer.removals.pop_first() {
                let outcome = writer.disk.remove(segment);
                outcome.map_err(|error| fault("removing", segment, &error))?;
            }
            Ok(())
        })
    }

    fn unless_poisoned(
        &mut self,
        action: impl FnOnce(&mut Self) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        if let Some(fatal) = &self.poisoned {
            return Err(fatal.clone());
        }
        action(self).inspect_err(|fatal| self.poisoned = Some(fatal.clone()))
    }

    fn carry_out(&mut self, operation: &DiskOperation) -> Result<(), Fatal> {
        match operation {
            DiskOperation::Create {
                segment,
                header,
                size_bytes,
            } => {
                // Only the last file may have a torn tail, so the one before must be durable as a whole.
                if !planted!(BeginFileUnsynced) {
                    self.sync_all()?;
                }
                let outcome = self.disk.create(*segment, header, *size_bytes);
                outcome.map_err(|error| fault("creating", *segment, &error))
            }
            DiskOperation::Write {
                segment,
                offset,
                bytes,
            } => {
                self.unsynced.insert(*segment);
                let outcome = self.disk.write(*segment, *offset, bytes);
                outcome.map_err(|error| fault("writing", *segment, &error))
            }
            DiskOperation::Remove { segment } => {
                self.removals.insert(*segment);
                if planted!(RemoveFilesEarly) {
                    self.removals.remove(segment);
                    let outcome = self.disk.remove(*segment);
                    return outcome.map_err(|error| fault("removing", *segment, &error));
                }
                Ok(())
            }
        }
    }

    fn sync_all(&mut self) -> Result<(), Fatal> {
        if planted!(SkipBarrier) {
            self.unsynced.clear();
        }
        while let Some(segment) = self.unsynced.pop_first() {
            self.disk
                .sync(segment)
                .map_err(|error| fault("syncing", segment, &error))?;
        }
        Ok(())
    }
}

pub(crate) fn fault(operation: &'static str, segment: SegmentNumber, error: &io::Error) -> Fatal {
    Fatal::Disk {
        operation,
        segment: segment.0,
        reason: error.to_string(),
    }
}
