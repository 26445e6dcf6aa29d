//! Settings of one member's ordering.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    ids::RaftId,
    member_table::{DETAILS_BYTES_MAX, MEMBERS_MAX},
};

/// How one member takes part in ordering. [`Config::new`] fills in the defaults; [`Config::validated`] checks the relations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This member. Not zero. It need not be among `voters` and `learners`: a member added later begins with those of
    /// genesis and learns from the log that it belongs to them.
    pub id: RaftId,
    /// Voters at the very beginning, from genesis; the same on every member. Read only while the log is still empty:
    /// afterwards the log knows the membership.
    pub voters: Vec<RaftId>,
    /// Learners at the very beginning, from genesis.
    pub learners: Vec<RaftId>,
    /// Details of the members of genesis, the same on every member; missing ones are empty. Read only while the log
    /// is still empty, or was written before there were member tables.
    pub details: BTreeMap<RaftId, Bytes>,
    /// Entries by which a member may be behind the leader and still count as caught up, when a change of the membership
    /// is judged by who could carry it. Default 1,000.
    pub caught_up_entries: u64,
    /// The length of a tick, the only clock of the core. Default 100 ms. Shorter finds a dead leader sooner and
    /// tolerates less delay.
    pub tick: Duration,
    /// Ticks without word from a leader until a member asks for votes; the actual wait is drawn from this to twice
    /// this. Default 10. Must exceed `heartbeat_ticks`.
    pub election_ticks: u32,
    /// Ticks between two heartbeats of a leader. Default 1.
    pub heartbeat_ticks: u32,
    /// Payload bytes of entries put into one append message, at least one entry whatever its size. Default 1 MiB.
    pub max_message_bytes: u64,
    /// Append messages sent to one follower before its first answer is awaited. Default 256.
    pub max_inflight_messages: u32,
    /// Payload bytes a leader accepts beyond what is committed; further proposals are refused. Default 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// The largest payload of one proposal. Default 16 MiB. At most 256 MiB.
    pub payload_bytes_max: u64,
    /// Size of a log file. Default 16 MiB. At least 4 KiB; a larger record gets a larger file of its own.
    pub segment_bytes: u64,
    /// Payload bytes of the newest entries kept in memory; older ones are read from disk. Default 64 MiB.
    pub cache_bytes: u64,
    /// Entries kept behind a compaction, so that a member that was away for a moment need not start from a manifest.
    /// Default 8,192.
    pub trailing_entries: u64,
    /// Entries delivered to the application and not yet reported as applied. Default 64.
    pub delivery_entries_max: u32,
    /// Payload bytes delivered to the application and not yet reported as applied; one entry may exceed it. Default 64 MiB.
    pub delivery_bytes_max: u64,
    /// Seeds the election timeouts. Members should have different seeds; equal seeds and inputs replay equally.
    pub seed: u64,
}

const MIB: u64 = 1024 * 1024;
const SEGMENT_BYTES_MIN: u64 = 4096;
const PAYLOAD_BYTES_LIMIT: u64 = 256 * MIB;

impl Default for Config {
    /// The defaults of every field; `id` and `voters` are left for the caller and must be set.
    fn default() -> Self {
        Self {
            id: RaftId(0),
            voters: Vec::new(),
            learners: Vec::new(),
            details: BTreeMap::new(),
            caught_up_entries: 1000,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 1,
            max_message_bytes: MIB,
            max_inflight_messages: 256,
            uncommitted_bytes_max: 64 * MIB,
            payload_bytes_max: 16 * MIB,
            segment_bytes: 16 * MIB,
            cache_bytes: 64 * MIB,
            trailing_entries: 8192,
            delivery_entries_max: 64,
            delivery_bytes_max: 64 * MIB,
            seed: 0,
        }
    }
}

/// One setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The field's name.
    pub field: &'static str,
    /// What it holds and what is allowed.
    pub fault: String,
}

/// Every fault of a configuration at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the fields.
    pub faults: Vec<ConfigFault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raft configuration")?;
        for (position, ConfigFault { field, fault }) in self.faults.iter().enumerate() {
            write!(
                f,
                "{} {field} {fault}",
                if position == 0 { ":" } else { ";" }
            )?;
        }
        Ok(())
    }
}

impl Config {
    /// The defaults for member `id` of a consortium that begins with `voters`.
    #[must_use]
    pub fn new(id: RaftId, voters: Vec<RaftId>) -> Self {
        Self {
            id,
            voters,
            seed: id.0,
            ..Self::default()
        }
    }

