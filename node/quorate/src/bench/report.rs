//! What a bench found, for people and for scripts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::load::{Refusals, Run};
use super::processes::{Usage, Watched};
use super::setup::Checked;
use crate::cli::output;

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    count: usize,
    mean: f64,
    min: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    /// The spread of times in seconds; `None` without any.
    pub fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let ms = |at: usize| seconds.get(at).map(|s| s * 1e3);
        let last = seconds.len().checked_sub(1)?;
        // The smallest value that so many percent do not exceed ("nearest rank").
        let rank = |percent: usize| ms(((last + 1) * percent).div_ceil(100).saturating_sub(1));
        Some(Self {
            count: seconds.len(),
            mean: seconds.iter().sum::<f64>() / seconds.len() as f64 * 1e3,
            min: ms(0)?,
            p50: rank(50)?,
            p95: rank(95)?,
            p99: rank(99)?,
            max: ms(last)?,
        })
    }

    fn to_json(self) -> Value {
        let round = |ms: f64| (ms * 1e3).round() / 1e3;
        json!({
            "count": self.count, "mean": round(self.mean), "min": round(self.min), "p50": round(self.p50),
            "p95": round(self.p95), "p99": round(self.p99), "max": round(self.max),
        })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            p50, p95, p99, max, ..
        } = self;
        write!(
            f,
            "median {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms, max {max:.2} ms"
        )
    }
}

/// What a load run leaves behind.
pub struct Facts {
    /// transfer or erc20.
    pub kind: &'static str,
    /// grpc or jsonrpc.
    pub protocol: &'static str,
    /// The nodes.
    pub urls: Vec<String>,
    /// The run itself.
    pub run: Arc<Run>,
    /// Blocks with transactions of the run.
    pub blocks: u64,
    /// Receipts that were looked at.
    pub checked: Checked,
    /// The nodes' processes.
    pub processes: Vec<(Watched, Option<Usage>)>,
    /// CPU seconds of the bench itself.
    pub own_cpu: f64,
    /// Why it ended before its time.
    pub ended_early: Option<&'static str>,
}

/// What a load run found.
pub struct LoadReport {
    facts: Facts,
    refusals: BTreeMap<String, Refusals>,
    rates: Rates,
    latency: Option<Spread>,
}

/// Counts and rates of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Rates {
    offered: usize,
    committed: usize,
    /// From the beginning until the last transaction was due.
    offered_seconds: f64,
    /// From the beginning until the last commit.
    committed_seconds: f64,
    /// Commits per second in the middle four fifths of the time of sending: without ramp and drain.
    steady_per_second: f64,
}

impl Rates {
    fn of(timeline: &[(f64, Option<f64>)]) -> Self {
        let offered_seconds = timeline.iter().map(|(due, _)| *due).fold(0.0, f64::max);
        let commits: Vec<f64> = timeline.iter().filter_map(|(_, seen)| *seen).collect();
        let (from, to) = (offered_seconds * 0.1, offered_seconds * 0.9);
        let within = commits.iter().filter(|at| (from..to).contains(*at)).count();
        Self {
            offered: timeline.len(),
            committed: commits.len(),
            offered_seconds,
            committed_seconds: commits.iter().copied().fold(0.0, f64::max),
            steady_per_second: per_second(within, to - from),
        }
    }
}

fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

impl LoadReport {
    /// Counts everything.
    pub fn new(facts: Facts) -> Self {
        let timeline = facts.run.timeline();
        let latency = timeline
            .iter()
            .filter_map(|(due, seen)| Some((*seen)? - due))
            .collect();
        Self {
            rates: Rates::of(&timeline),
            latency: Spread::of(latency),
            refusals: facts.run.refusals(),
            facts,
        }
    }

    /// Why the run is no success, if it is none.
    pub fn fault(&self) -> Option<String> {
        let Checked { count, failed } = self.facts.checked;
        let (accepted, committed) = (self.facts.run.accepted(), self.rates.committed);
        if committed < accepted {
            return Some(format!(
                "{} of {accepted} accepted transactions were not committed",
                accepted - committed
            ));
        }
        if committed == 0 {
            let why = self
                .refusals
                .values()
                .next()
                .map(|r| format!(": {}", r.sample))
                .unwrap_or_default();
            return Some(format!("no transaction was committed{why}"));
        }
        (failed > 0).then(|| {
            format!("{failed} of {count} receipts that were looked at say that execution failed")
        })
    }

    /// Prints it.
    ///
    /// # Errors
    /// If writing fails.
    pub fn print(&self, json: bool) -> io::Result<()> {
        if json {
            output::print_json(&self.to_json())
        } else {
            output::print(&self.describe())
        }
    }

