//! A consortium of four with private transactions, for tests that read as sentences.
//!
//! Node 1 keeps its keys in a `quorate-enclave` process of its own, which a test can stop; the others keep theirs themselves. Every
//! node serves Tessera's HTTP surface. Each node sends from an account of its own, so that nonces never collide.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alloy_primitives::{U256, hex};
use serde_json::{Value, json};

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

/// A call that distributes a payload.
#[derive(Debug, Clone)]
struct Submission {
    method: &'static str,
    params: Value,
    /// Which of the parameters says who takes part.
    private: usize,
}

impl Submission {
    fn of(request: &Value) -> Self {
        Self {
            method: "eth_sendTransaction",
            params: json!([request]),
            private: 0,
        }
    }
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

    // ---- sending

    /// A private transaction of node `from` to these nodes, as `eth_sendTransaction` takes it.
    pub fn request(&self, from: usize, to: &[usize], contract: Option<&str>, data: &[u8]) -> Value {
        let mut request = json!({
            "from": self.account(from),
            "gas": GAS,
            "data": hex::encode_prefixed(data),
            "privateFor": self.keys(to),
        });
        if let Some(contract) = contract {
            request["to"] = contract.into();
        }
        request
    }

    /// Sends through node `from`; the error object if it is refused.
    pub fn try_send(&self, from: usize, request: &Value) -> Result<String, Value> {
        self.try_submit(from, &Submission::of(request))
    }

    fn try_submit(&self, from: usize, submission: &Submission) -> Result<String, Value> {
        let answer = self
            .c
            .try_rpc(from, submission.method, submission.params.clone());
        outcome(answer.unwrap_or_else(|e| panic!("node {from}: {e}")))
    }

    /// Sends through node `from` and must be let. If a disturbance is due, it happens now.
    pub fn send(&mut self, from: usize, request: &Value) -> String {
        self.submit(from, &Submission::of(request))
    }

    /// The same for a transaction that was signed by the client, or another call that distributes a payload.
    pub fn send_raw(
        &mut self,
        from: usize,
        method: &'static str,
        raw: &str,
        private: &Value,
    ) -> String {
        let params = json!([raw, private]);
        let submission = Submission {
            method,
            params,
            private: 1,
        };
        self.submit(from, &submission)
    }

    fn submit(&mut self, from: usize, submission: &Submission) -> String {
        let armed = std::mem::take(&mut self.armed);
        self.disturbed += usize::from(armed);
        let hash = match self.disturbance {
            Disturbance::LeaderKilled if armed => self.send_while_the_leader_dies(from, submission),
            Disturbance::EnclaveDown if armed => {
                self.send_while_an_enclave_is_down(from, submission)
            }
            Disturbance::Nothing | Disturbance::LeaderKilled | Disturbance::EnclaveDown => self
                .try_submit(from, submission)
                .unwrap_or_else(|error| panic!("{submission:?}: {error}")),
        };
        self.sent.push(hash.clone());
        hash
    }

    /// A transaction that must be refused. Nothing of it may come on the chain.
    pub fn refused(&self, from: usize, request: &Value) -> String {
        let error = match self.try_send(from, request) {
            Err(error) => error,
            Ok(hash) => panic!("{request} was not refused: {hash}"),
        };
        error["message"].as_str().unwrap().to_owned()
    }

    /// From here on the scenario is disturbed, if it is to be: at the next transaction that it sends.
    pub fn midway(&mut self) {
        self.armed = self.disturbance != Disturbance::Nothing;
    }

