//! Fetching a snapshot, piece by piece, from whoever has it. Nothing here talks to anyone: the caller asks
//! [`Download::missing`] what to fetch and hands in what came.

use std::fs;
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use quorate_chain::{ANCHOR_BYTES_MAX, Anchor};
use quorate_state::{CHUNK_BYTES_MAX, check_chunk, chunk_file_name};

use super::description::{DESCRIPTION_BYTES_MAX, SnapshotDescription, same};
use super::disk::{make_folder, read_at_most, remove_file, remove_folder, write_whole};
use super::error::{DownloadError, FileError};
use super::shelf::{ANCHOR, DESCRIPTION};

/// What the caller knows before it believes anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    /// The chain.
    pub chain_id: u64,
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// Height of the block whose hash ordering told: a snapshot above it is of no use.
    pub highest: u64,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that are here and checked.
    pub chunks: usize,
    /// Chunks of the snapshot.
    pub chunks_total: usize,
    /// Bytes that are here and checked.
    pub bytes: u64,
    /// Bytes of the snapshot.
    pub bytes_total: u64,
}

/// A download under way, in `incoming/` of the data folder. It survives the end of the process: begin it again with the
/// same description, or [`Download::resume`] it.
#[derive(Debug)]
pub struct Download {
    dir: PathBuf,
    description: SnapshotDescription,
    anchor: Anchor,
    /// Which chunks are here, by number.
    here: Vec<bool>,
    bytes: u64,
}

/// A download of which everything is here and was checked.
#[derive(Debug)]
pub struct CompleteDownload {
    dir: PathBuf,
    description: SnapshotDescription,
    anchor: Anchor,
}

impl Download {
    /// Begins a download, or goes on with it if chunks of the same state are here, whoever described it. What is here of
    /// another state is removed.
    ///
    /// # Errors
    /// [`DownloadError`]; most blame the peer.
    pub fn begin(
        data_dir: &Path,
        description: SnapshotDescription,
        anchor: Anchor,
        expected: &Expectation,
    ) -> Result<Self, DownloadError> {
        check(&description, &anchor, expected)?;
        fail_point!("engine.snapshot.download");
        let dir = folder(data_dir);
        let before = read_at_most(&dir.join(DESCRIPTION), DESCRIPTION_BYTES_MAX as u64)?;
        let before = before.and_then(|bytes| SnapshotDescription::decoded(&bytes).ok());
        // Another peer's description of the same state may differ in what is beside it; the chunks are the same.
        if before.is_none_or(|before| before.chunks != description.chunks) {
            remove_folder(&dir)?;
        }
        make_folder(&dir)?;
        write_whole(&dir.join(ANCHOR), &anchor.encode())?;
        write_whole(&dir.join(DESCRIPTION), &description.encoded())?;
        Self::look(dir, description, anchor)
    }

    /// The download that an earlier process began, if there is one that can be gone on with.
    ///
    /// # Errors
    /// [`DownloadError::File`].
    pub fn resume(data_dir: &Path, expected: &Expectation) -> Result<Option<Self>, DownloadError> {
        let dir = folder(data_dir);
        let description = read_at_most(&dir.join(DESCRIPTION), DESCRIPTION_BYTES_MAX as u64)?;
        let anchor = read_at_most(&dir.join(ANCHOR), ANCHOR_BYTES_MAX as u64)?;
        let description = description.and_then(|b| SnapshotDescription::decoded(&b).ok());
        let anchor = anchor.and_then(|bytes| Anchor::decode(&bytes).ok());
        match description.zip(anchor) {
            Some((description, anchor)) if check(&description, &anchor, expected).is_ok() => {
                Self::look(dir, description, anchor).map(Some)
            }
            _ => {
                remove_folder(&dir)?;
                Ok(None)
            }
        }
    }

