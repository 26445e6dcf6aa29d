//! Every planted mistake is found, and quickly: for each, a run is known that comes upon it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends by panicking and may say what it saw"
)]

use raft_adapter::PlantedBug;
use raft_adapter_sim::{Campaign, LATER, Options, run, shrink};

/// Seeds searched at most, from the first that `near` names. A change of the simulation, or of what members send each other, makes
/// other histories of the same seeds; `sim --planted` tells where each mistake shows then.
const SEEDS_MAX: u64 = 150;

/// Where the rarer ones show soon: the first seed, or a whole line of a run that once failed by that very mistake.
fn near(bug: PlantedBug) -> Options {
    match bug {
        PlantedBug::ForgetCommitBeforeChange => line(
            "sim --seed 10008914 --steps 1304 --members 3 --without loss,duplication,partition,power-loss,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,bit-flip,disk-full,failed-sync,slow-disk,old-disk,wipe,clock-skew,pause,change,retry,transfer,remove-leader",
        ),
        PlantedBug::DeafToOlderTerms => line(
            "sim --seed 20137241 --members 3 --without loss,duplication,one-way-cut,kill,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,write-error,failed-sync,slow-disk,wipe,pause,change,transfer,remove-leader,orderly-stop",
        ),
        PlantedBug::ForgetCutTerms => line(
            "sim --seed 20117812 --members 3 --without loss,duplication,reordering,kill,power-loss,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,write-error,disk-full,clock-skew,pause,forced-change,retry,transfer,remove-leader,orderly-stop",
        ),
        PlantedBug::ManifestSaysNothing => line(
            "sim --seed 20229552 --members 3 --without loss,duplication,reordering,partition,kill,power-loss,interrupted-operation,lost-writes,torn-sectors,lost-directory-entries,read-error,write-error,disk-full,failed-sync,slow-disk,old-disk,clock-skew,change,retry,transfer,remove-leader,orderly-stop",
        ),
        PlantedBug::ForgetVote | PlantedBug::RemoveFilesEarly => Options::seed(30),
        PlantedBug::ChangeManyWithoutJoint => Options::seed(235),
        PlantedBug::LeadAfterRemoval => Options::seed(60),
        PlantedBug::ReuseId => Options::seed(80),
        PlantedBug::SoleVoterSpeaksEarly | PlantedBug::RemovedStaysSilent => Options::seed(205),
        PlantedBug::BeginFileUnsynced => Options::seed(325),
        PlantedBug::KeepProgressOfOldDisk => Options::seed(615),
        PlantedBug::CommitOfTornReplacement => Options::seed(920),
        PlantedBug::VoteWhileBehind | PlantedBug::ForgetFloor => Options::seed(1250),
        _ => Options::seed(0),
    }
}

fn line(text: &str) -> Options {
    let mut options: Options = text.parse().unwrap();
    options.without.extend(LATER);
    options
}

fn search(bug: PlantedBug) -> Campaign {
    let near = near(bug);
    Campaign {
        first: near.seed,
        seeds: SEEDS_MAX,
        threads: 2,
        template: Options {
            planted: Some(bug),
            ..near
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
    assert_eq!(small.to_string().parse(), Ok(small));
}
