//! Many runs, some at a time, and what they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use quorate_fail_points::POINTS;
use tokio::task::JoinSet;

use crate::containers::{ContainerOptions, run_containers};
use crate::run::{Options, Outcome, run};

/// What all runs come to.
#[derive(Debug, Default)]
pub struct Totals {
    /// Runs that have ended.
    pub runs: u64,
    /// Seeds of those in which something did not hold.
    pub failed: Vec<u64>,
    faults: BTreeMap<String, u64>,
    reached: BTreeMap<String, u64>,
    fired: BTreeMap<String, u64>,
    acknowledged: u64,
    blocks: u64,
    logs: u64,
    subscriptions: u64,
    longest_pause: Duration,
    longest_pause_of: u64,
    pauses: Vec<Duration>,
    took: Duration,
}

/// Carries out the runs of `seeds`, `parallel` at a time, and tells of each as it ends.
pub async fn campaign(
    options: &Options,
    seeds: std::ops::Range<u64>,
    parallel: usize,
    tell: impl FnMut(&Outcome),
) -> Totals {
    let one = |seed| {
        let options = options.clone();
        async move { run(&options, seed).await }
    };
    campaign_of(one, seeds, parallel, tell).await
}

/// As [`campaign`], on containers: one run after the other.
pub async fn container_campaign(
    options: &ContainerOptions,
    seeds: std::ops::Range<u64>,
    tell: impl FnMut(&Outcome),
) -> Totals {
    let one = |seed| {
        let options = options.clone();
        async move { run_containers(&options, seed).await }
    };
    campaign_of(one, seeds, 1, tell).await
}

async fn campaign_of<F: Future<Output = Outcome> + Send + 'static>(
    one: impl Fn(u64) -> F,
    seeds: std::ops::Range<u64>,
    parallel: usize,
    mut tell: impl FnMut(&Outcome),
) -> Totals {
    let begun = Instant::now();
    let mut totals = Totals::default();
    let mut seeds = seeds.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < parallel.max(1)
            && let Some(seed) = seeds.next()
        {
            running.spawn(one(seed));
        }
        match running.join_next().await {
            Some(Ok(outcome)) => {
                tell(&outcome);
                totals.add(outcome);
            }
            Some(Err(error)) => {
                let violations = vec![format!("the harness itself failed: {error}")];
                let outcome = Outcome {
                    violations,
                    ..Outcome::default()
                };
                tell(&outcome);
                totals.add(outcome);
            }
            None => break,
        }
    }
    totals.took = begun.elapsed();
    totals
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        if !outcome.violations.is_empty() {
            self.failed.push(outcome.seed);
        }
        for (kind, count) in outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        add_each(&mut self.reached, outcome.reached);
        add_each(&mut self.fired, outcome.fired);
        self.acknowledged += outcome.acknowledged;
        self.blocks += outcome.blocks;
        self.logs += outcome.logs;
        self.subscriptions += outcome.subscriptions;
        self.pauses.push(outcome.longest_pause);
        if outcome.longest_pause > self.longest_pause {
            self.longest_pause = outcome.longest_pause;
            self.longest_pause_of = outcome.seed;
        }
    }

    /// The figures, for people.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        let held = self.runs - self.failed.len() as u64;
        let mut pauses = self.pauses.clone();
        pauses.sort_unstable();
        let median = pauses.get(pauses.len() / 2).copied().unwrap_or_default();
        let mut line = |args: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            text.write_fmt(args).ok();
            text.push('\n');
        };
        line(format_args!(
            "runs {}, held {held}, failed {} in {:.0} s",
            self.runs,
            self.failed.len(),
            self.took.as_secs_f64()
        ));
        line(format_args!(
            "acknowledged transactions checked {}, blocks {}, subscriptions (re)connected {}, logs told of {}",
            self.acknowledged, self.blocks, self.subscriptions, self.logs
        ));
        line(format_args!(
            "longest time without commits {:.1} s (seed {}), median over runs {:.1} s",
            self.longest_pause.as_secs_f64(),
            self.longest_pause_of,
            median.as_secs_f64()
        ));
        line(format_args!("faults:"));
        for (kind, count) in &self.faults {
            line(format_args!("  {count:6}  {kind}"));
        }
        line(format_args!(
            "fail points: {} in all, reached {}, reached while armed {}",
            POINTS.len(),
            self.reached.len(),
            self.fired.len()
        ));
        // Without any that was reached, none was built in.
        for point in POINTS.iter().filter(|_| !self.reached.is_empty()) {
            let count = |of: &BTreeMap<String, u64>| of.get(point.name).copied().unwrap_or(0);
            line(format_args!(
                "  {:6} runs reached, {:4} armed  {}",
                count(&self.reached),
                count(&self.fired),
                point.name
            ));
        }
        if !self.failed.is_empty() {
            line(format_args!("failed seeds: {:?}", self.failed));
        }
        text
    }
}

fn add_each(counts: &mut BTreeMap<String, u64>, names: BTreeSet<String>) {
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
}
