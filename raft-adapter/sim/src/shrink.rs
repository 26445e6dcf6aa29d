//! Makes a failing run as small as it goes while the same rule stays broken.

use crate::{
    faults::Fault,
    options::Options,
    run::{Outcome, run},
};

/// Runs spent on one failure at most.
const TRIES_MAX: u64 = 200;

/// The smallest failing run that was found, and what it does.
#[must_use]
pub fn shrink(options: &Options, failed: &Outcome) -> (Options, Outcome) {
    let mut shrinking = Shrinking {
        best: options.clone(),
        outcome: failed.clone(),
        tries: 0,
    };
    let Some(rule) = failed.violation.as_ref().map(|it| it.rule) else {
        return (options.clone(), failed.clone());
    };
    shrinking.fewer_steps(rule);
    shrinking.fewer_kinds(rule);
    shrinking.fewer_members(rule);
    shrinking.fewer_steps(rule);
    (shrinking.best, shrinking.outcome)
}

struct Shrinking {
    best: Options,
    outcome: Outcome,
    tries: u64,
}

impl Shrinking {
    fn attempt(&mut self, options: Options, rule: &'static str) -> bool {
        if self.tries >= TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let outcome = run(&options);
        let fails = outcome.violation.as_ref().is_some_and(|it| it.rule == rule);
        if fails {
            self.best = options;
            self.outcome = outcome;
        }
        fails
    }

    /// The end can come sooner, as long as it fails all the same.
    fn fewer_steps(&mut self, rule: &'static str) {
        let mut limit = self.best.steps.unwrap_or(self.outcome.steps);
        limit = limit.min(self.outcome.steps);
        let mut cut = limit / 2;
        while cut > 0 {
            let options = Options {
                steps: Some(limit.saturating_sub(cut)),
                ..self.best.clone()
            };
            if self.attempt(options, rule) {
                limit = limit.saturating_sub(cut).min(self.outcome.steps);
                cut = cut.min(limit / 2);
            } else {
                cut /= 2;
            }
            if cut < 10 {
                break;
            }
        }
    }

    fn fewer_kinds(&mut self, rule: &'static str) {
        for fault in Fault::ALL {
            let mut options = self.best.clone();
            if options.without.insert(*fault) {
                self.attempt(options, rule);
            }
        }
    }

    fn fewer_members(&mut self, rule: &'static str) {
        for members in 1..5 {
            let options = Options {
                members: Some(members),
                ..self.best.clone()
            };
            if self.best.members.is_none_or(|best| members < best) && self.attempt(options, rule) {
                return;
            }
        }
    }
}
