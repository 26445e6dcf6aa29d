//! Logs on standard error.

use std::io::IsTerminal as _;

use anyhow::{Context as _, anyhow};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use crate::config::{NodeConfig, log_filter};

/// Starts logging as configured.
///
/// # Errors
/// If logging was started before.
pub fn start(config: &NodeConfig) -> anyhow::Result<()> {
    let filter = log_filter(&config.log.level).context("log.level")?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let rooms = registry().with(filter);
    let started = match config.log.format.as_str() {
        "json" => rooms.with(lines.json().flatten_event(true)).try_init(),
        _ => rooms
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
    };
    started.map_err(|e| anyhow!("starting logs: {e}"))
}
