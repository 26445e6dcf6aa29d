//! Every error that leaves the node: JSON-RPC codes and gRPC statuses are here and in the modules below, nowhere else.
//!
//! Codes named by the execution-apis specification (its error groups) come first: 1 to 4 execution, 800 to 809 gas and fees,
//! 1000 and 1001 pool, 4444 pruned history. Where it names none, EIP-1474's do. Each enum is matched arm by arm: a new
//! variant must be judged here before it compiles.

mod membership;
mod privacy;

pub use membership::membership_fault;

use alloy_primitives::{Address, B256, Bytes};
use jsonrpsee::types::ErrorObjectOwned;
use quorate_chain::{StoreError, TransactionError};
use quorate_evm::{
    CallError, EstimateError, InvalidTransaction, PrivateEstimateError, PrivateRefusal,
};
use quorate_pool::{AdmitError, Fate};
use quorate_state::{ApplyError, HistoryError, ReadError};
use serde_json::Value;
use tonic::{Code, Status};

use crate::feed::FeedError;
use crate::{MembershipError, PrivacyError, SignError};

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<crate::ConfigError>),
    /// Two methods have one name: a fault of this crate.
    #[error("JSON-RPC methods: {0}")]
    Methods(#[from] jsonrpsee::server::RegisterMethodError),
    /// The service description for reflection does not decode: a fault of the build.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error("gRPC server: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The chain cannot be read any more; the node is ending or has to.
    #[error("the chain cannot be followed: {0}")]
    Feed(#[from] FeedError),
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// A parameter is malformed or out of range.
    #[error("invalid argument {name}: {reason}")]
    Argument {
        /// Which parameter.
        name: &'static str,
        /// What is allowed.
        reason: String,
    },
    /// The pool refused a transaction.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// A transaction could not begin.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// A call reverted.
    #[error("{}", revert_text(data))]
    Reverted {
        /// What it returned.
        data: Bytes,
    },
    /// A call halted.
    #[error("{reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// A call needs more gas than it may have.
    #[error("gas required exceeds allowance ({allowance})")]
    GasAllowance {
        /// Most gas that it may have.
        allowance: u64,
    },
    /// The block is not part of the chain, or not yet.
    #[error("unknown block")]
    UnknownBlock,
    /// The transaction is not known, or not in a block.
    #[error("transaction {hash} not found")]
    UnknownTransaction {
        /// Its hash.
        hash: B256,
    },
    /// The filter does not exist, or was not asked for too long.
    #[error("filter not found")]
    UnknownFilter,
    /// Blocks or state that far back were pruned, or never were on this node.
    #[error("pruned history unavailable: {what} pruned below {below}")]
    PrunedBelow {
        /// Of what.
        what: &'static str,
        /// The lowest height that there is.
        below: u64,
    },
    /// State that cannot be proved any more.
    #[error("{reason}")]
    Pruned {
        /// What there is.
        reason: String,
    },
    /// A limit of this node.
    #[error("{what}: at most {max} {unit}")]
    Limit {
        /// What was too much.
        what: &'static str,
        /// The limit.
        max: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// Too much to do at the moment.
    #[error("node is busy: {what}; try again later")]
    Busy {
        /// What there is too much of.
        what: &'static str,
    },
    /// A subscription over a connection that cannot carry news.
    #[error("notifications not supported, use WebSocket")]
    NoNotifications,
    /// Raft has no leader.
    #[error("no leader is currently elected")]
    NoLeader,
    /// The node is shutting down.
    #[error("node is shutting down")]
    Stopping,
    /// The transaction is in the pool, but not in a block within the time.
    #[error("transaction {hash} was accepted and is not in a block after {waited_ms} ms")]
    WaitTimeout {
        /// Its hash.
        hash: B256,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The transaction left the pool while the client waited for it.
    #[error("transaction {hash} {}", fate_text(fate))]
    Departed {
        /// Its hash.
        hash: B256,
        /// How it left.
        fate: Fate,
    },
    /// Nothing was signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The operator's peer address was refused.
    #[error("peer was not added: {reason}")]
    Peer {
        /// Why.
        reason: String,
    },
    /// The membership was not changed, or is not known to be.
    #[error("{}", membership::text(.0))]
    Membership(#[from] MembershipError),
    /// A new voter would cost the quorum: as above, with the way to do it.
    #[error("{}; a new voter counts only when it has caught up: add it with raft_addLearner, and when it follows use raft_promoteToPeer", membership::text(.0))]
    NewVoter(MembershipError),
    /// A private transaction was not sent, or private state not read.
    #[error(transparent)]
    Privacy(PrivacyError),
    /// This node is a party of no private contract at this address.
    #[error("there is no private contract {address} on this node")]
    UnknownContract {
        /// The address.
        address: Address,
    },
    /// This node takes part in no extension with this address.
    #[error("there is no extension {address} on this node")]
    UnknownExtension {
        /// The address.
        address: Address,
    },
    /// Quorum's private form came where public transactions are taken: nobody would have the payload.
    #[error(
        "this is a private transaction (v 37 or 38): send it with eth_sendRawPrivateTransaction and its privateFor"
    )]
    PrivateForm,
    /// Quorum's refusal to promote what is no learner.
    #[error("{raft_id} is not a learner. only learner can be promoted to peer")]
    NotALearner {
        /// Who was meant.
        raft_id: u64,
    },
    /// Nobody has this key.
    #[error("node not found in the cluster: {node}")]
    UnknownNode {
        /// What was asked for.
        node: String,
    },
    /// Nobody took over in time.
    #[error("leadership was not handed over in time; the leader may be the same as before")]
    TransferTimeout,
    /// Our own fault or that of our disk. The text is for the log; clients get none of it.
    #[error("internal error")]
    Internal {
        /// What happened.
        reason: String,
    },
}

/// What a client gets to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outward {
    pub(crate) json: i32,
    pub(crate) grpc: Code,
    /// `data` of the JSON-RPC error.
    pub(crate) data: Option<Value>,
}

impl Outward {
    const fn new(json: i32, grpc: Code) -> Self {
        Self {
            json,
            grpc,
            data: None,
        }
    }

    /// With the word that programs match on, and whether the same request may succeed later.
    fn with_reason(self, reason: &'static str, retryable: bool) -> Self {
        let data = serde_json::json!({ "reason": reason, "retryable": retryable });
        Self {
            data: Some(data),
            ..self
        }
    }
}

/// Malformed or out of range.
const INVALID_PARAMS: i32 = -32602;
/// There is no such method here.
const UNSUPPORTED: i32 = -32601;
/// Refused, and no code is named for the reason.
const REFUSED: i32 = -32000;
const NOT_FOUND: i32 = -32001;
const UNAVAILABLE: i32 = -32002;
/// The pool, or the sender's share of it, is full.
const REJECTED: i32 = -32003;
const LIMIT: i32 = -32005;
const INTERNAL: i32 = -32603;
const PRUNED: i32 = 4444;
const REVERTED: i32 = 3;
/// Quorum's words for value in a private transaction.
pub(crate) const VALUE_REFUSED: &str = "ether value is not supported for private transactions";
/// EIP-7966: the transaction did not make it into a block in time.
const WAIT_TIMEOUT: i32 = 4;

impl RpcError {
    pub(crate) fn argument(name: &'static str, reason: impl ToString) -> Self {
        Self::Argument {
            name,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn internal(reason: impl ToString) -> Self {
        Self::Internal {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn outward(&self) -> Outward {
        let new = Outward::new;
        match self {
            Self::Argument { .. } | Self::Peer { .. } => new(INVALID_PARAMS, Code::InvalidArgument),
            Self::Admit(error) => admit(error),
            Self::Invalid(error) => invalid(error),
            Self::Reverted { data } => Outward {
                data: Some(data.to_string().into()),
                ..new(REVERTED, Code::Aborted)
            },
            Self::Halted { .. } => new(REFUSED, Code::Aborted),
            Self::GasAllowance { .. } => new(REFUSED, Code::FailedPrecondition),
            Self::UnknownBlock
            | Self::UnknownTransaction { .. }
            | Self::UnknownContract { .. }
            | Self::UnknownExtension { .. }
            | Self::UnknownFilter => new(NOT_FOUND, Code::NotFound),
            Self::Pruned { .. } => new(PRUNED, Code::OutOfRange),
            Self::PrunedBelow { below, .. } => Outward {
                data: Some(serde_json::json!({ "prunedBelow": below })),
                ..new(PRUNED, Code::OutOfRange)
            },
            Self::Membership(error) | Self::NewVoter(error) => membership::outward(error),
            Self::Privacy(error) => privacy::outward(error),
            Self::PrivateForm => new(REFUSED, Code::InvalidArgument),
            Self::NotALearner { .. } => new(REFUSED, Code::FailedPrecondition),
            Self::UnknownNode { .. } => new(NOT_FOUND, Code::NotFound),
            Self::TransferTimeout => {
                new(UNAVAILABLE, Code::DeadlineExceeded).with_reason("handover", true)
            }
            Self::Limit { .. } => new(LIMIT, Code::ResourceExhausted).with_reason("limit", false),
            Self::Busy { .. } => new(LIMIT, Code::ResourceExhausted).with_reason("busy", true),
            Self::NoNotifications => new(UNSUPPORTED, Code::Unimplemented),
            Self::NoLeader => new(UNAVAILABLE, Code::Unavailable).with_reason("noLeader", true),
            Self::Stopping => new(UNAVAILABLE, Code::Unavailable).with_reason("stopping", true),
            Self::WaitTimeout { hash, .. } => Outward {
                data: Some(hash.to_string().into()),
                ..new(WAIT_TIMEOUT, Code::DeadlineExceeded)
            },
            Self::Departed { .. } => new(REFUSED, Code::FailedPrecondition),
            Self::Sign(SignError::UnknownAccount { .. } | SignError::Locked { .. }) => {
                new(REFUSED, Code::FailedPrecondition)
            }
            Self::Sign(SignError::Failed { .. }) | Self::Internal { .. } => {
                new(INTERNAL, Code::Internal)
            }
        }
    }

    /// As JSON-RPC answers. This is where an error of ours is logged.
    pub(crate) fn into_json(self) -> ErrorObjectOwned {
        self.log();
        let outward = self.outward();
        ErrorObjectOwned::owned(outward.json, self.to_string(), outward.data)
    }

    /// As gRPC answers. This is where an error of ours is logged.
    pub fn into_status(self) -> Status {
        self.log();
        let (code, text) = (self.outward().grpc, self.to_string());
        match &self {
            Self::Membership(error) | Self::NewVoter(error) => {
                membership::status(code, text, error)
            }
            _ => Status::new(code, text),
        }
    }

    fn log(&self) {
        if let Self::Internal { reason }
        | Self::Membership(MembershipError::Failed { reason })
        | Self::NewVoter(MembershipError::Failed { reason })
        | Self::Privacy(PrivacyError::Internal { reason }) = self
        {
            tracing::error!(reason, "a request failed inside the node");
        }
    }
}

fn admit(error: &AdmitError) -> Outward {
    let new = Outward::new;
    match error {
        AdmitError::NotATransaction(inner) => match inner {
            TransactionError::Malformed { .. } | TransactionError::TrailingBytes { .. } => {
                new(INVALID_PARAMS, Code::InvalidArgument)
            }
            TransactionError::HighS | TransactionError::InvalidSignature => {
                new(1001, Code::InvalidArgument)
            }
        },
        AdmitError::TooLarge { .. } => {
            new(LIMIT, Code::ResourceExhausted).with_reason("tooLarge", false)
        }
        AdmitError::WrongChainId { .. } => new(REFUSED, Code::InvalidArgument),
        AdmitError::Rules(error) => invalid(error),
        AdmitError::GasLimitTooHigh { .. } => new(803, Code::FailedPrecondition),
        AdmitError::GasPriceTooLow { .. } => new(802, Code::FailedPrecondition),
        AdmitError::Known { .. } => new(1000, Code::AlreadyExists),
        AdmitError::NonceTooLow { .. } => new(1, Code::FailedPrecondition),
        AdmitError::NonceTooHigh { .. } => new(2, Code::FailedPrecondition),
        AdmitError::InsufficientFunds { .. } => new(809, Code::FailedPrecondition),
        AdmitError::Underpriced { .. } | AdmitError::InFlight { .. } => {
            new(REFUSED, Code::FailedPrecondition)
        }
        AdmitError::SenderFull { .. } | AdmitError::PoolFull { .. } => {
            new(REJECTED, Code::ResourceExhausted)
        }
        AdmitError::State(_) => new(INTERNAL, Code::Internal),
    }
}

fn invalid(error: &InvalidTransaction) -> Outward {
    let new = Outward::new;
    match error {
        InvalidTransaction::NonceTooLow { .. } => new(1, Code::FailedPrecondition),
        InvalidTransaction::NonceTooHigh { .. } => new(2, Code::FailedPrecondition),
        InvalidTransaction::InsufficientFunds { .. } => new(809, Code::FailedPrecondition),
        InvalidTransaction::GasLimitAboveRemaining { .. }
        | InvalidTransaction::GasLimitAboveBlock { .. }
        | InvalidTransaction::GasLimitAboveCap { .. } => new(803, Code::FailedPrecondition),
        InvalidTransaction::IntrinsicGas { .. } => new(800, Code::FailedPrecondition),
        InvalidTransaction::FeeCapBelowBaseFee { .. } => new(806, Code::FailedPrecondition),
        InvalidTransaction::TipAboveFeeCap { .. } => new(804, Code::FailedPrecondition),
        InvalidTransaction::NonceOverflow { .. }
        | InvalidTransaction::CostOverflow
        | InvalidTransaction::SenderHasCode { .. }
        | InvalidTransaction::InitCodeTooLarge { .. } => new(REFUSED, Code::FailedPrecondition),
        InvalidTransaction::WrongChainId { .. }
        | InvalidTransaction::TypeNotSupported { .. }
        | InvalidTransaction::BlobsRefused
        | InvalidTransaction::BlobFeeCapTooLow { .. }
        | InvalidTransaction::NoBlobs
        | InvalidTransaction::TooManyBlobs { .. }
        | InvalidTransaction::BlobVersion
        | InvalidTransaction::RecipientMissing { .. }
        | InvalidTransaction::PrivateForm(_)
        | InvalidTransaction::EmptyAuthorizationList => new(REFUSED, Code::InvalidArgument),
    }
}

/// How a transaction left the pool, in words that follow its hash.
pub(crate) fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Replaced { by } => format!("was replaced by {by}"),
        Fate::Expired => "waited too long and left the pool".into(),
        Fate::Dropped(reason) => format!("left the pool: {reason}"),
    }
}

/// Solidity's `Error(string)`: the first four bytes of its keccak256.
const ERROR_SELECTOR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
/// Solidity's `Panic(uint256)`.
const PANIC_SELECTOR: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];

/// "execution reverted", with the reason where the returned bytes are one of Solidity's two built-in errors (as in geth).
fn revert_text(data: &[u8]) -> String {
    match revert_reason(data) {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".into(),
    }
}

fn revert_reason(data: &[u8]) -> Option<String> {
    let (selector, body) = data.split_first_chunk::<4>()?;
    match *selector {
        ERROR_SELECTOR => {
            let offset = abi_size(body, 0)?;
            let length = abi_size(body, offset)?;
            let start = offset.checked_add(32)?;
            let text = body.get(start..start.checked_add(length)?)?;
            Some(String::from_utf8_lossy(text).into_owned())
        }
        PANIC_SELECTOR => {
            let code = abi_size(body, 0)?;
            let meaning = match code {
                0x00 => "generic panic",
                0x01 => "assert(false)",
                0x11 => "arithmetic underflow or overflow",
                0x12 => "division or modulo by zero",
                0x21 => "enum overflow",
                0x22 => "invalid encoded storage byte array accessed",
                0x31 => "out-of-bounds array access; popping on an empty array",
                0x32 => "out-of-bounds access of an array or bytesN",
                0x41 => "out of memory",
                0x51 => "uninitialized function",
                _ => return Some(format!("unknown panic code: {code:#x}")),
            };
            Some(meaning.into())
        }
        _ => None,
    }
}

/// An ABI word at `at` that fits into memory sizes.
fn abi_size(body: &[u8], at: usize) -> Option<usize> {
    let word = body.get(at..at.checked_add(32)?)?;
    let (high, low) = word.split_at(24);
    if high.iter().any(|b| *b != 0) {
        return None;
    }
    usize::try_from(u64::from_be_bytes(low.try_into().ok()?)).ok()
}

impl From<PrivacyError> for RpcError {
    fn from(error: PrivacyError) -> Self {
        match error {
            // With Solidity's reason, as in a call.
            PrivacyError::Reverted { data } => Self::Reverted { data },
            PrivacyError::Stopping => Self::Stopping,
            other => Self::Privacy(other),
        }
    }
}

impl From<PrivateRefusal> for RpcError {
    fn from(error: PrivateRefusal) -> Self {
        match error {
            PrivateRefusal::ValueTransfer { .. } => PrivacyError::Refused {
                reason: VALUE_REFUSED.into(),
            }
            .into(),
            PrivateRefusal::Authorizations { .. } => PrivacyError::Refused {
                reason: error.to_string(),
            }
            .into(),
            PrivateRefusal::Invalid(error) => Self::Invalid(error),
            PrivateRefusal::OverrideConflict { .. } => Self::argument("stateOverrides", error),
            PrivateRefusal::State(error) => error.into(),
            PrivateRefusal::Internal { reason } => Self::Internal { reason },
        }
    }
}

impl From<PrivateEstimateError> for RpcError {
    fn from(error: PrivateEstimateError) -> Self {
        match error {
            PrivateEstimateError::Reverted { data } => Self::Reverted { data },
            PrivateEstimateError::Halted { reason } => Self::Halted { reason },
            PrivateEstimateError::AboveAllowance { allowance } => Self::GasAllowance { allowance },
            PrivateEstimateError::Refused(error) => error.into(),
        }
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Pruned { below } => Self::PrunedBelow {
                what: "blocks are",
                below,
            },
            StoreError::Io { .. }
            | StoreError::Damaged { .. }
            | StoreError::OtherGenesis { .. }
            | StoreError::OutOfOrder { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::Anchor(_)
            | StoreError::Index(_)
            | StoreError::Poisoned => Self::internal(error),
        }
    }
}

impl From<ReadError> for RpcError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Pruned { first, .. } => Self::PrunedBelow {
                what: "state is",
                below: first,
            },
            ReadError::Storage { .. } | ReadError::Damaged { .. } => Self::internal(error),
        }
    }
}

