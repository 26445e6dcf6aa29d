//! What can go wrong, and what the caller has to do about it.

use std::path::PathBuf;

/// A failed operation on an open store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The batch was refused and nothing changed: a key is too long.
    #[error("key of {size} bytes, allowed are at most {size_max}")]
    KeyTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        size_max: usize,
    },
    /// The batch was refused and nothing changed: a value is too long, cut it up.
    #[error("value of {size} bytes under key {key}, allowed are at most {size_max}")]
    ValueTooLarge {
        /// The key, in hexadecimal.
        key: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        size_max: usize,
    },
    /// The storage below failed. After a write or a barrier the instance is poisoned.
    #[error("storage {operation} failed: {reason}")]
    Failed {
        /// `get`, `scan`, `write`, `journal`, `flush`, `sync` or `size`.
        operation: &'static str,
        /// What the operating system or the store said.
        reason: String,
    },
    /// The storage below holds bytes that it did not write.
    #[error("storage is damaged ({operation}): {reason}")]
    Damaged {
        /// The operation that met the damage.
        operation: &'static str,
        /// What the store said.
        reason: String,
    },
    /// An earlier write or barrier failed, and nobody knows what reached the disk. Open the store again.
    #[error("storage refuses to go on after an earlier failure: {first}")]
    Poisoned {
        /// The failure that poisoned it.
        first: String,
    },
}

/// A store that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The files are there and cannot be what was written. Move the folder away and rebuild.
    #[error("storage in {} is damaged: {reason}", dir.display())]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What the store said.
        reason: String,
    },
    /// The folder cannot be used: permissions, no space, or another process has it open.
    #[error("storage in {} cannot be opened: {reason}", dir.display())]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A configuration value is out of its range.
    #[error("{field} is {value}, allowed is {allowed}")]
    Config {
        /// Which value.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
}

/// A folder that could not be moved away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot move {} away: {reason}", dir.display())]
pub struct QuarantineError {
    /// The folder.
    pub dir: PathBuf,
    /// What the operating system said.
    pub reason: String,
}

/// A key as text for messages.
pub(crate) fn printable(key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * key.len().min(40));
    text.push_str("0x");
    for byte in key.iter().take(40) {
        // Writing into a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    if key.len() > 40 {
        text.push('…');
    }
    text
}
