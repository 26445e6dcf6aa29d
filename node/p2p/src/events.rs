//! What the network tells the application.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::lane::Place;

/// The receiving ends. Lanes with limits of their own, so that bulk delays neither heartbeats nor membership.
#[derive(Debug)]
pub struct Events {
    /// Raft messages. When full, the members that send wait.
    pub raft: mpsc::Receiver<RaftMessage>,
    /// Transactions, gossiped or forwarded. When full, gossip is dropped and counted; forwarders wait.
    pub transactions: mpsc::Receiver<TransactionBatch>,
    /// Bulk that other members ask for: `Request::Blocks` and snapshot queries. When full, they wait.
    pub requests: mpsc::Receiver<Request>,
    /// Membership queries and admissions. When full, they wait.
    pub control: mpsc::Receiver<Request>,
    /// What other members ask or deliver about private payloads. When full, they wait.
    pub privacy: mpsc::Receiver<PrivacyRequest>,
    /// What members say about us. When full, the newest is dropped and counted; it is said again at the next attempt to
    /// connect.
    pub verdicts: mpsc::Receiver<Verdict>,
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
    /// Something opaque to the network.
    Query {
        /// Raft id of the member that asks.
        from: u64,
        /// What about.
        kind: QueryKind,
        /// Opaque.
        body: Bytes,
        /// Takes the answer, at most [`QueryKind::answer_bytes_max`] bytes: a larger one becomes a refusal. Dropped, it
        /// tells the member that the query was declined.
        reply: oneshot::Sender<Bytes>,
    },
    /// A node, member or not, asks whether it is admitted. Its key is proved, everything else is its own word.
    Admission {
        /// Its compressed secp256k1 key.
        public_key: [u8; 33],
        /// Where it says it will be reached: at most 8 texts of at most 512 bytes, not checked further.
        addresses: Vec<String>,
        /// Takes the answer. Dropped, the applicant is told that we are busy.
        reply: oneshot::Sender<AdmissionAnswer>,
    },
}

/// A request of another member about private payloads, opaque to the network. `/quorate/privacy/1`.
#[derive(Debug)]
pub struct PrivacyRequest {
    /// Raft id of the member that asks, from its key.
    pub from: u64,
    /// Opaque, at most `Limits::privacy_bytes_max`.
    pub body: Bytes,
    /// Takes the answer, at most `Limits::privacy_bytes_max`: a larger one becomes a refusal. Dropped, it tells the member that
    /// the request was declined.
    pub reply: oneshot::Sender<Bytes>,
    /// Room in the lane and in the member's share of it, given back when the request is dropped.
    _places: Option<[Place; 2]>,
}

impl PrivacyRequest {
    /// A request that takes no room in any lane, for tests of receivers, and the end that learns of the answer.
    pub fn new(from: u64, body: Bytes) -> (Self, oneshot::Receiver<Bytes>) {
        Self::placed(from, body, None)
    }

    pub(crate) fn placed(
        from: u64,
        body: Bytes,
        places: Option<[Place; 2]>,
    ) -> (Self, oneshot::Receiver<Bytes>) {
        let (reply, answered) = oneshot::channel();
        let request = Self {
            from,
            body,
            reply,
            _places: places,
        };
        (request, answered)
    }
}

/// What a [`Request::Query`] is about. Each kind has a stream protocol, turns and limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueryKind {
    /// Membership operations: small, must not wait behind bulk. `/quorate/membership/1`.
    Membership,
    /// Pieces of state snapshots: bulk. `/quorate/snapshot/1`.
    Snapshot,
}

impl QueryKind {
    /// Most bytes of a query: 256 KiB.
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Self::Membership | Self::Snapshot => 256 << 10,
        }
    }

    /// Most bytes of an answer: 256 KiB about membership; 4 MiB and 64 KiB around them of a snapshot.
    pub const fn answer_bytes_max(self) -> usize {
        match self {
            Self::Membership => 256 << 10,
            Self::Snapshot => (4 << 20) + (64 << 10),
        }
    }
}

/// What an applicant hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmissionAnswer {
    /// It is no member; an operator may make it one. Ask again later.
    NotYet,
    /// It was a member, and is one no more.
    Removed,
    /// It is a member.
    Admitted {
        /// What it needs to start, opaque to the network, at most [`ADMISSION_BYTES_MAX`].
        body: Bytes,
    },
}

/// Most bytes that come with an admission.
pub const ADMISSION_BYTES_MAX: usize = 32 << 20;

/// What another member said about us, over a connection on which it proved its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// We are no member any more.
    Removed {
        /// The member that says so.
        by: u64,
    },
    /// We come with another Raft log than the one we were known with: our disk was lost or exchanged.
    OtherLog {
        /// The member that says so.
        by: u64,
    },
}

/// A member came or went, or something became known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The identity of its Raft log, which `Config::known_logs` did not have: remember it there. Said once as long as it
    /// is a member and this node runs.
    LogSeen {
        /// The member.
        raft_id: u64,
        /// Never zeros.
        log_id: [u8; 16],
    },
    /// It announced an address that we did not know: remember it for `NetworkHandle::add_address`.
    AddressLearned {
        /// The member.
        raft_id: u64,
        /// A multiaddr.
        address: String,
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
