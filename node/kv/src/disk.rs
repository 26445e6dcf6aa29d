//! sled on disk, with the care that sled 0.34.7 needs:
//!
//! - Its `flush` ends in `sync_file_range`, which neither flushes the drive's cache nor records that the file grew.
//!   [`SledKv::barrier`] therefore follows it with `fdatasync` on a handle of our own: syncing acts on the file, not on
//!   the handle.
//! - Pages over 128 KiB go to files that it never syncs. Values and keys have a limit, so no page gets there.
//! - One tree and one batch per write: batches are atomic inside one tree only.
//! - Some kinds of damage make it panic while it opens; that panic is caught and is [`OpenError::Damaged`] like the others.
//! - Before each batch it hands what lies in its buffer to the disk, and wakes all of its threads for that. A single write is no
//!   batch, therefore; and callers put much into one.
//! - While it applies a batch it holds a lock that all stores of the process share. Large writes go through a
//!   [journal](crate::journal) and are applied in small batches, sorted, which also touches each page once.
//! - Its cleaning of old segments runs on the periodic flush thread, so that thread must stay on.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::journal::Journal;
use crate::quarantine::{parent_of, sync_folder};
use crate::{Batch, Direction, KeyRange, Kv, KvError, OpenError, Scan, Write};

/// Entries per batch of a large write: a few milliseconds under sled's lock.
const CHUNK_WRITES: usize = 512;

/// How often a locked store is tried again, and the pause before that.
const LOCKED_TRIES: u32 = 50;
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// sled's name for the tree with the mark that says a journal is being applied.
const JOURNAL_TREE: &[u8] = b"journal";
const JOURNAL_MARK: &[u8] = b"running";

/// Settings of a [`SledKv`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledConfig {
    /// sled's page cache in bytes, at least 1 MiB. Resident memory may reach several times this value. Too small is worse:
    /// with 1,500,000 entries, 64 MiB made reads ten times slower than 256 MiB, and took more memory at the peak.
    pub cache_capacity_bytes: u64,
    /// Milliseconds between sled's background flushes, 10 to 60,000. Durability does not depend on it, space does:
    /// the same thread cleans up old segments.
    pub flush_every_ms: u64,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self {
            cache_capacity_bytes: 256 * 1024 * 1024,
            flush_every_ms: 500,
        }
    }
}

impl SledConfig {
    fn check(&self) -> Result<(), OpenError> {
        if self.cache_capacity_bytes < 1024 * 1024 {
            return Err(OpenError::Config {
                field: "cache_capacity_bytes",
                value: self.cache_capacity_bytes,
                allowed: "1048576 or more",
            });
        }
        if !(10..=60_000).contains(&self.flush_every_ms) {
            return Err(OpenError::Config {
                field: "flush_every_ms",
                value: self.flush_every_ms,
                allowed: "10 to 60000",
            });
        }
        Ok(())
    }
}

/// A store in one folder on disk.
#[derive(Debug)]
pub struct SledKv {
    db: sled::Db,
    /// sled's main file, opened a second time so that we can sync it.
    file: File,
    /// Also serialises large writes.
    journal: Mutex<Journal>,
    /// Holds the mark that a journal is being applied: if it is there, the journal must be whole.
    journal_mark: sled::Tree,
    dir: PathBuf,
    /// The first failed write or barrier; set once, never cleared.
    poison: OnceLock<String>,
}

impl SledKv {
    /// Opens the store in `dir`, which is created if it is missing and must hold nothing else.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if the files cannot be what was written, [`OpenError::Unusable`] if the folder cannot be used,
    /// [`OpenError::Config`] for a setting out of its range.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<Self, OpenError> {
        config.check()?;
        let unusable = |what: &str, error: std::io::Error| OpenError::Unusable {
            dir: dir.to_path_buf(),
            reason: format!("{what}: {error}"),
        };
        fs::create_dir_all(dir).map_err(|error| unusable("create folder", error))?;

        let settings = sled::Config::new()
            .path(dir)
            .cache_capacity(config.cache_capacity_bytes)
            .flush_every_ms(Some(config.flush_every_ms));
        let mut tries = 0;
        let db = loop {
            // What sled leaves behind when it panics here is a half-built value that nobody can reach any more.
            let opened = catch_unwind(AssertUnwindSafe(|| settings.open()));
            // An instance of this process that was just dropped holds its lock until its last write is through.
            match &opened {
                Ok(Err(error)) if tries < LOCKED_TRIES && is_locked(error) => {
                    tries += 1;
                    std::thread::sleep(LOCKED_PAUSE);
                }
                _ => break opened,
            }
        };
        let db = match db {
            Ok(Ok(db)) => db,
            Ok(Err(error)) => return Err(open_error(dir, &error)),
            Err(panic) => {
                return Err(OpenError::Damaged {
                    dir: dir.to_path_buf(),
                    reason: format!("sled panicked: {}", panic_text(panic.as_ref())),
                });
            }
        };

