//! Bytes between members. Integers are big-endian. A change of any of these is a new [`crate::PROTOCOL_VERSION`].
//!
//! ```text
//! list          count u32 | count × ( length u32 | bytes )
//! gossip        format u8 = 1 | flags u8 (bit 0: relay) | nonce u64 | list of transactions
//! forward       list of transactions                     answer: status u8
//! blocks        first height u64 | count max u32         answer: status u8 | list of blocks (only with status 0)
//! query         anything                                 answer: status u8 | anything (only with status 0)
//! privacy       anything                                 answer: status u8 | anything (only with status 0)
//! control       kind u8 = 1 | announcement, see `announcement.rs`
//!               kind u8 = 2: you are a member no more    answer: status u8
//! status        0 done, 1 busy, 2 declined
//! ```
//!
//! The nonce makes two publications of the same transactions two messages: gossipsub drops what it has seen within a
//! minute, and a batch offered again because it was lost must not be taken for an echo.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const GOSSIP_FORMAT: u8 = 1;
const FLAG_RELAY: u8 = 1;
/// Bytes of a gossip message before its list.
pub(crate) const GOSSIP_HEAD: usize = 10;
/// Bytes that a list needs beside its items' bytes: once, and per item.
pub(crate) const LIST_HEAD: usize = 4;
pub(crate) const ITEM_HEAD: usize = 4;

/// Why bytes are not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{what} ends after {got} bytes, needs {needed}")]
    Short {
        what: &'static str,
        got: usize,
        needed: usize,
    },
    #[error("{what} has {extra} bytes after its end")]
    Trailing { what: &'static str, extra: usize },
    #[error("list says {count} items in {bytes} bytes")]
    Count { count: usize, bytes: usize },
    #[error("gossip format is {got}, known is {GOSSIP_FORMAT}")]
    Format { got: u8 },
    #[error("flags are {got:#04x}, known is {FLAG_RELAY:#04x}")]
    Flags { got: u8 },
    #[error("control message is of kind {got}, known are 1 and 2")]
    Control { got: u8 },
    #[error("status is {got}, allowed is 0 to 2")]
    Status { got: u8 },
}

/// How a request ended at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Done = 0,
    Busy = 1,
    Declined = 2,
}

impl Status {
    fn read(byte: u8) -> Result<Self, WireError> {
        match byte {
            0 => Ok(Self::Done),
            1 => Ok(Self::Busy),
            2 => Ok(Self::Declined),
            got => Err(WireError::Status { got }),
        }
    }
}

fn need(bytes: &Bytes, needed: usize, what: &'static str) -> Result<(), WireError> {
    if bytes.len() < needed {
        return Err(WireError::Short {
            what,
            got: bytes.len(),
            needed,
        });
    }
    Ok(())
}

/// Bytes of a list of these items.
pub(crate) fn list_size(items: &[Bytes]) -> usize {
    LIST_HEAD
        + items
            .iter()
            .map(|item| ITEM_HEAD + item.len())
            .sum::<usize>()
}

/// Appends a list. Counts and lengths fit u32 because callers keep to limits under 4 GiB.
pub(crate) fn put_list(out: &mut BytesMut, items: &[Bytes]) {
    out.reserve(list_size(items));
    out.put_u32(items.len() as u32);
    for item in items {
        out.put_u32(item.len() as u32);
        out.put_slice(item);
    }
}

/// Reads a list that fills `bytes`. The items share the memory of `bytes`.
pub(crate) fn read_list(mut bytes: Bytes) -> Result<Vec<Bytes>, WireError> {
    need(&bytes, LIST_HEAD, "list")?;
    let count = bytes.get_u32() as usize;
    // Before memory is taken: each item has at least its length.
    if count > bytes.len() / ITEM_HEAD {
        return Err(WireError::Count {
            count,
            bytes: bytes.len(),
        });
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        need(&bytes, ITEM_HEAD, "list item")?;
        let length = bytes.get_u32() as usize;
        need(&bytes, length, "list item")?;
        items.push(bytes.split_to(length));
    }
    if !bytes.is_empty() {
        return Err(WireError::Trailing {
            what: "list",
            extra: bytes.len(),
        });
    }
    Ok(items)
}

