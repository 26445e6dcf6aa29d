//! Limits of a store.

/// When changes go to disk. State is written behind: what is not on disk is executed again after a crash, so larger values
/// mean less writing and a longer start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Flush after this many blocks, at least 1.
    pub blocks: u64,
    /// Flush after about this many bytes of changes, at least 1.
    pub bytes: u64,
    /// The importer must wait for the running flush once this many times `blocks` or `bytes` are pending, at least 2.
    pub overdue_factor: u64,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            blocks: 256,
            bytes: 64 * 1024 * 1024,
            overdue_factor: 4,
        }
    }
}

/// Settings of a [`StateStore`](crate::StateStore). None of them changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateConfig {
    /// When changes go to disk.
    pub flush: FlushPolicy,
    /// Trie nodes kept in memory after a flush, about 250 bytes each. Fewer mean more reads when blocks are applied.
    pub resident_nodes_max: usize,
    /// Accounts, slots and codes that are on disk and stay in memory all the same because they were written lately, about 300
    /// bytes each. Oldest writes leave first.
    pub recent_entries_max: usize,
    /// Code kept in memory after it was read, in bytes. When it is full it is emptied.
    pub code_cache_bytes_max: usize,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            flush: FlushPolicy::default(),
            resident_nodes_max: 1024 * 1024,
            recent_entries_max: 256 * 1024,
            code_cache_bytes_max: 32 * 1024 * 1024,
        }
    }
}

impl StateConfig {
    /// Names the first value that is out of its range.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.flush.blocks == 0 {
            return Err(("flush.blocks", "1 or more"));
        }
        if self.flush.bytes == 0 {
            return Err(("flush.bytes", "1 or more"));
        }
        if self.flush.overdue_factor < 2 {
            return Err(("flush.overdue_factor", "2 or more"));
        }
        Ok(())
    }
}
