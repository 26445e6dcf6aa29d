//! The task that mends damaged blocks with what the other members hold.

use std::time::Duration;

use quorate_engine::Ledger;
use tokio_util::sync::CancellationToken;

use crate::network::PeerBlocks;
use crate::snapshots::SnapshotMemory;
use crate::tasks::Tasks;

/// Pause between two looks at what is damaged.
const PACE: Duration = Duration::from_millis(500);
/// After an attempt that failed; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The pause grows no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Starts it. It ends with `stop`; `memory` keeps the stores from being exchanged while it is at work.
pub fn start(
    tasks: &Tasks,
    ledger: Ledger,
    peers: PeerBlocks,
    memory: SnapshotMemory,
    stop: CancellationToken,
) {
    tasks.worker("mend", async move {
        let mut pause = PAUSE_MIN;
        let mut wait = PACE;
        while stop
            .run_until_cancelled(tokio::time::sleep(wait))
            .await
            .is_some()
        {
            let damaged = ledger.damaged();
            metrics::gauge!("quorate_blocks_damaged").set(damaged.len() as f64);
            wait = PACE;
            if damaged.is_empty() {
                pause = PAUSE_MIN;
                continue;
            }
            let (ledger, peers) = (ledger.clone(), peers.clone());
            let (memory, stopped) = (memory.clone(), stop.clone());
            let mending = tokio::task::spawn_blocking(move || {
                let _busy = memory.busy();
                if stopped.is_cancelled() {
                    return Ok(None);
                }
                ledger.mend_one(|height| peers.ask_each(height))
            });
            let Some(mended) = stop.run_until_cancelled(mending).await else {
                return;
            };
            match mended {
                // There may be more.
                Ok(Ok(_)) => (pause, wait) = (PAUSE_MIN, Duration::ZERO),
                Ok(Err(error)) => {
                    tracing::warn!(blocks = damaged.len(), lowest = damaged.first(), %error, again_in = ?pause, "damaged blocks could not be mended");
                    wait = pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => {
                    tracing::error!(%error, "mending damaged blocks panicked");
                    wait = pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    });
}
