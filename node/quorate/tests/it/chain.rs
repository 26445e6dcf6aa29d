//! Whole nodes: the same blocks everywhere, through failures.

use std::collections::BTreeSet;

use serde_json::json;

use crate::consortium::{ALICE, BOB, Consortium, quantity};

#[test]
fn a_transaction_given_to_any_member_reaches_the_same_block_on_all() {
    let c = Consortium::of(4);
    let accounts = c.rpc(0, "eth_accounts", json!([]));
    let account = |i: usize| accounts[i].as_str().unwrap();
    let hashes: Vec<String> = (0..4).map(|i| c.transfer(i, account(i), BOB)).collect();
    let mut height = 0;
    for hash in &hashes {
        let receipts: Vec<_> = (0..4).map(|i| c.receipt(i, hash)).collect();
        assert_eq!(receipts[0]["status"], "0x1");
        assert!(receipts.iter().all(|r| *r == receipts[0]));
        height = height.max(quantity(&receipts[0]["blockNumber"]));
    }
    c.assert_same_chain(height);
    for i in 0..4 {
        for sender in 0..4 {
            let count = c.rpc(
                i,
                "eth_getTransactionCount",
                json!([account(sender), "latest"]),
            );
            assert_eq!(quantity(&count), 1);
        }
    }
}

#[test]
fn killing_the_leader_loses_nothing_and_it_catches_up_when_it_returns() {
    let mut c = Consortium::of(4);
    let before = c.transfer(0, ALICE, BOB);
    c.receipt(0, &before);
    let leader = c.leader();
    let other = (leader + 1) % 4;
    // Given to a follower while the leader dies: it must be minted by the next one.
    let during = c.transfer(other, ALICE, BOB);
    c.kill(leader);
    let receipt = c.receipt(other, &during);
    assert_eq!(receipt["status"], "0x1");
    let after = c.transfer(other, ALICE, BOB);
    let height = quantity(&c.receipt(other, &after)["blockNumber"]);
    c.start(leader);
    c.receipt(leader, &before);
    c.receipt(leader, &during);
    c.receipt(leader, &after);
    c.assert_same_chain(height);
}

#[test]
fn everything_committed_survives_kill_9_of_all_members_at_once() {
    let mut c = Consortium::of(3);
    let mut committed = Vec::new();
    for round in 0..30 {
        let hash = c.transfer(round % 3, ALICE, BOB);
        c.receipt(round % 3, &hash);
        committed.push(hash);
    }
    for i in 0..3 {
        c.kill(i);
    }
    for i in 0..3 {
        c.start(i);
    }
    c.wait_ready();
    let mut heights = BTreeSet::new();
    for hash in &committed {
        for i in 0..3 {
            heights.insert(quantity(&c.receipt(i, hash)["blockNumber"]));
        }
    }
    let next = c.transfer(1, ALICE, BOB);
    let height = quantity(&c.receipt(1, &next)["blockNumber"]);
    assert!(height > *heights.last().unwrap());
    c.assert_same_chain(height);
}

#[test]
fn a_clean_stop_and_start_continues_the_same_chain() {
    let mut c = Consortium::of(3);
    let hash = c.transfer(0, ALICE, BOB);
    let height = quantity(&c.receipt(0, &hash)["blockNumber"]);
    let block = c.block(0, height);
    for i in 0..3 {
        c.stop(i);
    }
    for i in 0..3 {
        c.start(i);
    }
    c.wait_ready();
    assert_eq!(c.block(2, height), block);
    let hash = c.transfer(2, ALICE, BOB);
    assert_eq!(quantity(&c.receipt(2, &hash)["blockNumber"]), height + 1);
}

#[test]
fn a_lost_state_folder_is_built_anew_from_the_blocks() {
    let mut c = Consortium::of(3);
    for _ in 0..5 {
        let hash = c.transfer(0, ALICE, BOB);
        c.receipt(1, &hash);
    }
    let height = c.height(1);
    c.kill(1);
    let data = c.node_dir(1).join("data");
    std::fs::remove_dir_all(data.join("state")).unwrap();
    std::fs::remove_dir_all(data.join("index")).unwrap();
    c.start(1);
    c.wait_ready();
    c.assert_same_chain(height);
    let balances: BTreeSet<String> = (0..3)
        .map(|i| {
            c.rpc(i, "eth_getBalance", json!([BOB, "latest"]))
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(balances.len(), 1);
}

#[test]
fn without_a_majority_nothing_commits_and_with_it_everything_does() {
    let mut c = Consortium::of(3);
    let leader = c.leader();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    c.kill(others[0]);
    c.kill(others[1]);
    let height = c.height(leader);
    let hash = c.transfer(leader, ALICE, BOB);
    c.wait("the lonely leader steps down", || {
        let role = c.rpc(leader, "raft_role", json!([]));
        (role != "minter").then_some(())
    });
    assert_eq!(c.height(leader), height);
    c.start(others[0]);
    let receipt = c.receipt(leader, &hash);
    assert_eq!(receipt["status"], "0x1");
    c.assert_same_chain(quantity(&receipt["blockNumber"]));
}

#[test]
fn a_member_that_is_further_behind_than_the_log_fetches_blocks_from_its_peers() {
    let mut c = Consortium::prepared(3);
    for i in 0..3 {
        c.configure(i, "trailing_entries = 8192", "trailing_entries = 8");
        c.configure(i, "flush_blocks = 256", "flush_blocks = 4");
    }
    for i in 0..3 {
        c.start(i);
    }
    c.wait_ready();
    let away = (c.leader() + 1) % 3;
    let here = (away + 1) % 3;
    c.kill(away);
    // One block each, so that the log is cut behind the missing member.
    for _ in 0..60 {
        let hash = c.transfer(here, ALICE, BOB);
        c.receipt(here, &hash);
    }
    let height = c.height(here);
    c.start(away);
    c.wait("the returned member has fetched blocks", || {
        c.log(away)
            .contains("caught up with the snapshot")
            .then_some(())
    });
    c.assert_same_chain(height);
    // It takes part again: without it, two of three are one too few after the next failure.
    let other = 3 - away - here;
    c.kill(other);
    let hash = c.transfer(away, ALICE, BOB);
    assert_eq!(c.receipt(here, &hash)["status"], "0x1");
}
