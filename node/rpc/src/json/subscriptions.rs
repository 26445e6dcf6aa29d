//! `eth_subscribe` over WebSocket: news without holes.

use std::sync::Arc;

use alloy_primitives::hex;
use jsonrpsee::Extensions;
use jsonrpsee::core::server::{PendingSubscriptionSink, SubscriptionSink};
use jsonrpsee::core::traits::IdProvider;
use jsonrpsee::server::{RegisterMethodError, SendTimeoutError};
use jsonrpsee::types::SubscriptionId;
use quorate_pool::PoolEvent;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::args::Args;
use super::logs::LogFilter;
use super::methods::Module;
use super::notifications::Accepting;
use super::view::{HeaderView, Json, TransactionView, json};
use crate::RpcError;
use crate::feed::{BlockFeed, FeedError};
use crate::node::Node;
use crate::private_feed::PrivateFeed;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    module.register_subscription(
        "eth_subscribe",
        "eth_subscription",
        "eth_unsubscribe",
        |params, pending, node, extensions| async move {
            match Args::of(&params).and_then(|args| Wanted::of(args, &node)) {
                Ok(wanted) => serve(wanted, pending, node, &extensions).await,
                Err(error) => pending.reject(error.into_json()).await,
            }
        },
    )?;
    Ok(())
}

/// Subscription ids as geth makes them: hexadecimal without leading zeros.
#[derive(Debug)]
pub(crate) struct HexIds;

impl IdProvider for HexIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        let digits = hex::encode(rand::random::<[u8; 16]>());
        let digits = digits.trim_start_matches('0');
        SubscriptionId::Str(format!("0x{}", if digits.is_empty() { "0" } else { digits }).into())
    }
}

enum Wanted {
    Heads,
    Logs(Box<LogFilter>),
    Pending { full: bool },
}

impl Wanted {
    fn of(mut args: Args, node: &Node) -> Result<Self, RpcError> {
        let kind: String = args.required("subscription")?;
        let wanted = match kind.as_str() {
            "newHeads" => Self::Heads,
            "logs" => {
                let filter: LogFilter = args.optional("filter")?.unwrap_or_default();
                filter.check(node)?;
                Self::Logs(Box::new(filter))
            }
            "newPendingTransactions" => Self::Pending {
                full: args.optional("full")?.unwrap_or_default(),
            },
            _ => {
                let reason = format!("{kind:?} is none of newHeads, logs, newPendingTransactions");
                return Err(RpcError::argument("subscription", reason));
            }
        };
        args.end()?;
        Ok(wanted)
    }
}

/// Why a subscription ended on our side.
enum End {
    /// The client has gone, or the node is stopping.
    Quiet,
    /// The client did not read.
    Stalled,
    Failed(RpcError),
}

impl From<RpcError> for End {
    fn from(error: RpcError) -> Self {
        Self::Failed(error)
    }
}

impl From<FeedError> for End {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Ended => Self::Quiet,
            error => Self::Failed(RpcError::internal(error)),
        }
    }
}

async fn serve(
    wanted: Wanted,
    pending: PendingSubscriptionSink,
    node: Arc<Node>,
    extensions: &Extensions,
) {
    // Before the answer: what happens after the client has its id must not be missed.
    let feed = BlockFeed::from_now(node.ledger());
    let private = PrivateFeed::from(&node, feed.next_height());
    let events = node.ctx.pool.subscribe();
    let accepted = {
        let accepting = extensions.get::<Accepting>();
        let _until_it_can_be_ended = match accepting {
            Some(accepting) => Some(accepting.begin().await),
            None => None,
        };
        pending.accept().await
    };
    let Ok(sink) = accepted else {
        return;
    };
    metrics::gauge!("quorate_rpc_subscriptions").increment(1.0);
    let served = async {
        match wanted {
            Wanted::Heads => heads(feed, &sink, &node).await,
            Wanted::Logs(filter) => logs(feed, private, &filter, &sink, &node).await,
            Wanted::Pending { full } => transactions(events, full, &sink, &node).await,
        }
    };
    let end = tokio::select! {
        biased;
        () = sink.closed() => End::Quiet,
        () = node.stop.cancelled() => End::Quiet,
        Err(end) = served => end,
    };
    metrics::gauge!("quorate_rpc_subscriptions").decrement(1.0);
    match end {
        End::Quiet => {}
        End::Stalled => {
            metrics::counter!("quorate_rpc_refused_total", "limit" => "subscription_stall_max")
                .increment(1);
            tracing::debug!(
                connection = sink.connection_id().0,
                "subscription ended: its client does not read"
            );
        }
        End::Failed(error) => {
            tracing::error!(%error, "subscription ended: the chain cannot be read")
        }
    }
}

/// Never ends well.
type Served = Result<std::convert::Infallible, End>;

async fn heads(mut feed: BlockFeed, sink: &SubscriptionSink, node: &Node) -> Served {
    loop {
        let block = feed.next().await?;
        push(sink, json(&HeaderView::of(&block))?, node).await?;
    }
}

/// Public logs as blocks come; those of private contracts when private execution has come to their block, in an order of their own.
async fn logs(
    mut feed: BlockFeed,
    mut private: PrivateFeed,
    filter: &LogFilter,
    sink: &SubscriptionSink,
    node: &Node,
) -> Served {
    loop {
        tokio::select! {
            block = feed.next() => {
                let block = block?;
                for log in filter.logs_of(&block) {
                    push(sink, json(&log)?, node).await?;
                }
            }
            records = private.next() => {
                let records = records?;
                for of_one_block in records.chunk_by(|a, b| a.height == b.height) {
                    let Some(first) = of_one_block.first().filter(|_| filter.may_match_any(of_one_block)) else {
                        continue;
                    };
                    let block = node.block(first.height).await?.ok_or(RpcError::UnknownBlock)?;
                    for log in filter.private_logs_of(&block, of_one_block) {
                        push(sink, json(&log)?, node).await?;
                    }
                }
            }
        }
    }
}

/// Transactions that come to the pool. Only a hint: one that lags misses the oldest.
async fn transactions(
    mut events: broadcast::Receiver<PoolEvent>,
    full: bool,
    sink: &SubscriptionSink,
    node: &Node,
) -> Served {
    loop {
        match events.recv().await {
            Ok(PoolEvent::Admitted { transactions, .. }) => {
                for transaction in transactions.iter() {
                    let message = if full {
                        json(&TransactionView::pending(transaction))
                    } else {
                        json(&transaction.hash())
                    };
                    push(sink, message?, node).await?;
                }
            }
            Err(RecvError::Lagged(missed)) => {
                metrics::counter!("quorate_rpc_pending_missed_total").increment(missed);
            }
            Err(RecvError::Closed) => return Err(End::Quiet),
        }
    }
}

async fn push(sink: &SubscriptionSink, message: Json, node: &Node) -> Result<(), End> {
    match sink
        .send_timeout(message, node.ctx.config.subscription_stall_max)
        .await
    {
        Ok(()) => Ok(()),
        Err(SendTimeoutError::Timeout(_)) => Err(End::Stalled),
        Err(SendTimeoutError::Closed(_)) => Err(End::Quiet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_differ() {
        let (SubscriptionId::Str(a), SubscriptionId::Str(b)) = (HexIds.next_id(), HexIds.next_id())
        else {
            panic!("ids are text");
        };
        assert_ne!(a, b);
        for id in [a, b] {
            let digits = id.strip_prefix("0x").unwrap();
            assert!(!digits.starts_with('0') && digits.len() <= 32);
            assert!(u128::from_str_radix(digits, 16).is_ok());
        }
    }
}
