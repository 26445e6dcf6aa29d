//! The threads of the engine: importer, flusher, minter.

use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_chain::Sealer;
use quorate_engine::{
    EngineConfig, ExecutedBlocks, Fatal, Flusher, Importer, Ledger, Minter, MinterConfig,
};
use quorate_pool::PoolHandle;
use raft_adapter::{Delivery, RaftHandle};
use tokio_util::sync::CancellationToken;

use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};
use crate::seat::Identity;
use crate::snapshots::Snapshots;
use crate::tasks::Tasks;

/// What the engine's threads are made from.
pub(super) struct EngineParts<'a> {
    pub(super) config: &'a NodeConfig,
    pub(super) identity: &'a Identity,
    pub(super) ledger: &'a Ledger,
    pub(super) pool: &'a PoolHandle,
    pub(super) raft: &'a RaftHandle,
    pub(super) snapshots: &'a Snapshots,
}

impl EngineParts<'_> {
    pub(super) fn start(
        &self,
        tasks: &Tasks,
        deliveries: Receiver<Delivery>,
        front_stop: &CancellationToken,
        threads: &mut Vec<(&'static str, JoinHandle<()>)>,
    ) -> Result<(), Ended> {
        let executed = ExecutedBlocks::default();
        let (flusher_handle, flusher) = Flusher::new(self.ledger.clone(), self.raft.clone());
        let importer = Importer::new(
            EngineConfig {
                evidence_dir: self.config.node.data_dir.join("evidence"),
            },
            self.ledger.clone(),
            self.pool.clone(),
            self.raft.clone(),
            executed.clone(),
            flusher_handle,
            Box::new(self.snapshots.source(&tasks.stop)),
            tasks.stop.clone(),
        );
        threads.push((
            "importer",
            tasks.critical_thread("importer", {
                let tasks = tasks.clone();
                move || match importer.run(&deliveries) {
                    Err(Fatal::Reopen(reason)) => {
                        tasks.reopen(&reason);
                        // Ordering must not find its reader gone before it was told to end.
                        while deliveries.recv().is_ok() {}
                        Ok(())
                    }
                    ended => ended.map_err(fatal),
                }
            })?,
        ));
        threads.push((
            "flusher",
            tasks.critical_thread("flusher", move || flusher.run().map_err(fatal))?,
        ));

        let minter = Minter::new(
            MinterConfig {
                min_interval: self.config.minter.min_interval,
                pipeline_blocks: self.config.minter.pipeline_blocks,
                ..MinterConfig::default()
            },
            self.ledger.clone(),
            self.pool.clone(),
            self.raft.clone(),
            executed,
            Sealer::new(self.identity.key),
            Box::new(unix_seconds),
        );
        let stop = front_stop.clone();
        threads.push((
            "minter",
            tasks.critical_thread("minter", move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .map_err(|e| (Exit::Task, format!("runtime of the minter: {e}")))?;
                runtime.block_on(minter.run(stop)).map_err(fatal)
            })?,
        ));
        Ok(())
    }
}

fn fatal(e: Fatal) -> (Exit, String) {
    let exit = match &e {
        Fatal::Diverged(_) => Exit::Diverged,
        Fatal::Store(_) | Fatal::State(_) | Fatal::StateWrite { .. } | Fatal::Recovery { .. } => {
            Exit::Storage
        }
        Fatal::Reopen(_) | Fatal::Impossible(_) => Exit::Task,
    };
    (exit, e.to_string())
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
