//! A consortium of four with private transactions, for tests that read as sentences.
//!
//! Node 1 keeps its keys in a `quorate-enclave` process of its own, which a test can stop; the others keep theirs themselves. Every
//! node serves Tessera's HTTP surface. Each node sends from an account of its own, so that nonces never collide.

mod asking;
mod contracts;
mod ending;
mod sending;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy_primitives::{U256, hex};
use serde_json::Value;

use super::certificates::Authority;
use super::http;
use crate::consortium::{ALICE, BOB, Consortium, quorate};

/// Longer than anything here takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(40);
/// The node whose enclave is a process of its own.
pub const REMOTE: usize = 1;
/// How private transactions are sent if a test does not say otherwise.
pub const GAS: &str = "0xf4240";

/// Development accounts; node `i` sends from the `i`-th.
const ACCOUNTS: [&str; 4] = [
    ALICE,
    BOB,
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
];

/// How private transactions look to everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Marker,
    Quorum,
}

/// What happens to the consortium in the middle of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    Nothing,
    /// `kill -9` of the leader, which is started again at once.
    LeaderKilled,
    /// The enclave of one recipient ends, and comes back.
    EnclaveDown,
}

/// A private contract and who may know it.
#[derive(Debug, Clone)]
pub struct Contract {
    pub address: String,
    pub parties: BTreeSet<usize>,
    /// Hash of the public transaction that created it.
    pub transaction: String,
    /// What its data is known by.
    pub payload: String,
}

/// How the enclave of a process of its own is reached.
#[derive(Debug, Clone)]
enum EnclavePlace {
    Socket(PathBuf),
    /// Files of certificates.
    Tls {
        port: u16,
        certificate: PathBuf,
        key: PathBuf,
        client_ca: PathBuf,
    },
}

pub struct Parties {
    pub c: Consortium,
    pub form: Form,
    disturbance: Disturbance,
    /// The next transaction that is sent is disturbed.
    armed: bool,
    /// How many were.
    pub disturbed: usize,
    keys: Vec<String>,
    enclave: Option<Child>,
    place: EnclavePlace,
    /// Nodes whose HTTP surface asks for certificates.
    guarded: BTreeSet<usize>,
    /// Names and ids of privacy groups that the node with the remote enclave belongs to.
    groups: Vec<String>,
    /// What the scenario has made, to be compared at its end.
    contracts: Vec<Contract>,
    /// Transactions of the scenario.
    sent: Vec<String>,
    /// Alarms about transactions of the scenario are right.
    alarms_expected: bool,
    /// Transactions about which alarms are right, and how many alarms were seen on each node. They come when parties have told each
    /// other what they found, which may be in the next scenario.
    diverging: BTreeSet<String>,
    alarms_seen: Vec<f64>,
}

impl Parties {
    /// Four nodes that run and know each other's keys.
    pub fn of(form: Form) -> Self {
        Self::prepared(form, &[]).started()
    }

    /// The same with settings for all nodes, `section.name=value`.
    pub fn with(form: Form, settings: &[&str]) -> Self {
        Self::prepared(form, settings).started()
    }

    /// Writes the files only.
    pub fn prepared(form: Form, settings: &[&str]) -> Self {
        let mut c = Consortium::prepared_private(4);
        let form_setting = match form {
            Form::Marker => "privacy.public_form=marker",
            Form::Quorum => "privacy.public_form=quorum",
        };
        for i in 0..4 {
            for setting in [
                form_setting,
                "privacy.acknowledge_timeout=2s",
                "third_party.enabled=true",
            ]
            .iter()
            .chain(settings)
            {
                c.add_arguments(i, &["--set", setting]);
            }
        }
        let socket = c.node_dir(REMOTE).join("enclave.sock");
        c.add_arguments(
            REMOTE,
            &[
                "--set",
                &format!("privacy.enclave=unix:{}", socket.display()),
            ],
        );
        Self {
            c,
            form,
            disturbance: Disturbance::Nothing,
            armed: false,
            disturbed: 0,
            keys: Vec::new(),
            enclave: None,
            place: EnclavePlace::Socket(socket),
            guarded: BTreeSet::new(),
            groups: Vec::new(),
            contracts: Vec::new(),
            sent: Vec::new(),
            alarms_expected: false,
            diverging: BTreeSet::new(),
            alarms_seen: vec![0.0; 4],
        }
    }

