//! Settings of the engine of one node.

use std::time::Duration;

/// How the leader's minter behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinterConfig {
    /// Least time between two blocks. Zero mints as soon as there is something to mint.
    pub min_interval: Duration,
    /// Least time between two blocks while an earlier one has not committed. A small pause gathers
    /// transactions under load and costs nothing when there is none: the first block never waits for it.
    pub pipeline_interval: Duration,
    /// Most blocks sealed and not yet committed.
    pub pipeline_blocks: usize,
}

impl Default for MinterConfig {
    fn default() -> Self {
        Self {
            min_interval: Duration::ZERO,
            pipeline_interval: Duration::from_millis(5),
            pipeline_blocks: 8,
        }
    }
}

/// Settings of the importer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineConfig {
    /// Where evidence of a divergence is kept.
    pub evidence_dir: std::path::PathBuf,
}
