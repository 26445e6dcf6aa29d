//! Catching up, backups, and the day the majority is gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::consortium::{ALICE, BOB, Consortium, http, quantity, quorate};
use crate::load::Load;

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn blocks(c: &Consortium, i: usize, count: usize) -> u64 {
    let mut height = 0;
    for _ in 0..count {
        let hash = c.transfer(i, ALICE, BOB);
        height = quantity(&c.receipt(i, &hash)["blockNumber"]);
    }
    height
}

fn ledger(c: &Consortium, i: usize, arguments: &[&str]) -> std::process::Output {
    let config = c.node_dir(i).join("quorate.toml");
    let mut all = vec!["ledger"];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&["--config", config.to_str().unwrap()]);
    quorate(&all)
}

fn succeeded(output: &std::process::Output) -> String {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_new_node_begins_with_a_state_snapshot_when_the_blocks_are_far_behind_or_gone() {
    let mut c = Consortium::prepared(3);
    for i in 0..3 {
        c.configure(i, "trailing_entries = 8192", "trailing_entries = 8");
        c.configure(i, "flush_blocks = 256", "flush_blocks = 16");
        c.configure(
            i,
            "block_file_bytes = \"64MiB\"",
            "block_file_bytes = \"64KiB\"",
        );
        c.start(i);
    }
    c.wait_ready();
    c.bench(
        0,
        &["--count", "450", "--in-flight", "1", "--accounts", "2"],
    );
    let height = c.height(0);
    assert!(height > 400, "one block for each transfer: {height}");
    // Old blocks are dropped on all members: nobody can give them any more.
    for i in 0..3 {
        c.stop(i);
        succeeded(&ledger(&c, i, &["prune", "--below", "120"]));
    }
    for i in 0..3 {
        c.start(i);
    }
    c.wait_ready();
    let refused = c.rpc_error(0, "eth_getBlockByNumber", json!(["0x5", false]));
    assert!(
        refused["message"].as_str().unwrap().contains("pruned"),
        "{refused}"
    );
    let load = Load::begin(vec![c.rpc_url(0), c.rpc_url(1)], ALICE, BOB);
    let (i, _) = c.join(0, &["--promote-when-caught-up"]);
    c.wait_roles(0, &[1, 2, 3, 4], &[]);
    let report = load.end();
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(c.log(i).contains("snapshot"), "{}", c.log(i));
    let last = report.done.last().unwrap();
    assert_eq!(c.receipt(i, last), c.receipt(0, last));
    assert!(c.height(i) > height);
    // The youngest block that both surely have.
    let reached = quantity(&c.receipt(i, last)["blockNumber"]);
    assert_eq!(c.block(i, reached), c.block(0, reached));
    let refused = c.rpc_error(i, "eth_getBlockByNumber", json!(["0x80", false]));
    assert_eq!(refused["code"], 4444, "{refused}");
    let balance = |n: usize| c.rpc(n, "eth_getBalance", json!([BOB, format!("{reached:#x}")]));
    assert_eq!(balance(i), balance(0));
    // What began with a snapshot restarts like any other, and its ledger can be verified as far as it reaches.
    c.kill(i);
    c.start(i);
    c.wait_ready();
    let hash = c.transfer(i, ALICE, BOB);
    c.receipt(0, &hash);
    c.stop(i);
    succeeded(&ledger(&c, i, &["verify"]));
    // Without its state, and without the blocks that could explain it, it begins anew with another snapshot.
    std::fs::remove_dir_all(c.node_dir(i).join("data/state")).unwrap();
    c.start(i);
    c.wait("the node follows again", || {
        let answer = http(&c.ready_url(i), None).ok()?;
        answer.contains("\"ready\":true").then_some(())
    });
    let hash = c.transfer(i, ALICE, BOB);
    assert_eq!(c.receipt(i, &hash), c.receipt(0, &hash));
    let balance = |n: usize| c.rpc(n, "eth_getBalance", json!([BOB, "latest"]));
    assert_eq!(balance(i), balance(0));
}

#[test]
fn a_node_restored_from_an_older_backup_catches_up_before_it_votes_again() {
    let mut c = Consortium::of(3);
    blocks(&c, 0, 10);
    let old = (c.leader() + 1) % 3;
    let data = c.node_dir(old).join("data");
    let backup = c.node_dir(old).join("backup");
    c.stop(old);
    copy_folder(&data, &backup);
    c.start(old);
    c.wait_ready();
    let height = blocks(&c, old, 30);
    c.kill(old);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&backup, &data).unwrap();
    c.start(old);
    c.wait_ready();
    c.assert_same_chain(height);
    c.wait("it says that its disk was older than its promises", || {
        c.log(old).contains("older").then_some(())
    });
    // It counts again.
    let other = (0..3).find(|i| *i != old && *i != c.leader()).unwrap();
    c.kill(other);
    let hash = c.transfer(old, ALICE, BOB);
    assert_eq!(c.receipt(old, &hash)["status"], "0x1");
}

