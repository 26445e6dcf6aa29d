//! Connections: established, refused, lost, dialled.

use std::time::{Instant as StdInstant, SystemTime};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, transport::TransportError},
    identify,
    multiaddr::Protocol,
    ping,
    swarm::{
        ConnectionDenied, ConnectionError, ConnectionId, DialError, ListenError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::{Done, Network};
use crate::{
    address,
    events::{PeerEvent, Verdict},
    handshake::{Code, Reason, Refused, refusal_in},
    handshake_limit::TooManyFrom,
    metrics,
    peer::{Connection, superseded},
};

/// Longest name and version of another node that we keep.
const AGENT_CHARS_MAX: usize = 128;

impl Network {
    pub(super) fn on_established(
        &mut self,
        peer_id: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let raft_id = self.table.raft_id_of(&peer_id);
        let Some((raft_id, peer)) =
            raft_id.and_then(|raft_id| Some((raft_id, self.peers.get_mut(&raft_id)?)))
        else {
            // Removed while its handshake was under way.
            self.swarm.close_connection(id);
            return;
        };
        let connection = Connection {
            id,
            inbound: endpoint.is_listener(),
            address: without_peer(endpoint.get_remote_address()),
            since: Instant::now(),
            since_system: SystemTime::now(),
            closed: peer.removed.child_token(),
        };
        if !connection.inbound {
            metrics::dial("connected");
        }
        peer.dial.connected();
        let first = peer.connections.is_empty();
        let attempt = self.shared.timing.resolve_timeout + self.shared.timing.handshake_timeout;
        let stale = superseded(&peer.connections, &connection, attempt);
        peer.connections.push(connection);
        peer.route.send_replace(Some(id));
        peer.link.outbox.set_connected(true);
        self.show_connection(raft_id);
        if first {
            tracing::info!(
                peer = raft_id, %peer_id, address = %endpoint.get_remote_address(),
                inbound = endpoint.is_listener(), "member connected"
            );
            self.tell(PeerEvent::Connected { raft_id });
            self.count_peers();
            self.introduce(
                raft_id,
                peer_id,
                without_peer(endpoint.get_remote_address()),
            );
        }
        self.tell_log(raft_id);
        for stale in stale {
            metrics::refused("replaced");
            tracing::debug!(peer = raft_id, connection = %stale, "closing an older connection");
            self.give_up(raft_id, stale, "replaced by a new one");
        }
    }

    pub(super) fn on_closed(
        &mut self,
        peer_id: PeerId,
        id: ConnectionId,
        cause: Option<ConnectionError>,
    ) {
        let Some(raft_id) = self.table.raft_id_of(&peer_id) else {
            return;
        };
        let cause = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
        self.forget(raft_id, id, &cause);
    }

    /// Closes a connection that is taken for dead, and does not wait for it: with a full send buffer and nobody at the
    /// other end, closing lasts until TCP gives up, many minutes later.
    fn give_up(&mut self, raft_id: u64, id: ConnectionId, cause: &str) {
        self.forget(raft_id, id, cause);
        self.swarm.close_connection(id);
    }

    /// Stops using a connection.
    fn forget(&mut self, raft_id: u64, id: ConnectionId, cause: &str) {
        let Some(peer) = self.peers.get_mut(&raft_id) else {
            return;
        };
        let Some(at) = peer.connections.iter().position(|known| known.id == id) else {
            return;
        };
        let gone = peer.connections.remove(at);
        gone.closed.cancel();
        let in_use = peer.connections.last().map(|connection| connection.id);
        if in_use.is_none() {
            peer.link.outbox.set_connected(false);
            let lasted = gone.since.elapsed();
            peer.dial
                .lost(Instant::now(), &self.shared.timing, lasted, rand::random());
        }
        peer.route.send_if_modified(|route| {
            let modified = *route != in_use;
            *route = in_use;
            modified
        });
        let peer_id = peer.id;
        self.show_connection(raft_id);
        if in_use.is_none() {
            tracing::info!(peer = raft_id, %peer_id, cause, "member disconnected");
            self.swarm.behaviour_mut().directory.drop_peer(&peer_id);
            self.tell(PeerEvent::Disconnected { raft_id });
            self.count_peers();
        }
    }

    /// Tells the application once which Raft log a member has.
    fn tell_log(&mut self, raft_id: u64) {
        let Some(log_id) = self.shared.gate.log_of(raft_id) else {
            return;
        };
        let untold = |peer: &&mut super::Peer| peer.log_told != Some(log_id);
        if self.peers.get_mut(&raft_id).filter(untold).is_some()
            && self.tell(PeerEvent::LogSeen { raft_id, log_id })
            && let Some(peer) = self.peers.get_mut(&raft_id)
        {
            peer.log_told = Some(log_id);
        }
    }

    /// Copies the connection in use into the shared picture.
    fn show_connection(&self, raft_id: u64) {
        let Some(peer) = self.peers.get(&raft_id) else {
            return;
        };
        let mut all = self.shared.status.write();
        let Some(status) = all.get_mut(&raft_id) else {
            return;
        };
        match peer.connections.last() {
            Some(connection) => {
                status.connected = true;
                status.address = connection.address.to_string();
                status.inbound = connection.inbound;
                status.connected_since = Some(connection.since_system);
            }
            None => {
                status.connected = false;
                status.inbound = false;
                status.rtt = None;
                status.connected_since = None;
            }
        }
    }

    pub(super) fn on_ping(&mut self, event: ping::Event) {
        let Some(raft_id) = self.table.raft_id_of(&event.peer) else {
            return;
        };
        match event.result {
            Ok(rtt) => {
                if let Some(status) = self.shared.status.write().get_mut(&raft_id) {
                    status.rtt = Some(rtt);
                }
                metrics::rtt(raft_id, rtt.as_secs_f64());
            }
            Err(ping::Failure::Unsupported) => {}
            // A member that no longer answers is gone, whatever TCP thinks.
            Err(error @ (ping::Failure::Timeout | ping::Failure::Other { .. })) => {
                self.give_up(raft_id, event.connection, &error.to_string());
            }
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else {
            return;
        };
        let Some(raft_id) = self.table.raft_id_of(&peer_id) else {
            return;
        };
        // It ends up in logs and answers: only plain characters.
        let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
        let agent: String = info
            .agent_version
            .chars()
            .filter(plain)
            .take(AGENT_CHARS_MAX)
            .collect();
        if let Some(status) = self.shared.status.write().get_mut(&raft_id) {
            status.agent_version = Some(agent);
        }
    }

    /// Dials every member whose time has come: first its names are resolved, by a task.
    pub(super) fn dial_due(&mut self, now: Instant) {
        let mut homeless = Vec::new();
        for (raft_id, peer) in &mut self.peers {
            if peer.dial.next().is_none_or(|next| next > now) {
                continue;
            }
            let addresses = self
                .table
                .get(*raft_id)
                .map(|m| m.dial_addresses())
                .unwrap_or_default();
            if addresses.is_empty() {
                // It has to dial us, unless somebody else knows where it is.
                peer.dial
                    .failed(now, &self.shared.timing, false, rand::random());
                homeless.push(*raft_id);
                continue;
            }
            peer.dial.started();
            let (raft_id, peer) = (*raft_id, peer.id);
            let limit = self.shared.timing.resolve_timeout;
            let resolver = self.shared.resolver.clone();
            self.tasks.spawn(async move {
                let addresses = address::resolve_all(&addresses, &resolver, limit).await;
                Done::Resolved {
                    raft_id,
                    peer,
                    addresses,
                }
            });
        }
        for raft_id in homeless {
            self.look_up(raft_id);
        }
    }

    pub(super) fn dial_resolved(&mut self, raft_id: u64, id: PeerId, addresses: Vec<Multiaddr>) {
        let Some(peer) = self.peers.get_mut(&raft_id).filter(|peer| peer.id == id) else {
            return;
        };
        if !peer.connections.is_empty() {
            peer.dial.connected();
            return;
        }
        if addresses.is_empty() {
            metrics::dial("failed");
            peer.dial
                .failed(Instant::now(), &self.shared.timing, false, rand::random());
            self.log_unreachable(raft_id, "no address can be resolved");
            self.look_up(raft_id);
            return;
        }
        // Whether it is connected is for us to say: the swarm still counts connections that we have given up.
        // A port of its own per attempt: the listening port would be the same four-tuple again after a reconnect.
        let options = DialOpts::peer_id(id)
            .condition(PeerCondition::NotDialing)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            self.on_outgoing_error(id, &error);
        }
    }

    pub(super) fn on_outgoing_error(&mut self, id: PeerId, error: &DialError) {
        let Some(raft_id) = self.table.raft_id_of(&id) else {
            return;
        };
        let refused = match error {
            DialError::Transport(attempts) => {
                let mut judged = 0;
                let mut strayed = 0;
                for (address, error) in attempts {
                    if let TransportError::Other(error) = error
                        && let Some(refused) = refusal_in(error)
                    {
                        self.log_refused(refused, address, "the member we dialled");
                        if refused.peer == id {
                            judged += 1;
                        } else {
                            strayed += 1;
                        }
                    }
                }
                // Somebody else at one of its addresses says nothing about the other addresses.
                judged > 0 || (strayed > 0 && strayed == attempts.len())
            }
            DialError::WrongPeerId { obtained, address } => {
                metrics::refused("wrong_peer");
                if self.log_due(&format!("wrong_peer {raft_id} {address}")) {
                    tracing::warn!(
                        peer = raft_id, expected = %id, %obtained, %address,
                        "another node answers at a member's address"
                    );
                }
                true
            }
            DialError::LocalPeerId { address } => {
                metrics::refused("wrong_peer");
                if self.log_due(&format!("wrong_peer {raft_id} {address}")) {
                    tracing::warn!(peer = raft_id, %address, "a member's address leads to this node");
                }
                true
            }
            DialError::NoAddresses
            | DialError::DialPeerConditionFalse(_)
            | DialError::Aborted
            | DialError::Denied { .. } => false,
        };
        metrics::dial(if refused { "refused" } else { "failed" });
        let Some(peer) = self.peers.get_mut(&raft_id) else {
            return;
        };
        if !peer.connections.is_empty() {
            peer.dial.connected();
            return;
        }
        peer.dial
            .failed(Instant::now(), &self.shared.timing, refused, rand::random());
        if !refused {
            self.log_unreachable(raft_id, &error.to_string());
        }
        self.look_up(raft_id);
    }

    pub(super) fn on_incoming_error(&self, address: &Multiaddr, error: &ListenError) {
        match error {
            ListenError::Transport(TransportError::Other(inner)) => match refusal_in(inner) {
                Some(refused) => self.log_refused(refused, address, "a node that dialled us"),
                None => {
                    metrics::refused("handshake");
                    tracing::debug!(%address, %error, "a handshake failed");
                }
            },
            ListenError::Denied { cause } => self.on_denied(address, cause),
            ListenError::Transport(_)
            | ListenError::Aborted
            | ListenError::WrongPeerId { .. }
            | ListenError::LocalPeerId { .. } => {
                metrics::refused("handshake");
                tracing::debug!(%address, %error, "a handshake failed");
            }
        }
    }

    fn on_denied(&self, address: &Multiaddr, cause: &ConnectionDenied) {
        use libp2p::{allow_block_list::NotAllowed, connection_limits::Exceeded};
        let reason = if cause.downcast_ref::<NotAllowed>().is_some() {
            // Removed between its handshake and now.
            "unknown_key"
        } else if cause.downcast_ref::<Exceeded>().is_some()
            || cause.downcast_ref::<TooManyFrom>().is_some()
        {
            "limit"
        } else {
            "handshake"
        };
        metrics::refused(reason);
        if self.log_due(&format!("{reason} {}", host_of(address))) {
            let cause = std::error::Error::source(cause).map(ToString::to_string);
            tracing::warn!(%address, reason, cause, "refused a connection");
        }
    }

    fn log_refused(&self, refused: &Refused, address: &Multiaddr, who: &str) {
        if refused.reason == Reason::Applicant {
            tracing::debug!(peer_id = %refused.peer, %address, "a node applies for admission");
            return;
        }
        if let Reason::Told(code) = &refused.reason {
            self.on_told(&refused.peer, *code);
        }
        let label = refused.reason.label();
        metrics::refused(label);
        // Keys are free, hosts are not: a stranger with new keys is still one cause. Members are told apart.
        let cause = match self.table.raft_id_of(&refused.peer) {
            Some(raft_id) => format!("{label} {raft_id}"),
            None => format!("{label} {}", host_of(address)),
        };
        if self.log_due(&cause) {
            tracing::warn!(
                peer_id = %refused.peer, %address, reason = label,
                "refused {who}: {}", refused.reason
            );
        }
    }

    /// The holder of a key refused us and said why. Only a member's word counts.
    fn on_told(&self, peer: &PeerId, code: Code) {
        let Some(by) = self.table.raft_id_of(peer) else {
            return;
        };
        match code {
            Code::Removed => self.pronounce(Verdict::Removed { by }),
            Code::OtherLog => self.pronounce(Verdict::OtherLog { by }),
            Code::Welcome
            | Code::Protocol
            | Code::ChainId
            | Code::Genesis
            | Code::Malformed
            | Code::RaftId
            | Code::Busy
            | Code::NotYet
            | Code::Admitted => {}
        }
    }

    /// Tells the application what a member says about this node.
    pub(super) fn pronounce(&self, verdict: Verdict) {
        metrics::verdict(match verdict {
            Verdict::Removed { .. } => "removed",
            Verdict::OtherLog { .. } => "other_log",
        });
        if self.verdicts.try_send(verdict).is_err() {
            metrics::dropped(metrics::lane::VERDICTS, "queue_full", 1);
        }
    }

    fn log_unreachable(&self, raft_id: u64, error: &str) {
        if self.log_due(&format!("unreachable {raft_id}")) {
            tracing::info!(
                peer = raft_id,
                error,
                "cannot reach a member, will go on trying"
            );
        }
    }

    pub(super) fn log_due(&self, cause: &str) -> bool {
        self.shared.refusals.lock().due(cause, StdInstant::now())
    }
}

/// Dialled addresses end in the peer id, accepted ones do not.
fn without_peer(address: &Multiaddr) -> Multiaddr {
    address
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect()
}

/// The IP part of an address.
fn host_of(address: &Multiaddr) -> String {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.to_string(),
        Some(Protocol::Ip6(ip)) => ip.to_string(),
        _ => address.to_string(),
    }
}
