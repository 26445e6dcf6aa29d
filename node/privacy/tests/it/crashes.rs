//! Power fails anywhere; what comes of the chain is the same.

use std::sync::Arc;

use alloy_primitives::{B256, U256};
use quorate_enclave::PayloadHash;
use quorate_privacy::{Lookup, PrivateFatal, PrivateLedger, RecordOutcome};

use crate::script::{Dice, chain_of};
use crate::world::*;

/// Kills the executor at heights drawn from the seed, loses what was not durable, opens again, and compares.
async fn survive(seed: u64) {
    let net = chain_of(seed, 30);
    let undisturbed = net.parties[1].afresh();
    undisturbed.catch_up(&net.chain).await;
    assert!(undisturbed.ledger.status().private_height > 10);

    let mut dice = Dice::new(seed ^ 0xc0ffee);
    let mut party = net.parties[1].afresh();
    let mut farthest = 0;
    while farthest < 30 {
        let running = party.start(&net.chain);
        farthest = (farthest + 1 + dice.below(9)).min(30);
        party.arrive(farthest).await;
        running.kill(&mut party).await;
        // Whatever reached the disk of each storage without a barrier.
        party.index_kv.crash_by_seed(dice.below(u64::MAX));
        party.state_kv.crash_by_seed(dice.below(u64::MAX));
        party.reopen();
        let cursor = party.ledger.cursor();
        assert!(cursor <= 30);
        // What is there after a crash is a beginning of what the other has.
        let whole = undisturbed.trace();
        let ours = party.trace();
        assert_eq!(
            ours[..],
            whole[..ours.len()],
            "seed {seed}, cursor {cursor}"
        );
        let records: usize = ours.iter().map(|(_, records)| records.len()).sum();
        assert_eq!(party.ledger.status().records, records as u64);
    }
    party.catch_up(&net.chain).await;
    assert_eq!(party.trace(), undisturbed.trace(), "seed {seed}");
    assert_eq!(party.ledger.status(), undisturbed.ledger.status());
    // A clean stop leaves nothing to execute again.
    party.reopen();
    assert_eq!(party.ledger.status(), undisturbed.ledger.status());
}

#[tokio::test]
async fn a_node_that_crashes_again_and_again_ends_with_the_same_roots() {
    for seed in 0..12 {
        survive(seed).await;
    }
}

#[tokio::test]
async fn a_failing_disk_ends_execution_and_loses_nothing_that_is_not_repeated() {
    let net = chain_of(77, 20);
    let undisturbed = net.parties[1].afresh();
    undisturbed.catch_up(&net.chain).await;
    for (of_state, at_barrier) in [(false, false), (false, true), (true, false)] {
        let mut party = net.parties[1].afresh();
        let running = party.start(&net.chain);
        party.arrive(8).await;
        let kv = if of_state {
            &party.state_kv
        } else {
            &party.index_kv
        };
        if at_barrier {
            kv.fail_next_barrier("the disk is full");
        } else {
            kv.fail_next_write("the disk is full");
        }
        let ended = running.ended_or_stopped(&party, 20).await;
        assert!(
            matches!(
                ended,
                Err(PrivateFatal::Index(_) | PrivateFatal::Flush(_) | PrivateFatal::Read(_))
            ),
            "{ended:?}"
        );
        party.index_kv.crash();
        party.state_kv.crash();
        party.reopen();
        party.catch_up(&net.chain).await;
        assert_eq!(party.trace(), undisturbed.trace());
    }
}

#[tokio::test]
async fn a_state_without_its_index_does_not_open_and_is_made_anew() {
    let net = chain_of(3, 12);
    let mut party = net.parties[1].clone();
    party.catch_up(&net.chain).await;
    let trace = party.trace();
    let lost = Arc::new(quorate_kv::MemoryKv::new());
    let state = Arc::clone(&party.state_kv);
    let opened = PrivateLedger::open_on(state, lost, CHAIN_ID, B256::ZERO, small_flushes());
    assert!(matches!(
        opened,
        Err(quorate_privacy::LedgerOpenError::Torn { .. })
    ));
    let index = Arc::clone(&party.index_kv);
    let other = B256::repeat_byte(1);
    let fresh = Arc::new(quorate_kv::MemoryKv::new());
    let opened = PrivateLedger::open_on(fresh, index, CHAIN_ID, other, small_flushes());
    assert!(matches!(
        opened,
        Err(quorate_privacy::LedgerOpenError::OtherChain { found, .. }) if found == B256::ZERO
    ));
    party = party.afresh();
    party.catch_up(&net.chain).await;
    assert_eq!(party.trace(), trace);
}

