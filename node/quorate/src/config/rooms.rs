//! From the node's configuration to that of the rooms, where more than one line is needed.

use quorate_rpc::{Namespace, RpcConfig};

use super::NodeConfig;

impl NodeConfig {
    /// Settings of both servers. Namespaces that do not exist were refused before.
    pub fn rpc_config(&self) -> RpcConfig {
        let defaults = RpcConfig::default();
        let (rpc, grpc) = (&self.rpc, &self.grpc);
        RpcConfig {
            namespaces: rpc
                .namespaces
                .iter()
                .filter_map(|name| name.parse::<Namespace>().ok())
                .collect(),
            allowed_hosts: rpc.allowed_hosts.clone(),
            cors_origins: rpc.cors_origins.clone(),
            connections_max: rpc.connections_max,
            request_bytes_max: rpc.body_bytes_max,
            response_bytes_max: rpc.response_bytes_max,
            batch_max: rpc.batch_max,
            subscriptions_per_connection_max: rpc.subscriptions_per_connection_max,
            concurrent_calls: match rpc.concurrent_calls {
                0 => defaults.concurrent_calls,
                n => n,
            },
            call_gas_max: rpc.call_gas_max,
            gas_price: self.pool.min_gas_price,
            log_blocks_max: rpc.logs_blocks_max,
            log_results_max: rpc.logs_results_max,
            log_time_max: rpc.logs_time_max,
            filters_max: rpc.filters_max,
            filter_lifetime: rpc.filter_lifetime,
            submit_wait_max: rpc.submit_wait_max,
            grpc_request_bytes_max: grpc.request_bytes_max,
            grpc_response_bytes_max: grpc.response_bytes_max,
            grpc_streams_max: grpc.streams_max,
            grpc_keep_alive: grpc.keep_alive,
            ..defaults
        }
    }

    /// The path of a setting that [`RpcConfig`] knows by another name.
    pub(super) fn rpc_path(field: &str) -> String {
        match field {
            "request_bytes_max" => "rpc.body_bytes_max".into(),
            "grpc_request_bytes_max" => "grpc.request_bytes_max".into(),
            "grpc_response_bytes_max" => "grpc.response_bytes_max".into(),
            "grpc_streams_max" => "grpc.streams_max".into(),
            other => format!("rpc.{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_engine::MinterConfig;
    use quorate_kv::SledConfig;
    use quorate_pool::PoolConfig;
    use quorate_state::FlushPolicy;

    use super::*;

    #[test]
    fn our_defaults_are_those_of_the_rooms() {
        let ours = NodeConfig::default();
        assert_eq!(ours.rpc_config(), RpcConfig::default());
        let pool = PoolConfig::default();
        assert_eq!(
            (
                ours.pool.transactions_max,
                ours.pool.bytes_max,
                ours.pool.per_sender_max,
                ours.pool.nonce_window
            ),
            (
                pool.transactions_max,
                pool.bytes_max,
                pool.per_sender_max,
                pool.nonce_window
            )
        );
        assert_eq!(
            (ours.pool.min_gas_price, ours.pool.lifetime),
            (pool.min_gas_price, pool.lifetime)
        );
        let minter = MinterConfig::default();
        assert_eq!(
            (ours.minter.min_interval, ours.minter.pipeline_blocks),
            (minter.min_interval, minter.pipeline_blocks)
        );
        let flush = FlushPolicy::default();
        assert_eq!(
            (ours.state.flush_blocks, ours.state.flush_bytes),
            (flush.blocks, flush.bytes)
        );
        assert_eq!(
            ours.state.cache_bytes,
            SledConfig::default().cache_capacity_bytes
        );
        let raft = raft_adapter::Config::default();
        assert_eq!(
            (
                ours.raft.tick,
                ours.raft.election_ticks,
                ours.raft.heartbeat_ticks,
                ours.raft.trailing_entries
            ),
            (
                raft.tick,
                raft.election_ticks,
                raft.heartbeat_ticks,
                raft.trailing_entries
            )
        );
    }
}
