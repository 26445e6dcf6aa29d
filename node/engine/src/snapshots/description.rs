//! What a snapshot is, in a form that names it.

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};
use quorate_chain::Anchor;
use quorate_state::{CHUNK_BYTES_MAX, ChunkInfo, ExportedState};

/// Size at which a chunk is closed, in bytes. All members cut alike.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Longest encoding of a description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 16 << 20;

/// Version of description, anchor and chunks.
const VERSION: u8 = 1;

/// 256 GiB of state.
const CHUNKS_MAX: usize = 1 << 18;

/// Longest member table, in bytes.
const MEMBERS_BYTES_MAX: usize = 1 << 20;

/// The manifest of a state snapshot. It binds height, block, state, members and the hash of every chunk; the keccak256 of its
/// encoding is the snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct SnapshotDescription {
    /// Version of the formats; 1.
    pub version: u8,
    /// Chain id.
    pub chain_id: u64,
    /// Hash of block 0.
    pub genesis_hash: B256,
    /// Height of the block after which this is the state; at least 1.
    pub height: u64,
    /// Its hash.
    pub block_hash: B256,
    /// Its state root.
    pub state_root: B256,
    /// Raft log index at which it was committed.
    pub raft_index: u64,
    /// The member table, as ordering encodes it.
    pub members: Bytes,
    /// The chunks of the state, in order.
    pub chunks: Vec<ChunkInfo>,
}

/// Why a description is not to be used. An honest peer never sends such a thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// The bytes are no description.
    #[error("snapshot description does not decode: {reason}")]
    Malformed {
        /// What the decoder found.
        reason: String,
    },
    /// A value is out of its range.
    #[error("snapshot description: {field} is {got}, allowed is {allowed}")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it is.
        got: u64,
        /// What it may be.
        allowed: String,
    },
    /// A value is not the one it must be.
    #[error("snapshot description: {field} is {got}, expected {expected}")]
    Other {
        /// Which field.
        field: &'static str,
        /// What it is.
        got: String,
        /// What it must be.
        expected: String,
    },
}

impl SnapshotDescription {
    /// Puts together what an export gave and what its block says.
    pub(crate) fn new(
        chain_id: u64,
        genesis_hash: B256,
        anchor: &Anchor,
        exported: ExportedState,
        members: Bytes,
    ) -> Self {
        Self {
            version: VERSION,
            chain_id,
            genesis_hash,
            height: exported.height,
            block_hash: anchor.hash(),
            state_root: exported.state_root,
            raft_index: anchor.block.raft_index,
            members,
            chunks: exported.chunks,
        }
    }

    /// The canonical encoding: RLP list of the fields.
    pub fn encoded(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        out.into()
    }

    /// keccak256 of the encoding: the snapshot's name.
    pub fn id(&self) -> B256 {
        keccak256(self.encoded())
    }

    /// Reads what [`Self::encoded`] wrote, and checks every range.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub fn decoded(bytes: &[u8]) -> Result<Self, DescriptionError> {
        let malformed = |reason: String| DescriptionError::Malformed { reason };
        if bytes.len() > DESCRIPTION_BYTES_MAX {
            return Err(malformed(format!(
                "{} bytes, allowed are {DESCRIPTION_BYTES_MAX}",
                bytes.len()
            )));
        }
        let mut rest = bytes;
        let description = Self::decode(&mut rest).map_err(|e| malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} superfluous bytes", rest.len())));
        }
        // One snapshot, one id.
        if *description.encoded() != *bytes {
            return Err(malformed("it is not in its one form".to_owned()));
        }
        description.check_ranges()?;
        Ok(description)
    }

    fn check_ranges(&self) -> Result<(), DescriptionError> {
        let range = |field, got: usize, allowed: String| {
            Err(DescriptionError::Range {
                field,
                got: got as u64,
                allowed,
            })
        };
        if self.version != VERSION {
            return range("version", usize::from(self.version), VERSION.to_string());
        }
        if self.height == 0 {
            return range("height", 0, "1 or more".to_owned());
        }
        if self.members.len() > MEMBERS_BYTES_MAX {
            let allowed = format!("at most {MEMBERS_BYTES_MAX} bytes");
            return range("members", self.members.len(), allowed);
        }
        if self.chunks.len() > CHUNKS_MAX {
            let allowed = format!("at most {CHUNKS_MAX}");
            return range("chunks", self.chunks.len(), allowed);
        }
        let max = CHUNK_BYTES_MAX as u64;
        match self.chunks.iter().find(|chunk| chunk.bytes > max) {
            Some(large) => Err(DescriptionError::Range {
                field: "bytes of a chunk",
                got: large.bytes,
                allowed: format!("at most {max}"),
            }),
            None => Ok(()),
        }
    }

    /// Compares block hash, height and state root with a header.
    ///
    /// # Errors
    /// [`DescriptionError::Other`] for the first one that differs.
    pub fn check_against(&self, header: &Header) -> Result<(), DescriptionError> {
        same("height", self.height, header.number)?;
        same("block hash", self.block_hash, header.hash_slow())?;
        same("state root", self.state_root, header.state_root)
    }

    /// Compares everything that an anchor says too. The anchor itself must have been checked.
    ///
    /// # Errors
    /// [`DescriptionError::Other`] for the first value that differs.
    pub fn check_anchor(&self, anchor: &Anchor) -> Result<(), DescriptionError> {
        self.check_against(anchor.block.block.header())?;
        same("raft index", self.raft_index, anchor.block.raft_index)
    }

    /// Bytes of all chunks.
    pub fn total_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// The part that the state room needs.
    pub fn exported(&self) -> ExportedState {
        ExportedState {
            height: self.height,
            state_root: self.state_root,
            chunks: self.chunks.clone(),
        }
    }
}

pub(super) fn same<T: PartialEq + ToString>(
    field: &'static str,
    got: T,
    expected: T,
) -> Result<(), DescriptionError> {
    if got == expected {
        return Ok(());
    }
    Err(DescriptionError::Other {
        field,
        got: got.to_string(),
        expected: expected.to_string(),
    })
}
