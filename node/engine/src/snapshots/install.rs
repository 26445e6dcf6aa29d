//! Putting a downloaded snapshot in place of the node's stores, so that a stop at any point is recovered at the next start.
//!
//! ```text
//! installing/{state, index, blocks} are built    nothing has happened yet: a start removes them
//! journal: swapping                              from here on a start goes on
//! X ─► X.before-snapshot, installing/X ─► X      for each store
//! journal: installed                             the node runs on the new stores; the old ones are kept
//! confirm: journal confirming, old ones removed, journal removed
//! revert:  journal reverting, new ones removed, old ones put back, journal removed
//! ```

use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use quorate_chain::Anchor;
use quorate_state::ExportedState;

use super::description::SnapshotDescription;
use super::disk::{make_folder, remove_folder, rename, sync_folder};
use super::download::{self, CompleteDownload};
use super::error::InstallError;
use super::journal::{Installed, Journal, Phase, Recovered, STORES};

/// Makes the new stores. The wiring implements it with the storage that the node uses; every storage must be closed again
/// when a call returns.
pub trait FreshStores {
    /// Opens an empty key-value storage in `dir` and restores the state into it; see [`quorate_state::restore`].
    ///
    /// # Errors
    /// [`InstallError::Open`] or [`InstallError::Restore`].
    fn restore_state(
        &self,
        dir: &Path,
        chunks: &mut dyn Iterator<Item = Result<Vec<u8>, String>>,
        exported: &ExportedState,
        genesis_hash: B256,
    ) -> Result<(), InstallError>;

    /// Opens an empty key-value storage in `index` and begins a block store in `blocks` with it; see
    /// [`quorate_chain::BlockStore::open_from_anchor`].
    ///
    /// # Errors
    /// [`InstallError::Open`] or [`InstallError::Store`].
    fn begin_blocks(&self, blocks: &Path, index: &Path, anchor: Anchor)
    -> Result<(), InstallError>;
}

