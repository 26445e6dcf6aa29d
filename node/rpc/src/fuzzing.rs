//! Doors for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API: the servers without their
//! sockets, and decoders by themselves.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::json::private::{PARTIES_MAX, PrivateFields};
use crate::node::Node;
pub use crate::third_party::fuzzing::third_party;
use crate::{Acknowledgements, RpcContext, ServeError};

/// A server as a function: of the body of a POST for JSON-RPC, of a path and a message for gRPC. `None` if it did not answer.
pub type Asked<Q, A> = Box<dyn Fn(Q) -> BoxFuture<'static, Option<A>> + Send + Sync>;

/// Both servers.
#[allow(missing_debug_implementations, reason = "functions")]
pub struct Doors {
    /// HTTP status and body of an answer of JSON-RPC.
    pub json: Asked<Bytes, (u16, Bytes)>,
    /// The answer of a method that answers once.
    pub grpc: Asked<(&'static str, Bytes), Result<(), tonic::Status>>,
}

impl Doors {
    /// Makes them as the servers themselves do. Inside a tokio runtime.
    ///
    /// # Errors
    /// [`ServeError`] if the settings are wrong.
    pub fn open(mut context: RpcContext) -> Result<Self, ServeError> {
        context.config = context.config.validated().map_err(ServeError::Config)?;
        let node = Node::new(context, CancellationToken::new());
        Ok(Self {
            json: crate::json::fuzzing::json_rpc(&node)?,
            grpc: crate::grpc::fuzzing::grpc(&node),
        })
    }
}

/// The fields of a JSON-RPC request that make it a private one. True if it is one.
#[must_use]
pub fn private_arguments(bytes: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<Box<RawValue>>(bytes) else {
        return false;
    };
    let Ok(fields) = PrivateFields::read("transaction", &request) else {
        return false;
    };
    let _form = fields.form().is_ok();
    match fields.arguments() {
        Ok(Some(arguments)) => {
            assert!(arguments.private_for.len() <= PARTIES_MAX);
            assert!(arguments.mandatory_for.len() <= PARTIES_MAX);
            if let Acknowledgements::Named(keys) = &arguments.acknowledgements {
                assert!((1..=PARTIES_MAX).contains(&keys.len()));
            }
            true
        }
        Ok(None) => {
            // Nothing that somebody marked as private may become public.
            let marked = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
            assert!(fields.private_for.is_none() && !marked(&fields.mandatory_for));
            assert!(
                fields
                    .private_from
                    .as_deref()
                    .unwrap_or_default()
                    .is_empty()
            );
            false
        }
        Err(_refusal) => false,
    }
}

/// For the functions of both servers.
pub(crate) fn boxed<Q, A>(
    ask: impl Fn(Q) -> BoxFuture<'static, Option<A>> + Send + Sync + 'static,
) -> Asked<Q, A> {
    Box::new(ask)
}

/// The node, as both servers hold it.
pub(crate) type Shared = Arc<Node>;
