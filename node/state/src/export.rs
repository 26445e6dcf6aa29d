//! Writing the whole durable state as chunks, while blocks and flushes go on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use quorate_kv::{Direction, Entry, KeyRange};

use crate::chunk::{CHUNK_BYTES_MAX, ChunkWriter, Record};
use crate::disk::{Disk, Mark, damaged, storage_failed};
use crate::preimages::Preimages;
use crate::{ChunkInfo, ExportedState, ReadError, StateStore, layout};

/// Keys that are read before old values are asked for.
const STRETCH: usize = 2_048;
/// What may pile up in memory because flushes go on, in bytes. Beyond it the export gives up.
const PREIMAGES_BYTES_MAX: usize = 256 << 20;
/// How long the flush that is running is waited for at the beginning.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(120);
const FLUSH_WAIT_STEP: Duration = Duration::from_millis(2);

/// An export that did not come to its end. The store is as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The storage below failed, or the state in it is damaged. The node must stop.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file could not be written.
    #[error("state export: {action} {file}: {reason}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// Another export of this store is running. Try again when it is done.
    #[error("another export of the state is running")]
    Busy,
    /// A flush ran for longer than an export waits. Try again.
    #[error("the flush that was running did not end within {waited_s} seconds")]
    FlushRunning {
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// So much changed meanwhile that keeping the old values would take too much memory. Try again.
    #[error("too much of the state changed during its export: more than {bytes_max} bytes")]
    Overtaken {
        /// The limit.
        bytes_max: usize,
    },
    /// The size of chunks is out of its range.
    #[error("chunks of {chunk_bytes} bytes, allowed is 1024 to {max}")]
    ChunkBytes {
        /// What was asked for.
        chunk_bytes: usize,
        /// The largest size.
        max: usize,
    },
    /// Something in the state is too large to travel.
    #[error("{key} cannot be exported: {reason}")]
    TooLarge {
        /// What it is.
        key: String,
        /// Which limit it breaks.
        reason: &'static str,
    },
}

impl ExportError {
    /// True if the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy | Self::FlushRunning { .. } | Self::Overtaken { .. } => true,
            Self::Read(_) | Self::Io { .. } | Self::ChunkBytes { .. } | Self::TooLarge { .. } => {
                false
            }
        }
    }
}

/// File of a chunk inside its folder.
pub fn chunk_file_name(number: u32) -> String {
    format!("chunk-{number:06}")
}

/// Writes the state at the durable height as files `chunk-000000`, … into `dir`, each synced. Neither commits nor flushes
/// wait for it, but for an instant at the beginning. One chunk of about `chunk_bytes` is in memory at a time, and the old values
/// of what flushes change meanwhile (at most 256 MiB).
///
/// # Errors
/// [`ExportError`]; what was written so far stays in `dir` and is the caller's to remove.
pub fn export_chunks(
    store: &StateStore,
    dir: &Path,
    chunk_bytes: usize,
) -> Result<ExportedState, ExportError> {
    if !(1024..=CHUNK_BYTES_MAX / 2).contains(&chunk_bytes) {
        return Err(ExportError::ChunkBytes {
            chunk_bytes,
            max: CHUNK_BYTES_MAX / 2,
        });
    }
    let run = Run::begin(store.disk(), PREIMAGES_BYTES_MAX, FLUSH_WAIT_MAX)?;
    let mut sink = Sink::new(dir, chunk_bytes);
    let codes = run.accounts(&mut sink)?;
    run.storage(&mut sink)?;
    run.codes(&codes, &mut sink)?;
    let chunks = sink.finish()?;
    Ok(ExportedState {
        height: run.mark.height,
        state_root: run.mark.root,
        chunks,
    })
}

/// An export under way. Dropping it tells flushes that nobody needs old values any more.
pub(crate) struct Run<'a> {
    disk: &'a Disk,
    preimages: Arc<Preimages>,
    bytes_max: usize,
    mark: Mark,
}

