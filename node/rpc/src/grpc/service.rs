//! The methods of the service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use quorate_chain::SharedBlock;
use quorate_proto::v1;
use quorate_proto::v1::get_block_request::Block as BlockChoice;
use quorate_proto::v1::ledger_server::Ledger;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::{convert, private_submission, submissions};
use crate::RpcError;
use crate::feed::{BlockFeed, FeedError};
use crate::json::methods::observe;
use crate::node::{Node, role_name};
use crate::private_form::refuse_private;

/// A client's own deadline is met with our answer, not with the end of the stream: this much earlier.
const DEADLINE_MARGIN: Duration = Duration::from_millis(5);

pub(super) type Answer<T> = Result<Response<T>, Status>;
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `quorate.v1.Ledger` over one node.
#[derive(Debug, Clone)]
pub(crate) struct LedgerService {
    node: Arc<Node>,
}

impl LedgerService {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

/// Measures a request and translates its error.
pub(super) async fn answer<T>(
    method: &'static str,
    work: impl Future<Output = Result<T, RpcError>>,
) -> Answer<T> {
    let started = Instant::now();
    let result = work.await;
    observe("grpc", method, started, result.as_ref().err());
    result.map(Response::new).map_err(RpcError::into_status)
}

#[tonic::async_trait]
impl Ledger for LedgerService {
    async fn submit_transaction(
        &self,
        request: Request<v1::SubmitTransactionRequest>,
    ) -> Answer<v1::SubmitTransactionResponse> {
        let wait = deadline(request.metadata()).unwrap_or(Duration::MAX);
        let v1::SubmitTransactionRequest { raw, wait: waits } = request.into_inner();
        answer("SubmitTransaction", async {
            refuse_private(&raw)?;
            if !waits {
                let hash = self.node.submit(raw.into()).await?;
                return Ok(v1::SubmitTransactionResponse {
                    hash: convert::hash(hash),
                    commitment: None,
                });
            }
            let included = self.node.submit_and_wait(raw.into(), wait).await?;
            let transaction = included.block.block.transactions().get(included.position);
            Ok(v1::SubmitTransactionResponse {
                hash: transaction
                    .map(|tx| convert::hash(*tx.hash()))
                    .unwrap_or_default(),
                commitment: convert::commitment(&included),
            })
        })
        .await
    }

    async fn submit_private_transaction(
        &self,
        request: Request<v1::SubmitPrivateTransactionRequest>,
    ) -> Answer<v1::SubmitPrivateTransactionResponse> {
        let wait = deadline(request.metadata()).unwrap_or(Duration::MAX);
        let work = private_submission::submit(&self.node, request.into_inner(), wait);
        answer("SubmitPrivateTransaction", work).await
    }

    type SubmitTransactionsStream = Answers<v1::SubmitTransactionsResponse>;