    /// Starts everything and waits until every node knows every key.
    pub fn started(mut self) -> Self {
        self.keys = (0..4).map(|i| self.key_on_disk(i)).collect();
        self.start_enclave();
        for i in 0..4 {
            self.c.start(i);
        }
        self.wait_ready();
        self
    }

    /// The enclave's process listens behind TLS, as it would on another machine. `authority` has signed `enclave` and `node`.
    pub fn with_enclave_over_tls(mut self, authority: &Authority) -> Self {
        let port = self.c.spare_port(REMOTE);
        let file = |name: &str| authority.file(name);
        self.place = EnclavePlace::Tls {
            port,
            certificate: file("enclave.pem"),
            key: file("enclave.key"),
            client_ca: file("ca.pem"),
        };
        let mut settings = vec![format!("privacy.enclave=https://localhost:{port}")];
        for (setting, name) in [
            ("enclave_tls_certificate", "node.pem"),
            ("enclave_tls_key", "node.key"),
            ("enclave_tls_server_ca", "ca.pem"),
        ] {
            settings.push(format!("privacy.{setting}={}", file(name).display()));
        }
        for setting in &settings {
            self.c.add_arguments(REMOTE, &["--set", setting]);
        }
        self
    }

    /// The HTTP surface of node `i` was set to ask for certificates.
    pub fn with_guarded_surface(mut self, i: usize) -> Self {
        self.guarded.insert(i);
        self
    }

    /// Where the enclave's process listens.
    pub fn enclave_port(&self) -> u16 {
        match &self.place {
            EnclavePlace::Tls { port, .. } => *port,
            EnclavePlace::Socket(socket) => panic!("it listens on {}", socket.display()),
        }
    }

    pub fn disturbed_by(mut self, disturbance: Disturbance) -> Self {
        self.disturbance = disturbance;
        self
    }

