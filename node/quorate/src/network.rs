//! Joins the members' network to the rooms: every room speaks of bytes and ids, here they meet.

use std::sync::Arc;

use bytes::Bytes;
use quorate_chain::{Member, NodeId};
use quorate_engine::Ledger;
use quorate_p2p::{Events, MemberInfo, NetworkHandle, PrivacyRequest, QueryKind, Request};
use quorate_pool::PoolHandle;
use quorate_rpc::{LocalInfo, NetworkInfo, PeerInfo};
use raft_adapter::{RaftHandle, RaftId, Transport};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::membership::Lanes;
use crate::snapshots::SnapshotServer;
use crate::tasks::Tasks;

/// Blocks in one answer, whatever the peer asks for. The bytes are bounded by the network.
const SERVED_BLOCKS_MAX: u32 = 512;
/// Bytes of blocks in one answer; below the network's own limit, so that an answer is never refused.
const SERVED_BYTES_MAX: usize = 6 << 20;

/// A member as the network knows it. `address` is this node's own override, if its configuration has one.
pub fn member_info(member: &Member, address: Option<&String>) -> MemberInfo {
    MemberInfo {
        raft_id: member.raft_id,
        public_key: *member.node_id.as_bytes(),
        addresses: vec![address.unwrap_or(&member.address).clone()],
        organisation: member.organisation.clone(),
    }
}

/// Ordering's way out.
#[derive(Debug)]
pub struct RaftTransport(pub NetworkHandle);

impl Transport for RaftTransport {
    fn send(&mut self, to: RaftId, message: Bytes) -> bool {
        self.0.send_raft(to.0, message)
    }
}

/// Starts the tasks that carry inbound lanes to their rooms. Gives back the lanes that the membership serves, and the lane of
/// private payloads.
pub fn spawn_lanes(
    tasks: &Tasks,
    events: Events,
    raft: RaftHandle,
    pool: PoolHandle,
    ledger: Ledger,
    snapshots: SnapshotServer,
    stop: CancellationToken,
) -> (Lanes, mpsc::Receiver<PrivacyRequest>) {
    let Events {
        raft: mut raft_lane,
        transactions: mut transaction_lane,
        requests: mut request_lane,
        control,
        privacy,
        verdicts,
        peers,
    } = events;
    tasks.worker("raft-lane", {
        let stop = stop.clone();
        async move {
            while let Some(Some(message)) = stop.run_until_cancelled(raft_lane.recv()).await {
                raft.receive(RaftId(message.from), message.bytes);
            }
        }
    });
    tasks.worker("intake", {
        let stop = stop.clone();
        async move {
            while let Some(Some(batch)) = stop.run_until_cancelled(transaction_lane.recv()).await {
                let pool = pool.clone();
                let from = batch.from;
                // Signatures cost CPU: not on the threads that serve sockets.
                let admitted = tokio::task::spawn_blocking(move || {
                    let results = pool.admit_all(&batch.transactions, false);
                    (results, batch)
                });
                let Ok((results, batch)) = admitted.await else { continue };
                if let Some(acknowledge) = batch.direct {
                    // If the peer has gone it will ask again.
                    acknowledge.accept();
                }
                let blamed = results.iter().filter_map(|r| r.as_ref().err()).filter(|e| e.blames_peer());
                let blamed = blamed.count();
                if blamed > 0 {
                    metrics::counter!("quorate_p2p_bad_transactions_total", "peer" => from.to_string())
                        .increment(blamed as u64);
                    tracing::debug!(peer = from, count = blamed, "peer sent transactions that no honest member sends");
                }
            }
        }
    });
    tasks.worker("serve-bulk", async move {
        while let Some(Some(request)) = stop.run_until_cancelled(request_lane.recv()).await {
            match request {
                Request::Blocks {
                    first_height,
                    count_max,
                    reply,
                    ..
                } => {
                    let ledger = ledger.clone();
                    let blocks = tokio::task::spawn_blocking(move || {
                        serve_blocks(&ledger, first_height, count_max)
                    })
                    .await;
                    // The peer may have gone meanwhile.
                    drop(reply.send(blocks.unwrap_or_default()));
                }
                Request::Query {
                    kind: QueryKind::Snapshot,
                    body,
                    reply,
                    ..
                } => {
                    let snapshots = snapshots.clone();
                    let answer = tokio::task::spawn_blocking(move || snapshots.answer(&body)).await;
                    // Without an answer the question counts as declined.
                    if let Ok(Some(answer)) = answer {
                        drop(reply.send(answer));
                    }
                }
                Request::Query { .. } | Request::Admission { .. } => {
                    tracing::warn!("a question for control came in the lane for bulk");
                }
            }
        }
    });
    let lanes = Lanes {
        control,
        verdicts,
        peers,
    };
    (lanes, privacy)
}

