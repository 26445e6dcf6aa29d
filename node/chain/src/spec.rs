//! Which rules hold at which block.

use std::fmt;

use alloy_genesis::ChainConfig;

/// A set of EVM rules, in the order in which Ethereum introduced them.
///
/// Forks that changed nothing in block execution (difficulty bombs, the merge netsplit) are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// Launch rules.
    Frontier,
    /// EIP-2, EIP-7.
    Homestead,
    /// EIP-150, "Tangerine Whistle".
    Tangerine,
    /// EIP-155, 160, 161, 170, "Spurious Dragon".
    SpuriousDragon,
    /// EIP-140, 196, 197, 198, 211, 214, 658.
    Byzantium,
    /// EIP-145, 1014, 1052, 1283 (Constantinople as once on test networks).
    Constantinople,
    /// Constantinople without EIP-1283.
    Petersburg,
    /// EIP-152, 1108, 1344, 1884, 2028, 2200.
    Istanbul,
    /// EIP-2565, 2718, 2929, 2930.
    Berlin,
    /// EIP-1559, 3198, 3529, 3541.
    London,
    /// PREVRANDAO instead of DIFFICULTY (EIP-4399).
    Paris,
    /// EIP-3651, 3855, 3860.
    Shanghai,
    /// EIP-1153, 4844, 5656, 6780, 7516.
    Cancun,
    /// EIP-2537, 2935, 7623, 7702.
    Prague,
    /// EIP-7823, 7825, 7883, 7939, 7951.
    Osaka,
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The chain id and the fork schedule, as genesis fixed them for every member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSpec {
    chain_id: u64,
    /// (first height, fork), by height: forks that geth activates by block number.
    by_height: Vec<(u64, Fork)>,
    /// (first timestamp in seconds, fork): forks that geth activates by time.
    by_time: Vec<(u64, Fork)>,
}

impl ChainSpec {
    /// All of a fork's rules from genesis on.
    pub fn with_fork(chain_id: u64, fork: Fork) -> Self {
        Self {
            chain_id,
            by_height: vec![(0, fork)],
            by_time: Vec::new(),
        }
    }

    /// Reads the schedule of a geth `config` section. A section that names no fork at all means
    /// Prague from genesis on, the default of this chain; one that names some means these, as in geth.
    pub fn from_config(config: &ChainConfig) -> Self {
        let heights = [
            (config.homestead_block, Fork::Homestead),
            (config.eip150_block, Fork::Tangerine),
            (
                config.eip158_block.or(config.eip155_block),
                Fork::SpuriousDragon,
            ),
            (config.byzantium_block, Fork::Byzantium),
            (config.constantinople_block, Fork::Constantinople),
            (
                config.petersburg_block.or(config.constantinople_block),
                Fork::Petersburg,
            ),
            (config.istanbul_block, Fork::Istanbul),
            (config.berlin_block, Fork::Berlin),
            (config.london_block, Fork::London),
            (
                config.merge_netsplit_block.or_else(|| {
                    config
                        .terminal_total_difficulty
                        .filter(|d| d.is_zero())
                        .map(|_| 0)
                }),
                Fork::Paris,
            ),
        ];
        let times = [
            (config.shanghai_time, Fork::Shanghai),
            (config.cancun_time, Fork::Cancun),
            (config.prague_time, Fork::Prague),
            (config.osaka_time, Fork::Osaka),
        ];
        let scheduled = |(at, fork): (Option<u64>, Fork)| at.map(|at| (at, fork));
        let by_height: Vec<_> = heights.into_iter().filter_map(scheduled).collect();
        let by_time: Vec<_> = times.into_iter().filter_map(scheduled).collect();
        if by_height.is_empty() && by_time.is_empty() {
            return Self::with_fork(config.chain_id, Fork::Prague);
        }
        Self {
            chain_id: config.chain_id,
            by_height,
            by_time,
        }
    }

    /// The chain id of EIP-155.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The rules for the block at `height` with `timestamp` (seconds).
    pub fn fork_at(&self, height: u64, timestamp: u64) -> Fork {
        let latest = |schedule: &[(u64, Fork)], now: u64| {
            schedule
                .iter()
                .filter(|(from, _)| *from <= now)
                .map(|(_, fork)| *fork)
                .max()
        };
        latest(&self.by_time, timestamp)
            .max(latest(&self.by_height, height))
            .unwrap_or(Fork::Frontier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> ChainSpec {
        ChainSpec::from_config(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_config_without_forks_means_prague() {
        assert_eq!(spec(r#"{"chainId": 7}"#).fork_at(0, 0), Fork::Prague);
    }

    #[test]
    fn forks_activate_by_height_and_by_time_as_in_geth() {
        let spec = spec(
            r#"{"chainId": 7, "homesteadBlock": 0, "berlinBlock": 5, "londonBlock": 10,
                "shanghaiTime": 100, "cancunTime": 200}"#,
        );
        assert_eq!(spec.fork_at(0, 0), Fork::Homestead);
        assert_eq!(spec.fork_at(5, 0), Fork::Berlin);
        assert_eq!(spec.fork_at(10, 99), Fork::London);
        assert_eq!(spec.fork_at(10, 100), Fork::Shanghai);
        assert_eq!(spec.fork_at(11, 1_000), Fork::Cancun);
    }
}
