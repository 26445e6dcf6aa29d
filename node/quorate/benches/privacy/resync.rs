//! A party loses all its private data and gets it back from the other one.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use serde_json::{Value, json};

use crate::consortium::http;
use crate::usage::{folder_bytes, metric};
use crate::world::{Kind, PARTIES, PATIENCE, World};

/// Heights whose private roots are compared, besides that of the head.
const ROOTS: u64 = 50;
/// Receipts that are asked for in one request.
const BATCH: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// Kills the second party, deletes its private data, starts it, and measures until it has executed everything again.
///
/// # Panics
/// If it does not end with the private roots and the transactions that it had.
pub fn measure(world: &mut World, accepted: &BTreeSet<B256>) {
    let [sender, loser] = PARTIES;
    let head = world.height(sender);
    world.wait_executed(Kind::Private, loser, head);
    let heights = heights(head);
    let roots = |world: &World, i: usize| -> Vec<String> {
        let each = heights.iter();
        each.map(|height| world.private_root(i, *height)).collect()
    };
    let before = roots(world, loser);
    assert_eq!(
        before,
        roots(world, sender),
        "the parties share every transaction: their private roots must be equal"
    );
    let payloads = number(&world.privacy(loser, &["status"]), "payloads");
    assert!(payloads >= accepted.len() as u64);

    world.c.kill(loser);
    let folder = world.c.node_dir(loser).join("data").join("privacy");
    println!(
        "a party's private data: {:.1} MB for {payloads} payloads, {:.0} bytes each",
        folder_bytes(&folder) as f64 / 1e6,
        folder_bytes(&folder) as f64 / payloads as f64
    );
    fs::remove_dir_all(&folder).unwrap();

    world.c.start(loser);
    let Times {
        answers,
        complete,
        executed,
    } = follow(world, loser, head);
    println!(
        "{:<44} {:.1} s from the start of the process, {:.0} payloads/s",
        format!("resync of {payloads} payloads"),
        executed.as_secs_f64(),
        payloads as f64 / executed.as_secs_f64()
    );
    println!(
        "  its process answers after {:.1} s, its store is complete after {:.1} s",
        answers.as_secs_f64(),
        complete.as_secs_f64()
    );

    assert_eq!(
        roots(world, loser),
        before,
        "the private roots after the resync"
    );
    let status = world.privacy(loser, &["status"]);
    assert_eq!(status["complete"], true, "{status}");
    assert_eq!(number(&status, "payloads"), payloads, "{status}");
    assert_eq!(number(&status, "alarms"), 0, "{status}");
    for i in PARTIES {
        all_there(world, i, accepted);
    }
}

/// When something was first seen, since the start of the process.
struct Times {
    answers: Duration,
    complete: Duration,
    executed: Duration,
}

/// Waits until the node is complete and has executed up to `head`.
fn follow(world: &World, i: usize, head: u64) -> Times {
    let started = Instant::now();
    let (mut answers, mut complete, mut executed) = (None, None, None);
    let mut progress = (0.0, Instant::now());
    loop {
        // Before it answers, nothing is to be seen.
        let page = http(&world.c.metrics_url(i), None).unwrap_or_default();
        if !page.is_empty() {
            answers.get_or_insert(started.elapsed());
        }
        if metric(&page, "quorate_exchange_complete") > 0.0 {
            complete.get_or_insert(started.elapsed());
        }
        let cursor = metric(&page, "quorate_privacy_cursor");
        if cursor >= head as f64 {
            executed.get_or_insert(started.elapsed());
        }
        if let (Some(answers), Some(complete), Some(executed)) = (answers, complete, executed) {
            return Times {
                answers,
                complete,
                // It means nothing while something may be missing.
                executed: executed.max(complete),
            };
        }
        let moved = cursor + metric(&page, "quorate_exchange_fetched_total");
        if moved > progress.0 {
            progress = (moved, Instant::now());
        }
        assert!(
            progress.1.elapsed() < PATIENCE,
            "the resync stands still at block {cursor} of {head}"
        );
        std::thread::sleep(PAUSE);
    }
}

/// Asserts that node `i` has the private receipt of every transaction, and that each succeeded.
fn all_there(world: &World, i: usize, accepted: &BTreeSet<B256>) {
    let mut client = world.client(i);
    let hashes: Vec<&B256> = accepted.iter().collect();
    for batch in hashes.chunks(BATCH) {
        let params = batch.iter().map(|hash| json!([hash]));
        let receipts = client
            .batch("eth_getPrivateTransactionReceipt", params)
            .unwrap_or_else(|e| panic!("private receipts of node {i}: {e}"));
        for (hash, receipt) in batch.iter().zip(receipts) {
            let receipt = receipt.unwrap_or_else(|e| panic!("receipt of {hash} on node {i}: {e}"));
            assert_eq!(receipt["status"], "0x1", "{hash} on node {i}: {receipt}");
        }
    }
}

/// Evenly over the chain, the head last.
fn heights(head: u64) -> BTreeSet<u64> {
    (1..=ROOTS).map(|n| head * n / ROOTS).collect()
}

fn number(status: &Value, name: &str) -> u64 {
    let number = status[name].as_u64();
    number.unwrap_or_else(|| panic!("{name} in {status}"))
}
