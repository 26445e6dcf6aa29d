//! See the crate's `fuzzing.rs`.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use quorate_proto::v1::ledger_server::LedgerServer;
use quorate_proto::v1::membership_server::MembershipServer;
use quorate_proto::v1::privacy_server::PrivacyServer;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

use super::membership::MembershipService;
use super::privacy::PrivacyService;
use super::service::LedgerService;
use crate::fuzzing::{Asked, Shared, boxed};

/// The services behind the connection.
pub(crate) fn grpc(node: &Shared) -> Asked<(&'static str, Bytes), Result<(), Status>> {
    let most = node.ctx.config.grpc_request_bytes_max;
    let ledger = LedgerServer::new(LedgerService::new(Arc::clone(node)));
    let membership = MembershipServer::new(MembershipService::new(Arc::clone(node)));
    let privacy = PrivacyServer::new(PrivacyService::new(Arc::clone(node)));
    let routes = Routes::new(ledger.max_decoding_message_size(most))
        .add_service(membership.max_decoding_message_size(most))
        .add_service(privacy.max_decoding_message_size(most))
        .prepare();
    boxed(move |(path, message): (&'static str, Bytes)| {
        let mut routes = routes.clone();
        let request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(framed(&message))));
        async move {
            let response = routes.call(request.ok()?).await.ok()?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.ok()?;
            let trailers = body.trailers().and_then(Status::from_header_map);
            let status = trailers.or_else(|| Status::from_header_map(&head.headers))?;
            Some(match status.code() {
                tonic::Code::Ok => Ok(()),
                _ => Err(status),
            })
        }
        .boxed()
    })
}

/// Not compressed, then the length, then the message.
fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put_slice(message);
    body.freeze()
}
