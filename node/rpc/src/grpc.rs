//! The gRPC services `quorate.v1.Ledger`, `quorate.v1.Membership` and `quorate.v1.Privacy`, with health and reflection.

mod convert;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod incoming;
mod membership;
mod privacy;
mod private_submission;
mod service;
mod submissions;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use quorate_proto::v1;
use quorate_proto::v1::ledger_server::LedgerServer;
use quorate_proto::v1::membership_server::MembershipServer;
use quorate_proto::v1::privacy_server::PrivacyServer;

use crate::feed::BlockFeed;
use crate::node::Node;
use crate::{RpcContext, ServeError};
use membership::MembershipService;
use privacy::PrivacyService;
use service::LedgerService;

/// Bytes that a client may send on one stream before it must wait for us. Streams of transactions are the largest.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Serves gRPC on `listener` until cancelled.
///
/// # Errors
/// [`ServeError`] if the settings are wrong, the server fails, or the chain cannot be read any more.
pub async fn serve_grpc(
    mut context: RpcContext,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    context.config = context.config.validated().map_err(ServeError::Config)?;
    let node = Node::new(context, cancel.clone());
    let config = &node.ctx.config;

    let ledger = LedgerServer::new(LedgerService::new(node.clone()))
        .max_decoding_message_size(config.grpc_request_bytes_max)
        .max_encoding_message_size(config.grpc_response_bytes_max);
    let membership = MembershipServer::new(MembershipService::new(node.clone()))
        .max_decoding_message_size(config.grpc_request_bytes_max)
        .max_encoding_message_size(config.grpc_response_bytes_max);
    let privacy = PrivacyServer::new(PrivacyService::new(node.clone()))
        .max_decoding_message_size(config.grpc_request_bytes_max)
        .max_encoding_message_size(config.grpc_response_bytes_max);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<LedgerServer<LedgerService>>().await;
    reporter
        .set_serving::<MembershipServer<MembershipService>>()
        .await;
    reporter
        .set_serving::<PrivacyServer<PrivacyService>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let served = Server::builder()
        .max_concurrent_streams(config.grpc_streams_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(config.grpc_keep_alive))
        .http2_keepalive_timeout(Some(config.grpc_keep_alive))
        .add_service(ledger)
        .add_service(membership)
        .add_service(privacy)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // Older tools ask for this one only.
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(
            incoming::incoming(listener, config.connections_max),
            cancel.clone().cancelled_owned(),
        );
    let feed = BlockFeed::from_now(node.ledger());
    let followed = async {
        node.waiters.run(feed).await?;
        // The chain has ended before we were told to stop: it is about to happen.
        cancel.cancelled().await;
        Ok::<(), ServeError>(())
    };
    let grace = async {
        cancel.cancelled().await;
        tokio::time::sleep(config.shutdown_grace).await;
    };
    tokio::select! {
        served = served => served?,
        Err(error) = followed => return Err(error),
        () = grace => tracing::info!("gRPC: connections were cut off at shutdown"),
    }
    Ok(())
}
