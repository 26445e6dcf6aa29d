//! `quorate network`: the files of a new consortium.

mod compose;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::iter::repeat;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use alloy_primitives::utils::parse_ether;
use alloy_primitives::{Address, U256};
use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use quorate_chain::{Genesis, Member, MemberRole};
use quorate_enclave::{KeyFolder, Protection, PublicKey};
use serde_json::{Value, json};

use super::{init, output};
use crate::accounts::development_keys;
use crate::config::{NodeConfig, render};
use crate::dev::Ports;
use crate::keys::{PublicIdentity, new_key, write_node_key};

/// Gas limit of every block: room for 5,000 transactions (the default limit of a block) of 96,000 gas each, so that contracts,
/// not only transfers, fill a block to its limit of transactions.
const GAS_LIMIT: u64 = 0x1c9c_3800;
/// What each development account has at the start, in ether.
const DEVELOPMENT_ETHER: u64 = 1_000_000;
/// Port of the members' network in generated files, where each node has a host of its own.
const P2P_PORT: u16 = 30_303;
/// Folder of a member's enclave keys, beside its configuration.
const ENCLAVE_DIR: &str = "enclave";
/// Name of the key in it; `quorate enclave` takes it where none is given.
const ENCLAVE_KEY: &str = "main";

/// Files of a consortium.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Write genesis, and configuration and key of every member.
    New(Box<NewArgs>),
}

const EXAMPLES: &str = "\
Writes DIR/genesis.json (the same for every member) and, per member, DIR/nodeN/quorate.toml, DIR/nodeN/node.key, and in
DIR/nodeN/enclave an unlocked key for private transactions, which are switched on (--no-privacy leaves both out). Give each
member the genesis file and its own folder; the keys are secret. Paths in quorate.toml begin at its folder, so the whole
folder can be moved.

Without --host or --compose all members are on this machine, on ports of their own.

Examples:
  quorate network new --nodes 4 --out my-net --org BankA --org BankB --org BankC --org Regulator
  quorate network new --nodes 3 --out my-net --host a.example --host b.example --host c.example
  quorate network new --nodes 4 --out my-net --compose --fund 0x70997970C51812dc3A010C7d01b50e0d17dc79C8=1000";

/// Arguments of `quorate network new`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NewArgs {
    /// How many members.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// The folder to write; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Chain id; never 1, which is Ethereum's own.
    #[arg(long, default_value_t = 1_337)]
    chain_id: u64,
    /// Organisation of a member; once per member, in their order.
    #[arg(long = "org", value_name = "NAME")]
    organisations: Vec<String>,
    /// Host name or address of a member's machine; once per member, in their order.
    #[arg(long = "host", value_name = "HOST", conflicts_with_all = ["compose", "base_port"])]
    hosts: Vec<String>,
    /// On this machine: use ports from here on, in five lanes of a hundred: JSON-RPC, members' network, gRPC, metrics,
    /// third-party HTTP.
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Write DIR/docker-compose.yml too, with all members as containers.
    #[arg(long)]
    compose: bool,
    /// Fund and unlock the ten well-known development accounts. Their keys are public: only for chains without value.
    #[arg(long)]
    dev_accounts: bool,
    /// Without private transactions: no enclave keys are made, and privacy.enabled stays false.
    #[arg(long)]
    no_privacy: bool,
    /// Give an account ether at the start; may be repeated.
    #[arg(long, value_name = "ADDRESS=ETHER", value_parser = parse_funding)]
    fund: Vec<(Address, U256)>,
    /// Succeed without doing anything if DIR has a genesis already.
    #[arg(long)]
    if_absent: bool,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

fn parse_funding(text: &str) -> Result<(Address, U256), String> {
    let (address, ether) = text
        .split_once('=')
        .ok_or("write it as 0xADDRESS=ETHER, such as 0x7099…79C8=100")?;
    let address = address
        .trim()
        .parse()
        .map_err(|_| format!("{address:?} is no address (0x and 40 hexadecimal digits)"))?;
    let wei = parse_ether(ether.trim())
        .map_err(|_| format!("{ether:?} is no amount of ether, such as 100 or 0.5"))?;
    Ok((address, wei))
}

