//! Filters that a client asks again and again for what is new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{B256, U128};
use jsonrpsee::server::RegisterMethodError;
use parking_lot::Mutex;
use quorate_pool::PoolEvent;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::args::Args;
use super::logs::{LogFilter, OnFull, Side, search, search_all};
use super::methods::{Module, method};
use super::view::{Json, json};
use crate::RpcError;
use crate::node::Node;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_newFilter", new_filter)?;
    method(module, "eth_newBlockFilter", new_block_filter)?;
    method(
        module,
        "eth_newPendingTransactionFilter",
        new_pending_filter,
    )?;
    method(module, "eth_getFilterChanges", changes)?;
    method(module, "eth_getFilterLogs", filter_logs)?;
    method(module, "eth_uninstallFilter", uninstall)
}

/// All filters of this server. Block and log filters hold a height; what is new is read from the chain.
#[derive(Debug)]
pub(crate) struct Filters {
    max: usize,
    lifetime: Duration,
    by_id: Mutex<BTreeMap<U128, Entry>>,
}

#[derive(Debug)]
struct Entry {
    used: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Blocks {
        next: u64,
    },
    Logs {
        filter: Arc<LogFilter>,
        next: Next,
    },
    /// The pool's events since then; a client that asks too seldom misses the oldest.
    Pending {
        events: broadcast::Receiver<PoolEvent>,
    },
}

/// The first blocks whose logs a filter has not returned. Private execution may be behind the chain: public logs do not wait for
/// it, and private ones follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Next {
    public: u64,
    private: u64,
}

impl Filters {
    pub(crate) fn new(max: usize, lifetime: Duration) -> Self {
        Self {
            max,
            lifetime,
            by_id: Mutex::default(),
        }
    }

    fn add(&self, kind: Kind) -> Result<U128, RpcError> {
        let mut by_id = self.by_id.lock();
        by_id.retain(|_, entry| entry.used.elapsed() < self.lifetime);
        if by_id.len() >= self.max {
            metrics::counter!("quorate_rpc_refused_total", "limit" => "filters_max").increment(1);
            return Err(RpcError::Limit {
                what: "filters",
                max: self.max as u64,
                unit: "at the same time",
            });
        }
        // Not to be guessed: whoever knows the id takes what is new.
        let id = U128::from(rand::random::<u128>());
        by_id.insert(
            id,
            Entry {
                used: Instant::now(),
                kind,
            },
        );
        Ok(id)
    }

    fn with<T>(&self, id: U128, work: impl FnOnce(&mut Kind) -> T) -> Result<T, RpcError> {
        let mut by_id = self.by_id.lock();
        by_id.retain(|_, entry| entry.used.elapsed() < self.lifetime);
        let entry = by_id.get_mut(&id).ok_or(RpcError::UnknownFilter)?;
        entry.used = Instant::now();
        Ok(work(&mut entry.kind))
    }

    fn remove(&self, id: U128) -> bool {
        self.by_id.lock().remove(&id).is_some()
    }
}

async fn new_filter(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let filter: LogFilter = args.required("filter")?;
    args.end()?;
    filter.check(&node)?;
    if filter.block_hash.is_some() {
        return Err(RpcError::argument(
            "filter",
            "a filter for what is to come cannot name a blockHash",
        ));
    }
    let next = node.head() + 1;
    json(&node.filters.add(Kind::Logs {
        filter: Arc::new(filter),
        next: Next {
            public: next,
            private: next,
        },
    })?)
}

async fn new_block_filter(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&node.filters.add(Kind::Blocks {
        next: node.head() + 1,
    })?)
}

async fn new_pending_filter(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    // geth's extension: whole transactions. Over polling it is not offered.
    if args.optional("full")? == Some(true) {
        return Err(RpcError::argument(
            "full",
            "only hashes are offered here, subscribe for whole transactions",
        ));
    }
    args.end()?;
    json(&node.filters.add(Kind::Pending {
        events: node.ctx.pool.subscribe(),
    })?)
}

async fn uninstall(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let id = args.required("filter")?;
    args.end()?;
    json(&node.filters.remove(id))
}

/// What there is to do outside the lock.
enum Todo {
    Blocks { first: u64, last: u64 },
    Logs { filter: Arc<LogFilter>, next: Next },
    Pending(Vec<B256>),
}

