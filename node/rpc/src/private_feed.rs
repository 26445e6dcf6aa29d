//! What private execution has done, as a stream: every block's records from a height on, in order, without gaps.

use std::sync::Arc;

use quorate_privacy::{PrivateRecord, PrivateStatus};
use tokio::sync::watch;

use crate::node::Node;
use crate::{PrivacyApi, RpcError};

/// Records that are read at once. Each holds its payload in the clear.
const PAGE: usize = 32;

/// Reads by height, woken by the cursor of private execution. Without privacy it never yields anything.
#[derive(Debug)]
pub(crate) struct PrivateFeed {
    source: Option<(Arc<dyn PrivacyApi>, watch::Receiver<PrivateStatus>)>,
    next: u64,
}

impl PrivateFeed {
    /// A feed whose first block is the one at `next`.
    pub(crate) fn from(node: &Node, next: u64) -> Self {
        let privacy = node.ctx.privacy.as_ref();
        Self {
            source: privacy.map(|privacy| (Arc::clone(privacy), privacy.watch_status())),
            next,
        }
    }

    /// The next records, of whole blocks, as soon as there are some. May be dropped while it waits without losing any.
    ///
    /// # Errors
    /// That of the store.
    pub(crate) async fn next(&mut self) -> Result<Vec<PrivateRecord>, RpcError> {
        let Some((privacy, status)) = &mut self.source else {
            return std::future::pending().await;
        };
        loop {
            let cursor = status.borrow_and_update().cursor;
            if cursor < self.next {
                if status.changed().await.is_err() {
                    // Private execution has ended: what is public goes on.
                    return std::future::pending().await;
                }
                continue;
            }
            let (first, reader) = (self.next, Arc::clone(privacy));
            let read = tokio::task::spawn_blocking(move || reader.records(first, cursor, PAGE));
            let records = read.await.map_err(RpcError::internal)??;
            // A full page ends with a whole block; another one has everything up to the cursor.
            let full = records.len() >= PAGE;
            let through = records.last().filter(|_| full).map(|record| record.height);
            self.next = through.unwrap_or(cursor).saturating_add(1);
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }
}
