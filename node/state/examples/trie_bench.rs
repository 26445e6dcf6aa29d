//! Figures for one question: what does a block cost when there are many accounts?
//!
//! `cargo run --release -p quorate-state --example trie_bench -- [accounts] [blocks]` fills a store on sled with accounts,
//! then applies blocks of 500 transfers between accounts drawn evenly, flushing by policy on another thread.

#![allow(
    clippy::print_stdout,
    reason = "printing figures is what this program is for"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step ends the measurement"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, U256, keccak256};
use quorate_kv::{Kv, SledConfig, SledKv};
use quorate_state::{AccountChange, GenesisAccount, StateDiff, StateRead, StateStore};

const TRANSFERS: u64 = 500;

fn address(n: u64) -> Address {
    Address::from_slice(&keccak256(n.to_be_bytes())[12..])
}

fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<u64>().expect("a number"));
    let accounts = arguments.next().unwrap_or(100_000);
    let blocks = arguments.next().unwrap_or(1_000);
    let dir = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = Arc::new(SledKv::open(dir.path(), &SledConfig::default()).unwrap());

    let started = Instant::now();
    let genesis: Vec<(Address, GenesisAccount)> = (0..accounts)
        .map(|n| {
            (
                address(n),
                GenesisAccount::default().with_balance(U256::from(10u64.pow(18))),
            )
        })
        .collect();
    let store = StateStore::open(Arc::clone(&kv), &genesis, B256::ZERO).unwrap();
    drop(genesis);
    println!(
        "genesis of {accounts} accounts: {:.1} s",
        started.elapsed().as_secs_f64()
    );

    let mut seed = 7;
    let (mut read, mut applied, mut flush_total) = (Vec::new(), Vec::new(), Duration::ZERO);
    let mut waited = Duration::ZERO;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let mut flushing: Option<std::thread::ScopedJoinHandle<'_, Duration>> = None;
        for _ in 0..blocks {
            let head = store.latest();
            let begun = Instant::now();
            let mut changed: BTreeMap<Address, quorate_state::Account> = BTreeMap::new();
            for _ in 0..TRANSFERS {
                let from = address(draw(&mut seed, accounts));
                let to = address(draw(&mut seed, accounts));
                for who in [from, to] {
                    let known = changed.get(&who).copied();
                    let mut account = known
                        .or_else(|| head.account(&who).unwrap())
                        .unwrap_or_default();
                    if who == from {
                        account.nonce += 1;
                        account.balance -= U256::from(1);
                    } else {
                        account.balance += U256::from(1);
                    }
                    changed.insert(who, account);
                }
            }
            read.push(begun.elapsed());
            let mut diff = StateDiff::default();
            for (address, account) in changed {
                let change = AccountChange {
                    account: Some(account),
                    ..AccountChange::default()
                };
                diff.accounts.insert(address, change);
            }
            let begun = Instant::now();
            let child = head.apply(&diff).unwrap();
            applied.push(begun.elapsed());
            store.advance(child).unwrap();
            if store.needs_flush() || store.flush_overdue() {
                let begun = Instant::now();
                if let Some(running) = flushing.take() {
                    flush_total += running.join().unwrap();
                }
                waited += begun.elapsed();
                if let Some(job) = store.flush_job() {
                    flushing = Some(scope.spawn(move || {
                        let begun = Instant::now();
                        let done = job.run().unwrap();
                        let elapsed = begun.elapsed();
                        println!(
                            "  flushed to {}: {} writes, {} KiB, {:.2} s",
                            done.height,
                            done.writes,
                            done.bytes / 1024,
                            elapsed.as_secs_f64()
                        );
                        elapsed
                    }));
                }
            }
        }
        if let Some(running) = flushing.take() {
            flush_total += running.join().unwrap();
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let transfers = blocks * TRANSFERS;
    for (name, mut times) in [("read", read), ("apply and root", applied)] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
        println!(
            "{name} per block of {TRANSFERS} transfers: median {:.2} ms, 90 % {:.2} ms, slowest {:.2} ms",
            at(50),
            at(90),
            at(100)
        );
    }
    println!(
        "flushing {:.1} s, waited for it {:.1} s; {:.0} transfers/s in all; {:.1} us of flushing per transfer; {} MiB on disk",
        flush_total.as_secs_f64(),
        waited.as_secs_f64(),
        transfers as f64 / seconds,
        flush_total.as_secs_f64() * 1e6 / transfers as f64,
        kv.size_bytes().unwrap() / (1024 * 1024)
    );
}