    fn send_while_the_leader_dies(&mut self, from: usize, submission: &Submission) -> String {
        // A pool is memory: what a dying node has accepted and told nobody yet is gone with it. That is another test's subject.
        for hash in self.sent.iter().filter(|hash| hash.len() == 2 + 64) {
            self.public_receipt(from, hash);
        }
        let leader = self.c.leader();
        let height = self.c.height(leader);
        self.c.kill(leader);
        self.c.start(leader);
        // What a node has not heard of yet, it cannot judge.
        self.wait("the sending node has all blocks", || {
            let answer = self.c.try_rpc(from, "eth_blockNumber", json!([])).ok()?;
            let reached = crate::consortium::quantity(answer.get("result")?);
            (reached >= height).then_some(())
        });
        // An error says that nothing came on the chain: then trying again is safe.
        let hash = self.wait("the transaction is taken", || {
            let params = submission.params.clone();
            let answer = self.c.try_rpc(from, submission.method, params).ok()?;
            match outcome(answer) {
                Ok(hash) => Some(hash),
                Err(error) if is_retryable(&error) => None,
                Err(error) => panic!("{submission:?}: {error}"),
            }
        });
        self.wait_ready();
        hash
    }

    fn send_while_an_enclave_is_down(&mut self, from: usize, submission: &Submission) -> String {
        self.stop_enclave();
        // What is public goes on, through this node too.
        let public = self.c.transfer(REMOTE, ACCOUNTS[REMOTE], ACCOUNTS[0]);
        for i in 0..4 {
            assert_eq!(self.public_receipt(i, &public)["status"], "0x1");
        }
        let private = &submission.params[submission.private];
        let named = private["privateFor"].to_string();
        let is_recipient = named.contains(&self.keys[REMOTE])
            || self
                .groups
                .iter()
                .any(|group| named.contains(&format!("{group:?}")));
        // Without tags, and where all validate the state, all recipients must have it before it is on the chain.
        let may_lag = self.form == Form::Marker
            && submission.private == 0
            && private.get("acknowledgements").is_none()
            && private["privacyFlag"] != 3;
        if from == REMOTE || (is_recipient && !may_lag) {
            let error = self
                .try_submit(from, submission)
                .expect_err("a key is missing");
            assert!(is_retryable(&error), "{error}");
            let said = error["message"].as_str().unwrap();
            let named = match from == REMOTE {
                true => "enclave",
                false => "member 2",
            };
            assert!(said.contains(named), "{said}");
            self.start_enclave();
            return self.wait("the transaction is taken", || {
                match self.try_submit(from, submission) {
                    Ok(hash) => Some(hash),
                    Err(error) if is_retryable(&error) => None,
                    Err(error) => panic!("{submission:?}: {error}"),
                }
            });
        }
        let mut submission = submission.clone();
        if is_recipient {
            submission.params[0]["acknowledgements"] = json!({ "k": 0 });
        }
        let hash = self
            .try_submit(from, &submission)
            .unwrap_or_else(|error| panic!("{submission:?}: {error}"));
        if is_recipient {
            // It is a party and does not know it: that must not look like "not a party".
            self.wait("the block is everywhere", || {
                let answer = self
                    .c
                    .try_rpc(REMOTE, "eth_getTransactionByHash", json!([hash]))
                    .ok()?;
                (!answer["result"]["blockNumber"].is_null()).then_some(())
            });
            let answer =
                self.c
                    .rpc_error(REMOTE, "eth_getPrivateTransactionReceipt", json!([hash]));
            let said = answer["message"].as_str().unwrap();
            assert!(
                said.contains("private state at block") && said.contains("waiting for payload 0x")
                    || said.contains("enclave"),
                "{said}"
            );
        }
        self.start_enclave();
        hash
    }

    // ---- contracts

    /// Deploys a private contract of node `from` and these nodes.
    pub fn deploy(&mut self, from: usize, to: &[usize], init: &[u8]) -> Contract {
        self.deploy_with(from, to, init, json!({}))
    }

    /// The same with further fields of the request.
    pub fn deploy_with(&mut self, from: usize, to: &[usize], init: &[u8], more: Value) -> Contract {
        let mut request = self.request(from, to, None, init);
        merge(&mut request, more);
        let transaction = self.send(from, &request);
        let parties: BTreeSet<usize> = to.iter().copied().chain([from]).collect();
        let contract = self.deployed(&transaction, &parties);
        self.track(contract.clone());
        contract
    }

