//! `quorate status`.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::client::{CallError, HttpClient, quantity};
use super::output;
use crate::config::parse_duration;

/// Arguments of `quorate status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate status\n  quorate status --rpc http://127.0.0.1:8545 --rpc http://127.0.0.1:8546\n  quorate status --json\n\nEnds with 1 if a node does not answer."
)]
pub struct StatusArgs {
    /// JSON-RPC address of a node; may be repeated.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545")]
    rpc: Vec<String>,
    /// How long to wait for one node.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// As JSON, for scripts: an object for one node, a list for several.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    /// Asks all nodes and prints what they say.
    ///
    /// # Errors
    /// If one does not answer; what the others say is printed all the same.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut answers = super::block_on(async {
            let client = HttpClient::new();
            futures::future::join_all(self.rpc.iter().map(|url| self.ask(&client, url))).await
        })?;
        let failures: Vec<String> = answers
            .iter()
            .filter_map(|a| a.as_ref().err().cloned())
            .collect();
        match (self.json, answers.len()) {
            (true, 1) if failures.is_empty() => {
                let one = answers.remove(0).unwrap_or_default();
                output::print_json(&one)?;
            }
            (true, _) => {
                let all = self
                    .rpc
                    .iter()
                    .zip(answers)
                    .map(|(url, answer)| match answer {
                        Ok(value) => value,
                        Err(error) => json!({ "url": url, "error": error }),
                    });
                output::print_json(&all.collect::<Vec<Value>>().into())?;
            }
            (false, _) => {
                let texts: Vec<String> = answers
                    .into_iter()
                    .flatten()
                    .map(|value| describe(&value))
                    .collect();
                if !texts.is_empty() {
                    output::print(&texts.join("\n\n"))?;
                }
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("; "));
        }
        Ok(())
    }

    async fn ask(&self, client: &HttpClient, url: &str) -> Result<Value, String> {
        match tokio::time::timeout(self.timeout, collect(client, url)).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("{url} did not answer within {:?}", self.timeout)),
        }
    }
}

async fn collect(client: &HttpClient, url: &str) -> Result<Value, CallError> {
    let ask = |method: &'static str, params: Value| client.call(url, method, params);
    let node = ask("admin_nodeInfo", json!([])).await?;
    let members = ask("raft_cluster", json!([])).await?;
    let head = ask("eth_getBlockByNumber", json!(["latest", false])).await?;
    let chain_id = ask("eth_chainId", json!([])).await?;
    let syncing = ask("eth_syncing", json!([])).await?;
    let peers = ask("net_peerCount", json!([])).await?;
    let pool = ask("txpool_status", json!([])).await?;
    let members = members.as_array().cloned().unwrap_or_default();
    let own = members
        .iter()
        .find(|m| m["raftId"] == node["raftId"])
        .cloned()
        .unwrap_or_default();
    let leader = members.iter().find(|m| m["role"] == "minter");
    Ok(json!({
        "url": url,
        "version": node["name"],
        "raftId": node["raftId"],
        "nodeId": node["nodeId"],
        "organisation": own["organisation"],
        "role": own["role"],
        "leader": leader.map(|m| m["raftId"].clone()),
        "members": members.len(),
        "membersActive": members.iter().filter(|m| m["nodeActive"] == true).count(),
        "chainId": quantity(&chain_id),
        "genesisHash": node["protocols"]["eth"]["genesis"],
        "height": quantity(&head["number"]),
        "head": head["hash"],
        "headTime": quantity(&head["timestamp"]),
        "synced": syncing == false,
        "peers": quantity(&peers),
        "poolReady": quantity(&pool["pending"]),
        "poolWaiting": quantity(&pool["queued"]),
    }))
}

fn describe(status: &Value) -> String {
    let text = |name: &str| match &status[name] {
        Value::String(s) => s.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let role = match text("role").as_str() {
        "minter" => "leader".to_owned(),
        "verifier" => "follower".to_owned(),
        "" => "no leader is known".to_owned(),
        other => other.to_owned(),
    };
    let leader = match &status["leader"] {
        Value::Null => "no leader".to_owned(),
        id => format!("leader is raft id {id}"),
    };
    let synced = if status["synced"] == true {
        "in sync"
    } else {
        "catching up"
    };
    [
        text("url"),
        format!(
            "  node        raft id {}, {} ({})",
            text("raftId"),
            text("organisation"),
            text("version")
        ),
        format!("  role        {role}"),
        format!(
            "  consortium  {} of {} members active, {leader}",
            text("membersActive"),
            text("members")
        ),
        format!(
            "  chain       id {}, height {}, {synced}",
            text("chainId"),
            text("height")
        ),
        format!("  head        {}", text("head")),
        format!(
            "  pool        {} ready, {} waiting",
            text("poolReady"),
            text("poolWaiting")
        ),
        format!("  peers       {} connected", text("peers")),
    ]
    .join("\n")
}
