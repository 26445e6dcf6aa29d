//! GeneralStateTests: one transaction on a given state, with the expected state root and logs.

use std::sync::Arc;

use alloy_primitives::{B256, keccak256};
use quorate_chain::{ChainSpec, Fork, TransactionReceipt, decode_transaction};
use quorate_evm::{BlockContext, BlockExecutor, BlockHashes, ExecuteError, InvalidTransaction};
use quorate_kv::MemoryKv;
use quorate_state::{GenesisAccount, Snapshot, StateStore};
use serde_json::Value;

use super::{Cases, json};

/// The base fee that vectors without one were made with.
const DEFAULT_BASE_FEE: u64 = 10;

/// Runs every row of every fork.
pub fn run(name: &str, test: &Value, cases: &mut Cases<'_>) {
    let state = genesis(test);
    let forks = test.get("post").and_then(Value::as_object);
    for (fork_name, rows) in forks.into_iter().flatten() {
        for row in rows.as_array().into_iter().flatten() {
            let index = |field: &str| {
                row.pointer(&format!("/indexes/{field}"))
                    .and_then(Value::as_u64)
                    .unwrap_or_default()
            };
            let case = format!(
                "{name}::{fork_name}[{}/{}/{}]",
                index("data"),
                index("gas"),
                index("value")
            );
            match (json::fork(fork_name), row.get("txbytes")) {
                (Some(fork), Some(_)) => cases.run(&case, || {
                    let state = state.as_ref().map_err(Clone::clone)?;
                    check(test, row, fork, state)
                }),
                _ => cases.skip(),
            }
        }
    }
}

/// Why a transaction did not run.
enum Refusal {
    Bytes(String),
    Rules(InvalidTransaction),
}

fn check(test: &Value, row: &Value, fork: Fork, state: &Snapshot) -> Result<(), String> {
    let chain_id = match test.get("config") {
        Some(config) => json::optional(config, "chainid")?.map_or(1, |id| id.saturating_to()),
        None => 1,
    };
    let spec = ChainSpec::with_fork(chain_id, fork);
    let context = context(test, fork)?;
    let executed = execute(test, row, &spec, context, state)?;
    let expected_failure = row.get("expectException").and_then(Value::as_str);
    let (after, logs_hash) = match (executed, expected_failure) {
        (Ok((outcome, logs_hash)), None) => (outcome, logs_hash),
        (Ok(_), Some(expected)) => return Err(format!("executed, expected {expected}")),
        (Err(refusal), Some(expected)) => {
            if !expected.split('|').any(|one| fits(&refusal, one)) {
                return Err(format!("{}, expected {expected}", describe(&refusal)));
            }
            (state.clone(), logs_hash(&[]))
        }
        (Err(refusal), None) => return Err(describe(&refusal)),
    };
    let root = json::hash(json::text(row, "hash")?)?;
    if after.state_root() != root {
        return Err(format!(
            "state root {}, expected {root}",
            after.state_root()
        ));
    }
    let logs = json::hash(json::text(row, "logs")?)?;
    if logs_hash != logs {
        return Err(format!("logs {logs_hash}, expected {logs}"));
    }
    Ok(())
}

type Executed = Result<(Snapshot, B256), Refusal>;

fn execute(
    test: &Value,
    row: &Value,
    spec: &ChainSpec,
    context: BlockContext,
    state: &Snapshot,
) -> Result<Executed, String> {
    let bytes = json::bytes(json::text(row, "txbytes")?)?;
    let recovered = decode_transaction(&bytes).and_then(super::recover_on_ethereum);
    let tx = match recovered {
        Ok(tx) => tx,
        Err(e) => return Ok(Err(Refusal::Bytes(e.to_string()))),
    };
    if let Some(sender) = test.pointer("/transaction/sender").and_then(Value::as_str)
        && json::address(sender)? != tx.sender()
    {
        return Err(format!(
            "sender {} recovered, expected {sender}",
            tx.sender()
        ));
    }
    let mut executor = BlockExecutor::for_vectors(spec, context, state, &NumberedHashes);
    let logs = match executor.execute(&tx) {
        Ok(receipt) => logs_hash(std::slice::from_ref(receipt)),
        Err(ExecuteError::Invalid(reason)) => return Ok(Err(Refusal::Rules(reason))),
        Err(other) => return Err(other.to_string()),
    };
    let outcome = executor.finish();
    let after = state.apply(&outcome.diff).map_err(|e| e.to_string())?;
    Ok(Ok((after, logs)))
}

fn logs_hash(receipts: &[TransactionReceipt]) -> B256 {
    let logs: Vec<_> = receipts
        .iter()
        .flat_map(|receipt| receipt.logs.clone())
        .collect();
    keccak256(alloy_rlp::encode(logs))
}

fn context(test: &Value, fork: Fork) -> Result<BlockContext, String> {
    let env = test.get("env").ok_or("env: missing")?;
    let random = match (fork >= Fork::Paris, json::optional(env, "currentRandom")?) {
        (true, Some(random)) => random,
        (true, None) => Default::default(),
        (false, _) => json::required(env, "currentDifficulty")?,
    };
    let base_fee = match (fork >= Fork::London, json::optional(env, "currentBaseFee")?) {
        (true, Some(fee)) => fee.saturating_to(),
        (true, None) => DEFAULT_BASE_FEE,
        (false, _) => 0,
    };
    Ok(BlockContext {
        height: json::required(env, "currentNumber")?.saturating_to(),
        timestamp: json::required(env, "currentTimestamp")?.saturating_to(),
        coinbase: json::address(json::text(env, "currentCoinbase")?)?,
        gas_limit: json::required(env, "currentGasLimit")?.saturating_to(),
        prevrandao: random.into(),
        base_fee,
        excess_blob_gas: json::optional(env, "currentExcessBlobGas")?
            .unwrap_or_default()
            .saturating_to(),
        parent_hash: NumberedHashes
            .block_hash(
                json::required(env, "currentNumber")?
                    .saturating_to::<u64>()
                    .saturating_sub(1),
            )
            .unwrap_or_default(),
        parent_beacon_root: B256::ZERO,
    })
}

