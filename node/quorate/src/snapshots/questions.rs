//! What members say to each other about snapshots.
//!
//! ```text
//! describe   0, u64 height above which it must lie      → 0 none | 1 being made, ask again | 2, description
//! chunk      1, id (32 bytes), u32 number, its keccak256 → the chunk, or one of another snapshot with the same hash
//! anchor     2, id (32 bytes), u64 offset               → u64 length of the whole, bytes from there on
//! ```
//! Numbers are big-endian. A question without an answer is declined.

use alloy_primitives::B256;
use bytes::{BufMut as _, Bytes, BytesMut};

/// Bytes of an anchor in one answer.
const PART_BYTES: usize = 2 << 20;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Describe { above: u64 },
    Chunk { id: B256, number: u32, hash: B256 },
    Anchor { id: B256, offset: u64 },
}

/// The answer to [`Question::Describe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Description {
    None,
    Coming,
    Here(Bytes),
}

impl Question {
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(69);
        match self {
            Self::Describe { above } => {
                out.put_u8(0);
                out.put_u64(above);
            }
            Self::Chunk { id, number, hash } => {
                out.put_u8(1);
                out.put_slice(id.as_slice());
                out.put_u32(number);
                out.put_slice(hash.as_slice());
            }
            Self::Anchor { id, offset } => {
                out.put_u8(2);
                out.put_slice(id.as_slice());
                out.put_u64(offset);
            }
        }
        out.freeze()
    }

    pub fn decode(body: &[u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        match kind {
            0 => Some(Self::Describe {
                above: u64::from_be_bytes(rest.try_into().ok()?),
            }),
            1 => {
                let (id, rest) = rest.split_at_checked(32)?;
                let (number, hash) = rest.split_at_checked(4)?;
                Some(Self::Chunk {
                    id: B256::from_slice(id),
                    number: u32::from_be_bytes(number.try_into().ok()?),
                    hash: B256::new(hash.try_into().ok()?),
                })
            }
            2 => {
                let (id, offset) = rest.split_at_checked(32)?;
                Some(Self::Anchor {
                    id: B256::from_slice(id),
                    offset: u64::from_be_bytes(offset.try_into().ok()?),
                })
            }
            _ => None,
        }
    }
}

impl Description {
    pub fn encode(&self) -> Bytes {
        match self {
            Self::None => Bytes::from_static(&[0]),
            Self::Coming => Bytes::from_static(&[1]),
            Self::Here(description) => {
                let mut out = BytesMut::with_capacity(1 + description.len());
                out.put_u8(2);
                out.put_slice(description);
                out.freeze()
            }
        }
    }

    pub fn decode(answer: &Bytes) -> Option<Self> {
        match answer.split_first()? {
            (0, []) => Some(Self::None),
            (1, []) => Some(Self::Coming),
            (2, _) => Some(Self::Here(answer.slice(1..))),
            _ => None,
        }
    }
}

/// A part of an anchor from `offset` on, behind the length of the whole.
pub fn part_of(anchor: &[u8], offset: u64) -> Bytes {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = anchor.get(offset..).unwrap_or_default();
    let part = rest.get(..PART_BYTES).unwrap_or(rest);
    let mut out = BytesMut::with_capacity(8 + part.len());
    out.put_u64(anchor.len() as u64);
    out.put_slice(part);
    out.freeze()
}

/// Length of the whole and the part, as [`part_of`] wrote them.
pub fn read_part(answer: &[u8]) -> Option<(u64, &[u8])> {
    let (length, part) = answer.split_at_checked(8)?;
    Some((u64::from_be_bytes(length.try_into().ok()?), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_were_asked_and_nothing_else_is_one() {
        let id = B256::repeat_byte(7);
        for question in [
            Question::Describe { above: 9 },
            Question::Chunk {
                id,
                number: 3,
                hash: B256::repeat_byte(8),
            },
            Question::Anchor {
                id,
                offset: 1 << 40,
            },
        ] {
            let bytes = question.encode();
            assert_eq!(Question::decode(&bytes), Some(question));
            for cut in 0..bytes.len() {
                assert_eq!(Question::decode(&bytes[..cut]), None);
            }
        }
        assert_eq!(Question::decode(&[9]), None);
    }

    #[test]
    fn an_anchor_is_put_together_from_its_parts() {
        let anchor: Vec<u8> = (0..5_000_000u32).map(|i| i as u8).collect();
        let mut got = Vec::new();
        while got.len() < anchor.len() {
            let answer = part_of(&anchor, got.len() as u64);
            let (length, part) = read_part(&answer).unwrap();
            assert_eq!(length, anchor.len() as u64);
            got.extend_from_slice(part);
        }
        assert_eq!(got, anchor);
        assert_eq!(read_part(&part_of(&anchor, 1 << 50)).unwrap().1, [0u8; 0]);
    }
}