    /// The contract that a transaction has created, once its parties have executed it.
    pub fn deployed(&self, transaction: &str, parties: &BTreeSet<usize>) -> Contract {
        let mut address = None;
        for i in parties {
            let receipt = self.private_receipt(*i, transaction);
            assert_eq!(receipt["status"], "0x1", "on node {i}: {receipt}");
            let created = receipt["contractAddress"].as_str().unwrap().to_owned();
            assert!(address.is_none_or(|other| other == created));
            address = Some(created);
        }
        Contract {
            address: address.unwrap(),
            parties: parties.clone(),
            transaction: transaction.to_owned(),
            payload: self.payload_hash(transaction),
        }
    }

    /// Its parties will be compared at the end of the scenario.
    pub fn track(&mut self, contract: Contract) {
        self.contracts.push(contract);
    }

    /// A contract was extended to node `i`: from here on that is one of its parties.
    pub fn joined(&mut self, contract: &Contract, i: usize) -> Contract {
        let mut parties = contract.parties.clone();
        parties.insert(i);
        let joined = Contract {
            parties,
            ..contract.clone()
        };
        self.contracts.retain(|c| c.address != contract.address);
        self.contracts.push(joined.clone());
        joined
    }

    /// Alarms about this transaction are right.
    pub fn expect_alarms_about(&mut self, transaction: &str) {
        self.diverging.insert(transaction.to_owned());
    }

    /// The parties of this contract are not going to agree, and that is right.
    pub fn let_diverge(&mut self, contract: &Contract) {
        self.contracts.retain(|c| c.address != contract.address);
        self.alarms_expected = true;
    }

    /// Alarms are right, but the contracts agree in the end.
    pub fn expect_alarms(&mut self) {
        self.alarms_expected = true;
    }

    /// Sends a call to a private contract; all parties must execute it successfully. Its hash.
    pub fn execute(
        &mut self,
        from: usize,
        to: &[usize],
        contract: &Contract,
        data: &[u8],
    ) -> String {
        self.execute_with(from, to, contract, data, json!({}))
    }

    /// The same with further fields of the request.
    pub fn execute_with(
        &mut self,
        from: usize,
        to: &[usize],
        contract: &Contract,
        data: &[u8],
        more: Value,
    ) -> String {
        let mut request = self.request(from, to, Some(&contract.address), data);
        merge(&mut request, more);
        let hash = self.send(from, &request);
        for i in to.iter().copied().chain([from]) {
            let receipt = self.private_receipt(i, &hash);
            assert_eq!(receipt["status"], "0x1", "on node {i}: {receipt}");
        }
        hash
    }

    /// Deploys a contract for everyone.
    pub fn deploy_publicly(&mut self, from: usize, init: &[u8]) -> String {
        let request = json!({
            "from": self.account(from), "gas": GAS, "data": hex::encode_prefixed(init),
        });
        let hash = self.send_publicly(from, &request);
        let receipt = self.public_receipt(from, &hash);
        assert_eq!(receipt["status"], "0x1");
        receipt["contractAddress"].as_str().unwrap().to_owned()
    }

    /// A public transaction; its hash once all nodes have it.
    pub fn send_publicly(&mut self, from: usize, request: &Value) -> String {
        let hash = self.try_send(from, request);
        let hash = hash.unwrap_or_else(|error| panic!("{request}: {error}"));
        for i in self.c.running() {
            self.public_receipt(i, &hash);
        }
        hash
    }

    /// A public call of a contract; its receipt.
    pub fn call_publicly(&mut self, from: usize, to: &str, data: &[u8]) -> Value {
        let request = json!({
            "from": self.account(from), "to": to, "gas": GAS, "data": hex::encode_prefixed(data),
        });
        let hash = self.send_publicly(from, &request);
        self.public_receipt(from, &hash)
    }

    // ---- asking

