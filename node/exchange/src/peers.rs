//! The other members, as far as payloads are concerned: who they are, which keys they announced, and a way to ask them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_enclave::{KeyAnnouncement, NodeKey, PayloadHash, PublicKey};
use quorate_privacy::HandoverHead;

/// A member with the party keys that the replicated table says are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberKeys {
    /// Its raft id.
    pub raft_id: u64,
    /// Its node's compressed secp256k1 key.
    pub node: NodeKey,
    /// Its party keys. The X-Wing key beside one may be missing, if the table has no room for it.
    pub keys: Vec<KeyAnnouncement>,
    /// SHA3-256 of the X-Wing key of each party key that has one: what the table holds in its place. May be empty if `keys` holds
    /// the X-Wing keys themselves.
    pub hybrid_commitments: Vec<(PublicKey, B256)>,
    /// Whose seat it is, for people.
    pub organisation: String,
    /// True for the member that this node is.
    pub this: bool,
}

impl MemberKeys {
    /// True if this is one of its keys.
    pub fn has(&self, key: &PublicKey) -> bool {
        self.keys.iter().any(|k| k.key == *key)
    }

    /// What the table commits to for the X-Wing key of one of its keys.
    pub fn hybrid_commitment(&self, key: &PublicKey) -> Option<B256> {
        let found = self.hybrid_commitments.iter().find(|(k, _)| k == key);
        found.map(|(_, commitment)| *commitment)
    }
}

/// Why a member could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no such member.
    #[error("raft id {raft_id} is no member")]
    NotAMember {
        /// The id.
        raft_id: u64,
    },
    /// There is no connection to it.
    #[error("it cannot be reached: {reason}")]
    Unreachable {
        /// What the network said.
        reason: String,
    },
    /// It did not answer in time. It may still do what it was asked.
    #[error("it did not answer within {after_ms} ms")]
    TimedOut {
        /// The limit in milliseconds.
        after_ms: u64,
    },
    /// Too much is under way with it.
    #[error("too many requests to it are under way")]
    Busy,
    /// The request, or its answer, is larger than the network carries.
    #[error("the message is too large: {reason}")]
    TooLarge {
        /// What the network said.
        reason: String,
    },
    /// It runs a version that does not know private payloads.
    #[error("it does not take part in private transactions")]
    Unsupported,
}

impl PeerError {
    /// True if the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Busy | Self::Unsupported => {
                true
            }
            Self::NotAMember { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// The members of the consortium and the network between them.
pub trait Peers: Send + Sync + fmt::Debug {
    /// All members, this node among them, as the replicated table has them now.
    fn members(&self) -> Arc<Vec<MemberKeys>>;

    /// Sends a request over the members' stream for private payloads and waits for the answer.
    ///
    /// # Errors
    /// [`PeerError`].
    fn ask(
        &self,
        raft_id: u64,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>>;

    /// Has this node's key sign a digest: r (32 bytes), s (32), recovery id (1).
    ///
    /// # Errors
    /// What the keeper of the key said.
    fn sign(&self, digest: B256) -> Result<[u8; 65], String>;
}

/// What an exchange asks of private state.
pub trait StateView: Send + Sync + fmt::Debug {
    /// Digest of a private contract as of now; `None` if there is none at this address.
    fn contract_digest(&self, address: Address) -> Option<B256>;

    /// What came of a private transaction here; `None` if it was not executed here, or not yet.
    fn executed(&self, transaction: &B256) -> Option<ExecutedDigest>;

    /// True if a transaction that carries this payload was executed here. May wait for the disk.
    ///
    /// # Errors
    /// What the storage said.
    fn was_executed(&self, payload: &PayloadHash) -> Result<bool, String>;

    /// Payloads are about to be erased, or were: what came of them is made durable, since they cannot be executed again, and what they
    /// said is taken out of the records of the transactions that carried them, also of one that is being executed. Durable when it
    /// returns; waits for the disk.
    ///
    /// # Errors
    /// What the storage said.
    fn let_go(&self, payloads: &[PayloadHash]) -> Result<(), String>;

    /// Time of the last block, in milliseconds since 1970, if everything up to it that is private and ours was executed here. `None`
    /// while execution is behind.
    fn executed_until_ms(&self) -> Option<u64>;

    /// What came of an accepting vote here; `None` if it was not executed here, or not yet. May wait for the disk.
    ///
    /// # Errors
    /// What the storage said.
    fn handover(&self, transaction: &B256) -> Result<Option<HandoverHead>, String>;

    /// A page of the contract's state at that vote; empty behind the end. May wait for the disk.
    ///
    /// # Errors
    /// What the storage said.
    fn handover_page(&self, transaction: &B256, page: u32) -> Result<Vec<u8>, String>;
}

/// What came of a private transaction on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutedDigest {
    /// The block.
    pub height: u64,
    /// Digest of the contracts that it affected, afterwards.
    pub digest: B256,
}
