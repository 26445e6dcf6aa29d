//! Opening what is on disk, and mending what can be made anew.

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use quorate_chain::{BlockStore, Genesis, SealedBlock, StoreConfig, StoreError};
use quorate_engine::{Fatal, catch_up_state};
use quorate_kv::{Kv, SledConfig, SledKv, quarantine};
use quorate_state::{FlushPolicy, OpenError, StateConfig, StateStore};

use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};

/// The stores of one node, at the same height.
pub struct Stores {
    /// Blocks and receipts.
    pub blocks: Arc<BlockStore>,
    /// Accounts and storage.
    pub state: Arc<StateStore>,
}

/// Opens block store and state, and executes again what the state has not on disk. An index or a state that
/// is damaged, or that contradicts the blocks, is moved aside and made anew from the blocks.
///
/// # Errors
/// With the exit code for the supervisor.
pub fn open(config: &NodeConfig, genesis: &Genesis) -> Result<Stores, Ended> {
    let dir = &config.node.data_dir;
    fail_point!("node.stores.open");
    let genesis_block = genesis_block(genesis);
    let index = open_kv(config, &dir.join("index"))?;
    let settings = StoreConfig {
        segment_bytes: config.sync.block_file_bytes,
    };
    let blocks = BlockStore::open_with(settings, &dir.join("blocks"), index, genesis_block)
        .map_err(|e| {
            let exit = match &e {
                StoreError::OtherGenesis { .. } => Exit::DataFolder,
                _ => Exit::Storage,
            };
            Ended {
                exit,
                error: e.into(),
            }
        })?;
    let blocks = Arc::new(blocks);
    match open_state(config, genesis, &blocks) {
        Ok(state) => Ok(Stores { blocks, state }),
        Err(StateTrouble::Rebuild(reason)) if blocks.base() > 1 => {
            drop(blocks);
            begin_anew(config, &reason)?;
            open(config, genesis)
        }
        Err(StateTrouble::Rebuild(reason)) => {
            fail_point!("node.stores.rebuild");
            let path = dir.join("state");
            let aside = quarantine(&path).map_err(|e| Ended {
                exit: Exit::Storage,
                error: e.into(),
            })?;
            tracing::error!(%reason, kept = %aside.display(), "the state on disk cannot be used: building it anew from the blocks");
            metrics::counter!("quorate_state_rebuilds_total").increment(1);
            match open_state(config, genesis, &blocks) {
                Ok(state) => Ok(Stores { blocks, state }),
                Err(StateTrouble::Rebuild(reason)) => Err(Ended {
                    exit: Exit::Storage,
                    error: anyhow!("state built anew: {reason}"),
                }),
                Err(StateTrouble::Final(ended)) => Err(ended),
            }
        }
        Err(StateTrouble::Final(ended)) => Err(ended),
    }
}

/// Block 0.
pub fn genesis_block(genesis: &Genesis) -> SealedBlock {
    SealedBlock::genesis(genesis.header(quorate_state::genesis_state_root(genesis.alloc())))
}

/// The blocks that would explain the state are pruned, so it cannot be made anew from them: moves everything aside, so that this
/// node begins like one that has just joined, with what the others have.
fn begin_anew(config: &NodeConfig, reason: &str) -> Result<(), Ended> {
    tracing::error!(
        reason,
        "the state on disk cannot be used, and the blocks before it are pruned: beginning anew from the other members"
    );
    metrics::counter!("quorate_state_rebuilds_total").increment(1);
    for store in ["state", "index", "blocks"] {
        let aside = quarantine(&config.node.data_dir.join(store)).map_err(|e| Ended {
            exit: Exit::Storage,
            error: e.into(),
        })?;
        tracing::warn!(kept = %aside.display(), "moved aside");
    }
    Ok(())
}

enum StateTrouble {
    /// Moving the state aside and building it from the blocks helps.
    Rebuild(String),
    Final(Ended),
}

fn open_state(
    config: &NodeConfig,
    genesis: &Genesis,
    blocks: &Arc<BlockStore>,
) -> Result<Arc<StateStore>, StateTrouble> {
    let kv = open_kv(config, &config.node.data_dir.join("state")).map_err(StateTrouble::Final)?;
    let settings = StateConfig {
        flush: FlushPolicy {
            blocks: config.state.flush_blocks,
            bytes: config.state.flush_bytes,
            ..FlushPolicy::default()
        },
        ..StateConfig::default()
    };
    let alloc: Vec<_> = genesis
        .alloc()
        .map(|(address, account)| (*address, account.clone()))
        .collect();
    let state = StateStore::open_with(settings, kv, &alloc, blocks.genesis().hash()).map_err(
        |e| match e {
            OpenError::OtherGenesis { .. } => StateTrouble::Final(Ended {
                exit: Exit::DataFolder,
                error: e.into(),
            }),
            other => StateTrouble::Rebuild(other.to_string()),
        },
    )?;
    let state = Arc::new(state);
    // What was on disk must be what the block at that height says.
    let durable = state.durable_height();
    let expected = match blocks.header_at(durable) {
        Err(StoreError::Pruned { below }) => {
            return Err(StateTrouble::Rebuild(format!(
                "it is at height {durable}, blocks are held from {below} on"
            )));
        }
        found => found.map_err(|e| storage(e.into()))?,
    };
    if let Some(header) = expected
        && header.state_root != state.latest().state_root()
    {
        return Err(StateTrouble::Rebuild(format!(
            "its root at height {durable} is not the block's"
        )));
    }
    fail_point!("node.stores.level");
    match catch_up_state(genesis, blocks, &state) {
        Ok(()) => Ok(state),
        Err(Fatal::Recovery { height, reason }) => {
            Err(StateTrouble::Rebuild(format!("block {height}: {reason}")))
        }
        Err(Fatal::Store(StoreError::Pruned { below })) => Err(StateTrouble::Rebuild(format!(
            "it ends below block {below}, the first that is held"
        ))),
        Err(e) => Err(storage(e.into())),
    }
}

fn storage(error: anyhow::Error) -> StateTrouble {
    StateTrouble::Final(Ended {
        exit: Exit::Storage,
        error,
    })
}

/// Opens a sled folder; one that is damaged is moved aside, since all that lies in sled can be made anew.
fn open_kv(config: &NodeConfig, path: &Path) -> Result<Arc<dyn Kv>, Ended> {
    let settings = SledConfig {
        cache_capacity_bytes: config.state.cache_bytes,
        ..SledConfig::default()
    };
    let opened = match SledKv::open(path, &settings) {
        Err(quorate_kv::OpenError::Damaged { reason, .. }) => {
            let aside = quarantine(path).map_err(|e| Ended {
                exit: Exit::Storage,
                error: e.into(),
            })?;
            tracing::error!(reason, kept = %aside.display(), "storage is damaged: moved aside, made anew");
            SledKv::open(path, &settings)
        }
        other => other,
    };
    match opened {
        Ok(kv) => Ok(Arc::new(kv)),
        Err(e) => Err(Ended {
            exit: Exit::Storage,
            error: e.into(),
        }),
    }
}
