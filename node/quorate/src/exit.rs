//! How the process may end. The only file that ends it.

use std::process::ExitCode;

/// Exit codes, for operators and supervisors; the table in `docs/errors.md` repeats them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Asked to stop, stopped cleanly.
    Success = 0,
    /// Any error that has no code of its own.
    Failure = 1,
    /// Configuration or genesis is wrong.
    Configuration = 3,
    /// The data folder is in use, belongs to another chain or cannot be used.
    DataFolder = 4,
    /// A port could not be bound.
    Network = 5,
    /// This member's execution differs from the consortium's. Do not restart before reading the evidence.
    Diverged = 10,
    /// A store failed (disk full, I/O error, damage).
    Storage = 11,
    /// Ordering failed (log damaged, fsync failed).
    Ordering = 12,
    /// A part of the node ended that must not.
    Task = 13,
    /// Stopping took too long.
    ShutdownTimeout = 14,
    /// This node is no member any more. Starting it again changes nothing.
    Removed = 15,
    /// The others know this member with another ordering log: its disk was lost or exchanged. It must come back as a new member.
    OtherLog = 16,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error with the exit code that tells a supervisor what kind it is.
#[derive(Debug)]
pub struct Ended {
    /// The code.
    pub exit: Exit,
    /// What happened, for people.
    pub error: anyhow::Error,
}

impl Ended {
    /// Gives an error its code.
    pub fn with(exit: Exit) -> impl FnOnce(anyhow::Error) -> Self {
        move |error| Self { exit, error }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self {
            exit: Exit::Failure,
            error: error.into(),
        }
    }
}

/// Ends the process at once: half a node is worse than none.
#[expect(clippy::exit, reason = "the one place that may")]
pub fn end_now(exit: Exit) -> ! {
    std::process::exit(exit as i32)
}
