//! The consortium of `deploy/docker-compose.yml` as shipped, from an image of a static binary. Nothing is pulled.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::consortium::{ALICE, BOB, http, quantity, workspace};
use crate::outside;

const TEST: &str = "a_consortium_of_containers_goes_on_without_a_member_that_then_catches_up";
/// Members from genesis on, and the one that joins later.
const NODES: usize = 4;
const JOINER: usize = 4;
/// Starting four containers on a busy machine takes seconds; this only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(120);
/// Transactions while a member is down.
const MISSED: usize = 10;

#[test]
fn a_consortium_of_containers_goes_on_without_a_member_that_then_catches_up() {
    let Some(binary) = static_binary() else {
        return;
    };
    let c = Containers::up(&binary);
    for i in 0..NODES {
        c.wait(&format!("node {i} is healthy"), || {
            (c.health(i) == "healthy").then_some(())
        });
    }

    // Through two nodes, each with an account of its own.
    let sent = [
        (0, c.transfer(0, ALICE, BOB)),
        (1, c.transfer(1, BOB, ALICE)),
    ];
    for (_, hash) in &sent {
        let receipts: Vec<Value> = (0..NODES).map(|i| c.receipt(i, hash)).collect();
        assert_eq!(receipts[0]["status"], "0x1");
        assert!(receipts.iter().all(|r| *r == receipts[0]), "{receipts:#?}");
    }

    // The leader: whoever else is stopped, the rest would not even notice.
    let stopped = c.leader();
    let before = c.height(stopped);
    c.compose(&["stop", &format!("node{}", stopped + 1)]);
    let rest: Vec<usize> = (0..NODES).filter(|i| *i != stopped).collect();
    let mut last = String::new();
    for k in 0..MISSED {
        last = c.transfer(rest[k % rest.len()], ALICE, BOB);
        // One by one, so that there are several blocks to catch up with.
        assert_eq!(c.receipt(rest[0], &last)["status"], "0x1");
    }
    let reached = c.height(rest[0]);
    assert!(
        reached > before,
        "no block was committed without node {stopped}"
    );

    c.compose(&["start", &format!("node{}", stopped + 1)]);
    c.wait("the stopped member is healthy again", || {
        (c.health(stopped) == "healthy").then_some(())
    });
    let own = c.receipt(stopped, &last);
    assert_eq!(own, c.receipt(rest[0], &last));
    for height in [1, before, reached] {
        assert_eq!(
            c.block(stopped, height),
            c.block(rest[0], height),
            "block {height}"
        );
    }
    // It takes part again: what it is given reaches the others.
    let hash = c.transfer(stopped, BOB, ALICE);
    assert_eq!(c.receipt(rest[1], &hash)["status"], "0x1");

    // The shipped file keeps its promises: nothing but loopback, not root, nothing to write but the volume.
    for i in 0..NODES {
        let container = c.inspect(i);
        let config = &container["Config"];
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(container["HostConfig"]["ReadonlyRootfs"], true);
        assert_eq!(
            container["HostConfig"]["RestartPolicy"]["Name"],
            "unless-stopped"
        );
        let bindings = container["HostConfig"]["PortBindings"].as_object().unwrap();
        assert_eq!(bindings.len(), 3);
        for binding in bindings.values().flat_map(|b| b.as_array().unwrap()) {
            assert_eq!(binding["HostIp"], "127.0.0.1");
        }
    }
    // And `up` again changes nothing: keys and chain are kept.
    c.compose(&["up", "-d"]);
    assert!(c.height(rest[0]) >= reached);

    grow_and_remove_the_leader(&c);
}

/// The consortium grows by a fifth member that the compose file knows under a profile of its own, then loses its leader for
/// good, on purpose.
fn grow_and_remove_the_leader(c: &Containers) {
    c.compose(&["--profile", "five", "up", "-d", "node5"]);
    let applicant = c.wait("the fifth node asks for admission", || {
        let view = c.try_rpc(0, "raft_membership", &json!([])).ok()?;
        view["applicants"][0]["nodeId"].as_str().map(str::to_owned)
    });
    // As an operator would, in the container of a member.
    c.compose(&[
        "exec",
        "-T",
        "node1",
        "/quorate",
        "member",
        "add",
        &applicant,
        "node5:30303",
    ]);
    c.wait("the fifth member has caught up and votes", || {
        let view = c.try_rpc(JOINER, "raft_membership", &json!([])).ok()?;
        let member = view["members"]
            .as_array()?
            .iter()
            .find(|m| m["raftId"] == 5)?;
        (member["role"] == "voter" && view["joint"] == false).then_some(())
    });
    let hash = c.transfer(JOINER, ALICE, BOB);
    assert_eq!(c.receipt(0, &hash), c.receipt(JOINER, &hash));

    let leader = c.leader();
    let rest: Vec<usize> = (0..=JOINER).filter(|i| *i != leader).collect();
    let asked = format!("node{}", rest[0] + 1);
    let raft_id = (leader + 1).to_string();
    c.compose(&[
        "exec", "-T", &asked, "/quorate", "member", "remove", &raft_id,
    ]);
    for i in &rest {
        c.wait(&format!("node {i} sees four members"), || {
            let view = c.try_rpc(*i, "raft_membership", &json!([])).ok()?;
            (view["members"].as_array()?.len() == NODES && view["joint"] == false).then_some(())
        });
    }
    let hash = c.transfer(rest[1], BOB, ALICE);
    let receipts: Vec<Value> = rest.iter().map(|i| c.receipt(*i, &hash)).collect();
    assert!(
        receipts
            .iter()
            .all(|r| *r == receipts[0] && r["status"] == "0x1")
    );
}

