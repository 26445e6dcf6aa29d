//! `quorate node` and `quorate dev`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::accounts::Accounts;
use crate::config::{Flag, Loaded};
use crate::dev::{self, DevPlan};
use crate::exit::{Ended, Exit};
use crate::join::JoinOptions;
use crate::process::Process;
use crate::{logs, node};

/// Where the configuration comes from, for every command that needs one.
#[derive(Debug, Args)]
pub struct ConfigSource {
    /// Configuration file. Without one: defaults, environment and flags.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Data folder (node.data_dir).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Genesis file (node.genesis).
    #[arg(long, value_name = "FILE")]
    genesis: Option<String>,
    /// File with the node's secret key (node.key_file).
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// Address and port for other members (p2p.listen).
    #[arg(long, value_name = "ADDR:PORT")]
    p2p_listen: Option<String>,
    /// Address and port of JSON-RPC (rpc.listen).
    #[arg(long, value_name = "ADDR:PORT")]
    rpc_listen: Option<String>,
    /// Address and port of gRPC (grpc.listen).
    #[arg(long, value_name = "ADDR:PORT")]
    grpc_listen: Option<String>,
    /// Take part in private transactions, or not (privacy.enabled).
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    privacy: Option<String>,
    /// Who keeps the private keys: local, unix:/path/of/socket or https://host:port (privacy.enclave).
    #[arg(long, value_name = "PLACE")]
    privacy_enclave: Option<String>,
    /// Folder with the keys of a local enclave (privacy.key_dir).
    #[arg(long, value_name = "DIR")]
    privacy_key_dir: Option<String>,
    /// File with the passphrase of locked keys (privacy.passphrase_file).
    #[arg(long, value_name = "FILE")]
    privacy_passphrase_file: Option<String>,
    /// Address and port of metrics and health (metrics.listen).
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_listen: Option<String>,
    /// How much to log: error, warn, info, debug, trace (log.level).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// "text" or "json" (log.format).
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other setting; may be repeated.
    #[arg(long, value_name = "SECTION.NAME=VALUE")]
    set: Vec<String>,
}

impl ConfigSource {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All faults, with the exit code for wrong configuration.
    pub fn load(&self) -> Result<Loaded, Ended> {
        let wrong = Ended::with(Exit::Configuration);
        let flags = self.flags().map_err(Ended::with(Exit::Configuration))?;
        // Variables that are not text cannot be ours.
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Loaded::load(self.config.as_deref(), environment, &flags).map_err(|e| wrong(e.into()))
    }

