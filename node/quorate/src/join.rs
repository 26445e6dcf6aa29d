//! Becoming a member of a running consortium: ask a member for admission until an operator has granted it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use quorate_chain::{Genesis, NodeId, Sealer};
use quorate_p2p::{Admission, AdmissionAnswer, AdmissionError, AdmissionRequest, ask_admission};

use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};
use crate::seat::{Admitted, Removal, Seat, replace};

/// The first pause between two questions; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// One question may take so long.
const QUESTION_MAX: Duration = Duration::from_secs(10);

/// How a node comes to its place.
#[derive(Debug, Clone, Default)]
pub struct JoinOptions {
    /// A member to be asked: `host:port` or a multiaddress.
    pub member: Option<String>,
    /// Ask to become a voter as soon as this node has caught up.
    pub promote_when_caught_up: bool,
}

/// Prepares the data folder of a node that joins: a key, and once a member has admitted it, seat and genesis. Does
/// nothing if that has been done before.
///
/// # Errors
/// With the exit code for the supervisor. A member that does not answer is no error: it is asked again.
pub async fn prepare(config: &NodeConfig, member: &str) -> Result<(), Ended> {
    let data_dir = &config.node.data_dir;
    let configuration = || Ended::with(Exit::Configuration);
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("data folder {}", data_dir.display()))
        .map_err(Ended::with(Exit::DataFolder))?;
    let key_file = &config.node.key_file;
    if !key_file.exists() {
        crate::keys::write_node_key(key_file, &crate::keys::new_key()).map_err(configuration())?;
        tracing::info!(file = %key_file.display(), "made a node key");
    }
    let key = crate::keys::read_node_key(key_file).map_err(configuration())?;
    let node_id = Sealer::new(key).node_id();
    let seat = Seat::load(data_dir)
        .map_err(configuration())?
        .filter(|seat| seat.node_id == node_id);
    let genesis_path = crate::node::genesis_path(config);
    let known = match std::fs::read_to_string(&genesis_path) {
        Ok(text) => {
            let genesis = Genesis::parse(&text)
                .with_context(|| format!("genesis file {}", genesis_path.display()))
                .map_err(configuration())?;
            Some((
                genesis.spec().chain_id(),
                crate::stores::genesis_block(&genesis).hash().0,
            ))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => {
            return Err(Ended {
                exit: Exit::Configuration,
                error: anyhow!("genesis file {}: {e}", genesis_path.display()),
            });
        }
    };
    let addresses = own_addresses(config);
    let request = || AdmissionRequest {
        secret_key: key.secret_bytes(),
        member: member.to_owned(),
        addresses: addresses.clone(),
        chain: known,
        timeout: QUESTION_MAX,
    };
    if let Some(seat) = seat
        && known.is_some()
    {
        tracing::info!(raft_id = seat.raft_id, "this node has been admitted before");
        // The members may all be others by now: whoever answers knows the newer ones.
        if let Ok(Admission {
            answer: AdmissionAnswer::Admitted { body },
            ..
        }) = ask_admission(request()).await
            && let Ok(newer) = serde_json::from_slice::<Admitted>(&body)
            && newer.seat.raft_id == seat.raft_id
            && newer.seat.table_index > seat.table_index
        {
            let newer = Seat {
                promoted: seat.promoted,
                ..newer.seat
            };
            newer
                .save(data_dir)
                .map_err(Ended::with(Exit::DataFolder))?;
        }
        return Ok(());
    }
    let admitted = wait_until_admitted(request, &node_id, addresses.first()).await?;
    keep(data_dir, &genesis_path, &node_id, &admitted, known).map_err(Ended::with(Exit::DataFolder))
}

/// Where the others reach this node, as far as its configuration tells.
pub fn own_addresses(config: &NodeConfig) -> Vec<String> {
    if !config.p2p.announce.is_empty() {
        return config.p2p.announce.clone();
    }
    let listen = config.p2p.listen;
    if listen.ip().is_unspecified() || listen.port() == 0 {
        return Vec::new();
    }
    vec![listen.to_string()]
}

async fn wait_until_admitted(
    request: impl Fn() -> AdmissionRequest,
    node_id: &NodeId,
    address: Option<&String>,
) -> Result<Admitted, Ended> {
    let address = address.map_or("HOST:PORT", String::as_str);
    let mut pause = PAUSE_MIN;
    let mut told = String::new();
    loop {
        let said = match ask_admission(request()).await {
            Ok(Admission {
                by,
                answer: AdmissionAnswer::Admitted { body },
            }) => {
                let admitted: Admitted = serde_json::from_slice(&body)
                    .with_context(|| format!("admission by {by}"))
                    .map_err(Ended::with(Exit::Network))?;
                tracing::info!(by, raft_id = admitted.seat.raft_id, "admitted");
                return Ok(admitted);
            }
            Ok(Admission {
                answer: AdmissionAnswer::Removed,
                ..
            }) => {
                return Err(Ended {
                    exit: Exit::Removed,
                    error: anyhow!("this node's key was removed from the consortium"),
                });
            }
            Ok(Admission {
                answer: AdmissionAnswer::NotYet,
                ..
            }) => {
                // What a person has to do next, not only the state.
                format!(
                    "waiting to be admitted; on a member: quorate member add {node_id} {address}"
                )
            }
            Err(
                e @ (AdmissionError::Key(_)
                | AdmissionError::Address(_)
                | AdmissionError::WrongPeer { .. }
                | AdmissionError::OtherChain { .. }
                | AdmissionError::Protocol { .. }),
            ) => {
                return Err(Ended {
                    exit: Exit::Configuration,
                    error: e.into(),
                });
            }
            Err(e) => format!("no answer yet: {e}"),
        };
        if said != told {
            tracing::info!("{said}");
            told = said;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Genesis first: a seat without it would not be asked for again.
fn keep(
    data_dir: &Path,
    genesis_path: &Path,
    node_id: &NodeId,
    admitted: &Admitted,
    known: Option<(u64, [u8; 32])>,
) -> anyhow::Result<()> {
    let genesis = Genesis::parse(&admitted.genesis).context("the genesis that the member gave")?;
    let hash = crate::stores::genesis_block(&genesis).hash().0;
    if known.is_some_and(|known| known != (genesis.spec().chain_id(), hash)) {
        return Err(anyhow!(
            "the member is of another chain: its genesis block is 0x{}",
            hex::encode(hash)
        ));
    }
    let seat = &admitted.seat;
    let ours = seat.members.iter().find(|m| m.raft_id == seat.raft_id);
    if seat.node_id != *node_id || ours.is_none_or(|m| m.node_id != *node_id) {
        return Err(anyhow!("the member gave a seat that is not this node's"));
    }
    if Removal::load(data_dir)?.is_some_and(|removal| removal.raft_id == seat.raft_id) {
        return Err(anyhow!(
            "raft id {} was removed; a new member begins in a new data folder",
            seat.raft_id
        ));
    }
    if known.is_none() {
        replace(genesis_path, admitted.genesis.as_bytes())
            .with_context(|| format!("genesis file {}", genesis_path.display()))?;
    }
    fail_point!("node.seat.keep");
    seat.save(data_dir)
}
