//! State snapshots: made while the node runs, served in chunks, fetched from peers, and put in place of the stores of a
//! node that is too far behind.
//!
//! ```text
//! Ledger ── SnapshotShelf::make ──► data/snapshots/<height>/{description, anchor, chunk-…} ──► peers
//!
//! peers ── Download::begin, accept ──► data/incoming/… ── finish ──► install ──► data/{state, index, blocks}
//!                                                                      │
//!              recover_install (every start)  ◄── data/snapshot-install.json ──► confirm_install | revert_install
//! ```
//! Trust: the caller knows height and hash of a later block from ordering. It imports the blocks between as usual; if they do
//! not end at that hash, the snapshot was a lie and [`revert_install`] brings the old stores back.

mod description;
pub(crate) mod disk;
mod download;
mod error;
mod install;
mod journal;
mod shelf;
#[cfg(test)]
mod tests;

pub use description::{CHUNK_BYTES, DESCRIPTION_BYTES_MAX, DescriptionError, SnapshotDescription};
pub use download::{CompleteDownload, Download, Expectation, Progress};
pub use error::{DownloadError, FileError, InstallError, SnapshotError};
pub use install::{FreshStores, confirm_install, install, recover_install, revert_install};
pub use journal::{Installed, Recovered};
pub use shelf::SnapshotShelf;
