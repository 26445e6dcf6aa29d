//! gossipsub, told of every connection as if it were the first.
//!
//! gossipsub says what it is subscribed to once, when the first connection to a peer opens, and keeps one queue per peer
//! that all its connections drain. So what is said may go into a connection that is dead and about to be replaced, and
//! the member at the other end of the new one (restarted, perhaps) would never learn that we listen, and never send us
//! anything again. Here the subscription is said again on every new connection, and when one of several closes. Hearing it
//! twice does no harm.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{self, IdentityTransform, WhitelistSubscriptionFilter},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
    },
};

/// gossipsub as we configure it.
pub(crate) type Inner = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// See the module.
pub(crate) struct Gossip(pub(crate) Inner);

impl NetworkBehaviour for Gossip {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = gossipsub::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.0
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.0
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
        self.0
            .handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.0
                    .on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                        other_established: 0,
                        ..established
                    }));
            }
            FromSwarm::ConnectionClosed(closed) => {
                let ConnectionClosed {
                    peer_id,
                    connection_id,
                    endpoint,
                    remaining_established,
                    ..
                } = closed;
                self.0.on_swarm_event(event);
                if remaining_established > 0 {
                    self.0.on_swarm_event(FromSwarm::ConnectionEstablished(
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
            other => self.0.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.0.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}
