//! Files and folders that must survive a power loss as a whole.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use super::error::FileError;

/// Writes a file as a whole or not at all, durably.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let new = path.with_extension("new");
    let failed = |action, error: std::io::Error| FileError::new(action, path, &error);
    fail_point!("engine.snapshot.file.create", |e| failed("create", e));
    let mut file = File::create(&new).map_err(|e| failed("create", e))?;
    file.write_all(bytes).map_err(|e| failed("write", e))?;
    fail_point!("engine.snapshot.file.sync", |e| failed("sync", e));
    file.sync_all().map_err(|e| failed("sync", e))?;
    fail_point!("engine.snapshot.file.rename", |e| failed("rename", e));
    fs::rename(&new, path).map_err(|e| failed("rename", e))?;
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Makes created, renamed and removed entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| FileError::new("sync", folder, &e))
}

/// The file's bytes; `None` if it is not there or longer than anything of ours.
pub(crate) fn read_at_most(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |e: std::io::Error| FileError::new("read", path, &e);
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > bytes_max => Ok(None),
        Ok(_) => fs::read(path).map(Some).map_err(failed),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

pub(crate) fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|e| FileError::new("create", path, &e))
}

/// Removes a folder with its content, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::new("remove", path, &e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::new("remove", path, &e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Renames, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|e| FileError::new("rename", from, &e))?;
    for folder in [to.parent(), from.parent()].into_iter().flatten() {
        sync_folder(folder)?;
    }
    Ok(())
}