impl<'a> Run<'a> {
    /// Fixes the height: what is durable at a moment at which no flush runs.
    pub(crate) fn begin(
        disk: &'a Disk,
        bytes_max: usize,
        wait_max: Duration,
    ) -> Result<Self, ExportError> {
        let started = Instant::now();
        while disk.flush_running.swap(true, Ordering::AcqRel) {
            if started.elapsed() > wait_max {
                return Err(ExportError::FlushRunning {
                    waited_s: wait_max.as_secs(),
                });
            }
            std::thread::sleep(FLUSH_WAIT_STEP);
        }
        let begun = {
            let mut export = disk.export.lock();
            if export.is_some() {
                Err(ExportError::Busy)
            } else {
                let preimages = Arc::new(Preimages::new(bytes_max));
                *export = Some(Arc::clone(&preimages));
                let mark = disk.marks.read().durable;
                Ok(Self {
                    disk,
                    preimages,
                    bytes_max,
                    mark,
                })
            }
        };
        disk.flush_running.store(false, Ordering::Release);
        begun
    }

    /// Walks the entries under one kind of key as they were at the exported height.
    fn walk(
        &self,
        kind: u8,
        each: &mut dyn FnMut(Entry) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut cursor = vec![kind];
        loop {
            let range = KeyRange::prefix_from(&[kind], cursor);
            let entries: Vec<Entry> = self
                .disk
                .kv
                .scan(range, Direction::Ascending)
                .take(STRETCH)
                .collect::<Result<_, _>>()
                .map_err(storage_failed)?;
            let last = entries
                .last()
                .filter(|_| entries.len() == STRETCH)
                .map(|(key, _)| key.clone());
            // Behind the last entry of all, old ones that are gone by now may lie.
            let end = last.clone().unwrap_or_else(|| vec![kind + 1]);
            let overtaken = ExportError::Overtaken {
                bytes_max: self.bytes_max,
            };
            let old = self.preimages.take_through(&end).ok_or(overtaken)?;
            let mut old = old.into_iter().peekable();
            for entry in entries {
                while let Some((key, value)) = old.next_if(|(key, _)| *key < entry.0) {
                    value.map_or(Ok(()), |value| each((key, value)))?;
                }
                match old.next_if(|(key, _)| *key == entry.0) {
                    Some((key, value)) => value.map_or(Ok(()), |value| each((key, value)))?,
                    None => each(entry)?,
                }
            }
            for (key, value) in old {
                value.map_or(Ok(()), |value| each((key, value)))?;
            }
            let Some(mut last) = last else { return Ok(()) };
            last.push(0);
            cursor = last;
        }
    }

    /// Accounts; returns the hashes of all code that they have.
    fn accounts(&self, sink: &mut Sink<'_>) -> Result<BTreeSet<B256>, ExportError> {
        let mut codes = BTreeSet::new();
        self.walk(b'A', &mut |(key, value)| {
            let address = key.get(1..).and_then(|a| Address::try_from(a).ok());
            let address = address.ok_or_else(|| damaged(&key, "key is no address"))?;
            let account = layout::decode_account(&value).map_err(|reason| damaged(&key, reason))?;
            if account.has_code() {
                codes.insert(account.code_hash);
            }
            sink.push(&Record::Account { address, account })
        })?;
        Ok(codes)
    }

    fn storage(&self, sink: &mut Sink<'_>) -> Result<(), ExportError> {
        self.walk(b'S', &mut |(key, value)| {
            let address = key.get(1..21).and_then(|a| Address::try_from(a).ok());
            let parts = address.zip(layout::storage_slot(&key));
            let (address, slot) = parts.ok_or_else(|| damaged(&key, "key is cut off"))?;
            let value = layout::decode_value(&value).map_err(|reason| damaged(&key, reason))?;
            if value.is_zero() {
                return Err(damaged(&key, "a zero is stored").into());
            }
            sink.push(&Record::Storage {
                address,
                slot,
                value,
            })
        })
    }

    /// Code is never changed nor removed, so it needs no old values.
    fn codes(&self, codes: &BTreeSet<B256>, sink: &mut Sink<'_>) -> Result<(), ExportError> {
        for hash in codes {
            let code = self.disk.code(hash)?;
            sink.push(&Record::Code {
                hash: *hash,
                code: &code,
            })?;
        }
        Ok(())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        *self.disk.export.lock() = None;
    }
}

