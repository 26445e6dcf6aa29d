//! One node: opens the rooms in order, joins them, watches them, stops them in order.

mod engine;
mod listeners;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate_chain::{Genesis, Member, MemberRole};
use quorate_enclave::Enclave;
use quorate_engine::Ledger;
use quorate_p2p::NetworkHandle;
use quorate_pool::{PoolConfig, PoolHandle};
use quorate_rpc::third_party::{ThirdPartySocket, serve_third_party, serve_third_party_on_socket};
use quorate_rpc::{AccountSigner, NodeIdentity, PrivacyApi, RpcContext};
use quorate_state::StateRead;
use raft_adapter::{LogIndex, RaftHandle, RaftId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;
use crate::exit::{Ended, Exit, end_now};
use crate::join::JoinOptions;
use crate::membership::{self, ChainIdentity, MembershipService, NodeSigner};
use crate::monitor::{self, Monitor};
use crate::network::{self, PeerBlocks, RaftTransport};
use crate::node::engine::EngineParts;
use crate::node::listeners::Listeners;
use crate::privacy::{Privacy, PrivacyService, Surroundings};
use crate::process::Process;
use crate::seat::{Identity, Removal};
use crate::snapshots::{SnapshotMemory, Snapshots};
use crate::stores::{self, Stores};
use crate::tasks::Tasks;

/// A stop that takes longer than this ends the process: `kill -9` at any point is equally correct.
const STOP_MAX: Duration = Duration::from_secs(10);
/// What still computes for a client then is left behind after this.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(2);
/// Old transactions are looked for at this pace.
const EXPIRY_PACE: Duration = Duration::from_secs(30);

/// Name and version as clients see them.
pub fn client_version() -> String {
    format!(
        "Quorate/v{}/{}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

/// Runs one node until it is told to stop.
///
/// # Errors
/// With the exit code for the supervisor.
pub fn run(
    process: Process,
    config: NodeConfig,
    join: JoinOptions,
    signer: Arc<dyn AccountSigner>,
) -> Result<(), Ended> {
    let Process { runtime, terminate } = process;
    let ended = runtime.block_on(async {
        let start = Start {
            terminate,
            prometheus: PrometheusBuilder::new()
                .install_recorder()
                .context("installing the metrics recorder")?,
            config,
            join,
            signer,
            snapshots: SnapshotMemory::default(),
        };
        // Stores are exchanged only while nobody uses them: then the node is closed and opened again.
        while !start.terminate.is_cancelled() && serve(&start).await? == Outcome::Reopen {}
        Ok(())
    });
    // A long call of a client must not hold up a stop.
    runtime.shutdown_timeout(RUNTIME_STOP_MAX);
    ended
}

/// What every opening of the node begins with.
struct Start {
    /// Cancelled when the process was asked to end.
    terminate: CancellationToken,
    config: NodeConfig,
    join: JoinOptions,
    signer: Arc<dyn AccountSigner>,
    prometheus: PrometheusHandle,
    /// What was learnt about others' snapshots; survives a reopening.
    snapshots: SnapshotMemory,
}

/// How a run ended, when it ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stopped,
    Reopen,
}

async fn serve(start: &Start) -> Result<Outcome, Ended> {
    let Start { config, .. } = start;
    let data_dir = &config.node.data_dir;
    let _lock = lock(data_dir).map_err(Ended::with(Exit::DataFolder))?;
    if let Some(member) = &start.join.member {
        // A port in use should be the first thing said; but nobody should connect to one that nobody serves yet.
        drop(Listeners::bind(config).await?);
        tokio::select! {
            prepared = crate::join::prepare(config, member) => prepared?,
            () = start.terminate.cancelled() => {
                tracing::info!("stopped before it was admitted");
                return Ok(Outcome::Stopped);
            }
        }
    }
    let listeners = Listeners::bind(config).await?;
    let genesis_text = read_genesis(config).map_err(Ended::with(Exit::Configuration))?;
    let genesis = Genesis::parse(&genesis_text)
        .with_context(|| format!("genesis file {}", genesis_path(config).display()))
        .map_err(Ended::with(Exit::Configuration))?;
    let identity = Identity::load(config, &genesis)?;

    let opening = {
        let (config, genesis) = (config.clone(), genesis.clone());
        let snapshots = start.snapshots.clone();
        tokio::task::spawn_blocking(move || {
            snapshots
                .settle(&config, &genesis)
                .map_err(Ended::with(Exit::Storage))?;
            stores::open(&config, &genesis)
        })
    };
    let stores = opening.await.context("opening the stores")??;
    let enclave = open_enclave(config).await?;
    let parts = Parts {
        start,
        genesis,
        genesis_text,
        identity,
        enclave,
    };
    Node::assemble(parts, stores, listeners)?.run().await
}

/// What a node is assembled from.
struct Parts<'a> {
    start: &'a Start,
    genesis: Genesis,
    genesis_text: String,
    identity: Identity,
    /// Keeper of the keys for private transactions, if they are switched on.
    enclave: Option<Arc<dyn Enclave>>,
}

/// Unlocks the keys for private transactions, or finds who keeps them.
async fn open_enclave(config: &NodeConfig) -> Result<Option<Arc<dyn Enclave>>, Ended> {
    if !config.privacy.enabled {
        return Ok(None);
    }
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || config.enclave());
    let enclave = opened.await.context("opening the enclave")?;
    enclave.map(Some).map_err(Ended::with(Exit::Configuration))
}