/// A gossip message, not yet marked for relaying.
pub(crate) fn gossip_message(nonce: u64, transactions: &[Bytes]) -> BytesMut {
    let mut out = BytesMut::with_capacity(GOSSIP_HEAD + list_size(transactions));
    out.put_u8(GOSSIP_FORMAT);
    out.put_u8(0);
    out.put_u64(nonce);
    put_list(&mut out, transactions);
    out
}

/// Asks receivers to pass the message on: its publisher does not reach every member itself.
pub(crate) fn mark_for_relay(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(1) {
        *flags |= FLAG_RELAY;
    }
}

/// Reads a gossip message: its transactions, and whether to pass it on.
pub(crate) fn read_gossip(mut bytes: Bytes) -> Result<(Vec<Bytes>, bool), WireError> {
    need(&bytes, GOSSIP_HEAD, "gossip message")?;
    match bytes.get_u8() {
        GOSSIP_FORMAT => {}
        got => return Err(WireError::Format { got }),
    }
    let relay = match bytes.get_u8() {
        0 => false,
        FLAG_RELAY => true,
        got => return Err(WireError::Flags { got }),
    };
    bytes.advance(8);
    Ok((read_list(bytes)?, relay))
}

/// A request for blocks.
pub(crate) fn blocks_request(first_height: u64, count_max: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(12);
    out.put_u64(first_height);
    out.put_u32(count_max);
    out.freeze()
}

pub(crate) fn read_blocks_request(mut bytes: Bytes) -> Result<(u64, u32), WireError> {
    need(&bytes, 12, "blocks request")?;
    let request = (bytes.get_u64(), bytes.get_u32());
    if !bytes.is_empty() {
        return Err(WireError::Trailing {
            what: "blocks request",
            extra: bytes.len(),
        });
    }
    Ok(request)
}

/// What members tell each other about themselves and about us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control {
    /// Where the sender, or another member, can be reached; not checked yet.
    Announcement(Bytes),
    /// We are a member no more.
    Farewell,
}

impl Control {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Announcement(record) => {
                let mut out = BytesMut::with_capacity(1 + record.len());
                out.put_u8(1);
                out.put_slice(record);
                out.freeze()
            }
            Self::Farewell => Bytes::from_static(&[2]),
        }
    }

    pub(crate) fn read(mut bytes: Bytes) -> Result<Self, WireError> {
        need(&bytes, 1, "control message")?;
        match bytes.get_u8() {
            1 => Ok(Self::Announcement(bytes)),
            2 if bytes.is_empty() => Ok(Self::Farewell),
            2 => Err(WireError::Trailing {
                what: "control message",
                extra: bytes.len(),
            }),
            got => Err(WireError::Control { got }),
        }
    }
}

/// An answer to a query.
pub(crate) fn query_answer(body: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + body.len());
    out.put_u8(Status::Done as u8);
    out.put_slice(body);
    out.freeze()
}

/// An answer without content.
pub(crate) fn status_answer(status: Status) -> Bytes {
    Bytes::copy_from_slice(&[status as u8])
}

/// An answer with blocks.
pub(crate) fn blocks_answer(blocks: &[Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + list_size(blocks));
    out.put_u8(Status::Done as u8);
    put_list(&mut out, blocks);
    out.freeze()
}

