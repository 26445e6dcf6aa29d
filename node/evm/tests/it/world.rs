//! A state in memory, people with keys, and their transactions.

use std::collections::BTreeMap;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEip7702, TxLegacy};
use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use alloy_primitives::{
    Address, B256, Bytes, KECCAK256_EMPTY, Signature, TxKind, U256, address, keccak256,
};
use quorate_chain::{ChainSpec, Fork, RecoveredTransaction, Transaction, address_of};
use quorate_evm::{BlockContext, BlockHashes, BlockOutcome};
use quorate_state::{Account, ReadError, StateDiff, StateRead};
use secp256k1::{Message, SECP256K1, SecretKey};

pub const CHAIN_ID: u64 = 1337;
pub const COINBASE: Address = address!("00000000000000000000000000000000000000c0");
pub const RECIPIENT: Address = address!("0000000000000000000000000000000000000bee");
pub const CONTRACT: Address = address!("00000000000000000000000000000000c0de0001");
pub const OTHER_CONTRACT: Address = address!("00000000000000000000000000000000c0de0002");
/// Enough for everything but more than a block has.
pub const GAS: u64 = 1_000_000;
pub const BLOCK_GAS: u64 = 30_000_000;
pub const RICH: u128 = 1_000_000_000_000_000_000;

/// A state of maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    pub accounts: BTreeMap<Address, Account>,
    pub storage: BTreeMap<Address, BTreeMap<U256, U256>>,
    pub codes: BTreeMap<B256, Bytes>,
    /// Addresses whose reading fails.
    pub broken: Vec<Address>,
}

impl World {
    /// Alice and Bob are rich, nobody else is there.
    pub fn new() -> Self {
        Self::default()
            .with_balance(alice(), RICH)
            .with_balance(bob(), RICH)
    }

    pub fn with_balance(mut self, address: Address, balance: u128) -> Self {
        self.accounts.entry(address).or_default().balance = U256::from(balance);
        self
    }

    pub fn with_code(mut self, address: Address, code: &[u8]) -> Self {
        let hash = keccak256(code);
        let account = self.accounts.entry(address).or_default();
        account.code_hash = hash;
        account.nonce = 1;
        self.codes.insert(hash, Bytes::copy_from_slice(code));
        self
    }

    pub fn with_slot(mut self, address: Address, slot: U256, value: u64) -> Self {
        self.storage
            .entry(address)
            .or_default()
            .insert(slot, U256::from(value));
        self
    }

    pub fn slot(&self, address: Address, slot: U256) -> U256 {
        self.storage
            .get(&address)
            .and_then(|slots| slots.get(&slot))
            .copied()
            .unwrap_or_default()
    }

    pub fn balance(&self, address: Address) -> U256 {
        self.accounts
            .get(&address)
            .map_or(U256::ZERO, |account| account.balance)
    }

    /// Applies a difference after checking that it is exact: nothing in it is as it was before.
    pub fn after(&self, diff: &StateDiff) -> Self {
        let mut world = self.clone();
        for (address, change) in &diff.accounts {
            let before = self.accounts.get(address);
            assert!(
                before != change.account.as_ref()
                    || !change.storage.is_empty()
                    || change.storage_wiped,
                "{address} is in the difference and did not change"
            );
            assert!(
                !change.storage_wiped || before.is_some(),
                "{address} had nothing to wipe"
            );
            match change.account {
                Some(account) => world.accounts.insert(*address, account),
                None => world.accounts.remove(address),
            };
            if change.storage_wiped || change.account.is_none() {
                world.storage.remove(address);
            }
            let slots = world.storage.entry(*address).or_default();
            for (slot, value) in &change.storage {
                let old = slots.get(slot).copied().unwrap_or_default();
                assert_ne!(old, *value, "slot {slot} of {address} did not change");
                if value.is_zero() {
                    slots.remove(slot)
                } else {
                    slots.insert(*slot, *value)
                };
            }
        }
        world.storage.retain(|_, slots| !slots.is_empty());
        for (hash, code) in &diff.codes {
            assert_eq!(*hash, keccak256(code));
            assert!(
                diff.accounts
                    .values()
                    .any(|change| change.account.is_some_and(|a| a.code_hash == *hash))
            );
            world.codes.insert(*hash, code.clone());
        }
        world
    }
}

impl StateRead for World {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        if self.broken.contains(address) {
            return Err(ReadError::Storage {
                reason: "the disk is gone".into(),
            });
        }
        Ok(self.accounts.get(address).copied())
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        Ok(self.slot(*address, *slot))
    }

    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        if *code_hash == KECCAK256_EMPTY {
            return Ok(Bytes::new());
        }
        let missing = || ReadError::Damaged {
            key: code_hash.to_string(),
            reason: "missing".into(),
        };
        self.codes.get(code_hash).cloned().ok_or_else(missing)
    }
}

/// Knows the ancestors from the given height on.
pub struct HashesFrom(pub u64);

impl BlockHashes for HashesFrom {
    fn block_hash(&self, height: u64) -> Option<B256> {
        (height >= self.0).then(|| B256::with_last_byte(height.to_le_bytes()[0]))
    }
}

pub const HASHES: HashesFrom = HashesFrom(0);

pub fn context() -> BlockContext {
    BlockContext {
        height: 100,
        timestamp: 1_700_000_000,
        coinbase: COINBASE,
        gas_limit: BLOCK_GAS,
        parent_hash: B256::repeat_byte(0xaa),
        ..BlockContext::default()
    }
}

pub fn spec(fork: Fork) -> ChainSpec {
    ChainSpec::with_fork(CHAIN_ID, fork)
}

