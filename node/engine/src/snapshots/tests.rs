//! Snapshots from making to having them in place.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy_primitives::{B256, Bytes};
use quorate_chain::{Anchor, BlockStore};
use quorate_state::{ChunkInfo, ExportedState, chunk_file_name};
use tempfile::TempDir;

use super::disk::make_folder;
use super::install::{confirm_in_steps, install_in_steps, recover_in_steps, revert_in_steps};
use super::journal::STORES;
use super::*;
use crate::test_chain::{Stores, genesis, genesis_block, sled};

/// As the wiring does it.
struct SledStores;

impl FreshStores for SledStores {
    fn restore_state(
        &self,
        dir: &Path,
        chunks: &mut dyn Iterator<Item = Result<Vec<u8>, String>>,
        exported: &ExportedState,
        genesis_hash: B256,
    ) -> Result<(), InstallError> {
        Ok(quorate_state::restore(
            sled(dir),
            chunks,
            exported,
            genesis_hash,
        )?)
    }

    fn begin_blocks(
        &self,
        blocks: &Path,
        index: &Path,
        anchor: Anchor,
    ) -> Result<(), InstallError> {
        let genesis = genesis_block(&genesis(7));
        BlockStore::open_from_anchor(blocks, sled(index), genesis, anchor)?;
        Ok(())
    }
}

fn expectation(stores: &Stores) -> Expectation {
    Expectation {
        chain_id: 7,
        genesis_hash: stores.blocks.genesis().hash(),
        highest: stores.blocks.head().height(),
    }
}

fn source(blocks: u64) -> (TempDir, Stores, SnapshotShelf) {
    let dir = TempDir::new().unwrap();
    let stores = Stores::open(dir.path());
    stores.mint(blocks);
    stores.flush();
    let shelf = SnapshotShelf::open(dir.path()).unwrap();
    (dir, stores, shelf)
}

fn begin(target: &Path, stores: &Stores, shelf: &SnapshotShelf) -> Result<Download, DownloadError> {
    let description = shelf.newest().unwrap();
    let anchor = shelf.anchor(&description.id()).unwrap();
    let anchor = Anchor::decode(&anchor).unwrap();
    Download::begin(target, description, anchor, &expectation(stores))
}

fn fetch_all(download: &mut Download, shelf: &SnapshotShelf) -> CompleteDownload {
    let id = download.description().id();
    for number in download.missing(usize::MAX) {
        let bytes = shelf.chunk(&id, number).unwrap();
        download.accept(number, &bytes).unwrap();
    }
    download.finish().unwrap()
}

#[test]
fn a_description_has_one_form_and_its_ranges_are_checked() {
    let (_dir, stores, shelf) = source(3);
    let made = shelf
        .make(&stores.ledger(), Bytes::from_static(b"members"))
        .unwrap();
    let bytes = made.encoded();
    assert_eq!(SnapshotDescription::decoded(&bytes).unwrap(), made);
    for cut in 0..bytes.len() {
        assert!(SnapshotDescription::decoded(&bytes[..cut]).is_err());
    }
    let header = stores.blocks.header_at(3).unwrap().unwrap();
    made.check_against(&header).unwrap();
    let parent = stores.blocks.header_at(2).unwrap().unwrap();
    assert!(made.check_against(&parent).is_err());
    let refused = |change: &dyn Fn(&mut SnapshotDescription)| {
        let mut other = made.clone();
        change(&mut other);
        assert_ne!(other.id(), made.id());
        let decoded = SnapshotDescription::decoded(&other.encoded());
        assert!(matches!(decoded, Err(DescriptionError::Range { .. })));
    };
    refused(&|d| d.version = 2);
    refused(&|d| d.height = 0);
    refused(&|d| d.members = vec![0; (1 << 20) + 1].into());
    refused(&|d| d.chunks[0].bytes = u64::MAX);
    let chunk = ChunkInfo {
        hash: B256::ZERO,
        bytes: 1,
        records: 1,
    };
    refused(&|d| d.chunks = vec![chunk; (1 << 18) + 1]);
}

