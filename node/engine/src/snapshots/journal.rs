//! The file that says how far the exchange of stores got. It is the only truth about that.

use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use serde_json::{Value, json};

use super::disk::{read_at_most, remove_file, write_whole};
use super::error::InstallError;

const NAME: &str = "snapshot-install.json";
const BYTES_MAX: u64 = 64 << 10;

/// The stores that are exchanged, in this order.
pub(super) const STORES: [&str; 3] = ["state", "index", "blocks"];

/// What was installed and waits for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// Id of the snapshot.
    pub snapshot: B256,
    /// Height of its block: where the chain of this node begins.
    pub height: u64,
    /// Hash of its block.
    pub hash: B256,
}

/// What a start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing to recover, or what was begun had no effect yet.
    Nothing,
    /// The new stores are in place and wait for [`confirm_install`](super::confirm_install) or
    /// [`revert_install`](super::revert_install).
    Pending(Installed),
    /// The old stores are back in place.
    Reverted(Installed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The new stores are whole; folders are being renamed.
    Swapping,
    /// The new stores are in place, the old ones beside them.
    Installed,
    /// The old stores are being removed.
    Confirming,
    /// The old stores are being put back.
    Reverting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) phase: Phase,
    pub(super) installed: Installed,
    /// Which stores there were before.
    pub(super) had: [bool; 3],
}

impl Journal {
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, InstallError> {
        let path = file(data_dir);
        let Some(bytes) = read_at_most(&path, BYTES_MAX)? else {
            return Ok(None);
        };
        match Self::decode(&bytes) {
            Ok(journal) => Ok(Some(journal)),
            Err(reason) => Err(InstallError::Journal {
                file: path.display().to_string(),
                reason,
            }),
        }
    }

    pub(super) fn write(&self, data_dir: &Path) -> Result<(), InstallError> {
        let phase = match self.phase {
            Phase::Swapping => "swapping",
            Phase::Installed => "installed",
            Phase::Confirming => "confirming",
            Phase::Reverting => "reverting",
        };
        let text = json!({
            "phase": phase,
            "snapshot": self.installed.snapshot,
            "height": self.installed.height,
            "hash": self.installed.hash,
            "had": self.had,
        });
        write_whole(&file(data_dir), text.to_string().as_bytes())?;
        Ok(())
    }

    pub(super) fn remove(data_dir: &Path) -> Result<(), InstallError> {
        remove_file(&file(data_dir))?;
        super::disk::sync_folder(data_dir)?;
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let hash = |name: &str| {
            let text = value.get(name).and_then(Value::as_str);
            text.and_then(|text| text.parse::<B256>().ok())
                .ok_or(format!("{name} is no hash"))
        };
        let phase = match value.get("phase").and_then(Value::as_str) {
            Some("swapping") => Phase::Swapping,
            Some("installed") => Phase::Installed,
            Some("confirming") => Phase::Confirming,
            Some("reverting") => Phase::Reverting,
            other => return Err(format!("phase is {other:?}")),
        };
        let had = value.get("had").and_then(Value::as_array);
        let had: Option<Vec<bool>> =
            had.and_then(|had| had.iter().map(Value::as_bool).collect::<Option<_>>());
        let had = had.and_then(|had| <[bool; 3]>::try_from(had).ok());
        Ok(Self {
            phase,
            installed: Installed {
                snapshot: hash("snapshot")?,
                height: value
                    .get("height")
                    .and_then(Value::as_u64)
                    .ok_or("height is no number")?,
                hash: hash("hash")?,
            },
            had: had.ok_or("had is not three booleans")?,
        })
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}
