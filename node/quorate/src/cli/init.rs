//! `quorate init`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use anyhow::{Context as _, anyhow};
use clap::Args;
use quorate_chain::Genesis;
use serde_json::json;

use super::output;
use crate::exit::{Ended, Exit};

/// Arguments of `quorate init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate init --genesis genesis.json --data-dir /var/lib/quorate\n\nThe file is checked in full. A folder that holds another chain's genesis is refused (exit code 4); the same chain's\ngenesis may be stored again, with corrected addresses of members."
)]
pub struct InitArgs {
    /// The consortium's genesis file.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The node's data folder; made if it is not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl InitArgs {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code for the shell.
    pub fn run(&self) -> Result<(), Ended> {
        let (text, genesis) = read(&self.genesis).map_err(Ended::with(Exit::Configuration))?;
        let hash = hash_of(&genesis);
        let target = self.data_dir.join("genesis.json");
        if target.exists() {
            let (_, existing) = read(&target).map_err(Ended::with(Exit::DataFolder))?;
            let existing = hash_of(&existing);
            if existing != hash {
                return Err(Ended {
                    exit: Exit::DataFolder,
                    error: anyhow!(
                        "{} belongs to another chain: its genesis hash is {existing}, that of {} is {hash}",
                        self.data_dir.display(),
                        self.genesis.display()
                    ),
                });
            }
        }
        store(&self.data_dir, &text).map_err(Ended::with(Exit::DataFolder))?;
        let (chain_id, members) = (genesis.spec().chain_id(), genesis.members().len());
        match self.json {
            true => output::print_json(&json!({
                "genesisHash": hash.to_string(), "chainId": chain_id, "members": members, "file": target.display().to_string(),
            }))?,
            false => output::print(&format!(
                "{}: chain id {chain_id}, {members} members, genesis hash {hash}",
                target.display()
            ))?,
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<(String, Genesis)> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("genesis file {} cannot be read", path.display()))?;
    let genesis =
        Genesis::parse(&text).with_context(|| format!("genesis file {}", path.display()))?;
    Ok((text, genesis))
}

/// The hash of block 0, which names the chain.
pub fn hash_of(genesis: &Genesis) -> B256 {
    genesis
        .header(quorate_state::genesis_state_root(genesis.alloc()))
        .hash_slow()
}

/// All or nothing: a new file beside the old one takes its place.
fn store(folder: &Path, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("data folder {}", folder.display()))?;
    let new = folder.join("genesis.json.new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, folder.join("genesis.json"))?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("writing into {}", folder.display()))
}
