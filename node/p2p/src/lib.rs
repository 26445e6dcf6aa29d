//! # The members' network
//!
//! ## What it is
//! A whitelisted libp2p network (TCP, Noise, Yamux) between the members of one consortium. It carries Raft messages,
//! gossiped and directly forwarded transactions, and block fetches. It carries bytes: it never judges a transaction, a
//! block or a Raft message.
//!
//! ## Flow
//! ```text
//!  NetworkHandle                       one task: Network::run                        other member
//!  send_raft ──► outbox per member ──► writer task ── stream /quorate/raft/1 ──────► reader ─► Events::raft
//!  gossip ─────► queue ─► coalescer ─► gossipsub topic of this chain ──────────────► decode ─► Events::transactions
//!  forward ────────────────────────── stream /quorate/transactions/1 ─────────────► server ─► Events::transactions
//!  fetch_blocks ────────────────────── stream /quorate/blocks/1 ──────────────────► server ─► Events::requests
//!
//!  a connection: TCP ─► Noise (proves the key) ─► whitelist ─► hello (version, chain id, genesis) ─► Yamux ─► streams
//! ```
//!
//! ## You must
//! 1. Call [`start`] inside a tokio runtime, and run [`Network::run`] as a critical task: if it ends, the node is deaf.
//! 2. Drain all lanes of [`Events`]. A full Raft lane slows the sending member down, a full transaction lane drops gossip.
//! 3. Treat everything gossiped as lossy and repair it by asking; treat `send_raft` as a datagram.
//! 4. Take the sender from the `from` field (it is the authenticated key), never from inside the bytes.
//! 5. Call [`NetworkHandle::set_members`] whenever the replicated member table changes.
//!
//! ## It promises
//! - A key outside the whitelist, another genesis, chain id or protocol version is refused before any state is held for it
//!   and before any protocol is served; each refusal is counted and logged (rate limited) with both values.
//! - Raft messages from one member arrive in the order sent, as long as one connection lasts. Three inbound lanes, never
//!   one: bulk does not delay heartbeats. Nothing waits on a timer on the Raft path.
//! - Every queue has a limit in messages and bytes. A frame's length is checked before memory is taken for it, and memory
//!   grows only with bytes that arrived. Everything dropped or refused has a counter (`quorate_p2p_*`, see [`metrics_names`]).
//! - A removed member is disconnected at once, and nothing more of it is delivered.
//!
//! ## It does not
//! - Discover strangers, relay between members' Raft streams, encrypt payloads for parties, retry for the caller,
//!   persist anything, or remember addresses beyond the member table and [`NetworkHandle::add_address`].
//!
//! ## Read next
//! `handshake.rs` (who gets in), `raft_stream.rs` (the hot path), `swarm.rs` (the task that owns everything).

mod address;
mod behaviour;
mod config;
mod direct;
mod error;
mod events;
mod frame;
mod gossip;
mod gossip_behaviour;
mod handle;
mod handshake;
mod lane;
mod members;
mod metrics;
mod peer;
mod raft_stream;
mod refusal_log;
mod streams;
mod swarm;
mod wire;

pub use config::{Config, Limits, MemberInfo, PROTOCOL_VERSION, Timing};
pub use error::{AddressError, ConfigError, Fatal, KeyError, RequestError, StartError};
pub use events::{
    Acknowledgement, Events, PeerEvent, PeerStatus, RaftMessage, Request, TransactionBatch,
};
pub use handle::NetworkHandle;
pub use members::{peer_id_of, public_key_of};
pub use metrics::names as metrics_names;
pub use swarm::{Network, start};
