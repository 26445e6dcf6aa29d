//! What exchanges say to each other, format 1. Numbers are big-endian; a request is answered by exactly one answer.
//!
//! ```text
//! request  1 | kind (1) | …
//!   1 deliver    length (4) and envelope | signed terms to the end          → stored, refused or conflict
//!   2 withdraw   payload hash (64)                                          → noted or refused
//!   3 fetch      count (1) and payload hashes                               → payloads
//!   4 list       party key (32) | place | limit (2)                         → listed
//!   5 digests    count (2) and [transaction (32) | height (8) | payload hash (64) | digest (32)] → differences
//!   6 group      length (1) and name | length (2) and description | payloads live for, ms (8), 0 for ever
//!                | count (2) and keys (32 each, rising)                     → noted or refused
//!   7 keys                                                                  → keys
//!   8 statement  vote's transaction (32)                                    → statement or refused
//!   9 state      vote's transaction (32) | page (4)                         → page or refused
//! answer   1 | kind (1) | …
//!   1 stored
//!   2 refused    code (1) | text to the end, UTF-8
//!   3 conflict   contract (20)
//!   4 payloads   count (1) and [payload hash (64) | 0, or 1 and length (4) and envelope, length (4) and signed terms]
//!   5 listed     count (2) and payload hashes | 0, or 1 and place where the next page begins
//!   6 differences  count (2) and [transaction (32) | digest (32)]
//!   7 noted
//!   8 keys       count (1) and [key (32) | 0, or 1 and X-Wing key (1216)] | count (2) and [key (32) | node (33)]
//!   9 statement  0, or 1 and offer (20), newcomer (32), signature (65) and 0 and reason to the end, UTF-8,
//!                or 1 and digest (32) and bytes of the state (4)
//!   10 page      bytes to the end
//! place    0 from the start | 1, time (8), sequence (8) behind this one | 2, payload hash (64) behind this one
//! ```
//! Every length is checked before memory is taken, and what is left over is refused.

mod reader;

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use quorate_enclave::envelope::ENVELOPE_BYTES_MAX;
use quorate_enclave::{Cursor, HybridKey, KeyAnnouncement, NodeKey, PayloadHash, PublicKey};
use quorate_privacy::{HANDOVER_PAGE_BYTES, HandoverHead, HandoverOutcome, TERMS_BYTES_MAX};
use reader::Reader;

const VERSION: u8 = 1;

