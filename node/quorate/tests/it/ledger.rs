//! `quorate ledger` on the folder of a node that has really run.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::consortium::{ALICE, BOB, Consortium, quorate};

/// Runs `quorate ledger …`; gives back the exit code and what was printed as JSON.
fn ledger(arguments: &[&str]) -> (i32, Value) {
    let output = quorate(&[&["ledger"], arguments, &["--json"]].concat());
    let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), printed)
}

fn segment(c: &Consortium) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![c.node_dir(0)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "seg")
                && path.to_str().unwrap().contains("blocks-")
            {
                found.push(path);
            }
        }
    }
    found.pop().unwrap()
}

#[test]
fn the_blocks_of_a_stopped_node_are_verified_exported_imported_elsewhere_and_pruned() {
    let mut c = Consortium::of(1);
    for _ in 0..12 {
        let hash = c.transfer(0, ALICE, BOB);
        c.receipt(0, &hash);
    }
    let head = c.height(0);
    let config = c.node_dir(0).join("quorate.toml");
    let config = config.to_str().unwrap();
    // In use.
    assert_eq!(ledger(&["verify", "--config", config]).0, 4);
    let latest = c.rpc(0, "eth_getBlockByNumber", json!(["latest", false]));
    c.stop(0);

    let node_id = c.node_id(0);
    let (code, report) = ledger(&["verify", "--config", config, "--sealers", &node_id]);
    assert_eq!((code, &report["good"]), (0, &json!(true)), "{report}");
    assert_eq!(
        (&report["base"], &report["head"]),
        (&json!(1), &json!(head))
    );
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["heights"][1], json!(head), "{check}");
    }

    let out = TempDir::new().unwrap();
    let export = out.path().join("export");
    let export = export.to_str().unwrap();
    let (code, report) = ledger(&["export", "--config", config, "--out", export]);
    assert_eq!(
        (code, &report["lastHash"]),
        (0, &latest["hash"]),
        "{report}"
    );
    assert_eq!(
        ledger(&["export", "--config", config, "--out", export]).0,
        1
    );

    let fresh = out.path().join("fresh");
    let fresh = fresh.to_str().unwrap();
    let genesis = c.net_dir().join("genesis.json");
    let init = [
        "init",
        "--genesis",
        genesis.to_str().unwrap(),
        "--data-dir",
        fresh,
    ];
    assert!(quorate(&init).status.success());
    assert_eq!(ledger(&["verify", "--data-dir", fresh]).0, 4);
    for (imported, skipped) in [(head, 0), (0, head)] {
        let (code, report) = ledger(&["import", "--data-dir", fresh, "--from", export]);
        assert_eq!(
            (code, &report["headHash"]),
            (0, &latest["hash"]),
            "{report}"
        );
        assert_eq!(report["imported"], json!(imported));
        assert_eq!(report["skipped"], json!(skipped));
    }
    let (code, report) = ledger(&["verify", "--data-dir", fresh]);
    assert_eq!((code, &report["head"]), (0, &json!(head)), "{report}");
    // A chain this short keeps all its blocks.
    let (code, report) = ledger(&["prune", "--data-dir", fresh, "--keep", "1"]);
    assert_eq!((code, &report["base"]), (0, &json!(1)), "{report}");

    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(segment(&c)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 300).unwrap();
    let (code, report) = ledger(&["verify", "--config", config]);
    assert_eq!((code, &report["good"]), (11, &json!(false)), "{report}");
    assert_eq!(report["faults"][0]["kind"], "record");
    assert_eq!(report["faults"][0]["height"], json!(1));
}
