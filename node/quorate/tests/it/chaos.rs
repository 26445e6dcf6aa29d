//! A handful of runs of the chaos harness; `make chaos` makes many, with fail points.

use std::path::PathBuf;
use std::time::Duration;

use quorate_chaos::{ContainerOptions, Options, campaign, run_containers};
use serde_json::{Value, json};

use crate::consortium::{Consortium, quorate, workspace};
use crate::outside;

#[test]
fn what_clients_were_promised_holds_whatever_is_done_to_the_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_quorate")),
        out: folder.path().to_owned(),
        nodes: (3, 4),
        lasts: Duration::from_secs(3),
        with_points: cfg!(feature = "fail-points"),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut failures = Vec::new();
    let totals = runtime.block_on(campaign(&options, 0..4, 2, |outcome| {
        if !outcome.violations.is_empty() {
            failures.push(format!("seed {}: {:?}", outcome.seed, outcome.violations));
        }
    }));
    if !failures.is_empty() {
        // The evidence must outlive the test.
        let kept = folder.keep();
        panic!("{failures:#?}\nfiles in {}", kept.display());
    }
    assert_eq!(totals.runs, 4);
}

const CONTAINERS: &str =
    "what_clients_were_promised_holds_when_containers_are_killed_frozen_cut_off_and_removed";

#[test]
fn what_clients_were_promised_holds_when_containers_are_killed_frozen_cut_off_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let deploy = workspace().join("deploy");
    let options = ContainerOptions {
        binary: match std::env::var_os("QUORATE_STATIC_BINARY") {
            Some(path) => PathBuf::from(path),
            None => deploy.join("out/quorate"),
        },
        deploy,
        out: folder.path().to_owned(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(why) = runtime.block_on(options.why_not()) {
        return outside::not_here("containers", CONTAINERS, &why);
    }
    let outcome = runtime.block_on(run_containers(&options, 3));
    if !outcome.violations.is_empty() {
        let kept = folder.keep();
        panic!("{:#?}\nfiles in {}", outcome.violations, kept.display());
    }
    let kinds = [
        "killed",
        "frozen",
        "off the network",
        "restarted",
        "removed",
    ];
    for kind in kinds {
        let mut done = outcome.faults.keys();
        assert!(
            done.any(|fault| fault.contains(kind)),
            "{kind}: {outcome:?}"
        );
    }
    assert!(outcome.acknowledged > 20, "{outcome:?}");
}

/// Where the first record of a block file begins.
const FILE_HEADER_BYTES: usize = 40;

#[test]
fn a_node_mends_blocks_that_were_damaged_at_rest_from_the_other_members() {
    let mut c = Consortium::of(3);
    c.wait_ready();
    c.bench(0, &["--count", "40", "--in-flight", "1", "--accounts", "2"]);
    let height = c.height(0);
    assert!(height > 20, "{height}");
    c.wait("node 1 has it too", || {
        (c.height(1) >= height).then_some(())
    });
    c.stop(1);
    let blocks = c.node_dir(1).join("data/blocks");
    let file = blocks.join("blocks-000000000001.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    let whole = bytes.clone();
    // The first block, and some in the middle.
    let middle = bytes.len() / 2;
    for byte in bytes[middle..middle + 1_500].iter_mut().step_by(100) {
        *byte ^= 0x10;
    }
    bytes[FILE_HEADER_BYTES + 30] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    c.start(1);
    c.wait_ready();

    // Whoever reads such a block learns that it is not to be had, never anything wrong.
    let read = |c: &Consortium, i: usize| -> Vec<Value> {
        let blocks = (1..=height).map(|h| {
            let answer = c.try_rpc(i, "eth_getBlockByNumber", json!([format!("{h:#x}"), true]));
            answer.unwrap()["result"].take()
        });
        blocks.collect()
    };
    let expected = read(&c, 0);
    let unread: Vec<usize> = (0..expected.len())
        .zip(read(&c, 1))
        .filter(|(at, block)| *block != expected[*at])
        .map(|(at, block)| {
            assert!(block.is_null(), "{block}");
            at
        })
        .collect();
    assert!(unread.len() >= 2 && unread[0] == 0, "{unread:?}");
    c.wait("node 1 has mended its blocks", || {
        (read(&c, 1) == expected).then_some(())
    });
    let metrics = c.metrics(1);
    let mended = format!("quorate_blocks_mended_total {}", unread.len());
    assert!(metrics.contains(&mended), "{mended}\n{metrics}");
    c.wait("the gauge is back", || {
        c.metrics(1)
            .contains("quorate_blocks_damaged 0")
            .then_some(())
    });
    // In the file as well: nothing else has changed, and receipts are those that the others give.
    c.stop(1);
    assert_eq!(std::fs::read(&file).unwrap().len(), whole.len());
    c.start(1);
    c.wait_ready();
    assert_eq!(read(&c, 1), expected);
    for block in &expected {
        let hash = block["transactions"][0]["hash"].as_str().unwrap();
        assert_eq!(c.receipt(1, hash), c.receipt(0, hash));
    }
    let config = c.node_dir(1).join("quorate.toml");
    c.stop(1);
    let verified = quorate(&["ledger", "verify", "--config", config.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_node_that_is_told_to_stop_right_after_its_start_stops_in_order() {
    let mut c = Consortium::of(3);
    c.wait_ready();
    // From its first word on, through the opening of its files, to the first seconds of its work.
    for wait_ms in [0, 0, 0, 20, 60, 180, 500] {
        c.stop(2);
        let said = c.log(2).len();
        c.start(2);
        c.wait("it says that it starts", || {
            (c.log(2).len() > said).then_some(())
        });
        std::thread::sleep(Duration::from_millis(wait_ms));
    }
    c.stop(2);
}
