use std::time::Duration;

use quorate_engine::MinterConfig;
use quorate_pool::{DropReason, Fate};

use crate::bench_node::{Disk, Node, transfer, user};

#[test]
fn a_submitted_transaction_is_minted_imported_and_leaves_the_pool() {
    let disk = Disk::new();
    let node = Node::start(&disk);
    let tx = transfer(0, 0, 5);
    assert_eq!(node.pool.submit(&tx.encoded()).unwrap(), tx.hash());
    node.wait_height(1);
    let head = node.ledger.head();
    assert_eq!(head.block.transactions()[0].hash(), &tx.hash());
    assert_eq!(head.senders, [user(0)]);
    assert!(head.receipts[0].success);
    assert_eq!(head.receipts[0].gas_used, 21_000);
    node.wait("the pool is empty", |n| {
        (n.pool.counts().ready == 0).then_some(())
    });
    assert_eq!(node.ledger.locate(&tx.hash()).unwrap().unwrap().height, 1);
    node.stop().unwrap();
}

#[test]
fn blocks_are_never_empty_and_keep_their_limit() {
    let disk = Disk::new();
    let node = Node::start(&disk);
    let raw: Vec<_> = (0..4)
        .flat_map(|u| (0..60).map(move |n| transfer(u, n, 1).encoded()))
        .collect();
    assert!(node.pool.admit_all(&raw, true).iter().all(Result::is_ok));
    node.wait("all are in blocks", |n| {
        (n.pool.counts().ready == 0).then_some(())
    });
    let head = node.ledger.head().height();
    let mut total = 0;
    for height in 1..=head {
        let count = node.ledger.block(height).unwrap().unwrap().receipts.len();
        assert!(
            (1..=50).contains(&count),
            "block {height} has {count} transactions"
        );
        total += count;
    }
    assert_eq!(total, 240);
    node.stop().unwrap();
}

#[test]
fn what_cannot_be_executed_is_dropped_with_a_reason_and_does_not_hold_others_up() {
    let disk = Disk::new();
    let node = Node::start(&disk);
    // Both pass admission, each on its own; together they cost more than user 0 has.
    let most = u64::MAX - 10;
    let first = transfer(0, 0, most);
    let second = transfer(0, 1, most);
    let other = transfer(1, 0, 1);
    let raw = [first.encoded(), second.encoded(), other.encoded()];
    assert!(node.pool.admit_all(&raw, true).iter().all(Result::is_ok));
    let fate = node.wait("the second one is dropped", |n| n.pool.fate(&second.hash()));
    assert!(
        matches!(fate, Fate::Dropped(DropReason::NotExecutable(_))),
        "{fate:?}"
    );
    node.wait("the others are in a block", |n| {
        (n.ledger.locate(&first.hash()).unwrap().is_some()
            && n.ledger.locate(&other.hash()).unwrap().is_some())
        .then_some(())
    });
    node.stop().unwrap();
}

#[test]
fn a_pipeline_of_one_commits_everything_as_well() {
    let disk = Disk::new();
    let config = MinterConfig {
        pipeline_blocks: 1,
        min_interval: Duration::from_millis(1),
        ..MinterConfig::default()
    };
    let node = Node::start_with(&disk, config, true);
    for nonce in 0..20 {
        node.pool.submit(&transfer(2, nonce, 1).encoded()).unwrap();
    }
    node.wait("all are in blocks", |n| {
        (n.pool.counts().ready == 0).then_some(())
    });
    node.stop().unwrap();
}

#[test]
fn a_restarted_node_continues_its_chain_whatever_its_stores_have_kept() {
    let disk = Disk::new();
    let node = Node::start(&disk);
    for nonce in 0..5 {
        node.pool.submit(&transfer(0, nonce, 1).encoded()).unwrap();
        node.wait_height(nonce + 1);
    }
    let head = node.ledger.head();
    node.stop().unwrap();
    // The key-value stores lose what was not behind a barrier.
    disk.state.crash();
    disk.index.crash();
    let node = Node::start(&disk);
    assert_eq!(node.ledger.head().hash(), head.hash());
    assert_eq!(
        node.ledger.latest_state().state_root(),
        head.block.header().state_root
    );
    node.pool.submit(&transfer(0, 5, 1).encoded()).unwrap();
    node.wait_height(head.height() + 1);
    node.stop().unwrap();
    // The block store loses everything: the log brings it back.
    std::fs::remove_dir_all(disk.dir.path().join("blocks")).unwrap();
    let fresh = Disk {
        dir: disk.dir,
        state: Default::default(),
        index: Default::default(),
    };
    let node = Node::start(&fresh);
    node.wait_height(head.height() + 1);
    assert_eq!(
        node.ledger.block(head.height()).unwrap().unwrap().hash(),
        head.hash()
    );
    node.stop().unwrap();
}
