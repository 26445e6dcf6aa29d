//! # What it is
//! What a block is and where blocks lie: Ethereum headers, bodies and receipts, the consortium's genesis, the
//! leader's seal, and an append-only store of imported blocks with its index.
//!
//! # Flow
//! ```text
//! bytes ─► Transaction ─► RecoveredTransaction ─► DraftBlock ─► SealedBlock ─► (ordering, import) ─► ImportedBlock ─► BlockStore
//! ```
//!
//! # You must
//! 1. Check everything about a [`SealedBlock`] that came from outside: decoding proves its shape only.
//! 2. Call [`BlockStore::append`] from one thread, heights in order.
//! 3. Call [`BlockStore::barrier`] before anything that relies on a block's being on disk (state flush, log compaction).
//!
//! # It promises
//! - A [`RecoveredTransaction`] has a checked signature; its sender is the signer.
//! - A stored record that does not match its checksum is never returned: a torn tail is cut at open, damage
//!   elsewhere is an error.
//!
//! # It does not
//! Execute transactions, know the state, or talk to anyone.
//!
//! # Read next
//! `transaction.rs`, `block.rs`, `store.rs`.

mod block;
mod genesis;
mod header;
mod member;
mod receipt;
mod seal;
mod spec;
mod store;
mod transaction;

pub use block::{
    BlockDecodeError, BlockTemplate, DraftBlock, ExecutedRoots, ImportedBlock, SealedBlock,
    SharedBlock,
};
pub use genesis::{BlockLimits, ConsortiumSection, Genesis, GenesisError};
pub use member::{Member, MemberRole, NodeId, NodeIdError};
pub use receipt::{TransactionReceipt, receipts_root_and_bloom};
pub use seal::{Seal, Sealer};
pub use spec::{ChainSpec, Fork};
pub use store::{BlockStore, StoreError, TransactionLocation};
pub use transaction::{
    RecoveredTransaction, Transaction, TransactionError, address_of, decode_transaction,
    recover_signer,
};