impl NetworkCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the arguments contradict each other or the folder cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::New(args) => args.run(),
        }
    }
}

impl NewArgs {
    fn run(&self) -> anyhow::Result<()> {
        if self.if_absent && self.out.join("genesis.json").exists() {
            output::note(&format!(
                "{} has a genesis already: nothing to do",
                self.out.display()
            ));
            return Ok(());
        }
        let plan = self.plan()?;
        let created = plan.create(&self.out)?;
        match self.json {
            true => output::print_json(&created.to_json(&self.out))?,
            false => output::print(&created.describe(&self.out, self.compose))?,
        }
        Ok(())
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let count = usize::from(self.nodes);
        for (flag, given) in [
            ("--org", self.organisations.len()),
            ("--host", self.hosts.len()),
        ] {
            if given != 0 && given != count {
                bail!(
                    "{flag} is given {given} times for {count} members: give it once per member, or not at all"
                );
            }
        }
        let mut nodes = Vec::new();
        for i in 0..count {
            let organisation = self
                .organisations
                .get(i)
                .cloned()
                .unwrap_or_else(|| format!("Organisation {}", i + 1));
            let ports = Ports::of(i, self.base_port)?;
            let place = match self.hosts.get(i) {
                Some(host) => Place::Host(host.clone()),
                None if self.compose => Place::Container,
                None => Place::Loopback,
            };
            nodes.push(PlannedNode {
                organisation,
                place,
                ports,
            });
        }
        Ok(Plan {
            chain_id: self.chain_id,
            nodes,
            dev_accounts: self.dev_accounts,
            funded: self.fund.iter().copied().collect(),
            compose: self.compose,
            privacy: !self.no_privacy,
        })
    }
}

/// Writes a consortium on this machine for `quorate dev`: development accounts, these ports, and enclave keys if `privacy` is
/// wanted.
///
/// # Errors
/// If the folder cannot be written.
pub fn create_development(dir: &Path, ports: &[Ports], privacy: bool) -> anyhow::Result<()> {
    let nodes = ports.iter().enumerate().map(|(i, ports)| PlannedNode {
        organisation: format!("Organisation {}", i + 1),
        place: Place::Loopback,
        ports: *ports,
    });
    let plan = Plan {
        chain_id: 1_337,
        nodes: nodes.collect(),
        dev_accounts: true,
        funded: BTreeMap::new(),
        compose: false,
        privacy,
    };
    plan.create(dir)?;
    Ok(())
}

/// Where a member runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// On this machine, on ports of its own.
    Loopback,
    /// In a container that others know as `nodeN`.
    Container,
    /// On a machine of its own.
    Host(String),
}

#[derive(Debug)]
struct PlannedNode {
    organisation: String,
    place: Place,
    /// On this machine; for containers the ports that are published.
    ports: Ports,
}

impl PlannedNode {
    /// What the other members dial.
    fn address(&self, name: &str) -> String {
        match &self.place {
            Place::Loopback => format!("127.0.0.1:{}", self.ports.p2p),
            Place::Container => format!("{name}:{P2P_PORT}"),
            Place::Host(host) if host.contains(':') && !host.starts_with('[') => {
                format!("[{host}]:{P2P_PORT}")
            }
            Place::Host(host) => format!("{host}:{P2P_PORT}"),
        }
    }

    fn config(&self, name: &str, dev_accounts: bool, privacy: bool) -> NodeConfig {
        let mut config = NodeConfig::default();
        config.privacy.enabled = privacy;
        if privacy {
            // Beside the node key: data that is lost can be had from the others, keys cannot.
            config.privacy.key_dir = Some(ENCLAVE_DIR.into());
        }
        config.node.name = name.to_owned();
        config.node.genesis = Some("../genesis.json".into());
        config.accounts.dev_accounts = dev_accounts;
        if self.place == Place::Loopback {
            let here = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            config.p2p.listen = here(self.ports.p2p);
            config.rpc.listen = here(self.ports.rpc);
            config.grpc.listen = here(self.ports.grpc);
            config.metrics.listen = here(self.ports.metrics);
            config.third_party.listen = here(self.ports.third_party);
        }
        config
    }
}

