//! Metadata of contracts in memory: each call of a contract asks for its, and it changes hardly ever.
//!
//! What is put here must not be older than what was written meanwhile: whoever writes clears everything afterwards, and whoever
//! fills it shows that nothing was written since before the look onto the disk.

use std::collections::BTreeMap;

use alloy_primitives::Address;
use parking_lot::RwLock;

use crate::ContractMetadata;

/// Contracts that are held; when there are more, it begins anew.
const CONTRACTS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct ContractCache {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Rises with every write of metadata.
    writes: u64,
    known: BTreeMap<Address, ContractMetadata>,
}

/// How much had been written at some time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since(u64);

impl ContractCache {
    /// What is known of a contract; if nothing is, what to show to [`put`](Self::put).
    pub(super) fn get(&self, address: &Address) -> Result<ContractMetadata, Since> {
        let state = self.state.read();
        let known = state.known.get(address).cloned();
        known.ok_or(Since(state.writes))
    }

    pub(super) fn put(&self, contract: &ContractMetadata, since: Since) {
        let mut state = self.state.write();
        if state.writes != since.0 {
            return;
        }
        if state.known.len() >= CONTRACTS_MAX {
            state.known.clear();
        }
        state.known.insert(contract.address, contract.clone());
    }

    /// Metadata was written.
    pub(super) fn written(&self) {
        let mut state = self.state.write();
        state.writes = state.writes.wrapping_add(1);
        state.known.clear();
    }
}
