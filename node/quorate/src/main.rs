//! # What it is
//! The binary: one member of a consortium (`quorate node`), and the commands around it. It joins the rooms; it has no
//! domain logic of its own.
//!
//! # Flow
//! ```text
//! arguments ─► cli ─► config (file < environment < flags) ─► node: open stores ─► connect handles ─► watch tasks ─► stop in order
//!                └──► network new, init, account, key, status, rpc, health, config, bench
//! ```
//!
//! # You must
//! Give every command that runs for long a way to stop: SIGTERM and Ctrl-C end `node` and `dev` in order.
//!
//! # It promises
//! - Exit codes as in `exit.rs`; errors on standard error, one line each, `error: …`.
//! - Standard output carries results only; `--json` where scripts read them.
//! - No secret on the command line, in logs or in error texts.
//!
//! # It does not
//! Judge blocks or transactions, or know how a room works inside.
//!
//! # Read next
//! `cli.rs`, `config/settings.rs`, `node.rs`.

/// A named place where tests of whole processes can make this room wait or panic; see `quorate-fail-points`. Nothing is
/// left of it without the feature `fail-points`.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "fail-points")]
        quorate_fail_points::pass($name);
    };
}

mod accounts;
mod bench;
mod cli;
mod config;
mod dev;
mod exit;
mod join;
mod keys;
mod logs;
mod membership;
mod mend;
mod monitor;
mod network;
mod node;
mod privacy;
mod process;
mod relay;
mod seat;
mod snapshots;
mod stores;
mod tasks;

use std::process::ExitCode;

use clap::Parser as _;

use crate::exit::Exit;

/// A node frees on one thread what another one allocated, hundreds of times for each transaction. The C library's allocator took an
/// eighth of all processor time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "fail-points")]
    if let Err(error) = quorate_fail_points::watch() {
        cli::output::complain(&error.into());
        return Exit::Configuration.into();
    }
    match cli::Cli::parse().run() {
        Ok(()) => Exit::Success.into(),
        Err(ended) => {
            cli::output::complain(&ended.error);
            ended.exit.into()
        }
    }
}
