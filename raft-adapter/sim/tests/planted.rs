//! Every planted mistake is found within a bounded number of seeds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends by panicking and may say what it saw"
)]

use raft_adapter::PlantedBug;
use raft_adapter_sim::{Campaign, Fault, Options, run, shrink};

/// Several times what the slowest of them needs.
const SEEDS_MAX: u64 = 6000;

/// Where to look first for those that are rare: a few seeds before the first that shows them from 0 on. `sim --planted`
/// tells how many seeds each takes from any other place.
fn first_seed(bug: PlantedBug) -> u64 {
    match bug {
        PlantedBug::SoleVoterSpeaksEarly => 1525,
        PlantedBug::VoteWhileBehind | PlantedBug::ForgetFloor => 1250,
        PlantedBug::KeepProgressOfOldDisk => 1010,
        PlantedBug::CommitOfTornReplacement => 920,
        PlantedBug::RemovedStaysSilent => 210,
        PlantedBug::ForgetCommitBeforeChange => 10_008_900,
        PlantedBug::DeafToOlderTerms => 20_137_200,
        _ => 0,
    }
}

fn search(bug: PlantedBug) -> Campaign {
    Campaign {
        first: first_seed(bug),
        seeds: SEEDS_MAX,
        threads: 2,
        template: Options {
            planted: Some(bug),
            ..Options::default()
        },
        shrinks: false,
        stops_early: true,
    }
}

#[test]
fn every_planted_mistake_is_found() {
    // A core that panics says so in its violation.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in PlantedBug::ALL {
        let report = search(*bug).run();
        match report.failures.values().next() {
            Some(failure) => println!("{bug:?}: seed {}, {}", failure.seed, failure.violation.rule),
            None => missed.push(*bug),
        }
    }
    drop(std::panic::take_hook());
    assert!(
        missed.is_empty(),
        "not found in {SEEDS_MAX} seeds: {missed:?}"
    );
    assert!(PlantedBug::ALL.len() >= 15);
}

#[test]
fn a_failing_seed_is_shrunk_and_its_line_repeats_it() {
    let report = search(PlantedBug::SendBeforeSync).run();
    let failure = report.failures.values().next().unwrap();
    let failed = run(&failure.options);
    let (small, outcome) = shrink(&failure.options, &failed);
    let violation = outcome.violation.clone().unwrap();
    assert_eq!(violation.rule, failed.violation.unwrap().rule);
    assert!(outcome.steps <= failed.steps);
    assert!(!small.without.is_empty(), "some kinds are not needed");
    let again = run(&small);
    assert_eq!(again.violation, Some(violation));
    assert_eq!(again.sum, outcome.sum);
    let line = small.to_string();
    assert!(
        line.starts_with(&format!("sim --seed {}", small.seed)),
        "{line}"
    );
    for fault in Fault::ALL {
        assert_eq!(line.contains(fault.label()), small.without.contains(fault));
    }
}
