//! Settings and limits of both servers.

use std::time::Duration;

/// A group of JSON-RPC methods that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// The chain, accounts, calls, transactions, filters and subscriptions.
    Eth,
    /// Network id and peer count.
    Net,
    /// Client version and keccak256.
    Web3,
    /// Content of the transaction pool.
    Txpool,
    /// Roles and members, as in Quorum: reading them and changing them. Without it, members are changed over gRPC only.
    Raft,
    /// This node and its peers. `admin_addPeer` can change where a member is looked for, but not who is a member.
    Admin,
    /// Extending private contracts to new parties, as in Quorum.
    QuorumExtension,
}

impl Namespace {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Eth,
        Self::Net,
        Self::Web3,
        Self::Txpool,
        Self::Raft,
        Self::Admin,
        Self::QuorumExtension,
    ];

    /// The prefix of its methods.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eth => "eth",
            Self::Net => "net",
            Self::Web3 => "web3",
            Self::Txpool => "txpool",
            Self::Raft => "raft",
            Self::Admin => "admin",
            Self::QuorumExtension => "quorumExtension",
        }
    }
}

impl std::str::FromStr for Namespace {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|n| n.name() == name)
            .ok_or_else(|| ConfigError {
                field: "namespaces",
                reason: format!(
                    "{name:?} is none of eth, net, web3, txpool, raft, admin, quorumExtension"
                ),
            })
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rpc setting {field}: {reason}")]
pub struct ConfigError {
    /// Which setting.
    pub field: &'static str,
    /// What is allowed.
    pub reason: String,
}

