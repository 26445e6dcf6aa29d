//! Moving blocks out.

use std::ops::RangeInclusive;
use std::path::Path;

use alloy_primitives::B256;
use quorate_chain::{BlockStore, Genesis};

use super::error::OfflineError;
use super::file::{ExportIndex, INDEX, Listed, Writer};
use super::{OnProgress, Progress};
use crate::snapshots::disk::{make_folder, sync_folder, write_whole};

/// Blocks in one file, unless the caller wants another number.
pub const BLOCKS_PER_FILE: u64 = 10_000;

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportReport {
    /// First height.
    pub first: u64,
    /// Last height.
    pub last: u64,
    /// Hash of the last block.
    pub last_hash: B256,
    /// Files with blocks.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes blocks with receipts, senders and Raft indexes as portable files into a folder of their own.
///
/// # Errors
/// [`OfflineError::Range`] for heights that are not here, [`OfflineError::NotEmpty`], [`OfflineError::Store`] or
/// [`OfflineError::File`].
pub fn export(
    genesis: &Genesis,
    blocks: &BlockStore,
    range: RangeInclusive<u64>,
    dir: &Path,
    blocks_per_file: u64,
    progress: OnProgress<'_>,
) -> Result<ExportReport, OfflineError> {
    let (from, to) = range.into_inner();
    let (base, head) = (blocks.base(), blocks.head().height());
    if from < base || to > head || from > to {
        return Err(OfflineError::Range {
            from,
            to,
            first: base,
            last: head,
        });
    }
    if dir.join(INDEX).exists() {
        return Err(OfflineError::NotEmpty {
            folder: dir.display().to_string(),
        });
    }
    make_folder(dir)?;
    let genesis_hash = blocks.genesis().hash();
    let mut files = Vec::new();
    let mut last_hash = B256::ZERO;
    let mut first = from;
    while first <= to {
        let last = to.min(first.saturating_add(blocks_per_file.max(1) - 1));
        let name = format!("blocks-{first:012}-{last:012}");
        let path = dir.join(&name);
        let mut writer = Writer::create(&path, genesis_hash, first, last)?;
        for height in first..=last {
            let block = blocks.block(height)?.ok_or(OfflineError::Range {
                from,
                to,
                first: base,
                last: head,
            })?;
            fail_point!("engine.offline.export");
            writer.push(&block)?;
            last_hash = block.hash();
            if height % 256 == 0 || height == last {
                progress(Progress {
                    done: height - from + 1,
                    total: to - from + 1,
                    height,
                });
            }
        }
        let (bytes, hash) = writer.finish()?;
        files.push(Listed {
            name,
            first,
            last,
            bytes,
            hash,
        });
        first = last + 1;
    }
    sync_folder(dir)?;
    let report = ExportReport {
        first: from,
        last: to,
        last_hash,
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
    };
    let index = ExportIndex {
        chain_id: genesis.spec().chain_id(),
        genesis: genesis_hash,
        first: from,
        last: to,
        last_hash,
        files,
    };
    fail_point!("engine.offline.export.index");
    write_whole(&dir.join(INDEX), index.encode().as_bytes())?;
    Ok(report)
}
