//! A handful of runs of the chaos harness; `make chaos` makes many, with fail points.

use std::path::PathBuf;
use std::time::Duration;

use quorate_chaos::{Options, campaign};

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
