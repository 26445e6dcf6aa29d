//! `quorate health`: for health checks in images without a shell.

use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::client::HttpClient;
use super::output;
use crate::config::parse_duration;

/// Arguments of `quorate health`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate health\n  quorate health --url http://127.0.0.1:9545/ready    a leader is known and the node is close to it"
)]
pub struct HealthArgs {
    /// The page to ask.
    #[arg(long, default_value = "http://127.0.0.1:9545/health")]
    url: String,
    /// How long to wait for the answer.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    timeout: Duration,
}

impl HealthArgs {
    /// Asks.
    ///
    /// # Errors
    /// If there is no answer, or the answer is no.
    pub fn run(&self) -> anyhow::Result<()> {
        let (status, body) = super::block_on(async {
            let client = HttpClient::new();
            match tokio::time::timeout(self.timeout, client.get(&self.url)).await {
                Ok(answer) => Ok(answer?),
                Err(_) => bail!("{} did not answer within {:?}", self.url, self.timeout),
            }
        })??;
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        if !status.is_success() {
            bail!("{} answered {status}: {text}", self.url);
        }
        output::print(&text)?;
        Ok(())
    }
}
