//! What the network needs to know. Keys, members and chain identity come from the node; limits and times have defaults.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::error::ConfigError;

/// Version of everything members say to each other. Members of different versions refuse each other in the hello.
pub const PROTOCOL_VERSION: u16 = 2;

/// Most members in one table, this node included. Connection limits are derived from it.
pub(crate) const MEMBERS_MAX: usize = 256;

/// One member as the network sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Raft id; never 0, never reused.
    pub raft_id: u64,
    /// Compressed secp256k1 key; the peer id is made from it.
    pub public_key: [u8; 33],
    /// Where to dial it: multiaddr or `host:port`. May be empty: then it has to dial us.
    pub addresses: Vec<String>,
    /// Who runs it, for logs and status only.
    pub organisation: String,
}

/// Everything [`crate::start`] needs.
#[derive(Clone)]
pub struct Config {
    /// This node's secp256k1 secret: identity on the network.
    pub secret_key: [u8; 32],
    /// Where to listen. Port 0 lets the system choose, see `NetworkHandle::listen_addresses`.
    pub listen: SocketAddr,
    /// All members, this node included.
    pub members: Vec<MemberInfo>,
    /// This node's id among them.
    pub raft_id: u64,
    /// Chain id; a member with another one is refused.
    pub chain_id: u64,
    /// Hash of the genesis block; a member with another one is refused.
    pub genesis_hash: [u8; 32],
    /// Said in the hello; leave at [`PROTOCOL_VERSION`] (tests of refusals set another).
    pub protocol_version: u16,
    /// Name and version shown to other members, at most 128 bytes.
    pub agent_version: String,
    /// Identity of this node's Raft log, made up when the log was created and said in the hello; zeros mean none. A
    /// member that comes back with another log has lost what it promised, and is refused by those who knew the old one.
    pub log_id: [u8; 16],
    /// Logs of other members when they were last seen (`PeerEvent::LogSeen`), by raft id. Zeros count as unknown.
    pub known_logs: BTreeMap<u64, [u8; 16]>,
    /// Addresses under which others reach us, announced to them, at most 8. Empty: those on which we listen, without
    /// unspecified ones, and without loopback unless there is nothing else.
    pub announce: Vec<String>,
    /// Orders the announcements of this node: each start needs a greater one than the last, unix milliseconds for example.
    pub announce_sequence: u64,
    /// True: look for members on the local network by multicast DNS.
    pub mdns: bool,
    /// True, the default: members may ask this node about private payloads ([`crate::Events::privacy`]). False: they are told that it
    /// does not serve them ([`crate::RequestError::Unsupported`]). This node may ask either way.
    pub privacy: bool,
    /// Raft ids that were members once. They are told so when they knock.
    pub removed: Vec<u64>,
    /// Sizes.
    pub limits: Limits,
    /// Times.
    pub timing: Timing,
}

