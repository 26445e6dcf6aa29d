//! Building a state from the chunks of an export.
//!
//! Chunks are sorted by address, tries by its hash. The flat state is written first; then the tries are built from it, each in
//! stretches of hashes of which one fits into memory, so that a state of any size takes a bounded amount.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};
use quorate_kv::{Batch, Direction, KeyRange, Kv};

use crate::chunk::{ChunkReader, Record, check_chunk};
use crate::disk::{damaged, storage_failed};
use crate::flush::put_code;
use crate::snapshot::slot_key;
use crate::trie::{Change, NodeReader, Space, Trie};
use crate::writer::Writer;
use crate::{ChunkInfo, ExportedState, ReadError, layout};

/// Leaves that are put into a trie at once; about 600 bytes each.
const LEAVES_MAX: u64 = 200_000;

/// A state that could not be restored. The storage holds a part of it, is recognised as unfinished and must be removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The storage below failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The storage holds something already.
    #[error("a state can be restored into an empty storage only")]
    NotEmpty,
    /// A chunk could not be read by the caller.
    #[error("chunk {number} cannot be read: {reason}")]
    Unreadable {
        /// Which chunk.
        number: u32,
        /// What the caller said.
        reason: String,
    },
    /// A chunk is not what was announced, or contradicts itself or another one.
    #[error("chunk {number}: {reason}")]
    Chunk {
        /// Which chunk.
        number: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// There are fewer or more chunks than announced.
    #[error("{got} chunks, announced were {expected}")]
    Count {
        /// How many there are; one more than announced if there are too many.
        got: usize,
        /// How many were announced.
        expected: usize,
    },
    /// Storage of an account that does not exist, or code that no account has or that is missing.
    #[error("the chunks do not make a state: {what}")]
    Loose {
        /// What does not belong to anything.
        what: String,
    },
    /// The chunks are those announced, and make another state than announced.
    #[error("the chunks make a state with root {found}, announced was {expected}")]
    Root {
        /// What was announced.
        expected: B256,
        /// What they make.
        found: B256,
    },
}

impl RestoreError {
    /// True if whoever announced the chunks cannot have been honest, or the chunks were damaged since they were checked.
    pub fn blames_source(&self) -> bool {
        match self {
            Self::Chunk { .. } | Self::Loose { .. } | Self::Root { .. } => true,
            Self::Read(_) | Self::NotEmpty | Self::Unreadable { .. } | Self::Count { .. } => false,
        }
    }
}

/// Writes the state that the chunks make into an empty storage, durably, and checks its root. Interrupted at any point, it
/// leaves a storage that [`StateStore::open`](crate::StateStore::open) refuses with
/// [`OpenError::Unfinished`](crate::OpenError::Unfinished).
///
/// # Errors
/// [`RestoreError`].
pub fn restore<E: Display>(
    kv: Arc<dyn Kv>,
    chunks: impl Iterator<Item = Result<Vec<u8>, E>>,
    exported: &ExportedState,
    genesis_hash: B256,
) -> Result<(), RestoreError> {
    restore_in_stretches(kv.as_ref(), chunks, exported, genesis_hash, LEAVES_MAX)
}

