//! Submitting over gRPC: one stream of transactions per connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use futures::stream;
use quorate_proto::v1::ledger_client::LedgerClient;
use quorate_proto::v1::{StatusRequest, SubmitTransactionsRequest, SubmitTransactionsResponse};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::load::{Run, Share};

/// Requests between a sender and its connection; when full the sender waits.
const OUTBOX: usize = 256;
/// Answers between a connection and its sender; when full the connection waits, and so does the node.
const ANSWERS: usize = 1_024;
/// A node may be behind the one that committed the preparation for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A full block has to fit.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection.
///
/// # Errors
/// If nothing answers there.
pub async fn connect(url: &str) -> anyhow::Result<LedgerClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| anyhow!("{url:?} is not http://host:port"))?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let channel = endpoint.connect().await.map_err(|e| {
        let cause = std::error::Error::source(&e)
            .map(|c| format!(": {c}"))
            .unwrap_or_default();
        anyhow!("{url} does not answer gRPC: {e}{cause}")
    })?;
    Ok(LedgerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Waits until all nodes are at `height` and gives back where they are.
///
/// # Errors
/// If one does not answer or does not get there.
pub async fn wait_for_height(urls: &[String], height: u64) -> anyhow::Result<Vec<u64>> {
    let mut heights = Vec::new();
    for url in urls {
        let mut client = connect(url).await?;
        let started = Instant::now();
        heights.push(loop {
            let status = client
                .status(StatusRequest {})
                .await
                .map_err(|e| anyhow!("{url}: {}", e.message()))?;
            let reached = status.into_inner().head_height;
            if reached >= height {
                break reached;
            }
            if started.elapsed() > PATIENCE {
                bail!("{url} is at height {reached} and does not reach {height}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
    }
    Ok(heights)
}

/// Sends the share of one connection; connects again when the connection breaks.
pub async fn submit(run: Arc<Run>, worker: usize, url: String) {
    let mut share = Share::new(&run, worker);
    while share.has_next() {
        let mut stream = SubmitStream::open(url.clone());
        let ended = stream.drive(&run, &mut share).await;
        if let Err(reason) = ended {
            share.lost(stream.unanswered.drain(..), &reason);
            tokio::select! {
                () = run.closing.cancelled() => return,
                () = share.ready() => {}
            }
        }
    }
}

type Answer = Result<SubmitTransactionsResponse, Status>;

struct SubmitStream {
    requests: Sender<SubmitTransactionsRequest>,
    answers: Receiver<Answer>,
    /// Sent and not answered, in order.
    unanswered: VecDeque<usize>,
}

impl SubmitStream {
    fn open(url: String) -> Self {
        let (requests, outbox) = mpsc::channel(OUTBOX);
        let (inbox, answers) = mpsc::channel(ANSWERS);
        tokio::spawn(async move {
            if let Err(status) = carry(&url, outbox, &inbox).await {
                // If the sender has gone nobody needs to know.
                drop(inbox.send(Err(status)).await);
            }
        });
        Self {
            requests,
            answers,
            unanswered: VecDeque::new(),
        }
    }

    /// Sends and takes answers until all is sent and answered, or the connection breaks.
    async fn drive(&mut self, run: &Run, share: &mut Share<'_>) -> Result<(), String> {
        let Self {
            requests,
            answers,
            unanswered,
        } = self;
        loop {
            if !share.has_next() && unanswered.is_empty() {
                return Ok(());
            }
            let more = share.has_next() && !share.blocked();
            tokio::select! {
                biased;
                () = run.stop.cancelled() => return Ok(()),
                answer = answers.recv() => match answer {
                    Some(Ok(answer)) => answered(share, unanswered, answer),
                    Some(Err(status)) => return Err(format!("{}: {}", status.code(), status.message())),
                    None => return Err("the stream ended".into()),
                },
                () = run.closing.cancelled(), if share.has_next() => {}
                // First a place in the outbox, which is given back when this is dropped; only then one in the window.
                permit = async {
                    let permit = requests.reserve().await;
                    share.ready().await;
                    permit
                }, if more => {
                    let Ok(permit) = permit else { return Err("the connection ended".into()) };
                    if let Some((i, signed)) = share.take() {
                        permit.send(SubmitTransactionsRequest { raw: signed.raw.0.clone() });
                        unanswered.push_back(i);
                    }
                }
            }
        }
    }
}

fn answered(
    share: &mut Share<'_>,
    unanswered: &mut VecDeque<usize>,
    answer: SubmitTransactionsResponse,
) {
    let Some(i) = unanswered.pop_front() else {
        return;
    };
    let Some(refusal) = answer.refusal else {
        return share.accepted(i);
    };
    let code = Code::from(i32::try_from(refusal.code).unwrap_or_default());
    match code {
        // Sent again after a broken connection.
        Code::AlreadyExists => share.accepted(i),
        Code::ResourceExhausted | Code::Unavailable => share.again(i, name(code), &refusal.reason),
        _ => share.refused(i, name(code), &refusal.reason),
    }
}

/// One call: requests out, answers in.
async fn carry(
    url: &str,
    outbox: Receiver<SubmitTransactionsRequest>,
    inbox: &Sender<Answer>,
) -> Result<(), Status> {
    let mut client = connect(url)
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let requests = stream::unfold(outbox, |mut outbox| async move {
        outbox.recv().await.map(|r| (r, outbox))
    });
    let mut answers = client.submit_transactions(requests).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if inbox.send(Ok(answer)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A code as the specification writes it.
pub fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
