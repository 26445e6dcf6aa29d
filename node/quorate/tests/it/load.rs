//! Clients that go on whatever happens to the members: each transfer is tried on one member after the other until some
//! member shows its receipt.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::consortium::http;

/// A transfer that no member has included by then counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// So long one attempt waits for its receipt before another member is tried.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A running client.
pub struct Load {
    stop: Arc<AtomicBool>,
    urls: Arc<Mutex<Vec<String>>>,
    gap: Arc<AtomicU64>,
    thread: JoinHandle<Report>,
}

/// What the client saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Transfers with a receipt.
    pub done: Vec<String>,
    /// Transfers that no retry on another member cured.
    pub failed: Vec<String>,
}

impl Load {
    /// Begins to send from the development account `from`, to the members at `urls`.
    pub fn begin(urls: Vec<String>, from: &str, to: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let urls = Arc::new(Mutex::new(urls));
        let gap = Arc::new(AtomicU64::new(0));
        let (from, to) = (from.to_owned(), to.to_owned());
        let thread = std::thread::spawn({
            let (stop, urls, gap) = (Arc::clone(&stop), Arc::clone(&urls), Arc::clone(&gap));
            move || {
                let mut report = Report::default();
                let mut last = Instant::now();
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    match transfer(&urls, turn, &from, &to) {
                        Ok(hash) => {
                            let micros = u64::try_from(last.elapsed().as_micros());
                            gap.fetch_max(micros.unwrap_or(u64::MAX), Ordering::Relaxed);
                            last = Instant::now();
                            report.done.push(hash);
                        }
                        Err(reason) => report.failed.push(reason),
                    }
                }
                report
            }
        });
        Self {
            stop,
            urls,
            gap,
            thread,
        }
    }

    /// The longest time between two receipts since this was asked last.
    pub fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.gap.swap(0, Ordering::Relaxed))
    }

    /// From now on these members are asked.
    pub fn use_members(&self, urls: Vec<String>) {
        *self.urls.lock().unwrap() = urls;
    }

    /// Ends the client.
    pub fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn transfer(
    urls: &Mutex<Vec<String>>,
    turn: usize,
    from: &str,
    to: &str,
) -> Result<String, String> {
    let started = Instant::now();
    let mut attempt = turn;
    let mut last = String::new();
    while started.elapsed() < PATIENCE {
        let urls = urls.lock().unwrap().clone();
        attempt += 1;
        let url = &urls[attempt % urls.len()];
        let params = json!([{ "from": from, "to": to, "value": "0x1" }]);
        match call(url, "eth_sendTransaction", &params) {
            Ok(hash) => {
                let hash = hash.as_str().unwrap_or_default().to_owned();
                if included(&urls, attempt, &hash) {
                    return Ok(hash);
                }
                last = format!("{hash} was accepted by {url} and has no receipt");
            }
            Err(reason) => {
                last = reason;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Err(last)
}

fn included(urls: &[String], attempt: usize, hash: &str) -> bool {
    let started = Instant::now();
    let mut turn = attempt;
    while started.elapsed() < ATTEMPT {
        let url = &urls[turn % urls.len()];
        match call(url, "eth_getTransactionReceipt", &json!([hash])) {
            Ok(Value::Null) => std::thread::sleep(Duration::from_millis(5)),
            Ok(_) => return true,
            Err(_) => turn += 1,
        }
    }
    false
}

fn call(url: &str, method: &str, params: &Value) -> Result<Value, String> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let answer = http(url, Some(&body.to_string())).map_err(|e| format!("{url}: {e}"))?;
    let mut answer: Value = serde_json::from_str(&answer).map_err(|e| format!("{url}: {e}"))?;
    match answer.get("error") {
        Some(error) => Err(format!("{url}: {error}")),
        None => Ok(answer["result"].take()),
    }
}
