//! Why a transaction does not run.

use alloy_primitives::{Address, B256, Bytes, U256};
use quorate_chain::{Fork, QuorumFormError};
use quorate_state::ReadError;

/// A transaction that must not be in a block. Nothing of it was executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransaction {
    /// The nonce has been used.
    #[error("nonce too low: next nonce {expected}, tx nonce {got}")]
    NonceTooLow {
        /// Nonce of the transaction.
        got: u64,
        /// Next nonce of the sender.
        expected: u64,
    },
    /// Nonces in between are missing.
    #[error("nonce too high: next nonce {expected}, tx nonce {got}")]
    NonceTooHigh {
        /// Nonce of the transaction.
        got: u64,
        /// Next nonce of the sender.
        expected: u64,
    },
    /// EIP-2681: no nonce may follow this one.
    #[error("nonce {got} is not allowed, the largest is {}", u64::MAX - 1)]
    NonceOverflow {
        /// Nonce of the transaction.
        got: u64,
    },
    /// The sender cannot pay value and gas.
    #[error("insufficient funds for gas * price + value: balance {balance}, tx cost {cost}")]
    InsufficientFunds {
        /// Balance of the sender in wei.
        balance: U256,
        /// Most that the transaction can cost, in wei.
        cost: U256,
    },
    /// Gas limit times price plus value does not fit into 256 bits.
    #[error("gas limit * price + value exceeds 256 bits")]
    CostOverflow,
    /// The block has not enough gas left; another block may.
    #[error("gas limit {got} exceeds the {remaining} gas that the block has left")]
    GasLimitAboveRemaining {
        /// Gas limit of the transaction.
        got: u64,
        /// Gas left in the block.
        remaining: u64,
    },
    /// No block can have enough gas.
    #[error("gas limit {got} exceeds the block gas limit {max}")]
    GasLimitAboveBlock {
        /// Gas limit of the transaction.
        got: u64,
        /// Gas limit of a block.
        max: u64,
    },
    /// EIP-7825: limit per transaction.
    #[error("gas limit {got} exceeds the limit per transaction {max} (EIP-7825)")]
    GasLimitAboveCap {
        /// Gas limit of the transaction.
        got: u64,
        /// The cap.
        max: u64,
    },
    /// The gas limit does not cover what is due before the first instruction (including the floor of EIP-7623).
    #[error("intrinsic gas too low: gas limit {got}, required {required}")]
    IntrinsicGas {
        /// Gas limit of the transaction.
        got: u64,
        /// Least gas limit.
        required: u64,
    },
    /// The fee cap, or the gas price, is below the block's base fee.
    #[error("max fee per gas {got} is below the base fee {base_fee}")]
    FeeCapBelowBaseFee {
        /// Fee cap or gas price, in wei.
        got: u128,
        /// Base fee of the block, in wei.
        base_fee: u64,
    },
    /// EIP-1559: the tip may not exceed the fee cap.
    #[error("max priority fee per gas {tip} exceeds max fee per gas {fee_cap}")]
    TipAboveFeeCap {
        /// Tip, in wei.
        tip: u128,
        /// Fee cap, in wei.
        fee_cap: u128,
    },
    /// EIP-3607: the sender is a contract.
    #[error("sender {sender} has code that is no delegation (EIP-3607)")]
    SenderHasCode {
        /// The sender.
        sender: Address,
    },
    /// EIP-3860: limit of code that creates a contract.
    #[error("init code has {got} bytes, at most {max} are allowed (EIP-3860)")]
    InitCodeTooLarge {
        /// Bytes of the init code.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// Signed for another chain.
    #[error("transaction is signed for chain id {}, this chain is {expected}", got.map_or("(none)".into(), |id| id.to_string()))]
    WrongChainId {
        /// Chain id in the transaction, if any.
        got: Option<u64>,
        /// Chain id of this network.
        expected: u64,
    },
    /// The fork does not know this type of transaction.
    #[error("transaction type {tx_type} is not supported by fork {fork}")]
    TypeNotSupported {
        /// EIP-2718 type byte.
        tx_type: u8,
        /// Rules in force.
        fork: Fork,
    },
    /// This chain keeps no blobs.
    #[error("blob transactions (type 3) are not accepted on this chain")]
    BlobsRefused,
    /// The blob fee cap is below the block's blob fee.
    #[error("max fee per blob gas {got} is below the blob base fee {price}")]
    BlobFeeCapTooLow {
        /// Blob fee cap, in wei.
        got: u128,
        /// Blob base fee of the block, in wei.
        price: u128,
    },
    /// EIP-4844: at least one blob.
    #[error("blob transaction without blobs")]
    NoBlobs,
    /// Too many blobs.
    #[error("transaction has {got} blobs, at most {max} are allowed")]
    TooManyBlobs {
        /// Blobs of the transaction.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// EIP-4844: blob hashes have version 1.
    #[error("blob hash is not of version 1")]
    BlobVersion,
    /// EIP-4844 and EIP-7702: these types cannot create a contract.
    #[error("transaction type {tx_type} needs a recipient")]
    RecipientMissing {
        /// EIP-2718 type byte.
        tx_type: u8,
    },
    /// EIP-7702: at least one authorization.
    #[error("authorization list is empty (EIP-7702)")]
    EmptyAuthorizationList,
    /// A private transaction in Quorum's form moves value, or its data is not a payload hash.
    #[error(transparent)]
    PrivateForm(#[from] QuorumFormError),
}

/// Why a block, or one more transaction of it, could not be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The transaction must not be in the block. The executor is as it was before.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// A transaction of a whole block must not be in it.
    #[error("transaction {position} ({hash}): {reason}")]
    InvalidAt {
        /// Its position in the block, from 0.
        position: usize,
        /// Its hash.
        hash: B256,
        /// What is wrong with it.
        reason: Box<InvalidTransaction>,
    },
    /// The state could not be read. Nothing more can be executed.
    #[error(transparent)]
    State(#[from] ReadError),
    /// The EVM contradicts itself. Nothing more can be executed.
    #[error("EVM failed: {reason}")]
    Internal {
        /// What it said.
        reason: String,
    },
}

/// Why a call has no outcome. A call that reverts or halts has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// As a transaction it could not begin.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// An account is overridden both in whole and in part.
    #[error("override of {address}: state and stateDiff exclude each other")]
    OverrideConflict {
        /// The account.
        address: Address,
    },
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] ReadError),
    /// The EVM contradicts itself.
    #[error("EVM failed: {reason}")]
    Internal {
        /// What it said.
        reason: String,
    },
}

/// Why there is no gas limit with which a transaction would succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EstimateError {
    /// It reverts, however much gas it has.
    #[error("execution reverted")]
    Reverted {
        /// What it returned.
        data: Bytes,
    },
    /// It halts, for another reason than lack of gas.
    #[error("execution halted: {reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// It needs more than block, cap or balance allow.
    #[error("gas required exceeds allowance ({allowance})")]
    AboveAllowance {
        /// Most gas that it may have.
        allowance: u64,
    },
    /// It cannot be executed at all.
    #[error(transparent)]
    Call(#[from] CallError),
}
