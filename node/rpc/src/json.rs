//! Ethereum JSON-RPC over HTTP and WebSocket on one port.

mod access;
mod admin;
mod args;
mod blocks;
mod call;
mod fees;
pub(crate) mod filters;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod logs;
mod membership;
pub(crate) mod methods;
mod net;
mod notifications;
pub(crate) mod private;
mod raft;
pub(crate) mod send;
mod state;
mod subscriptions;
mod transactions;
mod txpool;
mod view;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jsonrpsee::server::middleware::rpc::RpcServiceBuilder;
use jsonrpsee::server::{
    BatchRequestConfig, PingConfig, ServerBuilder, ServerConfig, StopHandle, stop_channel,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::feed::BlockFeed;
use crate::node::Node;
use crate::{RpcConfig, RpcContext, ServeError};

/// Pings on quiet WebSocket connections; a client that answers none for three intervals is gone.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Accepting fails when the process has no file descriptors left; trying again at once would only use up a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves JSON-RPC on `listener` until cancelled.
///
/// # Errors
/// [`ServeError`] if the settings are wrong or the chain cannot be read any more.
pub async fn serve_json_rpc(
    mut context: RpcContext,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    context.config = context.config.validated().map_err(ServeError::Config)?;
    let node = Node::new(context, cancel.clone());
    let methods = methods::build(&node)?;
    let config = node.ctx.config.clone();
    let (stop, handle) = stop_channel();
    let http = tower::ServiceBuilder::new()
        .layer(access::AccessLayer::new(&config))
        .layer(access::cors(&config));
    let services = ServerBuilder::with_config(server_config(&config))
        .set_http_middleware(http)
        .set_rpc_middleware(RpcServiceBuilder::new().layer_fn(notifications::Notifications::new))
        .to_service_builder();
    let connections = Arc::new(Semaphore::new(config.connections_max));
    let tasks = TaskTracker::new();
    let feed = BlockFeed::from_now(node.ledger());
    let mut waiters = std::pin::pin!(node.waiters.run(feed));

    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            followed = &mut waiters => {
                followed?;
                break;
            }
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
                        metrics::counter!("quorate_rpc_refused_total", "limit" => "connections_max").increment(1);
                        continue;
                    };
                    let service = services.clone().build(methods.clone(), stop.clone());
                    let served = serve_connection(socket, service, stop.clone(), config.idle_max);
                    tasks.spawn(async move {
                        metrics::gauge!("quorate_rpc_connections", "api" => "json").increment(1.0);
                        served.await;
                        metrics::gauge!("quorate_rpc_connections", "api" => "json").decrement(1.0);
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "JSON-RPC: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if handle.stop().is_err() {
        tracing::debug!("JSON-RPC: no connection was left to stop");
    }
    tasks.close();
    if tokio::time::timeout(config.shutdown_grace, tasks.wait())
        .await
        .is_err()
    {
        tracing::info!(
            connections = tasks.len(),
            "JSON-RPC: connections were cut off at shutdown"
        );
    }
    Ok(())
}

fn server_config(config: &RpcConfig) -> ServerConfig {
    let ping = PingConfig::new()
        .ping_interval(PING_INTERVAL)
        .inactive_limit(PING_INTERVAL * 3)
        .max_failures(1);
    ServerConfig::builder()
        .max_request_body_size(config.request_bytes_max)
        .max_response_body_size(config.response_bytes_max)
        // Sockets are counted where they are accepted, but a WebSocket leaves that count with its upgrade: this counts
        // WebSockets and requests in progress.
        .max_connections(u32::try_from(config.connections_max).unwrap_or(u32::MAX))
        .max_subscriptions_per_connection(config.subscriptions_per_connection_max)
        .set_batch_request_config(BatchRequestConfig::Limit(config.batch_max))
        .set_message_buffer_capacity(config.subscription_queue)
        .enable_ws_ping(ping)
        .set_id_provider(subscriptions::HexIds)
        .build()
}

async fn serve_connection<S, B>(socket: TcpStream, service: S, stop: StopHandle, idle_max: Duration)
where
    S: tower::Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    S::Error: Into<jsonrpsee::core::BoxError>,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<jsonrpsee::core::BoxError>,
{
    // Small answers must not wait for the next packet.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "JSON-RPC: connection lost at once");
        return;
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A request whose header takes longer is no request; between requests this is the idle time.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(idle_max)
        .keep_alive_timeout(PING_INTERVAL);
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(socket), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.shutdown() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "JSON-RPC: connection ended early");
    }
}
