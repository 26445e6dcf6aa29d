//! What goes into and comes out of [`PrivacyApi`](super::PrivacyApi).

use alloy_primitives::{Address, B256, Bytes};
use quorate_chain::PublicForm;
use quorate_enclave::{Erasure, GroupId, NodeKey, PayloadHash, PrivacyFlag, PublicKey};
use quorate_privacy::PrivateStatus;

/// By which one party recognises that a payload is for it. See `quorate-enclave`.
pub type Tag = [u8; 8];

/// How a node puts private transactions on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrivacySettings {
    /// The form that it chooses if a client does not.
    pub form: PublicForm,
    /// Recipient of privacy marker transactions.
    pub precompile: Address,
}

/// Which acknowledgements a sender waits for. The other deliveries go on in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Acknowledgements {
    /// Those of all recipients.
    #[default]
    All,
    /// Those of the recipients in [`PrivateArguments::mandatory_for`].
    Mandatory,
    /// Those of any so many recipients.
    AtLeast(u16),
    /// Those of these recipients. At least one.
    Named(Vec<PublicKey>),
}

/// Who takes part in a private transaction, and how strictly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateArguments {
    /// The sender's key; `None`: the node's default one.
    pub private_from: Option<PublicKey>,
    /// Recipients: keys in base64, and names or ids of privacy groups. Empty: the sender alone. At most 256.
    pub private_for: Vec<String>,
    /// The privacy flag.
    pub privacy_flag: PrivacyFlag,
    /// With [`PrivacyFlag::MandatoryParties`], and only then: who must take part in every transaction of the contract.
    pub mandatory_for: Vec<PublicKey>,
    /// Which acknowledgements are waited for.
    pub acknowledgements: Acknowledgements,
}

impl Default for PrivateArguments {
    fn default() -> Self {
        Self {
            private_from: None,
            private_for: Vec::new(),
            privacy_flag: PrivacyFlag::Standard,
            mandatory_for: Vec::new(),
            acknowledgements: Acknowledgements::All,
        }
    }
}

/// A private transaction that this node is to distribute, before its public transaction is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateSend {
    /// Who signs the public transaction.
    pub from: Address,
    /// The nonce that the public transaction will probably have. It is certain where the private outcome may depend on it: for a
    /// creation under a privacy flag.
    pub nonce: u64,
    /// Recipient; `None` creates a contract.
    pub to: Option<Address>,
    /// Call data or init code in the clear.
    pub data: Bytes,
    /// Gas limit of the private execution.
    pub gas_limit: u64,
    /// Price per gas of the public transaction, in wei.
    pub gas_price: u128,
    /// Who takes part.
    pub arguments: PrivateArguments,
    /// The form of the public transaction: decides what is encrypted, and whether there are tags.
    pub form: PublicForm,
}

/// A step of extending a private contract to a new party, to be distributed before its marker transaction is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionSend {
    /// Who signs the public transaction.
    pub from: Address,
    /// What is to be done.
    pub action: ExtensionAction,
    /// Who takes part, beside those that take part anyway. The privacy flag and mandatory parties are not looked at.
    pub arguments: PrivateArguments,
}

/// What a client wants done about the extension of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionAction {
    /// Offer a contract to a new party.
    Offer {
        /// The contract.
        contract: Address,
        /// The key that is to become a party.
        newcomer: PublicKey,
        /// The account whose vote counts.
        newcomer_account: Address,
    },
    /// Accept or decline an offer.
    Vote {
        /// Address of the offer.
        offer: Address,
        /// True to accept.
        accept: bool,
    },
    /// Take an offer back.
    Cancel {
        /// Address of the offer.
        offer: Address,
    },
}

/// A stored payload that is to be distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSend {
    /// The payload.
    pub hash: PayloadHash,
    /// The signed transaction that carries the hash, as far as it matters for simulating it.
    pub transaction: Option<TransactionParts>,
    /// Who takes part.
    pub arguments: PrivateArguments,
}

/// A public transaction as far as private execution depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionParts {
    /// Who signed it.
    pub from: Address,
    /// Its nonce.
    pub nonce: u64,
    /// Its recipient; `None` creates a contract.
    pub to: Option<Address>,
    /// Its gas limit.
    pub gas_limit: u64,
    /// What it pays per gas, in wei.
    pub gas_price: u128,
}

/// A payload that is where it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distributed {
    /// What the public transaction carries.
    pub hash: PayloadHash,
    /// What a privacy marker transaction carries behind it, padded and shuffled; empty in Quorum's form.
    pub tags: Vec<Tag>,
    /// The sender's key.
    pub sender: PublicKey,
    /// Keys of this node among the parties, the sender's included.
    pub managed_parties: Vec<PublicKey>,
    /// Nodes that have not acknowledged it yet and were not waited for.
    pub pending: Vec<NodeKey>,
}

