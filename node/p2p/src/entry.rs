//! The upgrade between Noise and Yamux: the gate. It takes the place of the multiplexer in libp2p's transport, because that
//! is where the proved peer and the address of the connection are both known.

use std::{net::IpAddr, net::Ipv4Addr, pin::Pin, sync::Arc};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        ConnectedPoint, UpgradeInfo,
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    },
    multiaddr::Protocol,
    yamux,
};

use crate::{
    gate::{Gate, Origin},
    handshake::HandshakeError,
};

/// The name under which two nodes agree on the handshake. What changes in it is a new protocol version in the hello, so
/// that both sides can say what the other one speaks.
pub(crate) const PROTOCOL: &str = "/quorate/hello/1";

/// The multiplexer follows without a negotiation of its own.
const MULTIPLEXER: &str = "/yamux/1.0.0";

/// Hello, then Yamux: the upgrade of one connection.
#[derive(Clone)]
pub(crate) struct Entry {
    gate: Arc<Gate>,
    peer: PeerId,
    origin: Origin,
}

impl Entry {
    pub(crate) fn new(gate: Arc<Gate>, peer: PeerId, endpoint: &ConnectedPoint) -> Self {
        let origin = match endpoint {
            ConnectedPoint::Dialer { address, .. } => Origin::Dialled {
                expected: peer_in(address),
            },
            ConnectedPoint::Listener { send_back_addr, .. } => Origin::Accepted {
                from: ip_in(send_back_addr).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            },
        };
        Self { gate, peer, origin }
    }
}

/// The peer that an address ends in.
fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The IP address that a multiaddr begins with.
pub(crate) fn ip_in(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

impl UpgradeInfo for Entry {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

type Upgraded<T> =
    Pin<Box<dyn Future<Output = Result<yamux::Muxer<T>, HandshakeError>> + Send + 'static>>;

impl<T> InboundConnectionUpgrade<T> for Entry
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = yamux::Muxer<T>;
    type Error = HandshakeError;
    type Future = Upgraded<T>;

    fn upgrade_inbound(self, socket: T, _name: Self::Info) -> Self::Future {
        Box::pin(async move {
            let socket = self.gate.pass(self.peer, self.origin, socket).await?;
            let upgrade = yamux::Config::default().upgrade_inbound(socket, MULTIPLEXER);
            Ok(upgrade.await?)
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Entry
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = yamux::Muxer<T>;
    type Error = HandshakeError;
    type Future = Upgraded<T>;

    fn upgrade_outbound(self, socket: T, _name: Self::Info) -> Self::Future {
        Box::pin(async move {
            let socket = self.gate.pass(self.peer, self.origin, socket).await?;
            let upgrade = yamux::Config::default().upgrade_outbound(socket, MULTIPLEXER);
            Ok(upgrade.await?)
        })
    }
}
