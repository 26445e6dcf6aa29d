//! Questions to one member: a stream per question, one frame each way. Forwarded transactions, block fetches, queries, private
//! payloads, and what members tell each other about themselves.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
    future::{Either, select},
};
use multistream_select::NegotiationError;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    announcement::ANNOUNCEMENT_BYTES_MAX,
    config::{Limits, Timing},
    error::RequestError,
    events::{Acknowledgement, PrivacyRequest, QueryKind, Request, TransactionBatch},
    frame::{self, FrameError, FrameReader},
    handle::{Opened, StreamOpener},
    lane::{Lane, Place},
    metrics,
    streams::Channel,
    wire::{self, Control, Status},
};

/// Most bytes of a question about blocks.
const BLOCKS_REQUEST_BYTES_MAX: usize = 64;

/// One question of ours.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) to: u64,
    pub(crate) channel: Channel,
    pub(crate) body: Bytes,
    pub(crate) answer_bytes_max: usize,
}

impl Question {
    /// Asks and waits; the caller limits the time.
    pub(crate) async fn ask(
        self,
        opener: &StreamOpener,
        frame_timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let raft_id = self.to;
        let opened = opener.open(raft_id, None, self.channel).await;
        let Opened { stream, closed } = opened.map_err(|error| error.of(raft_id))?;
        match closed
            .run_until_cancelled(self.ask_on(stream, frame_timeout))
            .await
        {
            Some(answer) => answer,
            None => Err(RequestError::Broken {
                raft_id,
                reason: "the connection closed".to_owned(),
            }),
        }
    }

    /// The answer is read while the question is still being written: who refuses a question without reading it says so at once,
    /// and who does not know the protocol too.
    async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: S,
        frame_timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let (raft_id, protocol) = (self.to, self.channel.protocol());
        let broken = |reason: &dyn ToString| RequestError::Broken {
            raft_id,
            reason: reason.to_string(),
        };
        let malformed = |reason: &dyn ToString| RequestError::Malformed {
            raft_id,
            reason: reason.to_string(),
        };
        let size = self.body.len();
        let (reading, mut writing) = stream.split();
        let mut reader = FrameReader::new(reading, self.answer_bytes_max, frame_timeout);
        let write = pin!(frame::write_frame(&mut writing, self.body));
        let (written, answer) = match select(write, pin!(reader.next())).await {
            Either::Left((written, answer)) => {
                if written.is_ok() {
                    metrics::sent(self.channel.lane(), 1, size);
                }
                // A stream that takes no more may hold an answer all the same.
                (written, answer.await)
            }
            // From here on the stream is dropped, never written: a negotiation that failed must not be touched again.
            Either::Right((answer, _unfinished)) => (Ok(()), answer),
        };
        let answer = match (answer, written) {
            (Ok(Some(answer)), _) => answer,
            (Err(FrameError::Io(error)), _) if is_unsupported(&error) => {
                return Err(RequestError::Unsupported { raft_id, protocol });
            }
            (Err(error @ FrameError::TooLarge { .. }), _) => return Err(malformed(&error)),
            (_, Err(error)) => return Err(broken(&error)),
            (Ok(None), Ok(())) => return Err(broken(&"closed without an answer")),
            (Err(error), Ok(())) => return Err(broken(&error)),
        };
        metrics::received(self.channel.lane(), 1, answer.len());
        match wire::read_answer(answer).map_err(|error| malformed(&error))? {
            (Status::Done, body) => Ok(body),
            (Status::Busy, _) => Err(RequestError::Busy { raft_id }),
            (Status::Declined, _) => Err(RequestError::Declined { raft_id }),
        }
    }
}

/// True if the other side refused the protocol itself. Its name travels with the first bytes, so this shows at the first read.
fn is_unsupported(error: &std::io::Error) -> bool {
    let source = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(source, Some(NegotiationError::Failed))
}

/// Why a question of another member was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error("cannot write the answer: {0}")]
    Io(#[from] std::io::Error),
    #[error("the answer could not be written in time")]
    Slow,
}

impl ServeError {
    /// For the label `reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Frame(error) => error.reason(),
            Self::Wire(_) => "malformed",
            Self::Io(_) => "io",
            Self::Slow => "write_timeout",
        }
    }
}

/// A control message as it arrived.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) from: u64,
    pub(crate) message: Control,
}

/// Answers the questions of one member.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) from: u64,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
    pub(crate) transactions: Lane<TransactionBatch>,
    /// Bulk.
    pub(crate) requests: mpsc::Sender<Request>,
    /// Membership.
    pub(crate) control: mpsc::Sender<Request>,
    pub(crate) privacy: Lane<PrivacyRequest>,
    /// This member's share of that lane, in bytes.
    pub(crate) privacy_room: Arc<Semaphore>,
    /// To the network task.
    pub(crate) heard: mpsc::Sender<Heard>,
}

