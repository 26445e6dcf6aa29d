//! What survives power loss, and when.

use std::sync::atomic::Ordering;

use super::{PrivateLedger, position_of};
use crate::PrivateFatal;

impl PrivateLedger {
    /// Makes everything durable that has been executed so far, and returns the cursor up to which that holds. Blocks on the disk.
    ///
    /// # Errors
    /// [`PrivateFatal`]: the storage failed and private execution must end.
    pub fn make_durable(&self) -> Result<u64, PrivateFatal> {
        let shared = &self.shared;
        let _turn = shared.flushing.lock();
        let (position, job) = {
            let _writing = shared.writing.lock();
            let position = position_of(&shared.status.borrow());
            if position.cursor > shared.durable.load(Ordering::Acquire) {
                shared.index.set_position(&position)?;
            }
            // What the job will write is fixed from here on, and the index has all of it.
            (position, shared.state.flush_job())
        };
        shared.index.barrier()?;
        if let Some(job) = job {
            job.run()?;
        }
        shared.durable.fetch_max(position.cursor, Ordering::AcqRel);
        Ok(position.cursor)
    }

    /// True if something was executed that would be executed again after a power loss.
    pub(crate) fn has_pending(&self) -> bool {
        self.cursor() > self.shared.durable.load(Ordering::Acquire)
    }

    /// True if the flush policy of the state asks for a flush.
    pub(crate) fn needs_flush(&self) -> bool {
        self.shared.state.needs_flush()
    }

    /// True if so much is pending that execution must wait for the disk.
    pub(crate) fn flush_overdue(&self) -> bool {
        self.shared.state.flush_overdue()
    }
}