/// Most payloads that one fetch names.
pub(crate) const FETCH_MAX: usize = 64;
/// Most hashes of one page of a listing.
pub(crate) const LIST_MAX: usize = 1000;
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
/// An answer with payloads is closed when it has reached this size, unless it would be empty. The largest one so stays below what
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Deliver {
        envelope: Bytes,
        terms: Bytes,
    },
    Withdraw {
        hash: PayloadHash,
    },
    Fetch {
        hashes: Vec<PayloadHash>,
    },
    List {
        key: PublicKey,
        place: Place,
        limit: u16,
    },
    Digests {
        items: Vec<DigestItem>,
    },
    Group(GroupItem),
    Keys,
    Statement {
        transaction: B256,
    },
    State {
        transaction: B256,
        page: u32,
    },
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Stored,
    Refused {
        code: RefusalCode,
        text: String,
    },
    Conflict {
        contract: Address,
    },
    /// May be fewer than were asked for: ask again for the others.
    Payloads {
        items: Vec<Handed>,
    },
    Listed {
        hashes: Vec<PayloadHash>,
        next: Option<Place>,
    },
    Differences {
        items: Vec<(B256, B256)>,
    },
    Noted,
    Keys {
        announced: Vec<KeyAnnouncement>,
        history: Vec<(PublicKey, NodeKey)>,
    },
    /// What came of an accepting vote, signed; `None` if it was not executed, or the asker is not the newcomer.
    Statement {
        signed: Option<(HandoverHead, [u8; 65])>,
    },
    Page {
        bytes: Bytes,
    },
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Deliver { envelope, terms } => {
                out.reserve_exact(5 + envelope.len() + terms.len());
                out.push(1);
                put_long(&mut out, envelope);
                out.extend_from_slice(terms);
            }
            Self::Withdraw { hash } => {
                out.push(2);
                out.extend_from_slice(hash.as_bytes());
            }
            Self::Fetch { hashes } => {
                out.push(3);
                out.push(u8::try_from(hashes.len()).unwrap_or(u8::MAX));
                hashes
                    .iter()
                    .for_each(|hash| out.extend_from_slice(hash.as_bytes()));
            }
            Self::List { key, place, limit } => {
                out.push(4);
                out.extend_from_slice(key.as_bytes());
                put_place(&mut out, place);
                out.extend_from_slice(&limit.to_be_bytes());
            }
            Self::Digests { items } => {
                out.push(5);
                put_count(&mut out, items.len());
                for item in items {
                    out.extend_from_slice(item.transaction.as_slice());
                    out.extend_from_slice(&item.height.to_be_bytes());
                    out.extend_from_slice(item.payload.as_bytes());
                    out.extend_from_slice(item.digest.as_slice());
                }
            }
            Self::Group(group) => {
                out.push(6);
                out.push(u8::try_from(group.name.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(group.name.as_bytes());
                put_count(&mut out, group.description.len());
                out.extend_from_slice(group.description.as_bytes());
                out.extend_from_slice(&group.payloads_live_ms.to_be_bytes());
                put_count(&mut out, group.members.len());
                for key in &group.members {
                    out.extend_from_slice(key.as_bytes());
                }
            }
            Self::Keys => out.push(7),
            Self::Statement { transaction } => {
                out.push(8);
                out.extend_from_slice(transaction.as_slice());
            }
            Self::State { transaction, page } => {
                out.push(9);
                out.extend_from_slice(transaction.as_slice());
                out.extend_from_slice(&page.to_be_bytes());
            }
        }
        out.into()
    }

    pub(crate) fn decode(body: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        version(&mut reader)?;
        let kind = reader.byte("request kind")?;
        let request = match kind {
            1 => Self::Deliver {
                envelope: reader.long("envelope", ENVELOPE_BYTES_MAX)?,
                terms: reader.rest("terms", TERMS_BYTES_MAX)?,
            },
            2 => Self::Withdraw {
                hash: reader.hash("payload hash")?,
            },
            3 => {
                let count = usize::from(reader.byte("number of payloads")?);
                in_range("number of payloads", count, 1, FETCH_MAX, "1 to 64")?;
                let hashes = (0..count).map(|_| reader.hash("payload hash"));
                Self::Fetch {
                    hashes: hashes.collect::<Result<_, _>>()?,
                }
            }
            4 => {
                let key = reader.key("party key")?;
                let place = read_place(&mut reader)?;
                let limit = reader.number("limit")?;
                in_range("limit", limit.into(), 1, LIST_MAX, "1 to 1000")?;
                Self::List { key, place, limit }
            }
            5 => {
                let count = reader.count("number of digests", 1, DIGESTS_MAX, "1 to 256")?;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(DigestItem {
                        transaction: reader.digest("transaction")?,
                        height: u64::from_be_bytes(reader.array("height")?),
                        payload: reader.hash("payload hash")?,
                        digest: reader.digest("digest")?,
                    });
                }
                Self::Digests { items }
            }
            6 => Self::Group(read_group(&mut reader)?),
            7 => Self::Keys,
            8 => Self::Statement {
                transaction: reader.digest("transaction")?,
            },
            9 => Self::State {
                transaction: reader.digest("transaction")?,
                page: u32::from_be_bytes(reader.array("page")?),
            },
            found => {
                return Err(WireError::OutOfRange {
                    field: "request kind",
                    found: found.into(),
                    allowed: "1 to 9",
                });
            }
        };
        reader.end()?;
        Ok(request)
    }
}

