//! Settings of an exchange.

use std::time::Duration;

use alloy_primitives::B256;
use quorate_enclave::{NodeKey, OutboxConfig, StoreConfig, Suite};

/// Who this node is, and on which network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeIdentity {
    /// The network's chain id.
    pub chain_id: u64,
    /// Hash of the network's genesis block.
    pub genesis_hash: B256,
    /// This node's compressed secp256k1 key.
    pub node: NodeKey,
    /// How the network encrypts payloads.
    pub suite: Suite,
}

/// Settings of an [`Exchange`](crate::Exchange).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeConfig {
    /// Longest time for the acknowledgements that a sender waits for. 1 ms or more.
    pub acknowledge_timeout: Duration,
    /// Longest time for any other request to a member. 1 ms or more.
    pub ask_timeout: Duration,
    /// Most requests of members that are worked on at once; further ones are told to come again. 1 or more.
    pub answers_max: usize,
    /// Most payloads that are being distributed at once; further ones wait, within their time. 1 or more.
    pub distributions_max: usize,
    /// Most bytes of opened payloads that are kept in memory; 0 keeps none.
    pub cache_bytes_max: usize,
    /// How long the sender of a payload with flag 3 may keep others from its contracts while the transaction is not executed.
    pub reservation: Duration,
    /// How often a conflict over a contract with flag 3 is tried again before the caller is told.
    pub conflict_retries: u32,
    /// Pause between two rounds of sending digests.
    pub digest_interval: Duration,
    /// Deliveries of the outbox that are under way at once. 1 or more.
    pub outbox_parallel: usize,
    /// Whether a store that is not complete is completed without being told to, by asking all other members.
    pub resync_by_itself: bool,
    /// The payload store.
    pub store: StoreConfig,
    /// The outbox.
    pub outbox: OutboxConfig,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self {
            acknowledge_timeout: Duration::from_secs(10),
            ask_timeout: Duration::from_secs(10),
            answers_max: 256,
            distributions_max: 256,
            cache_bytes_max: 64 << 20,
            reservation: Duration::from_secs(30),
            conflict_retries: 4,
            digest_interval: Duration::from_millis(500),
            outbox_parallel: 8,
            resync_by_itself: true,
            store: StoreConfig::default(),
            outbox: OutboxConfig::default(),
        }
    }
}

impl ExchangeConfig {
    /// The first setting that is out of its range, with what it may be.
    pub(crate) fn fault(&self) -> Option<(&'static str, &'static str)> {
        let positive = [
            (
                "acknowledge_timeout",
                self.acknowledge_timeout.as_millis() > 0,
            ),
            ("ask_timeout", self.ask_timeout.as_millis() > 0),
            ("answers_max", self.answers_max > 0),
            ("distributions_max", self.distributions_max > 0),
            ("digest_interval", self.digest_interval.as_millis() > 0),
            ("outbox_parallel", self.outbox_parallel > 0),
        ];
        let bad = positive.into_iter().find(|(_, within)| !within);
        bad.map(|(field, _)| (field, "more than zero"))
    }
}
