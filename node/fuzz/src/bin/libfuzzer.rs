//! libFuzzer on the target that the environment names; without one, a campaign over all targets:
//!
//! ```text
//! libfuzzer --seconds N [--target NAME] --folder DIR     figures on standard output, exit 0 only if every target held
//! QUORATE_FUZZ_TARGET=NAME libfuzzer FILE                one input again
//! ```
#![no_main]
#![allow(
    unsafe_code,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "libFuzzer's entry points are C functions, and this is a program of its own"
)]

use std::{path::PathBuf, process, sync::OnceLock, time::Duration};

use libfuzzer_sys::{Corpus, fuzz_target};
use quorate_fuzz::{
    Target,
    campaign::{Campaign, TARGET_VARIABLE, table},
};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(init: begin(), |bytes: &[u8]| -> Corpus {
    match TARGET.get() {
        Some(target) => {
            // Whether it is taken is no reason to keep an input or not: the way through the code is.
            let _taken = (target.run)(bytes);
            Corpus::Keep
        }
        None => Corpus::Reject,
    }
});

/// libFuzzer calls this before anything else.
fn begin() {
    let Ok(name) = std::env::var(TARGET_VARIABLE) else {
        process::exit(campaign());
    };
    let Some(target) = quorate_fuzz::target(&name) else {
        eprintln!("no target is called {name}");
        process::exit(2);
    };
    if target.catches_panics {
        // libFuzzer's hook would end the process before the room can say what it makes of the panic.
        std::panic::set_hook(Box::new(|_| {}));
    }
    // Called once.
    TARGET.get_or_init(|| *target);
}

fn campaign() -> i32 {
    let Some(campaign) = arguments() else {
        eprintln!("usage: libfuzzer --seconds N --folder DIR [--target NAME]");
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
    let (mut seconds, mut only, mut folder) = (None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--seconds" => seconds = Some(value.parse().ok()?),
            "--target" => only = Some(value),
            "--folder" => folder = Some(PathBuf::from(value)),
            _ => return None,
        }
    }
    Some(Campaign {
        seconds: seconds?,
        only: only.filter(|name| !name.is_empty()),
        folder: folder?,
        program: std::env::current_exe().ok()?,
    })
}