        let file = File::open(dir.join("db")).map_err(|error| unusable("open db file", error))?;
        file.sync_all()
            .map_err(|error| unusable("sync db file", error))?;
        let conf = File::open(dir.join("conf")).map_err(|error| unusable("open conf", error))?;
        conf.sync_all()
            .map_err(|error| unusable("sync conf", error))?;
        let journal = Journal::open(&dir.join("journal"));
        let journal = journal.map_err(|error| unusable("open journal", error))?;
        sync_folder(dir).map_err(|error| unusable("sync folder", error))?;
        sync_folder(&parent_of(dir)).map_err(|error| unusable("sync parent folder", error))?;

        let journal_mark = db
            .open_tree(JOURNAL_TREE)
            .map_err(|error| open_error(dir, &error))?;
        let store = Self {
            db,
            file,
            journal: Mutex::new(journal),
            journal_mark,
            dir: dir.to_path_buf(),
            poison: OnceLock::new(),
        };
        store.finish_interrupted()?;
        Ok(store)
    }

    /// Finishes a large write that was interrupted.
    fn finish_interrupted(&self) -> Result<(), OpenError> {
        let unusable = |reason: String| OpenError::Unusable {
            dir: self.dir.clone(),
            reason,
        };
        let mut journal = self.journal.lock();
        let left = journal
            .load()
            .map_err(|error| unusable(format!("read journal: {error}")))?;
        let marked = self.journal_mark.get(JOURNAL_MARK);
        let marked = marked
            .map_err(|error| open_error(&self.dir, &error))?
            .is_some();
        match left {
            Some(writes) => {
                let count = writes.len();
                tracing::warn!(dir = %self.dir.display(), count, "finishing an interrupted write");
                self.apply_in_chunks(writes)
                    .and_then(|()| self.end_journal(&mut journal))
                    .map_err(|error| unusable(error.to_string()))
            }
            None if marked => Err(OpenError::Damaged {
                dir: self.dir.clone(),
                reason: "a large write was interrupted and its journal is not whole".to_owned(),
            }),
            None => journal
                .clear()
                .map_err(|error| unusable(format!("clear journal: {error}"))),
        }
    }

    fn apply_in_chunks(&self, writes: Vec<Write>) -> Result<(), KvError> {
        let mut writes = writes.into_iter().peekable();
        while writes.peek().is_some() {
            let mut chunk = sled::Batch::default();
            for write in writes.by_ref().take(CHUNK_WRITES) {
                match write.value {
                    Some(value) => chunk.insert(write.key, value),
                    None => chunk.remove(write.key),
                }
            }
            self.db
                .apply_batch(chunk)
                .map_err(|error| kv_error("write", &error))?;
        }
        Ok(())
    }

    /// The journal's writes are in sled: takes the mark away, makes both durable, and only then empties the journal.
    fn end_journal(&self, journal: &mut Journal) -> Result<(), KvError> {
        self.journal_mark
            .remove(JOURNAL_MARK)
            .map_err(|error| kv_error("write", &error))?;
        self.sync()?;
        journal
            .clear()
            .map_err(|error| io_failed("journal", &error))
    }

    fn sync(&self) -> Result<(), KvError> {
        fail_point!("kv.sync", |e| io_failed("sync", &e));
        self.db.flush().map_err(|error| kv_error("flush", &error))?;
        self.file
            .sync_data()
            .map_err(|error| io_failed("sync", &error))
    }

    fn write_journaled(&self, stages: Vec<Batch>) -> Result<(), KvError> {
        let mut journal = self.journal.lock();
        // What was written before must not be lost while this survives.
        self.sync()?;
        fail_point!("kv.journal", |e| io_failed("journal", &e));
        let crc = journal
            .store(&stages)
            .map_err(|error| io_failed("journal", &error))?;
        fail_point!("kv.journal.stored", |e| io_failed("write", &e));
        self.journal_mark
            .insert(JOURNAL_MARK, &crc.to_le_bytes())
            .map_err(|error| kv_error("write", &error))?;
        fail_point!("kv.journal.apply", |e| io_failed("write", &e));
        for stage in stages {
            let mut writes = stage.into_writes();
            writes.sort_by(|a, b| a.key.cmp(&b.key));
            self.apply_in_chunks(writes)?;
        }
        fail_point!("kv.journal.applied", |e| io_failed("write", &e));
        self.end_journal(&mut journal)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn check_poison(&self) -> Result<(), KvError> {
        match self.poison.get() {
            Some(first) => Err(KvError::Poisoned {
                first: first.clone(),
            }),
            None => Ok(()),
        }
    }

    fn poison(&self, error: KvError) -> KvError {
        metrics::counter!("quorate_kv_failures_total").increment(1);
        tracing::error!(dir = %self.dir.display(), %error, "storage failed; it refuses everything from here on");
        self.poison.get_or_init(|| error.to_string());
        error
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.check_poison()?;
        match self.db.get(key) {
            Ok(value) => Ok(value.map(|value| value.to_vec())),
            Err(error) => Err(kv_error("get", &error)),
        }
    }

    fn scan(&self, range: KeyRange, direction: Direction) -> Scan<'_> {
        if let Err(error) = self.check_poison() {
            return Box::new(std::iter::once(Err(error)));
        }
        let iter = match range.end() {
            Some(end) => self.db.range(range.start()..end),
            None => self.db.range(range.start()..),
        };
        let read = |item: sled::Result<(sled::IVec, sled::IVec)>| match item {
            Ok((key, value)) => Ok((key.to_vec(), value.to_vec())),
            Err(error) => Err(kv_error("scan", &error)),
        };
        match direction {
            Direction::Ascending => Box::new(until_error(iter.map(read))),
            Direction::Descending => Box::new(until_error(iter.rev().map(read))),
        }
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.check_poison()?;
        batch.check_sizes()?;
        if batch.is_empty() {
            return Ok(());
        }
        fail_point!("kv.write", |e| self.poison(io_failed("write", &e)));
        let started = Instant::now();
        let size_bytes = batch.size_bytes();
        let written = match <[Write; 1]>::try_from(batch.into_writes()) {
            Ok([single]) => match single.value {
                Some(value) => self.db.insert(single.key, value).map(drop),
                None => self.db.remove(single.key).map(drop),
            },
            Err(several) => {
                let mut writes = sled::Batch::default();
                for write in several {
                    match write.value {
                        Some(value) => writes.insert(write.key, value),
                        None => writes.remove(write.key),
                    }
                }
                self.db.apply_batch(writes)
            }
        };
        written.map_err(|error| self.poison(kv_error("write", &error)))?;
        metrics::counter!("quorate_kv_written_bytes_total").increment(size_bytes as u64);
        metrics::histogram!("quorate_kv_write_seconds").record(started.elapsed().as_secs_f64());
        Ok(())
    }

    fn write_staged(&self, stages: Vec<Batch>) -> Result<(), KvError> {
        self.check_poison()?;
        stages.iter().try_for_each(Batch::check_sizes)?;
        let started = Instant::now();
        let size_bytes: usize = stages.iter().map(Batch::size_bytes).sum();
        self.write_journaled(stages)
            .map_err(|error| self.poison(error))?;
        metrics::counter!("quorate_kv_written_bytes_total").increment(size_bytes as u64);
        metrics::histogram!("quorate_kv_write_staged_seconds")
            .record(started.elapsed().as_secs_f64());
        Ok(())
    }

    fn barrier(&self) -> Result<(), KvError> {
        self.check_poison()?;
        let started = Instant::now();
        self.sync().map_err(|error| self.poison(error))?;
        metrics::histogram!("quorate_kv_barrier_seconds").record(started.elapsed().as_secs_f64());
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, KvError> {
        self.db
            .size_on_disk()
            .map_err(|error| kv_error("size", &error))
    }
}

