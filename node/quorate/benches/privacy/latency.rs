//! How long one client waits: for the hash, for the block, for the private receipt.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, body};
use crate::load::hash_of;
use crate::world::{Kind, PARTIES, PATIENCE, World};

/// Pause between two questions for a receipt.
const PAUSE: Duration = Duration::from_micros(500);
/// Pause between two transactions: those of the first are over, and their moment is no one's choice.
const BETWEEN: Duration = Duration::from_millis(3);

/// Times since the request was sent.
#[derive(Debug, Default)]
pub struct Latencies {
    /// The node answered with a hash. For a private transaction: all recipients have acknowledged.
    accepted: Vec<Duration>,
    /// It is in a block on the node that took it.
    included: Vec<Duration>,
    /// The receipt is there: the private one for a private transaction.
    receipt: Vec<Duration>,
}

/// Sends `count` transactions through the first party, one after the other.
///
/// # Panics
/// If one is refused, fails, or gets no receipt.
pub fn measure(world: &World, kind: Kind, account: usize, count: usize) -> Latencies {
    let lane = world.lane(kind, PARTIES[0], account);
    let mut client = Client::new(&lane.url);
    let mut latencies = Latencies::default();
    for _ in 0..count {
        let started = Instant::now();
        let hash = client.send(&lane.body);
        let hash = hash_of(&hash.unwrap_or_else(|e| panic!("{} transaction: {e}", kind.name())));
        latencies.accepted.push(started.elapsed());
        let question = body("eth_getTransactionByHash", &json!([hash]));
        until(&mut client, &question, started, |tx| {
            !tx["blockHash"].is_null()
        });
        latencies.included.push(started.elapsed());
        let method = match kind {
            Kind::Public => "eth_getTransactionReceipt",
            Kind::Private => "eth_getPrivateTransactionReceipt",
        };
        let question = body(method, &json!([hash]));
        let receipt = until(&mut client, &question, started, |receipt| {
            !receipt.is_null()
        });
        latencies.receipt.push(started.elapsed());
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        std::thread::sleep(BETWEEN);
    }
    latencies
}

/// Asks until the answer is as wanted. An error is "not yet", as when private execution is behind.
fn until(
    client: &mut Client,
    question: &str,
    started: Instant,
    good: impl Fn(&Value) -> bool,
) -> Value {
    loop {
        let answer = client.send(question);
        if let Ok(answer) = &answer
            && good(answer)
        {
            return answer.clone();
        }
        assert!(started.elapsed() < PATIENCE, "{question}: {answer:?}");
        std::thread::sleep(PAUSE);
    }
}

impl Latencies {
    pub fn print(mut self, kind: Kind, load: &str) {
        let receipt = match kind {
            Kind::Public => "receipt",
            Kind::Private => "private receipt",
        };
        for (name, times) in [
            ("hash", &mut self.accepted),
            ("block", &mut self.included),
            (receipt, &mut self.receipt),
        ] {
            times.sort_unstable();
            println!(
                "{:<44} p50 {:>7.1} ms   p99 {:>7.1} ms   ({} samples)",
                format!("{}, {load}: submit to {name}", kind.name()),
                at(times, 0.50),
                at(times, 0.99),
                times.len()
            );
        }
    }
}

/// The time in milliseconds that this part of the samples does not pass.
fn at(sorted: &[Duration], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    let time = sorted.get(place.saturating_sub(1));
    time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
