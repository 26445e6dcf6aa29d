//! What this room tells Prometheus. The names are those of the watermarks.

use std::{collections::BTreeMap, time::Duration};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    core::{Core, receive::DropReason},
    status::{Role, Status},
};

/// The raft thread's metrics. Made when the thread starts: the recorder has to be installed before.
pub(crate) struct RaftMetrics {
    term: Gauge,
    role: Gauge,
    first_index: Gauge,
    last_index: Gauge,
    persisted: Gauge,
    committed: Gauge,
    applied: Gauge,
    log_bytes: Gauge,
    refused_proposals: Counter,
    members: Gauge,
    joint: Gauge,
    changes: BTreeMap<&'static str, Counter>,
    dropped: BTreeMap<DropReason, Counter>,
}

impl RaftMetrics {
    pub(crate) fn new() -> Self {
        let dropped = DropReason::ALL
            .into_iter()
            .map(|reason| (reason, dropped(reason.label())));
        Self {
            term: gauge!("quorate_raft_term"),
            role: gauge!("quorate_raft_role"),
            first_index: gauge!("quorate_raft_first_index"),
            last_index: gauge!("quorate_raft_last_index"),
            persisted: gauge!("quorate_raft_persisted"),
            committed: gauge!("quorate_raft_committed"),
            applied: gauge!("quorate_raft_applied"),
            log_bytes: gauge!("quorate_raft_log_bytes"),
            refused_proposals: counter!("quorate_raft_refused_proposals_total"),
            members: gauge!("quorate_raft_members"),
            joint: gauge!("quorate_raft_joint"),
            changes: BTreeMap::new(),
            dropped: dropped.collect(),
        }
    }

    pub(crate) fn show(&mut self, core: &Core, status: &Status) {
        self.term.set(status.term.0 as f64);
        // 0 learner, 1 follower, 2 candidate, 3 leader.
        self.role.set(match status.role {
            Role::Learner => 0.0,
            Role::Follower => 1.0,
            Role::Candidate => 2.0,
            Role::Leader => 3.0,
        });
        self.first_index.set(status.first_index.0 as f64);
        self.last_index.set(status.last_index.0 as f64);
        self.persisted.set(status.persisted.0 as f64);
        self.committed.set(status.committed.0 as f64);
        self.applied.set(status.applied.0 as f64);
        self.log_bytes.set(core.log_bytes() as f64);
        self.refused_proposals.absolute(core.refused_proposals());
        let table = &status.table;
        self.members.set(table.members.len() as f64);
        // 1 while two configurations decide together.
        self.joint.set(f64::from(u8::from(table.is_joint())));
        for (outcome, count) in core.change_outcomes() {
            self.changes
                .entry(outcome)
                .or_insert_with(
                    || counter!("quorate_raft_member_changes_total", "outcome" => *outcome),
                )
                .absolute(*count);
        }
        for (reason, count) in core.dropped() {
            if let Some(counter) = self.dropped.get(reason) {
                counter.absolute(*count);
            }
        }
    }
}

fn dropped(reason: &'static str) -> Counter {
    counter!("quorate_raft_dropped_messages_total", "reason" => reason)
}

/// Counts a message dropped because the inbox was full.
pub(crate) fn message_dropped_inbox_full() {
    dropped("inbox_full").increment(1);
}

/// Counts a proposal refused because the inbox was full.
pub(crate) fn proposal_refused_inbox_full() {
    counter!("quorate_raft_inbox_refused_proposals_total").increment(1);
}

/// Counts an outgoing message that the transport did not take.
pub(crate) fn message_not_sent() {
    counter!("quorate_raft_unsent_messages_total").increment(1);
}

/// The log thread's metrics.
pub(crate) struct LogMetrics {
    fsync_seconds: Histogram,
    written_bytes: Counter,
}

impl LogMetrics {
    pub(crate) fn new() -> Self {
        Self {
            fsync_seconds: histogram!("quorate_raft_fsync_seconds"),
            written_bytes: counter!("quorate_raft_written_bytes_total"),
        }
    }

    pub(crate) fn barrier(&self, took: Duration, written_bytes: u64) {
        self.fsync_seconds.record(took.as_secs_f64());
        self.written_bytes.increment(written_bytes);
    }
}
