//! `quorate dev`: a consortium on this machine, one supervised process per node.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};

use crate::exit::{Ended, Exit};

/// Pause between looks at the nodes.
const LOOK: Duration = Duration::from_millis(100);
/// A node that ended by itself is started again after this long.
const RESTART: Duration = Duration::from_secs(1);
/// So long the nodes may take until all answer and know a leader.
const READY_MAX: Duration = Duration::from_secs(60);
/// So long a node may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(12);
/// Set for the nodes, which then end with their supervisor.
pub const SUPERVISED: &str = "QUORATE_SUPERVISED";

/// What `quorate dev` is asked for.
#[derive(Debug, Clone)]
pub struct DevPlan {
    /// How many nodes.
    pub nodes: usize,
    /// Where the consortium's files and data lie.
    pub data_dir: PathBuf,
    /// Begin anew.
    pub fresh: bool,
    /// First port; without it the usual ones.
    pub base_port: Option<u16>,
    /// Private transactions: an enclave key for every node.
    pub privacy: bool,
    /// Serve Tessera's HTTP surface on every node.
    pub third_party: bool,
}

/// Ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// JSON-RPC, HTTP and WebSocket.
    pub rpc: u16,
    /// Members' network.
    pub p2p: u16,
    /// gRPC.
    pub grpc: u16,
    /// Metrics and health.
    pub metrics: u16,
    /// Tessera's HTTP surface, where it is served.
    pub third_party: u16,
}

impl Ports {
    /// Ports of node `i` (from 0): 8545, 30303, 50051, 9545 and 9080 upwards, or five lanes of a hundred from a base port on.
    ///
    /// # Errors
    /// If they do not fit below 65536.
    pub fn of(i: usize, base_port: Option<u16>) -> anyhow::Result<Self> {
        let starts = match base_port {
            Some(base) => [0, 100, 200, 300, 400].map(|lane| u32::from(base) + lane),
            None => [8_545, 30_303, 50_051, 9_545, 9_080],
        };
        let i = u32::try_from(i).unwrap_or(u32::MAX);
        let [rpc, p2p, grpc, metrics, third_party] = starts.map(|start| {
            u16::try_from(start.saturating_add(i))
                .map_err(|_| anyhow!("port {start} + {i} is above 65535"))
        });
        Ok(Self {
            rpc: rpc?,
            p2p: p2p?,
            grpc: grpc?,
            metrics: metrics?,
            third_party: third_party?,
        })
    }
}

/// Runs the consortium until interrupted.
///
/// # Errors
/// With the exit code for the shell.
pub fn run(plan: &DevPlan) -> Result<(), Ended> {
    prepare(plan).map_err(Ended::with(Exit::Configuration))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The nodes end with the thread that started them (see `SUPERVISED`): this one.
    runtime.block_on(supervise(plan)).map_err(Into::into)
}

/// Writes the consortium's files, unless an earlier run left them.
fn prepare(plan: &DevPlan) -> anyhow::Result<()> {
    let dir = &plan.data_dir;
    let marker = dir.join("genesis.json");
    if plan.fresh && dir.exists() {
        if !marker.exists() && fs::read_dir(dir)?.next().is_some() {
            bail!(
                "{} holds something else than a consortium: not removed",
                dir.display()
            );
        }
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let ports: Vec<Ports> = (0..plan.nodes)
        .map(|i| Ports::of(i, plan.base_port))
        .collect::<Result<_, _>>()?;
    if marker.exists() {
        for (i, ports) in ports.iter().enumerate() {
            check_unchanged(&node_config(dir, i), *ports)?;
        }
        if node_config(dir, plan.nodes).exists() {
            bail!(
                "{} holds a consortium of more than {} nodes; --fresh begins anew",
                dir.display(),
                plan.nodes
            );
        }
        return Ok(());
    }
    crate::cli::network::create_development(dir, &ports, plan.privacy)
}

fn check_unchanged(config: &Path, ports: Ports) -> anyhow::Result<()> {
    let text = fs::read_to_string(config).with_context(|| {
        format!(
            "{} is missing: the consortium there has fewer nodes; --fresh begins anew",
            config.display()
        )
    })?;
    if !text.contains(&format!("127.0.0.1:{}", ports.rpc)) {
        bail!(
            "{} was made for other ports; --fresh begins anew",
            config.display()
        );
    }
    Ok(())
}

fn node_dir(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("node{}", i + 1))
}