    fn to_json(&self) -> Value {
        let Facts {
            kind,
            protocol,
            urls,
            run,
            blocks,
            checked,
            own_cpu,
            ended_early,
            ..
        } = &self.facts;
        let rates = self.rates;
        let refusals: Map<String, Value> = self
            .refusals
            .iter()
            .map(|(reason, r)| {
                (
                    reason.clone(),
                    json!({ "count": r.count, "sample": r.sample }),
                )
            })
            .collect();
        let processes: Vec<Value> = self
            .facts
            .processes
            .iter()
            .map(|(watched, usage)| match usage {
                Some(usage) => json!({
                    "name": watched.name, "pid": watched.pid, "cpuSeconds": usage.cpu_seconds,
                    "cpuMicrosPerTransaction": self.micros_per_transaction(usage.cpu_seconds),
                    "rssBytes": usage.rss_bytes, "rssPeakBytes": usage.rss_peak_bytes,
                }),
                None => json!({ "name": watched.name, "pid": watched.pid, "ended": true }),
            })
            .collect();
        json!({
            "kind": kind, "protocol": protocol, "nodes": urls,
            "offered": rates.offered, "offeredPerSecond": per_second(rates.offered, rates.offered_seconds),
            "accepted": run.accepted(),
            "committed": rates.committed, "committedPerSecond": per_second(rates.committed, rates.committed_seconds),
            "steadyPerSecond": rates.steady_per_second, "seconds": rates.committed_seconds,
            "latencyMs": self.latency.map(Spread::to_json),
            "blocks": blocks, "transactionsPerBlock": rates.committed as f64 / (*blocks).max(1) as f64,
            "refusals": refusals,
            "receiptsChecked": checked.count, "receiptsFailed": checked.failed,
            "processes": processes, "benchCpuSeconds": own_cpu,
            "endedEarly": ended_early,
        })
    }

    fn micros_per_transaction(&self, cpu_seconds: f64) -> f64 {
        cpu_seconds * 1e6 / self.rates.committed.max(1) as f64
    }

    fn describe(&self) -> String {
        let Facts {
            kind,
            protocol,
            urls,
            run,
            blocks,
            checked,
            own_cpu,
            ended_early,
            processes,
        } = &self.facts;
        let rates = self.rates;
        let mut lines = vec![
            format!("{kind} over {protocol} to {} nodes", urls.len()),
            format!(
                "  offered    {} in {:.1} s = {:.0}/s",
                rates.offered,
                rates.offered_seconds,
                per_second(rates.offered, rates.offered_seconds)
            ),
            format!("  accepted   {}", run.accepted()),
            format!(
                "  committed  {} in {:.1} s = {:.0}/s; {:.0}/s without ramp and drain",
                rates.committed,
                rates.committed_seconds,
                per_second(rates.committed, rates.committed_seconds),
                rates.steady_per_second
            ),
        ];
        if let Some(latency) = self.latency {
            lines.push(format!("  latency    {latency}"));
        }
        lines.push(format!(
            "  blocks     {blocks}, {:.0} transactions each",
            rates.committed as f64 / (*blocks).max(1) as f64
        ));
        lines.push(format!(
            "  receipts   {} looked at, {} failed",
            checked.count, checked.failed
        ));
        for (reason, refusals) in &self.refusals {
            lines.push(format!(
                "  refused    {} × {reason}: {}",
                refusals.count, refusals.sample
            ));
        }
        for (watched, usage) in processes {
            lines.push(match usage {
                Some(usage) => format!(
                    "  {:<10} {:.1} s CPU = {:.0} µs per transaction; {} MiB resident, {} MiB at the most",
                    watched.name,
                    usage.cpu_seconds,
                    self.micros_per_transaction(usage.cpu_seconds),
                    usage.rss_bytes >> 20,
                    usage.rss_peak_bytes >> 20
                ),
                None => format!("  {:<10} ended during the run", watched.name),
            });
        }
        lines.push(format!("  this bench {own_cpu:.1} s CPU"));
        if let Some(reason) = ended_early {
            lines.push(format!("  ended early: {reason}"));
        }
        lines.join("\n")
    }
}

/// What the measurement of latency found.
#[derive(Debug, Default)]
pub struct LatencyReport {
    ways: Vec<(&'static str, Option<Spread>)>,
}

impl LatencyReport {
    /// Adds the times, in seconds, of one way to submit.
    pub fn add(&mut self, way: &'static str, seconds: Vec<f64>) {
        self.ways.push((way, Spread::of(seconds)));
    }

    /// Prints it.
    ///
    /// # Errors
    /// If writing fails.
    pub fn print(&self, json: bool) -> io::Result<()> {
        if json {
            let ways = self.ways.iter().map(
                |(way, spread)| json!({ "way": way, "latencyMs": spread.map(Spread::to_json) }),
            );
            return output::print_json(&ways.collect::<Vec<Value>>().into());
        }
        let line = |(way, spread): &(&str, Option<Spread>)| match spread {
            Some(spread) => format!("{way}\n  {} transactions: {spread}", spread.count),
            None => format!("{way}\n  nothing was measured"),
        };
        output::print(&self.ways.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spread = Spread::of((1..=100).rev().map(|ms| f64::from(ms) / 1e3).collect()).unwrap();
        let rounded = [spread.min, spread.p50, spread.p95, spread.p99, spread.max]
            .map(|ms| ms.round() as u32);
        assert_eq!(rounded, [1, 50, 95, 99, 100]);
        let one = Spread::of(vec![0.007]).unwrap();
        assert_eq!((one.p50, one.p99, one.count), (7.0, 7.0, 1));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn the_steady_rate_leaves_ramp_and_drain_out() {
        // One offered per millisecond for ten seconds, each committed a second later.
        let timeline: Vec<(f64, Option<f64>)> = (1..=10_000)
            .map(|i| (f64::from(i) / 1e3, Some(f64::from(i) / 1e3 + 1.0)))
            .collect();
        let rates = Rates::of(&timeline);
        assert_eq!((rates.offered, rates.committed), (10_000, 10_000));
        assert!((rates.committed_seconds - 11.0).abs() < 1e-9);
        assert!((rates.steady_per_second - 1_000.0).abs() < 1.0, "{rates:?}");
        assert_eq!(Rates::of(&[(0.0, None)]).committed, 0);
    }
}
