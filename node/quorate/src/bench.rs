//! `quorate bench`: loads running nodes and measures what they commit.
//!
//! Transactions are signed before the clock starts, offered on a schedule (latency counts from the time a transaction was
//! due, so that a slow node cannot hide its delay) or as fast as a window of uncommitted transactions allows, and seen
//! committed on the node that took them.

mod follow;
mod grpc;
mod json_rpc;
mod latency;
mod load;
mod processes;
mod report;
mod setup;
mod token;
mod workload;

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};

use self::follow::Follower;
use self::load::{Plan, Run};
use self::processes::Watched;
use self::setup::Setup;
use crate::cli::client::HttpClient;
use crate::cli::output;
use crate::config::parse_duration;

/// More transactions in one run would only cost memory.
const COUNT_MAX: usize = 4_000_000;
/// For `--rate max` so many transactions per second are signed ahead. Four nodes that share two cores cannot pass it
/// (recovering a signature takes 40 µs); a run that does ends early and says so.
const RATE_EXPECTED_MAX: f64 = 12_000.0;
/// A run without any progress for so long is over.
const STALL: Duration = Duration::from_secs(20);
/// The nodes of `quorate dev` by their default ports.
const DEFAULT_NODES: u16 = 4;

const EXAMPLES: &str = "\
Without --url the nodes on the default ports of this machine are used (quorate dev). Senders are made anew for every run
and funded by the last development account, or by --funder-key, through JSON-RPC (--rpc).

Examples:
  quorate bench --rate 1000 --duration 20s
  quorate bench --rate max --kind erc20 --json
  quorate bench --protocol jsonrpc --url http://127.0.0.1:8545 --connections 32 --count 50000 --rate max
  quorate bench --latency --count 500

Ends with 1 if transactions were not committed or failed.";

/// How clients talk to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// quorate.v1.Ledger: one stream of transactions per connection.
    Grpc,
    /// eth_sendRawTransaction.
    Jsonrpc,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// 1 wei from a sender to a recipient.
    Transfer,
    /// One unit of a token contract, with an event.
    Erc20,
}

/// Transactions per second.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rate {
    /// As many as the window allows.
    Max,
    /// On a schedule.
    PerSecond(f64),
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text {
        "max" => Ok(Rate::Max),
        _ => match text.parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(Rate::PerSecond(rate)),
            _ => Err("a number of transactions per second above 0, or max".into()),
        },
    }
}

/// Arguments of `quorate bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// A node's address for the chosen protocol; once per node.
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// A node's JSON-RPC address, for funding, and for --latency once per node. Default: the JSON-RPC nodes of --url, else the
    /// default ports.
    #[arg(long, value_name = "URL")]
    rpc: Vec<String>,
    /// How to submit. Default: grpc; with --latency both.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// What to send.
    #[arg(long, value_enum, default_value = "transfer")]
    kind: Kind,
    /// Transactions per second, or max.
    #[arg(long, default_value = "max", value_parser = parse_rate)]
    rate: Rate,
    /// How long to send.
    #[arg(long, default_value = "20s", value_parser = parse_duration, conflicts_with = "count")]
    duration: Duration,
    /// How many transactions to send, instead of a duration. With --latency: samples per protocol (default 200).
    #[arg(long)]
    count: Option<usize>,
    /// How many senders.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    accounts: u32,
    /// How many recipients: addresses of their own, which become accounts when they first receive.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    recipients: u32,
    /// Connections per node (default: 1 for grpc, 16 for jsonrpc).
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: Option<u16>,
    /// jsonrpc: transactions in one HTTP request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// With --rate max: transactions that may be sent and not yet committed.
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// File with the secret key of the account that funds the senders. Default: the last development account.
    #[arg(long, value_name = "FILE")]
    funder_key: Option<PathBuf>,
    /// Processes of the nodes, whose CPU time and memory are measured.
    #[arg(long, value_delimiter = ',', value_name = "PID,PID…")]
    pids: Vec<u32>,
    /// Find the processes by the pid files (node*/node.pid) in this folder.
    #[arg(long, value_name = "DIR", default_value = "data/dev")]
    data_dir: PathBuf,
    /// Measure latency: one transaction at a time on an idle chain, from sending to the receipt.
    #[arg(long)]
    latency: bool,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Runs the bench and prints its report.
///
/// # Errors
/// If the nodes do not answer or refuse the preparation, or if transactions were lost or failed.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&args) => outcome,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                bail!("interrupted")
            }
        }
    });
    // Do not wait for connections that are idle.
    runtime.shutdown_background();
    outcome
}

async fn measure(args: &BenchArgs) -> anyhow::Result<()> {
    if args.latency {
        let report = measure_latency(args).await?;
        return Ok(report.print(args.json)?);
    }
    let report = measure_load(args).await?;
    report.print(args.json)?;
    match report.fault() {
        Some(fault) => Err(anyhow!(fault)),
        None => Ok(()),
    }
}

