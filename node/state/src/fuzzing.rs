//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.

use alloy_primitives::{Address, U256, keccak256};

use crate::{
    Account,
    chunk::{ChunkReader, ChunkWriter, Record},
};

const NUMBER: u32 = 7;

/// Reads a chunk of a state: true if it was taken. Panics if what was taken does not encode to the same bytes.
#[must_use]
pub fn chunk(bytes: &[u8]) -> bool {
    let Ok(mut reader) = ChunkReader::new(bytes, NUMBER) else {
        return false;
    };
    let mut writer = ChunkWriter::new(NUMBER);
    let mut encoded = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(record)) => {
                encoded.clear();
                assert_eq!(record.encode(&mut encoded), Ok(()));
                assert!(encoded.starts_with(&record.sort_key()));
                writer.push(&encoded);
            }
            Ok(None) => break,
            Err(_refusal) => return false,
        }
    }
    assert_eq!(writer.finish().0, bytes, "one chunk, two encodings");
    true
}

/// A chunk with a record of each kind.
#[must_use]
pub fn chunk_seeds() -> Vec<Vec<u8>> {
    let code = b"\x60\x00";
    let records = [
        Record::Account {
            address: Address::repeat_byte(1),
            account: Account {
                nonce: 3,
                balance: U256::from(1_000),
                code_hash: keccak256(code),
            },
        },
        Record::Storage {
            address: Address::repeat_byte(1),
            slot: U256::from(2),
            value: U256::from(300),
        },
        Record::Code {
            hash: keccak256(code),
            code,
        },
    ];
    let mut writer = ChunkWriter::new(NUMBER);
    for record in records {
        let mut encoded = Vec::new();
        if record.encode(&mut encoded).is_ok() {
            writer.push(&encoded);
        }
    }
    vec![writer.finish().0]
}
