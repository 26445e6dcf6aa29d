//! The state as of one height, as a value.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};

use crate::change::BlockChange;
use crate::disk::{Disk, Mark, Tries, trie_failed};
use crate::overlay::Overlay;
use crate::trie::{Trie, TrieError};
use crate::{Account, ApplyError, ReadError, StateDiff, StateRead};

/// The state as of one height. It never changes; a clone is one pointer.
///
/// One that was the head, or was built on the head with [`apply`](Snapshot::apply), has a trie: it can be applied to and can
/// prove. One from [`StateStore::at`](crate::StateStore::at) for a height before the head can only be read.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) view: View,
}

#[derive(Clone)]
pub(crate) enum View {
    /// The head, or built on it.
    Live(Arc<Live>),
    /// An ancestor of a live state that is not on disk yet: read back from the old values in memory.
    Recent { base: Arc<Live>, mark: Mark },
    /// A state that disk has passed: read back from the old values on disk.
    Past { disk: Arc<Disk>, mark: Mark },
}

/// A state with its trie.
pub(crate) struct Live {
    pub(crate) disk: Arc<Disk>,
    pub(crate) id: u64,
    /// Id of the state this one was built on.
    pub(crate) parent_id: Option<u64>,
    pub(crate) mark: Mark,
    /// A height on this line that was durable when this state was built. What the overlay does not list has not changed
    /// since.
    pub(crate) base: u64,
    pub(crate) tries: Tries,
    pub(crate) overlay: Overlay,
    /// Changes that the overlay covers, without gaps, up to this state's own.
    pub(crate) recent: imbl::Vector<Arc<BlockChange>>,
    /// Entries in `recent`.
    pub(crate) recent_entries: usize,
    /// Bytes of changes since the store was opened.
    pub(crate) changed_bytes: u64,
    /// Height of the flush whose pruned tries are part of `tries`.
    pub(crate) grafted_at: u64,
}

/// Merkle proof of an account and some of its slots (EIP-1186).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountProof {
    /// The account; `None` if the proof shows that it does not exist.
    pub account: Option<Account>,
    /// Root of its storage trie.
    pub storage_root: B256,
    /// RLP of the trie nodes from the state root down.
    pub proof: Vec<Bytes>,
    /// One per slot that was asked for, in that order.
    pub storage: Vec<StorageProof>,
}

/// Merkle proof of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageProof {
    /// Which slot.
    pub slot: U256,
    /// Its value; zero if the proof shows that it has none.
    pub value: U256,
    /// RLP of the trie nodes from the storage root down.
    pub proof: Vec<Bytes>,
}

impl Snapshot {
    pub(crate) fn live(live: Live) -> Self {
        Self {
            view: View::Live(Arc::new(live)),
        }
    }

    /// Height of the block after which this is the state; 0 is the genesis.
    pub fn height(&self) -> u64 {
        self.mark().height
    }

    /// State root, as the header at this height has it.
    pub fn state_root(&self) -> B256 {
        self.mark().root
    }

    /// The state after one more block. Nothing else changes; dropping the result costs nothing.
    ///
    /// # Errors
    /// [`ApplyError::Superseded`] if this state has no trie any more, [`ApplyError::InvalidDiff`] if the change contradicts
    /// itself, [`ApplyError::Read`] if the storage below failed.
    pub fn apply(&self, diff: &StateDiff) -> Result<Snapshot, ApplyError> {
        Ok(Self::live(self.require_live()?.apply(diff)?))
    }

    /// Proves an account and some of its slots against [`state_root`](Self::state_root).
    ///
    /// # Errors
    /// As [`apply`](Self::apply), without `InvalidDiff`.
    pub fn prove(&self, address: &Address, slots: &[U256]) -> Result<AccountProof, ApplyError> {
        self.require_live()?.prove(address, slots)
    }

