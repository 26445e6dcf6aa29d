//! A folder of files as bytes, for stores that recover from what the disk gives back.

use std::{cell::RefCell, fs, io, path::Path};

use tempfile::TempDir;

use crate::cutter::{Cutter, put_piece};

const FILES_MAX: usize = 6;
const NAME_BYTES_MAX: usize = 40;

thread_local! {
    /// Emptied and filled again for each input: to make a folder costs more than most looks into it.
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Writes the files that the bytes describe, each a name and a content, into an empty folder, and looks at it. A name that
/// would lead out of the folder ends the list.
pub(crate) fn with_files<R>(
    mut input: Cutter<'_>,
    mend: impl Fn(Vec<u8>) -> Vec<u8>,
    look: impl FnOnce(&Path) -> R,
) -> io::Result<R> {
    FOLDER.with_borrow_mut(|folder| {
        let folder = match folder {
            Some(folder) => folder,
            none => none.insert(tempfile::tempdir()?),
        };
        empty(folder.path())?;
        for _ in 0..FILES_MAX {
            let name = input.piece();
            let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_plain(name)) else {
                break;
            };
            fs::write(folder.path().join(name), mend(input.piece().to_vec()))?;
        }
        Ok(look(folder.path()))
    })
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

/// The reverse. `unmend` undoes what is done to each file.
pub(crate) fn pack(folder: &Path, unmend: impl Fn(Vec<u8>) -> Vec<u8>) -> io::Result<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut out = Vec::new();
    for name in names {
        let content = fs::read(folder.join(&name))?;
        put_piece(&mut out, name.to_string_lossy().as_bytes());
        put_piece(&mut out, &unmend(content));
    }
    Ok(out)
}

/// Writes the right sums into records of the form `length, u32 LE | CRC32C of the body, u32 LE | body` from `at` on.
pub(crate) fn mend_records(file: &mut [u8], mut at: usize) {
    while let Some((head, rest)) = file
        .get_mut(at..)
        .and_then(|rest| rest.split_at_mut_checked(8))
    {
        let length = head
            .first_chunk::<4>()
            .map_or(0, |length| u32::from_le_bytes(*length));
        let Some(body) = rest.get(..length as usize) else {
            return;
        };
        let sum = crc32c::crc32c(body).to_le_bytes();
        at += 8 + body.len();
        for (byte, sum) in head.iter_mut().skip(4).zip(sum) {
            *byte = sum;
        }
    }
}
