//! The libp2p protocols of a connection, and the transport under them.

use std::{sync::Arc, time::Duration};

use alloy_primitives::keccak256;
use libp2p::{
    Swarm, Transport,
    allow_block_list::{self, AllowedPeers},
    connection_limits::{self, ConnectionLimits},
    core::upgrade::Version,
    gossipsub::{
        self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode,
        WhitelistSubscriptionFilter,
    },
    identify, identity, mdns, noise, ping,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
    tcp,
};

use crate::{
    config::{Config, Limits, MEMBERS_MAX, Timing},
    directory::Directory,
    entry::Entry,
    error::StartError,
    gate::Gate,
    gossip_behaviour::{Gossip, Inner},
    handshake_limit, streams,
};

/// Members in a gossip mesh; with fewer, the mesh is everybody.
const MESH: usize = 8;

/// Messages gossipsub may hold per member; at 64 KiB each this is 32 MiB.
const GOSSIP_QUEUE: usize = 512;

/// Room above our own limit. gossipsub 0.50 holds what it has read so far against its limit, and that is one message in
/// its envelope plus up to 8 KiB of the next one: with a tight limit a large message is refused, and the stream closed,
/// whenever another one follows closely. Our own limit is checked on both sides beside this.
const GOSSIP_ENVELOPE_BYTES: usize = 64 << 10;

/// What runs on every connection. The whitelist is asked first, so that nobody else holds state for a stranger.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) allowed: allow_block_list::Behaviour<AllowedPeers>,
    pub(crate) limits: connection_limits::Behaviour,
    handshakes: handshake_limit::Behaviour,
    pub(crate) streams: streams::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    pub(crate) gossip: Gossip,
    pub(crate) directory: Directory,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The gossip topic of a chain: one for all transactions.
pub(crate) fn topic(genesis_hash: &[u8; 32]) -> IdentTopic {
    IdentTopic::new(format!(
        "quorate/transactions/1/{}",
        hex::encode(genesis_hash)
    ))
}

fn gossip(topic: &IdentTopic, limits: &Limits, heartbeat: Duration) -> Result<Gossip, StartError> {
    let failed = |error: &dyn ToString| StartError::Transport(error.to_string());
    let config = gossipsub::ConfigBuilder::default()
        .heartbeat_initial_delay(Duration::from_millis(100).min(heartbeat))
        .heartbeat_interval(heartbeat)
        // Below MESH members everybody is taken into the mesh, above it this many.
        .mesh_n_low(MESH)
        .mesh_n(MESH)
        .mesh_n_high(MESH + MESH / 2)
        .mesh_outbound_min(MESH / 4)
        .gossip_lazy(3)
        .flood_publish(true)
        // Transactions carry signatures of their own, and the connection proves the neighbour.
        .validation_mode(ValidationMode::Anonymous)
        // We decide per message whether it is passed on.
        .validate_messages()
        .message_id_fn(|message| MessageId::new(keccak256(&message.data).as_slice()))
        .max_transmit_size(limits.gossip_message_bytes_max + GOSSIP_ENVELOPE_BYTES)
        .connection_handler_queue_len(GOSSIP_QUEUE)
        .build()
        .map_err(|error| failed(&error))?;
    let filter = WhitelistSubscriptionFilter([topic.hash()].into());
    let mut gossip =
        Inner::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
            .map_err(|error| failed(&error))?;
    gossip
        .subscribe(topic)
        .map_err(|error| StartError::Transport(format!("{error:?}")))?;
    Ok(Gossip::new(gossip))
}

/// Limits for a table of so many other members.
pub(crate) fn connection_limits(limits: &Limits, members: usize) -> ConnectionLimits {
    // One more: a member that is being told that it was removed is still there.
    let established = u32::try_from(members.min(MEMBERS_MAX).saturating_add(1))
        .unwrap_or(u32::MAX)
        .saturating_mul(limits.connections_per_member);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.handshakes_max))
        .with_max_established_per_peer(Some(limits.connections_per_member))
        .with_max_established(Some(established))
}

/// Transport, protocols and swarm of this node.
pub(crate) fn swarm(
    config: &Config,
    keypair: &identity::Keypair,
    gate: Arc<Gate>,
    topic: &IdentTopic,
) -> Result<Swarm<Behaviour>, StartError> {
    let timing: &Timing = &config.timing;
    let noise = noise::Config::new(keypair)
        .map_err(|error| StartError::Transport(format!("noise: {error}")))?;
    // TCP_NODELAY is the default of this transport; heartbeats depend on it, so it is said again.
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex_ext(move |peer, endpoint| Entry::new(Arc::clone(&gate), *peer, endpoint))
        .timeout(timing.handshake_timeout)
        .boxed();
    let identify = identify::Config::new("quorate/1".to_owned(), keypair.public())
        .with_agent_version(config.agent_version.clone())
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    let ping = ping::Config::new()
        .with_interval(timing.ping_interval)
        .with_timeout(timing.ping_timeout);
    let own = keypair.public().to_peer_id();
    let mdns = config
        .mdns
        .then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), own))
        .transpose()
        .map_err(|error| StartError::Transport(format!("mdns: {error}")))?;
    let behaviour = Behaviour {
        allowed: allow_block_list::Behaviour::default(),
        limits: connection_limits::Behaviour::new(connection_limits(
            &config.limits,
            config.members.len(),
        )),
        handshakes: handshake_limit::Behaviour::new(config.limits.handshakes_per_address),
        streams: streams::Behaviour::new(timing.open_timeout, config.privacy),
        ping: ping::Behaviour::new(ping),
        identify: identify::Behaviour::new(identify),
        gossip: gossip(topic, &config.limits, timing.gossip_heartbeat)?,
        directory: Directory::new(own, config.genesis_hash, timing),
        mdns: mdns.into(),
    };
    let swarm_config = swarm::Config::with_tokio_executor()
        // One round trip less per request: the protocol's name travels with the first bytes.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Ok(Swarm::new(transport, behaviour, own, swarm_config))
}