    /// What the whole chain says of a transaction, once node `i` has it. In Quorum's form a party is shown its own receipt, which it
    /// may have to wait for: the block is what tells.
    pub fn public_receipt(&self, i: usize, hash: &str) -> Value {
        self.wait(&format!("node {i} has {hash} in a block"), || {
            let answer = self
                .c
                .try_rpc(i, "eth_getTransactionByHash", json!([hash]))
                .ok()?;
            (!answer["result"]["blockNumber"].is_null()).then_some(())
        });
        let answer = self
            .c
            .try_rpc(i, "eth_getTransactionReceipt", json!([hash]))
            .unwrap();
        match answer.get("result") {
            Some(receipt) => receipt.clone(),
            None => json!({}),
        }
    }

    /// The receipt of the private execution on node `i`, which must be a party.
    pub fn private_receipt(&self, i: usize, hash: &str) -> Value {
        self.wait(
            &format!("node {i} has the private receipt of {hash}"),
            || {
                let answer = self
                    .c
                    .try_rpc(i, "eth_getPrivateTransactionReceipt", json!([hash]))
                    .ok()?;
                answer
                    .get("result")
                    .filter(|receipt| !receipt.is_null())
                    .cloned()
            },
        )
    }

    /// Asserts that node `i` has the transaction in a block and is no party of it.
    pub fn assert_no_party(&self, i: usize, hash: &str) {
        self.public_receipt(i, hash);
        let receipt = self.patiently(i, "eth_getPrivateTransactionReceipt", json!([hash]));
        assert!(receipt.is_null(), "node {i}: {receipt}");
        let transaction = self.patiently(i, "eth_getPrivateTransactionByHash", json!([hash]));
        assert!(transaction.is_null(), "node {i}: {transaction}");
        let payload = self.payload_hash(hash);
        let data = self.patiently(i, "eth_getQuorumPayload", json!([payload]));
        assert_eq!(data, "0x", "node {i}");
    }

    /// A read that may have to wait for private execution.
    pub fn patiently(&self, i: usize, method: &str, params: Value) -> Value {
        self.wait(
            &format!("node {i} answers {method} {params}"),
            || match outcome_value(self.c.try_rpc(i, method, params.clone()).ok()?) {
                Ok(result) => Some(result),
                Err(error) if is_retryable(&error) => None,
                Err(error) => panic!("{method} on node {i}: {error}"),
            },
        )
    }

    /// What a contract answers on node `i`, in hexadecimal; `0x` where there is none.
    pub fn ask(&self, i: usize, contract: &str, data: &[u8]) -> String {
        let call =
            json!({ "from": self.account(i), "to": contract, "data": hex::encode_prefixed(data) });
        let answer = self.patiently(i, "eth_call", json!([call, "latest"]));
        answer.as_str().unwrap().to_owned()
    }

    /// The first word of a contract's answer to an empty call; `None` where there is no contract.
    pub fn number(&self, i: usize, contract: &str) -> Option<u64> {
        first_word(&self.ask(i, contract, &[]))
    }

    /// Waits until all these nodes read this number.
    pub fn wait_number(&self, nodes: &[usize], contract: &str, expected: u64) {
        for i in nodes {
            self.wait(
                &format!("node {i} reads {expected} from {contract}"),
                || (self.number(*i, contract) == Some(expected)).then_some(()),
            );
        }
    }

    /// A storage slot on node `i`.
    pub fn slot(&self, i: usize, contract: &str, slot: u64) -> U256 {
        let value = self.patiently(
            i,
            "eth_getStorageAt",
            json!([contract, format!("{slot:#x}"), "latest"]),
        );
        value.as_str().unwrap().parse().unwrap()
    }

    pub fn code(&self, i: usize, contract: &str) -> String {
        let code = self.patiently(i, "eth_getCode", json!([contract, "latest"]));
        code.as_str().unwrap().to_owned()
    }

    pub fn storage_root(&self, i: usize, contract: &str) -> Value {
        self.patiently(i, "eth_storageRoot", json!([contract, "latest"]))
    }

