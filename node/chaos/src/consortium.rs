//! The processes of one consortium: their files, their ports, their lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use alloy_primitives::{Address, U256};
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::accounts::{Account, TELLER_CODE, teller};
use crate::endpoints::{Directory, Target};
use crate::links::{Links, Slot};
use crate::small_disk::SmallDisks;

/// Most nodes that ever live in one run, those included that replace others.
pub const SLOTS: usize = 8;
/// Raft ids that can be given in one run.
const RAFT_IDS: u64 = 12;
/// Lines of a node's log that are looked at after it ended.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// What each account has at the beginning, in ether.
pub const FUNDS_ETHER: u64 = 1_000;

/// One node.
#[derive(Debug)]
pub struct Member {
    /// Its place.
    pub slot: Slot,
    /// Its raft id, once that is known.
    pub raft_id: Option<u64>,
    /// Running?
    child: Option<Child>,
    /// How often it was started.
    pub life: u32,
    /// It was removed from the consortium; nothing is expected of it any more.
    pub removed: bool,
    /// It is held by SIGSTOP.
    pub paused: bool,
    /// Its files were damaged by the harness.
    pub damaged: bool,
    /// Its data folder was removed by the harness.
    pub wiped: bool,
    /// Its file system was filled by the harness; in the lives up to this one nothing can be written.
    pub full_through: Option<u32>,
    /// Arguments beside the configuration.
    arguments: Vec<String>,
    /// Bytes of its log when it was started last.
    log_from: u64,
}

/// How a process ended that nobody of the harness had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which node.
    pub slot: Slot,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// SIGTERM ended it before it had begun anything: even its log says nothing.
    pub unborn: bool,
    /// It had no room on its disk.
    pub full: bool,
    /// A fail point had been reached armed in that life.
    pub excused: bool,
}

/// All nodes of a run.
#[derive(Debug)]
pub struct Consortium {
    binary: PathBuf,
    /// Everything of the run lies here.
    pub dir: PathBuf,
    base_port: u16,
    /// By slot.
    pub members: Vec<Member>,
    /// The wires.
    pub links: Arc<Links>,
    /// What clients may ask.
    pub directory: Directory,
    settings: Settings,
    /// Nodes whose data lie on small file systems of their own.
    small_disks: SmallDisks,
}

/// What differs between runs in the configuration of nodes.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Blocks between two flushes of the state.
    pub flush_blocks: u64,
    /// Entries that stay in the log.
    pub trailing_entries: u64,
    /// Blocks between two snapshots.
    pub snapshot_every: u64,
    /// Blocks behind which a snapshot is taken.
    pub snapshot_distance: u64,
    /// Blocks that nodes other than the first keep; 0: all.
    pub retain_blocks: u64,
}

