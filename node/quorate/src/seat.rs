//! Which member this node is, and what it remembers about that between two runs: small files in the data folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use quorate_chain::{Genesis, Member, NodeId, Sealer};
use secp256k1::SecretKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};

/// Written when a member admitted this node.
const SEAT: &str = "seat.json";
/// Written when this node learnt that it was removed.
const REMOVED: &str = "removed.json";
/// The identity of the ordering log, in the log's own folder: it is lost with it.
const LOG_ID: &str = "raft/log-id";
/// The identities of the other members' logs.
const KNOWN_LOGS: &str = "known-logs.json";

/// Who this node is.
pub struct Identity {
    /// Its secret key.
    pub key: SecretKey,
    /// Its seat as it was when it was given.
    pub member: Member,
    /// Its place, if it was admitted after genesis.
    pub seat: Option<Seat>,
    /// Of its ordering log.
    pub log_id: [u8; 16],
}

impl Identity {
    /// From key file, data folder and genesis.
    ///
    /// # Errors
    /// If it is no member, was removed, or a file cannot be read; with the exit code for the supervisor.
    pub fn load(config: &NodeConfig, genesis: &Genesis) -> Result<Self, Ended> {
        let (path, data_dir) = (&config.node.key_file, &config.node.data_dir);
        let key = crate::keys::read_node_key(path).map_err(Ended::with(Exit::Configuration))?;
        let node_id = Sealer::new(key).node_id();
        let seat = Seat::load(data_dir)
            .map_err(Ended::with(Exit::DataFolder))?
            .filter(|seat| seat.node_id == node_id);
        let members = match &seat {
            Some(seat) => &seat.members,
            None => genesis.members(),
        };
        let member = members.iter().find(|m| match &seat {
            Some(seat) => m.raft_id == seat.raft_id,
            None => m.node_id == node_id,
        });
        let member = member.cloned().ok_or_else(|| Ended {
            exit: Exit::Configuration,
            error: anyhow!(
                "node.key_file {}: node id {node_id} is not among the members of genesis (a new node joins a running consortium with \
                 quorate node --join MEMBER_ADDRESS)",
                path.display()
            ),
        })?;
        if let Some(removal) = Removal::load(data_dir).map_err(Ended::with(Exit::DataFolder))?
            && removal.raft_id == member.raft_id
        {
            return Err(removal.ended());
        }
        Ok(Self {
            key,
            member,
            seat,
            log_id: crate::seat::log_id(data_dir).map_err(Ended::with(Exit::DataFolder))?,
        })
    }
}

/// A place in the consortium that was given to this node after genesis, and the members at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seat {
    /// This node's raft id.
    pub raft_id: u64,
    /// Its key.
    pub node_id: NodeId,
    /// Log index of the member table.
    pub table_index: u64,
    /// The members, this node included.
    pub members: Vec<Member>,
    /// Raft ids of former members.
    pub removed: Vec<u64>,
    /// This node has asked to become a voter, and became one.
    #[serde(default)]
    pub promoted: bool,
}

/// What a member answers an applicant that has been admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admitted {
    /// The applicant's place.
    pub seat: Seat,
    /// The text of the genesis file.
    pub genesis: String,
}

impl Seat {
    /// The seat in this data folder, if one was given to this node after genesis.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        read(&data_dir.join(SEAT))
    }

    /// Keeps the seat.
    ///
    /// # Errors
    /// If the file cannot be written durably.
    pub fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        write(&data_dir.join(SEAT), self)
    }
}

/// That this node was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// The raft id that it had.
    pub raft_id: u64,
    /// How it learnt of it.
    pub learnt: String,
}

impl Removal {
    /// What the node's own ordering log says.
    pub fn by_own_log(raft_id: u64) -> Self {
        Self {
            raft_id,
            learnt: "its own log says so".into(),
        }
    }

    /// What ends a start of a node that was removed.
    pub fn ended(&self) -> Ended {
        Ended {
            exit: Exit::Removed,
            error: anyhow!(
                "member {} was removed from the consortium ({}); a new member begins in a new data folder",
                self.raft_id,
                self.learnt
            ),
        }
    }

    /// What an earlier run learnt.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        read(&data_dir.join(REMOVED))
    }

    /// Keeps it for every later start.
    ///
    /// # Errors
    /// If the file cannot be written durably.
    pub fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        write(&data_dir.join(REMOVED), self)
    }
}

/// The identity of this node's ordering log; made when the log is.
///
/// # Errors
/// If the file cannot be read or written.
pub fn log_id(data_dir: &Path) -> anyhow::Result<[u8; 16]> {
    let path = data_dir.join(LOG_ID);
    if let Some(text) = read::<String>(&path)? {
        let mut id = [0; 16];
        hex::decode_to_slice(&text, &mut id)
            .map_err(|_| anyhow!("{}: 32 hexadecimal digits are expected", path.display()))?;
        return Ok(id);
    }
    let id: [u8; 16] = rand::random();
    let folder = data_dir.join("raft");
    fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    write(&path, &hex::encode(id))?;
    Ok(id)
}

/// The logs of the other members as they were last seen. Lost or damaged it is begun anew: it only helps.
pub fn known_logs(data_dir: &Path) -> BTreeMap<u64, [u8; 16]> {
    let kept: BTreeMap<u64, String> = match read(&data_dir.join(KNOWN_LOGS)) {
        Ok(kept) => kept.unwrap_or_default(),
        Err(e) => {
            tracing::warn!(error = %e, "what is known of the other members' logs cannot be read");
            return BTreeMap::new();
        }
    };
    let decoded = kept.into_iter().filter_map(|(raft_id, text)| {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some((raft_id, id))
    });
    decoded.collect()
}

/// Keeps what is known of the other members' logs.
///
/// # Errors
/// If the file cannot be written durably.
pub fn keep_known_logs(data_dir: &Path, logs: &BTreeMap<u64, [u8; 16]>) -> anyhow::Result<()> {
    let text: BTreeMap<u64, String> = logs
        .iter()
        .map(|(id, log)| (*id, hex::encode(log)))
        .collect();
    write(&data_dir.join(KNOWN_LOGS), &text)
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("file {}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("file {}", path.display())),
    }
}

/// Replaces a file as a whole or not at all.
fn write<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    replace(path, &text).with_context(|| format!("file {}", path.display()))
}

/// Writes a file beside the old one, syncs it and puts it in its place.
///
/// # Errors
/// If any step fails; the old file is there then.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fail_point!("node.file.replace");
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
