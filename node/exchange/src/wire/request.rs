//! What is asked.

use alloy_primitives::B256;
use bytes::Bytes;
use quorate_enclave::envelope::ENVELOPE_BYTES_MAX;
use quorate_enclave::{GroupId, PayloadHash, PublicKey};
use quorate_privacy::TERMS_BYTES_MAX;

use super::reader::Reader;
use super::{
    DELIVER_MAX, DIGESTS_MAX, Delivered, DigestItem, FETCH_MAX, GroupItem, LIST_MAX, Place,
    VERSION, WireError, in_range, put_count, put_group, put_long, put_place, read_group,
    read_place, version,
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
    /// Privacy groups that a key belongs to, behind one of them.
    Groups {
        key: PublicKey,
        after: Option<GroupId>,
    },
    /// Payloads of a party that were erased, where [`List`](Self::List) names those that are held.
    Erased {
        key: PublicKey,
        place: Place,
        limit: u16,
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
                put_listing(&mut out, key, place, *limit);
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
                put_group(&mut out, group);
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
            Self::Erased { key, place, limit } => {
                out.push(10);
                put_listing(&mut out, key, place, *limit);
            }
            Self::Groups { key, after } => {
                out.push(11);
                out.extend_from_slice(key.as_bytes());
                match after {
                    None => out.push(0),
                    Some(id) => {
                        out.push(1);
                        out.extend_from_slice(id.as_bytes());
                    }
                }
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
                let (key, place, limit) = read_listing(&mut reader)?;
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
            10 => {
                let (key, place, limit) = read_listing(&mut reader)?;
                Self::Erased { key, place, limit }
            }
            11 => Self::Groups {
                key: reader.key("party key")?,
                after: match reader.flag("presence of a group")? {
                    true => Some(GroupId::from_bytes(reader.array("group")?)),
                    false => None,
                },
            },
            found => {
                return Err(WireError::OutOfRange {
                    field: "request kind",
                    found: found.into(),
                    allowed: "1 to 11",
                });
            }
        };
        reader.end()?;
        Ok(request)
    }
}

fn put_listing(out: &mut Vec<u8>, key: &PublicKey, place: &Place, limit: u16) {
    out.extend_from_slice(key.as_bytes());
    put_place(out, place);
    out.extend_from_slice(&limit.to_be_bytes());
}

fn read_listing(reader: &mut Reader) -> Result<(PublicKey, Place, u16), WireError> {
    let key = reader.key("party key")?;
    let place = read_place(reader)?;
    let limit = reader.number("limit")?;
    in_range("limit", limit.into(), 1, LIST_MAX, "1 to 1000")?;
    Ok((key, place, limit))
}
