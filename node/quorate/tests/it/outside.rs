//! Tests that need tools which not every machine has: passed over by name, or refused where they must run.

use crate::consortium::skipped;

/// A comma-separated list of what must be tested on this machine (`clients`, `containers`): CI sets it, so that a missing
/// tool is a failure there.
const REQUIRED: &str = "QUORATE_TESTS_REQUIRE";

/// Reports that `test` cannot run here.
///
/// # Panics
/// If this machine is to run such tests.
pub fn not_here(what: &str, test: &str, why: &str) {
    let required = std::env::var(REQUIRED).unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == what),
        "{REQUIRED} asks for {what}, but {test} cannot run: {why}"
    );
    skipped(test, why);
}
