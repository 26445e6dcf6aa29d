//! The table of methods, and what happens around each of them.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use jsonrpsee::RpcModule;
use jsonrpsee::server::RegisterMethodError;

use super::args::Args;
use super::view::{Json, json};
use super::{
    admin, blocks, call, fees, filters, logs, membership, net, private, raft, send, state,
    subscriptions, transactions, txpool,
};
use crate::node::Node;
use crate::{Namespace, RpcError};

/// Methods by name, over the node.
pub(crate) type Module = RpcModule<Node>;

/// All methods of the namespaces that are switched on.
pub(crate) fn build(node: &Arc<Node>) -> Result<Module, RegisterMethodError> {
    let mut module = RpcModule::from_arc(Arc::clone(node));
    let config = &node.ctx.config;
    if config.serves(Namespace::Eth) {
        blocks::register(&mut module)?;
        transactions::register(&mut module)?;
        state::register(&mut module)?;
        call::register(&mut module)?;
        send::register(&mut module)?;
        private::register(&mut module)?;
        fees::register(&mut module)?;
        logs::register(&mut module)?;
        filters::register(&mut module)?;
        subscriptions::register(&mut module)?;
    }
    if config.serves(Namespace::Net) {
        net::register_net(&mut module)?;
    }
    if config.serves(Namespace::Web3) {
        net::register_web3(&mut module)?;
    }
    if config.serves(Namespace::Txpool) {
        txpool::register(&mut module)?;
    }
    if config.serves(Namespace::Raft) {
        raft::register(&mut module)?;
        membership::register(&mut module)?;
    }
    if config.serves(Namespace::Admin) {
        admin::register(&mut module)?;
    }
    if config.serves(Namespace::QuorumExtension) {
        private::register_extension(&mut module)?;
    }
    method(&mut module, "rpc_modules", modules)?;
    Ok(module)
}

/// Adds a method: parses its parameters, counts it, measures it and translates its error.
pub(crate) fn method<F, Fut>(
    module: &mut Module,
    name: &'static str,
    handler: F,
) -> Result<(), RegisterMethodError>
where
    F: Fn(Arc<Node>, Args) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<Json, RpcError>> + Send + 'static,
{
    module.register_async_method(name, move |params, node, _| async move {
        // A batch is answered without a pause: let the others on this thread have their turn now and then.
        tokio::task::consume_budget().await;
        let started = Instant::now();
        let result = match Args::of(&params) {
            Ok(args) => handler(node, args).await,
            Err(error) => Err(error),
        };
        observe("json", name, started, result.as_ref().err());
        result.map_err(RpcError::into_json)
    })?;
    Ok(())
}

/// One request, for the metrics. `method` comes from our tables, never from a client.
pub(crate) fn observe(
    api: &'static str,
    method: &'static str,
    started: Instant,
    error: Option<&RpcError>,
) {
    metrics::counter!("quorate_rpc_requests_total", "api" => api, "method" => method).increment(1);
    metrics::histogram!("quorate_rpc_seconds", "api" => api, "method" => method)
        .record(started.elapsed().as_secs_f64());
    if let Some(error) = error {
        let code = error.outward().json.to_string();
        metrics::counter!("quorate_rpc_errors_total", "api" => api, "method" => method, "code" => code).increment(1);
    }
}

async fn modules(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let mut versions = serde_json::Map::new();
    for namespace in Namespace::ALL {
        if node.ctx.config.serves(namespace) {
            versions.insert(namespace.name().into(), "1.0".into());
        }
    }
    versions.insert("rpc".into(), "1.0".into());
    json(&versions)
}
