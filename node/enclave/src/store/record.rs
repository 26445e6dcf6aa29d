//! The body of one record, numbers little-endian:
//!
//! ```text
//! payload    1 | hash (64) | sequence (8) | stored at, ms (8) | expires at, ms, 0 for never (8) | envelope
//! payload    4 | as 1, and before the envelope: length (4) | what the caller keeps beside it, not nothing
//! tombstone  2 | hash (64) | sequence (8) | erased at, ms (8) | reason (1) | note length (2) | note, UTF-8
//! blank      3 | zeros, as many as what was there had bytes
//! ```

use bytes::Bytes;

use super::{BESIDE_BYTES_MAX, ErasureReason};
use crate::{Envelope, PayloadHash};

const KIND_PAYLOAD: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
pub(super) const KIND_BLANK: u8 = 3;
const KIND_PAYLOAD_WITH: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Payload(Box<PayloadRecord>),
    Tombstone(TombstoneRecord),
    Blank,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PayloadRecord {
    pub(super) hash: PayloadHash,
    pub(super) sequence: u64,
    pub(super) stored_at_ms: u64,
    pub(super) expires_at_ms: Option<u64>,
    pub(super) beside: Option<Bytes>,
    pub(super) envelope: Envelope,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TombstoneRecord {
    pub(super) hash: PayloadHash,
    pub(super) sequence: u64,
    pub(super) erased_at_ms: u64,
    pub(super) reason: ErasureReason,
    pub(super) note: String,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Payload(payload) => {
                out.push(match &payload.beside {
                    None => KIND_PAYLOAD,
                    Some(_) => KIND_PAYLOAD_WITH,
                });
                out.extend_from_slice(payload.hash.as_bytes());
                for number in [
                    payload.sequence,
                    payload.stored_at_ms,
                    payload.expires_at_ms.unwrap_or(0),
                ] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                if let Some(beside) = &payload.beside {
                    // Checked when it was put.
                    let length = u32::try_from(beside.len()).unwrap_or(u32::MAX);
                    out.extend_from_slice(&length.to_le_bytes());
                    out.extend_from_slice(beside);
                }
                out.extend_from_slice(&payload.envelope.encode());
            }
            Self::Tombstone(tombstone) => {
                out.push(KIND_TOMBSTONE);
                out.extend_from_slice(tombstone.hash.as_bytes());
                out.extend_from_slice(&tombstone.sequence.to_le_bytes());
                out.extend_from_slice(&tombstone.erased_at_ms.to_le_bytes());
                out.push(tombstone.reason.number());
                let length = u16::try_from(tombstone.note.len()).unwrap_or(0);
                out.extend_from_slice(&length.to_le_bytes());
                if length > 0 {
                    out.extend_from_slice(tombstone.note.as_bytes());
                }
            }
            Self::Blank => out.push(KIND_BLANK),
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        let (kind, rest) = body.split_first().ok_or("an empty record")?;
        match *kind {
            KIND_PAYLOAD | KIND_PAYLOAD_WITH => {
                let payload = decode_payload(rest, *kind == KIND_PAYLOAD_WITH)?;
                Ok(Self::Payload(Box::new(payload)))
            }
            KIND_TOMBSTONE => decode_tombstone(rest).map(Self::Tombstone),
            KIND_BLANK if rest.iter().all(|byte| *byte == 0) => Ok(Self::Blank),
            KIND_BLANK => Err("a blank record with content".to_owned()),
            other => Err(format!("a record of kind {other}")),
        }
    }
}

fn decode_payload(body: &[u8], with: bool) -> Result<PayloadRecord, String> {
    let (hash, body) = split_hash(body)?;
    let (sequence, body) = split_number(body)?;
    let (stored_at_ms, body) = split_number(body)?;
    let (expires_at_ms, body) = split_number(body)?;
    let (beside, body) = if with {
        let (length, body) = body.split_first_chunk::<4>().ok_or("no length")?;
        let length = u32::from_le_bytes(*length) as usize;
        if !(1..=BESIDE_BYTES_MAX).contains(&length) {
            return Err(format!("{length} bytes beside a payload"));
        }
        let (beside, body) = body
            .split_at_checked(length)
            .ok_or("what lies beside a payload is longer than its record")?;
        (Some(Bytes::copy_from_slice(beside)), body)
    } else {
        (None, body)
    };
    let envelope = Envelope::decode(body).map_err(|e| e.to_string())?;
    if envelope.payload_hash() != hash {
        return Err("the ciphertext does not have the hash it is stored under".to_owned());
    }
    Ok(PayloadRecord {
        hash,
        sequence,
        stored_at_ms,
        expires_at_ms: (expires_at_ms > 0).then_some(expires_at_ms),
        beside,
        envelope,
    })
}

fn decode_tombstone(body: &[u8]) -> Result<TombstoneRecord, String> {
    let (hash, body) = split_hash(body)?;
    let (sequence, body) = split_number(body)?;
    let (erased_at_ms, body) = split_number(body)?;
    let (reason, body) = body.split_first().ok_or("a tombstone without a reason")?;
    let (length, note) = body.split_first_chunk::<2>().ok_or("no length of a note")?;
    if usize::from(u16::from_le_bytes(*length)) != note.len() {
        return Err("a note of another length than it says".to_owned());
    }
    let note = std::str::from_utf8(note).map_err(|e| e.to_string())?;
    let known = ErasureReason::from_number(*reason);
    Ok(TombstoneRecord {
        hash,
        sequence,
        erased_at_ms,
        reason: known.ok_or_else(|| format!("a reason numbered {reason}"))?,
        note: note.to_owned(),
    })
}

fn split_hash(body: &[u8]) -> Result<(PayloadHash, &[u8]), String> {
    let (hash, rest) = body.split_first_chunk::<64>().ok_or("no payload hash")?;
    Ok((PayloadHash::from_bytes(*hash), rest))
}

fn split_number(body: &[u8]) -> Result<(u64, &[u8]), String> {
    let (number, rest) = body.split_first_chunk::<8>().ok_or("too few numbers")?;
    Ok((u64::from_le_bytes(*number), rest))
}