    /// Every slot of an account that has a value, with it; `None` if there are more than `slots_max`. Costs a read per slot.
    ///
    /// # Errors
    /// As [`prove`](Self::prove).
    pub fn storage_entries(
        &self,
        address: &Address,
        slots_max: usize,
    ) -> Result<Option<BTreeMap<U256, U256>>, ApplyError> {
        let values = self.require_live()?.all_values(address)?;
        Ok((values.len() <= slots_max).then_some(values))
    }

    fn require_live(&self) -> Result<&Arc<Live>, ApplyError> {
        match &self.view {
            View::Live(live) => Ok(live),
            View::Recent { mark, .. } | View::Past { mark, .. } => Err(ApplyError::Superseded {
                height: mark.height,
            }),
        }
    }

    fn mark(&self) -> Mark {
        match &self.view {
            View::Live(live) => live.mark,
            View::Recent { mark, .. } | View::Past { mark, .. } => *mark,
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.view {
            View::Live(_) => "live",
            View::Recent { .. } => "recent",
            View::Past { .. } => "past",
        };
        let Mark { height, root } = self.mark();
        f.debug_struct("Snapshot")
            .field("kind", &kind)
            .field("height", &height)
            .field("root", &root)
            .finish()
    }
}

impl StateRead for Snapshot {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        match &self.view {
            View::Live(live) => live.account(address),
            View::Recent { base, mark } => base
                .changes_after(mark.height)
                .find_map(|change| change.old_account(address))
                .map_or_else(|| base.account(address), Ok),
            View::Past { disk, mark } => {
                disk.account_at(address, mark.height, || disk.is_not_past(mark.height))
            }
        }
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        match &self.view {
            View::Live(live) => live.storage(address, slot),
            View::Recent { base, mark } => base
                .changes_after(mark.height)
                .find_map(|change| change.old_value(address, slot))
                .map_or_else(|| base.storage(address, slot), Ok),
            View::Past { disk, mark } => {
                disk.storage_at(address, slot, mark.height, || disk.is_not_past(mark.height))
            }
        }
    }

    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        match &self.view {
            View::Live(live) | View::Recent { base: live, .. } => live.code(code_hash),
            View::Past { disk, .. } => disk.code(code_hash),
        }
    }
}

impl Disk {
    /// True if the flat values are not newer than `height`.
    fn is_not_past(&self, height: u64) -> bool {
        self.marks.read().flushing.height <= height
    }
}

