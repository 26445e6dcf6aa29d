//! Private transactions: opens the enclave, the exchange of payloads and the private ledger, and joins them with the public chain
//! and the members' network.
//!
//! ```text
//! data folder/privacy/exchange   payloads, deliveries, groups
//! data folder/privacy/ledger     private state, records
//! ```

mod errors;
mod extend;
mod members;
mod public;
mod send;
mod service;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use alloy_primitives::B256;
use anyhow::anyhow;
use quorate_chain::Genesis;
use quorate_enclave::{Enclave, KeyAnnouncement, NodeKey, Suite};
use quorate_engine::{EnclaveKey, Ledger};
use quorate_exchange::{Exchange, ExchangeConfig, ExchangeIdentity};
use quorate_p2p::{NetworkHandle, PrivacyRequest};
use quorate_privacy::{ExecutorConfig, LedgerConfig, PrivateExecutor, PrivateLedger, PublicChain};
use raft_adapter::RaftHandle;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::members::Members;
use self::public::PublicView;
pub use self::service::PrivacyService;
use self::service::PrivateView;
use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};
use crate::membership::{ChainIdentity, NodeSigner};
use crate::seat::Identity;
use crate::snapshots::PrivateNeeds;
use crate::tasks::Tasks;

/// The enclave is asked for its keys so often, so that the member table learns of new ones.
const KEYS_PACE: Duration = Duration::from_secs(15);
/// And so often while it does not answer.
const KEYS_RETRY: Duration = Duration::from_secs(1);
/// Connections are looked at so often.
const RECONNECTED_PACE: Duration = Duration::from_secs(1);

/// The folder of the exchange.
pub fn exchange_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("privacy").join("exchange")
}

/// The lowest block that private execution of a node that does not run still needs; `None` if it has no private ledger.
///
/// # Errors
/// If the private ledger does not open.
pub fn needed_offline(
    data_dir: &Path,
    genesis: &Genesis,
    hash: B256,
) -> anyhow::Result<Option<u64>> {
    let dir = ledger_dir(data_dir);
    if !dir.exists() {
        return Ok(None);
    }
    let chain_id = genesis.spec().chain_id();
    let ledger = PrivateLedger::open(&dir, chain_id, hash, &LedgerConfig::default())?;
    Ok(Some(Needs(ledger).needed_from()))
}

/// The folder of private state.
pub fn ledger_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("privacy").join("ledger")
}

/// Private transactions of one node, opened.
pub struct Privacy {
    service: Arc<PrivacyService>,
    executor: PrivateExecutor,
}

struct Needs(PrivateLedger);

impl PrivateNeeds for Needs {
    fn needed_from(&self) -> u64 {
        // And the public state before that block.
        self.0.needed_from().saturating_sub(1)
    }

    fn needs_every_block(&self) -> bool {
        self.0.status().records > 0
    }
}

/// What private transactions are joined with.
pub struct Surroundings<'a> {
    pub config: &'a NodeConfig,
    pub genesis: &'a Genesis,
    pub identity: &'a Identity,
    pub ledger: &'a Ledger,
    pub raft: &'a RaftHandle,
    pub network: &'a NetworkHandle,
}

impl Privacy {
    /// Opens everything, with keys in `enclave`.
    ///
    /// # Errors
    /// With the exit code for the supervisor.
    pub fn open(enclave: Arc<dyn Enclave>, around: &Surroundings<'_>) -> Result<Self, Ended> {
        let Surroundings {
            config,
            genesis,
            identity,
            ledger,
            raft,
            network,
        } = around;
        let storage = |error: anyhow::Error| Ended {
            exit: Exit::Storage,
            error,
        };
        let data_dir = &config.node.data_dir;
        let chain_id = genesis.spec().chain_id();
        let genesis_hash = ledger.genesis().hash();
        let private = PrivateLedger::open(
            &ledger_dir(data_dir),
            chain_id,
            genesis_hash,
            &LedgerConfig::default(),
        )
        .map_err(|e| storage(anyhow!("private ledger: {e}")))?;
        let suite = Suite::from_number(genesis.privacy_suite()).ok_or_else(|| Ended {
            exit: Exit::Configuration,
            error: anyhow!(
                "genesis asks for privacy suite {}, which this version does not know",
                genesis.privacy_suite()
            ),
        })?;
        let chain = ChainIdentity {
            chain_id,
            genesis_hash,
        };
        let peers = Members::new(
            identity.member.raft_id,
            chain,
            (*raft).clone(),
            (*network).clone(),
            NodeSigner::new(identity.key),
        );
        let exchange = Exchange::open(
            &exchange_dir(data_dir),
            ExchangeConfig {
                acknowledge_timeout: config.privacy.acknowledge_timeout,
                ..ExchangeConfig::default()
            },
            Arc::clone(&enclave),
            Arc::new(peers),
            ExchangeIdentity {
                chain_id,
                genesis_hash,
                node: NodeKey::from(*identity.member.node_id.as_bytes()),
                suite,
            },
            ledger.head().height() == 0,
        )
        .map_err(|e| storage(anyhow!("exchange of private payloads: {e}")))?;
        exchange.set_state_view(Arc::new(PrivateView {
            private: private.clone(),
            public: (*ledger).clone(),
        }));
        let ready = private.clone();
        exchange.set_on_stored(Arc::new(move |_| ready.retry_now()));
        let chain: Arc<dyn PublicChain> = Arc::new(PublicView((*ledger).clone()));
        let executor = PrivateExecutor::new(
            private.clone(),
            Arc::clone(&chain),
            Arc::new(exchange.clone()),
            ExecutorConfig::default(),
        );
        let status = private.status();
        tracing::info!(
            cursor = status.cursor,
            root = %status.state_root,
            complete = exchange.is_complete(),
            "private ledger opened"
        );
        Ok(Self {
            service: Arc::new(PrivacyService {
                exchange,
                ledger: private,
                chain,
                enclave,
                raft: (*raft).clone(),
                applied: ledger.watch_applied(),
                form: config.privacy.public_form,
                resyncing: AtomicBool::new(false),
                runtime: Handle::current(),
            }),
            executor,
        })
    }