    async fn submit_transactions(
        &self,
        request: Request<Streaming<v1::SubmitTransactionsRequest>>,
    ) -> Answer<Self::SubmitTransactionsStream> {
        answer("SubmitTransactions", async {
            let answers = submissions::answers(Arc::clone(&self.node), request.into_inner());
            let stop = self.node.stop.clone();
            Ok(answers.take_until(stop.cancelled_owned()).boxed())
        })
        .await
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Answer<v1::Transaction> {
        answer("GetTransaction", async {
            let hash = convert::parse_hash("hash", &request.into_inner().hash)?;
            // The pool first: a transaction that leaves it for a block meanwhile is found in the second look.
            let pooled = self.node.ctx.pool.get(&hash);
            let included = self.node.included(&hash).await?;
            let found = included.as_ref().and_then(convert::transaction);
            found
                .or_else(|| pooled.as_ref().map(convert::pending))
                .ok_or(RpcError::UnknownTransaction { hash })
        })
        .await
    }

    async fn get_receipt(&self, request: Request<v1::GetReceiptRequest>) -> Answer<v1::Receipt> {
        answer("GetReceipt", async {
            let hash = convert::parse_hash("hash", &request.into_inner().hash)?;
            let included = self.node.included(&hash).await?;
            included
                .as_ref()
                .and_then(convert::receipt)
                .ok_or(RpcError::UnknownTransaction { hash })
        })
        .await
    }

    async fn get_block(&self, request: Request<v1::GetBlockRequest>) -> Answer<v1::Block> {
        answer("GetBlock", async {
            let v1::GetBlockRequest { block, hashes_only } = request.into_inner();
            let found = match block {
                Some(BlockChoice::Height(height)) => self.node.block(height).await?,
                Some(BlockChoice::Hash(hash)) => {
                    self.node
                        .block_by_hash(convert::parse_hash("hash", &hash)?)
                        .await?
                }
                Some(BlockChoice::Latest(true)) | None => self.node.block(self.node.head()).await?,
                Some(BlockChoice::Latest(false)) => {
                    return Err(RpcError::argument(
                        "latest",
                        "must be true, or another block be chosen",
                    ));
                }
            };
            found
                .map(|block| convert::block(&block, hashes_only))
                .ok_or(RpcError::UnknownBlock)
        })
        .await
    }

    type SubscribeBlocksStream = Answers<v1::Block>;

    async fn subscribe_blocks(
        &self,
        request: Request<v1::SubscribeBlocksRequest>,
    ) -> Answer<Self::SubscribeBlocksStream> {
        answer("SubscribeBlocks", async {
            let v1::SubscribeBlocksRequest {
                from_height,
                hashes_only,
            } = request.into_inner();
            let ledger = self.node.ledger();
            let feed = match from_height {
                Some(height) => BlockFeed::from(ledger, height),
                None => BlockFeed::from_now(ledger),
            };
            let blocks = futures::stream::unfold(Some(feed), move |feed| async move {
                let mut feed = feed?;
                match feed.next().await {
                    Ok(block) => Some((Ok(streamed(&block, hashes_only)), Some(feed))),
                    Err(FeedError::Ended) => None,
                    Err(error) => Some((Err(RpcError::from(error).into_status()), None)),
                }
            });
            // A stream would keep the server from stopping.
            Ok(blocks
                .take_until(self.node.stop.clone().cancelled_owned())
                .boxed())
        })
        .await
    }

    async fn get_transaction_status(
        &self,
        request: Request<v1::GetTransactionStatusRequest>,
    ) -> Answer<v1::TransactionStatus> {
        use v1::transaction_status::State;

        answer("GetTransactionStatus", async {
            let hash = convert::parse_hash("hash", &request.into_inner().hash)?;
            let status = |state: State| v1::TransactionStatus {
                state: state.into(),
                reason: String::new(),
                commitment: None,
                replaced_by: Bytes::new(),
            };
            // In this order: what leaves one place meanwhile is found in the next.
            let waits_for = self.node.ctx.pool.pending_reason(&hash);
            let fate = self.node.ctx.pool.fate(&hash);
            if let Some(included) = self.node.included(&hash).await? {
                let commitment = convert::commitment(&included);
                return Ok(v1::TransactionStatus {
                    commitment,
                    ..status(State::Committed)
                });
            }
            if let Some(reason) = waits_for {
                return Ok(v1::TransactionStatus {
                    reason,
                    ..status(State::Pending)
                });
            }
            Ok(fate
                .as_ref()
                .map_or_else(|| status(State::Unknown), convert::departed))
        })
        .await
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::NodeStatus> {
        answer("Status", node_status(&self.node)).await
    }
}

fn streamed(block: &SharedBlock, hashes_only: bool) -> v1::Block {
    convert::block(block, hashes_only)
}

async fn node_status(node: &Node) -> Result<v1::NodeStatus, RpcError> {
    let raft = node.ctx.raft.status();
    let view = node.ctx.membership.view();
    let counts = node.ctx.pool.counts();
    let head = node
        .block(node.head())
        .await?
        .ok_or(RpcError::UnknownBlock)?;
    let peers = node
        .ctx
        .network
        .peers()
        .into_iter()
        .map(|peer| v1::PeerStatus {
            raft_id: peer.raft_id,
            node_id: hex::decode(peer.node_id.trim_start_matches("0x"))
                .unwrap_or_default()
                .into(),
            address: peer.address,
            connected: peer.connected,
            round_trip_us: peer
                .round_trip
                .map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        });
    Ok(v1::NodeStatus {
        version: node.ctx.client_version.clone(),
        chain_id: node.ledger().spec().chain_id(),
        genesis_hash: convert::hash(node.ledger().genesis().hash()),
        node_id: Bytes::copy_from_slice(node.ctx.node.node_id.as_bytes()),
        raft_id: view.this.unwrap_or(node.ctx.node.raft_id),
        role: view.this.map_or("", |_| role_name(raft.role)).to_owned(),
        term: raft.term.0,
        leader: raft.leader.map_or(0, |leader| leader.0),
        head_height: head.height(),
        head_hash: convert::hash(head.hash()),
        state_durable_height: node.ledger().state_durable_height(),
        committed_index: raft.committed.0,
        applied_index: node.ledger().applied(),
        pool_ready: counts.ready as u64,
        pool_waiting: counts.waiting as u64,
        peers: peers.collect(),
        synced: node.sync(&raft).synced,
    })
}

/// What the client's deadline leaves us (`grpc-timeout`: up to 8 digits and a unit, gRPC over HTTP/2).
pub(super) fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(value.saturating_mul(3_600)),
        "M" => Duration::from_secs(value.saturating_mul(60)),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    Some(timeout.saturating_sub(DEADLINE_MARGIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let cases = [
            ("2S", Some(Duration::from_millis(1_995))),
            ("1500m", Some(Duration::from_millis(1_495))),
            ("1000u", Some(Duration::ZERO)),
            ("1M", Some(Duration::from_millis(59_995))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5x", None),
        ];
        for (text, expected) in cases {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(deadline(&metadata), expected, "{text:?}");
        }
        assert_eq!(deadline(&MetadataMap::new()), None);
    }
}