/// Called before each step that changes something on disk. Tests stop there; the node passes its fail points.
pub(super) type BeforeStep<'a> = &'a mut dyn FnMut(&'static str) -> Result<(), InstallError>;

/// Builds stores from a complete download and puts them in place of the node's, which must be closed. The old ones stay
/// beside them as `*.before-snapshot` until [`confirm_install`] or [`revert_install`].
///
/// # Errors
/// [`InstallError`]. If it fails before the exchange has begun, nothing has changed. If it fails later, call
/// [`recover_install`].
pub fn install(
    data_dir: &Path,
    download: &CompleteDownload,
    stores: &dyn FreshStores,
) -> Result<Installed, InstallError> {
    install_in_steps(data_dir, download, stores, &mut pass)
}

pub(super) fn install_in_steps(
    data_dir: &Path,
    download: &CompleteDownload,
    stores: &dyn FreshStores,
    before: BeforeStep<'_>,
) -> Result<Installed, InstallError> {
    if let Some(journal) = Journal::read(data_dir)? {
        return Err(InstallError::Pending {
            height: journal.installed.height,
        });
    }
    for store in STORES {
        let path = kept(data_dir, store);
        if path.exists() {
            return Err(InstallError::InTheWay {
                path: path.display().to_string(),
            });
        }
    }
    before("build")?;
    let new = building(data_dir);
    remove_folder(&new)?;
    make_folder(&new)?;
    let description: &SnapshotDescription = download.description();
    stores.restore_state(
        &new.join("state"),
        &mut download.chunks(),
        &description.exported(),
        description.genesis_hash,
    )?;
    before("begin blocks")?;
    let (blocks, index) = (new.join("blocks"), new.join("index"));
    stores.begin_blocks(&blocks, &index, download.anchor().clone())?;
    sync_folder(&new)?;
    sync_folder(data_dir)?;

    before("journal")?;
    let journal = Journal {
        phase: Phase::Swapping,
        installed: Installed {
            snapshot: description.id(),
            height: description.height,
            hash: description.block_hash,
        },
        had: STORES.map(|store| data_dir.join(store).exists()),
    };
    journal.write(data_dir)?;
    swap(data_dir, journal, before)?;
    tracing::info!(
        height = description.height,
        "state snapshot is in place of the stores"
    );
    Ok(journal.installed)
}

/// Finishes what a stopped process left. To be called first thing at every start, before any store is opened.
///
/// # Errors
/// [`InstallError::File`] or [`InstallError::Journal`].
pub fn recover_install(data_dir: &Path) -> Result<Recovered, InstallError> {
    recover_in_steps(data_dir, &mut pass)
}

pub(super) fn recover_in_steps(
    data_dir: &Path,
    before: BeforeStep<'_>,
) -> Result<Recovered, InstallError> {
    let Some(journal) = Journal::read(data_dir)? else {
        // Built in part, or in whole without anybody having decided for it.
        remove_folder(&building(data_dir))?;
        return Ok(Recovered::Nothing);
    };
    match journal.phase {
        Phase::Swapping => {
            tracing::warn!(
                height = journal.installed.height,
                "going on with an interrupted exchange of stores"
            );
            swap(data_dir, journal, before)?;
            Ok(Recovered::Pending(journal.installed))
        }
        Phase::Installed => {
            clean_up(data_dir)?;
            Ok(Recovered::Pending(journal.installed))
        }
        Phase::Confirming => {
            remove_old(data_dir, before)?;
            Ok(Recovered::Nothing)
        }
        Phase::Reverting => {
            put_back(data_dir, journal, before)?;
            Ok(Recovered::Reverted(journal.installed))
        }
    }
}

/// The new stores have proved right: removes the old ones. The stores may be in use.
///
/// # Errors
/// [`InstallError::NothingPending`], [`InstallError::File`] or [`InstallError::Journal`].
pub fn confirm_install(data_dir: &Path) -> Result<(), InstallError> {
    confirm_in_steps(data_dir, &mut pass)
}

pub(super) fn confirm_in_steps(
    data_dir: &Path,
    before: BeforeStep<'_>,
) -> Result<(), InstallError> {
    let mut journal = pending(data_dir)?;
    before("decide to confirm")?;
    journal.phase = Phase::Confirming;
    journal.write(data_dir)?;
    remove_old(data_dir, before)
}

/// The new stores were a lie: removes them and puts the old ones back. All stores must be closed.
///
/// # Errors
/// As [`confirm_install`].
pub fn revert_install(data_dir: &Path) -> Result<(), InstallError> {
    revert_in_steps(data_dir, &mut pass)
}

pub(super) fn revert_in_steps(data_dir: &Path, before: BeforeStep<'_>) -> Result<(), InstallError> {
    let mut journal = pending(data_dir)?;
    before("decide to revert")?;
    journal.phase = Phase::Reverting;
    journal.write(data_dir)?;
    put_back(data_dir, journal, before)?;
    tracing::warn!(
        height = journal.installed.height,
        "the stores from before the snapshot are back in place"
    );
    Ok(())
}

/// What a node does before a step: nothing, but where its fail points are armed.
fn pass(step: &'static str) -> Result<(), InstallError> {
    match step {
        "build" => {
            fail_point!("engine.snapshot.install.build");
        }
        "begin blocks" => {
            fail_point!("engine.snapshot.install.blocks");
        }
        "journal" => {
            fail_point!("engine.snapshot.install.journal");
        }
        "move the old one aside" => {
            fail_point!("engine.snapshot.install.aside");
        }
        "move the new one in" => {
            fail_point!("engine.snapshot.install.in");
        }
        "say that it is installed" => {
            fail_point!("engine.snapshot.install.done");
        }
        "clean up" => {
            fail_point!("engine.snapshot.install.clean");
        }
        "decide to confirm" => {
            fail_point!("engine.snapshot.confirm");
        }
        "remove an old one" => {
            fail_point!("engine.snapshot.confirm.remove");
        }
        "decide to revert" => {
            fail_point!("engine.snapshot.revert");
        }
        "remove a new one" => {
            fail_point!("engine.snapshot.revert.remove");
        }
        "move an old one back" => {
            fail_point!("engine.snapshot.revert.back");
        }
        "forget" => {
            fail_point!("engine.snapshot.forget");
        }
        _ => {}
    }
    Ok(())
}

fn pending(data_dir: &Path) -> Result<Journal, InstallError> {
    let journal = Journal::read(data_dir)?;
    journal
        .filter(|journal| journal.phase == Phase::Installed)
        .ok_or(InstallError::NothingPending)
}

fn swap(data_dir: &Path, mut journal: Journal, before: BeforeStep<'_>) -> Result<(), InstallError> {
    for store in STORES {
        let (new, place) = (building(data_dir).join(store), data_dir.join(store));
        // As long as the new one has not moved, what is in its place is the old one.
        if new.exists() {
            if place.exists() {
                before("move the old one aside")?;
                rename(&place, &kept(data_dir, store))?;
            }
            before("move the new one in")?;
            rename(&new, &place)?;
        }
    }
    before("say that it is installed")?;
    journal.phase = Phase::Installed;
    journal.write(data_dir)?;
    before("clean up")?;
    clean_up(data_dir)
}

fn clean_up(data_dir: &Path) -> Result<(), InstallError> {
    remove_folder(&building(data_dir))?;
    remove_folder(&download::folder(data_dir))?;
    Ok(())
}

fn remove_old(data_dir: &Path, before: BeforeStep<'_>) -> Result<(), InstallError> {
    for store in STORES {
        let old = kept(data_dir, store);
        if old.exists() {
            before("remove an old one")?;
            remove_folder(&old)?;
        }
    }
    sync_folder(data_dir)?;
    before("forget")?;
    Journal::remove(data_dir)
}

fn put_back(data_dir: &Path, journal: Journal, before: BeforeStep<'_>) -> Result<(), InstallError> {
    for (store, had) in STORES.into_iter().zip(journal.had) {
        let (old, place) = (kept(data_dir, store), data_dir.join(store));
        // As long as the old one has not moved back, what is in its place is the new one.
        if (old.exists() || !had) && place.exists() {
            before("remove a new one")?;
            remove_folder(&place)?;
        }
        if old.exists() {
            before("move an old one back")?;
            rename(&old, &place)?;
        }
    }
    clean_up(data_dir)?;
    sync_folder(data_dir)?;
    before("forget")?;
    Journal::remove(data_dir)
}

fn building(data_dir: &Path) -> PathBuf {
    data_dir.join("installing")
}

fn kept(data_dir: &Path, store: &str) -> PathBuf {
    data_dir.join(format!("{store}.before-snapshot"))
}