#[tokio::test]
async fn a_ledger_on_disk_is_there_again_and_can_be_reset() {
    let dir = tempfile::tempdir().unwrap();
    let config = quorate_privacy::LedgerConfig {
        state_kv: small_cache(),
        index_kv: small_cache(),
        ..Default::default()
    };
    let open = || PrivateLedger::open(dir.path(), CHAIN_ID, B256::ZERO, &config).unwrap();
    let net = chain_of(5, 15);
    let mut party = net.parties[1].afresh();
    party.ledger = open();
    party.catch_up(&net.chain).await;
    let (status, trace) = (party.ledger.status(), party.trace());
    assert!(status.records > 5);
    assert_eq!(party.ledger.needed_from(), 16);
    party.ledger = net.parties[1].afresh().ledger;
    party.ledger = open();
    assert_eq!(
        (party.ledger.status(), party.trace()),
        (status, trace.clone())
    );
    party.ledger = net.parties[1].afresh().ledger;
    PrivateLedger::reset(dir.path()).unwrap();
    party.ledger = open();
    assert_eq!((party.ledger.cursor(), party.ledger.needed_from()), (0, 1));
    party.catch_up(&net.chain).await;
    assert_eq!(party.trace(), trace);
}

fn small_cache() -> quorate_kv::SledConfig {
    quorate_kv::SledConfig {
        cache_capacity_bytes: 1 << 20,
        ..Default::default()
    }
}

#[tokio::test]
async fn an_erased_payload_leaves_a_record_and_its_input_can_be_forgotten() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, ADDER).await;
    let first = net.run(&send, Some(contract), &word(1)).await;
    let erased = net.send(&send, Some(contract), &word(2));
    let hash = PayloadHash::from_bytes(
        quorate_chain::private_reference(erased.transaction())
            .unwrap()
            .hash,
    );
    net.parties[1].payloads.set(hash, Lookup::Erased);
    let gone = erased.hash();
    net.mine(vec![erased]).await;
    let party = &net.parties[1];
    assert_eq!(party.record(gone).outcome, RecordOutcome::Erased);
    assert_eq!(party.slot(contract), U256::from(1));
    assert_eq!(net.parties[0].slot(contract), U256::from(3));
    let status = party.ledger.status();
    assert_eq!((status.records, status.erased), (3, 1));

    let record = party.record(first);
    let never = PayloadHash::from_bytes([9; 64]);
    assert_eq!(party.ledger.let_go(&[record.hash, never]).unwrap(), 1);
    assert_eq!(party.ledger.let_go(&[record.hash, never]).unwrap(), 0);
    // Nothing of it has to be executed again, which could not be done.
    let party = &mut net.parties[1];
    party.index_kv.crash();
    party.state_kv.crash();
    party.reopen();
    assert_eq!(party.slot(contract), U256::from(1));
    let forgotten = party.record(first);
    assert!(forgotten.data.is_empty());
    assert_eq!(
        (forgotten.outcome, forgotten.digest),
        (record.outcome, record.digest)
    );
}

#[tokio::test]
async fn what_is_erased_while_it_is_executed_leaves_no_input_and_is_not_executed_again() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, ADDER).await;
    net.parties[1].ledger.make_durable().unwrap();
    let sent = net.send(&send, Some(contract), &word(2));
    let reference = quorate_chain::private_reference(sent.transaction()).unwrap();
    let payload = PayloadHash::from_bytes(reference.hash);
    let running = net.parties[1].start(&net.chain);
    // As if the executor had it in its hands already.
    assert_eq!(net.parties[1].ledger.let_go(&[payload]).unwrap(), 0);
    let transaction = sent.hash();
    let height = net.chain.mine(vec![sent]);
    net.parties[1].arrive(height).await;
    let party = &mut net.parties[1];
    running.kill(party).await;
    party.index_kv.crash();
    party.state_kv.crash();
    party.reopen();
    assert_eq!(party.slot(contract), U256::from(2));
    let record = party.record(transaction);
    assert!(record.data.is_empty() && record.outcome != RecordOutcome::Erased);
}

#[tokio::test]
async fn large_inputs_are_kept_in_parts() {
    let mut net = Net::new();
    let send = standard(&[1]);
    let data: Vec<u8> = (0..300_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let hash = net.run(&send, Some(user(3)), &data).await;
    let party = &mut net.parties[1];
    party.reopen();
    assert_eq!(party.record(hash).data, data);
    let payload = party.record(hash).hash;
    assert_eq!(party.ledger.let_go(&[payload]).unwrap(), 1);
    assert!(party.record(hash).data.is_empty());
}
