//! What all snapshots of a store share: the storage below, and how far it has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use parking_lot::{Mutex, RwLock};
use quorate_kv::{Direction, Entry, KeyRange, Kv, KvError};

use crate::absent::Absent;
use crate::preimages::Preimages;
use crate::trie::{NodeReader, Space, Trie, TrieError};
use crate::{Account, ReadError, StateConfig, layout};

/// A state by height and root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) height: u64,
    pub(crate) root: B256,
}

/// How far the storage below has come. `durable.height <= flushing.height`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    /// What survives power loss.
    pub(crate) durable: Mark,
    /// What the flat values may already be at: set before a batch is written, so that whoever read a value and then sees an
    /// old mark knows that the value is not newer than the mark.
    pub(crate) flushing: Mark,
}

/// All tries of one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tries {
    pub(crate) accounts: Trie,
    /// Storage tries in memory, by hashed address. One that is missing is on disk, under the root in its account's leaf.
    pub(crate) storage: imbl::OrdMap<B256, Trie>,
}

/// The tries as they are on disk.
#[derive(Debug)]
pub(crate) struct Persisted {
    pub(crate) mark: Mark,
    pub(crate) tries: Tries,
}

/// The storage below and its marks.
pub(crate) struct Disk {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) config: StateConfig,
    /// First height at which reads are possible; rises.
    pub(crate) history_start: AtomicU64,
    /// Where flushes leave old values for an export under way.
    pub(crate) export: Mutex<Option<Arc<Preimages>>>,
    pub(crate) marks: RwLock<Marks>,
    /// Replaced by each flush; also tells the next `advance` what may be forgotten.
    pub(crate) persisted: Mutex<Arc<Persisted>>,
    /// At most one flush at a time: it reads what the previous one wrote.
    pub(crate) flush_running: AtomicBool,
    /// Bytes of changes up to the durable height, as counted since the store was opened.
    pub(crate) durable_bytes: AtomicU64,
    next_id: AtomicU64,
    codes: Mutex<CodeCache>,
    pub(crate) absent: Absent,
}

#[derive(Default)]
struct CodeCache {
    by_hash: BTreeMap<B256, Bytes>,
    bytes: usize,
}

impl Disk {
    pub(crate) fn new(
        kv: Arc<dyn Kv>,
        config: StateConfig,
        history_start: u64,
        durable: Mark,
    ) -> Self {
        let tries = Tries {
            accounts: Trie::stored(durable.root),
            storage: imbl::OrdMap::new(),
        };
        Self {
            kv,
            config,
            history_start: AtomicU64::new(history_start),
            export: Mutex::new(None),
            marks: RwLock::new(Marks {
                durable,
                flushing: durable,
            }),
            persisted: Mutex::new(Arc::new(Persisted {
                mark: durable,
                tries,
            })),
            flush_running: AtomicBool::new(false),
            durable_bytes: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            codes: Mutex::new(CodeCache::default()),
            absent: Absent::default(),
        }
    }

