//! Runs libFuzzer on one target after the other, each in a process of its own, and adds up what they did.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Room, Target, targets};

/// Names the target in the environment of a child.
pub const TARGET_VARIABLE: &str = "QUORATE_FUZZ_TARGET";

/// One input may take so long, in seconds. Generous: other work may share the machine.
const INPUT_SECONDS_MAX: u32 = 25;
/// Stores that a target opens lie in memory, where there is such a place: a disk would only slow it down.
const SCRATCH: &str = "/dev/shm";
/// Memory of a whole child, in MiB.
const MEMORY_MIB_MAX: u32 = 2_048;

/// How much is tried on each target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As much as there is time for.
    Seconds(u64),
    /// So many inputs.
    Executions(u64),
}

impl Extent {
    fn argument(self) -> String {
        match self {
            Self::Seconds(seconds) => format!("-max_total_time={seconds}"),
            Self::Executions(executions) => format!("-runs={executions}"),
        }
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// For each target.
    pub extent: Extent,
    /// Only this target.
    pub only: Option<String>,
    /// Where corpora, logs and inputs that crashed are kept.
    pub folder: PathBuf,
    /// Where the binaries of the rooms are.
    pub programs: PathBuf,
}

/// What became of one target.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its name.
    pub target: &'static str,
    /// Inputs tried, as libFuzzer counted them; unknown if it did not say.
    pub executions: Option<u64>,
    /// Inputs in the corpus at the end.
    pub corpus: usize,
    /// How long it took.
    pub took: Duration,
    /// True if nothing crashed, hung or took too much memory.
    pub held: bool,
}

impl Campaign {
    /// Runs it, and tells each outcome as it comes.
    ///
    /// # Errors
    /// If no target has the name, or files and processes cannot be made.
    pub fn run(&self, mut tell: impl FnMut(&Outcome)) -> io::Result<Vec<Outcome>> {
        let is_chosen = |target: &Target| self.only.as_ref().is_none_or(|only| only == target.name);
        let chosen: Vec<_> = targets()
            .filter(|(_room, target)| is_chosen(target))
            .collect();
        if chosen.is_empty() {
            let names: Vec<&str> = targets().map(|(_room, target)| target.name).collect();
            return Err(io::Error::other(format!(
                "no target has this name; there are {}",
                names.join(", ")
            )));
        }
        let mut outcomes = Vec::new();
        for (room, target) in chosen {
            let outcome = self.run_one(room, target)?;
            tell(&outcome);
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn run_one(&self, room: &Room, target: &Target) -> io::Result<Outcome> {
        let corpus = self.folder.join("corpus").join(target.name);
        let found = self.folder.join("found").join(target.name);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&found)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(corpus.join(format!("seed-{number}")), seed)?;
        }
        let log = self.log(target.name);
        let scratch = Some(Path::new(SCRATCH)).filter(|place| place.is_dir());
        let scratch = scratch.map_or_else(std::env::temp_dir, Path::to_owned);
        let started = Instant::now();
        let status = Command::new(self.programs.join(format!("fuzz-{}", room.name)))
            .env("TMPDIR", scratch)
            .env(TARGET_VARIABLE, target.name)
            .arg(self.extent.argument())
            .arg(format!("-max_len={}", target.input_bytes_max))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(&corpus)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .status()?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(Outcome {
            target: target.name,
            executions: executions(&said),
            corpus: fs::read_dir(&corpus)?.count(),
            took: started.elapsed(),
            held: status.success(),
        })
    }

    /// Where libFuzzer's words about a target are.
    #[must_use]
    pub fn log(&self, target: &str) -> PathBuf {
        self.folder.join(format!("{target}.log"))
    }
}

/// What libFuzzer says at its end, or, if it did not come to its end, in the last line that counts.
fn executions(said: &str) -> Option<u64> {
    let last = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    if let Some(count) = last {
        return count.trim().parse().ok();
    }
    let line = said.lines().rev().find(|line| line.starts_with('#'))?;
    line.trim_start_matches('#')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// A table of outcomes.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing into a string does not fail.
        let written = writeln!(out, "{text}");
        debug_assert!(written.is_ok());
    };
    line(format_args!(
        "{:<22} {:>14} {:>10} {:>8}  outcome",
        "target", "executions", "per second", "corpus"
    ));
    for outcome in outcomes {
        let executions = outcome.executions.unwrap_or_default();
        let seconds = outcome.took.as_secs_f64().max(0.001);
        line(format_args!(
            "{:<22} {:>14} {:>10.0} {:>8}  {}",
            outcome.target,
            executions,
            executions as f64 / seconds,
            outcome.corpus,
            if outcome.held { "held" } else { "CRASHED" }
        ));
    }
    let total: u64 = outcomes.iter().filter_map(|o| o.executions).sum();
    line(format_args!("{:<22} {total:>14}", "all"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_end_of_what_libfuzzer_says() {
        let said = "#2\tINITED cov: 5\n#8192\tpulse  cov: 7\nDone\nstat::number_of_executed_units: 9000\nstat::average: 1\n";
        assert_eq!(executions(said), Some(9_000));
        assert_eq!(
            executions("#2\tINITED cov: 5\n#8192\tpulse  cov: 7\n==1== ERROR"),
            Some(8_192)
        );
        assert_eq!(executions(""), None);
    }

    #[test]
    fn a_target_that_crashed_is_named_in_the_table() {
        let outcome = |target, held| Outcome {
            target,
            executions: Some(7),
            corpus: 1,
            took: Duration::from_secs(1),
            held,
        };
        let table = table(&[outcome("a", true), outcome("b", false)]);
        assert!(
            table
                .lines()
                .nth(2)
                .is_some_and(|line| line.contains("CRASHED")),
            "{table}"
        );
        assert!(table.ends_with("14\n"), "{table}");
    }
}