/// The static binary, or `None` after saying why there is none or why it is of no use here.
fn static_binary() -> Option<PathBuf> {
    let binary = match std::env::var_os("QUORATE_STATIC_BINARY") {
        Some(path) => PathBuf::from(path),
        None => workspace().join("deploy/out/quorate"),
    };
    let skip = |why: &str| {
        outside::not_here("containers", TEST, why);
        None
    };
    if !binary.is_file() {
        return skip(&format!(
            "{} is missing: run `make static` first",
            binary.display()
        ));
    }
    if !succeeds(Command::new("docker").arg("info")) {
        return skip("no Docker daemon answers");
    }
    if !succeeds(Command::new(workspace().join("deploy/compose")).arg("version")) {
        return skip("neither docker compose nor docker-compose is installed");
    }
    Some(binary)
}

fn succeeds(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// The containers of one test. Removed with their volumes, network and image, however the test ends.
struct Containers {
    project: String,
    image: String,
    /// JSON-RPC, gRPC and metrics of each node.
    ports: Vec<[u16; 3]>,
}

impl Containers {
    fn up(binary: &Path) -> Self {
        let project = format!("quorate-test-{}", std::process::id());
        let containers = Self {
            image: format!("{project}:latest"),
            project,
            ports: free_ports(),
        };
        containers.build(binary);
        containers.compose(&["up", "-d"]);
        containers
    }

    fn build(&self, binary: &Path) {
        let context = TempDir::new().unwrap();
        fs::copy(binary, context.path().join("quorate")).unwrap();
        let mut command = Command::new("docker");
        command.args(["build", "-q", "-t", &self.image, "-f"]);
        command
            .arg(workspace().join("deploy/Dockerfile.prebuilt"))
            .arg(context.path());
        must_succeed(&mut command);
    }

    fn compose_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(workspace().join("deploy/compose"));
        command
            .args(args)
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("QUORATE_IMAGE", &self.image);
        // The nodes sign for the test.
        command.env("QUORATE_DEV_ACCOUNTS", "true");
        for (i, ports) in self.ports.iter().enumerate() {
            for (name, port) in ["RPC", "GRPC", "METRICS"].iter().zip(ports) {
                command.env(format!("QUORATE_{name}_PORT_{}", i + 1), port.to_string());
            }
        }
        command
    }

    fn compose(&self, args: &[&str]) {
        must_succeed(&mut self.compose_command(args));
    }

    fn inspect(&self, i: usize) -> Value {
        let id = must_succeed(&mut self.compose_command(&["ps", "-q", &format!("node{}", i + 1)]));
        let id = String::from_utf8(id.stdout).unwrap();
        let output = must_succeed(Command::new("docker").args(["inspect", id.trim()]));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].take()
    }

    fn health(&self, i: usize) -> String {
        self.inspect(i)["State"]["Health"]["Status"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn try_rpc(&self, i: usize, method: &str, params: &Value) -> Result<Value, String> {
        let url = format!("http://127.0.0.1:{}", self.ports[i][0]);
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = http(&url, Some(&body.to_string())).map_err(|e| e.to_string())?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|e| format!("{answer:?}: {e}"))?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    fn rpc(&self, i: usize, method: &str, params: Value) -> Value {
        self.try_rpc(i, method, &params)
            .unwrap_or_else(|e| panic!("{method} on node {i}: {e}\n{}", self.logs()))
    }

    /// Sends 1 wei. After a leader is gone a node may refuse for a moment: asked again until it takes it.
    fn transfer(&self, i: usize, from: &str, to: &str) -> String {
        let tx = json!([{ "from": from, "to": to, "value": "0x1" }]);
        let hash = self.wait(&format!("node {i} takes a transaction"), || {
            self.try_rpc(i, "eth_sendTransaction", &tx).ok()
        });
        hash.as_str().unwrap().to_owned()
    }

    fn receipt(&self, i: usize, hash: &str) -> Value {
        self.wait(&format!("node {i} has the receipt of {hash}"), || {
            let receipt = self
                .try_rpc(i, "eth_getTransactionReceipt", &json!([hash]))
                .ok()?;
            (!receipt.is_null()).then_some(receipt)
        })
    }

    fn height(&self, i: usize) -> u64 {
        quantity(&self.rpc(i, "eth_blockNumber", json!([])))
    }

    fn block(&self, i: usize, height: u64) -> Value {
        let block = self.rpc(
            i,
            "eth_getBlockByNumber",
            json!([format!("{height:#x}"), true]),
        );
        assert!(!block.is_null(), "node {i} has no block {height}");
        block
    }

    fn leader(&self) -> usize {
        self.wait("somebody leads", || {
            (0..=JOINER).find(|i| {
                self.try_rpc(*i, "raft_role", &json!([]))
                    .is_ok_and(|role| role == "minter")
            })
        })
    }

    fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "waited in vain until {what}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn logs(&self) -> String {
        let output = self
            .compose_command(&["logs", "--no-color", "--tail", "40"])
            .output();
        output
            .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let profile = ["--profile", "five"];
        let down = ["down", "-v", "--remove-orphans", "--timeout", "5"];
        let mut down = self.compose_command(&[&profile[..], &down[..]].concat());
        for command in [
            &mut down,
            Command::new("docker").args(["rmi", "-f", &self.image]),
        ] {
            if !succeeds(command) {
                eprintln!("could not clean up: {command:?}");
            }
        }
    }
}

fn must_succeed(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Ports that nobody has: all are held at once while they are chosen, so that they differ.
fn free_ports() -> Vec<[u16; 3]> {
    let held: Vec<TcpListener> = (0..(JOINER + 1) * 3)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap())
        .collect();
    let ports: Vec<u16> = held
        .iter()
        .map(|l| l.local_addr().unwrap().port())
        .collect();
    ports.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect()
}