#[test]
fn the_shelf_keeps_the_newest_two_and_drops_what_is_damaged() {
    let (dir, stores, shelf) = source(4);
    let ledger = stores.ledger();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let made = shelf.make(&ledger, Bytes::new()).unwrap();
        ids.push(made.id());
        stores.mint(2);
        stores.flush();
    }
    let heights =
        |shelf: &SnapshotShelf| -> Vec<u64> { shelf.list().iter().map(|d| d.height).collect() };
    assert_eq!(heights(&shelf), [8, 6]);
    assert!(matches!(
        shelf.chunk(&ids[0], 0),
        Err(SnapshotError::Unknown { .. })
    ));
    assert!(!dir.path().join("snapshots/4").exists());
    // The same height again is the same snapshot.
    drop(shelf);
    make_folder(&dir.path().join("snapshots/new")).unwrap();
    let shelf = SnapshotShelf::open(dir.path()).unwrap();
    assert!(!dir.path().join("snapshots/new").exists());
    assert_eq!(heights(&shelf), [8, 6]);
    let chunk = shelf.chunk(&ids[2], 0).unwrap();
    assert!(matches!(
        shelf.chunk(&ids[2], 1),
        Err(SnapshotError::NoSuchChunk {
            number: 1,
            count: 1
        })
    ));
    let path = dir.path().join("snapshots/8").join(chunk_file_name(0));
    let mut damaged = chunk.to_vec();
    damaged[40] ^= 1;
    fs::write(&path, damaged).unwrap();
    let refused = shelf.chunk(&ids[2], 0);
    assert!(
        matches!(refused, Err(SnapshotError::Damaged { .. })),
        "{refused:?}"
    );
    assert_eq!(heights(&shelf), [6]);
    // One whose file is short is not even listed.
    let path = dir.path().join("snapshots/6").join(chunk_file_name(0));
    fs::write(&path, &chunk[..20]).unwrap();
    assert!(SnapshotShelf::open(dir.path()).unwrap().list().is_empty());
    let empty = TempDir::new().unwrap();
    let fresh = Stores::open(empty.path());
    let nothing = shelf.make(&fresh.ledger(), Bytes::new());
    assert!(matches!(nothing, Err(SnapshotError::Genesis)));
}

