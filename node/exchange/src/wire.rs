//! What exchanges say to each other, format 1. Numbers are big-endian; a request is answered by exactly one answer.
//!
//! ```text
//! request  1 | kind (1) | …
//!   1 deliver    count (1) and [length (4) and envelope | length (4) and signed terms] → taken or refused
//!   2 withdraw   payload hash (64)                                          → noted or refused
//!   3 fetch      count (1) and payload hashes                               → payloads
//!   4 list       party key (32) | place | limit (2)                         → listed
//!   5 digests    count (2) and [transaction (32) | height (8) | payload hash (64) | digest (32)] → differences
//!   6 group      group                                                      → noted or refused
//!   7 keys                                                                  → keys
//!   8 statement  vote's transaction (32)                                    → statement or refused
//!   9 state      vote's transaction (32) | page (4)                         → page or refused
//!   10 erased    party key (32) | place, not a time | limit (2)             → listed
//!   11 groups    party key (32) | 0, or 1 and id of a group (32) to go on behind → groups
//! answer   1 | kind (1) | …
//!   1 taken      count (1) and for each payload, in order: 0 stored
//!                | 1, code (1), length (2) and text, UTF-8: refused | 2 and contract (20): conflict
//!   2 refused    code (1) | text to the end, UTF-8
//!   4 payloads   count (1) and [payload hash (64) | 0, or 1 and length (4) and envelope, length (4) and signed terms]
//!   5 listed     count (2) and payload hashes | 0, or 1 and place where the next page begins
//!   6 differences  count (2) and [transaction (32) | digest (32)]
//!   7 noted
//!   8 keys       count (1) and [key (32) | 0, or 1 and X-Wing key (1216)] | count (2) and [key (32) | node (33)]
//!   9 statement  0, or 1 and offer (20), newcomer (32), signature (65) and 0 and reason to the end, UTF-8,
//!                or 1 and digest (32) and bytes of the state (4)
//!   10 page      bytes to the end
//!   11 groups    count (1) and groups by rising id; none: there are no more
//! group    length (1) and name | length (2) and description | payloads live for, ms (8), 0 for ever | count (2) and keys (32 each, rising)
//! place    0 from the start | 1, time (8), sequence (8) behind this one | 2, payload hash (64) behind this one
//! ```
//! Every length is checked before memory is taken, and what is left over is refused.

mod answer;
mod group;
mod reader;
mod request;

use alloy_primitives::{Address, B256};
pub(crate) use answer::Answer;
use bytes::Bytes;
use group::{put_group, read_group};
use quorate_enclave::{Cursor, PayloadHash, PublicKey};
use reader::Reader;
pub(crate) use request::Request;

const VERSION: u8 = 1;

/// Most payloads that one fetch names.
pub(crate) const FETCH_MAX: usize = 64;
/// Most payloads that one message delivers.
pub(crate) const DELIVER_MAX: usize = 64;
/// Most hashes of one page of a listing.
pub(crate) const LIST_MAX: usize = 1000;
/// Most groups of one page.
pub(crate) const GROUPS_MAX: usize = 32;
/// Most digests of one message.
pub(crate) const DIGESTS_MAX: usize = 256;
/// Most keys that a member announces.
pub(crate) const ANNOUNCED_MAX: usize = 64;
/// Most keys of others that a member tells of.
pub(crate) const HISTORY_MAX: usize = 4096;
/// Longest text of a refusal in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Most members of a group.
const GROUP_KEYS_MAX: usize = 256;
/// A message with payloads is closed when it has reached this size, unless it would be empty. The largest one so stays below what
/// the network carries.
pub(crate) const PAYLOADS_BYTES_SOFT_MAX: usize = 4 << 20;

/// A message that is not as the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("message ends within {field}")]
    Short { field: &'static str },
    #[error("message has {bytes} superfluous bytes")]
    Trailing { bytes: usize },
    #[error("{field} is {found}, allowed is {allowed}")]
    OutOfRange {
        field: &'static str,
        found: u64,
        allowed: &'static str,
    },
    #[error("{field} is malformed")]
    Malformed { field: &'static str },
}

/// A place in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Start,
    Behind(Cursor),
    /// Among the payloads that only their terms connect with the party.
    BehindHash(PayloadHash),
}

/// What a party found after executing a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DigestItem {
    pub(crate) transaction: B256,
    pub(crate) height: u64,
    pub(crate) payload: PayloadHash,
    pub(crate) digest: B256,
}

/// A privacy group as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupItem {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) payloads_live_ms: u64,
    pub(crate) members: Vec<PublicKey>,
}

