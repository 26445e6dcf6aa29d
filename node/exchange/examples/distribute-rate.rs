//! How many payloads per second one member distributes to one other of four, each acknowledged by a synced disk:
//!
//! ```text
//! cargo run --release -p quorate-exchange --example distribute-rate -- [payloads] [bytes] [side by side]
//! ```
//! All members share this process and its disk; there is no network between them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use quorate_enclave::{KeyAnnouncement, KeyRing, LocalEnclave, NodeKey, Suite};
use quorate_exchange::{
    Distribution, Exchange, ExchangeConfig, ExchangeIdentity, MemberKeys, PeerError, Peers,
};
use quorate_privacy::Content;
use secp256k1::{Message, SECP256K1, SecretKey};

type Failure = Box<dyn std::error::Error>;

/// Members in this process.
struct InProcess {
    own: u64,
    secret: SecretKey,
    members: Arc<Vec<MemberKeys>>,
    exchanges: Arc<Mutex<BTreeMap<u64, Exchange>>>,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InProcess({})", self.own)
    }
}

impl Peers for InProcess {
    fn members(&self) -> Arc<Vec<MemberKeys>> {
        Arc::clone(&self.members)
    }

    fn ask(
        &self,
        raft_id: u64,
        body: Bytes,
        _: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let exchange = {
                let exchanges = self.exchanges.lock().map_err(|_| PeerError::Busy)?;
                exchanges.get(&raft_id).cloned()
            };
            let exchange = exchange.ok_or(PeerError::NotAMember { raft_id })?;
            Ok(exchange.answer(self.own, body).await)
        })
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], String> {
        let message = Message::from_digest(digest.0);
        let signature = SECP256K1.sign_ecdsa_recoverable(message, &self.secret);
        let (id, compact) = signature.serialize_compact();
        let mut bytes = [0; 65];
        let (front, back) = bytes.split_at_mut(64);
        front.copy_from_slice(&compact);
        back.fill(u8::try_from(i32::from(id)).map_err(|e| e.to_string())?);
        Ok(bytes)
    }
}

fn argument(n: usize, default: usize) -> Result<usize, Failure> {
    Ok(match std::env::args().nth(n) {
        Some(text) => text.parse()?,
        None => default,
    })
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let payloads = argument(1, 2000)?;
    let bytes = argument(2, 256)?;
    let side_by_side = argument(3, 64)?;
    let folder = std::env::temp_dir().join(format!("distribute-rate-{}", std::process::id()));
    let mut secrets = Vec::new();
    let mut enclaves = Vec::new();
    let mut listed: Vec<(NodeKey, Vec<KeyAnnouncement>)> = Vec::new();
    for n in 1..=4u8 {
        let secret = SecretKey::from_byte_array([n; 32])?;
        let enclave = LocalEnclave::new(KeyRing::generate(1)?);
        let node = NodeKey::from(secret.public_key(SECP256K1).serialize());
        listed.push((node, enclave.public_keys_now()));
        secrets.push(secret);
        enclaves.push(enclave);
    }
    let exchanges = Arc::new(Mutex::new(BTreeMap::new()));
    for (own, (secret, enclave)) in (1u64..).zip(secrets.iter().zip(&enclaves)) {
        let members = (1u64..)
            .zip(&listed)
            .map(|(raft_id, (node, keys))| MemberKeys {
                raft_id,
                node: *node,
                keys: keys.clone(),
                hybrid_commitments: Vec::new(),
                organisation: format!("org {raft_id}"),
                this: raft_id == own,
            });
        let peers = InProcess {
            own,
            secret: *secret,
            members: Arc::new(members.collect()),
            exchanges: Arc::clone(&exchanges),
        };
        let identity = ExchangeIdentity {
            chain_id: 10,
            genesis_hash: B256::ZERO,
            node: NodeKey::from(secret.public_key(SECP256K1).serialize()),
            suite: Suite::Nacl,
        };
        let config = ExchangeConfig {
            answers_max: 1024,
            ..ExchangeConfig::default()
        };
        let exchange = Exchange::open(
            &folder.join(own.to_string()),
            config,
            Arc::new(enclave.clone()),
            Arc::new(peers),
            identity,
            true,
        )?;
        exchanges
            .lock()
            .map_err(|e| e.to_string())?
            .insert(own, exchange);
    }
    let of = |n: u64| -> Result<Exchange, Failure> {
        let exchanges = exchanges.lock().map_err(|e| e.to_string())?;
        Ok(exchanges.get(&n).cloned().ok_or("no such member")?)
    };
    let sender = of(1)?;
    let key = enclaves
        .get(1)
        .and_then(|enclave| enclave.public_keys_now().first().map(|k| k.key))
        .ok_or("no key")?;
    let begin = Instant::now();
    let sends = (0..payloads).map(|n| {
        let sender = sender.clone();
        async move {
            let began = Instant::now();
            let content = Content::Call {
                to: Some(Address::ZERO),
                data: vec![u8::try_from(n % 251).unwrap_or(0); bytes].into(),
                gas_limit: 100_000,
            };
            let sent = sender.distribute(content, Distribution::to([key])).await;
            sent.map(|_| began.elapsed())
        }
    });
    let mut latencies = Vec::with_capacity(payloads);
    let mut under_way = futures::stream::iter(sends).buffer_unordered(side_by_side);
    while let Some(done) = under_way.next().await {
        latencies.push(done?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: usize| {
        let place = latencies.len().saturating_sub(1) * part / 100;
        latencies.get(place).copied().unwrap_or_default()
    };
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{payloads} payloads of {bytes} bytes to 1 of 3 others, {side_by_side} side by side: {:.0}/s, p50 {:?}, p99 {:?}",
        f64::from(u32::try_from(payloads)?) / seconds,
        at(50),
        at(99)
    )?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