#[test]
fn snapshots_are_made_while_blocks_are_imported_and_each_one_can_be_installed() {
    let (_dir, stores, shelf) = source(20);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                stores.mint(5);
                stores.flush();
            }
        });
        for _ in 0..3 {
            let made = shelf.make(&stores.ledger(), Bytes::new()).unwrap();
            let header = stores.blocks.header_at(made.height).unwrap().unwrap();
            made.check_against(&header).unwrap();
            let target = TempDir::new().unwrap();
            let mut download = begin(target.path(), &stores, &shelf).unwrap();
            let complete = fetch_all(&mut download, &shelf);
            install(target.path(), &complete, &SledStores).unwrap();
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_download_refuses_lies_survives_the_process_and_says_whose_fault_it_was() {
    let (_dir, stores, shelf) = source(30);
    let made = shelf.make(&stores.ledger(), Bytes::new()).unwrap();
    let id = made.id();
    let target = TempDir::new().unwrap();
    let good = shelf.chunk(&id, 0).unwrap();
    let mut download = begin(target.path(), &stores, &shelf).unwrap();
    assert_eq!(download.missing(9), [0]);
    let mut lie = good.to_vec();
    lie[30] ^= 0x40;
    for (number, bytes) in [(0, &lie[..]), (0, &good[1..]), (1, &good[..])] {
        let error = download.accept(number, bytes).unwrap_err();
        assert!(error.blames_peer(), "{error}");
    }
    let missing = download.finish().unwrap_err();
    assert_eq!(missing, DownloadError::Incomplete { missing: 1 });
    assert!(!missing.blames_peer());
    download.accept(0, &good).unwrap();
    assert_eq!(download.progress().bytes, good.len() as u64);
    drop(download);

    let expected = expectation(&stores);
    let mut download = Download::resume(target.path(), &expected).unwrap().unwrap();
    assert!(download.is_complete());
    // Our own disk spoils it: fetched once more.
    let path = target.path().join("incoming").join(chunk_file_name(0));
    fs::write(&path, &lie).unwrap();
    let spoiled = download.finish().unwrap_err();
    assert!(matches!(spoiled, DownloadError::Spoiled { number: 0, .. }) && !spoiled.blames_peer());
    assert_eq!(download.missing(9), [0]);
    fs::write(&path, &lie).unwrap();
    let mut download = Download::resume(target.path(), &expected).unwrap().unwrap();
    assert_eq!(download.missing(9), [0]);
    fetch_all(&mut download, &shelf);

    // Descriptions that are not of this chain or not of this block.
    let anchor = Anchor::decode(&shelf.anchor(&id).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut SnapshotDescription, &mut Anchor)| {
        let (mut description, mut anchor) = (made.clone(), anchor.clone());
        change(&mut description, &mut anchor);
        Download::begin(target.path(), description, anchor, &expected).unwrap_err()
    };
    assert!(refused(&|d, _| d.chain_id = 8).blames_peer());
    assert!(refused(&|d, _| d.genesis_hash = B256::ZERO).blames_peer());
    assert!(refused(&|d, _| d.state_root = B256::ZERO).blames_peer());
    assert!(refused(&|d, _| d.raft_index += 1).blames_peer());
    assert!(refused(&|_, a| a.block.senders[0].0[0] ^= 1).blames_peer());
    assert!(refused(&|_, a| a.ancestors[3].timestamp += 1).blames_peer());
    assert!(!refused(&|d, _| d.height = 31).blames_peer());
    // The same state as another peer describes it: what is here stays.
    let mut described = made.clone();
    described.members = Bytes::from_static(b"as another peer encodes it");
    let same = Download::begin(target.path(), described, anchor.clone(), &expected).unwrap();
    assert!(same.is_complete());
    // Another snapshot takes the place of this one.
    stores.mint(1);
    stores.flush();
    shelf.make(&stores.ledger(), Bytes::new()).unwrap();
    let other = begin(target.path(), &stores, &shelf).unwrap();
    assert_eq!((other.progress().chunks, other.missing(9)), (0, vec![0]));
    other.discard().unwrap();
    assert!(!target.path().join("incoming").exists());
}

#[test]
fn a_node_that_installed_a_snapshot_goes_on_from_it_and_keeps_the_old_stores_until_told() {
    let (_dir, stores, shelf) = source(300);
    let made = shelf.make(&stores.ledger(), Bytes::new()).unwrap();
    stores.mint(20);
    let target = TempDir::new().unwrap();
    let behind = Stores::open(target.path());
    for height in 1..=5 {
        behind.take(
            stores
                .blocks
                .block(height)
                .unwrap()
                .unwrap()
                .as_ref()
                .clone(),
        );
    }
    behind.flush();
    drop(behind);

    assert_eq!(recover_install(target.path()).unwrap(), Recovered::Nothing);
    let mut download = begin(target.path(), &stores, &shelf).unwrap();
    let complete = fetch_all(&mut download, &shelf);
    let installed = install(target.path(), &complete, &SledStores).unwrap();
    assert_eq!((installed.height, installed.hash), (300, made.block_hash));
    assert_eq!(
        recover_install(target.path()).unwrap(),
        Recovered::Pending(installed)
    );
    assert!(!target.path().join("incoming").exists());
    let again = install(target.path(), &complete, &SledStores);
    assert!(matches!(again, Err(InstallError::Pending { height: 300 })));

    let check = |node: &Stores| {
        assert_eq!(node.blocks.base(), 300);
        for height in node.blocks.head().height() + 1..=320 {
            node.take(
                stores
                    .blocks
                    .block(height)
                    .unwrap()
                    .unwrap()
                    .as_ref()
                    .clone(),
            );
        }
        assert_eq!(node.blocks.head().hash(), stores.blocks.head().hash());
        let root = node.state.latest().state_root();
        assert_eq!(root, stores.state.latest().state_root());
        assert_eq!(
            node.blocks.hash_at(44).unwrap(),
            stores.blocks.hash_at(44).unwrap()
        );
    };
    check(&Stores::open(target.path()));
    // It was a lie after all: back to block 5.
    revert_install(target.path()).unwrap();
    let behind = Stores::open(target.path());
    assert_eq!(
        (behind.blocks.base(), behind.blocks.head().height()),
        (1, 5)
    );
    drop(behind);
    assert!(matches!(
        revert_install(target.path()),
        Err(InstallError::NothingPending)
    ));

    let mut download = begin(target.path(), &stores, &shelf).unwrap();
    let complete = fetch_all(&mut download, &shelf);
    install(target.path(), &complete, &SledStores).unwrap();
    let node = Stores::open(target.path());
    check(&node);
    node.flush();
    confirm_install(target.path()).unwrap();
    drop(node);
    for store in STORES {
        assert!(
            !target
                .path()
                .join(format!("{store}.before-snapshot"))
                .exists()
        );
    }
    // It can serve others from here on.
    let node = Stores::open(target.path());
    let shelf = SnapshotShelf::open(target.path()).unwrap();
    assert_eq!(
        shelf.make(&node.ledger(), Bytes::new()).unwrap().height,
        320
    );
    let third = TempDir::new().unwrap();
    let mut download = begin(third.path(), &stores, &shelf).unwrap();
    let complete = fetch_all(&mut download, &shelf);
    install(third.path(), &complete, &SledStores).unwrap();
    assert_eq!(Stores::open(third.path()).blocks.base(), 320);
}

#[test]
fn a_snapshot_whose_chunks_make_another_state_is_refused_and_nothing_changes() {
    let (_dir, stores, shelf) = source(6);
    let made = shelf.make(&stores.ledger(), Bytes::new()).unwrap();
    let mut chunk = shelf.chunk(&made.id(), 0).unwrap().to_vec();
    // The first account's balance.
    let nonce_size = usize::from(chunk[12 + 22]);
    chunk[12 + 22 + nonce_size + 2] ^= 1;
    let mut lie = made.clone();
    lie.chunks[0].hash = alloy_primitives::keccak256(&chunk);
    let anchor = Anchor::decode(&shelf.anchor(&made.id()).unwrap()).unwrap();
    let target = TempDir::new().unwrap();
    let mut download = Download::begin(target.path(), lie, anchor, &expectation(&stores)).unwrap();
    download.accept(0, &chunk).unwrap();
    let complete = download.finish().unwrap();
    let error = install(target.path(), &complete, &SledStores).unwrap_err();
    assert!(error.blames_source(), "{error}");
    assert_eq!(recover_install(target.path()).unwrap(), Recovered::Nothing);
    assert!(!target.path().join("installing").exists());
    assert!(!target.path().join("state").exists());
}

/// Writes into each folder who it is.
struct NamedFolders;

impl FreshStores for NamedFolders {
    fn restore_state(
        &self,
        dir: &Path,
        _chunks: &mut dyn Iterator<Item = Result<Vec<u8>, String>>,
        _exported: &ExportedState,
        _genesis_hash: B256,
    ) -> Result<(), InstallError> {
        name(dir, "new");
        Ok(())
    }

    fn begin_blocks(&self, blocks: &Path, index: &Path, _: Anchor) -> Result<(), InstallError> {
        name(blocks, "new");
        name(index, "new");
        Ok(())
    }
}

fn name(dir: &Path, name: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("name"), name).unwrap();
}

