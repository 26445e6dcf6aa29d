//! Building the network from its configuration.

use std::{net::TcpListener, sync::Arc};

use futures::{FutureExt, StreamExt};
use libp2p::{core::transport::TransportError, identity};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::Network;
use crate::{
    address::multiaddr_of,
    behaviour,
    config::Config,
    error::{ConfigError, StartError},
    events::Events,
    gossip::GossipQueue,
    handle::{NetworkHandle, Shared, StreamOpener},
    handshake::{Gate, Hello},
    lane::Lane,
    members::{self, MemberTable},
    metrics,
};

/// Requests of tasks to the swarm; when full, they wait. Far more than can be waiting: see the limits per member.
const COMMANDS: usize = 1_024;

/// Gossip messages ready to be published; when full, the coalescer waits and its queue fills.
const PUBLISH: usize = 16;

/// Comings and goings; when full, the newest is dropped and counted.
const PEER_EVENTS: usize = 1_024;

/// Binds the listening socket and builds everything. Nothing is served before [`Network::run`].
///
/// # Errors
/// [`StartError`]: wrong configuration, address in use, or no tokio runtime around.
pub fn start(config: Config) -> Result<(NetworkHandle, Events, Network), StartError> {
    config.check()?;
    let pair = members::keypair(&config.secret_key).map_err(ConfigError::OwnKey)?;
    let table = Arc::new(MemberTable::new(&config.members, config.raft_id)?);
    let own = config
        .members
        .iter()
        .find(|member| member.raft_id == config.raft_id);
    let own = own.ok_or(ConfigError::SelfMissing {
        raft_id: config.raft_id,
    })?;
    if own.public_key != pair.public().to_bytes() {
        return Err(ConfigError::SelfKey {
            raft_id: config.raft_id,
        }
        .into());
    }
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(StartError::NoRuntime);
    }
    probe(&config)?;
    metrics::describe();

    let keypair = identity::Keypair::from(pair);
    let gate = Arc::new(Gate::new(Hello {
        protocol: config.protocol_version,
        chain_id: config.chain_id,
        genesis: config.genesis_hash,
    }));
    gate.allow_only(table.iter().map(|member| member.peer).collect());
    let topic = behaviour::topic(&config.genesis_hash);
    let mut swarm = behaviour::swarm(&config, &keypair, Arc::clone(&gate), &topic)?;
    let listener = swarm
        .listen_on(multiaddr_of(config.listen))
        .map_err(|error| match error {
            TransportError::Other(source) => StartError::Listen {
                address: config.listen,
                source,
            },
            TransportError::MultiaddrNotSupported(address) => {
                StartError::Transport(format!("cannot listen on {address}"))
            }
        })?;

    let Config {
        raft_id,
        limits,
        timing,
        ..
    } = config;
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (publish_in, publish) = mpsc::channel(PUBLISH);
    let (gossip, coalescer) = GossipQueue::new(&limits, &timing, rand::random(), publish_in);
    let (members, members_seen) = watch::channel(Arc::clone(&table));
    let (raft, raft_out) = Lane::new(limits.raft_lane_messages, limits.raft_lane_bytes);
    let (transactions, transactions_out) = Lane::new(
        limits.transaction_lane_batches,
        limits.transaction_lane_bytes,
    );
    let (requests, requests_out) = mpsc::channel(limits.request_lane);
    let (peer_events, peers_out) = mpsc::channel(PEER_EVENTS);
    let shared = Arc::new(Shared {
        raft_id,
        peer: *swarm.local_peer_id(),
        opener: StreamOpener {
            commands: commands_in,
            limit: timing.open_timeout,
        },
        limits,
        timing,
        gossip,
        gate,
        members,
        links: RwLock::default(),
        status: RwLock::default(),
        listening: RwLock::default(),
        refusals: Mutex::default(),
    });
    let mut network = Network {
        swarm,
        listener,
        shared: Arc::clone(&shared),
        topic,
        commands,
        publish,
        members: members_seen,
        raft,
        transactions,
        requests,
        peer_events,
        table,
        peers: std::collections::BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    network.start_tasks(coalescer);
    // The listener has an address by now: take it, so that callers need not wait for it.
    while let Some(Some(event)) = network.swarm.next().now_or_never() {
        network
            .on_event(event)
            .map_err(|fatal| StartError::Transport(fatal.to_string()))?;
    }
    let events = Events {
        raft: raft_out,
        transactions: transactions_out,
        requests: requests_out,
        peers: peers_out,
    };
    Ok((NetworkHandle::new(shared), events, network))
}

/// libp2p listens with SO_REUSEPORT, so a second node of the same user on the same port would start without an error and
/// the two would steal each other's connections. A plain bind finds out.
fn probe(config: &Config) -> Result<(), StartError> {
    if config.listen.port() == 0 {
        return Ok(());
    }
    match TcpListener::bind(config.listen) {
        Ok(_released) => Ok(()),
        Err(source) => Err(StartError::Listen {
            address: config.listen,
            source,
        }),
    }
}
