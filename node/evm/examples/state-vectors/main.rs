//! Runs Ethereum's public vectors through our executor and our state.
//!
//! `state-vectors [--skip FILE] PATH…` walks the paths, prints one line per failure and `N passed, N failed, N skipped` at the
//! end. The exit code is 1 if any case failed, 2 if nothing could be run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command whose output is its purpose"
)]

mod runner;

use std::path::PathBuf;
use std::process::ExitCode;

use runner::SkipList;

/// Threads: states are in memory, and two cores are what we count on.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let mut skip_file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors-skip.txt");
    let mut paths = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--skip" {
            match arguments.next() {
                Some(file) => skip_file = file.into(),
                None => return usage("--skip needs a file"),
            }
        } else {
            paths.push(PathBuf::from(argument));
        }
    }
    if paths.is_empty() {
        return usage("no folder given");
    }
    let skips = match SkipList::read(&skip_file) {
        Ok(skips) => skips,
        Err(reason) => return usage(&reason),
    };
    let tally = match runner::run(&paths, &skips, THREADS) {
        Ok(tally) => tally,
        Err(reason) => return usage(&reason),
    };
    for failure in &tally.failures {
        println!("FAILED {failure}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed,
        tally.failures.len(),
        tally.skipped
    );
    if !tally.failures.is_empty() {
        ExitCode::from(1)
    } else if tally.passed == 0 {
        usage("no case was run")
    } else {
        ExitCode::SUCCESS
    }
}

fn usage(reason: &str) -> ExitCode {
    eprintln!("{reason}\nusage: state-vectors [--skip FILE] PATH…");
    ExitCode::from(2)
}