    /// A number that no other snapshot of this store has.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn account_reader(&self) -> NodeReader<'_> {
        NodeReader::new(self.kv.as_ref(), Space::Accounts)
    }

    pub(crate) fn storage_reader(&self, hashed: B256) -> NodeReader<'_> {
        NodeReader::new(self.kv.as_ref(), Space::Storage(hashed))
    }

    /// The account as of `height`, which is not above the durable height. `flat_is_right` says, after the flat value was
    /// read, whether it can be taken as it is.
    pub(crate) fn account_at(
        &self,
        address: &Address,
        height: u64,
        flat_is_right: impl FnOnce() -> bool,
    ) -> Result<Option<Account>, ReadError> {
        let key = layout::account_key(address);
        let flat = match self.absent.check(address) {
            Ok(()) => None,
            Err(turn) => {
                let flat = self.kv.get(&key).map_err(storage_failed)?;
                if flat.is_none() {
                    self.absent.remember(*address, turn);
                }
                flat
            }
        };
        if !flat_is_right() {
            let prefix = layout::account_history_prefix(address);
            let old = self.first_change_after(&prefix, height)?;
            self.check_kept(height)?;
            if let Some((key, old)) = old {
                return layout::decode_old_account(&old).map_err(|reason| damaged(&key, reason));
            }
        }
        flat.map(|flat| layout::decode_account(&flat).map_err(|reason| damaged(&key, reason)))
            .transpose()
    }

    /// The storage value as of `height`; see [`account_at`](Self::account_at).
    pub(crate) fn storage_at(
        &self,
        address: &Address,
        slot: &U256,
        height: u64,
        flat_is_right: impl FnOnce() -> bool,
    ) -> Result<U256, ReadError> {
        let mut key = layout::storage_key(address, slot);
        let mut value = self.kv.get(&key).map_err(storage_failed)?;
        if !flat_is_right() {
            let prefix = layout::storage_history_prefix(address, slot);
            let old = self.first_change_after(&prefix, height)?;
            self.check_kept(height)?;
            if let Some((old_key, old)) = old {
                (key, value) = (old_key, Some(old));
            }
        }
        let value = value.unwrap_or_default();
        layout::decode_value(&value).map_err(|reason| damaged(&key, reason))
    }

    /// Asked after old values were read: were they all there?
    fn check_kept(&self, height: u64) -> Result<(), ReadError> {
        let first = self.history_start.load(Ordering::Acquire);
        if height < first {
            return Err(ReadError::Pruned { height, first });
        }
        Ok(())
    }

    /// The first old value recorded above `height`: it is what was there at `height`.
    fn first_change_after(&self, prefix: &[u8], height: u64) -> Result<Option<Entry>, ReadError> {
        let Some(after) = height.checked_add(1) else {
            return Ok(None);
        };
        let start = [prefix, &after.to_be_bytes()].concat();
        let range = KeyRange::prefix_from(prefix, start);
        let Some(entry) = self.kv.scan(range, Direction::Ascending).next() else {
            return Ok(None);
        };
        let (key, values) = entry.map_err(storage_failed)?;
        match layout::old_value_from(&values, after) {
            Ok(Some(value)) => {
                let value = value.to_vec();
                Ok(Some((key, value)))
            }
            Ok(None) => Err(damaged(
                &key,
                "the last old value is older than its key says",
            )),
            Err(reason) => Err(damaged(&key, reason)),
        }
    }

    /// Slots of an account that have a value on disk right now, in order.
    pub(crate) fn slots(&self, address: &Address) -> Result<Vec<U256>, ReadError> {
        let mut slots = Vec::new();
        let range = KeyRange::prefix(layout::storage_prefix(address));
        for entry in self.kv.scan(range, Direction::Ascending) {
            let (key, _) = entry.map_err(storage_failed)?;
            let slot = layout::storage_slot(&key).ok_or_else(|| damaged(&key, "key is cut off"))?;
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Code by hash, from memory or disk.
    pub(crate) fn code(&self, hash: &B256) -> Result<Bytes, ReadError> {
        if *hash == KECCAK256_EMPTY {
            return Ok(Bytes::new());
        }
        if let Some(code) = self.codes.lock().by_hash.get(hash) {
            return Ok(code.clone());
        }
        let mut code = Vec::new();
        let prefix = layout::code_prefix(hash);
        for part in self
            .kv
            .scan(KeyRange::prefix(prefix.clone()), Direction::Ascending)
        {
            let (_, part) = part.map_err(storage_failed)?;
            code.extend_from_slice(&part);
        }
        if keccak256(&code) != *hash {
            return Err(damaged(&prefix, "code is missing or has another hash"));
        }
        let code = Bytes::from(code);
        self.keep_code(*hash, code.clone());
        Ok(code)
    }

    fn keep_code(&self, hash: B256, code: Bytes) {
        let size_max = self.config.code_cache_bytes_max;
        if code.len() > size_max {
            return;
        }
        let mut codes = self.codes.lock();
        if codes.bytes + code.len() > size_max {
            *codes = CodeCache::default();
        }
        let size = code.len();
        if codes.by_hash.insert(hash, code).is_none() {
            codes.bytes += size;
        }
    }
}

pub(crate) fn storage_failed(error: KvError) -> ReadError {
    match error {
        KvError::Damaged { operation, reason } => ReadError::Damaged {
            key: format!("storage {operation}"),
            reason,
        },
        error @ (KvError::Failed { .. }
        | KvError::Poisoned { .. }
        | KvError::KeyTooLarge { .. }
        | KvError::ValueTooLarge { .. }) => ReadError::Storage {
            reason: error.to_string(),
        },
    }
}

/// An error that a fail point gave.
#[cfg(feature = "fail-points")]
#[allow(clippy::needless_pass_by_value, reason = "a fail point gives it away")]
pub(crate) fn pretended(error: std::io::Error) -> ReadError {
    ReadError::Storage {
        reason: error.to_string(),
    }
}

pub(crate) fn damaged(key: &[u8], reason: &str) -> ReadError {
    ReadError::Damaged {
        key: alloy_primitives::hex::encode_prefixed(key),
        reason: reason.to_owned(),
    }
}

impl From<TrieError> for ReadError {
    fn from(error: TrieError) -> Self {
        trie_failed(error)
    }
}

/// A trie read below a state that is on disk: another version there is damage.
pub(crate) fn trie_failed(error: TrieError) -> ReadError {
    match error {
        TrieError::Kv(error) => storage_failed(error),
        TrieError::OtherVersion { key, found } => damaged(&key, &found),
        TrieError::Malformed { key, reason } => damaged(&key, reason),
    }
}
