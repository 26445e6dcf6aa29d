//! What a node asks of the keeper of its keys.

use std::fmt;

use alloy_primitives::{B256, FixedBytes};
use futures::future::BoxFuture;
use sha3::{Digest as _, Sha3_512};
use zeroize::Zeroizing;

use crate::{
    EnclaveError, Envelope, GroupId, KeyAnnouncement, PublicKey, RecogniseRequest, Recognised,
    Suite, TAG_BYTES, TagRequest,
};

/// A node's compressed secp256k1 public key.
pub type NodeKey = FixedBytes<33>;

/// SHA3-512 of a ciphertext: what the public transaction carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadHash([u8; 64]);

impl PayloadHash {
    /// The hash of a ciphertext.
    pub fn of(ciphertext: &[u8]) -> Self {
        Self(Sha3_512::digest(ciphertext).into())
    }

    /// Takes the 64 bytes of a hash.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Display for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadHash({self})")
    }
}

/// How strictly the parties of a contract are held together, numbered as in Quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PrivacyFlag {
    /// 0: no checks.
    Standard = 0,
    /// 1: a sender must be a party of every contract that its transaction touches.
    PartyProtection = 1,
    /// 2: as 1, and the named parties take part in every transaction. They are named to every recipient.
    MandatoryParties = 2,
    /// 3: as 1, and all parties take part and compare their state. All are named to every recipient.
    StateValidation = 3,
}

impl PrivacyFlag {
    /// The flag with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Standard),
            1 => Some(Self::PartyProtection),
            2 => Some(Self::MandatoryParties),
            3 => Some(Self::StateValidation),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// What an envelope is bound to, beside its parties. Suite 2 authenticates all of it with every ciphertext; in suite 1 only the
/// sending node's signature covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The network.
    pub chain_id: u64,
    /// The node that sends, and signs, the envelope.
    pub sender_node: NodeKey,
    /// The privacy group, if the transaction names one.
    pub privacy_group: Option<GroupId>,
    /// The privacy flag.
    pub flag: PrivacyFlag,
}

impl Context {
    /// The first part in which two contexts differ.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.chain_id != other.chain_id {
            Some("chain id")
        } else if self.sender_node != other.sender_node {
            Some("sender node")
        } else if self.privacy_group != other.privacy_group {
            Some("privacy group")
        } else if self.flag != other.flag {
            Some("privacy flag")
        } else {
            None
        }
    }
}

/// What is to be encrypted, for whom.
#[derive(Clone)]
pub struct SealRequest {
    /// The plaintext, at most [`PAYLOAD_BYTES_MAX`](crate::envelope::PAYLOAD_BYTES_MAX) bytes.
    pub payload: Zeroizing<Vec<u8>>,
    /// With which of the enclave's keys; `None`: its default key.
    pub sender: Option<PublicKey>,
    /// Who may read it. The sender always may and need not be named; a key named twice counts once.
    pub recipients: Vec<KeyAnnouncement>,
    /// With [`PrivacyFlag::MandatoryParties`], and only then: who must take part, among the parties.
    pub mandatory: Vec<PublicKey>,
    /// What the envelope is bound to.
    pub context: Context,
    /// How it is encrypted; the same for a whole network.
    pub suite: Suite,
}

impl fmt::Debug for SealRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealRequest")
            .field("payload_bytes", &self.payload.len())
            .field("sender", &self.sender)
            .field("recipients", &self.recipients)
            .field("mandatory", &self.mandatory)
            .field("context", &self.context)
            .field("suite", &self.suite)
            .finish()
    }
}

/// A sealed payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What goes into the public transaction.
    pub hash: PayloadHash,
    /// The sender's own envelope: every box, and the list of all parties. Stays here.
    pub envelope: Envelope,
}

impl Sealed {
    /// A sealed payload from its complete envelope.
    pub fn new(envelope: Envelope) -> Self {
        Self {
            hash: envelope.payload_hash(),
            envelope,
        }
    }

    /// What each of the others is sent: an envelope with its own box, and no list of parties unless the flag demands it. The
    /// ciphertext is shared, not copied.
    pub fn copies(&self) -> Vec<(PublicKey, Envelope)> {
        let sender = self.envelope.sender();
        self.envelope
            .recipients()
            .filter(|key| *key != sender)
            .filter_map(|key| Some((key, self.envelope.copy_for(key)?)))
            .collect()
    }

