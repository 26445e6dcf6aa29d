//! `quorate ledger`: what can be done with a node's folder while the node does not run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use quorate_chain::{BlockStore, Genesis, NodeId, StoreError};
use quorate_engine::offline::{
    self, BLOCKS_PER_FILE, OfflineError, Progress, VerifyReport, VerifyTask,
};
use quorate_engine::snapshots::recover_install;
use quorate_kv::{Kv, SledConfig, SledKv};
use quorate_state::StateStore;
use serde_json::{Value, json};

use super::output;
use super::run::ConfigSource;
use crate::config::NodeConfig;
use crate::exit::{Ended, Exit};
use crate::{node, stores};

/// Pause between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Where blocks are executed again, inside the data folder; removed at the end.
const SCRATCH: &str = "verify-scratch";

const EXAMPLES: &str = "\
The node must not run: a folder in use is refused (exit code 4). Progress goes to standard error, results to standard output.

Examples:
  quorate ledger verify --config my-net/node1/quorate.toml
  quorate ledger export --config my-net/node1/quorate.toml --out /backup/2026-01-31
  quorate ledger import --data-dir /var/lib/quorate --from /backup/2026-01-31
  quorate ledger prune --config my-net/node1/quorate.toml --keep 100000";

/// Blocks and state of a node that does not run.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum LedgerCommand {
    /// Check every block: record, parent, seal, transactions, receipts, and by executing all of them: every state root.
    /// Ends with 11 if something is wrong.
    Verify(Box<VerifyArgs>),
    /// Write blocks as portable files.
    Export(Box<ExportArgs>),
    /// Take blocks from exported files; each is verified and executed. Interrupted, it can be called again.
    Import(Box<ImportArgs>),
    /// Drop old blocks and old state values. What is asked for below is answered with "pruned below N" from then on.
    Prune(Box<PruneArgs>),
}