    /// Which chunks are here and what they should be.
    fn look(
        dir: PathBuf,
        description: SnapshotDescription,
        anchor: Anchor,
    ) -> Result<Self, DownloadError> {
        let mut download = Self {
            here: vec![false; description.chunks.len()],
            dir,
            description,
            anchor,
            bytes: 0,
        };
        for number in (0u32..).take(download.here.len()) {
            match download.check_stored(number) {
                Ok(bytes) => download.mark(number, bytes),
                Err(DownloadError::Spoiled { .. }) => {
                    remove_file(&download.dir.join(chunk_file_name(number)))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(download)
    }

    /// What is being fetched.
    pub fn description(&self) -> &SnapshotDescription {
        &self.description
    }

    /// Numbers of the first chunks that are missing, at most `count_max`.
    pub fn missing(&self, count_max: usize) -> Vec<u32> {
        let missing = (0u32..).zip(&self.here).filter(|(_, here)| !**here);
        missing.map(|(number, _)| number).take(count_max).collect()
    }

    /// True if no chunk is missing.
    pub fn is_complete(&self) -> bool {
        self.here.iter().all(|here| *here)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            chunks: self.here.iter().filter(|here| **here).count(),
            chunks_total: self.here.len(),
            bytes: self.bytes,
            bytes_total: self.description.total_bytes(),
        }
    }

    /// Takes a chunk that a peer sent: checks and keeps it. One that is here already is taken again without effect.
    ///
    /// # Errors
    /// [`DownloadError::NoSuchChunk`] and [`DownloadError::Chunk`] blame the peer: ask another one.
    /// [`DownloadError::File`] is ours.
    pub fn accept(&mut self, number: u32, bytes: &[u8]) -> Result<Progress, DownloadError> {
        let count = self.description.chunks.len();
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        let expected = self.description.chunks.get(position);
        let expected = expected.ok_or(DownloadError::NoSuchChunk { number, count })?;
        if let Err(reason) = check_chunk(bytes, expected) {
            metrics::counter!("quorate_snapshot_chunks_refused_total").increment(1);
            return Err(DownloadError::Chunk { number, reason });
        }
        if !self.here.get(position).copied().unwrap_or_default() {
            // Synced only as a whole, by what is built from it: what is lost or torn here is found by its hash and fetched
            // again.
            let path = self.dir.join(chunk_file_name(number));
            let new = path.with_extension("new");
            fail_point!("engine.snapshot.chunk", |e| {
                FileError::new("write", &new, &e).into()
            });
            fs::write(&new, bytes).map_err(|e| FileError::new("write", &new, &e))?;
            fs::rename(&new, &path).map_err(|e| FileError::new("rename", &new, &e))?;
            self.mark(number, bytes.len() as u64);
        }
        Ok(self.progress())
    }

    /// Checks everything once more, as it lies on disk. A chunk that was spoiled there is missing again.
    ///
    /// # Errors
    /// [`DownloadError::Incomplete`], [`DownloadError::Spoiled`] or [`DownloadError::File`].
    pub fn finish(&mut self) -> Result<CompleteDownload, DownloadError> {
        let missing = self.here.iter().filter(|here| !**here).count();
        if missing > 0 {
            return Err(DownloadError::Incomplete { missing });
        }
        fail_point!("engine.snapshot.complete");
        for number in (0u32..).take(self.here.len()) {
            if let Err(error) = self.check_stored(number) {
                remove_file(&self.dir.join(chunk_file_name(number)))?;
                self.unmark(number);
                return Err(error);
            }
        }
        Ok(CompleteDownload {
            dir: self.dir.clone(),
            description: self.description.clone(),
            anchor: self.anchor.clone(),
        })
    }

    /// Gives the download up and removes what is here of it.
    ///
    /// # Errors
    /// [`DownloadError::File`].
    pub fn discard(self) -> Result<(), DownloadError> {
        Ok(remove_folder(&self.dir)?)
    }

    fn check_stored(&self, number: u32) -> Result<u64, DownloadError> {
        let path = self.dir.join(chunk_file_name(number));
        let bytes = read_at_most(&path, CHUNK_BYTES_MAX as u64)?;
        let spoiled = |reason| DownloadError::Spoiled { number, reason };
        let bytes = bytes.ok_or_else(|| spoiled("it is missing"))?;
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        let expected = self.description.chunks.get(position);
        let expected = expected.ok_or_else(|| spoiled("it does not exist"))?;
        check_chunk(&bytes, expected).map_err(spoiled)?;
        Ok(expected.bytes)
    }

    fn mark(&mut self, number: u32, bytes: u64) {
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(here) = self.here.get_mut(position) {
            *here = true;
            self.bytes += bytes;
        }
    }

    fn unmark(&mut self, number: u32) {
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(here) = self.here.get_mut(position) {
            *here = false;
            let bytes = self.description.chunks.get(position).map_or(0, |c| c.bytes);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

impl CompleteDownload {
    /// What was fetched.
    pub fn description(&self) -> &SnapshotDescription {
        &self.description
    }

    /// The block at which the new store begins.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = Result<Vec<u8>, String>> + '_ {
        let numbers = (0u32..).take(self.description.chunks.len());
        numbers.map(|number| {
            let path = self.dir.join(chunk_file_name(number));
            let bytes = read_at_most(&path, CHUNK_BYTES_MAX as u64).map_err(|e| e.to_string())?;
            bytes.ok_or_else(|| format!("{} is missing", path.display()))
        })
    }
}

pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("incoming")
}

fn check(
    description: &SnapshotDescription,
    anchor: &Anchor,
    expected: &Expectation,
) -> Result<(), DownloadError> {
    same("chain id", description.chain_id, expected.chain_id)?;
    same(
        "genesis hash",
        description.genesis_hash,
        expected.genesis_hash,
    )?;
    if description.height > expected.highest {
        return Err(DownloadError::TooHigh {
            height: description.height,
            highest: expected.highest,
        });
    }
    // The cheap comparison first: recovering the senders of a block that is not even meant would be wasted.
    description.check_anchor(anchor)?;
    anchor.check()?;
    Ok(())
}
