//! What is answered.

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use quorate_enclave::envelope::ENVELOPE_BYTES_MAX;
use quorate_enclave::{HybridKey, KeyAnnouncement, NodeKey, PayloadHash, PublicKey};
use quorate_privacy::{HANDOVER_PAGE_BYTES, HandoverHead, HandoverOutcome, TERMS_BYTES_MAX};

use super::reader::Reader;
use super::{
    ANNOUNCED_MAX, DELIVER_MAX, DIGESTS_MAX, FETCH_MAX, GROUPS_MAX, GroupItem, HISTORY_MAX, Handed,
    LIST_MAX, Place, RefusalCode, TEXT_BYTES_MAX, Taken, VERSION, WireError, cut, in_range,
    put_count, put_group, put_long, put_place, read_group, read_place, version,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What came of each payload, in the order of the request.
    Taken {
        items: Vec<Taken>,
    },
    /// Of the request as a whole.
    Refused {
        code: RefusalCode,
        text: String,
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
    /// None: there are no more.
    Groups {
        items: Vec<GroupItem>,
    },
}

impl Answer {
    /// What kind of answer it is, for messages about one that was not expected.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "taken",
            Self::Refused { .. } => "refused",
            Self::Payloads { .. } => "payloads",
            Self::Listed { .. } => "listed",
            Self::Differences { .. } => "differences",
            Self::Noted => "noted",
            Self::Keys { .. } => "keys",
            Self::Statement { .. } => "statement",
            Self::Page { .. } => "page",
            Self::Groups { .. } => "groups",
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
            Self::Taken { items } => {
                out.push(1);
                out.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
                items.iter().for_each(|item| put_taken(&mut out, item));
            }
            Self::Refused { code, text } => {
                out.push(2);
                out.push(*code as u8);
                out.extend_from_slice(text.as_bytes());
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
            Self::Groups { items } => {
                out.push(11);
                out.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
                items.iter().for_each(|group| put_group(&mut out, group));
            }
        }
        out.into()
    }

    pub(crate) fn decode(body: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        version(&mut reader)?;
        let kind = reader.byte("answer kind")?;
        let answer = match kind {
            1 => {
                let count = usize::from(reader.byte("number of payloads")?);
                in_range("number of payloads", count, 1, DELIVER_MAX, "1 to 64")?;
                let items = (0..count).map(|_| read_taken(&mut reader));
                Self::Taken {
                    items: items.collect::<Result<_, _>>()?,
                }
            }
            2 => read_refusal(&mut reader)?,
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
            11 => {
                let count = usize::from(reader.byte("number of groups")?);
                in_range("number of groups", count, 0, GROUPS_MAX, "at most 32")?;
                let items = (0..count).map(|_| read_group(&mut reader));
                Self::Groups {
                    items: items.collect::<Result<_, _>>()?,
                }
            }
            found => {
                return Err(WireError::OutOfRange {
                    field: "answer kind",
                    found: found.into(),
                    allowed: "1, 2 and 4 to 11",
                });
            }
        };
        reader.end()?;
        Ok(answer)
    }
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

fn put_taken(out: &mut Vec<u8>, taken: &Taken) {
    match taken {
        Taken::Stored => out.push(0),
        Taken::Refused { code, text } => {
            out.push(1);
            out.push(*code as u8);
            put_count(out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        Taken::Conflict { contract } => {
            out.push(2);
            out.extend_from_slice(contract.as_slice());
        }
    }
}

fn read_taken(reader: &mut Reader) -> Result<Taken, WireError> {
    match reader.byte("what came of a payload")? {
        0 => Ok(Taken::Stored),
        1 => {
            let code = read_code(reader)?;
            let length = reader.count("length of the text", 0, TEXT_BYTES_MAX, "at most 512")?;
            let text = reader.take("refusal text", length)?;
            let text = refusal_text(&text)?;
            Ok(Taken::Refused { code, text })
        }
        2 => Ok(Taken::Conflict {
            contract: Address::from(reader.array::<20>("contract")?),
        }),
        found => Err(WireError::OutOfRange {
            field: "what came of a payload",
            found: found.into(),
            allowed: "0 to 2",
        }),
    }
}

fn read_refusal(reader: &mut Reader) -> Result<Answer, WireError> {
    let code = read_code(reader)?;
    let text = refusal_text(&reader.rest("refusal text", TEXT_BYTES_MAX)?)?;
    Ok(Answer::Refused { code, text })
}

fn read_code(reader: &mut Reader) -> Result<RefusalCode, WireError> {
    let number = reader.byte("refusal code")?;
    let code = RefusalCode::ALL.into_iter().find(|c| *c as u8 == number);
    code.ok_or(WireError::OutOfRange {
        field: "refusal code",
        found: number.into(),
        allowed: "1 to 11",
    })
}

/// It is shown to people and written to logs.
fn refusal_text(bytes: &[u8]) -> Result<String, WireError> {
    let text = std::str::from_utf8(bytes).map_err(|_| WireError::Malformed {
        field: "refusal text",
    })?;
    Ok(text.chars().filter(|c| !c.is_control()).collect())
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
