//! Members in one process, each with its own network on a port of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::OnceLock,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate_p2p::{
    Config, Events, Fatal, MemberInfo, NetworkHandle, StartError, public_key_of, start,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than any machine needs; only a fault makes a test wait so long.
const PATIENCE: Duration = Duration::from_secs(60);

pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Waits until `condition` holds.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future that must end.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("still not: {what}"),
    }
}

fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// The value of a counter, summed over the series that have all of `labels`.
pub fn counter(name: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    recorder()
        .render()
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter(|line| wanted.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
        .sum()
}

pub fn refused(reason: &str) -> u64 {
    counter("quorate_p2p_refused_total", &[("reason", reason)])
}

pub fn dropped(lane: &str, reason: &str) -> u64 {
    counter(
        "quorate_p2p_dropped_total",
        &[("lane", lane), ("reason", reason)],
    )
}

/// Announcements that arrived with this outcome.
pub fn announcements(outcome: &str) -> u64 {
    counter("quorate_p2p_announcements_total", &[("outcome", outcome)])
}

/// The secret of member `raft_id`.
pub fn secret(raft_id: u64) -> [u8; 32] {
    let mut secret = [7; 32];
    secret[24..].copy_from_slice(&raft_id.to_be_bytes());
    secret
}

pub fn member(raft_id: u64) -> MemberInfo {
    MemberInfo {
        raft_id,
        public_key: public_key_of(&secret(raft_id)).unwrap(),
        addresses: Vec::new(),
        organisation: format!("organisation {raft_id}"),
    }
}

/// Configuration of member `raft_id` of `count`, on a port that the system chooses, without addresses of others.
pub fn config(raft_id: u64, count: u64) -> Config {
    let members = (1..=count).map(member).collect();
    let mut config = Config::new(
        secret(raft_id),
        (LOCAL, 0).into(),
        members,
        raft_id,
        1337,
        [0xaa; 32],
    );
    // So that tests of the waiting side do not wait long.
    config.timing.dial_wait = Duration::from_millis(300);
    config.timing.dial_pause_min = Duration::from_millis(50);
    config.timing.dial_pause_max = Duration::from_secs(2);
    config
}

/// One running member.
pub struct Node {
    pub raft_id: u64,
    pub handle: NetworkHandle,
    pub events: Events,
    pub address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), Fatal>>,
}

impl Node {
    pub fn start(config: Config) -> Self {
        Self::try_start(config).unwrap()
    }

    pub fn try_start(config: Config) -> Result<Self, StartError> {
        recorder();
        let raft_id = config.raft_id;
        let (handle, events, network) = start(config)?;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(network.run(cancel.clone()));
        let listening = handle.listen_addresses();
        let port = listening[0].rsplit('/').next().unwrap().parse().unwrap();
        let address = (LOCAL, port).into();
        Ok(Self {
            raft_id,
            handle,
            events,
            address,
            cancel,
            task,
        })
    }

    /// Tells this node where the other one is.
    pub fn knows(&self, other: &Node) {
        self.handle
            .add_address(other.raft_id, other.address.to_string())
            .unwrap();
    }

    /// Stops it in order; its handle and what it had not read come back.
    pub async fn stop(self) -> (NetworkHandle, Events) {
        self.cancel.cancel();
        soon("the network stops", self.task).await.unwrap().unwrap();
        (self.handle, self.events)
    }

    pub fn is_connected_to(&self, other: u64) -> bool {
        self.handle.connected().contains(&other)
    }
}

/// Waits until all of them are connected with each other.
pub async fn full_mesh(nodes: &[Node]) {
    for node in nodes {
        let others: Vec<u64> = nodes
            .iter()
            .map(|n| n.raft_id)
            .filter(|id| *id != node.raft_id)
            .collect();
        wait_until(
            &format!("{} is connected to {others:?}", node.raft_id),
            || node.handle.connected() == others,
        )
        .await;
    }
}

/// `count` members, connected with each other.
pub async fn consortium(count: u64, change: impl Fn(&mut Config)) -> Vec<Node> {
    let nodes: Vec<Node> = (1..=count)
        .map(|raft_id| {
            let mut config = config(raft_id, count);
            change(&mut config);
            Node::start(config)
        })
        .collect();
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.raft_id != node.raft_id) {
            node.knows(other);
        }
    }
    full_mesh(&nodes).await;
    nodes
}

/// Two members, connected.
pub async fn pair(change: impl Fn(&mut Config)) -> (Node, Node) {
    let mut nodes = consortium(2, change).await;
    let second = nodes.pop().unwrap();
    (nodes.pop().unwrap(), second)
}
