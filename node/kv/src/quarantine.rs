//! Moving a damaged store away, so that it can be looked at later while a new one is built in its place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::QuarantineError;

/// Attempts to find a free name. A folder that was damaged this often needs a human, not another rebuild.
const NAMES_MAX: u32 = 1_000;

/// Renames `dir` to `<dir>.damaged-<n>` (the first free number) and makes the rename durable. Returns the new path.
/// The store must be closed.
///
/// # Errors
/// [`QuarantineError`] if no name is free, or renaming or syncing the parent folder failed.
pub fn quarantine(dir: &Path) -> Result<PathBuf, QuarantineError> {
    let failed = |reason: String| QuarantineError {
        dir: dir.to_path_buf(),
        reason,
    };
    let name = dir
        .file_name()
        .ok_or_else(|| failed("the path has no last part".to_owned()))?;
    let parent = parent_of(dir);
    for number in 1..=NAMES_MAX {
        let mut target_name = name.to_os_string();
        target_name.push(format!(".damaged-{number}"));
        let target = parent.join(target_name);
        if target.symlink_metadata().is_ok() {
            continue;
        }
        fs::rename(dir, &target).map_err(|error| failed(error.to_string()))?;
        sync_folder(&parent).map_err(|error| failed(format!("sync of parent: {error}")))?;
        tracing::warn!(from = %dir.display(), to = %target.display(), "moved a damaged store away");
        return Ok(target);
    }
    Err(failed(format!(
        "{NAMES_MAX} damaged folders are already beside it"
    )))
}

/// The folder that holds `path`; the current one for a bare name.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Makes created and renamed entries of a folder durable.
pub(crate) fn sync_folder(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
