//! The commands of Docker that the harness needs, on one project of `deploy/docker-compose.yml` with ports and image of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::consortium::free_ports;
use crate::links::Slot;

/// No command of Docker takes longer, not even a stop.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// User and group of the image.
const OWNER: u32 = 65_532;

/// A project: containers, volumes, network and image. Removed when it is dropped.
#[derive(Debug)]
pub struct Compose {
    script: PathBuf,
    dockerfile: PathBuf,
    project: String,
    image: String,
    /// JSON-RPC, gRPC and metrics of each node.
    ports: Vec<[u16; 3]>,
}

impl Compose {
    /// Nothing is there yet.
    ///
    /// # Errors
    /// If there are no free ports.
    pub fn new(deploy: &Path, nodes: usize) -> anyhow::Result<Self> {
        let base = free_ports()?;
        let project = format!("quorate-chaos-{}", std::process::id());
        Ok(Self {
            script: deploy.join("compose"),
            dockerfile: deploy.join("Dockerfile.prebuilt"),
            image: format!("{project}:latest"),
            project,
            ports: (0..nodes).map(|slot| ports_of(base, slot)).collect(),
        })
    }

    /// Makes the image of a static binary. Nothing is pulled.
    ///
    /// # Errors
    /// If Docker refuses.
    pub async fn build(&self, binary: &Path, folder: &Path) -> anyhow::Result<()> {
        let context = folder.join("image");
        std::fs::create_dir_all(&context)?;
        std::fs::copy(binary, context.join("quorate"))?;
        let mut command = Command::new("docker");
        command.args(["build", "-q", "-t", &self.image, "-f"]);
        finish(command.arg(&self.dockerfile).arg(&context)).await?;
        Ok(std::fs::remove_dir_all(context)?)
    }

    /// Puts the files of a consortium where the service `network` finds them and leaves them as they are.
    ///
    /// # Errors
    /// If Docker or the file system refuses.
    pub async fn place_network(&self, files: &Path) -> anyhow::Result<()> {
        let folder = files.parent().context("a folder of the run")?;
        let name = files.file_name().context("a folder with a name")?;
        let archive = folder.join("network.tar");
        // An archive keeps owners: node keys are for theirs alone, and the image knows no user by name.
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(folder).arg("-cf").arg(&archive);
        let owner = format!("--owner={OWNER}");
        tar.args([
            owner,
            format!("--group={OWNER}"),
            "--numeric-owner".to_owned(),
        ]);
        finish(tar.arg(name)).await?;
        self.run(&["create", "network"]).await?;
        let id = self.id("network").await?;
        let mut command = Command::new("docker");
        command.args(["cp", "-", &format!("{id}:/network/")]);
        finish_with(&mut command, File::open(&archive)?.into()).await?;
        Ok(())
    }

    /// Where JSON-RPC of a node is reached.
    pub fn rpc(&self, slot: Slot) -> String {
        self.address(slot, |ports| ports[0])
    }

    /// Where gRPC of a node is reached.
    pub fn grpc(&self, slot: Slot) -> String {
        self.address(slot, |ports| ports[1])
    }

    fn address(&self, slot: Slot, lane: impl Fn(&[u16; 3]) -> u16) -> String {
        let port = self.ports.get(slot).map_or(0, lane);
        format!("http://127.0.0.1:{port}")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command
            .args(arguments)
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("QUORATE_IMAGE", &self.image);
        for (n, ports) in self.ports.iter().enumerate() {
            for (name, port) in ["RPC", "GRPC", "METRICS"].iter().zip(ports) {
                command.env(format!("QUORATE_{name}_PORT_{}", n + 1), port.to_string());
            }
        }
        command
    }

    /// A command of Compose.
    ///
    /// # Errors
    /// If it fails.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.output(arguments).await.map(drop)
    }

    /// What a command of Compose prints.
    ///
    /// # Errors
    /// If it fails.
    pub async fn output(&self, arguments: &[&str]) -> anyhow::Result<String> {
        finish(&mut self.command(arguments)).await
    }

    /// What all nodes have written.
    pub async fn logs(&self) -> String {
        let logs = self.output(&["--profile", "five", "logs", "--no-color"]);
        logs.await.unwrap_or_default()
    }

    async fn id(&self, service: &str) -> anyhow::Result<String> {
        let id = self.output(&["ps", "-a", "-q", service]).await?;
        Ok(id.trim().to_owned())
    }

    async fn inspect(&self, service: &str, format: &str) -> anyhow::Result<String> {
        let id = self.id(service).await?;
        let mut command = Command::new("docker");
        let shown = finish(command.args(["inspect", "--format", format, &id])).await?;
        Ok(shown.trim().to_owned())
    }

    /// The exit code with which a container that does not run has ended.
    ///
    /// # Errors
    /// If it runs, or Docker refuses.
    pub async fn exit_code(&self, slot: Slot) -> anyhow::Result<i32> {
        let service = format!("node{}", slot + 1);
        let shown = self
            .inspect(&service, "{{.State.Running}} {{.State.ExitCode}}")
            .await?;
        let code = shown.strip_prefix("false ").context("it still runs")?;
        Ok(code.parse()?)
    }

    fn network(&self) -> String {
        format!("{}_members", self.project)
    }

    /// Takes a node off its network.
    ///
    /// # Errors
    /// If Docker refuses.
    pub async fn disconnect(&self, slot: Slot) -> anyhow::Result<()> {
        let id = self.id(&format!("node{}", slot + 1)).await?;
        let mut command = Command::new("docker");
        finish(command.args(["network", "disconnect", &self.network(), &id])).await?;
        Ok(())
    }

    /// Puts it back, under its name.
    ///
    /// # Errors
    /// If Docker refuses.
    pub async fn connect(&self, slot: Slot, name: &str) -> anyhow::Result<()> {
        let id = self.id(&format!("node{}", slot + 1)).await?;
        let mut command = Command::new("docker");
        finish(command.args(["network", "connect", "--alias", name, &self.network(), &id])).await?;
        Ok(())
    }

    /// Removes everything.
    pub async fn down(&self) {
        // What cannot be removed now is tried again by whoever drops this.
        self.run(&DOWN).await.ok();
    }
}

const DOWN: [&str; 7] = [
    "--profile",
    "five",
    "down",
    "-v",
    "--remove-orphans",
    "--timeout",
    "5",
];

impl Drop for Compose {
    fn drop(&mut self) {
        let mut down = self.command(&DOWN).into_std();
        let mut image = std::process::Command::new("docker");
        image.args(["rmi", "-f", &self.image]);
        for command in [&mut down, &mut image] {
            let command = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().ok();
        }
    }
}

/// Runs a command to its end and gives back what it printed.
async fn finish(command: &mut Command) -> anyhow::Result<String> {
    finish_with(command, Stdio::null()).await
}

async fn finish_with(command: &mut Command, input: Stdio) -> anyhow::Result<String> {
    command.stdin(input).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_MAX, command.output())
        .await
        .with_context(|| format!("{command:?} took too long"))?
        .with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ports_of(base: u16, slot: Slot) -> [u16; 3] {
    let first = base + u16::try_from(slot).unwrap_or_default() * 3;
    [first, first + 1, first + 2]
}
