//! Private transactions per second that one party executes: 1,000 calls of one private contract in blocks of 100 (both can be
//! given as arguments), payloads at hand, storage in memory. The public side of the blocks is executed before, and once more as
//! part of it.
//!
//! ```text
//! cargo run --release -p quorate-privacy --example execute-rate [transactions] [per block]
//! ```
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an example; the chain is that of the tests, which use more of it"
)]

#[path = "../tests/it/world/mod.rs"]
mod world;

use std::time::Instant;

use world::{ADDER, Net, standard, word};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let argument = |position: usize, default: u64| {
        let given = std::env::args().nth(position);
        given.map_or(default, |text| text.parse().unwrap())
    };
    let (count, per_block) = (argument(1, 1_000), argument(2, 100).max(1));
    let mut net = Net::new();
    let send = standard(&[1]);
    let contract = net.deploy(&send, ADDER).await;
    // Every call has the same terms; a simulation each is another figure.
    let simulation = net.simulate(&send, Some(contract), &word(1)).unwrap();
    let terms = net.terms(&send, simulation);
    let mut sent = 0;
    while sent < count {
        let in_block = per_block.min(count - sent);
        let block =
            (0..in_block).map(|_| net.send_with(&send, Some(contract), &word(1), terms.clone()));
        let block = block.collect();
        net.chain.mine(block);
        sent += in_block;
    }
    let party = &net.parties[1];
    let started = Instant::now();
    party.catch_up(&net.chain).await;
    let seconds = started.elapsed().as_secs_f64();
    let status = party.ledger.status();
    assert_eq!(status.records, count + 1);
    println!(
        "{count} private transactions in {seconds:.3} s: {:.0} tx/s, {} private heights",
        count as f64 / seconds,
        status.private_height
    );
}
