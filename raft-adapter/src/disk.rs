//! What the log needs of a disk, so that tests can lose what was not synced.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// A folder of files. Names are plain file names.
pub trait Disk: Send + Debug {
    /// Names of all files.
    ///
    /// # Errors
    /// From the system.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file whose name survives a power loss when this returns.
    ///
    /// # Errors
    /// From the system.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Writes at an offset; the file grows as needed.
    ///
    /// # Errors
    /// From the system.
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills the buffer from an offset.
    ///
    /// # Errors
    /// From the system; an end of file inside the buffer is one.
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Length of the file.
    ///
    /// # Errors
    /// From the system.
    fn length(&self, name: &str) -> io::Result<u64>;
    /// Cuts the file.
    ///
    /// # Errors
    /// From the system.
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;
    /// Everything written to the file survives a power loss when this returns.
    ///
    /// # Errors
    /// From the system. After one, what the file holds is unknown.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// From the system.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    open: std::collections::BTreeMap<String, File>,
}

impl RealDisk {
    /// Opens the folder, making it if it is not there.
    ///
    /// # Errors
    /// From the system.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            open: Default::default(),
        })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.dir.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        self.open
            .get(name)
            .ok_or_else(|| io::Error::other("file is not open"))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.dir)?
            .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.dir.join(name))?
            .sync_all()?;
        self.sync_dir()
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.open.get(name) {
            Some(file) => file.read_exact_at(buffer, offset),
            None => File::open(self.dir.join(name))?.read_exact_at(buffer, offset),
        }
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.dir.join(name))?.len())
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let file = self.file(name)?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.dir.join(name))?;
        self.sync_dir()
    }
}

#[cfg(test)]
pub(crate) mod fake;
