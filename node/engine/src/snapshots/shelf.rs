//! The snapshots that this node has made and serves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use parking_lot::Mutex;
use quorate_chain::{ANCHOR_BYTES_MAX, Anchor};
use quorate_state::{CHUNK_BYTES_MAX, check_chunk, chunk_file_name, export_chunks};

use super::description::{CHUNK_BYTES, DESCRIPTION_BYTES_MAX, SnapshotDescription};
use super::disk::{make_folder, read_at_most, remove_folder, rename, sync_folder, write_whole};
use super::error::{FileError, SnapshotError};
use crate::Ledger;

/// So many of the newest snapshots are kept: whoever is fetching the older one can finish.
const KEPT: usize = 2;

/// Inside a snapshot's folder.
pub(super) const DESCRIPTION: &str = "description";
pub(super) const ANCHOR: &str = "anchor";

/// Snapshots in `snapshots/<height>/` of a data folder. Share it behind an `Arc`: serving never waits for making.
#[derive(Debug)]
pub struct SnapshotShelf {
    dir: PathBuf,
    /// What is complete on disk, by height.
    kept: Mutex<BTreeMap<u64, (B256, Arc<SnapshotDescription>)>>,
    /// Held while a snapshot is made.
    making: Mutex<()>,
}

impl SnapshotShelf {
    /// Opens the shelf of a data folder; what is unfinished or incomplete there is removed.
    ///
    /// # Errors
    /// [`SnapshotError::File`].
    pub fn open(data_dir: &Path) -> Result<Self, SnapshotError> {
        let dir = data_dir.join("snapshots");
        make_folder(&dir)?;
        let mut kept = BTreeMap::new();
        let listed = fs::read_dir(&dir).map_err(|e| FileError::new("list", &dir, &e))?;
        for entry in listed {
            let entry = entry.map_err(|e| FileError::new("list", &dir, &e))?;
            let path = entry.path();
            let height = entry.file_name().to_str().and_then(|n| n.parse().ok());
            match height.map(|height| (height, load(&path, height))) {
                Some((height, Ok(Some(description)))) => {
                    kept.insert(height, (description.id(), Arc::new(description)));
                }
                Some((_, Err(e))) => return Err(e.into()),
                Some((_, Ok(None))) | None => {
                    tracing::warn!(path = %path.display(), "removing an incomplete snapshot");
                    remove_folder(&path)?;
                }
            }
        }
        Ok(Self {
            dir,
            kept: Mutex::new(kept),
            making: Mutex::new(()),
        })
    }

    /// The snapshots, newest first.
    pub fn list(&self) -> Vec<SnapshotDescription> {
        let kept = self.kept.lock();
        kept.values()
            .rev()
            .map(|(_, d)| d.as_ref().clone())
            .collect()
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Option<SnapshotDescription> {
        let kept = self.kept.lock();
        kept.last_key_value().map(|(_, (_, d))| d.as_ref().clone())
    }

    /// The description with this id.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`].
    pub fn description(&self, id: &B256) -> Result<SnapshotDescription, SnapshotError> {
        Ok(self.find(id)?.as_ref().clone())
    }

    fn find(&self, id: &B256) -> Result<Arc<SnapshotDescription>, SnapshotError> {
        let kept = self.kept.lock();
        let found = kept.values().find(|(own, _)| own == id);
        found
            .map(|(_, description)| Arc::clone(description))
            .ok_or(SnapshotError::Unknown { id: *id })
    }

    /// The encoded [`Anchor`] of a snapshot, checked against its description.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`], [`SnapshotError::Damaged`] or [`SnapshotError::File`].
    pub fn anchor(&self, id: &B256) -> Result<Bytes, SnapshotError> {
        let description = self.find(id)?;
        let path = self.folder(description.height).join(ANCHOR);
        let bytes = read_at_most(&path, ANCHOR_BYTES_MAX as u64)?
            .ok_or_else(|| self.drop_damaged(&description, "its anchor is missing"))?;
        let fits = Anchor::decode(&bytes)
            .map_err(|e| e.to_string())
            .and_then(|anchor| description.check_anchor(&anchor).map_err(|e| e.to_string()));
        match fits {
            Ok(()) => Ok(bytes.into()),
            Err(reason) => Err(self.drop_damaged(&description, &reason)),
        }
    }

    /// The bytes of a chunk, checked against its hash: damage on our disk is never passed on. A damaged snapshot is dropped.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`], [`SnapshotError::NoSuchChunk`], [`SnapshotError::Damaged`] or [`SnapshotError::File`].
    pub fn chunk(&self, id: &B256, number: u32) -> Result<Bytes, SnapshotError> {
        let description = self.find(id)?;
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        let expected = description.chunks.get(position);
        let expected = expected.ok_or(SnapshotError::NoSuchChunk {
            number,
            count: description.chunks.len(),
        })?;
        let path = self
            .folder(description.height)
            .join(chunk_file_name(number));
        let bytes = read_at_most(&path, CHUNK_BYTES_MAX as u64)?;
        let checked = bytes.ok_or("it is missing").and_then(|bytes| {
            check_chunk(&bytes, expected)?;
            Ok(bytes)
        });
        checked
            .map(Bytes::from)
            .map_err(|reason| self.drop_damaged(&description, &format!("chunk {number}: {reason}")))
    }

    /// Makes a snapshot of the durable state, without holding up commits. The newest two are kept. `members` is the member
    /// table in force at the snapshot's block; see [`Self::make_with`] if that depends on its height.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn make(
        &self,
        ledger: &Ledger,
        members: Bytes,
    ) -> Result<SnapshotDescription, SnapshotError> {
        self.make_with(ledger, |_, _| members)
    }

