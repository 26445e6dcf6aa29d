//! One sync of the disk for all that wait for one.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate_kv::{Kv, KvError};

/// Makes writes durable that were made before. Whoever waits while another syncs is covered by the next sync at the latest.
#[derive(Debug)]
pub(crate) struct GroupBarrier {
    kv: Arc<dyn Kv>,
    /// Number of calls so far.
    asked: Mutex<u64>,
    /// Calls that a finished sync covers. Held by the one that syncs.
    covered: Mutex<u64>,
}

impl GroupBarrier {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> Self {
        Self {
            kv,
            asked: Mutex::new(0),
            covered: Mutex::new(0),
        }
    }

    /// Returns when everything that this thread wrote before is durable.
    pub(crate) fn wait(&self) -> Result<(), KvError> {
        let mine = {
            let mut asked = self.asked.lock();
            *asked = asked.saturating_add(1);
            *asked
        };
        let mut covered = self.covered.lock();
        if *covered >= mine {
            return Ok(());
        }
        // Everyone who has asked by now wrote before asking.
        let all = *self.asked.lock();
        self.kv.barrier()?;
        *covered = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_kv::{Batch, MemoryKv};

    use super::*;

    #[test]
    fn what_was_written_before_survives_a_crash_and_the_rest_may_not() {
        let kv = Arc::new(MemoryKv::new());
        let barrier = GroupBarrier::new(Arc::clone(&kv) as Arc<dyn Kv>);
        std::thread::scope(|scope| {
            for n in 0..8u8 {
                let (kv, barrier) = (&kv, &barrier);
                scope.spawn(move || {
                    for m in 0..50u8 {
                        let mut batch = Batch::new();
                        batch.put(vec![n, m], vec![1]);
                        kv.write(batch).unwrap();
                        barrier.wait().unwrap();
                    }
                });
            }
        });
        let mut batch = Batch::new();
        batch.put(vec![9], vec![1]);
        kv.write(batch).unwrap();
        kv.crash();
        assert_eq!(kv.len(), 400);
    }

    #[test]
    fn a_failed_sync_fails_everyone_that_waits_for_it() {
        let kv = Arc::new(MemoryKv::new());
        let barrier = GroupBarrier::new(Arc::clone(&kv) as Arc<dyn Kv>);
        kv.fail_next_barrier("the disk is gone");
        assert!(barrier.wait().is_err());
        assert!(barrier.wait().is_err());
    }
}