fn restore_in_stretches<E: Display>(
    kv: &dyn Kv,
    chunks: impl Iterator<Item = Result<Vec<u8>, E>>,
    exported: &ExportedState,
    genesis_hash: B256,
    leaves_max: u64,
) -> Result<(), RestoreError> {
    let first = kv.scan(KeyRange::all(), Direction::Ascending).next();
    if first.transpose().map_err(storage_failed)?.is_some() {
        return Err(RestoreError::NotEmpty);
    }
    fail_point!("state.restore", |e| crate::disk::pretended(e).into());
    let mut begin = Batch::new();
    begin.put(layout::KEY_FORMAT, [layout::FORMAT]);
    begin.put(layout::KEY_GENESIS, genesis_hash.to_vec());
    begin.put(layout::KEY_RESTORE, exported.height.to_be_bytes());
    kv.write(begin).map_err(storage_failed)?;
    kv.barrier().map_err(storage_failed)?;

    let accounts = Intake::new(kv).all(chunks, &exported.chunks)?;
    build_storage(kv, leaves_max)?;
    let found = build_accounts(kv, accounts, leaves_max)?;
    if found != exported.state_root {
        return Err(RestoreError::Root {
            expected: exported.state_root,
            found,
        });
    }

    let height = exported.height;
    let mut end = Batch::new();
    end.put(layout::root_key(height), found.to_vec());
    end.put(layout::KEY_HISTORY, height.to_be_bytes());
    end.put(layout::KEY_DURABLE, layout::encode_durable(height, &found));
    end.delete(layout::KEY_RESTORE);
    fail_point!("state.restore.end", |e| crate::disk::pretended(e).into());
    // The mark must not overtake what it stands for.
    kv.barrier().map_err(storage_failed)?;
    kv.write(end).map_err(storage_failed)?;
    kv.barrier().map_err(storage_failed)?;
    tracing::info!(height, root = %found, accounts, chunks = exported.chunks.len(), "state restored");
    Ok(())
}

/// Takes chunks in and writes the flat state.
struct Intake<'a> {
    writer: Writer<'a>,
    last: Vec<u8>,
    accounts: u64,
    /// Code that accounts have and that has not come yet.
    codes: BTreeSet<B256>,
}

impl<'a> Intake<'a> {
    fn new(kv: &'a dyn Kv) -> Self {
        Self {
            writer: Writer::new(kv),
            last: Vec::new(),
            accounts: 0,
            codes: BTreeSet::new(),
        }
    }

    /// Returns the number of accounts.
    fn all<E: Display>(
        mut self,
        mut chunks: impl Iterator<Item = Result<Vec<u8>, E>>,
        announced: &[ChunkInfo],
    ) -> Result<u64, RestoreError> {
        let expected = announced.len();
        for (number, info) in (0u32..).zip(announced) {
            let got = usize::try_from(number).unwrap_or(usize::MAX);
            let bytes = chunks.next().ok_or(RestoreError::Count { got, expected })?;
            let bytes = bytes.map_err(|e| RestoreError::Unreadable {
                number,
                reason: e.to_string(),
            })?;
            fail_point!("state.restore.chunk", |e| crate::disk::pretended(e).into());
            let wrong = |reason| RestoreError::Chunk { number, reason };
            check_chunk(&bytes, info).map_err(wrong)?;
            let mut reader = ChunkReader::new(&bytes, number).map_err(wrong)?;
            let mut records = 0;
            while let Some(record) = reader.next_record().map_err(wrong)? {
                let key = record.sort_key();
                if key <= self.last {
                    return Err(wrong("records are not in order"));
                }
                self.last = key;
                self.take(record, number)?;
                records += 1;
            }
            if records != info.records {
                return Err(wrong("it has another number of records"));
            }
        }
        if chunks.next().is_some() {
            let got = expected + 1;
            return Err(RestoreError::Count { got, expected });
        }
        if let Some(hash) = self.codes.first() {
            let what = format!("code {hash} is missing");
            return Err(RestoreError::Loose { what });
        }
        self.writer.write()?;
        Ok(self.accounts)
    }

    fn take(&mut self, record: Record<'_>, number: u32) -> Result<(), RestoreError> {
        match record {
            Record::Account { address, account } => {
                self.accounts += 1;
                if account.has_code() {
                    self.codes.insert(account.code_hash);
                }
                let value = layout::encode_account(&account);
                self.writer.put(layout::account_key(&address), value)?;
            }
            Record::Storage {
                address,
                slot,
                value,
            } => {
                let key = layout::storage_key(&address, &slot);
                self.writer.put(key, layout::encode_value(&value))?;
            }
            Record::Code { hash, code } => {
                if !self.codes.remove(&hash) {
                    let reason = "it has a code that no account has";
                    return Err(RestoreError::Chunk { number, reason });
                }
                let mut batch = Batch::new();
                put_code(
                    &mut batch,
                    &hash,
                    &alloy_primitives::Bytes::copy_from_slice(code),
                )?;
                self.writer.append(batch)?;
            }
        }
        Ok(())
    }
}

