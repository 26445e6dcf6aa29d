//! A consortium of real processes on loopback, for tests that read as sentences.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing here takes nearly this long; it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first development account, funded in every consortium of the tests.
pub const ALICE: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// The second one.
pub const BOB: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// Five hundred ports from a base that nobody listens on. Tests of one binary may run in several processes: the
/// base depends on the process, and every port that is used is tried before.
pub fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..100 {
        let round = NEXT.fetch_add(1, Ordering::Relaxed);
        // Below the ports that systems give to outgoing connections: one of these would keep a node from listening.
        let seed = u16::try_from(std::process::id() % 45).unwrap();
        let base = 10_000 + ((seed + round * 7) % 45) * 500;
        let used = [0u16, 100, 200, 300, 400]
            .iter()
            .flat_map(|lane| (0..12).map(move |i| base + lane + i));
        if used
            .clone()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        {
            return base;
        }
    }
    panic!("no free ports");
}

/// Runs the binary to its end and gives back what it printed.
pub fn quorate(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub struct Consortium {
    dir: TempDir,
    base: u16,
    nodes: Vec<Option<Child>>,
    /// Arguments of each node beyond its configuration file.
    arguments: Vec<Vec<String>>,
}

impl Consortium {
    /// Writes the files of a consortium and starts all its nodes.
    pub fn of(nodes: usize) -> Self {
        let mut consortium = Self::prepared(nodes);
        for i in 0..nodes {
            consortium.start(i);
        }
        consortium.wait_ready();
        consortium
    }

    /// Writes the files only.
    pub fn prepared(nodes: usize) -> Self {
        Self::laid_out(nodes, &["--no-privacy"])
    }

    /// The same, with an enclave key for each node and private transactions switched on.
    pub fn prepared_private(nodes: usize) -> Self {
        Self::laid_out(nodes, &[])
    }

    fn laid_out(nodes: usize, more: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let base = free_base_port();
        let out = dir.path().join("net");
        let (nodes_text, base_text) = (nodes.to_string(), base.to_string());
        let mut arguments = vec!["network", "new", "--nodes", &nodes_text];
        arguments.extend(["--out", out.to_str().unwrap(), "--dev-accounts"]);
        arguments.extend(["--base-port", &base_text]);
        arguments.extend(more);
        let output = quorate(&arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            dir,
            base,
            nodes: (0..nodes).map(|_| None).collect(),
            arguments: vec![Vec::new(); nodes],
        }
    }

    /// Writes the files of one more node, which asks member `via` for admission when it is started. Returns its place.
    pub fn prepare_joiner(&mut self, via: usize, arguments: &[&str]) -> usize {
        let i = self.nodes.len();
        let dir = self.node_dir(i);
        fs::create_dir_all(&dir).unwrap();
        let lane = |lane: u16| self.base + lane + i as u16;
        let config = format!(
            "[node]\nname = \"node{n}\"\n[p2p]\nlisten = \"127.0.0.1:{}\"\n[rpc]\nlisten = \"127.0.0.1:{}\"\n[grpc]\nlisten = \
             \"127.0.0.1:{}\"\n[metrics]\nlisten = \"127.0.0.1:{}\"\n[accounts]\ndev_accounts = true\n",
            lane(100),
            lane(0),
            lane(200),
            lane(300),
            n = i + 1,
        );
        fs::write(dir.join("quorate.toml"), config).unwrap();
        let key = dir.join("node.key");
        let made = quorate(&["key", "new", "--out", key.to_str().unwrap()]);
        assert!(made.status.success());
        let mut arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        arguments.extend(["--join".to_owned(), self.p2p_address(via)]);
        self.nodes.push(None);
        self.arguments.push(arguments);
        i
    }

    /// `quorate bench` against node `i`: many transactions in little time.
    pub fn bench(&self, i: usize, arguments: &[&str]) {
        let (grpc, rpc) = (self.grpc_url(i), self.rpc_url(i));
        let mut all = vec!["bench", "--url", &grpc, "--rpc", &rpc];
        all.extend_from_slice(arguments);
        let output = quorate(&all);
        assert!(
            output.status.success(),
            "bench {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Where the others reach node `i`.
    pub fn p2p_address(&self, i: usize) -> String {
        format!("127.0.0.1:{}", self.base + 100 + i as u16)
    }

    /// The public key of node `i`.
    pub fn node_id(&self, i: usize) -> String {
        let key = self.node_dir(i).join("node.key");
        let shown = quorate(&["key", "show", "--json", "--file", key.to_str().unwrap()]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown["nodeId"].as_str().unwrap().to_owned()
    }

    /// `quorate member …` against all running members, the first of them first.
    pub fn try_member(&self, arguments: &[&str]) -> std::process::Output {
        let mut all = vec!["member".to_owned()];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        for i in self.running() {
            all.extend(["--grpc".to_owned(), self.grpc_url(i)]);
        }
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        quorate(&all)
    }

    /// The same, which must succeed.
    pub fn member(&self, arguments: &[&str]) -> String {
        let output = self.try_member(arguments);
        assert!(
            output.status.success(),
            "member {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The whole membership as node `i` sees it.
    pub fn membership(&self, i: usize) -> Value {
        self.rpc(i, "raft_membership", json!([]))
    }

    /// Raft ids of the members by role, as node `i` sees them; `None` while a joint configuration is in force.
    pub fn roles(&self, i: usize) -> Option<(Vec<u64>, Vec<u64>)> {
        let answer = self.try_rpc(i, "raft_membership", json!([])).ok()?;
        let view = answer.get("result")?;
        if view["joint"].as_bool()? {
            return None;
        }
        let with = |role: &str| {
            let members = view["members"].as_array().into_iter().flatten();
            let members = members.filter(|m| m["role"] == role);
            members.filter_map(|m| m["raftId"].as_u64()).collect()
        };
        Some((with("voter"), with("learner")))
    }

    /// Waits until node `i` sees these voters and learners, and no joint configuration.
    pub fn wait_roles(&self, i: usize, voters: &[u64], learners: &[u64]) {
        let expected = (voters.to_vec(), learners.to_vec());
        self.wait(
            &format!("node {i} sees voters {voters:?} and learners {learners:?}"),
            || (self.roles(i)? == expected).then_some(()),
        );
    }

    /// Adds a new node as a learner and waits until it follows the chain. Its raft id.
    pub fn join(&mut self, via: usize, arguments: &[&str]) -> (usize, u64) {
        let i = self.prepare_joiner(via, arguments);
        self.start(i);
        let (node_id, address) = (self.node_id(i), self.p2p_address(i));
        self.member(&["add", &node_id, &address]);
        self.wait(&format!("node {i} is ready"), || {
            let answer = http(&self.ready_url(i), None).ok()?;
            answer.contains("\"ready\":true").then_some(())
        });
        let raft_id = self.membership(i)["raftId"].as_u64();
        (i, raft_id.unwrap())
    }

    pub fn ready_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}/ready", self.base + 300 + i as u16)
    }

    pub fn is_running(&mut self, i: usize) -> bool {
        self.nodes[i]
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn net_dir(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    pub fn node_dir(&self, i: usize) -> PathBuf {
        self.net_dir().join(format!("node{}", i + 1))
    }

    /// Changes a value in the configuration of node `i`, which must be there.
    pub fn configure(&self, i: usize, from: &str, to: &str) {
        let path = self.node_dir(i).join("quorate.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in the configuration");
        fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Adds arguments to the command line of node `i`, from its next start on.
    pub fn add_arguments(&mut self, i: usize, arguments: &[&str]) {
        self.arguments[i].extend(arguments.iter().map(|a| (*a).to_owned()));
    }

    fn log_path(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("node{i}.log"))
    }

    /// What the node has written to its log in all its lives.
    pub fn log(&self, i: usize) -> String {
        fs::read_to_string(self.log_path(i)).unwrap_or_default()
    }

    pub fn rpc_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.base + i as u16)
    }

    pub fn ws_url(&self, i: usize) -> String {
        format!("ws://127.0.0.1:{}", self.base + i as u16)
    }

    pub fn grpc_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.base + 200 + i as u16)
    }

    /// Where node `i` serves Tessera's HTTP surface, if it does.
    pub fn third_party_port(&self, i: usize) -> u16 {
        self.base + 400 + i as u16
    }

    /// A port for something else that belongs to node `i`.
    pub fn spare_port(&self, i: usize) -> u16 {
        self.base + 450 + i as u16
    }

    pub fn metrics_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}/metrics", self.base + 300 + i as u16)
    }

    /// Starts a node that is not running.
    pub fn start(&mut self, i: usize) {
        assert!(self.nodes[i].is_none());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(i))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .arg("node")
            .arg("--config")
            .arg(self.node_dir(i).join("quorate.toml"))
            .args(&self.arguments[i])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes[i] = Some(child);
    }

    pub fn pid(&self, i: usize) -> u32 {
        self.nodes[i].as_ref().unwrap().id()
    }

    /// `kill -9`.
    pub fn kill(&mut self, i: usize) {
        let mut child = self.nodes[i].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for a clean end.
    pub fn stop(&mut self, i: usize) {
        let mut child = self.nodes[i].take().unwrap();
        let killed = Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert!(
            status.success(),
            "node {i} ended with {status}\n{}",
            tail(&self.log(i))
        );
    }

    /// Waits for a node that ends by itself and returns its exit code.
    pub fn exit_code(&mut self, i: usize) -> Option<i32> {
        self.nodes[i].take().unwrap().wait().unwrap().code()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.len())
            .filter(|i| self.nodes[*i].is_some())
            .collect()
    }

    /// Waits until every running node answers and knows a leader.
    pub fn wait_ready(&self) {
        for i in self.running() {
            self.wait(&format!("node {i} is ready"), || {
                let answer = self.try_rpc(i, "raft_leader", json!([]));
                answer
                    .is_ok_and(|a| a.get("result").is_some())
                    .then_some(())
            });
        }
    }

    /// Asks until `condition` gives something; fails with the nodes' logs.
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            if started.elapsed() > PATIENCE {
                let logs: Vec<String> = (0..self.len())
                    .map(|i| format!("--- node {i}\n{}", tail(&self.log(i))))
                    .collect();
                panic!("waited in vain until {what}\n{}", logs.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn try_rpc(&self, i: usize, method: &str, params: Value) -> std::io::Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = http(&self.rpc_url(i), Some(&body.to_string()))?;
        serde_json::from_str(&answer).map_err(std::io::Error::other)
    }

    /// A JSON-RPC call that must succeed.
    pub fn rpc(&self, i: usize, method: &str, params: Value) -> Value {
        let mut answer = self.try_rpc(i, method, params).unwrap_or_else(|e| {
            panic!("{method} on node {i}: {e}\n{}", tail(&self.log(i)));
        });
        assert!(
            answer.get("error").is_none(),
            "{method} on node {i}: {answer}"
        );
        answer["result"].take()
    }

    /// A JSON-RPC call that must be refused; gives back the error object.
    pub fn rpc_error(&self, i: usize, method: &str, params: Value) -> Value {
        let mut answer = self.try_rpc(i, method, params).unwrap();
        assert!(
            answer.get("error").is_some(),
            "{method} on node {i} was not refused: {answer}"
        );
        answer["error"].take()
    }

    pub fn metrics(&self, i: usize) -> String {
        self.try_metrics(i).unwrap()
    }

    /// `None` if the node does not answer.
    pub fn try_metrics(&self, i: usize) -> Option<String> {
        http(&self.metrics_url(i), None).ok()
    }

    /// Sends 1 wei through node `i`, signed by the node; returns the hash, or `None` if it was not accepted.
    pub fn try_transfer(&self, i: usize, from: &str, to: &str) -> Option<String> {
        let tx = json!([{ "from": from, "to": to, "value": "0x1" }]);
        let answer = self.try_rpc(i, "eth_sendTransaction", tx).ok()?;
        answer["result"].as_str().map(str::to_owned)
    }

    pub fn transfer(&self, i: usize, from: &str, to: &str) -> String {
        let tx = json!([{ "from": from, "to": to, "value": "0x1" }]);
        self.rpc(i, "eth_sendTransaction", tx)
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The receipt of `hash` on node `i`, once it is there.
    pub fn receipt(&self, i: usize, hash: &str) -> Value {
        self.wait(&format!("node {i} has the receipt of {hash}"), || {
            let answer = self
                .try_rpc(i, "eth_getTransactionReceipt", json!([hash]))
                .ok()?;
            answer.get("result").filter(|r| !r.is_null()).cloned()
        })
    }

    pub fn height(&self, i: usize) -> u64 {
        quantity(&self.rpc(i, "eth_blockNumber", json!([])))
    }

    pub fn block(&self, i: usize, height: u64) -> Value {
        self.rpc(
            i,
            "eth_getBlockByNumber",
            json!([format!("{height:#x}"), false]),
        )
    }

    /// The node that leads, as some running node sees it.
    pub fn leader(&self) -> usize {
        let running = self.running();
        self.wait("somebody leads", || {
            running.iter().copied().find(|i| {
                self.try_rpc(*i, "raft_role", json!([]))
                    .is_ok_and(|r| r["result"] == "minter")
            })
        })
    }

    /// Waits until all running nodes have `height` and asserts that they have the same chain up to it.
    pub fn assert_same_chain(&self, height: u64) {
        let running = self.running();
        for i in &running {
            self.wait(&format!("node {i} reaches block {height}"), || {
                (self.height(*i) >= height).then_some(())
            });
        }
        for height in [height, height / 2, height.saturating_sub(1)] {
            let first = self.block(running[0], height);
            assert!(!first.is_null());
            for i in &running[1..] {
                assert_eq!(
                    first,
                    self.block(*i, height),
                    "block {height} on nodes {} and {i}",
                    running[0]
                );
            }
        }
    }
}

impl Drop for Consortium {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            for i in 0..self.len() {
                eprintln!("--- log of node {i}\n{}", tail(&self.log(i)));
            }
        }
    }
}

pub fn quantity(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// One HTTP exchange: POST with a JSON body, or GET without one.
pub fn http(url: &str, body: Option<&str>) -> std::io::Result<String> {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = match body {
        Some(body) => format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
        None => format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    };
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).map_err(std::io::Error::other)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("no header"))?;
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return Ok(unchunk(body));
    }
    Ok(body.to_owned())
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        out.push_str(&rest[..length]);
        body = rest.get(length + 2..).unwrap_or("");
    }
    out
}

/// Names a test that cannot run here, so that it is never passed over silently.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}