impl Live {
    pub(crate) fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        match self.overlay.account(address) {
            Some(account) => Ok(account),
            None => self
                .disk
                .account_at(address, self.base, || self.is_ahead_of_disk()),
        }
    }

    pub(crate) fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        match self.overlay.storage(address, slot) {
            Some(value) => Ok(value),
            None => self
                .disk
                .storage_at(address, slot, self.base, || self.is_ahead_of_disk()),
        }
    }

    pub(crate) fn code(&self, hash: &B256) -> Result<Bytes, ReadError> {
        match self.overlay.code(hash) {
            Some(code) => Ok(code.clone()),
            None => self.disk.code(hash),
        }
    }

    /// True if disk is at a state that this one was built on, or is it: what the overlay does not list is then on disk as it
    /// is. False for a state that the head has passed, or that was built on a block that did not become the head.
    pub(crate) fn is_ahead_of_disk(&self) -> bool {
        self.descends_from(self.disk.marks.read().flushing)
    }

    /// True if `mark`, which is the durable state or about to be, is this state or one that it was built on.
    pub(crate) fn descends_from(&self, mark: Mark) -> bool {
        mark.height <= self.base || self.root_at(mark.height) == Some(mark.root)
    }

    fn root_at(&self, height: u64) -> Option<B256> {
        let first = self.recent.front()?.height;
        let index = usize::try_from(height.checked_sub(first)?).ok()?;
        self.recent.get(index).map(|change| change.root)
    }

    /// Changes above `height` that the overlay covers, in order.
    pub(crate) fn changes_after(&self, height: u64) -> impl Iterator<Item = &Arc<BlockChange>> {
        let first = self.recent.front().map_or(0, |change| change.height);
        let skip = (height + 1).saturating_sub(first);
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(self.recent.len());
        let mut focus = self.recent.iter();
        if let Some(last_skipped) = skip.checked_sub(1) {
            focus.nth(last_skipped);
        }
        focus
    }

    /// An account's leaf.
    pub(crate) fn leaf(&self, hashed: &B256) -> Result<Option<TrieAccount>, ApplyError> {
        let leaf = self
            .tries
            .accounts
            .get(&Nibbles::unpack(hashed), &self.disk.account_reader())
            .map_err(|error| self.trie_error(error))?;
        leaf.map(|leaf| decode_leaf(hashed, &leaf))
            .transpose()
            .map_err(ApplyError::Read)
    }

    /// An account's storage trie, given the root in its leaf.
    pub(crate) fn storage_trie(&self, hashed: &B256, root: B256) -> Trie {
        self.tries
            .storage
            .get(hashed)
            .cloned()
            .unwrap_or_else(|| Trie::stored(root))
    }

    /// Another version of a node where the disk is no longer ours is what happens to a state that was left behind; in any
    /// other case it is damage.
    pub(crate) fn trie_error(&self, error: TrieError) -> ApplyError {
        if matches!(error, TrieError::OtherVersion { .. }) && !self.is_ahead_of_disk() {
            return ApplyError::Superseded {
                height: self.mark.height,
            };
        }
        ApplyError::Read(trie_failed(error))
    }

    fn prove(&self, address: &Address, slots: &[U256]) -> Result<AccountProof, ApplyError> {
        let to_bytes = |nodes: Vec<Vec<u8>>| nodes.into_iter().map(Bytes::from).collect();
        let hashed = keccak256(address);
        let leaf = self.leaf(&hashed)?;
        let proof = self
            .tries
            .accounts
            .prove(&Nibbles::unpack(hashed), &self.disk.account_reader())
            .map_err(|error| self.trie_error(error))?;
        let storage_root = leaf
            .as_ref()
            .map_or(EMPTY_ROOT_HASH, |leaf| leaf.storage_root);
        let trie = self.storage_trie(&hashed, storage_root);
        let reader = self.disk.storage_reader(hashed);
        let storage = slots
            .iter()
            .map(|slot| {
                let key = slot_key(slot);
                let value = trie
                    .get(&key, &reader)
                    .map_err(|error| self.trie_error(error))?;
                let value = decode_slot(&hashed, value.as_deref())?;
                let proof = trie
                    .prove(&key, &reader)
                    .map_err(|error| self.trie_error(error))?;
                Ok(StorageProof {
                    slot: *slot,
                    value,
                    proof: to_bytes(proof),
                })
            })
            .collect::<Result<Vec<_>, ApplyError>>()?;
        let account = leaf.map(|leaf| account_of(&leaf));
        Ok(AccountProof {
            account,
            storage_root,
            proof: to_bytes(proof),
            storage,
        })
    }
}

/// Where a slot lies in a storage trie.
pub(crate) fn slot_key(slot: &U256) -> Nibbles {
    Nibbles::unpack(keccak256(slot.to_be_bytes::<32>()))
}

/// The account in a leaf, without its storage root.
pub(crate) fn account_of(leaf: &TrieAccount) -> Account {
    Account {
        nonce: leaf.nonce,
        balance: leaf.balance,
        code_hash: leaf.code_hash,
    }
}

pub(crate) fn decode_leaf(hashed: &B256, mut leaf: &[u8]) -> Result<TrieAccount, ReadError> {
    TrieAccount::decode(&mut leaf).map_err(|error| ReadError::Damaged {
        key: format!("leaf of account {hashed}"),
        reason: error.to_string(),
    })
}

/// The value in a leaf of a storage trie; zero if there is none.
pub(crate) fn decode_slot(hashed: &B256, leaf: Option<&[u8]>) -> Result<U256, ReadError> {
    let Some(mut leaf) = leaf else {
        return Ok(U256::ZERO);
    };
    U256::decode(&mut leaf).map_err(|error| ReadError::Damaged {
        key: format!("storage leaf of account {hashed}"),
        reason: error.to_string(),
    })
}
