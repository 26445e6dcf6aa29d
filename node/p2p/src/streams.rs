//! Raw streams on a chosen connection. We keep our own small behaviour for this instead of `libp2p-stream`: that one
//! drops an inbound stream when two arrive before its acceptor ran, opens on a random connection of the peer, and can
//! leave an opener waiting for ever (rust-libp2p issue 6157). Here an opener names the connection, and whatever ends its
//! attempt drops the sender it waits for.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll, Waker},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, Stream,
    core::{
        Endpoint, UpgradeInfo,
        transport::PortUse,
        upgrade::{InboundUpgrade, OutboundUpgrade},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::oneshot;

use crate::{events::QueryKind, metrics};

/// Negotiated inbound streams of one connection that the swarm has not taken yet; more are dropped and counted. The swarm
/// takes them at its next turn, so this many means that somebody floods.
const INBOUND_MAX: usize = 64;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    Raft,
    Forward,
    Blocks,
    /// Membership queries.
    Membership,
    /// Snapshot queries.
    Snapshot,
    /// Announcements and farewells.
    Control,
    /// Private payloads and what goes with them. The last: a node may not serve it.
    Privacy,
}

/// How many there are.
const CHANNELS: usize = 7;

impl Channel {
    const ALL: [Self; CHANNELS] = [
        Self::Raft,
        Self::Forward,
        Self::Blocks,
        Self::Membership,
        Self::Snapshot,
        Self::Control,
        Self::Privacy,
    ];

    /// The channel of a query.
    pub(crate) fn of(kind: QueryKind) -> Self {
        match kind {
            QueryKind::Membership => Self::Membership,
            QueryKind::Snapshot => Self::Snapshot,
        }
    }

    /// The name under which the two sides agree on a channel.
    pub(crate) const fn protocol(self) -> &'static str {
        match self {
            Self::Raft => "/quorate/raft/1",
            Self::Forward => "/quorate/transactions/1",
            Self::Blocks => "/quorate/blocks/1",
            Self::Membership => "/quorate/membership/1",
            Self::Snapshot => "/quorate/snapshot/1",
            Self::Control => "/quorate/control/1",
            Self::Privacy => "/quorate/privacy/1",
        }
    }

    /// For the label `lane`.
    pub(crate) fn lane(self) -> &'static str {
        match self {
            Self::Raft => metrics::lane::RAFT,
            Self::Forward => metrics::lane::FORWARD,
            Self::Blocks => metrics::lane::BLOCKS,
            Self::Membership => metrics::lane::MEMBERSHIP,
            Self::Snapshot => metrics::lane::SNAPSHOT,
            Self::Control => metrics::lane::CONTROL,
            Self::Privacy => metrics::lane::PRIVACY,
        }
    }
}

impl AsRef<str> for Channel {
    fn as_ref(&self) -> &str {
        self.protocol()
    }
}

/// Where an opened stream goes. Dropped unanswered when the connection closes.
pub(crate) type StreamReply = oneshot::Sender<Result<Stream, String>>;

/// Tells a connection's handler to open a stream.
#[derive(Debug)]
pub(crate) struct Open {
    channel: Channel,
    reply: StreamReply,
}

/// Another member opened a stream.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) channel: Channel,
    pub(crate) stream: Stream,
}

/// Opens and accepts our streams.
#[derive(Debug)]
pub(crate) struct Behaviour {
    open_timeout: Duration,
    /// What others may open.
    accept: Accept,
    /// Emptied at every poll of the swarm; filled by the swarm's owner, one per command.
    opening: VecDeque<(PeerId, ConnectionId, Open)>,
    /// Emptied at every poll; each connection adds at most [`INBOUND_MAX`] before it is polled again.
    inbound: VecDeque<Inbound>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// With `privacy`, members may open [`Channel::Privacy`].
    pub(crate) fn new(open_timeout: Duration, privacy: bool) -> Self {
        Self {
            open_timeout,
            accept: Accept { privacy },
            opening: VecDeque::new(),
            inbound: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream on this connection.
    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        channel: Channel,
        reply: StreamReply,
    ) {
        self.opening
            .push_back((peer, connection, Open { channel, reply }));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn handler(&self) -> Handler {
        Handler {
            open_timeout: self.open_timeout,
            accept: self.accept,
            opening: VecDeque::new(),
            inbound: VecDeque::new(),
            waker: None,
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Inbound;

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _event: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (channel, stream): THandlerOutEvent<Self>,
    ) {
        self.inbound.push_back(Inbound {
            peer,
            connection,
            channel,
            stream,
        });
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(inbound) = self.inbound.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(inbound));
        }
        if let Some((peer_id, connection, event)) = self.opening.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event,
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The part of [`Behaviour`] that lives with one connection.
#[derive(Debug)]
pub(crate) struct Handler {
    open_timeout: Duration,
    accept: Accept,
    /// Bounded by the swarm's buffer of events per connection.
    opening: VecDeque<Open>,
    inbound: VecDeque<(Channel, Stream)>,
    waker: Option<Waker>,
}

impl Handler {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = (Channel, Stream);
    type InboundProtocol = Accept;
    type OutboundProtocol = Dial;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = StreamReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(self.accept, ()).with_timeout(self.open_timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        // Members stay connected; what is dead is closed by ping.
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        if let Some(inbound) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(inbound));
        }
        while let Some(Open { channel, reply }) = self.opening.pop_front() {
            if reply.is_closed() {
                continue;
            }
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Dial(channel), reply)
                    .with_timeout(self.open_timeout),
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.opening.push_back(event);
        self.wake();
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (channel, stream),
                ..
            }) => {
                if self.inbound.len() >= INBOUND_MAX {
                    metrics::dropped(channel.lane(), "streams", 1);
                    return;
                }
                self.inbound.push_back((channel, stream));
                self.wake();
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: reply,
            }) => answer(reply, Ok(stream)),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: reply }) => {
                answer(reply, Err(error.to_string()));
            }
            _ => {}
        }
    }
}

fn answer(reply: StreamReply, opened: Result<Stream, String>) {
    if reply.send(opened).is_err() {
        tracing::trace!("nobody waits for the stream any more");
    }
}

/// Accepts any of our channels, [`Channel::Privacy`] only where it is served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accept {
    privacy: bool,
}

impl UpgradeInfo for Accept {
    type Info = Channel;
    type InfoIter = std::iter::Take<std::array::IntoIter<Channel, CHANNELS>>;

    fn protocol_info(&self) -> Self::InfoIter {
        let served = if self.privacy { CHANNELS } else { CHANNELS - 1 };
        Channel::ALL.into_iter().take(served)
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = (Channel, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, channel: Self::Info) -> Self::Future {
        ready(Ok((channel, stream)))
    }
}

/// Opens one channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dial(Channel);

impl UpgradeInfo for Dial {
    type Info = Channel;
    type InfoIter = std::iter::Once<Channel>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0)
    }
}

impl OutboundUpgrade<Stream> for Dial {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, _channel: Self::Info) -> Self::Future {
        ready(Ok(stream))
    }
}