/// Puts leaves into a trie that is on disk as far as it exists, and writes it.
fn grow(kv: &dyn Kv, space: Space, root: B256, leaves: Vec<Change>) -> Result<B256, ReadError> {
    let old = Trie::stored(root);
    let new = old.update(leaves, &NodeReader::new(kv, space))?;
    let root = new.root_hash();
    let mut writer = Writer::new(kv);
    writer.put_trie(&new, &old, space)?;
    writer.write()?;
    Ok(root)
}

/// Which of so many equal stretches a hash lies in.
fn stretch_of(hashed: &B256, stretches: u64) -> u64 {
    let (first, _) = hashed.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let scaled = u128::from(u64::from_be_bytes(*first)) * u128::from(stretches);
    u64::try_from(scaled >> 64).unwrap_or(u64::MAX)
}

/// Builds every storage trie.
fn build_storage(kv: &dyn Kv, leaves_max: u64) -> Result<(), RestoreError> {
    let mut current: Option<(Address, u64, Vec<Change>)> = None;
    for entry in kv.scan(KeyRange::prefix(*b"S"), Direction::Ascending) {
        let (key, value) = entry.map_err(storage_failed)?;
        let address = key.get(1..21).and_then(|a| Address::try_from(a).ok());
        let parts = address.zip(layout::storage_slot(&key));
        let (address, slot) = parts.ok_or_else(|| damaged(&key, "key is cut off"))?;
        if current
            .as_ref()
            .is_none_or(|(owner, _, _)| *owner != address)
        {
            if let Some((owner, count, leaves)) = current.take() {
                finish_storage(kv, &owner, count, leaves, leaves_max)?;
            }
            current = Some((address, 0, Vec::new()));
        }
        if let Some((_, count, leaves)) = &mut current {
            *count += 1;
            if *count <= leaves_max {
                leaves.push(storage_leaf(&key, &slot, &value)?);
            } else {
                // Too many for one go: they are read again, stretch by stretch.
                *leaves = Vec::new();
            }
        }
    }
    if let Some((owner, count, leaves)) = current {
        finish_storage(kv, &owner, count, leaves, leaves_max)?;
    }
    Ok(())
}

fn storage_leaf(key: &[u8], slot: &U256, value: &[u8]) -> Result<Change, ReadError> {
    let value = layout::decode_value(value).map_err(|reason| damaged(key, reason))?;
    Ok(Change {
        key: slot_key(slot),
        value: Some(alloy_rlp::encode(value)),
    })
}

fn finish_storage(
    kv: &dyn Kv,
    owner: &Address,
    count: u64,
    leaves: Vec<Change>,
    leaves_max: u64,
) -> Result<(), RestoreError> {
    let account = kv
        .get(&layout::account_key(owner))
        .map_err(storage_failed)?;
    if account.is_none() {
        let what = format!("storage of account {owner}, which does not exist");
        return Err(RestoreError::Loose { what });
    }
    let space = Space::Storage(keccak256(owner));
    if count <= leaves_max {
        grow(kv, space, EMPTY_ROOT_HASH, leaves)?;
        return Ok(());
    }
    let stretches = count.div_ceil(leaves_max);
    let mut root = EMPTY_ROOT_HASH;
    for stretch in 0..stretches {
        let mut leaves = Vec::new();
        let range = KeyRange::prefix(layout::storage_prefix(owner));
        for entry in kv.scan(range, Direction::Ascending) {
            let (key, value) = entry.map_err(storage_failed)?;
            let slot = layout::storage_slot(&key).ok_or_else(|| damaged(&key, "is cut off"))?;
            if stretch_of(&keccak256(slot.to_be_bytes::<32>()), stretches) == stretch {
                leaves.push(storage_leaf(&key, &slot, &value)?);
            }
        }
        root = grow(kv, space, root, leaves)?;
    }
    Ok(())
}