impl Answer {
    /// What kind of answer it is, for messages about one that was not expected.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Refused { .. } => "refused",
            Self::Conflict { .. } => "conflict",
            Self::Payloads { .. } => "payloads",
            Self::Listed { .. } => "listed",
            Self::Differences { .. } => "differences",
            Self::Noted => "noted",
            Self::Keys { .. } => "keys",
            Self::Statement { .. } => "statement",
            Self::Page { .. } => "page",
        }
    }

    /// A refusal, with a text for people.
    pub(crate) fn refused(code: RefusalCode, text: impl ToString) -> Self {
        Self::Refused {
            code,
            text: cut(&text.to_string()),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Stored => out.push(1),
            Self::Refused { code, text } => {
                out.push(2);
                out.push(*code as u8);
                out.extend_from_slice(text.as_bytes());
            }
            Self::Conflict { contract } => {
                out.push(3);
                out.extend_from_slice(contract.as_slice());
            }
            Self::Payloads { items } => {
                out.push(4);
                out.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
                for item in items {
                    out.extend_from_slice(item.hash.as_bytes());
                    match &item.payload {
                        None => out.push(0),
                        Some((envelope, terms)) => {
                            out.push(1);
                            put_long(&mut out, envelope);
                            put_long(&mut out, terms);
                        }
                    }
                }
            }
            Self::Listed { hashes, next } => {
                out.push(5);
                put_count(&mut out, hashes.len());
                hashes
                    .iter()
                    .for_each(|hash| out.extend_from_slice(hash.as_bytes()));
                match next {
                    None => out.push(0),
                    Some(place) => {
                        out.push(1);
                        put_place(&mut out, place);
                    }
                }
            }
            Self::Differences { items } => {
                out.push(6);
                put_count(&mut out, items.len());
                for (transaction, digest) in items {
                    out.extend_from_slice(transaction.as_slice());
                    out.extend_from_slice(digest.as_slice());
                }
            }
            Self::Noted => out.push(7),
            Self::Keys { announced, history } => {
                out.push(8);
                out.push(u8::try_from(announced.len()).unwrap_or(u8::MAX));
                for announcement in announced {
                    out.extend_from_slice(announcement.key.as_bytes());
                    match &announcement.hybrid {
                        None => out.push(0),
                        Some(hybrid) => {
                            out.push(1);
                            out.extend_from_slice(hybrid.as_bytes());
                        }
                    }
                }
                put_count(&mut out, history.len());
                for (key, node) in history {
                    out.extend_from_slice(key.as_bytes());
                    out.extend_from_slice(node.as_slice());
                }
            }
            Self::Statement { signed } => {
                out.push(9);
                put_statement(&mut out, signed.as_ref());
            }
            Self::Page { bytes } => {
                out.push(10);
                out.extend_from_slice(bytes);
            }
        }
        out.into()
    }

    pub(crate) fn decode(body: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        version(&mut reader)?;
        let kind = reader.byte("answer kind")?;
        let answer = match kind {
            1 => Self::Stored,
            2 => read_refusal(&mut reader)?,
            3 => Self::Conflict {
                contract: Address::from(reader.array::<20>("contract")?),
            },
            4 => {
                let count = usize::from(reader.byte("number of payloads")?);
                in_range("number of payloads", count, 1, FETCH_MAX, "1 to 64")?;
                let items = (0..count).map(|_| read_handed(&mut reader));
                Self::Payloads {
                    items: items.collect::<Result<_, _>>()?,
                }
            }
            5 => {
                let count = reader.count("number of hashes", 0, LIST_MAX, "at most 1000")?;
                let hashes = (0..count).map(|_| reader.hash("payload hash"));
                let hashes = hashes.collect::<Result<_, _>>()?;
                let next = if reader.flag("presence of a place")? {
                    Some(read_place(&mut reader)?)
                } else {
                    None
                };
                Self::Listed { hashes, next }
            }
            6 => {
                let count = reader.count("number of differences", 0, DIGESTS_MAX, "at most 256")?;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push((reader.digest("transaction")?, reader.digest("digest")?));
                }
                Self::Differences { items }
            }
            7 => Self::Noted,
            8 => read_keys(&mut reader)?,
            9 => Self::Statement {
                signed: read_statement(&mut reader)?,
            },
            10 => Self::Page {
                bytes: reader.rest("page", HANDOVER_PAGE_BYTES)?,
            },
            found => {
                return Err(WireError::OutOfRange {
                    field: "answer kind",
                    found: found.into(),
                    allowed: "1 to 10",
                });
            }
        };
        reader.end()?;
        Ok(answer)
    }
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

fn put_statement(out: &mut Vec<u8>, signed: Option<&(HandoverHead, [u8; 65])>) {
    let Some((head, signature)) = signed else {
        out.push(0);
        return;
    };
    out.push(1);
    out.extend_from_slice(head.offer.as_slice());
    out.extend_from_slice(head.newcomer.as_bytes());
    out.extend_from_slice(signature);
    match &head.outcome {
        HandoverOutcome::Refused { reason } => {
            out.push(0);
            out.extend_from_slice(reason.as_bytes());
        }
        HandoverOutcome::State { digest, bytes } => {
            out.push(1);
            out.extend_from_slice(digest.as_slice());
            out.extend_from_slice(&bytes.to_be_bytes());
        }
    }
}

