//! Groups of real cores on fake disks and a fake network, and members with real threads and files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test ends by panicking and may say what it saw"
)]

mod changes;
mod group;
mod messages;
mod ordering;
mod scenarios;
mod seeds;
mod threads;
