//! Pieces of a state. See `entry.rs`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer's entry points are C functions")]

quorate_fuzz::fuzz_room!(quorate_fuzz::rooms::STATE);
