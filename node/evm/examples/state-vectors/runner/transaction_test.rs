//! TransactionTests: bytes that are a valid transaction under a fork, or are not.

use alloy_consensus::Transaction as _;
use quorate_chain::{Fork, RecoveredTransaction, decode_transaction};
use quorate_evm::{intrinsic_gas, validate_public};
use serde_json::Value;

use super::{Cases, json};

/// The chain that these vectors are signed for.
const CHAIN_ID: u64 = 1;

/// Checks the bytes under every fork.
pub fn run(name: &str, test: &Value, cases: &mut Cases<'_>) {
    for (fork_name, expected) in test
        .get("result")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        match json::fork(fork_name) {
            Some(fork) => cases.run(&format!("{name}::{fork_name}"), || {
                check(test, expected, fork)
            }),
            None => cases.skip(),
        }
    }
}

fn check(test: &Value, expected: &Value, fork: Fork) -> Result<(), String> {
    let admitted = json::bytes(json::text(test, "txbytes")?).and_then(|bytes| admit(&bytes, fork));
    match (admitted, expected.get("exception")) {
        (Ok(_), Some(exception)) => Err(format!("admitted, expected {exception}")),
        (Err(_), Some(_)) => Ok(()),
        (Err(reason), None) => Err(format!("refused: {reason}")),
        (Ok(tx), None) => {
            let hash = json::hash(json::text(expected, "hash")?)?;
            if tx.hash() != hash {
                return Err(format!("hash {}, expected {hash}", tx.hash()));
            }
            let sender = json::address(json::text(expected, "sender")?)?;
            if tx.sender() != sender {
                return Err(format!("sender {}, expected {sender}", tx.sender()));
            }
            let gas = json::required(expected, "intrinsicGas")?;
            let ours = intrinsic_gas(fork, tx.transaction());
            if gas.saturating_to::<u64>() != ours {
                return Err(format!("intrinsic gas {ours}, expected {gas}"));
            }
            Ok(())
        }
    }
}

/// What a node does with bytes from outside before it looks at the state.
fn admit(bytes: &[u8], fork: Fork) -> Result<RecoveredTransaction, String> {
    let tx = decode_transaction(bytes).map_err(|e| e.to_string())?;
    if tx.chain_id().is_some_and(|id| id != CHAIN_ID) {
        return Err("other chain id".into());
    }
    validate_public(fork, &tx).map_err(|e| e.to_string())?;
    super::recover_on_ethereum(tx).map_err(|e| e.to_string())
}