impl Consortium {
    /// Writes the files of a consortium of `nodes`; nobody runs yet. Each of `accounts` is funded.
    ///
    /// # Errors
    /// If the binary or the system refuses.
    pub async fn new(
        binary: &Path,
        dir: &Path,
        nodes: usize,
        settings: Settings,
        accounts: &[Account],
        links: Arc<Links>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut consortium = Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
            base_port: free_ports()?,
            members: Vec::new(),
            links,
            directory: Directory::default(),
            settings,
            small_disks: SmallDisks::default(),
        };
        let net = consortium.dir.join("net");
        let mut arguments: Vec<String> = ["network", "new", "--nodes"].map(str::to_owned).into();
        arguments.push(nodes.to_string());
        arguments.push("--out".into());
        arguments.push(net.display().to_string());
        arguments.push("--base-port".into());
        // Only what stands in genesis counts, and every node has its own table over that.
        arguments.push("10000".into());
        for account in accounts {
            arguments.push("--fund".into());
            arguments.push(format!("{}={FUNDS_ETHER}", account.address));
        }
        consortium.command(&arguments).await?;
        place_teller(&net.join("genesis.json"))?;
        for slot in 0..nodes {
            consortium.members.push(Member::new(slot));
            consortium.identify(slot, slot as u64 + 1);
            consortium
                .configure(slot, Some(&net.join("genesis.json")))
                .await?;
            fs::create_dir_all(consortium.points_dir(slot))?;
        }
        Ok(consortium)
    }

    /// Balances at the beginning.
    ///
    /// # Errors
    /// If genesis cannot be read.
    pub fn genesis_balances(&self) -> anyhow::Result<BTreeMap<Address, U256>> {
        balances_of(&self.dir.join("net/genesis.json"))
    }

    /// Runs the binary to its end and gives back what it printed.
    ///
    /// # Errors
    /// If it does not end with success.
    pub async fn command(&self, arguments: &[String]) -> anyhow::Result<String> {
        run(&self.binary, arguments, &[]).await
    }

    /// The binary, for commands that run beside the nodes.
    pub fn binary(&self) -> PathBuf {
        self.binary.clone()
    }

    /// From now on `slot` has this raft id.
    pub fn identify(&mut self, slot: Slot, raft_id: u64) {
        let address = self.p2p(slot);
        self.links.place(raft_id, slot, address);
        if let Some(member) = self.members.get_mut(slot) {
            member.raft_id = Some(raft_id);
        }
    }

    /// A new place, for a node that joins through the member with raft id `via`. Its node id and its address.
    ///
    /// # Errors
    /// If there is no place left, or the binary or the system refuses.
    pub async fn prepare_joiner(&mut self, via: u64) -> anyhow::Result<(Slot, String, String)> {
        let slot = self.members.len();
        if slot >= SLOTS {
            bail!("no place for another node");
        }
        self.members.push(Member::new(slot));
        let folder = self.node_dir(slot);
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(self.points_dir(slot))?;
        let key = folder.join("node.key").display().to_string();
        self.command(&["key", "new", "--out", &key].map(str::to_owned))
            .await?;
        self.configure(slot, None).await?;
        let shown = self
            .command(&["key", "show", "--json", "--file", &key].map(str::to_owned))
            .await?;
        let shown: Value = serde_json::from_str(&shown)?;
        let node_id = shown.get("nodeId").and_then(Value::as_str);
        let node_id = node_id.context("a key has a node id")?.to_owned();
        let door = self.links.proxy(slot, via).await?;
        if let Some(member) = self.members.get_mut(slot) {
            member.arguments = vec![
                "--join".into(),
                door.to_string(),
                "--promote-when-caught-up".into(),
            ];
        }
        Ok((slot, node_id, self.p2p(slot).to_string()))
    }

    async fn configure(&self, slot: Slot, genesis: Option<&Path>) -> anyhow::Result<()> {
        let mut addresses = Vec::new();
        for raft_id in 1..=RAFT_IDS {
            let door = self.links.proxy(slot, raft_id).await?;
            addresses.push(format!("{raft_id} = \"{door}\""));
        }
        let genesis = genesis.map_or(String::new(), |path| {
            format!("genesis = \"{}\"\n", path.display())
        });
        let settings = &self.settings;
        let retain = if slot == 0 { 0 } else { settings.retain_blocks };
        let [rpc, p2p, grpc, metrics] = [0, 1, 2, 3].map(|lane| self.port(slot, lane));
        let text = format!(
            "[node]\nname = \"node{slot}\"\n{genesis}\
             [p2p]\nlisten = \"127.0.0.1:{p2p}\"\naddresses = {{ {} }}\n\
             [rpc]\nlisten = \"127.0.0.1:{rpc}\"\n\
             [grpc]\nlisten = \"127.0.0.1:{grpc}\"\n\
             [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
             [raft]\ntick = \"50ms\"\nelection_ticks = 10\nheartbeat_ticks = 2\ntrailing_entries = {}\n\
             [state]\nflush_blocks = {}\nflush_bytes = \"64KiB\"\ncache_bytes = \"4MiB\"\n\
             [sync]\nsnapshot_distance = {}\nsnapshot_every = {}\nblock_file_bytes = \"64KiB\"\nretain_blocks = {retain}\n\
             [log]\nlevel = \"info\"\n",
            addresses.join(", "),
            settings.trailing_entries,
            settings.flush_blocks,
            settings.snapshot_distance,
            settings.snapshot_every,
        );
        Ok(fs::write(self.node_dir(slot).join("quorate.toml"), text)?)
    }

    fn port(&self, slot: Slot, lane: u16) -> u16 {
        self.base_port + u16::try_from(slot).unwrap_or_default() * 4 + lane
    }

    fn p2p(&self, slot: Slot) -> SocketAddr {
        ([127, 0, 0, 1], self.port(slot, 1)).into()
    }

    /// Files of a node.
    pub fn node_dir(&self, slot: Slot) -> PathBuf {
        self.dir.join("net").join(format!("node{}", slot + 1))
    }

    /// Where the fail points of a node are armed.
    pub fn points_dir(&self, slot: Slot) -> PathBuf {
        self.dir.join("points").join(slot.to_string())
    }

    fn log_path(&self, slot: Slot) -> PathBuf {
        self.dir.join(format!("node{slot}.log"))
    }

    /// What a node has written to its log in all its lives.
    pub fn log(&self, slot: Slot) -> String {
        let path = self.log_path(slot);
        match fs::metadata(&path) {
            Ok(file) if file.len() <= LOG_BYTES_MAX => {
                String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
            }
            _ => String::new(),
        }
    }

    /// Starts a node that is not running.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn start(&mut self, slot: Slot) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(slot))?;
        let config = self.node_dir(slot).join("quorate.toml");
        let points = self.points_dir(slot);
        let log_from = log.metadata()?.len();
        let member = self.members.get_mut(slot).context("no such node")?;
        if member.child.is_some() {
            return Ok(());
        }
        let child = Command::new(&self.binary)
            .arg("node")
            .arg("--config")
            .arg(config)
            .args(&member.arguments)
            .env("QUORATE_FAIL_POINTS_DIR", points)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        member.child = Some(child);
        member.life += 1;
        member.log_from = log_from;
        member.paused = false;
        self.publish();
        Ok(())
    }

    /// Tells clients whom they may ask: whoever has been started and was not removed, running or not.
    pub fn publish(&self) {
        let members = self.members.iter().filter(|m| m.life > 0 && !m.removed);
        let targets = members.map(|m| self.target(m.slot, m.life)).collect();
        self.directory.replace(targets);
    }

    fn target(&self, slot: Slot, life: u32) -> Target {
        Target {
            slot,
            life,
            rpc: format!("http://127.0.0.1:{}", self.port(slot, 0)),
            grpc: format!("http://127.0.0.1:{}", self.port(slot, 2)),
        }
    }

    /// True if the process runs.
    pub fn runs(&self, slot: Slot) -> bool {
        self.members.get(slot).is_some_and(|m| m.child.is_some())
    }

    /// Sends a signal to a process that runs.
    pub fn signal(&mut self, slot: Slot, signal: Signal) {
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        let pid = member.child.as_ref().and_then(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        // One that has ended by itself meanwhile is found by `ended`.
        if let Some(pid) = pid
            && kill_process(pid, signal).is_ok()
        {
            member.paused = match signal {
                Signal::STOP => true,
                Signal::CONT => false,
                _ => member.paused,
            };
        }
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(&mut self, slot: Slot) {
        let Some(member) = self.members.get_mut(slot) else {
            return;
        };
        if let Some(mut child) = member.child.take() {
            child.kill().await.ok();
        }
        member.paused = false;
    }

    /// Processes that have ended although nobody killed them.
    pub fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for member in &mut self.members {
            let Some(child) = &mut member.child else {
                continue;
            };
            if let Ok(Some(status)) = child.try_wait() {
                member.child = None;
                member.paused = false;
                ended.push((member.slot, status));
            }
        }
        ended
            .into_iter()
            .map(|(slot, status)| Ended {
                slot,
                code: status.code(),
                unborn: status.signal() == Some(Signal::TERM.as_raw()) && self.said_nothing(slot),
                full: self.was_full(slot),
                excused: self.fired_in_this_life(slot),
            })
            .collect()
    }

    fn said_nothing(&self, slot: Slot) -> bool {
        let from = self.members.get(slot).map(|m| m.log_from);
        let log = fs::metadata(self.log_path(slot));
        log.is_ok_and(|log| Some(log.len()) == from)
    }

    fn was_full(&self, slot: Slot) -> bool {
        let member = self.members.get(slot);
        member.is_some_and(|m| m.full_through.is_some_and(|life| m.life <= life))
    }

    /// Puts the data of a node that was never started on a small file system of its own. False if that cannot be done here.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn give_small_disk(&mut self, slot: Slot) -> anyhow::Result<bool> {
        let data = self.data_dir(slot);
        fs::create_dir_all(&data)?;
        Ok(self.small_disks.mount(slot, data))
    }

    /// Leaves no room on the small file system of a node. False if it has none.
    ///
    /// # Errors
    /// If that fails for another reason than that it is full.
    pub fn fill_disk(&mut self, slot: Slot) -> anyhow::Result<bool> {
        let filled = self.small_disks.fill(slot)?;
        if filled && let Some(member) = self.members.get_mut(slot) {
            member.full_through = Some(u32::MAX);
        }
        Ok(filled)
    }

    /// There is room again.
    ///
    /// # Errors
    /// If what fills it cannot be removed.
    pub fn relieve_disk(&mut self, slot: Slot) -> anyhow::Result<()> {
        self.small_disks.relieve(slot)?;
        if let Some(member) = self.members.get_mut(slot)
            && member.full_through == Some(u32::MAX)
        {
            // Whoever lives now may have failed to write something.
            member.full_through = Some(member.life);
        }
        Ok(())
    }

    /// Ends the small file systems; with `keep`, what is on them stays beside them.
    pub fn take_small_disks(&mut self, keep: bool) {
        self.small_disks.unmount(keep);
    }

    /// The data folder of a node.
    pub fn data_dir(&self, slot: Slot) -> PathBuf {
        self.node_dir(slot).join("data")
    }

    fn reached_lines(&self, slot: Slot) -> Vec<String> {
        let text = fs::read_to_string(self.points_dir(slot).join("reached")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn fired_in_this_life(&self, slot: Slot) -> bool {
        let lines = self.reached_lines(slot);
        let life = lines.rsplit(|line| line == "ready").next();
        life.is_some_and(|lines| lines.iter().any(|l| l.starts_with("fired ")))
    }

    /// Places that a node passed in any life: all, and those that were armed then.
    pub fn points_passed(&self, slot: Slot) -> (BTreeSet<String>, BTreeSet<String>) {
        let lines = self.reached_lines(slot);
        let with = |prefix: &str| {
            let names = lines.iter().filter_map(|l| l.strip_prefix(prefix));
            names.map(str::to_owned).collect()
        };
        (with("reached "), with("fired "))
    }

    /// True if the binary has fail points, as far as a node that was started tells.
    pub fn has_fail_points(&self, slot: Slot) -> bool {
        self.reached_lines(slot).iter().any(|line| line == "ready")
    }

    /// Arms fail points of a node, and disarms all others: lines `name=actions`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn arm(&self, slot: Slot, lines: &str) -> anyhow::Result<()> {
        let folder = self.points_dir(slot);
        let new = folder.join("set.new");
        fs::write(&new, lines)?;
        Ok(fs::rename(new, folder.join("set"))?)
    }
}

