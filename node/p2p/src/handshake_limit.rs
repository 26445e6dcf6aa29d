//! Inbound connections that have not finished their handshake, limited per address: libp2p's own limit is over all, and
//! one host could fill it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::{entry::ip_in, strangers::site};

/// Why one more is not let in.
#[derive(Debug, thiserror::Error)]
#[error("{from} has {max} handshakes under way already")]
pub(crate) struct TooManyFrom {
    from: IpAddr,
    max: u32,
}

/// Counts them.
#[derive(Debug)]
pub(crate) struct Behaviour {
    max: u32,
    pending: BTreeMap<ConnectionId, IpAddr>,
    count: BTreeMap<IpAddr, u32>,
}

impl Behaviour {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max,
            pending: BTreeMap::new(),
            count: BTreeMap::new(),
        }
    }

    fn begin(&mut self, connection: ConnectionId, from: IpAddr) -> Result<(), TooManyFrom> {
        let from = site(from);
        let count = self.count.entry(from).or_insert(0);
        if *count >= self.max {
            return Err(TooManyFrom {
                from,
                max: self.max,
            });
        }
        *count += 1;
        self.pending.insert(connection, from);
        Ok(())
    }

    fn end(&mut self, connection: ConnectionId) {
        let Some(from) = self.pending.remove(&connection) else {
            return;
        };
        if let Some(count) = self.count.get_mut(&from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.count.remove(&from);
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        match ip_in(remote) {
            Some(from) => self.begin(connection, from).map_err(ConnectionDenied::new),
            None => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.end(connection);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(failure) => self.end(failure.connection_id),
            FromSwarm::ConnectionEstablished(established) => self.end(established.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_so_many_and_gets_them_back() {
        let mut limit = Behaviour::new(2);
        let id = ConnectionId::new_unchecked;
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert!(limit.begin(id(1), ip(1)).is_ok());
        assert!(limit.begin(id(2), ip(1)).is_ok());
        assert!(limit.begin(id(3), ip(1)).is_err());
        assert!(limit.begin(id(4), ip(2)).is_ok());
        limit.end(id(1));
        limit.end(id(1));
        assert!(limit.begin(id(5), ip(1)).is_ok());
        assert!(limit.begin(id(6), ip(1)).is_err());
        for connection in [2, 4, 5] {
            limit.end(id(connection));
        }
        assert!(limit.count.is_empty() && limit.pending.is_empty());
    }
}
