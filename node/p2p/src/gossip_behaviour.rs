//! gossipsub, told of every connection as if it were the first.
//!
//! gossipsub says what it is subscribed to once, when the first connection to a peer opens, and keeps one queue per peer
//! that all its connections drain. So what is said may go into a connection that is dead and about to be replaced, and
//! the member at the other end of the new one (restarted, perhaps) would never learn that we listen, and never send us
//! anything again. Here the subscription is said again on every new connection, and when one of several closes. Hearing it
//! twice does no harm.
//!
//! And a member that was removed gets no gossip any more, though its connections live on for a moment so that it can be
//! told: to gossipsub they are closed already.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    gossipsub::{self, IdentityTransform, TopicHash, WhitelistSubscriptionFilter},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
    },
};

/// gossipsub as we configure it.
pub(crate) type Inner = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// See the module.
pub(crate) struct Gossip {
    pub(crate) inner: Inner,
    /// Whose each open connection is, and whether it is closed to gossipsub.
    open: BTreeMap<ConnectionId, (PeerId, Parted)>,
}

/// True for a connection that is closed to gossipsub, and open to everybody else.
type Parted = bool;

impl Gossip {
    pub(crate) fn new(inner: Inner) -> Self {
        Self {
            inner,
            open: BTreeMap::new(),
        }
    }

    /// Sends nothing more to a peer on the connections that it has now, and takes nothing from them.
    pub(crate) fn part(&mut self, peer_id: PeerId) {
        let mut last = None;
        for (connection, (peer, parted)) in &mut self.open {
            if *peer == peer_id && !*parted {
                *parted = true;
                last = Some(*connection);
            }
        }
        let Some(connection_id) = last else {
            return;
        };
        let nowhere = ConnectedPoint::Dialer {
            address: Multiaddr::empty(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        self.inner
            .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                endpoint: &nowhere,
                cause: None,
                remaining_established: 0,
            }));
    }

    /// Whether all of these peers have said that they listen, so that what is published now reaches each of them. One that is
    /// connected has not said so yet for a moment.
    pub(crate) fn reaches<'a>(
        &self,
        topic: &TopicHash,
        mut peers: impl Iterator<Item = &'a PeerId>,
    ) -> bool {
        let listening: BTreeSet<&PeerId> = self
            .inner
            .all_peers()
            .filter(|(_, topics)| topics.contains(&topic))
            .map(|(peer, _)| peer)
            .collect();
        peers.all(|peer| listening.contains(peer))
    }

    /// How many connections of this peer gossipsub knows.
    fn known_of(&self, peer: &PeerId) -> usize {
        let known = |(whose, parted): &&(PeerId, Parted)| whose == peer && !parted;
        self.open.values().filter(known).count()
    }
}

impl NetworkBehaviour for Gossip {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = gossipsub::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.open
                    .insert(established.connection_id, (established.peer_id, false));
                self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(
                    ConnectionEstablished {
                        other_established: 0,
                        ..established
                    },
                ));
            }
            FromSwarm::ConnectionClosed(closed) => {
                let ConnectionClosed {
                    peer_id,
                    connection_id,
                    endpoint,
                    ..
                } = closed;
                if let Some((_peer, true)) = self.open.remove(&connection_id) {
                    return;
                }
                let remaining_established = self.known_of(&peer_id);
                self.inner
                    .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                        remaining_established,
                        ..closed
                    }));
                if remaining_established > 0 {
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(
                        ConnectionEstablished {
                            peer_id,
                            connection_id,
                            endpoint,
                            failed_addresses: &[],
                            other_established: 0,
                        },
                    ));
                }
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if let Some((_peer, true)) = self.open.get(&connection) {
            return;
        }
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::gossipsub::{Config, MessageAuthenticity};

    use super::*;

    fn here() -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: Multiaddr::empty(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        }
    }

    fn established(gossip: &mut Gossip, peer_id: PeerId, id: usize, others: usize) {
        let connection_id = ConnectionId::new_unchecked(id);
        let address = Multiaddr::empty();
        gossip
            .handle_established_inbound_connection(connection_id, peer_id, &address, &address)
            .map(drop)
            .unwrap();
        gossip.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint: &here(),
            failed_addresses: &[],
            other_established: others,
        }));
    }

    fn closed(gossip: &mut Gossip, peer_id: PeerId, id: usize, remaining_established: usize) {
        gossip.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id,
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: &here(),
            cause: None,
            remaining_established,
        }));
    }

    fn gossip() -> Gossip {
        let inner = Inner::new_with_subscription_filter(
            MessageAuthenticity::Anonymous,
            gossipsub::ConfigBuilder::from(Config::default())
                .validation_mode(gossipsub::ValidationMode::Anonymous)
                .build()
                .unwrap(),
            WhitelistSubscriptionFilter::default(),
        );
        Gossip::new(inner.unwrap())
    }

    #[tokio::test]
    async fn a_peer_that_is_connected_and_has_not_said_that_it_listens_is_not_reached() {
        let mut gossip = gossip();
        let peer = PeerId::random();
        let topic = TopicHash::from_raw("topic");
        assert!(gossip.reaches(&topic, [].iter()));
        established(&mut gossip, peer, 1, 0);
        assert!(!gossip.reaches(&topic, [peer].iter()));
    }

    #[tokio::test]
    async fn a_parted_peer_is_gone_for_gossip_before_its_connections_close_and_may_come_back() {
        let mut gossip = gossip();
        let peer = PeerId::random();
        let known = |gossip: &Gossip| gossip.inner.all_peers().count();
        established(&mut gossip, peer, 1, 0);
        established(&mut gossip, peer, 2, 1);
        assert_eq!(known(&gossip), 1);
        gossip.part(peer);
        assert_eq!(known(&gossip), 0);
        // Back before the old connections are closed.
        established(&mut gossip, peer, 3, 2);
        assert_eq!(known(&gossip), 1);
        closed(&mut gossip, peer, 1, 2);
        assert_eq!(known(&gossip), 1);
        // The last of its own closes, while an old one is still there.
        closed(&mut gossip, peer, 3, 1);
        assert_eq!(known(&gossip), 0);
        closed(&mut gossip, peer, 2, 0);
        assert_eq!(known(&gossip), 0);
        assert!(gossip.open.is_empty());
    }
}