    fn key_on_disk(&self, i: usize) -> String {
        let keys = self.c.node_dir(i).join("enclave");
        let listed = quorate(&[
            "enclave",
            "list",
            "--keys",
            keys.to_str().unwrap(),
            "--json",
        ]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        listed[0]["publicKey"].as_str().unwrap().to_owned()
    }

    /// Waits until all nodes that run answer, somebody leads, and everyone knows everyone's keys.
    pub fn wait_ready(&self) {
        let running = self.c.running();
        self.wait_ready_of(&running);
    }

    /// The same, where not all nodes run.
    pub fn wait_ready_of(&self, nodes: &[usize]) {
        self.c.wait_ready();
        let others = self.c.running().len() as f64 - 1.0;
        for i in nodes.iter().copied() {
            self.wait(&format!("node {i} is connected"), || {
                (self.metric(i, "quorate_p2p_peers_connected") >= others).then_some(())
            });
        }
        for i in nodes.iter().copied().filter(|i| *i < 4) {
            self.wait(&format!("node {i} knows all keys"), || {
                let known = match self.guarded.contains(&i) {
                    true => String::from_utf8(self.try_cli(i, &["keys"]).stdout).ok()?,
                    false => http::request(self.third(i), "GET", "/partyinfo/keys", &[], &[])
                        .ok()?
                        .text(),
                };
                self.keys
                    .iter()
                    .all(|key| known.contains(key))
                    .then_some(())
            });
        }
    }

    // ---- enclave

    pub fn start_enclave(&mut self) {
        assert!(self.enclave.is_none());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.c.net_dir().join("enclave.log"))
            .unwrap();
        let mut command = Command::new(enclave_binary());
        command
            .arg("serve")
            .arg("--keys")
            .arg(self.c.node_dir(REMOTE).join("enclave"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        match &self.place {
            EnclavePlace::Socket(socket) => {
                // A process that was killed leaves its socket behind.
                drop(std::fs::remove_file(socket));
                command.arg("--socket").arg(socket);
            }
            EnclavePlace::Tls {
                port,
                certificate,
                key,
                client_ca,
            } => {
                command.args(["--address", &format!("127.0.0.1:{port}")]);
                command.arg("--tls-certificate").arg(certificate);
                command.arg("--tls-key").arg(key);
                command.arg("--tls-client-ca").arg(client_ca);
            }
        }
        self.enclave = Some(command.spawn().unwrap());
        self.wait("the enclave serves", || match &self.place {
            EnclavePlace::Socket(socket) => socket.exists().then_some(()),
            EnclavePlace::Tls { port, .. } => {
                TcpStream::connect(("127.0.0.1", *port)).ok().map(drop)
            }
        });
    }

    /// `kill -9`.
    pub fn stop_enclave(&mut self) {
        let mut child = self.enclave.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    // ---- names

    pub fn key(&self, i: usize) -> &str {
        &self.keys[i]
    }

    pub fn keys(&self, nodes: &[usize]) -> Vec<String> {
        nodes.iter().map(|i| self.keys[*i].clone()).collect()
    }

    pub fn account(&self, i: usize) -> &'static str {
        ACCOUNTS[i]
    }

    /// Port of Tessera's HTTP surface on node `i`.
    pub fn third(&self, i: usize) -> u16 {
        self.c.third_party_port(i)
    }

    /// `quorate privacy …` against node `i`, as JSON.
    pub fn cli(&self, i: usize, arguments: &[&str]) -> Value {
        let output = self.try_cli(i, arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "privacy {arguments:?} on node {i}: {complaint}"
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn try_cli(&self, i: usize, arguments: &[&str]) -> std::process::Output {
        let url = self.c.grpc_url(i);
        let mut all = vec!["privacy"];
        all.extend_from_slice(arguments);
        all.extend(["--grpc", &url, "--json"]);
        quorate(&all)
    }

    /// A privacy group of these nodes is there from here on.
    pub fn note_group(&mut self, group: &Value, nodes: &[usize]) {
        if nodes.contains(&REMOTE) {
            for name in ["name", "id"] {
                self.groups.push(group[name].as_str().unwrap().to_owned());
            }
        }
    }
}

impl Drop for Parties {
    fn drop(&mut self) {
        if let Some(child) = &mut self.enclave {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The enclave's own binary: beside ours where the whole workspace was built, else it is built now.
fn enclave_binary() -> PathBuf {
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_quorate")).with_file_name("quorate-enclave");
    if !beside.is_file() {
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "quorate-enclave",
                "--bin",
                "quorate-enclave",
            ])
            .current_dir(crate::consortium::workspace())
            .status();
        assert!(built.unwrap().success(), "quorate-enclave cannot be built");
    }
    beside
}

/// The hash, or the error object, of an answer.
fn outcome(answer: Value) -> Result<String, Value> {
    outcome_value(answer).map(|hash| hash.as_str().unwrap().to_owned())
}

fn outcome_value(mut answer: Value) -> Result<Value, Value> {
    match answer.get_mut("error") {
        Some(error) => Err(error.take()),
        None => Ok(answer["result"].take()),
    }
}

/// True if the node says that the same may succeed later.
pub fn is_retryable(error: &Value) -> bool {
    error["data"]["retryable"] == true
}

/// Puts fields over those that are there.
pub fn merge(request: &mut Value, more: Value) {
    let Value::Object(more) = more else {
        panic!("fields are missing: {more}");
    };
    for (name, value) in more {
        request[name] = value;
    }
}

/// The first word of an answer in hexadecimal.
pub fn first_word(answer: &str) -> Option<u64> {
    let bytes = hex::decode(answer).unwrap();
    let word = bytes.get(..32)?;
    Some(U256::from_be_slice(word).to())
}
