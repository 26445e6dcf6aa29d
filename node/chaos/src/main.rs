//! `chaos`: runs by seed, figures at the end. Exit code 0 only if every run held.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use quorate_chaos::{ContainerOptions, Options, Outcome, campaign, container_campaign};
use quorate_fail_points::POINTS;

/// Faults on real processes, by seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many runs.
    #[arg(long, default_value_t = 10)]
    runs: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this seed.
    #[arg(long, conflicts_with_all = ["runs", "first"])]
    seed: Option<u64>,
    /// Members at the beginning: a number, or a range such as 3..5.
    #[arg(long, default_value = "3..5", value_parser = range)]
    nodes: (usize, usize),
    /// Seconds in which there are faults.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Runs at the same time.
    #[arg(long, default_value_t = 2)]
    parallel: usize,
    /// The node.
    #[arg(
        long,
        default_value = "target/debug/quorate",
        default_value_if(
            "containers",
            clap::builder::ArgPredicate::IsPresent,
            "deploy/out/quorate"
        )
    )]
    binary: PathBuf,
    /// Folder for the files of runs; those of failed ones stay.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The binary has no fail points: use other faults only.
    #[arg(long)]
    without_points: bool,
    /// On containers, from this folder with a compose file and with the static binary in `out` below it, unless --binary says
    /// otherwise. Needs Docker.
    #[arg(long, value_name = "DIR")]
    containers: Option<PathBuf>,
    /// Print the names of all fail points.
    #[arg(long)]
    list_points: bool,
}

fn range(text: &str) -> Result<(usize, usize), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{text:?}: {e}"));
    let (from, to) = (number(from)?, number(to.trim_start_matches('='))?);
    match 3 <= from && from <= to && to <= 5 {
        true => Ok((from, to)),
        false => Err("3 to 5 members".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_points {
        for point in POINTS {
            say(&format!("{}  {}", point.name, point.place));
        }
        return ExitCode::SUCCESS;
    }
    let Ok(binary) = arguments.binary.canonicalize() else {
        say(&format!("{}: no such file", arguments.binary.display()));
        return ExitCode::FAILURE;
    };
    let out = arguments.out.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("quorate-chaos-{}", std::process::id()))
    });
    // A node takes paths in its configuration as relative to that.
    let made = std::fs::create_dir_all(&out).and_then(|()| out.canonicalize());
    let out = match made {
        Ok(out) => out,
        Err(error) => {
            say(&format!("{}: {error}", out.display()));
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        binary,
        out,
        nodes: arguments.nodes,
        lasts: Duration::from_secs_f64(arguments.seconds.clamp(0.5, 600.0)),
        with_points: !arguments.without_points,
    };
    let seeds = match arguments.seed {
        Some(seed) => seed..seed.saturating_add(1),
        None => arguments.first..arguments.first.saturating_add(arguments.runs),
    };
    let runs = async {
        match &arguments.containers {
            Some(deploy) => {
                let options = ContainerOptions {
                    binary: options.binary.clone(),
                    deploy: deploy.clone(),
                    out: options.out.clone(),
                };
                if let Some(reason) = options.why_not().await {
                    say(&reason);
                    return None;
                }
                Some(container_campaign(&options, seeds, |outcome| tell(outcome, "")).await)
            }
            None => {
                let again = again(&arguments, &options);
                let told = |outcome: &Outcome| tell(outcome, &again);
                Some(campaign(&options, seeds, arguments.parallel, told).await)
            }
        }
    };
    let totals = tokio::select! {
        totals = runs => match totals {
            Some(totals) => totals,
            None => return ExitCode::FAILURE,
        },
        // The runs are dropped, and with each of them its processes end.
        () = interrupted() => {
            say("interrupted");
            return ExitCode::FAILURE;
        }
    };
    say(totals.report().trim_end());
    match totals.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Returns when somebody wants the whole to end.
async fn interrupted() {
    let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let Ok(mut terminated) = terminated else {
        // Only an interrupt can end it then.
        drop(tokio::signal::ctrl_c().await);
        return;
    };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// What, beside the seed, makes the same run again.
fn again(arguments: &Arguments, options: &Options) -> String {
    let (from, to) = arguments.nodes;
    let points = if arguments.without_points {
        " --without-points"
    } else {
        ""
    };
    format!(
        " --nodes {from}..{to} --seconds {} --binary {}{points}",
        arguments.seconds,
        options.binary.display()
    )
}

fn tell(outcome: &Outcome, again: &str) {
    let faults: u64 = outcome.faults.values().sum();
    let verdict = if outcome.violations.is_empty() {
        "held"
    } else {
        "FAILED"
    };
    say(&format!(
        "seed {}: {verdict} in {:.1} s; {} nodes, {faults} faults, {} blocks, {} transactions, longest pause {:.1} s",
        outcome.seed,
        outcome.took.as_secs_f64(),
        outcome.nodes,
        outcome.blocks,
        outcome.acknowledged,
        outcome.longest_pause.as_secs_f64(),
    ));
    for violation in outcome.violations.iter().take(20) {
        say(&format!("  {violation}"));
    }
    if let Some(folder) = &outcome.folder {
        say(&format!(
            "  files: {}\n  again: chaos --seed {}{again}",
            folder.display(),
            outcome.seed,
        ));
    }
}

#[allow(clippy::print_stdout, reason = "its figures are what it is for")]
fn say(text: &str) {
    println!("{text}");
}
