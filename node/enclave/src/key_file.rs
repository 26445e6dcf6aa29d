//! Private keys in files. Three JSON forms are read, the third is written:
//!
//! ```text
//! Tessera, open     {"type": "unlocked", "data": {"bytes": base64 of the X25519 key (32)}}
//! Tessera, locked   {"type": "argon2sbox", "data": {
//!                      "aopts": {"variant": "id" | "i" | "d", "memory": KiB, "iterations": n, "parallelism": n},
//!                      "asalt": base64, "snonce": base64 (24), "sbox": base64 of the secretbox of the key (48)}}
//! ours              {"type": "quorate", "version": 1, "publicKey": base64 (32), "hybridPublicKey": base64 (1216), optional,
//!                    "protection": {"kind": "none", "bytes": base64 of the keys}
//!                                | {"kind": "argon2id", "memoryKib": n, "iterations": n, "parallelism": n,
//!                                   "salt": base64 (32), "nonce": base64 (24), "box": base64}}
//! ```
//! In ours the keys are the X25519 key (32 bytes) and, if there is one, the X-Wing key (32); the box is XChaCha20-Poly1305
//! under the Argon2id hash, with `"quorate/enclave/key-file/1" | public key | X-Wing public key` as associated data.

mod format;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::random::random;
use crate::{PublicKey, RandomFailed};

pub(crate) use format::Document;

/// Larger files are no key files.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Larger files are no passphrases.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// Why a key file is of no use. No text in here comes from the secret parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// The file could not be read or written.
    #[error("cannot {action} {}: {reason}", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// There is a file of this name, and key files are never overwritten.
    #[error("{} exists, and key files are never overwritten", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// Others may read the file.
    #[error("{} has mode {mode:o}, allowed are 600 and 400", file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not a key file's.
    #[error("key file: {field} must be {allowed}")]
    Malformed {
        /// Which part.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The key is under a passphrase, and none was given.
    #[error("the key file is locked and no passphrase was given")]
    Locked,
    /// The passphrase does not open it, or the file was changed.
    #[error("the passphrase is wrong, or the key file was changed")]
    WrongPassphrase,
    /// The key in the file is not the one that its public part names.
    #[error("the key file holds another key than {named}, which it names")]
    OtherKey {
        /// The key that is named.
        named: PublicKey,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

/// A passphrase. Wiped when dropped, absent from `Debug`.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Reads a passphrase from a file; one line break at its end does not count.
    ///
    /// # Errors
    /// [`KeyFileError::Io`] and [`KeyFileError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_bounded(path, PASSPHRASE_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| KeyFileError::Malformed {
            field: "passphrase",
            allowed: "text in UTF-8",
        })?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(KeyFileError::Malformed {
                field: "passphrase",
                allowed: "not empty",
            });
        }
        Ok(Self::new(text))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// How much work one guess of a passphrase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB, up to 4 GiB.
    pub memory_kib: u32,
    /// Passes over it, 1 to 1,000.
    pub iterations: u32,
    /// Lanes, 1 to 64.
    pub parallelism: u32,
}

impl Default for PassphraseCost {
    /// 256 MiB, 3 passes, 4 lanes: four times the memory of RFC 9106's second recommendation, well under two seconds.
    fn default() -> Self {
        Self {
            memory_kib: 256 * 1024,
            iterations: 3,
            parallelism: 4,
        }
    }
}

/// How a key lies in its file.
#[derive(Debug, Clone)]
pub enum Protection {
    /// Under a passphrase, which must not be empty.
    Passphrase(Passphrase, PassphraseCost),
    /// Readable by whoever may read the file: for secrets that an orchestrator keeps.
    None,
}

/// Which permissions a file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileMode {
    /// Its owner's alone.
    OwnerOnly,
    /// Whatever the one who mounted it chose.
    AsMounted,
}

/// A key file that was read and is still locked, if it is locked.
#[derive(Debug)]
pub struct KeyFile {
    document: Document,
}

impl KeyFile {
    /// Reads a file that belongs to its owner alone.
    ///
    /// # Errors
    /// [`KeyFileError::Exposed`] if others may read it, [`KeyFileError::Io`], [`KeyFileError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Self::read_with(path, FileMode::OwnerOnly)
    }

    /// Reads a key file whose permissions were chosen by someone else, such as a mounted secret or a file to be imported.
    ///
    /// # Errors
    /// [`KeyFileError::Io`], [`KeyFileError::Malformed`].
    pub fn read_mounted(path: &Path) -> Result<Self, KeyFileError> {
        Self::read_with(path, FileMode::AsMounted)
    }

    pub(crate) fn read_with(path: &Path, mode: FileMode) -> Result<Self, KeyFileError> {
        if mode == FileMode::OwnerOnly {
            let metadata = fs::metadata(path).map_err(|e| io("inspect", path, &e))?;
            let bits = metadata.permissions().mode() & 0o7777;
            if bits & 0o077 != 0 {
                return Err(KeyFileError::Exposed {
                    file: path.to_owned(),
                    mode: bits,
                });
            }
        }
        Self::decode(&read_bounded(path, FILE_BYTES_MAX)?)
    }

    /// Reads the content of a key file.
    ///
    /// # Errors
    /// [`KeyFileError::Malformed`].
    pub fn decode(json: &[u8]) -> Result<Self, KeyFileError> {
        Ok(Self {
            document: Document::decode(json)?,
        })
    }

    /// True if it needs a passphrase.
    pub fn is_locked(&self) -> bool {
        self.document.is_locked()
    }

    /// The public key that the file names, which Tessera's forms do not.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.document.named().map(|named| named.key)
    }

    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    pub(crate) fn unlock(&self, passphrase: Option<&Passphrase>) -> Result<Identity, KeyFileError> {
        self.document.unlock(passphrase)
    }
}

/// Writes a key file of its own: mode 0600, all of it or nothing, durable, and never over another.
pub(crate) fn write_new(
    path: &Path,
    identity: &Identity,
    protection: &Protection,
) -> Result<(), KeyFileError> {
    let json = Document::encode(identity, protection)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let staged = folder.join(format!(".new-{}", hex::encode(random::<8>()?)));
    let result = write_staged(&staged, &json).and_then(|()| {
        // Unlike a rename, a link refuses to replace.
        fs::hard_link(&staged, path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => KeyFileError::Exists {
                file: path.to_owned(),
            },
            _ => io("create", path, &e),
        })
    });
    let removed = fs::remove_file(&staged);
    result?;
    removed.map_err(|e| io("remove", &staged, &e))?;
    let handle = File::open(folder).map_err(|e| io("open", folder, &e))?;
    handle.sync_all().map_err(|e| io("sync", folder, &e))
}

fn write_staged(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| io("create", path, &e))?;
    file.write_all(bytes).map_err(|e| io("write", path, &e))?;
    file.sync_all().map_err(|e| io("sync", path, &e))
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let file = File::open(path).map_err(|e| io("open", path, &e))?;
    // Room for all of it at once: a growing vector would leave copies behind.
    let room = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room.saturating_add(1)));
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    if read.map_err(|e| io("read", path, &e))? as u64 > bytes_max {
        return Err(KeyFileError::Malformed {
            field: "size of the file",
            allowed: "at most 64 KiB, for a passphrase 4 KiB",
        });
    }
    Ok(bytes)
}

pub(crate) fn io(action: &'static str, file: &Path, e: &std::io::Error) -> KeyFileError {
    KeyFileError::Io {
        action,
        file: file.to_owned(),
        reason: e.to_string(),
    }
}

#[cfg(test)]
mod tests;