    /// Checks every field and the relations between them.
    ///
    /// # Errors
    /// Lists all faults, not only the first.
    pub fn validated(self) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, field: &'static str, fault: String| {
            if !holds {
                faults.push(ConfigFault { field, fault });
            }
        };
        require(self.id.0 != 0, "id", "is 0; ids start at 1".into());
        require(
            !self.voters.is_empty(),
            "voters",
            "is empty; at least one is needed".into(),
        );
        let mut seen = BTreeSet::new();
        for member in self.voters.iter().chain(&self.learners) {
            let field = if self.voters.contains(member) {
                "voters"
            } else {
                "learners"
            };
            require(member.0 != 0, field, "holds id 0; ids start at 1".into());
            require(
                seen.insert(*member),
                field,
                format!("names member {member} twice"),
            );
        }
        require(
            seen.len() <= MEMBERS_MAX,
            "voters",
            format!(
                "and learners are {}; at most {MEMBERS_MAX} members are allowed",
                seen.len()
            ),
        );
        for (member, details) in &self.details {
            require(
                seen.contains(member),
                "details",
                format!("names {member}, which is neither voter nor learner"),
            );
            require(
                details.len() <= DETAILS_BYTES_MAX,
                "details",
                format!(
                    "of {member} are {} bytes; at most {DETAILS_BYTES_MAX} are allowed",
                    details.len()
                ),
            );
        }
        require(
            !self.tick.is_zero(),
            "tick",
            "is 0; it must be longer".into(),
        );
        require(
            self.heartbeat_ticks >= 1,
            "heartbeat_ticks",
            format!("is {}; at least 1 is needed", self.heartbeat_ticks),
        );
        require(
            self.election_ticks > self.heartbeat_ticks && self.election_ticks >= 2,
            "election_ticks",
            format!(
                "is {}; it must exceed heartbeat_ticks ({}) and 1",
                self.election_ticks, self.heartbeat_ticks
            ),
        );
        require(
            self.election_ticks <= 100_000,
            "election_ticks",
            format!("is {}; at most 100000 is allowed", self.election_ticks),
        );
        require(
            self.max_message_bytes >= 1,
            "max_message_bytes",
            "is 0; it would mean one entry per message".into(),
        );
        require(
            self.max_inflight_messages >= 1,
            "max_inflight_messages",
            "is 0; at least 1 is needed".into(),
        );
        require(
            self.uncommitted_bytes_max >= self.max_message_bytes,
            "uncommitted_bytes_max",
            format!(
                "is {}; it must be at least max_message_bytes ({})",
                self.uncommitted_bytes_max, self.max_message_bytes
            ),
        );
        require(
            (1..=PAYLOAD_BYTES_LIMIT).contains(&self.payload_bytes_max),
            "payload_bytes_max",
            format!(
                "is {}; allowed is 1 to {PAYLOAD_BYTES_LIMIT}",
                self.payload_bytes_max
            ),
        );
        require(
            (SEGMENT_BYTES_MIN..=1 << 30).contains(&self.segment_bytes),
            "segment_bytes",
            format!(
                "is {}; allowed is {SEGMENT_BYTES_MIN} to {}",
                self.segment_bytes,
                1 << 30
            ),
        );
        require(
            self.delivery_entries_max >= 1,
            "delivery_entries_max",
            "is 0; nothing would ever be delivered".into(),
        );
        if faults.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError { faults })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_with_an_id_and_a_voter_are_valid() {
        assert!(Config::new(RaftId(1), vec![RaftId(1)]).validated().is_ok());
    }

    #[test]
    fn every_fault_is_listed_at_once() {
        let faulty = Config {
            voters: vec![RaftId(2), RaftId(2)],
            details: BTreeMap::from([(RaftId(5), Bytes::new())]),
            election_ticks: 1,
            max_message_bytes: 0,
            segment_bytes: 1,
            ..Config::default()
        };
        let error = faulty.validated().unwrap_err();
        let fields: Vec<_> = error.faults.iter().map(|fault| fault.field).collect();
        assert_eq!(
            fields,
            [
                "id",
                "voters",
                "details",
                "election_ticks",
                "max_message_bytes",
                "segment_bytes"
            ]
        );
        assert!(error.to_string().contains("names member 2 twice"));
    }
}
