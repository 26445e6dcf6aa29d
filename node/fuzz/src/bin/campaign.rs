//! Runs libFuzzer on all targets, or on one, each in a process of the binary of its room, which lies beside this one:
//!
//! ```text
//! campaign (--seconds N | --executions N) [--target NAME] --folder DIR   figures on standard output, exit 0 only if all held
//! QUORATE_FUZZ_TARGET=NAME fuzz-ROOM FILE                                 one input again
//! ```
#![no_main]
#![allow(
    unsafe_code,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "libFuzzer's entry points are C functions, and this is a program of its own"
)]

use std::{path::PathBuf, process, time::Duration};

use quorate_fuzz::campaign::{Campaign, Extent, table};

// Whatever is compiled for libFuzzer has its entry points; this program ends before anything is tried.
libfuzzer_sys::fuzz_target!(init: process::exit(campaign()), |_bytes: &[u8]| {});

fn campaign() -> i32 {
    let Some(campaign) = arguments() else {
        eprintln!("usage: campaign (--seconds N | --executions N) --folder DIR [--target NAME]");
        return 2;
    };
    let outcomes = campaign.run(|outcome| {
        let said = campaign.log(outcome.target);
        let after = Duration::from_secs(outcome.took.as_secs());
        match outcome.held {
            true => eprintln!("{}: held for {after:?}", outcome.target),
            false => eprintln!(
                "{}: CRASHED after {after:?}, see {}",
                outcome.target,
                said.display()
            ),
        }
    });
    match outcomes {
        Ok(outcomes) => {
            print!("{}", table(&outcomes));
            i32::from(outcomes.iter().any(|outcome| !outcome.held))
        }
        Err(error) => {
            eprintln!("{error}");
            2
        }
    }
}

fn arguments() -> Option<Campaign> {
    let (mut extent, mut only, mut folder) = (None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--seconds" => extent = Some(Extent::Seconds(value.parse().ok()?)),
            "--executions" => extent = Some(Extent::Executions(value.parse().ok()?)),
            "--target" => only = Some(value),
            "--folder" => folder = Some(PathBuf::from(value)),
            _ => return None,
        }
    }
    let program = std::env::current_exe().ok()?;
    Some(Campaign {
        extent: extent?,
        only: only.filter(|name| !name.is_empty()),
        folder: folder?,
        programs: program.parent()?.to_owned(),
    })
}