impl Server {
    /// Serves one stream. Without a `permit` the member has too many under way and is told so.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        channel: Channel,
        mut stream: S,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), ServeError> {
        if permit.is_none() {
            metrics::dropped(channel.lane(), "busy", 1);
            return self
                .answer(&mut stream, wire::status_answer(Status::Busy))
                .await;
        }
        let body_bytes_max = match channel {
            Channel::Forward => self.limits.forward_bytes_max,
            Channel::Blocks | Channel::Raft => BLOCKS_REQUEST_BYTES_MAX,
            Channel::Membership => QueryKind::Membership.body_bytes_max(),
            Channel::Snapshot => QueryKind::Snapshot.body_bytes_max(),
            Channel::Control => 1 + ANNOUNCEMENT_BYTES_MAX,
            Channel::Privacy => self.limits.privacy_bytes_max,
        };
        let mut reader = FrameReader::new(stream, body_bytes_max, self.timing.frame_timeout);
        let mut places = None;
        if channel == Channel::Privacy {
            let length = reader.length().await?;
            places = self.places(length).await;
            if places.is_none() {
                metrics::dropped(channel.lane(), "no_room", 1);
                return self
                    .answer(&mut reader.into_stream(), wire::status_answer(Status::Busy))
                    .await;
            }
        }
        let body = reader.only().await?;
        metrics::received(channel.lane(), 1, body.len());
        let answer = match channel {
            Channel::Forward => self.forward(body).await?,
            Channel::Blocks | Channel::Raft => self.blocks(body).await?,
            Channel::Membership => self.query(QueryKind::Membership, body, &self.control).await,
            Channel::Snapshot => self.query(QueryKind::Snapshot, body, &self.requests).await,
            Channel::Control => self.control(body).await?,
            Channel::Privacy => self.privacy(body, places).await,
        };
        let size = answer.len();
        stream = reader.into_stream();
        self.answer(&mut stream, answer).await?;
        metrics::sent(channel.lane(), 1, size);
        drop(permit);
        Ok(())
    }

    async fn answer<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        answer: Bytes,
    ) -> Result<(), ServeError> {
        let writing = async {
            frame::write_frame(stream, answer).await?;
            stream.close().await
        };
        match timeout(self.timing.frame_timeout, writing).await {
            Ok(result) => Ok(result?),
            Err(_elapsed) => Err(ServeError::Slow),
        }
    }

    async fn forward(&self, body: Bytes) -> Result<Bytes, ServeError> {
        let size = body.len();
        let transactions = wire::read_list(body)?;
        let (acknowledgement, answered) = Acknowledgement::new();
        let deliver = async {
            self.transactions
                .send(size, |place| {
                    TransactionBatch::placed(self.from, transactions, Some(acknowledgement), place)
                })
                .await
                .is_ok()
                && answered.await.is_ok()
        };
        let status = match timeout(self.timing.request_timeout, deliver).await {
            Ok(true) => Status::Done,
            Ok(false) => Status::Declined,
            Err(_elapsed) => {
                metrics::dropped(metrics::lane::FORWARD, "application_slow", 1);
                Status::Busy
            }
        };
        Ok(wire::status_answer(status))
    }

    async fn query(&self, kind: QueryKind, body: Bytes, lane: &mpsc::Sender<Request>) -> Bytes {
        let (reply, answered) = oneshot::channel();
        let request = Request::Query {
            from: self.from,
            kind,
            body,
            reply,
        };
        let ask = async {
            lane.send(request).await.ok()?;
            answered.await.ok()
        };
        let name = Channel::of(kind).lane();
        self.opaque(name, kind.answer_bytes_max(), ask).await
    }

    /// Room for a privacy request of so many bytes: in the member's own share first, so that one member cannot hold all of
    /// what is shared.
    async fn places(&self, bytes: usize) -> Option<[Place; 2]> {
        let own = bytes.min(self.limits.privacy_bytes_per_member);
        let own = u32::try_from(own).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.privacy_room);
        let taking = async {
            let own = room.acquire_many_owned(own).await.ok()?;
            Some([own, self.privacy.place(bytes).await.ok()?])
        };
        timeout(self.timing.query_timeout, taking).await.ok()?
    }

    async fn privacy(&self, body: Bytes, places: Option<[Place; 2]>) -> Bytes {
        let (request, answered) = PrivacyRequest::placed(self.from, body, places);
        let ask = async {
            self.privacy.pass(request).await.ok()?;
            answered.await.ok()
        };
        let max = self.limits.privacy_bytes_max;
        self.opaque(metrics::lane::PRIVACY, max, ask).await
    }

    /// What the application answers, if it does in time and the answer is not too large.
    async fn opaque(
        &self,
        name: &'static str,
        max: usize,
        ask: impl Future<Output = Option<Bytes>>,
    ) -> Bytes {
        match timeout(self.timing.query_timeout, ask).await {
            Ok(Some(answer)) if answer.len() <= max => wire::query_answer(&answer),
            Ok(Some(answer)) => {
                metrics::dropped(name, "answer_too_large", 1);
                tracing::error!(
                    lane = name,
                    bytes = answer.len(),
                    max,
                    "an answer is too large to be sent"
                );
                wire::status_answer(Status::Declined)
            }
            Ok(None) => wire::status_answer(Status::Declined),
            Err(_elapsed) => {
                metrics::dropped(name, "application_slow", 1);
                wire::status_answer(Status::Busy)
            }
        }
    }

    /// Hands a control message to the network task, then says so: the sender may close as soon as it reads that.
    async fn control(&self, body: Bytes) -> Result<Bytes, ServeError> {
        let heard = Heard {
            from: self.from,
            message: Control::read(body)?,
        };
        let status = match self.heard.send(heard).await {
            Ok(()) => Status::Done,
            Err(_stopped) => Status::Declined,
        };
        Ok(wire::status_answer(status))
    }

    async fn blocks(&self, body: Bytes) -> Result<Bytes, ServeError> {
        let (first_height, count_max) = wire::read_blocks_request(body)?;
        let (reply, answered) = oneshot::channel();
        let request = Request::Blocks {
            from: self.from,
            first_height,
            count_max,
            reply,
        };
        let ask = async {
            self.requests.send(request).await.ok()?;
            answered.await.ok()
        };
        match timeout(self.timing.request_timeout, ask).await {
            Ok(Some(blocks)) => {
                let limits = &self.limits;
                let fitting = fit(
                    &blocks,
                    count_max,
                    limits.fetch_bytes_max,
                    limits.frame_bytes_max,
                );
                Ok(wire::blocks_answer(fitting))
            }
            Ok(None) => Ok(wire::status_answer(Status::Declined)),
            Err(_elapsed) => {
                metrics::dropped(metrics::lane::BLOCKS, "application_slow", 1);
                Ok(wire::status_answer(Status::Busy))
            }
        }
    }
}

