//! The wires between members: a proxy per directed pair, which delays, holds back or breaks what passes.
//!
//! ```text
//! node a ── dials ──► proxy (a, raft id r) ── resolves r ──► node b
//!             a → b: condition of (a, b)      b → a: condition of (b, a)
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes that a wire holds back in one piece.
const PIECE_BYTES: usize = 16 << 10;

/// A node's place in the harness, from 0; it keeps it whatever raft id it has.
pub type Slot = usize;

/// What a direction of a wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Passes everything on.
    Open,
    /// Passes each piece on after so long.
    Slow(Duration),
    /// Holds everything back.
    Cut,
}

type Conditions = BTreeMap<(Slot, Slot), Condition>;

/// All wires of one consortium.
#[derive(Debug)]
pub struct Links {
    conditions: watch::Sender<Conditions>,
    /// Counts up: connections made before are broken.
    epoch: watch::Sender<u64>,
    /// Where the member with a raft id is.
    members: Mutex<BTreeMap<u64, (Slot, SocketAddr)>>,
    proxies: Mutex<BTreeMap<(Slot, u64), SocketAddr>>,
    stop: CancellationToken,
}

impl Links {
    /// Wires that are all open. They end with `stop`.
    pub fn new(stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            conditions: watch::Sender::new(BTreeMap::new()),
            epoch: watch::Sender::new(0),
            members: Mutex::new(BTreeMap::new()),
            proxies: Mutex::new(BTreeMap::new()),
            stop,
        })
    }

    /// From now on the member with this raft id is there.
    pub fn place(&self, raft_id: u64, slot: Slot, address: SocketAddr) {
        self.locked_members().insert(raft_id, (slot, address));
    }

    /// The address under which node `from` reaches the member with this raft id.
    ///
    /// # Errors
    /// If the system gives no port.
    pub async fn proxy(self: &Arc<Self>, from: Slot, to: u64) -> anyhow::Result<SocketAddr> {
        let key = (from, to);
        if let Some(known) = self.locked_proxies().get(&key) {
            return Ok(*known);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("a port for a proxy")?;
        let address = listener.local_addr()?;
        self.locked_proxies().insert(key, address);
        let links = Arc::clone(self);
        tokio::spawn(async move {
            let stop = links.stop.clone();
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let links = Arc::clone(&links);
                tokio::spawn(async move { links.carry(stream, from, to).await });
            }
        });
        Ok(address)
    }

    /// Puts some directions into a condition; the others stay as they are.
    pub fn set(&self, directions: &[(Slot, Slot)], condition: Condition) {
        self.conditions.send_modify(|conditions| {
            for direction in directions {
                conditions.insert(*direction, condition);
            }
        });
    }

    /// Opens all wires.
    pub fn heal(&self) {
        self.conditions.send_modify(BTreeMap::clear);
    }

    /// Breaks all connections; new ones may be made at once.
    pub fn break_all(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    async fn carry(self: Arc<Self>, dialler: TcpStream, from: Slot, to: u64) {
        let target = self.locked_members().get(&to).copied();
        // Nobody has that raft id yet: the dialler sees what it would see of a machine that is off.
        let Some((to, address)) = target else { return };
        let Ok(dialled) = TcpStream::connect(address).await else {
            return;
        };
        // Latency is ours to add.
        if dialler.set_nodelay(true).is_err() || dialled.set_nodelay(true).is_err() {
            return;
        }
        let mut epoch = self.epoch.subscribe();
        let (dialler_out, dialler_in) = dialler.into_split();
        let (dialled_out, dialled_in) = dialled.into_split();
        let there = self.pump(dialler_out, dialled_in, (from, to));
        let back = self.pump(dialled_out, dialler_in, (to, from));
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = epoch.changed() => {}
            () = async { tokio::join!(there, back); } => {}
        }
    }

    /// Carries one direction until either end closes.
    async fn pump(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: (Slot, Slot)) {
        let mut conditions = self.conditions.subscribe();
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let condition = |all: &Conditions| all.get(&direction).copied();
            let passes = |all: &Conditions| condition(all) != Some(Condition::Cut);
            let Ok(now) = conditions.wait_for(passes).await.map(|all| condition(&all)) else {
                return;
            };
            if let Some(Condition::Slow(delay)) = now {
                tokio::time::sleep(delay).await;
            }
            let Some(bytes) = piece.get(..count) else {
                return;
            };
            if to.write_all(bytes).await.is_err() {
                return;
            }
        }
        // The other end learns that this one has closed.
        to.shutdown().await.ok();
    }

    fn locked_members(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (Slot, SocketAddr)>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_proxies(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Slot, u64), SocketAddr>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