    /// As [`Self::make`]; `members` is asked with height and Raft index of the snapshot's block.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn make_with(
        &self,
        ledger: &Ledger,
        members: impl FnOnce(u64, u64) -> Bytes,
    ) -> Result<SnapshotDescription, SnapshotError> {
        let _turn = self.making.try_lock().ok_or(SnapshotError::Busy)?;
        if ledger.state().durable_height() == 0 {
            return Err(SnapshotError::Genesis);
        }
        fail_point!("engine.snapshot.make");
        let started = std::time::Instant::now();
        let new = self.dir.join("new");
        remove_folder(&new)?;
        make_folder(&new)?;
        let exported = export_chunks(ledger.state(), &new, CHUNK_BYTES)?;
        fail_point!("engine.snapshot.exported");
        let (height, state) = (exported.height, exported.state_root);
        let anchor = ledger.blocks().anchor(height)?;
        let block = anchor.as_ref().map(|a| a.block.block.header().state_root);
        let Some(anchor) = anchor.filter(|_| block == Some(state)) else {
            return Err(SnapshotError::Contradiction {
                height,
                state,
                block: block.unwrap_or_default(),
            });
        };
        let members = members(height, anchor.block.raft_index);
        let (chain_id, genesis) = (ledger.spec().chain_id(), ledger.genesis().hash());
        let description = SnapshotDescription::new(chain_id, genesis, &anchor, exported, members);
        write_whole(&new.join(ANCHOR), &anchor.encode())?;
        write_whole(&new.join(DESCRIPTION), &description.encoded())?;
        fail_point!("engine.snapshot.put");
        self.put(&new, &description)?;
        let (bytes, chunks) = (description.total_bytes(), description.chunks.len());
        let seconds = started.elapsed().as_secs_f64();
        metrics::gauge!("quorate_snapshot_height").set(height as f64);
        metrics::gauge!("quorate_snapshot_bytes").set(bytes as f64);
        metrics::histogram!("quorate_snapshot_make_seconds").record(seconds);
        tracing::info!(height, id = %description.id(), bytes, chunks, seconds, "snapshot made");
        Ok(description)
    }

    /// Puts a finished folder into its place, and removes what is too old.
    fn put(&self, new: &Path, description: &SnapshotDescription) -> Result<(), SnapshotError> {
        let height = description.height;
        let place = self.folder(height);
        // One of the same height is replaced; between the two steps there is none, which is no harm.
        self.kept.lock().remove(&height);
        remove_folder(&place)?;
        rename(new, &place)?;
        let outdated: Vec<u64> = {
            let mut kept = self.kept.lock();
            kept.insert(height, (description.id(), Arc::new(description.clone())));
            let outdated = kept.len().saturating_sub(KEPT);
            let heights: Vec<u64> = kept.keys().copied().take(outdated).collect();
            heights.iter().for_each(|height| drop(kept.remove(height)));
            heights
        };
        for height in outdated {
            remove_folder(&self.folder(height))?;
        }
        sync_folder(&self.dir)?;
        Ok(())
    }

    fn folder(&self, height: u64) -> PathBuf {
        self.dir.join(height.to_string())
    }

    fn drop_damaged(&self, description: &SnapshotDescription, reason: &str) -> SnapshotError {
        let id = description.id();
        let is_ours = {
            let mut kept = self.kept.lock();
            let ours = kept
                .get(&description.height)
                .is_some_and(|(own, _)| *own == id);
            if ours {
                kept.remove(&description.height);
            }
            ours
        };
        if !is_ours {
            // It was replaced or outdated while we read.
            return SnapshotError::Unknown { id };
        }
        metrics::counter!("quorate_snapshot_damaged_total").increment(1);
        tracing::error!(height = description.height, %id, reason, "snapshot is damaged and dropped");
        match remove_folder(&self.folder(description.height)) {
            Ok(()) => SnapshotError::Damaged {
                id,
                reason: reason.to_owned(),
            },
            Err(e) => e.into(),
        }
    }
}

/// The description in a snapshot's folder, if all its files are there in their sizes.
fn load(folder: &Path, height: u64) -> Result<Option<SnapshotDescription>, FileError> {
    let bytes = read_at_most(&folder.join(DESCRIPTION), DESCRIPTION_BYTES_MAX as u64)?;
    let description = bytes.and_then(|bytes| SnapshotDescription::decoded(&bytes).ok());
    let Some(description) = description.filter(|d| d.height == height) else {
        return Ok(None);
    };
    let chunks = (0u32..).zip(&description.chunks);
    let mut whole = folder.join(ANCHOR).exists();
    for (number, chunk) in chunks {
        let file = fs::metadata(folder.join(chunk_file_name(number)));
        whole &= file.is_ok_and(|file| file.len() == chunk.bytes);
    }
    Ok(whole.then_some(description))
}