fn serve_blocks(ledger: &Ledger, first: u64, count: u32) -> Vec<Bytes> {
    if count > SERVED_BLOCKS_MAX {
        metrics::counter!("quorate_p2p_ranges_cut_total").increment(1);
    }
    let mut blocks = Vec::new();
    let mut bytes = 0;
    let first = first.max(1);
    // A peer may name any height: the highest must not overflow.
    for height in first..first.saturating_add(u64::from(count.min(SERVED_BLOCKS_MAX))) {
        let Ok(Some(block)) = ledger.block(height) else {
            break;
        };
        let encoded = block.block.encode().0;
        bytes += encoded.len();
        if bytes > SERVED_BYTES_MAX && !blocks.is_empty() {
            break;
        }
        blocks.push(encoded);
    }
    blocks
}

/// Fetches blocks from connected peers, another one after each failure.
#[derive(Debug, Clone)]
pub struct PeerBlocks {
    /// The members' network.
    pub network: NetworkHandle,
    /// Where its requests run: the importer has a thread of its own.
    pub runtime: Handle,
}

impl PeerBlocks {
    /// Encoded blocks from `first` on, or none; `attempt` chooses the peer.
    pub fn fetch(&self, first: u64, count: u32, attempt: u32) -> Vec<Bytes> {
        let peers = self.network.connected();
        let Some(peer) = (attempt as usize)
            .checked_rem(peers.len())
            .and_then(|i| peers.get(i).copied())
        else {
            return Vec::new();
        };
        match self
            .runtime
            .block_on(self.network.fetch_blocks(peer, first, count))
        {
            Ok(blocks) => blocks,
            Err(e) => {
                tracing::warn!(peer, first, error = %e, "blocks could not be fetched");
                Vec::new()
            }
        }
    }
}

impl PeerBlocks {
    /// The encoded block at `height` from each connected member that gives one.
    pub fn ask_each(&self, height: u64) -> Vec<Bytes> {
        let members = self.network.connected().len();
        (0..u32::try_from(members).unwrap_or(u32::MAX))
            .filter_map(|attempt| self.fetch(height, 1, attempt).into_iter().next())
            .collect()
    }
}

/// The network as the RPC room shows it.
#[derive(Debug)]
pub struct NetworkView(pub NetworkHandle);

impl NetworkInfo for NetworkView {
    fn peers(&self) -> Vec<PeerInfo> {
        let peers = self.0.peers().into_iter();
        peers
            .map(|peer| PeerInfo {
                raft_id: peer.raft_id,
                node_id: NodeId::from_bytes(peer.public_key)
                    .map(|id| id.to_string())
                    .unwrap_or_default(),
                peer_id: peer.peer_id,
                address: peer.address,
                connected: peer.connected,
                inbound: peer.inbound,
                round_trip: peer.rtt,
                agent: peer.agent_version.unwrap_or_default(),
            })
            .collect()
    }

    fn local(&self) -> LocalInfo {
        LocalInfo {
            peer_id: self.0.local_peer_id(),
            listen_addresses: self.0.listen_addresses(),
        }
    }

    fn add_peer(&self, url: &str) -> Result<(), String> {
        add_peer(&self.0, url)
    }
}

/// Accepts `enode://<128 hex digits>@host:port[?…]` and `<node id, 66 hex digits>@host:port`.
fn add_peer(network: &NetworkHandle, url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("enode://").unwrap_or(url);
    let (key, address) = rest.split_once('@').ok_or_else(|| {
        format!("peer url {url:?} must be enode://<public key>@host:port or <node id>@host:port")
    })?;
    let address = address.split('?').next().unwrap_or(address);
    let digits = key.strip_prefix("0x").unwrap_or(key);
    let bytes = hex::decode(digits).map_err(|_| "the public key must be hexadecimal".to_owned())?;
    let key = match bytes.len() {
        33 => secp256k1::PublicKey::from_slice(&bytes),
        64 => {
            let mut uncompressed = vec![4u8];
            uncompressed.extend_from_slice(&bytes);
            secp256k1::PublicKey::from_slice(&uncompressed)
        }
        other => {
            return Err(format!(
                "the public key must have 33 or 64 bytes, not {other}"
            ));
        }
    };
    let key = key
        .map_err(|_| "the public key is no point of secp256k1".to_owned())?
        .serialize();
    let member = network.peers().into_iter().find(|p| p.public_key == key);
    let member = member.ok_or_else(|| "no member of the consortium has this key; members are added by the membership, not by admin_addPeer".to_owned())?;
    network
        .add_address(member.raft_id, address.to_owned())
        .map_err(|e| e.to_string())
}

/// A shared view for the RPC room.
pub fn view(network: &NetworkHandle) -> Arc<dyn NetworkInfo> {
    Arc::new(NetworkView(network.clone()))
}
