//! What we promise about the code, as a test: who may know whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::consortium::workspace;

/// Room → rooms that it may use. A new edge needs an ADR.
const EDGES: &[(&str, &[&str])] = &[
    ("quorate-proto", &[]),
    ("quorate-fail-points", &[]),
    // Runs nodes as processes; no node links it.
    ("quorate-chaos", &["quorate-fail-points", "quorate-proto"]),
    ("raft-adapter", &[]),
    ("raft-adapter-sim", &["raft-adapter"]),
    ("quorate-kv", &[]),
    ("quorate-chain", &["quorate-kv"]),
    ("quorate-state", &["quorate-kv", "quorate-chain"]),
    ("quorate-evm", &["quorate-chain", "quorate-state"]),
    (
        "quorate-pool",
        &["quorate-chain", "quorate-state", "quorate-evm"],
    ),
    ("quorate-enclave", &["quorate-kv"]),
    (
        "quorate-privacy",
        &[
            "quorate-kv",
            "quorate-chain",
            "quorate-state",
            "quorate-evm",
            "quorate-enclave",
        ],
    ),
    (
        "quorate-exchange",
        &[
            "quorate-kv",
            "quorate-chain",
            "quorate-enclave",
            "quorate-privacy",
        ],
    ),
    ("quorate-p2p", &["quorate-proto"]),
    (
        "quorate-engine",
        &[
            "quorate-chain",
            "quorate-state",
            "quorate-evm",
            "quorate-pool",
            "raft-adapter",
        ],
    ),
    (
        "quorate-rpc",
        &[
            "quorate-proto",
            "quorate-chain",
            "quorate-state",
            "quorate-evm",
            "quorate-pool",
            "quorate-engine",
            "quorate-enclave",
            "quorate-privacy",
            "raft-adapter",
        ],
    ),
    // Tries the decoders of all rooms; no node links it.
    (
        "quorate-fuzz",
        &[
            "quorate",
            "quorate-proto",
            "quorate-kv",
            "quorate-chain",
            "quorate-state",
            "quorate-evm",
            "quorate-enclave",
            "quorate-privacy",
            "quorate-exchange",
            "quorate-p2p",
            "quorate-pool",
            "quorate-engine",
            "quorate-rpc",
            "raft-adapter",
        ],
    ),
];

/// Any room may have it behind its feature `fail-points`, which no build for production has.
const FAIL_POINTS: &str = "quorate-fail-points";

/// Foreign crate → the rooms that may name it.
const OWNERS: &[(&str, &[&str])] = &[
    ("sled", &["quorate-kv"]),
    ("revm", &["quorate-evm"]),
    ("raft", &["raft-adapter"]),
    ("libp2p", &["quorate-p2p"]),
    ("jsonrpsee", &["quorate-rpc"]),
];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let named = |v: &Value| v["name"].as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|d| d["kind"].is_null());
            (named(package), normal.map(named).collect())
        })
        .collect()
}

#[test]
fn rooms_know_only_whom_they_may_know() {
    let dependencies = dependencies();
    let rooms: BTreeSet<&String> = dependencies.keys().collect();
    let listed: BTreeSet<&str> = EDGES
        .iter()
        .map(|(room, _)| *room)
        .chain(["quorate"])
        .collect();
    assert_eq!(
        rooms.iter().map(|r| r.as_str()).collect::<BTreeSet<_>>(),
        listed
    );
    for (room, allowed) in EDGES {
        let used = dependencies[*room].iter();
        for used in used.filter(|d| rooms.contains(d) && *d != FAIL_POINTS) {
            assert!(
                allowed.contains(&used.as_str()),
                "{room} must not know {used}"
            );
        }
    }
}

#[test]
fn foreign_crates_stay_in_the_rooms_that_own_them() {
    for (room, used) in dependencies() {
        for (foreign, owners) in OWNERS {
            assert!(
                !used.contains(*foreign) || owners.contains(&room.as_str()),
                "{room} must not name {foreign}"
            );
        }
    }
}
