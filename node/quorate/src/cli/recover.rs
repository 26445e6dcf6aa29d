//! `quorate recover`: when the majority is lost for good.

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::Args;
use quorate_chain::{Genesis, Sealer};
use serde_json::json;

use super::output;
use super::run::ConfigSource;
use crate::exit::{Ended, Exit};
use crate::node;
use crate::seat::{Removal, Seat};

/// Longest note, in bytes.
const NOTE_BYTES_MAX: usize = 1_024;

const EXAMPLES: &str = "\
When a majority of the voters is gone for good nothing can be committed any more. Choose the surviving member with the longest
log (quorate recover --show on each), stop all others for ever, and make it the only member of a new configuration. Everything
in its log counts as committed from then on; what only the lost members had is lost. The break is written into the replicated
member table, where everyone can see it ever after (quorate member list). The other survivors come back as new members, in new
data folders, with quorate node --join.

Examples:
  quorate recover --show --config my-net/node2/quorate.toml
  quorate recover --force-new-cluster --note \"data centre A burnt down\" --config my-net/node2/quorate.toml";

/// Arguments of `quorate recover`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RecoverArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// Make this member the only one, in place of a majority that will never come back.
    #[arg(long, conflicts_with = "show", required_unless_present = "show")]
    force_new_cluster: bool,
    /// Only say how far this member's log reaches.
    #[arg(long)]
    show: bool,
    /// Why, for everyone to read later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl RecoverArgs {
    /// Does what was asked for; the node must not run.
    ///
    /// # Errors
    /// With the exit code for the shell.
    pub fn run(self) -> Result<(), Ended> {
        if self.note.len() > NOTE_BYTES_MAX {
            return Err(anyhow!(
                "--note has {} bytes, at most {NOTE_BYTES_MAX} are allowed",
                self.note.len()
            )
            .into());
        }
        let config = self.source.load()?.config;
        let data_dir = &config.node.data_dir;
        let _lock = node::lock(data_dir).map_err(Ended::with(Exit::DataFolder))?;
        let path = node::genesis_path(&config);
        let genesis = std::fs::read_to_string(&path)
            .with_context(|| format!("genesis file {}", path.display()))
            .and_then(|text| Genesis::parse(&text).context("genesis"))
            .map_err(Ended::with(Exit::Configuration))?;
        let key = crate::keys::read_node_key(&config.node.key_file)
            .map_err(Ended::with(Exit::Configuration))?;
        let node_id = Sealer::new(key).node_id();
        let seat = Seat::load(data_dir)?.filter(|seat| seat.node_id == node_id);
        let listed = genesis.members().iter().find(|m| m.node_id == node_id);
        let raft_id = seat.map(|seat| seat.raft_id).or(listed.map(|m| m.raft_id));
        let raft_id = raft_id.ok_or_else(|| Ended {
            exit: Exit::Configuration,
            error: anyhow!("node id {node_id} never was a member"),
        })?;
        if Removal::load(data_dir)?.is_some_and(|removal| removal.raft_id == raft_id) {
            return Err(Ended {
                exit: Exit::Removed,
                error: anyhow!("member {raft_id} was removed; it cannot stand for the consortium"),
            });
        }
        let folder = data_dir.join("raft");
        let raft = node::raft_config(&config, &genesis, raft_id);
        let ordering = |e: raft_adapter::OpenError| Ended {
            exit: Exit::Ordering,
            error: anyhow!("ordering: {e}"),
        };
        if self.show {
            let log = raft_adapter::inspect(&folder, raft).map_err(ordering)?;
            let (last, term) = (log.last_index.0, log.last_term.0);
            let committed = log.committed.0;
            if self.json {
                output::print_json(
                    &json!({ "raftId": raft_id, "lastIndex": last, "lastTerm": term, "committed": committed }),
                )?;
            } else {
                output::print(&format!(
                    "member {raft_id}: the log ends at index {last} of term {term}; the survivor with the highest term, then index, is \
                     the best"
                ))?;
            }
            return Ok(());
        }
        let note = Bytes::from(self.note.into_bytes());
        let table = raft_adapter::force_new_cluster(&folder, raft, note).map_err(ordering)?;
        let lost: Vec<u64> = table
            .breaks
            .last()
            .map(|b| b.lost.iter().map(|id| id.0).collect())
            .unwrap_or_default();
        if self.json {
            output::print_json(
                &json!({ "raftId": raft_id, "tableIndex": table.index.0, "lost": lost }),
            )?;
        } else {
            output::print(&format!(
                "member {raft_id} is the only member from log index {} on; given up: {lost:?}\nstart it with `quorate node` as before, \
                 then let the others join as new members",
                table.index.0
            ))?;
        }
        Ok(())
    }
}