/// A payload that is delivered, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) envelope: Bytes,
    pub(crate) terms: Bytes,
}

/// What came of one delivered payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It lies on the member's disk.
    Stored,
    Refused {
        code: RefusalCode,
        text: String,
    },
    /// Another payload is to change this contract first.
    Conflict {
        contract: Address,
    },
}

impl Taken {
    /// A refusal, with a text for people.
    pub(crate) fn refused(code: RefusalCode, text: impl ToString) -> Self {
        Self::Refused {
            code,
            text: cut(&text.to_string()),
        }
    }
}

/// Why a member does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RefusalCode {
    /// The bytes are no message, envelope, terms or content.
    Malformed = 1,
    /// Signatures, sender or parts do not go together, or do not belong to the member that asks.
    NotAuthentic = 2,
    /// The sender's key is not in the member table yet.
    UnknownSenderKey = 3,
    /// The payload is for none of our keys.
    NotForUs = 4,
    /// Our enclave does not answer.
    EnclaveSilent = 5,
    /// Our enclave finds the envelope forged.
    EnclaveRefused = 6,
    /// The payload was executed here already, with other terms.
    AlreadyExecuted = 7,
    /// The payload was erased here.
    Erased = 8,
    /// Our disk did not take it.
    StoreFailed = 9,
    /// Too much is under way.
    Busy = 10,
    /// The asker is no member.
    NotAMember = 11,
}

impl RefusalCode {
    const ALL: [Self; 11] = [
        Self::Malformed,
        Self::NotAuthentic,
        Self::UnknownSenderKey,
        Self::NotForUs,
        Self::EnclaveSilent,
        Self::EnclaveRefused,
        Self::AlreadyExecuted,
        Self::Erased,
        Self::StoreFailed,
        Self::Busy,
        Self::NotAMember,
    ];

    /// True if the same request may be taken later.
    pub(crate) fn is_retryable(self) -> bool {
        match self {
            Self::UnknownSenderKey
            | Self::EnclaveSilent
            | Self::StoreFailed
            | Self::Busy
            | Self::NotAMember => true,
            Self::Malformed
            | Self::NotAuthentic
            | Self::NotForUs
            | Self::EnclaveRefused
            | Self::AlreadyExecuted
            | Self::Erased => false,
        }
    }
}

/// A payload as it is handed over, or that there is nothing for the asker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) hash: PayloadHash,
    /// Envelope and signed terms.
    pub(crate) payload: Option<(Bytes, Bytes)>,
}

/// As much of a text as is sent, without what does not belong on a terminal.
pub(crate) fn cut(text: &str) -> String {
    let mut cut = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if cut.len() + c.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        cut.push(c);
    }
    cut
}

fn version(reader: &mut Reader) -> Result<(), WireError> {
    match reader.byte("version")? {
        VERSION => Ok(()),
        found => Err(WireError::OutOfRange {
            field: "version",
            found: found.into(),
            allowed: "1",
        }),
    }
}

fn in_range(
    field: &'static str,
    found: usize,
    least: usize,
    most: usize,
    allowed: &'static str,
) -> Result<(), WireError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(WireError::OutOfRange {
        field,
        found: u64::try_from(found).unwrap_or(u64::MAX),
        allowed,
    })
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    // Envelopes and terms are far below 4 GiB: their own encoders keep their limits.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    match place {
        Place::Start => out.push(0),
        Place::Behind(cursor) => {
            out.push(1);
            out.extend_from_slice(&cursor.time_ms.to_be_bytes());
            out.extend_from_slice(&cursor.sequence.to_be_bytes());
        }
        Place::BehindHash(hash) => {
            out.push(2);
            out.extend_from_slice(hash.as_bytes());
        }
    }
}

fn read_place(reader: &mut Reader) -> Result<Place, WireError> {
    match reader.byte("place")? {
        0 => Ok(Place::Start),
        1 => {
            let time_ms = u64::from_be_bytes(reader.array("place")?);
            let sequence = u64::from_be_bytes(reader.array("place")?);
            // The reader of the listing adds one.
            if sequence == u64::MAX {
                return Err(WireError::Malformed { field: "place" });
            }
            Ok(Place::Behind(Cursor { time_ms, sequence }))
        }
        2 => Ok(Place::BehindHash(reader.hash("place")?)),
        found => Err(WireError::OutOfRange {
            field: "place",
            found: found.into(),
            allowed: "0 to 2",
        }),
    }
}

#[cfg(test)]
mod tests;
