//! How long a consortium of real processes stands still when its membership changes, and how fast a new node catches up.
//!
//! `cargo bench -p quorate --bench membership` prints the figures; `-- blocks=100000` also makes so many blocks and
//! measures the restart, compaction and pruning with them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    missing_docs,
    unused_crate_dependencies,
    reason = "a measuring program may fail loudly, and shares the tests' consortium"
)]

#[path = "../tests/it/consortium.rs"]
mod consortium;
#[path = "../tests/it/load.rs"]
mod load;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::consortium::{ALICE, BOB, Consortium, http, quorate};
use crate::load::Load;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str| {
        let given = arguments
            .iter()
            .find_map(|a| a.strip_prefix(name)?.strip_prefix('='));
        given.and_then(|n| n.parse::<u64>().ok())
    };
    pauses();
    catch_up(number("transfers").unwrap_or(60_000));
    if let Some(blocks) = number("blocks") {
        large(blocks);
    }
}

fn urls(c: &Consortium, nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|i| c.rpc_url(*i)).collect()
}

fn say(what: &str, gap: Duration, quiet: Duration) {
    println!(
        "{what:<44} longest time without a commit {:>6.0} ms (quiet: {:.0} ms)",
        gap.as_secs_f64() * 1e3,
        quiet.as_secs_f64() * 1e3
    );
}

/// Three members, one client that sends one transfer after the other: what it waits for longest at each step.
fn pauses() {
    let mut c = Consortium::of(3);
    let load = Load::begin(urls(&c, &[0, 1, 2]), ALICE, BOB);
    let settle = || std::thread::sleep(Duration::from_secs(3));
    settle();
    load.longest_gap();
    settle();
    let quiet = load.longest_gap();

    let leader = c.leader();
    let to = (leader + 1) % 3;
    c.member(&["transfer", &(to + 1).to_string()]);
    settle();
    say("graceful transfer", load.longest_gap(), quiet);

    let leader = c.leader();
    c.kill(leader);
    settle();
    say("kill -9 of the leader", load.longest_gap(), quiet);
    c.start(leader);
    c.wait_ready();
    settle();
    load.longest_gap();

    let (_, raft_id) = c.join(0, &[]);
    settle();
    say("add a learner", load.longest_gap(), quiet);
    c.member(&["promote", &raft_id.to_string()]);
    settle();
    say("promote it", load.longest_gap(), quiet);
    c.member(&["remove", &raft_id.to_string()]);
    settle();
    say("remove it", load.longest_gap(), quiet);

    let new: Vec<u64> = (0..3).map(|_| c.join(0, &[]).1).collect();
    load.use_members(urls(&c, &[0, 1, 2, 4, 5, 6]));
    settle();
    load.longest_gap();
    let mut change = vec!["change".to_owned()];
    for id in 1..=3 {
        change.extend(["--remove".to_owned(), id.to_string()]);
    }
    for id in &new {
        change.extend(["--promote".to_owned(), id.to_string()]);
    }
    let change: Vec<&str> = change.iter().map(String::as_str).collect();
    c.member(&change);
    load.use_members(urls(&c, &[4, 5, 6]));
    settle();
    say("replace all three in one change", load.longest_gap(), quiet);
    let report = load.end();
    println!(
        "{} transfers, {} not cured by a retry on another member",
        report.done.len(),
        report.failed.len()
    );
}

/// A new node joins three members under load, once through blocks and once through a state snapshot.
fn catch_up(transfers: u64) {
    let mut c = Consortium::prepared(3);
    for i in 0..3 {
        // A short log, so that a new node cannot simply read it.
        c.configure(i, "trailing_entries = 8192", "trailing_entries = 8");
        c.start(i);
    }
    c.wait_ready();
    let count = transfers.to_string();
    c.bench(
        0,
        &[
            "--count",
            &count,
            "--accounts",
            "10000",
            "--recipients",
            "100000",
        ],
    );
    let load = Load::begin(urls(&c, &[0, 1, 2]), ALICE, BOB);
    let height = c.height(0);

    let (_, seconds) = join_and_reach(&mut c, height, &["--set", "sync.snapshot_distance=0"]);
    println!(
        "catch-up from blocks                         {:.0} tx/s ({transfers} transfers in {height} blocks, {seconds:.1} s, under load)",
        transfers as f64 / seconds
    );

    let (i, seconds) = join_and_reach(&mut c, height, &["--set", "sync.snapshot_distance=1"]);
    let log = c.log(i);
    let field = |name: &str| {
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains("snapshot_bytes="))?;
        let value = line.split(name).nth(1)?.split_whitespace().next()?;
        value.parse::<f64>().ok()
    };
    match field("snapshot_bytes=").zip(field("seconds=")) {
        Some((bytes, fetching)) => println!(
            "catch-up from a state snapshot               {:.1} MB/s ({:.1} MB fetched in {fetching:.2} s; {seconds:.1} s from the start of the \
             process until it follows, under load)",
            bytes / 1e6 / fetching,
            bytes / 1e6
        ),
        None => println!("catch-up from a state snapshot: none was used in {seconds:.1} s"),
    }
    load.end();
}

fn join_and_reach(c: &mut Consortium, height: u64, arguments: &[&str]) -> (usize, f64) {
    let i = c.prepare_joiner(0, arguments);
    let (node_id, address) = (c.node_id(i), c.p2p_address(i));
    c.member(&["add", &node_id, &address]);
    let started = Instant::now();
    c.start(i);
    c.wait("the new node has caught up", || {
        let reached = c.try_rpc(i, "eth_blockNumber", json!([])).ok()?;
        let reached = reached["result"]
            .as_str()?
            .trim_start_matches("0x")
            .to_owned();
        (u64::from_str_radix(&reached, 16).ok()? >= height).then_some(())
    });
    (i, started.elapsed().as_secs_f64())
}

/// One member with many small blocks: how long it takes to open again, and what is on its disk.
fn large(blocks: u64) {
    let mut c = Consortium::of(1);
    let count = blocks.to_string();
    c.bench(
        0,
        &["--count", &count, "--in-flight", "1", "--accounts", "20"],
    );
    let height = c.height(0);
    let data = c.node_dir(0).join("data");
    println!("{height} blocks: {} on disk", usage(&data));
    c.kill(0);
    let started = Instant::now();
    c.start(0);
    c.wait("ready again", || {
        let answer = http(&c.ready_url(0), None).ok()?;
        answer.contains("\"ready\":true").then_some(())
    });
    println!(
        "restart after kill -9 with {height} blocks      {:.2} s until ready, election included",
        started.elapsed().as_secs_f64()
    );
    c.stop(0);
    println!("after a clean stop: {}", usage(&data));
    let below = height.saturating_sub(1_000).to_string();
    let config = c.node_dir(0).join("quorate.toml");
    let output = quorate(&[
        "ledger",
        "prune",
        "--below",
        &below,
        "--config",
        config.to_str().unwrap(),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("after pruning all but 1,000 blocks: {}", usage(&data));
}

/// Bytes on disk per room.
fn usage(data: &Path) -> String {
    let rooms = ["raft", "blocks", "index", "state"].iter().map(|room| {
        let output = Command::new("du")
            .arg("-sb")
            .arg(data.join(room))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let bytes: f64 = text
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0.0);
        format!("{room} {:.1} MB", bytes / 1e6)
    });
    rooms.collect::<Vec<_>>().join(", ")
}