/// What a node has under a payload hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayloadView {
    /// It is a party.
    Party(Box<ReceivedPayload>),
    /// It is no party, or knows nothing of such a payload.
    NotAParty,
    /// It was erased here.
    Erased(Erasure),
    /// It is not here, and nobody can say whether it should be: payloads may be missing until a resync has succeeded, or one of
    /// ours was recognised and is still to come.
    Missing,
}

/// A payload in the clear.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedPayload {
    /// What the sender wanted executed: call data, init code, or a signed private transaction. Zero-length data is possible.
    pub data: Bytes,
    /// The sender's key.
    pub sender: PublicKey,
    /// Our key that it was opened with.
    pub as_recipient: PublicKey,
    /// True if this node sent it.
    pub we_sent: bool,
    /// Parties as far as this node may know them: all for the sender and under [`PrivacyFlag::StateValidation`], else its own.
    pub parties: Vec<PublicKey>,
    /// Keys of this node among the parties.
    pub managed_parties: Vec<PublicKey>,
    /// The privacy flag.
    pub flag: PrivacyFlag,
    /// Who takes part in every transaction, under [`PrivacyFlag::MandatoryParties`].
    pub mandatory: Vec<PublicKey>,
    /// The privacy group that was named.
    pub group: Option<GroupId>,
    /// Payload hashes of the creations of the contracts that the sender saw affected, by address.
    pub affected: Vec<(Address, PayloadHash)>,
    /// Root of the affected contracts after execution, under [`PrivacyFlag::StateValidation`].
    pub exec_root: Option<B256>,
    /// The node that sent and signed it.
    pub sender_node: NodeKey,
}

impl std::fmt::Debug for ReceivedPayload {
    /// Without the data: private data does not belong into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedPayload")
            .field("data_bytes", &self.data.len())
            .field("sender", &self.sender)
            .field("we_sent", &self.we_sent)
            .field("flag", &self.flag)
            .finish_non_exhaustive()
    }
}

/// The keys that one member has announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberKeys {
    /// Its seat.
    pub raft_id: u64,
    /// Its node key.
    pub node: NodeKey,
    /// Its organisation.
    pub organisation: String,
    /// True for the node that answers.
    pub this: bool,
    /// Its enclave's keys.
    pub keys: Vec<PublicKey>,
}

/// How privacy is doing on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct PrivacyStatusView {
    /// Private execution.
    pub execution: PrivateStatus,
    /// True if an absent payload without tags means that this node is no party: the payload store was never without.
    pub complete: bool,
    /// Payloads that are held.
    pub payloads: u64,
    /// Payloads that were erased.
    pub erased: u64,
    /// Deliveries that are still to be acknowledged.
    pub deliveries_pending: u64,
    /// Alarms that were ever raised.
    pub alarms: u64,
    /// True while a resync is under way.
    pub resyncing: bool,
    /// Version of the enclave; or why it does not answer.
    pub enclave: Result<String, String>,
}

/// Two parties ended with different private states after the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivergenceAlarm {
    /// Its number on this node, from 1.
    pub number: u64,
    /// When it was raised, in milliseconds since 1970.
    pub raised_at_ms: u64,
    /// The public transaction.
    pub transaction: B256,
    /// Height of its block.
    pub block: u64,
    /// Its payload.
    pub hash: PayloadHash,
    /// The other party's node.
    pub other: NodeKey,
    /// Digest of the affected contracts here.
    pub our_digest: B256,
    /// And there.
    pub their_digest: B256,
}

/// Payloads to go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The one that private execution waits for.
    Waiting(PayloadHash),
    /// All that are not here and that another member says it erased.
    Erased,
}

/// What a resync came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResyncView {
    /// The other members, one by one.
    pub members: Vec<MemberResyncView>,
    /// True if the payload store counts as complete now: every other member gave all that it has for us.
    pub complete: bool,
}

/// What one member had for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberResyncView {
    /// Its seat.
    pub raft_id: u64,
    /// Its node key.
    pub node: NodeKey,
    /// Payloads that were not here, or lacked something, and are here now.
    pub fetched: u64,
    /// Payloads that were here already.
    pub known: u64,
    /// Payloads that it named and did not give, or that did not open.
    pub failed: u64,
    /// Payloads that it says it erased, and that were not here either then.
    pub erased: u64,
    /// Why it was not asked to the end.
    pub error: Option<String>,
}
