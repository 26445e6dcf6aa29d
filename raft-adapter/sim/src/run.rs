//! One seed from beginning to end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{checks::Violation, faults::Counters, options::Options, simulation::Simulation};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Events that happened.
    pub steps: u64,
    /// Ticks of a clock that goes right.
    pub ticks: u64,
    /// Equal for equal histories.
    pub sum: u64,
    /// Entries that somebody applied.
    pub applied: u64,
    /// Payloads whose client was told that they are in.
    pub acknowledged: u64,
    /// Membership changes that took effect.
    pub changes: u64,
    /// What was injected and met.
    pub counters: Counters,
    /// Every event in a line, if asked for.
    pub history: Vec<String>,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
}

/// Runs one seed.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    #[cfg(feature = "planted-bugs")]
    raft_adapter::plant(options.planted);
    let mut simulation = match Simulation::new(options) {
        Ok(simulation) => simulation,
        Err(violation) => return Outcome::failed(violation),
    };
    // A panic outside of a core is a fault like any other, with a seed to repeat it.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while simulation.steps < simulation.profile.steps {
            if !simulation.advance()? {
                break;
            }
        }
        simulation.end()
    }));
    #[cfg(feature = "planted-bugs")]
    raft_adapter::plant(None);
    let violation = match outcome {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(Violation {
            rule: "nothing panics",
            what: "outside of a core".to_string(),
        }),
    };
    simulation.collect_disk_counts();
    Outcome {
        steps: simulation.steps,
        ticks: simulation.now / crate::member::TICK,
        sum: simulation.history.sum(),
        applied: simulation.checks.applied(),
        acknowledged: simulation.checks.acknowledged(),
        changes: simulation.checks.changes().len() as u64,
        counters: simulation.counters,
        history: simulation.history.into_lines(),
        violation,
    }
}

impl Outcome {
    fn failed(violation: Violation) -> Self {
        Self {
            steps: 0,
            ticks: 0,
            sum: 0,
            applied: 0,
            acknowledged: 0,
            changes: 0,
            counters: Counters::default(),
            history: Vec::new(),
            violation: Some(violation),
        }
    }
}