/// The blocks from the front that may be sent: `count_max` of them, within `bytes_max`; the first one within `frame_max`.
fn fit(blocks: &[Bytes], count_max: u32, bytes_max: usize, frame_max: usize) -> &[Bytes] {
    let mut size = 1 + wire::LIST_HEAD;
    let mut count = 0;
    for block in blocks.iter().take(count_max as usize) {
        size += wire::ITEM_HEAD + block.len();
        if size > if count == 0 { frame_max } else { bytes_max } {
            break;
        }
        count += 1;
    }
    blocks.get(..count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[test]
    fn an_answer_keeps_to_count_and_bytes_but_always_holds_one_block() {
        let blocks: Vec<Bytes> = [50, 20, 20, 20]
            .iter()
            .map(|n| Bytes::from(vec![0; *n]))
            .collect();
        assert_eq!(fit(&blocks, 9, 200, 300).len(), 4);
        assert_eq!(fit(&blocks, 3, 200, 300).len(), 3);
        assert_eq!(fit(&blocks, 0, 200, 300).len(), 0);
        assert_eq!(fit(&blocks, 9, 90, 300).len(), 2);
        assert_eq!(fit(&blocks, 9, 10, 300).len(), 1);
        assert_eq!(fit(&blocks, 9, 10, 40).len(), 0);
        let answer = wire::blocks_answer(fit(&blocks, 9, 83, 300));
        assert_eq!(answer.len(), 83);
    }

    async fn serve(
        channel: Channel,
        request: &'static [u8],
        permits: usize,
    ) -> (Result<(), ServeError>, Vec<u8>) {
        let (transactions, _batches) = Lane::new(1, 1_000);
        let (requests, _questions) = mpsc::channel(1);
        let server = Server {
            from: 2,
            limits: Limits::default(),
            timing: Timing {
                request_timeout: Duration::from_millis(1),
                ..Timing::default()
            },
            transactions,
            requests,
            control: mpsc::channel(1).0,
            privacy: Lane::new(1, 1_000).0,
            privacy_room: Arc::new(Semaphore::new(1_000)),
            heard: mpsc::channel(1).0,
        };
        let (mut theirs, ours) = tokio::io::duplex(1 << 16);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, request)
            .await
            .unwrap();
        let permit = Arc::new(Semaphore::new(permits)).try_acquire_owned().ok();
        let result = server.serve(channel, ours.compat(), permit).await;
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut answer)
            .await
            .unwrap();
        (result, answer)
    }

    #[tokio::test]
    async fn bad_questions_get_no_answer_and_too_many_get_busy() {
        let (result, answer) = serve(Channel::Forward, b"\0\0\0\x04\0\0\0\x09", 1).await;
        assert_eq!(
            (result.unwrap_err().reason(), answer.len()),
            ("malformed", 0)
        );
        let (result, answer) = serve(Channel::Blocks, b"\0\0\xff\xff", 1).await;
        assert_eq!(
            (result.unwrap_err().reason(), answer.len()),
            ("frame_too_large", 0)
        );
        let (result, answer) = serve(Channel::Blocks, b"", 0).await;
        assert!(result.is_ok());
        assert_eq!(answer, b"\0\0\0\x01\x01");
    }

    #[tokio::test]
    async fn an_application_that_does_not_answer_is_reported_as_busy() {
        let (result, answer) = serve(Channel::Forward, b"\0\0\0\x04\0\0\0\0", 1).await;
        assert!(result.is_ok());
        assert_eq!(answer, b"\0\0\0\x01\x01");
    }
}
