//! Verifying, moving and pruning real chains.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use quorate_chain::{ImportedBlock, Sealer, StoreError};
use quorate_kv::{Batch, Kv as _, MemoryKv};
use quorate_state::HistoryError;
use tempfile::TempDir;

use super::*;
use crate::test_chain::{Stores, node_key, open_state};

fn chain(blocks: u64) -> (TempDir, Stores) {
    let dir = TempDir::new().unwrap();
    let stores = Stores::open(dir.path());
    stores.mint(blocks);
    stores.flush();
    (dir, stores)
}

fn verified(stores: &Stores, sealers: Option<BTreeSet<Address>>) -> VerifyReport {
    let scratch = open_state(&stores.genesis, Arc::new(MemoryKv::new()));
    let task = VerifyTask {
        genesis: &stores.genesis,
        blocks: &stores.blocks,
        state: Some(&stores.state),
        scratch: Some(&scratch),
        sealers,
    };
    verify(&task, &mut |_| {}).unwrap()
}

fn kinds(report: &VerifyReport) -> Vec<(u64, FaultKind)> {
    report.faults.iter().map(|f| (f.height, f.kind)).collect()
}

fn checked_to(report: &VerifyReport, what: &str) -> u64 {
    report.checks.iter().find(|c| c.what == what).unwrap().to
}

/// A copy with one wrong block at its end.
fn with_wrong_block(change: impl FnOnce(&Stores) -> ImportedBlock) -> (TempDir, Stores) {
    let (dir, stores) = chain(10);
    let block = change(&stores);
    stores.blocks.append(Arc::new(block)).unwrap();
    (dir, stores)
}

#[test]
fn a_good_chain_is_found_good_and_every_kind_of_check_went_to_its_end() {
    let (_dir, stores) = chain(40);
    let member = Sealer::new(node_key()).node_id().address();
    let mut told = Vec::new();
    let task = VerifyTask {
        genesis: &stores.genesis,
        blocks: &stores.blocks,
        state: None,
        scratch: None,
        sealers: None,
    };
    let report = verify(&task, &mut |p| told.push((p.done, p.total))).unwrap();
    assert!(report.is_good());
    assert_eq!(told, [(40, 40)]);
    assert_eq!(checked_to(&report, "execution"), 0);
    let report = verified(&stores, Some([member].into()));
    assert_eq!(kinds(&report), []);
    assert_eq!((report.blocks, report.transactions), (40, 40));
    for check in &report.checks {
        assert_eq!(check.to, 40, "{check:?}");
    }
    let report = verified(&stores, Some([Address::ZERO].into()));
    assert_eq!(report.faults_total, 40);
    assert!(
        kinds(&report)
            .iter()
            .all(|(_, kind)| *kind == FaultKind::Seal)
    );
}

