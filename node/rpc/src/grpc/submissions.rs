//! Many transactions over one stream.

use std::sync::Arc;

use alloy_primitives::keccak256;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use quorate_proto::v1;
use tonic::{Status, Streaming};

use super::convert;
use crate::RpcError;
use crate::node::Node;
use crate::private_form::is_private;

/// Transactions that are checked together: what has arrived, up to this many. Enough to use all cores for the signatures,
/// few enough that the first answer does not wait long (40 microseconds each).
const CHUNK_MAX: usize = 256;
/// So many are checked on this thread; more on a thread of their own.
const INLINE_MAX: usize = 4;

/// One answer per request, in order. A client that does not read its answers is not read from either: HTTP/2 flow control
/// bounds what is under way.
pub(super) fn answers(
    node: Arc<Node>,
    requests: Streaming<v1::SubmitTransactionsRequest>,
) -> impl Stream<Item = Result<v1::SubmitTransactionsResponse, Status>> + Send {
    let mut sequence = 0u64;
    requests
        .ready_chunks(CHUNK_MAX)
        .then(move |chunk| {
            let first = sequence;
            sequence += chunk.iter().filter(|request| request.is_ok()).count() as u64;
            submit(Arc::clone(&node), chunk, first)
        })
        .flat_map(futures::stream::iter)
}

async fn submit(
    node: Arc<Node>,
    chunk: Vec<Result<v1::SubmitTransactionsRequest, Status>>,
    first: u64,
) -> Vec<Result<v1::SubmitTransactionsResponse, Status>> {
    let mut raw: Vec<Bytes> = Vec::with_capacity(chunk.len());
    let mut broken = None;
    for request in chunk {
        match request {
            Ok(request) => raw.push(request.raw),
            // The stream ends with it.
            Err(status) => broken = Some(status),
        }
    }
    let mut answers: Vec<_> = admit(&node, raw)
        .await
        .unwrap_or_else(|error| vec![Err(error.into_status())]);
    for (answer, sequence) in answers.iter_mut().zip(first..) {
        if let Ok(answer) = answer {
            answer.sequence = sequence;
        }
    }
    answers.extend(broken.map(Err));
    answers
}

async fn admit(
    node: &Arc<Node>,
    raw: Vec<Bytes>,
) -> Result<Vec<Result<v1::SubmitTransactionsResponse, Status>>, RpcError> {
    if raw.len() <= INLINE_MAX {
        return Ok(admit_now(node, &raw));
    }
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || admit_now(&node, &raw))
        .await
        .map_err(RpcError::internal)
}

fn admit_now(node: &Node, raw: &[Bytes]) -> Vec<Result<v1::SubmitTransactionsResponse, Status>> {
    let public: Vec<&Bytes> = raw.iter().filter(|raw| !is_private(raw)).collect();
    let mut results = node.ctx.pool.admit_all(&public, true).into_iter();
    let answer = |raw: &Bytes| {
        let admitted = match is_private(raw) {
            true => None,
            false => results.next(),
        };
        let (is_transaction, error) = match admitted {
            Some(Ok(hash)) => {
                return Ok(v1::SubmitTransactionsResponse {
                    sequence: 0,
                    hash: convert::hash(hash),
                    refusal: None,
                });
            }
            Some(Err(error)) => (convert::is_transaction(&error), node.judge(error, raw)),
            None => (true, RpcError::PrivateForm),
        };
        Ok(v1::SubmitTransactionsResponse {
            sequence: 0,
            hash: if is_transaction {
                convert::hash(keccak256(raw))
            } else {
                Bytes::new()
            },
            refusal: Some(convert::refusal(error)),
        })
    };
    raw.iter().map(answer).collect()
}
