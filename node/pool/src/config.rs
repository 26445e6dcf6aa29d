//! Limits of the pool.

use std::time::Duration;

/// Limits and rules of the pool of one node. They may differ between members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Most transactions in all. When full, new ones are refused; only one that can be minted at once pushes out one
    /// that waits for a lower nonce, or the two could block each other for good.
    pub transactions_max: usize,
    /// Most bytes in all (network forms).
    pub bytes_max: usize,
    /// Most transactions of one sender.
    pub per_sender_max: usize,
    /// How far a nonce may lie ahead of the account's next nonce.
    pub nonce_window: u64,
    /// Lowest gas price (effective, in wei) that is accepted.
    pub min_gas_price: u128,
    /// By how many percent fee cap and tip must rise to replace a transaction of the same nonce.
    pub replacement_percent: u32,
    /// How long a transaction may wait.
    pub lifetime: Duration,
    /// How many departed transactions are remembered for status questions.
    pub fates_max: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            transactions_max: 50_000,
            bytes_max: 256 << 20,
            per_sender_max: 8_192,
            nonce_window: 16_384,
            min_gas_price: 0,
            replacement_percent: 10,
            lifetime: Duration::from_secs(3 * 60 * 60),
            fates_max: 100_000,
        }
    }
}