impl BenchArgs {
    fn watched(&self) -> anyhow::Result<Vec<Watched>> {
        match self.pids.as_slice() {
            [] => Ok(processes::by_pid_files(&self.data_dir)),
            pids => pids.iter().map(|pid| Watched::new(*pid)).collect(),
        }
    }

    fn json_rpc_urls(&self) -> anyhow::Result<Vec<String>> {
        if !self.rpc.is_empty() {
            return Ok(self.rpc.clone());
        }
        if self.protocol == Some(Protocol::Jsonrpc) && !self.urls.is_empty() {
            return Ok(self.urls.clone());
        }
        on_default_ports(8_545, "--rpc")
    }

    fn grpc_urls(&self) -> anyhow::Result<Vec<String>> {
        match self.urls.as_slice() {
            [] => on_default_ports(50_051, "--url"),
            urls => Ok(urls.to_vec()),
        }
    }

    /// Transactions to sign, and when sending ends at the latest.
    fn amount(&self) -> (usize, Option<Duration>) {
        match (self.count, self.rate) {
            (Some(count), _) => (count.clamp(1, COUNT_MAX), None),
            (None, Rate::PerSecond(rate)) => (signed_ahead(rate, self.duration), None),
            (None, Rate::Max) => (
                signed_ahead(RATE_EXPECTED_MAX, self.duration),
                Some(self.duration),
            ),
        }
    }
}

fn signed_ahead(rate: f64, duration: Duration) -> usize {
    ((rate * duration.as_secs_f64()).ceil() as usize).clamp(1, COUNT_MAX)
}

/// The nodes that listen on this machine where `quorate dev` puts them.
fn on_default_ports(first: u16, flag: &str) -> anyhow::Result<Vec<String>> {
    let found: Vec<String> = (first..first + DEFAULT_NODES)
        .filter(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        .map(|port| format!("http://127.0.0.1:{port}"))
        .collect();
    if found.is_empty() {
        bail!(
            "no node listens on 127.0.0.1:{first} or the next ports: start quorate dev, or name nodes with {flag}"
        );
    }
    Ok(found)
}

async fn measure_load(args: &BenchArgs) -> anyhow::Result<report::LoadReport> {
    let protocol = args.protocol.unwrap_or(Protocol::Grpc);
    let client = HttpClient::new();
    let urls = match protocol {
        Protocol::Grpc => args.grpc_urls()?,
        Protocol::Jsonrpc => args.json_rpc_urls()?,
    };
    if protocol == Protocol::Grpc {
        for url in &urls {
            grpc::connect(url).await?;
        }
    }
    let rpc = args.json_rpc_urls()?;
    let setup_url = rpc
        .first()
        .ok_or_else(|| anyhow!("no JSON-RPC address: give --rpc"))?;
    let watched = args.watched()?;

    let connections = args.connections.unwrap_or(match protocol {
        Protocol::Grpc => 1,
        Protocol::Jsonrpc => 16,
    });
    let workers = urls.len() * usize::from(connections);
    // Every connection has senders of its own, so that their transactions stay in order.
    let sender_count = (args.accounts as usize).next_multiple_of(workers);
    let (count, duration) = args.amount();

    let setup = Setup::begin(client.clone(), setup_url, args.funder_key.as_deref()).await?;
    let prepared = setup
        .prepare(args.kind, sender_count, args.recipients as usize, count)
        .await?;
    output::note(&format!(
        "{sender_count} senders funded; signing {count} transactions"
    ));
    let transactions = tokio::task::spawn_blocking(move || prepared.sign(count))
        .await
        .context("signing")?;

    let heights = match protocol {
        Protocol::Grpc => grpc::wait_for_height(&urls, setup.height()).await?,
        Protocol::Jsonrpc => json_rpc::wait_for_height(&client, &urls, setup.height()).await?,
    };
    let rate = match args.rate {
        Rate::Max => None,
        Rate::PerSecond(rate) => Some(rate),
    };
    let window = rate.is_none().then_some(args.in_flight as usize);
    let nodes = urls.len();
    let run = Arc::new(Run::new(Plan {
        transactions,
        workers,
        senders: sender_count,
        nodes,
        rate,
        window,
    }));

    let followers: Vec<Follower> = match protocol {
        Protocol::Grpc => {
            let each = urls.iter().zip(heights).enumerate();
            each.map(|(node, (url, height))| {
                follow::grpc(Arc::clone(&run), node, url.clone(), height)
            })
            .collect()
        }
        // Polling costs the node more than a stream: one node tells for all.
        Protocol::Jsonrpc => {
            let first = urls.first().cloned().unwrap_or_default();
            let height = heights.first().copied().unwrap_or_default();
            vec![follow::json_rpc(
                Arc::clone(&run),
                client.clone(),
                first,
                height,
            )]
        }
    };

    let before: Vec<_> = watched
        .iter()
        .map(Watched::usage)
        .collect::<Result<_, _>>()?;
    let own_before = processes::own_cpu()?;
    run.begin();
    let mut senders = Vec::new();
    for worker in 0..workers {
        let url = urls.get(worker % urls.len()).cloned().unwrap_or_default();
        let run = Arc::clone(&run);
        senders.push(match protocol {
            Protocol::Grpc => tokio::spawn(grpc::submit(run, worker, url)),
            Protocol::Jsonrpc => tokio::spawn(json_rpc::submit(
                run,
                worker,
                client.clone(),
                url,
                usize::from(args.batch),
            )),
        });
    }
    let ended_early = oversee(&run, senders, duration).await?;
    let after: Vec<_> = watched.iter().map(Watched::usage).collect();
    let own_cpu = processes::own_cpu()? - own_before;
    run.stop.cancel();
    let blocks = followers.first().map(Follower::blocks).unwrap_or_default();

    let checked = setup.check_receipts(&run.committed_sample(100)).await?;
    Ok(report::LoadReport::new(report::Facts {
        kind: match args.kind {
            Kind::Transfer => "transfer",
            Kind::Erc20 => "erc20",
        },
        protocol: match protocol {
            Protocol::Grpc => "grpc",
            Protocol::Jsonrpc => "jsonrpc",
        },
        urls,
        run,
        blocks,
        checked,
        processes: processes::differences(&watched, &before, after),
        own_cpu,
        ended_early,
    }))
}

/// Waits until everything is sent and committed; says what is going on. Gives back why it ended before that, if it did.
async fn oversee(
    run: &Arc<Run>,
    senders: Vec<tokio::task::JoinHandle<()>>,
    duration: Option<Duration>,
) -> anyhow::Result<Option<&'static str>> {
    let deadline = duration.map(|d| Instant::now() + d);
    let mut progress = (0, Instant::now());
    let mut told = Instant::now();
    let mut early = None;
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = Instant::now();
        let (accepted, committed) = (run.accepted(), run.committed());
        if accepted + committed > progress.0 {
            progress = (accepted + committed, now);
        }
        if deadline.is_some_and(|d| now >= d) {
            run.closing.cancel();
        }
        let sending = senders.iter().any(|s| !s.is_finished());
        if !sending && committed >= accepted {
            if deadline.is_some_and(|d| now < d) {
                early = Some("all signed transactions were sent before the time was over");
            }
            break;
        }
        if progress.1.elapsed() > STALL {
            early = Some("nothing moved any more");
            run.closing.cancel();
            run.stop.cancel();
            break;
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = now;
            output::note(&format!("{accepted} accepted, {committed} committed"));
        }
    }
    for sender in senders {
        sender.await.context("a sender ended badly")?;
    }
    Ok(early)
}

