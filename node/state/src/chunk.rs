//! The pieces in which a whole state travels.
//!
//! ```text
//! chunk    magic "QRTECHK1" (8) | number, u32 LE (4) | records
//! account  1 | address 20 | size 1 | account as in the flat state
//! storage  2 | address 20 | slot 32 | size 1 | value, big-endian without leading zeros, never zero
//! code     3 | code hash 32 | size, u32 LE (4) | code
//! ```
//! All records of all chunks together are sorted by their kind and key, without repetition, and a chunk ends where the next
//! record would take it past the size that was asked for. So one state and one size give the same chunks everywhere.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};

use crate::{Account, layout};

const MAGIC: &[u8; 8] = b"QRTECHK1";
const HEADER_BYTES: usize = 12;

/// No chunk is larger, in bytes: the largest size that can be asked for, and a code on top.
pub const CHUNK_BYTES_MAX: usize = 64 << 20;

/// Largest code that can travel, in bytes; what a transaction can deploy is far smaller.
const CODE_BYTES_MAX: usize = 16 << 20;

/// What one chunk must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct ChunkInfo {
    /// keccak256 of its bytes.
    pub hash: B256,
    /// How many bytes.
    pub bytes: u64,
    /// How many records.
    pub records: u64,
}

/// A whole state as chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedState {
    /// Height of the block after which this is the state.
    pub height: u64,
    /// Its root.
    pub state_root: B256,
    /// The chunks, in order.
    pub chunks: Vec<ChunkInfo>,
}

/// One entry of the flat state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Account {
        address: Address,
        account: Account,
    },
    Storage {
        address: Address,
        slot: U256,
        value: U256,
    },
    Code {
        hash: B256,
        code: &'a [u8],
    },
}

const ACCOUNT: u8 = 1;
const STORAGE: u8 = 2;
const CODE: u8 = 3;

impl Record<'_> {
    /// What records are sorted by.
    pub(crate) fn sort_key(&self) -> Vec<u8> {
        match self {
            Self::Account { address, .. } => [&[ACCOUNT], address.as_slice()].concat(),
            Self::Storage { address, slot, .. } => {
                [&[STORAGE], address.as_slice(), &slot.to_be_bytes::<32>()].concat()
            }
            Self::Code { hash, .. } => [&[CODE], hash.as_slice()].concat(),
        }
    }

    /// Appends the record's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        out.extend_from_slice(&self.sort_key());
        match self {
            Self::Account { account, .. } => {
                let bytes = layout::encode_account(account);
                // At most 74 and 32.
                out.push(bytes.len() as u8);
                out.extend_from_slice(&bytes);
            }
            Self::Storage { value, .. } => {
                let bytes = layout::encode_value(value);
                out.push(bytes.len() as u8);
                out.extend_from_slice(&bytes);
            }
            Self::Code { code, .. } => {
                let size = u32::try_from(code.len()).ok();
                let size = size.filter(|_| code.len() <= CODE_BYTES_MAX);
                let size = size.ok_or("code is over 16 MiB")?;
                out.extend_from_slice(&size.to_le_bytes());
                out.extend_from_slice(code);
            }
        }
        Ok(())
    }
}

/// A chunk being filled.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    number: u32,
    bytes: Vec<u8>,
    records: u64,
}

impl ChunkWriter {
    pub(crate) fn new(number: u32) -> Self {
        let mut bytes = Vec::with_capacity(64 * 1024);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&number.to_le_bytes());
        Self {
            number,
            bytes,
            records: 0,
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// True if a record of so many bytes still belongs into this chunk.
    pub(crate) fn has_room(&self, record_bytes: usize, chunk_bytes: usize) -> bool {
        self.is_empty() || self.bytes.len() + record_bytes <= chunk_bytes
    }

    pub(crate) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.records += 1;
    }

    /// The bytes, and what they are.
    pub(crate) fn finish(self) -> (Vec<u8>, ChunkInfo) {
        let info = ChunkInfo {
            hash: keccak256(&self.bytes),
            bytes: self.bytes.len() as u64,
            records: self.records,
        };
        (self.bytes, info)
    }
}

/// Checks that bytes are the chunk that was announced.
///
/// # Errors
/// What does not fit.
pub fn check_chunk(bytes: &[u8], expected: &ChunkInfo) -> Result<(), &'static str> {
    if bytes.len() as u64 != expected.bytes {
        return Err("it has another size");
    }
    if keccak256(bytes) != expected.hash {
        return Err("it has another hash");
    }
    Ok(())
}

/// Reads the records of a chunk in order. Only canonical encodings are taken.
#[derive(Debug)]
pub(crate) struct ChunkReader<'a> {
    rest: &'a [u8],
}