#[derive(Debug)]
struct Plan {
    chain_id: u64,
    nodes: Vec<PlannedNode>,
    dev_accounts: bool,
    funded: BTreeMap<Address, U256>,
    compose: bool,
    privacy: bool,
}

/// What was written.
struct Created {
    genesis: Genesis,
    peer_ids: Vec<String>,
    /// One for each member, or none.
    enclave_keys: Vec<PublicKey>,
}

impl Plan {
    /// All or nothing: everything is written beside the folder, which then takes its place.
    fn create(&self, dir: &Path) -> anyhow::Result<Created> {
        let name = dir.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| anyhow!("--out {}: name a folder to make", dir.display()))?;
        if dir.exists()
            && fs::read_dir(dir)
                .with_context(|| format!("--out {}", dir.display()))?
                .next()
                .is_some()
        {
            bail!(
                "{} is not empty: keys and genesis are never overwritten",
                dir.display()
            );
        }
        let parent = dir
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("folder {}", parent.display()))?;
        let stage = parent.join(format!(".{name}.new-{:08x}", rand::random::<u32>()));
        let written = self.write(&stage).and_then(|created| {
            fs::rename(&stage, dir).with_context(|| format!("making {}", dir.display()))?;
            File::open(parent)?.sync_all()?;
            Ok(created)
        });
        if written.is_err() && stage.exists() {
            fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
        }
        written
    }

    fn write(&self, dir: &Path) -> anyhow::Result<Created> {
        fs::create_dir(dir).with_context(|| format!("folder {}", dir.display()))?;
        let mut members = Vec::new();
        let mut peer_ids = Vec::new();
        let mut enclave_keys = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let name = format!("node{}", i + 1);
            let folder = dir.join(&name);
            fs::create_dir(&folder)?;
            // Made here so that it belongs to the user, also where a container would have to make it.
            fs::create_dir(folder.join("data"))?;
            let key = new_key();
            write_node_key(&folder.join("node.key"), &key)?;
            write(
                &folder.join("quorate.toml"),
                &render(&node.config(&name, self.dev_accounts, self.privacy)),
            )?;
            if self.privacy {
                let keys = KeyFolder::open(folder.join(ENCLAVE_DIR))?;
                let listing = keys.generate(ENCLAVE_KEY, &Protection::None)?;
                enclave_keys.push(listing.announcement.key);
            }
            let identity = PublicIdentity::of(&key)?;
            peer_ids.push(identity.peer_id);
            members.push(Member {
                raft_id: i as u64 + 1,
                node_id: identity.node_id,
                address: node.address(&name),
                organisation: node.organisation.clone(),
                role: MemberRole::Voter,
            });
        }
        let text = format!("{:#}\n", self.genesis(&members)?);
        let genesis = Genesis::parse(&text)?;
        write(&dir.join("genesis.json"), &text)?;
        if self.compose {
            let owner = fs::metadata(dir)?;
            write(
                &dir.join("docker-compose.yml"),
                &self.compose_file(owner.uid(), owner.gid()),
            )?;
        }
        Ok(Created {
            genesis,
            peer_ids,
            enclave_keys,
        })
    }

    fn genesis(&self, members: &[Member]) -> anyhow::Result<Value> {
        let mut funded = self.funded.clone();
        if self.dev_accounts {
            let ether = U256::from(DEVELOPMENT_ETHER) * U256::from(10u64).pow(U256::from(18));
            for (address, _) in development_keys() {
                funded.entry(address).or_insert(ether);
            }
        }
        let mut alloc = serde_json::Map::new();
        for (address, wei) in funded {
            alloc.insert(
                address.to_string(),
                json!({ "balance": format!("{wei:#x}") }),
            );
        }
        // Prague's contract for old block hashes (EIP-2935): on Ethereum it was deployed by a transaction, here it is there from
        // the start.
        alloc.insert(
            alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS.to_string(),
            json!({ "balance": "0x0", "nonce": "0x1", "code": alloy_eips::eip2935::HISTORY_STORAGE_CODE.to_string() }),
        );
        Ok(json!({
            "config": {
                "chainId": self.chain_id,
                "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0, "byzantiumBlock": 0,
                "constantinopleBlock": 0, "petersburgBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0,
                "mergeNetsplitBlock": 0, "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
                "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
                "blobSchedule": {
                    "cancun": { "target": 3, "max": 6, "baseFeeUpdateFraction": 3_338_477 },
                    "prague": { "target": 6, "max": 9, "baseFeeUpdateFraction": 5_007_716 },
                },
            },
            "nonce": "0x0", "timestamp": "0x0", "extraData": "0x", "difficulty": "0x0",
            "gasLimit": format!("{GAS_LIMIT:#x}"),
            "mixHash": "0x0000000000000000000000000000000000000000000000000000000000000000",
            "coinbase": "0x0000000000000000000000000000000000000000",
            "alloc": alloc,
            "quorate": { "members": serde_json::to_value(members)?, "blockLimits": quorate_chain::BlockLimits::default() },
        }))
    }
}