#[test]
fn every_planted_damage_is_found() {
    // A flipped bit in a record.
    let (dir, stores) = chain(10);
    let segment = dir.path().join("blocks/blocks-000000000001.seg");
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment)
        .unwrap();
    let mut byte = [0];
    let at = stores.blocks.size_bytes() / 2;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    drop(stores);
    let report = verified(&Stores::open(dir.path()), None);
    let [(height, FaultKind::Record)] = kinds(&report)[..] else {
        panic!("{:?}", report.faults);
    };
    assert!((4..=7).contains(&height));
    assert_eq!(checked_to(&report, "execution"), height - 1);

    let one = |stores: &Stores| {
        let report = verified(stores, None);
        assert_eq!(report.faults_total, report.faults.len() as u64);
        kinds(&report)
    };
    let (_dir, stores) = with_wrong_block(|s| {
        let mut block = s.next(|_, _| {});
        block.receipts[0].success = false;
        block
    });
    assert_eq!(one(&stores), [(11, FaultKind::Receipts)]);
    let (_dir, stores) = with_wrong_block(|s| {
        let mut block = s.next(|_, _| {});
        block.receipts[0].revert_data = vec![1].into();
        block
    });
    assert_eq!(one(&stores), [(11, FaultKind::Receipts)]);
    let (_dir, stores) = with_wrong_block(|s| {
        let mut block = s.next(|_, _| {});
        block.senders[0] = Address::ZERO;
        block
    });
    assert_eq!(one(&stores), [(11, FaultKind::Transactions)]);
    let (_dir, stores) = with_wrong_block(|s| s.next(|t, _| t.coinbase = Address::ZERO));
    assert_eq!(one(&stores), [(11, FaultKind::Seal)]);
    let (_dir, stores) = with_wrong_block(|s| s.next(|t, _| t.parent_hash = B256::ZERO));
    assert_eq!(one(&stores), [(11, FaultKind::Parent)]);
    let (_dir, stores) = with_wrong_block(|s| s.next(|t, _| t.timestamp = 1));
    assert_eq!(one(&stores), [(11, FaultKind::Header)]);
    let (_dir, stores) = with_wrong_block(|s| s.next(|t, _| t.gas_limit += 1));
    assert_eq!(one(&stores), [(11, FaultKind::Header)]);
    let (_dir, stores) = with_wrong_block(|s| s.next(|_, r| r.state_root = B256::ZERO));
    assert_eq!(one(&stores), [(11, FaultKind::Execution)]);

    // The node's own state.
    let (_dir, stores) = chain(10);
    let mut batch = Batch::new();
    let key = [&b"R"[..], &4u64.to_be_bytes()].concat();
    batch.put(key, vec![7; 32]);
    stores.state_kv.write(batch).unwrap();
    assert_eq!(one(&stores), [(4, FaultKind::State)]);
}

fn export_to(stores: &Stores, dir: &Path, to: u64) -> ExportReport {
    export(
        &stores.genesis,
        &stores.blocks,
        1..=to,
        dir,
        16,
        &mut |_| {},
    )
    .unwrap()
}

fn import_from(stores: &Stores, dir: &Path) -> Result<ImportReport, OfflineError> {
    let (genesis, blocks, state) = (&stores.genesis, &stores.blocks, &stores.state);
    import(genesis, blocks, state, dir, None, &mut |_| {})
}

#[test]
fn what_is_exported_is_imported_verified_and_executed_also_in_two_goes() {
    let (_dir, source) = chain(50);
    let out = TempDir::new().unwrap();
    let (part, whole) = (out.path().join("part"), out.path().join("whole"));
    export_to(&source, &part, 20);
    let report = export_to(&source, &whole, 50);
    assert_eq!(
        (report.files, report.last_hash),
        (4, source.blocks.head().hash())
    );
    let target = TempDir::new().unwrap();
    let node = Stores::open(target.path());
    let first = import_from(&node, &part).unwrap();
    assert_eq!((first.imported, first.skipped, first.head), (20, 0, 20));
    drop(node);
    let node = Stores::open(target.path());
    let second = import_from(&node, &whole).unwrap();
    assert_eq!((second.imported, second.skipped, second.head), (30, 20, 50));
    assert_eq!(second.head_hash, source.blocks.head().hash());
    // Ordering begins at its own beginning: the source's log is not this node's.
    assert_eq!(node.blocks.head().raft_index, 0);
    assert_eq!(node.state.durable_height(), 50);
    assert_eq!(node.state.durable_root(), source.state.durable_root());
    assert!(verified(&node, None).is_good());
    assert_eq!(import_from(&node, &whole).unwrap().imported, 0);

    let again = export(
        &source.genesis,
        &source.blocks,
        1..=5,
        &whole,
        16,
        &mut |_| {},
    );
    assert!(matches!(again, Err(OfflineError::NotEmpty { .. })));
    for (from, to) in [(0, 5), (5, 51), (9, 8)] {
        let range = from..=to;
        let result = export(
            &source.genesis,
            &source.blocks,
            range,
            out.path(),
            16,
            &mut |_| {},
        );
        assert!(matches!(result, Err(OfflineError::Range { .. })));
    }
}

