//! The files of a log, as an interface, and its real implementation.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation};

/// Numbers the files of a log, from 1, in the order they were begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where log files live. Two users: real files, and [`crate::FakeDisk`] for tests and simulation.
///
/// One thread writes; another may read at the same time, only what was written before.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// All files there are, ascending.
    ///
    /// # Errors
    /// As the system says.
    fn segments(&self) -> io::Result<Vec<SegmentNumber>>;

    /// The whole file.
    ///
    /// # Errors
    /// As the system says.
    fn read_all(&self, segment: SegmentNumber) -> io::Result<Vec<u8>>;

    /// Exactly `length` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter, else as the system says.
    fn read(&self, segment: SegmentNumber, offset: u64, length: u64) -> io::Result<Vec<u8>>;

    /// Makes a file of `size_bytes` that begins with `header` and continues with zeros. When this returns, file and
    /// name survive power loss.
    ///
    /// # Errors
    /// `AlreadyExists`, else as the system says.
    fn create(&self, segment: SegmentNumber, header: &[u8], size_bytes: u64) -> io::Result<()>;

    /// Writes at `offset`; not durable yet.
    ///
    /// # Errors
    /// As the system says; nothing is known about the bytes then.
    fn write(&self, segment: SegmentNumber, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// When this returns, everything written to the file before survives power loss.
    ///
    /// # Errors
    /// As the system says; nothing is known about the bytes then, and asking again would lie: Linux may drop dirty
    /// pages after a failed sync and report success the next time.
    fn sync(&self, segment: SegmentNumber) -> io::Result<()>;

    /// Cuts the file to `size_bytes`, durably.
    ///
    /// # Errors
    /// As the system says.
    fn truncate(&self, segment: SegmentNumber, size_bytes: u64) -> io::Result<()>;

    /// Removes the file, durably.
    ///
    /// # Errors
    /// As the system says; the name may be gone then and come back with a power loss.
    fn remove(&self, segment: SegmentNumber) -> io::Result<()>;

    /// When this returns, a power loss takes none of the files there are and brings back none that was removed.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self) -> io::Result<()>;
}

const EXTENSION: &str = "raftlog";

/// Log files in a folder, which is locked against a second process.
#[derive(Debug)]
pub(crate) struct FolderDisk {
    dir: PathBuf,
    /// Held open for its lock; the system releases it however the process ends.
    _lock: File,
    /// Open files, so that a read or write costs one system call. As many as there are segments.
    files: Mutex<BTreeMap<SegmentNumber, Arc<File>>>,
}

impl FolderDisk {
    /// Makes the folder if there is none and locks it.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds the lock.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        if !dir.exists() {
            std::fs::create_dir_all(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("LOCK"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            _lock: lock,
            files: Mutex::new(BTreeMap::new()),
        })
    }

    fn path(&self, segment: SegmentNumber) -> PathBuf {
        self.dir.join(format!("{:016x}.{EXTENSION}", segment.0))
    }

    fn file(&self, segment: SegmentNumber) -> io::Result<Arc<File>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path(segment))?,
        );
        files.insert(segment, Arc::clone(&file));
        Ok(file)
    }
}

impl Disk for FolderDisk {
    fn segments(&self) -> io::Result<Vec<SegmentNumber>> {
        fail_point!("raft.log.recover.list", |error| error);
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some((number, EXTENSION)) = name.to_str().and_then(|name| name.split_once('.'))
            else {
                continue;
            };
            let number = u64::from_str_radix(number, 16).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{name:?} is no log file's name"),
                )
            })?;
            segments.push(SegmentNumber(number));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn read_all(&self, segment: SegmentNumber) -> io::Result<Vec<u8>> {
        fail_point!("raft.log.recover.read", |error| error);
        std::fs::read(self.path(segment))
    }

    fn read(&self, segment: SegmentNumber, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        fail_point!("raft.log.read", |error| error);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file(segment)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn create(&self, segment: SegmentNumber, header: &[u8], size_bytes: u64) -> io::Result<()> {
        fail_point!("raft.log.create", |error| error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(segment))?;
        // With the space set aside, a sync need not touch the file's size, and "disk full" shows here and not in the
        // middle of a record.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size_bytes) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                file.set_len(size_bytes)?
            }
            Err(error) => return Err(error.into()),
        }
        fail_point!("raft.log.create.header", |error| error);
        file.write_all_at(header, 0)?;
        file.sync_all()?;
        fail_point!("raft.log.create.folder", |error| error);
        self.sync_folder()?;
        self.files.lock().insert(segment, Arc::new(file));
        Ok(())
    }

    fn write(&self, segment: SegmentNumber, offset: u64, bytes: &[u8]) -> io::Result<()> {
        fail_point!("raft.log.write", |error| error);
        let file = self.file(segment)?;
        fail_point!("raft.log.write.torn", |error| {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            file.write_all_at(half, offset).err().unwrap_or(error)
        });
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, segment: SegmentNumber) -> io::Result<()> {
        fail_point!("raft.log.sync", |error| error);
        self.file(segment)?.sync_data()?;
        fail_point!("raft.log.sync.done");
        Ok(())
    }

    fn truncate(&self, segment: SegmentNumber, size_bytes: u64) -> io::Result<()> {
        fail_point!("raft.log.truncate", |error| error);
        let file = self.file(segment)?;
        file.set_len(size_bytes)?;
        file.sync_all()
    }

    fn remove(&self, segment: SegmentNumber) -> io::Result<()> {
        fail_point!("raft.log.remove", |error| error);
        self.files.lock().remove(&segment);
        std::fs::remove_file(self.path(segment))?;
        fail_point!("raft.log.remove.folder", |error| error);
        self.sync_folder()
    }

    /// A new or removed name is durable only after the folder itself was synced.
    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_open_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderDisk::open(dir.path()).unwrap();
        let second = FolderDisk::open(dir.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(FolderDisk::open(dir.path()).is_ok());
    }

    #[test]
    fn files_are_created_written_read_cut_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(&dir.path().join("log")).unwrap();
        let segment = SegmentNumber(0x1f);
        disk.create(segment, b"head", 4096).unwrap();
        assert!(disk.create(segment, b"head", 4096).is_err());
        disk.write(segment, 10, b"abc").unwrap();
        disk.sync(segment).unwrap();
        assert_eq!(disk.read(segment, 9, 5).unwrap(), b"\0abc\0");
        assert_eq!(disk.read_all(segment).unwrap().len(), 4096);
        disk.truncate(segment, 12).unwrap();
        assert_eq!(
            disk.read(segment, 10, 3).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(disk.segments().unwrap(), [segment]);
        disk.remove(segment).unwrap();
        assert_eq!(disk.segments().unwrap(), []);
    }
}
