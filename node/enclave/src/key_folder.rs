//! A folder with the keys of one enclave: `<name>.<generation>.key`, generations rising from 1. The highest generation of a
//! name is active, the earlier ones are retired: they open what was sent to them and send nothing. No file is ever changed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::identity::Identity;
use crate::key_file::{FileMode, io, write_new};
use crate::{KeyAnnouncement, KeyFile, KeyFileError, KeyRing, Passphrase, Protection, PublicKey};

/// Most characters of a name.
const NAME_CHARS_MAX: usize = 32;
/// Most key files of a folder: opening one locked file takes about a second.
const KEYS_MAX: usize = 1024;

/// Why a folder of keys did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFolderError {
    /// A file.
    #[error("{}: {error}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Its error.
        error: KeyFileError,
    },
    /// The name cannot be used.
    #[error("name is {name:?}, allowed are 1 to 32 of a-z, 0-9 and '-'")]
    Name {
        /// The name.
        name: String,
    },
    /// There is a key of this name.
    #[error("there is a key named {name}; to replace it, rotate it")]
    Taken {
        /// The name.
        name: String,
    },
    /// There is no key of this name.
    #[error("there is no key named {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The key is here already.
    #[error("key {key} is here already, as {name}")]
    Known {
        /// The key.
        key: PublicKey,
        /// Its name.
        name: String,
    },
    /// There are too many keys.
    #[error("the folder holds {keys} keys, allowed are at most 1024")]
    Full {
        /// How many.
        keys: usize,
    },
}

/// What a folder says about one of its keys without unlocking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyListing {
    /// Its name.
    pub name: String,
    /// 1 for the first key of this name, one more with each rotation.
    pub generation: u32,
    /// True if it sends and receives; false if it only opens what was sent to it.
    pub active: bool,
    /// True if it is under a passphrase.
    pub locked: bool,
    /// Its public keys.
    pub announcement: KeyAnnouncement,
}

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct KeyFolder {
    dir: PathBuf,
}

