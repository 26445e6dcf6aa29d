//! The consortium that is measured: four members, of which two are the parties, and one contract twice, publicly and privately.

use std::fs;
use std::time::{Duration, Instant};

use alloy_primitives::{B256, U256, hex, keccak256};
use serde_json::{Value, json};

use crate::client::{Client, Failure, body};
use crate::consortium::{Consortium, quorate};

pub const NODES: usize = 4;
/// The members that share the private contract. The first of them sends, unless both do.
pub const PARTIES: [usize; 2] = [0, 1];
/// The member that leads: no party, so that the parties do the same work and stopping one of them measures no election.
const LEADER: usize = 2;
/// The index of transactions is written with the state, by default every 256 blocks: that would be another phase's time as often as
/// not. So often, each phase pays for its own blocks.
const FLUSH_BLOCKS: &str = "state.flush_blocks=16";
/// Gas limit of a call. In Quorum's form the public transaction has it too.
const CALL_GAS: &str = "0xea60";
const DEPLOY_GAS: &str = "0xf4240";

/// Longer than anything here should stand still.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// With an argument: adds it to a number. Without: returns the number, which says in the end how often it was called.
const COUNTER: &[u8] = &[
    0x36, 0x60, 0x04, 0x10, 0x60, 0x0f, 0x57, // if CALLDATASIZE > 4, go to 0x0f
    0x5f, 0x54, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3, // return slot 0
    0x5b, 0x60, 0x04, 0x35, 0x5f, 0x54, 0x01, // CALLDATALOAD(4) + SLOAD(0)
    0x5f, 0x55, 0x00, // SSTORE(0, sum)
];

/// The accounts that every node of a development consortium signs for.
const ACCOUNTS: [&str; 10] = [
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
    "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
    "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
    "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
    "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
];

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Public,
    Private,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// A connection's work: always the same request to the same node.
#[derive(Debug, Clone)]
pub struct Lane {
    pub url: String,
    pub body: String,
}

pub struct World {
    pub c: Consortium,
    /// Enclave keys of the parties.
    keys: [String; 2],
    public_contract: String,
    private_contract: String,
}

impl World {
    /// Starts everything, and deploys the contract publicly and privately.
    pub fn begin(form: &str, suite: u64) -> Self {
        let mut c = Consortium::prepared_private(NODES);
        choose_suite(&c, suite);
        let form = format!("privacy.public_form={form}");
        for i in 0..NODES {
            c.add_arguments(i, &["--set", &form, "--set", FLUSH_BLOCKS]);
            c.start(i);
        }
        c.wait_ready();
        if c.leader() != LEADER {
            c.member(&["transfer", &(LEADER + 1).to_string()]);
        }
        let mut world = Self {
            keys: PARTIES.map(|i| enclave_key(&c, i)),
            c,
            public_contract: String::new(),
            private_contract: String::new(),
        };
        world.public_contract = world.deploy(Kind::Public);
        world.private_contract = world.deploy(Kind::Private);
        world
    }

    pub fn client(&self, i: usize) -> Client {
        Client::new(&self.c.rpc_url(i))
    }

    fn deploy(&self, kind: Kind) -> String {
        let length = u8::try_from(COUNTER.len()).unwrap();
        // CODECOPY(0, 9, length), RETURN(0, length)
        let mut init = vec![0x60, length, 0x80, 0x60, 0x09, 0x5f, 0x39, 0x5f, 0xf3];
        init.extend_from_slice(COUNTER);
        let mut request = json!({
            "from": ACCOUNTS[0], "gas": DEPLOY_GAS, "data": hex::encode_prefixed(init),
        });
        self.take_part(&mut request, kind, PARTIES[0]);
        let mut client = self.client(PARTIES[0]);
        // The members learn each other's enclave keys a moment after the start.
        let hash = self.c.wait("a contract is deployed", || {
            let sent = client.call("eth_sendTransaction", &json!([request]));
            sent.ok()
        });
        let hash: B256 = hash.as_str().unwrap().parse().unwrap();
        let method = match kind {
            Kind::Public => "eth_getTransactionReceipt",
            Kind::Private => "eth_getPrivateTransactionReceipt",
        };
        // The others are asked too, so that all of them have it when measuring begins.
        let holders: &[usize] = match kind {
            Kind::Public => &[3, 2, 1, 0],
            Kind::Private => &[1, 0],
        };
        let mut receipt = Value::Null;
        for i in holders {
            let mut client = self.client(*i);
            receipt = self.c.wait("the contract is there", || {
                let found = client.call(method, &json!([hash])).ok()?;
                (!found.is_null()).then_some(found)
            });
            assert_eq!(receipt["status"], "0x1", "{receipt}");
        }
        receipt["contractAddress"].as_str().unwrap().to_owned()
    }

