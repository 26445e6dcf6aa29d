//! Private payloads: who may read them, how they are encrypted, where they lie, and who still has to receive them.
//!
//! # What it is
//! The [`Enclave`] interface (seal, open, reseal, make and recognise tags, list public keys), behind which private keys live and never leave, with
//! two implementations: [`LocalEnclave`] in this process and [`RemoteEnclave`], the client of the `quorate-enclave` binary.
//! Around it: the [`Envelope`] that travels, the [`PayloadStore`] that keeps envelopes, the [`Outbox`] that remembers
//! deliveries, and [`PrivacyGroups`]. Nothing here opens a connection between nodes or runs a contract.
//!
//! # Flow
//! ```text
//! payload + recipients ──► Enclave::seal ──► Sealed: one envelope with every box, one payload hash
//!                                              │ sign (the node's key, held by the caller)
//!                     own copy ◄───────────────┼──────────────► one copy per recipient, with its own box only
//!                  PayloadStore::put           │                Outbox::enqueue, then the caller's network
//!                                              ▼
//! envelope + context ──► Enclave::open ──► Opened { payload, as_recipient, sender } | NotForUs | an error
//! hash + parties     ──► Enclave::tags ──► one tag per party, in the public transaction
//! hash + tags        ──► Enclave::recognise ──► for this key of ours | for none of them | an error
//! ```
//!
//! # You must
//! 1. Treat every `Err` of an [`Enclave`] as "not known yet". Only [`Opening::NotForUs`], and `None` of [`Enclave::recognise`] with
//!    every possible sender named, mean that this node is no party.
//! 2. Send [`Sealed::copies`] to recipients and keep the complete envelope: it names every recipient.
//! 3. Sign envelopes before they leave, or something that covers their [`Envelope::signing_digest`], and check that signature on
//!    those that arrive: suite 2 proves the sender by it alone.
//! 4. Store an envelope ([`PayloadStore::put`]) before acknowledging it.
//! 5. Give the [`PayloadStore`] a folder of its own, and one store per key-value prefix.
//!
//! # It promises
//! - Private keys and content keys are wiped when dropped, are in no message, log line or `Debug` text.
//! - An envelope that is for one of our keys and does not decrypt is an error, never [`Opening::NotForUs`].
//! - What [`PayloadStore::put`] acknowledged survives power loss; what [`PayloadStore::erase`] acknowledged is overwritten,
//!   and a record of the erasure stays.
//! - Decoders are canonical and check every length before they take memory.
//!
//! # It does not
//! - hide the length of a payload, or give forward secrecy: recipients' keys are long-lived;
//! - commit to the content key in suite 1, which keeps Tessera's construction: a sender can craft one ciphertext that two
//!   recipients read differently. Suite 2 closes this;
//! - erase what a file system or a drive keeps behind our back (snapshots, copy-on-write, flash translation);
//! - decide who may see what: that is the caller's contract logic.
//!
//! # Read next
//! `interface.rs` (what a node asks), `envelope.rs` (what travels), `suite.rs` (how it is encrypted), `store.rs`.

pub mod envelope;
mod error;
#[cfg(test)]
mod fixtures;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod groups;
mod identity;
mod interface;
mod key;
mod key_file;
mod key_folder;
mod key_ring;
mod local;
mod outbox;
mod random;
mod remote;
mod server;
mod store;
mod suite;
mod tag;
mod wire;

pub use envelope::{DecodeError, Envelope, NodeSignature, SignatureError};
pub use error::{EnclaveError, Refusal};
pub use groups::{GroupError, GroupId, NewGroup, PrivacyGroup, PrivacyGroups};
pub use interface::{
    Context, Enclave, Health, NodeKey, Opened, Opening, PayloadHash, PrivacyFlag, SealRequest,
    Sealed,
};
pub use key::{HYBRID_KEY_BYTES, HybridKey, KeyAnnouncement, KeyTextError, PublicKey};
pub use key_file::{KeyFile, KeyFileError, Passphrase, PassphraseCost, Protection};
pub use key_folder::{KeyFolder, KeyFolderError, KeyListing};
pub use key_ring::KeyRing;
pub use local::LocalEnclave;
pub use outbox::{
    AckPolicy, AckProgress, Delivery, DeliveryState, Outbox, OutboxConfig, OutboxError,
    OutboxStatus,
};
pub use random::RandomFailed;
pub use remote::{ClientTls, Endpoint, EndpointError, RemoteConfig, RemoteEnclave};
pub use server::{EnclaveServer, Listen, ServerConfig, ServerError, ServerTls};
pub use store::{
    BESIDE_BYTES_MAX, Beside, Cursor, DamagedRecord, Erasure, ErasureReason, LIST_LIMIT_MAX,
    ListQuery, Listed, NOTE_BYTES_MAX, PayloadStore, Put, StoreConfig, StoreError, Stored, ToStore,
};
pub use suite::Suite;
pub use tag::{RecogniseRequest, Recognised, SENDERS_MAX, TAG_BYTES, TagRequest};
