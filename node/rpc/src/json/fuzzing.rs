//! See the crate's `fuzzing.rs`.

use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use jsonrpsee::server::middleware::rpc::RpcServiceBuilder;
use jsonrpsee::server::{ServerBuilder, stop_channel};
use tower::Service as _;

use super::{access, methods, notifications, server_config};
use crate::ServeError;
use crate::fuzzing::{Asked, Shared, boxed};

/// All that a request passes behind the connection.
pub(crate) fn json_rpc(node: &Shared) -> Result<Asked<Bytes, (u16, Bytes)>, ServeError> {
    let methods = methods::build(node)?;
    let config = node.ctx.config.clone();
    let (stop, handle) = stop_channel();
    let http = tower::ServiceBuilder::new()
        .layer(access::AccessLayer::new(&config))
        .layer(access::cors(&config));
    let services = ServerBuilder::with_config(server_config(&config))
        .set_http_middleware(http)
        .set_rpc_middleware(RpcServiceBuilder::new().layer_fn(notifications::Notifications::new))
        .to_service_builder();
    Ok(boxed(move |body: Bytes| {
        // Lives as long as the door.
        debug_assert!(!handle.is_stopped());
        let mut service = services.clone().build(methods.clone(), stop.clone());
        let request = http::Request::post("/")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("content-length", body.len())
            .body(Full::new(body));
        async move {
            let response = service.call(request.ok()?).await.ok()?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some((head.status.as_u16(), body))
        }
        .boxed()
    }))
}