    /// The payload hash that a public transaction carries, with 0x.
    pub fn payload_hash(&self, transaction: &str) -> String {
        let some = self.c.running()[0];
        let tx = self.wait(&format!("node {some} knows {transaction}"), || {
            let answer = self
                .c
                .try_rpc(some, "eth_getTransactionByHash", json!([transaction]))
                .ok()?;
            answer.get("result").filter(|tx| !tx.is_null()).cloned()
        });
        let input = tx["input"].as_str().unwrap();
        input[..2 + 128].to_owned()
    }

    /// Logs of a contract on node `i`, over the whole chain.
    pub fn logs(&self, i: usize, contract: &str) -> Vec<Value> {
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest", "address": contract }]);
        let logs = self.patiently(i, "eth_getLogs", filter);
        logs.as_array().unwrap().clone()
    }

    /// The sum of all figures of this name on node `i`; 0 if there is none.
    pub fn metric(&self, i: usize, name: &str) -> f64 {
        let text = crate::consortium::http(&self.c.metrics_url(i), None).unwrap_or_default();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Asks until `condition` gives something.
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    // ---- the end of a scenario

    /// Everyone has the same chain; parties of each contract agree about it, others know nothing of it; there are no alarms but those
    /// that are right.
    pub fn settle(&mut self) {
        assert!(
            !self.armed,
            "nothing was sent after the middle of the scenario"
        );
        let running = self.c.running();
        let highest = running.iter().map(|i| self.c.height(*i)).max().unwrap();
        for i in &running {
            self.wait(&format!("node {i} is at block {highest}"), || {
                (self.c.height(*i) >= highest).then_some(())
            });
        }
        for contract in std::mem::take(&mut self.contracts) {
            self.assert_agreed(&contract);
        }
        let sent = std::mem::take(&mut self.sent);
        if std::mem::take(&mut self.alarms_expected) {
            self.diverging.extend(sent);
        }
        self.assert_no_wrong_alarms();
    }

    /// At the end of a test: what parties found has reached everyone by now.
    pub fn finish(&mut self) {
        // Digests are sent twice a second.
        std::thread::sleep(Duration::from_millis(1_200));
        self.settle();
    }

    fn assert_no_wrong_alarms(&mut self) {
        for i in self.c.running().into_iter().filter(|i| *i < 4) {
            let count = self.metric(i, "quorate_exchange_alarms_total");
            if count == std::mem::replace(&mut self.alarms_seen[i], count) {
                continue;
            }
            for alarm in self.cli(i, &["alarms"]).as_array().unwrap() {
                let about = alarm["transaction"].as_str().unwrap();
                assert!(
                    self.diverging.contains(about),
                    "node {i} raised an alarm: {alarm}"
                );
            }
        }
    }

    /// All parties of a contract have it alike, and the others not at all.
    pub fn assert_agreed(&self, contract: &Contract) {
        let address = &contract.address;
        let first = *contract.parties.first().unwrap();
        for i in self.c.running() {
            if contract.parties.contains(&i) {
                self.wait(
                    &format!("nodes {first} and {i} agree about {address}"),
                    || {
                        (self.storage_root(i, address) == self.storage_root(first, address))
                            .then_some(())
                    },
                );
                assert_eq!(self.code(i, address), self.code(first, address));
            } else {
                assert_eq!(
                    self.code(i, address),
                    "0x",
                    "node {i} is no party of {address}"
                );
            }
        }
    }

    /// After a scenario that failed: everything runs again, for the next one.
    pub fn restore(&mut self) {
        self.armed = false;
        self.contracts.clear();
        self.alarms_expected = false;
        let sent = std::mem::take(&mut self.sent);
        self.diverging.extend(sent);
        if self.enclave.is_none() {
            self.start_enclave();
        }
        for i in 0..4 {
            if !self.c.running().contains(&i) {
                self.c.start(i);
            }
        }
        self.wait_ready();
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
