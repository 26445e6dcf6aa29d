//! Names of the figures this room exports.

use metrics::{counter, gauge};

pub(crate) fn position(cursor: u64, head: u64) {
    gauge!("quorate_privacy_cursor").set(cursor as f64);
    gauge!("quorate_privacy_lag").set(head.saturating_sub(cursor) as f64);
}

/// 1 while execution stands still for lack of a payload.
pub(crate) fn waiting(waiting: bool) {
    gauge!("quorate_privacy_waiting").set(if waiting { 1.0 } else { 0.0 });
}

pub(crate) fn executed(success: bool) {
    counter!("quorate_privacy_executed_total").increment(1);
    if !success {
        counter!("quorate_privacy_failed_total").increment(1);
    }
}
