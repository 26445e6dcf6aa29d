//! What private transactions cost: how many a consortium of four real processes commits and executes, beside public ones of the same
//! kind in the same run; how long a client waits; bytes, processor time, and how fast a party gets lost payloads back.
//!
//! `cargo bench -p quorate --bench privacy -- seconds=20 payloads=10000` prints the figures. Further arguments: `suite=1|2` (the
//! cipher suite of the payloads), `form=marker|quorum`, `connections=192` (requests under way), `samples=200` (of each latency).
//! Ends badly if something that was acknowledged is missing, or if the parties' private states differ.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    missing_docs,
    unused_crate_dependencies,
    reason = "a measuring program may fail loudly, and shares the tests' consortium"
)]

#[path = "privacy/client.rs"]
mod client;
#[path = "../tests/it/consortium.rs"]
mod consortium;
#[path = "privacy/latency.rs"]
mod latency;
#[path = "privacy/load.rs"]
mod load;
#[path = "privacy/resync.rs"]
mod resync;
#[path = "privacy/usage.rs"]
mod usage;
#[path = "privacy/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;

use crate::load::{Outcome, Plan};
use crate::usage::Snapshot;
use crate::world::{Kind, NODES, PARTIES, World};

/// Accounts that the senders use; one more is left for the client that measures latency.
const SENDING: usize = 9;
const ALL: usize = 10;
/// After each phase, so that what the parties tell each other afterwards is counted with it.
const SETTLE: Duration = Duration::from_secs(2);

struct Arguments {
    seconds: u64,
    payloads: u64,
    suite: u64,
    form: String,
    connections: usize,
    samples: usize,
}

impl Arguments {
    fn read() -> Self {
        let given: Vec<String> = std::env::args().collect();
        let text = |name: &str| {
            let value = |a: &String| Some(a.strip_prefix(name)?.strip_prefix('=')?.to_owned());
            given.iter().find_map(value)
        };
        let number = |name: &str, otherwise: u64| match text(name) {
            Some(value) => value
                .parse()
                .unwrap_or_else(|e| panic!("{name}={value}: {e}")),
            None => otherwise,
        };
        let form = text("form").unwrap_or_else(|| "marker".to_owned());
        assert!(
            ["marker", "quorum"].contains(&form.as_str()),
            "form={form}: marker and quorum are allowed"
        );
        Self {
            seconds: number("seconds", 20).max(1),
            payloads: number("payloads", 10_000),
            suite: number("suite", 1),
            form,
            connections: usize::try_from(number("connections", 192).clamp(1, 1_000)).unwrap(),
            samples: usize::try_from(number("samples", 200).max(1)).unwrap(),
        }
    }
}

fn main() {
    let arguments = Arguments::read();
    let bench = Bench::begin(arguments);
    bench.run();
}

struct Bench {
    arguments: Arguments,
    world: World,
    /// Private transactions that were acknowledged.
    accepted: BTreeSet<B256>,
    /// What the counters must say: public, private.
    calls: [u64; 2],
}

/// Phases of one kind, added up.
#[derive(Default)]
struct Total {
    committed: u64,
    seconds: f64,
    blocks: u64,
    block_bytes: u64,
    used: Option<Snapshot>,
}

impl Total {
    fn add(&mut self, outcome: &Outcome, used: Snapshot) {
        self.committed += outcome.committed;
        self.seconds += outcome.time.as_secs_f64();
        self.blocks += outcome.blocks;
        self.block_bytes += outcome.block_bytes;
        self.used = Some(match &self.used {
            Some(before) => before.plus(&used),
            None => used,
        });
    }

    fn rate(&self) -> f64 {
        self.committed as f64 / self.seconds
    }

    /// A figure of the nodes for each transaction.
    fn per_transaction(&self, figure: impl Fn(&Snapshot) -> f64) -> f64 {
        self.used.as_ref().map_or(f64::NAN, figure) / self.committed as f64
    }
}

impl Bench {
    fn begin(arguments: Arguments) -> Self {
        let world = World::begin(&arguments.form, arguments.suite);
        println!(
            "four processes, privacy on; form {}, suite {}; nodes 1 and 2 are the parties, node {} leads; {} connections, {} s each phase",
            arguments.form,
            arguments.suite,
            world.c.leader() + 1,
            arguments.connections,
            arguments.seconds
        );
        Self {
            arguments,
            world,
            accepted: BTreeSet::new(),
            calls: [0; 2],
        }
    }

    fn run(mut self) {
        let short = Duration::from_secs(self.arguments.seconds.div_ceil(4).min(5));
        for kind in [Kind::Public, Kind::Private] {
            self.phase(kind, &PARTIES[..1], Some(short), u64::MAX);
        }
        let rates = self.alternate("through one node", &PARTIES[..1]);
        self.alternate("through both parties", &PARTIES);
        self.unloaded();
        self.at_half(rates);
        self.top_up();
        let accepted = std::mem::take(&mut self.accepted);
        resync::measure(&mut self.world, &accepted);
        self.check_counters();
        println!(
            "{} private and {} public transactions: none missing, all private roots equal",
            self.calls[1], self.calls[0]
        );
    }

