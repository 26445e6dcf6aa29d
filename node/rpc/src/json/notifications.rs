//! Subscriptions need a connection that stays: over plain HTTP they are refused, with a reason. And a subscription can be ended as
//! soon as its client knows its id.

use std::future::Future;
use std::sync::Arc;

use futures::future::{Either, ready};
use jsonrpsee::server::MethodResponse;
use jsonrpsee::server::middleware::rpc::{Batch, Notification, Request, RpcServiceT};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::access::OverWebSocket;
use crate::RpcError;

/// Held (shared) from before the client is told a subscription's id until the subscription is known by it; whoever ends one waits.
///
/// The server library writes the answer first: a client that ends its subscription at once was told that there is none, and went on
/// getting its news.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accepting(Arc<RwLock<()>>);

impl Accepting {
    pub(crate) async fn begin(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().await
    }
}

/// Looks at each request of one connection before the method does.
#[derive(Debug, Clone)]
pub(crate) struct Notifications<S> {
    methods: S,
    accepting: Accepting,
}

impl<S> Notifications<S> {
    pub(crate) fn new(methods: S) -> Self {
        let accepting = Accepting::default();
        Self { methods, accepting }
    }
}

impl<S> RpcServiceT for Notifications<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse> + Clone + Send + Sync + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = S::NotificationResponse;
    type BatchResponse = S::BatchResponse;

    fn call<'a>(
        &self,
        mut request: Request<'a>,
    ) -> impl Future<Output = MethodResponse> + Send + 'a {
        let ends = match request.method.as_ref() {
            "eth_subscribe" => false,
            "eth_unsubscribe" => true,
            _ => return Either::Left(Either::Left(self.methods.call(request))),
        };
        if request.extensions.get::<OverWebSocket>().is_none() {
            let refused = MethodResponse::error(request.id, RpcError::NoNotifications.into_json());
            let refused = refused.with_extensions(request.extensions);
            return Either::Left(Either::Right(ready(refused)));
        }
        let accepting = self.accepting.clone();
        if !ends {
            request.extensions.insert(accepting);
            return Either::Left(Either::Left(self.methods.call(request)));
        }
        let methods = self.methods.clone();
        Either::Right(async move {
            drop(accepting.0.write().await);
            methods.call(request).await
        })
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        self.methods.batch(batch)
    }

    fn notification<'a>(
        &self,
        notification: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        self.methods.notification(notification)
    }
}
