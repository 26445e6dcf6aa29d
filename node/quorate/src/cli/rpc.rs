//! `quorate rpc`.

use clap::Args;
use serde_json::Value;

use super::{client, output};

const EXAMPLES: &str = "\
Parameters are read as JSON where they are JSON, else as text.

Examples:
  quorate rpc eth_blockNumber
  quorate rpc eth_getBalance 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 latest
  quorate rpc eth_getLogs '{\"fromBlock\": \"0x1\", \"toBlock\": \"latest\"}' --url http://127.0.0.1:8546
  quorate rpc raft_cluster";

/// Arguments of `quorate rpc`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RpcArgs {
    /// The method.
    method: String,
    /// Its parameters.
    #[arg(allow_negative_numbers = true)]
    params: Vec<String>,
    /// The node's JSON-RPC address.
    #[arg(long, default_value = "http://127.0.0.1:8545")]
    url: String,
}

impl RpcArgs {
    /// Calls and prints the result as JSON.
    ///
    /// # Errors
    /// If the node does not answer or refuses.
    pub fn run(&self) -> anyhow::Result<()> {
        let params: Vec<Value> = self.params.iter().map(|text| parameter(text)).collect();
        let result = super::block_on(client::json_rpc(&self.url, &self.method, params.into()))??;
        output::print_json(&result)?;
        Ok(())
    }
}

fn parameter(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_json_where_they_can_be() {
        let cases = [
            ("true", json!(true)),
            ("12", json!(12)),
            ("latest", json!("latest")),
            ("0x10", json!("0x10")),
            ("[1,2]", json!([1, 2])),
            ("{\"a\":1}", json!({ "a": 1 })),
            ("\"12\"", json!("12")),
            ("null", json!(null)),
        ];
        for (text, expected) in cases {
            assert_eq!(parameter(text), expected);
        }
    }
}