/// Arguments of `quorate ledger verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Node ids of all who were ever members, separated by commas: only their seals count. Without it a seal must be that of the
    /// block's coinbase.
    #[arg(long, value_name = "NODE_ID", value_delimiter = ',')]
    sealers: Vec<NodeId>,
    /// Do not execute the blocks again: much faster, and state roots stay unchecked.
    #[arg(long)]
    no_execution: bool,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Arguments of `quorate ledger export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Folder for the files; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// First block; without it the lowest one that is here.
    #[arg(long, value_name = "HEIGHT")]
    from: Option<u64>,
    /// Last block; without it the head.
    #[arg(long, value_name = "HEIGHT")]
    to: Option<u64>,
    /// Blocks in one file.
    #[arg(long, value_name = "COUNT", default_value_t = BLOCKS_PER_FILE, value_parser = clap::value_parser!(u64).range(1..))]
    blocks_per_file: u64,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Arguments of `quorate ledger import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Folder with exported files.
    #[arg(long = "from", visible_alias = "in", value_name = "DIR")]
    input: PathBuf,
    /// Node ids of all who were ever members, separated by commas: only their seals count.
    #[arg(long, value_name = "NODE_ID", value_delimiter = ',')]
    sealers: Vec<NodeId>,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Arguments of `quorate ledger prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Drop what lies below this height. Whole files of blocks go or stay, and the newest 256 blocks always stay.
    #[arg(
        long,
        value_name = "HEIGHT",
        conflicts_with = "keep",
        required_unless_present = "keep"
    )]
    below: Option<u64>,
    /// Keep so many of the newest blocks.
    #[arg(long, value_name = "COUNT")]
    keep: Option<u64>,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl LedgerCommand {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code for the shell.
    pub fn run(&self) -> Result<(), Ended> {
        match self {
            Self::Verify(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Import(args) => args.run(),
            Self::Prune(args) => args.run(),
        }
    }
}

impl VerifyArgs {
    fn run(&self) -> Result<(), Ended> {
        let folder = Folder::take(&self.source, Use::Existing)?;
        let blocks = folder.blocks()?;
        let state = folder.state()?;
        let scratch_dir = folder.data_dir().join(SCRATCH);
        remove(&scratch_dir)?;
        let scratch = match blocks.base() == 1 && !self.no_execution {
            true => Some(folder.open_state(&scratch_dir)?),
            false => None,
        };
        let task = VerifyTask {
            genesis: &folder.genesis,
            blocks: &blocks,
            state: state.as_ref(),
            scratch: scratch.as_ref(),
            sealers: sealers(&self.sealers),
        };
        let report = offline::verify(&task, &mut progress("verified"));
        drop(scratch);
        remove(&scratch_dir)?;
        let report = report.map_err(ended)?;
        match self.json {
            true => output::print_json(&verified(&report))?,
            false => output::print(&describe(&report))?,
        }
        if report.is_good() {
            return Ok(());
        }
        Err(Ended {
            exit: Exit::Storage,
            error: anyhow!("{} faults were found", report.faults_total),
        })
    }
}

impl ExportArgs {
    fn run(&self) -> Result<(), Ended> {
        let folder = Folder::take(&self.source, Use::Existing)?;
        let blocks = folder.blocks()?;
        let from = self.from.unwrap_or(blocks.base());
        let to = self.to.unwrap_or(blocks.head().height());
        let (count, out) = (self.blocks_per_file, &self.out);
        let report = offline::export(
            &folder.genesis,
            &blocks,
            from..=to,
            out,
            count,
            &mut progress("exported"),
        );
        let report = report.map_err(ended)?;
        match self.json {
            true => output::print_json(&json!({
                "first": report.first, "last": report.last, "lastHash": report.last_hash,
                "files": report.files, "bytes": report.bytes, "folder": out.display().to_string(),
            }))?,
            false => output::print(&format!(
                "{}: blocks {} to {}, {} files, {} bytes, last block {}",
                out.display(),
                report.first,
                report.last,
                report.files,
                report.bytes,
                report.last_hash
            ))?,
        }
        Ok(())
    }
}

impl ImportArgs {
    fn run(&self) -> Result<(), Ended> {
        let folder = Folder::take(&self.source, Use::New)?;
        let stores = stores::open(&folder.config, &folder.genesis)?;
        let sealers = sealers(&self.sealers);
        let report = offline::import(
            &folder.genesis,
            &stores.blocks,
            &stores.state,
            &self.input,
            sealers.as_ref(),
            &mut progress("imported"),
        );
        let report = report.map_err(ended)?;
        match self.json {
            true => output::print_json(&json!({
                "imported": report.imported, "skipped": report.skipped,
                "head": report.head, "headHash": report.head_hash,
            }))?,
            false => output::print(&format!(
                "{} blocks imported, {} were here already; the head is block {} ({})",
                report.imported, report.skipped, report.head, report.head_hash
            ))?,
        }
        Ok(())
    }
}

impl PruneArgs {
    fn run(&self) -> Result<(), Ended> {
        let folder = Folder::take(&self.source, Use::Existing)?;
        let stores = stores::open(&folder.config, &folder.genesis)?;
        let head = stores.blocks.head().height();
        let kept = self
            .keep
            .map(|keep| head.saturating_sub(keep).saturating_add(1));
        let below = self.below.or(kept).unwrap_or_default();
        let genesis_hash = stores.blocks.genesis().hash();
        let data_dir = &folder.config.node.data_dir;
        let private = crate::privacy::needed_offline(data_dir, &folder.genesis, genesis_hash)
            .map_err(Ended::with(Exit::Storage))?;
        let below = below.min(private.unwrap_or(u64::MAX));
        let pruned = offline::prune(&stores.blocks, &stores.state, below).map_err(ended)?;
        let (blocks, history) = (pruned.blocks, pruned.history);
        match self.json {
            true => output::print_json(&json!({
                "base": blocks.base, "head": head, "segments": blocks.segments,
                "bytes": blocks.bytes, "firstState": history.first, "stateEntries": history.entries,
            }))?,
            false => output::print(&format!(
                "pruned below {}: {} files with {} bytes of blocks, {} old state values; the state is readable from height {}",
                blocks.base, blocks.segments, blocks.bytes, history.entries, history.first
            ))?,
        }
        Ok(())
    }
}

/// Whether a command needs blocks that are there, or may begin with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Existing,
    New,
}

/// A node's folder, taken for this process alone.
struct Folder {
    config: NodeConfig,
    genesis: Genesis,
    _lock: File,
}

impl Folder {
    fn take(source: &ConfigSource, purpose: Use) -> Result<Self, Ended> {
        let loaded = source.load()?;
        for warning in &loaded.warnings {
            output::note(&format!("warning: {warning}"));
        }
        let config = loaded.config;
        let data_dir = &config.node.data_dir;
        if purpose == Use::Existing && !data_dir.join("blocks").is_dir() {
            return Err(Ended {
                exit: Exit::DataFolder,
                error: anyhow!("{} holds no blocks", data_dir.display()),
            });
        }
        let path = node::genesis_path(&config);
        let genesis = std::fs::read_to_string(&path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Genesis::parse(&text).map_err(anyhow::Error::from))
            .with_context(|| format!("genesis file {}", path.display()))
            .map_err(Ended::with(Exit::Configuration))?;
        let lock = node::lock(data_dir).map_err(Ended::with(Exit::DataFolder))?;
        recover_install(data_dir).map_err(|e| storage(e.into()))?;
        Ok(Self {
            config,
            genesis,
            _lock: lock,
        })
    }

    fn data_dir(&self) -> &Path {
        &self.config.node.data_dir
    }

    fn open_kv(&self, dir: &Path) -> Result<Arc<dyn Kv>, Ended> {
        let settings = SledConfig {
            cache_capacity_bytes: self.config.state.cache_bytes,
            ..SledConfig::default()
        };
        let opened = SledKv::open(dir, &settings).map_err(|e| storage(e.into()))?;
        Ok(Arc::new(opened))
    }

    /// The blocks, without mending anything but a torn tail and the index.
    fn blocks(&self) -> Result<BlockStore, Ended> {
        let index = self.open_kv(&self.data_dir().join("index"))?;
        let genesis = stores::genesis_block(&self.genesis);
        BlockStore::open(&self.data_dir().join("blocks"), index, genesis)
            .map_err(|e| ended(e.into()))
    }

    /// The node's own state as it lies there, if it has one.
    fn state(&self) -> Result<Option<StateStore>, Ended> {
        let dir = self.data_dir().join("state");
        match dir.is_dir() {
            true => self.open_state(&dir).map(Some),
            false => Ok(None),
        }
    }

    fn open_state(&self, dir: &Path) -> Result<StateStore, Ended> {
        let alloc: Vec<_> = self
            .genesis
            .alloc()
            .map(|(address, account)| (*address, account.clone()))
            .collect();
        let genesis = stores::genesis_block(&self.genesis).hash();
        StateStore::open(self.open_kv(dir)?, &alloc, genesis).map_err(|e| storage(e.into()))
    }
}

fn sealers(given: &[NodeId]) -> Option<std::collections::BTreeSet<alloy_primitives::Address>> {
    (!given.is_empty()).then(|| given.iter().map(NodeId::address).collect())
}

/// Removes a folder, if it is there.
fn remove(dir: &Path) -> Result<(), Ended> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(storage(anyhow!("removing {}: {e}", dir.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn storage(error: anyhow::Error) -> Ended {
    Ended {
        exit: Exit::Storage,
        error,
    }
}

/// Whose fault it is decides the code.
fn ended(error: OfflineError) -> Ended {
    let exit = match &error {
        OfflineError::Store(StoreError::OtherGenesis { .. })
        | OfflineError::OtherGenesis { .. }
        | OfflineError::OtherChain { .. }
        | OfflineError::Gap { .. }
        | OfflineError::NotLevel { .. } => Exit::DataFolder,
        OfflineError::Range { .. }
        | OfflineError::NotEmpty { .. }
        | OfflineError::Damaged { .. }
        | OfflineError::Refused(_) => Exit::Failure,
        OfflineError::Store(_)
        | OfflineError::State(_)
        | OfflineError::Apply(_)
        | OfflineError::Flush(_)
        | OfflineError::File(_) => Exit::Storage,
    };
    Ended {
        exit,
        error: error.into(),
    }
}

/// Says now and then on standard error where a task is, and always when it is done.
fn progress(verb: &'static str) -> impl FnMut(Progress) {
    let started = Instant::now();
    let mut last = started;
    move |at: Progress| {
        let is_done = at.done == at.total;
        if last.elapsed() < PROGRESS_EVERY && !is_done {
            return;
        }
        last = Instant::now();
        let rate = at.done as f64 / started.elapsed().as_secs_f64().max(0.001);
        output::note(&format!(
            "{verb} {} of {} blocks, at height {}, {rate:.0} blocks/s",
            at.done, at.total, at.height
        ));
    }
}

fn verified(report: &VerifyReport) -> Value {
    let checks = report.checks.iter().map(|check| {
        let range = (check.from <= check.to).then(|| json!([check.from, check.to]));
        json!({ "what": check.what, "heights": range })
    });
    let faults = report.faults.iter().map(|fault| {
        json!({ "height": fault.height, "kind": fault.kind.name(), "reason": fault.reason })
    });
    json!({
        "good": report.is_good(),
        "base": report.base,
        "head": report.head,
        "blocks": report.blocks,
        "transactions": report.transactions,
        "checks": checks.collect::<Vec<_>>(),
        "faultsTotal": report.faults_total,
        "faults": faults.collect::<Vec<_>>(),
    })
}

fn describe(report: &VerifyReport) -> String {
    let mut lines = vec![format!(
        "{} blocks with {} transactions, heights {} to {}",
        report.blocks, report.transactions, report.base, report.head
    )];
    for check in &report.checks {
        lines.push(match check.from <= check.to {
            true => format!("  checked  {}, {} to {}", check.what, check.from, check.to),
            false => format!("  not      {}", check.what),
        });
    }
    let faults = report
        .faults
        .iter()
        .map(|fault| format!("  FAULT    {fault}"));
    lines.extend(faults);
    if report.faults_total > report.faults.len() as u64 {
        let more = report.faults_total - report.faults.len() as u64;
        lines.push(format!("  and {more} more faults"));
    }
    lines.push(match report.is_good() {
        true => "nothing is wrong".to_owned(),
        false => format!("{} faults", report.faults_total),
    });
    lines.join("\n")
}
