//! A folder of files as bytes, for stores that recover from what the disk gives back.

use std::{fs, io, path::Path};

use tempfile::TempDir;

use crate::cutter::{Cutter, put_piece};

const FILES_MAX: usize = 6;
const NAME_BYTES_MAX: usize = 40;

/// Writes the files that the bytes describe into a new folder: each a name and a content. A name that would lead out of the
/// folder ends the list.
pub(crate) fn unpack(
    mut input: Cutter<'_>,
    mut mend: impl FnMut(&mut [u8]),
) -> io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for _ in 0..FILES_MAX {
        let name = input.piece();
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_plain(name)) else {
            break;
        };
        let mut content = input.piece().to_vec();
        mend(&mut content);
        fs::write(folder.path().join(name), content)?;
    }
    Ok(folder)
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

/// The reverse.
pub(crate) fn pack(folder: &Path) -> io::Result<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut out = Vec::new();
    for name in names {
        let content = fs::read(folder.join(&name))?;
        put_piece(&mut out, name.to_string_lossy().as_bytes());
        put_piece(&mut out, &content);
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
