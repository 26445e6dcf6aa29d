//! # What it is
//! Block execution: a pure function from (parent state, block environment, transactions) to (receipts, gas, state changes), or
//! to a refusal that names the transaction. Beside it the questions that clients ask without sending a transaction. revm is
//! used here and nowhere else; none of its types leave this crate.
//!
//! # Flow
//! ```text
//! StateRead ─► BlockExecutor::new ─► execute(tx) … ─► finish ─► BlockOutcome { receipts, gas_used, diff }
//!                │ system calls of the fork  │        (the diff makes the child state, the receipts the receipts root)
//!                                            └─► state ─► public state as of that transaction, for execute_private
//! StateRead ─► call, estimate_gas, create_access_list ─► answer, nothing kept
//! transaction ─► validate_static ─► admissible under this fork, whatever the state
//! public and private StateRead ─► execute_private ─► PrivateOutcome { receipt, diff of private state, contracts that took part }
//!                                 call_private, estimate_private_gas ─► answer, nothing kept
//! ```
//!
//! # You must
//! 1. Hand in the state of the parent block and nothing else: what is read there decides the result.
//! 2. Recover senders before; the sender of a [`RecoveredTransaction`](quorate_chain::RecoveredTransaction) is believed.
//! 3. Treat [`ExecuteError::State`] and [`ExecuteError::Internal`] as the end of this execution: drop the executor.
//! 4. Cap the gas of calls with [`CallSettings::gas_cap`]; it is the only limit on their work.
//! 5. Give [`execute_private`] the public state as of the transaction, its own public effects included
//!    ([`BlockExecutor::state`]), and stop following private state on a refusal that is not [final](PrivateRefusal::is_final).
//!
//! # It promises
//! - The same inputs give the same outcome on every member: no clock, no randomness, no order of a hash map.
//! - A refused transaction ([`ExecuteError::Invalid`]) leaves no trace.
//! - The difference is exact: only what the block changed, with storage that went away marked as such.
//! - The public side of a private transaction is the same on parties and on others: it depends on nothing but what the chain holds.
//! - A private transaction changes private contracts and nothing else; public execution never sees private state.
//! - Zero base fee and zero gas price are ordinary values under Ethereum's own rules, not a switched-off check.
//!
//! # It does not
//! Order transactions, judge block headers, compute roots, or store anything. There are no withdrawals and no requests
//! (EIP-4895, EIP-7685): nothing happens after the last transaction. Blob transactions are refused, because there is no
//! store for blobs; only the public test vectors run them ([`BlockExecutor::for_vectors`]). EIP-1283, which Ethereum's main
//! network never ran, is not implemented: [`Fork::Constantinople`](quorate_chain::Fork::Constantinople) runs the rules of
//! Petersburg.
//!
//! # Read next
//! `executor.rs`, `block_state.rs`, `rules.rs`, `call.rs`, `private.rs`.

mod access_list;
mod block_state;
mod call;
mod code_cache;
mod context;
mod environment;
mod error;
mod estimate;
mod executor;
mod overrides;
mod private;
mod quorum;
mod rules;

pub use access_list::{AccessListOutcome, create_access_list};
pub use call::{CallOutcome, CallRequest, CallSettings, CallStatus, call};
pub use context::{BlockContext, BlockHashes};
pub use error::{CallError, EstimateError, ExecuteError, InvalidTransaction};
pub use estimate::estimate_gas;
pub use executor::{BlockExecutor, BlockOutcome, REVERT_DATA_BYTES_MAX, execute_block};
pub use overrides::{AccountOverride, BlockOverrides, StateOverrides};
pub use private::{
    DualState, PrivateAccess, PrivateCall, PrivateEstimateError, PrivateOutcome, PrivateReceipt,
    PrivateRefusal, RootedState, Touched, affected_root, call_private, contract_digest,
    estimate_private_gas, execute_private,
};
pub use rules::{
    INIT_CODE_BYTES_MAX, TRANSACTION_GAS_MAX, intrinsic_gas, validate_public, validate_static,
};