/// Executes transactions that must all be valid, under Prague.
pub fn run(world: &World, transactions: &[RecoveredTransaction]) -> BlockOutcome {
    run_under(Fork::Prague, world, transactions)
}

pub fn run_under(fork: Fork, world: &World, transactions: &[RecoveredTransaction]) -> BlockOutcome {
    quorate_evm::execute_block(&spec(fork), context(), world, &HASHES, transactions).unwrap()
}

pub fn key(number: u8) -> SecretKey {
    SecretKey::from_byte_array([number; 32]).unwrap()
}

pub fn address_of_key(number: u8) -> Address {
    address_of(&key(number).public_key(SECP256K1))
}

pub fn alice() -> Address {
    address_of_key(1)
}

pub fn bob() -> Address {
    address_of_key(2)
}

pub fn sign(number: u8, hash: B256) -> Signature {
    let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), &key(number));
    let (id, bytes) = signature.serialize_compact();
    Signature::from_bytes_and_parity(&bytes, i32::from(id) == 1)
}

/// A transaction of Alice, with everything that most tests do not care about.
pub fn by_alice(nonce: u64, to: TxKind, value: u128, input: &[u8]) -> RecoveredTransaction {
    priced(1, nonce, to, value, input, 0)
}

pub fn transfer(nonce: u64, value: u128) -> RecoveredTransaction {
    by_alice(nonce, TxKind::Call(RECIPIENT), value, &[])
}

pub fn invoke(nonce: u64, input: &[u8]) -> RecoveredTransaction {
    by_alice(nonce, TxKind::Call(CONTRACT), 0, input)
}

pub fn priced(
    who: u8,
    nonce: u64,
    to: TxKind,
    value: u128,
    input: &[u8],
    gas_price: u128,
) -> RecoveredTransaction {
    signed(
        who,
        TxLegacy {
            chain_id: Some(CHAIN_ID),
            nonce,
            gas_price,
            gas_limit: GAS,
            to,
            value: U256::from(value),
            input: Bytes::copy_from_slice(input),
        },
    )
}

pub fn signed(who: u8, tx: TxLegacy) -> RecoveredTransaction {
    let signature = sign(who, tx.signature_hash());
    RecoveredTransaction::recover(Transaction::Legacy(tx.into_signed(signature))).unwrap()
}

pub fn with_tip(nonce: u64, fee_cap: u128, tip: u128) -> RecoveredTransaction {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: fee_cap,
        max_priority_fee_per_gas: tip,
        to: TxKind::Call(RECIPIENT),
        value: U256::ONE,
        ..TxEip1559::default()
    };
    let signature = sign(1, tx.signature_hash());
    RecoveredTransaction::recover(Transaction::Eip1559(tx.into_signed(signature))).unwrap()
}

pub fn authorization(who: u8, chain_id: u64, nonce: u64, target: Address) -> SignedAuthorization {
    let authorization = Authorization {
        chain_id: U256::from(chain_id),
        address: target,
        nonce,
    };
    let signature = sign(who, authorization.signature_hash());
    authorization.into_signed(signature)
}

/// A transaction of Alice to `to` with authorizations.
pub fn delegating(nonce: u64, to: Address, list: Vec<SignedAuthorization>) -> RecoveredTransaction {
    let tx = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: GAS,
        to,
        authorization_list: list,
        ..TxEip7702::default()
    };
    let signature = sign(1, tx.signature_hash());
    RecoveredTransaction::recover(Transaction::Eip7702(tx.into_signed(signature))).unwrap()
}

/// Init code that deploys `runtime`.
pub fn deploying(runtime: &[u8]) -> Vec<u8> {
    let length = u8::try_from(runtime.len()).unwrap();
    // CODECOPY(0, 12, length); RETURN(0, length)
    let mut code = vec![
        0x60, length, 0x60, 12, 0x60, 0, 0x39, 0x60, length, 0x60, 0, 0xf3,
    ];
    code.extend_from_slice(runtime);
    code
}

/// Stores the second word of its input in the slot that the first names.
pub const SETTER: &[u8] = &[0x60, 0x20, 0x35, 0x60, 0x00, 0x35, 0x55, 0x00];

/// A token: input is recipient and amount, balances are in the slot of the holder's address. Logs `(amount)` under the topics
/// 0xaa, sender, recipient; returns 1; reverts with 0xbb if the balance is too small.
pub const TOKEN: &[u8] = &[
    0x33, 0x54, // b = SLOAD(CALLER)
    0x60, 0x20, 0x35, // a = amount
    0x80, 0x82, 0x10, 0x60, 0x31, 0x57, // if b < a, revert
    0x80, 0x91, 0x03, 0x33, 0x55, // SSTORE(CALLER, b - a)
    0x60, 0x00, 0x35, 0x80, 0x54, 0x82, 0x01, 0x90, 0x55, // SSTORE(to, SLOAD(to) + a)
    0x60, 0x00, 0x52, // MSTORE(0, a)
    0x60, 0x00, 0x35, 0x33, 0x60, 0xaa, 0x60, 0x20, 0x60, 0x00, 0xa3, // LOG3
    0x60, 0x01, 0x60, 0x00, 0x52, 0x60, 0x20, 0x60, 0x00, 0xf3, // RETURN 1
    0x5b, 0x60, 0xbb, 0x60, 0x00, 0x52, 0x60, 0x20, 0x60, 0x00, 0xfd, // REVERT 0xbb
];

/// Two words of input.
pub fn words(first: U256, second: u64) -> Vec<u8> {
    let mut input = first.to_be_bytes::<32>().to_vec();
    input.extend(U256::from(second).to_be_bytes::<32>());
    input
}

pub fn slot_of(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}