async fn measure_latency(args: &BenchArgs) -> anyhow::Result<report::LatencyReport> {
    let client = HttpClient::new();
    let samples = args.count.unwrap_or(200).clamp(1, 100_000);
    let grpc = match args.protocol {
        Some(Protocol::Jsonrpc) => Vec::new(),
        _ => args.grpc_urls()?,
    };
    for url in &grpc {
        grpc::connect(url).await?;
    }
    let json_rpc = args.json_rpc_urls()?;
    let setup_url = json_rpc
        .first()
        .ok_or_else(|| anyhow!("no JSON-RPC address: give --rpc"))?;
    let setup = Setup::begin(client.clone(), setup_url, args.funder_key.as_deref()).await?;
    let count = samples + latency::WARM_UP;
    let mut report = report::LatencyReport::default();
    if !grpc.is_empty() {
        let transactions = setup
            .prepare(args.kind, 1, args.recipients as usize, count)
            .await?
            .sign(count);
        grpc::wait_for_height(&grpc, setup.height()).await?;
        report.add(
            "grpc SubmitTransaction{wait}",
            latency::grpc(&grpc, &transactions).await?,
        );
    }
    if args.protocol != Some(Protocol::Grpc) {
        let transactions = setup
            .prepare(args.kind, 1, args.recipients as usize, count)
            .await?
            .sign(count);
        json_rpc::wait_for_height(&client, &json_rpc, setup.height()).await?;
        let times = latency::json_rpc(&client, &json_rpc, &transactions).await?;
        report.add(
            "eth_sendRawTransaction, then eth_getTransactionReceipt until it is there",
            times,
        );
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!(parse_rate("max"), Ok(Rate::Max));
        assert_eq!(parse_rate("0.5"), Ok(Rate::PerSecond(0.5)));
        for wrong in ["0", "-1", "NaN", "inf", "fast", ""] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_signed_ahead_follows_rate_and_duration() {
        assert_eq!(signed_ahead(1000.0, Duration::from_secs(20)), 20_000);
        assert_eq!(signed_ahead(0.1, Duration::from_secs(1)), 1);
        assert_eq!(signed_ahead(1e6, Duration::from_secs(3_600)), COUNT_MAX);
    }
}