/// All parts of a running node.
struct Node {
    terminate: CancellationToken,
    tasks: Tasks,
    raft: RaftHandle,
    /// Cancelled when the importer and the network may end: after ordering has.
    network_stop: CancellationToken,
    front_stop: CancellationToken,
    threads: Vec<(&'static str, JoinHandle<()>)>,
}

impl Node {
    fn assemble(parts: Parts<'_>, stores: Stores, mut listeners: Listeners) -> Result<Self, Ended> {
        let Parts {
            start,
            genesis,
            genesis_text,
            identity,
            enclave,
        } = parts;
        let config = &start.config;
        let tasks = Tasks::new();
        let network_stop = CancellationToken::new();
        let front_stop = CancellationToken::new();
        let Stores { blocks, state } = stores;
        let ledger = Ledger::new(&genesis, blocks, state);
        let pool = open_pool(config, &genesis, &ledger);
        let head = ledger.head();
        let raft_id = identity.member.raft_id;
        tracing::info!(height = head.height(), block = %head.hash(), raft_id, "chain opened");

        let ordering = |error: anyhow::Error| Ended {
            exit: Exit::Ordering,
            error,
        };
        fail_point!("node.ordering.open");
        let log_dir = config.node.data_dir.join("raft");
        let raft_settings = raft_config(config, &genesis, raft_id);
        // The whitelist of the first handshakes.
        let log = raft_adapter::inspect(&log_dir, raft_settings.clone())
            .map_err(|e| ordering(anyhow!("ordering: {e}")))?;
        if log.table.removed.contains_key(&RaftId(raft_id)) {
            // It stopped on another member's word before it had noted what its own log says.
            let removal = Removal::by_own_log(raft_id);
            removal
                .save(&config.node.data_dir)
                .map_err(Ended::with(Exit::DataFolder))?;
            return Err(removal.ended());
        }
        let members = membership::members_at_start(&log.table, identity.seat.as_ref())
            .map_err(|e| ordering(anyhow!("member table of the log: {e}")))?;
        let (network, events) = start_network(
            config,
            &genesis,
            &identity,
            members,
            &ledger,
            &tasks,
            network_stop.clone(),
        )?;
        let opened = raft_adapter::open(
            raft_settings,
            &log_dir,
            LogIndex(head.raft_index),
            Box::new(RaftTransport(network.clone())),
        )
        .map_err(|e| ordering(anyhow!("ordering: {e}")))?;
        let raft = opened.handle.clone();
        ledger
            .adopt_members(&opened.table)
            .map_err(|e| ordering(anyhow!("member table of the log: {e}")))?;
        let chain = ChainIdentity {
            chain_id: genesis.spec().chain_id(),
            genesis_hash: ledger.genesis().hash(),
        };
        let membership =
            MembershipService::new(raft_id, chain, genesis_text, raft.clone(), network.clone());
        let snapshots = Snapshots::new(config, &ledger, &raft, &network, &start.snapshots)
            .map_err(Ended::with(Exit::Storage))?;
        let (lanes, privacy_lane) = network::spawn_lanes(
            &tasks,
            events,
            raft.clone(),
            pool.clone(),
            ledger.clone(),
            snapshots.server(),
            network_stop.clone(),
        );
        let around = Surroundings {
            config,
            genesis: &genesis,
            identity: &identity,
            ledger: &ledger,
            raft: &raft,
            network: &network,
        };
        let privacy = enclave
            .map(|enclave| Privacy::open(enclave, &around))
            .transpose()?;
        let private = privacy.as_ref().map(Privacy::service);
        let (keys, enclave_keys) = watch::channel(Vec::new());
        if let Some(privacy) = &privacy {
            snapshots.keep_for(privacy.needs());
        }
        let follow = membership::Follow {
            service: membership.clone(),
            raft_id,
            seat: identity.seat.clone(),
            addresses: config.p2p.addresses.clone(),
            announce: config.p2p.announce.clone(),
            promote_when_caught_up: start.join.promote_when_caught_up,
            // No enclave, no keys: the table stays as it is.
            enclave_keys,
            key_signer: NodeSigner::new(identity.key),
            data_dir: config.node.data_dir.clone(),
        };
        membership::follow(&tasks, follow, lanes, &front_stop);
        snapshots.start(&tasks, &front_stop);
        let peers = PeerBlocks {
            network: network.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let memory = start.snapshots.clone();
        crate::mend::start(&tasks, ledger.clone(), peers, memory, front_stop.clone());
        match privacy {
            Some(privacy) => {
                privacy.start(&tasks, privacy_lane, keys, (&raft, &network), &front_stop)
            }
            // Nobody serves private payloads: members that ask are told so.
            None => drop(privacy_lane),
        }

        let mut threads = Vec::new();
        let runner = opened.runner;
        threads.push((
            "raft",
            tasks.critical_thread("raft", move || {
                runner.run().map_err(|e| (Exit::Ordering, e.to_string()))
            })?,
        ));
        let engine = EngineParts {
            config,
            identity: &identity,
            ledger: &ledger,
            pool: &pool,
            raft: &raft,
            snapshots: &snapshots,
        };
        engine.start(&tasks, opened.deliveries, &front_stop, &mut threads)?;

        let node = Self {
            terminate: start.terminate.clone(),
            tasks,
            raft: raft.clone(),
            network_stop,
            front_stop,
            threads,
        };
        let context = RpcContext {
            ledger: ledger.clone(),
            pool: pool.clone(),
            raft: raft.clone(),
            network: network::view(&network),
            membership: Arc::new(membership.clone()),
            privacy: private
                .clone()
                .map(|private| private as Arc<dyn PrivacyApi>),
            signer: Arc::clone(&start.signer),
            client_version: client_version(),
            node: NodeIdentity {
                node_id: identity.member.node_id,
                raft_id,
            },
            config: config.rpc_config(),
        };
        if let Some(private) = private {
            let (listener, socket) = (listeners.third_party.take(), listeners.socket.take());
            node.start_third_party(config, private, listener, socket);
        }
        node.start_front(
            context,
            listeners,
            Monitor {
                prometheus: start.prometheus.clone(),
                ledger,
                raft,
                network,
                membership,
                snapshots: start.snapshots.clone(),
            },
            pool,
        );
        Ok(node)
    }

    /// The HTTP surface that Tessera's users know, where it is switched on.
    fn start_third_party(
        &self,
        config: &NodeConfig,
        private: Arc<PrivacyService>,
        listener: Option<TcpListener>,
        socket: Option<ThirdPartySocket>,
    ) {
        let limits = config.third_party_limits();
        let stop = &self.front_stop;
        if let Some(listener) = listener {
            let served = serve_third_party(
                Arc::clone(&private) as Arc<dyn PrivacyApi>,
                listener,
                config.third_party_tls(),
                limits.clone(),
                stop.clone(),
            );
            self.tasks.critical("third-party", Exit::Network, served);
        }
        if let Some(socket) = socket {
            let served = serve_third_party_on_socket(private, socket, limits, stop.clone());
            self.tasks
                .critical("third-party-socket", Exit::Network, served);
        }
    }

    /// Everything that faces clients, and the relay of what they send.
    fn start_front(
        &self,
        context: RpcContext,
        listeners: Listeners,
        monitor: Monitor,
        pool: PoolHandle,
    ) {
        let stop = &self.front_stop;
        let network = monitor.network.clone();
        if let Some(listener) = listeners.rpc {
            let served = quorate_rpc::serve_json_rpc(context.clone(), listener, stop.clone());
            self.tasks.critical("json-rpc", Exit::Network, served);
        }
        if let Some(listener) = listeners.grpc {
            self.tasks.critical(
                "grpc",
                Exit::Network,
                quorate_rpc::serve_grpc(context, listener, stop.clone()),
            );
        }
        let served = monitor::serve(monitor, listeners.monitor, self.network_stop.clone());
        self.tasks.critical("metrics", Exit::Network, served);
        let relay = crate::relay::run(pool.clone(), self.raft.clone(), network, stop.clone());
        self.tasks.worker("relay", relay);
        let stop = stop.clone();
        self.tasks.worker("pool-expiry", async move {
            while stop
                .run_until_cancelled(tokio::time::sleep(EXPIRY_PACE))
                .await
                .is_some()
            {
                let expired = pool.expire();
                if expired > 0 {
                    tracing::info!(expired, "transactions waited too long and left the pool");
                }
            }
        });
    }

    /// Waits for a signal or a failure, then stops everything along the data flow.
    async fn run(self) -> Result<Outcome, Ended> {
        tokio::select! {
            () = self.tasks.stop.cancelled() => {}
            () = self.terminate.cancelled() => {
                tracing::info!("stopping");
                self.tasks.stop.cancel();
            }
        }
        let Self {
            tasks,
            raft,
            network_stop,
            front_stop,
            threads,
            ..
        } = self;
        let names: Vec<&'static str> = threads.iter().map(|(name, _)| *name).collect();
        let stopping = async {
            fail_point!("node.stop");
            front_stop.cancel();
            // A leader hands over first; then ordering ends, and with it importer and flusher.
            raft.shutdown();
            drop(raft);
            let joined = tokio::task::spawn_blocking(move || {
                for (name, thread) in threads {
                    if thread.join().is_err() {
                        tracing::error!(thread = name, "ended by a panic");
                    }
                }
            });
            drop(joined.await);
            network_stop.cancel();
            tasks.join().await;
        };
        if tokio::time::timeout(STOP_MAX, stopping).await.is_err() {
            tracing::error!(threads = ?names, "stopping took too long");
            end_now(Exit::ShutdownTimeout);
        }
        match tasks.take_failure() {
            Some(failure) => Err(Ended {
                exit: failure.exit,
                error: anyhow!("{}: {}", failure.task, failure.reason),
            }),
            None if tasks.is_to_reopen() => Ok(Outcome::Reopen),
            None => {
                tracing::info!("stopped");
                Ok(Outcome::Stopped)
            }
        }
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn open_pool(config: &NodeConfig, genesis: &Genesis, ledger: &Ledger) -> PoolHandle {
    let head = ledger.head();
    let state = ledger.clone();
    let pool = &config.pool;
    PoolHandle::new(
        PoolConfig {
            transactions_max: pool.transactions_max,
            bytes_max: pool.bytes_max,
            per_sender_max: pool.per_sender_max,
            nonce_window: pool.nonce_window,
            min_gas_price: pool.min_gas_price,
            lifetime: pool.lifetime,
            ..PoolConfig::default()
        },
        genesis.spec().clone(),
        genesis.block_limits(),
        genesis.gas_limit(),
        (head.height(), head.block.header().timestamp),
        Arc::new(move || Arc::new(state.latest_state()) as Arc<dyn StateRead>),
    )
}

fn start_network(
    config: &NodeConfig,
    genesis: &Genesis,
    identity: &Identity,
    (members, removed): (Vec<Member>, Vec<u64>),
    ledger: &Ledger,
    tasks: &Tasks,
    stop: CancellationToken,
) -> Result<(NetworkHandle, quorate_p2p::Events), Ended> {
    let members = members.iter();
    let members = members
        .map(|m| network::member_info(m, config.p2p.addresses.get(&m.raft_id)))
        .collect();
    let mut p2p = quorate_p2p::Config::new(
        identity.key.secret_bytes(),
        config.p2p.listen,
        members,
        identity.member.raft_id,
        genesis.spec().chain_id(),
        ledger.genesis().hash().0,
    );
    p2p.agent_version = client_version();
    p2p.removed = removed;
    p2p.log_id = identity.log_id;
    p2p.known_logs = crate::seat::known_logs(&config.node.data_dir);
    p2p.announce = config.p2p.announce.clone();
    p2p.announce_sequence = unix_millis();
    p2p.mdns = config.p2p.mdns;
    p2p.privacy = config.privacy.enabled;
    let (handle, events, network) = quorate_p2p::start(p2p).map_err(|e| Ended {
        exit: Exit::Network,
        error: anyhow!("p2p.listen {}: {e}", config.p2p.listen),
    })?;
    tasks.critical("swarm", Exit::Network, network.run(stop));
    Ok((handle, events))
}

/// What ordering needs to know, for a running node and for a recovery by hand.
pub fn raft_config(config: &NodeConfig, genesis: &Genesis, raft_id: u64) -> raft_adapter::Config {
    let with_role = |role: MemberRole| {
        let members = genesis.members().iter().filter(move |m| m.role == role);
        members.map(|m| RaftId(m.raft_id)).collect::<Vec<_>>()
    };
    let mut raft = raft_adapter::Config::new(RaftId(raft_id), with_role(MemberRole::Voter));
    raft.details = membership::genesis_details(genesis.members());
    raft.learners = with_role(MemberRole::Learner);
    raft.tick = config.raft.tick;
    raft.election_ticks = config.raft.election_ticks;
    raft.heartbeat_ticks = config.raft.heartbeat_ticks;
    raft.trailing_entries = config.raft.trailing_entries;
    // The largest block: its transactions, what encoding adds to each, header and seal.
    let limits = genesis.block_limits();
    let overhead = limits
        .max_transactions
        .saturating_mul(16)
        .saturating_add(64 << 10);
    raft.payload_bytes_max = limits
        .max_bytes
        .saturating_add(overhead)
        .max(raft.payload_bytes_max);
    // Members must not draw the same election timeouts.
    raft.seed = rand::random();
    raft
}

fn read_genesis(config: &NodeConfig) -> anyhow::Result<String> {
    let path = genesis_path(config);
    std::fs::read_to_string(&path).with_context(|| {
        format!("genesis file {} cannot be read (quorate init --genesis FILE --data-dir DIR puts it there)", path.display())
    })
}

/// Where the genesis file is, or will be.
pub fn genesis_path(config: &NodeConfig) -> PathBuf {
    config
        .node
        .genesis
        .clone()
        .unwrap_or_else(|| config.node.data_dir.join("genesis.json"))
}

/// Takes the data folder for this process alone; released by the system when the process ends.
pub fn lock(dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(dir).with_context(|| format!("data folder {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("lock file {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow!("data folder {} is in use by another process", dir.display()))?;
    Ok(file)
}
