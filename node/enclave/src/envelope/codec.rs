//! Bytes to envelope and back.

use alloy_primitives::B256;

use super::{
    CIPHERTEXT_BYTES_MAX, Ciphertext, ENVELOPE_BYTES_MAX, Envelope, Header, NodeSignature,
    PARTIES_MAX, Parties, WrappedKey, Wrapper,
};
use crate::{Context, GroupId, NodeKey, PrivacyFlag, PublicKey, Suite};

const MAGIC: &[u8; 4] = b"QENV";
const VERSION: u8 = 1;

const PART_GROUP: u8 = 1;
const PART_PARTIES: u8 = 2;
const PART_SIGNATURE: u8 = 4;

/// Bytes that are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside of a field.
    #[error("envelope ends inside of {field}")]
    Short {
        /// Which.
        field: &'static str,
    },
    /// There are bytes behind the end.
    #[error("envelope has {bytes} superfluous bytes")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// It does not begin as an envelope does.
    #[error("this is no envelope")]
    NoEnvelope,
    /// It is of a version that this program does not know.
    #[error("envelope version is {found}, allowed is 1")]
    Version {
        /// The version.
        found: u8,
    },
    /// It is encrypted in a way that this program does not know.
    #[error("envelope suite is {found}, allowed are 1 and 2")]
    Suite {
        /// The number.
        found: u16,
    },
    /// A number is out of its range.
    #[error("{field} of the envelope is {found}, allowed is {allowed}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// Keys are not in rising order, or one occurs twice.
    #[error("{field} of the envelope are not in rising order")]
    NotRising {
        /// Which.
        field: &'static str,
    },
    /// Parts do not go together.
    #[error("{field} of the envelope: {reason}")]
    Inconsistent {
        /// Which.
        field: &'static str,
        /// Why.
        reason: &'static str,
    },
}

pub(super) fn encode(envelope: &Envelope) -> Vec<u8> {
    let boxes: usize = envelope.boxes.iter().map(|b| 89 + b.bytes.len()).sum();
    let lists = 32 * envelope.parties.as_ref().map_or(0, |p| p.keys.len());
    let mut out = Vec::with_capacity(envelope.ciphertext.len() + boxes + lists + 512);
    let part = |present: bool, bit: u8| if present { bit } else { 0 };
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&envelope.header.suite.number().to_be_bytes());
    out.push(
        part(envelope.header.context.privacy_group.is_some(), PART_GROUP)
            | part(envelope.parties.is_some(), PART_PARTIES)
            | part(envelope.signature.is_some(), PART_SIGNATURE),
    );
    put_context(&mut out, &envelope.header.context);
    put_names(&mut out, &envelope.header);
    out.extend_from_slice(&envelope.content_nonce);
    if let Some(nonce) = &envelope.box_nonce {
        out.extend_from_slice(nonce);
    }
    // Lengths are within u32 and u16: the suites and the decoder keep the limits.
    let length = u32::try_from(envelope.ciphertext.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&envelope.ciphertext);
    put_count(&mut out, envelope.boxes.len());
    for wrapped in &envelope.boxes {
        out.extend_from_slice(wrapped.recipient.as_bytes());
        match &wrapped.wrapper {
            None => out.push(0),
            Some(wrapper) => {
                out.push(1);
                out.extend_from_slice(wrapper.key.as_bytes());
                out.extend_from_slice(&wrapper.nonce);
            }
        }
        out.extend_from_slice(&wrapped.bytes);
    }
    if let Some(parties) = &envelope.parties {
        out.extend_from_slice(&parties.salt);
        put_keys(&mut out, &parties.keys);
    }
    if let Some(signature) = &envelope.signature {
        out.extend_from_slice(signature.as_bytes());
    }
    out
}

/// The header as associated data: as in the format, with the presence of the group in a byte of its own.
pub(super) fn put_header(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(&header.suite.number().to_be_bytes());
    out.push(u8::from(header.context.privacy_group.is_some()));
    put_context(out, &header.context);
    put_names(out, header);
}

fn put_context(out: &mut Vec<u8>, context: &Context) {
    out.extend_from_slice(&context.chain_id.to_be_bytes());
    out.extend_from_slice(context.sender_node.as_slice());
    out.push(context.flag.number());
    if let Some(group) = &context.privacy_group {
        out.extend_from_slice(group.as_bytes());
    }
}

fn put_names(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(header.commitment.as_slice());
    out.extend_from_slice(header.sender.as_bytes());
    put_keys(out, &header.mandatory);
}

fn put_keys(out: &mut Vec<u8>, keys: &[PublicKey]) {
    put_count(out, keys.len());
    for key in keys {
        out.extend_from_slice(key.as_bytes());
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

pub(super) fn decode(bytes: &[u8]) -> Result<Envelope, DecodeError> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(DecodeError::OutOfRange {
            field: "length",
            found: bytes.len() as u64,
            allowed: "up to 17 MiB",
        });
    }
    let mut reader = Reader { rest: bytes };
    if reader.array::<4>("magic")? != *MAGIC {
        return Err(DecodeError::NoEnvelope);
    }
    let version = reader.byte("version")?;
    if version != VERSION {
        return Err(DecodeError::Version { found: version });
    }
    let number = u16::from_be_bytes(reader.array("suite")?);
    let suite = Suite::from_number(number).ok_or(DecodeError::Suite { found: number })?;
    let parts = reader.byte("parts present")?;
    if parts & !(PART_GROUP | PART_PARTIES | PART_SIGNATURE) != 0 {
        return Err(DecodeError::OutOfRange {
            field: "parts present",
            found: u64::from(parts),
            allowed: "bits 1, 2 and 4",
        });
    }
    let header = read_header(&mut reader, suite, parts)?;
    let content_nonce = reader.array("content nonce")?;
    let box_nonce = match suite {
        Suite::Nacl => Some(reader.array("box nonce")?),
        Suite::Hybrid => None,
    };
    let ciphertext = read_ciphertext(&mut reader, suite)?;
    let boxes = read_boxes(&mut reader, &header)?;
    let parties = if parts & PART_PARTIES != 0 {
        Some(read_parties(&mut reader, &header)?)
    } else {
        None
    };
    let signature = if parts & PART_SIGNATURE != 0 {
        Some(NodeSignature::from_bytes(reader.array("signature")?))
    } else {
        None
    };
    if !reader.rest.is_empty() {
        return Err(DecodeError::Trailing {
            bytes: reader.rest.len(),
        });
    }
    if header.context.flag == PrivacyFlag::StateValidation && parties.is_none() {
        return Err(DecodeError::Inconsistent {
            field: "parties",
            reason: "flag 3 demands the list",
        });
    }
    Ok(Envelope {
        header,
        content_nonce,
        box_nonce,
        ciphertext,
        boxes,
        parties,
        signature,
    })
}

