//! # The members' network
//!
//! ## What it is
//! A whitelisted libp2p network (TCP, Noise, Yamux) between the members of one consortium, whose members may change while
//! it runs. It carries Raft messages, gossiped and directly forwarded transactions, block fetches, opaque queries, and what
//! members exchange about private payloads. It carries bytes: it never judges a transaction, a block or a Raft message, and it
//! never decides who is a member.
//!
//! ## Flow
//! ```text
//!  NetworkHandle                       one task: Network::run                        other member
//!  send_raft ──► outbox per member ──► writer task ── stream /quorate/raft/1 ──────► reader ─► Events::raft
//!  gossip ─────► queue ─► coalescer ─► gossipsub topic of this chain ──────────────► decode ─► Events::transactions
//!  forward ────────────────────────── stream /quorate/transactions/1 ─────────────► server ─► Events::transactions
//!  fetch_blocks, query(Snapshot) ───── streams /quorate/blocks/1, /quorate/snapshot/1 ──────► Events::requests
//!  ask_privacy ────────────────────── stream /quorate/privacy/1 ──────────────────► server ─► Events::privacy
//!  query(Membership) ──────────────── stream /quorate/membership/1 ───────────────► server ─► Events::control
//!  announce ─► signed record ─┬─────── stream /quorate/control/1 ─────────────────► verify ─► dialled, Events::peers
//!                             └─────── Kademlia among members ────────────────────► verify ─► asked when a dial fails
//!  set_membership ─► whitelist, dialling, farewell (/quorate/control/1) ──────────► Events::verdicts of the removed
//!
//!  a connection: TCP ─► Noise (proves the key) ─► gate: whitelist, hello (version, raft id, chain id, genesis, Raft log),
//!                verdict ─► Yamux ─► streams
//!  an applicant: TCP ─► Noise ─► gate ─► Events::control (Request::Admission) ─► one answer, and the connection ends
//! ```
//!
//! ## You must
//! 1. Call [`start`] inside a tokio runtime, and run [`Network::run`] as a critical task: if it ends, the node is deaf.
//! 2. Drain all lanes of [`Events`]. A full Raft lane slows the sending member down, a full transaction lane drops gossip.
//! 3. Treat everything gossiped as lossy and repair it by asking; treat `send_raft` as a datagram.
//! 4. Take the sender from the `from` field (it is the authenticated key), never from inside the bytes.
//! 5. Call [`NetworkHandle::set_membership`] whenever the replicated member table changes, and never give a removed raft id
//!    to a member again.
//! 6. Remember what [`PeerEvent::LogSeen`] says and give it back as `Config::known_logs`; a log that nobody remembers cannot
//!    be missed. `Config::announce_sequence` must grow from start to start.
//! 7. Answer or drop each [`PrivacyRequest`] as a whole: it holds its room in the lane for as long as it lives.
//! 8. Answer [`Request::Admission`] from the replicated member table, not from what the applicant says.
//!
//! ## It promises
//! - A key outside the whitelist, another genesis, chain id or protocol version is refused before any state is held for it
//!   and before any protocol is served; each refusal is counted and logged (rate limited) with both values.
//! - A member that comes with another Raft log than it was known with is refused and told; so is a removed one. What members
//!   say about us comes out as a [`Verdict`], and only members are believed.
//! - From the moment the task follows a table, nothing more of a removed member is delivered, and no gossip or Raft message
//!   is sent to it. If it is connected it is told, and within half a second it is disconnected.
//! - An applicant never becomes a peer: it holds one of a few places, for a limited time, and cannot keep members out.
//! - Names are resolved anew at each dial. A member that moved is found by what it announced, signed by its key, also when
//!   only a third member heard it; nobody else's word and no older word is believed.
//! - Raft messages from one member arrive in the order sent, as long as one connection lasts. Lanes of their own, never
//!   one: bulk delays neither heartbeats nor membership. Nothing waits on a timer on the Raft path.
//! - Every queue has a limit in messages and bytes. A frame's length is checked before memory is taken for it, and memory
//!   grows only with bytes that arrived. Everything dropped or refused has a counter (`quorate_p2p_*`, see [`metrics_names`]).
//!
//! ## It does not
//! - Discover strangers, relay between members' Raft streams, encrypt payloads for parties or look into them, retry for the
//!   caller, persist anything, or remember addresses longer than it runs: the events say what to keep.
//!
//! ## Read next
//! `gate.rs` (who gets in), `raft_stream.rs` (the hot path), `swarm.rs` (the task that owns everything).

mod address;
mod address_check;
mod admission;
mod announcement;
mod application;
mod behaviour;
mod config;
mod direct;
mod directory;
mod entry;
mod error;
mod events;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gossip;
mod gossip_behaviour;
mod handle;
mod handshake;
mod handshake_limit;
mod lane;
mod members;
mod metrics;
mod peer;
mod raft_stream;
mod refusal_log;
mod strangers;
mod streams;
mod swarm;
mod wire;

pub use address_check::check_address;
pub use admission::{Admission, AdmissionRequest, ask_admission};
pub use config::{Config, Limits, MemberInfo, PROTOCOL_VERSION, Timing};
pub use error::{
    AddressError, AdmissionError, ConfigError, Fatal, KeyError, RequestError, StartError,
};
pub use events::{
    ADMISSION_BYTES_MAX, Acknowledgement, AdmissionAnswer, Events, PeerEvent, PeerStatus,
    PrivacyRequest, QueryKind, RaftMessage, Request, TransactionBatch, Verdict,
};
pub use handle::NetworkHandle;
pub use members::{peer_id_of, public_key_of};
pub use metrics::names as metrics_names;
pub use swarm::{Network, start};
