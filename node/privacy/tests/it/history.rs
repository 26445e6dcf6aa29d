//! Nodes that do not have the public chain from its beginning.

use alloy_primitives::U256;
use quorate_privacy::PrivateReadError;

use crate::script::chain_of;
use crate::world::*;

#[tokio::test]
async fn a_node_that_joined_by_snapshot_begins_where_public_history_does() {
    let mut net = chain_of(11, 10);
    // As after a snapshot of block 10: that block and the state after it, nothing before.
    net.chain.prune(10, 10);
    let party = net.parties[1].clone();
    let contract = user(ALICE).create(net.peek_nonce(ALICE));
    let deploy = net.send_blind(&standard(&[1]), None, &deploying(ADDER));
    net.chain.mine(vec![deploy]);
    let call = net.send_blind(&standard(&[1]), Some(contract), &word(3));
    net.chain.mine(vec![call]);
    party.catch_up(&net.chain).await;
    let status = party.ledger.status();
    assert!((10..=11).contains(&status.starts_at), "{status:?}");
    assert_eq!((status.cursor, status.halted), (12, None));
    assert_eq!(party.slot(contract), U256::from(3));
    assert!(matches!(
        party.ledger.state_at(5),
        Err(PrivateReadError::BeforeStart { wanted: 5, .. })
    ));
    let mut party = party;
    let starts_at = status.starts_at;
    party.reopen();
    assert_eq!(party.ledger.status().starts_at, starts_at);
}

#[tokio::test]
async fn a_node_with_private_state_stands_still_when_history_is_gone_and_goes_on_when_it_is_back() {
    let mut net = chain_of(12, 10);
    let party = net.parties[1].clone();
    party.catch_up(&net.chain).await;
    let records = party.ledger.status().records;
    assert!(records > 0);
    let deploy = net.send_blind(&standard(&[1]), None, &deploying(STORE));
    net.chain.mine(vec![deploy]);
    for _ in 0..5 {
        net.chain.mine(vec![]);
    }
    net.chain.prune(14, 14);
    let running = party.start(&net.chain);
    party.until(|status| status.halted.is_some()).await;
    let status = party.ledger.status();
    assert_eq!((status.cursor, status.records), (10, records));
    assert!(status.halted.unwrap().contains("block 11"));
    net.chain.prune(11, 14);
    party.ledger.retry_now();
    // The block is there now, and the state before it is not.
    party
        .until(|status| status.halted.as_ref().is_some_and(|why| why.contains("15")))
        .await;
    assert_eq!(party.ledger.cursor(), 10);
    net.chain.prune(1, 0);
    party.ledger.retry_now();
    party.arrive(16).await;
    running.stop().await.unwrap();
    let status = party.ledger.status();
    assert_eq!((status.halted, status.records), (None, records + 1));
}
