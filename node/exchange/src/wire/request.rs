//! What is asked.

use alloy_primitives::B256;
use bytes::Bytes;
use quorate_enclave::envelope::ENVELOPE_BYTES_MAX;
use quorate_enclave::{PayloadHash, PublicKey};
use quorate_privacy::TERMS_BYTES_MAX;

use super::reader::Reader;
use super::{
    DELIVER_MAX, DIGESTS_MAX, Delivered, DigestItem, FETCH_MAX, GROUP_KEYS_MAX, GroupItem,
    LIST_MAX, Place, VERSION, WireError, in_range, put_count, put_long, put_place, read_place,
    version,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Deliver {
        items: Vec<Delivered>,
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

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Deliver { items } => {
                let size = |item: &Delivered| 8 + item.envelope.len() + item.terms.len();
                out.reserve_exact(2 + items.iter().map(size).sum::<usize>());
                out.push(1);
                out.push(u8::try_from(items.len()).unwrap_or(u8::MAX));
                for item in items {
                    put_long(&mut out, &item.envelope);
                    put_long(&mut out, &item.terms);
                }
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
            1 => {
                let count = usize::from(reader.byte("number of payloads")?);
                in_range("number of payloads", count, 1, DELIVER_MAX, "1 to 64")?;
                let items = (0..count).map(|_| {
                    Ok(Delivered {
                        envelope: reader.long("envelope", ENVELOPE_BYTES_MAX)?,
                        terms: reader.long("terms", TERMS_BYTES_MAX)?,
                    })
                });
                Self::Deliver {
                    items: items.collect::<Result<_, WireError>>()?,
                }
            }
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
