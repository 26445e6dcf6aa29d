//! Seeing what was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_proto::v1::{Block, SubscribeBlocksRequest};
use serde_json::{Value, json};

use super::grpc::connect;
use super::load::Run;
use crate::cli::client::HttpClient;

/// Pause before a broken stream is opened again.
const RECONNECT: Duration = Duration::from_millis(200);
/// Pause between looks for the next block over JSON-RPC.
const LOOK: Duration = Duration::from_millis(3);

/// Follows the blocks of one node until the run stops.
pub struct Follower {
    blocks: Arc<AtomicU64>,
}

impl Follower {
    /// Blocks with transactions of the run.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }
}

/// Follows a node through SubscribeBlocks, from the block after `height` on.
pub fn grpc(run: Arc<Run>, node: usize, url: String, height: u64) -> Follower {
    let blocks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&blocks);
    tokio::spawn(async move {
        let mut next = height + 1;
        while !run.stop.is_cancelled() {
            let followed = run
                .stop
                .run_until_cancelled(follow_stream(&run, node, &url, &mut next, &counted))
                .await;
            if let Some(Err(reason)) = followed {
                tracing::debug!(url, reason, "blocks could not be followed");
                tokio::time::sleep(RECONNECT).await;
            }
        }
    });
    Follower { blocks }
}

async fn follow_stream(
    run: &Run,
    node: usize,
    url: &str,
    next: &mut u64,
    blocks: &AtomicU64,
) -> Result<(), String> {
    let mut client = connect(url).await.map_err(|e| e.to_string())?;
    let request = SubscribeBlocksRequest {
        from_height: Some(*next),
        hashes_only: true,
    };
    let mut stream = client
        .subscribe_blocks(request)
        .await
        .map_err(|e| e.to_string())?
        .into_inner();
    while let Some(Block {
        height,
        transaction_hashes,
        ..
    }) = stream.message().await.map_err(|e| e.to_string())?
    {
        if run.saw_block(Some(node), transaction_hashes.iter().map(AsRef::as_ref)) {
            blocks.fetch_add(1, Ordering::Relaxed);
        }
        *next = height + 1;
    }
    Err("the stream ended".into())
}

/// Follows a node by asking for the next block again and again.
pub fn json_rpc(run: Arc<Run>, client: HttpClient, url: String, height: u64) -> Follower {
    let blocks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&blocks);
    tokio::spawn(async move {
        let mut next = height + 1;
        while !run.stop.is_cancelled() {
            let block = client
                .call(
                    &url,
                    "eth_getBlockByNumber",
                    json!([format!("{next:#x}"), false]),
                )
                .await;
            match block
                .as_ref()
                .ok()
                .and_then(|block| block.get("transactions")?.as_array())
            {
                Some(hashes) => {
                    let hashes: Vec<Vec<u8>> = hashes.iter().filter_map(bytes).collect();
                    if run.saw_block(None, hashes.iter().map(Vec::as_slice)) {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    next += 1;
                }
                None => tokio::time::sleep(LOOK).await,
            }
        }
    });
    Follower { blocks }
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?.strip_prefix("0x")?).ok()
}
