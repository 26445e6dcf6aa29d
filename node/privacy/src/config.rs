//! Settings of private execution. None of them changes a result.

use std::time::Duration;

use quorate_kv::SledConfig;
use quorate_state::StateConfig;

/// Settings of a [`PrivateLedger`](crate::PrivateLedger).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerConfig {
    /// Private state: when it is flushed, and how much of it stays in memory.
    pub state: StateConfig,
    /// The storage of private state.
    pub state_kv: SledConfig,
    /// The storage of records and of the cursor.
    pub index_kv: SledConfig,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        let kv = |mebibytes: u64| SledConfig {
            cache_capacity_bytes: mebibytes << 20,
            ..SledConfig::default()
        };
        Self {
            state: StateConfig::default(),
            state_kv: kv(128),
            index_kv: kv(64),
        }
    }
}

/// Settings of a [`PrivateExecutor`](crate::PrivateExecutor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// Blocks that are looked through at once for references, at least 1.
    pub scan_blocks: u64,
    /// Payloads that are asked for at once, at least 1. As many may be in memory for the next block while one is executed.
    pub lookups: usize,
    /// Pause before a payload that is not there is asked for again; it doubles up to [`retry_max`](Self::retry_max).
    pub retry_min: Duration,
    /// Longest such pause.
    pub retry_max: Duration,
    /// What changed is made durable after this time at the latest, and whenever the flush policy of the state says so.
    pub flush_after: Duration,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            scan_blocks: 256,
            lookups: 64,
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(5),
            flush_after: Duration::from_secs(5),
        }
    }
}
