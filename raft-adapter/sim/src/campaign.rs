//! Many seeds on several threads, one seed at a time each.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    checks::Violation,
    faults::{Counters, Fault, Situation},
    options::Options,
    run::run,
    shrink::shrink,
};

/// Failures after which a search stops: more of the same would tell nothing.
const FAILURES_MAX: usize = 10;

/// A search through seeds.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// At once.
    pub threads: usize,
    /// For every seed; its own `seed` is not used.
    pub template: Options,
    /// Make failing runs small.
    pub shrinks: bool,
    /// Stop at the first failure.
    pub stops_early: bool,
}

/// A seed that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed as it was searched.
    pub seed: u64,
    /// The smallest run that shows it.
    pub options: Options,
    /// What it shows.
    pub violation: Violation,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that ran.
    pub seeds: u64,
    /// Their events.
    pub steps: u64,
    /// Their ticks.
    pub ticks: u64,
    /// Entries applied.
    pub applied: u64,
    /// Payloads acknowledged to clients.
    pub acknowledged: u64,
    /// Membership changes in effect.
    pub changes: u64,
    /// What was injected and met.
    pub counters: Counters,
    /// Seeds in which each rare situation was met.
    pub met_in: BTreeMap<Situation, u64>,
    /// What did not hold, by seed.
    pub failures: BTreeMap<u64, Failure>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Campaign {
    /// Runs all seeds, or until enough have failed.
    #[must_use]
    pub fn run(&self) -> Report {
        let started = Instant::now();
        let next = AtomicU64::new(0);
        let enough = AtomicBool::new(false);
        let report = Mutex::new(Report::default());
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| self.work(&next, &enough, &report));
            }
        });
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.elapsed = started.elapsed();
        report
    }

    fn work(&self, next: &AtomicU64, enough: &AtomicBool, report: &Mutex<Report>) {
        while !enough.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.seeds {
                return;
            }
            let seed = self.first + number;
            let options = Options {
                seed,
                ..self.template.clone()
            };
            let outcome = run(&options);
            let failure = outcome.violation.clone().map(|violation| {
                if self.shrinks {
                    let (options, outcome) = shrink(&options, &outcome);
                    let violation = outcome.violation.unwrap_or(violation);
                    Failure {
                        seed,
                        options,
                        violation,
                    }
                } else {
                    Failure {
                        seed,
                        options,
                        violation,
                    }
                }
            });
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.seeds += 1;
            report.steps += outcome.steps;
            report.ticks += outcome.ticks;
            report.applied += outcome.applied;
            report.acknowledged += outcome.acknowledged;
            report.changes += outcome.changes;
            report.counters.add(&outcome.counters);
            for situation in outcome.counters.situations.keys() {
                *report.met_in.entry(*situation).or_default() += 1;
            }
            if let Some(failure) = failure {
                report.failures.insert(seed, failure);
                if self.stops_early || report.failures.len() >= FAILURES_MAX {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Report {
    /// Kinds of trouble that never came up.
    #[must_use]
    pub fn faults_missing(&self) -> Vec<Fault> {
        let all = Fault::ALL.iter().copied();
        all.filter(|fault| !self.counters.faults.contains_key(fault))
            .collect()
    }

    /// Rare situations that never came up.
    #[must_use]
    pub fn situations_missing(&self) -> Vec<Situation> {
        let all = Situation::ALL.iter().copied();
        all.filter(|situation| !self.counters.situations.contains_key(situation))
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        writeln!(
            f,
            "{} seeds, {} steps, {} ticks in {seconds:.1} s: {:.0} seeds and {:.0} steps a minute",
            self.seeds,
            self.steps,
            self.ticks,
            self.seeds as f64 * 60.0 / seconds,
            self.steps as f64 * 60.0 / seconds,
        )?;
        writeln!(
            f,
            "{} entries applied, {} acknowledged, {} membership changes",
            self.applied, self.acknowledged, self.changes
        )?;
        writeln!(f, "\nfaults and actions")?;
        for fault in Fault::ALL {
            let count = self.counters.faults.get(fault).copied().unwrap_or_default();
            writeln!(f, "  {:<44} {count:>10}", fault.label())?;
        }
        writeln!(
            f,
            "\nrare situations                                  times      seeds"
        )?;
        for situation in Situation::ALL {
            let count = self.counters.situations.get(situation).copied();
            let seeds = self.met_in.get(situation).copied();
            writeln!(
                f,
                "  {:<44} {:>10} {:>10}",
                situation.label(),
                count.unwrap_or_default(),
                seeds.unwrap_or_default()
            )?;
        }
        for failure in self.failures.values() {
            writeln!(
                f,
                "\nFAILED seed {}: {}\n  {}",
                failure.seed, failure.violation, failure.options
            )?;
        }
        Ok(())
    }
}
