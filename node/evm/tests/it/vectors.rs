//! A portion of Ethereum's public vectors, if they are there. All of them: the example `state-vectors`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{self, SkipList};

/// Folders that are run here: every fork, every format, a minute at most without optimisation.
const PORTION: [&str; 12] = [
    "GeneralStateTests/stExample",
    "GeneralStateTests/stTransactionTest",
    "GeneralStateTests/stTransitionTest",
    "GeneralStateTests/stEIP1559",
    "GeneralStateTests/stEIP2930",
    "GeneralStateTests/stSelfBalance",
    "GeneralStateTests/stSystemOperationsTest",
    "GeneralStateTests/Cancun",
    "GeneralStateTests/Pyspecs/cancun",
    "GeneralStateTests/Shanghai",
    "TransactionTests",
    "RLPTests",
];

fn archive() -> PathBuf {
    let folder = match std::env::var_os("QUORATE_VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
    };
    folder.join("ethereum-tests.tar.xz")
}

#[test]
fn a_portion_of_the_public_vectors_passes() {
    let archive = archive();
    if !archive.exists() {
        println!(
            "skipped: a_portion_of_the_public_vectors_passes ({} is not there)",
            archive.display()
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(unpacked.success());
    let skips =
        SkipList::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors-skip.txt")).unwrap();
    let paths: Vec<PathBuf> = PORTION
        .iter()
        .map(|part| folder.path().join(part))
        .collect();
    let tally = runner::run(&paths, &skips, 2).unwrap();
    assert!(tally.failures.is_empty(), "{}", tally.failures.join("\n"));
    assert!(
        tally.passed > 3_000,
        "only {} passed, {} skipped",
        tally.passed,
        tally.skipped
    );
}

#[test]
fn a_wrong_expectation_is_noticed() {
    // The runner must be able to fail: one vector, once as it is and once with another root.
    let archive = archive();
    if !archive.exists() {
        println!(
            "skipped: a_wrong_expectation_is_noticed ({} is not there)",
            archive.display()
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .args([
            "-xJf".as_ref(),
            archive.as_os_str(),
            "-C".as_ref(),
            folder.path().as_os_str(),
        ])
        .args(["--wildcards", "*stExample/mergeTest.json"])
        .status()
        .unwrap();
    assert!(unpacked.success());
    let file = folder
        .path()
        .join("GeneralStateTests/stExample/mergeTest.json");
    let run = || runner::run(std::slice::from_ref(&file), &SkipList::default(), 1).unwrap();
    let good = run();
    assert!(good.failures.is_empty() && good.passed > 0);
    let text = std::fs::read_to_string(&file).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let root = json
        .pointer("/mergeTest/post/Cancun/0/hash")
        .and_then(serde_json::Value::as_str)
        .unwrap();
    std::fs::write(&file, text.replace(root, &format!("0x{}", "11".repeat(32)))).unwrap();
    assert_eq!(run().failures.len(), 1);
}
