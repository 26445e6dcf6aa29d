//! The private keys that an enclave works with.

use std::fmt;
use std::path::Path;

use crate::identity::Identity;
use crate::key_file::FileMode;
use crate::{KeyAnnouncement, KeyFile, KeyFileError, Passphrase, PublicKey, RandomFailed};

/// Keys in memory: active ones, which send and receive, and retired ones, which only open what was sent to them before they
/// were replaced. Wiped when dropped; `Debug` shows public keys only.
#[derive(Default)]
pub struct KeyRing {
    active: Vec<Identity>,
    retired: Vec<Identity>,
}

impl KeyRing {
    /// A ring without keys: an enclave with it answers that nothing is for us.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A ring with fresh keys that are on no disk: for development and tests.
    ///
    /// # Errors
    /// [`RandomFailed`].
    pub fn generate(count: usize) -> Result<Self, RandomFailed> {
        let active: Result<_, _> = (0..count).map(|_| Identity::generate()).collect();
        Ok(Self {
            active: active?,
            retired: Vec::new(),
        })
    }

    /// A ring with the keys in these files, as Tessera writes them or as we do; the first becomes the default sender. This is
    /// the way for an orchestrator that hands out secrets as files: their permissions are its business.
    ///
    /// # Errors
    /// [`KeyFileError`] for the first file that cannot be read or unlocked.
    pub fn from_files<P: AsRef<Path>>(
        paths: &[P],
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, KeyFileError> {
        let mut ring = Self::default();
        for path in paths {
            let file = KeyFile::read_with(path.as_ref(), FileMode::AsMounted)?;
            ring.add(file.unlock(passphrase)?);
        }
        Ok(ring)
    }

    /// Adds a key that sends and receives. One that is here already is passed over.
    pub(crate) fn add(&mut self, identity: Identity) {
        if !self.holds(&identity.public()) {
            self.active.push(identity);
        }
    }

    /// Adds a key that only opens. One that is here already is passed over.
    pub(crate) fn add_retired(&mut self, identity: Identity) {
        if !self.holds(&identity.public()) {
            self.retired.push(identity);
        }
    }

    /// Makes a key the default sender. False if it is no active key.
    pub fn set_default(&mut self, key: &PublicKey) -> bool {
        let at = self.active.iter().position(|i| i.public() == *key);
        if let Some(at) = at {
            let identity = self.active.remove(at);
            self.active.insert(0, identity);
        }
        at.is_some()
    }

    /// What to make known: active keys, the default sender first.
    pub fn announcements(&self) -> Vec<KeyAnnouncement> {
        self.active.iter().map(Identity::announcement).collect()
    }

    /// Number of keys that open envelopes.
    pub fn len(&self) -> usize {
        self.active.len() + self.retired.len()
    }

    /// True if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn holds(&self, key: &PublicKey) -> bool {
        self.every().any(|identity| identity.public() == *key)
    }

    /// The active key with this name, or the default one.
    pub(crate) fn sender(&self, key: Option<&PublicKey>) -> Option<&Identity> {
        match key {
            None => self.active.first(),
            Some(key) => self.active.iter().find(|i| i.public() == *key),
        }
    }

    /// All keys, active ones first.
    pub(crate) fn every(&self) -> impl Iterator<Item = &Identity> {
        self.active.iter().chain(&self.retired)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = |list: &[Identity]| list.iter().map(Identity::public).collect::<Vec<_>>();
        f.debug_struct("KeyRing")
            .field("active", &keys(&self.active))
            .field("retired", &keys(&self.retired))
            .finish()
    }
}
