//! Runs seeds of the simulation: one, many, or with planted mistakes.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use raft_adapter_sim::{Campaign, Fault, Options, run};

/// Simulates consortia by seed and checks that nothing is lost, forked or stuck.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Repeat this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Search this many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads; as many as there are cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Events before the end begins.
    #[arg(long)]
    steps: Option<u64>,
    /// Voters at the beginning.
    #[arg(long)]
    members: Option<u64>,
    /// Kinds of trouble that must not happen, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// Print the whole history of the seed.
    #[arg(long)]
    trace: bool,
    /// Do not make failing runs small.
    #[arg(long)]
    no_shrink: bool,
    /// Plant each known mistake in turn and count the seeds until it is found.
    #[cfg(feature = "planted-bugs")]
    #[arg(long)]
    planted: bool,
    /// Run with this mistake.
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_parser = bug)]
    bug: Option<raft_adapter::PlantedBug>,
}

fn fault(label: &str) -> Result<Fault, String> {
    let known = || Fault::ALL.iter().map(|it| it.label()).collect::<Vec<_>>();
    Fault::named(label).ok_or_else(|| format!("known are {}", known().join(", ")))
}

#[cfg(feature = "planted-bugs")]
fn bug(name: &str) -> Result<raft_adapter::PlantedBug, String> {
    let all = raft_adapter::PlantedBug::ALL;
    let found = all.iter().copied().find(|it| format!("{it:?}") == name);
    found.ok_or_else(|| format!("known are {all:?}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    // A core that panics is a finding with a seed; its message is in the violation.
    std::panic::set_hook(Box::new(|_| {}));
    match act(&arguments, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Nobody reads any more.
        Err(_) => ExitCode::from(2),
    }
}

fn act(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let template = Options {
        steps: arguments.steps,
        members: arguments.members,
        without: arguments.without.iter().copied().collect::<BTreeSet<_>>(),
        trace: arguments.trace,
        #[cfg(feature = "planted-bugs")]
        planted: arguments.bug,
        ..Options::default()
    };
    #[cfg(feature = "planted-bugs")]
    if arguments.planted {
        return planted(arguments, out);
    }
    if let Some(seed) = arguments.seed {
        let options = Options { seed, ..template };
        return one(&options, out);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let report = Campaign {
        first: arguments.first,
        seeds: arguments.seeds,
        threads: arguments.threads.unwrap_or(cores),
        template: Options {
            trace: false,
            ..template
        },
        shrinks: !arguments.no_shrink,
        stops_early: false,
    }
    .run();
    write!(out, "{report}")?;
    Ok(report.failures.is_empty())
}

fn one(options: &Options, out: &mut impl Write) -> io::Result<bool> {
    let outcome = run(options);
    for line in &outcome.history {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "{options}: {} steps, {} ticks, {} applied, {} acknowledged, {} changes, history {:016x}",
        outcome.steps,
        outcome.ticks,
        outcome.applied,
        outcome.acknowledged,
        outcome.changes,
        outcome.sum
    )?;
    match &outcome.violation {
        None => writeln!(out, "held")?,
        Some(violation) => writeln!(out, "FAILED {violation}")?,
    }
    Ok(outcome.violation.is_none())
}

#[cfg(feature = "planted-bugs")]
fn planted(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let mut all = true;
    for bug in raft_adapter::PlantedBug::ALL {
        let campaign = Campaign {
            first: arguments.first,
            seeds: arguments.seeds,
            threads: 1,
            template: Options {
                planted: Some(*bug),
                ..Options::default()
            },
            shrinks: false,
            stops_early: true,
        };
        let report = campaign.run();
        match report.failures.values().next() {
            Some(failure) => writeln!(
                out,
                "{:<32} found after {:>5} seeds, {}",
                format!("{bug:?}"),
                report.seeds,
                failure.violation.rule
            )?,
            None => {
                all = false;
                writeln!(
                    out,
                    "{:<32} NOT FOUND in {} seeds",
                    format!("{bug:?}"),
                    report.seeds
                )?;
            }
        }
    }
    Ok(all)
}