impl Member {
    fn new(slot: Slot) -> Self {
        Self {
            slot,
            raft_id: None,
            child: None,
            life: 0,
            removed: false,
            paused: false,
            damaged: false,
            wiped: false,
            full_through: None,
            arguments: Vec::new(),
            log_from: 0,
        }
    }
}

/// What each account has by a genesis file.
///
/// # Errors
/// If it cannot be read.
pub fn balances_of(genesis: &Path) -> anyhow::Result<BTreeMap<Address, U256>> {
    let genesis: Value = serde_json::from_str(&fs::read_to_string(genesis)?)?;
    let alloc = genesis.get("alloc").and_then(Value::as_object);
    let mut balances = BTreeMap::new();
    for (address, account) in alloc.context("genesis has an alloc")? {
        let balance = account.get("balance").and_then(Value::as_str);
        balances.insert(address.parse()?, balance.context("a balance")?.parse()?);
    }
    Ok(balances)
}

/// Puts the contract that emits logs into a genesis file.
///
/// # Errors
/// If it cannot be read or written.
pub fn place_teller(genesis: &Path) -> anyhow::Result<()> {
    let mut content: Value = serde_json::from_str(&fs::read_to_string(genesis)?)?;
    let alloc = content.get_mut("alloc").and_then(Value::as_object_mut);
    let account = serde_json::json!({ "balance": "0x0", "code": TELLER_CODE });
    alloc
        .context("genesis has an alloc")?
        .insert(format!("{:#x}", teller()), account);
    Ok(fs::write(genesis, serde_json::to_vec_pretty(&content)?)?)
}

/// Runs a binary to its end and gives back what it printed.
///
/// # Errors
/// If it does not end with success.
pub async fn run(
    binary: &Path,
    arguments: &[String],
    environment: &[(&str, &str)],
) -> anyhow::Result<String> {
    let output = Command::new(binary)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {}", binary.display()))?;
    if !output.status.success() {
        bail!(
            "{arguments:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ports for all places of a run, below the range from which the system takes ports for outgoing connections: a node that
/// starts again must find its ports free. The first of them.
///
/// # Errors
/// If there are not enough in a row.
pub fn free_ports() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = u16::try_from(SLOTS * 4)?;
    let spread = u16::try_from(std::process::id() % 211)?;
    for _ in 0..400 {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 10_000 + (spread.wrapping_mul(37).wrapping_add(turn) % 300) * 32;
        let free = (base..base + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if free {
            return Ok(base);
        }
    }
    bail!("no free ports between 10000 and 19600")
}
