//! The state before the first block.

use std::collections::BTreeMap;

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_trie::root::{state_root_unsorted, storage_root_unsorted};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};
use quorate_kv::{Batch, Direction, KeyRange, Kv};

use crate::disk::{Mark, damaged, storage_failed};
use crate::flush::put_code;
use crate::snapshot::slot_key;
use crate::trie::{Change, NodeReader, Space, Trie};
use crate::writer::Writer;
use crate::{Account, OpenError, ReadError, layout};

/// Bytes per batch. The genesis state may be larger than one batch should be.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// State root of a genesis allocation, before there is a store. Later entries for one address win, as in the store.
pub fn genesis_state_root<'a>(
    accounts: impl IntoIterator<Item = (&'a Address, &'a GenesisAccount)>,
) -> B256 {
    let accounts: BTreeMap<&Address, &GenesisAccount> = accounts.into_iter().collect();
    state_root_unsorted(accounts.into_iter().map(|(address, account)| {
        let account = Parts::of(account);
        let storage = account.storage.iter();
        let storage_root = storage_root_unsorted(
            storage.map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), *value)),
        );
        (keccak256(address), account.leaf(storage_root))
    }))
}

/// A genesis account in our terms.
struct Parts {
    account: Account,
    code: Bytes,
    /// Without zeros.
    storage: BTreeMap<U256, U256>,
}

impl Parts {
    fn of(genesis: &GenesisAccount) -> Self {
        let code = genesis.code.clone().unwrap_or_default();
        let code_hash = if code.is_empty() {
            KECCAK256_EMPTY
        } else {
            keccak256(&code)
        };
        let storage = genesis.storage.iter().flatten();
        let storage = storage
            .map(|(slot, value)| (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0)))
            .filter(|(_, value)| !value.is_zero())
            .collect();
        let nonce = genesis.nonce.unwrap_or_default();
        Self {
            account: Account {
                nonce,
                balance: genesis.balance,
                code_hash,
            },
            code,
            storage,
        }
    }

    fn leaf(&self, storage_root: B256) -> TrieAccount {
        let Account {
            nonce,
            balance,
            code_hash,
        } = self.account;
        TrieAccount {
            nonce,
            balance,
            storage_root,
            code_hash,
        }
    }
}

/// Writes the genesis state into an empty store, durably. It may take several batches: the genesis hash goes first and the
/// durable mark last, so that a store with one and without the other is known to be unfinished.
pub(crate) fn write(
    kv: &dyn Kv,
    accounts: &[(Address, GenesisAccount)],
    genesis_hash: B256,
) -> Result<Mark, OpenError> {
    let accounts: BTreeMap<Address, &GenesisAccount> = accounts
        .iter()
        .map(|(address, account)| (*address, account))
        .collect();
    let mut begin = Batch::new();
    begin.put(layout::KEY_FORMAT, [layout::FORMAT]);
    begin.put(layout::KEY_GENESIS, genesis_hash.to_vec());
    kv.write(begin).map_err(storage_failed)?;
    kv.barrier().map_err(storage_failed)?;

    let mut writer = Writer::new(kv);
    let mut leaves = Vec::with_capacity(accounts.len());
    for (address, genesis) in &accounts {
        let parts = Parts::of(genesis);
        let hashed = keccak256(address);
        let mut storage_root = EMPTY_ROOT_HASH;
        if !parts.storage.is_empty() {
            let mut changes = Vec::with_capacity(parts.storage.len());
            for (slot, value) in &parts.storage {
                writer.put(
                    layout::storage_key(address, slot),
                    layout::encode_value(value),
                )?;
                let value = Some(alloy_rlp::encode(value));
                changes.push(Change {
                    key: slot_key(slot),
                    value,
                });
            }
            let space = Space::Storage(hashed);
            let trie = Trie::default()
                .update(changes, &NodeReader::new(kv, space))
                .map_err(ReadError::from)?;
            storage_root = trie.root_hash();
            writer.put_trie(&trie, &Trie::default(), space)?;
        }
        let mut code = Batch::new();
        put_code(&mut code, &parts.account.code_hash, &parts.code)?;
        writer.append(code)?;
        writer.put(
            layout::account_key(address),
            layout::encode_account(&parts.account),
        )?;
        let value = Some(alloy_rlp::encode(parts.leaf(storage_root)));
        leaves.push(Change {
            key: Nibbles::unpack(hashed),
            value,
        });
    }
    let trie = Trie::default()
        .update(leaves, &NodeReader::new(kv, Space::Accounts))
        .map_err(ReadError::from)?;
    let root = trie.root_hash();
    writer.put_trie(&trie, &Trie::default(), Space::Accounts)?;
    writer.write()?;

    // Two ways of computing one root: a node that starts from a wrong one would never agree with the others.
    let expected = genesis_state_root(
        accounts
            .iter()
            .map(|(address, account)| (address, *account)),
    );
    if root != expected {
        let reason = format!("genesis state root {root}, computed otherwise {expected}");
        return Err(damaged(layout::KEY_DURABLE, &reason).into());
    }
    let mut end = Batch::new();
    end.put(layout::root_key(0), root.to_vec());
    end.put(layout::KEY_HISTORY, 0u64.to_be_bytes());
    end.put(layout::KEY_DURABLE, layout::encode_durable(0, &root));
    // The mark must not overtake what it stands for: a barrier lies between them.
    kv.barrier().map_err(storage_failed)?;
    fail_point!("state.genesis", |e| crate::disk::pretended(e).into());
    kv.write(end).map_err(storage_failed)?;
    kv.barrier().map_err(storage_failed)?;
    Ok(Mark { height: 0, root })
}

/// Removes what an interrupted [`write`] left behind, except the marks that it begins with.
pub(crate) fn clear_unfinished(kv: &dyn Kv) -> Result<(), ReadError> {
    loop {
        let mut batch = Batch::new();
        for entry in kv.scan(KeyRange::all(), Direction::Ascending) {
            let (key, _) = entry.map_err(storage_failed)?;
            if key != layout::KEY_GENESIS && key != layout::KEY_FORMAT {
                batch.delete(key);
            }
            if batch.size_bytes() >= BATCH_BYTES {
                break;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        kv.write(batch).map_err(storage_failed)?;
    }
}
