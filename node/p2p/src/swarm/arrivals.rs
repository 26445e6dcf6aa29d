//! What arrives from members, and what leaves by gossip.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use libp2p::gossipsub::{self, MessageAcceptance, MessageId, PublishError};
use libp2p::{PeerId, Stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Done, Network};
use crate::{
    direct::Server,
    events::TransactionBatch,
    frame::FrameError,
    handle::{OpenStream, Opening},
    lane::LaneError,
    metrics::{self, lane::GOSSIP},
    raft_stream,
    streams::{Channel, Inbound},
    wire,
};

impl Network {
    /// Opens a stream for one of our tasks. Dropping the reply tells it that there is no connection.
    pub(super) fn open_stream(&mut self, command: OpenStream) {
        let OpenStream {
            raft_id,
            connection,
            channel,
            reply,
        } = command;
        let Some(peer) = self.peers.get(&raft_id) else {
            return;
        };
        let wanted = match connection {
            Some(id) => peer.connections.iter().find(|known| known.id == id),
            None => peer.connections.last(),
        };
        let Some(wanted) = wanted else { return };
        let (stream_in, stream) = oneshot::channel();
        if reply
            .send(Opening {
                stream,
                closed: wanted.closed.clone(),
            })
            .is_ok()
        {
            self.swarm
                .behaviour_mut()
                .streams
                .open(peer.id, wanted.id, channel, stream_in);
        }
    }

