//! Every target on the stable toolchain: its seeds, and mutations of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod memory;
mod rooms;
