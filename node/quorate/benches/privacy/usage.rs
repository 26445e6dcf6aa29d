//! What the nodes have used: processor time, bytes between members, bytes on disk.

use std::fs;
use std::path::Path;

use crate::world::{NODES, World};

/// Counters of one node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor seconds of all threads.
    pub cpu: f64,
    /// Bytes of requests and answers about private payloads.
    pub sent: f64,
    pub received: f64,
    /// Private transactions that were executed, and those of them that failed.
    pub executed: f64,
    pub failed: f64,
    /// Times that the node waited for its disk: key-value stores, and the log of the ordering.
    pub barriers: f64,
    /// Parties that found another state than this node.
    pub alarms: f64,
}

/// All nodes at one moment, or what they used between two.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    pub nodes: [Usage; NODES],
    /// Processor seconds of this program.
    pub own_cpu: f64,
}

impl Snapshot {
    pub fn of(world: &World) -> Self {
        Self {
            nodes: std::array::from_fn(|i| {
                let metrics = world.c.metrics(i);
                Usage {
                    cpu: cpu_seconds(&world.c.pid(i).to_string()),
                    sent: metric(&metrics, "quorate_exchange_bytes_sent_total"),
                    received: metric(&metrics, "quorate_exchange_bytes_received_total"),
                    executed: metric(&metrics, "quorate_privacy_executed_total"),
                    failed: metric(&metrics, "quorate_privacy_failed_total"),
                    barriers: metric(&metrics, "quorate_kv_barrier_seconds_count")
                        + metric(&metrics, "quorate_raft_fsync_seconds_count"),
                    alarms: metric(&metrics, "quorate_exchange_alarms_total"),
                }
            }),
            own_cpu: cpu_seconds("self"),
        }
    }

    pub fn since(&self, before: &Self) -> Self {
        self.with(before, |now, then| now - then)
    }

    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            nodes: std::array::from_fn(|i| {
                let (a, b) = (self.nodes[i], other.nodes[i]);
                Usage {
                    cpu: f(a.cpu, b.cpu),
                    sent: f(a.sent, b.sent),
                    received: f(a.received, b.received),
                    executed: f(a.executed, b.executed),
                    failed: f(a.failed, b.failed),
                    barriers: f(a.barriers, b.barriers),
                    alarms: f(a.alarms, b.alarms),
                }
            }),
            own_cpu: f(self.own_cpu, other.own_cpu),
        }
    }
}

/// Sum of a metric over its labels; 0 if it was never touched.
pub fn metric(page: &str, name: &str) -> f64 {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.sum()
}

/// utime and stime of proc(5): the 14th and 15th field, counted behind the name, which may contain anything.
fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..]
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Bytes of all files below a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let each = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        // A file may go while this looks.
        let metadata = entry.metadata().ok()?;
        Some(match metadata.is_dir() {
            true => folder_bytes(&entry.path()),
            false => metadata.len(),
        })
    });
    each.sum()
}
