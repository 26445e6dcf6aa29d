//! Results on standard output, complaints on standard error.

use std::io::{self, ErrorKind, Write as _};

use serde_json::Value;

/// Prints a result with a line end. A reader that has gone (`| head`) is no failure.
///
/// # Errors
/// If writing fails otherwise.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints JSON for scripts.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &Value) -> io::Result<()> {
    print(&format!("{value:#}"))
}

/// Prints an error as one line and its causes behind it.
pub fn complain(error: &anyhow::Error) {
    note(&format!("error: {error:#}"));
}

/// Prints something on standard error; if that is gone, nobody listens.
pub fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
