//! Where the executor gets payloads from, and whom it tells what came of them.

use std::fmt::Debug;

use alloy_primitives::{Address, B256};
use futures::future::BoxFuture;
use quorate_chain::PrivateReference;
use quorate_enclave::{NodeKey, PayloadHash, PublicKey};

use crate::{Content, HandoverAnswer, HandoverWanted, Terms};

/// Payloads by what the chain says of them.
pub trait Payloads: Send + Sync + Debug {
    /// Of each of these transactions, in their order: whether this node is a party, and the payload if so. Called again and again
    /// while an answer is [`Lookup::Unknown`], which a missing answer is taken for; must not wait for other nodes.
    fn lookup(&self, references: Vec<PrivateReference>) -> BoxFuture<'_, Vec<Lookup>>;

    /// A payload was executed here. After a crash the same report may come again.
    fn executed(&self, report: Executed);

    /// Private execution stands still until this payload is here: fetch it. Must not block.
    fn waiting(&self, hash: &PayloadHash);

    /// Private execution stands still until the state of a contract is here that was extended to this node: asks the other parties.
    /// Called again and again while the answer is [`HandoverAnswer::Missing`]. May wait for other nodes, within a limit.
    fn handover(&self, wanted: HandoverWanted) -> BoxFuture<'_, HandoverAnswer>;
}

/// What is known of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// One of our keys is a party.
    Party(Box<PrivatePayload>),
    /// None of our keys is a party. This is certain.
    NotAParty,
    /// We were a party and the payload was erased, or we do without it.
    Erased,
    /// Not known yet: the payload is missing, or the enclave did not answer.
    Unknown {
        /// Why, for people.
        reason: String,
    },
}

/// A payload that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivatePayload {
    /// What was encrypted.
    pub content: Content,
    /// What the sending node signed about it; the signature was verified.
    pub terms: Terms,
    /// Our key that opened it.
    pub as_recipient: PublicKey,
    /// The sender's key.
    pub sender: PublicKey,
    /// True if this node sent it.
    pub we_sent: bool,
}

/// What came of a payload here, to be compared with its sending node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The public transaction.
    pub transaction: B256,
    /// Height of its block.
    pub height: u64,
    /// Its position in the block.
    pub position: u32,
    /// The payload whose terms were applied: of a signed inner transaction, the second one.
    pub hash: PayloadHash,
    /// The node that sent the payload.
    pub sender_node: NodeKey,
    /// The sender's key.
    pub sender: PublicKey,
    /// Our key.
    pub as_recipient: PublicKey,
    /// True if this node sent the payload.
    pub we_sent: bool,
    /// True if it succeeded.
    pub success: bool,
    /// Private contracts that it affected.
    pub affected: Vec<Address>,
    /// Digest of their state afterwards, and of the success; see [`outcome_digest`](crate::outcome_digest).
    pub digest: B256,
}
