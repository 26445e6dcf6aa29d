//! The commands of the binary that are used beside running nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::consortium::run;
use crate::endpoints::Directory;

/// Commands to members that run.
#[derive(Debug)]
pub struct Asking {
    /// The binary.
    pub binary: PathBuf,
    /// Whom to ask.
    pub directory: Directory,
}

impl Asking {
    /// Runs a command with the addresses of all members.
    ///
    /// # Errors
    /// If it fails or takes too long.
    pub async fn command(&self, arguments: &[String]) -> anyhow::Result<String> {
        let mut all = arguments.to_vec();
        all.extend(["--timeout", "4s"].map(str::to_owned));
        for target in self.directory.all() {
            all.extend(["--grpc".to_owned(), target.grpc]);
        }
        tokio::time::timeout(Duration::from_secs(6), run(&self.binary, &all, &[]))
            .await
            .context("a command took too long")?
    }

    /// Node id and raft id of all members.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn members(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let listed = self
            .command(&["member", "list", "--json"].map(str::to_owned))
            .await?;
        let listed: Value = serde_json::from_str(&listed)?;
        let members = listed.get("members").and_then(Value::as_array);
        let members = members.context("a list of members")?.iter();
        Ok(members
            .filter_map(|m| {
                let node_id = m.get("nodeId").and_then(Value::as_str)?;
                Some((node_id.to_owned(), m.get("raftId").and_then(Value::as_u64)?))
            })
            .collect())
    }
}

/// Commands on a node that does not run.
#[derive(Debug)]
pub struct Tools {
    /// The binary.
    pub binary: PathBuf,
    /// The node's configuration; its data lie beside it.
    pub config: PathBuf,
    /// Where it is noted which fail points were reached.
    pub points: String,
}

impl Tools {
    /// Exports, verifies, imports elsewhere, and begins anew with a copy; with faults on the way.
    ///
    /// # Errors
    /// If any of it fails without a fault.
    pub async fn round(&self, out: &Path, copy: &Path, genesis: &Path) -> anyhow::Result<()> {
        let config = self.config.display().to_string();
        let (out, copy_dir) = (out.display().to_string(), copy.display().to_string());
        let genesis = genesis.display().to_string();
        let export = ["ledger", "export", "--config", &config, "--out", &out].map(str::to_owned);
        let verify = ["ledger", "verify", "--config", &config].map(str::to_owned);
        let import = [
            "ledger",
            "import",
            "--data-dir",
            &copy_dir,
            "--genesis",
            &genesis,
            "--from",
            &out,
        ]
        .map(str::to_owned);
        // First with a fault in the middle: what that leaves must not hinder the second attempt.
        self.fails_at(&export, "engine.offline.export=3*off->panic")
            .await;
        self.fails_at(&export, "engine.offline.export.index=panic")
            .await;
        let list = Path::new(&out).join("export.json");
        if !list.exists() {
            run(&self.binary, &export, &[]).await?;
        }
        run(&self.binary, &verify, &[]).await?;
        let list: Value = serde_json::from_str(&fs::read_to_string(list)?)?;
        // Without the first block there is nothing that a new node could begin with.
        if list.get("first").and_then(Value::as_u64) == Some(1) {
            self.fails_at(&import, "engine.offline.import=3*off->panic")
                .await;
            run(&self.binary, &import, &[]).await?;
        }
        // A copy of the node begins anew alone, as after the loss of all others.
        let data = self.config.with_file_name("data");
        let alone = copy.with_extension("alone");
        copy_folder(&data, &alone).context("copying a data folder")?;
        let alone = alone.display().to_string();
        let recover = [
            "recover",
            "--force-new-cluster",
            "--config",
            &config,
            "--data-dir",
            &alone,
            "--note",
            "chaos",
        ]
        .map(str::to_owned);
        self.fails_at(&recover, "raft.log.force=panic").await;
        run(&self.binary, &recover, &[]).await?;
        Ok(())
    }

    /// Runs a command that panics at a fail point, if the binary has any and there is anything to do.
    async fn fails_at(&self, arguments: &[String], actions: &str) {
        let environment = [
            ("FAILPOINTS", actions),
            ("QUORATE_FAIL_POINTS_DIR", self.points.as_str()),
        ];
        run(&self.binary, arguments, &environment).await.ok();
    }
}

/// Copies a folder with everything in it.
///
/// # Errors
/// If anything cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &place)?,
            false => {
                fs::copy(entry.path(), place)?;
            }
        }
    }
    Ok(())
}