    fn flags(&self) -> anyhow::Result<Vec<Flag>> {
        let named = [
            ("node.data_dir", "--data-dir", &self.data_dir),
            ("node.genesis", "--genesis", &self.genesis),
            ("node.key_file", "--key-file", &self.key_file),
            ("p2p.listen", "--p2p-listen", &self.p2p_listen),
            ("rpc.listen", "--rpc-listen", &self.rpc_listen),
            ("grpc.listen", "--grpc-listen", &self.grpc_listen),
            ("metrics.listen", "--metrics-listen", &self.metrics_listen),
            ("privacy.enabled", "--privacy", &self.privacy),
            (
                "privacy.enclave",
                "--privacy-enclave",
                &self.privacy_enclave,
            ),
            (
                "privacy.key_dir",
                "--privacy-key-dir",
                &self.privacy_key_dir,
            ),
            (
                "privacy.passphrase_file",
                "--privacy-passphrase-file",
                &self.privacy_passphrase_file,
            ),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        let named = named.into_iter().filter_map(|(path, flag, value)| {
            Some(Flag {
                path: path.into(),
                flag: flag.into(),
                value: value.clone()?,
            })
        });
        let mut flags: Vec<Flag> = named.collect();
        for given in &self.set {
            let (path, value) = given
                .split_once('=')
                .ok_or_else(|| anyhow::anyhow!("--set {given}: write it as SECTION.NAME=VALUE"))?;
            flags.push(Flag {
                path: path.trim().into(),
                flag: format!("--set {path}"),
                value: value.into(),
            });
        }
        Ok(flags)
    }
}

const NODE_EXAMPLES: &str = "\
Every setting can be given in the file, as a variable (QUORATE_RPC_LISTEN=0.0.0.0:8545) or as a flag
(--set rpc.batch_max=10); flags win over variables, variables over the file. SIGTERM and Ctrl-C stop the node in order.

Examples:
  quorate node --config my-net/node1/quorate.toml
  quorate node --data-dir new-member --p2p-listen 10.0.0.9:30303 --join 10.0.0.1:30303 --promote-when-caught-up
  quorate node --config my-net/node1/quorate.toml --rpc-listen 127.0.0.1:9000 --log-level debug";

/// Arguments of `quorate node`.
#[derive(Debug, Args)]
#[command(after_help = NODE_EXAMPLES)]
pub struct NodeArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Join a running consortium: the p2p address of any member (host:port or multiaddress, with /p2p/PEER_ID to insist on that
    /// peer). Waits until an operator has admitted this node (quorate member add), then takes part as what it was admitted as.
    /// Key and genesis file are made or fetched where they are missing.
    #[arg(long, value_name = "MEMBER")]
    join: Option<String>,
    /// With the seat of a learner: ask to become a voter as soon as this node has caught up.
    #[arg(long)]
    promote_when_caught_up: bool,
}

/// Runs a node to its end.
///
/// # Errors
/// With the exit code for the supervisor.
pub fn node(args: NodeArgs) -> Result<(), Ended> {
    let process = Process::new()?;
    end_with_supervisor()?;
    let loaded = args.source.load()?;
    logs::start(&loaded.config)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        name = loaded.config.node.name,
        version = env!("CARGO_PKG_VERSION"),
        data_dir = %loaded.config.node.data_dir.display(),
        "starting"
    );
    let accounts = Accounts::of(&loaded.config).map_err(Ended::with(Exit::Configuration))?;
    let join = JoinOptions {
        member: args.join,
        promote_when_caught_up: args.promote_when_caught_up,
    };
    node::run(process, loaded.config, join, Arc::new(accounts))
}

/// A node that `quorate dev` started is told to stop when its supervisor ends, however that happens.
fn end_with_supervisor() -> Result<(), Ended> {
    if std::env::var_os(dev::SUPERVISED).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    Ok(())
}

const DEV_EXAMPLES: &str = "\
Prints the endpoints and the accounts, then `ready`; Ctrl-C stops all nodes. The next start goes on with the same
chain. Logs are in DIR/node1/node.log and so on.

Examples:
  quorate dev
  quorate dev --nodes 3 --fresh
  quorate dev --third-party
  quorate dev --data-dir other --base-port 20000";

/// Arguments of `quorate dev`.
#[derive(Debug, Args)]
#[command(after_help = DEV_EXAMPLES)]
pub struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Where files and data of the consortium lie.
    #[arg(long, value_name = "DIR", default_value = "data/dev")]
    data_dir: PathBuf,
    /// Remove what an earlier run left and begin anew.
    #[arg(long)]
    fresh: bool,
    /// Use ports from here on, in five lanes of a hundred: JSON-RPC, members' network, gRPC, metrics, third-party HTTP. Without it:
    /// 8545, 30303, 50051, 9545 and 9080 upwards.
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Without private transactions: no enclave keys are made, and those that are there are not used.
    #[arg(long)]
    no_privacy: bool,
    /// Serve Tessera's HTTP surface (/send, /storeraw, /receive, /keys) on every node, for web3js-quorum and the like.
    #[arg(long, conflicts_with = "no_privacy")]
    third_party: bool,
}

/// Runs a development consortium.
///
/// # Errors
/// With the exit code for the shell.
pub fn dev(args: DevArgs) -> Result<(), Ended> {
    dev::run(&DevPlan {
        nodes: usize::from(args.nodes),
        data_dir: args.data_dir,
        fresh: args.fresh,
        base_port: args.base_port,
        privacy: !args.no_privacy,
        third_party: args.third_party,
    })
}
