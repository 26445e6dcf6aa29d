//! Names and shapes of our metrics, in one place.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Metric names.
pub mod names {
    /// Connections refused, by us or by the other side (`told_…`); label `reason`: `unknown_key`, `genesis`, `chain_id`,
    /// `protocol`, `malformed_hello`, `raft_id`, `removed`, `other_log`, `strangers`, `told_removed`, `told_other_log`,
    /// `told_refused`, `wrong_peer`, `limit`, `handshake`.
    pub const REFUSED: &str = "quorate_p2p_refused_total";
    /// Messages, batches and requests dropped; labels `lane` and `reason`.
    pub const DROPPED: &str = "quorate_p2p_dropped_total";
    /// Messages moved; labels `lane` and `direction` (`in`, `out`).
    pub const MESSAGES: &str = "quorate_p2p_messages_total";
    /// Payload bytes moved; labels `lane` and `direction` (`in`, `out`).
    pub const BYTES: &str = "quorate_p2p_bytes_total";
    /// Attempts to dial a member; label `outcome`: `connected`, `failed`, `refused`.
    pub const DIALS: &str = "quorate_p2p_dials_total";
    /// Applications for admission; label `outcome`: `not_yet`, `removed`, `admitted`, `other_chain`, `busy`, `too_large`,
    /// `broken`.
    pub const ADMISSIONS: &str = "quorate_p2p_admissions_total";
    /// Announcements of members' addresses that arrived; label `outcome`: `accepted`, `known`, `own`, `older`,
    /// `malformed`, `unknown_member`, `signature`, `address`, `key`.
    pub const ANNOUNCEMENTS: &str = "quorate_p2p_announcements_total";
    /// Questions to Kademlia for a member's announcement; label `outcome`: `asked`, `found`, `nothing`.
    pub const LOOKUPS: &str = "quorate_p2p_lookups_total";
    /// What members said about this node; label `verdict`: `removed`, `other_log`.
    pub const VERDICTS: &str = "quorate_p2p_verdicts_total";
    /// Streams that broke or were broken off; labels `lane` and `reason`.
    pub const STREAMS_BROKEN: &str = "quorate_p2p_streams_broken_total";
    /// Members connected now.
    pub const PEERS_CONNECTED: &str = "quorate_p2p_peers_connected";
    /// Members in the table, without this node.
    pub const PEERS_KNOWN: &str = "quorate_p2p_peers_known";
    /// Last measured round trip per member, in seconds; label `peer` (raft id).
    pub const RTT: &str = "quorate_p2p_rtt_seconds";
}

/// Values of the label `lane`.
pub(crate) mod lane {
    pub(crate) const RAFT: &str = "raft";
    pub(crate) const GOSSIP: &str = "gossip";
    pub(crate) const FORWARD: &str = "forward";
    pub(crate) const BLOCKS: &str = "blocks";
    pub(crate) const MEMBERSHIP: &str = "membership";
    pub(crate) const SNAPSHOT: &str = "snapshot";
    pub(crate) const CONTROL: &str = "control";
    pub(crate) const PRIVACY: &str = "privacy";
    pub(crate) const PEERS: &str = "peer_events";
    pub(crate) const VERDICTS: &str = "verdicts";
}

/// Tells the recorder what the numbers mean.
pub(crate) fn describe() {
    describe_counter!(names::REFUSED, "Connections refused, by reason");
    describe_counter!(
        names::DROPPED,
        "Messages, batches and requests dropped, by lane and reason"
    );
    describe_counter!(names::MESSAGES, "Messages moved, by lane and direction");
    describe_counter!(names::BYTES, "Payload bytes moved, by lane and direction");
    describe_counter!(names::DIALS, "Attempts to dial a member, by outcome");
    describe_counter!(names::ADMISSIONS, "Applications for admission, by outcome");
    describe_counter!(
        names::ANNOUNCEMENTS,
        "Announcements of members' addresses that arrived, by outcome"
    );
    describe_counter!(
        names::LOOKUPS,
        "Questions to Kademlia for a member's announcement, by outcome"
    );
    describe_counter!(names::VERDICTS, "What members said about this node");
    describe_counter!(
        names::STREAMS_BROKEN,
        "Streams that broke, by lane and reason"
    );
    describe_gauge!(names::PEERS_CONNECTED, "Members connected now");
    describe_gauge!(
        names::PEERS_KNOWN,
        "Members in the table, without this node"
    );
    describe_gauge!(
        names::RTT,
        "Last measured round trip per member, in seconds"
    );
}

pub(crate) fn refused(reason: &'static str) {
    counter!(names::REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn dropped(lane: &'static str, reason: &'static str, count: usize) {
    if count > 0 {
        counter!(names::DROPPED, "lane" => lane, "reason" => reason).increment(count as u64);
    }
}

pub(crate) fn sent(lane: &'static str, messages: usize, bytes: usize) {
    counter!(names::MESSAGES, "lane" => lane, "direction" => "out").increment(messages as u64);
    counter!(names::BYTES, "lane" => lane, "direction" => "out").increment(bytes as u64);
}

pub(crate) fn received(lane: &'static str, messages: usize, bytes: usize) {
    counter!(names::MESSAGES, "lane" => lane, "direction" => "in").increment(messages as u64);
    counter!(names::BYTES, "lane" => lane, "direction" => "in").increment(bytes as u64);
}

pub(crate) fn dial(outcome: &'static str) {
    counter!(names::DIALS, "outcome" => outcome).increment(1);
}

pub(crate) fn admission(outcome: &'static str) {
    counter!(names::ADMISSIONS, "outcome" => outcome).increment(1);
}

pub(crate) fn announcement(outcome: &'static str) {
    counter!(names::ANNOUNCEMENTS, "outcome" => outcome).increment(1);
}

pub(crate) fn lookup(outcome: &'static str) {
    counter!(names::LOOKUPS, "outcome" => outcome).increment(1);
}

pub(crate) fn verdict(verdict: &'static str) {
    counter!(names::VERDICTS, "verdict" => verdict).increment(1);
}

pub(crate) fn stream_broken(lane: &'static str, reason: &'static str) {
    counter!(names::STREAMS_BROKEN, "lane" => lane, "reason" => reason).increment(1);
}

pub(crate) fn peers(connected: usize, known: usize) {
    gauge!(names::PEERS_CONNECTED).set(connected as f64);
    gauge!(names::PEERS_KNOWN).set(known as f64);
}

pub(crate) fn rtt(raft_id: u64, seconds: f64) {
    gauge!(names::RTT, "peer" => raft_id.to_string()).set(seconds);
}
