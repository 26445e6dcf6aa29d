//! What stays when a payload is erased.

use std::collections::{BTreeSet, VecDeque};

use alloy_primitives::Bytes;
use quorate_enclave::PayloadHash;

use super::PrivateLedger;
use crate::{PrivateFatal, PrivateRecord};

/// Payloads that are remembered as let go. An execution that had one in its hands when it was erased is over long before so many
/// others are.
const REMEMBERED_MAX: usize = 4_096;

/// The payloads that were let go last.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    hashes: BTreeSet<PayloadHash>,
    /// The same, oldest first.
    order: VecDeque<PayloadHash>,
}

impl LetGo {
    fn remember(&mut self, hash: &PayloadHash) {
        if !self.hashes.insert(*hash) {
            return;
        }
        self.order.push_back(*hash);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }

    fn holds(&self, record: &PrivateRecord) -> bool {
        let inner = record.inner_hash.as_ref();
        self.hashes.contains(&record.hash) || inner.is_some_and(|hash| self.hashes.contains(hash))
    }
}

impl PrivateLedger {
    /// Payloads are about to be erased: takes their input out of the records of the transactions that carried them, and makes durable
    /// what came of them, since what is executed again after a power loss needs its payload. Everything else stays. Returns how many
    /// inputs there were. Blocks on the disk.
    ///
    /// # Errors
    /// [`PrivateFatal`]: the storage failed.
    pub fn let_go(&self, hashes: &[PayloadHash]) -> Result<usize, PrivateFatal> {
        let mut forgotten = 0;
        {
            let _turn = self.shared.writing.lock();
            let mut let_go = self.shared.let_go.lock();
            for hash in hashes {
                let_go.remember(hash);
                for mut record in self.shared.index.records_of(hash)? {
                    if !record.data.is_empty() {
                        record.data = Bytes::new();
                        self.shared.index.replace_record(&record)?;
                        forgotten += 1;
                    }
                }
            }
        }
        self.make_durable()?;
        Ok(forgotten)
    }

    /// Takes the input out of records whose payload was let go while it was executed. True if there are such.
    pub(super) fn forget_let_go(&self, records: &mut [PrivateRecord]) -> bool {
        let let_go = self.shared.let_go.lock();
        let gone = records.iter_mut().filter(|record| let_go.holds(record));
        gone.map(|record| record.data = Bytes::new()).count() > 0
    }
}
