//! The command line.

mod account;
pub mod client;
mod configuration;
mod enclave;
mod health;
mod init;
mod key;
mod ledger;
mod member;
pub mod network;
pub mod output;
mod privacy;
mod recover;
mod rpc;
mod run;
mod status;

use clap::{Parser, Subcommand};

use crate::exit::{Ended, Exit};

const EXAMPLES: &str = "\
Examples:
  quorate dev                                     four nodes on this machine, with funded accounts
  quorate network new --nodes 4 --out my-net      files of a consortium of your own
  quorate node --config my-net/node1/quorate.toml one member of it
  quorate status                                  how the node on this machine is doing
  quorate rpc eth_blockNumber                     any JSON-RPC method

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 wrong configuration or genesis, 4 data folder not usable,
5 port not usable, 10 and above: see docs/errors.md.";

/// A permissioned consortium ledger: Ethereum transactions, ordered by Raft, final at commit.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one member of a consortium until it is told to stop.
    Node(Box<run::NodeArgs>),
    /// Run a development consortium on this machine: one process per node, funded accounts, one command.
    Dev(run::DevArgs),
    /// Make the files of a new consortium.
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Check a genesis file and put it into a data folder.
    Init(init::InitArgs),
    /// Keystore files of accounts that a node signs for.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Node keys: a member's identity.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Private keys with which this member is a party: make, list, import, rotate.
    #[command(subcommand)]
    Enclave(enclave::EnclaveCommand),
    /// Private transactions of a running node: status, payloads, groups, erasure, recovery.
    #[command(subcommand)]
    Privacy(privacy::PrivacyCommand),
    /// Blocks and state of a node that does not run: verify, export, import, prune.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// How one or more running nodes are doing.
    Status(status::StatusArgs),
    /// Call a JSON-RPC method of a running node.
    Rpc(rpc::RpcArgs),
    /// Ask a node's /health or /ready; ends with 0 if it says yes, else with 1.
    Health(health::HealthArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(configuration::ConfigCommand),
    /// Who belongs to a running consortium, and changing it.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Begin anew with one member when the majority is lost for good.
    Recover(recover::RecoverArgs),
    /// Load running nodes with transactions and measure.
    Bench(Box<crate::bench::BenchArgs>),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// With the exit code for the shell.
    pub fn run(self) -> Result<(), Ended> {
        let failed = Ended::with(Exit::Failure);
        match self.command {
            Command::Node(args) => run::node(*args),
            Command::Dev(args) => run::dev(args),
            Command::Network(command) => command.run().map_err(failed),
            Command::Init(args) => args.run(),
            Command::Account(command) => command.run().map_err(failed),
            Command::Key(command) => command.run().map_err(failed),
            Command::Enclave(command) => command.run().map_err(failed),
            Command::Privacy(command) => command.run().map_err(failed),
            Command::Ledger(command) => command.run(),
            Command::Status(args) => args.run().map_err(failed),
            Command::Rpc(args) => args.run().map_err(failed),
            Command::Health(args) => args.run().map_err(failed),
            Command::Config(command) => command.run(),
            Command::Member(command) => command.run().map_err(failed),
            Command::Recover(args) => args.run(),
            Command::Bench(args) => crate::bench::run(*args).map_err(failed),
        }
    }
}

/// A runtime for commands that ask a node something.
fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
