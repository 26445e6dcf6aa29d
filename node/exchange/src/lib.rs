//! Private payloads between members: who gets one, who has acknowledged it, and how one that is missing comes back.
//!
//! # What it is
//! The [`Exchange`] seals a payload with this node's enclave, signs it with its terms, keeps it, hands it to the nodes of its parties
//! and waits for the acknowledgements that the sender asked for. It takes in what other members send, answers what they may ask,
//! tells the private executor whether this node is a party of a transaction, and compares with the other parties what came of it.
//!
//! # Flow
//! ```text
//! Exchange::distribute                                       Exchange::answer (the recipient)
//!   recipients: keys ─► members, X-Wing keys                   believed? signatures, sender's key by the table
//!   enclave: seal, tags                                        enclave: open; NotForUs is a refusal
//!   sign terms, and with them the envelope                     flag 3: reserve contracts, compare base digests ─► Conflict
//!   keep ║ hand over to each node ── over Peers::ask ────────► keep: the envelope with its terms ─► Stored
//!   enough acknowledged? ─► outbox: who has not yet            tell the executor (OnStored)
//!   ◄─ hash, tags: the public transaction may be sent
//!
//! private executor ── Payloads::lookup ─► held: Party, Erased
//!                                         absent: a tag is ours ─► Unknown, fetched from its sender, then from anyone
//!                                                 no tag is ours ─► NotAParty
//!                                                 no tags: the store is complete ─► NotAParty, else Unknown
//!                  ── Payloads::handover ─► all named parties: signed statement; one of them: the state, page by page
//!                  ── Payloads::executed ─► reservation ends; digest to the sender's node ─► Alarm if it differs
//! ```
//!
//! # You must
//! 1. Give it a folder of its own, and say truly whether the chain was empty when the folder was new.
//! 2. Call [`Exchange::mark_incomplete`] when this node's disk turns out to be older than its word.
//! 3. Keep [`Exchange::run`] running, pass every request of a member to [`Exchange::answer`] with the raft id that the network
//!    authenticated, and call [`Exchange::reconnected`] when a member is there again.
//! 4. Submit a transaction only after [`Exchange::distribute`] returned its hash.
//! 5. On [`ExchangeError::Conflict`], simulate again; take [`Exchange::turn`] first if several of your senders change one contract.
//! 6. Stop the node when [`Exchange::run`] fails: its disk did.
//!
//! # It promises
//! - What was acknowledged survives power loss. A call that fails leaves nothing that goes on by itself, and may be repeated.
//! - An answer that this node is no party comes from the enclave, or from a store that lacks nothing. Silence, damage and absence of
//!   a key are [`Lookup::Unknown`](quorate_privacy::Lookup::Unknown).
//! - A payload is handed to nobody but its parties, and to each with no box but its own. Whoever is no party gets the answer of a
//!   payload that is not there.
//! - A contract's state comes to a new party with the signatures of all parties that its offer names under one and the same digest,
//!   and is shown to nobody but that party.
//! - No recipient holds two payloads with flag 3 for one contract at once.
//! - Every queue has a limit, and every message is checked before memory is taken.
//!
//! # It does not
//! - decide whether a transaction is allowed, execute it, or put it into the chain;
//! - open connections: members are reached through [`Peers`];
//! - take back a payload that a recipient stored before the sender gave up: without a transaction it means nothing;
//! - hide from a recipient's node how large a payload is and when it was sent, or from the chain how many parties there are up to a
//!   multiple of four.
//!
//! # Read next
//! `distribute.rs` (a payload goes out), `answer.rs` (one comes in), `courier.rs` and `keeper.rs` (several at a time), `lookup.rs` (are
//! we a party), `handover.rs` (a new party), `wire.rs` (what is said).

mod acknowledged;
mod answer;
mod barrier;
mod cache;
mod clock;
mod config;
mod courier;
mod deliver;
mod digests;
mod distribute;
mod distribution;
mod erasing;
mod error;
mod exchange;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod groups;
mod handover;
mod keeper;
mod keeping;
mod lookup;
mod metrics;
mod package;
mod peers;
mod reads;
mod recipients;
mod records;
mod reservations;
mod resync;
mod run;
mod signing;
mod view;
mod wanted;
mod wire;

pub use config::{ExchangeConfig, ExchangeIdentity};
pub use distribution::{Distributed, Distribution, Parties};
pub use error::{ExchangeError, ExchangeOpenError, RecordError, Unacknowledged};
pub use exchange::{Exchange, OnStored};
pub use metrics::{describe_metrics, names};
pub use peers::{ExecutedDigest, MemberKeys, PeerError, Peers, StateView};
pub use quorate_privacy::Acknowledgements;
pub use reservations::Turn;
pub use view::{Alarm, GroupCreated, MemberResync, Received, Reception, ResyncReport};
