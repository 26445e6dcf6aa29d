//! Writes that belong together.

use crate::{KEY_SIZE_MAX, KvError, VALUE_SIZE_MAX};

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which entry.
    pub key: Vec<u8>,
    /// Its new value; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// Writes that are applied together or not at all, in order: a later write to a key wins over an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<Write>,
    size_bytes: usize,
}

impl Batch {
    /// A batch without writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        self.size_bytes += key.len() + value.len();
        self.writes.push(Write {
            key,
            value: Some(value),
        });
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.size_bytes += key.len();
        self.writes.push(Write { key, value: None });
    }

    /// Appends the writes of `other`, after those already here.
    pub fn append(&mut self, mut other: Batch) {
        self.size_bytes += other.size_bytes;
        self.writes.append(&mut other.writes);
    }

    /// The writes, in order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Takes the writes, in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// True if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Keys and values together, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Checks the size of every key and value.
    ///
    /// # Errors
    /// [`KvError::KeyTooLarge`] or [`KvError::ValueTooLarge`] for the first one that is over its limit.
    pub fn check_sizes(&self) -> Result<(), KvError> {
        for write in &self.writes {
            if write.key.len() > KEY_SIZE_MAX {
                return Err(KvError::KeyTooLarge {
                    size: write.key.len(),
                    size_max: KEY_SIZE_MAX,
                });
            }
            let size = write.value.as_ref().map_or(0, Vec::len);
            if size > VALUE_SIZE_MAX {
                return Err(KvError::ValueTooLarge {
                    key: crate::error::printable(&write.key),
                    size,
                    size_max: VALUE_SIZE_MAX,
                });
            }
        }
        Ok(())
    }
}
