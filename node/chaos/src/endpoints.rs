//! How the harness speaks to a node: JSON-RPC over HTTP and gRPC, with short patience and typed answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use quorate_proto::v1::ledger_client::LedgerClient;
use quorate_proto::v1::{StatusRequest, SubmitTransactionRequest, SubscribeBlocksRequest};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use crate::history::{Block, LogSeen, Seen};
use crate::links::Slot;

/// An answer that takes longer counts as none.
const ANSWER_MAX: Duration = Duration::from_millis(1_000);
/// An answer to a question about many blocks.
const BULK_MAX: Duration = Duration::from_secs(10);
/// No answer is larger.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Calls in one request.
const BATCH: usize = 200;

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its place.
    pub slot: Slot,
    /// How often it has been started.
    pub life: u32,
    /// JSON-RPC.
    pub rpc: String,
    /// gRPC.
    pub grpc: String,
}

/// The nodes that clients ask; changes as members come and go.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<RwLock<Vec<Target>>>);

impl Directory {
    /// All of them.
    pub fn all(&self) -> Vec<Target> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on these.
    pub fn replace(&self, targets: Vec<Target>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = targets;
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// True if it leads.
    pub leads: bool,
    /// Its last block.
    pub head: Seen,
    /// Commit index of its log, if it was asked in a way that tells.
    pub committed: Option<u64>,
}

/// A client of all nodes. Connections are kept.
#[derive(Debug, Clone)]
pub struct Nodes {
    http: Client<HttpConnector, Full<Bytes>>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Default for Nodes {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_millis(500)));
        connector.set_nodelay(true);
        Self {
            http: Client::builder(TokioExecutor::new()).build(connector),
            channels: Arc::default(),
        }
    }
}

impl Nodes {
    async fn post(&self, url: &str, body: Value, patience: Duration) -> anyhow::Result<Value> {
        let asking = async {
            let request = Request::post(url)
                .header("content-type", "application/json")
                .body(Full::from(body.to_string()))?;
            let answer = self.http.request(request).await?;
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
            let bytes = body
                .collect()
                .await
                .map_err(|e| anyhow!("answer: {e}"))?
                .to_bytes();
            Ok(serde_json::from_slice(&bytes)?)
        };
        tokio::time::timeout(patience, asking)
            .await
            .context("no answer in time")?
    }

