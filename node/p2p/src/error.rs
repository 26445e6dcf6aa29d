//! What can go wrong, by whose doing.

use std::{io, net::SocketAddr, time::Duration};

/// A member's address cannot be used for dialling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a multiaddr nor `host:port`.
    #[error(
        "address {address:?} is neither host:port nor a multiaddr such as /ip4/10.0.0.1/tcp/30303"
    )]
    Malformed {
        /// The text as given.
        address: String,
    },
    /// A multiaddr that is not IP or DNS name plus TCP port.
    #[error(
        "address {address:?} is not supported: use /ip4, /ip6, /dns, /dns4 or /dns6 followed by /tcp and optionally /p2p"
    )]
    Unsupported {
        /// The text as given.
        address: String,
    },
    /// Port 0 cannot be dialled.
    #[error("address {address:?} has port 0, allowed are 1 to 65535")]
    PortZero {
        /// The text as given.
        address: String,
    },
    /// The address carries the peer id of somebody else.
    #[error("address {address:?} names peer {got}, but the member's key makes it {expected}")]
    OtherPeer {
        /// The text as given.
        address: String,
        /// Peer id in the address.
        got: String,
        /// Peer id made from the member's key.
        expected: String,
    },
    /// No member has this raft id.
    #[error("raft id {raft_id} is not a member other than this node")]
    UnknownMember {
        /// The id that was asked for.
        raft_id: u64,
    },
    /// Too few or too many addresses at once.
    #[error("addresses: {got} given, allowed are {min} to {max}")]
    Count {
        /// How many were given.
        got: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
}

/// A key is not a secp256k1 key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a scalar in range.
    #[error("secret_key is not a secp256k1 secret: 32 bytes, not zero, below the group order")]
    Secret,
    /// Not a point of the curve in compressed form.
    #[error("public_key {public_key} is not a compressed secp256k1 point")]
    Public {
        /// The 33 bytes in hex.
        public_key: String,
    },
}

/// The configuration or a member table contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// This node's own key.
    #[error(transparent)]
    OwnKey(KeyError),
    /// A member's key.
    #[error("member {raft_id}: {source}")]
    MemberKey {
        /// Whose key.
        raft_id: u64,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A member's address.
    #[error("member {raft_id}: {source}")]
    MemberAddress {
        /// Whose address.
        raft_id: u64,
        /// What is wrong with it.
        source: AddressError,
    },
    /// Raft ids start at 1.
    #[error("members: raft id 0 is not allowed")]
    RaftIdZero,
    /// Two members with one id.
    #[error("members: raft id {raft_id} appears twice")]
    RaftIdTwice {
        /// The id.
        raft_id: u64,
    },
    /// Two members with one key.
    #[error("members: {first} and {second} have the same public key")]
    KeyTwice {
        /// Raft id of one.
        first: u64,
        /// Raft id of the other.
        second: u64,
    },
    /// This node is not in its own table.
    #[error("members: raft_id {raft_id} of this node is not among them")]
    SelfMissing {
        /// This node's id.
        raft_id: u64,
    },
    /// The table's key for this node is not the key this node holds.
    #[error(
        "members: the public key of member {raft_id} does not belong to this node's secret_key"
    )]
    SelfKey {
        /// This node's id.
        raft_id: u64,
    },
    /// One of the addresses we announce.
    #[error("announce: {0}")]
    Announce(AddressError),
    /// A raft id is both a member's and among those that were removed.
    #[error("removed: raft id {raft_id} is also among the members")]
    RemovedMember {
        /// The id.
        raft_id: u64,
    },
    /// More members than connections are allowed for.
    #[error("members: {got} given, at most {max} allowed")]
    TooManyMembers {
        /// How many were given.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// A limit or time out of its range.
    #[error("{field} is {got}, allowed is {min} to {max}")]
    OutOfRange {
        /// Field name with its section.
        field: &'static str,
        /// The value (milliseconds for times).
        got: u64,
        /// Lowest allowed value.
        min: u64,
        /// Highest allowed value.
        max: u64,
    },
}

/// Why [`crate::start`] did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Wrong configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Called outside a tokio runtime.
    #[error("the network must be started inside a tokio runtime")]
    NoRuntime,
    /// The listen address cannot be bound.
    #[error("listen: cannot bind {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The transport could not be built.
    #[error("transport: {0}")]
    Transport(String),
}

/// The network task cannot go on. Half a node is worse than none: stop it.
#[must_use]
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The listening socket is gone.
    #[error("the listener closed: {reason}")]
    ListenerClosed {
        /// What the system said.
        reason: String,
    },
    /// One of the tasks inside panicked.
    #[error("a network task panicked: {0}")]
    TaskPanicked(String),
}

