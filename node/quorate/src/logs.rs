//! Logs on standard error.

use std::io::IsTerminal as _;

use anyhow::anyhow;
use tracing_subscriber::EnvFilter;

use crate::config::NodeConfig;

/// Starts logging as configured.
///
/// # Errors
/// If logging was started before.
pub fn start(config: &NodeConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match config.log.format.as_str() {
        "json" => builder.json().flatten_event(true).try_init(),
        _ => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
    started.map_err(|e| anyhow!("starting logs: {e}"))
}