/// Builds the account trie and returns its root.
fn build_accounts(kv: &dyn Kv, count: u64, leaves_max: u64) -> Result<B256, RestoreError> {
    let stretches = count.div_ceil(leaves_max).max(1);
    let mut root = EMPTY_ROOT_HASH;
    for stretch in 0..stretches {
        let mut leaves = Vec::new();
        for entry in kv.scan(KeyRange::prefix(*b"A"), Direction::Ascending) {
            let (key, value) = entry.map_err(storage_failed)?;
            let hashed = keccak256(key.get(1..).unwrap_or_default());
            if stretch_of(&hashed, stretches) != stretch {
                continue;
            }
            let account = layout::decode_account(&value).map_err(|reason| damaged(&key, reason))?;
            let leaf = TrieAccount {
                nonce: account.nonce,
                balance: account.balance,
                storage_root: storage_root(kv, hashed)?,
                code_hash: account.code_hash,
            };
            leaves.push(Change {
                key: Nibbles::unpack(hashed),
                value: Some(alloy_rlp::encode(leaf)),
            });
        }
        root = grow(kv, Space::Accounts, root, leaves)?;
    }
    Ok(root)
}

/// Root of a storage trie that was just written: the hash of its topmost node.
fn storage_root(kv: &dyn Kv, hashed: B256) -> Result<B256, ReadError> {
    let key = layout::trie_node_key(Space::Storage(hashed), &Nibbles::new());
    let node = kv.get(&key).map_err(storage_failed)?;
    Ok(node.map_or(EMPTY_ROOT_HASH, keccak256))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::convert::Infallible;

    use quorate_kv::MemoryKv;

    use super::*;
    use crate::{Account, AccountChange, StateDiff, StateStore, export_chunks};

    #[test]
    fn tries_built_in_many_stretches_are_those_built_at_once() {
        let kv = Arc::new(MemoryKv::new());
        let store = StateStore::open(kv.clone(), &[], B256::ZERO).unwrap();
        let mut diff = StateDiff::default();
        for n in 0..500u64 {
            let address = Address::from_slice(&keccak256(n.to_be_bytes())[12..]);
            let account = Account {
                nonce: n,
                ..Account::default()
            };
            let slots = if n == 7 { 300 } else { n % 4 };
            let slots = (0..slots).map(|slot| (U256::from(slot), U256::from(slot * n + 1)));
            let change = AccountChange {
                account: Some(account),
                storage_wiped: false,
                storage: slots.collect(),
            };
            diff.accounts.insert(address, change);
        }
        store.advance(store.latest().apply(&diff).unwrap()).unwrap();
        store.flush_job().unwrap().run().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let exported = export_chunks(&store, dir.path(), 4096).unwrap();
        assert!(exported.chunks.len() > 5);
        for leaves_max in [1_000, 100, 7] {
            let chunks = (0..exported.chunks.len()).map(|n| {
                let name = crate::chunk_file_name(n as u32);
                Ok::<_, Infallible>(std::fs::read(dir.path().join(name)).unwrap())
            });
            let restored = MemoryKv::new();
            restore_in_stretches(&restored, chunks, &exported, B256::ZERO, leaves_max).unwrap();
            let trie_entries = |kv: &MemoryKv| {
                let entries = kv.entries().into_iter();
                let tries = entries.filter(|(key, _)| b"TUASC".contains(&key[0]));
                tries.collect::<Vec<_>>()
            };
            assert!(trie_entries(&restored) == trie_entries(&kv), "{leaves_max}");
        }
    }
}
