//! Which troubles a run has, and how thick they come.
//!
//! A run with every kind of trouble finds less than many runs with a few each: one kind would hide what another shows.

use std::collections::BTreeSet;

use crate::{faults::Fault, options::Options, random::Random};

/// Kinds that came after seeds had been noted down. They are drawn from a stream of their own: without them, a seed is what it was.
pub const LATER: &[Fault] = &[Fault::Blackout, Fault::FailingRecovery];

#[derive(Clone, Debug)]
pub(crate) struct Profile {
    enabled: BTreeSet<Fault>,
    pub(crate) members: u64,
    pub(crate) steps: u64,
    pub(crate) trouble_every: u64,
    pub(crate) operator_every: u64,
    pub(crate) client_every: u64,
    /// At the end only a quorum is healed.
    pub(crate) freezes: bool,
}

impl Profile {
    pub(crate) fn draw(options: &Options) -> Self {
        let mut random = Random::new(options.seed, 1);
        let share = [300, 500, 700]
            .get(random.below(3) as usize)
            .copied()
            .unwrap_or(500);
        let mut enabled = BTreeSet::new();
        let mut later = Random::new(options.seed, 11);
        for fault in Fault::ALL {
            let drawn = if LATER.contains(fault) {
                later.chance(share)
            } else {
                random.chance(share)
            };
            let usual = matches!(
                fault,
                Fault::LostWrites
                    | Fault::TornSectors
                    | Fault::LostDirectoryEntries
                    | Fault::Compaction
            );
            if (drawn || usual) && !options.without.contains(fault) {
                enabled.insert(*fault);
            }
        }
        let members = random.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5]).unwrap_or(3);
        let steps = random.between(1000, 4000);
        Self {
            enabled,
            members: options.members.unwrap_or(members).clamp(1, 9),
            steps: options.steps.unwrap_or(steps),
            trouble_every: random.pick(&[20, 40, 80, 160]).unwrap_or(80),
            operator_every: random.pick(&[40, 80, 160, 320]).unwrap_or(160),
            client_every: random.pick(&[10, 30, 60]).unwrap_or(30),
            freezes: random.chance(500),
        }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.enabled.contains(&fault)
    }

    /// Those of `faults` that this run has.
    pub(crate) fn of(&self, faults: &[Fault]) -> Vec<Fault> {
        let has = |fault: &Fault| self.has(*fault);
        faults.iter().copied().filter(has).collect()
    }
}
