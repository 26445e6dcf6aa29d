//! What members say about ordering. See `entry.rs`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer's entry points are C functions")]

quorate_fuzz::fuzz_room!(quorate_fuzz::rooms::RAFT);
