//! Damage to files of a node that does not run: what a disk does to data at rest.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The stores of a node that can be damaged.
pub const STORES: [&str; 4] = ["raft", "blocks", "index", "state"];
/// A sector of a disk.
const SECTOR_BYTES: u64 = 512;

/// Damages one file of a store in a data folder, and tells what was done. `None` if there is nothing to damage.
///
/// # Errors
/// If the file cannot be read or written.
pub fn damage(data_dir: &Path, store: &str, seed: u64) -> anyhow::Result<Option<String>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut files = files_below(&data_dir.join(store))?;
    files.sort();
    files.retain(|file| fs::metadata(file).is_ok_and(|m| m.len() > 0));
    if files.is_empty() {
        return Ok(None);
    }
    let path = files
        .get(rng.random_range(0..files.len()))
        .context("a file")?;
    let name = path.strip_prefix(data_dir).unwrap_or(path).display();
    let used = used_bytes(path)?.max(1);
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let what = match rng.random_range(0..4u32) {
        0 => {
            let length = rng.random_range(0..used);
            file.set_len(length)?;
            format!("{name} cut to {length} of {used} bytes")
        }
        1 => {
            let at = rng.random_range(0..used) / SECTOR_BYTES * SECTOR_BYTES;
            let count = SECTOR_BYTES.min(used - at);
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&vec![0; usize::try_from(count)?])?;
            format!("{name}: {count} bytes at {at} of {used} are zero")
        }
        _ => {
            let flips = rng.random_range(1..=4u32);
            let mut places = Vec::new();
            for _ in 0..flips {
                let at = rng.random_range(0..used);
                let mut byte = [0];
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut byte)?;
                let [value] = byte;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&[value ^ (1 << rng.random_range(0..8u32))])?;
                places.push(at.to_string());
            }
            format!("{name}: bits flipped at {} of {used}", places.join(", "))
        }
    };
    file.sync_all()?;
    Ok(Some(what))
}

/// Where the content of a file ends: files that are made in their full size end in zeros, where damage would mean nothing.
fn used_bytes(path: &Path) -> anyhow::Result<u64> {
    let bytes = fs::read(path)?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.map_or(0, |last| last as u64 + 1))
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !folder.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.extend(files_below(&entry.path())?),
            false => files.push(entry.path()),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_exactly_what_it_says_and_the_same_seed_the_same_bytes() {
        let folder = std::env::temp_dir().join(format!("quorate-damage-{}", std::process::id()));
        let content: Vec<u8> = (0..4_000u32).map(|n| n.to_le_bytes()[0] | 1).collect();
        for seed in 0..40 {
            let mut outcomes = Vec::new();
            for _ in 0..2 {
                fs::create_dir_all(folder.join("raft")).unwrap();
                fs::write(folder.join("raft/1.raftlog"), &content).unwrap();
                let said = damage(&folder, "raft", seed).unwrap().unwrap();
                let now = fs::read(folder.join("raft/1.raftlog")).unwrap();
                outcomes.push((said, now));
            }
            assert_eq!(outcomes[0], outcomes[1]);
            let (said, now) = &outcomes[0];
            let changed = now.len() != content.len() || now != &content;
            // An even number of flips of one bit is no change.
            assert!(changed || said.contains("flipped"), "{said}");
        }
        assert_eq!(damage(&folder, "state", 1).unwrap(), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