/// Why a request to one member was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such member, or this node itself.
    #[error("raft id {raft_id} is not a member other than this node")]
    UnknownMember {
        /// The id that was asked for.
        raft_id: u64,
    },
    /// No connection now.
    #[error("member {raft_id} is not connected")]
    NotConnected {
        /// The member.
        raft_id: u64,
    },
    /// The member serves as many of our requests as it allows, or has no room.
    #[error("member {raft_id} is busy")]
    Busy {
        /// The member.
        raft_id: u64,
    },
    /// The member took the request and its application declined it.
    #[error("member {raft_id} declined the request")]
    Declined {
        /// The member.
        raft_id: u64,
    },
    /// No answer in time.
    #[error("member {raft_id} did not answer within {limit:?}")]
    Timeout {
        /// The member.
        raft_id: u64,
        /// How long we waited.
        limit: Duration,
    },
    /// The request is larger than allowed; nothing was sent.
    #[error("request of {got} bytes, at most {max} allowed")]
    TooLarge {
        /// Size of the request.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// The member does not serve this protocol: its version does not know it, or it has it switched off.
    #[error(
        "member {raft_id} does not serve {protocol}: it is of an older version, or has it switched off"
    )]
    Unsupported {
        /// The member.
        raft_id: u64,
        /// Name of the protocol.
        protocol: &'static str,
    },
    /// The stream broke.
    #[error("stream to member {raft_id} broke: {reason}")]
    Broken {
        /// The member.
        raft_id: u64,
        /// What happened.
        reason: String,
    },
    /// The answer does not follow the protocol.
    #[error("member {raft_id} answered against the protocol: {reason}")]
    Malformed {
        /// The member.
        raft_id: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Our network task has ended.
    #[error("the network has stopped")]
    Stopped,
}

impl RequestError {
    /// True if the same request may succeed later or at another member.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotConnected { .. }
            | Self::Busy { .. }
            | Self::Declined { .. }
            | Self::Timeout { .. }
            // After an upgrade of the member.
            | Self::Unsupported { .. }
            | Self::Broken { .. }
            | Self::Malformed { .. } => true,
            Self::UnknownMember { .. } | Self::TooLarge { .. } | Self::Stopped => false,
        }
    }

    /// True if an honest member could not have caused this.
    pub fn blames_peer(&self) -> bool {
        match self {
            Self::Malformed { .. } => true,
            Self::UnknownMember { .. }
            | Self::NotConnected { .. }
            | Self::Busy { .. }
            | Self::Declined { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Unsupported { .. }
            | Self::Broken { .. }
            | Self::Stopped => false,
        }
    }
}

/// Why [`crate::ask_admission`] has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// Our own key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The member's address, or one of ours.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody could be reached at the member's address.
    #[error("cannot reach {member}: {reason}")]
    Unreachable {
        /// The address as given.
        member: String,
        /// What happened.
        reason: String,
    },
    /// Another node answers there than the address names.
    #[error("{member} is answered by peer {got}, expected {expected}")]
    WrongPeer {
        /// The address as given.
        member: String,
        /// Peer id in the address.
        expected: String,
        /// Peer id that was proved.
        got: String,
    },
    /// The member hears as many strangers as it allows, or its application did not answer. Ask again later.
    #[error("{by} is busy")]
    Busy {
        /// Peer id of the member.
        by: String,
    },
    /// The member belongs to another chain than the one we asked for.
    #[error("{by} belongs to another chain")]
    OtherChain {
        /// Peer id of the member.
        by: String,
    },
    /// The member speaks another version of the protocol.
    #[error("{by} speaks another protocol version than ours, {ours}")]
    Protocol {
        /// Peer id of the member.
        by: String,
        /// What we speak.
        ours: u16,
    },
    /// What was answered does not follow the protocol.
    #[error("{by} answered against the protocol: {reason}")]
    Malformed {
        /// Peer id of the member.
        by: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer in time.
    #[error("{member} did not answer within {limit:?}")]
    Timeout {
        /// The address as given.
        member: String,
        /// How long we waited.
        limit: Duration,
    },
}

impl AdmissionError {
    /// True if the same request may succeed later or at another member.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Malformed { .. }
            | Self::Timeout { .. } => true,
            Self::Key(_)
            | Self::Address(_)
            | Self::WrongPeer { .. }
            | Self::OtherChain { .. }
            | Self::Protocol { .. } => false,
        }
    }
}
