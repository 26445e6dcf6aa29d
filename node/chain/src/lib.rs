//! # What it is
//! What a block is and where blocks lie: Ethereum headers, bodies and receipts, the consortium's genesis, the
//! leader's seal, and an append-only store of imported blocks with its index.
//!
//! # Flow
//! ```text
//! bytes ─► Transaction ─► RecoveredTransaction ─► DraftBlock ─► SealedBlock ─► (ordering, import) ─► ImportedBlock ─► BlockStore
//!
//! Transaction ─► private_reference ─► PrivateReference (hash of a payload, tags), if it is the public side of a private one
//!
//! BlockStore::anchor ─► Anchor (a block and the headers below it) ─► BlockStore::open_from_anchor, on another node
//! ```
//!
//! # You must
//! 1. Check everything about a [`SealedBlock`] that came from outside: decoding proves its shape only.
//! 2. Call [`BlockStore::append`] from one thread, heights in order.
//! 3. Not ask [`BlockStore::prune`] for blocks above the durable height of the state.
//! 4. Call [`BlockStore::barrier`] before anything that relies on a block's being on disk (state flush, log compaction).
//!
//! # It promises
//! - A [`RecoveredTransaction`] has a checked signature; its sender is the signer.
//! - A signed transaction in Quorum's private form keeps its bytes, `v` 37 or 38 included, so that its hash and the transactions
//!   root are those of the bytes that came.
//! - A stored record that does not match its checksum is never returned: what a power loss has torn behind the last
//!   barrier is cut at open, damage elsewhere is an error.
//! - A store that was pruned, or began at an anchor, says so: [`StoreError::Pruned`] below [`BlockStore::base`]. The hashes of the
//!   256 heights below its base are there all the same.
//!
//! # It does not
//! Execute transactions, know the state, or talk to anyone. It tells which transactions are private, and knows no payload.
//!
//! # Read next
//! `transaction.rs`, `block.rs`, `store.rs`, `private.rs`.

/// A named place where tests of whole processes can make this room wait, panic or fail; see `quorate-fail-points`. Nothing is
/// left of it without the feature `fail-points`.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "fail-points")]
        quorate_fail_points::pass($name);
    };
    ($name:literal, $failed:expr) => {
        #[cfg(feature = "fail-points")]
        if let Some(error) = quorate_fail_points::error($name) {
            return Err(($failed)(error));
        }
    };
}

mod anchor;
mod block;
mod genesis;
mod header;
mod member;
mod private;
mod receipt;
mod seal;
mod spec;
mod store;
mod transaction;

pub use anchor::{ANCESTORS, ANCHOR_BYTES_MAX, Anchor, AnchorError, check_content};
pub use block::{
    BlockDecodeError, BlockTemplate, DraftBlock, ExecutedRoots, ImportedBlock, SealedBlock,
    SharedBlock,
};
pub use genesis::{BlockLimits, ConsortiumSection, Genesis, GenesisError, PrivacySection};
pub use member::{Member, MemberRole, NodeId, NodeIdError};
pub use private::{
    PARTY_TAG_BYTES, PARTY_TAGS_MAX, PAYLOAD_HASH_BYTES, PRIVACY_PRECOMPILE, PrivateReference,
    PublicForm, QuorumFormError, check_quorum_form, is_quorum_private, marker_data,
    private_reference, quorum_private_hash, quorum_private_transaction, signing_hash,
};
pub use receipt::{TransactionReceipt, receipts_root_and_bloom};
pub use seal::{Seal, Sealer};
pub use spec::{ChainSpec, Fork};
pub use store::{BlockStore, MendError, PruneReport, StoreConfig, StoreError, TransactionLocation};
pub use transaction::{
    RecoveredTransaction, Transaction, TransactionError, address_of, decode_transaction,
    recover_signer,
};