fn genesis(test: &Value) -> Result<Snapshot, String> {
    let mut accounts = Vec::new();
    let pre = test
        .get("pre")
        .and_then(Value::as_object)
        .ok_or("pre: no object")?;
    for (address, account) in pre {
        let mut storage = std::collections::BTreeMap::new();
        for (slot, value) in account
            .get("storage")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let value = json::number(value.as_str().ok_or("storage: no text")?)?;
            storage.insert(B256::from(json::number(slot)?), B256::from(value));
        }
        let account = GenesisAccount {
            nonce: Some(json::required(account, "nonce")?.saturating_to()),
            balance: json::required(account, "balance")?,
            code: Some(json::bytes(json::text(account, "code")?)?),
            storage: Some(storage),
            private_key: None,
        };
        accounts.push((json::address(address)?, account));
    }
    let store = StateStore::open(Arc::new(MemoryKv::new()), &accounts, B256::ZERO)
        .map_err(|e| e.to_string())?;
    Ok(store.latest())
}

/// In these vectors the hash of a block is that of its number, in decimal text.
struct NumberedHashes;

impl BlockHashes for NumberedHashes {
    fn block_hash(&self, height: u64) -> Option<B256> {
        Some(keccak256(height.to_string()))
    }
}

fn describe(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Bytes(reason) => format!("refused: {reason}"),
        Refusal::Rules(reason) => format!("refused: {reason}"),
    }
}

/// True if the vectors give this name to such a refusal.
fn fits(refusal: &Refusal, expected: &str) -> bool {
    let name = expected.trim().trim_start_matches("TransactionException.");
    use InvalidTransaction as Invalid;
    let names: &[&str] = match refusal {
        Refusal::Bytes(_) => &[
            "RLP_INVALID_VALUE",
            "TYPE_3_TX_CONTRACT_CREATION",
            "TYPE_4_TX_CONTRACT_CREATION",
        ],
        Refusal::Rules(reason) => match reason {
            Invalid::InsufficientFunds { .. } | Invalid::CostOverflow => {
                &["INSUFFICIENT_ACCOUNT_FUNDS"]
            }
            Invalid::NonceTooLow { .. } => &["NONCE_MISMATCH_TOO_LOW"],
            Invalid::NonceTooHigh { .. } => &["NONCE_MISMATCH_TOO_HIGH"],
            Invalid::NonceOverflow { .. } => &["NONCE_IS_MAX"],
            Invalid::GasLimitAboveBlock { .. } | Invalid::GasLimitAboveRemaining { .. } => {
                &["GAS_ALLOWANCE_EXCEEDED"]
            }
            Invalid::GasLimitAboveCap { .. } => &["GAS_LIMIT_EXCEEDS_MAXIMUM"],
            Invalid::IntrinsicGas { .. } => &[
                "INTRINSIC_GAS_TOO_LOW",
                "INTRINSIC_GAS_BELOW_FLOOR_GAS_COST",
            ],
            Invalid::FeeCapBelowBaseFee { .. } => &["INSUFFICIENT_MAX_FEE_PER_GAS"],
            Invalid::TipAboveFeeCap { .. } => &["PRIORITY_GREATER_THAN_MAX_FEE_PER_GAS"],
            Invalid::SenderHasCode { .. } => &["SENDER_NOT_EOA"],
            Invalid::InitCodeTooLarge { .. } => &["INITCODE_SIZE_EXCEEDED"],
            Invalid::WrongChainId { .. } => &["INVALID_CHAINID"],
            Invalid::TypeNotSupported { .. } => &[
                "TYPE_1_TX_PRE_FORK",
                "TYPE_2_TX_PRE_FORK",
                "TYPE_3_TX_PRE_FORK",
                "TYPE_4_TX_PRE_FORK",
            ],
            Invalid::BlobFeeCapTooLow { .. } => &["INSUFFICIENT_MAX_FEE_PER_BLOB_GAS"],
            Invalid::NoBlobs => &["TYPE_3_TX_ZERO_BLOBS"],
            Invalid::TooManyBlobs { .. } => &[
                "TYPE_3_TX_BLOB_COUNT_EXCEEDED",
                "TYPE_3_TX_MAX_BLOB_GAS_ALLOWANCE_EXCEEDED",
            ],
            Invalid::BlobVersion => &["TYPE_3_TX_INVALID_BLOB_VERSIONED_HASH"],
            Invalid::RecipientMissing { .. } => {
                &["TYPE_3_TX_CONTRACT_CREATION", "TYPE_4_TX_CONTRACT_CREATION"]
            }
            Invalid::EmptyAuthorizationList => &["TYPE_4_EMPTY_AUTHORIZATION_LIST"],
            Invalid::BlobsRefused | Invalid::PrivateForm(_) => &[],
        },
    };
    names.contains(&name)
}