    fn phase(
        &mut self,
        kind: Kind,
        nodes: &[usize],
        time: Option<Duration>,
        count: u64,
    ) -> (Outcome, Snapshot) {
        let lanes = self
            .world
            .lanes(kind, nodes, ALL, self.arguments.connections);
        let plan = Plan {
            time,
            count,
            rate: None,
        };
        let before = Snapshot::of(&self.world);
        let outcome = load::run(&self.world, kind, lanes, plan);
        std::thread::sleep(SETTLE);
        let used = Snapshot::of(&self.world).since(&before);
        if kind == Kind::Private {
            for i in PARTIES {
                let node = used.nodes[i];
                assert_eq!(
                    (node.executed, node.failed, node.alarms),
                    (outcome.committed as f64, 0.0, 0.0),
                    "private transactions that node {i} executed, that failed, and alarms"
                );
            }
        }
        self.account(kind, &outcome);
        self.check_counters();
        (outcome, used)
    }

    fn account(&mut self, kind: Kind, outcome: &Outcome) {
        self.calls[kind as usize] += outcome.committed;
        if kind == Kind::Private {
            self.accepted.extend(&outcome.accepted);
        }
        outcome.complain(kind.name());
    }

    /// Every call counts once, on every node that may know of it.
    fn check_counters(&self) {
        for i in 0..NODES {
            let counted = self.world.counted(Kind::Public, i);
            assert_eq!(counted, self.calls[0], "public calls on node {i}");
        }
        for i in PARTIES {
            let counted = self.world.counted(Kind::Private, i);
            assert_eq!(counted, self.calls[1], "private calls on node {i}");
        }
    }

    /// Public, private, public, private. The rates of both.
    fn alternate(&mut self, how: &str, nodes: &[usize]) -> [f64; 2] {
        let mut totals: [Total; 2] = Default::default();
        let time = Duration::from_secs(self.arguments.seconds);
        for kind in [Kind::Public, Kind::Private, Kind::Public, Kind::Private] {
            let (outcome, used) = self.phase(kind, nodes, Some(time), u64::MAX);
            println!(
                "  {:<7} {how:<22} {:>6.0} tx/s ({} in {} blocks, {:.1} s)",
                kind.name(),
                outcome.rate(),
                outcome.committed,
                outcome.blocks,
                outcome.time.as_secs_f64()
            );
            totals[kind as usize].add(&outcome, used);
        }
        let [public, private] = &totals;
        println!(
            "{:<44} public {:.0} tx/s, private {:.0} tx/s: ratio {:.2}",
            format!("calls {how}"),
            public.rate(),
            private.rate(),
            private.rate() / public.rate()
        );
        for (kind, total) in [(Kind::Public, public), (Kind::Private, private)] {
            costs(kind, total);
        }
        [public.rate(), private.rate()]
    }

    fn unloaded(&mut self) {
        for kind in [Kind::Public, Kind::Private] {
            let samples = self.arguments.samples;
            let times = latency::measure(&self.world, kind, SENDING, samples);
            self.calls[kind as usize] += samples as u64;
            times.print(kind, "unloaded");
        }
    }

    /// Half of each kind's own rate, with one more client that measures.
    fn at_half(&mut self, rates: [f64; 2]) {
        for kind in [Kind::Public, Kind::Private] {
            let rate = rates[kind as usize] / 2.0;
            let connections = self.arguments.connections;
            let lanes = self.world.lanes(kind, &PARTIES[..1], SENDING, connections);
            let plan = Plan {
                time: None,
                count: u64::MAX,
                rate: Some(rate),
            };
            let load = load::begin(&self.world, kind, lanes, plan);
            std::thread::sleep(SETTLE);
            let times = latency::measure(&self.world, kind, SENDING, self.arguments.samples);
            let outcome = load.end(&self.world);
            // The other client's transactions are in the same blocks, so that they are counted here.
            self.account(kind, &outcome);
            self.check_counters();
            let reached = outcome.rate();
            times.print(kind, &format!("{reached:.0}/s"));
        }
    }

    /// Sends as many private transactions as are wanted for the resync.
    fn top_up(&mut self) {
        while self.calls[1] < self.arguments.payloads {
            let lacking = self.arguments.payloads - self.calls[1];
            self.phase(Kind::Private, &PARTIES[..1], None, lacking);
        }
    }
}

/// What a transaction costs the nodes and the chain.
fn costs(kind: Kind, total: &Total) {
    let name = kind.name();
    let bytes = total.per_transaction(|used| used.nodes.iter().map(|node| node.sent).sum());
    let received = total.per_transaction(|used| used.nodes.iter().map(|node| node.received).sum());
    println!(
        "  {:<42} {bytes:.0} bytes sent, {received:.0} received, all nodes together",
        format!("payload exchange per {name} transaction")
    );
    println!(
        "  {:<42} {:.0} bytes in blocks of {:.0} transactions",
        format!("chain per {name} transaction"),
        total.block_bytes as f64 / total.committed as f64,
        total.committed as f64 / total.blocks as f64
    );
    let each = |figure: &dyn Fn(&Snapshot, usize) -> f64, decimals: usize| {
        let nodes = (0..NODES).map(|i| {
            let value = total.per_transaction(|used| figure(used, i));
            format!("node {} {value:.decimals$}", i + 1)
        });
        nodes.collect::<Vec<_>>().join(", ")
    };
    println!(
        "  {:<42} {} µs; this program {:.0} µs",
        format!("processor time per {name} transaction"),
        each(&|used, i| used.nodes[i].cpu * 1e6, 0),
        total.per_transaction(|used| used.own_cpu) * 1e6
    );
    println!(
        "  {:<42} {}",
        format!("waits for the disk per {name} transaction"),
        each(&|used, i| used.nodes[i].barriers, 2)
    );
}