async fn changes(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let id: U128 = args.required("filter")?;
    args.end()?;
    let head = node.head();
    let config = &node.ctx.config;
    let todo = node.filters.with(id, |kind| match kind {
        Kind::Blocks { next } => {
            // Taken here, so that two questions at once do not get the same blocks.
            let first = *next;
            let last = head.min(first.saturating_add(config.log_blocks_max - 1));
            *next = first.max(last + 1);
            Todo::Blocks { first, last }
        }
        Kind::Logs { filter, next } => Todo::Logs {
            filter: Arc::clone(filter),
            next: *next,
        },
        Kind::Pending { events } => Todo::Pending(drain(events, config.log_results_max)),
    })?;
    match todo {
        Todo::Pending(hashes) => json(&hashes),
        Todo::Blocks { first, last } => {
            let mut hashes = Vec::new();
            for height in first..=last {
                hashes.push(
                    node.block(height)
                        .await?
                        .ok_or(RpcError::UnknownBlock)?
                        .hash(),
                );
            }
            json(&hashes)
        }
        Todo::Logs { filter, next } => {
            let mut now = next;
            let mut logs = Vec::new();
            now.public =
                new_logs(&node, &filter, next.public, head, Side::Public, &mut logs).await?;
            if let Some(privacy) = &node.ctx.privacy {
                let reached = head.min(privacy.watch_status().borrow().cursor);
                now.private = new_logs(
                    &node,
                    &filter,
                    next.private,
                    reached,
                    Side::Private,
                    &mut logs,
                )
                .await?;
            }
            // Another question may have been answered meanwhile: then these logs were in its answer.
            let ours = node.filters.with(id, |kind| match kind {
                Kind::Logs { next: kept, .. } if *kept == next => {
                    *kept = now;
                    true
                }
                _ => false,
            })?;
            if ours {
                json(&logs)
            } else {
                json::<[B256]>(&[])
            }
        }
    }
}

/// Adds the logs of one side from `first` on, at most to `reached`; returns where the next question begins.
async fn new_logs(
    node: &Arc<Node>,
    filter: &Arc<LogFilter>,
    first: u64,
    reached: u64,
    side: Side,
    logs: &mut Vec<Json>,
) -> Result<u64, RpcError> {
    let span = node.ctx.config.log_blocks_max - 1;
    let last = reached.min(first.saturating_add(span));
    let (from, to) = bounds(filter);
    let (lowest, highest) = (first.max(from), last.min(to));
    if lowest > highest {
        return Ok(first.max(last + 1));
    }
    let filter = Arc::clone(filter);
    let found = search(node, filter, lowest, highest, OnFull::Pause, side).await?;
    logs.extend(found.logs);
    let through = if found.through == highest {
        last
    } else {
        found.through
    };
    Ok(first.max(through + 1))
}

/// The heights that a filter names in numbers.
fn bounds(filter: &LogFilter) -> (u64, u64) {
    use alloy_eips::BlockNumberOrTag::Number;
    let from = match filter.from {
        Some(Number(height)) => height,
        _ => 0,
    };
    let to = match filter.to {
        Some(Number(height)) => height,
        _ => u64::MAX,
    };
    (from, to)
}

fn drain(events: &mut broadcast::Receiver<PoolEvent>, max: usize) -> Vec<B256> {
    let mut hashes = Vec::new();
    while hashes.len() < max {
        match events.try_recv() {
            Ok(PoolEvent::Admitted { transactions, .. }) => {
                hashes.extend(transactions.iter().map(|transaction| transaction.hash()));
            }
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    hashes
}

/// Everything that a log filter matches, not only what is new.
async fn filter_logs(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let id: U128 = args.required("filter")?;
    args.end()?;
    let filter = node.filters.with(id, |kind| match kind {
        Kind::Logs { filter, .. } => Some(Arc::clone(filter)),
        Kind::Blocks { .. } | Kind::Pending { .. } => None,
    })?;
    let filter = filter.ok_or(RpcError::UnknownFilter)?;
    match filter.resolve(&node).await? {
        Some((first, last)) => json(&search_all(&node, filter, first, last).await?.logs),
        None => json::<[B256]>(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_counted_and_forgotten_in_time() {
        let filters = Filters::new(2, Duration::from_secs(3_600));
        let first = filters.add(Kind::Blocks { next: 1 }).unwrap();
        let second = filters.add(Kind::Blocks { next: 1 }).unwrap();
        assert_ne!(first, second);
        assert!(matches!(
            filters.add(Kind::Blocks { next: 1 }),
            Err(RpcError::Limit { max: 2, .. })
        ));
        assert!(filters.remove(first));
        assert!(!filters.remove(first));
        assert_eq!(filters.with(first, |_| ()), Err(RpcError::UnknownFilter));

        let short = Filters::new(1, Duration::ZERO);
        let id = short.add(Kind::Blocks { next: 1 }).unwrap();
        assert_eq!(short.with(id, |_| ()), Err(RpcError::UnknownFilter));
        assert!(short.add(Kind::Blocks { next: 1 }).is_ok());
    }
}