#[test]
fn files_that_are_damaged_or_not_of_this_chain_are_refused() {
    let (_dir, source) = chain(40);
    let out = TempDir::new().unwrap();
    let dir = out.path().join("all");
    export_to(&source, &dir, 40);
    let path = dir.join("blocks-000000000017-000000000032");
    let whole = fs::read(&path).unwrap();
    let target = TempDir::new().unwrap();
    let node = Stores::open(target.path());
    for at in [3, 70, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let result = import_from(&node, &dir);
        assert!(
            matches!(result, Err(OfflineError::Damaged { .. })),
            "{result:?}"
        );
        assert_eq!(node.blocks.head().height(), 16);
    }
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    assert!(matches!(
        import_from(&node, &dir),
        Err(OfflineError::Damaged { .. })
    ));
    fs::write(&path, &whole).unwrap();
    assert_eq!(import_from(&node, &dir).unwrap().head, 40);

    let other_dir = TempDir::new().unwrap();
    let other = Stores::open_chain(other_dir.path(), 8);
    let result = import_from(&other, &dir);
    assert!(matches!(result, Err(OfflineError::OtherGenesis { .. })));
    let forked_dir = TempDir::new().unwrap();
    let forked = Stores::open(forked_dir.path());
    forked.take(forked.next(|t, _| t.timestamp += 1));
    let result = import_from(&forked, &dir);
    assert!(matches!(
        result,
        Err(OfflineError::OtherChain { height: 1, .. })
    ));
    let late = out.path().join("late");
    let (genesis, blocks) = (&source.genesis, &source.blocks);
    export(genesis, blocks, 30..=40, &late, 16, &mut |_| {}).unwrap();
    let fresh_dir = TempDir::new().unwrap();
    let fresh = Stores::open(fresh_dir.path());
    let result = import_from(&fresh, &late);
    assert!(matches!(
        result,
        Err(OfflineError::Gap { head: 0, first: 30 })
    ));
    assert!(matches!(
        import_from(&fresh, out.path()),
        Err(OfflineError::Damaged { .. })
    ));

    let (_dir, liar) = with_wrong_block(|s| s.next(|_, r| r.state_root = B256::ZERO));
    let lies = out.path().join("lies");
    export_to(&liar, &lies, 11);
    let error = import_from(&fresh, &lies).unwrap_err();
    let OfflineError::Refused(fault) = error else {
        panic!("{error}");
    };
    assert_eq!((fault.height, fault.kind), (11, FaultKind::Execution));
    assert_eq!(fresh.blocks.head().height(), 10);
}

#[test]
fn a_pruned_node_says_below_what_it_is_pruned_and_is_still_verified_as_far_as_that_goes() {
    let (dir, stores) = chain(500);
    let pruned = prune(&stores.blocks, &stores.state, u64::MAX).unwrap();
    let base = pruned.blocks.base;
    assert!(base > 200 && pruned.history.first == base, "{pruned:?}");
    assert!(pruned.blocks.segments > 3 && pruned.history.entries > 200);
    drop(stores);
    let stores = Stores::open(dir.path());
    let below = stores.blocks.block(1).unwrap_err();
    assert!(matches!(below, StoreError::Pruned { below } if below == base));
    let below = stores.state.at(base - 1).unwrap_err();
    assert!(matches!(below, HistoryError::Pruned { first, .. } if first == base));
    stores.mint(5);
    stores.flush();
    let report = verified(&stores, None);
    assert_eq!(kinds(&report), []);
    assert_eq!((report.base, report.head), (base, 505));
    assert_eq!(checked_to(&report, "execution"), 0);
    assert_eq!(checked_to(&report, "own state roots"), 505);
    let out = TempDir::new().unwrap();
    let result = export(
        &stores.genesis,
        &stores.blocks,
        1..=9,
        out.path(),
        16,
        &mut |_| {},
    );
    assert!(matches!(result, Err(OfflineError::Range { first, .. }) if first == base));
}
