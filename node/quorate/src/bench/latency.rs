//! One transaction at a time, from sending to the receipt. The nodes take turns.

use std::time::{Duration, Instant};

use alloy_primitives::hex;
use anyhow::{anyhow, bail};
use quorate_proto::v1::SubmitTransactionRequest;
use serde_json::json;

use super::grpc::connect;
use super::workload::Signed;
use crate::cli::client::HttpClient;

/// Transactions before those that count: connections are made, caches filled.
pub const WARM_UP: usize = 20;
/// Pause between looks for a receipt.
const LOOK: Duration = Duration::from_micros(500);
/// An idle chain commits in milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Seconds per transaction through SubmitTransaction with `wait`.
///
/// # Errors
/// If one is refused, fails or is not committed.
pub async fn grpc(urls: &[String], transactions: &[Signed]) -> anyhow::Result<Vec<f64>> {
    let mut clients = Vec::new();
    for url in urls {
        clients.push((url, connect(url).await?));
    }
    let mut times = Vec::new();
    let nodes = clients.len();
    for (i, signed) in transactions.iter().enumerate() {
        let Some((url, client)) = clients.get_mut(i % nodes) else {
            bail!("no nodes")
        };
        let request = SubmitTransactionRequest {
            raw: signed.raw.0.clone(),
            wait: true,
        };
        let started = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, client.submit_transaction(request)).await;
        let took = started.elapsed();
        let answer = answer.map_err(|_| {
            anyhow!(
                "{url}: {} was not committed within {PATIENCE:?}",
                signed.hash
            )
        })?;
        let answer = answer
            .map_err(|e| anyhow!("{url}: {}", e.message()))?
            .into_inner();
        match answer.commitment {
            Some(commitment) if commitment.success => times.push(took.as_secs_f64()),
            _ => bail!("{url}: {} failed", signed.hash),
        }
    }
    Ok(times.split_off(WARM_UP.min(times.len())))
}

/// Seconds per transaction through eth_sendRawTransaction and looking for its receipt.
///
/// # Errors
/// As [`grpc`].
pub async fn json_rpc(
    client: &HttpClient,
    urls: &[String],
    transactions: &[Signed],
) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    for (i, signed) in transactions.iter().enumerate() {
        let Some(url) = urls.get(i % urls.len()) else {
            bail!("no nodes")
        };
        let raw = hex::encode_prefixed(&signed.raw);
        let started = Instant::now();
        client
            .call(url, "eth_sendRawTransaction", json!([raw]))
            .await?;
        let receipt = loop {
            let receipt = client
                .call(url, "eth_getTransactionReceipt", json!([signed.hash]))
                .await?;
            if !receipt.is_null() {
                break receipt;
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "{url}: {} was not committed within {PATIENCE:?}",
                    signed.hash
                );
            }
            tokio::time::sleep(LOOK).await;
        };
        times.push(started.elapsed().as_secs_f64());
        if receipt["status"] != "0x1" {
            bail!("{url}: {} failed", signed.hash);
        }
    }
    Ok(times.split_off(WARM_UP.min(times.len())))
}