fn read_header(reader: &mut Reader<'_>, suite: Suite, parts: u8) -> Result<Header, DecodeError> {
    let chain_id = u64::from_be_bytes(reader.array("chain id")?);
    let sender_node = NodeKey::from(reader.array::<33>("sender node")?);
    let number = reader.byte("privacy flag")?;
    let flag = PrivacyFlag::from_number(number).ok_or(DecodeError::OutOfRange {
        field: "privacy flag",
        found: u64::from(number),
        allowed: "0 to 3",
    })?;
    let privacy_group = if parts & PART_GROUP != 0 {
        Some(GroupId::from_bytes(reader.array("privacy group")?))
    } else {
        None
    };
    let commitment = B256::from(reader.array::<32>("commitment")?);
    let sender = reader.key("sender key")?;
    let mandatory = reader.keys("mandatory keys", 0)?;
    if mandatory.is_empty() == (flag == PrivacyFlag::MandatoryParties) {
        return Err(DecodeError::Inconsistent {
            field: "mandatory keys",
            reason: "they go with flag 2, always and only",
        });
    }
    Ok(Header {
        suite,
        context: Context {
            chain_id,
            sender_node,
            privacy_group,
            flag,
        },
        commitment,
        sender,
        mandatory,
    })
}

fn read_ciphertext(reader: &mut Reader<'_>, suite: Suite) -> Result<Ciphertext, DecodeError> {
    let length = u32::from_be_bytes(reader.array("ciphertext length")?) as usize;
    if length < suite.content_overhead_bytes() || length > CIPHERTEXT_BYTES_MAX {
        return Err(DecodeError::OutOfRange {
            field: "ciphertext length",
            found: length as u64,
            allowed: "from the suite's overhead up to 16 MiB and 48 bytes",
        });
    }
    let ciphertext = reader.take(length, "ciphertext")?;
    Ok(Ciphertext::from(ciphertext.to_vec()))
}

fn read_boxes(reader: &mut Reader<'_>, header: &Header) -> Result<Vec<WrappedKey>, DecodeError> {
    let count = reader.count("boxes", 1)?;
    let mut boxes: Vec<WrappedKey> = Vec::with_capacity(count);
    for _ in 0..count {
        let recipient = reader.key("box recipient")?;
        if boxes.last().is_some_and(|last| last.recipient >= recipient) {
            return Err(DecodeError::NotRising { field: "boxes" });
        }
        let wrapper = match (reader.byte("box kind")?, header.suite) {
            (0, _) => None,
            (1, Suite::Nacl) => Some(Wrapper {
                key: reader.key("box wrapper")?,
                nonce: reader.array("box wrapper nonce")?,
            }),
            (kind, _) => {
                return Err(DecodeError::OutOfRange {
                    field: "box kind",
                    found: u64::from(kind),
                    allowed: "0, and 1 in suite 1",
                });
            }
        };
        let bytes = reader
            .take(header.suite.wrapped_key_bytes(), "wrapped key")?
            .to_vec();
        boxes.push(WrappedKey {
            recipient,
            wrapper,
            bytes,
        });
    }
    Ok(boxes)
}

fn read_parties(reader: &mut Reader<'_>, header: &Header) -> Result<Parties, DecodeError> {
    let parties = Parties {
        salt: reader.array("salt")?,
        keys: reader.keys("parties", 1)?,
    };
    if parties.commitment() != header.commitment {
        return Err(DecodeError::Inconsistent {
            field: "parties",
            reason: "they are not those that the sender committed to",
        });
    }
    Ok(parties)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Short { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Short { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    fn key(&mut self, field: &'static str) -> Result<PublicKey, DecodeError> {
        self.array(field).map(PublicKey::from_bytes)
    }

    fn count(&mut self, field: &'static str, least: usize) -> Result<usize, DecodeError> {
        let count = usize::from(u16::from_be_bytes(self.array(field)?));
        if count < least || count > PARTIES_MAX {
            return Err(DecodeError::OutOfRange {
                field,
                found: count as u64,
                allowed: "up to 256, and at least 1 where they are needed",
            });
        }
        Ok(count)
    }

    fn keys(&mut self, field: &'static str, least: usize) -> Result<Vec<PublicKey>, DecodeError> {
        let count = self.count(field, least)?;
        let mut keys: Vec<PublicKey> = Vec::with_capacity(count);
        for _ in 0..count {
            let key = self.key(field)?;
            if keys.last().is_some_and(|last| *last >= key) {
                return Err(DecodeError::NotRising { field });
            }
            keys.push(key);
        }
        Ok(keys)
    }
}
