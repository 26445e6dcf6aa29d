//! What goes into and comes out of a store, and what can go wrong in it.

use std::path::PathBuf;

use bytes::Bytes;
use quorate_kv::KvError;

use crate::{Envelope, PayloadHash, PublicKey};

/// Longest note of an erasure in bytes.
pub const NOTE_BYTES_MAX: usize = 512;
/// Most bytes that are kept beside a payload.
pub const BESIDE_BYTES_MAX: usize = 64 * 1024;
/// Most entries of one listing.
pub const LIST_LIMIT_MAX: usize = 10_000;

/// Settings of a [`PayloadStore`](super::PayloadStore).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// A new segment begins when the last one has reached this size, 4 KiB to 1 GiB. Smaller ones are cleaned up sooner, and
    /// are more files.
    pub segment_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
        }
    }
}

/// What went wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is another payload under this hash: same ciphertext, other nonces, sender or context.
    #[error("payload {hash} is stored with another header than the one given")]
    Conflict {
        /// The hash.
        hash: PayloadHash,
    },
    /// The payload was erased, and does not come back.
    #[error("payload {} was erased at {} ms: {:?}", .0.hash, .0.erased_at_ms, .0.reason)]
    Erased(Erasure),
    /// A value is out of its range.
    #[error("{field} is {value}, allowed is {allowed}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// A record would be too large.
    #[error("record of {bytes} bytes, allowed are at most {max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Nothing was stored, and the store goes on: the disk may be full.
    #[error("cannot write to {}: {reason}", file.display())]
    NotWritten {
        /// The segment.
        file: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// Stored bytes are not what was stored. Ask another party for the payload; [`put`](super::PayloadStore::put) replaces it.
    #[error("{} is damaged at byte {offset}: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        offset: u64,
        /// How it shows.
        reason: String,
    },
    /// An entry of the index cannot be read.
    #[error("the payload index is damaged: entry {entry}")]
    Index {
        /// Which kind.
        entry: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {reason}", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The key-value store failed.
    #[error("payload index: {0}")]
    Kv(#[from] KvError),
    /// An earlier write failed and nobody knows what reached the disk. Open the store again.
    #[error("the payload store refuses to go on after an earlier failure: {first}")]
    Poisoned {
        /// That failure.
        first: String,
    },
}

impl StoreError {
    /// True if this instance of the store cannot be used any more.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Kv(_) | Self::Poisoned { .. } | Self::Index { .. } => true,
            Self::Conflict { .. }
            | Self::Erased(_)
            | Self::OutOfRange { .. }
            | Self::TooLarge { .. }
            | Self::NotWritten { .. }
            | Self::Damaged { .. } => false,
        }
    }
}

/// What is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToStore {
    /// The envelope.
    pub envelope: Envelope,
    /// When it is to be erased, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// What the caller keeps beside it, 1 to [`BESIDE_BYTES_MAX`] bytes: written, read and erased with it, and of no meaning to the
    /// store. `None` leaves what is there.
    pub beside: Option<Bytes>,
}

/// What is to lie beside a payload that is here, and beside which something else lies, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// What lies there: it says the same.
    Old,
    /// What is given.
    New,
    /// What lies there, and the put is refused.
    Fixed,
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Stored,
    /// It was here and has gained boxes, the list of parties, a signature or what lies beside it, or took the place of a damaged record.
    Merged,
    /// It was here with all of that.
    Known,
    /// Something else lies beside it, which the caller does not want replaced. Nothing was changed.
    Fixed,
}

/// Why a payload was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ErasureReason {
    /// Someone had the right to ask for it.
    Requested = 1,
    /// Its time was over.
    Expired = 2,
    /// Its privacy group was deleted.
    GroupDeleted = 3,
    /// It was never here, or not any more, and whoever runs this node does not wait for it.
    GivenUp = 4,
}

impl ErasureReason {
    pub(super) const fn number(self) -> u8 {
        self as u8
    }

    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Requested),
            2 => Some(Self::Expired),
            3 => Some(Self::GroupDeleted),
            4 => Some(Self::GivenUp),
            _ => None,
        }
    }
}

/// The record that stays of an erased payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Which payload.
    pub hash: PayloadHash,
    /// Its number in the order of the store.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub erased_at_ms: u64,
    /// Why.
    pub reason: ErasureReason,
    /// Who asked for it, or whatever else should be remembered; at most [`NOTE_BYTES_MAX`] bytes.
    pub note: String,
}

/// What the store has under a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The envelope.
    Held {
        /// The envelope, with every box that was ever put.
        envelope: Box<Envelope>,
        /// When it was stored, in milliseconds since 1970.
        stored_at_ms: u64,
        /// When it is to be erased.
        expires_at_ms: Option<u64>,
        /// What the caller keeps beside it.
        beside: Option<Bytes>,
    },
    /// It was erased.
    Erased(Erasure),
}

/// A place in a listing. Later puts lie behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Number in the order of the store.
    pub sequence: u64,
}

/// Which payloads to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Only those that this party sent or has a box in.
    pub party: Option<PublicKey>,
    /// Only those stored at or after this time, in milliseconds since 1970.
    pub since_ms: u64,
    /// Only those behind this place; wins over `since_ms`.
    pub after: Option<Cursor>,
    /// At most this many, 1 to [`LIST_LIMIT_MAX`].
    pub limit: usize,
}

/// An entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The payload.
    pub hash: PayloadHash,
    /// Where it stands; `after` of the next query.
    pub cursor: Cursor,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRecord {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How it shows.
    pub reason: String,
}