    /// Serves a stream that a member opened, as long as its connection lasts.
    pub(super) fn on_stream(&mut self, inbound: Inbound) {
        let Inbound {
            peer,
            connection,
            channel,
            stream,
        } = inbound;
        let Some(raft_id) = self.table.raft_id_of(&peer) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&raft_id) else {
            return;
        };
        let Some(connection) = peer.connections.iter().find(|known| known.id == connection) else {
            return;
        };
        let closed = connection.closed.child_token();
        match channel {
            Channel::Raft => {
                // A member writes one Raft stream. A second one means that it gave the first up; what is left in that
                // one would arrive after what comes in the second.
                if let Some(replaced) = peer.reader.replace(closed.clone()) {
                    replaced.cancel();
                }
                self.read_raft(raft_id, stream, closed);
            }
            Channel::Forward
            | Channel::Blocks
            | Channel::Membership
            | Channel::Snapshot
            | Channel::Control
            | Channel::Privacy => {
                let turns = match channel {
                    Channel::Forward => &peer.forwards,
                    Channel::Blocks | Channel::Raft => &peer.fetches,
                    Channel::Membership => &peer.memberships,
                    Channel::Snapshot => &peer.snapshots,
                    Channel::Control => &peer.controls,
                    Channel::Privacy => &peer.privacies,
                };
                let permit = Arc::clone(turns).try_acquire_owned().ok();
                let privacy_room = Arc::clone(&peer.privacy_room);
                self.answer(raft_id, channel, stream, permit, privacy_room, closed);
            }
        }
    }

    fn read_raft(&mut self, raft_id: u64, stream: Stream, closed: CancellationToken) {
        let (limits, timing) = (&self.shared.limits, &self.shared.timing);
        let reading = raft_stream::read(
            stream,
            raft_id,
            self.raft.clone(),
            limits.frame_bytes_max,
            timing.frame_timeout,
        );
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            if let Some(Err(error)) = closed.run_until_cancelled(reading).await {
                metrics::stream_broken(metrics::lane::RAFT, error.reason());
                let cause = format!("raft frame {raft_id}");
                let now = std::time::Instant::now();
                match error {
                    FrameError::TooLarge { .. } if shared.refusals.lock().due(&cause, now) => {
                        tracing::warn!(peer = raft_id, %error, "closed a member's Raft stream");
                    }
                    _ => tracing::debug!(peer = raft_id, %error, "a member's Raft stream ended"),
                }
            }
            Done::Ended
        });
    }

    fn answer(
        &mut self,
        raft_id: u64,
        channel: Channel,
        stream: Stream,
        permit: Option<OwnedSemaphorePermit>,
        privacy_room: Arc<Semaphore>,
        closed: CancellationToken,
    ) {
        let server = Server {
            from: raft_id,
            limits: self.shared.limits.clone(),
            timing: self.shared.timing.clone(),
            transactions: self.transactions.clone(),
            requests: self.requests.clone(),
            control: self.control.clone(),
            privacy: self.privacy.clone(),
            privacy_room,
            heard: self.heard_in.clone(),
        };
        self.tasks.spawn(async move {
            let serving = server.serve(channel, stream, permit);
            if let Some(Err(error)) = closed.run_until_cancelled(serving).await {
                metrics::stream_broken(channel.lane(), error.reason());
                tracing::debug!(peer = raft_id, ?channel, %error, "a member's request failed");
            }
            Done::Ended
        });
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => {
                let acceptance = self.on_gossip_message(&propagation_source, message.data);
                self.report(&message_id, &propagation_source, acceptance);
            }
            gossipsub::Event::SlowPeer {
                peer_id,
                failed_messages,
            } => {
                let lost = failed_messages.priority + failed_messages.non_priority;
                metrics::dropped(GOSSIP, "slow_peer", lost);
                tracing::debug!(%peer_id, lost, "a member takes gossip too slowly");
            }
            _ => {}
        }
    }

    /// Delivers a message and says whether to pass it on. In a full mesh nobody does: its publisher reached everybody.
    fn on_gossip_message(&self, source: &PeerId, data: Vec<u8>) -> MessageAcceptance {
        let Some(raft_id) = self.table.raft_id_of(source) else {
            return MessageAcceptance::Ignore;
        };
        let size = data.len();
        if size > self.shared.limits.gossip_message_bytes_max {
            metrics::dropped(GOSSIP, "too_large", 1);
            return MessageAcceptance::Reject;
        }
        let (transactions, relay) = match wire::read_gossip(Bytes::from(data)) {
            Ok(read) => read,
            Err(error) => {
                metrics::dropped(GOSSIP, "malformed", 1);
                if self.log_due(&format!("gossip {raft_id}")) {
                    tracing::warn!(peer = raft_id, %error, "a member gossips malformed batches");
                }
                return MessageAcceptance::Reject;
            }
        };
        let count = transactions.len();
        metrics::received(GOSSIP, count, size);
        let sent = self.transactions.try_send(size, |place| {
            TransactionBatch::placed(raft_id, transactions, None, place)
        });
        match sent {
            Ok(()) => {}
            Err(LaneError::Full) => metrics::dropped(GOSSIP, "lane_full", count),
            Err(LaneError::Closed) => metrics::dropped(GOSSIP, "application_gone", count),
        }
        if relay {
            MessageAcceptance::Accept
        } else {
            MessageAcceptance::Ignore
        }
    }

    fn report(&mut self, id: &MessageId, source: &PeerId, acceptance: MessageAcceptance) {
        let gossip = &mut self.swarm.behaviour_mut().gossip.inner;
        if !gossip.report_message_validation_result(id, source, acceptance) {
            tracing::trace!(%id, "gossip message was forgotten before it was judged");
        }
    }

    /// Publishes a message. If we do not reach every member ourselves, others are asked to pass it on.
    pub(super) fn publish(&mut self, mut message: BytesMut) {
        if self.peers.is_empty() {
            // A consortium of one: there is nobody to lose it.
            return;
        }
        let topic = self.topic.hash();
        let everybody = self.peers.values().map(|peer| &peer.id);
        if !self.swarm.behaviour().gossip.reaches(&topic, everybody) {
            wire::mark_for_relay(&mut message);
        }
        let size = message.len();
        match self
            .swarm
            .behaviour_mut()
            .gossip
            .inner
            .publish(topic, message)
        {
            Ok(_id) => metrics::sent(GOSSIP, 1, size),
            Err(error) => {
                let reason = match &error {
                    PublishError::NoPeersSubscribedToTopic => "nobody_listens",
                    PublishError::AllQueuesFull(_) => "queues_full",
                    PublishError::MessageTooLarge => "too_large",
                    PublishError::Duplicate => "duplicate",
                    PublishError::SigningError(_) | PublishError::TransformFailed(_) => "failed",
                };
                metrics::dropped(GOSSIP, reason, 1);
                tracing::debug!(%error, size, "gossip message not published");
            }
        }
    }
}
