//! What an exchange tells its user interface.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use quorate_enclave::{Erasure, GroupId, NodeKey, PayloadHash, PrivacyFlag, PublicKey};
use quorate_privacy::Content;

/// What this node knows under a payload hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// The payload, opened.
    Received(Box<Received>),
    /// This node is no party.
    NotAParty,
    /// It was erased here.
    Erased(Erasure),
    /// It is not here, and nobody can say whether it should be: the store is not complete.
    Missing,
}

/// A payload that one of our keys opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What it says.
    pub content: Content,
    /// The sender's key.
    pub sender: PublicKey,
    /// The node that sent it.
    pub sender_node: NodeKey,
    /// Which of our keys opened it.
    pub as_recipient: PublicKey,
    /// The parties that this node knows: all if it sent the payload or the flag demands it, else the sender and itself.
    pub parties: BTreeSet<PublicKey>,
    /// Keys that take part in every transaction of the contract.
    pub mandatory: BTreeSet<PublicKey>,
    /// True if this node sent it.
    pub we_sent: bool,
    /// The privacy flag.
    pub flag: PrivacyFlag,
    /// The privacy group that it was sent to.
    pub group: Option<GroupId>,
    /// Private contracts that the sender saw affected, with the payloads that created them.
    pub affected: BTreeMap<Address, PayloadHash>,
    /// Root of the affected contracts that the sender found, under flag 3.
    pub exec_root: Option<B256>,
}

/// Two parties that executed one private transaction differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Its number in the order of this node's alarms, from 1.
    pub number: u64,
    /// When this node noticed, in milliseconds since 1970.
    pub at_ms: u64,
    /// The public transaction.
    pub transaction: B256,
    /// Its block.
    pub height: u64,
    /// The payload.
    pub payload: PayloadHash,
    /// The other party's node.
    pub node: NodeKey,
    /// Digest of the affected contracts here.
    pub ours: B256,
    /// Digest of the affected contracts there.
    pub theirs: B256,
}

/// What came of asking a member for all that it has for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberResync {
    /// Its raft id.
    pub raft_id: u64,
    /// Its node.
    pub node: NodeKey,
    /// Payloads that it has for us.
    pub listed: u64,
    /// Those that were not here, or lacked something, and are here now.
    pub fetched: u64,
    /// Those that were here already.
    pub held: u64,
    /// Those that it named and that could not be taken: it did not give them, or the enclave did not open them.
    pub failed: u64,
    /// Those that it says it erased, and that were not here either then. Asked for only if the store was not complete.
    pub erased: u64,
    /// Why it was not asked to the end; `None` if it was.
    pub error: Option<String>,
}

impl MemberResync {
    /// True if everything that this member has for us is here.
    pub fn is_complete(&self) -> bool {
        self.error.is_none() && self.failed == 0
    }
}

/// What came of a resync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResyncReport {
    /// By member.
    pub members: Vec<MemberResync>,
    /// True if the store is complete now: every other member gave all that it has for us.
    pub complete: bool,
}

/// A privacy group that was made, and who was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCreated {
    /// The group.
    pub group: quorate_enclave::PrivacyGroup,
    /// Members with a key in the group that could not be told: they do not know its name. Making it again tells them.
    pub not_told: Vec<crate::Unacknowledged>,
}
