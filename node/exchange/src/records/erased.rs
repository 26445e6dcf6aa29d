//! Who lost what by an erasure: whom this node erased payloads of, and what other members say they erased of ours.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use quorate_enclave::{NodeKey, PayloadHash, PublicKey};
use quorate_kv::Batch;

use super::{Records, hashes_behind, key};
use crate::RecordError;

impl Records {
    /// Remembers whose payload is going to be erased here. If it is not erased after all, that means nothing. Durable after
    /// [`make_durable`](Self::make_durable).
    pub(crate) fn erasing(
        &self,
        parties: &BTreeSet<PublicKey>,
        hash: &PayloadHash,
    ) -> Result<(), RecordError> {
        let mut batch = Batch::new();
        for party in parties {
            batch.put(key(b'e', &[party.as_bytes(), hash.as_bytes()]), Vec::new());
        }
        Ok(self.kv.write(batch)?)
    }

    /// Payloads of a party that were to be erased here, behind one of them.
    pub(crate) fn erased_of(
        &self,
        party: &PublicKey,
        behind: Option<&PayloadHash>,
        limit: usize,
    ) -> Result<Vec<PayloadHash>, RecordError> {
        hashes_behind(&*self.kv, key(b'e', &[party.as_bytes()]), behind, limit)
    }

    /// Remembers payloads of ours that a member says it erased. Durable after [`make_durable`](Self::make_durable).
    pub(crate) fn erased_elsewhere(
        &self,
        hashes: &[PayloadHash],
        by: &NodeKey,
    ) -> Result<(), RecordError> {
        if hashes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for hash in hashes {
            batch.put(key(b'g', &[hash.as_bytes()]), by.to_vec());
        }
        self.kv.write(batch)?;
        self.any_erased_elsewhere.store(true, Ordering::Release);
        Ok(())
    }

    /// The member that says it erased this payload of ours, if one does.
    pub(crate) fn who_erased(&self, hash: &PayloadHash) -> Result<Option<NodeKey>, RecordError> {
        // Every foreign transaction comes by here; most nodes never heard of such a thing.
        if !self.any_erased_elsewhere.load(Ordering::Acquire) {
            return Ok(None);
        }
        let Some(value) = self.kv.get(&key(b'g', &[hash.as_bytes()]))? else {
            return Ok(None);
        };
        let node: [u8; 33] = value
            .as_slice()
            .try_into()
            .map_err(|_| RecordError::Damaged { entry: "erased" })?;
        Ok(Some(NodeKey::from(node)))
    }

    /// Payloads of ours that others say they erased, behind one of them.
    pub(crate) fn all_erased_elsewhere(
        &self,
        behind: Option<&PayloadHash>,
        limit: usize,
    ) -> Result<Vec<PayloadHash>, RecordError> {
        hashes_behind(&*self.kv, key(b'g', &[]), behind, limit)
    }
}
