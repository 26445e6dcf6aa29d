//! A state as plain maps, with the roots that alloy's own trie functions give, and generated changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::TrieAccount;
use alloy_trie::root::{state_root_unhashed, storage_root_unhashed};
use proptest::prelude::*;
use quorate_kv::{Kv, MemoryKv};
use quorate_state::{
    Account, AccountChange, GenesisAccount, Snapshot, StateConfig, StateDiff, StateRead,
    StateStore, genesis_state_root,
};

pub const GENESIS_HASH: B256 = B256::repeat_byte(0x47);

/// One account of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelAccount {
    pub account: Account,
    pub storage: BTreeMap<U256, U256>,
}

/// The whole state at one height.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub accounts: BTreeMap<Address, ModelAccount>,
    pub codes: BTreeMap<B256, Bytes>,
}

impl Model {
    pub fn apply(&mut self, diff: &StateDiff) {
        for (address, change) in &diff.accounts {
            let Some(account) = change.account else {
                self.accounts.remove(address);
                continue;
            };
            let entry = self.accounts.entry(*address).or_default();
            entry.account = account;
            if change.storage_wiped {
                entry.storage.clear();
            }
            for (slot, value) in &change.storage {
                if value.is_zero() {
                    entry.storage.remove(slot);
                } else {
                    entry.storage.insert(*slot, *value);
                }
            }
        }
        self.codes.extend(diff.codes.clone());
    }

    pub fn root(&self) -> B256 {
        state_root_unhashed(self.accounts.iter().map(|(address, account)| {
            let storage = account.storage.iter();
            let storage_root =
                storage_root_unhashed(storage.map(|(slot, value)| (B256::from(*slot), *value)));
            let Account {
                nonce,
                balance,
                code_hash,
            } = account.account;
            (
                *address,
                TrieAccount {
                    nonce,
                    balance,
                    storage_root,
                    code_hash,
                },
            )
        }))
    }

    /// Compares everything a reader can ask, over every address and slot that the tests use.
    pub fn assert_equals(&self, snapshot: &Snapshot, when: &str) {
        assert_eq!(snapshot.state_root(), self.root(), "root {when}");
        for n in 0..ADDRESSES {
            let address = address(n);
            let expected = self.accounts.get(&address);
            let found = snapshot.account(&address).unwrap();
            assert_eq!(
                found,
                expected.map(|entry| entry.account),
                "account {n} {when}"
            );
            for slot in 0..SLOTS {
                let slot = U256::from(slot);
                let expected = expected
                    .and_then(|entry| entry.storage.get(&slot))
                    .copied()
                    .unwrap_or_default();
                let found = snapshot.storage(&address, &slot).unwrap();
                assert_eq!(found, expected, "slot {slot} of account {n} {when}");
            }
        }
        for (hash, code) in &self.codes {
            assert_eq!(&snapshot.code(hash).unwrap(), code, "code {when}");
        }
    }
}

/// Generated sequences per property.
pub const CASES: u32 = 60;

pub const ADDRESSES: u8 = 10;
pub const SLOTS: u8 = 6;

pub fn address(n: u8) -> Address {
    Address::repeat_byte(n + 1)
}

pub fn genesis() -> Vec<(Address, GenesisAccount)> {
    let code = Bytes::from_static(&[0x60, 0x00]);
    let storage = BTreeMap::from([
        (B256::from(U256::from(1)), B256::from(U256::from(11))),
        (B256::from(U256::from(2)), B256::from(U256::from(22))),
    ]);
    vec![
        (
            address(0),
            GenesisAccount::default().with_balance(U256::from(1_000_000)),
        ),
        (
            address(1),
            GenesisAccount::default()
                .with_nonce(Some(3))
                .with_balance(U256::from(5)),
        ),
        (
            address(2),
            GenesisAccount::default()
                .with_nonce(Some(1))
                .with_code(Some(code))
                .with_storage(Some(storage)),
        ),
    ]
}

pub fn genesis_model() -> Model {
    let mut model = Model::default();
    for (address, genesis) in genesis() {
        let mut account = Account {
            nonce: genesis.nonce.unwrap_or_default(),
            balance: genesis.balance,
            ..Account::default()
        };
        if let Some(code) = genesis.code {
            account.code_hash = keccak256(&code);
            model.codes.insert(account.code_hash, code);
        }
        let storage = genesis.storage.unwrap_or_default();
        let storage = storage
            .iter()
            .map(|(slot, value)| ((*slot).into(), (*value).into()));
        model.accounts.insert(
            address,
            ModelAccount {
                account,
                storage: storage.collect(),
            },
        );
    }
    let alloc = genesis();
    let root = genesis_state_root(alloc.iter().map(|(address, account)| (address, account)));
    assert_eq!(model.root(), root);
    model
}

/// Settings that evict and forget all the time.
pub fn tight() -> StateConfig {
    StateConfig {
        resident_nodes_max: 4,
        recent_entries_max: 3,
        code_cache_bytes_max: 100,
        ..StateConfig::default()
    }
}

pub fn open(kv: &Arc<MemoryKv>, config: StateConfig) -> StateStore {
    let kv: Arc<dyn Kv> = kv.clone();
    StateStore::open_with(config, kv, &genesis(), GENESIS_HASH).unwrap()
}

/// Applies one block and makes it the head.
pub fn import(store: &StateStore, diff: &StateDiff) -> Snapshot {
    let child = store.latest().apply(diff).unwrap();
    store.advance(child.clone()).unwrap();
    child
}

pub fn flush(store: &StateStore) {
    if let Some(job) = store.flush_job() {
        let height = job.height();
        assert_eq!(job.run().unwrap().height, height);
        assert_eq!(store.durable_height(), height);
    }
}

/// A change that sets some balances.
pub fn balances(changes: &[(u8, u64)]) -> StateDiff {
    let mut diff = StateDiff::default();
    for (n, balance) in changes {
        let account = Account {
            balance: U256::from(*balance),
            ..Account::default()
        };
        let change = AccountChange {
            account: Some(account),
            ..AccountChange::default()
        };
        diff.accounts.insert(address(*n), change);
    }
    diff
}

prop_compose! {
    fn account_change()(
        kind in 0u8..10,
        nonce in 0u64..3,
        balance in 0u64..4,
        code in prop::option::weighted(0.3, 0u8..3),
        wiped in prop::bool::weighted(0.15),
        storage in prop::collection::btree_map(0u8..SLOTS, 0u64..4, 0..4),
    ) -> (AccountChange, Option<Bytes>) {
        if kind == 0 {
            return (AccountChange::default(), None);
        }
        // Over one part, to see codes cut up and put together.
        let code = code.map(|n| Bytes::from(vec![n + 1; 3_000 * usize::from(n + 1)]));
        let mut account = Account { nonce, balance: U256::from(balance), ..Account::default() };
        if let Some(code) = &code {
            account.code_hash = keccak256(code);
        }
        let storage = storage.into_iter().map(|(slot, value)| (U256::from(slot), U256::from(value)));
        let change = AccountChange { account: Some(account), storage_wiped: wiped, storage: storage.collect() };
        (change, code)
    }
}

/// What one block may do: create, change, remove, wipe, create again.
pub fn diff() -> impl Strategy<Value = StateDiff> {
    prop::collection::btree_map(0u8..ADDRESSES, account_change(), 0..6).prop_map(|changes| {
        let mut diff = StateDiff::default();
        for (n, (change, code)) in changes {
            if let Some(code) = code {
                diff.codes.insert(keccak256(&code), code);
            }
            diff.accounts.insert(address(n), change);
        }
        diff
    })
}