    /// What the servers ask.
    pub fn service(&self) -> Arc<PrivacyService> {
        Arc::clone(&self.service)
    }

    /// What is needed of the public chain.
    pub fn needs(&self) -> impl PrivateNeeds + 'static {
        Needs(self.service.ledger.clone())
    }

    /// Starts everything. `keys` learns which keys the enclave has.
    pub fn start(
        self,
        tasks: &Tasks,
        lane: mpsc::Receiver<PrivacyRequest>,
        keys: watch::Sender<Vec<EnclaveKey>>,
        (raft, network): (&RaftHandle, &NetworkHandle),
        stop: &CancellationToken,
    ) {
        let Self { service, executor } = self;
        let ended = stop.clone();
        tasks.critical("private-execution", Exit::Storage, async move {
            executor.run(ended).await
        });
        let (exchange, ended) = (service.exchange.clone(), stop.clone());
        tasks.critical("exchange", Exit::Storage, async move {
            exchange.run(ended).await
        });
        let (exchange, ended) = (service.exchange.clone(), stop.clone());
        tasks.worker("privacy-lane", serve(exchange, lane, ended));
        let (exchange, ended) = (service.exchange.clone(), stop.clone());
        let retry = service.ledger.clone();
        tasks.worker("enclave-keys", async move {
            follow_keys(&exchange, &retry, &keys, &ended).await;
        });
        let (exchange, ended) = (service.exchange.clone(), stop.clone());
        tasks.worker(
            "reconnected",
            wake_deliveries(exchange, network.clone(), ended),
        );
        let (raft, ended) = (raft.clone(), stop.clone());
        tasks.worker("older-disk", async move {
            note_older_disk(&service.exchange, &raft, &ended).await;
        });
    }
}

/// Answers the other members, each question on its own: the exchange bounds how many it works on.
async fn serve(
    exchange: Exchange,
    mut lane: mpsc::Receiver<PrivacyRequest>,
    stop: CancellationToken,
) {
    while let Some(Some(request)) = stop.run_until_cancelled(lane.recv()).await {
        let exchange = exchange.clone();
        tokio::spawn(async move {
            let PrivacyRequest {
                from, body, reply, ..
            } = request;
            // The member may have gone meanwhile.
            drop(reply.send(exchange.answer(from, body).await));
        });
    }
}

/// What waits for a member goes out as soon as it is connected again.
async fn wake_deliveries(exchange: Exchange, network: NetworkHandle, stop: CancellationToken) {
    let mut connected = BTreeSet::new();
    while stop
        .run_until_cancelled(tokio::time::sleep(RECONNECTED_PACE))
        .await
        .is_some()
    {
        let now: BTreeSet<u64> = network.connected().into_iter().collect();
        for member in now.difference(&connected) {
            if let Err(error) = exchange.reconnected(*member).await {
                tracing::warn!(%error, member, "deliveries were not woken");
            }
        }
        connected = now;
    }
}

async fn follow_keys(
    exchange: &Exchange,
    ledger: &PrivateLedger,
    keys: &watch::Sender<Vec<EnclaveKey>>,
    stop: &CancellationToken,
) {
    let mut answered = true;
    loop {
        let pause = match exchange.keys().await {
            Ok(found) => {
                let found: Vec<EnclaveKey> = found.iter().map(table_key).collect();
                keys.send_if_modified(|known| {
                    let news = *known != found;
                    *known = found;
                    news
                });
                if !answered {
                    tracing::info!("the enclave answers again");
                    ledger.retry_now();
                }
                answered = true;
                KEYS_PACE
            }
            Err(error) => {
                if answered {
                    tracing::warn!(%error, "the enclave does not answer");
                }
                answered = false;
                KEYS_RETRY
            }
        };
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

fn table_key(announcement: &KeyAnnouncement) -> EnclaveKey {
    EnclaveKey {
        key: *announcement.key.as_bytes(),
        hybrid_digest: announcement.hybrid.as_ref().map(|key| key.digest().0),
    }
}

/// A disk that is older than this member's word may lack payloads, too: the exchange then asks all others for them.
async fn note_older_disk(exchange: &Exchange, raft: &RaftHandle, stop: &CancellationToken) {
    let mut status = raft.watch();
    loop {
        let older = status.wait_for(|status| status.behind_own_promises.is_some());
        match stop.run_until_cancelled(older).await {
            Some(Ok(_)) => {}
            // Ordering has ended, or the node stops.
            Some(Err(_)) | None => return,
        }
        tracing::warn!(
            "this disk is older than what this member acknowledged: private payloads may be missing"
        );
        match exchange.mark_incomplete().await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "could not note that payloads may be missing"),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(KEYS_RETRY))
            .await
            .is_none()
        {
            return;
        }
    }
}