/// Cuts records into files.
struct Sink<'a> {
    dir: &'a Path,
    chunk_bytes: usize,
    open: ChunkWriter,
    done: Vec<ChunkInfo>,
    scratch: Vec<u8>,
}

impl<'a> Sink<'a> {
    fn new(dir: &'a Path, chunk_bytes: usize) -> Self {
        Self {
            dir,
            chunk_bytes,
            open: ChunkWriter::new(0),
            done: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn push(&mut self, record: &Record<'_>) -> Result<(), ExportError> {
        self.scratch.clear();
        record
            .encode(&mut self.scratch)
            .map_err(|reason| ExportError::TooLarge {
                key: alloy_primitives::hex::encode_prefixed(record.sort_key()),
                reason,
            })?;
        if !self.open.has_room(self.scratch.len(), self.chunk_bytes) {
            let next = ChunkWriter::new(self.open.number() + 1);
            let full = std::mem::replace(&mut self.open, next);
            self.write(full)?;
        }
        self.open.push(&self.scratch);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<ChunkInfo>, ExportError> {
        let last = std::mem::replace(&mut self.open, ChunkWriter::new(u32::MAX));
        if !last.is_empty() {
            self.write(last)?;
        }
        let synced = File::open(self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| io("sync", self.dir.to_path_buf(), &e))?;
        Ok(self.done)
    }

    fn write(&mut self, chunk: ChunkWriter) -> Result<(), ExportError> {
        let path = self.dir.join(chunk_file_name(chunk.number()));
        let (bytes, info) = chunk.finish();
        fs::create_dir_all(self.dir).map_err(|e| io("create", self.dir.to_path_buf(), &e))?;
        fail_point!("state.export.chunk", |e| io("create", path.clone(), &e));
        let mut file = File::create(&path).map_err(|e| io("create", path.clone(), &e))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|e| io("write", path, &e))?;
        self.done.push(info);
        Ok(())
    }
}

fn io(action: &'static str, file: PathBuf, error: &std::io::Error) -> ExportError {
    ExportError::Io {
        action,
        file: file.display().to_string(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use alloy_primitives::{U256, keccak256};
    use quorate_kv::MemoryKv;

    use super::*;
    use crate::{Account, AccountChange, StateDiff};

    fn advance(store: &StateStore, from: u64, count: u64) {
        let mut diff = StateDiff::default();
        for n in from..from + count {
            let address = Address::from_slice(&keccak256(n.to_be_bytes())[12..]);
            let account = Account {
                balance: U256::from(store.latest().height() + 1),
                ..Account::default()
            };
            let change = AccountChange {
                account: Some(account),
                ..AccountChange::default()
            };
            diff.accounts.insert(address, change);
        }
        store.advance(store.latest().apply(&diff).unwrap()).unwrap();
    }

    #[test]
    fn an_export_that_is_overtaken_or_not_alone_gives_up_and_leaves_nothing_behind() {
        let store = StateStore::open(Arc::new(MemoryKv::new()), &[], B256::ZERO).unwrap();
        advance(&store, 0, 100);
        store.flush_job().unwrap().run().unwrap();
        let wait = Duration::from_millis(20);
        {
            let run = Run::begin(store.disk(), 1_000, wait).unwrap();
            assert_eq!(run.mark.height, 1);
            let second = Run::begin(store.disk(), 1_000, wait).map(|run| run.mark);
            assert_eq!(second, Err(ExportError::Busy));
            advance(&store, 50, 100);
            store.flush_job().unwrap().run().unwrap();
            let walked = run.walk(b'A', &mut |_| Ok(()));
            assert_eq!(walked, Err(ExportError::Overtaken { bytes_max: 1_000 }));
        }
        advance(&store, 0, 1);
        let job = store.flush_job().unwrap();
        let blocked = Run::begin(store.disk(), 1_000, wait).map(|run| run.mark);
        assert!(matches!(blocked, Err(ExportError::FlushRunning { .. })));
        job.run().unwrap();
        let run = Run::begin(store.disk(), 1_000, wait).unwrap();
        assert_eq!(run.mark.height, 3);
        drop(run);
        advance(&store, 0, 200);
        store.flush_job().unwrap().run().unwrap();
        assert!(store.disk().export.lock().is_none());
    }
}
