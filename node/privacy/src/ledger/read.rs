//! Reads, as of any block that was executed.

use alloy_primitives::{Address, B256, Bytes, U256};
use quorate_enclave::PayloadHash;
use quorate_evm::RootedState;
use quorate_state::{Account, ApplyError, HistoryError, ReadError, Snapshot, StateRead};

use super::PrivateLedger;
use crate::index::Index;
use crate::{ContractMetadata, IndexError, PrivateReadError, PrivateRecord, PrivateStatus};

/// Private state after one block. It never changes.
///
/// It proves nothing to others: nobody but the parties knows its root.
#[derive(Debug, Clone)]
pub struct PrivateSnapshot {
    state: Snapshot,
    index: Index,
    height: u64,
}

impl PrivateSnapshot {
    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Root of private state.
    pub fn state_root(&self) -> B256 {
        self.state.state_root()
    }

    /// True if the account exists in private state.
    ///
    /// # Errors
    /// [`ReadError`] if the storage failed.
    pub fn is_private(&self, address: &Address) -> Result<bool, ReadError> {
        Ok(self.state.account(address)?.is_some())
    }
}

impl StateRead for PrivateSnapshot {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        self.state.account(address)
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        self.state.storage(address, slot)
    }

    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        self.state.code(code_hash)
    }
}

impl RootedState for PrivateSnapshot {
    fn storage_root(&self, address: &Address) -> Result<B256, ApplyError> {
        let root = self.index.storage_root(address, self.state.height());
        Ok(root.map_err(ReadError::from)?)
    }
}

impl PrivateLedger {
    /// Private state after the block at `height`.
    ///
    /// # Errors
    /// [`PrivateReadError`].
    pub fn state_at(&self, height: u64) -> Result<PrivateSnapshot, PrivateReadError> {
        let private_height = self.private_height_at(height)?;
        let state = self
            .shared
            .state
            .at(private_height)
            .map_err(|error| match error {
                HistoryError::Read(error) => error,
                // Private history is not pruned, and the index is never ahead of the state up to the cursor.
                HistoryError::Pruned { .. } | HistoryError::Future { .. } => ReadError::Damaged {
                    key: format!("private height {private_height}"),
                    reason: error.to_string(),
                },
            })?;
        Ok(PrivateSnapshot {
            state,
            index: self.shared.index.clone(),
            height,
        })
    }

    /// Root of private state after the block at `height`.
    ///
    /// # Errors
    /// [`PrivateReadError`].
    pub fn root_at(&self, height: u64) -> Result<B256, PrivateReadError> {
        self.state_at(height).map(|state| state.state_root())
    }

    /// What came of the transaction at a position of a block; `None` if this node is no party of it, or has not got there yet.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn record(
        &self,
        height: u64,
        position: u32,
    ) -> Result<Option<PrivateRecord>, PrivateReadError> {
        if height > self.cursor() {
            return Ok(None);
        }
        self.settled(|index| index.record_at(height, position))
    }

    /// True if a transaction that carries this payload was executed here.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn was_executed(&self, payload: &PayloadHash) -> Result<bool, PrivateReadError> {
        let found = self.settled(|index| index.records_of(payload))?;
        Ok(!found.is_empty())
    }

    /// Records of blocks from `from` to `to`, both included, in chain order, as far as execution has come. About `limit` of them:
    /// blocks are never cut, so one may go on after the block of the last record.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn records(
        &self,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<PrivateRecord>, PrivateReadError> {
        let to = to.min(self.cursor());
        if from > to {
            return Ok(Vec::new());
        }
        self.settled(|index| {
            let mut records: Vec<PrivateRecord> = Vec::new();
            for record in index.records(from, to) {
                let record = record?;
                let next_block = records
                    .last()
                    .is_some_and(|last| last.height < record.height);
                if records.len() >= limit && (next_block || records.is_empty()) {
                    break;
                }
                records.push(record);
            }
            Ok(records)
        })
    }

    /// What holds for a private contract; `None` if there is none at this address.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn contract(
        &self,
        address: &Address,
    ) -> Result<Option<ContractMetadata>, PrivateReadError> {
        let contract = self.settled(|index| index.contract(address))?;
        let cursor = self.cursor();
        Ok(contract.filter(|contract| contract.created_at <= cursor))
    }

    /// Private contracts by rising address, after the given one; at most `limit`.
    ///
    /// # Errors
    /// [`PrivateReadError::Read`] if the storage failed.
    pub fn contracts(
        &self,
        after: Option<Address>,
        limit: usize,
    ) -> Result<Vec<ContractMetadata>, PrivateReadError> {
        let mut contracts = Vec::new();
        for address in self.shared.index.contracts_after(after) {
            if contracts.len() >= limit {
                break;
            }
            let address = address.map_err(ReadError::from)?;
            contracts.extend(self.contract(&address)?);
        }
        Ok(contracts)
    }

    /// Reads an entry of several parts. One that is being written may be seen in part, and is read again when it is done.
    pub(super) fn settled<T>(
        &self,
        read: impl Fn(&Index) -> Result<T, IndexError>,
    ) -> Result<T, PrivateReadError> {
        let found = match read(&self.shared.index) {
            Err(IndexError::Damaged { .. }) => {
                let _turn = self.shared.writing.lock();
                read(&self.shared.index)
            }
            found => found,
        };
        Ok(found.map_err(ReadError::from)?)
    }

    pub(super) fn check_reached(
        &self,
        height: u64,
        status: &PrivateStatus,
    ) -> Result<(), PrivateReadError> {
        if height > status.cursor {
            return Err(PrivateReadError::Behind {
                wanted: height,
                cursor: status.cursor,
                waiting: status.waiting.clone().map(Box::new),
            });
        }
        if height.saturating_add(1) < status.starts_at {
            return Err(PrivateReadError::BeforeStart {
                wanted: height,
                starts_at: status.starts_at,
            });
        }
        Ok(())
    }

    fn private_height_at(&self, height: u64) -> Result<u64, PrivateReadError> {
        self.check_reached(height, &self.shared.status.borrow())?;
        let (block, private_height) = *self.shared.last_change.read();
        if height >= block {
            return Ok(private_height);
        }
        let change = self
            .shared
            .index
            .change_at(height)
            .map_err(ReadError::from)?;
        Ok(change.map_or(0, |(private_height, _)| private_height))
    }
}
