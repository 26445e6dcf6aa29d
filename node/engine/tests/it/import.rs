//! What the importer does with entries that no honest leader proposes.

use alloy_primitives::B256;
use quorate_chain::{BlockTemplate, DraftBlock, ExecutedRoots, RecoveredTransaction, Sealer};
use quorate_engine::{Fatal, MinterConfig};
use raft_adapter::Role;
use secp256k1::SecretKey;

use crate::bench_node::{Disk, Node, node_key, transfer};

/// A block of one transfer on the head, with `change` applied to what an honest minter would say.
fn block(
    node: &Node,
    sealer: &Sealer,
    term: u64,
    change: impl FnOnce(&mut BlockTemplate, &mut ExecutedRoots),
) -> bytes::Bytes {
    let head = node.ledger.head();
    let mut template = BlockTemplate {
        parent_hash: head.hash(),
        height: head.height() + 1,
        timestamp: 2_000,
        coinbase: sealer.node_id().address(),
        gas_limit: node.ledger.gas_limit(),
    };
    let tx: RecoveredTransaction = transfer(0, 0, 1);
    let parent = node.ledger.latest_state();
    let context = quorate_evm::BlockContext {
        height: template.height,
        timestamp: template.timestamp,
        coinbase: template.coinbase,
        gas_limit: template.gas_limit,
        parent_hash: template.parent_hash,
        ..Default::default()
    };
    let outcome = quorate_evm::execute_block(
        node.ledger.spec(),
        context,
        &parent,
        &node.ledger.hashes(),
        std::slice::from_ref(&tx),
    )
    .unwrap();
    let mut roots = ExecutedRoots {
        state_root: parent.apply(&outcome.diff).unwrap().state_root(),
        gas_used: outcome.gas_used,
    };
    change(&mut template, &mut roots);
    DraftBlock::new(
        &template,
        node.ledger.spec(),
        vec![tx],
        &outcome.receipts,
        roots,
    )
    .seal(sealer, term)
    .encode()
    .0
}

fn leading(disk: &Disk) -> (Node, raft_adapter::Term) {
    let node = Node::start_with(disk, MinterConfig::default(), false);
    let term = node.wait("this node leads", |n| {
        let status = n.raft.status();
        (status.role == Role::Leader).then_some(status.term)
    });
    (node, term)
}

/// Proposes and waits until the entry has been dealt with.
fn propose(node: &Node, term: raft_adapter::Term, payload: bytes::Bytes) {
    let before = *node.ledger.watch_applied().borrow();
    node.raft.propose(payload, term).unwrap();
    node.wait("the entry is applied", |n| {
        (*n.ledger.watch_applied().borrow() > before).then_some(())
    });
}

#[test]
fn entries_that_are_no_block_of_the_chain_are_skipped_and_the_next_good_one_is_imported() {
    let disk = Disk::new();
    let (node, term) = leading(&disk);
    node.wait("the term's first entry is applied", |n| {
        (*n.ledger.watch_applied().borrow() >= 1).then_some(())
    });
    let honest = Sealer::new(node_key());
    let stranger = Sealer::new(SecretKey::from_byte_array([9; 32]).unwrap());
    let bad = [
        bytes::Bytes::from_static(b"\x01nonsense"),
        block(&node, &stranger, term.0, |_, _| {}),
        block(&node, &honest, term.0 + 1, |_, _| {}),
        block(&node, &honest, term.0, |t, _| {
            t.parent_hash = B256::repeat_byte(1)
        }),
        block(&node, &honest, term.0, |t, _| t.height += 1),
        block(&node, &honest, term.0, |t, _| t.gas_limit += 1),
    ];
    for payload in bad {
        propose(&node, term, payload);
        assert_eq!(node.ledger.head().height(), 0);
    }
    let good = block(&node, &honest, term.0, |_, _| {});
    propose(&node, term, good.clone());
    node.wait_height(1);
    // The same block once more does not extend the head any more.
    propose(&node, term, good);
    assert_eq!(node.ledger.head().height(), 1);
    node.stop().unwrap();
}

#[test]
fn a_block_whose_execution_differs_here_stops_the_importer_and_leaves_evidence() {
    let disk = Disk::new();
    let (node, term) = leading(&disk);
    let honest = Sealer::new(node_key());
    let lie = block(&node, &honest, term.0, |_, roots| {
        roots.state_root = B256::repeat_byte(0x66)
    });
    node.raft.propose(lie, term).unwrap();
    let evidence = disk.dir.path().join("evidence/divergence-1.json");
    node.wait("evidence is written", |_| evidence.exists().then_some(()));
    assert_eq!(node.ledger.head().height(), 0);
    let end = node.stop();
    let Err(Fatal::Diverged(divergence)) = end else {
        panic!("{end:?}")
    };
    assert_eq!((divergence.height, divergence.what), (1, "stateRoot"));
    assert!(
        std::fs::read_to_string(evidence)
            .unwrap()
            .contains("sealedBlock")
    );
}