fn node_config(dir: &Path, i: usize) -> PathBuf {
    node_dir(dir, i).join("quorate.toml")
}

struct Node {
    name: String,
    dir: PathBuf,
    ports: Ports,
    /// Settings for this run, over those in the node's file.
    settings: Vec<(&'static str, String)>,
    child: Option<Child>,
    ended_at: Option<Instant>,
}

impl Node {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = self.dir.join("node.log");
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("log file {}", log.display()))?;
        let binary = std::env::current_exe().context("finding this program's file")?;
        let child = Command::new(binary)
            .arg("node")
            .arg("--config")
            .arg(self.dir.join("quorate.toml"))
            .env(SUPERVISED, "1")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        fs::write(self.dir.join("node.pid"), child.id().to_string())?;
        self.child = Some(child);
        self.ended_at = None;
        Ok(())
    }

    /// Notices an end, says so once, and starts the node again after a pause.
    fn look_after(&mut self) -> anyhow::Result<Option<String>> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            self.child = None;
            self.ended_at = Some(Instant::now());
            return Ok(Some(format!(
                "{} ended with {status}; see {}",
                self.name,
                self.dir.join("node.log").display()
            )));
        }
        if self.ended_at.is_some_and(|at| at.elapsed() >= RESTART) {
            self.start()?;
            return Ok(Some(format!("{} started again", self.name)));
        }
        Ok(None)
    }

    fn terminate(&self) {
        let pid = self
            .child
            .as_ref()
            .and_then(|c| rustix::process::Pid::from_raw(c.id() as i32));
        if let Some(pid) = pid
            && let Err(e) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        {
            tracing::debug!(node = self.name, error = %e, "could not be signalled");
        }
    }
}

/// What the arguments say about this run alone. A consortium that an earlier version made has no enclave keys, so privacy is
/// switched off here where it is not wanted, and never on.
fn settings(plan: &DevPlan, ports: Ports) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if !plan.privacy {
        settings.push(("QUORATE_PRIVACY_ENABLED", "false".to_owned()));
    }
    if plan.third_party {
        let listen = format!("127.0.0.1:{}", ports.third_party);
        settings.push(("QUORATE_THIRD_PARTY_ENABLED", "true".to_owned()));
        settings.push(("QUORATE_THIRD_PARTY_LISTEN", listen));
    }
    settings
}

async fn supervise(plan: &DevPlan) -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for i in 0..plan.nodes {
        let ports = Ports::of(i, plan.base_port)?;
        nodes.push(Node {
            name: format!("node{}", i + 1),
            dir: node_dir(&plan.data_dir, i),
            ports,
            settings: settings(plan, ports),
            child: None,
            ended_at: None,
        });
    }
    let result = async {
        for node in &mut nodes {
            node.start()?;
        }
        watch(&mut nodes, plan).await
    }
    .await;
    stop(&mut nodes).await;
    result
}

/// Waits until everything answers, prints the table, then reports changes until a signal comes.
async fn watch(nodes: &mut [Node], plan: &DevPlan) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let started = Instant::now();
    let mut ready = false;
    let mut leader: Option<String> = None;
    loop {
        tokio::select! {
            _ = interrupt.recv() => { say("stopping")?; return Ok(()) }
            _ = terminate.recv() => { say("stopping")?; return Ok(()) }
            () = tokio::time::sleep(LOOK) => {}
        }
        for node in nodes.iter_mut() {
            if let Some(news) = node.look_after()? {
                if !ready {
                    bail!("{news}");
                }
                say(&news)?;
            }
        }
        let now = find_leader(nodes, !ready).await;
        if !ready {
            let Some(now) = now else {
                if started.elapsed() > READY_MAX {
                    bail!(
                        "the nodes did not become ready; see node*/node.log in {}",
                        plan.data_dir.display()
                    );
                }
                continue;
            };
            say(&table(nodes, plan, &now))?;
            say("ready")?;
            ready = true;
            leader = Some(now);
        } else if now != leader {
            match &now {
                Some(now) => say(&format!("leader: {now}"))?,
                None => say("no leader")?,
            }
            leader = now;
        }
    }
}

