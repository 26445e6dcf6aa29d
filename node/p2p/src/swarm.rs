//! The task that owns the swarm: members, connections, dialling, and what arrives.

mod arrivals;
mod connections;
mod discovery;
mod farewell;
mod start;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    gossipsub::IdentTopic,
    kad::QueryId,
    swarm::{ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::start::start;
use crate::{
    admission::Applicant,
    announcement::Own,
    behaviour::{Behaviour, BehaviourEvent, connection_limits},
    direct::Heard,
    error::Fatal,
    events::{
        PeerEvent, PeerStatus, PrivacyRequest, RaftMessage, Request, TransactionBatch, Verdict,
    },
    gossip::Coalescer,
    handle::{Link, OpenStream, Shared},
    lane::Lane,
    members::{Member, MemberTable},
    metrics,
    peer::{Connection, DialPlan},
    raft_stream::{Outbox, Writer},
};

/// Closing connections at the end takes no longer than this.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How one of our inner tasks ended.
#[derive(Debug)]
enum Done {
    /// Nothing more to do about it.
    Ended,
    /// A member's addresses are known.
    Resolved {
        raft_id: u64,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    /// A removed member was told, or it could not be.
    Farewell {
        peer: PeerId,
        connections: Vec<ConnectionId>,
    },
}

/// A question to Kademlia for a member's announcement.
#[derive(Debug)]
struct Lookup {
    id: QueryId,
    /// Something was found that we believe.
    found: bool,
}

/// Control messages of one member under way; it is told "busy" beyond that.
const CONTROLS_PER_MEMBER: usize = 4;

/// What the task knows of one member.
#[derive(Debug)]
struct Peer {
    // identity
    id: PeerId,
    // state
    /// Oldest first; the last is the one in use.
    connections: Vec<Connection>,
    dial: DialPlan,
    // ways to its tasks
    /// The connection in use, for the Raft writer.
    route: watch::Sender<Option<ConnectionId>>,
    link: Arc<Link>,
    /// The reader of the present inbound Raft stream; a newer stream replaces it.
    reader: Option<CancellationToken>,
    /// Ends everything that is done for this member.
    removed: CancellationToken,
    // limits on what we serve it
    forwards: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    memberships: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
    controls: Arc<Semaphore>,
    privacies: Arc<Semaphore>,
    /// Bytes of its privacy requests here.
    privacy_room: Arc<Semaphore>,
    // discovery
    /// The log that the application was told of, or knew.
    log_told: Option<[u8; 16]>,
    lookup: Option<Lookup>,
}

/// The network task. Dropping it without running it leaves the node deaf; so does the end of [`Network::run`].
pub struct Network {
    // dependencies
    swarm: Swarm<Behaviour>,
    listener: ListenerId,
    shared: Arc<Shared>,
    topic: IdentTopic,
    // inboxes
    commands: mpsc::Receiver<OpenStream>,
    publish: mpsc::Receiver<BytesMut>,
    members: watch::Receiver<Arc<MemberTable>>,
    own: watch::Receiver<Own>,
    applicants: mpsc::Receiver<Applicant>,
    heard: mpsc::Receiver<Heard>,
    // outboxes
    raft: Lane<RaftMessage>,
    transactions: Lane<TransactionBatch>,
    requests: mpsc::Sender<Request>,
    control: mpsc::Sender<Request>,
    privacy: Lane<PrivacyRequest>,
    verdicts: mpsc::Sender<Verdict>,
    /// For the tasks that read control messages.
    heard_in: mpsc::Sender<Heard>,
    peer_events: mpsc::Sender<PeerEvent>,
    // state
    /// The member table that `peers` follows.
    table: Arc<MemberTable>,
    peers: BTreeMap<u64, Peer>,
    tasks: JoinSet<Done>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("raft_id", &self.shared.raft_id)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Serves until `cancel` is cancelled.
    ///
    /// # Errors
    /// [`Fatal`]: the listener is gone or an inner task panicked.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), Fatal> {
        let result = self.serve(&cancel).await;
        self.close().await;
        result
    }

    async fn serve(&mut self, cancel: &CancellationToken) -> Result<(), Fatal> {
        loop {
            let next_dial = self
                .peers
                .values()
                .filter_map(|peer| peer.dial.next())
                .min();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                event = self.swarm.select_next_some() => self.on_event(event)?,
                Some(command) = self.commands.recv() => self.open_stream(command),
                Some(message) = self.publish.recv() => self.publish(message),
                Ok(()) = self.members.changed() => self.follow_members(),
                Ok(()) = self.own.changed() => self.spread_own(),
                Some(heard) = self.heard.recv() => self.on_heard(heard),
                Some(applicant) = self.applicants.recv() => self.answer_applicant(applicant),
                Some(done) = self.tasks.join_next() => self.on_done(done)?,
                () = at(next_dial) => self.dial_due(Instant::now()),
            }
        }
    }

    fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<(), Fatal> {
        match done {
            Ok(Done::Ended) => Ok(()),
            Ok(Done::Resolved {
                raft_id,
                peer,
                addresses,
            }) => {
                self.dial_resolved(raft_id, peer, addresses);
                Ok(())
            }
            Ok(Done::Farewell { peer, connections }) => {
                self.part(peer, &connections);
                Ok(())
            }
            Err(error) if error.is_panic() => Err(Fatal::TaskPanicked(error.to_string())),
            Err(_cancelled) => Ok(()),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Result<(), Fatal> {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(inbound)) => self.on_stream(inbound),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Directory(event)) => self.on_directory(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => self.on_mdns(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                self.on_closed(peer_id, connection_id, cause);
            }
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => {
                self.on_incoming_error(&send_back_addr, &error);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                self.on_outgoing_error(peer, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening for members");
                let mut listening = self.shared.listening.write();
                listening.push(address);
                self.shared.announcer.listening(&listening);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                tracing::info!(%address, "no longer listening");
                let mut listening = self.shared.listening.write();
                listening.retain(|known| *known != address);
                self.shared.announcer.listening(&listening);
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                let reason = match reason {
                    Ok(()) => "it ended".to_owned(),
                    Err(error) => error.to_string(),
                };
                return Err(Fatal::ListenerClosed { reason });
            }
            SwarmEvent::ListenerError { error, .. } => {
                // For example: no file descriptors left. The listener goes on.
                tracing::warn!(%error, "cannot accept a connection");
            }
            _ => {}
        }
        Ok(())
    }

    /// Brings `peers` in line with the member table.
    fn follow_members(&mut self) {
        let new = Arc::clone(&self.members.borrow_and_update());
        let old = std::mem::replace(&mut self.table, Arc::clone(&new));
        let now = Instant::now();
        *self.swarm.behaviour_mut().limits.limits_mut() =
            connection_limits(&self.shared.limits, new.len());
        for gone in old
            .iter()
            .filter(|m| new.get(m.raft_id).is_none_or(|n| n.peer != m.peer))
        {
            self.remove_peer(gone, new.contains_peer(&gone.peer));
        }
        for member in new.iter() {
            match (old.get(member.raft_id), self.peers.get_mut(&member.raft_id)) {
                (Some(before), Some(peer)) => {
                    if before.dial_addresses() != member.dial_addresses()
                        && peer.connections.is_empty()
                    {
                        peer.dial.hurry(now, &self.shared.timing);
                    }
                    if let Some(status) = self.shared.status.write().get_mut(&member.raft_id) {
                        status.organisation.clone_from(&member.organisation);
                        if !status.connected {
                            status.address = first_address(member);
                        }
                    }
                }
                _ => {
                    self.add_peer(member, now);
                    if let Some(peer) = self.peers.get_mut(&member.raft_id) {
                        peer.dial.at_once(now);
                    }
                }
            }
        }
        self.count_peers();
    }

    fn add_peer(&mut self, member: &Member, now: Instant) {
        let limits = &self.shared.limits;
        let timing = &self.shared.timing;
        let (outbox, queue) = Outbox::new(limits);
        let (route, route_seen) = watch::channel(None);
        let link = Arc::new(Link::new(outbox, limits));
        let removed = CancellationToken::new();
        let writer = Writer {
            raft_id: member.raft_id,
            queue,
            route: route_seen,
            opener: self.shared.opener.clone(),
            frame_timeout: timing.frame_timeout,
            pause: timing.dial_pause_min,
        };
        let ended = removed.clone();
        self.tasks.spawn(async move {
            ended.run_until_cancelled(writer.run()).await;
            Done::Ended
        });
        let peer = Peer {
            id: member.peer,
            connections: Vec::new(),
            dial: DialPlan::new(self.shared.peer < member.peer, now, timing),
            route,
            link: Arc::clone(&link),
            reader: None,
            removed,
            forwards: Arc::new(Semaphore::new(limits.forwards_per_member)),
            fetches: Arc::new(Semaphore::new(limits.fetches_per_member)),
            memberships: Arc::new(Semaphore::new(limits.memberships_per_member)),
            snapshots: Arc::new(Semaphore::new(limits.snapshots_per_member)),
            controls: Arc::new(Semaphore::new(CONTROLS_PER_MEMBER)),
            privacies: Arc::new(Semaphore::new(limits.privacies_per_member)),
            privacy_room: Arc::new(Semaphore::new(limits.privacy_bytes_per_member)),
            // Not what the gate knows by now: a new member may have passed it a moment before it came here.
            log_told: self.shared.gate.remembered_log_of(member.raft_id),
            lookup: None,
        };
        let status = PeerStatus {
            raft_id: member.raft_id,
            peer_id: member.peer.to_string(),
            public_key: member.public_key,
            organisation: member.organisation.clone(),
            address: first_address(member),
            inbound: false,
            connected: false,
            rtt: None,
            agent_version: None,
            connected_since: None,
        };
        self.swarm.behaviour_mut().allowed.allow_peer(member.peer);
        self.shared.links.write().insert(member.raft_id, link);
        self.shared.status.write().insert(member.raft_id, status);
        self.peers.insert(member.raft_id, peer);
    }

    /// Forgets a member: from now on nothing of it is delivered. If it is connected it is told, and then cut off. If its
    /// key goes on under another raft id, its connections are closed but it stays allowed.
    fn remove_peer(&mut self, member: &Member, key_stays: bool) {
        self.shared.links.write().remove(&member.raft_id);
        self.shared.status.write().remove(&member.raft_id);
        let Some(peer) = self.peers.remove(&member.raft_id) else {
            return;
        };
        peer.link.outbox.set_connected(false);
        peer.removed.cancel();
        self.swarm.behaviour_mut().directory.forget(&peer.id);
        if key_stays || peer.connections.is_empty() {
            self.swarm.behaviour_mut().allowed.disallow_peer(peer.id);
        } else {
            self.say_farewell(peer.id, &peer.connections);
        }
        if key_stays {
            self.swarm.behaviour_mut().allowed.allow_peer(peer.id);
        }
        if !peer.connections.is_empty() {
            self.tell(PeerEvent::Disconnected {
                raft_id: member.raft_id,
            });
        }
        tracing::info!(peer = member.raft_id, peer_id = %peer.id, "member removed from the network");
    }

    fn count_peers(&self) {
        let connected = self
            .peers
            .values()
            .filter(|peer| !peer.connections.is_empty())
            .count();
        metrics::peers(connected, self.peers.len());
    }

    /// False if the application has no room for it.
    fn tell(&self, event: PeerEvent) -> bool {
        let told = self.peer_events.try_send(event).is_ok();
        if !told {
            metrics::dropped(metrics::lane::PEERS, "queue_full", 1);
        }
        told
    }

    /// Stops listening, closes all connections and ends all inner tasks.
    async fn close(mut self) {
        for peer in self.peers.values() {
            peer.link.outbox.set_connected(false);
            peer.removed.cancel();
        }
        for status in self.shared.status.write().values_mut() {
            status.connected = false;
        }
        self.shared.listening.write().clear();
        if !self.swarm.remove_listener(self.listener) {
            tracing::debug!("the listener was closed before");
        }
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer_id in connected {
            if self.swarm.disconnect_peer_id(peer_id).is_err() {
                tracing::debug!(%peer_id, "was disconnected before");
            }
        }
        let closing = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::debug!(limit = ?CLOSE_LIMIT, "not all connections closed in time");
        }
        self.tasks.shutdown().await;
    }

    /// Starts the coalescer and the writers.
    fn start_tasks(&mut self, coalescer: Coalescer) {
        self.tasks.spawn(async move {
            coalescer.run().await;
            Done::Ended
        });
        let now = Instant::now();
        let table = Arc::clone(&self.table);
        for member in table.iter() {
            self.add_peer(member, now);
        }
        self.count_peers();
        // Given by the configuration: no change will tell of it.
        self.spread_own();
    }
}

/// Waits for an instant, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn first_address(member: &Member) -> String {
    member
        .dial_addresses()
        .first()
        .map(ToString::to_string)
        .unwrap_or_default()
}