fn read_statement(reader: &mut Reader) -> Result<Option<(HandoverHead, [u8; 65])>, WireError> {
    if !reader.flag("presence of a statement")? {
        return Ok(None);
    }
    let offer = Address::from(reader.array::<20>("offer")?);
    let newcomer = reader.key("newcomer")?;
    let signature = reader.array("signature")?;
    let outcome = if reader.flag("outcome")? {
        HandoverOutcome::State {
            digest: reader.digest("digest")?,
            bytes: u32::from_be_bytes(reader.array("bytes of the state")?),
        }
    } else {
        let text = reader.rest("reason", TEXT_BYTES_MAX)?;
        let text =
            std::str::from_utf8(&text).map_err(|_| WireError::Malformed { field: "reason" })?;
        if text.chars().any(char::is_control) {
            return Err(WireError::Malformed { field: "reason" });
        }
        HandoverOutcome::Refused {
            reason: text.to_owned(),
        }
    };
    let head = HandoverHead {
        offer,
        newcomer,
        outcome,
    };
    Ok(Some((head, signature)))
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

fn read_group(reader: &mut Reader) -> Result<GroupItem, WireError> {
    let length = usize::from(reader.byte("length of the name")?);
    let name = reader.text("name", length)?;
    let length = reader.count("length of the description", 0, 1024, "at most 1024")?;
    let description = reader.text("description", length)?;
    let payloads_live_ms = u64::from_be_bytes(reader.array("time that payloads live")?);
    let count = reader.count("number of members", 1, GROUP_KEYS_MAX, "1 to 256")?;
    let mut members: Vec<PublicKey> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = reader.key("member")?;
        if members.last().is_some_and(|last| *last >= key) {
            return Err(WireError::Malformed { field: "members" });
        }
        members.push(key);
    }
    Ok(GroupItem {
        name,
        description,
        payloads_live_ms,
        members,
    })
}

fn read_refusal(reader: &mut Reader) -> Result<Answer, WireError> {
    let number = reader.byte("refusal code")?;
    let code = RefusalCode::ALL.into_iter().find(|c| *c as u8 == number);
    let code = code.ok_or(WireError::OutOfRange {
        field: "refusal code",
        found: number.into(),
        allowed: "1 to 11",
    })?;
    let bytes = reader.rest("refusal text", TEXT_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| WireError::Malformed {
        field: "refusal text",
    })?;
    Ok(Answer::Refused {
        code,
        // It is shown to people and written to logs.
        text: text.chars().filter(|c| !c.is_control()).collect(),
    })
}

fn read_handed(reader: &mut Reader) -> Result<Handed, WireError> {
    let hash = reader.hash("payload hash")?;
    let payload = if reader.flag("presence of a payload")? {
        let envelope = reader.long("envelope", ENVELOPE_BYTES_MAX)?;
        Some((envelope, reader.long("terms", TERMS_BYTES_MAX)?))
    } else {
        None
    };
    Ok(Handed { hash, payload })
}

fn read_keys(reader: &mut Reader) -> Result<Answer, WireError> {
    let count = usize::from(reader.byte("number of keys")?);
    in_range("number of keys", count, 0, ANNOUNCED_MAX, "at most 64")?;
    let mut announced = Vec::with_capacity(count);
    for _ in 0..count {
        let key = reader.key("key")?;
        let hybrid = if reader.flag("presence of an X-Wing key")? {
            let bytes = reader.take("X-Wing key", quorate_enclave::HYBRID_KEY_BYTES)?;
            let read = HybridKey::from_bytes(&bytes);
            Some(read.ok_or(WireError::Malformed {
                field: "X-Wing key",
            })?)
        } else {
            None
        };
        announced.push(KeyAnnouncement { key, hybrid });
    }
    let count = reader.count("number of known keys", 0, HISTORY_MAX, "at most 4096")?;
    let mut history = Vec::with_capacity(count);
    for _ in 0..count {
        let key = reader.key("known key")?;
        history.push((key, NodeKey::from(reader.array::<33>("node")?)));
    }
    Ok(Answer::Keys { announced, history })
}

#[cfg(test)]
mod tests;
