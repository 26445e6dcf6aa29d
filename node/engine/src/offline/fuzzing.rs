//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.

use std::fs;
use std::path::Path;

use super::file::{ExportIndex, INDEX, Listed, Reader};

/// The folder of an export: its index, and the blocks of the first file, whose size and hash are taken to be right. True if
/// the index and at least one block were taken.
#[must_use]
pub fn export(dir: &Path) -> bool {
    let Ok(index) = ExportIndex::read(dir) else {
        return false;
    };
    let Some(listed) = index.files.first() else {
        panic!("an index without files was taken");
    };
    let path = dir.join(&listed.name);
    assert_eq!(path.parent(), Some(dir), "a file outside the folder");
    let Ok(metadata) = fs::metadata(&path) else {
        return false;
    };
    let listed = Listed {
        bytes: metadata.len(),
        ..listed.clone()
    };
    let mut blocks = 0;
    if let Ok(mut reader) = Reader::open(&path, &listed, index.genesis) {
        while let Ok(Some(_block)) = reader.next_block() {
            blocks += 1;
        }
    }
    let written = fs::write(dir.join(INDEX), index.encode());
    let again = ExportIndex::read(dir).ok();
    assert!(
        written.is_err() || again.as_ref() == Some(&index),
        "an index does not read back"
    );
    blocks > 0
}