    /// Has the sending node sign it: `sign` gets a digest and returns r, s and recovery id (65 bytes). The copies made
    /// afterwards carry the signature as well.
    ///
    /// # Errors
    /// What `sign` returned.
    pub fn sign<E>(&mut self, sign: impl FnOnce(B256) -> Result<[u8; 65], E>) -> Result<(), E> {
        self.envelope.sign(sign)
    }
}

/// A payload that was for one of our keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The plaintext.
    pub payload: Zeroizing<Vec<u8>>,
    /// The key that it was opened with.
    pub as_recipient: PublicKey,
    /// The sender's key. In suite 1 the box proves it, unless another party resealed; otherwise it is what the signing node says.
    pub sender: PublicKey,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("payload_bytes", &self.payload.len())
            .field("as_recipient", &self.as_recipient)
            .field("sender", &self.sender)
            .finish()
    }
}

/// The enclave's answer about an envelope. Anything else is an [`EnclaveError`], and no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// It is for one of our keys.
    Opened(Opened),
    /// None of our keys is among its recipients.
    NotForUs,
}

/// That an enclave answers, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Version of the program that holds the keys.
    pub version: String,
    /// Number of keys that open envelopes, retired ones among them.
    pub keys: u32,
    /// The suites it knows.
    pub suites: Vec<Suite>,
}

/// Holds private keys and works with them on behalf of a node. The keys never cross this interface.
pub trait Enclave: Send + Sync + fmt::Debug {
    /// The keys that others may send to, the default sender first. Retired keys still open and are not listed.
    ///
    /// # Errors
    /// [`EnclaveError`] if the enclave could not be asked.
    fn public_keys(&self) -> BoxFuture<'_, Result<Vec<KeyAnnouncement>, EnclaveError>>;

    /// Encrypts a payload under a fresh key, and that key for every party.
    ///
    /// # Errors
    /// [`EnclaveError::Refused`] names the field that is out of its range; the others say that the enclave could not be asked.
    fn seal(&self, request: SealRequest) -> BoxFuture<'_, Result<Sealed, EnclaveError>>;

    /// Decrypts an envelope if it is for a key held here and bound to `context`.
    ///
    /// # Errors
    /// [`EnclaveError::Refused`] with [`Refusal::Forged`](crate::Refusal::Forged) or
    /// [`Refusal::ContextMismatch`](crate::Refusal::ContextMismatch); the others say that the enclave could not be asked.
    fn open(
        &self,
        envelope: Envelope,
        context: Context,
    ) -> BoxFuture<'_, Result<Opening, EnclaveError>>;

    /// Adds boxes for further recipients, for a contract's new party or for one that lost its data. The ciphertext, and with
    /// it the payload hash, stays. Recipients that have a box already are passed over. The result holds all boxes that the
    /// given envelope held: send [`Envelope::copy_for`].
    ///
    /// # Errors
    /// As [`open`](Enclave::open), and [`Refusal::NotAParty`](crate::Refusal::NotAParty) if no key held here opens it.
    fn reseal(
        &self,
        envelope: Envelope,
        context: Context,
        recipients: Vec<KeyAnnouncement>,
    ) -> BoxFuture<'_, Result<Envelope, EnclaveError>>;

    /// Makes the tags by which parties recognise a public transaction: one for every party named, in that order. See the module
    /// `tag` for what they are; padding and shuffling them is the caller's business.
    ///
    /// # Errors
    /// [`EnclaveError::Refused`] names the key or number that cannot be used; the others say that the enclave could not be asked.
    fn tags(
        &self,
        request: TagRequest,
    ) -> BoxFuture<'_, Result<Vec<[u8; TAG_BYTES]>, EnclaveError>>;

    /// Says whether one of these tags is for a key held here, retired ones among them. `None` is the enclave's answer that it is no
    /// party, as far as the senders that it was given go.
    ///
    /// # Errors
    /// As [`tags`](Enclave::tags). An error is no answer.
    fn recognise(
        &self,
        request: RecogniseRequest,
    ) -> BoxFuture<'_, Result<Option<Recognised>, EnclaveError>>;

    /// Whether it answers.
    ///
    /// # Errors
    /// [`EnclaveError`] if it does not.
    fn health(&self) -> BoxFuture<'_, Result<Health, EnclaveError>>;
}
