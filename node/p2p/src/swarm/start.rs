//! Building the network from its configuration.

use std::{collections::BTreeSet, net::TcpListener, sync::Arc};

use futures::{FutureExt, StreamExt};
use libp2p::{core::transport::TransportError, identity};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::Network;
use crate::{
    address::{Resolver, multiaddr_of},
    announcement::Announcer,
    behaviour,
    config::Config,
    error::{ConfigError, StartError},
    events::Events,
    gate::Gate,
    gossip::GossipQueue,
    handle::{NetworkHandle, Shared, StreamOpener, none_removed},
    handshake::Hello,
    lane::Lane,
    members::{self, MemberTable},
    metrics,
    strangers::Strangers,
};

/// Requests of tasks to the swarm; when full, they wait. Far more than can be waiting: see the limits per member.
const COMMANDS: usize = 1_024;

/// Gossip messages ready to be published; when full, the coalescer waits and its queue fills.
const PUBLISH: usize = 16;

/// Comings and goings; when full, the newest is dropped and counted.
const PEER_EVENTS: usize = 1_024;

/// What members say about us; when full, the newest is dropped and counted.
const VERDICTS: usize = 64;

/// Announcements and farewells on their way to the network task; when full, their senders wait.
const HEARD: usize = 64;

/// Binds the listening socket and builds everything. Nothing is served before [`Network::run`].
///
/// # Errors
/// [`StartError`]: wrong configuration, address in use, or no tokio runtime around.
pub fn start(config: Config) -> Result<(NetworkHandle, Events, Network), StartError> {
    start_with(config, Resolver::System)
}

/// As [`start`], with somebody else's answers about names.
pub(crate) fn start_with(
    config: Config,
    resolver: Resolver,
) -> Result<(NetworkHandle, Events, Network), StartError> {
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
    let removed: BTreeSet<u64> = config.removed.iter().copied().collect();
    none_removed(&config.members, &removed)?;
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(StartError::NoRuntime);
    }
    probe(&config)?;
    metrics::describe();

    let keypair = identity::Keypair::from(pair.clone());
    let announcer = Announcer::new(
        pair,
        config.genesis_hash,
        config.raft_id,
        keypair.public().to_peer_id(),
        config.announce_sequence,
    );
    if !config.announce.is_empty() {
        announcer
            .announce(&config.announce)
            .map_err(ConfigError::Announce)?;
    }
    let hello = Hello {
        protocol: config.protocol_version,
        raft_id: config.raft_id,
        chain_id: config.chain_id,
        genesis: config.genesis_hash,
        log_id: config.log_id,
    };
    let strangers = Arc::new(Strangers::new(&config.limits));
    let (applicants_in, applicants) = mpsc::channel(config.limits.strangers_max);
    let known_logs = config.known_logs.clone();
    let gate = Arc::new(Gate::new(hello, known_logs, strangers, applicants_in));
    gate.allow_only(table.whitelist(), removed.clone());
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
    let (control, control_out) = mpsc::channel(limits.control_lane);
    let (privacy, privacy_out) = Lane::new(limits.privacy_lane, limits.privacy_lane_bytes);
    let (verdicts, verdicts_out) = mpsc::channel(VERDICTS);
    let (heard_in, heard) = mpsc::channel(HEARD);
    let own = announcer.watch();
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
        announcer,
        resolver,
        gate,
        removed: RwLock::new(removed),
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
        own,
        applicants,
        heard,
        raft,
        transactions,
        requests,
        control,
        privacy,
        verdicts,
        heard_in,
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
        control: control_out,
        privacy: privacy_out,
        verdicts: verdicts_out,
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{MemberInfo, PeerEvent, public_key_of};

    /// Configuration of one of two members, of which the second is dialled by this name.
    fn config(raft_id: u64, name_of_two: &str) -> Config {
        let member = |raft_id: u64| MemberInfo {
            raft_id,
            public_key: public_key_of(&[raft_id as u8; 32]).unwrap(),
            addresses: Vec::new(),
            organisation: String::new(),
        };
        let mut members = vec![member(1), member(2)];
        members[1].addresses.push(name_of_two.to_owned());
        let listen = ([127, 0, 0, 1], 0).into();
        let secret = [raft_id as u8; 32];
        let mut config = Config::new(secret, listen, members, raft_id, 1337, [3; 32]);
        config.timing.dial_wait = Duration::from_millis(10);
        config.timing.dial_pause_min = Duration::from_millis(10);
        config
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_that_leads_elsewhere_by_now_is_resolved_again_at_the_next_dial() {
        let stop = CancellationToken::new();
        let (two, _events, network) = start(config(2, "two.example:1")).unwrap();
        let two_runs = tokio::spawn(network.run(stop.clone()));
        let port = two.listen_addresses()[0]
            .rsplit('/')
            .next()
            .unwrap()
            .parse();
        let there = ([127, 0, 0, 1], port.unwrap()).into();
        // Nobody listens on a port that was just given back.
        let given_back = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let nowhere = given_back.local_addr().unwrap();
        drop(given_back);

        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let script = move |name: &str| {
            assert_eq!(name, "two.example");
            match count.fetch_add(1, Ordering::AcqRel) {
                0 | 1 => vec![nowhere],
                2 => Vec::new(),
                _ => vec![there],
            }
        };
        let resolver = Resolver::Scripted(Arc::new(script));
        let (_one, mut events, network) = start_with(config(1, "two.example:1"), resolver).unwrap();
        let one_runs = tokio::spawn(network.run(stop.clone()));
        let first = tokio::time::timeout(Duration::from_secs(60), events.peers.recv()).await;
        assert_eq!(first.unwrap(), Some(PeerEvent::Connected { raft_id: 2 }));
        assert_eq!(asked.load(Ordering::Acquire), 4);
        stop.cancel();
        one_runs.await.unwrap().unwrap();
        two_runs.await.unwrap().unwrap();
    }
}