impl<'a> ChunkReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], number: u32) -> Result<Self, &'static str> {
        let (header, rest) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or("it is cut off")?;
        let (magic, found) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it is no chunk of this version");
        }
        if found != number.to_le_bytes() {
            return Err("it has another number");
        }
        Ok(Self { rest })
    }

    pub(crate) fn next_record(&mut self) -> Result<Option<Record<'a>>, &'static str> {
        let Some((kind, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let record = match *kind {
            ACCOUNT => {
                let address = Address::from_slice(self.take(20)?);
                let bytes = self.take_sized()?;
                let account = layout::decode_account(bytes)?;
                if layout::encode_account(&account) != bytes {
                    return Err("an account is not in its shortest form");
                }
                Record::Account { address, account }
            }
            STORAGE => {
                let address = Address::from_slice(self.take(20)?);
                let slot = U256::from_be_slice(self.take(32)?);
                let bytes = self.take_sized()?;
                let value = layout::decode_value(bytes)?;
                if value.is_zero() || layout::encode_value(&value) != bytes {
                    return Err("a storage value is zero or not in its shortest form");
                }
                Record::Storage {
                    address,
                    slot,
                    value,
                }
            }
            CODE => {
                let hash = B256::from_slice(self.take(32)?);
                let size: [u8; 4] = self.take(4)?.try_into().map_err(|_| "it is cut off")?;
                let size = usize::try_from(u32::from_le_bytes(size)).unwrap_or(usize::MAX);
                if size == 0 || size > CODE_BYTES_MAX {
                    return Err("a code is empty or over 16 MiB");
                }
                let code = self.take(size)?;
                if keccak256(code) != hash {
                    return Err("a code has another hash");
                }
                Record::Code { hash, code }
            }
            _ => return Err("a record has an unknown kind"),
        };
        Ok(Some(record))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or("a record is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_sized(&mut self) -> Result<&'a [u8], &'static str> {
        let size = self.take(1)?.first().copied().unwrap_or_default();
        self.take(usize::from(size))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use alloy_primitives::hex;

    use super::*;

    fn encoded(records: &[Record<'_>]) -> Vec<u8> {
        let mut writer = ChunkWriter::new(7);
        for record in records {
            let mut bytes = Vec::new();
            record.encode(&mut bytes).unwrap();
            writer.push(&bytes);
        }
        writer.finish().0
    }

    #[test]
    fn a_chunk_is_as_written_down_and_decodes_to_itself_and_nothing_shorter_does() {
        let address = Address::repeat_byte(0xaa);
        let code = [0x60, 0x00];
        let records = [
            Record::Account {
                address,
                account: Account {
                    nonce: 258,
                    balance: U256::from(5),
                    ..Account::default()
                },
            },
            Record::Storage {
                address,
                slot: U256::from(1),
                value: U256::from(0x1234),
            },
            Record::Code {
                hash: keccak256(code),
                code: &code,
            },
        ];
        let bytes = encoded(&records);
        let expected = format!(
            "{}07000000 01{a}05 0201020105 02{a}{:064x}021234 03{}020000006000",
            hex::encode(MAGIC),
            1,
            hex::encode(keccak256(code)),
            a = "aa".repeat(20),
        );
        assert_eq!(hex::encode(&bytes), expected.replace(' ', ""));
        let mut reader = ChunkReader::new(&bytes, 7).unwrap();
        let mut boundaries = vec![HEADER_BYTES];
        for record in &records {
            assert_eq!(reader.next_record().unwrap().as_ref(), Some(record));
            boundaries.push(bytes.len() - reader.rest.len());
        }
        assert_eq!(reader.next_record(), Ok(None));
        assert!(ChunkReader::new(&bytes, 8).is_err());
        for cut in 0..bytes.len() {
            let read = || {
                let mut reader = ChunkReader::new(&bytes[..cut], 7)?;
                while reader.next_record()?.is_some() {}
                Ok::<(), &'static str>(())
            };
            assert_eq!(read().is_ok(), boundaries.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn records_that_are_not_in_their_one_form_are_refused() {
        let head = [&MAGIC[..], &0u32.to_le_bytes()].concat();
        let address = [0xaa; 20];
        let slot = [0; 32];
        let check = |record: Vec<u8>| {
            let bytes = [&head[..], &record].concat();
            let mut reader = ChunkReader::new(&bytes, 0).unwrap();
            assert!(reader.next_record().is_err(), "{record:?}");
        };
        check([&[1], &address[..], &[4, 2, 0, 1, 0]].concat());
        check([&[2], &address[..], &slot, &[0]].concat());
        check([&[2], &address[..], &slot, &[2, 0, 5]].concat());
        check([&[3], &[0x11; 32][..], &1u32.to_le_bytes(), &[9]].concat());
        check([&[3], &[0x11; 32][..], &u32::MAX.to_le_bytes(), &[9]].concat());
        check(vec![4]);
    }
}