impl KeyFolder {
    /// Opens a folder, and creates it with mode 0700 if it is not there.
    ///
    /// # Errors
    /// [`KeyFolderError::File`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, KeyFolderError> {
        let dir = dir.into();
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        created.map_err(|e| at(&dir, io("create", &dir, &e)))?;
        Ok(Self { dir })
    }

    /// Makes a key of a new name.
    ///
    /// # Errors
    /// [`KeyFolderError::Name`], [`KeyFolderError::Taken`], [`KeyFolderError::Full`], [`KeyFolderError::File`].
    pub fn generate(
        &self,
        name: &str,
        protection: &Protection,
    ) -> Result<KeyListing, KeyFolderError> {
        self.check_new(name)?;
        let identity = self.fresh()?;
        self.write(name, 1, &identity, protection)
    }

    /// Makes a new key of a name that is here. The earlier ones of that name go on opening what was sent to them.
    ///
    /// # Errors
    /// [`KeyFolderError::Unknown`], [`KeyFolderError::Full`], [`KeyFolderError::File`].
    pub fn rotate(
        &self,
        name: &str,
        protection: &Protection,
    ) -> Result<KeyListing, KeyFolderError> {
        check_name(name)?;
        let last = self.generations()?.get(name).copied();
        let last = last.ok_or_else(|| KeyFolderError::Unknown {
            name: name.to_owned(),
        })?;
        let identity = self.fresh()?;
        self.write(name, last.saturating_add(1), &identity, protection)
    }

    /// Takes over a key from a file of any form, under a new name. A key of Tessera's gains an X-Wing key of its own.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), [`KeyFolderError::Known`] if the key is here, and what unlocking `file` said.
    pub fn import(
        &self,
        name: &str,
        file: &KeyFile,
        passphrase: Option<&Passphrase>,
        protection: &Protection,
    ) -> Result<KeyListing, KeyFolderError> {
        self.check_new(name)?;
        let failed = |error| at(&self.path(name, 1), error);
        let mut identity = file.unlock(passphrase).map_err(failed)?;
        let key = identity.public();
        if let Some(known) = self.list()?.into_iter().find(|l| l.announcement.key == key) {
            return Err(KeyFolderError::Known {
                key,
                name: known.name,
            });
        }
        if identity.hybrid_secret().is_none() {
            identity = identity
                .with_new_hybrid()
                .map_err(|e| failed(KeyFileError::Random(e)))?;
        }
        self.write(name, 1, &identity, protection)
    }

    /// All keys, by name and generation, without unlocking them.
    ///
    /// # Errors
    /// [`KeyFolderError::File`] for the first file that is not as it should be.
    pub fn list(&self) -> Result<Vec<KeyListing>, KeyFolderError> {
        let read = self.read()?;
        let listings = read.iter().map(|(listing, _)| listing.clone());
        Ok(listings.collect())
    }

    /// Unlocks all keys. The active ones are in the order of their names.
    ///
    /// # Errors
    /// [`KeyFolderError::File`] for the first file that cannot be unlocked.
    pub fn load(&self, passphrase: Option<&Passphrase>) -> Result<KeyRing, KeyFolderError> {
        let mut ring = KeyRing::empty();
        for (listing, file) in self.read()? {
            let path = self.path(&listing.name, listing.generation);
            let identity = file.unlock(passphrase).map_err(|error| at(&path, error))?;
            if listing.active {
                ring.add(identity);
            } else {
                ring.add_retired(identity);
            }
        }
        Ok(ring)
    }

    fn fresh(&self) -> Result<Identity, KeyFolderError> {
        Identity::generate().map_err(|e| at(&self.dir, KeyFileError::Random(e)))
    }

    fn write(
        &self,
        name: &str,
        generation: u32,
        identity: &Identity,
        protection: &Protection,
    ) -> Result<KeyListing, KeyFolderError> {
        let path = self.path(name, generation);
        write_new(&path, identity, protection).map_err(|error| at(&path, error))?;
        Ok(KeyListing {
            name: name.to_owned(),
            generation,
            active: true,
            locked: matches!(protection, Protection::Passphrase(..)),
            announcement: identity.announcement(),
        })
    }

    fn check_new(&self, name: &str) -> Result<(), KeyFolderError> {
        check_name(name)?;
        if self.generations()?.contains_key(name) {
            return Err(KeyFolderError::Taken {
                name: name.to_owned(),
            });
        }
        Ok(())
    }

    fn path(&self, name: &str, generation: u32) -> PathBuf {
        self.dir.join(format!("{name}.{generation}.key"))
    }

    /// Highest generation of every name.
    fn generations(&self) -> Result<BTreeMap<String, u32>, KeyFolderError> {
        let mut last = BTreeMap::new();
        let names = self.names()?;
        if names.len() >= KEYS_MAX {
            return Err(KeyFolderError::Full { keys: names.len() });
        }
        for (name, generation) in names {
            // Rising: the last one stays.
            last.insert(name, generation);
        }
        Ok(last)
    }

    /// Names and generations of the key files, rising.
    fn names(&self) -> Result<Vec<(String, u32)>, KeyFolderError> {
        let failed = |e: &std::io::Error| at(&self.dir, io("list", &self.dir, e));
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| failed(&e))? {
            let file_name = entry.map_err(|e| failed(&e))?.file_name();
            let parsed = file_name.to_str().and_then(|text| {
                let (name, generation) = text.strip_suffix(".key")?.rsplit_once('.')?;
                let generation: u32 = generation.parse().ok().filter(|g| *g > 0)?;
                check_name(name).ok()?;
                // `01` would be a second file of generation 1.
                (format!("{name}.{generation}.key") == text).then(|| (name.to_owned(), generation))
            });
            names.extend(parsed);
            if names.len() > KEYS_MAX {
                return Err(KeyFolderError::Full { keys: names.len() });
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self) -> Result<Vec<(KeyListing, KeyFile)>, KeyFolderError> {
        let names = self.names()?;
        let mut read = Vec::with_capacity(names.len());
        for (position, (name, generation)) in names.iter().enumerate() {
            let path = self.path(name, *generation);
            let file = KeyFile::read_with(&path, FileMode::OwnerOnly);
            let file = file.map_err(|error| at(&path, error))?;
            let named = file.document().named().cloned();
            let announcement = named.ok_or_else(|| {
                let error = KeyFileError::Malformed {
                    field: "type",
                    allowed: "quorate, for files in a folder of keys; import the others",
                };
                at(&path, error)
            })?;
            let next = names.get(position + 1).map(|(next, _)| next);
            let listing = KeyListing {
                name: name.clone(),
                generation: *generation,
                active: next != Some(name),
                locked: file.is_locked(),
                announcement,
            };
            read.push((listing, file));
        }
        Ok(read)
    }
}

fn check_name(name: &str) -> Result<(), KeyFolderError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(allowed) {
        return Err(KeyFolderError::Name {
            name: name.chars().take(2 * NAME_CHARS_MAX).collect(),
        });
    }
    Ok(())
}

fn at(file: &Path, error: KeyFileError) -> KeyFolderError {
    KeyFolderError::File {
        file: file.to_owned(),
        error,
    }
}
