//! The file that makes large writes atomic.
//!
//! sled holds a lock that is global to the process while it applies a batch, so a large batch stops every reader of every
//! store for seconds. Large writes are therefore written here first, synced, and then applied in small batches; whatever
//! interrupts that, the next open finds the file and applies all of it again. Setting and removing keys twice does no harm.
//!
//! ```text
//! magic 8 | payload size 8 | crc32c of payload 4 | payload: (key size 4 | value size 4, or ffffffff for none | key | value)*
//! ```
//! Numbers are little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::Path;

use crate::{Batch, Write};

const MAGIC: &[u8; 8] = b"qrtjrnl1";
const HEADER_SIZE: usize = 8 + 8 + 4;
const NO_VALUE: u32 = u32::MAX;

/// The journal of one store. Empty except while a large write is under way.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Opens or creates the file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self { file })
    }

    /// Stores the batches durably, in order.
    pub(crate) fn store(&mut self, stages: &[Batch]) -> io::Result<u32> {
        let size: usize = stages
            .iter()
            .map(|stage| stage.size_bytes() + 8 * stage.len())
            .sum();
        let mut bytes = Vec::with_capacity(HEADER_SIZE + size);
        bytes.resize(HEADER_SIZE, 0);
        for write in stages.iter().flat_map(Batch::writes) {
            // Both sizes were checked against limits far below 4 GiB.
            bytes.extend_from_slice(&(write.key.len() as u32).to_le_bytes());
            let value_size = write
                .value
                .as_ref()
                .map_or(NO_VALUE, |value| value.len() as u32);
            bytes.extend_from_slice(&value_size.to_le_bytes());
            bytes.extend_from_slice(&write.key);
            bytes.extend_from_slice(write.value.as_deref().unwrap_or_default());
        }
        let (header, payload) = bytes.split_at_mut(HEADER_SIZE);
        let crc = crc32c::crc32c(payload);
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[16..].copy_from_slice(&crc.to_le_bytes());
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&bytes)?;
        self.file.set_len(bytes.len() as u64)?;
        self.file.sync_all()?;
        Ok(crc)
    }

    /// What an interrupted write left to do; `None` if there is nothing, or the file was never finished.
    pub(crate) fn load(&mut self) -> io::Result<Option<Vec<Write>>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        Ok(decode(&bytes))
    }

    /// Empties the file, durably.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_all()
    }
}

fn decode(bytes: &[u8]) -> Option<Vec<Write>> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (crc, payload) = rest.split_first_chunk::<4>()?;
    if magic != MAGIC
        || u64::from_le_bytes(*size) != payload.len() as u64
        || u32::from_le_bytes(*crc) != crc32c::crc32c(payload)
    {
        return None;
    }
    let mut writes = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let key_size = take_u32(&mut rest)?;
        let value_size = take_u32(&mut rest)?;
        let key = take(&mut rest, key_size)?.to_vec();
        let value = match value_size {
            NO_VALUE => None,
            size => Some(take(&mut rest, size)?.to_vec()),
        };
        writes.push(Write { key, value });
    }
    Some(writes)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

fn take<'a>(rest: &mut &'a [u8], size: u32) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_until_it_is_cleared_and_anything_less_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.load().unwrap(), None);
        let mut large = Batch::new();
        large.put(*b"long", vec![7; 5_000]);
        journal.store(&[large]).unwrap();
        let (mut first, mut second) = (Batch::new(), Batch::new());
        first.put(*b"a", *b"1");
        first.put(*b"empty", *b"");
        second.delete(*b"a");
        let crc = journal.store(&[first.clone(), second.clone()]).unwrap();
        let expected = [first.into_writes(), second.into_writes()].concat();
        assert_eq!(
            Journal::open(&path).unwrap().load().unwrap(),
            Some(expected)
        );

        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[16..20], crc.to_le_bytes());
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        for damaged in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[damaged] ^= 1;
            assert_eq!(decode(&bytes), None, "damaged at {damaged}");
        }
        journal.clear().unwrap();
        assert_eq!(journal.load().unwrap(), None);
    }
}
