//! Subscribers over WebSocket: `newHeads` and `logs` on one connection, to one member after the other. What was missed between
//! two connections is asked for, as every client of `eth_subscribe` has to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use soketto::handshake::{Client as Handshake, ServerResponse};
use soketto::{Receiver, Sender};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use tokio_util::sync::CancellationToken;

use crate::accounts::teller;
use crate::endpoints::{Directory, Nodes, Target, read_head, read_log};
use crate::history::{LogSeen, LogStory};
use crate::observers::{RECONNECT, SILENCE, Subscriber, Told};

/// A connection or an answer that takes longer counts as none.
const ANSWER_MAX: Duration = Duration::from_millis(1_000);
/// Notifications that may come before the answer to a request.
const EARLY_MAX: usize = 4_096;
/// No message is larger.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What a subscriber was told of heads and of logs.
#[derive(Debug, Default)]
pub struct ToldLogs {
    /// What it was told of logs.
    pub story: LogStory,
    /// All logs are known of blocks up to this height.
    through: u64,
}

/// Follows heads and logs until `stop`.
pub async fn subscribe(
    nodes: Nodes,
    directory: Directory,
    heads: Arc<Mutex<Told>>,
    logs: Arc<Mutex<ToldLogs>>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut follower = Follower {
        heads: Subscriber::new(nodes.clone(), heads),
        nodes,
        logs,
    };
    while !stop.is_cancelled() {
        let targets = directory.all();
        if !targets.is_empty()
            && let Some(target) = targets.get(rng.random_range(0..targets.len()))
        {
            // Whatever ended it: the next member is asked.
            stop.run_until_cancelled(follower.follow(target)).await;
        }
        stop.run_until_cancelled(tokio::time::sleep(RECONNECT))
            .await;
    }
}

struct Follower {
    nodes: Nodes,
    heads: Subscriber,
    logs: Arc<Mutex<ToldLogs>>,
}

impl Follower {
    async fn follow(&mut self, target: &Target) -> anyhow::Result<()> {
        let mut socket = Socket::open(target).await?;
        let heads = socket.subscribe(json!(["newHeads"])).await?;
        let logs = socket
            .subscribe(json!(["logs", { "address": teller() }]))
            .await?;
        self.heads.connected();
        // What came before the subscriptions, nobody tells: it has to be asked for.
        let head = self.nodes.status(target).await?.head;
        self.heads.take(target, head).await?;
        self.fill(target, head.height).await?;
        self.locked().story.connections.push(Vec::new());
        let mut last: Option<u64> = None;
        loop {
            let (subscription, result) = socket.next().await?;
            if subscription == heads {
                let seen = read_head(&result)?;
                self.heads.follows("newHeads", target, last, seen);
                last = Some(seen.height);
                self.heads.take(target, seen).await?;
            } else if subscription == logs {
                if result.get("removed").and_then(Value::as_bool) == Some(true) {
                    self.heads
                        .complain(format!("node {} took a log back: {result}", target.slot));
                }
                self.told(read_log(&result)?);
            } else {
                bail!("a notification of a subscription that nobody made");
            }
        }
    }

    /// Asks for the logs that nobody told of, up to a height.
    async fn fill(&self, target: &Target, through: u64) -> anyhow::Result<()> {
        // Of the last block that was told of some may be missing.
        let (from, last) = {
            let logs = self.locked();
            let last = logs.story.all.last().map(|log| log.transaction);
            let told = logs.story.all.last().map_or(0, |log| log.block.height);
            (told.max(logs.through + 1), last)
        };
        if from > through {
            return Ok(());
        }
        let mut asked = self.nodes.logs(target, teller(), from, through).await?;
        let known = asked.iter().position(|log| Some(log.transaction) == last);
        asked.drain(..known.map_or(0, |known| known + 1));
        let mut logs = self.locked();
        logs.story.all.extend(asked);
        logs.through = through;
        Ok(())
    }

    /// A subscription told of a log. A member that is behind the one before tells of some again.
    fn told(&self, log: LogSeen) {
        let mut logs = self.locked();
        if let Some(connection) = logs.story.connections.last_mut() {
            connection.push(log);
        }
        let height = log.block.height;
        let newest = logs.story.all.iter().rev();
        let mut newest = newest.take_while(|known| known.block.height >= height);
        let is_known = height <= logs.through || newest.any(|known| *known == log);
        if !is_known {
            logs.story.all.push(log);
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, ToldLogs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A WebSocket connection to a member.
struct Socket {
    sender: Sender<Compat<TcpStream>>,
    receiver: Receiver<Compat<TcpStream>>,
    next_id: u64,
    /// Notifications that came before the answer that was waited for.
    early: std::collections::VecDeque<Value>,
}

impl Socket {
    async fn open(target: &Target) -> anyhow::Result<Self> {
        let address = target.rpc.strip_prefix("http://").context("an address")?;
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut client = Handshake::new(stream.compat(), address, "/");
            match client.handshake().await? {
                ServerResponse::Accepted { .. } => {}
                other => bail!("handshake: {other:?}"),
            }
            let mut builder = client.into_builder();
            builder.set_max_message_size(MESSAGE_BYTES_MAX);
            Ok(builder.finish())
        };
        let (sender, receiver) = tokio::time::timeout(ANSWER_MAX, opening)
            .await
            .context("no connection in time")??;
        Ok(Self {
            sender,
            receiver,
            next_id: 0,
            early: std::collections::VecDeque::new(),
        })
    }

    async fn subscribe(&mut self, params: Value) -> anyhow::Result<String> {
        self.next_id += 1;
        let id = self.next_id;
        let body =
            json!({ "jsonrpc": "2.0", "id": id, "method": "eth_subscribe", "params": params });
        self.sender.send_text(body.to_string()).await?;
        self.sender.flush().await?;
        loop {
            let message = self.read(ANSWER_MAX).await?;
            if message.get("id").and_then(Value::as_u64) == Some(id) {
                let result = message.get("result").and_then(Value::as_str);
                return Ok(result.context("a subscription has an id")?.to_owned());
            }
            if self.early.len() == EARLY_MAX {
                bail!("notifications without end before an answer");
            }
            self.early.push_back(message);
        }
    }

    /// The next notification: subscription id and result.
    async fn next(&mut self) -> anyhow::Result<(String, Value)> {
        let mut message = match self.early.pop_front() {
            Some(message) => message,
            None => self.read(SILENCE).await?,
        };
        let params = message.get_mut("params").context("a notification")?;
        let subscription = params.get("subscription").and_then(Value::as_str);
        let subscription = subscription.context("a notification names its subscription")?;
        let subscription = subscription.to_owned();
        let result = params.get_mut("result").map(Value::take);
        Ok((subscription, result.unwrap_or_default()))
    }

    async fn read(&mut self, patience: Duration) -> anyhow::Result<Value> {
        let mut message = Vec::new();
        tokio::time::timeout(patience, self.receiver.receive_data(&mut message))
            .await
            .context("silence")??;
        Ok(serde_json::from_slice(&message)?)
    }
}