    fn take_part(&self, request: &mut Value, kind: Kind, from: usize) {
        if kind == Kind::Private {
            let other = PARTIES.iter().position(|party| *party != from).unwrap();
            request["privateFor"] = json!([self.keys[other]]);
        }
    }

    fn contract(&self, kind: Kind) -> &str {
        match kind {
            Kind::Public => &self.public_contract,
            Kind::Private => &self.private_contract,
        }
    }

    /// Adding one, through node `node`, from account number `account`.
    pub fn lane(&self, kind: Kind, node: usize, account: usize) -> Lane {
        let mut data = keccak256("add(uint256)")[..4].to_vec();
        data.extend(U256::from(1u64).to_be_bytes::<32>());
        let mut request = json!({
            "from": ACCOUNTS[account],
            "to": self.contract(kind),
            "gas": CALL_GAS,
            "data": hex::encode_prefixed(data),
        });
        self.take_part(&mut request, kind, node);
        Lane {
            url: self.c.rpc_url(node),
            body: body("eth_sendTransaction", &json!([request])),
        }
    }

    /// `count` connections that take turns with these accounts and nodes. An account belongs to one node, since two would give
    /// the same nonce twice.
    pub fn lanes(&self, kind: Kind, nodes: &[usize], accounts: usize, count: usize) -> Vec<Lane> {
        let each = (0..count).map(|i| {
            let account = i % accounts.min(ACCOUNTS.len());
            self.lane(kind, nodes[account % nodes.len()], account)
        });
        each.collect()
    }

    /// What the counter says on a node.
    pub fn counted(&self, kind: Kind, i: usize) -> u64 {
        let get = hex::encode_prefixed(&keccak256("get()")[..4]);
        let call = json!([{ "to": self.contract(kind), "data": get }, "latest"]);
        let answer = self
            .client(i)
            .call("eth_call", &call)
            .unwrap_or_else(|e| panic!("the counter on node {i}: {e}"));
        let number: U256 = answer.as_str().unwrap().parse().unwrap();
        number.to()
    }

    pub fn height(&self, i: usize) -> u64 {
        self.c.height(i)
    }

    /// Waits until node `i` has executed block `height`, publicly or privately.
    pub fn wait_executed(&self, kind: Kind, i: usize, height: u64) {
        let mut client = self.client(i);
        patiently(
            &format!("node {i} has executed block {height}"),
            || match kind {
                Kind::Public => {
                    let reached = client.call("eth_blockNumber", &json!([])).ok()?;
                    let reached: U256 = reached.as_str()?.parse().ok()?;
                    (reached >= U256::from(height)).then_some(())
                }
                Kind::Private => root_at(&mut client, height).ok().map(drop),
            },
        );
    }

    /// Root of the private state of node `i` after block `height`.
    pub fn private_root(&self, i: usize, height: u64) -> String {
        root_at(&mut self.client(i), height)
            .unwrap_or_else(|e| panic!("private root of node {i} at block {height}: {e}"))
    }

    /// `quorate privacy …` against node `i`.
    pub fn privacy(&self, i: usize, arguments: &[&str]) -> Value {
        let url = self.c.grpc_url(i);
        let mut all = vec!["privacy"];
        all.extend_from_slice(arguments);
        all.extend(["--grpc", &url, "--json"]);
        let output = quorate(&all);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "privacy {arguments:?} on node {i}: {complaint}"
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Waits until `condition` gives something. For what depends on figures that the user may raise, [`Consortium::wait`] is too
/// impatient; this gives up when nothing came for [`PATIENCE`].
pub fn patiently<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The node answers when private execution has come there, or after two seconds with an error.
fn root_at(client: &mut Client, height: u64) -> Result<String, Failure> {
    let root = client.call("debug_privateStateRoot", &json!([format!("{height:#x}")]))?;
    match root.as_str() {
        Some(root) => Ok(root.to_owned()),
        None => Err(Failure::Broken(format!("no root but {root}"))),
    }
}

fn choose_suite(c: &Consortium, suite: u64) {
    let path = c.net_dir().join("genesis.json");
    let mut genesis: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    genesis["quorate"]["privacy"] = json!({ "suite": suite });
    fs::write(&path, genesis.to_string()).unwrap();
}

fn enclave_key(c: &Consortium, i: usize) -> String {
    let keys = c.node_dir(i).join("enclave");
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
