//! Where a store begins that does not hold every block: the lowest height, and the headers just below it, whose hashes
//! contracts may still ask for.
//!
//! ```text
//! file   base: magic "QRTEBAS1" (8) | CRC32C of the rest, u32 LE (4) | RLP list [ genesis hash, base, [header, …] ]
//! ```
//! Headers are oldest first and end just below the base. A store without this file begins at block 1.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use alloy_consensus::Header;
use alloy_primitives::B256;
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};

use super::StoreError;
use super::segment::{damaged, io, sync_folder};
use crate::Anchor;

const MAGIC: &[u8; 8] = b"QRTEBAS1";
const NAME: &str = "base";
/// 256 headers of at most 32 bytes of extra data are far below.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The lower end of a store.
#[derive(Debug, Clone)]
pub(super) struct Bottom {
    /// Lowest height that is held, besides genesis.
    pub(super) base: u64,
    /// Headers below the base with their hashes, oldest first, ending at `base - 1`.
    ancestors: Vec<(B256, Header)>,
}

#[derive(RlpEncodable, RlpDecodable)]
struct Stored {
    genesis: B256,
    base: u64,
    ancestors: Vec<Header>,
}

impl Bottom {
    /// Of a store that holds every block.
    fn genesis() -> Self {
        Self {
            base: 1,
            ancestors: Vec::new(),
        }
    }

    /// Of a store whose lowest block has these ancestors.
    pub(super) fn new(base: u64, ancestors: Vec<Header>) -> Self {
        let ancestors = ancestors
            .into_iter()
            .map(|header| (header.hash_slow(), header));
        Self {
            base,
            ancestors: ancestors.collect(),
        }
    }

    /// Of a store that begins at an anchor, which was checked.
    pub(super) fn below(anchor: &Anchor, genesis: B256) -> Result<Self, StoreError> {
        let bottom = Self::new(anchor.height(), anchor.ancestors.clone());
        match bottom.ancestors.first() {
            Some((found, first)) if first.number == 0 && *found != genesis => {
                Err(StoreError::OtherGenesis {
                    found: *found,
                    expected: genesis,
                })
            }
            _ => Ok(bottom),
        }
    }

    pub(super) fn exists(dir: &Path) -> bool {
        dir.join(NAME).exists()
    }

    /// The header at a height below the base and its hash, if it is kept.
    pub(super) fn ancestor(&self, height: u64) -> Option<&(B256, Header)> {
        let below = usize::try_from(self.base.checked_sub(height)?).ok()?;
        let position = self.ancestors.len().checked_sub(below)?;
        self.ancestors.get(position)
    }

    pub(super) fn read(dir: &Path, genesis: B256) -> Result<Self, StoreError> {
        let path = dir.join(NAME);
        if !path.exists() {
            return Ok(Self::genesis());
        }
        let length = fs::metadata(&path)
            .map_err(|e| io("inspect", &path, &e))?
            .len();
        if length > FILE_BYTES_MAX {
            return Err(damaged(&path, 0, "it is too long"));
        }
        let bytes = fs::read(&path).map_err(|e| io("read", &path, &e))?;
        let stored = decode(&bytes).map_err(|reason| damaged(&path, 0, &reason))?;
        if stored.genesis != genesis {
            return Err(StoreError::OtherGenesis {
                found: stored.genesis,
                expected: genesis,
            });
        }
        let bottom = Self::new(stored.base, stored.ancestors);
        bottom.check().map_err(|reason| damaged(&path, 0, reason))?;
        Ok(bottom)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.ancestors.len() != Anchor::ancestors_at(self.base) {
            return Err("headers below the base are missing");
        }
        let pairs = self.ancestors.iter().zip(self.ancestors.iter().skip(1));
        let linked = pairs
            .into_iter()
            .all(|((hash, _), (_, child))| child.parent_hash == *hash);
        let last = self.ancestors.last().map(|(_, header)| header.number);
        if !linked || last.map(|number| number + 1) != Some(self.base) {
            return Err("headers below the base are no chain");
        }
        Ok(())
    }

    /// Puts the file in place, durably, as a whole.
    pub(super) fn write(&self, dir: &Path, genesis: B256) -> Result<(), StoreError> {
        fs::create_dir_all(dir).map_err(|e| io("create", dir, &e))?;
        let stored = Stored {
            genesis,
            base: self.base,
            ancestors: self.ancestors.iter().map(|(_, h)| h.clone()).collect(),
        };
        let mut body = Vec::with_capacity(stored.length());
        stored.encode(&mut body);
        let new = dir.join("base.new");
        let mut file = File::create(&new).map_err(|e| io("create", &new, &e))?;
        let parts = [&MAGIC[..], &crc32c::crc32c(&body).to_le_bytes(), &body];
        file.write_all(&parts.concat())
            .map_err(|e| io("write", &new, &e))?;
        file.sync_all().map_err(|e| io("sync", &new, &e))?;
        fail_point!("blocks.base.rename", |e| io("rename", &new, &e));
        fs::rename(&new, dir.join(NAME)).map_err(|e| io("rename", &new, &e))?;
        sync_folder(dir)
    }
}

fn decode(bytes: &[u8]) -> Result<Stored, String> {
    let (magic, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or("it is cut off".to_owned())?;
    let (crc, mut body) = rest
        .split_first_chunk::<4>()
        .ok_or("it is cut off".to_owned())?;
    if magic != MAGIC {
        return Err("this is no base file of this version".to_owned());
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("checksum does not match".to_owned());
    }
    let stored = Stored::decode(&mut body).map_err(|e| e.to_string())?;
    if !body.is_empty() {
        return Err(format!("{} superfluous bytes", body.len()));
    }
    Ok(stored)
}
