//! Raft messages: one outbound stream per member, kept open, written by one task; one inbound stream per member.
//!
//! `send_raft` puts a message into the member's outbox, which wakes the writer at once: no timer is on the way. What
//! gathered meanwhile is written together and flushed once. When the stream breaks, what was being written is lost and
//! the stream is opened again: Raft repeats.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt};
use libp2p::{Stream, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    config::Limits,
    events::RaftMessage,
    frame::{self, FrameError, FrameReader},
    handle::StreamOpener,
    lane::Lane,
    metrics::{self, lane::RAFT},
    streams::Channel,
};

/// Messages taken from the outbox at once.
const BATCH_MESSAGES: usize = 512;

/// Bytes written under one timeout, and before one flush; a larger message is written alone.
const RUN_BYTES: usize = 1 << 20;

/// Messages waiting for one member. Policy: drop the newest and say so.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Bytes>,
    /// Bytes in the queue and in the hands of the writer.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    frame_bytes_max: usize,
    /// While false nothing is taken: what would be sent after a reconnect is stale.
    connected: AtomicBool,
}

impl Outbox {
    pub(crate) fn new(limits: &Limits) -> (Self, Queue) {
        let (queue, receiver) = mpsc::channel(limits.raft_outbox_messages);
        let bytes = Arc::new(AtomicUsize::new(0));
        let outbox = Self {
            queue,
            bytes: Arc::clone(&bytes),
            bytes_max: limits.raft_outbox_bytes,
            frame_bytes_max: limits.frame_bytes_max,
            connected: AtomicBool::new(false),
        };
        (outbox, Queue { receiver, bytes })
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Takes a message if there is a connection and room.
    pub(crate) fn push(&self, message: Bytes) -> bool {
        match self.try_push(message) {
            Ok(()) => true,
            Err(reason) => {
                metrics::dropped(RAFT, reason, 1);
                false
            }
        }
    }

    fn try_push(&self, message: Bytes) -> Result<(), &'static str> {
        if !self.is_connected() {
            return Err("not_connected");
        }
        let size = message.len();
        if size > self.frame_bytes_max {
            return Err("frame_too_large");
        }
        let before = self.bytes.fetch_add(size, Ordering::AcqRel);
        if before.saturating_add(size) > self.bytes_max || self.queue.try_send(message).is_err() {
            self.bytes.fetch_sub(size, Ordering::AcqRel);
            return Err("outbox_full");
        }
        Ok(())
    }
}

/// The writer's end of an [`Outbox`].
#[derive(Debug)]
pub(crate) struct Queue {
    receiver: mpsc::Receiver<Bytes>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    /// Throws away what waits.
    fn discard(&mut self) {
        let mut count = 0;
        while let Ok(message) = self.receiver.try_recv() {
            self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
            count += 1;
        }
        metrics::dropped(RAFT, "disconnected", count);
    }
}

/// How a stream came to its end.
enum End {
    /// There is another connection now, or none.
    Rerouted,
    /// The stream broke; for the label `reason`.
    Broken(&'static str),
    /// The member was removed.
    Removed,
}

/// Writes one member's outbox to the stream of the moment. Runs until the member is removed.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) raft_id: u64,
    pub(crate) queue: Queue,
    /// The connection to use; `None` while there is none.
    pub(crate) route: watch::Receiver<Option<ConnectionId>>,
    pub(crate) opener: StreamOpener,
    pub(crate) frame_timeout: Duration,
    /// Before a broken stream is opened again on the same connection.
    pub(crate) pause: Duration,
}

