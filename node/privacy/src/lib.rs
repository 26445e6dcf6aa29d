//! Private transactions: what their parties execute and keep.
//!
//! # What it is
//! The private side of the chain on one node. A public transaction names a payload by its hash; the parties of the payload execute
//! it on private state, which has a root and a cursor of its own and follows the public chain at its own pace. Beside that: the
//! formats of what is encrypted ([`Content`]) and of what the sending node signs about it ([`Terms`]), and the simulation that
//! tells before sending what a transaction would do ([`simulate`]). Nothing here encrypts, sends or fetches.
//!
//! # Flow
//! ```text
//! PublicChain (blocks, public states) ──► PrivateExecutor ◄── lookup ── Payloads (enclave, payload store)
//!                                            │    ▲ └── waiting, executed ──►
//!            the public side of a block is   │    │ retry_now
//!            executed again up to each       ▼    │
//!            private transaction of ours   PrivateLedger: index, then private state; durable later, in that order
//!                                            │
//!             readers ◄── state_at, record, records, contract, status, watch
//!
//! call ──► simulate (heads of chain and ledger) ──► Simulation, from which the sender makes Terms
//! ```
//!
//! # You must
//! 1. Run one [`PrivateExecutor`] per [`PrivateLedger`], and stop the node when it ends with an error.
//! 2. Answer [`Lookup::NotAParty`] only when it is certain. Everything else is [`Lookup::Unknown`], and execution waits.
//! 3. Verify signatures before you hand out [`Terms`]; the rules of privacy flags are judged by them.
//! 4. Put what [`Simulation`] says into the terms as it is, and name the account in [`Terms::from`] wherever it is known.
//! 5. Keep public blocks from [`PrivateLedger::needed_from`] on, and the public state of the block before it.
//! 6. Call [`PrivateLedger::let_go`] before a payload is erased: what is executed again after a crash needs it. And once more
//!    after it, since it may have been executed meanwhile.
//! 7. Call [`PrivateLedger::retry_now`] when a payload arrives.
//! 8. Answer [`HandoverAnswer::Proved`] only with a digest that every named party has signed, and show what
//!    [`PrivateLedger::handover`] keeps to nobody but the newcomer that it names.
//!
//! # It promises
//! - Every payload that this node is a party of is executed in chain order, or execution stands still and says what it waits for.
//!   Public import is never held up.
//! - The result is a function of chain, payloads and terms: parties with the same ones have the same roots, in whatever order
//!   payloads arrived and wherever they crashed.
//! - Private code reads public state as of its transaction, with everything before it in the block and nothing after.
//! - Readers see whole blocks up to the cursor, before and after a crash.
//! - A payload or terms that break the rules change nothing, and leave a record with the reason.
//! - A contract that is extended to this node is taken over with exactly the state that all named parties signed, or execution
//!   waits, or all that the record says is that a party refused.
//!
//! # It does not
//! - keep a payload's executions apart: without [`Terms::from`], whoever names its hash has it executed again;
//! - prove private state to others, or prune its history;
//! - overwrite what it forgets: the input of an erased payload leaves the index, and the disk when the storage cleans up;
//! - skip a payload that nobody can deliver;
//! - hand over other contracts with one that is extended, or events and history of before.
//!
//! # Read next
//! `executor.rs` (the loop), `execute.rs` (a block), `flags.rs` (the rules), `extension.rs` and `extend.rs` (a new party),
//! `ledger.rs` (what is kept).

mod chain;
mod config;
mod content;
mod digest;
mod error;
mod execute;
mod executor;
mod extend;
mod extension;
pub mod flags;
mod index;
mod ledger;
mod metrics;
mod payloads;
mod record;
mod resolve;
mod simulate;
mod status;
mod terms;

pub use chain::PublicChain;
pub use config::{ExecutorConfig, LedgerConfig};
pub use content::{CONTENT_BYTES_MAX, Content, ContentError, ExtensionStep};
pub use digest::outcome_digest;
pub use error::{IndexError, LedgerOpenError, PrivateFatal, ResetError};
pub use executor::PrivateExecutor;
pub use extend::{OfferRefusal, check_offer};
pub use extension::{
    ContractState, Extension, ExtensionState, HANDOVER_BYTES_MAX, HANDOVER_SLOTS_MAX,
    HandoverAnswer, HandoverError, HandoverHead, HandoverOutcome, HandoverWanted,
};
pub use flags::FlagViolation;
pub use ledger::{HANDOVER_PAGE_BYTES, PrivateLedger, PrivateSnapshot};
pub use payloads::{Executed, Lookup, Payloads, PrivatePayload};
pub use record::{ContractMetadata, PrivateRecord, RecordOutcome};
pub use simulate::{Simulation, SimulationRefusal, simulate};
pub use status::{PrivateReadError, PrivateStatus, Waiting};
pub use terms::{
    Acknowledgements, SignedTerms, TERMS_BYTES_MAX, TERMS_CONTRACTS_MAX, TERMS_PARTIES_MAX,
    TERMS_TOGETHER_MAX, Terms, TermsError, signer, together,
};
