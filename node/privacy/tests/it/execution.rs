//! What parties end up with, and what others do.

use alloy_primitives::{B256, TxKind, U256};
use quorate_evm::{RootedState as _, affected_root};
use quorate_privacy::{PrivateReadError, RecordOutcome, outcome_digest};
use quorate_state::StateRead as _;

use crate::world::*;

#[tokio::test]
async fn parties_share_a_contract_that_others_do_not_see() {
    let mut net = Net::new();
    let contract = net.deploy(&standard(&[1]), STORE).await;
    let set = net.run(&standard(&[1]), Some(contract), &word(42)).await;
    for party in &net.parties[..2] {
        assert_eq!(party.slot(contract), U256::from(42));
        assert_eq!(party.slot_at(contract, 1), U256::ZERO);
        let record = party.record(set);
        assert_eq!(record.outcome, RecordOutcome::Success);
        assert_eq!((record.height, record.position, record.nonce), (2, 0, 1));
        assert_eq!((record.sender, record.to), (user(ALICE), Some(contract)));
        assert_eq!(record.data.as_ref(), word(42));
        assert_eq!(record.affected, [contract]);
        assert_eq!(record.logs.len(), 1);
        assert!(
            record
                .bloom
                .contains_raw_log(contract, &[B256::with_last_byte(0xaa)])
        );
        assert_eq!(record.we_sent, party.number == 1);
        assert_eq!(record.as_recipient, Some(party.key()));
        let metadata = party.ledger.contract(&contract).unwrap().unwrap();
        assert_eq!((metadata.created_at, metadata.creator), (1, party_key(1)));
        assert_eq!(party.ledger.contracts(None, 10).unwrap(), [metadata]);
        assert!(
            party
                .ledger
                .contracts(Some(contract), 10)
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(net.parties[0].root(), net.parties[1].root());
    let reports = |party: &Party| party.payloads.reports.lock().clone();
    let (ours, theirs) = (reports(&net.parties[0]), reports(&net.parties[1]));
    assert_eq!(ours.len(), 2);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(
            (ours.digest, ours.transaction),
            (theirs.digest, theirs.transaction)
        );
        assert!(ours.we_sent && !theirs.we_sent);
    }

    let outsider = &net.parties[2];
    assert_eq!(outsider.recorded(set), None);
    assert_eq!(outsider.ledger.contract(&contract), Ok(None));
    assert_eq!(
        (outsider.ledger.status().records, outsider.ledger.cursor()),
        (0, 2)
    );
    assert_eq!(
        outsider.ledger.state_at(2).unwrap().account(&contract),
        Ok(None)
    );
    assert_eq!(net.chain.public_slot(contract), U256::ZERO);
}

#[tokio::test]
async fn private_code_reads_public_state_as_it_was_at_its_transaction() {
    let mut net = Net::new();
    let nonce = net.nonce(BOB);
    let shop = user(BOB).create(nonce);
    net.mine(vec![public(BOB, nonce, TxKind::Create, &deploying(STORE))])
        .await;
    let copy = net.deploy(&standard(&[1]), &copier(shop)).await;
    let [first, second] = [net.nonce(BOB), net.nonce(BOB)];
    let private = net.send(&standard(&[1]), Some(copy), &[]);
    let block = vec![
        public(BOB, first, TxKind::Call(shop), &word(7)),
        private,
        public(BOB, second, TxKind::Call(shop), &word(8)),
    ];
    net.mine(block).await;
    assert_eq!(net.chain.public_slot(shop), U256::from(8));
    assert_eq!(net.parties[0].slot(copy), U256::from(7));
    assert_eq!(net.parties[0].root(), net.parties[1].root());
    let again = net.send(&standard(&[1]), Some(copy), &[]);
    net.mine(vec![again]).await;
    assert_eq!(net.parties[1].slot(copy), U256::from(8));
}

#[tokio::test]
async fn transactions_of_one_block_build_on_each_other_under_one_private_height() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let expected = user(ALICE).create(0);
    let mut block = vec![net.send(&send, None, &deploying(ADDER))];
    for amount in 1..=5 {
        block.push(net.send(&send, Some(expected), &word(amount)));
    }
    let last = block[5].hash();
    let height = net.mine(block).await;
    let party = &net.parties[1];
    assert_eq!(party.slot(expected), U256::from(15));
    let status = party.ledger.status();
    assert_eq!((status.private_height, status.records), (1, 6));
    // The digest in the last record is of the state after the block, which has the same roots when it is read back.
    let state = party.ledger.state_at(height).unwrap();
    let digest = outcome_digest(&state, &[expected].into(), true).unwrap();
    assert_eq!(party.record(last).digest, digest);
    assert_eq!(party.trace(), {
        let again = party.afresh();
        again.catch_up(&net.chain).await;
        again.trace()
    });
}

#[tokio::test]
async fn old_heights_can_be_read_with_their_roots() {
    let mut net = Net::new();
    let send = standard(&[]);
    let contract = net.deploy(&send, STORE).await;
    let mut roots = Vec::new();
    for value in 1..=8 {
        net.run(&send, Some(contract), &word(value)).await;
        net.mine(vec![]).await;
        let party = &net.parties[0];
        let state = party.ledger.state_at(party.ledger.cursor()).unwrap();
        roots.push((
            party.ledger.cursor(),
            state.state_root(),
            state.storage_root(&contract).unwrap(),
            affected_root(&state, &[contract].into()).unwrap(),
            value,
        ));
    }
    let party = &mut net.parties[0];
    party.reopen();
    for (height, root, storage_root, affected, value) in roots {
        let state = party.ledger.state_at(height).unwrap();
        assert_eq!(state.state_root(), root);
        assert_eq!(state.storage_root(&contract).unwrap(), storage_root);
        assert_eq!(affected_root(&state, &[contract].into()).unwrap(), affected);
        assert_eq!(
            state.storage(&contract, &U256::ZERO).unwrap(),
            U256::from(value)
        );
        assert!(state.is_private(&contract).unwrap());
        assert_eq!(party.ledger.root_at(height), Ok(root));
        // Nothing private happened in the block before: the root is that of the one before it.
        assert_eq!(party.ledger.root_at(height - 1), Ok(root));
    }
    assert!(matches!(
        party.ledger.state_at(1_000),
        Err(PrivateReadError::Behind {
            wanted: 1_000,
            waiting: None,
            ..
        })
    ));
}

