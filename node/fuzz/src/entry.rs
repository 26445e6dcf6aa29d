//! What all fuzzing binaries have in common: libFuzzer calls [`begin`] once and [`run`] for each input.

use std::{process, sync::OnceLock};

pub use libfuzzer_sys::{Corpus, fuzz_target};

use crate::{Room, Target, campaign::TARGET_VARIABLE};

static TARGET: OnceLock<Target> = OnceLock::new();

/// Chooses the target of the room that the environment names. Ends the process if there is none.
#[allow(
    clippy::print_stderr,
    clippy::exit,
    reason = "part of a program of its own"
)]
pub fn begin(room: &Room) {
    let name = std::env::var(TARGET_VARIABLE).unwrap_or_default();
    let Some(target) = room.targets.iter().find(|target| target.name == name) else {
        let names: Vec<&str> = room.targets.iter().map(|target| target.name).collect();
        eprintln!("{TARGET_VARIABLE} must be one of {}", names.join(", "));
        process::exit(2);
    };
    if target.catches_panics {
        // libFuzzer's hook would end the process before the room can say what it makes of the panic.
        std::panic::set_hook(Box::new(tell_of_ours));
    }
    // Called once.
    TARGET.get_or_init(|| *target);
}

/// Shows panics of our own code; those of libraries are caught and judged.
#[allow(clippy::print_stderr, reason = "part of a program of its own")]
fn tell_of_ours(panic: &std::panic::PanicHookInfo<'_>) {
    let of_library = |file: &str| file.contains("/registry/");
    if !panic.location().is_some_and(|at| of_library(at.file())) {
        eprintln!("{panic}");
    }
}

/// Gives the target an input. Whether it is taken is no reason to keep it or not: the way through the code is.
pub fn run(bytes: &[u8]) -> Corpus {
    match TARGET.get() {
        Some(target) => {
            let _taken = (target.run)(bytes);
            Corpus::Keep
        }
        None => Corpus::Reject,
    }
}

/// The whole of a fuzzing binary: the targets of one room.
#[macro_export]
macro_rules! fuzz_room {
    ($room:expr) => {
        $crate::entry::fuzz_target!(
            init: $crate::entry::begin(&$room),
            |bytes: &[u8]| -> $crate::entry::Corpus { $crate::entry::run(bytes) }
        );
    };
}
