//! What a party keeps of a private transaction.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bloom, Bytes, Log};
use quorate_chain::PublicForm;
use quorate_enclave::{GroupId, NodeKey, PayloadHash, PrivacyFlag, PublicKey};

/// A private transaction that this node is a party of, and what came of it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateRecord {
    /// Hash of the public transaction.
    pub transaction: B256,
    /// Height of its block.
    pub height: u64,
    /// Its position in the block.
    pub position: u32,
    /// How it names its payload.
    pub form: PublicForm,
    /// The payload that the public transaction names.
    pub hash: PayloadHash,
    /// The second payload, of a signed inner transaction.
    pub inner_hash: Option<PayloadHash>,
    /// Hash of the signed inner transaction, if the payload was one.
    pub inner_transaction: Option<B256>,
    /// Who signed.
    pub sender: Address,
    /// Nonce of the public transaction.
    pub nonce: u64,
    /// Recipient in the clear; `None` for a creation.
    pub to: Option<Address>,
    /// The input in the clear; empty if it was erased.
    pub data: Bytes,
    /// Gas limit of the private execution.
    pub gas_limit: u64,
    /// What GASPRICE said, in wei.
    pub gas_price: u128,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// Gas that the private execution used. Charged to nobody.
    pub gas_used: u64,
    /// What private contracts logged.
    pub logs: Vec<Log>,
    /// Bloom filter of the logs.
    pub bloom: Bloom,
    /// The contract that was created.
    pub contract_address: Option<Address>,
    /// The privacy flag.
    pub flag: PrivacyFlag,
    /// The privacy group, if one was named.
    pub group: Option<GroupId>,
    /// Our key. `None` if the payload was erased, or given up, before it was executed.
    pub as_recipient: Option<PublicKey>,
    /// The sender's key, under the same condition.
    pub sender_key: Option<PublicKey>,
    /// The node that sent the payload, under the same condition.
    pub sender_node: Option<NodeKey>,
    /// True if this node sent the payload.
    pub we_sent: bool,
    /// Private contracts that it affected: created or called.
    pub affected: Vec<Address>,
    /// Digest of their state afterwards; see [`outcome_digest`](crate::outcome_digest).
    pub digest: B256,
}

/// How a private transaction ended here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It did what it was to do.
    Success,
    /// It reverted.
    Reverted {
        /// What it said, cut off at [`quorate_evm::REVERT_DATA_BYTES_MAX`].
        data: Bytes,
    },
    /// It halted.
    Halted {
        /// Why.
        reason: String,
    },
    /// Its changes were not made: a rule of its flag, or what the payload says does not go with its transaction.
    Refused {
        /// Why.
        reason: String,
    },
    /// Its payload had been erased: nothing was executed.
    Erased,
}

impl PrivateRecord {
    /// True if it succeeded: status 1 of its receipt.
    pub fn is_success(&self) -> bool {
        self.outcome == RecordOutcome::Success
    }

    /// What it reverted with; empty if it did not.
    pub fn revert_data(&self) -> Bytes {
        match &self.outcome {
            RecordOutcome::Reverted { data } => data.clone(),
            RecordOutcome::Success
            | RecordOutcome::Halted { .. }
            | RecordOutcome::Refused { .. }
            | RecordOutcome::Erased => Bytes::new(),
        }
    }

    /// Why it failed, for people; `None` if it succeeded, or reverted with data of its own.
    pub fn reason(&self) -> Option<&str> {
        match &self.outcome {
            RecordOutcome::Halted { reason } | RecordOutcome::Refused { reason } => Some(reason),
            RecordOutcome::Erased => Some("the payload was erased or given up"),
            RecordOutcome::Success | RecordOutcome::Reverted { .. } => None,
        }
    }
}

/// What holds for a private contract since its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractMetadata {
    /// Its address.
    pub address: Address,
    /// The public transaction that created it.
    pub creation_transaction: B256,
    /// The payload that created it; of a signed inner transaction, the second one.
    pub creation_hash: PayloadHash,
    /// Its privacy flag.
    pub flag: PrivacyFlag,
    /// All its parties; known with [`PrivacyFlag::StateValidation`] only.
    pub parties: Option<BTreeSet<PublicKey>>,
    /// Who must take part in each of its transactions; empty but with [`PrivacyFlag::MandatoryParties`].
    pub mandatory: BTreeSet<PublicKey>,
    /// The key of the creation's sender.
    pub creator: PublicKey,
    /// Our key in the creation.
    pub as_recipient: PublicKey,
    /// Height of the block that created it.
    pub created_at: u64,
}