/// Splits an answer into its status and its content.
pub(crate) fn read_answer(mut bytes: Bytes) -> Result<(Status, Bytes), WireError> {
    need(&bytes, 1, "answer")?;
    let status = Status::read(bytes.get_u8())?;
    if status != Status::Done && !bytes.is_empty() {
        return Err(WireError::Trailing {
            what: "answer",
            extra: bytes.len(),
        });
    }
    Ok((status, bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(list: &[&[u8]]) -> Vec<Bytes> {
        list.iter()
            .map(|item| Bytes::copy_from_slice(item))
            .collect()
    }

    #[test]
    fn the_encodings_are_fixed() {
        let transactions = items(&[b"\xaa\xbb", b"", b"\xcc"]);
        let mut message = gossip_message(0x0102_0304_0506_0708, &transactions);
        mark_for_relay(&mut message);
        assert_eq!(
            hex::encode(&message),
            "0101010203040506070800000003 00000002aabb 00000000 00000001cc".replace(' ', "")
        );
        assert_eq!(
            read_gossip(message.freeze()),
            Ok((transactions.clone(), true))
        );
        assert_eq!(
            hex::encode(blocks_request(7, 64)),
            "000000000000000700000040"
        );
        assert_eq!(
            hex::encode(blocks_answer(&transactions)),
            "00 00000003 00000002aabb 00000000 00000001cc".replace(' ', "")
        );
        for (message, bytes) in [
            (Control::Announcement(Bytes::from_static(b"xy")), "017879"),
            (Control::Farewell, "02"),
        ] {
            assert_eq!(hex::encode(message.encode()), bytes);
            assert_eq!(Control::read(message.encode()), Ok(message));
        }
        assert_eq!(hex::encode(query_answer(&Bytes::from_static(b"z"))), "007a");
        assert_eq!(hex::encode(status_answer(Status::Busy)), "01");
        assert_eq!(hex::encode(status_answer(Status::Declined)), "02");
    }

    #[test]
    fn broken_messages_are_named() {
        let read = |bytes: &'static [u8]| read_list(Bytes::from_static(bytes));
        assert_eq!(
            read(b"\0\0"),
            Err(WireError::Short {
                what: "list",
                got: 2,
                needed: 4
            })
        );
        assert_eq!(
            read(b"\xff\xff\xff\xff\0\0\0\0"),
            Err(WireError::Count {
                count: 0xffff_ffff,
                bytes: 4
            })
        );
        assert_eq!(
            read(b"\0\0\0\x01\0\0\0\x05ab"),
            Err(WireError::Short {
                what: "list item",
                got: 2,
                needed: 5
            })
        );
        assert_eq!(
            read(b"\0\0\0\0x"),
            Err(WireError::Trailing {
                what: "list",
                extra: 1
            })
        );
        let gossip = |bytes: &'static [u8]| read_gossip(Bytes::from_static(bytes)).unwrap_err();
        assert_eq!(
            gossip(b"\x02\0nnnnnnnn\0\0\0\0"),
            WireError::Format { got: 2 }
        );
        assert_eq!(
            gossip(b"\x01\x02nnnnnnnn\0\0\0\0"),
            WireError::Flags { got: 2 }
        );
        assert_eq!(
            read_answer(Bytes::from_static(b"\x03")).unwrap_err(),
            WireError::Status { got: 3 }
        );
        assert!(read_answer(Bytes::from_static(b"\x01x")).is_err());
        assert!(read_answer(Bytes::new()).is_err());
        assert!(Control::read(Bytes::new()).is_err());
        assert!(Control::read(Bytes::from_static(b"\x02x")).is_err());
        assert!(Control::read(Bytes::from_static(b"\x03")).is_err());
        assert!(read_blocks_request(Bytes::from_static(b"0123456789abc")).is_err());
    }

    proptest! {
        #[test]
        fn any_list_comes_back(list in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..32), nonce in any::<u64>()) {
            let list: Vec<Bytes> = list.into_iter().map(Bytes::from).collect();
            let message = gossip_message(nonce, &list).freeze();
            prop_assert_eq!(message.len(), GOSSIP_HEAD + list_size(&list));
            prop_assert_eq!(read_gossip(message), Ok((list.clone(), false)));
            let (status, body) = read_answer(blocks_answer(&list)).unwrap();
            prop_assert_eq!(status, Status::Done);
            prop_assert_eq!(read_list(body), Ok(list));
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_what_is_read_encodes_back(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let bytes = Bytes::from(bytes);
            if let Ok(list) = read_list(bytes.clone()) {
                let mut back = BytesMut::new();
                put_list(&mut back, &list);
                prop_assert_eq!(back.freeze(), bytes.clone());
            }
            // These must not panic; what they say about noise does not matter.
            drop(read_gossip(bytes.clone()));
            drop(read_answer(bytes.clone()));
            drop(read_blocks_request(bytes));
        }

        #[test]
        fn a_cut_message_is_never_accepted(list in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..16), 1..8), cut in 1_usize..10) {
            let list: Vec<Bytes> = list.into_iter().map(Bytes::from).collect();
            let message = gossip_message(1, &list).freeze();
            let kept = message.len() - cut.min(message.len());
            prop_assert!(read_gossip(message.slice(..kept)).is_err());
        }
    }
}