#[test]
fn the_ledger_is_verified_exported_and_imported_offline() {
    let mut c = Consortium::of(3);
    let height = blocks(&c, 0, 40);
    let busy = ledger(&c, 0, &["verify"]);
    assert_eq!(
        busy.status.code(),
        Some(4),
        "a running node's folder is not touched"
    );
    c.stop(0);
    let verified = succeeded(&ledger(&c, 0, &["verify", "--json"]));
    let verified: Value = serde_json::from_str(&verified).unwrap();
    assert!(
        verified.to_string().contains(&height.to_string()),
        "{verified}"
    );
    let out = c.net_dir().join("export");
    succeeded(&ledger(&c, 0, &["export", "--out", out.to_str().unwrap()]));
    // Into a fresh folder of the same consortium.
    let fresh = c.net_dir().join("fresh");
    fs::create_dir_all(&fresh).unwrap();
    fs::copy(c.net_dir().join("genesis.json"), fresh.join("genesis.json")).unwrap();
    let fresh_dir = fresh.to_str().unwrap();
    succeeded(&quorate(&[
        "ledger",
        "import",
        "--from",
        out.to_str().unwrap(),
        "--data-dir",
        fresh_dir,
    ]));
    succeeded(&quorate(&["ledger", "verify", "--data-dir", fresh_dir]));
    // A flipped bit in a block is found.
    let blocks_dir = fresh.join("blocks");
    let segment = fs::read_dir(&blocks_dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file())
        .max_by_key(|p| fs::metadata(p).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[2_000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let damaged = quorate(&["ledger", "verify", "--data-dir", fresh_dir]);
    assert!(!damaged.status.success());
    c.start(0);
    c.wait_ready();
    c.assert_same_chain(height);
}

#[test]
fn one_survivor_begins_anew_and_everyone_can_see_it_ever_after() {
    let mut c = Consortium::of(3);
    let height = blocks(&c, 0, 10);
    c.assert_same_chain(height);
    let survivor = (c.leader() + 1) % 3;
    for i in 0..3 {
        c.kill(i);
    }
    let config = c.node_dir(survivor).join("quorate.toml");
    let config = config.to_str().unwrap().to_owned();
    let shown = quorate(&["recover", "--show", "--json", "--config", &config]);
    let shown: Value = serde_json::from_str(&succeeded(&shown)).unwrap();
    assert_eq!(shown["raftId"], survivor as u64 + 1);
    succeeded(&quorate(&[
        "recover",
        "--force-new-cluster",
        "--note",
        "the others burnt down",
        "--config",
        &config,
    ]));
    c.start(survivor);
    c.wait_ready();
    let hash = c.transfer(survivor, ALICE, BOB);
    assert!(quantity(&c.receipt(survivor, &hash)["blockNumber"]) > height);
    c.wait_roles(survivor, &[survivor as u64 + 1], &[]);
    // A new member sees the break too, and one of the lost that comes back is told that it is out.
    let (new, raft_id) = c.join(survivor, &["--promote-when-caught-up"]);
    assert_eq!(raft_id, 4);
    c.wait_roles(new, &[survivor as u64 + 1, 4], &[]);
    let view = c.membership(new);
    assert_eq!(view["breaks"][0]["note"], "the others burnt down");
    assert_eq!(view["breaks"][0]["survivor"], survivor as u64 + 1);
    assert_eq!(view["removed"].as_array().unwrap().len(), 2);
    let lost = (0..3).find(|i| *i != survivor).unwrap();
    c.start(lost);
    assert_eq!(c.exit_code(lost), Some(15), "{}", c.log(lost));
    std::thread::sleep(Duration::from_millis(10));
    assert!(c.is_running(survivor) && c.is_running(new));
}