impl Config {
    /// A configuration with default limits and times.
    pub fn new(
        secret_key: [u8; 32],
        listen: SocketAddr,
        members: Vec<MemberInfo>,
        raft_id: u64,
        chain_id: u64,
        genesis_hash: [u8; 32],
    ) -> Self {
        Self {
            secret_key,
            listen,
            members,
            raft_id,
            chain_id,
            genesis_hash,
            protocol_version: PROTOCOL_VERSION,
            agent_version: concat!("quorate/", env!("CARGO_PKG_VERSION")).to_owned(),
            log_id: [0; 16],
            known_logs: BTreeMap::new(),
            announce: Vec::new(),
            announce_sequence: unix_milliseconds(),
            mdns: false,
            privacy: true,
            removed: Vec::new(),
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}

/// Milliseconds since 1970; 0 if the clock stands before that.
pub(crate) fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

impl fmt::Debug for Config {
    /// The secret stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("raft_id", &self.raft_id)
            .field("listen", &self.listen)
            .field("members", &self.members)
            .field("chain_id", &self.chain_id)
            .field("genesis_hash", &hex::encode(self.genesis_hash))
            .field("log_id", &hex::encode(self.log_id))
            .field("announce", &self.announce)
            .field("removed", &self.removed)
            .field("limits", &self.limits)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// Sizes and counts. All bytes are payload bytes, without framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame on any stream (Raft message, answer to a fetch). Default 24 MiB: a Raft message may carry one
    /// block of almost 20 MiB. Allowed 64 KiB to 256 MiB. Members should agree on it.
    pub frame_bytes_max: usize,
    /// Raft messages waiting for one member; when full, the newest is dropped and `send_raft` says so. Default 4,096.
    pub raft_outbox_messages: usize,
    /// Bytes waiting for one member, same policy. Default 64 MiB.
    pub raft_outbox_bytes: usize,
    /// Raft messages from all members waiting for the application; when full, senders wait. Default 4,096.
    pub raft_lane_messages: usize,
    /// Bytes of them, same policy. Default 128 MiB; at least `frame_bytes_max`.
    pub raft_lane_bytes: usize,
    /// Transaction batches waiting for the application; when full, gossip is dropped, forwarders wait. Default 1,024.
    pub transaction_lane_batches: usize,
    /// Bytes of them, same policy. Default 64 MiB; at least `gossip_message_bytes_max`.
    pub transaction_lane_bytes: usize,
    /// Requests for bulk (blocks, snapshots) waiting for the application; when full, requesters wait. Default 32.
    pub request_lane: usize,
    /// Requests about membership and admission waiting for the application, same policy. Default 32.
    pub control_lane: usize,
    /// A gossip message is sent as soon as it holds this much. Default 64 KiB.
    pub gossip_batch_bytes: usize,
    /// Largest gossip message, so also the largest transaction. Default 2 MiB.
    pub gossip_message_bytes_max: usize,
    /// Calls of `gossip` waiting to be coalesced; when full, the newest is dropped and counted. Default 4,096.
    pub gossip_queue_calls: usize,
    /// Bytes of them, same policy. Default 32 MiB.
    pub gossip_queue_bytes: usize,
    /// Largest batch in one `forward`. Default 8 MiB.
    pub forward_bytes_max: usize,
    /// Forwarded batches under way per member and direction; more wait (ours) or are told "busy" (theirs). Default 32.
    pub forwards_per_member: usize,
    /// Answer to one fetch is cut before the block that would pass this size; the first block always fits. Default 8 MiB.
    pub fetch_bytes_max: usize,
    /// Fetches under way per member and direction, policy as for forwards. Default 4.
    pub fetches_per_member: usize,
    /// Queries about membership under way per member and direction, policy as for forwards. Default 4.
    pub memberships_per_member: usize,
    /// Snapshot queries under way per member and direction, policy as for forwards. Default 2.
    pub snapshots_per_member: usize,
    /// Privacy requests under way per member and direction, policy as for forwards. Default 32.
    pub privacies_per_member: usize,
    /// Largest privacy request, and largest answer to one. Default 18 MiB: a payload of 16 MiB with what goes around it.
    /// Allowed 64 KiB to 256 MiB. Members should agree on it.
    pub privacy_bytes_max: usize,
    /// Bytes of privacy requests of one member that are being received or wait for the application; when full, its next
    /// request waits unread. Default 40 MiB; at least `privacy_bytes_max`.
    pub privacy_bytes_per_member: usize,
    /// Privacy requests of all members waiting for the application; when full, requesters wait. Default 64.
    pub privacy_lane: usize,
    /// Bytes of privacy requests of all members, from the moment their length is known until the application drops the
    /// [`crate::PrivacyRequest`]; when full, the next waits unread. Default 128 MiB; at least `privacy_bytes_max`.
    pub privacy_lane_bytes: usize,
    /// Inbound connections that have not finished their handshake; more are refused. Default 128.
    pub handshakes_max: u32,
    /// The same from one IP address. Default 32: members behind one address fit, one flooding host does not fill all.
    pub handshakes_per_address: u32,
    /// Strangers that are being heard (applicants for admission above all) at once; more are told "busy". Default 4.
    pub strangers_max: usize,
    /// The same from one IP address. Default 2.
    pub strangers_per_address: usize,
    /// Strangers heard per minute from one IP address, and eight times as many from all together. Default 120.
    pub strangers_per_minute: u32,
    /// Established connections per member; more are refused. Default 4: one is normal, the rest is for stale ones.
    pub connections_per_member: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 24 << 20,
            raft_outbox_messages: 4_096,
            raft_outbox_bytes: 64 << 20,
            raft_lane_messages: 4_096,
            raft_lane_bytes: 128 << 20,
            transaction_lane_batches: 1_024,
            transaction_lane_bytes: 64 << 20,
            request_lane: 32,
            control_lane: 32,
            gossip_batch_bytes: 64 << 10,
            gossip_message_bytes_max: 2 << 20,
            gossip_queue_calls: 4_096,
            gossip_queue_bytes: 32 << 20,
            forward_bytes_max: 8 << 20,
            forwards_per_member: 32,
            fetch_bytes_max: 8 << 20,
            fetches_per_member: 4,
            memberships_per_member: 4,
            snapshots_per_member: 2,
            privacies_per_member: 32,
            privacy_bytes_max: 18 << 20,
            privacy_bytes_per_member: 40 << 20,
            privacy_lane: 64,
            privacy_lane_bytes: 128 << 20,
            handshakes_max: 128,
            handshakes_per_address: 32,
            strangers_max: 4,
            strangers_per_address: 2,
            strangers_per_minute: 120,
            connections_per_member: 4,
        }
    }
}

