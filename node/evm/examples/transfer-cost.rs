//! Measures what one transfer and one token transfer cost in execution, without trie, signatures and disk.
#![allow(clippy::print_stdout, reason = "a command whose output is its purpose")]

use std::collections::BTreeMap;
use std::time::Instant;

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use quorate_chain::{ChainSpec, Fork, RecoveredTransaction, Transaction};
use quorate_evm::{BlockContext, BlockHashes, ExecuteError, execute_block};
use quorate_state::{Account, ReadError, StateRead};

/// Transactions per block.
const TRANSACTIONS: u64 = 500;
/// Blocks per measurement.
const BLOCKS: u32 = 200;
/// Decrements the slot of the caller, increments the slot that the input names.
const TOKEN: [u8; 18] = [
    0x60, 0x01, 0x33, 0x54, 0x03, 0x33, 0x55, 0x5f, 0x35, 0x54, 0x60, 0x01, 0x01, 0x5f, 0x35, 0x55,
    0x00, 0x00,
];

struct Flat {
    accounts: BTreeMap<Address, Account>,
    code: Bytes,
}

impl StateRead for Flat {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        Ok(self.accounts.get(address).copied())
    }

    fn storage(&self, _: &Address, _: &U256) -> Result<U256, ReadError> {
        Ok(U256::from(1_000))
    }

    fn code(&self, _: &B256) -> Result<Bytes, ReadError> {
        Ok(self.code.clone())
    }
}

struct NoHashes;

impl BlockHashes for NoHashes {
    fn block_hash(&self, _: u64) -> Option<B256> {
        None
    }
}

fn main() -> Result<(), ExecuteError> {
    let token = Address::repeat_byte(0xcc);
    let code = Bytes::copy_from_slice(&TOKEN);
    let contract = Account {
        nonce: 1,
        code_hash: keccak256(&code),
        ..Account::default()
    };
    let sender = |n: u64| Address::from_word(keccak256(n.to_be_bytes()));
    let rich = Account {
        balance: U256::from(u128::MAX),
        ..Account::default()
    };
    let mut accounts: BTreeMap<Address, Account> =
        (0..TRANSACTIONS).map(|n| (sender(n), rich)).collect();
    accounts.insert(token, contract);
    let state = Flat { accounts, code };
    let plain = |n: u64| (TxKind::Call(sender(n + 1_000_000)), Bytes::new());
    let call = |n: u64| {
        (
            TxKind::Call(token),
            Bytes::from(sender(n + 1_000_000).into_word().0),
        )
    };
    measure("transfer", &state, plain, sender)?;
    measure("token transfer", &state, call, sender)
}

fn measure(
    name: &str,
    state: &Flat,
    target: impl Fn(u64) -> (TxKind, Bytes),
    sender: impl Fn(u64) -> Address,
) -> Result<(), ExecuteError> {
    let spec = ChainSpec::with_fork(1337, Fork::Prague);
    let transactions: Vec<RecoveredTransaction> = (0..TRANSACTIONS)
        .map(|n| {
            let (to, input) = target(n);
            let value = if input.is_empty() {
                U256::ONE
            } else {
                U256::ZERO
            };
            let tx = TxLegacy {
                chain_id: Some(1337),
                gas_limit: 100_000,
                to,
                value,
                input,
                ..TxLegacy::default()
            };
            let tx = tx.into_signed(Signature::new(U256::ONE, U256::ONE, false));
            RecoveredTransaction::with_sender(Transaction::Legacy(tx), sender(n))
        })
        .collect();
    let context = BlockContext {
        height: 1,
        gas_limit: 1_000_000_000,
        ..BlockContext::default()
    };
    let begin = Instant::now();
    for _ in 0..BLOCKS {
        let outcome = execute_block(&spec, context, state, &NoHashes, &transactions)?;
        assert!(
            outcome.receipts.iter().all(|receipt| receipt.success),
            "a transaction failed"
        );
    }
    let each = begin.elapsed() / BLOCKS;
    println!(
        "{name}: {each:?} per block of {TRANSACTIONS}, {:?} each",
        each / 500
    );
    Ok(())
}