fn names(dir: &Path) -> Vec<Option<String>> {
    let names = STORES.map(|store| fs::read_to_string(dir.join(store).join("name")).ok());
    names.to_vec()
}

/// Dies before its step with this number, from 0.
fn dying_at(step: usize) -> impl FnMut(&'static str) -> Result<(), InstallError> {
    let mut left = step;
    move |_| {
        if left == 0 {
            return Err(InstallError::NothingPending);
        }
        left -= 1;
        Ok(())
    }
}

/// Recovers with a process that dies after one step each time.
fn recover_stumbling(dir: &Path) -> Recovered {
    for _ in 0..50 {
        if let Ok(recovered) = recover_in_steps(dir, &mut dying_at(1)) {
            return recovered;
        }
    }
    panic!("recovery does not come to its end");
}

#[test]
fn an_exchange_that_dies_anywhere_is_finished_or_has_not_happened() {
    let (_dir, stores, shelf) = source(3);
    shelf.make(&stores.ledger(), Bytes::new()).unwrap();
    let (mut not_happened, mut finished) = (0, 0);
    for had_old in [true, false] {
        for decision in ["confirm", "revert"] {
            for step in 0.. {
                let target = TempDir::new().unwrap();
                let dir = target.path();
                let old = if had_old {
                    STORES
                        .iter()
                        .for_each(|store| name(&dir.join(store), "old"));
                    vec![Some("old".to_owned()); 3]
                } else {
                    vec![None; 3]
                };
                let new = vec![Some("new".to_owned()); 3];
                let mut download = begin(dir, &stores, &shelf).unwrap();
                let complete = fetch_all(&mut download, &shelf);
                let result = install_in_steps(dir, &complete, &NamedFolders, &mut dying_at(step));
                match recover_stumbling(dir) {
                    Recovered::Nothing => {
                        assert_eq!(names(dir), old);
                        not_happened += 1;
                        continue;
                    }
                    Recovered::Pending(installed) => {
                        assert_eq!((names(dir), installed.height), (new.clone(), 3));
                        finished += 1;
                    }
                    other => panic!("{other:?}"),
                }
                // The decision dies at each of its steps as well.
                let decided = match decision {
                    "confirm" => confirm_in_steps(dir, &mut dying_at(step % 5)),
                    _ => revert_in_steps(dir, &mut dying_at(step % 7)),
                };
                let recovered = recover_stumbling(dir);
                match (decision, decided, recovered) {
                    // It died before it had decided.
                    (_, Err(_), Recovered::Pending(_)) => assert_eq!(names(dir), new),
                    ("confirm", _, Recovered::Nothing) => assert_eq!(names(dir), new),
                    ("revert", Err(_), Recovered::Reverted(_))
                    | ("revert", Ok(()), Recovered::Nothing) => assert_eq!(names(dir), old),
                    other => panic!("{other:?}"),
                }
                if recovered == Recovered::Nothing {
                    let left = fs::read_dir(dir).unwrap();
                    let left = left.map(|e| e.unwrap().file_name().into_string().unwrap());
                    let strange = left.filter(|n| !STORES.contains(&n.as_str())).count();
                    assert_eq!(strange, 0);
                }
                if result.is_ok() {
                    break;
                }
            }
        }
    }
    assert!(
        not_happened >= 12 && finished >= 20,
        "{not_happened} {finished}"
    );
}
