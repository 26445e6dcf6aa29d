//! A disk in memory that loses what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Disk;

#[derive(Debug, Default, Clone)]
struct FakeFile {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<String, FakeFile>,
    fail_sync: bool,
}

/// Clones share the content, so that a test keeps it over a crash.
#[derive(Debug, Default, Clone)]
pub(crate) struct FakeDisk(Arc<Mutex<Inner>>);

impl FakeDisk {
    /// Power loss: of what was not synced, `keep` bytes per file survive, counted from the end of what was.
    pub(crate) fn crash(&self, keep: usize) {
        for file in self.0.lock().files.values_mut() {
            let kept = file.now.len().min(file.synced.len() + keep);
            let mut after = file.synced.clone();
            if let Some(more) = file.now.get(file.synced.len()..kept) {
                after.extend_from_slice(more);
            }
            file.now = after.clone();
            file.synced = after;
        }
    }

    pub(crate) fn fail_sync(&self) {
        self.0.lock().fail_sync = true;
    }

    pub(crate) fn flip_bit(&self, name: &str, offset: usize) {
        let mut inner = self.0.lock();
        let file = inner.files.get_mut(name).unwrap();
        file.now[offset] ^= 4;
        file.synced = file.now.clone();
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().files.keys().cloned().collect()
    }

    pub(crate) fn wipe(&self) {
        self.0.lock().files.clear();
    }

    fn file<T>(&self, name: &str, f: impl FnOnce(&mut FakeFile) -> T) -> io::Result<T> {
        let mut inner = self.0.lock();
        inner
            .files
            .get_mut(name)
            .map(f)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for FakeDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        self.0
            .lock()
            .files
            .insert(name.to_owned(), FakeFile::default());
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name, |file| {
            let offset = offset as usize;
            file.now.resize(file.now.len().max(offset + bytes.len()), 0);
            file.now[offset..offset + bytes.len()].copy_from_slice(bytes);
        })
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(name, |file| {
            let from = file
                .now
                .get(offset as usize..offset as usize + buffer.len());
            from.map(|from| buffer.copy_from_slice(from))
                .ok_or(io::ErrorKind::UnexpectedEof.into())
        })?
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.file(name, |file| file.now.len() as u64)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name, |file| {
            file.now.truncate(length as usize);
            file.synced = file.now.clone();
        })
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        if self.0.lock().fail_sync {
            return Err(io::Error::other("planted"));
        }
        self.file(name, |file| file.synced = file.now.clone())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.lock().files.remove(name);
        Ok(())
    }
}