/// Times. Each is between one millisecond and one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// First transaction waits this long for company. Default 5 ms.
    pub gossip_delay: Duration,
    /// gossipsub's own upkeep. Default 700 ms.
    pub gossip_heartbeat: Duration,
    /// First pause after a failed dial. Default 200 ms; doubles, with a jitter of a quarter either way.
    pub dial_pause_min: Duration,
    /// Longest pause; also the pause after a refusal for version, chain id or genesis. Default 10 s.
    pub dial_pause_max: Duration,
    /// The member with the larger peer id waits this long before it dials, so that the two do not cross. Default 3 s.
    pub dial_wait: Duration,
    /// Resolving a name at a dial. Default 5 s.
    pub resolve_timeout: Duration,
    /// TCP, Noise, hello and Yamux together. Default 10 s.
    pub handshake_timeout: Duration,
    /// Opening a stream on a connection. Default 5 s.
    pub open_timeout: Duration,
    /// One frame, from its first byte to its last; also one batch of writes. Default 30 s.
    pub frame_timeout: Duration,
    /// A forward or fetch as a whole. Default 15 s.
    pub request_timeout: Duration,
    /// A membership or snapshot query as a whole. Also how long another member's privacy request may wait for room, and then for
    /// our application. Default 30 s.
    pub query_timeout: Duration,
    /// Hearing a stranger: its application, and our answer to it. An admission's content, which is large, may take six
    /// times as long. Default 10 s.
    pub stranger_timeout: Duration,
    /// Between pings. Default 5 s.
    pub ping_interval: Duration,
    /// A ping unanswered for so long closes the connection. Default 10 s.
    pub ping_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            gossip_delay: Duration::from_millis(5),
            gossip_heartbeat: Duration::from_millis(700),
            dial_pause_min: Duration::from_millis(200),
            dial_pause_max: Duration::from_secs(10),
            dial_wait: Duration::from_secs(3),
            resolve_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(15),
            query_timeout: Duration::from_secs(30),
            stranger_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Config {
    /// Checks ranges and relations of the limits and times (keys and members are checked with the member table).
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let l = &self.limits;
        let frame = l.frame_bytes_max as u64;
        let gossip = l.gossip_message_bytes_max as u64;
        let privacy = l.privacy_bytes_max as u64;
        // Every lane must hold its largest item, or that item could never pass. 1 GiB keeps the sums inside u32.
        let sizes: [(&'static str, u64, u64, u64); 31] = [
            ("limits.frame_bytes_max", frame, 64 * KIB, 256 * MIB),
            (
                "limits.raft_outbox_messages",
                l.raft_outbox_messages as u64,
                1,
                1 << 20,
            ),
            (
                "limits.raft_outbox_bytes",
                l.raft_outbox_bytes as u64,
                frame,
                GIB,
            ),
            (
                "limits.raft_lane_messages",
                l.raft_lane_messages as u64,
                1,
                1 << 20,
            ),
            (
                "limits.raft_lane_bytes",
                l.raft_lane_bytes as u64,
                frame,
                GIB,
            ),
            (
                "limits.transaction_lane_batches",
                l.transaction_lane_batches as u64,
                1,
                1 << 20,
            ),
            (
                "limits.transaction_lane_bytes",
                l.transaction_lane_bytes as u64,
                gossip.max(l.forward_bytes_max as u64),
                GIB,
            ),
            ("limits.request_lane", l.request_lane as u64, 1, 1 << 16),
            (
                "limits.gossip_batch_bytes",
                l.gossip_batch_bytes as u64,
                1,
                gossip,
            ),
            ("limits.gossip_message_bytes_max", gossip, KIB, 16 * MIB),
            (
                "limits.gossip_queue_calls",
                l.gossip_queue_calls as u64,
                1,
                1 << 20,
            ),
            (
                "limits.gossip_queue_bytes",
                l.gossip_queue_bytes as u64,
                gossip,
                GIB,
            ),
            (
                "limits.forward_bytes_max",
                l.forward_bytes_max as u64,
                KIB,
                frame,
            ),
            (
                "limits.forwards_per_member",
                l.forwards_per_member as u64,
                1,
                128,
            ),
            (
                "limits.fetch_bytes_max",
                l.fetch_bytes_max as u64,
                KIB,
                frame,
            ),
            (
                "limits.fetches_per_member",
                l.fetches_per_member as u64,
                1,
                64,
            ),
            (
                "limits.handshakes_max",
                u64::from(l.handshakes_max),
                4,
                65_536,
            ),
            (
                "limits.connections_per_member",
                u64::from(l.connections_per_member),
                2,
                16,
            ),
            ("limits.control_lane", l.control_lane as u64, 1, 1 << 16),
            (
                "limits.memberships_per_member",
                l.memberships_per_member as u64,
                1,
                64,
            ),
            (
                "limits.snapshots_per_member",
                l.snapshots_per_member as u64,
                1,
                64,
            ),
            (
                "limits.privacies_per_member",
                l.privacies_per_member as u64,
                1,
                128,
            ),
            ("limits.privacy_bytes_max", privacy, 64 * KIB, 256 * MIB),
            (
                "limits.privacy_bytes_per_member",
                l.privacy_bytes_per_member as u64,
                privacy,
                GIB,
            ),
            ("limits.privacy_lane", l.privacy_lane as u64, 1, 1 << 16),
            (
                "limits.privacy_lane_bytes",
                l.privacy_lane_bytes as u64,
                privacy,
                GIB,
            ),
            (
                "limits.handshakes_per_address",
                u64::from(l.handshakes_per_address),
                1,
                u64::from(l.handshakes_max),
            ),
            ("limits.strangers_max", l.strangers_max as u64, 1, 64),
            (
                "limits.strangers_per_address",
                l.strangers_per_address as u64,
                1,
                64,
            ),
            (
                "limits.strangers_per_minute",
                u64::from(l.strangers_per_minute),
                1,
                1 << 20,
            ),
            (
                "agent_version (bytes)",
                self.agent_version.len() as u64,
                1,
                128,
            ),
        ];
        let t = &self.timing;
        let times = [
            ("timing.gossip_delay", t.gossip_delay),
            ("timing.gossip_heartbeat", t.gossip_heartbeat),
            ("timing.dial_pause_min", t.dial_pause_min),
            ("timing.dial_pause_max", t.dial_pause_max),
            ("timing.dial_wait", t.dial_wait),
            ("timing.resolve_timeout", t.resolve_timeout),
            ("timing.handshake_timeout", t.handshake_timeout),
            ("timing.open_timeout", t.open_timeout),
            ("timing.frame_timeout", t.frame_timeout),
            ("timing.request_timeout", t.request_timeout),
            ("timing.query_timeout", t.query_timeout),
            ("timing.stranger_timeout", t.stranger_timeout),
            ("timing.ping_interval", t.ping_interval),
            ("timing.ping_timeout", t.ping_timeout),
        ]
        .map(|(field, time)| {
            (
                field,
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
                1,
                3_600_000,
            )
        });
        for (field, got, min, max) in sizes.into_iter().chain(times) {
            if got < min || got > max {
                return Err(ConfigError::OutOfRange {
                    field,
                    got,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(
            [1; 32],
            ([127, 0, 0, 1], 0).into(),
            Vec::new(),
            1,
            1337,
            [0; 32],
        )
    }

    #[test]
    fn the_defaults_are_within_their_own_ranges() {
        assert_eq!(config().check(), Ok(()));
    }

    #[test]
    fn a_lane_smaller_than_its_largest_item_is_named() {
        let mut c = config();
        c.limits.raft_lane_bytes = c.limits.frame_bytes_max - 1;
        let error = c.check().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("limits.raft_lane_bytes is 25165823"),
            "{error}"
        );
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        assert!(!format!("{:?}", config()).contains("secret"));
    }
}
