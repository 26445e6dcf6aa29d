//! # What it is
//! Bad bytes, on purpose: one target for each decoder that bytes from outside reach. A development tool; no node links it.
//!
//! # Flow
//! ```text
//! make fuzz ─► bin/campaign ─► for each target: seeds ─► corpus folder ─► bin/fuzz-ROOM, which is libFuzzer ─► figures
//! make test ─► tests/it     ─► for each target: seeds as they are, then some thousand mutations of them (mutate.rs)
//! ```
//!
//! # You must
//! Add a target for a new decoder: a function in `rooms/`, and a line in its list.
//!
//! # It promises
//! - A target runs the code that the node runs, and panics if that code panics or breaks a promise: what is taken encodes
//!   to the same bytes again, nothing over a limit is taken, an input takes no more memory than its target says.
//! - Seeds are made by our own encoders when they are needed. Nothing binary is kept in the repository.
//!
//! # It does not
//! Judge refusals: any refusal is right as long as nothing else happens.
//!
//! # Read next
//! `target.rs`, one file of `rooms/`, `campaign.rs`.

mod cutter;
mod figures;
mod folder;
mod mutate;
mod target;

pub mod campaign;
#[cfg(feature = "libfuzzer")]
pub mod entry;
pub mod rooms;

pub use mutate::Mutator;
pub use target::{Memory, Room, Target, targets};
