//! Settings of ordering.

use std::time::Duration;

use crate::RaftId;

/// Settings of one member. Timing should be the same on all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This member.
    pub id: RaftId,
    /// The members that vote, as genesis names them. Used only to begin a log.
    pub voters: Vec<RaftId>,
    /// The members that do not vote.
    pub learners: Vec<RaftId>,
    /// Length of a tick.
    pub tick: Duration,
    /// A follower that hears nothing for one to two times so many ticks stands for election.
    pub election_ticks: u32,
    /// A leader speaks up at least every so many ticks.
    pub heartbeat_ticks: u32,
    /// Most bytes of entries in one message.
    pub max_message_bytes: u64,
    /// Most messages under way to one follower.
    pub max_inflight_messages: usize,
    /// Most bytes of proposals that are not committed; more are refused.
    pub uncommitted_bytes_max: u64,
    /// Entries that stay in the log behind the compaction point, for members that lag a little.
    pub trailing_entries: u64,
    /// Size at which a new log file begins.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory; older ones are read from disk.
    pub cache_bytes: usize,
    /// Seeds the draw of election timeouts. Must differ between members.
    pub seed: u64,
}

impl Config {
    /// The usual settings.
    pub fn new(id: RaftId, voters: Vec<RaftId>, learners: Vec<RaftId>) -> Self {
        Self {
            id,
            voters,
            learners,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 1,
            max_message_bytes: 1 << 20,
            max_inflight_messages: 256,
            uncommitted_bytes_max: 64 << 20,
            trailing_entries: 8_192,
            segment_bytes: 16 << 20,
            cache_bytes: 64 << 20,
            seed: id.0,
        }
    }

    /// All faults, each naming the field.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, fault: &str| {
            if !ok {
                faults.push(fault.to_owned());
            }
        };
        check(self.id.0 != 0, "id must not be 0");
        check(
            self.voters.contains(&self.id) || self.learners.contains(&self.id),
            "id must be a voter or a learner",
        );
        check(!self.voters.is_empty(), "voters must not be empty");
        check(!self.tick.is_zero(), "tick must not be 0");
        check(
            self.heartbeat_ticks > 0,
            "heartbeat_ticks must be at least 1",
        );
        check(
            self.election_ticks > self.heartbeat_ticks,
            "election_ticks must be more than heartbeat_ticks",
        );
        check(
            self.segment_bytes >= 4_096,
            "segment_bytes must be at least 4096",
        );
        faults
    }
}
