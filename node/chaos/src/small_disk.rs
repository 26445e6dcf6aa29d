//! Small file systems that can be full for real: a tmpfs under a node's data folder, and a file that takes the rest of it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::commands::copy_folder;
use crate::links::Slot;

/// Several times what a node of a short run needs: two or three segments of the log of 16 MiB each, and little else.
const SIZE: &str = "size=160m,mode=0755";
/// The file that takes the room.
const BALLAST: &str = "ballast";
/// What is left after the ballast was reserved is written in such pieces.
const PIECE_BYTES: usize = 4 << 10;

/// Those of one consortium. Unmounted when dropped.
#[derive(Debug, Default)]
pub struct SmallDisks(BTreeMap<Slot, PathBuf>);

impl SmallDisks {
    /// Mounts one over a folder. False if this process may not mount.
    pub fn mount(&mut self, slot: Slot, folder: PathBuf) -> bool {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", SIZE, "quorate-chaos"])
            .arg(&folder);
        let mounted = succeeds(&mut command);
        if mounted {
            self.0.insert(slot, folder);
        }
        mounted
    }

    /// Leaves no room. False if there is no such file system.
    ///
    /// # Errors
    /// If writing fails for another reason than that there is no room.
    pub fn fill(&self, slot: Slot) -> anyhow::Result<bool> {
        let Some(folder) = self.0.get(&slot) else {
            return Ok(false);
        };
        let mut options = OpenOptions::new();
        let opened = options.create(true).append(true).open(folder.join(BALLAST));
        let mut ballast = match opened {
            Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(true),
            opened => opened?,
        };
        let space = statvfs(folder)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let from = ballast.metadata()?.len();
        // The node writes meanwhile: what cannot be reserved at once is written piece by piece.
        if free > 0 && fallocate(&ballast, FallocateFlags::empty(), from, free).is_ok() {
            ballast.sync_all()?;
        }
        loop {
            match ballast.write_all(&[1; PIECE_BYTES]) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// There is room again.
    ///
    /// # Errors
    /// If the ballast cannot be removed.
    pub fn relieve(&self, slot: Slot) -> anyhow::Result<()> {
        let Some(folder) = self.0.get(&slot) else {
            return Ok(());
        };
        match fs::remove_file(folder.join(BALLAST)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Ends them; with `keep`, what is on them stays beside them for whoever looks for the fault.
    pub fn unmount(&mut self, keep: bool) {
        for folder in std::mem::take(&mut self.0).into_values() {
            if keep {
                fs::remove_file(folder.join(BALLAST)).ok();
                copy_folder(&folder, &beside(&folder)).ok();
            }
            let mut command = Command::new("umount");
            if !succeeds(command.arg(&folder)) {
                // A process that was killed may hold it for another moment.
                succeeds(Command::new("umount").arg("-l").arg(&folder));
            }
        }
    }
}

impl Drop for SmallDisks {
    fn drop(&mut self) {
        self.unmount(false);
    }
}

fn beside(folder: &Path) -> PathBuf {
    folder.with_extension("kept")
}

fn succeeds(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_that_is_full_takes_nothing_until_it_is_relieved() {
        let folder = std::env::temp_dir().join(format!("quorate-small-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut disks = SmallDisks::default();
        if !disks.mount(0, folder.clone()) {
            eprintln!("not tested here: this process may not mount a tmpfs");
            return;
        }
        assert!(!disks.fill(1).unwrap(), "there is no other");
        assert!(disks.fill(0).unwrap());
        let refused = fs::write(folder.join("block"), [7; 4_096]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        disks.relieve(0).unwrap();
        fs::write(folder.join("block"), [7; 4_096]).unwrap();
        disks.unmount(true);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(fs::read(beside(&folder).join("block")).unwrap(), [7; 4_096]);
        fs::remove_dir_all(beside(&folder)).unwrap();
        fs::remove_dir(&folder).unwrap();
    }
}