    /// A JSON-RPC call.
    ///
    /// # Errors
    /// No answer, or an error as the answer.
    pub async fn call(&self, to: &Target, method: &str, params: Value) -> anyhow::Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut answer = self.post(&to.rpc, body, ANSWER_MAX).await?;
        match answer.get("error") {
            Some(error) => Err(anyhow!("{method}: {error}")),
            None => Ok(answer
                .get_mut("result")
                .map(Value::take)
                .unwrap_or_default()),
        }
    }

    /// Many calls of one method; results in their order, errors as `null`.
    ///
    /// # Errors
    /// No answer.
    pub async fn calls(
        &self,
        to: &Target,
        method: &str,
        params: Vec<Value>,
    ) -> anyhow::Result<Vec<Value>> {
        let mut results = Vec::with_capacity(params.len());
        for part in params.chunks(BATCH) {
            let calls: Vec<Value> = part
                .iter()
                .enumerate()
                .map(|(id, params)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
                .collect();
            let answer = self.post(&to.rpc, Value::Array(calls), BULK_MAX).await?;
            let answers = answer.as_array().context("a batch is answered by a list")?;
            let mut by_id: BTreeMap<u64, Value> = BTreeMap::new();
            for answer in answers {
                let id = answer.get("id").and_then(Value::as_u64);
                by_id.insert(
                    id.context("an answer has an id")?,
                    answer.get("result").cloned().unwrap_or_default(),
                );
            }
            results.extend((0..part.len() as u64).map(|id| by_id.remove(&id).unwrap_or_default()));
        }
        Ok(results)
    }

    /// The block a transaction is in, if this node has it.
    ///
    /// # Errors
    /// No answer.
    pub async fn receipt(&self, to: &Target, hash: B256) -> anyhow::Result<Option<Seen>> {
        let receipt = self
            .call(to, "eth_getTransactionReceipt", json!([hash]))
            .await?;
        if receipt.is_null() {
            return Ok(None);
        }
        Ok(Some(Seen {
            height: quantity(receipt.get("blockNumber"))?,
            hash: hash_of(receipt.get("blockHash"))?,
        }))
    }

    /// Blocks of a range of heights; `None` for those that this node has not.
    ///
    /// # Errors
    /// No answer, or one that is no block.
    pub async fn blocks(
        &self,
        to: &Target,
        heights: impl Iterator<Item = u64>,
    ) -> anyhow::Result<Vec<Option<Block>>> {
        let params = heights.map(|h| json!([format!("{h:#x}"), false])).collect();
        let blocks = self.calls(to, "eth_getBlockByNumber", params).await?;
        blocks
            .iter()
            .map(|block| (!block.is_null()).then(|| read_block(block)).transpose())
            .collect()
    }

    /// The logs of a contract in a range of heights.
    ///
    /// # Errors
    /// No answer, or one that is no list of logs.
    pub async fn logs(
        &self,
        to: &Target,
        contract: Address,
        from: u64,
        through: u64,
    ) -> anyhow::Result<Vec<LogSeen>> {
        let filter = json!({
            "address": contract,
            "fromBlock": format!("{from:#x}"),
            "toBlock": format!("{through:#x}"),
        });
        let logs = self.call(to, "eth_getLogs", json!([filter])).await?;
        let logs = logs.as_array().context("a list of logs")?;
        logs.iter().map(read_log).collect()
    }

    /// Balance and next nonce of accounts at a block, of those for which the node has an answer.
    ///
    /// # Errors
    /// No answer at all, or one that makes no sense.
    pub async fn accounts(
        &self,
        to: &Target,
        accounts: &[Address],
        height: u64,
    ) -> anyhow::Result<(BTreeMap<Address, U256>, BTreeMap<Address, u64>)> {
        let params = || {
            let at = format!("{height:#x}");
            accounts.iter().map(move |a| json!([a, at])).collect()
        };
        let mut balances = BTreeMap::new();
        for (account, balance) in accounts
            .iter()
            .zip(self.calls(to, "eth_getBalance", params()).await?)
        {
            if let Some(text) = balance.as_str() {
                balances.insert(*account, text.parse().context("a balance")?);
            }
        }
        let mut nonces = BTreeMap::new();
        let counts = self.calls(to, "eth_getTransactionCount", params()).await?;
        for (account, nonce) in accounts.iter().zip(counts) {
            if !nonce.is_null() {
                nonces.insert(*account, quantity(Some(&nonce))?);
            }
        }
        Ok((balances, nonces))
    }

    /// The gRPC client of a node.
    ///
    /// # Errors
    /// If its address is none.
    pub fn grpc(&self, to: &Target) -> anyhow::Result<LedgerClient<Channel>> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&to.grpc) {
            Some(channel) => channel.clone(),
            None => {
                let channel = Endpoint::from_shared(to.grpc.clone())?
                    .connect_timeout(Duration::from_millis(500))
                    .tcp_nodelay(true)
                    .connect_lazy();
                channels.insert(to.grpc.clone(), channel.clone());
                channel
            }
        };
        Ok(LedgerClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// How a node is doing.
    ///
    /// # Errors
    /// No answer.
    pub async fn status(&self, to: &Target) -> anyhow::Result<NodeState> {
        let mut client = self.grpc(to)?;
        let status = tokio::time::timeout(ANSWER_MAX, client.status(StatusRequest {}))
            .await
            .context("no answer in time")??
            .into_inner();
        Ok(NodeState {
            leads: status.leader == status.raft_id && status.leader != 0,
            head: Seen {
                height: status.head_height,
                hash: word(&status.head_hash)?,
            },
            committed: Some(status.committed_index),
        })
    }

    /// The same over JSON-RPC.
    ///
    /// # Errors
    /// No answer.
    pub async fn status_by_rpc(&self, to: &Target) -> anyhow::Result<NodeState> {
        let role = self.call(to, "raft_role", json!([])).await?;
        let head = self
            .call(to, "eth_getBlockByNumber", json!(["latest", false]))
            .await?;
        Ok(NodeState {
            leads: role == "minter",
            head: Seen {
                height: quantity(head.get("number"))?,
                hash: hash_of(head.get("hash"))?,
            },
            committed: None,
        })
    }

    /// Sends a transaction and waits for its block.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub async fn submit(
        &self,
        to: &Target,
        raw: &[u8],
        wait: bool,
    ) -> anyhow::Result<Option<Seen>> {
        let mut client = self.grpc(to)?;
        let request = SubmitTransactionRequest {
            raw: Bytes::copy_from_slice(raw),
            wait,
        };
        let answer = tokio::time::timeout(ANSWER_MAX, client.submit_transaction(request))
            .await
            .context("no answer in time")??
            .into_inner();
        answer
            .commitment
            .map(|c| {
                Ok(Seen {
                    height: c.block_height,
                    hash: word(&c.block_hash)?,
                })
            })
            .transpose()
    }

    /// Blocks as they come; from a height on, or from now on.
    ///
    /// # Errors
    /// No answer.
    pub async fn subscribe(
        &self,
        to: &Target,
        from_height: Option<u64>,
    ) -> anyhow::Result<tonic::Streaming<quorate_proto::v1::Block>> {
        let mut client = self.grpc(to)?;
        let request = SubscribeBlocksRequest {
            from_height,
            hashes_only: true,
        };
        Ok(
            tokio::time::timeout(ANSWER_MAX, client.subscribe_blocks(request))
                .await
                .context("no answer in time")??
                .into_inner(),
        )
    }
}

