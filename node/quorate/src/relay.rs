//! Brings transactions that clients gave to this node to the other members: by gossip to all, and directly to
//! the leader, again after every change of leader, so that no transaction hangs on gossip alone.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use quorate_chain::RecoveredTransaction;
use quorate_p2p::{NetworkHandle, RequestError};
use quorate_pool::{PoolEvent, PoolHandle};
use raft_adapter::{RaftHandle, Role};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Transactions in one direct message to the leader.
const FORWARD_COUNT: usize = 512;
/// Bytes of them: below what the network takes in one message.
const FORWARD_BYTES: usize = 6 << 20;
/// What the network adds to each.
const ENVELOPE_BYTES: usize = 8;
/// A leader that does not answer is asked again after this long; its successor is told at once.
const RETRY: Duration = Duration::from_millis(500);
/// Transactions that wait for a leader. What does not fit is still in the pool and goes out with the next
/// change of leader or repetition.
const BACKLOG: usize = 65_536;
/// Uncommitted transactions are offered to the leader again at this pace, against any loss on the way.
const REPEAT: Duration = Duration::from_secs(1);
/// So many of them at once: what a leader with a full pool refused comes again at this rate.
const REPEAT_COUNT: usize = 4_096;

/// Runs until cancelled.
pub async fn run(
    pool: PoolHandle,
    raft: RaftHandle,
    network: NetworkHandle,
    cancel: CancellationToken,
) {
    let mut events = pool.subscribe();
    let mut status = raft.watch();
    let mut backlog: VecDeque<Bytes> = VecDeque::new();
    let mut leader = current_leader(&raft);
    let mut repeat = tokio::time::interval(REPEAT);
    repeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            event = events.recv() => match event {
                Ok(PoolEvent::Admitted { transactions, local: true }) => {
                    let encoded: Vec<Bytes> = encode(&transactions);
                    network.gossip(encoded.clone());
                    queue(&mut backlog, encoded);
                    // Whatever else came meanwhile goes into the same message.
                    while let Ok(PoolEvent::Admitted { transactions, local }) = events.try_recv() {
                        if local {
                            let encoded = encode(&transactions);
                            network.gossip(encoded.clone());
                            queue(&mut backlog, encoded);
                        }
                    }
                }
                Ok(PoolEvent::Admitted { local: false, .. }) => continue,
                Err(RecvError::Lagged(_)) => queue(&mut backlog, encode(&pool.uncommitted(BACKLOG))),
                Err(RecvError::Closed) => return,
            },
            changed = status.changed() => {
                if changed.is_err() { return }
                let now = current_leader(&raft);
                if now == leader { continue }
                leader = now;
                backlog.clear();
                queue(&mut backlog, encode(&pool.uncommitted(BACKLOG)));
            }
            _ = repeat.tick() => {
                if backlog.is_empty() {
                    queue(&mut backlog, encode(&pool.mintable(REPEAT_COUNT)));
                }
            }
        }
        forward(&mut backlog, &raft, &network, &cancel).await;
    }
}

/// Sends the backlog to the leader, if there is one and it is not this node.
async fn forward(
    backlog: &mut VecDeque<Bytes>,
    raft: &RaftHandle,
    network: &NetworkHandle,
    cancel: &CancellationToken,
) {
    while !backlog.is_empty() && !cancel.is_cancelled() {
        let status = raft.status();
        if status.role == Role::Leader {
            // This node's own minter takes them from the pool.
            backlog.clear();
            return;
        }
        // Without a leader the next change of leader brings everything uncommitted.
        let Some(leader) = status.leader else { return };
        let mut bytes = 0;
        let fitting = backlog.iter().take(FORWARD_COUNT).take_while(|tx| {
            bytes += tx.len() + ENVELOPE_BYTES;
            bytes <= FORWARD_BYTES
        });
        // One that is larger than a batch goes alone.
        let count = fitting.count().max(1);
        let batch: Vec<Bytes> = backlog.iter().take(count).cloned().collect();
        let mut changes = raft.watch();
        let sent = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            // The successor is told at once, however long the old leader keeps silent.
            _ = changes.wait_for(|status| status.leader != Some(leader)) => return,
            sent = network.forward(leader.0, batch) => sent,
        };
        match sent {
            Ok(()) => {
                backlog.drain(..count);
            }
            Err(RequestError::TooLarge { .. }) => {
                tracing::warn!(
                    leader = leader.0,
                    "a transaction is too large to be forwarded: it travels by gossip alone"
                );
                backlog.drain(..count);
            }
            Err(e) => {
                metrics::counter!("quorate_relay_forward_failed_total").increment(1);
                tracing::debug!(leader = leader.0, error = %e, "transactions could not be forwarded");
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = tokio::time::sleep(RETRY) => {}
                }
                return;
            }
        }
    }
}

fn current_leader(raft: &RaftHandle) -> Option<u64> {
    raft.status().leader.map(|id| id.0)
}

fn encode(transactions: &[RecoveredTransaction]) -> Vec<Bytes> {
    transactions.iter().map(|tx| tx.encoded().0).collect()
}

fn queue(backlog: &mut VecDeque<Bytes>, transactions: Vec<Bytes>) {
    let room = BACKLOG.saturating_sub(backlog.len());
    backlog.extend(transactions.into_iter().take(room));
}
