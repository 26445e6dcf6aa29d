//! Finds files of vectors, recognises their format by content, and runs them.

mod json;
mod keystore_test;
mod rlp_test;
mod skip;
mod state_test;
mod transaction_test;

use std::path::{Path, PathBuf};

use quorate_chain::{RecoveredTransaction, Transaction, TransactionError, recover_signer};
use rayon::prelude::*;
use serde_json::{Map, Value};

pub use skip::SkipList;

/// What became of all cases.
#[derive(Debug, Default)]
pub struct Tally {
    /// Cases whose result is the expected one.
    pub passed: usize,
    /// Cases that were not run.
    pub skipped: usize,
    /// A line for each case with another result.
    pub failures: Vec<String>,
}

impl Tally {
    fn add(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self
    }
}

/// Collects the results of one file.
pub(crate) struct Cases<'a> {
    file: String,
    skips: &'a SkipList,
    tally: Tally,
}

impl Cases<'_> {
    /// Runs a case unless the skip list names it. `case` is what stands after the file's name.
    pub(crate) fn run(&mut self, case: &str, check: impl FnOnce() -> Result<(), String>) {
        let name = format!("{}::{case}", self.file);
        if self.skips.contains(&name) {
            self.tally.skipped += 1;
            return;
        }
        match check() {
            Ok(()) => self.tally.passed += 1,
            Err(reason) => self.tally.failures.push(format!("{name}: {reason}")),
        }
    }

    pub(crate) fn skip(&mut self) {
        self.tally.skipped += 1;
    }
}

/// Runs every vector under `paths`.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn run(paths: &[PathBuf], skips: &SkipList, threads: usize) -> Result<Tally, String> {
    let mut files = Vec::new();
    for path in paths {
        find(path, &mut files)?;
    }
    files.sort();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| e.to_string())?;
    let tallies: Vec<Result<Tally, String>> =
        pool.install(|| files.par_iter().map(|file| run_file(file, skips)).collect());
    tallies
        .into_iter()
        .try_fold(Tally::default(), |sum, tally| Ok(sum.add(tally?)))
}

fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if !path.is_dir() {
        path.metadata().map_err(failed)?;
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in path.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        if entry.is_dir()
            || entry
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            find(&entry, files)?;
        }
    }
    Ok(())
}

fn run_file(path: &Path, skips: &SkipList) -> Result<Tally, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut cases = Cases {
        file: path.display().to_string(),
        skips,
        tally: Tally::default(),
    };
    let tests: Map<String, Value> = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(tests)) => tests,
        Ok(_) => {
            cases.skip();
            return Ok(cases.tally);
        }
        Err(e) => {
            let failure = format!("{}: {e}", cases.file);
            cases.tally.failures.push(failure);
            return Ok(cases.tally);
        }
    };
    for (name, test) in &tests {
        let has = |fields: &[&str]| fields.iter().all(|field| test.get(field).is_some());
        if has(&["pre", "post", "transaction", "env"]) {
            state_test::run(name, test, &mut cases);
        } else if has(&["txbytes", "result"]) {
            transaction_test::run(name, test, &mut cases);
        } else if has(&["json", "password", "priv"]) {
            cases.run(name, || keystore_test::check(test));
        } else if has(&["in", "out"]) {
            cases.run(name, || rlp_test::check(test));
        } else {
            // Tries are private to the state, whose own tests run those vectors; whole blockchains have proof of work.
            cases.skip();
        }
    }
    Ok(cases.tally)
}

/// The sender by EIP-155 also where `v` is 37 or 38, which on our chains marks a private transaction.
pub(crate) fn recover_on_ethereum(
    tx: Transaction,
) -> Result<RecoveredTransaction, TransactionError> {
    let sender = recover_signer(tx.signature(), tx.signature_hash())?;
    Ok(RecoveredTransaction::with_sender(tx, sender))
}
