//! Names of the figures this room exports.

use metrics::{counter, gauge, histogram};

use crate::snapshot::Live;

pub(crate) fn durable_height(height: u64) {
    gauge!("quorate_state_durable_height").set(height as f64);
}

pub(crate) fn head(live: &Live) {
    gauge!("quorate_state_head_height").set(live.mark.height as f64);
    gauge!("quorate_state_overlay_entries").set(live.recent_entries as f64);
}

pub(crate) fn flushed(seconds: f64, writes: usize, bytes: usize) {
    histogram!("quorate_state_flush_seconds").record(seconds);
    counter!("quorate_state_flush_writes_total").increment(writes as u64);
    counter!("quorate_state_flush_bytes_total").increment(bytes as u64);
}

pub(crate) fn resident_trie_nodes(nodes: usize) {
    gauge!("quorate_state_resident_trie_nodes").set(nodes as f64);
}