/// Passes items on up to and including the first error.
fn until_error<T>(
    iter: impl Iterator<Item = Result<T, KvError>>,
) -> impl Iterator<Item = Result<T, KvError>> {
    iter.scan(false, |failed, item| {
        if *failed {
            return None;
        }
        *failed = item.is_err();
        Some(item)
    })
}

fn io_failed(operation: &'static str, error: &std::io::Error) -> KvError {
    KvError::Failed {
        operation,
        reason: error.to_string(),
    }
}

fn kv_error(operation: &'static str, error: &sled::Error) -> KvError {
    let reason = error.to_string();
    if is_damage(error) {
        KvError::Damaged { operation, reason }
    } else {
        KvError::Failed { operation, reason }
    }
}

fn open_error(dir: &Path, error: &sled::Error) -> OpenError {
    let (dir, reason) = (dir.to_path_buf(), error.to_string());
    if is_damage(error) {
        OpenError::Damaged { dir, reason }
    } else {
        OpenError::Unusable { dir, reason }
    }
}

/// True if the error speaks of what is in the files rather than of the machine around them.
fn is_damage(error: &sled::Error) -> bool {
    use std::io::ErrorKind;
    match error {
        sled::Error::Io(error) => {
            matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            )
        }
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => true,
    }
}

/// True if someone else has the files open.
fn is_locked(error: &sled::Error) -> bool {
    let text = "could not acquire lock";
    matches!(error, sled::Error::Io(error) if error.to_string().contains(text))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