impl Writer {
    pub(crate) async fn run(mut self) {
        loop {
            let connection = *self.route.borrow_and_update();
            let Some(connection) = connection else {
                self.queue.discard();
                if self.route.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.serve(connection).await {
                End::Rerouted => {}
                End::Removed => return,
                End::Broken(reason) => {
                    metrics::stream_broken(RAFT, reason);
                    tracing::debug!(peer = self.raft_id, reason, "Raft stream broke");
                    tokio::select! {
                        changed = self.route.changed() => if changed.is_err() { return },
                        () = sleep(self.pause) => {}
                    }
                }
            }
        }
    }

    async fn serve(&mut self, connection: ConnectionId) -> End {
        let opening = self
            .opener
            .open(self.raft_id, Some(connection), Channel::Raft);
        let mut stream = tokio::select! {
            changed = self.route.changed() => return rerouted(changed.is_ok()),
            opened = opening => match opened {
                Ok(opened) => opened.stream,
                Err(error) => {
                    tracing::debug!(peer = self.raft_id, %error, "cannot open the Raft stream");
                    return End::Broken("open");
                }
            },
        };
        let mut batch = Vec::with_capacity(BATCH_MESSAGES);
        let mut buffer = BytesMut::new();
        let mut probe = [0; 1];
        loop {
            // The other side never writes here, so a read only ends when the stream does. It also drives the
            // negotiation of the protocol, which is lazy, before there is anything to send.
            tokio::select! {
                biased;
                changed = self.route.changed() => return rerouted(changed.is_ok()),
                count = self.queue.receiver.recv_many(&mut batch, BATCH_MESSAGES) => {
                    if count == 0 {
                        return End::Removed;
                    }
                }
                _ended = stream.read(&mut probe) => return End::Broken("closed"),
            }
            let size = batch.iter().map(Bytes::len).sum();
            let written = tokio::select! {
                biased;
                written = write_batch(&mut stream, &batch, &mut buffer, self.frame_timeout) => written,
                changed = self.route.changed() => Err(rerouted(changed.is_ok())),
            };
            self.queue.bytes.fetch_sub(size, Ordering::AcqRel);
            match written {
                Ok(()) => metrics::sent(RAFT, batch.len(), size),
                Err(end) => {
                    metrics::dropped(RAFT, "stream_broke", batch.len());
                    return end;
                }
            }
            batch.clear();
        }
    }
}

fn rerouted(alive: bool) -> End {
    if alive { End::Rerouted } else { End::Removed }
}

async fn write_batch(
    stream: &mut Stream,
    batch: &[Bytes],
    buffer: &mut BytesMut,
    limit: Duration,
) -> Result<(), End> {
    let mut rest = batch;
    while !rest.is_empty() {
        let (run, tail) = rest.split_at(run_length(rest, RUN_BYTES));
        match timeout(limit, frame::write_frames(stream, run, buffer)).await {
            Ok(Ok(())) => rest = tail,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot write to a Raft stream");
                return Err(End::Broken("io"));
            }
            Err(_elapsed) => return Err(End::Broken("write_timeout")),
        }
    }
    Ok(())
}

/// How many messages from the front fit into `bytes`; at least one.
fn run_length(messages: &[Bytes], bytes: usize) -> usize {
    let mut size = 0_usize;
    let fitting = messages.iter().take_while(|message| {
        size = size.saturating_add(message.len());
        size <= bytes
    });
    fitting.count().max(1).min(messages.len())
}

/// Hands the messages of one inbound stream to the application, in order. Waits while the lane is full, so that the
/// sender's outbox fills instead of our memory.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: S,
    from: u64,
    lane: Lane<RaftMessage>,
    frame_bytes_max: usize,
    frame_timeout: Duration,
) -> Result<(), FrameError> {
    let mut reader = FrameReader::new(stream, frame_bytes_max, frame_timeout);
    while let Some(bytes) = reader.next().await? {
        let size = bytes.len();
        metrics::received(RAFT, 1, size);
        if lane
            .send(size, |place| RaftMessage::placed(from, bytes, place))
            .await
            .is_err()
        {
            metrics::dropped(RAFT, "application_gone", 1);
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    fn outbox(messages: usize, bytes: usize) -> (Outbox, Queue) {
        let limits = Limits {
            raft_outbox_messages: messages,
            raft_outbox_bytes: bytes,
            frame_bytes_max: 80,
            ..Limits::default()
        };
        Outbox::new(&limits)
    }

    #[test]
    fn a_full_outbox_refuses_the_newest_by_count_and_by_bytes() {
        let message = |size: usize| Bytes::from(vec![0; size]);
        let (outbox, mut queue) = outbox(3, 100);
        assert_eq!(outbox.try_push(message(1)), Err("not_connected"));
        outbox.set_connected(true);
        assert_eq!(outbox.try_push(message(81)), Err("frame_too_large"));
        assert!(outbox.push(message(60)));
        assert_eq!(outbox.try_push(message(41)), Err("outbox_full"));
        assert!(outbox.push(message(40)));
        assert!(outbox.push(message(0)));
        assert_eq!(outbox.try_push(message(0)), Err("outbox_full"));
        assert_eq!(outbox.bytes.load(Ordering::Acquire), 100);
        queue.discard();
        assert_eq!(outbox.bytes.load(Ordering::Acquire), 0);
        assert!(outbox.push(message(80)));
    }

    #[test]
    fn a_run_takes_at_least_one_message_and_stops_at_its_size() {
        let messages: Vec<Bytes> = [4, 4, 9, 1]
            .iter()
            .map(|n| Bytes::from(vec![0; *n]))
            .collect();
        assert_eq!(run_length(&messages, 8), 2);
        assert_eq!(run_length(&messages[2..], 8), 1);
        assert_eq!(run_length(&messages[3..], 8), 1);
        assert_eq!(run_length(&messages, 100), 4);
    }

    #[tokio::test]
    async fn an_oversized_frame_ends_the_stream_and_delivers_what_came_before() {
        let (lane, mut receiver) = Lane::new(8, 1_000);
        let stream = Cursor::new(b"\0\0\0\x02hi\0\0\0\x11".to_vec());
        let error = read(stream, 3, lane, 16, Duration::from_secs(60))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                FrameError::TooLarge {
                    length: 17,
                    max: 16
                }
            ),
            "{error}"
        );
        let message = receiver.recv().await.unwrap();
        assert_eq!(
            (message.from, message.bytes.as_ref()),
            (3, b"hi".as_slice())
        );
        assert!(receiver.recv().await.is_none());
    }
}