#[tokio::test]
async fn what_fails_leaves_a_record_and_nothing_else() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, REVERTING).await;
    let root = net.parties[1].root();
    let reverted = net.run(&send, Some(contract), &[]).await;
    let broken = net.run(&send, None, &[0xfe]).await;
    let party = &net.parties[1];
    assert_eq!(party.root(), root);
    let record = party.record(reverted);
    assert_eq!(record.revert_data().as_ref(), word(0xbb));
    assert!(!record.is_success() && record.reason().is_none());
    let record = party.record(broken);
    assert!(matches!(record.outcome, RecordOutcome::Halted { .. }));
    assert_eq!((record.gas_used, record.contract_address), (GAS, None));
    assert_eq!(party.ledger.status().private_height, 1);
    let digests = |party: &Party| -> Vec<_> {
        let reports = party.payloads.reports.lock();
        reports
            .iter()
            .map(|report| (report.success, report.digest))
            .collect()
    };
    assert_eq!(digests(&net.parties[0]), digests(&net.parties[1]));
    assert_eq!(
        digests(&net.parties[0])
            .iter()
            .filter(|(success, _)| *success)
            .count(),
        1
    );
}

#[tokio::test]
async fn subsets_of_parties_diverge_and_their_digests_tell() {
    let mut net = Net::new();
    let contract = net.deploy(&standard(&[1, 2]), ADDER).await;
    net.run(&standard(&[1]), Some(contract), &word(5)).await;
    assert_eq!(net.parties[1].slot(contract), U256::from(5));
    assert_eq!(net.parties[2].slot(contract), U256::ZERO);
    let all = net.run(&standard(&[1, 2]), Some(contract), &word(1)).await;
    let digest = |node: usize| net.parties[node].record(all).digest;
    assert_eq!(digest(0), digest(1));
    assert_ne!(digest(0), digest(2));
}

#[tokio::test]
async fn nested_contracts_are_created_called_and_affected() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let inner = net.deploy(&send, STORE).await;
    let outer = net.deploy(&send, &forwarder(inner)).await;
    let hash = net.run(&send, Some(outer), &word(9)).await;
    let mut affected = vec![inner, outer];
    affected.sort();
    for party in &net.parties[..2] {
        assert_eq!(party.slot(inner), U256::from(9));
        assert_eq!(party.slot(outer), U256::from(9));
        let record = party.record(hash);
        assert_eq!(record.affected, affected);
        assert_eq!(record.logs[0].address, inner);
    }
    // Who has the outer contract only, calls nothing behind it.
    let alone = net.deploy(&standard(&[2]), &forwarder(inner)).await;
    net.run(&standard(&[2]), Some(alone), &word(3)).await;
    assert_eq!(net.parties[2].slot(alone), U256::from(3));
    assert_eq!(net.parties[2].slot(inner), U256::ZERO);
    assert_eq!(net.parties[0].slot(inner), U256::from(3));
    assert_eq!(net.parties[1].slot(inner), U256::from(9));
}

#[tokio::test]
async fn a_private_contract_cannot_change_a_public_one() {
    let mut net = Net::new();
    let nonce = net.nonce(BOB);
    let shop = user(BOB).create(nonce);
    net.mine(vec![public(BOB, nonce, TxKind::Create, &deploying(STORE))])
        .await;
    let outer = net.deploy(&standard(&[1]), &forwarder(shop)).await;
    let hash = net.run(&standard(&[1]), Some(outer), &word(9)).await;
    assert!(matches!(
        net.parties[1].record(hash).outcome,
        RecordOutcome::Reverted { .. }
    ));
    assert_eq!(net.chain.public_slot(shop), U256::ZERO);
    assert_eq!(net.parties[1].slot(outer), U256::ZERO);
}

#[tokio::test]
async fn records_come_in_chain_order_and_blocks_are_not_cut() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, STORE).await;
    let block = (0..3)
        .map(|value| net.send(&send, Some(contract), &word(value)))
        .collect();
    net.mine(block).await;
    net.mine(vec![]).await;
    net.run(&send, Some(contract), &word(4)).await;
    let ledger = &net.parties[1].ledger;
    let places = |from, to, limit| -> Vec<(u64, u32)> {
        let records = ledger.records(from, to, limit).unwrap();
        records
            .iter()
            .map(|record| (record.height, record.position))
            .collect()
    };
    assert_eq!(
        places(0, 100, 100),
        [(1, 0), (2, 0), (2, 1), (2, 2), (4, 0)]
    );
    assert_eq!(places(0, 100, 2), [(1, 0), (2, 0), (2, 1), (2, 2)]);
    assert_eq!(places(2, 3, 1), [(2, 0), (2, 1), (2, 2)]);
    assert_eq!(places(3, 3, 10), []);
    assert_eq!(places(5, 2, 10), []);
}