/// The leader by name, if one is known. `all`: only if every node answers and knows one.
async fn find_leader(nodes: &[Node], all: bool) -> Option<String> {
    let mut leader = None;
    for node in nodes {
        let url = format!("http://127.0.0.1:{}", node.ports.rpc);
        let role = call(&url, "raft_role").await;
        match role.as_ref().and_then(Value::as_str) {
            Some("minter") => leader = Some(node.name.clone()),
            Some(role) if !role.is_empty() => {}
            _ if all => return None,
            _ => {}
        }
    }
    leader
}

async fn call(url: &str, method: &str) -> Option<Value> {
    let answer = crate::cli::client::json_rpc(url, method, json!([]));
    tokio::time::timeout(Duration::from_secs(1), answer)
        .await
        .ok()?
        .ok()
}

async fn stop(nodes: &mut [Node]) {
    for node in nodes.iter() {
        node.terminate();
    }
    let started = Instant::now();
    for node in nodes {
        let Some(child) = &mut node.child else {
            continue;
        };
        while matches!(child.try_wait(), Ok(None)) && started.elapsed() < STOP_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if matches!(child.try_wait(), Ok(None))
            && let Err(e) = child.kill().and_then(|()| child.wait().map(drop))
        {
            tracing::warn!(node = node.name, error = %e, "could not be killed");
        }
    }
}

fn table(nodes: &[Node], plan: &DevPlan, leader: &str) -> String {
    let mut lines = vec![
        format!(
            "Quorate {} development consortium in {}",
            env!("CARGO_PKG_VERSION"),
            plan.data_dir.display()
        ),
        String::new(),
        format!(
            "{:<8}{:<26}{:<26}{:<18}{}",
            "node", "JSON-RPC (HTTP, WebSocket)", "  gRPC", "p2p", "metrics, health"
        ),
    ];
    for node in nodes {
        let Ports {
            rpc,
            p2p,
            grpc,
            metrics,
            ..
        } = node.ports;
        lines.push(format!(
            "{:<8}{:<28}{:<24}{:<18}http://127.0.0.1:{metrics}{}",
            node.name,
            format!("http://127.0.0.1:{rpc}"),
            format!("127.0.0.1:{grpc}"),
            format!("127.0.0.1:{p2p}"),
            if node.name == leader { "   leader" } else { "" },
        ));
    }
    if plan.third_party {
        lines.push(String::new());
        lines.push("third-party HTTP (Tessera's), on this machine only:".into());
        for node in nodes {
            let port = node.ports.third_party;
            lines.push(format!("{:<8}http://127.0.0.1:{port}", node.name));
        }
    }
    lines.push(String::new());
    lines.push("chain id 1337, accounts (unlocked, 1000000 ether each, mnemonic \"test test test test test test test test test test test junk\"):".into());
    for (address, key) in crate::accounts::development_keys() {
        lines.push(format!(
            "  {address}  0x{}",
            hex::encode(key.secret_bytes())
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The program's own output, at once even into a pipe.
fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_lanes() {
        let usual = Ports::of(2, None).unwrap();
        assert_eq!(
            usual,
            Ports {
                rpc: 8547,
                p2p: 30305,
                grpc: 50053,
                metrics: 9547,
                third_party: 9082
            }
        );
        let based = Ports::of(3, Some(20_000)).unwrap();
        assert_eq!(
            based,
            Ports {
                rpc: 20_003,
                p2p: 20_103,
                grpc: 20_203,
                metrics: 20_303,
                third_party: 20_403
            }
        );
        assert!(Ports::of(0, Some(65_500)).is_err());
    }
}