/// Thirty-two bytes.
///
/// # Errors
/// If they are not so many.
pub fn word(bytes: &[u8]) -> anyhow::Result<B256> {
    B256::try_from(bytes).map_err(|_| anyhow!("a hash of {} bytes", bytes.len()))
}

/// A log as a filter or a subscription gives it.
///
/// # Errors
/// If it is none.
pub fn read_log(value: &Value) -> anyhow::Result<LogSeen> {
    Ok(LogSeen {
        block: Seen {
            height: quantity(value.get("blockNumber"))?,
            hash: hash_of(value.get("blockHash"))?,
        },
        transaction: hash_of(value.get("transactionHash"))?,
    })
}

/// A header as a subscription gives it.
///
/// # Errors
/// If it is none.
pub fn read_head(value: &Value) -> anyhow::Result<Seen> {
    Ok(Seen {
        height: quantity(value.get("number"))?,
        hash: hash_of(value.get("hash"))?,
    })
}

fn quantity(value: Option<&Value>) -> anyhow::Result<u64> {
    let text = value
        .and_then(Value::as_str)
        .context("a quantity is text")?;
    let digits = text
        .strip_prefix("0x")
        .context("a quantity begins with 0x")?;
    Ok(u64::from_str_radix(digits, 16)?)
}

fn hash_of(value: Option<&Value>) -> anyhow::Result<B256> {
    let text = value.and_then(Value::as_str).context("a hash is text")?;
    Ok(text.parse()?)
}

fn read_block(value: &Value) -> anyhow::Result<Block> {
    let transactions = value.get("transactions").and_then(Value::as_array);
    let coinbase = value.get("miner").and_then(Value::as_str);
    Ok(Block {
        height: quantity(value.get("number"))?,
        hash: hash_of(value.get("hash"))?,
        parent: hash_of(value.get("parentHash"))?,
        state_root: hash_of(value.get("stateRoot"))?,
        coinbase: coinbase.context("a block has a miner")?.parse()?,
        transactions: transactions
            .context("a block has transactions")?
            .iter()
            .map(|hash| hash_of(Some(hash)))
            .collect::<anyhow::Result<_>>()?,
    })
}