impl From<FeedError> for RpcError {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Store(error) => error.into(),
            FeedError::Ended => Self::Stopping,
            FeedError::Missing { .. } => Self::internal(error),
        }
    }
}

impl From<HistoryError> for RpcError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Pruned { first, .. } => Self::PrunedBelow {
                what: "state is",
                below: first,
            },
            HistoryError::Future { .. } => Self::UnknownBlock,
            HistoryError::Read(error) => error.into(),
        }
    }
}

impl From<ApplyError> for RpcError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Superseded { .. } => Self::Pruned {
                reason: error.to_string(),
            },
            ApplyError::Read(error) => error.into(),
            ApplyError::InvalidDiff { .. } => Self::internal(error),
        }
    }
}

impl From<CallError> for RpcError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Invalid(error) => Self::Invalid(error),
            CallError::OverrideConflict { .. } => Self::argument("stateOverrides", error),
            CallError::State(error) => error.into(),
            CallError::Internal { reason } => Self::Internal { reason },
        }
    }
}

impl From<EstimateError> for RpcError {
    fn from(error: EstimateError) -> Self {
        match error {
            EstimateError::Reverted { data } => Self::Reverted { data },
            EstimateError::Halted { reason } => Self::Halted { reason },
            EstimateError::AboveAllowance { allowance } => Self::GasAllowance { allowance },
            EstimateError::Call(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
