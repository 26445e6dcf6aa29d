//! Subscriptions need a connection that stays: over plain HTTP they are refused, with a reason.

use std::future::Future;

use futures::future::{Either, ready};
use jsonrpsee::server::MethodResponse;
use jsonrpsee::server::middleware::rpc::{Batch, Notification, Request, RpcServiceT};

use super::access::OverWebSocket;
use crate::RpcError;

/// Looks at each request before the method does.
#[derive(Debug, Clone)]
pub(crate) struct Notifications<S>(pub(crate) S);

impl<S> RpcServiceT for Notifications<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse>,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = S::NotificationResponse;
    type BatchResponse = S::BatchResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let subscribes = matches!(request.method.as_ref(), "eth_subscribe" | "eth_unsubscribe");
        if subscribes && request.extensions.get::<OverWebSocket>().is_none() {
            let refused = MethodResponse::error(request.id, RpcError::NoNotifications.into_json());
            return Either::Left(ready(refused.with_extensions(request.extensions)));
        }
        Either::Right(self.0.call(request))
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        self.0.batch(batch)
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        self.0.notification(notification)
    }
}
