//! Names and shapes of our metrics, in one place.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Metric names.
pub mod names {
    /// Payloads that members acknowledged.
    pub const DELIVERED: &str = "quorate_exchange_delivered_total";
    /// Payloads that members delivered to this node and that were stored.
    pub const STORED: &str = "quorate_exchange_stored_total";
    /// Payloads that were refused; label `side`: `here`, `there`.
    pub const REFUSED: &str = "quorate_exchange_refused_total";
    /// Conflicts over contracts with flag 3; label `side`: `here`, `there`.
    pub const CONFLICTS: &str = "quorate_exchange_conflicts_total";
    /// Payloads that were fetched from other parties.
    pub const FETCHED: &str = "quorate_exchange_fetched_total";
    /// Bytes of requests and answers that were sent.
    pub const BYTES_SENT: &str = "quorate_exchange_bytes_sent_total";
    /// Bytes of requests and answers that arrived.
    pub const BYTES_RECEIVED: &str = "quorate_exchange_bytes_received_total";
    /// Deliveries that wait in the outbox.
    pub const OUTBOX_PENDING: &str = "quorate_exchange_outbox_pending";
    /// Payloads that are being looked for at other parties.
    pub const WANTED: &str = "quorate_exchange_wanted";
    /// Digests, or payloads to fetch, that were dropped because too many waited; label `queue`: `digests`, `early_digests`, `wanted`.
    pub const DROPPED: &str = "quorate_exchange_dropped_total";
    /// Private transactions that a party executed otherwise than this node.
    pub const ALARMS: &str = "quorate_exchange_alarms_total";
    /// 1 if the payload store is complete, else 0.
    pub const COMPLETE: &str = "quorate_exchange_complete";
}

/// Describes every metric to the installed recorder. Call it once, after the recorder was installed.
pub fn describe_metrics() {
    describe_counter!(names::DELIVERED, "Private payloads acknowledged by members");
    describe_counter!(names::STORED, "Private payloads of members stored here");
    describe_counter!(names::REFUSED, "Private payloads refused, by side");
    describe_counter!(
        names::CONFLICTS,
        "Conflicts over contracts whose state is validated, by side"
    );
    describe_counter!(
        names::FETCHED,
        "Private payloads fetched from other parties"
    );
    describe_counter!(
        names::BYTES_SENT,
        "Bytes sent to members for private payloads"
    );
    describe_counter!(
        names::BYTES_RECEIVED,
        "Bytes received from members for private payloads"
    );
    describe_gauge!(names::OUTBOX_PENDING, "Deliveries that wait in the outbox");
    describe_gauge!(names::WANTED, "Private payloads being looked for");
    describe_counter!(
        names::DROPPED,
        "Entries dropped because too many waited, by queue"
    );
    describe_counter!(
        names::ALARMS,
        "Private transactions that parties executed differently"
    );
    describe_gauge!(
        names::COMPLETE,
        "Whether the store of private payloads is complete"
    );
}

/// Where something was decided.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Here,
    There,
}

impl Side {
    fn label(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::There => "there",
        }
    }
}

pub(crate) fn delivered() {
    counter!(names::DELIVERED).increment(1);
}

pub(crate) fn stored() {
    counter!(names::STORED).increment(1);
}

pub(crate) fn refused(side: Side) {
    counter!(names::REFUSED, "side" => side.label()).increment(1);
}

pub(crate) fn conflict(side: Side) {
    counter!(names::CONFLICTS, "side" => side.label()).increment(1);
}

pub(crate) fn fetched() {
    counter!(names::FETCHED).increment(1);
}

pub(crate) fn sent(bytes: usize) {
    counter!(names::BYTES_SENT).increment(u64::try_from(bytes).unwrap_or(u64::MAX));
}

pub(crate) fn received(bytes: usize) {
    counter!(names::BYTES_RECEIVED).increment(u64::try_from(bytes).unwrap_or(u64::MAX));
}

pub(crate) fn outbox_pending(count: u64) {
    gauge!(names::OUTBOX_PENDING).set(as_gauge(count));
}

pub(crate) fn wanted(count: usize) {
    gauge!(names::WANTED).set(as_gauge(u64::try_from(count).unwrap_or(u64::MAX)));
}

pub(crate) fn dropped(queue: &'static str) {
    counter!(names::DROPPED, "queue" => queue).increment(1);
}

pub(crate) fn alarm() {
    counter!(names::ALARMS).increment(1);
}

pub(crate) fn complete(complete: bool) {
    gauge!(names::COMPLETE).set(if complete { 1.0 } else { 0.0 });
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; counts stay far below 2^52"
)]
fn as_gauge(count: u64) -> f64 {
    count as f64
}