impl Created {
    fn to_json(&self, dir: &Path) -> Value {
        let enclave_keys = self.enclave_keys.iter().map(Some).chain(repeat(None));
        let known = self.peer_ids.iter().zip(enclave_keys);
        let members = self.genesis.members().iter().zip(known).map(|(member, (peer_id, enclave_key))| {
            json!({
                "raftId": member.raft_id,
                "nodeId": member.node_id.to_string(),
                "nodeAddress": member.node_id.address().to_string(),
                "peerId": peer_id,
                "enclaveKey": enclave_key.map(ToString::to_string),
                "address": member.address,
                "organisation": member.organisation,
                "config": dir.join(format!("node{}", member.raft_id)).join("quorate.toml").display().to_string(),
            })
        });
        json!({
            "chainId": self.genesis.spec().chain_id(),
            "genesisHash": init::hash_of(&self.genesis).to_string(),
            "genesis": dir.join("genesis.json").display().to_string(),
            "members": members.collect::<Vec<_>>(),
        })
    }

    fn describe(&self, dir: &Path, compose: bool) -> String {
        let mut lines = vec![format!(
            "{}: chain id {}, genesis hash {}",
            dir.display(),
            self.genesis.spec().chain_id(),
            init::hash_of(&self.genesis)
        )];
        for member in self.genesis.members() {
            lines.push(format!(
                "  node{}  {}  {}  {}",
                member.raft_id, member.node_id, member.address, member.organisation
            ));
        }
        let next = match compose {
            true => format!(
                "next: docker-compose -f {} up -d",
                dir.join("docker-compose.yml").display()
            ),
            false => format!(
                "next: quorate node --config {}",
                dir.join("node1").join("quorate.toml").display()
            ),
        };
        lines.push(next);
        lines.join("\n")
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = File::create_new(path).with_context(|| format!("file {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
        .with_context(|| format!("file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Loaded;

    fn plan(place: &Place, compose: bool) -> Plan {
        let nodes = (0..3).map(|i| PlannedNode {
            organisation: format!("Org {i}"),
            place: place.clone(),
            ports: Ports::of(i, None).unwrap(),
        });
        Plan {
            chain_id: 99,
            nodes: nodes.collect(),
            dev_accounts: true,
            funded: BTreeMap::new(),
            compose,
            privacy: true,
        }
    }

    #[test]
    fn what_is_written_can_be_read_by_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        plan(&Place::Loopback, false).create(&dir).unwrap();
        let genesis =
            Genesis::parse(&fs::read_to_string(dir.join("genesis.json")).unwrap()).unwrap();
        assert_eq!(genesis.members().len(), 3);
        assert_eq!(genesis.spec().chain_id(), 99);
        assert_eq!(genesis.alloc().count(), 11);
        for (i, member) in genesis.members().iter().enumerate() {
            let file = dir.join(format!("node{}", i + 1)).join("quorate.toml");
            let config = Loaded::load(Some(&file), Vec::new(), &[]).unwrap().config;
            let key = crate::keys::read_node_key(&config.node.key_file).unwrap();
            assert_eq!(PublicIdentity::of(&key).unwrap().node_id, member.node_id);
            assert_eq!(config.p2p.listen.to_string(), member.address);
            assert!(config.node.genesis.as_ref().unwrap().exists());
            assert!(config.accounts.dev_accounts);
            assert!(config.privacy.enabled && !config.third_party.enabled);
            let folder = KeyFolder::open(config.enclave_key_dir()).unwrap();
            let keys = folder.list().unwrap();
            assert_eq!(keys.len(), 1);
            assert_eq!(keys[0].name, ENCLAVE_KEY);
            assert!(config.enclave_keys().is_ok());
        }
        // Nothing is left beside it, and it is never overwritten.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let again = plan(&Place::Loopback, false).create(&dir);
        assert!(again.err().unwrap().to_string().contains("not empty"));
    }

    #[test]
    fn a_network_without_privacy_has_no_enclave_keys() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        let plan = Plan {
            privacy: false,
            ..plan(&Place::Loopback, false)
        };
        assert!(plan.create(&dir).unwrap().enclave_keys.is_empty());
        let file = dir.join("node1").join("quorate.toml");
        let config = Loaded::load(Some(&file), Vec::new(), &[]).unwrap().config;
        assert!(!config.privacy.enabled);
        assert!(!config.enclave_key_dir().exists());
    }

    #[test]
    fn members_are_named_as_their_place_wants() {
        let address = |place: Place| {
            PlannedNode {
                organisation: String::new(),
                place,
                ports: Ports::of(1, None).unwrap(),
            }
            .address("node2")
        };
        assert_eq!(address(Place::Loopback), "127.0.0.1:30304");
        assert_eq!(address(Place::Container), "node2:30303");
        assert_eq!(address(Place::Host("a.example".into())), "a.example:30303");
        assert_eq!(address(Place::Host("fd00::1".into())), "[fd00::1]:30303");
    }

    #[test]
    fn the_compose_file_publishes_on_loopback_only_and_keeps_keys_apart() {
        let text = plan(&Place::Container, true).compose_file(1000, 1001);
        assert!(text.contains("version: \"3.8\""));
        assert!(text.contains("user: \"1000:1001\""));
        assert_eq!(text.matches("restart: unless-stopped").count(), 1);
        for i in 1..=3 {
            assert!(text.contains(&format!("- ./node{i}:/network/node{i}\n")));
            assert!(text.contains(&format!("- 127.0.0.1:{}:8545", 8544 + i)));
        }
        let published = text
            .lines()
            .filter(|l| l.trim().starts_with("- ") && l.trim().ends_with("45"));
        assert!(published.clone().count() >= 6);
        for line in published {
            assert!(line.trim().starts_with("- 127.0.0.1:"), "{line}");
        }
    }

    #[test]
    fn funding_is_an_address_and_an_amount() {
        let (address, wei) =
            parse_funding("0x70997970C51812dc3A010C7d01b50e0d17dc79C8=0.5").unwrap();
        assert_eq!(
            address.to_string(),
            "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
        );
        assert_eq!(wei, U256::from(500_000_000_000_000_000u64));
        for wrong in [
            "",
            "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
            "bob=1",
            "0x70997970C51812dc3A010C7d01b50e0d17dc79C8=lots",
        ] {
            assert!(parse_funding(wrong).is_err(), "{wrong}");
        }
    }
}