/// Settings and limits of the JSON-RPC and gRPC servers of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcConfig {
    /// JSON-RPC namespaces that are served.
    pub namespaces: Vec<Namespace>,
    /// Host names that HTTP clients may address this node by; `*` allows all. Addresses in numbers are always allowed. A
    /// page in a browser that was led here by a changed DNS answer names another host and is refused.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call (CORS; for WebSocket the `Origin` header): `https://host[:port]`, `*` for all.
    pub cors_origins: Vec<String>,
    /// Open sockets of each server; more are closed at once. At least 1.
    pub connections_max: usize,
    /// Bytes of one JSON-RPC request, batch or WebSocket message. A block-sized batch of transactions should fit.
    pub request_bytes_max: u32,
    /// Bytes of one JSON-RPC response; a larger one is replaced by an error.
    pub response_bytes_max: u32,
    /// Requests in one batch.
    pub batch_max: u32,
    /// An HTTP connection without a request for so long is closed.
    pub idle_max: Duration,
    /// Subscriptions on one WebSocket connection.
    pub subscriptions_per_connection_max: u32,
    /// Messages queued for one WebSocket connection; beyond that its subscriptions wait.
    pub subscription_queue: u32,
    /// A subscription whose message finds no room for so long is ended.
    pub subscription_stall_max: Duration,
    /// Calls, estimates, log queries and the like that run at the same time. They use threads of their own, so this is what
    /// keeps them from taking all cores away from the chain. At least 1.
    pub concurrent_calls: usize,
    /// Reads of old blocks and old state that run at the same time; they wait for the disk rather than use it up.
    pub concurrent_reads: usize,
    /// How long a call or read waits for its turn before it is refused.
    pub turn_wait_max: Duration,
    /// Most gas that a call may use: bounds the time of one call.
    pub call_gas_max: u64,
    /// What `eth_gasPrice` says and `eth_sendTransaction` offers, in wei: the lowest price that the pool accepts.
    pub gas_price: u128,
    /// Blocks that one log query may span.
    pub log_blocks_max: u64,
    /// Logs that one query may return.
    pub log_results_max: usize,
    /// Addresses and topics that one log filter may name.
    pub log_terms_max: usize,
    /// Time that one log query may take.
    pub log_time_max: Duration,
    /// Filters (`eth_newFilter` and the like) that exist at the same time.
    pub filters_max: usize,
    /// A filter that is not asked for so long is forgotten.
    pub filter_lifetime: Duration,
    /// Transactions that `txpool_content` and `txpool_inspect` list.
    pub pool_content_max: usize,
    /// How long `SubmitTransaction` with `wait`, and `eth_sendRawTransactionSync`, wait at most.
    pub submit_wait_max: Duration,
    /// Clients that wait for a transaction to be in a block, over all connections.
    pub waiters_max: usize,
    /// Private transactions that are being distributed at the same time, over all connections. Each holds its payload in memory.
    /// At least 1.
    pub private_sends_max: usize,
    /// Committed entries that this node may still have to import and count as synced.
    pub sync_lag_max: u64,
    /// Bytes of one gRPC request message.
    pub grpc_request_bytes_max: usize,
    /// Bytes of one gRPC response message: a full block has to fit.
    pub grpc_response_bytes_max: usize,
    /// Concurrent requests on one gRPC connection.
    pub grpc_streams_max: u32,
    /// Pings on quiet gRPC connections, in this interval; one without an answer for as long again is closed.
    pub grpc_keep_alive: Duration,
    /// When stopping, open requests get so long to finish.
    pub shutdown_grace: Duration,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            namespaces: Namespace::ALL.to_vec(),
            allowed_hosts: vec!["localhost".into()],
            cors_origins: Vec::new(),
            connections_max: 2_048,
            request_bytes_max: 8 << 20,
            response_bytes_max: 32 << 20,
            batch_max: 1_000,
            idle_max: Duration::from_secs(120),
            subscriptions_per_connection_max: 128,
            subscription_queue: 1_024,
            subscription_stall_max: Duration::from_secs(10),
            concurrent_calls: std::thread::available_parallelism().map_or(2, usize::from),
            concurrent_reads: 8,
            turn_wait_max: Duration::from_secs(5),
            call_gas_max: 50_000_000,
            gas_price: 0,
            log_blocks_max: 10_000,
            log_results_max: 20_000,
            log_terms_max: 1_000,
            log_time_max: Duration::from_secs(10),
            filters_max: 1_024,
            filter_lifetime: Duration::from_secs(5 * 60),
            pool_content_max: 5_000,
            submit_wait_max: Duration::from_secs(60),
            waiters_max: 16_384,
            private_sends_max: 256,
            sync_lag_max: 64,
            grpc_request_bytes_max: 4 << 20,
            grpc_response_bytes_max: 32 << 20,
            grpc_streams_max: 1_024,
            grpc_keep_alive: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl RpcConfig {
    /// Everything that is out of range, at once.
    ///
    /// # Errors
    /// One [`ConfigError`] per fault.
    pub fn validated(self) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let at_least_one = [
            ("connections_max", self.connections_max),
            ("concurrent_calls", self.concurrent_calls),
            ("concurrent_reads", self.concurrent_reads),
            ("subscription_queue", self.subscription_queue as usize),
            ("grpc_streams_max", self.grpc_streams_max as usize),
            ("waiters_max", self.waiters_max),
            ("private_sends_max", self.private_sends_max),
        ];
        for (field, value) in at_least_one {
            if value == 0 {
                faults.push(ConfigError {
                    field,
                    reason: "must be at least 1".into(),
                });
            }
        }
        // Tokio's semaphores cannot hold more.
        for (field, value) in at_least_one {
            if value > tokio::sync::Semaphore::MAX_PERMITS {
                faults.push(ConfigError {
                    field,
                    reason: "is too large".into(),
                });
            }
        }
        if self.call_gas_max < 21_000 {
            let reason = format!(
                "{} is below 21000, what the smallest transaction needs",
                self.call_gas_max
            );
            faults.push(ConfigError {
                field: "call_gas_max",
                reason,
            });
        }
        for (field, value) in [
            ("request_bytes_max", self.request_bytes_max as usize),
            ("response_bytes_max", self.response_bytes_max as usize),
            ("grpc_request_bytes_max", self.grpc_request_bytes_max),
            ("grpc_response_bytes_max", self.grpc_response_bytes_max),
        ] {
            if value < 4_096 {
                faults.push(ConfigError {
                    field,
                    reason: format!("{value} is below 4096 bytes"),
                });
            }
        }
        for origin in &self.cors_origins {
            if origin != "*" && http::HeaderValue::from_str(origin).is_err() {
                let reason = format!("{origin:?} cannot stand in an HTTP header");
                faults.push(ConfigError {
                    field: "cors_origins",
                    reason,
                });
            }
        }
        if faults.is_empty() {
            Ok(self)
        } else {
            Err(faults)
        }
    }

    pub(crate) fn serves(&self, namespace: Namespace) -> bool {
        self.namespaces.contains(&namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(RpcConfig::default().validated(), Ok(RpcConfig::default()));
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let config = RpcConfig {
            connections_max: 0,
            call_gas_max: 20_999,
            cors_origins: vec!["https://ok".into(), "bad\norigin".into()],
            ..RpcConfig::default()
        };
        let fields: Vec<_> = config
            .validated()
            .unwrap_err()
            .into_iter()
            .map(|e| e.field)
            .collect();
        assert_eq!(fields, ["connections_max", "call_gas_max", "cors_origins"]);
    }

    #[test]
    fn a_namespace_is_found_by_its_name_only() {
        for namespace in Namespace::ALL {
            assert_eq!(namespace.name().parse(), Ok(namespace));
        }
        assert!(
            "debug"
                .parse::<Namespace>()
                .unwrap_err()
                .to_string()
                .contains("namespaces")
        );
    }
}
