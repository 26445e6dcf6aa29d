//! # What it is
//! The named places where a node can be made to fail, to wait or to panic: their list, how a room passes one, and how a test
//! of whole processes arms them. Rooms use it only with their feature `fail-points`, which no build for production has.
//!
//! # Flow
//! ```text
//! FAILPOINTS at start ──┐
//!                       ├─► armed ──► a room passes the place ─► nothing | sleep | panic | an I/O error
//! DIR/set, polled ──────┘                                   └──► a line in DIR/reached
//! ```
//! DIR is what the variable `QUORATE_FAIL_POINTS_DIR` names. `DIR/set` holds lines `name=actions` in the language of the
//! crate `fail`, and always says all that is armed. `DIR/reached` gets `ready` when the file is being watched, `reached NAME` when a
//! process passes a place for the first time, and `fired NAME` when it first passes it armed.
//!
//! # You must
//! 1. Call [`watch`] once, before anything else of the process runs.
//! 2. List every place in [`POINTS`]; a test of the crate `quorate-chaos` compares the list with the sources.
//!
//! # It promises
//! - A place that is not armed does nothing but note that it was passed.
//!
//! # It does not
//! Decide what is armed when; that is the harness.
//!
//! # Read next
//! `points.rs`, `control.rs`, `errors.rs`.

mod control;
mod errors;
mod points;

pub use crate::control::{WatchError, watch};
pub use crate::errors::io_error;
pub use crate::points::{Effect, POINTS, Point};

/// Passes the place `name`: as armed, it goes on, waits, or panics.
///
/// # Panics
/// If it is armed to.
pub fn pass(name: &'static str) {
    control::note(name);
    fail::eval(name, |_| ());
}

/// Passes the place `name`, where an error of the system can be pretended: it is given back if it is armed with `return(NAME)`,
/// such as `return(ENOSPC)`; see [`io_error`].
///
/// # Panics
/// If it is armed to.
#[must_use]
pub fn error(name: &'static str) -> Option<std::io::Error> {
    control::note(name);
    fail::eval(name, |kind| io_error(kind.as_deref()))
}
