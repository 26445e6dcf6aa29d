//! What the network tells the application.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::lane::Place;

/// The receiving ends. Three lanes with limits of their own, so that bulk does not delay heartbeats.
#[derive(Debug)]
pub struct Events {
    /// Raft messages. When full, the members that send wait.
    pub raft: mpsc::Receiver<RaftMessage>,
    /// Transactions, gossiped or forwarded. When full, gossip is dropped and counted; forwarders wait.
    pub transactions: mpsc::Receiver<TransactionBatch>,
    /// Questions of other members. When full, they wait.
    pub requests: mpsc::Receiver<Request>,
    /// Connections that came and went: hints; the truth is `NetworkHandle::peers`. When full, the newest is dropped.
    pub peers: mpsc::Receiver<PeerEvent>,
}

/// A Raft message as another member sent it.
#[derive(Debug)]
pub struct RaftMessage {
    /// Raft id of the sender, from its key.
    pub from: u64,
    /// Opaque to the network.
    pub bytes: Bytes,
    /// Room in the lane, given back when the message is dropped.
    _place: Option<Place>,
}

impl RaftMessage {
    /// A message that takes no room in any lane, for tests of receivers.
    pub fn new(from: u64, bytes: Bytes) -> Self {
        Self {
            from,
            bytes,
            _place: None,
        }
    }

    pub(crate) fn placed(from: u64, bytes: Bytes, place: Place) -> Self {
        Self {
            from,
            bytes,
            _place: Some(place),
        }
    }
}

/// Transactions that another member sent together.
#[derive(Debug)]
pub struct TransactionBatch {
    /// Raft id of the member that delivered them: the one that gossiped, forwarded, or relayed.
    pub from: u64,
    /// Encoded transactions. They share one allocation: copy what is kept for long.
    pub transactions: Vec<Bytes>,
    /// Set if the sender waits for an answer; see [`Acknowledgement`].
    pub direct: Option<Acknowledgement>,
    /// Room in the lane, given back when the batch is dropped.
    _place: Option<Place>,
}

impl TransactionBatch {
    /// A batch that takes no room in any lane, for tests of receivers.
    pub fn new(from: u64, transactions: Vec<Bytes>, direct: Option<Acknowledgement>) -> Self {
        Self {
            from,
            transactions,
            direct,
            _place: None,
        }
    }

    pub(crate) fn placed(
        from: u64,
        transactions: Vec<Bytes>,
        direct: Option<Acknowledgement>,
        place: Place,
    ) -> Self {
        Self {
            from,
            transactions,
            direct,
            _place: Some(place),
        }
    }
}

/// Answers a forwarded batch. Dropped without a call, it tells the sender that the batch was declined.
#[derive(Debug)]
pub struct Acknowledgement(oneshot::Sender<()>);

impl Acknowledgement {
    /// An acknowledgement and the end that learns of it.
    pub fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Says that the batch was taken. False if the sender is no longer waiting.
    pub fn accept(self) -> bool {
        self.0.send(()).is_ok()
    }
}

/// A question of another member.
#[derive(Debug)]
pub enum Request {
    /// Blocks from a height on.
    Blocks {
        /// Raft id of the member that asks.
        from: u64,
        /// Height of the first block wanted.
        first_height: u64,
        /// Most blocks wanted.
        count_max: u32,
        /// Takes the encoded blocks in order, as many as there are: what passes `count_max` or
        /// `Limits::fetch_bytes_max` is cut off. Dropped, it tells the member that the request was declined.
        reply: oneshot::Sender<Vec<Bytes>>,
    },
}

/// A member came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// Its first connection was established; `send_raft` works from now on.
    Connected {
        /// The member.
        raft_id: u64,
    },
    /// Its last connection closed, or it was removed.
    Disconnected {
        /// The member.
        raft_id: u64,
    },
}

/// How it stands with one other member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Raft id.
    pub raft_id: u64,
    /// libp2p peer id.
    pub peer_id: String,
    /// Compressed secp256k1 key.
    pub public_key: [u8; 33],
    /// Who runs it.
    pub organisation: String,
    /// The other end of the connection, or the first known address, as a multiaddr. Empty if none is known.
    pub address: String,
    /// True if it dialled us; meaningful only while connected.
    pub inbound: bool,
    /// True if there is a connection.
    pub connected: bool,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    /// Name and version the member gives itself.
    pub agent_version: Option<String>,
    /// When the present connection began.
    pub connected_since: Option<SystemTime>,
}
